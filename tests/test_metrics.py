"""Scorers: against slow, obvious references on random label maps, by hand, and on the real sets where they are."""
import math
import os
from functools import cache
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import zoom

from dynaseg.datasets import BSD500, VOC2012
from dynaseg.images import InputError
from dynaseg.metrics import (BOUNDARY_MEASURES, PROTOCOLS, REGION_MEASURES, BestOverlap, BoundaryMeasures, Hungarian,
                             RegionMeasures,
                             adapted_rand_error, best_overlap, blank, boundary_map, boundary_scores, boundary_sums,
                             level_rows, level_sums,
                             match_boundaries, probabilistic_rand_index, region_scores, region_sums, scorer,
                             segmentation_covering,
                             variation_of_information)
from dynaseg.metrics import _partners

GROUPS = ("all", "fine", "coarse")


# --- references, written to be read and not to be fast

def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def slow_best(labels, truth, ignore=None):
    "For each true segment, try every predicted one."
    count = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    return [max(iou((labels == p) & count, (truth == t) & count) for p in np.unique(labels[count]))
            for t in np.unique(truth[count])]


def slow_regions(labels):
    "Flood fill through the sides of pixels."
    out = np.full(labels.shape, -1)
    for start in np.ndindex(labels.shape):
        if out[start] >= 0: continue
        new, todo = out.max() + 1, [start]
        while todo:
            y, x = todo.pop()
            if out[y, x] >= 0 or labels[y, x] != labels[start]: continue
            out[y, x] = new
            todo += [(y + dy, x + dx) for dy, dx in [(0, 1), (1, 0), (0, -1), (-1, 0)]
                     if 0 <= y + dy < labels.shape[0] and 0 <= x + dx < labels.shape[1]]
    return out


def slow_scores(images, relabel=True, ignore=None):
    "All, fine and coarse over [(labels, [truth, ...]), ...]: lists of every segment's best overlap, then means."
    values = {name: [] for name in GROUPS}
    for labels, truths in images:
        labels = slow_regions(labels) if relabel else labels
        best = [slow_best(labels, t, ignore) for t in truths]
        for b in best: values["all"] += b
        values["fine"] += [b for b in best if len(b) == max(map(len, best))][0]
        values["coarse"] += [b for b in best if len(b) == min(map(len, best))][0]
    means = {name: sum(v) / len(v) for name, v in values.items()}
    return means | {"mean": sum(means.values()) / 3}


def slow_hungarian(labels, truth, n_classes, ignore):
    "Every one-to-one assignment of clusters to classes, tried out; (correct pixels, its mIoUs)."
    count = truth != ignore
    clusters = [int(c) for c in np.unique(labels[count])]
    names = [*range(n_classes), *[None] * len(clusters)]
    best, mious = -1, []
    for classes in set(permutations(names, len(clusters))):
        given = dict(zip(clusters, classes))
        named = np.array([[-1 if given.get(v) is None else given[v] for v in row] for row in labels.tolist()])
        correct = int(((named == truth) & count).sum())
        miou = np.mean([iou((named == c) & count, (truth == c) & count) for c in np.unique(truth[count])])
        if correct > best: best, mious = correct, []
        if correct == best: mious.append(miou)
    return best / count.sum(), mious


def maps(low=0, high=3, sides=(1, 6)):
    shape = st.tuples(st.integers(*sides), st.integers(*sides))
    return shape.flatmap(lambda s: st.tuples(*[arrays(np.int64, s, elements=st.integers(low, high))] * 2))


def images(n_truths=3):
    ids = st.integers(0, 3)
    shape = st.tuples(st.integers(1, 5), st.integers(1, 5))
    one = shape.flatmap(lambda s: st.tuples(arrays(np.int64, s, elements=ids),
                                            st.lists(arrays(np.int64, s, elements=ids), min_size=1, max_size=n_truths)))
    return st.lists(one, min_size=1, max_size=3)


def real(name):
    root = os.environ.get("DYNASEG_DATA")
    if not root: pytest.skip("DYNASEG_DATA is not set: no real data to score")
    if not (Path(root) / name).is_dir(): pytest.skip(f"{name} is not in DYNASEG_DATA")
    return root


