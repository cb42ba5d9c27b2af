"""Build the documentation site into `_docs/`: `python tools/site.py [--engine auto|quarto|smalldocs] [--out DIR]`.

The notebooks are processed (see `pages.py`), and Quarto renders the pages where it is installed, smalldocs elsewhere.
Everything happens in a temporary folder: only the output folder is written. To look at it: `python -m http.server -d
_docs`. While a text is being written, `smalldocs preview nbs` or `quarto preview nbs` shows it again after each change,
without the parts that nbdev adds.
"""
import argparse
import html
import json
import posixpath
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from nbdev.doclinks import _nbpath2html

from finish import finish
from pages import NBS, ROOT, process

SKIP = re.compile(r"^[._]")
QUARTO_ONLY = ("image", "image-alt", "respect-user-color-scheme") # keys of _quarto.yml that smalldocs does not know


def sources():
    "Every file of nbs/ that is part of the site."
    for path in sorted(NBS.rglob("*")):
        if path.is_file() and not any(SKIP.match(part) for part in path.relative_to(NBS).parts): yield path


def stage(folder):
    "The whole of nbs/, processed, in `folder`."
    for path in sources():
        target = folder / path.relative_to(NBS)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb": write_nb(process(path), target)
        else: shutil.copy2(path, target)
    shutil.copy2(ROOT / "_quarto.yml", folder / "_quarto.yml")


# ------------------------------------------------------------------ engines


def quarto(folder):
    "Rendered by Quarto; gives the folder of the site."
    subprocess.run(["quarto", "render", str(folder), "--no-execute", "--no-cache"], check=True)
    return folder / "_docs"


def smalldocs(folder):
    """Rendered by smalldocs, with the page names, the maths and the edit links that Quarto would give; gives the folder
    of the site."""
    from smalldocs.site import build

    renamed = rename(folder)
    built = build(folder, quiet=True)
    for warning in built.warnings:
        if not any(known in warning for known in ("output-file is not read", "html-math-method is ignored",
                                                  "grid is ignored", *QUARTO_ONLY)):
            print(f"warning: {warning}", file=sys.stderr)
    for page in built.out.rglob("*.html"):
        text = mathml(page.read_text(encoding="utf-8"))
        for old, new in renamed.items():
            text = re.sub(rf"(/(?:edit|blob)/[^\"/]+/nbs/){re.escape(new)}\"", rf'\g<1>{old}"', text)
        page.write_text(text, encoding="utf-8")
    rank_search(built.out)
    return built.out


# smalldocs leaves the order of what is found to Fuse, for which a short heading is the best place: every function's
# section, whose heading is one word, came before the tutorials
FOUND = "fuse.search(q, { limit }).map((h) => h.item)"
RANKED = """((words) => fuse.search(q).map((h, i) => [ranks(h.item, words), i, h.item])
        .sort((a, b) => a[0] - b[0] || a[1] - b[1])
        .slice(0, limit).map((found) => found[2]))(q.toLowerCase())"""
RANKS = """
  const ranks = (e, words) => {
    const heading = (e.title + " " + e.section).toLowerCase().includes(words);
    if (e.kind === "name") return e.section.toLowerCase() === words ? 5 : 50;
    if (heading) return e.kind === "tutorial" ? 0 : 10;
    if (e.text.toLowerCase().includes(words)) return e.kind === "tutorial" ? 30 : 40;
    return 60;
  };
"""


def rank_search(site):
    """Puts what is found into an order for readers: headings of tutorials, the function of that name, headings of other
    pages, then texts, and last other functions."""
    index = site / "search.json"
    entries = json.loads(index.read_text(encoding="utf-8"))
    for entry in entries: entry["kind"] = kind_of(entry)
    index.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    script = next(site.rglob("smalldocs.js"))
    text = script.read_text(encoding="utf-8")
    if FOUND not in text: raise SystemExit("smalldocs.js has changed: rank_search in tools/site.py does not fit it")
    begin = "let index = null, fuse = null;"
    text = text.replace(FOUND, RANKED).replace(begin, begin + RANKS)
    script.write_text(text, encoding="utf-8")


