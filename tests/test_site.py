"""The documentation site, of either engine: its links, and its pages in a browser that has no network.

`pytest tests/test_site.py --site _docs` looks at a site that was built before, by Quarto or by smalldocs; without
`--site` smalldocs builds one. What differs between the engines stands in `ENGINES`. The browser is Debian's Chromium,
driven by Playwright. Where there is none the tests skip and say so; in CI they fail. """
import configparser
import html
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from scripts import script

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
CHROMIUM = next((c for c in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if c), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update",
         "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
ENGINES = {
    "smalldocs": dict(dark="html", edit="https://github.com/{repo}/edit/{branch}/nbs/{page}",
                      results=".smalldocs-search-results a"),
    "quarto": dict(dark="body", edit="https://github.dev/{repo}/blob/{branch}/nbs/{page}",
                   results="a.search-result-link"),
}
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def git_status():
    done = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, text=True, capture_output=True)
    return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "The folder of a site that is built now, what was said, and what git said before and after it."
    out, before = tmp_path_factory.mktemp("site") / "docs", git_status()
    done = subprocess.run([sys.executable, ROOT / "tools" / "site.py", "--engine", "smalldocs", "--out", out], cwd=ROOT,
                          text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stderr, before, git_status()


@pytest.fixture(scope="module")
def site(request):
    "The folder that was given by --site, or one that is built now."
    given = request.config.getoption("--site")
    return Path(given).resolve() if given else request.getfixturevalue("built")[0]


def engine_of(site):
    "The engine that says on the home page that it made it."
    made_by = re.search(r'<meta name="generator" content="(\w+)', (site / "index.html").read_text(encoding="utf-8"))[1]
    return made_by.lower()


@pytest.fixture(scope="module")
def engine(site): return ENGINES[engine_of(site)]


class Page(HTMLParser):
    "What a page points at, and what can be pointed at in it."

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.text = [], set(), path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get("id"): self.ids.add(attrs["id"])
        for name in ("href", "src"):
            if attrs.get(name): self.links.append((tag, attrs[name]))


@pytest.fixture(scope="module")
def pages(site): return {p.relative_to(site).as_posix(): Page(p) for p in sorted(site.rglob("*.html"))}


NOTEBOOKS = [p.relative_to(NBS) for p in sorted(NBS.rglob("*.ipynb"))
             if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts)]
each_notebook = pytest.mark.parametrize("rel", NOTEBOOKS, ids=str)


def page_of(rel): return rel.with_name(re.sub(r"^\d+_", "", rel.name)).with_suffix(".html").as_posix()


# --- without a browser

def test_building_leaves_the_repository_as_it_was(request):
    if request.config.getoption("--site"): pytest.skip("the site was built before")
    _, warnings, before, after = request.getfixturevalue("built")
    assert "warning" not in warnings.replace("warning: dynaseg is not installed", ""), warnings
    assert before == after


def test_every_internal_link_and_anchor_resolves(site, pages):
    broken = []
    for name, page in pages.items():
        for _, link in page.links:
            if re.match(r"(?:[a-z]+:|//)", link): continue
            target = urlsplit(urljoin(f"/{name}", link))
            path = unquote(target.path).lstrip("/")
            if path.endswith("/") or not path: path += "index.html"
            fragment = unquote(target.fragment)
            if not (site / path).is_file(): broken.append(f"{name}: {link}")
            elif fragment and path in pages and fragment not in pages[path].ids:
                broken.append(f"{name}: {link} (no such anchor)")
    assert not broken, "\n".join(broken)


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for name, page in pages.items():
        fetched = [link for tag, link in page.links if tag in ("script", "img", "source", "iframe", "video")
                   and re.match(r"(?:https?:)?//", link)]
        fetched += re.findall(r"<link [^>]*href=\"(?:https?:)?//[^>]*>", page.text)
        assert not fetched, (name, fetched)
    for css in site.rglob("*.css"):
        assert not re.search(r"@import\s+(?:url\()?[\"']?https?:", css.read_text(encoding="utf-8")), css