def blocks(rng, n_labels, cell, shape=(321, 481)):
    "A random map of square patches."
    small = rng.integers(0, n_labels, (shape[0] // cell + 1, shape[1] // cell + 1))
    return np.kron(small, np.ones((cell, cell), int))[:shape[0], :shape[1]]


# --- best overlap

@given(maps(), st.sampled_from([None, 0, 2]))
def test_best_overlap_agrees_with_two_loops(pair, ignore):
    labels, truth = pair
    np.testing.assert_allclose(best_overlap(labels, truth, ignore), slow_best(labels, truth, ignore), rtol=1e-12)


@given(images(), st.booleans())
def test_accumulated_scores_agree_with_two_loops(imgs, relabel):
    score = BestOverlap(relabel=relabel)
    for labels, truths in imgs:
        own = score.update(labels, truths)
        assert own == pytest.approx(slow_scores([(labels, truths)], relabel), abs=1e-12)
    assert score.compute() == pytest.approx(slow_scores(imgs, relabel), abs=1e-12)


@given(images(1), st.integers(0, 3))
def test_void_agrees_with_two_loops(imgs, ignore):
    assume(all((truths[0] != ignore).any() for _, truths in imgs))
    score = BestOverlap(ignore=ignore)
    for labels, truths in imgs: score.update(labels, truths)
    assert score.compute() == pytest.approx(slow_scores(imgs, ignore=ignore), abs=1e-12)


@given(maps(), st.permutations(range(4)), st.integers(-10**12, 10**12))
def test_names_of_labels_do_not_matter(pair, names, offset):
    labels, truth = pair
    renamed = np.array(names)[labels] * 7 + offset
    np.testing.assert_array_equal(best_overlap(renamed, truth), best_overlap(labels, truth))
    np.testing.assert_array_equal(np.sort(best_overlap(labels, np.array(names)[truth] - offset)),
                                  np.sort(best_overlap(labels, truth)))
    a, b = BestOverlap(), BestOverlap()
    assert a.update(labels, [truth]) == b.update(renamed, [truth])


@given(maps())
def test_perfect_prediction_scores_1_and_nothing_scores_more(pair):
    labels, truth = pair
    np.testing.assert_array_equal(best_overlap(truth, truth), 1)
    assert (0 < best_overlap(labels, truth)).all() and (best_overlap(labels, truth) <= 1).all()
    connected = slow_regions(truth)
    assert BestOverlap().update(truth, [connected]) == {"all": 1, "fine": 1, "coarse": 1, "mean": 1}


@given(maps(), st.integers(2, 4))
def test_size_of_the_pixels_does_not_matter(pair, k):
    labels, truth = pair
    large = [zoom(m, k, order=0, grid_mode=True, mode="nearest") for m in pair]
    assert BestOverlap().update(large[0], large[1]) == pytest.approx(BestOverlap().update(labels, truth))


@given(maps(), st.sampled_from([np.uint8, np.int8, np.uint16, np.int32, np.uint64]))
def test_integer_types_do_not_matter(pair, dtype):
    labels, truth = pair
    a, b = BestOverlap(), BestOverlap()
    assert a.update(labels.astype(dtype), [truth.astype(dtype)]) == b.update(labels, [truth])


def test_by_hand_2x2():
    truth = np.array([[1, 1], [2, 2]])
    np.testing.assert_allclose(best_overlap(np.array([[0, 0], [0, 1]]), truth), [2 / 3, 1 / 2])
    np.testing.assert_allclose(best_overlap(blank((2, 2)), truth), [1 / 2, 1 / 2])
    np.testing.assert_allclose(best_overlap(np.arange(4).reshape(2, 2), truth), [1 / 2, 1 / 2])


def test_by_hand_3x3_many_to_one_and_void():
    truth = np.array([[1, 1, 2], [1, 1, 3], [9, 9, 9]])
    labels = np.array([[5, 5, 7], [5, 7, 7], [5, 5, 5]])
    # void left out: 5 has 3 pixels, 7 has 3; segments 2 and 3 both choose 7
    np.testing.assert_allclose(best_overlap(labels, truth, ignore=9), [3 / 4, 1 / 3, 1 / 3])
    # void as a segment: label 5 has 6 pixels, 3 of them in segment 9
    np.testing.assert_allclose(best_overlap(labels, truth), [3 / 7, 1 / 3, 1 / 3, 3 / 6])


def test_components_are_relabelled_through_sides_only():
    truth = np.array([[1, 0, 2], [1, 0, 2]])
    labels = np.array([[1, 0, 1], [1, 0, 1]])
    assert BestOverlap().update(labels, [truth])["all"] == 1
    assert BestOverlap(relabel=False).update(labels, [truth])["all"] == pytest.approx((1 + .5 + .5) / 3)
    corners = np.array([[1, 0], [0, 1]])
    assert BestOverlap().update(corners, [np.arange(4).reshape(2, 2)])["all"] == 1


def test_relabelling_survives_unsigned_zero_and_bool():
    truth = np.array([[0, 1, 2], [0, 1, 2]])
    for labels in [np.array([[255, 0, 255]] * 2, np.uint8), np.array([[True, False, True]] * 2)]:
        assert BestOverlap().update(labels, truth)["all"] == 1


def test_fine_and_coarse_take_the_first_of_a_tie():
    labels = np.array([[0, 0, 1, 1]])
    good, bad = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]])
    for truths, expected in [([good, bad], 1), ([bad, good], np.mean([1 / 2, 2 / 3]))]:
        own = BestOverlap().update(labels, truths)
        assert own["fine"] == own["coarse"] == pytest.approx(expected)


def test_average_is_over_segments_not_images():
    score = BestOverlap()
    score.update(blank((1, 8)), np.arange(8).reshape(1, 8))
    score.update(blank((1, 8)), blank((1, 8)))
    assert score.compute()["all"] == pytest.approx((8 / 8 + 1) / 9)
    assert score.counts == {"all": 9, "fine": 9, "coarse": 9}


@given(images(), images())
def test_scorers_add(one, two):
    a, b, both = BestOverlap(), BestOverlap(), BestOverlap()
    for labels, truths in one:
        a.update(labels, truths)
        both.update(labels, truths)
    for labels, truths in two:
        b.update(labels, truths)
        both.update(labels, truths)
    assert (a + b).compute() == pytest.approx(both.compute()) and (a + b).counts == both.counts


def test_scorers_with_other_settings_do_not_add():
    with pytest.raises(InputError, match="same relabel and ignore"): BestOverlap() + BestOverlap(ignore=255)
    with pytest.raises(InputError, match="same relabel and ignore"): BestOverlap() + BestOverlap(relabel=False)
    with pytest.raises(TypeError): BestOverlap() + 1


def test_annotator_or_image_of_void_only_counts_nothing():
    void, half = np.full((2, 2), 255), np.array([[0, 255], [0, 255]])
    score = BestOverlap(ignore=255)
    assert score.update(blank((2, 2)), [void, half]) == {"all": 1, "fine": 1, "coarse": 1, "mean": 1}
    assert np.isnan(score.update(blank((2, 2)), [void])["all"])
    assert score.counts["all"] == 1


@given(images())
def test_blank_is_label_maps_by_segments(imgs):
    score = BestOverlap()
    for labels, truths in imgs: score.update(blank((*labels.shape, 3)), truths)
    n_maps, n_segments = (sum(f(t) for _, ts in imgs for t in ts) for f in [lambda t: 1, lambda t: len(np.unique(t))])
    assert score.compute()["all"] == pytest.approx(n_maps / n_segments)


def test_huge_and_sparse_ids_need_no_huge_table():
    rng = np.random.default_rng(0)
    labels = np.arange(300 * 300).reshape(300, 300)
    truth = rng.integers(0, 2**62, (300, 300))
    best = best_overlap(labels, truth)
    assert len(best) == len(np.unique(truth)) and best.max() == 1
    for n in [3, 20]:
        few = truth % n
        np.testing.assert_allclose(best_overlap(labels, few), 1 / np.bincount(few.ravel()))
        np.testing.assert_allclose(best_overlap(few, labels)[few.ravel() == 0], 1 / (few == 0).sum())


