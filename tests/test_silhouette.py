"""The silhouette phase against scikit-learn's score and planted colours."""
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances, silhouette_samples, silhouette_score
from threadpoolctl import threadpool_info, threadpool_limits

from dynaseg.images import InputError
from dynaseg.silhouette import SilhouettePhase, _sample, mean_silhouette, silhouette_phase

RNG = np.random.default_rng(0)


def flat(n, shape=(20, 30)):
    "A picture of n colours, all far apart on a line, each about as often."
    return np.linspace(0, 1, n)[np.arange(shape[0] * shape[1]) % n].reshape(*shape, 1)


def noisy(n, shape=(40, 50)):
    "A picture of n colours with a little noise: corners of the colour cube."
    corners = np.array([[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)], float)
    return corners[RNG.permutation(8)[:n]][RNG.integers(n, size=shape)] + RNG.normal(0, 0.03, (*shape, 3))


@given(st.integers(3, 25), st.integers(1, 4), st.data())
def test_mean_silhouette_is_scikit_learns(n, dims, data):
    points = np.array(data.draw(st.lists(st.lists(st.integers(-5, 5), min_size=dims, max_size=dims), min_size=n,
                                         max_size=n)), float)
    groups = np.unique(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), return_inverse=True)[1]
    assume(2 <= groups.max() + 1 <= n - 1)  # scikit-learn's range
    score = mean_silhouette(pairwise_distances(points), groups)
    assert score == pytest.approx(silhouette_score(points, groups), abs=1e-9) and -1 <= score <= 1


def test_by_hand():
    "Points 0, 2 | 10: a = 2, 2, none; b = 10, 8. A point alone scores 0."
    D = np.abs(np.subtract.outer([0.0, 2, 10], [0.0, 2, 10]))
    assert mean_silhouette(D, np.array([0, 0, 1])) == pytest.approx(((10 - 2) / 10 + (8 - 2) / 8 + 0) / 3)
    assert mean_silhouette(D, np.array([1, 1, 0])) == mean_silhouette(D, np.array([0, 0, 1]))
    # a bad grouping is negative
    assert mean_silhouette(D, np.array([0, 1, 1])) == pytest.approx((0 + (2 - 8) / 8 + (10 - 8) / 10) / 3)
    assert mean_silhouette(D, np.array([0, 1, 2])) == 0


def test_a_and_b_by_hand():
    """Points 0, 1 | 4, 6 | 20. a is the mean distance to the others of the group, b that to the nearest other group.

    0: a = 1, b = (4 + 6) / 2 = 5; 1: a = 1, b = (3 + 5) / 2 = 4; 4: a = 2, b = (4 + 3) / 2 = 3.5; 6: a = 2, b = (6 + 5)
    / 2 = 5.5; 20 is alone."""
    points = [0.0, 1, 4, 6, 20]
    D = np.abs(np.subtract.outer(points, points))
    expected = (4 / 5 + 3 / 4 + 1.5 / 3.5 + 3.5 / 5.5 + 0) / 5
    assert mean_silhouette(D, np.array([0, 0, 1, 1, 2])) == pytest.approx(expected, rel=1e-12)
    assert mean_silhouette(D, np.array([2, 2, 0, 0, 1])) == pytest.approx(expected, rel=1e-12)


def test_distances_are_those_from_a_point_to_the_others():
    "A matrix that is not symmetric: row i holds the distances of point i."
    D = np.array([[0, 1, 4, 4], [3, 0, 2, 2], [8, 8, 0, 2], [8, 8, 4, 0.0]])
    # a = 1, 3, 2, 4; b = 4, 2, 8, 8
    assert mean_silhouette(D, np.array([0, 0, 1, 1])) == pytest.approx((3 / 4 - 1 / 3 + 6 / 8 + 4 / 8) / 4)


def test_a_number_that_no_point_has_is_no_group():
    "Groups 0 and 2 are two groups: no division by the size of an empty one."
    D = np.abs(np.subtract.outer([0.0, 2, 10], [0.0, 2, 10]))
    assert mean_silhouette(D, np.array([0, 0, 2])) == mean_silhouette(D, np.array([0, 0, 1]))
    with pytest.raises(InputError, match="1 group; expected at least two"): mean_silhouette(D, np.array([4, 4, 4]))


