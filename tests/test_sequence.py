"""Stable numbers: matching by features, and frames of a film."""
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from dynaseg import segment
from dynaseg.granularity import Hierarchy
from dynaseg.images import InputError
from dynaseg.labels import by_area
from dynaseg.matching import Palette, label_features, match_labels, renumbered
from dynaseg.sequence import carried, kept, made_clip, segment_sequence, shift_between, shifted


# --- features

def slow_features(labels, colours, position):
    "Pixel by pixel."
    H, W = labels.shape
    h, w = colours.shape[:2]
    found = {}
    for i in range(H):
        for j in range(W):
            y, x = (i + 0.5) / H, (j + 0.5) / W
            if labels[i, j] >= 0:
                feature = [*colours[int(y * h), int(x * w)], y * position, x * position]
                found.setdefault(labels[i, j], []).append(feature)
    return {label: np.mean(rows, 0) for label, rows in found.items()}, {label: len(r) for label, r in found.items()}


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_features_are_means_over_the_pixels_of_a_label(h, w, bands, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 4, (2 * h, 3 * w))
    labels[0, 0] = 2
    colours = rng.random((h, w, bands))
    used, features, shares = label_features(labels, colours, 0.7)
    wanted, counts = slow_features(labels, colours, 0.7)
    assert used.tolist() == sorted(wanted)
    for label, feature, share in zip(used, features, shares):
        np.testing.assert_allclose(feature, wanted[label])
        assert share == pytest.approx(counts[label] / sum(counts.values()))


def test_a_label_of_one_pixel_of_a_large_photo_is_not_lost():
    labels = np.zeros((900, 700), int)
    labels[601, 333] = 5
    assert label_features(labels, np.zeros((3, 2, 1)))[0].tolist() == [0, 5]


# --- the palette

def best_sum(distances, shares, threshold):
    "The least sum of costs, by trying every way to give each cluster an entry of its own or a new number."
    k, n = distances.shape
    sums = []
    for choice in permutations(range(n + k), k):
        sums.append(sum(share * (min(distances[i, j], threshold) if j < n else threshold)
                        for i, (j, share) in enumerate(zip(choice, shares))))
    return min(sums)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 500))
def test_numbers_have_the_least_sum_of_costs(k, n, seed):
    rng = np.random.default_rng(seed)
    palette = Palette(threshold=0.4)
    palette.numbers(rng.random((n, 2)), np.ones(n) / n)
    features, shares = rng.random((k, 2)), rng.random(k)
    distances = np.linalg.norm(features[:, None] - palette.entries, axis=-1)
    numbers = palette.numbers(features, shares)
    assert len(set(numbers.tolist())) == k
    old = numbers < n
    assert (distances[old, numbers[old]] < 0.4).all()
    assert sorted(numbers[~old]) == list(range(n, n + (~old).sum()))
    cost = (shares[old] * distances[old, numbers[old]]).sum() + 0.4 * shares[~old].sum()
    assert cost == pytest.approx(best_sum(distances, shares, 0.4))


def test_an_entry_follows_what_it_was_seen_as():
    palette = Palette(threshold=1, follow=0.5)
    for x in (0.0, 0.8, 1.2, 1.6): assert palette.numbers(np.array([[x]]), np.ones(1)).tolist() == [0]
    still = Palette(threshold=1, follow=0)
    assert [still.numbers(np.array([[x]]), np.ones(1)).tolist() for x in (0.0, 0.8, 1.2)] == [[0], [0], [1]]


