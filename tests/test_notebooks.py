"""Every notebook runs from top to bottom: the pages of the library here, the tutorials in test_tutorials.py."""
import nbformat
import pytest
from notebooks import NOTEBOOKS, copied, posix, run

pytestmark = posix


@pytest.fixture(scope="module")
def copy(tmp_path_factory): return copied(tmp_path_factory.mktemp("notebooks"))


@pytest.mark.parametrize("notebook", [path for path in NOTEBOOKS if path.parts[0] != "tutorials"], ids=str)
def test_a_notebook_runs(notebook, copy, tmp_path):
    code, said = run(copy / "nbs" / notebook, copy, tmp_path)
    assert code == 0, said


def test_a_notebook_that_fails_is_noticed(copy, tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# Wrong\n> On purpose."), nbformat.v4.new_code_cell("assert 1 == 2")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(notebook, copy / "wrong.ipynb")
    code, said = run(copy / "wrong.ipynb", copy, tmp_path)
    assert code == 1 and "AssertionError" in said
