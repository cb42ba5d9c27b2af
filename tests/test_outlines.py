"""Merging superpixels to segments: the graph, the order, the cut, each against something slower or known beforehand."""
import math

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from skimage.measure import label

from dynaseg import segment
from dynaseg.images import load_image
from dynaseg.outlines import (SCALES, _Regions, basins, cut, means, merge_order, neighbour_steps, perceived, region_graph, shrunk, slope,
                              superpixels, texture, vote)
from dynaseg.labels import regions


@pytest.fixture(scope="module")
def scene():
    "A photo of (100, 150) pixels, its basins and their graph."
    image = load_image(skimage.data.astronaut()[:200:2, 100:400:2])
    patches = basins(perceived(image))
    return image, patches, region_graph(patches, perceived(image))


small_maps = arrays(np.int64, st.tuples(st.integers(2, 6), st.integers(2, 6)), elements=st.integers(0, 3)).map(regions)


@given(small_maps, st.integers(0, 2**32 - 1))
def test_the_graph_counts_every_pair_of_neighbours(patches, seed):
    colours = np.random.default_rng(seed).random((*patches.shape, 3)).astype(np.float32)
    graph, ((across, across2), (down, down2)) = region_graph(patches, colours), zip(*(neighbour_steps(colours, sigma) for sigma in SCALES))
    inner, border = np.zeros((patches.max() + 1, 3)), {}
    for (y, x), a in np.ndenumerate(patches):
        for dy, dx, *steps in ((0, 1, across, across2), (1, 0, down, down2)):
            if y + dy == patches.shape[0] or x + dx == patches.shape[1]: continue
            b = patches[y + dy, x + dx]
            line = inner[a] if a == b else border.setdefault((min(a, b), max(a, b)), np.zeros(4))
            line[:] += (1, *(g[y, x] for g in steps), 1)[:len(line)]  # without a network, texture is 1
    assert {tuple(e): tuple(np.round(l, 4)) for e, l in zip(graph.edges.tolist(), graph.border)} == {e: tuple(np.round(l, 4)) for e, l in border.items()}
    np.testing.assert_allclose(graph.inner, inner, atol=1e-4)
    np.testing.assert_allclose(graph.features, [colours[patches == a].mean(0) for a in range(patches.max() + 1)], atol=1e-5)


def slow_steps(colours, sigma, axis):
    "Step g from each pixel to the next one: the square root of how far the blurred colours of both are apart."
    smooth = np.stack([gaussian_filter(band, sigma, mode="nearest") for band in np.moveaxis(colours.astype(float), -1, 0)], -1)
    if axis: smooth = smooth.swapaxes(0, 1)
    g = [[sum((a - b) ** 2 for a, b in zip(one, other)) ** 0.25 for one, other in zip(*lines)] for lines in zip(smooth, smooth[1:])]
    return np.array(g).T if axis else np.array(g)


@pytest.mark.parametrize("sigma", [0.6, 2.4])
def test_steps_by_their_definition(sigma):
    colours = np.random.default_rng(0).random((7, 9, 3)).astype(np.float32)
    across, down = neighbour_steps(colours, sigma)
    assert across.shape == (7, 8) and down.shape == (6, 9)
    np.testing.assert_allclose(across, slow_steps(colours, sigma, 1), rtol=1e-3)
    np.testing.assert_allclose(down, slow_steps(colours, sigma, 0), rtol=1e-3)


def test_steps_on_a_ramp_by_hand():
    "Two bands that rise by 0.03 and 0.04 from pixel to pixel: far from the border a blur changes nothing, and g is the root of 0.05."
    colours = np.float32(np.arange(40)[None, :, None] * [0.03, 0.04]).repeat(30, 0)
    for sigma in SCALES:
        across, down = neighbour_steps(colours, sigma)
        np.testing.assert_allclose(across[:, 15:25], 0.05**0.5, rtol=1e-4)
        np.testing.assert_allclose(down, 0, atol=2e-3)


