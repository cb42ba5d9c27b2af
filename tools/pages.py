"""A notebook of nbs/ as a page: nbdev's processing (signatures, tables of parameters, links), and what every page wants
besides.

Used by `site.py` and `readme.py`.
"""
import ast
import json
import os
import re
from pathlib import Path

from execnb.nbio import mk_cell, read_nb
from nbdev.config import get_config
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, add_fold, add_links

from dynaseg.docstrings import parameters

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
COLAB_MARK = '"google.colab" in sys.modules'


def colab_url(rel):
    "Where Colab opens the notebook `rel` of nbs/ from the repository."
    cfg = get_config()
    return f"https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/{rel}"


def defines(cell):
    "Whether a code cell defines a function or a class at top level."
    return bool(re.search(r"^(?:async def|def|class) ", cell.source, re.MULTILINE))


def mixed(cell):
    "Whether a code cell has statements other than imports."
    try: return any(not isinstance(s, (ast.Import, ast.ImportFrom)) for s in ast.parse(cell.source).body)
    except SyntaxError: return True  # a magic


def split_title(source):
    """The title cell in two: title, subtitle and `- key: value` lines, which nbdev makes front matter; and the rest,
    which it would drop."""
    lines = source.strip().splitlines()
    n = 0
    while n < len(lines) and (not lines[n].strip() or re.match(r"#\s|>|-\s+[\w-]+:\s", lines[n])): n += 1
    return "\n".join(lines[:n]).strip(), "\n".join(lines[n:]).strip()


def plain(markdown):
    "One line of Markdown as plain text."
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"\s+", " ", re.sub(r"[*`$_#]", "", text)).strip()


def last_sentence(markdown):
    "What a figure shows is said in the sentence before it."
    text = plain(re.sub(r"```.*?```|<[^>]+>|\$\$.*?\$\$", " ", markdown, flags=re.DOTALL))
    return re.split(r"(?<=[.!?])\s+", text)[-1].rstrip(":") if text else ""


class Prepare(Processor):
    """What every page wants and no notebook has to say: the text of the title cell, a Colab badge, the source of
    exported definitions below their tables, folded code where it is not the point, and a text alternative for every
    figure."""

    def begin(self):
        cells = self.nb.cells
        self.rel = Path(self.nb.path_).resolve().relative_to(NBS)
        self.learn = re.match(r"0[0-6]_", self.rel.name) is not None
        cells[:] = [c for c in cells if not (c.cell_type == "code" and COLAB_MARK in c.source)]
        head, rest = split_title(cells[0].source)
        cells[0].source = head
        if rest: cells.insert(1, self.made(rest))
        cells.insert(1, self.made(self.badge()))
        for i, cell in enumerate(cells): cell.idx_ = i
        self.heading, self.before = plain(head.splitlines()[0]) if head else "", ""

    def made(self, source):
        cell = mk_cell(source, "markdown")
        cell.directives_ = {}
        return cell

    def badge(self):
        up = "../" * (len(self.rel.parts) - 1)
        return (f'<a class="colab-badge" href="{colab_url(self.rel.as_posix())}"><img src="{up}images/colab.svg" '
                'alt="Open in Colab" width="126" height="24"></a>')

    def cell(self, cell):
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+\s+(.*)$", cell.source, re.MULTILINE)
            if headings: self.heading = plain(headings[-1])
            self.before = last_sentence(re.sub(r"^#.*$", "", cell.source, flags=re.MULTILINE)) or self.before
        if cell.cell_type != "code": return
        # nbdev runs every cell with an import in it to find the documented names; one that computes too could need
        # cells that it does not run
        if not {"export", "exports", "exporti", "exec_doc"} & set(cell.directives_) and mixed(cell):
            cell.directives_["eval:"] = ["false"]
        if "export" in cell.directives_ and defines(cell): cell.directives_["exports"] = cell.directives_.pop("export")
        options = []
        if "exports" in cell.directives_:
            # a lesson is read with its code open; elsewhere the table of parameters is the point
            options += [f"code-fold: {'show' if self.learn else 'true'}", f'code-summary: "{named("Source", cell)}"']
        elif "export" not in cell.directives_ and not defines(cell):
            summary = folded(cell)
            if summary: options += ["code-fold: true", f'code-summary: "{summary}"']
        if "code-fold:" in cell.directives_:
            options = []
            if "code-summary:" not in cell.directives_ and defines(cell):
                options = [f'code-summary: "{named("Code", cell)}"']
        figures = any("image/png" in o.get("data", {}) or "image/svg+xml" in o.get("data", {})
                      for o in cell.get("outputs", []))
        if figures and not {"fig-alt:", "fig-cap:"} & set(cell.directives_):
            alt = f"{self.heading}: {self.before}" if self.before else self.heading
            options.append(f"fig-alt: {json.dumps(alt, ensure_ascii=False)}")
        cell.source = "".join(f"#| {o}\n" for o in options) + cell.source