def test_pages_are_light_enough(site):
    for path in site.rglob("*.html"):
        assert path.stat().st_size < 3_000_000, f"{path.name}: {path.stat().st_size} bytes"


def test_maths_needs_no_script(pages):
    assert sum("<math" in page.text for page in pages.values()) >= 4
    for name, page in pages.items():
        assert "katex" not in page.text.lower() and "mathjax" not in page.text.lower(), name
        assert 'class="math' not in page.text, name
        for formula in re.findall(r"<math.*?</math>", page.text, re.DOTALL):
            formula = re.sub(r"<annotation.*?</annotation>", "", formula, flags=re.DOTALL)  # Quarto keeps the TeX in it
            assert "\\" not in html.unescape(formula), (name, formula)


@each_notebook
def test_a_notebook_page_leads_to_colab_and_to_its_source(pages, engine, rel):
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    cfg = config["DEFAULT"]
    page, up = pages[page_of(rel)], "../" * (len(rel.parts) - 1)
    links = [link for tag, link in page.links if tag == "a"]
    assert (
        f"https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/nbs/{rel.as_posix()}"
        in links
    )
    assert re.search(rf'<a class="colab-badge"[^>]*><img src="{up}images/colab.svg" alt="Open in Colab"', page.text)
    assert (engine["edit"].format(repo=f"{cfg['user']}/{cfg['repo']}", branch=cfg["branch"], page=rel.as_posix())
            in links)
    assert f"{cfg['git_url']}/blob/{cfg['branch']}/nbs/{rel.as_posix()}" in links
    assert f"{cfg['git_url']}/issues/new" in links


@each_notebook
def test_a_notebook_installs_the_package_in_colab_only(rel, monkeypatch):
    colab = script("colab")
    nb = json.loads((NBS / rel).read_text(encoding="utf-8"))
    assert colab.has_cell(nb), "run tools/colab.py"
    installed = []
    shell = type("Shell", (), {"system": lambda self, command: installed.append(command)})()
    exec(colab.source(), {"get_ipython": lambda: shell})
    assert installed == []
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    exec(colab.source(), {"get_ipython": lambda: shell})
    assert len(installed) == 1 and installed[0].startswith("pip install ")


def test_the_text_of_the_title_cell_is_on_the_page(pages):
    "nbdev alone drops what follows the subtitle in the first cell."
    for rel in NOTEBOOKS:
        first = "".join(json.loads((NBS / rel).read_text(encoding="utf-8"))["cells"][0]["source"])
        for words in re.findall(r"^After this notebook you (?:can|know)", first, re.MULTILINE):
            assert words in pages[page_of(rel)].text, rel


def test_definitions_have_signature_parameters_and_source(pages):
    page = pages["segmenter.html"]
    assert {"segment", "segmentation"} <= page.ids and "dynaseg" in pages["together.html"].ids
    # Quarto's ids stand on sections
    part = re.split(r'<h3[^>]*(?:id|data-anchor-id)="segment(?:-\d)?"', page.text)[-1].split("<h3")[0]
    for words in ("min_labels", "preset", "/blob/main/dynaseg/segmenter.py#L", "<details", "Source"):
        assert words in part, words


def test_no_link_stands_in_code_as_text(pages):
    "nbdev links the names in the comments of a signature, and code is shown as it is."
    assert [rel for rel, page in pages.items() if re.search(r"\]\([^)\s]+\.html", page.text)] == []
    assert (script("pages").plain_code("[`a`](b.html)\n```python\nx: int, # [`a`](b.html) or `c`\n```\n[`a`](b.html)")
            == "[`a`](b.html)\n```python\nx: int, # `a` or `c`\n```\n[`a`](b.html)")


