"""On real photos, where the environment variable DYNASEG_DATA names a folder with BSDS500: what the two presets are
worth.

The paper preset takes up to an hour a photo on a laptop, so it is compared on two photos and cut short: after
DYNASEG_PAPER_T updates (40 if not set; the paper allows 1000). That is for those who ask for it with DYNASEG_SLOW=1.
The blank baselines, to four decimals, are in test_metrics; tables over more photos and seeds are in the notebook
benchmarks.
"""
import os
from pathlib import Path

import pytest

from dynaseg import segment
from dynaseg.metrics import BestOverlap, blank

PHOTOS = ["3096", "58060", "105025", "163085", "241048"]  # every 20th of the val split
FEW = ["3096", "101085"]


@pytest.fixture(scope="module")
def records():
    root = os.environ.get("DYNASEG_DATA")
    if not root: pytest.skip("DYNASEG_DATA is not set: no real photos to segment")
    if not (Path(root) / "BSDS500").is_dir(): pytest.skip("BSDS500 is not in DYNASEG_DATA")
    from dynaseg.datasets import BSD500
    return BSD500(Path(root) / "BSDS500", "val")


def scored(records, names, **settings):
    "(the scores over all these photos, the segmentations)"
    total, made = BestOverlap(), []
    for name in names:
        made.append(segment(records[name].image, progress=False, device="cpu", **settings))
        total.update(made[-1].labels, records[name].ground_truths)
    return total.compute(), made


@pytest.mark.parametrize("variant", ["fsf", "scf"])
def test_the_fast_preset_finds_what_people_found(records, variant):
    "Well above a blank picture, with a number of clusters that a person could name."
    nothing = BestOverlap()
    for name in PHOTOS: nothing.update(blank(records[name].image.shape), records[name].ground_truths)
    score, made = scored(records, PHOTOS, variant=variant)
    for group, value in nothing.compute().items(): assert score[group] > 1.5 * value, group
    assert score["all"] > 0.2
    for seg in made: assert 2 <= seg.n_clusters <= 32 and seg.labels.shape == seg.image.shape[:2]


def test_another_seed_gives_about_the_same_score(records):
    scores = [scored(records, PHOTOS[:2], seed=seed)[0]["mean"] for seed in (0, 1)]
    assert abs(scores[0] - scores[1]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fsf", "scf"])
def test_the_fast_preset_is_not_worse_than_the_paper_preset(records, variant):
    if os.environ.get("DYNASEG_SLOW") != "1": pytest.skip("takes minutes: set DYNASEG_SLOW=1")
    T = int(os.environ.get("DYNASEG_PAPER_T", 40))
    fast, _ = scored(records, FEW, variant=variant)
    paper, made = scored(records, FEW, preset="paper", variant=variant, T=T)
    how = ", ".join(f"{name}: {seg.stop_reason} after {len(seg.history['loss']) - 1} of 1000"
                    for name, seg in zip(FEW, made))
    print(f"{variant}: fast {fast['mean']:.3f}, paper {paper['mean']:.3f} ({how})")
    assert fast["mean"] > paper["mean"] - 0.02, how  # a margin for chance: seeds differ by more
