"""L_sim, L_con and their gradient: hand-computed values, slow sums, finite differences, ties."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dynaseg.loss import continuity, similarity


def random_response(seed=0, shape=(1, 4, 5, 6), dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- values

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


# --- gradients

@pytest.mark.parametrize("loss", [similarity, continuity])
def test_gradients_against_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, random_response(1).requires_grad_(), eps=1e-7, atol=1e-6)


def test_similarity_gradient_is_softmax_minus_its_own_argmax():
    r = random_response(2).requires_grad_()
    gradient, = torch.autograd.grad(similarity(r), r)
    hot = F.one_hot(r.argmax(1), r.shape[1]).movedim(-1, 1)
    torch.testing.assert_close(gradient, (r.softmax(1) - hot).detach() / 30)
