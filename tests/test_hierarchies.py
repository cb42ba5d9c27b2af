"""Hierarchies scored level by level: rows, files that go on, tables and intervals."""
import numpy as np
import pytest
from PIL import Image

from dynaseg.benchmark import by_method, read_rows
from dynaseg.hierarchies import (FAMILIES, Family, evaluate_levels, level_differences, level_report, level_scores,
                                 level_table, merge_tree,
                                 rows_of_photo, tree_alone)
from dynaseg.images import InputError
from dynaseg.metrics import RegionMeasures
from dynaseg.segmenter import segment

TRUTH = np.kron(np.arange(1, 7).reshape(2, 3), np.ones((16, 16), int))
HALF = (TRUTH > 3).astype(int)


class Scored:
    "A photo of six colours and its truths."
    def __init__(self, name, seed, truths=(TRUTH, HALF)):
        rng = np.random.default_rng(seed)
        self.name = name
        self.image = (rng.random((7, 3))[TRUTH] + rng.normal(0, 0.03, (*TRUTH.shape, 3))).clip(0, 1).astype(np.float32)
        self.ground_truths = list(truths)


@pytest.fixture
def photos(): return [Scored(f"p{i}", i) for i in range(3)]


def ladder(*maps):
    "A hierarchy that gives the same maps for every photo."
    return Family(lambda image, levels, seed: maps, tuple(range(len(maps))))


@pytest.mark.parametrize("name", FAMILIES)
def test_each_hierarchy_gets_coarser(name):
    family, image = FAMILIES[name], np.kron(Scored("p", 0).image, np.ones((4, 4, 1), np.float32))
    maps = family.maps(image, (family.levels[0], family.levels[-1]), 0)
    fine, coarse = (len(np.unique(labels)) for labels in maps)
    assert all(labels.shape == image.shape[:2] and labels.dtype.kind == "i" for labels in maps)
    assert fine > coarse >= 1
    assert list(family.levels) == sorted(family.levels, reverse=family.levels[0] > family.levels[-1])


def test_the_merge_tree_is_that_of_segment():
    image = Scored("p", 0).image
    for labels, level in zip(merge_tree(image, (1.0, 3.0), seed=2, T=3), (1.0, 3.0)):
        assert np.array_equal(labels, segment(image, preset="segments", level=level, seed=2, T=3,
                                              progress=False).labels)


def test_without_a_network_no_seed_matters():
    image = Scored("p", 1).image
    for one, other in zip(tree_alone(image, (0.9, 2.0), 0), tree_alone(image, (0.9, 2.0), 1)):
        assert np.array_equal(one, other)


def test_rows_of_a_photo_by_hand():
    """Against one truth of six squares and one of two halves, each 16 x 16 x 6 pixels.

    The truth itself covers the first wholly and of each half a third: (1 + 1/3) / 2. The page covers a sixth of each
    square and half of each half: (1/6 + 1/2) / 2."""
    rows = rows_of_photo(Scored("p", 0), ladder(TRUTH, np.zeros_like(TRUTH)), seed=5)
    assert ([(row["level"], row["n_labels"], row["seed"], row["error"]) for row in rows]
            == [(0, 6, 5, ""), (1, 1, 5, "")])
    assert ([row["covering_sum"] / row["covering_count"] for row in rows]
            == pytest.approx([(1 + 1 / 3) / 2, (1 / 6 + 1 / 2) / 2]))


def test_a_method_that_fails_is_a_blank_page_with_its_error():
    def broken(image, levels, seed): raise ValueError("too dark\nreally")
    rows = rows_of_photo(Scored("p", 0), Family(broken, (1, 2)))
    assert {row["error"] for row in rows} == {"ValueError: too dark"} and {row["n_labels"] for row in rows} == {1}


def test_scores_are_those_of_the_measure(photos):
    "The best level of the set and of each photo; the same sums in the class that scores maps directly."
    maps = {"p0": TRUTH, "p1": HALF, "p2": TRUTH}
    own = {photo.name: [maps[photo.name], np.zeros_like(TRUTH)] for photo in photos}
    by_image = {photo.image.tobytes(): own[photo.name] for photo in photos}
    family = Family(lambda image, levels, seed: by_image[image.tobytes()], ("own", "page"))
    expected = RegionMeasures(family.levels)
    for photo in photos: expected.update(own[photo.name], photo.ground_truths)
    rows = [row for photo in photos for row in rows_of_photo(photo, family)]
    assert level_scores(rows) == pytest.approx(expected.compute(), abs=1e-6)


def test_a_file_goes_on_where_it_was_cut(photos, tmp_path):
    "In the middle of a line and in the middle of a photo; whole photos stay as they are."
    methods = {"own": ladder(TRUTH, HALF, np.zeros_like(TRUTH))}
    whole = evaluate_levels(photos, methods, out=tmp_path / "whole.csv", progress=False)
    lines = (tmp_path / "whole.csv").read_text().splitlines(keepends=True)
    for cut in ("".join(lines[:6]), "".join(lines[:6]) + lines[6][:20], lines[0], ""):
        (tmp_path / "cut.csv").write_text(cut)
        again = evaluate_levels(photos, methods, out=tmp_path / "cut.csv", progress=False)
        assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in whole]
    assert len(read_rows(tmp_path / "cut.csv")) == 9