def test_a_named_tuple_shows_its_fields_a_class_what_it_extends_and_a_command_its_help():
    from types import SimpleNamespace
    source = "#| export\nclass Pair(NamedTuple):\n    'Two.'\n    a: int # the first\n    b: str = 'x' # the second\n"
    cell = SimpleNamespace(cell_type="code", source=source)
    seen = "### Pair\n\n```python\ndef Pair(\n    *args, **kwargs\n):\n```\n\n*Two.*"
    assert script("pages").with_fields(seen, [cell]) == seen.replace(
        "    *args, **kwargs", "    a:int, # the first\n    b:str='x', # the second")
    assert script("pages").with_fields(seen, []) == seen
    error = SimpleNamespace(cell_type="code", source="#| export\nclass Pair(KeyError, OSError):\n    'Two.'\n")
    extended = "### Pair\n\n```python\nclass Pair(KeyError, OSError):\n```\n\n*Two.*"
    assert script("pages").with_fields(seen, [error]) == extended
    command = "```python\ndef a_command(\n    x:Annotated, y:Annotated=1,\n    z:Annotated=2\n):\n```\nSee --x, `--y`."
    shown = "```python\ndef a_command(\n    ... # what --help shows\n):\n```\nSee `--x`, `--y`."
    assert script("pages").said(command) == shown
    plain = "```python\ndef other(\n    x:Annotated\n):\n```\na-b -- c"
    assert script("pages").said(plain) == plain


def test_folded_code_says_what_is_in_it(pages):
    summaries = re.findall(r"<summary>(Source|Code)([^<]*)</summary>", pages["cli.html"].text)
    assert summaries and all(names.startswith(": ") for _, names in summaries)
    assert "<summary>Source: _check_place, _recipe</summary>" in pages["cli.html"].text


def test_what_is_printed_in_columns_is_marked():
    aligned = script("finish").aligned
    for kind in ("stdout", "stderr"):
        message = (f'<div class="cell-output cell-output-{kind}">\n<pre tabindex="0"><code>a long message</code></pre>'
                   '</div>')
        assert aligned(message) == message
        table = message.replace("a long", "a  long")
        assert aligned(table) == table.replace("<pre tabindex", '<pre class="aligned" tabindex')
    assert aligned("<pre><code>a  b</code></pre>") == "<pre><code>a  b</code></pre>"


def test_messages_are_not_cut_on_a_phone(visit):
    page = visit("hints.html", viewport=PHONE)
    wide = page.evaluate("""[...document.querySelectorAll('main .cell-output-stdout pre:not(.aligned)')]
                            .filter(pre => pre.scrollWidth > pre.clientWidth + 1).length""")
    assert wide == 0 and page.locator("main .cell-output-stdout pre:not(.aligned)").count() > 0


def test_every_public_name_is_listed(pages):
    from dynaseg._modidx import d
    listed = {link.removeprefix("./") for _, link in pages["reference.html"].links}
    for module, names in d["syms"].items():
        if module == "dynaseg": continue
        public = importlib.import_module(module).__all__
        for name in public:
            if f"{module}.{name}" in names: assert names[f"{module}.{name}"][0] in listed, name


def test_the_link_picture_and_the_icon_are_there(site, pages):
    from PIL import Image
    home = pages["index.html"].text
    card = re.search(r'<meta property="og:image" content="([^"]+)"', home)[1]
    assert Image.open(site / urlsplit(card).path.removeprefix("/dynaseg/")).size == (1200, 630)
    assert re.search(r'<link rel="icon" href="images/favicon.svg"', home)


def test_no_link_stands_in_a_link_as_text(pages):
    texts = {rel: re.sub(r"<(pre|code|script|style).*?</\1>", "", page.text, flags=re.DOTALL)
             for rel, page in pages.items()}
    assert [rel for rel, text in texts.items() if re.search(r"\]\([^)\s]*\)", text)] == []
    pages = script("pages")
    assert pages.flat("[the [`f`](a.html) call](b.html#c), [`g`](d.html)") == "[the `f` call](b.html#c), [`g`](d.html)"
    assert pages.flat("[![alt](p.png)](a.html) x[0](y)") == "[![alt](p.png)](a.html) x[0](y)"


