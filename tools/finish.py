"""What both engines leave undone on the pages of the site; each repair is a function from the text of a page to its
text.

Used by `site.py`. What a repair is for was seen in the pages of Quarto 1.10 and smalldocs 0.5; `tests/quarto` has pages
in Quarto's form. """
import html
import re
from pathlib import Path

PRIME = r"<m[io][^>]*>(?:&#x0*2032;|&prime;|′|')</m[io]>"
BAR = r"(?:&#x0*7C;|\||∣|∥)"
FUNCTION = r"<m[io][^>]*>(?:log|exp|argmax|max|min)</m[io]>"


def scrollable(page):
    "A keyboard can scroll wide code, tables and equations."
    page = re.sub(r"<(pre|table)(?![^>]*tabindex)", r'<\1 tabindex="0"', page)
    return re.sub(r'<math(?=[^>]*display="block")(?![^>]*tabindex)', '<math tabindex="0"', page)


def aligned(page):
    "What a cell printed in columns gets a class, since it may not be wrapped as messages are."
    def printed(match):
        in_columns = re.search(r"\S {2,}\S", html.unescape(re.sub(r"<[^>]+>", "", match[3])))
        return f'{match[1]}<pre class="aligned"{match[2]}>{match[3]}</pre>' if in_columns else match[0]
    output = r'(<div class="cell-output cell-output-std(?:out|err)[^>]*>\s*)<pre(?! class)([^>]*)>(.*?)</pre>'
    return re.sub(output, printed, page, flags=re.DOTALL)


def without_foreign_scripts(page):
    "Quarto adds jQuery and RequireJS from another server to pages with HTML outputs; none of ours uses them."
    page = re.sub(r"<script[^>]*\bsrc=[\"'](?:https?:)?//[^>]*(?:jquery|require)[^>]*>\s*</script>\s*", "", page)
    return re.sub(r"<script[^>]*>\s*define\('jquery'.*?</script>\s*", "", page, flags=re.DOTALL)


def marked(page):
    """The entry of the navbar that the breadcrumb begins with is the active one.

    Quarto marks the first entry on every page."""
    found = re.search(r'<ol class="breadcrumb">\s*<li class="breadcrumb-item">(.*?)</li>', page, re.DOTALL)
    here = text_of(found[1]) if found else None

    def entry(match):
        link, text = match[1], match[2]
        link = re.sub(r' aria-current="[^"]*"', "", link).replace("nav-link active", "nav-link")
        if text_of(text) == here:
            link = link.replace('class="nav-link', 'aria-current="true" class="nav-link active', 1)
        return link + text

    begin, end = page.find('<ul class="navbar-nav'), page.find("</ul>", page.find('<ul class="navbar-nav'))
    if begin < 0: return page
    return (page[:begin] + re.sub(r'(<a [^>]*class="nav-link[^>]*>)(.*?</a>)', entry, page[begin:end], flags=re.DOTALL)
            + page[end:])


def text_of(markup):
    "Markup as plain text."
    return html.unescape(re.sub(r"<[^>]+>", "", markup)).strip()


def with_alt(page):
    """A picture with a caption and no text alternative gets the caption for one. (Quarto makes the alt text of Markdown
    the caption only.)"""
    def figure(match):
        caption = re.search(r"<figcaption[^>]*>(.*?)</figcaption>", match[0], re.DOTALL)
        if not caption: return match[0]
        words = html.escape(re.sub(r"\s+", " ", text_of(caption[1])))
        return re.sub(r"<img(?![^>]*\balt=)", lambda m: f'<img alt="{words}"', match[0])
    return re.sub(r"<figure.*?</figure>", figure, page, flags=re.DOTALL)


def even_maths(page):
    "Primes of full size, space after the name of a function, none inside bars: browsers draw MathML to the letter."
    def formula(match):
        maths, note = re.fullmatch(r"(.*?)((?:<annotation.*?</annotation>)?(?:</semantics>)?</math>)", match[0],
                                   re.DOTALL).groups()
        maths = re.sub(rf"<msup>\s*(<mi[^>]*>[^<]*</mi>)\s*{PRIME}\s*</msup>",
                       r'<mrow>\1<mo lspace="0" rspace="0">′</mo></mrow>', maths)
        maths = re.sub(rf"({FUNCTION})(?:<mo>(?:&#x0*2061;|⁡)</mo>)?(?!<mo|<mspace|</)", r'\1<mspace width="0.17em"/>',
                       maths)
        maths = re.sub(rf"<mo(?![^>]*lspace)([^>]*)>({BAR})</mo>", r'<mo lspace="0.06em" rspace="0.06em"\1>\2</mo>',
                       maths)
        return maths.replace("<mo>argmax</mo>", "<mi>argmax</mi>") + note
    return re.sub(r"<math.*?</math>", formula, page, flags=re.DOTALL)


REPAIRS = (aligned, without_foreign_scripts, marked, with_alt, even_maths, scrollable)


def repaired(page):
    "A page with every repair."
    for repair in REPAIRS: page = repair(page)
    return page


def without_foreign_fonts(css):
    "A stylesheet that asks no other server for a font."
    return re.sub(r"@import\s*(?:url\()?[\"']?https://fonts\.googleapis\.com/[^)\"'\s]*[\"']?\)?;", "", css)


def finish(out):
    "Every repair on every page and stylesheet of the site in the folder `out`."
    for css in Path(out).rglob("*.css"):
        text = css.read_text(encoding="utf-8")
        if "fonts.googleapis" in text: css.write_text(without_foreign_fonts(text), encoding="utf-8")
    for page in Path(out).rglob("*.html"): page.write_text(repaired(page.read_text(encoding="utf-8")), encoding="utf-8")