def kind_of(entry):
    "What a section of the site is: of a tutorial (or the home page), about an exported name, or another page."
    page, _, anchor = entry["href"].partition("#")
    if page == "index.html" or page.startswith("tutorials/"): return "tutorial"
    # a heading of the same name has the plain anchor, and the function the next one
    return "name" if anchor and re.sub(r"-\d+$", "", entry["href"]) in documented() else "page"


@cache
def documented():
    "The addresses of the sections about exported names, as nbdev writes them down."
    names = runpy.run_path(ROOT / "dynaseg" / "_modidx.py")["d"]["syms"].values()
    return {address for module in names for address, _ in module.values()}


def rename(folder):
    """Give the notebooks the names that `output-file` gives them in Quarto, and follow in links; the renamed paths, old
    to new."""
    moved = {}
    for path in sorted(folder.rglob("*.ipynb")):
        new = _nbpath2html(path).with_suffix(".ipynb")
        if new == path: continue
        if new.exists(): raise SystemExit(f"{path.name} and {new.name} would be one page.")
        path.rename(new)
        moved[path.relative_to(folder).as_posix()] = new.relative_to(folder).as_posix()
    names = {posixpath.basename(old): posixpath.basename(new) for old, new in moved.items()}
    def follow(text): return re.sub(r"(?<=[(\"/])([\w.-]+\.ipynb)(?=[)#\"])", lambda m: names.get(m[1], m[1]), text)
    def local(text): return re.sub(r"(?:\]\(|href=\")(?!\w+:)[^)\"\s]*[)\"]", lambda m: follow(m[0]), text)
    for path in folder.rglob("*.qmd"): path.write_text(local(path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in folder.rglob("*.ipynb"):
        nb = read_nb(path)
        for cell in nb.cells:
            if cell.cell_type == "markdown": cell.source = local(cell.source)
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                if "text/markdown" in data: data["text/markdown"] = local("".join(data["text/markdown"]))
        write_nb(nb, path)
    config = folder / "_quarto.yml"
    text = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"[\w./-]+\.ipynb", lambda m: moved.get(m[0], m[0]), text), encoding="utf-8")
    return moved


def mathml(page):
    """A page of smalldocs with its maths as MathML, which browsers draw by themselves, and without the scripts that
    would fetch KaTeX."""
    from latex2mathml.converter import convert

    def formula(match):
        kind, tex = match[1], html.unescape(match[2]).strip()
        tex = re.sub(r"^\\[(\[]|\\[)\]]$", "", tex).strip().replace(r"\arg\max", r"\operatorname{argmax}")
        return convert(tex, display="block" if kind == "display" else "inline")

    page = re.sub(r'<span class="math (inline|display)">(.*?)</span>', formula, page, flags=re.DOTALL)
    return re.sub(r'<link [^>]*katex[^>]*>|<script [^>]*katex[^>]*></script>', "", page)


def build(out=ROOT / "_docs", engine="auto"):
    "Build the site into `out`, which is replaced; gives the engine that was used."
    if not any(o.name == "dynaseg" for o in entry_points(group="nbdev")):
        print("warning: dynaseg is not installed here, so names get no links: pip install -e '.[dev]'", file=sys.stderr)
    if engine == "auto": engine = "quarto" if shutil.which("quarto") else "smalldocs"
    with tempfile.TemporaryDirectory(prefix="dynaseg-site-") as folder:
        folder = Path(folder).resolve()
        stage(folder)
        site = {"quarto": quarto, "smalldocs": smalldocs}[engine](folder)
        finish(site)
        if Path(out).exists(): shutil.rmtree(out)
        shutil.copytree(site, out)
    return engine


def replaceable(out):
    "Whether a folder is new, empty, or a site that was built before."
    return not out.exists() or not any(out.iterdir()) or (out / "site_libs").is_dir()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["auto", "quarto", "smalldocs"], default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "_docs", help="the folder of the site; it is replaced")
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.out in (ROOT, *ROOT.parents) or not replaceable(args.out):
        parser.error(f"--out {args.out} holds something else than a site; expected a new folder, or a site that was "
                     "built before.")
    start = time.perf_counter()
    engine = build(args.out, args.engine)
    pages = len(list(args.out.rglob("*.html")))
    print(f"{pages} pages by {engine} in {args.out} ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