def test_the_navbar_marks_the_part_of_the_page(pages):
    "One part at most, the one that the sidebar has the page in."
    parts = {"index.html": "Start", "learn.html": "Learn", "many.html": "Learn", "tutorials/index.html": "Tutorials",
             "tutorials/microscopy.html": "Tutorials",
             "reference.html": "Reference", "cli.html": "Reference", "benchmarks.html": "Benchmarks",
             "speed.html": "Benchmarks"}
    for name, part in parts.items():
        navbar = re.search(r'<ul class="navbar-nav.*?</ul>', pages[name].text, re.DOTALL)[0]
        active = re.findall(r'<a [^>]*class="nav-link active"[^>]*>(.*?)</a>', navbar, re.DOTALL)
        assert [re.sub(r"<[^>]+>|\s", "", entry) for entry in active] == [part], name


def test_pictures_have_a_text_alternative(pages):
    for name, page in pages.items(): assert not re.search(r"<img(?![^>]*\salt=)[^>]*>", page.text), name


def test_the_reference_begins_with_ten_names_and_has_contents_and_links(pages, engine):
    page = pages["reference.html"]
    begin = page.text.index('id="ten-names-to-begin-with"')
    first = page.text[begin:page.text.index("</table>", begin)]
    assert len(re.findall(r"<tr", first)) == 11 and "segment" in first and "DynaSeg" in first
    contents = re.search(r'<nav id="TOC".*?</nav>', page.text, re.DOTALL)[0]
    for module in ("ten-names-to-begin-with", "images", "segmenter", "cli"): assert f'href="#{module}"' in contents
    assert any("reference.ipynb" in link for _, link in page.links)


def test_every_tutorial_has_its_card(pages, site):
    page = pages["tutorials/index.html"]
    cards = re.findall(r'<a href="([\w./]+)"[^>]*>\s*<img[^>]*src="([^"]+)"', page.text)
    cards = {urljoin("tutorials/", link.removeprefix("./")): urljoin("tutorials/index.html", picture)
             for link, picture in cards}
    assert ({page_of(rel) for rel in NOTEBOOKS if rel.parts[0] == "tutorials"}
            <= {c if c.startswith("tutorials/") else f"tutorials/{c}" for c in cards})
    for picture in cards.values(): assert (site / picture.removeprefix("../")).is_file(), picture


