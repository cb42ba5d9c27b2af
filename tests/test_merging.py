"""Patches, borders, the merge tree and its cuts, each against something slower or known beforehand."""
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
from dynaseg.labels import regions
from dynaseg.merging import (SCALES, MergeTree, _Regions, basins, co_occurrence, cut, label_readings, means,
                              merge_order, neighbour_steps,
                              perceived, region_graph, resized, shrunk, slope, surprise, texture, whitened)


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
    graph, ((across, across2), (down, down2)) = region_graph(patches,
                                                             colours), zip(*(neighbour_steps(colours, sigma)
                                                                             for sigma in SCALES))
    inner, border = np.zeros((patches.max() + 1, 3)), {}
    for (y, x), a in np.ndenumerate(patches):
        for dy, dx, *steps in ((0, 1, across, across2), (1, 0, down, down2)):
            if y + dy == patches.shape[0] or x + dx == patches.shape[1]: continue
            b = patches[y + dy, x + dx]
            line = inner[a] if a == b else border.setdefault((min(a, b), max(a, b)), np.zeros(3))
            line[:] += (1, *(g[y, x] for g in steps))
    assert ({tuple(e): tuple(np.round(l, 4)) for e, l in zip(graph.edges.tolist(), graph.border)}
            == {e: tuple(np.round(l, 4)) for e, l in border.items()})
    np.testing.assert_allclose(graph.inner, inner, atol=1e-4)
    np.testing.assert_allclose(graph.features, [colours[patches == a].mean(0) for a in range(patches.max() + 1)],
                               atol=1e-5)


def slow_steps(colours, sigma, axis):
    "Step g from each pixel to the next one: the square root of how far the blurred colours of both are apart."
    smooth = np.stack([gaussian_filter(band, sigma, mode="nearest")
                       for band in np.moveaxis(colours.astype(float), -1, 0)], -1)
    if axis: smooth = smooth.swapaxes(0, 1)
    g = [[sum((a - b) ** 2 for a, b in zip(one, other)) ** 0.25 for one, other in zip(*lines)]
         for lines in zip(smooth, smooth[1:])]
    return np.array(g).T if axis else np.array(g)


@pytest.mark.parametrize("sigma", [0.6, 2.4])
def test_steps_by_their_definition(sigma):
    colours = np.random.default_rng(0).random((7, 9, 3)).astype(np.float32)
    across, down = neighbour_steps(colours, sigma)
    assert across.shape == (7, 8) and down.shape == (6, 9)
    np.testing.assert_allclose(across, slow_steps(colours, sigma, 1), rtol=1e-3)
    np.testing.assert_allclose(down, slow_steps(colours, sigma, 0), rtol=1e-3)


def test_steps_on_a_ramp_by_hand():
    """Two bands that rise by 0.03 and 0.04 from pixel to pixel: far from the border a blur changes nothing, and g is
    the root of 0.05."""
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
    assert graph.border.shape == (3, 3)  # without a network there are no readings of labels
    np.testing.assert_allclose(graph.features,
                               [(colours[0, 0] + colours[0, 1] + colours[1, 0]) / 3, colours[0, 2],
                                (colours[1, 1] + colours[1, 2]) / 2], rtol=1e-6)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_basins_are_pieces_numbered_from_0(h, w, bands, seed):
    colours = np.random.default_rng(seed).random((h, w, bands)).astype(np.float32)
    patches = basins(colours)
    assert patches.shape == (h, w) and np.unique(patches).tolist() == list(range(patches.max() + 1))
    assert label(patches, background=-1, connectivity=1).max() == patches.max() + 1


def test_basins_meet_on_the_crest():
    "Two flat halves: the slope is highest between them, and nowhere else does a patch end."
    image = np.zeros((20, 30, 1))
    image[:, 13:] = 1
    assert slope(image, 0.7)[10].argmax() in (12, 13)
    assert (np.diff(basins(image), axis=1) != 0).sum(0).nonzero()[0].tolist() == [12]


