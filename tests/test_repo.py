"""The repository: notebooks and what is exported from them agree, modules stand in their order, settings agree with
each other."""

import ast
import dataclasses
import filecmp
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"


def cells(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        yield cell["cell_type"], "".join(cell["source"]), cell.get("outputs", [])


def module_of(path):
    "The module that a notebook exports, or None."
    for kind, source, _ in cells(path):
        if kind == "code" and (found := re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.MULTILINE)): return found[1]


NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb")
                   if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts))
CHAPTERS = [p for p in NOTEBOOKS if p.parent == NBS and re.match(r"\d\d_", p.name)]
ORDER = [module_of(p) for p in CHAPTERS]
BASE = ("docstrings",)  # what every module may use, and that uses none: its notebook has no number
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(NBS)))
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
each_module = pytest.mark.parametrize("name", ORDER)


@pytest.fixture(scope="module")
def settings():
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


@pytest.fixture(scope="module")
def quarto():
    return yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))


def copied(folder):
    "The sources of the project, without what is built from them."
    skipped = shutil.ignore_patterns(".git", ".venv", "_docs", "_proc", "build", "dist", "*.egg-info", "__pycache__",
                                     ".ipynb_checkpoints", "dynaseg-demo")
    return shutil.copytree(ROOT, folder, symlinks=True, ignore=skipped)


def run(*args, cwd=ROOT):
    done = subprocess.run([sys.executable, *map(str, args)], cwd=cwd, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def differing(a, b):
    "Names of the files that are not the same in two folders."
    names = {p.relative_to(f).as_posix() for f in (a, b) for p in f.rglob("*") if p.is_file()
             and "__pycache__" not in p.parts}
    return sorted(n for n in names if not ((a / n).is_file() and (b / n).is_file()
                                           and filecmp.cmp(a / n, b / n, shallow=False)))


# --- what is exported

def test_the_package_is_what_the_notebooks_export(tmp_path):
    copy = copied(tmp_path / "copy")
    for file in (copy / "dynaseg").glob("*.py"):
        if file.name != "__init__.py": file.unlink()  # a module without a notebook would not come back
    run("-c", "from nbdev.doclinks import nbdev_export; nbdev_export()", cwd=copy)
    assert differing(ROOT / "dynaseg", copy / "dynaseg") == [], "run nbdev_export"


def test_notebooks_are_clean(tmp_path):
    copy = copied(tmp_path / "copy")
    run("-c", "from nbdev.clean import nbdev_clean; nbdev_clean()", cwd=copy)
    assert differing(NBS, copy / "nbs") == [], "run nbdev_clean"


def test_readme_is_made_from_the_index_notebook():
    run(ROOT / "tools" / "readme.py", "--check")


def test_every_module_has_its_notebook():
    assert len(ORDER) == len(set(ORDER)) and None not in ORDER
    assert {p.stem for p in (ROOT / "dynaseg").glob("*.py")} - {"__init__", "__main__", "_modidx"} == {*ORDER, *BASE}
    # each number once, none left out
    assert [path.name[:2] for path in CHAPTERS] == [f"{i:02}" for i in range(len(CHAPTERS))]
    assert ORDER[:11] == ["images", "labels", "network", "loss", "weighting", "silhouette", "fit", "hints", "guide",
                          "merging", "granularity"] and ORDER[-1] == "cli"
    for path, name in zip(CHAPTERS, ORDER): assert path.stem[3:] == name


# --- the order of the modules

def imported(tree):
    "Modules of dynaseg that a piece of code imports, wherever in it."
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            inside = node.level == 1 or (node.module or "").split(".")[0] == "dynaseg"
            if not inside: continue
            name = (node.module or "").removeprefix("dynaseg").strip(".")
            yield from [name.split(".")[0]] if name else [{"segment": "segmenter", "DynaSeg": "together",
                                                           "Segmentation": "segmenter"}.get(a.name, a.name)
                                                          for a in node.names if a.name != "__version__"]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("dynaseg."))