@pytest.mark.parametrize("labels, truth, words", [
    (np.zeros((2, 3), int), np.zeros((3, 2), int), r"\(2, 3\).*\(3, 2\)"),
    (np.zeros((2, 2)), np.zeros((2, 2), int), "as labels; got float64"),
    (np.zeros((2, 2), int), np.zeros((2, 2)), "as ground truth; got float64"),
    (np.zeros((2, 2, 3), int), np.zeros((2, 2), int), r"as labels.*\(2, 2, 3\)"),
    (np.zeros((0, 2), int), np.zeros((0, 2), int), r"\(0, 2\)"),
    ("labels.png", np.zeros((2, 2), int), "as labels"),
])
def test_what_is_no_pair_of_label_maps_is_named(labels, truth, words):
    for call in [lambda: best_overlap(labels, truth), lambda: BestOverlap().update(labels, [truth]),
                 lambda: Hungarian(2).update(labels, [truth]), lambda: variation_of_information(labels, truth),
                 lambda: adapted_rand_error(labels, truth), lambda: segmentation_covering(labels, truth),
                 lambda: probabilistic_rand_index(labels, [truth]), lambda: boundary_sums([labels], [truth])]:
        with pytest.raises(InputError, match=words): call()


def test_nothing_scored_or_nothing_to_score_against():
    for score in [BestOverlap(), Hungarian(2), Hungarian(2, "dataset")]:
        with pytest.raises(InputError, match="Nothing was scored"): score.compute()
    with pytest.raises(InputError, match="ground_truths is empty"): BestOverlap().update(blank((2, 2)), [])


def test_a_failed_update_adds_nothing():
    score = BestOverlap()
    with pytest.raises(InputError): score.update(blank((2, 2)), [blank((2, 2)), blank((3, 3))])
    assert score.counts == {"all": 0, "fine": 0, "coarse": 0}


# --- Hungarian

@settings(deadline=None, max_examples=60)
@given(maps(0, 2, (1, 4)), st.sampled_from([None, 2]))
def test_per_image_matching_agrees_with_all_assignments(pair, ignore):
    labels, truth = pair
    assume(ignore is None or (truth != ignore).any())
    score = Hungarian(3, "image", ignore)
    score.update(labels * 5 - 3, [truth])
    accuracy, mious = slow_hungarian(labels, truth, 3, -1 if ignore is None else ignore)
    assert score.compute()["accuracy"] == pytest.approx(accuracy)
    assert any(score.compute()["miou"] == pytest.approx(m) for m in mious)


@settings(deadline=None, max_examples=60)
@given(st.lists(maps(0, 2, (3, 3)), min_size=1, max_size=3))
def test_dataset_matching_is_one_image_side_by_side(pairs):
    score, wide = Hungarian(3, "dataset", None), Hungarian(3, "dataset", None)
    for labels, truth in pairs: score.update(labels, truth)
    wide.update(*(np.concatenate(maps, axis=1) for maps in zip(*pairs)))
    assert score.compute() == wide.compute()
    accuracy, mious = slow_hungarian(*(np.concatenate(maps, axis=1) for maps in zip(*pairs)), 3, -1)
    assert score.compute()["accuracy"] == pytest.approx(accuracy)
    assert any(score.compute()["miou"] == pytest.approx(m) for m in mious)


@given(st.lists(maps(0, 2), min_size=1, max_size=3))
def test_per_image_is_never_below_dataset_accuracy_on_equal_images(pairs):
    pairs = [(np.resize(a, (4, 4)), np.resize(b, (4, 4))) for a, b in pairs]
    each, once = Hungarian(3, "image", None), Hungarian(3, "dataset", None)
    for labels, truth in pairs:
        each.update(labels, truth)
        once.update(labels, truth)
    assert each.compute()["accuracy"] >= once.compute()["accuracy"] - 1e-12


def test_matching_by_hand():
    truth = np.array([[0] * 6 + [1] * 8])
    labels = np.array([[0] * 5 + [1] + [0] + [1] * 4 + [2] * 3])
    for mode in ["image", "dataset"]:
        score = Hungarian(2, mode)
        score.update(labels, truth)
        assert score.compute() == pytest.approx({"miou": np.mean([5 / 7, 4 / 9]), "accuracy": 9 / 14})


def test_the_two_protocols_differ_when_names_change_between_images():
    truth = np.array([[0, 0, 1, 1]])
    each, once = Hungarian(2, "image"), Hungarian(2, "dataset")
    for labels in [truth, 1 - truth]:
        each.update(labels, truth)
        once.update(labels, truth)
    assert each.compute() == {"miou": 1, "accuracy": 1}
    assert once.compute() == pytest.approx({"miou": 1 / 3, "accuracy": 1 / 2})


def test_dataset_mode_takes_clusters_as_they_come():
    once = Hungarian(2, "dataset")
    once.update(np.array([[0, 0]]), np.array([[1, 1]]))
    once.update(np.array([[4, 0]]), np.array([[0, 1]]))
    once.update(np.array([[1, 1]]), np.array([[255, 255]]))
    assert once.compute() == {"miou": 1, "accuracy": 1}
    assert once.table.tolist() == [[0, 3], [0, 0], [0, 0], [0, 0], [1, 0]]


def test_classes_that_do_not_occur_do_not_count():
    each = Hungarian(27)
    each.update(np.array([[0, 0, 1, 1]]), np.array([[3, 3, 9, 255]]))
    assert each.compute() == {"miou": 1, "accuracy": 1}
    each.update(np.array([[0, 0]]), np.array([[255, 255]]))
    assert len(each.images) == 1


def test_hungarian_settings_and_ids_are_checked():
    with pytest.raises(InputError, match="mode='per-image'"): Hungarian(2, "per-image")
    with pytest.raises(InputError, match="n_classes=0"): Hungarian(0)
    with pytest.raises(InputError, match=r"\[2, 7\].*0 to 1"): Hungarian(2).update(blank((1, 3)), np.array([[0, 2, 7]]))
    with pytest.raises(InputError, match=r"\[-1\]"): Hungarian(2).update(blank((1, 2)), np.array([[0, -1]]))
    with pytest.raises(InputError, match="Got 2 ground truths"): Hungarian(2).update(blank((1, 2)), [blank((1, 2))] * 2)
    for bad in [-1, 65536]:
        score = Hungarian(2, "dataset")
        with pytest.raises(InputError, match=str(bad)): score.update(np.array([[bad]]), np.array([[1]]))