def test_random_methods_run_once_for_each_seed(photos, tmp_path):
    methods = {"chance": ladder(TRUTH, HALF)._replace(random=True), "sure": ladder(HALF, HALF)}
    rows = evaluate_levels(photos, methods, seeds=(3, 7), out=tmp_path / "r.csv", progress=False)
    assert {(row["method"], row["seed"]) for row in rows} == {("chance", 3), ("chance", 7), ("sure", 0)}
    assert len(rows) == 3 * 2 * 3
    head, _, *lines = level_table(rows).splitlines()
    assert "±" in lines[0] and "±" not in lines[1] and "covering ODS" in head and "| 3 | 2 |" in lines[0]


def test_settings_have_rows_of_their_own(tmp_path):
    photo = [Scored("p", 0)]
    evaluate_levels(photo, ["ours", "no network"], out=tmp_path / "r.csv", progress=False, T=2)
    rows = evaluate_levels(photo, ["ours"], out=tmp_path / "r.csv", progress=False, T=3)
    assert list(by_method(rows)) == [("ours", "T=2"), ("no network", ""), ("ours", "T=3")]


def test_boundaries_are_scored_too(photos, tmp_path):
    rows = evaluate_levels(photos[:1], {"own": ladder(TRUTH, np.zeros_like(TRUTH))}, out=tmp_path / "r.csv",
                           measures=("boundary",), progress=False)
    scores = level_scores(rows)
    assert scores["boundary ODS"] > 0.6 and "covering ODS" not in scores


def test_differences_choose_the_level_anew():
    """Method b is best at level 0 on photos 0 and 1, at level 1 on photo 2; a is a page.

    Drawn photos change the level, so the interval is wider than at one level, and the difference itself is that of the
    two tables."""
    page = np.zeros_like(TRUTH)
    photos = [Scored(f"p{i}", i, (truth,)) for i, truth in enumerate((TRUTH, TRUTH, HALF))]
    a = [row for photo in photos for row in rows_of_photo(photo, ladder(page, page))]
    b = [row for photo in photos for row in rows_of_photo(photo, ladder(TRUTH, HALF))]
    difference, low, high = level_differences(a, b, draws=200)["covering ODS"]
    assert difference == pytest.approx((1 + 1 + 1 / 3) / 3 - (1 / 6 + 1 / 6 + 1 / 2) / 3, abs=1e-6)
    twice = (1 + 1 + 1 / 3) / 3 - (1 / 2 + 1 / 2 + 1 / 6) / 3  # photo 2 drawn twice: level 1
    assert low == pytest.approx(twice, abs=1e-6) and high == pytest.approx(1 - 1 / 6, abs=1e-6)  # photo 2 not drawn
    assert level_differences(b, b, draws=20)["covering ODS"] == (0, 0, 0)
    with pytest.raises(InputError, match="different photos"): level_differences(a[:2], b)


def test_the_report_names_its_base(photos, tmp_path):
    methods = {"no network": ladder(HALF, np.zeros_like(TRUTH)), "own": ladder(TRUTH, HALF)}
    rows = evaluate_levels(photos, methods, out=tmp_path / "r.csv", progress=False)
    assert "| own |  | +" in level_report(rows)
    with pytest.raises(InputError, match="against='nobody'"): level_report(rows, "nobody")


@pytest.mark.parametrize("wrong, message", [
    (dict(methods=["theirs"]), "'theirs'.*expected some of ours"), (dict(measures=("depth",)), "depth"),
    (dict(measures=()), "expected region or boundary")])
def test_what_cannot_be_scored(photos, tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        evaluate_levels(photos, **{"methods": ["ours"], "out": tmp_path / "r.csv", "progress": False} | wrong)


def test_another_file_is_not_touched(photos, tmp_path):
    (tmp_path / "notes.csv").write_text("mine\n1\n")
    with pytest.raises(InputError, match="other columns"):
        evaluate_levels(photos, ["ours"], out=tmp_path / "notes.csv", progress=False)
    assert (tmp_path / "notes.csv").read_text() == "mine\n1\n"


def test_from_the_command_line(tmp_path, command):
    "`dynaseg evaluate --measures region`, then `report`, on a folder in the layout of BSD500."
    from scipy.io import savemat
    for kind in ("images", "groundTruth"): (tmp_path / "data" / kind / "val").mkdir(parents=True)
    for name in ("1", "2"):
        photo = Image.fromarray((255 * Scored(name, int(name)).image).astype(np.uint8))
        photo.save(tmp_path / "data/images/val" / f"{name}.jpg")
        truth = np.empty((1, 1), object)
        truth[0, 0] = {"Segmentation": TRUTH.astype(np.uint16)}
        savemat(tmp_path / "data/groundTruth/val" / f"{name}.mat", {"groundTruth": truth})
    done = command("evaluate", "bsd500", "--root", "data", "--measures", "region", "--methods", "ours,no network",
                   "--T", 2, "--out", "l.csv", cwd=tmp_path)
    assert done.returncode == 0 and "covering ODS" in done.stdout and "| no network |" in done.stdout
    assert "difference from no network" in command("report", "l.csv", cwd=tmp_path).stdout
    failed = command("evaluate", "bsd500", "--root", "data", "--measures", "depth", "--out", "m.csv", cwd=tmp_path)
    assert failed.returncode == 2 and "depth" in failed.stderr and "Traceback" not in failed.stderr