def test_what_is_expected_comes_before_what_is_nearer():
    palette = Palette(threshold=1, follow=0)
    palette.numbers(np.array([[0.0], [0.9]]), np.ones(2) / 2)
    assert palette.numbers(np.array([[0.1]]), np.ones(1), np.array([1])).tolist() == [1]
    assert palette.numbers(np.array([[0.1]]), np.ones(1), np.array([-1])).tolist() == [0]
    assert palette.numbers(np.array([[-0.5]]), np.ones(1), np.array([1])).tolist() == [0]  # too far from 1
    both = palette.numbers(np.array([[0.5], [0.6]]), np.array([0.3, 0.7]), np.array([1, 1]))
    assert both.tolist() == [0, 1]  # the larger one keeps it


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": "far"}, {"follow": 1.5}, {"follow": None}])
def test_a_palette_that_cannot_be(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))): Palette(**wrong)


# --- results

@given(st.integers(0, 200))
def test_new_numbers_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 6, (4, 5))
    used = np.unique(labels[labels >= 0])[:4]
    numbers = rng.permutation(9)[:len(used)]
    given_to = dict(zip(used.tolist(), numbers.tolist()))
    if len(used):
        wanted = [[given_to.get(label, -1) for label in row] for row in labels.tolist()]
        assert renumbered(labels, used, numbers).tolist() == wanted


@dataclass
class Result:
    labels: np.ndarray
    hierarchy: Hierarchy
    of_patch: np.ndarray | None = None


def result_of(grey):
    "Labels by falling area of a picture of few greys."
    image = np.array(grey, np.float32)[..., None] / 255
    return Result(by_area(np.array(grey)), Hierarchy(image, None))


def test_a_thing_keeps_its_number_a_new_one_gets_a_new_one():
    small, large = np.full((12, 12), 20), np.full((12, 12), 20)
    small[:4, :4], large[:10, :10] = 200, 200
    third = large.copy()
    third[11, :] = 110  # a line that has not been there
    a, b, c, d = (found.labels for found in match_labels(map(result_of, (small, large, third, small))))
    assert (a == (small == 200)).all() and (b == (large == 200)).all()
    assert (c == np.where(third == 110, 2, third == 200)).all() and (d == a).all()


def test_pixels_without_data_keep_minus_one_and_patches_go_along(quick, photo):
    masked = np.ma.masked_array(photo, np.broadcast_to(np.arange(30)[None, :, None] < 5, photo.shape))
    one, two = match_labels([segment(masked, **quick), segment(masked, **quick | {"seed": 1})])
    assert (two.labels[:, :5] == -1).all() and (two.labels[:, 5:] >= 0).all()
    assert (two.hierarchy.at_pixels(two.of_patch)[two.valid] == two.labels[two.valid]).all()
    most_patches = int(np.bincount(two.of_patch).argmax())
    assert two.split(most_patches).n_clusters == two.n_clusters + 1


def test_photos_of_different_bands_are_not_matched(quick, photo):
    results = [segment(photo, **quick), segment(np.dstack([photo] * 2), **quick)]
    with pytest.raises(InputError, match="6 bands"): list(match_labels(results))


def test_results_pass_through_one_by_one(quick, photo):
    "An endless supply is no trouble."
    def endless():
        while True: yield result_of([[1, 1, 2]])
    matched = match_labels(endless())
    for _ in range(3): assert next(matched).labels.tolist() == [[0, 0, 1]]


# --- the film

def test_a_clip_shows_what_its_windows_say():
    ramp = np.stack(np.meshgrid(np.arange(100.0), np.arange(80.0)), -1).astype(np.float32) / 100
    clip = made_clip(ramp, 3, (20, 30), light=0)
    for frame, (top, left, height, width) in zip(clip.frames, clip.windows):
        y, x = top + 10.5 * height / 20 - 0.5, left + 4.5 * width / 30 - 0.5
        np.testing.assert_allclose(frame[10, 4] * 100, [x, y], atol=1e-3)
    assert clip.windows[2, 3] < clip.windows[0, 3] and (clip.windows[2, :2] > clip.windows[0, :2]).all()
    with pytest.raises(InputError, match="leaves the photo"): made_clip(ramp, 300)