@given(st.lists(maps(0, 2), min_size=1, max_size=3))
def test_protocols_by_name_are_the_classes(pairs):
    assert list(PROTOCOLS) == ["best-overlap", "per-image Hungarian", "dataset Hungarian"]
    for name, direct in zip(PROTOCOLS, [BestOverlap(ignore=2), Hungarian(3, "image", 2), Hungarian(3, "dataset", 2)]):
        named = scorer(name, n_classes=3, ignore=2)
        for labels, truth in pairs:
            for s in (named, direct): s.update(labels, truth)
        try: expected = direct.compute()
        except InputError: continue   # void only
        assert named.compute() == expected


def test_a_protocol_has_to_be_named_in_full():
    with pytest.raises(InputError, match="protocol='Hungarian'; expected one of best-overlap, per-image Hungarian, "
                                         "dataset Hungarian"):
        scorer("Hungarian", 2)
    for name in list(PROTOCOLS)[1:]:
        with pytest.raises(InputError, match=f"{name}.*n_classes="): scorer(name)


# --- regions at many levels

def pixels_of(labels, truth, ignore):
    "Predicted segment to its pixels, true segment to its pixels, of those that count."
    predicted, true = {}, {}
    for place in np.ndindex(truth.shape):
        if truth[place] == ignore: continue
        predicted.setdefault(int(labels[place]), set()).add(place)
        true.setdefault(int(truth[place]), set()).add(place)
    return predicted, true


def slow_covering(maps, truth, ignore):
    "Area times best IoU of each segment, summed at each level; the sum with each segment's best level; pixels."
    each, total = [], 0
    for labels in maps:
        predicted, true = pixels_of(labels, truth, ignore)
        total = sum(len(t) for t in true.values())
        each.append({name: len(t) * max(len(t & p) / len(t | p) for p in predicted.values())
                     for name, t in true.items()})
    best = {name: max(level[name] for level in each) for name in each[0]}
    return [sum(level.values()) for level in each], sum(best.values()), total


def slow_rand_index(labels, truth, ignore):
    "Visits each pair of pixels."
    places = [place for place in np.ndindex(truth.shape) if truth[place] != ignore]
    pairs = list(combinations(places, 2))
    agree = [(labels[a] == labels[b]) == (truth[a] == truth[b]) for a, b in pairs]
    return sum(agree) / len(pairs) if pairs else 1


def slow_information(labels, truth, ignore):
    "The bits of each pixel, one by one."
    predicted, true = pixels_of(labels, truth, ignore)
    bits = []
    for name, t in true.items():
        for place in t:
            p = predicted[int(labels[place])]
            bits += [-math.log2(len(p & t) / len(p)) - math.log2(len(p & t) / len(t))]
    return sum(bits) / len(bits)


def stacks(n_maps=4, n_truths=3, sides=(1, 4), high=3):
    "Some label maps, nested or not, and some truths."
    def of(shape):
        one = arrays(np.int64, shape, elements=st.integers(0, high))
        return st.tuples(st.lists(one, min_size=1, max_size=n_maps), st.lists(one, min_size=1, max_size=n_truths))
    return st.tuples(st.integers(*sides), st.integers(*sides)).flatmap(of)


@given(stacks(), st.sampled_from([None, 0, 2]))
def test_region_sums_agree_with_dictionaries_and_pairs(stack, ignore):
    maps, truths = stack
    sums, counts = region_sums(maps, truths, ignore, relabel=False)
    assert sums.shape == counts.shape == (len(maps), 4)
    truths = [truth for truth in truths if (truth != ignore).any()]
    if not truths: assert not sums.any() and not counts.any()
    if not truths: return
    covering = [slow_covering(maps, truth, ignore) for truth in truths]
    np.testing.assert_allclose(sums[:, 0], np.sum([c[0] for c in covering], axis=0), rtol=1e-12)
    np.testing.assert_allclose(sums[:, 1], sum(c[1] for c in covering), rtol=1e-12)
    np.testing.assert_allclose(sums[:, 2], [np.mean([slow_rand_index(m, t, ignore) for t in truths]) for m in maps],
                               atol=1e-12)
    np.testing.assert_allclose(sums[:, 3], [np.mean([slow_information(m, t, ignore) for t in truths]) for m in maps],
                               atol=1e-12)
    pixels = sum(c[2] for c in covering)
    assert counts.tolist() == [[pixels, pixels, 1, 1]] * len(maps)


@given(stacks(), st.sampled_from([None, 1]))
def test_measures_of_one_map_agree_with_them_too(stack, ignore):
    maps, truths = stack
    assume(any((truth != ignore).any() for truth in truths))
    valid = [truth for truth in truths if (truth != ignore).any()]
    total = [slow_covering(maps[:1], truth, ignore) for truth in valid]
    expected = sum(c[0][0] for c in total) / sum(c[2] for c in total)
    assert segmentation_covering(maps[0], truths, ignore) == pytest.approx(expected, abs=1e-12)
    expected = np.mean([slow_rand_index(maps[0], truth, ignore) for truth in valid])
    assert probabilistic_rand_index(maps[0], truths, ignore) == pytest.approx(expected, abs=1e-12)
    expected = np.mean([slow_information(maps[0], truth, ignore) for truth in valid])
    assert variation_of_information(maps[0], truths, ignore) == pytest.approx(expected, abs=1e-12)


@given(maps())
def test_variation_of_information_is_scikit_images(pair):
    from skimage.metrics import variation_of_information as by_scikit_image
    labels, truth = pair
    expected = by_scikit_image(truth + 1, labels + 1).sum()
    assert variation_of_information(labels, truth) == pytest.approx(expected, abs=1e-9)