def test_a_graph_by_hand():
    """0 0 1
       0 2 2: two pairs inside 0, one inside 2, none inside 1; borders of one, two and one pair."""
    patches = np.array([[0, 0, 1], [0, 2, 2]])
    colours = np.random.default_rng(1).random((2, 3, 2)).astype(np.float32)
    graph = region_graph(patches, colours)
    assert graph.sizes.tolist() == [3, 1, 2] and graph.inner[:, 0].tolist() == [2, 0, 1]
    assert graph.edges.tolist() == [[0, 1], [0, 2], [1, 2]] and graph.border[:, 0].tolist() == [1, 2, 1]
    for column, sigma in ((1, 0.6), (2, 2.4)):  # fine, broad
        across, down = slow_steps(colours, sigma, 1), slow_steps(colours, sigma, 0)
        inner = [across[0, 0] + down[0, 0], 0, across[1, 1]]
        border = [across[0, 1], across[1, 0] + down[0, 1], down[0, 2]]
        np.testing.assert_allclose(graph.inner[:, column], inner, rtol=1e-3)
        np.testing.assert_allclose(graph.border[:, column], border, rtol=1e-3)
    assert graph.border[:, 3].tolist() == [1, 2, 1]  # without a network the texture is 1 everywhere
    np.testing.assert_allclose(graph.features, [(colours[0, 0] + colours[0, 1] + colours[1, 0]) / 3, colours[0, 2], (colours[1, 1] + colours[1, 2]) / 2], rtol=1e-6)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_basins_are_pieces_numbered_from_0(h, w, bands, seed):
    colours = np.random.default_rng(seed).random((h, w, bands)).astype(np.float32)
    patches = basins(colours)
    assert patches.shape == (h, w) and np.unique(patches).tolist() == list(range(patches.max() + 1))
    assert label(patches, background=-1, connectivity=2).max() == patches.max() + 1


def test_basins_meet_on_the_crest():
    "Two flat halves: the slope is highest between them, and nowhere else does a patch end."
    image = np.zeros((20, 30, 1)); image[:, 13:] = 1
    assert slope(image, 0.7)[10].argmax() in (12, 13)
    assert (np.diff(basins(image), axis=1) != 0).sum(0).nonzero()[0].tolist() == [12]


def test_a_photo_of_many_pixels_is_shrunk():
    assert shrunk(np.zeros((900, 1200, 2), np.float32)).shape == (547, 730, 2)
    small = np.random.default_rng(0).random((9, 8, 3)).astype(np.float32)
    assert np.array_equal(shrunk(small), small)


def test_features_hold_colours_and_the_distribution_of_labels():
    patches, colours = np.array([[0, 0, 1]]), np.zeros((1, 3, 3), np.float32)
    soft = np.float32([[[1, 0], [0, 1], [0, 1]]])
    np.testing.assert_allclose(region_graph(patches, colours, soft).features[:, 3:], [[0.5**0.5 / 2] * 2, [0, 0.5]], atol=1e-6)


@pytest.mark.parametrize("h, w, q", [(1, 1, 1), (1, 9, 2), (9, 2, 3), (14, 11, 5)])
def test_texture_by_its_definition(h, w, q):
    "Windows of labels left and right of each pixel, above and below it; at the border of the picture the last ones there are."
    soft = np.random.default_rng(0).dirichlet(np.ones(q), (h, w)).astype(np.float32)
    found, window = texture(soft, sigma=1.5, reach=2), np.stack([gaussian_filter(soft[..., i], 1.5, mode="nearest") for i in range(q)], -1)
    def hellinger(one, other): return np.sqrt(sum((np.sqrt(a) - np.sqrt(b)) ** 2 for a, b in zip(one, other)))
    for (y, x), value in np.ndenumerate(found):
        across = hellinger(window[y, max(x - 2, 0)], window[y, min(x + 2, w - 1)])
        down = hellinger(window[max(y - 2, 0), x], window[min(y + 2, h - 1), x])
        assert value == pytest.approx((across**2 + down**2) ** 0.5, abs=1e-4) and 0 <= value <= 2


def test_borders_hold_the_texture_along_them():
    "Of a softmax of half the size; both pixels of a pair have a share."
    patches = np.repeat([[0, 1]], 20, 0).repeat(20, 1)
    soft = np.eye(2, dtype=np.float32)[(np.arange(20) >= 10).astype(int)][None].repeat(10, 0)
    graph = region_graph(patches, np.zeros((20, 40, 3), np.float32), soft)
    along = texture(soft)[0, 9:11]  # the border lies between them, and they are alike
    assert graph.border[0, 0] == 20 and graph.border[0, 3] / 20 == pytest.approx(along.mean() + 0.01, rel=1e-3) and along[0] == pytest.approx(along[1], rel=1e-4)