def test_a_folder_that_is_not_a_site_is_not_replaced(tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    monkeypatch.setattr(sys, "argv", ["site.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended: script("site").main()
    assert ended.value.code == 2 and "expected a new folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


# --- in a browser

@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        missing = "no Chromium on the PATH" if CHROMIUM is None else "playwright is not installed"
        if os.environ.get("CI") == "true": pytest.fail(f"{missing}: the pages were not looked at")
        pytest.skip(f"{missing}: the pages were not looked at")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()


@pytest.fixture(scope="module")
def visiting(browser, address):
    "A block in which pages are opened; it notes what went wrong in them, and closes them at its end."
    @contextmanager
    def visiting():
        contexts, wrong = [], []

        def visit(path, viewport=DESKTOP, scheme="light", until="load"):
            context = browser.new_context(viewport=viewport, color_scheme=scheme)
            contexts.append(context)
            page = context.new_page()
            page.on("console", lambda m: m.type == "error" and wrong.append(f"{path}: {m.text}"))
            page.on("pageerror", lambda e: wrong.append(f"{path}: {e}"))
            # a request that a page left behind when it was left is no failure
            page.on("requestfailed", lambda r: r.failure == "net::ERR_ABORTED"
                    or wrong.append(f"{path}: {r.url} {r.failure}"))
            page.on("response", lambda r: r.status >= 400 and wrong.append(f"{path}: {r.url} {r.status}"))
            page.goto(f"{address}/{path}", wait_until=until)
            return page

        visit.wrong = wrong
        try: yield visit
        finally:
            for context in contexts: context.close()
    return visiting


@pytest.fixture
def visit(visiting):
    "Opens pages, and notes what went wrong in them."
    with visiting() as visit: yield visit


# Two words of code that are written in the same way on the same ground look the same, and axe-core takes a millisecond
# for each word. Of each way the first word on a page stays; the others become mere text, which changes no width and no
# height. So do words of one character, whose contrast axe-core never judges.
ONE_OF_EACH = """() => {
    const seen = new Set()
    const more = []
    for (const code of document.querySelectorAll("pre")) {
        const ground = []
        for (let around = code; around; around = around.parentElement) {
            const style = getComputedStyle(around)
            ground.push(style.backgroundColor, style.backgroundImage, style.opacity)
        }
        const edge = code.getBoundingClientRect().right
        for (const word of code.querySelectorAll("span")) {
            if (word.childElementCount || [...word.attributes].some(a => !["class", "style"].includes(a.name))) continue
            const style = getComputedStyle(word)
            const shown = word.checkVisibility() && word.getBoundingClientRect().right < edge
            const way = [...ground, shown, word.parentElement.className, word.className, style.color,
                         style.backgroundColor, style.opacity, style.fontSize, style.fontWeight,
                         style.fontStyle].join("|")
            const judged = word.textContent.trim().length > 1
            if (judged && !seen.has(way)) seen.add(way)
            else more.push(word)
        }
    }
    for (const word of more) word.replaceWith(word.textContent) // afterwards: each time the page is laid out anew
    for (const code of document.querySelectorAll("pre")) code.normalize()
}"""


# The rules whose findings are moderate or minor, a quarter to a half of axe-core's time, are switched off.
LIGHT_RULES = """() => {
    const light = axe._audit.rules.filter(rule => ["moderate", "minor"].includes(rule.impact))
    return Object.fromEntries(light.map(rule => [rule.id, {enabled: false}]))
}"""


@pytest.fixture(scope="module")
def violations():
    "Serious and critical findings of axe-core in an open page, of whose coloured code one word of each kind is read."
    import axe_playwright_python
    axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

    def violations(page, name, only=None):
        page.evaluate(axe)
        page.evaluate(ONE_OF_EACH)
        chosen = {"runOnly": [only]} if only else {"rules": page.evaluate(LIGHT_RULES)}
        options = {"resultTypes": ["violations"], "iframes": False} | chosen
        result = page.evaluate("options => axe.run(document, options)", options)
        return [f"{name}: {rule['id']}: {node['html'][:160]}" for rule in result["violations"]
                if rule["impact"] in ("serious", "critical")
                for node in rule["nodes"][:3]]
    return violations


def one_of_each_kind(pages):
    """Home, a lesson with equations, tables of parameters, a list of names, a page without a notebook, a tutorial if
    there is one."""
    tutorial = next((n for n in pages if n.startswith("tutorials/") and n != "tutorials/index.html"),
                    "tutorials/index.html")
    return ["index.html", "weighting.html", "cli.html", "reference.html", "learn.html", tutorial]


@pytest.fixture(scope="module")
def looked_at(visiting, violations, pages):
    """What is wrong with any page, which is opened once: requests and scripts, pages that are too wide, and axe-core's
    findings."""
    wrong, wide, found, heights = [], [], [], {}
    with visiting() as visit:
        for name in pages:
            page = visit(name, until="load")  # axe-core takes longer than what comes after it
            found += violations(page, name)
            heights[name] = page.evaluate("document.documentElement.scrollHeight")
            for viewport in (DESKTOP, PHONE):
                page.set_viewport_size(viewport)
                across = page.evaluate("document.documentElement.scrollWidth")
                if across > viewport["width"]: wide.append(f"{name}: {across} px on {viewport['width']}")
            if name in one_of_each_kind(pages): found += violations(page, f"{name} on a phone")
            if not page.locator("h1").first.is_visible(): wrong.append(f"{name} shows no title")
            page.context.close()
        wrong += visit.wrong
    return wrong, wide, found, heights


LONG = 13_000  # pixels on a desk, some fourteen screens


def test_long_pages_open_with_a_summary(looked_at, pages):
    first = {name: re.search(r"<h2[^>]*anchored[^>]*>([^<]*)", page.text) for name, page in pages.items()}
    missing = [name for name, height in looked_at[3].items() if height > LONG
               and first[name][1].strip() not in ("In short", "Ten names to begin with")]
    assert missing == [] and max(looked_at[3].values()) > LONG


def test_every_page_loads_without_network(looked_at, pages):
    "No console error, no failed request, a title."
    assert len(pages) >= len(NOTEBOOKS) and not looked_at[0], "\n".join(looked_at[0])


def test_no_page_scrolls_sideways(looked_at):
    "On a desk or on a phone."
    assert not looked_at[1], "\n".join(looked_at[1])


def test_no_serious_accessibility_violation(looked_at):
    "Of all pages on a desk, and of one of each kind on a phone."
    assert not looked_at[2], "\n".join(looked_at[2])


def is_dark(engine):
    "Whether the page is dark, in JavaScript."
    return f"document.querySelector('{engine['dark']}').classList.contains('quarto-dark')"


def test_dark_pages_have_enough_contrast(visit, violations, pages, engine):
    "Nothing but colours is different in the dark."
    found = []
    for name in one_of_each_kind(pages):
        page = visit(name, scheme="dark")
        assert page.evaluate(is_dark(engine))
        found += violations(page, name, only="color-contrast")
        page.context.close()
    assert not found, "\n".join(found)


# pages by hand, in Quarto's form, with the colours that were too pale there
QUARTO = Path(__file__).resolve().parent / "quarto"


@pytest.fixture(scope="module")
def quartos(browser, tmp_path_factory):
    "Opens a page of Quarto's form, light or dark, with or without our stylesheet."
    folder = shutil.copytree(QUARTO, tmp_path_factory.mktemp("quarto") / "site")
    script("finish").finish(folder)
    shutil.copytree(NBS / "images", folder / "images")
    styles = (NBS / "styles.css").read_text(encoding="utf-8")
    contexts = []

    def opened(name, scheme, ours=True, viewport=DESKTOP):
        (folder / "styles.css").write_text(styles if ours else "", encoding="utf-8")
        contexts.append(browser.new_context(viewport=viewport))
        page = contexts[-1].new_page()
        page.goto((folder / name).as_uri())
        page.evaluate(f"document.body.classList.replace('quarto-light', 'quarto-{scheme}')")
        return page
    yield opened
    for context in contexts: context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "many.html"])
def test_quartos_pale_colours_are_replaced(quartos, violations, name, scheme):
    assert violations(quartos(name, scheme, ours=False), name, only="color-contrast") != []
    assert violations(quartos(name, scheme), name, only="color-contrast") == []


def test_only_folded_code_has_our_summary(quartos):
    "The box of a scikit-learn estimator has colours of its own."
    page = quartos("many.html", "dark")
    def colour(where): return page.evaluate(f"getComputedStyle(document.querySelector('{where}')).color")
    assert colour(".estimator summary") == colour(".estimator") != colour("details.code-fold summary")


def test_names_in_tables_are_not_broken(quartos):
    page = quartos("many.html", "light", viewport=PHONE)
    assert page.evaluate("document.querySelector('td code').getClientRects().length") == 1
    page = quartos("many.html", "light", ours=False, viewport=PHONE)
    assert page.evaluate("document.querySelector('td code').getClientRects().length") > 1


def test_the_badge_keeps_its_distance(quartos):
    page = quartos("index.html", "light", viewport=PHONE)
    gap = (page.locator(".colab-badge").bounding_box()["y"]
           - page.evaluate("document.querySelector('.subtitle').getBoundingClientRect().bottom"))
    assert gap >= 6


def test_the_accessibility_check_can_fail(visit, violations):
    page = visit("learn.html")
    page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=\"images/favicon.svg\"><p "
                  "style=\"color:#bbb\">pale words</p>')")
    found = violations(page, "learn.html")
    assert any("image-alt" in f for f in found) and any("color-contrast" in f for f in found)