def test_region_measures_by_hand():
    # covering: {0, 1} fits {0} and {1, 2, 3}: 1/2 and 2/3, so 1/2; {2, 3}: 2/3; 2 pixels each: (1 + 4/3) / 4
    # pairs: (0,2), (0,3) apart in both, (2,3) together in both; (0,1), (1,2), (1,3) wrong: 3/6
    # bits: in {0, 1} one bit each, {2, 3} none; in {1, 2, 3} the entropy of 1 : 2, three times
    labels, truth = np.array([[0, 1, 1, 1]]), np.array([[5, 5, 9, 9]])
    assert segmentation_covering(labels, truth) == pytest.approx((2 * 1 / 2 + 2 * 2 / 3) / 4)
    assert probabilistic_rand_index(labels, truth) == pytest.approx(3 / 6)
    entropy = -math.log2(1 / 3) / 3 - 2 * math.log2(2 / 3) / 3
    assert variation_of_information(labels, truth) == pytest.approx(2 / 4 * 1 + 3 / 4 * entropy)
    # a second annotator who agrees with the prediction: the means
    assert segmentation_covering(labels, [truth, labels]) == pytest.approx((2 * 1 / 2 + 2 * 2 / 3 + 4) / 8)
    assert probabilistic_rand_index(labels, [truth, labels]) == pytest.approx((3 / 6 + 1) / 2)


@given(stacks(n_maps=1, n_truths=1, sides=(1, 6)), st.integers(2, 9))
def test_a_perfect_prediction_is_perfect_under_any_names(stack, factor):
    truth = stack[1][0]
    labels = 100 - factor * truth
    assert segmentation_covering(labels, truth) == probabilistic_rand_index(labels, truth) == 1
    assert variation_of_information(labels, truth) == 0
    score = RegionMeasures([0, 1], relabel=False)
    scores = score.update([truth * 0, labels], truth)
    assert scores == {name: 0 if "VI" in name else 1 for name in scores}


@given(stacks(), st.randoms(use_true_random=False))
def test_the_order_of_levels_does_not_matter(stack, random):
    maps, truths = stack
    order = random.sample(range(len(maps)), len(maps))
    one, other = RegionMeasures(range(len(maps))), RegionMeasures(order)
    one.update(maps, truths)
    other.update([maps[k] for k in order], truths)
    assert other.compute() == pytest.approx(one.compute(), abs=1e-12)
    np.testing.assert_allclose(other.sums, one.sums[:, order], atol=1e-12)
    lines = [BoundaryMeasures(range(len(maps)), tolerance=0.3), BoundaryMeasures(order, tolerance=0.3)]
    lines[0].update(maps, truths)
    lines[1].update([maps[k] for k in order], truths)
    np.testing.assert_array_equal(lines[1].sums, lines[0].sums[:, order] if len(lines[0].sums) else lines[0].sums)


@given(stacks())
def test_pixels_to_ignore_might_as_well_not_be_there(stack):
    maps, truths = stack
    wide = [np.pad(m, ((0, 0), (0, 2)), constant_values=k) for k, m in enumerate(maps)]
    void = [np.pad(t, ((0, 0), (0, 2)), constant_values=255) for t in truths]
    for mine, theirs in zip(region_sums(maps, truths, relabel=False), region_sums(wide, void, 255, relabel=False)):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_an_annotator_or_a_photo_of_void_only_counts_nothing():
    void, half = np.full((2, 2), 255), np.array([[0, 1], [0, 255]])
    score = RegionMeasures([1], ignore=255)
    expected = score.update([half], [half])
    assert score.update([half], [void, half]) == expected
    assert np.isnan(list(score.update([half], [void]).values())).all()
    assert score.counts.tolist() == [[[3, 3, 1, 1]]] * 2
    for measure in (segmentation_covering, probabilistic_rand_index, variation_of_information):
        with pytest.raises(InputError, match="255"): measure(half, void, ignore=255)


def test_levels_are_relabelled_unless_told_otherwise():
    labels, truth = np.array([[1, 0, 1]]), np.array([[1, 2, 3]])
    assert region_sums([labels], truth)[0].tolist() == [[3, 3, 1, 0]]
    assert region_sums([labels], truth, relabel=False)[0][0, 0] == pytest.approx(1 / 2 + 1 + 1 / 2)
    assert RegionMeasures([0]).update([labels], truth)["covering ODS"] == 1
    assert RegionMeasures([0], relabel=False).update([labels], truth)["covering ODS"] == pytest.approx(2 / 3)


def slow_region_scores(photos):
    "From [(maps, truths), ...]: the definitions, level by level."
    levels = range(len(photos[0][0]))
    covering = [[[slow_covering([m], t, None) for t in truths] for m in maps] for maps, truths in photos]
    top = [[sum(c[0][0] for c in level) for level in photo] for photo in covering]
    pixels = [sum(c[2] for c in photo[0]) for photo in covering]
    best = [sum(slow_covering(maps, t, None)[1] for t in truths) for maps, truths in photos]
    pri = [[np.mean([slow_rand_index(m, t, None) for t in truths]) for m in maps] for maps, truths in photos]
    vi = [[np.mean([slow_information(m, t, None) for t in truths]) for m in maps] for maps, truths in photos]
    return {"covering ODS": max(sum(photo[l] for photo in top) for l in levels) / sum(pixels),
            "covering OIS": sum(max(photo) for photo in top) / sum(pixels), "covering Best": sum(best) / sum(pixels),
            "PRI ODS": max(np.mean([photo[l] for photo in pri]) for l in levels),
            "PRI OIS": np.mean([max(photo) for photo in pri]),
            "VI ODS": min(np.mean([photo[l] for photo in vi]) for l in levels),
            "VI OIS": np.mean([min(photo) for photo in vi])}


@given(st.integers(1, 3).flatmap(lambda n: st.lists(stacks().map(lambda s: ((s[0] * n)[:n], s[1])), min_size=1,
                                                    max_size=3)))
def test_scores_of_photos_agree_with_the_definitions_and_scorers_add(photos):
    levels = range(len(photos[0][0]))
    whole, first, rest = (RegionMeasures(levels, relabel=False) for _ in range(3))
    for k, (maps, truths) in enumerate(photos):
        whole.update(maps, truths)
        (rest if k else first).update(maps, truths)
    assert whole.compute() == pytest.approx(slow_region_scores(photos), abs=1e-12)
    assert (first + rest).compute() == whole.compute() and len((first + rest).sums) == len(photos)
    rows = []
    for k in range(len(photos)):
        rows += [{"image": f"{k}.jpg"} | row for row in level_rows(whole.sums[k], whole.counts[k], levels,
                                                                   REGION_MEASURES)]
    # as from a file
    text = [{name: value if name == "image" else str(value) for name, value in row.items()} for row in rows]
    assert region_scores(*level_sums(text, REGION_MEASURES)) == whole.compute()