def test_a_border_between_two_mixtures_outlives_others():
    "Two labels everywhere, and no step of colour that would tell: only how they are mixed changes, at one of three borders."
    rng = np.random.default_rng(0)
    patches = np.repeat([[0, 1, 2, 3]], 40, 0).repeat(40, 1)
    colours = rng.normal(0, 0.1, (40, 160, 3)).astype(np.float32)
    soft = np.eye(2, dtype=np.float32)[(rng.random((40, 160)) < np.where(np.arange(160) < 80, 0.2, 0.7)).astype(int)]
    for network, alone in ((soft, True), (soft[:, ::-1].copy(), True), (np.ones((40, 160, 1), np.float32), False)):
        graph = region_graph(patches, colours, network)
        cost = _Regions(graph).cost(*graph.edges.T, graph.border)
        assert (cost.argmax() == 1 and cost[1] > 1.2 * np.delete(cost, 1).max()) == alone


def slowly(graph):
    "The same merges by looking at all pairs each time."
    whole, order = _Regions(graph), []
    while pairs := [(a, b) for a, near in enumerate(whole.around) for b in near if a < b and whole.version[a] >= 0 <= whole.version[b]]:
        costs = [whole.cost(a, np.array([b]), whole.around[a][b][None])[0] for a, b in pairs]
        a, b = pairs[int(np.argmin(costs))]
        order.append(min(costs))
        if len(whole.around[a]) < len(whole.around[b]): a, b = b, a
        whole.join(a, b)
    return order


@given(small_maps, st.integers(0, 2**32 - 1))
def test_the_cheapest_merge_comes_first(patches, seed):
    colours = np.random.default_rng(seed).random((*patches.shape, 3)).astype(np.float32)
    graph = region_graph(patches, colours)
    pairs, costs = merge_order(graph)
    assert len(pairs) == patches.max()  # one region is left in the end
    np.testing.assert_allclose(costs, slowly(graph), rtol=1e-9)


def test_a_strong_border_outlives_weak_ones():
    image = np.full((12, 30, 1), 0.3, np.float32)
    image[:, 10:] = 0.33; image[:, 20:] = 0.8
    patches = np.repeat([[0, 1, 2]], 12, 0).repeat(10, 1)
    pairs, _ = merge_order(region_graph(patches, perceived(image)))
    assert set(pairs[0]) == {0, 1}


def test_a_border_counts_for_less_among_texture():
    rng = np.random.default_rng(0)
    image = np.full((40, 40, 1), 0.5, np.float32)
    image[:, 10:20] += 0.1  # above and below, the same step; below there is noise as well
    image[20:] += rng.normal(0, 0.1, (20, 40, 1))
    patches = np.zeros((40, 40), int)
    patches[:20, 10:] = 1; patches[20:] = 2; patches[20:, 10:] = 3
    graph = region_graph(patches, perceived(image.clip(0, 1)))
    whole = _Regions(graph)
    cost = {tuple(e): whole.cost(*e, b[None])[0] for e, b in zip(graph.edges, graph.border)}
    assert cost[0, 1] > cost[2, 3]


@pytest.fixture(scope="module")
def order(scene): return merge_order(scene[2])


@pytest.mark.parametrize("stop, floor", [(0, 1), (0.7, 9), (1.2, 1), (1.2, 600), (2, 30), (3, 3)])
def test_cuts_are_nested_and_keep_the_floor(scene, order, stop, floor):
    patches = scene[1]
    fine, coarse = cut(*order, stop, floor), cut(*order, stop + 0.5, floor)
    assert fine.max() + 1 >= coarse.max() + 1 >= min(floor, patches.max() + 1)
    assert len(np.unique(np.stack([fine, coarse]), axis=1).T) == fine.max() + 1  # no fine segment lies in two coarse ones
    assert label(fine[patches], background=-1, connectivity=2).max() == fine.max() + 1  # each is in one piece


def test_contrast_does_not_matter():
    image = load_image(skimage.data.coffee()[::4, ::4])
    colours = perceived(image)
    patches = basins(colours)
    assert (patches == basins(4 * colours)).all()
    one, other = (cut(*merge_order(region_graph(patches, c)), 1.3) for c in (colours, 4 * colours))
    assert (one == other).mean() > 0.98  # the same up to rounding


def test_means_of_any_maps():
    np.testing.assert_allclose(means(np.array([[0, 1, 1]]), np.array([[[1.0, 2], [3, 4], [5, 8]]])), [[1, 2], [4, 6]])


