"""Give every notebook the cell that installs the package in Colab and nowhere else: `python tools/colab.py [--check]`.

The cell is the first code cell, hidden on the site. It installs what the notebook was written with: the repository's
main branch.
"""
import argparse
import configparser
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"


def source():
    "The text of the cell."
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    cfg = config["DEFAULT"]
    return (f'#| hide\nimport sys\nif "google.colab" in sys.modules: '
            f'get_ipython().system("pip install -q git+{cfg["git_url"]}@{cfg["branch"]}")')


def notebooks():
    "Every notebook of nbs/."
    return [p for p in sorted(NBS.rglob("*.ipynb"))
            if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts)]


def first_code(nb):
    "Where the first code cell stands."
    return next((i for i, c in enumerate(nb["cells"]) if c["cell_type"] == "code"), len(nb["cells"]))


def has_cell(nb):
    "Whether the first code cell is ours, to the letter."
    i = first_code(nb)
    return i < len(nb["cells"]) and "".join(nb["cells"][i]["source"]) == source()


def add(path):
    "Put the cell in, in place of an older one if there is one; whether the file changed."
    nb = json.loads(path.read_text(encoding="utf-8"))
    if has_cell(nb): return False
    nb["cells"] = [c for c in nb["cells"] if c.get("id") != "colab"]
    nb["cells"].insert(first_code(nb), {"cell_type": "code", "execution_count": None, "id": "colab", "metadata": {},
                                        "outputs": [],
                                        "source": source().splitlines(keepends=True)})
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true",
                        help="change nothing; exit 1 and name the notebooks that lack the cell")
    if parser.parse_args().check:
        lacking = [p for p in notebooks() if not has_cell(json.loads(p.read_text(encoding="utf-8")))]
        for path in lacking: print(f"{path.relative_to(ROOT)} lacks the Colab cell: python tools/colab.py")
        raise SystemExit(bool(lacking))
    for path in notebooks():
        if add(path): print(f"{path.relative_to(ROOT)}: Colab cell written")


if __name__ == "__main__":
    main()
