"""Every notebook runs from top to bottom. They run in a copy, so that files which a notebook writes do not change the repository."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(p.relative_to(NBS) for p in NBS.rglob("*.ipynb")
                   if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts))

# nbdev's own test: cells run in order in one shell; those marked `eval: false` or with a flag of tst_flags do not
RUN = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
passed, seconds = test_nb(Path(sys.argv[1]), skip_flags=get_config().tst_flags.split())
sys.exit(not passed)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copy(ROOT / "settings.ini", folder)
    shutil.copy(ROOT / "_quarto.yml", folder)
    shutil.copytree(NBS, folder / "nbs", symlinks=True, ignore=shutil.ignore_patterns(".*", "_proc", "_docs"))
    return folder


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=str)
def test_a_notebook_runs(notebook, copy):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("MPLBACKEND", None)  # a notebook has its own
    done = subprocess.run([sys.executable, "-c", RUN, str(copy / "nbs" / notebook)], cwd=copy, env=environment, text=True,
                          capture_output=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]


def test_a_notebook_that_fails_is_noticed(copy):
    import nbformat
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Wrong\n> On purpose."), nbformat.v4.new_code_cell("assert 1 == 2")])
    nbformat.write(notebook, copy / "wrong.ipynb")
    done = subprocess.run([sys.executable, "-c", RUN, str(copy / "wrong.ipynb")], cwd=copy, text=True, capture_output=True, timeout=900)
    assert done.returncode == 1 and "AssertionError" in done.stderr
