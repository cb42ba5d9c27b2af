"""Every tutorial runs from top to bottom. The other notebooks are in test_notebooks.py."""
import pytest
from notebooks import NOTEBOOKS, copied, posix, run

TUTORIALS = [path for path in NOTEBOOKS if path.parts[0] == "tutorials"]

pytestmark = posix


@pytest.fixture(scope="module")
def copy(tmp_path_factory): return copied(tmp_path_factory.mktemp("tutorials"))


@pytest.mark.parametrize("notebook", TUTORIALS, ids=str)
def test_a_tutorial_runs(notebook, copy, tmp_path):
    code, said = run(copy / "nbs" / notebook, copy, tmp_path)
    assert code == 0, said


def test_there_are_tutorials(): assert len(TUTORIALS) >= 5