def named(word, cell, most=4):
    "A summary for folded code: the word, and the first names that are defined below it."
    names = re.findall(r"^(?:async def|def|class) (\w+)", cell.source, re.MULTILINE)
    return f"{word}: {', '.join(names[:most])}{' ...' * (len(names) > most)}"


def folded(cell):
    """The summary under which a cell is folded, or None: imports, and the drawing of a figure, are not the point of a
    page."""
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#|")]
    if lines and all(re.match(r"(?:import|from) |\s+[\w, ]+,?\)?$|\)", line) for line in lines): return "Imports"
    drawing = sum(bool(re.search(r"\bplt\.|\bax(?:es)?\b|\bfig\b", line)) for line in lines)
    return "Code of the figure" if len(lines) > 4 and drawing > len(lines) / 2 else None


class Relink(Processor):
    """Links into our own site become relative, so that a copy of it works anywhere; widget state, which no page uses,
    goes."""

    def begin(self):
        cfg = get_config()
        self.site = f"{cfg.doc_host}{cfg.doc_baseurl}/"
        self.up = "../" * (len(Path(self.nb.path_).resolve().relative_to(NBS).parts) - 1)
        self.nb.metadata.pop("widgets", None)

    def cell(self, cell):
        if cell.cell_type == "markdown": cell.source = self.relative(flat(cell.source))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                text = said(with_fields("".join(data["text/markdown"]), self.nb.cells))
                data["text/markdown"] = self.relative(flat(plain_code(text)))

    def relative(self, text): return text.replace(f"]({self.site}", f"]({self.up or './'}")


def with_fields(text, cells):
    "The Markdown with the fields of a named tuple in its signature, which nbdev lacks; of others, what they extend."
    def signature(found):
        name = found[1]
        sources = [c.source for c in cells if c.cell_type == "code"]
        extends = (re.search(rf"^class {name}\((?!NamedTuple).+\):", source, re.M) for source in sources)
        if head := next(filter(None, extends), None): return head[0]
        defined = rf"^class {name}\(NamedTuple\)"
        source = next((source for source in sources if re.search(defined, source, re.M)), None)
        if source is None: return found[0]
        return "\n".join([f"def {name}(", *map(field, parameters(source)[name][0]), "):"])

    def field(p):
        words = f" # {p.words}" if p.words else ""
        return f"    {p.name}:{p.type}{'=' + p.default if p.default else ''},{words}"
    return re.sub(r"def (\w+)\(\n    \*args, \*\*kwargs\n\):", signature, text)


def said(text):
    """The Markdown without the options in the signature of a command, whose types say nothing, since its help explains
    them; and with options as code."""
    text = re.sub(r"(def \w+_command\(\n)(?:(?!\n\)).)*:Annotated.*?(?=\n\))", r"\1    ... # what --help shows", text,
                  flags=re.DOTALL)
    option = r"(?<![\w-])--[a-z][\w-]*" # its hyphens would become a dash
    return re.sub(rf"(?ms)^```.*?^```|`[^`\n]*`|{option}",
                  lambda found: found[0] if found[0][0] == "`" else f"`{found[0]}`", text)


def plain_code(text):
    """The Markdown without links in its blocks of code (nbdev links names in the comments of a signature), where they
    would be read as text."""
    return re.sub(r"(?ms)^```.*?^```", lambda block: re.sub(r"\[(`[^`\n]+`)\]\([^)\s]*\)", r"\1", block[0]), text)


def flat(text):
    """The Markdown without links inside links (nbdev links a name wherever it stands): the inner one goes, its words
    stay."""
    inner = r"(?<!!)\[([^\[\]]*)\]\([^()\s]*\)"
    outer = rf"(?<!!)\[(?!!\[)(?:[^\[\]]|{inner})*\]\([^()\s]*\)"
    def flattened(match):
        words, target = match[0][1:].rsplit("](", 1)
        return "[" + re.sub(inner, r"\1", words) + "](" + target
    return re.sub(outer, flattened, text)


class Pages(FilterDefaults):
    "nbdev's processing with ours around it."

    def base_procs(self): return [Prepare, *(p for p in super().base_procs() if p is not add_fold), Relink]


class Unlinked(Pages):
    "The same without links from names to the site, which depend on what is installed: for the README."

    def base_procs(self): return [p for p in super().base_procs() if p is not add_links]


def process(path, links=True):
    "One notebook, processed as a page."
    os.chdir(ROOT)  # nbdev looks for settings.ini from here
    nb = read_nb(path)
    os.environ["IN_TEST"] = "1"
    try: (Pages if links else Unlinked)()(nb)
    finally: del os.environ["IN_TEST"]
    return nb