@pytest.mark.parametrize("bands", [1, 2, 3, 7])
def test_any_number_of_bands(bands, quick):
    image = np.random.default_rng(0).random((30, 40, bands)).astype(np.float32)
    image[:, 20:] *= 0.3
    seg = segment(image, preset="regions", **quick)
    assert seg.labels.shape == (30, 40) and seg.n_clusters >= seg.opt_nC
    assert label(seg.labels, background=-1, connectivity=2).max() == seg.n_clusters


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 9, 3), (9, 1, 1), (2, 2, 3)])
def test_tiny_and_flat_images(shape, quick):
    for image in (np.full(shape, 0.4, np.float32), np.random.default_rng(0).random(shape).astype(np.float32)):
        assert segment(image, preset="regions", **quick).labels.shape == shape[:2]


@pytest.mark.parametrize("shape", [(30, 40, 3), (800, 900, 3), (30, 40, 1), (800, 900, 2)])
def test_one_colour_is_one_segment(shape, quick):
    assert segment(np.full(shape, 0.3, np.float32), preset="regions", **quick | dict(min_labels=None, max_pixels=2000)).n_clusters == 1


def test_above_400_000_pixels_segments_are_enlarged(quick):
    image = np.zeros((700, 900, 3), np.uint8)
    image[:, 450:] = 255
    seg = segment(image, preset="regions", **quick | dict(max_pixels=2000))
    assert seg.labels.shape == (700, 900) and (seg.labels[:, 10] != seg.labels[:, -10]).all()


def test_the_floor_holds_whatever_the_stop(quick, photo):
    assert segment(photo, preset="regions", merging=1e9, min_labels=5, **quick).n_clusters >= 5
    assert segment(photo, preset="regions", merging=1e9, min_labels=None, **quick).n_clusters == 1


def test_what_the_network_has_learnt_has_a_say(scene):
    image, patches, graph = scene
    soft = np.zeros((*patches.shape, 2), np.float32)
    soft[:, :75, 0] = soft[:, 75:, 1] = 1
    order = merge_order(region_graph(patches, perceived(image), soft))
    assert (order[1] >= 0).all() and not np.allclose(order[1], merge_order(graph)[1])


# --- superpixels and votes
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([np.int64, np.uint8]), st.data())
def test_vote_is_the_majority_of_each_patch(h, w, dtype, data):
    draw = lambda high: np.array(data.draw(st.lists(st.integers(0, high), min_size=h * w, max_size=h * w)), dtype).reshape(h, w)
    labels, patches = draw(255 if dtype == np.uint8 else 5), draw(4)
    result = vote(labels, patches)
    assert result.shape == labels.shape
    for patch in np.unique(patches):
        inside = labels[patches == patch].tolist()
        assert set(result[patches == patch]) == {min(set(inside), key=lambda label: (-inside.count(label), label))}


def test_of_labels_with_as_many_votes_the_smallest_wins():
    "Patch 0: two votes for 4 and two for 2. Patch 1: three for 7, one for 0. Patch 5 has one pixel."
    labels, patches = np.array([[4, 2, 7, 7], [2, 4, 7, 0], [9, 9, 9, 9]]), np.array([[0, 0, 1, 1], [0, 0, 1, 1], [5, 3, 3, 3]])
    assert vote(labels, patches).tolist() == [[2, 2, 7, 7], [2, 2, 7, 7], [9, 9, 9, 9]]


@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30, 1), (20, 30, 12), (1, 2, 3), (2, 40, 3)])
def test_superpixels_are_connected_patches_numbered_from_0(shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    patches = superpixels(image)
    assert patches.shape == shape[:2] and sorted(np.unique(patches)) == list(range(patches.max() + 1))
    assert math.prod(superpixels(image, max_pixels=40).shape) <= 40 or min(shape[:2]) <= 2


def test_superpixels_see_edges_and_grow_with_their_scale(photo):
    two = np.zeros((20, 30, 3), np.float32)
    two[:, 13:] = 1
    patches = superpixels(two)  # the method blurs the edge, where a few narrow patches may lie
    assert len(np.unique(patches)) < 10 and len(np.unique(patches[:, :10])) == len(np.unique(patches[:, 16:])) == 1
    assert patches[0, 0] != patches[0, -1]
    assert superpixels(load_image(photo), 1).max() >= superpixels(load_image(photo), 1000).max()
