"""The network, the two losses and the weighting: sizes, hand-computed values, gradients, schedules."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from dynaseg.network import ResponseNet, cnn
from dynaseg.pretrained import response_net
from dynaseg.images import InputError
from dynaseg.loss import continuity, similarity
from dynaseg.fit import fit
from dynaseg.weighting import DEFAULT_MU, fixed, fsf, scf, weighting


def n_parameters(net):
    return sum(w.numel() for w in net.parameters())


def random_response(seed=0, shape=(1, 4, 5, 6), dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- features

def test_the_papers_network_has_193900_parameters():
    assert n_parameters(response_net(3, M=3, p=100, q=100)) == 193_900


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.integers(2, 9))
def test_parameters_and_shapes(C, M, p, q):
    net = response_net(C, M, p, q)
    blocks = (9 * C * p + p + 2 * p) + (M - 1) * (9 * p * p + p + 2 * p)  # convolution with bias, batch norm
    assert n_parameters(net) == blocks + (p * q + q + 2 * q)
    x = torch.rand(1, C, 5, 4)
    assert net.features(x).shape == (1, p, 5, 4) and net(x).shape == (1, q, 5, 4)


def test_blocks_are_convolution_relu_batch_norm():
    net = response_net(3, M=2, p=6, q=5)
    assert [type(layer) for layer in net.features] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d] * 2
    assert [type(layer) for layer in net.classifier] == [nn.Conv2d, nn.BatchNorm2d]
    assert net.classifier[0].kernel_size == (1, 1)
    assert net.training and not any(w.is_cuda for w in net.parameters())


def test_response_is_normalised_over_the_picture():
    "Batch norm in training mode: each channel has mean 0 and variance 1 over the pixels of the one image."
    r = response_net(3, M=1, p=8, q=8)(torch.rand(1, 3, 30, 30)).double()
    torch.testing.assert_close(r.mean((0, 2, 3)), torch.zeros(8, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(r.var((0, 2, 3), correction=0), torch.ones(8, dtype=torch.float64), atol=1e-2, rtol=0)


def test_each_pixel_sees_the_neighbourhood_that_M_blocks_give():
    "M convolutions 3 x 3 without pooling or stride: 2 M + 1 pixels a side."
    for M in (1, 2, 3):
        net, x = response_net(1, M, 4, 4).eval(), torch.zeros(1, 1, 15, 15)
        x[0, 0, 7, 7] = 1
        touched = (net(x) - net(torch.zeros_like(x))).abs().amax(1)[0] > 1e-7
        rows = touched.any(1).nonzero().ravel()
        assert 7 - M <= rows.min() and rows.max() <= 7 + M and len(rows) > 2 * (M - 1) + 1


def test_weights_depend_on_the_seed_alone():
    state = lambda seed: torch.cat([w.detach().ravel() for w in response_net(3, 1, 8, 8, seed).parameters()])
    assert state(5).equal(state(5)) and not state(5).equal(state(6))
    torch.manual_seed(99)
    assert state(5).equal(state(5))


def test_initial_weights_are_pytorchs_own_for_the_seed():
    state = torch.get_rng_state()
    torch.manual_seed(3)
    features = cnn(2, M=1, p=4)
    expected = ResponseNet(features, p=4, q=5).state_dict()
    torch.set_rng_state(state)
    got = response_net(2, M=1, p=4, q=5, seed=3).state_dict()
    assert all(got[name].equal(value) for name, value in expected.items())


def test_the_users_random_numbers_go_on_undisturbed():
    state = torch.get_rng_state()
    response_net(3, 1, 4, 4, seed=1)
    assert torch.get_rng_state().equal(state)


def test_any_features_can_be_classified():
    net = ResponseNet(nn.AvgPool2d(3, stride=1, padding=1), p=3, q=7)
    assert net(torch.rand(1, 3, 6, 6)).shape == (1, 7, 6, 6)


@pytest.mark.parametrize("name, value", [("in_channels", 0), ("M", 0), ("M", 1.5), ("p", -3), ("p", "100"), ("q", 1), ("q", True), ("q", None)])
def test_bad_sizes_are_named(name, value):
    with pytest.raises(InputError, match=rf"{name}={value!r}; expected a whole number of at least {2 if name == 'q' else 1}"):
        response_net(**{"in_channels": 3, name: value})


# --- losses

@pytest.mark.parametrize("loss", [similarity, continuity])
def test_losses_are_scalars_that_carry_a_gradient(loss):
    r = random_response(dtype=torch.float32).requires_grad_()
    value = loss(r)
    assert value.shape == () and value.dtype == torch.float32 and value.requires_grad


FLOATS = st.floats(-50, 50, width=64)
RESPONSES = hnp.arrays(np.float64, st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(1, 4)), elements=FLOATS)


@given(RESPONSES)
def test_similarity_is_the_brute_force_sum(r):
    "-log of the softmax at the largest response, pixel by pixel, with Python's own floats."
    q, H, W = r.shape
    total = 0.0
    for y in range(H):
        for x in range(W):
            s = [float(v) for v in r[:, y, x]]
            total += math.log(math.fsum(math.exp(v - max(s)) for v in s))
    assert similarity(torch.tensor(r)[None]).item() == pytest.approx(total / (H * W), rel=1e-9, abs=1e-12)


@given(RESPONSES)
def test_continuity_is_the_brute_force_sum(r):
    q, H, W = r.shape
    down = [abs(r[c, y + 1, x] - r[c, y, x]) for c in range(q) for y in range(H - 1) for x in range(W)]
    across = [abs(r[c, y, x + 1] - r[c, y, x]) for c in range(q) for y in range(H) for x in range(W - 1)]
    expected = sum(math.fsum(d) / len(d) for d in (down, across) if d)
    assert float(continuity(torch.tensor(r)[None])) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(RESPONSES, st.floats(-9, 9))
def test_similarity_bounds_and_invariances(r, shift):
    t = torch.tensor(r)[None]
    value = similarity(t).item()
    assert 0 <= value <= math.log(t.shape[1]) + 1e-12
    assert similarity(t + shift).item() == pytest.approx(value, abs=1e-9)  # softmax does not see a common shift
    for same in (t.flip(1), t.flip(2), t.flip(3), t.transpose(2, 3)): assert similarity(same).item() == pytest.approx(value, abs=1e-12)
    assert similarity(t * 2).item() <= value + 1e-12  # more decided, less loss


@given(RESPONSES, st.floats(-9, 9))
def test_continuity_invariances(r, number):
    t = torch.tensor(r)[None]
    value = float(continuity(t))
    assert value >= 0 and float(continuity(t + number)) == pytest.approx(value, abs=1e-9)
    assert float(continuity(t * number)) == pytest.approx(value * abs(number), rel=1e-9, abs=1e-9)
    for same in (t.flip(1), t.flip(2), t.flip(3), t.transpose(2, 3)): assert float(continuity(same)) == pytest.approx(value, abs=1e-9)


def test_hand_computed_2x2():
    "Two labels; scores (ln 3, 0) give 3 : 1, (0, 0) give 1 : 1."
    a = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    r = torch.stack([a, torch.zeros(2, 2)])[None]
    assert similarity(r).item() == pytest.approx((math.log(4 / 3) + 3 * math.log(2)) / 4, rel=1e-6)
    # first channel: |0 - ln 3| in one of two vertical pairs and one of two horizontal; second: nothing. Mean over four pairs each.
    assert continuity(r).item() == pytest.approx(2 * math.log(3) / 4, rel=1e-6)


def test_hand_computed_3x3():
    r = torch.arange(9.0).reshape(1, 1, 3, 3)  # rows differ by 3, columns by 1
    assert continuity(r).item() == 3 + 1
    assert continuity(torch.cat([r, 2 * r], 1)).item() == (3 + 6) / 2 + (1 + 2) / 2


def test_means_are_taken_by_direction():
    "A 2 x 5 map has 5 vertical pairs and 8 horizontal ones; each direction counts as one."
    r = torch.zeros(1, 1, 2, 5)
    r[0, 0, 1] = 1
    assert continuity(r).item() == 1
    assert continuity(r.transpose(2, 3)).item() == 1


@pytest.mark.parametrize("shape, expected", [((1, 2, 1, 2), 1.0), ((1, 2, 2, 1), 1.0), ((1, 2, 1, 1), 0.0)])
def test_continuity_of_strips_is_a_number_not_nan(shape, expected):
    r = torch.zeros(shape).flatten(2)
    r[..., -1] = 1.0 if r.shape[2] > 1 else 0.0
    value = continuity(r.reshape(shape))
    assert torch.is_tensor(value) and value.item() == expected


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_float32_does_not_overflow(scale):
    r = random_response() * scale
    for loss in (similarity, continuity): assert loss(r.float()).item() == pytest.approx(loss(r).item(), rel=1e-4, abs=1e-6 * scale)


@pytest.mark.parametrize("loss", [similarity, continuity])
def test_gradients_against_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, random_response(1).requires_grad_(), eps=1e-7, atol=1e-6)


def test_similarity_gradient_is_softmax_minus_its_own_argmax():
    r = random_response(2).requires_grad_()
    gradient, = torch.autograd.grad(similarity(r), r)
    hot = F.one_hot(r.argmax(1), r.shape[1]).movedim(-1, 1)
    torch.testing.assert_close(gradient, (r.softmax(1) - hot).detach() / 30)


def unseen(M):
    "The biases that shift a whole channel of the response, or would if no batch norm came after: differences do not see them."
    return {f"features.{3 * M - 1}.bias", "classifier.0.bias", "classifier.1.bias"}


@pytest.mark.parametrize("M", [1, 2, 3])
def test_continuity_reaches_every_weight_but_three_biases(M):
    net = response_net(3, M, p=6, q=6)
    continuity(net(torch.rand(1, 3, 12, 12))).backward()
    assert {name for name, weight in net.named_parameters() if weight.grad.abs().max() < 1e-6} == unseen(M)


def test_continuity_moves_every_weight_in_a_fit():
    "One update with the term and one without it differ in every weight that it sees: inside the loop nothing is detached."
    x = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    after = []
    for w in (0.0, 10.0):
        net = response_net(3, M=2, p=6, q=6)
        list(fit(net, x, lambda q_prime: w, T=1))
        after.append(dict(net.named_parameters()))
    assert {name for name in after[0] if (after[0][name] - after[1][name]).abs().max() < 1e-5} == unseen(2)


# --- weighting

Q_PRIMES = st.integers(1, 1000)
MUS = st.floats(0.01, 1000)


@given(Q_PRIMES, MUS)
def test_schedules_by_their_equations(q_prime, mu):
    assert fsf(mu)(q_prime) == pytest.approx(q_prime / mu)
    assert scf(mu)(q_prime) == pytest.approx(mu / q_prime)
    assert fixed(mu)(q_prime) == mu
    assert fsf(mu)(q_prime) * scf(mu)(q_prime) == pytest.approx(1)
    for name in ("fsf", "scf", "fixed"): assert weighting(name, mu)(q_prime) == {"fsf": fsf, "scf": scf, "fixed": fixed}[name](mu)(q_prime)


@given(MUS)
def test_fsf_falls_and_scf_rises_while_labels_merge(mu):
    merging = range(100, 0, -1)
    for name, sign in (("fsf", -1), ("scf", 1), ("fixed", 0)):
        steps = np.sign(np.diff([weighting(name, mu)(q) for q in merging]))
        assert (steps == sign).all()


def test_the_papers_constants():
    assert DEFAULT_MU == {"fsf": 15, "scf": 50, "fixed": 5}
    for name, mu in DEFAULT_MU.items(): assert weighting(name)(30) == weighting(name, mu)(30)
    assert (weighting("fsf")(30), weighting("scf")(25), weighting("fixed")(7)) == (2, 2, 5)
    assert (fsf()(15), scf()(50), fixed()(50)) == (1, 1, 5)


@pytest.mark.parametrize("mu", [15, 15.0, np.float64(15), np.float32(15), np.int64(15)])
def test_numbers_of_any_kind(mu):
    assert weighting("fsf", mu)(30) == 2


def test_anything_callable_is_a_weighting():
    assert weighting(math.sqrt) is math.sqrt
    with pytest.raises(InputError, match="mu=3 goes with a named variant"): weighting(math.sqrt, mu=3)


@pytest.mark.parametrize("mu", [0, -1, -0.5, float("nan"), float("inf"), -float("inf"), "15", True, [15]])
def test_bad_mu(mu):
    with pytest.raises(InputError) as caught: weighting("fsf", mu)
    assert f"mu={mu!r}" in str(caught.value) and "above 0" in str(caught.value) and "15 for FSF" in str(caught.value)


@pytest.mark.parametrize("variant", ["fcf", "FSF", "", None, 3, ["fsf"]])
def test_bad_variant(variant):
    with pytest.raises(InputError) as caught: weighting(variant)
    for word in (f"variant={variant!r}", "'fsf'", "'scf'", "'fixed'", "function"): assert word in str(caught.value)
