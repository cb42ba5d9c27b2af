"""Running a notebook from top to bottom, in a copy: files which a notebook writes do not change the repository.

Each has a process of its own, which need not import PyTorch again. test_notebooks.py and test_tutorials.py run them:
two files, so that two processes of pytest-xdist share them.
"""
import os
import shutil
import sys
from pathlib import Path

import forks
import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(p.relative_to(NBS) for p in NBS.rglob("*.ipynb")
                   if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts))

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


def execute(path, folder, said):
    "nbdev's own test. Cells run in order in one shell; those marked `eval: false` or with a flag of tst_flags do not."
    forks.say_into(said)
    os.environ.pop("MPLBACKEND", None)  # a notebook has its own
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.chdir(folder)
    from nbdev.config import get_config
    from nbdev.test import test_nb
    passed, _ = test_nb(path, skip_flags=get_config().tst_flags.split())
    sys.exit(not passed)


def run(path, folder, said):
    "The exit code of a notebook's process, and what it said."
    process = forks.child(path, folder, said, target=execute, daemon=False)
    code = forks.ended(process, 900)
    return code, "".join((said / name).read_text(errors="replace")[-5000:] for name in ("stdout", "stderr"))


def copied(folder):
    "The folder, with a copy of what notebooks read in it."
    shutil.copy(ROOT / "settings.ini", folder)
    shutil.copy(ROOT / "_quarto.yml", folder)
    shutil.copytree(NBS, folder / "nbs", symlinks=True, ignore=shutil.ignore_patterns(".*", "_proc", "_docs"))
    return folder
