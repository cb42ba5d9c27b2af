"""Write README.md from nbs/index.ipynb: `python tools/readme.py [--check]`.

nbdev processes the notebook as for the site; this writes it as plain Markdown. Pictures that the notebook shows are
saved under nbs/images/ and linked. `--check` changes nothing: it exits 1 with a diff when README.md is not what the
notebook gives.
"""
import argparse
import base64
import difflib
import os
import re
import sys

from nbdev.config import get_config

from pages import NBS, ROOT, process

README = ROOT / "README.md"
NOTE = "<!-- Made from nbs/index.ipynb by tools/readme.py: edit the notebook, not this file. -->"
SITE_ONLY = re.compile(r"<!-- site only -->.*?<!-- /site only -->\n*", re.DOTALL)
TARGET = re.compile(r"""(\]\(|(?:src|href|srcset)=")(?!\w+:|#|/)(?:\./)?([^)"\s]+)""")


def relative(text):
    "Links of a page in nbs/ as links of a page at the root: pages of the site by their address, files by their path."
    cfg = get_config()
    def target(match):
        path = match[2]
        page = re.match(r"[\w./-]+\.(?:html|qmd)(?=#|$)", path)
        if page: return f"{match[1]}{cfg.doc_host}{cfg.doc_baseurl}/{re.sub(r'[.]qmd', '.html', path)}"
        return f"{match[1]}nbs/{path}"
    return TARGET.sub(target, text)


def without_code(text, change):
    "`change` applied to Markdown outside its code blocks."
    parts = re.split(r"(^```.*?^```[^\n]*$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def markdown(cell):
    "A Markdown cell for the README: what is for the site alone left out, Quarto's div lines dropped."
    def change(text): return relative(re.sub(r"^:::.*\n?", "", text, flags=re.MULTILINE))
    return without_code(SITE_ONLY.sub("", cell.source), change).strip()


def option(cell, name):
    "The value of a `#| name: value` line, or None."
    found = re.search(rf"^#\|\s*{name}:\s*(.+?)\s*$", cell.source, re.MULTILINE)
    return found[1].strip('"') if found else None


def code(cell, pictures):
    "A code cell for the README: its source unless hidden, its text, its pictures. HTML is for the site alone."
    out, source = [], re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE).strip()
    if option(cell, "include") == "false": return ""
    if source and option(cell, "echo") != "false": out.append(f"```python\n{source}\n```")
    for n, output in enumerate(cell.get("outputs", [])):
        data = output.get("data", {})
        text = "".join(output.get("text", "")) or "".join(data.get("text/plain", ""))
        if "image/png" in data:
            name = f"images/readme-{cell.id}{f'-{n}' if n else ''}.png"
            pictures[name] = base64.b64decode("".join(data["image/png"]))
            out.append(f"![{option(cell, 'fig-alt') or ''}](nbs/{name})")
        elif "text/markdown" in data: out.append(without_code("".join(data["text/markdown"]), relative).strip())
        elif "text/html" in data: continue
        elif text.strip(): out.append(f"```text\n{text.strip()}\n```")
    return "\n\n".join(out)


def readme():
    "The text of README.md, and the pictures in it: name under nbs/ to bytes."
    nb, pictures = process(NBS / get_config().readme_nb, links=False), {}
    front = nb.frontmatter_
    blocks = [NOTE, f"# {front['title']}", f"> {front['description']}"]
    for cell in nb.cells:
        if cell.cell_type == "raw" or cell.source.startswith("<!-- WARNING"): continue
        blocks.append(code(cell, pictures) if cell.cell_type == "code" else markdown(cell))
    return "\n\n".join(b for b in blocks if b) + "\n", pictures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true",
                        help="change nothing; exit 1 with a diff where README.md does not match")
    check = parser.parse_args().check
    os.chdir(ROOT) # nbdev looks for settings.ini from here
    text, pictures = readme()
    if not check:
        README.write_text(text, encoding="utf-8")
        for name, data in pictures.items(): (NBS / name).write_bytes(data)
        return
    have = README.read_text(encoding="utf-8") if README.exists() else ""
    diff = list(difflib.unified_diff(have.splitlines(True), text.splitlines(True), "README.md", "nbs/index.ipynb"))
    stale = [n for n, data in pictures.items() if not (NBS / n).exists() or (NBS / n).read_bytes() != data]
    sys.stdout.writelines(diff)
    for name in stale: print(f"nbs/{name} is not the picture in the notebook")
    if diff or stale: raise SystemExit("README.md is not what nbs/index.ipynb gives: python tools/readme.py")


if __name__ == "__main__":
    main()
