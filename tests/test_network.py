"""The network: sizes, what each pixel sees, the seeded start, labels at another size."""
import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dynaseg.images import InputError, filled
from dynaseg.network import ResponseNet, at_least, cnn, cnn_net, draw_weights, labels_at, over_valid


def n_parameters(net):
    return sum(w.numel() for w in net.parameters())


# --- sizes and layers

def test_the_papers_network_has_193900_parameters():
    assert n_parameters(cnn_net(3, M=3, p=100, q=100)) == 193_900


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.integers(2, 9))
def test_parameters_and_shapes(C, M, p, q):
    net = cnn_net(C, M, p, q)
    blocks = (9 * C * p + p + 2 * p) + (M - 1) * (9 * p * p + p + 2 * p)  # convolution with bias, batch norm
    assert n_parameters(net) == blocks + (p * q + q + 2 * q)
    x = torch.rand(1, C, 5, 4)
    assert net.features(x).shape == (1, p, 5, 4) and net(x).shape == (1, q, 5, 4)


def test_blocks_are_convolution_relu_batch_norm():
    net = cnn_net(3, M=2, p=6, q=5)
    assert [type(layer) for layer in net.features] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d] * 2
    assert [type(layer) for layer in net.classifier] == [nn.Conv2d, nn.BatchNorm2d]
    assert net.classifier[0].kernel_size == (1, 1)
    assert net.training and not any(w.is_cuda for w in net.parameters())


