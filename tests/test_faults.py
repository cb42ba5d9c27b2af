"""Nothing is lost when a run is killed, a disk is full, a file is broken. Short here; `python tools/faults.py` tries everything, with its counts.

One scenario, with its counts: `pytest tests/test_faults.py -k kills --faults long -rP`.
"""
import csv
import os
from pathlib import Path

import faults
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHORT = dict(kills=dict(times=6, images=6), steps=dict(times=8, images=2), together=dict(times=1), signals=dict(times=2, images=8), orphans=dict(times=1, images=8), damage=dict(times=9), workers=dict(times=1, images=20),
             torchrun=dict(times=1, images=20), machines=dict(times=1, images=20), full_disk={}, read_only={}, no_permission={},
             vanishing=dict(times=1), fuzz=dict(times=120), memory=dict(times=60))
each_scenario = pytest.mark.parametrize("scenario", faults.SCENARIOS, ids=lambda s: s.__name__)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
@each_scenario
def test_nothing_is_lost(scenario, request, record_property):
    long = request.config.getoption("--faults") == "long"
    try: tried, remarks = scenario(**{"seed": 0} if long else {"seed": 1} | SHORT[scenario.__name__])
    except faults.CannotTry as e: pytest.skip(str(e))
    for name, value in dict(tried=tried, remarks=remarks).items(): record_property(name, value)
    assert tried >= 1


@pytest.fixture(scope="module")
def rows():
    return list(csv.DictReader((ROOT / "nbs" / "results" / "faults.csv").open(encoding="utf-8")))


def test_the_page_shows_a_run_of_all_of_them(rows):
    assert {row["scenario"]: row["what"] for row in rows} == {s.__name__: s.__doc__ for s in faults.SCENARIOS}
    assert all(int(row["lost"]) == 0 and int(row["tried"]) > 0 and row["unit"] == faults.COUNTED[row["scenario"]] for row in rows)


def test_they_were_tried_often_enough(rows):
    tried = {row["scenario"]: int(row["tried"]) for row in rows}
    assert tried["kills"] >= 50 and tried["fuzz"] >= 2000 and tried["memory"] >= 500
