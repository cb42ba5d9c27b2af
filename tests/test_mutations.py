"""The tests notice edits that make the code wrong: six of the list, always the same ones.

`python tools/mutations.py` tries all of them."""
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from edits import EDITS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("module", sorted({module for module, _, _ in EDITS}))
def test_every_edit_can_be_made(module):
    "Its text stands exactly once in the module. Where a line was rewritten, tests/edits.py has to follow."
    source = (ROOT / "dynaseg" / f"{module}.py").read_text(encoding="utf-8")
    assert [old for name, old, new in EDITS if name == module and (source.count(old) != 1 or old == new)] == []


def test_no_edit_stands_in_the_list_twice():
    assert len(set(EDITS)) == len(EDITS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX system")
def test_six_of_them_are_noticed(tmp_path):
    command = [sys.executable, ROOT / "tools" / "mutations.py", "--sample", "6", "--seed", "0",
               "--out", tmp_path / "mutations.csv"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / "mutations.csv").open(encoding="utf-8")))
    assert len(rows) == 6 and [row for row in rows if row["killed"] != "1"] == []


def test_the_figure_on_the_site_is_of_this_list():
    rows = list(csv.DictReader((ROOT / "nbs" / "results" / "mutations.csv").open(encoding="utf-8")))
    assert [(row["module"], row["text"], row["in_its_place"]) for row in rows] == EDITS, "run tools/mutations.py"
    assert sum(int(row["killed"]) for row in rows) >= 0.9 * len(rows)