def test_response_is_normalised_over_the_picture():
    "Batch norm in training mode: each channel has mean 0 and variance 1 over the pixels of the one image."
    r = cnn_net(3, M=1, p=8, q=8)(torch.rand(1, 3, 30, 30)).double()
    torch.testing.assert_close(r.mean((0, 2, 3)), torch.zeros(8, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(r.var((0, 2, 3), correction=0), torch.ones(8, dtype=torch.float64), atol=1e-2, rtol=0)


def test_each_pixel_sees_the_neighbourhood_that_M_blocks_give():
    "M convolutions 3 x 3 without pooling or stride: 2 M + 1 pixels a side."
    for M in (1, 2, 3):
        net, x = cnn_net(1, M, 4, 4).eval(), torch.zeros(1, 1, 15, 15)
        x[0, 0, 7, 7] = 1
        touched = (net(x) - net(torch.zeros_like(x))).abs().amax(1)[0] > 1e-7
        rows = touched.any(1).nonzero().ravel()
        assert 7 - M <= rows.min() and rows.max() <= 7 + M and len(rows) > 2 * (M - 1) + 1


def test_any_features_can_be_classified():
    net = ResponseNet(nn.AvgPool2d(3, stride=1, padding=1), p=3, q=7)
    assert net(torch.rand(1, 3, 6, 6)).shape == (1, 7, 6, 6)


@pytest.mark.parametrize("name, value", [("in_channels", 0), ("M", 0), ("M", 1.5), ("p", -3), ("p", "100"), ("q", 1),
                                         ("q", True), ("q", None)])
def test_bad_sizes_are_named(name, value):
    with pytest.raises(InputError, match=rf"{name}={value!r}; expected a whole number of at least "
                                         rf"{2 if name == 'q' else 1}"):
        cnn_net(**{"in_channels": 3, name: value})


# --- the seeded start

def test_weights_depend_on_the_seed_alone():
    def state(seed):
        return torch.cat([w.detach().ravel() for w in cnn_net(3, 1, 8, 8, seed).parameters()])
    assert state(5).equal(state(5)) and not state(5).equal(state(6))
    torch.manual_seed(99)
    assert state(5).equal(state(5))


def test_initial_weights_are_pytorchs_own_for_the_seed():
    state = torch.get_rng_state()
    torch.manual_seed(3)
    features = cnn(2, M=1, p=4)
    expected = ResponseNet(features, p=4, q=5).state_dict()
    torch.set_rng_state(state)
    got = cnn_net(2, M=1, p=4, q=5, seed=3).state_dict()
    assert all(got[name].equal(value) for name, value in expected.items())


def test_the_users_random_numbers_go_on_undisturbed():
    state = torch.get_rng_state()
    cnn_net(3, 1, 4, 4, seed=1)
    assert torch.get_rng_state().equal(state)


def test_threads_do_not_draw_each_others_weights():
    "All of PyTorch's layers draw from one generator."
    def weights(seed):
        return torch.cat([weight.detach().flatten() for weight in cnn_net(3, p=64, q=64, seed=seed).parameters()])
    with ThreadPoolExecutor(4) as pool:
        assert all(drawn.equal(weights(seed)) for seed, drawn in enumerate(pool.map(weights, range(50))))


@pytest.mark.parametrize("C, p, q", [(3, 100, 100), (2, 40, 30)])
def test_weights_are_uniform_within_one_over_the_root_of_what_a_layer_sees(C, p, q):
    "9 C values for the first convolution, 9 p for the next, p for the classifier; batch norms start at 1 and 0."
    net = cnn_net(C, M=2, p=p, q=q)
    for layer, fan_in in ((net.features[0], 9 * C), (net.features[3], 9 * p), (net.classifier[0], p)):
        bound = fan_in**-0.5
        for weight in (layer.weight, layer.bias):
            assert weight.dtype == torch.float32 and weight.requires_grad and not weight.is_meta
            assert 0.8 * bound < weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)  # that of a uniform distribution
    for norm in (net.features[2], net.features[5], net.classifier[1]):
        assert (norm.weight.eq(1).all() and norm.bias.eq(0).all() and norm.running_mean.eq(0).all()
                and norm.running_var.eq(1).all())
        assert norm.num_batches_tracked == 0 and norm.num_batches_tracked.dtype == torch.int64


def test_only_layers_without_weights_get_some():
    "A layer that has weights keeps them; one on the device \"meta\" gets those that the generator gives."
    mine = nn.Conv2d(2, 3, 1)
    before = mine.weight.detach().clone()
    with torch.device("meta"): empty = nn.Conv2d(3, 4, 1, bias=False)
    empty.weight.requires_grad_(False)
    net = nn.Sequential(mine, empty)
    assert draw_weights(net, torch.Generator().manual_seed(0)) is net
    assert (net[0].weight.equal(before) and not net[1].weight.is_meta and net[1].bias is None
            and not net[1].weight.requires_grad)
    expected = torch.empty(4, 3, 1, 1).uniform_(-(3**-0.5), 3**-0.5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net[1].weight.detach(), expected)


# --- borders and precision

def test_replicated_borders_are_no_edges_and_zeros_are():
    "A picture of one colour: the nearest pixel is that colour, a zero is another."
    flat = torch.full((1, 3, 7, 8), 0.5)
    def varies(padding): return cnn(3, M=2, p=5, padding=padding).eval()(flat)[0].flatten(1).std(1).max().item() > 1e-6
    assert varies("zeros") and not varies("replicate")
    assert [layer.padding_mode for layer in cnn_net(3).features[::3]] == ["zeros"] * 3
    assert [layer.padding_mode for layer in cnn_net(3, padding="replicate").features[::3]] == ["replicate"] * 3


def test_the_response_has_the_pictures_precision_whatever_came_before():
    class Half(nn.Module):
        def forward(self, x): return x.bfloat16()
    net = ResponseNet(Half(), p=3, q=4)
    net.classifier[0].to(torch.bfloat16)
    assert net(torch.rand(1, 3, 5, 5)).dtype == torch.float32


def test_defaults_are_the_papers():
    layers = cnn(3)
    assert len(layers) == 9 and layers[0].out_channels == layers[6].in_channels == 100
    net = ResponseNet(layers)
    assert net.classifier[0].in_channels == net.classifier[0].out_channels == 100


@pytest.mark.parametrize("value, low, fine",
                         [(1, 1, True), (np.int64(7), 7, True), (0, 1, False), (6, 7, False), (2.0, 1, False),
                          (True, 1, False), ("3", 1, False)])
def test_at_least(value, low, fine):
    if fine: return at_least("n", value, low)
    with pytest.raises(InputError, match=rf"n={re.escape(repr(value))}; expected a whole number of at least {low}"):
        at_least("n", value, low)


# --- labels at another size

def slowly_enlarged(r, H, W):
    """The labels of a response map (q, h, w), enlarged one pixel and one label at a time; None where two labels are as
    good as equal."""
    q, h, w = r.shape
    def place(i, n, small):
        middle = (i + 0.5) * small / n - 0.5
        low = math.floor(middle)
        return max(low, 0), min(low + 1, small - 1), middle - low
    labels = [[None] * W for _ in range(H)]
    for i in range(H):
        top, bottom, down = place(i, H, h)
        for j in range(W):
            left, right, across = place(j, W, w)
            scores = [(1 - down) * ((1 - across) * c[top][left] + across * c[top][right])
                      + down * ((1 - across) * c[bottom][left] + across * c[bottom][right]) for c in r.tolist()]
            first, second = sorted(range(q), key=lambda c: -scores[c])[:2]
            if scores[first] - scores[second] > 1e-9: labels[i][j] = first
    return labels


@given(st.integers(2, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12),
       st.integers(1, 5), st.integers(0, 999))
def test_labels_at_is_the_argmax_of_the_enlarged_scores(q, h, w, H, W, strip, seed):
    r = torch.randn(q, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = labels_at(r, (H, W), strip)
    assert found.shape == (H, W) and found.dtype == torch.int64
    for row, expected in zip(found.tolist(), slowly_enlarged(r, H, W)):
        assert row == [label if right is None else right for label, right in zip(row, expected)]


def test_a_label_may_win_between_two_others():
    "In the middle the second label has 0.8 and the others 0.5; at the size of the response it wins nowhere."
    r = torch.tensor([[[1.0, 0.0]], [[0.8, 0.8]], [[0.0, 1.0]]])
    assert labels_at(r, (1, 2)).tolist() == [[0, 2]]
    assert labels_at(r, (1, 8)).tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]  # places 0, 0, 1/8, 3/8 ...: 0 leads below 1/5


def test_of_equal_scores_the_first_label_wins():
    assert labels_at(torch.zeros(3, 2, 2), (2, 2)).tolist() == [[0, 0], [0, 0]]
    assert labels_at(torch.zeros(3, 2, 2), (5, 4)).eq(0).all()


def test_a_border_of_three_labels_is_looked_at_in_every_strip():
    "The same labels however few rows are looked at together; with the last strip shorter than the others."
    r = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(1))
    whole = labels_at(r, (23, 20), 23)
    assert len(whole.unique()) == 3
    for strip in (1, 2, 5, 22, 64): assert labels_at(r, (23, 20), strip).equal(whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_places_are_exact_where_scores_are_not(dtype):
    "In half precision a place in a wide picture would be off by pixels."
    r = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert labels_at(r, (4, 3000)).equal(labels_at(r.float(), (4, 3000)))


# --- pixels without data

def test_a_batch_norm_over_the_pixels_with_data():
    """By hand: 1 and 3 have mean 2 and spread 1; the third pixel, whatever it holds, gets what its neighbour gets.

    Afterwards all is as it was."""
    norm = torch.nn.BatchNorm2d(1, eps=1e-12)
    for third in (99.0, -7.0):
        row = torch.tensor([1.0, 3, third]).reshape(1, 1, 1, 3)
        with over_valid(norm, torch.tensor([[True, True, False]])):
            torch.testing.assert_close(norm(row).flatten(), torch.tensor([-1.0, 1, 1]))
        assert norm(row).flatten()[2].abs() > 1 and "forward" not in vars(norm)


def test_a_network_does_not_see_what_has_no_data():
    "Nor do its gradients: other numbers under the hole change nothing, once the hole is filled from its rim."
    x = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(9, 11, dtype=torch.bool)
    valid[3:6, 4:9] = False
    found = []
    for other in (x, torch.where(valid, x, 5 - x)):
        net = cnn_net(3, M=2, p=4, q=5)
        with over_valid(net, valid): r = net(filled(other, valid))
        r[..., valid].square().sum().backward()
        found.append([r[..., valid], *(weight.grad for weight in net.parameters())])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_without_holes_nothing_is_changed():
    net, x = cnn_net(3, M=1, p=4, q=5), torch.rand(1, 3, 5, 6)
    with over_valid(net, None):
        assert torch.equal(net(x), net(x)) and not any("forward" in vars(layer) for layer in net.modules())
    plain = net(x)
    with over_valid(net, torch.ones(5, 6, dtype=torch.bool)): torch.testing.assert_close(net(x), plain)


def test_an_error_inside_leaves_the_network_as_it_was():
    norm = torch.nn.BatchNorm2d(1)
    with pytest.raises(ZeroDivisionError), over_valid(norm, torch.ones(2, 2, dtype=torch.bool)): 1 / 0
    assert "forward" not in vars(norm)
