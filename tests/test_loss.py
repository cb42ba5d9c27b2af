"""L_sim, L_con and their gradient: hand-computed values, slow sums, finite differences, ties."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dynaseg.loss import continuity, loss_gradient, similarity


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
    for same in (t.flip(1), t.flip(2), t.flip(3), t.transpose(2, 3)):
        assert similarity(same).item() == pytest.approx(value, abs=1e-12)
    assert similarity(t * 2).item() <= value + 1e-12  # more decided, less loss


@given(RESPONSES, st.floats(-9, 9))
def test_continuity_invariances(r, number):
    t = torch.tensor(r)[None]
    value = float(continuity(t))
    assert value >= 0 and float(continuity(t + number)) == pytest.approx(value, abs=1e-9)
    assert float(continuity(t * number)) == pytest.approx(value * abs(number), rel=1e-9, abs=1e-9)
    for same in (t.flip(1), t.flip(2), t.flip(3), t.transpose(2, 3)):
        assert float(continuity(same)) == pytest.approx(value, abs=1e-9)


def test_hand_computed_2x2():
    "Two labels; scores (ln 3, 0) give 3 : 1, (0, 0) give 1 : 1."
    a = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    r = torch.stack([a, torch.zeros(2, 2)])[None]
    assert similarity(r).item() == pytest.approx((math.log(4 / 3) + 3 * math.log(2)) / 4, rel=1e-6)
    # first channel: |0 - ln 3| in one of two vertical pairs and one of two horizontal; second: nothing. Mean over four
    # pairs each.
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
    for loss in (similarity, continuity):
        assert loss(r.float()).item() == pytest.approx(loss(r).item(), rel=1e-4, abs=1e-6 * scale)


# --- gradients

@pytest.mark.parametrize("loss", [similarity, continuity])
def test_gradients_against_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, random_response(1).requires_grad_(), eps=1e-7, atol=1e-6)


def test_similarity_gradient_is_softmax_minus_its_own_argmax():
    r = random_response(2).requires_grad_()
    gradient, = torch.autograd.grad(similarity(r), r)
    hot = F.one_hot(r.argmax(1), r.shape[1]).movedim(-1, 1)
    torch.testing.assert_close(gradient, (r.softmax(1) - hot).detach() / 30)


# --- `loss_gradient`: both terms and their gradient in one pass

CHUNKS = pytest.mark.parametrize("chunk", [1, 5, 2**19])  # a row at a time, some rows, all


def near(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=1e-6, atol=1e-9)


def test_one_pixel_by_hand():
    "Scores (ln 3, 0) are shares 3/4 and 1/4: the loss is ln 4/3, the gradient 3/4 - 1 and 1/4. It has no neighbours."
    r = torch.tensor([math.log(3), 0.0], dtype=torch.float64).view(2, 1, 1)
    sim, con, gradient = loss_gradient(r, torch.tensor([[0]]), 7.0)
    near(sim, math.log(4 / 3))
    near(con, 0.0)
    near(gradient, [[[-0.25]], [[0.25]]])


def test_two_pixels_by_hand():
    """The second pixel's scores are equal: shares 1/2 and 1/2, a loss of ln 2. Each pixel counts half.

    Channel 0 falls by ln 3 and channel 1 stays: a mean of (ln 3) / 2. With w = 3 the fall pulls with 3 / 2; sign(0) = 0
    pulls not at all."""
    r = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]], dtype=torch.float64).view(2, 1, 2)
    for second, share in ((0, -0.25), (1, 0.25)):
        sim, con, gradient = loss_gradient(r, torch.tensor([[0, second]]), 3.0)
        near(sim, (math.log(4 / 3) + math.log(2)) / 2)
        near(con, math.log(3) / 2)
        near(gradient, [[[-0.125 + 1.5, share - 1.5]], [[0.125, -share]]])


@CHUNKS
def test_continuity_and_its_gradient_by_hand(chunk):
    """One channel, so that L_sim is 0. Three steps down: 2, 1, -1, mean 4/3. Four across: 1, 2, 0, 0, mean 3/4.

    With w = 12 a step down pulls with 4 and a step across with 3, up at its start and down at its end if it rises."""
    r = torch.tensor([[[0.0, 1, 3], [2, 2, 2]]], dtype=torch.float64)
    sim, con, gradient = loss_gradient(r, torch.zeros(2, 3, dtype=torch.int64), 12.0, chunk)
    near(sim, 0.0)
    near(con, 4 / 3 + 3 / 4)
    near(gradient, [[[-4 - 3, -4 + 3 - 3, 4 + 3], [4, 4, -4]]])


@CHUNKS
def test_equal_responses_have_no_pull_between_neighbours(chunk):
    "sign(0) is 0: only L_sim's share is left, 1/q - 1 at the label and 1/q elsewhere, over the number of pixels."
    labels = torch.tensor([[0, 1], [2, 2]])
    sim, con, gradient = loss_gradient(torch.full((4, 2, 2), 3.0, dtype=torch.float64), labels, 100.0, chunk)
    near(sim, math.log(4))
    near(con, 0.0)
    expected = torch.full((4, 2, 2), 1 / 16, dtype=torch.float64)
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)): expected[labels[y, x], y, x] -= 1 / 4
    torch.testing.assert_close(gradient, expected)


def test_of_equal_largest_responses_one_is_the_target():
    "PyTorch's own gradient of L_sim where two responses tie: softmax minus one of them, not half of each."
    r = torch.tensor([2.0, 2.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1).requires_grad_()
    gradient, = torch.autograd.grad(similarity(r), r)
    share = math.e**2 / (2 * math.e**2 + 1)
    near(gradient.ravel().sort().values, [share - 1, 1 - 2 * share, share])


def test_pytorchs_gradient_of_continuity_is_0_where_neighbours_are_equal():
    r = torch.ones(1, 2, 3, 3, dtype=torch.float64).requires_grad_()
    gradient, = torch.autograd.grad(continuity(r), r)
    assert gradient.eq(0).all()


def textbook(r, labels, w):
    "Loss and gradient of one map by PyTorch's own losses and autograd."
    r = r.clone().requires_grad_()
    down = r[:, 1:] - r[:, :-1]
    across = r[:, :, 1:] - r[:, :, :-1]
    sim = F.cross_entropy(r.flatten(1).T, labels.flatten())
    con = sum(d.abs().sum() / d.numel() for d in (down, across) if d.numel()) + 0 * r.sum()
    return sim.detach(), con.detach(), torch.autograd.grad(sim + w * con, r)[0]


@given(st.integers(2, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 60),
       st.integers(0, 999))
def test_the_pass_is_pytorchs_own_losses_and_autograd(q, h, w, several, chunk, seed):
    "For one map, for several with a weight each, for any number of rows at a time."
    r = random_response(seed, (several, q, h, w))
    labels, weights = r.argmax(1), [0.5, 3.0, 40.0][:several]
    together = loss_gradient(r, labels, torch.tensor(weights, dtype=r.dtype).view(-1, 1, 1, 1), chunk)
    for i in range(several):
        expected = textbook(r[i], labels[i], weights[i])
        for found in (loss_gradient(r[i], labels[i], weights[i], chunk), [part[i] for part in together]):
            for part, value in zip(found, expected, strict=True):
                torch.testing.assert_close(part, value, check_dtype=False)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_pass_does_not_overflow_in_32_bits(scale):
    r = random_response(3, (4, 5, 6), torch.float32) * scale
    before = r.clone()
    for part, value in zip(loss_gradient(r, r.argmax(0), 2.0), textbook(r.double(), r.argmax(0), 2.0)):
        torch.testing.assert_close(part.double(), value, rtol=1e-4, atol=1e-6)
        assert part.dtype == torch.float32
    assert r.equal(before)  # the responses stay as they are


# --- pixels without data

def test_both_terms_by_hand_with_a_pixel_left_out():
    """A row of three pixels with two responses, the middle one out: no pair is left, and L_sim is the mean of two.

    Pixel 1 says (0, 0) and pays log 2, pixel 3 says (log 3, 0) and pays log 4/3."""
    r = torch.tensor([[0.0, 9, math.log(3)], [0, -9, 0]]).reshape(2, 1, 3)
    valid = torch.tensor([[True, False, True]])
    sim, con, gradient = loss_gradient(r, r.argmax(0), 5.0, valid=valid)
    assert math.isclose(sim.item(), (math.log(2) + math.log(4 / 3)) / 2, rel_tol=1e-6) and con == 0
    torch.testing.assert_close(gradient[:, 0], torch.tensor([[-0.25, 0, -0.125], [0.25, 0, 0.125]]))
    torch.testing.assert_close(similarity(r[None], valid), sim) # another order of sums: the last bit may differ
    assert continuity(r[None], valid) == 0


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_with_pixels_left_out_the_sums_go_over_the_others_and_their_pairs(H, W, seed):
    "Against loops over pixels and pairs, differentiated by PyTorch."
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(H, W, generator=g) < 0.7
    if not valid.any(): valid[0, 0] = True
    r = torch.randn(3, H, W, generator=g, dtype=torch.float64).requires_grad_()
    pixels = [(i, j) for i in range(H) for j in range(W) if valid[i, j]]
    sim = sum(r[:, i, j].logsumexp(0) - r[:, i, j].max() for i, j in pixels) / len(pixels)
    con = 0 * r.sum()
    for di, dj in ((1, 0), (0, 1)):
        pairs = [(i, j) for i, j in pixels if i + di < H and j + dj < W and valid[i + di, j + dj]]
        if pairs: con = con + sum((r[:, i + di, j + dj] - r[:, i, j]).abs().mean() for i, j in pairs) / len(pairs)
    expected = sim.detach(), con.detach(), torch.autograd.grad(sim + 2.5 * con, r)[0]
    r = r.detach()
    torch.testing.assert_close(loss_gradient(r, r.argmax(0), 2.5, valid=valid), expected)
    torch.testing.assert_close((similarity(r[None], valid), continuity(r[None], valid)), expected[:2])


def test_a_mask_that_is_true_everywhere_gives_the_same():
    r = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(loss_gradient(r, r.argmax(0), 2.0, valid=torch.ones(5, 6, dtype=torch.bool)),
                               loss_gradient(r, r.argmax(0), 2.0))


# --- Huber's penalty and diagonal neighbours

def smooth(steps):
    return F.smooth_l1_loss(steps, torch.zeros_like(steps), reduction="none")


def steps_of(r, H, W, valid, kinds):
    "For each kind of neighbour the steps (q,) of every pair with data, by loops."
    for down, right in kinds:
        pairs = [(i, j, i + down, j + right) for i in range(H) for j in range(W)
                 if i + down < H and 0 <= j + right < W and valid[i, j] and valid[i + down, j + right]]
        if pairs: yield torch.stack([r[:, k, m] - r[:, i, j] for i, j, k, m in pairs])


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([0.3, 3.0]), st.sampled_from(["l1", "huber"]),
       st.booleans(), st.booleans(), st.integers(1, 60), st.integers(0, 999))
def test_each_penalty_and_kind_of_neighbour_by_loops(H, W, scale, penalty, diagonals, holes, chunk, seed):
    "Against PyTorch's own losses on pairs that were looked for one by one, and autograd."
    g = torch.Generator().manual_seed(seed)
    r = (scale * torch.randn(3, H, W, generator=g, dtype=torch.float64)).requires_grad_()
    valid = torch.rand(H, W, generator=g) < (0.7 if holes else 1.1)
    valid[0, 0] = True
    kinds = [(1, 0), (0, 1), (1, 1), (1, -1)][:4 if diagonals else 2]
    cost = {"l1": torch.abs, "huber": smooth}[penalty]
    con = sum((cost(steps).mean() for steps in steps_of(r, H, W, valid, kinds)), 0 * r.sum())
    sim = similarity(r[None], valid)
    expected = sim.detach(), con.detach(), torch.autograd.grad(sim + 2.5 * con, r)[0]
    s = r.detach()
    mask = valid if holes else None
    found = loss_gradient(s, s.argmax(0), 2.5, chunk, mask, penalty, diagonals)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(continuity(s[None], mask, penalty, diagonals), expected[1])


def test_a_long_step_costs_half_less_and_a_short_one_half_its_square():
    r = torch.tensor([0.0, 3.0, 2.5], dtype=torch.float64).view(1, 1, 3)
    sim, con, gradient = loss_gradient(r, torch.zeros(1, 3, dtype=torch.int64), 2.0, penalty="huber")
    near(con, ((3 - 1 / 2) + 0.5**2 / 2) / 2)
    near(gradient, [[[-1, 1.5, -0.5]]])


def test_the_paper_s_term_is_what_it_was_to_the_bit():
    "Absolute steps, down first, summed in the order in which the sum was written before there was a choice."
    r = random_response(5, (7, 11, 13), torch.float32)
    expected = r.diff(dim=1).abs().mean() + r.diff(dim=2).abs().mean()
    assert continuity(r[None]).equal(expected)
    for found, chosen in zip(loss_gradient(r, r.argmax(0), 2.5, 200),
                             loss_gradient(r, r.argmax(0), 2.5, 200, penalty="l1", diagonals=False)):
        assert found.equal(chosen)
