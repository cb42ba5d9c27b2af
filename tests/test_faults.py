"""A short version of every scenario of tools/faults.py; the long one is on the site, with its counts."""
import csv
import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))  # the processes that the scenarios start import it by its name
import faults  # noqa: E402

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
SHORT = dict(kills=dict(times=6, images=6), steps=dict(times=8, images=2), together=dict(times=1), workers=dict(times=1, images=20), torchrun=dict(times=1, images=20), machines=dict(times=1, images=20),
             full_disk={}, read_only={}, no_permission={}, vanishing=dict(times=1), fuzz=dict(times=120), memory=dict(times=60))


@pytest.mark.parametrize("scenario", faults.SCENARIOS, ids=lambda s: s.__name__)
def test_nothing_is_lost(scenario):
    try: tried, _ = scenario(seed=1, **SHORT[scenario.__name__])
    except faults.CannotTry as e: pytest.skip(str(e))
    assert tried >= 1


def test_the_page_shows_a_run_of_all_of_them():
    rows = list(csv.DictReader((ROOT / "nbs" / "results" / "faults.csv").open(encoding="utf-8")))
    assert [row["scenario"] for row in rows] == [s.__name__ for s in faults.SCENARIOS]
    assert all(row["what"] == s.__doc__ and int(row["lost"]) == 0 and int(row["tried"]) > 0 for row, s in zip(rows, faults.SCENARIOS))
    at_least = dict(kills=50, fuzz=2000, memory=500)
    for row in rows: assert int(row["tried"]) >= at_least.get(row["scenario"], 1), row