def slow_kept(before, after, a, b):
    same = total = 0
    h, w = after.shape
    for i in range(h):
        for j in range(w):
            y = (b[0] + (i + 0.5) * b[2] / h - a[0]) / a[2] * h
            x = (b[1] + (j + 0.5) * b[3] / w - a[1]) / a[3] * w
            if 0 <= y < h and 0 <= x < w:
                total += 1
                same += before[int(y), int(x)] == after[i, j]
    return same / total


@given(st.integers(0, 300))
def test_kept_pixels_are_counted_where_both_frames_look(seed):
    rng = np.random.default_rng(seed)
    before, after = rng.integers(0, 3, (2, 5, 7))
    a, b = (np.array([*rng.uniform(0, 2, 2), *rng.uniform(5, 9, 2)]) for _ in range(2))
    assert kept(before, after, a, b) == pytest.approx(slow_kept(before, after, a, b))


@pytest.mark.parametrize("rows, columns", [(0, 0), (3, 0), (-2, 4), (5, -6)])
def test_the_shift_of_a_moved_frame(rows, columns):
    scene = np.random.default_rng(0).random((60, 70, 3))
    before, after = scene[10:50, 10:60], scene[10 + rows:50 + rows, 10 + columns:60 + columns]
    assert shift_between(before, after) == (rows, columns)
    labels = np.arange(scene[..., 0].size).reshape(60, 70)
    moved = shifted(labels[10:50, 10:60], (rows, columns), (40, 50))
    inside = np.s_[max(0, -rows):40 - max(0, rows), max(0, -columns):50 - max(0, columns)]
    assert (moved == labels[10 + rows:50 + rows, 10 + columns:60 + columns])[inside].all()


def test_no_shift_where_there_is_nothing_to_compare():
    flat = np.ones((9, 9, 1))
    assert shift_between(flat, flat) == shift_between(flat, np.ones((5, 9, 1))) == (0, 0)


class Frame:
    "Two patches of two and four pixels."
    patches = np.array([[0, 0, 1], [-1, 1, 1]])
    sizes = np.array([2, 3])
    soft = np.array([[[0.6, 0.4]] * 3] * 2, np.float32)


def test_inertia_counts_the_share_of_a_patch():
    last = np.array([[1, 1, 1], [0, 0, -1]])  # all of the first patch, a third of the second
    assert carried(Frame, last, 0.0).tolist() == [0, 0]
    assert carried(Frame, last, 0.15).tolist() == [0, 0]
    assert carried(Frame, last, 0.25).tolist() == [1, 0]
    assert carried(Frame, np.ones((2, 3), int), 0.25).tolist() == [1, 1]
    assert carried(Frame, np.full((2, 3), -1), 5.0).tolist() == [0, 0]


@pytest.fixture(scope="module")
def film():
    "Twelve frames: a red square moves over a green ground with a blue strip; the light goes up."
    rng = np.random.default_rng(0)
    frames = []
    for t in range(12):
        a = np.empty((36, 48, 3))
        a[:], a[:10] = (60, 160, 60), (70, 110, 210)
        a[16:28, 4 + 2 * t:16 + 2 * t] = (210, 60, 50)
        frames.append(((a + rng.normal(0, 6, a.shape)) * (0.8 + 0.02 * t)).clip(0, 255).astype(np.uint8))
    return frames


SMALL = dict(M=1, p=12, q=12, T=20, device="cpu")


def test_things_keep_their_numbers_through_a_film(film):
    results = list(segment_sequence(film, **SMALL))
    assert len(results) == 12
    def number_at(seg, rows, columns): return np.bincount(seg.labels[rows, columns].ravel()).argmax()
    for t, seg in enumerate(results):
        square = number_at(seg, slice(18, 26), slice(6 + 2 * t, 14 + 2 * t))
        ground, strip = number_at(seg, slice(31, 36), slice(None)), number_at(seg, slice(1, 8), slice(None))
        if t == 0: first = square, ground, strip
        assert len({square, ground, strip}) == 3 and (square, ground, strip) == first