def test_a_photo_of_many_pixels_is_shrunk():
    assert shrunk(np.zeros((900, 1200, 2), np.float32)).shape == (547, 730, 2)
    small = np.random.default_rng(0).random((9, 8, 3)).astype(np.float32)
    assert np.array_equal(shrunk(small), small)
    np.testing.assert_allclose(resized(np.ones((6, 8, 2), np.float32), (3, 4)), 1, rtol=1e-6)


def test_features_hold_colours_and_the_distribution_of_labels():
    patches, colours = np.array([[0, 0, 1]]), np.zeros((1, 3, 3), np.float32)
    soft = np.float32([[[1, 0], [0, 1], [0, 1]]])
    np.testing.assert_allclose(region_graph(patches, colours, soft).features[:, 3:], [[0.5**0.5 / 2] * 2, [0, 0.5]],
                               atol=1e-6)


@pytest.mark.parametrize("h, w, q", [(1, 1, 1), (1, 9, 2), (9, 2, 3), (14, 11, 5)])
def test_texture_by_its_definition(h, w, q):
    """Windows of labels left and right of each pixel, above and below it; at the border of the picture the last ones
    there are."""
    soft = np.random.default_rng(0).dirichlet(np.ones(q), (h, w)).astype(np.float32)
    found, window = texture(soft, sigma=1.5,
                            reach=2), np.stack([gaussian_filter(soft[..., i], 1.5, mode="nearest") for i in range(q)],
                                               -1)
    def hellinger(one, other): return np.sqrt(sum((np.sqrt(a) - np.sqrt(b)) ** 2 for a, b in zip(one, other)))
    for (y, x), value in np.ndenumerate(found):
        across = hellinger(window[y, max(x - 2, 0)], window[y, min(x + 2, w - 1)])
        down = hellinger(window[max(y - 2, 0), x], window[min(y + 2, h - 1), x])
        assert value == pytest.approx((across**2 + down**2) ** 0.5, abs=1e-4) and 0 <= value <= 2


def test_co_occurrence_by_hand():
    """0 1 0 1 over 2 2 2 2, pairs one pixel apart: three 0-1 and three 2-2 across, two 0-2 and two 1-2 down.

    Of 20 ordered pairs 6 are 0-1, 6 are 2-2, 4 each are 0-2 and 1-2; 0 and 1 stand in 5 each, 2 in 10."""
    soft = np.eye(3, dtype=np.float32)[[[0, 1, 0, 1], [2, 2, 2, 2]]]
    expected = np.array([[0, 3 / 20, 2 / 20], [3 / 20, 0, 2 / 20], [2 / 20, 2 / 20, 6 / 20]])
    chance = np.outer([0.25, 0.25, 0.5], [0.25, 0.25, 0.5])
    np.testing.assert_allclose(co_occurrence(soft, apart=1), (expected + 1e-5) / (chance + 1e-5), rtol=1e-6)


@pytest.mark.parametrize("h, w, q", [(1, 1, 1), (1, 9, 2), (9, 2, 3), (14, 11, 5)])
def test_surprise_by_its_definition(h, w, q):
    "Pair by pair: how often the labels of the windows on both sides stand together, against each window with itself."
    soft = np.random.default_rng(0).dirichlet(np.full(q, 0.3), (h, w)).astype(np.float32)
    window = np.stack([gaussian_filter(soft[..., i], 1.5, mode="nearest") for i in range(q)], -1)
    chance = co_occurrence(soft, 4)
    def mean(one, other): return sum(chance[k, l] * one[k] * other[l] for k in range(q) for l in range(q))
    def unlikely(one, other):
        return max(0, -np.log(max(mean(one, other) / (mean(one, one) * mean(other, other)) ** 0.5, 1e-3)))
    for (y, x), value in np.ndenumerate(surprise(soft, sigma=1.5, reach=2)):
        across = unlikely(window[y, max(x - 2, 0)], window[y, min(x + 2, w - 1)])
        down = unlikely(window[max(y - 2, 0), x], window[min(y + 2, h - 1), x])
        assert value == pytest.approx(max(across, down), abs=1e-3)