@pytest.mark.parametrize("spoil", ["words.at(-1).style.color = '#ccc'",
                                   "document.head.insertAdjacentHTML('beforeend', '<style>pre .kw {color: #ccc"
                                   "!important}</style>')"])
def test_one_pale_word_of_code_is_found(visit, violations, spoil):
    page = visit("labels.html")
    page.evaluate(f"""() => {{
        const words = [...document.querySelectorAll("pre span.kw")].filter(word => word.checkVisibility())
        {spoil}
    }}""")
    assert any("color-contrast" in found for found in violations(page, "labels.html", only="color-contrast"))


def test_search_finds_segment(visit, engine):
    page = visit("index.html")
    page.locator("#quarto-search input").press_sequentially("segment")
    results = page.locator(engine["results"])
    results.first.wait_for(state="visible")
    links = [a.get_attribute("href") for a in results.all()]
    wanted = next((i for i, link in enumerate(links) if re.search(r"segmenter\.html", link)), None)
    assert wanted is not None, links
    results.nth(wanted).click()
    page.wait_for_url("**/segmenter.html*")
    assert page.locator("h1").inner_text() == "The segmenter"
    assert not visit.wrong, visit.wrong


@pytest.mark.parametrize("word, first", [("how many", "tutorials/how_many.html"), ("mask", "tutorials/"),
                                         ("stack", "tutorials/stack.html"), ("table", "tutorials/"),
                                         ("save", "tutorials/your_photo.html#save-it")])
