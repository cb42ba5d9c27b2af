"""What all tests share: a reproducible hypothesis, small pictures, quick settings, a clean look at the command line."""
import os

os.environ.setdefault("MPLBACKEND", "Agg")  # no window, whatever the machine has
# also of the processes that tests start: as many run at once as there are cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40,
                          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
settings.load_profile("repeatable")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background is started with Ctrl-C switched off
torch.set_num_threads(1)  # the pictures here are tiny: more threads only get in each other's way


def pytest_addoption(parser):
    parser.addoption("--faults", choices=["short", "long"], default="short",
                     help="how often tests/test_faults.py tries to lose something")
    parser.addoption("--library", action="store_true", help="only what needs the library and no developer's tools")
    parser.addoption("--site", metavar="DIR",
                     help="a built site for tests/test_site.py, of either engine; without it one is built by smalldocs")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes")


PROJECT = ("test_finish", "test_faults", "test_jupyter", "test_mutations", "test_notebooks", "test_package",
           "test_repo", "test_site", "test_tutorials", "test_workflows")


def pytest_ignore_collect(collection_path, config):
    "With --library, the tests of the project around it are left out."
    return True if config.getoption("--library") and collection_path.stem in PROJECT else None


# what takes long comes first: at the end one process would wait for the other
FIRST = ("test_notebooks", "test_site", "test_faults", "test_tutorials", "test_cli", "test_batch", "test_jupyter",
         "test_pretrained", "test_benchmark", "test_segmenter", "test_package", "test_mutations")


def pytest_collection_modifyitems(items):
    """The files that take long first. Each file goes to one process (pytest-xdist, `--dist loadfile`), so that what its
    tests share is built once."""
    def place(item): return FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST)
    items.sort(key=place)


@pytest.fixture(autouse=True, scope="module")
def the_way_to_modules():
    "No file of tests changes where Python looks for modules: the files after it would find others of the same name."
    before = [*sys.path]
    yield
    assert sys.path == before


@pytest.fixture(scope="session")
def repo():
    "The folder of the project: notebooks, settings.ini."
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def photo():
    "(24, 30, 3) uint8: sky, a lawn and a house, all noisy. Not to be changed."
    rng = np.random.default_rng(0)
    a = np.empty((24, 30, 3))
    a[:12], a[12:], a[6:18, 8:20] = (90, 150, 230), (60, 160, 50), (200, 60, 40)
    a = (a + rng.normal(0, 12, a.shape)).clip(0, 255).astype(np.uint8)
    a.flags.writeable = False
    return a


@pytest.fixture
def red_half():
    "(40, 60, 3) float32: a dark half and a red one, both with a little noise."
    image = np.random.default_rng(0).uniform(0, .1, (40, 60, 3)).astype(np.float32)
    image[:, 30:, 0] += .8
    return image


@pytest.fixture
def quick():
    "Settings of `segment` for a fit of some milliseconds."
    return dict(M=1, p=8, q=8, T=6, progress=False, device="cpu")


@pytest.fixture
def fast(quick):
    "Like `quick`, without the silhouette phase, which is five sixths of such a fit."
    return quick | dict(min_labels=2)


@pytest.fixture(scope="session")
def python():
    "Runs code in a Python of its own and returns what it prints; fails with its errors."
    def run(code, *args, cwd=None, check=True, **environment):
        done = subprocess.run([sys.executable, "-c", code, *map(str, args)], text=True, capture_output=True, cwd=cwd,
                              env={**os.environ, **environment}, timeout=600)
        if check: assert done.returncode == 0, done.stderr
        return done.stdout.strip() if check else done
    return run


@pytest.fixture
def command(monkeypatch, capsys):
    "Runs `dynaseg` in this process; test_cli tries it in processes of its own."
    from dynaseg.cli import main
    def run(*args, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["dynaseg", *map(str, args)])
        code = 0
        try: main()
        except SystemExit as e: code = e.code or 0
        return subprocess.CompletedProcess(args, code, *capsys.readouterr())
    return run


@pytest.fixture(scope="session")
def digest():
    "A short name for the contents of an array."
    return lambda a: hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()
