"""The network: sizes, what each pixel sees, the seeded start, labels at another size."""
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dynaseg.images import InputError
from dynaseg.network import ResponseNet, cnn, cnn_net


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


@pytest.mark.parametrize("name, value", [("in_channels", 0), ("M", 0), ("M", 1.5), ("p", -3), ("p", "100"), ("q", 1), ("q", True), ("q", None)])
def test_bad_sizes_are_named(name, value):
    with pytest.raises(InputError, match=rf"{name}={value!r}; expected a whole number of at least {2 if name == 'q' else 1}"):
        cnn_net(**{"in_channels": 3, name: value})


# --- the seeded start

def test_weights_depend_on_the_seed_alone():
    state = lambda seed: torch.cat([w.detach().ravel() for w in cnn_net(3, 1, 8, 8, seed).parameters()])
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
    def weights(seed): return torch.cat([weight.detach().flatten() for weight in cnn_net(3, p=64, q=64, seed=seed).parameters()])
    with ThreadPoolExecutor(4) as pool:
        assert all(drawn.equal(weights(seed)) for seed, drawn in enumerate(pool.map(weights, range(50))))
