"""Nothing is lost when a run is killed, a disk is full, a file is broken. Short here; `python tools/faults.py` tries
everything, with its counts.

One scenario, with its counts: `pytest tests/test_faults.py -k kills --faults long -rP`.
"""
import csv
import os
from pathlib import Path

import scenarios
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHORT = dict(kills=dict(times=6, images=6), steps=dict(times=8, images=2), together=dict(times=1),
             signals=dict(times=2, images=8), orphans=dict(times=1, images=8), damage=dict(times=9),
             workers=dict(times=1, images=20),
             torchrun=dict(times=1, images=20), machines=dict(times=1, images=20), full_disk={}, read_only={},
             no_permission={},
             vanishing=dict(times=1), fuzz=dict(times=120), bombing={},
             memory=dict(times=120, noise=1))  # without noise: the merge tree of noise takes five sixths of such a run
each_scenario = pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=lambda s: s.__name__)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
@each_scenario
def test_nothing_is_lost(scenario, request, record_property):
    long = request.config.getoption("--faults") == "long"
    try: tried, remarks = scenario(**{"seed": 0} if long else {"seed": 1} | SHORT[scenario.__name__])
    except scenarios.CannotTry as e: pytest.skip(str(e))
    for name, value in dict(tried=tried, remarks=remarks).items(): record_property(name, value)
    assert tried >= 1


def test_a_leak_is_told_from_what_is_loaded_once():
    "A library that is loaded late, and noise; then the same with 100 KB an image."
    image = np.arange(0, SHORT["memory"]["times"], scenarios.EVERY)
    once = 450 + 16 * (image > 70) + np.random.default_rng(0).normal(0, 0.3, len(image))
    assert abs(scenarios.growth(once)) < 10
    assert 90 < scenarios.growth(once + image * 100 / 1024) < 110


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
def test_a_leak_of_100_kilobytes_an_image_is_noticed():
    try:
        with pytest.raises(AssertionError, match="KB an image"): scenarios.memory(**SHORT["memory"], block=16, leak=100)
    except scenarios.CannotTry as e: pytest.skip(str(e))


@pytest.fixture(scope="module")
def rows():
    return list(csv.DictReader((ROOT / "nbs" / "results" / "faults.csv").open(encoding="utf-8")))


def test_the_page_shows_a_run_of_all_of_them(rows):
    assert {row["scenario"]: row["what"] for row in rows} == {s.__name__: scenarios.what(s)
                                                             for s in scenarios.SCENARIOS}
    assert all(int(row["lost"]) == 0 and int(row["tried"]) > 0 and row["unit"] == scenarios.COUNTED[row["scenario"]]
               for row in rows)


def test_they_were_tried_often_enough(rows):
    tried = {row["scenario"]: int(row["tried"]) for row in rows}
    assert tried["kills"] >= 50 and tried["fuzz"] >= 2000 and tried["memory"] >= 500