def test_search_shows_tutorials_before_functions(visit, engine, site, word, first):
    if engine_of(site) != "smalldocs": pytest.skip("Quarto's search ranks by itself")
    page = visit("index.html")
    page.locator("#quarto-search input").press_sequentially(word)
    results = page.locator(engine["results"])
    results.first.wait_for(state="visible")
    assert first in results.first.get_attribute("href")


def test_search_finds_a_function_by_its_name(visit, engine, site):
    if engine_of(site) != "smalldocs": pytest.skip("Quarto's search ranks by itself")
    page = visit("index.html")
    page.locator("#quarto-search input").press_sequentially("segment_folder")
    results = page.locator(engine["results"])
    results.first.wait_for(state="visible")
    links = [a.get_attribute("href") for a in results.all()[:3]]
    assert any(link.endswith("batch.html#segment_folder") for link in links), links


def test_frame_sliders_change_the_picture(visit, pages):
    with_sliders = [name for name, page in pages.items() if 'class="frame-slider"' in page.text]
    assert with_sliders
    for name in with_sliders:
        page = visit(name)
        for slider in page.locator(".frame-slider").all():
            def shown(): return [img.get_attribute("src") for img in slider.locator("img").all() if img.is_visible()]
            knob = slider.locator("input[type=range]")
            knob.scroll_into_view_if_needed()
            knob.press("Home") # a slider may start elsewhere
            before = shown()
            assert len(before) == 1
            box = knob.bounding_box()
            page.mouse.click(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
            assert len(shown()) == 1 and shown() != before, name
            knob.press("Home")
            assert shown() == before, name
    assert not visit.wrong, visit.wrong


def test_dark_mode_can_be_chosen_and_is_kept(visit, engine):
    page = visit("index.html")
    def lightness():
        return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))
    light = lightness()
    page.locator(".quarto-color-scheme-toggle").first.click()
    page.wait_for_function(is_dark(engine))
    assert lightness() < 200 < light
    page.goto(page.url.replace("index.html", "loss.html"))
    assert lightness() < 200


def test_a_phone_reaches_every_part_from_the_menu(visit):
    page = visit("loss.html", viewport=PHONE)
    entry = page.locator(".navbar-nav .nav-link", has_text="Benchmarks")
    assert not entry.is_visible()
    page.locator(".navbar-toggler").click()
    entry.wait_for(state="visible")
    texts = page.locator(".navbar-nav .nav-link .menu-text").all_inner_texts()
    assert texts[:5] == ["Start", "Learn", "Tutorials", "Reference", "Benchmarks"]
    entry.click()
    page.wait_for_load_state()
    assert "loss.html" not in page.url and not visit.wrong


def test_code_can_be_unfolded(visit):
    page = visit("labels.html")
    fold = page.query_selector("details:has(pre):not([open])")
    assert not fold.query_selector("pre").is_visible()
    fold.query_selector("summary").click()
    assert fold.query_selector("pre").is_visible()