def test_ods_takes_one_level_and_ois_each_photos_own():
    # two photos of 10 and 1 pixels, by hand: 9 + .4 of 11 at level 0, 5 + .6 at level 1
    sums = np.array([[[9, 9.5, .8, 2], [5, 9.5, .9, 1]], [[.4, .7, .5, 3], [.6, .7, .2, 5]]])
    counts = np.array([[[10, 10, 1, 1]] * 2, [[1, 1, 1, 1]] * 2])
    assert region_scores(sums, counts) == pytest.approx({
        "covering ODS": 9.4 / 11, "covering OIS": 9.6 / 11, "covering Best": 10.2 / 11,
        "PRI ODS": 1.3 / 2, "PRI OIS": 1.4 / 2, "VI ODS": 5 / 2, "VI OIS": 4 / 2})


def test_a_hierarchy_is_counted_from_its_parts_whichever_comes_first():
    rng = np.random.default_rng(0)
    finest = blocks(rng, 400, 3, (40, 50))
    coarser = [finest, finest % 50, finest % 10, finest % 2]
    truths = [blocks(rng, 5, 11, (40, 50)), blocks(rng, 3, 7, (40, 50))]
    measures = (segmentation_covering, probabilistic_rand_index, variation_of_information)
    expected = [[measure(m, truths) for measure in measures] for m in coarser]
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]]:
        sums, counts = region_sums([coarser[k] for k in order], truths, relabel=False)
        np.testing.assert_allclose((sums / counts)[:, [0, 2, 3]], [expected[k] for k in order], rtol=1e-12)


def test_levels_and_sums_are_checked():
    half = np.array([[0, 1]])
    for levels in [[], [1, 1]]:
        with pytest.raises(InputError, match="at least one, and each only once"): RegionMeasures(levels)
    score = RegionMeasures([1, 2])
    with pytest.raises(InputError, match="Got 1 label maps; expected 2"): score.update([half], half)
    with pytest.raises(InputError, match=r"\(1, 2\).*\(1, 3\)"):
        score.update([half, half], [half, np.zeros((1, 3), int)])
    with pytest.raises(InputError, match=r"\(1, 3\).*\(1, 2\)"): score.update([half, np.zeros((1, 3), int)], half)
    with pytest.raises(InputError, match="as labels; got float64"): score.update([half, half / 2], half)
    assert len(score.sums) == 0 # a failed update adds nothing
    with pytest.raises(InputError, match="Nothing was scored"): score.compute()
    with pytest.raises(InputError, match="Nothing was scored"): score.curves()
    with pytest.raises(InputError, match="There is no label map"): region_sums([], half)
    with pytest.raises(InputError, match="ground_truths is empty"): region_sums([half], [])
    with pytest.raises(InputError, match="same levels and settings"): score + RegionMeasures([2, 1])
    with pytest.raises(InputError, match="same levels and settings"): score + RegionMeasures([1, 2], ignore=255)
    with pytest.raises(TypeError): score + BoundaryMeasures([1, 2])
    with pytest.raises(InputError, match=r"\(2, 3, 2\)"): region_scores(np.ones((2, 3, 2)), np.ones((2, 3, 2)))
    rows = [{"image": i, "level": l} | {f"{m}_{w}": 1 for m in BOUNDARY_MEASURES for w in ("sum", "count")}
            for i in "ab" for l in (1, 2)]
    assert level_sums(rows, BOUNDARY_MEASURES)[0].shape == (2, 2, 2)
    for wrong in [[], rows[1:], rows + rows[:1], rows[:3] + rows[:1]]:
        with pytest.raises(InputError, match="one for each image and level, of one method"):
            level_sums(wrong, BOUNDARY_MEASURES)


# --- boundaries

def slow_edges(labels):
    "Pixels whose neighbour to the right, below, or below to the right differs; not yet thinned."
    edges = set()
    for y, x in np.ndindex(labels.shape):
        near = [(y + 1, x), (y, x + 1), (y + 1, x + 1)]
        near = [place for place in near if place[0] < labels.shape[0] and place[1] < labels.shape[1]]
        if any(labels[place] != labels[y, x] for place in near): edges.add((y, x))
    return edges


def slow_matching(predicted, truth, reach):
    "Tries every one-to-one matching: the most pairs, and the smallest sum of distances with that many."
    predicted, truth = [tuple(p) for p in np.argwhere(predicted)], [tuple(p) for p in np.argwhere(truth)]
    @cache
    def best(k, taken):
        if k == len(predicted): return 0, 0.0
        found = [best(k + 1, taken)]
        for j, place in enumerate(truth):
            distance = math.dist(predicted[k], place)
            if distance > reach or taken >> j & 1: continue
            n, cost = best(k + 1, taken | 1 << j)
            found.append((n + 1, cost - distance))
        return max(found)
    n, cost = best(0, 0)
    return n, -cost


@given(maps(sides=(1, 7)))
def test_boundaries_are_the_thinned_edges(pair):
    lines = boundary_map(pair[0])
    assert {tuple(place) for place in np.argwhere(lines)} <= slow_edges(pair[0])
    assert lines.any() == bool(slow_edges(pair[0])) and lines.dtype == bool


def test_boundaries_by_hand():
    quarters = np.kron([[0, 1], [2, 3]], np.ones((4, 4), int))
    cross = np.zeros((8, 8), bool)
    cross[3], cross[:, 3] = True, True # the last row and column before the change
    np.testing.assert_array_equal(boundary_map(quarters), cross)
    stairs = np.tri(9, dtype=int) # both pixels at each step differ from a neighbour; of the two, one is left
    assert len(slow_edges(stairs)) == 16 and boundary_map(stairs).sum() == 9
    dot = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]) # it and its neighbours above, left and above left: four pixels
    # a block of 2 x 2 is thinned to one; three would leave two
    assert len(slow_edges(dot)) == 4 and boundary_map(dot).sum() == 1
    assert not boundary_map(blank((3, 3))).any()
    with pytest.raises(InputError, match="got float64"): boundary_map(np.zeros((2, 2)))