def test_the_first_frame_is_a_whole_fit_the_others_a_twentieth(film, monkeypatch):
    import dynaseg.sequence
    lengths = []
    def counted(*args, T, **more):
        lengths.append(T)
        return real(*args, T=T, **more)
    real = dynaseg.sequence.fit
    monkeypatch.setattr(dynaseg.sequence, "fit", counted)
    results = list(segment_sequence(film[:3], **{**SMALL, "T": 40}))
    assert lengths == [0, 2, 2] and len(results[0].history["loss"]) > 2
    lengths.clear()
    list(segment_sequence(film[:3], updates=1, **SMALL))
    assert lengths == [0, 1, 1]


def test_frames_are_taken_when_they_are_asked_for(film):
    taken = []
    def source():
        for t, frame in enumerate(film):
            taken.append(t)
            yield frame
    results = segment_sequence(source(), **SMALL)
    assert taken == []
    next(results)
    assert taken == [0]


def test_the_same_film_gives_the_same_labels(film):
    one, two = (list(segment_sequence(film[:4], **SMALL)) for _ in range(2))
    assert all((a.labels == b.labels).all() for a, b in zip(one, two))


def test_other_scenes_have_other_numbers(film):
    rng = np.random.default_rng(1)
    night = (np.where(np.arange(48)[None, :, None] < 24, 12, 240) + rng.normal(0, 4, (36, 48, 3))).clip(0, 255)
    results = list(segment_sequence([*film[:2], night.astype(np.uint8)], **SMALL))
    before, after = set(np.unique(results[1].labels)), results[2].labels
    assert np.isin(after, list(before)).mean() < 0.2


def test_so_many_clusters_through_the_film(film):
    results = list(segment_sequence(film[:4], n_clusters=3, **SMALL))
    assert all(set(np.unique(seg.labels)) <= {0, 1, 2} for seg in results)


def test_frames_with_holes_and_of_another_size(film):
    holes = np.ma.masked_array(film[1], np.broadcast_to(np.arange(48)[None, :, None] < 6, film[1].shape))
    one, two, three = segment_sequence([film[0], holes, film[2][:30, :40]], **SMALL)
    assert (two.labels[:, :6] == -1).all() and (two.labels[:, 6:] >= 0).all()
    assert three.labels.shape == (30, 40) and three.labels[2, 20] == one.labels[2, 20]
    assert (two.hierarchy.at_pixels(two.of_patch)[two.valid] == two.labels[two.valid]).all()


def test_a_frame_can_be_asked_on(film):
    *_, seg = segment_sequence(film[:2], **SMALL)
    assert seg.kind == "clusters" and seg.at(n_segments=3).n_clusters == 3 and seg.at(n_clusters=2).n_clusters == 2


def test_clusters_that_are_asked_for_later_are_those_of_the_frame(film):
    for frame in segment_sequence(film[:2], **SMALL):
        assert frame.at(min_size=1).n_clusters == frame.n_clusters


def test_inside_inference_mode(film):
    with torch.inference_mode(): assert len(list(segment_sequence(film[:2], **SMALL))) == 2


@pytest.mark.parametrize("more, words", [
    ({"updates": -1}, "updates=-1"), ({"updates": 1.5}, "updates=1.5"), ({"inertia": -0.1}, "inertia"),
    ({"inertia": np.inf}, "inertia"), ({"threshold": -1}, "threshold"), ({"n_segments": 4}, "Connected segments"),
    ({"scribbles": np.ones((36, 48), int)}, "scribbles")])
def test_what_cannot_be_used_is_named_before_the_first_frame(film, more, words):
    with pytest.raises(InputError, match=words): segment_sequence(film, **more)


def test_a_frame_of_other_bands_is_named(film):
    with pytest.raises(InputError, match="has 1 bands; expected 3"):
        list(segment_sequence([film[0], film[1][..., 0]], **SMALL))
    with pytest.raises(InputError, match="expected several"): list(segment_sequence(film[0], **SMALL))