@each_module
def test_a_module_imports_only_modules_before_it(name):
    tree = ast.parse((ROOT / "dynaseg" / f"{name}.py").read_text(encoding="utf-8"))
    assert set(imported(tree)) <= {*BASE, *ORDER[: ORDER.index(name)]}


@each_chapter
def test_a_notebook_uses_only_modules_before_its_own(path):
    before = {*BASE, *ORDER[: CHAPTERS.index(path)]}
    for kind, source, _ in cells(path):
        if kind == "code":
            code = "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
            exported = re.search(r"^#\|\s*export", source, re.MULTILINE)
            # an example may take what new processes have to import from the module
            own = set() if exported else {module_of(path)}
            assert set(imported(ast.parse(code))) <= before | own, source


def test_third_party_imports_are_declared(settings):
    "Every package that the modules import is a requirement, and every requirement has a lower bound and nothing else."
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image", "lazy_loader": "lazy-loader"}
    needed = set()
    for file in (ROOT / "dynaseg").glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        guarded = {n for t in ast.walk(tree) if isinstance(t, ast.Try)
                   and "ImportError" in [getattr(h.type, "id", "") for h in t.handlers] for n in t.body}
        for node in set(ast.walk(tree)) - guarded:  # what may be missing is caught, and the user told
            if isinstance(node, ast.ImportFrom) and not node.level: needed.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import): needed |= {a.name.split(".")[0] for a in node.names}
    needed = {names.get(n, n) for n in needed - set(sys.stdlib_module_names) - {"dynaseg"}}
    requirements = settings["requirements"].split()
    assert all(re.fullmatch(r"[a-z-]+>=[\d.]+", r) for r in requirements)
    assert needed - {"IPython"} <= {r.split(">=")[0] for r in requirements}  # ipywidgets brings IPython


# --- notebooks

@each_notebook
def test_a_notebook_that_was_opened_alone_says_that_results_are_not_there(path):
    "Colab opens one notebook, without the files beside it."
    place = re.compile(r"""Path\(["'](\.\./)?results\b""")
    for kind, source, _ in cells(path):
        reads = kind == "code" and place.search(source) and re.search(r"\.open\(|read_rows\(", source)
        assert not reads or ".exists()" in source, source


@each_notebook
def test_a_notebook_opens_with_title_and_subtitle(path):
    kind, source, _ = next(cells(path))
    lines = source.splitlines()
    assert kind == "markdown" and re.match(r"# \S", lines[0]) and re.match(r"> \S.*\S$", lines[1])


@each_chapter
def test_a_chapter_says_what_the_reader_will_be_able_to_do(path):
    texts = [source for kind, source, _ in cells(path) if kind == "markdown"]
    assert "After this notebook you" in texts[0] + texts[1]


@each_notebook
def test_outputs_are_saved_and_none_is_an_error(path):
    shown, text = [], ""
    for kind, source, outputs in cells(path):
        for output in outputs:
            assert output["output_type"] != "error", source
            assert output.get("name") != "stderr", source
            shown.append(output)
            text += json.dumps({k: v for k, v in output.get("data", {}).items()
                                if k.startswith("text")}) + "".join(output.get("text", []))
    assert shown, "run tools/run_notebooks.py"
    assert not re.search(r"(?<![\w.])/(?:home|root|Users|tmp|var|mnt|work)/\w|\bsite-packages\b|<[\w.]+ object at 0x",
                         text), "an output holds a path or an address"


def mixes_imports(source):
    "Whether nbdev would run this cell for its imports, and then fail on the names of cells that it does not run."
    if re.search(r"^#\|\s*(?:exports?|exporti|exec_doc)\b|^#\|\s*eval:\s*false|^\s*[%!]", source, re.MULTILINE):
        return False
    nodes = list(ast.walk(ast.parse(source)))
    imports = any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes)
    return imports and any(isinstance(node, (ast.Expr, ast.Assign)) for node in nodes)


