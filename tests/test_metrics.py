"""Scorers: against slow, obvious references on random label maps, by hand, and on the real sets where they are."""
import os
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import zoom

from dynaseg.datasets import BSD500, VOC2012
from dynaseg.images import InputError
from dynaseg.metrics import (PROTOCOLS, BestOverlap, Hungarian, adapted_rand_error, best_overlap, blank, scorer, variation_of_information)

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
    for labels, truths in one: a.update(labels, truths); both.update(labels, truths)
    for labels, truths in two: b.update(labels, truths); both.update(labels, truths)
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
                 lambda: adapted_rand_error(labels, truth)]:
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
    for labels, truth in pairs: each.update(labels, truth); once.update(labels, truth)
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
    for labels in [truth, 1 - truth]: each.update(labels, truth); once.update(labels, truth)
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
    with pytest.raises(InputError, match="protocol='Hungarian'; expected one of best-overlap, per-image Hungarian, dataset Hungarian"): scorer("Hungarian", 2)
    for name in list(PROTOCOLS)[1:]:
        with pytest.raises(InputError, match=f"{name}.*n_classes="): scorer(name)


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
    same = lambda m: m.reshape(-1, 1) == m.reshape(1, -1)  # pairs of pixels in one segment
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
        imgs.append((labels, truths)); score.update(labels, truths)
    assert score.compute() == pytest.approx(slow_scores(imgs), abs=1e-12)


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