def test_a_pattern_holds_no_surprise():
    """Stripes of two labels beside a third: texture sees every stripe, surprise the end of the stripes alone.

    One label everywhere holds none."""
    labels = np.repeat([np.r_[np.arange(60) // 6 % 2, np.full(60, 2)]], 40, 0)
    soft = np.eye(3, dtype=np.float32)[labels]
    found, mixture = surprise(soft, sigma=2, reach=2)[20], texture(soft, sigma=2, reach=2)[20]
    assert 57 <= found.argmax() <= 62 and found[60] > 3 * found[10:50].max()
    assert mixture[60] < 1.5 * mixture[10:50].max()
    assert not surprise(np.ones((9, 9, 1), np.float32)).any()


def test_borders_hold_the_readings_along_them():
    "Of a softmax of half the size; both pixels of a pair have a share."
    patches = np.repeat([[0, 1]], 20, 0).repeat(20, 1)
    soft = np.eye(2, dtype=np.float32)[(np.arange(20) >= 10).astype(int)][None].repeat(10, 0)
    graph = region_graph(patches, np.zeros((20, 40, 3), np.float32), soft)
    # the border lies between them
    expected = [reading[0, 9:11].mean() + 0.01 for reading in (texture(soft), texture(soft, 10, 8), surprise(soft))]
    assert graph.border[0, 0] == 20
    np.testing.assert_allclose(graph.border[0, 3:] / 20, expected, rtol=1e-3)
    assert label_readings(soft).shape == (10, 20, 3)


def test_whitened_by_hand():
    """Two features, four regions in a square; the pairs that differ in the first feature are likely one thing (weight
    1), the others are not (0).
    Within things only the first varies, by 2: its mean square is 4, and 5 % of the mean of 4 and 0 is added to both,
    0.1."""
    features = np.array([[0, 0], [2, 0], [0, 1], [2, 1.0]])
    edges = np.array([[0, 1], [2, 3], [0, 2], [1, 3]])
    found = whitened(features, edges, np.array([1, 1, 0, 0]))
    first, second = (np.linalg.norm(found[a] - found[b]) for a, b in ((0, 1), (0, 2)))
    assert first / second == pytest.approx((4 / 4.1) ** 0.5 / (1 / 0.1) ** 0.5)
    assert (found**2).sum(1).mean() == pytest.approx(1) and found.mean(0) == pytest.approx(0)


def test_whitened_features_that_do_not_vary():
    for features in (np.ones((3, 2)), np.zeros((1, 4))):
        edges = np.array([[0, 1], [1, 2]])[:len(features) - 1]
        assert not whitened(features, edges.reshape(-1, 2), np.ones(len(edges))).any()


def test_features_of_regions_that_do_not_touch():
    "No pair tells what is likely one thing: the distances stay as they are, up to one factor."
    features = np.array([[0, 0], [3, 4], [6, 0.0]])
    found = whitened(features, np.zeros((0, 2), int), np.zeros(0))
    assert (found**2).sum(1).mean() == pytest.approx(1)
    assert np.linalg.norm(found[0] - found[1]) / np.linalg.norm(found[0] - found[2]) == pytest.approx(5 / 6)


def test_a_border_between_two_mixtures_outlives_others():
    """Two labels everywhere, and no step of colour that would tell: only how they are mixed changes, at one of three
    borders."""
    rng = np.random.default_rng(0)
    patches = np.repeat([[0, 1, 2, 3]], 40, 0).repeat(40, 1)
    colours = rng.normal(0, 0.1, (40, 160, 3)).astype(np.float32)
    soft = np.eye(2, dtype=np.float32)[(rng.random((40, 160)) < np.where(np.arange(160) < 80, 0.2, 0.7)).astype(int)]
    for network, alone in ((soft, True), (soft[:, ::-1].copy(), True), (np.ones((40, 160, 1), np.float32), False)):
        graph = region_graph(patches, colours, network)
        cost = _Regions(graph).cost
        assert (cost.argmax() == 1 and cost[1] > 1.2 * np.delete(cost, 1).max()) == alone


def neighbours(labels):
    "All pairs of pixels side by side or one below the other, by walking: ((y, x), (y, x), axis)."
    for y, x in np.ndindex(labels.shape):
        if y + 1 < labels.shape[0]: yield (y, x), (y + 1, x), 0
        if x + 1 < labels.shape[1]: yield (y, x), (y, x + 1), 1


def slow_outline(inside):
    "Sides of pixels of a region that another region or nothing lies beside."
    H, W = inside.shape
    def is_in(y, x): return 0 <= y < H and 0 <= x < W and inside[y, x]
    beside = ((0, 1), (1, 0), (0, -1), (-1, 0))
    return sum(not is_in(y + dy, x + dx) for y, x in np.argwhere(inside) for dy, dx in beside)


def slow_kappa(labels, colours, soft, a, b, distance):
    """What it costs to merge two regions, from the pixels: the formula of the notebook, written again.

    `distance` is that of their features."""
    cost = (distance + 0.02) ** 0.25 * min((labels == a).sum(), (labels == b).sum()) ** 0.045
    border = sum({labels[here], labels[there]} == {a, b} for here, there, _ in neighbours(labels))
    cost /= (border / min(slow_outline(labels == a), slow_outline(labels == b)) + 0.02) ** 0.2
    def mean(values): return sum(values) / max(len(values), 1)
    for sigma, power in ((0.6, 1), (2.4, 0.7)):
        every, inside, between = [], {a: [], b: []}, []
        steps = [slow_steps(colours, sigma, axis) for axis in (0, 1)]
        for here, there, axis in neighbours(labels):
            ends = {labels[here], labels[there]}
            every.append(steps[axis][here])
            if ends == {a, b}: between.append(steps[axis][here])
            elif len(ends) == 1 and ends <= {a, b}: inside[ends.pop()].append(steps[axis][here])
        cost *= (mean(between) / (min(mean(inside[a]), mean(inside[b])) + mean(every) + 1e-6)) ** power
    if soft is None: return cost
    for reading in (texture(soft), texture(soft, 10, 8), surprise(soft)):
        cost *= mean([(reading[here] + reading[there]) / 2 + 0.01 for here, there, _ in neighbours(labels)
                      if {labels[here], labels[there]} == {a, b}]) ** 0.13
    return cost


def slow_features(labels, colours, soft):
    "The mean colour of each region, and the root of its mean softmax, halved."
    means = {name: colours[labels == name].mean(0).tolist() for name in np.unique(labels).tolist()}
    if soft is None: return {name: np.array(mean) for name, mean in means.items()}
    return {name: np.array(mean + (np.sqrt(soft[labels == name].mean(0)) / 2).tolist()) for name, mean in means.items()}


def slow_metric(labels, colours, soft, touching):
    "The matrix of a Mahalanobis distance: inverse of how features differ across borders that look weak."
    f = slow_features(labels, colours, soft)
    first = {(a, b): slow_kappa(labels, colours, soft, a, b, np.linalg.norm(f[a] - f[b])) for a, b in touching}
    middle = np.median(list(first.values()))
    length = {pair: sum({labels[here], labels[there]} == set(pair) for here, there, _ in neighbours(labels))
              for pair in touching}
    weight = {pair: length[pair] * np.exp(-first[pair] / middle) for pair in touching}
    within = sum(weight[a, b] * np.outer(f[a] - f[b], f[a] - f[b]) for a, b in touching) / sum(weight.values())
    inverse = np.linalg.inv(within + 0.05 * np.trace(within) / len(within) * np.eye(len(within)))
    middle = np.mean(list(f.values()), 0)
    return inverse / np.mean([(one - middle) @ inverse @ (one - middle) for one in f.values()])


def slow_order(labels, colours, soft=None):
    """The cost of every merge, one at a time and everything computed anew from the pixels.

    The features of a part are the means of those of its patches."""
    patches, labels, costs = labels, labels.copy(), []
    def touching():
        return sorted({tuple(sorted((labels[here], labels[there]))) for here, there, _ in neighbours(labels)
                       if labels[here] != labels[there]})
    metric = slow_metric(labels, colours, soft, touching())
    of_patch = slow_features(patches, colours, soft)
    def feature(name):
        return np.mean([of_patch[patch] for patch in patches[labels == name].tolist()], 0)  # a pixel, a vote
    def distance(a, b): return ((feature(a) - feature(b)) @ metric @ (feature(a) - feature(b))) ** 0.5
    while pairs := touching():
        cost, (a, b) = min((slow_kappa(labels, colours, soft, a, b, distance(a, b)), (a, b)) for a, b in pairs)
        costs.append(cost)
        labels[labels == b] = a
    return costs


@pytest.mark.parametrize("seed, network", [(0, False), (1, False), (2, True), (3, True)])
def test_merges_are_those_of_a_slow_reference(seed, network):
    """With a share of nothing a round does a single merge.

    The reference shares no code with the library but for the maps of texture and surprise."""
    rng = np.random.default_rng(seed)
    patches = regions(rng.integers(0, 3, (5, 6)))
    colours = rng.random((5, 6, 3)).astype(np.float32)
    soft = rng.dirichlet(np.ones(3), (5, 6)).astype(np.float32) if network else None
    costs = np.array(slow_order(patches, colours, soft))
    tree = merge_order(region_graph(patches, colours, soft), share=1e-9)
    np.testing.assert_allclose(tree.levels, np.maximum.accumulate(costs) / np.quantile(costs, 0.9), rtol=2e-3)


def test_readings_and_calm_have_their_powers():
    """Two regions by hand.

    The calmer one counts. A whitened distance of two regions of equal size is 2. Each region has two pixels and six
    sides, one of them on the border. The product of the readings is 2 ** 10, and counts with the power 0.13."""
    graph = region_graph(np.array([[0, 0, 1, 1]]), np.float32([[[0], [1], [5], [6]]]))
    for column in (1, 2): graph.border[0, column] = 4.0  # one pair on the border: its steps are 4
    graph.inner[:] = [[1, 1, 2], [1, 3, 1]]  # mean steps inside: fine 1 and 3, broad 2 and 1
    fine, broad = (1 + 3 + 4) / 3, (2 + 1 + 4) / 3  # mean steps of the whole, over three pairs
    expected = 4 / (1 + fine) * (4 / (1 + broad)) ** 0.7 * 2.02**0.25 * 2**0.045 / (1 / 6 + 0.02) ** 0.2
    assert _Regions(graph).cost[0] == pytest.approx(expected, rel=1e-5)
    read = graph._replace(border=np.concatenate([graph.border, [[4, 8, 32]]], 1))
    assert _Regions(read).cost[0] == pytest.approx(2**1.3 * expected, rel=1e-5)
    known = graph._replace(known=np.array([[7, 1, 0.0], [7, 1, 5]]))  # in units of their root mean square: 2 apart
    assert _Regions(known).cost[0] == pytest.approx(expected * 2.02**0.3, rel=1e-5)


def test_no_cut_joins_islands():
    tree = MergeTree(np.array([[0, 1], [1, 2]]), np.array([1.0, np.inf]), np.array([1.0, np.inf]))
    for labels in (cut(tree), cut(tree, n_segments=1), cut(tree, min_size=9)): assert labels.tolist() == [0, 0, 1]


def test_an_extractor_knows_a_border_that_colours_do_not_show():
    "Noise, in four patches side by side; the maps change between the first and the second, or the third and the last."
    patches = np.repeat([[0, 1, 2, 3]], 20, 0).repeat(20, 1)
    noise = perceived(np.random.default_rng(0).uniform(0.4, 0.6, (20, 80, 1)).astype(np.float32))
    for place, expected in (5, [0, 1, 1, 1]), (10, [0, 0, 1, 1]), (15, [0, 0, 0, 1]):
        maps = np.zeros((5, 20, 2), np.float32)
        maps[:, place:, 1] = 3
        tree = merge_order(region_graph(patches, noise, maps=maps))
        assert cut(tree, n_segments=2).tolist() == expected
        dull = merge_order(region_graph(patches, noise, maps=np.ones_like(maps)))
        plain = merge_order(region_graph(patches, noise))
        assert (dull.edges == plain.edges).all() and dull.levels == pytest.approx(plain.levels)


def test_regions_keep_their_sums_of_what_an_extractor_knows():
    patches = np.array([[0, 1], [2, 2]])
    graph = region_graph(patches, np.float32([[[0.1], [0.5]], [[0.9], [0.9]]]))
    whole = _Regions(graph._replace(known=np.array([[1.0, 0], [3, 0], [5, 6]])))
    apart = whole.table[0, whole.known] - whole.table[1, whole.known]
    whole.join(np.array([0, 0, 2]))
    means = whole.table[:, whole.known] / whole.table[:, :1]
    assert means[0, 0] - means[2, 0] == pytest.approx(apart[0] * 1.5)  # 2 and 5 are 3 apart, 1 and 3 are 2


def test_joining_adds_everything_up():
    """0 and 1 become one: pixels, features, pairs and steps, with those of the border between; both borders to 2 become
    one."""
    patches = np.array([[0, 1], [2, 2]])
    colours = np.float32([[[0.1], [0.5]], [[0.9], [0.9]]])
    graph = region_graph(patches, colours)
    whole = _Regions(graph)
    features = whole.table[:, 4] / whole.table[:, 0]
    whole.join(np.array([0, 0, 2]))
    assert whole.table[0, 0] == 2 and whole.table[0, 4] / 2 == pytest.approx((features[0] + features[1]) / 2)
    np.testing.assert_allclose(whole.table[0, 1:4], graph.border[0, :3])  # the pair between them lies inside now
    assert whole.ends.tolist() == [[0, 2]] and whole.border[0, 0] == 2
    np.testing.assert_allclose(whole.border[0], graph.border[1] + graph.border[2])


def components(n, edges):
    "Sets of connected places, by walking."
    near = {i: set() for i in range(n)}
    for a, b in edges:
        near[a].add(b)
        near[b].add(a)
    parts, left = [], set(range(n))
    while left:
        part, todo = set(), [left.pop()]
        while todo:
            a = todo.pop()
            part.add(a)
            todo += near[a] & left
            left -= near[a]
        parts.append(frozenset(part))
    return set(parts)


def as_sets(ids): return {frozenset(np.flatnonzero(ids == i).tolist()) for i in np.unique(ids)}


pictures = st.tuples(st.integers(0, 10**6), st.integers(0, 2))


def picture(seed, kind):
    "Noise, flat parts with ties, or a mosaic."
    rng = np.random.default_rng(seed)
    h, w = rng.integers(4, 30, 2)
    if kind == 0: return rng.random((h, w, 3), np.float32)
    if kind == 1: return (rng.integers(0, 3, (h, w, 1)) / 2).astype(np.float32)
    return np.kron(rng.random((h // 4 + 1, w // 4 + 1, 3)), np.ones((4, 4, 1))).astype(np.float32)


@given(pictures, st.floats(0, 2), st.integers(0, 60))
def test_claims_about_the_tree(which, level, min_size):
    colours = perceived(picture(*which))
    patches = basins(colours)
    n = patches.max() + 1
    graph = region_graph(patches, colours)
    tree = merge_order(graph)
    assert tree.edges.shape == (n - 1, 2) and (np.diff(tree.levels) >= 0).all()
    touching = set(map(tuple, graph.edges.tolist()))
    assert all(tuple(sorted(edge)) in touching for edge in tree.edges.tolist())
    assert len(components(n, tree.edges.tolist())) == 1  # it spans all patches
    kept = [edge for edge, l, small in zip(tree.edges.tolist(), tree.levels, tree.small) if l <= level
            or small < min_size]
    parts = cut(tree, level, min_size=min_size)
    assert as_sets(parts) == components(n, kept)
    pixels = parts[patches]
    assert label(pixels, background=-1, connectivity=1).max() == parts.max() + 1  # each segment is in one piece
    assert np.bincount(pixels.ravel()).min() >= min_size or parts.max() == 0
    coarse = cut(tree, 1.5 * level, min_size=min_size)
    # no fine segment lies in two coarse ones
    assert len(np.unique(np.stack([parts, coarse]), axis=1).T) == parts.max() + 1
    group = [{i} for i in range(n)]
    for (a, b), small in zip(tree.edges.tolist(), tree.small):
        assert small == min(graph.sizes[list(group[a])].sum(), graph.sizes[list(group[b])].sum())
        whole = group[a] | group[b]
        for i in whole: group[i] = whole


@given(pictures, st.integers(1, 40))
def test_as_many_segments_as_asked_for(which, wanted):
    colours = perceived(picture(*which))
    patches = basins(colours)
    tree = merge_order(region_graph(patches, colours))
    n = min(wanted, patches.max() + 1)
    fine = cut(tree, n_segments=n, min_size=5)
    assert fine.max() + 1 == n == label(fine[patches], background=-1, connectivity=1).max()
    if n > 1: assert len(np.unique(np.stack([fine, cut(tree, n_segments=n - 1, min_size=5)]), axis=1).T) == n


def test_a_cut_by_hand():
    "A chain of four: merges at .5, 1 and 2; the second one joins a speck of 3 pixels."
    tree = MergeTree(np.array([[0, 1], [2, 3], [1, 2]]), np.array([0.5, 1, 2]), np.array([10.0, 3, 20]))
    assert as_sets(cut(tree, 0.5)) == {frozenset({0, 1}), frozenset({2}), frozenset({3})}
    assert as_sets(cut(tree, 1)) == {frozenset({0, 1}), frozenset({2, 3})}
    assert as_sets(cut(tree, 0, min_size=4)) == {frozenset({0}), frozenset({1}), frozenset({2, 3})}
    assert as_sets(cut(tree, 0, min_size=3)) == {frozenset({i}) for i in range(4)}
    assert as_sets(cut(tree, n_segments=3, min_size=4)) == {frozenset({0}), frozenset({1}), frozenset({2, 3})}


def test_rounds_stay_close_to_single_merges(scene):
    "On a photo: the levels at which half and a tenth of the patches are left differ by a few per cent."
    one, rounds = (merge_order(scene[2], share) for share in (1e-9, 0.01))
    for share in (0.5, 0.9):
        assert np.quantile(rounds.levels, share) == pytest.approx(np.quantile(one.levels, share), rel=0.05)


def test_merging_takes_few_rounds_whatever_the_picture(monkeypatch):
    """Grain makes stars, one region with hundreds of neighbours.

    A round merges a share of the borders even so: rounds grow like a logarithm."""
    rounds = []
    class Counted(_Regions):
        def join(self, target):
            rounds[-1] += 1
            super().join(target)
    monkeypatch.setattr("dynaseg.merging._Regions", Counted)
    patches = []
    for n in (150, 300):
        grain = perceived(np.random.default_rng(0).gamma(1, 60, (n, n, 1)).clip(0, 255).astype(np.float32) / 255)
        graph = region_graph(basins(grain), grain)
        rounds.append(0)
        patches.append(len(graph.sizes))
        merge_order(graph)
    assert patches[1] > 3.5 * patches[0] and rounds[1] < 1.6 * rounds[0]


def test_a_strong_border_outlives_weak_ones():
    image = np.full((12, 30, 1), 0.3, np.float32)
    image[:, 10:] = 0.33
    image[:, 20:] = 0.8
    patches = np.repeat([[0, 1, 2]], 12, 0).repeat(10, 1)
    tree = merge_order(region_graph(patches, perceived(image)))
    assert set(tree.edges[0]) == {0, 1}


def test_a_border_counts_for_less_among_texture():
    rng = np.random.default_rng(0)
    image = np.full((40, 40, 1), 0.5, np.float32)
    image[:, 10:20] += 0.1  # above and below, the same step; below there is noise as well
    image[20:] += rng.normal(0, 0.1, (20, 40, 1))
    patches = np.zeros((40, 40), int)
    patches[:20, 10:], patches[20:] = 1, 2
    patches[20:, 10:] = 3
    graph = region_graph(patches, perceived(image.clip(0, 1)))
    cost = dict(zip(map(tuple, graph.edges.tolist()), _Regions(graph).cost))
    assert cost[0, 1] > cost[2, 3]


def test_contrast_does_not_matter():
    image = load_image(skimage.data.coffee()[::4, ::4])
    colours = perceived(image)
    patches = basins(colours)
    assert (patches == basins(4 * colours)).all()
    one, other = (cut(merge_order(region_graph(patches, c)), 1.3) for c in (colours, 4 * colours))
    assert (one == other).mean() > 0.98  # the same up to rounding


def test_means_of_any_maps():
    np.testing.assert_allclose(means(np.array([[0, 1, 1]]), np.array([[[1.0, 2], [3, 4], [5, 8]]])), [[1, 2], [4, 6]])


@pytest.mark.parametrize("bands", [1, 2, 3, 7])
def test_any_number_of_bands(bands, quick):
    image = np.random.default_rng(0).random((30, 40, bands)).astype(np.float32)
    image[:, 20:] *= 0.3
    seg = segment(image, preset="segments", **quick)
    assert seg.labels.shape == (30, 40) and label(seg.labels, background=-1, connectivity=1).max() == seg.n_clusters


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 9, 3), (9, 1, 1), (2, 2, 3)])
def test_tiny_and_flat_images(shape, quick):
    for image in (np.full(shape, 0.4, np.float32), np.random.default_rng(0).random(shape).astype(np.float32)):
        assert segment(image, preset="segments", **quick).labels.shape == shape[:2]


@pytest.mark.parametrize("shape", [(30, 40, 3), (600, 700, 3), (30, 40, 1), (600, 700, 2)])
def test_one_colour_is_one_segment(shape, quick):
    assert segment(np.full(shape, 0.3, np.float32), preset="segments",
                   **quick | dict(min_labels=None, max_pixels=2000)).n_clusters == 1


def test_above_400_000_pixels_segments_are_enlarged(quick):
    image = np.zeros((600, 700, 3), np.uint8)
    image[:, 350:] = 255
    seg = segment(image, preset="segments", **quick | dict(max_pixels=2000))
    assert seg.labels.shape == (600, 700) and (seg.labels[:, 10] != seg.labels[:, -10]).all()


def test_what_the_network_has_learnt_counts(scene):
    image, patches, graph = scene
    soft = np.zeros((*patches.shape, 2), np.float32)
    soft[:, :75, 0] = soft[:, 75:, 1] = 1
    tree = merge_order(region_graph(patches, perceived(image), soft))
    halves = cut(tree, n_segments=2)[patches]
    assert not np.allclose(tree.levels, merge_order(graph).levels)
    assert len(np.unique(halves)) == 2