@each_notebook
def test_imports_stand_in_cells_of_their_own(path):
    "Or `nbdev_docs`, which runs every cell with an import in it and no other, ends in a NameError."
    code = [source for kind, source, _ in cells(path) if kind == "code" and "google.colab" not in source]
    assert [source for source in code if mixes_imports(source)] == []
    assert mixes_imports("import os\nprint(os.sep)") and not mixes_imports("import os\nimport sys")


@pytest.mark.parametrize("path", CHAPTERS[:7], ids=lambda p: p.stem)
def test_the_tutorial_keeps_its_pictures(path):
    pictures = [o for _, _, outputs in cells(path) for o in outputs if "image/png" in o.get("data", {})
                or "<img" in str(o.get("data", {}).get("text/html", ""))]
    assert pictures
    assert path.stat().st_size < 1_000_000


@each_chapter
def test_exported_definitions_are_shown_or_tested_nearby(path):
    """Every public function, and every class with methods, occurs in a cell that is not exported, three such cells away
    at most. A class is also shown by a call of one of its methods.

    Bare types (an exception, a named tuple, a data class) are shown by the functions that raise or return them."""
    code = [(source, bool(re.search(r"^#\|\s*export", source, re.MULTILINE))) for kind, source, _ in cells(path)
            if kind == "code"]
    for i, (source, exported) in enumerate(code):
        if not exported: continue
        for node in ast.parse(source).body:
            bare = isinstance(node, ast.ClassDef) and (node.decorator_list
                                                       or not any(isinstance(n, ast.FunctionDef) for n in node.body))
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and not bare:
                near = [s for s, e in code[:i] if not e][-1:] + [s for s, e in code[i:] if not e][:3]
                methods = [n.name for n in node.body if isinstance(n, ast.FunctionDef)
                           and not n.name.startswith("_")] if isinstance(node, ast.ClassDef) else []
                if any(f".{m}(" in s for s in near for m in methods): continue
                shown = rf"\b{node.name}\b"
                if node.name.endswith("_command"):
                    shown = rf'\brun\("{node.name.removesuffix("_command")}"'  # as at a terminal: run("folder", ...)
                if (path.stem[3:], node.name) == ("cli", "main"): shown = r"\brun\("
                assert any(re.search(shown, s) for s in near), f"{node.name} has no example nearby"


# --- documentation in the code

def public_names(name):
    module = importlib.import_module(f"dynaseg.{name}")
    return [(n, getattr(module, n)) for n in module.__all__
            if getattr(getattr(module, n), "__module__", "") == module.__name__]


def public_methods(cls):
    own = inspect.isclass(cls) and {n: m for n, m in vars(cls).items() if not n.startswith("_")
                                    and (inspect.isfunction(m) or isinstance(m, property))}
    return [(n, m.fget if isinstance(m, property) else m) for n, m in (own or {}).items()]


@each_module
def test_everything_public_has_a_docstring(name):
    for label, thing in public_names(name):
        if not (inspect.isclass(thing) or inspect.isfunction(thing)): continue
        assert thing.__doc__ and len(thing.__doc__.split()) > 2, label
        if inspect.isclass(thing) and issubclass(thing, tuple): continue
        for method, function in public_methods(thing):
            inherited = any(getattr(base, method, None) is not None for base in thing.__mro__[1:])
            assert function.__doc__ or inherited, f"{label}.{method}"


@each_module
def test_every_public_parameter_has_its_comment(name):
    "One comment a parameter, which nbdev turns into a table. A parameter of `segment` needs none elsewhere."
    from fastcore.docments import docments
    from dynaseg.segmenter import segment
    known = set(inspect.signature(segment).parameters)
    for label, thing in public_names(name):
        if not (inspect.isclass(thing) or inspect.isfunction(thing)): continue
        if name == "cli" and label != "main": continue  # options carry their help
        shared = known if label in ("DynaSeg", "check_settings", "check_features") else set()
        made_by_hand = inspect.isfunction(thing) or "__init__" in vars(thing) and not dataclasses.is_dataclass(thing)
        methods = [] if inspect.isclass(thing) and issubclass(thing, tuple) else public_methods(thing)
        foreign = [b for b in thing.__mro__ if not b.__module__.startswith("dynaseg")] if inspect.isclass(thing) else []
        # `forward` and `fit` are PyTorch's and scikit-learn's
        methods = [(n, m) for n, m in methods if not any(hasattr(b, n) for b in foreign)]
        for where, function in [(label, thing)] * made_by_hand + [(f"{label}.{n}", m) for n, m in methods]:
            notes = docments(function, full=True)
            for parameter in inspect.signature(function).parameters.values():
                if parameter.name in {"self", *shared} or parameter.kind is parameter.VAR_KEYWORD: continue
                note = notes.get(parameter.name)
                assert note is not None and note.get("docment"), f"{where}({parameter.name})"


