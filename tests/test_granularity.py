"""One tree, many answers: each function against a slow way, or by hand."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import label

from dynaseg.granularity import (
    MOST_JOINED,
    Hierarchy,
    contour_map,
    enlarged,
    joined,
    joining_levels,
    seeded_cut,
    seeded_merge,
)
from dynaseg.images import InputError
from dynaseg.merging import MergeTree, basins, cut, merge_order, perceived, region_graph


def random_tree(seed, n):
    rng = np.random.default_rng(seed)
    edges = np.array([(i, rng.integers(i)) for i in range(1, n)], int).reshape(-1, 2)[rng.permutation(n - 1)]
    return MergeTree(edges, np.sort(rng.random(n - 1)), np.ones(n - 1))


def ways(tree):
    "For each pair of patches the highest level on the way between them, by walking from each patch."
    n = len(tree.edges) + 1
    highest = np.full((n, n), -np.inf)
    for start in range(n):
        todo = [(start, None, -np.inf)]
        while todo:
            here, before, level = todo.pop()
            highest[start, here] = level
            for (a, b), l in zip(tree.edges.tolist(), tree.levels):
                if here in (a, b) and (other := b if here == a else a) != before:
                    todo.append((other, here, max(level, l)))
    return highest


@given(st.integers(0, 10**6), st.integers(1, 25))
def test_joining_levels_are_the_highest_on_the_way(seed, n):
    tree = random_tree(seed, n)
    pairs = np.stack(np.meshgrid(range(n), range(n)), -1).reshape(-1, 2)
    np.testing.assert_array_equal(joining_levels(tree, pairs), ways(tree)[tuple(pairs.T)])


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(2, 9), st.floats(0, 1))
def test_a_cut_can_be_read_off_the_contour_map(seed, h, w, level):
    tree = random_tree(seed, h * w)
    patches = np.random.default_rng(seed).permutation(h * w).reshape(h, w)
    parts, double = cut(tree, level)[patches], contour_map(tree, patches, doubled=True)
    assert double.shape == (2 * h + 1, 2 * w + 1) and not double[1::2, 1::2].any()  # pixels themselves
    np.testing.assert_array_equal(double[1::2, 2:-1:2] > np.float32(level), parts[:, 1:] != parts[:, :-1])
    np.testing.assert_array_equal(double[2:-1:2, 1::2] > np.float32(level), parts[1:] != parts[:-1])
    single = contour_map(tree, patches)
    right, below = np.zeros((h, w)), np.zeros((h, w))
    right[:, :-1], below[:-1] = double[1::2, 2:-1:2], double[2:-1:2, 1::2]
    np.testing.assert_array_equal(single, np.maximum(right, below))
    regions = label(double[1:-1, 1:-1] <= level, connectivity=1)[::2, ::2]  # as the BSDS tools read a level
    assert len(np.unique(np.stack([regions.ravel(), label(parts, background=-1, connectivity=1).ravel()]),
                         axis=1).T) == regions.max()


def slow_seeds(tree, marks):
    "Merges in their order with sets; one that would join two colours is left out."
    groups = [{i} for i in range(len(marks))]
    def colours(group): return {marks[i] for i in group} - {0}
    for a, b in tree.edges.tolist():
        if len(colours(groups[a]) | colours(groups[b])) > 1: continue
        whole = groups[a] | groups[b]
        for i in whole: groups[i] = whole
    return [colours(group).pop() for group in groups]


@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 4))
def test_seeds_of_two_colours_never_meet(seed, n, colours):
    tree = random_tree(seed, n)
    rng = np.random.default_rng(seed)
    marks = rng.integers(0, colours + 1, n)
    marks[rng.integers(n)] = 1
    found = seeded_cut(tree, marks)
    assert found.tolist() == slow_seeds(tree, marks.tolist())
    np.testing.assert_array_equal(found[marks > 0], marks[marks > 0])


def test_without_a_mark_there_is_nothing_to_cut():
    with pytest.raises(InputError, match="No pixel is marked"): seeded_cut(random_tree(0, 3), np.zeros(3, int))
    with pytest.raises(InputError, match="No pixel is marked"): seeded_merge(stripes([0, 1, 2])[0], np.zeros(3, int))


def stripes(tones):
    "The graph of stripes four pixels wide, one for each tone, and the map of their ids."
    patches = np.arange(len(tones)).repeat(4)[None].repeat(6, 0)
    return region_graph(patches, np.float32(tones)[patches][..., None]), patches


def grains(seed, h=7, w=9):
    "The graph of a noisy picture whose patches are its pixels."
    colours = np.random.default_rng(seed).random((h, w, 3)).astype(np.float32)
    return region_graph(np.arange(h * w).reshape(h, w), colours, colours / colours.sum(-1, keepdims=True)), (h, w)


@given(st.integers(0, 10**6), st.integers(1, 4), st.booleans(), st.sampled_from([1e-9, 0.01, 0.3, 1]))
def test_merged_anew_each_part_grows_from_a_mark_of_its_colour(seed, colours, knows, share):
    graph, (h, w) = grains(seed)
    rng = np.random.default_rng(seed)
    marks = rng.integers(1, colours + 1, h * w) * (rng.random(h * w) < 0.1)
    marks[rng.integers(h * w)] = 1
    given_marks, likely = marks.copy(), rng.dirichlet(np.ones(colours), h * w) if knows else None
    found = seeded_merge(graph, marks, likely, share)
    np.testing.assert_array_equal(marks, given_marks)
    np.testing.assert_array_equal(found[marks > 0], marks[marks > 0])
    parts = label(found.reshape(h, w), connectivity=1)
    assert found.min() > 0 and set(parts.ravel()) == set(parts.ravel()[marks > 0])


def test_merged_anew_the_strongest_border_parts_two_colours():
    "By hand: the tones leave no doubt, whatever the colours are called."
    for marks, wanted in (([1, 0, 0, 0, 2], [1, 1, 1, 2, 2]), ([2, 0, 0, 0, 1], [2, 2, 2, 1, 1]),
                          ([1, 0, 2, 0, 3], [1, 1, 2, 3, 3]), ([0, 4, 0, 0, 0], [4] * 5)):
        assert seeded_merge(stripes([0, 0.1, 0.2, 1.2, 1.3])[0], np.array(marks)).tolist() == wanted


@pytest.mark.parametrize("tone", [0.95, 1, 1.05])
def test_what_the_network_has_learnt_decides_where_borders_are_alike(tone):
    "The middle stripe is a little nearer to one side; how likely the colours are counts more."
    graph, ends = stripes([0, tone, 2])[0], np.array([1, 0, 2])
    for sure in (1, 2):
        likely = np.eye(2)[[0, sure - 1, 1]]
        assert seeded_merge(graph, ends, likely).tolist() == [1, sure, 2]
    unsure = seeded_merge(graph, ends, np.full((3, 2), 0.5)).tolist()
    assert unsure == seeded_merge(graph, ends).tolist()
    if tone != 1: assert unsure[1] == (1 if tone < 1 else 2)


def test_merged_anew_a_region_counts_as_it_is_then():
    """The cut of the finished tree may follow merges that the colours forbid; then the two differ. On random pictures
    they differ somewhere, and mostly agree."""
    agree = []
    for seed in range(20):
        graph, (h, w) = grains(seed)
        marks = np.zeros(h * w, int)
        marks[0], marks[-1] = 1, 2
        agree.append((seeded_merge(graph, marks) == seeded_cut(merge_order(graph), marks)).mean())
    assert min(agree) < 1 and np.mean(agree) > 0.5


def test_an_island_without_a_scribble_gets_a_colour_too():
    image = np.random.default_rng(0).random((24, 30, 3)).astype(np.float32)
    valid = np.ones((24, 30), bool)
    valid[:, 14:16] = False
    hierarchy = Hierarchy(image, np.full((24, 30, 2), 0.5, np.float32), valid)
    strokes = np.zeros((24, 30), int)
    strokes[3, 2:9], strokes[20, 2:9] = 1, 2
    found = hierarchy.seeded(strokes, learnt=True)
    assert set(np.unique(found[:, :14])) == {1, 2} and set(np.unique(found[:, 16:])) <= {1, 2}


def slow_ward(sizes, features, n):
    "Clusters as lists of points; the pair whose union adds least to the squared distances from the means."
    clusters = [[i] for i in range(len(sizes))]
    def spread(members):
        w, f = sizes[members], features[members]
        return (w[:, None] * (f - (w @ f) / w.sum()) ** 2).sum()
    while len(clusters) > n:
        pairs = [(spread(a + b) - spread(a) - spread(b), i, j) for i, a in enumerate(clusters)
                 for j, b in enumerate(clusters) if i < j]
        _, i, j = min(pairs)
        clusters[i] += clusters.pop(j)
    return {frozenset(c) for c in clusters}


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 3), st.integers(1, 12))
def test_the_most_alike_join(seed, s, d, n):
    rng = np.random.default_rng(seed)
    sizes, features = rng.integers(1, 50, s).astype(float), rng.random((s, d))
    found = joined(sizes, features, min(n, s))
    assert {frozenset(np.flatnonzero(found == i).tolist()) for i in np.unique(found)} == slow_ward(sizes, features, n)
    assert sorted(np.unique(found)) == list(range(min(n, s)))


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7), st.integers(0, 30), st.integers(0, 30))
def test_enlarged_labels_are_the_largest_bilinear_weight(seed, h, w, more, wider):
    labels = np.random.default_rng(seed).integers(0, 4, (h, w))
    size = h + more, w + wider
    found = enlarged(labels, size)
    weights = F.interpolate(F.one_hot(torch.from_numpy(labels), 4).permute(2, 0, 1)[None].double(), size=size,
                            mode="bilinear")[0].numpy()
    assert found.shape == size and found.dtype == labels.dtype
    best = np.take_along_axis(weights, found[None], 0)[0]
    np.testing.assert_allclose(best, weights.max(0), atol=1e-5)  # where two are equal, either may win


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(2, 12), st.floats(1.3, 6))
def test_segments_stay_in_one_piece_when_enlarged(seed, h, w, scale):
    parts = label(np.random.default_rng(seed).integers(0, 3, (h, w)), background=-1, connectivity=1) - 1
    large = enlarged(parts, (int(h * scale) + 1, int(w * scale) + 1))
    assert sorted(np.unique(large)) == list(range(parts.max() + 1))
    assert label(large, background=-1, connectivity=1).max() == parts.max() + 1


@pytest.fixture(scope="module")
def hierarchy():
    "Of a mosaic with noise, (40, 60) pixels, and a network with three labels."
    rng = np.random.default_rng(0)
    image = (
        (rng.random((4, 6, 3)).repeat(10, 0).repeat(10, 1) + rng.normal(0, 0.02, (40, 60, 3)))
        .clip(0, 1)
        .astype(np.float32)
    )
    return Hierarchy(image, rng.dirichlet(np.ones(3), (20, 30)).astype(np.float32))


def test_all_answers_are_exact(hierarchy):
    for n in (1, 2, 7, 24, 60):
        pixels = hierarchy.at_pixels(hierarchy.segments(n))
        assert label(pixels, background=-1, connectivity=1).max() == len(np.unique(pixels)) == n
    for n in (1, 2, 5, 24): assert len(np.unique(hierarchy.clusters(1.2, n_clusters=n))) == n
    assert len(np.unique(hierarchy.clusters(1.2))) == 3  # as many as the network has labels
    assert np.bincount(hierarchy.at_pixels(hierarchy.segments(level=0.1, min_size=90)).ravel()).min() >= 90


def test_clusters_of_fewer_are_unions_of_those_of_more(hierarchy):
    fine, coarse = hierarchy.clusters(1.2, n_clusters=9), hierarchy.clusters(1.2, n_clusters=4)
    assert len(np.unique(np.stack([fine, coarse]), axis=1).T) == 9


def test_a_level_leaves_no_fewer_than_the_floor(hierarchy):
    assert hierarchy.segments(level=1e9).max() == 0 and hierarchy.segments(level=1e9, floor=5).max() == 4


def test_clusters_keep_to_the_least_size(hierarchy):
    "Also where it leaves fewer segments than clusters are wanted: 2,400 pixels hold four of 500 at most."
    for least in (90, 500, 1300, 10**9):
        for labels in (hierarchy.clusters(1.2, least), hierarchy.clusters(0.0, least)):
            sizes = np.bincount(label(hierarchy.at_pixels(labels), background=-1, connectivity=1).ravel())[1:]
            assert sizes.min() >= min(least, 2400)
    with pytest.warns(UserWarning, match=r"n_clusters=9: the photo has fewer segments of at least 500 pixels: [1-4]\."):
        hierarchy.clusters(1.2, 500, n_clusters=9)


def test_a_least_size_that_leaves_less_than_the_floor_is_no_surprise(hierarchy, recwarn):
    assert hierarchy.segments(level=1.0, min_size=10**9, floor=5).max() == 0 and not recwarn


def test_a_speck_is_a_ten_thousandth_of_the_photo_at_the_size_of_the_patches():
    "800,000 pixels, which patches see as 400,000: a speck has fewer than 80, there 40."
    large = Hierarchy(np.full((800, 1000, 3), 0.5, np.float32), np.ones((20, 25, 1), np.float32))
    assert large.scaled(None) == pytest.approx(40, rel=0.01)
    assert large.scaled(1000) == pytest.approx(500, rel=0.01)


def test_halves_do_not_split_off_a_speck():
    "Two halves and one pixel, which merges last."
    two = Hierarchy(np.zeros((150, 150, 3), np.float32), np.ones((15, 15, 1), np.float32))
    patches = np.where(np.arange(150) < 75, 0, 1)[None].repeat(150, 0)
    patches[0, 0] = 2
    tree = MergeTree(np.array([[0, 1], [0, 2]]), np.array([1.0, 5.0]), np.array([11_249.0, 1.0]))
    two.__dict__ |= {"patches": patches, "tree": tree}
    half = two.halves(np.ones(3, bool))
    assert half[0] != half[1] and half[0] == half[2]


def test_halves_are_connected_and_together_the_whole(hierarchy):
    inside = hierarchy.segments(3) == 1
    half = hierarchy.halves(inside)
    assert half.any() and (half <= inside).all() and (half != inside).any()
    for part in (half, inside & ~half): assert label(hierarchy.at_pixels(part), connectivity=1).max() == 1
    with pytest.raises(InputError, match="single patch"): hierarchy.halves(np.arange(len(inside)) == 0)


def test_a_patch_with_two_colours_is_shared_out(hierarchy):
    "Both strokes lie in one flat patch of the photo: its pixels go to the nearer one."
    flat = Hierarchy(np.full((20, 30, 3), 0.5, np.float32), np.ones((20, 30, 1), np.float32))
    strokes = np.zeros((20, 30), int)
    strokes[:, 3], strokes[:, 26] = 1, 2
    np.testing.assert_array_equal(flat.seeded(strokes), np.where(np.arange(30) < 15, 1, 2)[None].repeat(20, 0))


# --- pixels without data

def test_islands_of_a_merge_tree():
    "Two islands of two patches each: the tree joins them last, at a level that no cut reaches."
    colours = np.zeros((2, 5, 1), np.float32)
    colours[:, 1], colours[:, 3], colours[:, 4] = 1, 2, 5
    patches = np.tile([0, 1, -1, 2, 3], (2, 1))
    tree = merge_order(region_graph(patches, colours))
    assert sorted(map(sorted, tree.edges[:2].tolist())) == [[0, 1], [2, 3]]
    assert np.isinf(tree.levels).tolist() == [False, False, True]
    assert cut(tree).tolist() == cut(tree, n_segments=1).tolist() == cut(tree, min_size=99).tolist() == [0, 0, 1, 1]
    assert len(np.unique(cut(tree, n_segments=4))) == 4
    contours = contour_map(tree, patches)
    assert (contours[:, 0] > 0).all() and (contours[:, [1, 2, 4]] == 0).all() and (contours[:, 3] > 0).all()


def test_what_is_left_out_counts_nowhere():
    "Sizes, means, borders and steps of the pixels with data, by hand."
    colours = np.array([[[1], [3], [100], [7]]], np.float32)
    patches = np.array([[0, 0, -1, 1]])
    graph = region_graph(patches, colours)
    assert graph.sizes.tolist() == [2, 1] and graph.features.ravel().tolist() == [2, 7]
    assert graph.edges.shape == (0, 2) and graph.inner[:, 0].tolist() == [1, 0]


def test_patches_of_the_pixels_with_data():
    """Each is connected, each pixel with data is in one, none reaches over a gap; an even picture has one for each
    island."""
    from scipy import ndimage
    rng = np.random.default_rng(0)
    valid = rng.random((30, 40)) < 0.8
    for image in (rng.random((30, 40, 3), np.float32), np.full((30, 40, 3), 0.5, np.float32)):
        patches = basins(perceived(image, valid), valid=valid)
        assert ((patches >= 0) == valid).all() and np.unique(patches[valid]).tolist() == list(range(patches.max() + 1))
        for i in range(patches.max() + 1): assert ndimage.label(patches == i)[1] == 1
    assert patches.max() + 1 == ndimage.label(valid)[1]


def test_more_small_islands_than_can_be_joined():
    "Each goes to the large one that it is most like."
    valid = np.zeros((80, 80), bool)
    valid[::2, ::2] = True
    image = np.where(np.arange(80) < 40, 0.2, 0.8)[None, :, None].repeat(80, 0).astype(np.float32)
    h = Hierarchy(image, np.ones((80, 80, 1), np.float32), valid)
    assert h.islands == 1600 > MOST_JOINED
    labels = h.at_pixels(h.clusters(1.0, n_clusters=2))
    assert len(np.unique(labels[::2, :40:2])) == len(np.unique(labels[::2, 40::2])) == 1
    assert labels[0, 0] != labels[0, 78]