def test_perfect_and_equal_groups():
    D = np.array([[0, 0, 1.0, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
    assert mean_silhouette(D, np.array([0, 0, 1, 1])) == 1
    assert mean_silhouette(np.zeros((4, 4)), np.array([0, 0, 1, 1])) == 0  # all points equal: no NaN
    assert mean_silhouette(D.astype(np.float32), np.array([0, 0, 1, 1])) == 1


def test_phase_is_k_means_and_silhouette_for_each_k():
    "Recomputed without the shared distances; fewer points than samples, so every pixel is used."
    image = RNG.random((12, 15, 3))
    phase = silhouette_phase(image, k_min=2, k_max=9, seed=4)
    assert isinstance(phase, SilhouettePhase) and phase.ks.tolist() == list(range(2, 10)) and phase.scores.shape == (8,)
    points = image.reshape(-1, 3)
    for k, score in zip(phase.ks, phase.scores):
        groups = KMeans(k, n_init=1, random_state=4).fit_predict(points)
        assert score == pytest.approx(silhouette_samples(points, groups).mean(), abs=1e-9)
    assert isinstance(phase.opt_nC, int) and phase.opt_nC == phase.ks[np.argmax(phase.scores)]


def test_defaults():
    "The authors' range of k, a thousand pixels, seed 0."
    image = noisy(4)
    assert silhouette_phase(image).scores.tolist() == silhouette_phase(image, 3, 26, 1000, 0).scores.tolist()


def test_default_range_is_the_authors():
    assert silhouette_phase(RNG.random((20, 20, 3))).ks.tolist() == list(range(3, 27))


@pytest.mark.parametrize("n", range(1, 13))
def test_flat_colours_are_counted(n):
    assert silhouette_phase(flat(n)).opt_nC == n


@pytest.mark.parametrize("n", [3, 5, 8])
def test_noisy_colours_are_counted(n):
    assert silhouette_phase(noisy(n)).opt_nC == n


def test_pixels_are_clustered_not_rows():
    "The same pixels in another order and another shape are the same points."
    image = noisy(5, (20, 30))
    phases = [silhouette_phase(image.reshape(shape)) for shape in ((20, 30, 3), (600, 1, 3), (600, 3))]
    for phase in phases: np.testing.assert_array_equal(phase.scores, phases[0].scores)


@pytest.mark.parametrize("shape", [(1, 2, 1), (2, 1, 3), (2, 2, 12), (5, 2, 4), (3, 3, 1)])
def test_tiny_pictures(shape):
    phase = silhouette_phase(RNG.random(shape))
    assert 1 <= phase.opt_nC <= shape[0] * shape[1] and np.isfinite(phase.scores).all()


def test_same_seed_same_curve():
    image = np.random.default_rng(7).random((50, 60, 3))
    first, again, other = (silhouette_phase(image, n_samples=300, seed=s).scores for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_users_random_numbers_go_on_undisturbed():
    state = np.random.get_state()[1].copy()
    silhouette_phase(RNG.random((10, 10, 3)), k_max=5)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_the_sample_is_of_single_pixels_of_the_whole_picture():
    "1200 pixels, all different: 200 of them, none twice, from everywhere; others with another seed."
    image = np.arange(30 * 40 * 2, dtype=float).reshape(30, 40, 2)
    points = _sample(image, 200, 0)
    rows = points[:, 0] / 2
    assert points.shape == (200, 2) and (points[:, 1] == points[:, 0] + 1).all() and len(np.unique(rows)) == 200
    assert [((rows >= at) & (rows < at + 300)).sum() > 30 for at in (0, 300, 600, 900)] == [True] * 4
    assert np.array_equal(_sample(image, 200, 0), points) and not np.array_equal(_sample(image, 200, 1), points)
    for n in (1200, 1201): assert np.array_equal(_sample(image, n, 0), image.reshape(-1, 2))


def test_a_sample_of_the_pixels_is_all_that_is_looked_at():
    "The curve of the picture is that of its sample."
    image = noisy(4)
    whole = silhouette_phase(image, k_max=6, n_samples=150, seed=3)
    assert whole.scores.tolist() == silhouette_phase(_sample(image, 150, 3), k_max=6, n_samples=150,
                                                     seed=3).scores.tolist()


def test_of_equal_scores_the_fewest_groups_win(monkeypatch):
    scores = iter([0.25, 0.5, 0.5, 0.125])
    monkeypatch.setattr("dynaseg.silhouette.mean_silhouette", lambda D, groups: next(scores))
    phase = silhouette_phase(noisy(4), k_min=4, k_max=7)
    assert phase.opt_nC == 5 and phase.scores.tolist() == [0.25, 0.5, 0.5, 0.125]


@pytest.mark.parametrize("n, ks, found", [(1, [], 1), (2, [], 2), (3, [3], 3), (4, [3, 4], 4), (6, [3, 4, 5, 6], 6)])
def test_never_more_groups_than_colours(n, ks, found):
    "With fewer colours than k_min there is no curve, and the colours are counted."
    phase = silhouette_phase(flat(n))
    assert (phase.ks.tolist(), phase.opt_nC, len(phase.scores)) == (ks, found, len(ks))


def test_the_bounds_of_the_settings_are_allowed():
    image = noisy(3)
    assert silhouette_phase(image, k_min=2, k_max=2, n_samples=3).ks.tolist() == [2]
    assert silhouette_phase(image, k_min=3, k_max=3, n_samples=4).opt_nC == 3


@pytest.mark.parametrize("wrong, words", [(dict(k_min=1), "k_min=1.*2 <= k_min"),
                                          (dict(k_min=9, k_max=5), "k_min=9, k_max=5.*k_min <= k_max"),
                                          (dict(k_min=5, k_max=4), "k_min=5, k_max=4"),
                                          (dict(n_samples=26), "n_samples=26.*more than k_max=26"),
                                          (dict(k_max=5, n_samples=0), "n_samples=0")])
def test_bad_settings_are_named(wrong, words):
    with pytest.raises(InputError, match=words): silhouette_phase(RNG.random((8, 8, 3)), **wrong)


@pytest.mark.parametrize("fails", [False, True])
def test_it_takes_one_thread_and_leaves_the_program_its_own(monkeypatch, fails):
    "A thousand points are too few to share: more threads would wait for each other."
    def threads(): return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "openmp"}
    seen = []
    def look(D, groups):
        seen.append(threads())
        return 1 / (not fails)
    monkeypatch.setattr("dynaseg.silhouette.mean_silhouette", look)
    with threadpool_limits(2, "openmp"):
        with pytest.raises(ZeroDivisionError) if fails else nullcontext(): silhouette_phase(noisy(4))
        assert threads() == {2}
    assert seen[0] == seen[-1] == {1}


# --- what has no score, and where the range ends

@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_a_k_that_k_means_cannot_fill_never_wins():
    """Depths in three far groups, each of a few values that 32 bits hardly tell apart: k-means finds fewer groups than
    asked for."""
    rng = np.random.default_rng(0)
    depth = 4000 + rng.integers(0, 12, (100, 100))
    depth[30:60, 30:60] = 1500 + rng.integers(0, 10, (30, 30))
    depth[:8] = 65535
    points = (depth / 65535).astype(np.float32)[..., None]
    phase = silhouette_phase(points)
    assert phase.opt_nC == 3 and np.isfinite(phase.scores).all() and len(phase.ks) == len(phase.scores)
    assert 3 < phase.ks[-1] < 26, "the case should have such a k"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(bad):
    image = RNG.random((20, 20, 3))
    image[3, 4, 1] = bad
    with pytest.raises(InputError, match="NaN or infinite"): silhouette_phase(image)
    assert silhouette_phase(image[:3]).opt_nC  # the rest of it is fine


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_distances_that_overflow_are_refused():
    image = np.float32(3e38) * np.where(RNG.random((20, 20, 3)) < 0.5, -1, RNG.random((20, 20, 3))).astype(np.float32)
    with pytest.raises(InputError, match="so large that a distance is"): silhouette_phase(image)


@pytest.mark.parametrize("values, want", [([0.5], 1), ([0.5, 0.75], 2), ([0, 1e-20], 2)])
def test_one_or_two_colours(values, want):
    points = np.tile(np.array(values, np.float32), 30)[:, None]
    phase = silhouette_phase(points)
    assert phase.opt_nC == want and phase.is_maximum and not len(phase.ks)


def test_an_end_of_the_range_is_no_maximum():
    "Six flat colours are six groups, wherever the range ends; six noisy ones could be fewer than the least tried."
    six = flat(6)
    for k_min, k_max, opt_nC, end in [(2, 6, 6, ""), (2, 26, 6, ""), (6, 9, 6, ""), (7, 9, 6, "")]:
        phase = silhouette_phase(six, k_min=k_min, k_max=k_max)
        assert (phase.opt_nC, phase.end) == (opt_nC, end), (k_min, k_max)
        assert phase.is_maximum == (end == "")
    noise = noisy(6)
    assert [silhouette_phase(noise, k_min=k).end for k in (5, 6)] == ["", "lower"]


def test_a_curve_that_rises_to_the_end_has_no_maximum():
    """64 colours on a grid, with noise: more groups are always better, and the best of 3 to 26 is one of the last by
    chance."""
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3)
    rng = np.random.default_rng(1)
    phase = silhouette_phase(grid[rng.integers(64, size=2000)] + rng.normal(0, 0.02, (2000, 3)))
    assert phase.opt_nC in (25, 26) and phase.end == "upper" and not phase.is_maximum


@pytest.mark.parametrize("opt_nC, end", [(3, "lower"), (4, ""), (24, ""), (25, "upper"), (26, "upper")])
def test_which_k_is_an_end(opt_nC, end, monkeypatch):
    "Scores made up, highest at opt_nC."
    scores = iter(np.arange(3, 27) == opt_nC)
    monkeypatch.setattr("dynaseg.silhouette.mean_silhouette", lambda D, groups: float(next(scores)))
    phase = silhouette_phase(RNG.random((20, 20, 3)))
    assert (phase.opt_nC, phase.end) == (opt_nC, end)