@each_module
def test_every_field_has_its_comment(name):
    "Of named tuples and data classes."
    source = (ROOT / "dynaseg" / f"{name}.py").read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and not field.target.id.startswith("_"):
                    beside, above = lines[field.end_lineno - 1], lines[field.lineno - 2].strip()
                    assert re.search(r"# \S", beside) or re.match(r"# \S", above), f"{node.name}.{field.target.id}"


# --- settings that stand in two places

def test_version(settings):
    import dynaseg
    assert dynaseg.__version__ == settings["version"]


def test_site_and_settings_agree(settings, quarto):
    site = quarto["website"]
    assert quarto["project"]["output-dir"] == settings["doc_path"]
    assert site["title"] == settings["title"]
    assert site["site-url"].rstrip("/") == settings["doc_host"] % settings + settings["doc_baseurl"] % settings
    assert site["repo-url"].rstrip("/") == settings["git_url"] % settings
    assert site.get("repo-branch", "main") == settings["branch"]
    assert site.get("description", settings["description"]) == settings["description"]
    assert quarto["format"]["html"]["html-math-method"] == "mathml"


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_nbdev_finds_the_one_quarto_file():
    link = NBS / "_quarto.yml"
    assert link.is_symlink() and os.readlink(link) == "../_quarto.yml"


def test_every_page_has_its_place_on_the_site(quarto):
    "A notebook that is not in the sidebar is not found by readers."
    text = json.dumps(quarto["website"])
    for path in NOTEBOOKS: assert path.relative_to(NBS).as_posix() in text, path.name
    for page in re.findall(r'"([\w/-]+\.(?:ipynb|qmd))"', text): assert (NBS / page).is_file(), page


def test_every_module_can_be_reached_from_the_package():
    import dynaseg
    for name in (*ORDER, *BASE): assert inspect.ismodule(getattr(dynaseg, name)), name


def test_no_two_scripts_share_a_name():
    "Python finds one of two modules of a name: the wrong one, where the folder of the other comes first."
    tests, tools = ({path.stem for path in (ROOT / folder).glob("*.py")} for folder in ("tests", "tools"))
    assert not tests & tools


def test_lines_are_plain():
    "ruff, with the selection in pyproject.toml, on the package, the tests, the tools and the notebooks' code."
    if importlib.util.find_spec("ruff") is None:
        assert not os.environ.get("CI"), "ruff is not installed: pip install -e '.[dev]'"
        pytest.skip("ruff is not installed: nobody looked at the lines")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
    done = subprocess.run([*command, "dynaseg", "tests", "tools", "nbs"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_line_that_is_not_plain_is_noticed():
    "In a script and in a notebook: too long, two statements, a named lambda, a name that is not used."
    pytest.importorskip("ruff")
    code = "import re\nx = 1; y = 2\nf = lambda: x\n# " + "long " * 30 + "\n"
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None, "source": code}
    notebook = json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    for name, text in (("tests/made_up.py", code), ("nbs/made_up.ipynb", notebook)):
        command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "json"]
        done = subprocess.run([*command, "--stdin-filename", name, "-"], cwd=ROOT, input=text, text=True,
                              capture_output=True)
        assert {found["code"] for found in json.loads(done.stdout)} == {"E501", "E702", "E731", "F401"}, name


def test_the_two_readme_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("pip install . && dynaseg demo", "pip install -e '.[dev]' && pytest"):
        assert f"\n{command}\n" in readme