def few_lines(high=7):
    "Two maps with a handful of pixels each, so that all matchings can be tried."
    def of(shape):
        places = st.lists(st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1)), max_size=high)
        def drawn(chosen):
            lines = np.zeros(shape, bool)
            for place in chosen: lines[place] = True
            return lines
        return st.tuples(places.map(drawn), places.map(drawn))
    return st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(of)


@settings(deadline=None, max_examples=150)
@given(few_lines(), st.sampled_from([0.1, 0.2, 0.35, 2.0]))
def test_matching_agrees_with_all_matchings(pair, tolerance):
    predicted, truth = pair
    reach = tolerance * math.hypot(*predicted.shape)
    found, hit = match_boundaries(predicted, truth, tolerance)
    n, cost = slow_matching(predicted, truth, reach)
    assert found.sum() == hit.sum() == n
    assert not (found & ~predicted).any() and not (hit & ~truth).any()
    i, j = _partners(np.argwhere(predicted), np.argwhere(truth), reach)
    assert len(set(i)) == len(set(j)) == len(i) == n
    distances = np.linalg.norm(np.argwhere(predicted)[i] - np.argwhere(truth)[j], axis=1)
    assert (distances <= reach).all() and distances.sum() == pytest.approx(cost, abs=1e-4)


def test_boundary_matching_by_hand():
    # three in a row, one step each: 0-1, 1-2, 2-3 is the only matching with three pairs, though 1-1 and 2-2 are closer
    predicted, truth = np.zeros((2, 1, 5), bool)
    predicted[0, :3], truth[0, 1:4] = True, True
    found, hit = match_boundaries(predicted, truth, tolerance=1.2 / math.hypot(1, 5))
    assert found.sum() == hit.sum() == 3
    # a pixel has one partner: of five predicted around one true pixel, one is right
    plus = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
    dot = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    found, hit = match_boundaries(plus, dot, tolerance=1.2 / math.hypot(3, 3))
    assert found.tolist() == dot.tolist() == hit.tolist()
    assert not match_boundaries(plus, dot & False)[0].any() and not match_boundaries(plus & False, plus)[1].any()


def test_a_pixel_is_right_once_and_recall_is_asked_of_everybody():
    def at(column): return np.tile(np.arange(20) > column, (3, 1)).astype(int)
    # the prediction at column 5, annotators at columns 5, 6 and 12; reach 1.2: all 3 pixels are right, 6 of 9 are found
    sums, counts = boundary_sums([at(5), blank((3, 20))], [at(5), at(6), at(12)], tolerance=0.06)
    assert sums.tolist() == [[3, 6], [0, 0]] and counts.tolist() == [[3, 9], [0, 9]]
    scores = boundary_scores(sums[None], counts[None])
    assert scores["boundary ODS"] == scores["boundary OIS"] == pytest.approx(2 * 1 * (6 / 9) / (1 + 6 / 9))


@given(stacks(sides=(2, 5)), st.sampled_from([0.0075, 0.25]))
def test_boundary_sums_agree_with_all_matchings(stack, tolerance):
    maps, truths = stack
    sums, counts = boundary_sums(maps, truths, tolerance)
    reach = tolerance * math.hypot(*truths[0].shape)
    for labels, (right, found), (drawn, true) in zip(maps, sums.tolist(), counts.tolist()):
        each = [slow_matching(boundary_map(labels), boundary_map(truth), reach)[0] for truth in truths]
        assert found == sum(each) and max(each) <= right <= min(sum(each), drawn)
        assert drawn == boundary_map(labels).sum() and true == sum(boundary_map(truth).sum() for truth in truths)


def test_boundary_scores_by_hand():
    # two photos, two levels. A: P 3/3, R 3/6, F .667, then P 6/12, R 6/6, F .667. B: P 1/1, R 1/4, F .4, then P 3/4, R
    # 3/4
    sums = np.array([[[3, 3], [6, 6]], [[1, 1], [3, 3]]])
    counts = np.array([[[3, 6], [12, 6]], [[1, 4], [4, 4]]])
    scores = boundary_scores(sums, counts)
    precision, recall = [4 / 4, 9 / 16], [4 / 10, 9 / 10] # of both photos together
    f = [2 * p * r / (p + r) for p, r in zip(precision, recall)]
    assert scores["boundary ODS"] == pytest.approx(max(f))
    p, r = (3 + 3) / (3 + 4), (3 + 3) / (6 + 4) # A at its first level, B at its second
    assert scores["boundary OIS"] == pytest.approx(2 * p * r / (p + r))
    line = [precision[0] + (precision[1] - precision[0]) * (at / 100 - .4) / .5 for at in range(40, 91)]
    assert scores["boundary AP"] == pytest.approx(sum(line) / 100)


def test_no_line_anywhere_is_nothing_and_one_level_has_no_curve():
    score = BoundaryMeasures([1])
    assert np.isnan(score.update([blank((4, 4))], blank((4, 4)))["boundary ODS"])
    with pytest.raises(InputError, match="Nothing was scored"): score.compute()
    half = np.array([[0, 1]] * 3)
    assert score.update([blank((3, 2))], half) == {"boundary ODS": 0, "boundary OIS": 0, "boundary AP": 0}
    assert BoundaryMeasures([1]).update([half], half) == {"boundary ODS": 1, "boundary OIS": 1, "boundary AP": 0}
    assert len((score + score).sums) == 2
    with pytest.raises(InputError, match="same levels and settings"): score + BoundaryMeasures([1], tolerance=0.01)


def test_what_are_no_boundaries_is_named():
    lines = np.zeros((2, 2), bool)
    with pytest.raises(InputError, match="int64"): match_boundaries(lines.astype(int), lines)
    with pytest.raises(InputError, match=r"\(2, 2\).*\(2, 3\)"): match_boundaries(lines, np.zeros((2, 3), bool))
    for tolerance in (0, -1, float("nan")):
        with pytest.raises(InputError, match="tolerance="): match_boundaries(lines, lines, tolerance)


def test_random_ties_are_the_same_each_time():
    rng = np.random.default_rng(1)
    predicted, truth = rng.random((2, 30, 40)) < 0.2
    first = match_boundaries(predicted, truth, 0.05)
    np.random.default_rng().random(3)
    np.random.rand(3)
    for mine, again in zip(first, match_boundaries(predicted, truth, 0.05)): np.testing.assert_array_equal(mine, again)


# --- the others

def entropy(*parts):
    "Bits, of the joint distribution of ids."
    _, counts = np.unique(np.stack([p.ravel() for p in parts]), axis=1, return_counts=True)
    q = counts / counts.sum()
    return -(q * np.log2(q)).sum()


@given(maps())
def test_variation_of_information_from_entropies(pair):
    labels, truth = pair
    expected = 2 * entropy(labels, truth) - entropy(labels) - entropy(truth)
    assert variation_of_information(labels, truth) == pytest.approx(expected, abs=1e-9)
    assert variation_of_information(labels, truth + 300) == pytest.approx(expected, abs=1e-9)


@given(maps())
def test_adapted_rand_error_counts_every_label(pair):
    labels, truth = pair
    def same(m):
        return m.reshape(-1, 1) == m.reshape(1, -1)  # pairs of pixels in one segment
    both, p, t = (same(labels) & same(truth)).sum(), same(labels).sum(), same(truth).sum()
    assume(truth.size > 1 and p > truth.size and t > truth.size)  # at least one pair to be right about
    n = truth.size  # pairs of a pixel with itself are no pairs
    expected = 1 - 2 * (both - n) / ((p - n) + (t - n))
    assert adapted_rand_error(labels, truth) == pytest.approx(expected, abs=1e-9)
    assert adapted_rand_error(labels + 1, truth * 2) == pytest.approx(expected, abs=1e-9)


def test_void_is_left_out_of_the_others_too():
    truth, labels = np.array([[0, 0, 1, 1, 255]]), np.array([[3, 3, 4, 4, 3]])
    assert variation_of_information(labels, truth, ignore=255) == adapted_rand_error(labels, truth, ignore=255) == 0
    assert variation_of_information(labels, truth) > 0 and adapted_rand_error(labels, truth) > 0
    with pytest.raises(InputError, match="255"): variation_of_information(labels[:, 4:], truth[:, 4:], ignore=255)


# --- speed and the real sets


@pytest.mark.parametrize("split, expected", [("train", (.0482, .0263, .1013)), ("val", (.0510, .0273, .1063))])
def test_real_blank_baselines_of_bsd500_to_four_decimals(split, expected):
    score = BestOverlap()
    for record in BSD500(real("BSDS500"), split):
        truths = record.ground_truths
        score.update(blank(truths[0].shape), truths)
    assert tuple(round(score.compute()[g], 4) for g in GROUPS) == expected


def test_real_bsd500_agrees_with_two_loops():
    rng = np.random.default_rng(0)
    imgs, score = [], BestOverlap()
    for record in BSD500(real("BSDS500"), "val", subset=2, seed=3):
        truths = [t[::4, ::4] for t in record.ground_truths]
        labels = blocks(rng, 5, 9, truths[0].shape)
        imgs.append((labels, truths))
        score.update(labels, truths)
    assert score.compute() == pytest.approx(slow_scores(imgs), abs=1e-12)


def test_real_boundaries_are_those_in_the_files():
    from scipy.io import loadmat
    for record in BSD500(real("BSDS500"), "val", subset=10, seed=1):
        cells = loadmat(record.truth_path)["groundTruth"].ravel()
        for truth, cell in zip(record.ground_truths, cells, strict=True):
            np.testing.assert_array_equal(boundary_map(truth), cell["Boundaries"][0, 0] > 0)


def test_real_bsd500_regions_agree_with_dictionaries():
    rng = np.random.default_rng(0)
    photos, score = [], RegionMeasures(range(3), relabel=False)
    for record in BSD500(real("BSDS500"), "val", subset=2, seed=3):
        truths = [t[::40, ::40] for t in record.ground_truths]
        levels = [blocks(rng, n, 3, truths[0].shape) for n in (9, 4, 2)]
        photos.append((levels, truths))
        score.update(levels, truths)
    assert score.compute() == pytest.approx(slow_region_scores(photos), abs=1e-12)


def test_real_blank_of_voc2012_by_both_readings():
    ds = VOC2012(real("VOCdevkit"))
    masks = [record.ground_truths[0] for record in ds]
    for ignore in [255, None]:
        score = BestOverlap(ignore=ignore)
        for mask in masks: score.update(blank(mask.shape), mask)
        shares = [(m[m != ignore] == i).mean() for m in masks for i in set(np.unique(m).tolist()) - {ignore}]
        assert score.counts["all"] == len(shares)
        assert score.compute()["all"] == pytest.approx(sum(shares) / len(shares))
        if len(ds) == 120: assert round(score.compute()["all"], 4) == {255: .4211, None: .2963}[ignore]


# --- by hand

def test_two_images_by_hand_with_a_matching_each_or_one_for_both():
    """Two classes, two clusters. In the first image all is right.

    Second: class 0 has 2 pixels, all found, IoU 2 / (2 + 1) = 2/3; class 1 has 4, of which 3 are found, IoU 3/4; 5 of 6
    pixels are right."""
    truths = [np.array([[0, 0, 1]]), np.array([[0, 0, 1, 1, 1, 1]])]
    labels = [np.array([[0, 0, 1]]), np.array([[0, 0, 0, 1, 1, 1]])]
    each = Hungarian(2, "image")
    for one, truth in zip(labels, truths): each.update(one, truth)
    assert each.compute() == pytest.approx({"miou": (1 + (2 / 3 + 3 / 4) / 2) / 2, "accuracy": (1 + 5 / 6) / 2})
    both = Hungarian(2, "dataset")  # 4 pixels of class 0 found of 4, and one too many; 4 of 5 of class 1
    for one, truth in zip(labels, truths): both.update(one, truth)
    assert both.compute() == pytest.approx({"miou": (4 / 5 + 4 / 5) / 2, "accuracy": 8 / 9})


def test_the_blank_page_is_label_0():
    page = blank((3, 4, 5))
    assert page.shape == (3, 4) and page.dtype == np.int64 and not page.any()
