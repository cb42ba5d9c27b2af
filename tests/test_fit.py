"""The loop: its readings, updates, floor and stopping rules, against the plain loop, 64 bits, other devices and threads
beside it."""

import math
import platform
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image

from dynaseg import segment
from dynaseg.fit import Recorder, Step, fit, precision, settled, sgd_step
from dynaseg.images import InputError, load_image, to_tensor
from dynaseg.loss import continuity
from dynaseg.network import cnn_net
from dynaseg.speed import plain_loop
from dynaseg.weighting import fsf, scf

DEVICES = [name for name, there in [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]
           if there]


@pytest.fixture(scope="module")
def x():
    return to_tensor(load_image(load_sample_image("china.jpg")), (45, 61))


def close(grads, exact, share=1e-3):
    """Every gradient within this share of the largest one of its tensor; those that batch norm makes zero (biases
    before it) are noise."""
    largest = max(g.abs().max() for g in exact)
    for g, e in zip(grads, exact):
        assert (g.to(e) - e).abs().max() <= share * max(e.abs().max(), 1e-2 * largest)


# --- readings and updates

def test_a_step_is_one_reading_of_the_network():
    x = torch.rand(1, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    net = cnn_net(2, 1, 5, 6)
    expected = net(x)[0].detach()
    step = next(iter(fit(net, x, fsf())))
    assert isinstance(step, Step) and not step.response.requires_grad
    assert step.response.equal(expected) and step.labels.equal(expected.argmax(0)) and step.labels.dtype == torch.int64
    assert step.n_labels == len(step.labels.unique()) and step.weight == step.n_labels / 15
    assert step.loss == pytest.approx(step.sim + step.weight * step.con, rel=1e-5)


@given(st.integers(1, 5))
def test_T_updates_make_T_plus_1_readings(T):
    x = torch.rand(1, 1, 6, 6)
    net = cnn_net(1, 1, 4, 5)
    before = [w.clone() for w in net.parameters()]
    steps = list(fit(net, x, fsf(), T=T))
    assert len(steps) == T + 1 and all(math.isfinite(s.loss) for s in steps)
    assert any(not a.equal(b) for a, b in zip(before, net.parameters()))
    # an update between each two
    assert not any(a.equal(b) for a, b in zip([s.response for s in steps], [s.response for s in steps][1:]))


def test_the_floor_bounds_the_weight_and_ends_the_fit():
    x = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    seen = []
    steps = list(fit(cnn_net(3, 1, 8, 8), x, lambda q: seen.append(q) or 300 / q, floor=4, T=60))
    counts = [s.n_labels for s in steps]
    assert counts[-1] <= 4 < min(counts[:-1])
    assert seen == [max(q, 4) for q in counts] and max(s.weight for s in steps) <= 300 / 4
    for floor in (counts[0], counts[0] + 1):  # there from the start, or below
        assert [s.n_labels for s in fit(cnn_net(3, 1, 8, 8), x, scf(300), floor=floor, T=60)] == [counts[0]]


def unseen(M):
    """The biases that shift a whole channel of the response, or would if no batch norm came after: differences do not
    see them."""
    return {f"features.{3 * M - 1}.bias", "classifier.0.bias", "classifier.1.bias"}


@pytest.mark.parametrize("M", [1, 2, 3])
def test_continuity_reaches_every_weight_but_three_biases(M):
    net = cnn_net(3, M, p=6, q=6)
    continuity(net(torch.rand(1, 3, 12, 12))).backward()
    assert {name for name, weight in net.named_parameters() if weight.grad.abs().max() < 1e-6} == unseen(M)


def test_continuity_moves_every_weight_in_a_fit():
    """One update with the term and one without it differ in every weight that it sees: inside the loop nothing is
    detached."""
    x = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    after = []
    for w in (0.0, 10.0):
        net = cnn_net(3, M=2, p=6, q=6)
        list(fit(net, x, lambda q_prime: w, T=1))
        after.append(dict(net.named_parameters()))
    assert {name for name in after[0] if (after[0][name] - after[1][name]).abs().max() < 1e-5} == unseen(2)


def test_an_update_by_hand():
    """Two steps of SGD with lr 0.1, momentum 0.9, weight decay 0.2 and a gradient of 0.5 from a weight of 1.

    v = 0.5 + 0.2 = 0.7, weight 1 - 0.07 = 0.93; v = 0.9 * 0.7 + 0.5 + 0.2 * 0.93 = 1.316, weight 0.93 - 0.1316 =
    0.7984."""
    weight, idle = torch.tensor([1.0], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    velocities = [torch.zeros_like(weight), torch.zeros_like(idle)]
    weight.grad = torch.tensor([0.5], dtype=torch.float64)
    for expected in (0.93, 0.7984):
        sgd_step([idle, weight], velocities[::-1], lr=0.1, momentum=0.9, weight_decay=0.2)
        assert weight.item() == pytest.approx(expected, rel=1e-12)
    assert velocities[0].item() == pytest.approx(1.316) and weight.grad.item() == 0.5
    assert idle.item() == 3 and velocities[1].item() == 0  # a weight without a gradient stays, decay or not
    sgd_step([weight], velocities, lr=2.0)  # without momentum and decay: the gradient alone
    assert weight.item() == pytest.approx(0.7984 - 2 * 0.5)


@given(st.floats(0.001, 1), st.floats(0, 0.99), st.floats(0, 0.5), st.integers(0, 99))
def test_updates_are_pytorchs_sgd(lr, momentum, weight_decay, seed):
    draw = torch.Generator().manual_seed(seed)
    mine, theirs = ([torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)]
                    for _ in range(2))
    theirs = [weight.requires_grad_() for weight in theirs]
    velocities, sgd = [torch.zeros(3, dtype=torch.float64)], torch.optim.SGD(theirs, lr=lr, momentum=momentum,
                                                                             weight_decay=weight_decay)
    for _ in range(3):
        mine[0].grad = torch.randn(3, generator=draw, dtype=torch.float64)
        theirs[0].grad = mine[0].grad.clone()
        sgd_step(mine, velocities, lr, momentum, weight_decay)
        sgd.step()
        torch.testing.assert_close(mine[0], theirs[0].detach())


class Responses(torch.nn.Module):
    "A network that is its own response map: what a fit does to it can be computed by hand."
    def __init__(self, r):
        super().__init__()
        self.r = torch.nn.Parameter(r)

    def forward(self, x): return self.r * 1


def test_a_fit_of_one_update_by_hand():
    """Two pixels side by side with scores (ln 3, 0) and (0, 1): labels 0 and 1, q' = 2, w = 3.

    Shares: 3/4, 1/4 and 1 / (1 + e), e / (1 + e). Channel 0 falls by ln 3, channel 1 rises by 1: means over two pairs,
    pulls of 3 / 2. The update takes lr times (gradient + decay times the response)."""
    start = torch.tensor([[[[math.log(3), 0.0]], [[0.0, 1.0]]]], dtype=torch.float64)
    net = Responses(start.clone())
    first, second = fit(net, start, lambda q_prime: 1.5 * q_prime, T=1, lr=0.1, weight_decay=0.5)
    small = 1 / (1 + math.e)
    sim = (math.log(4 / 3) - math.log(1 - small)) / 2
    con = (math.log(3) + 1) / 2
    assert (first.labels.tolist(), first.n_labels, first.weight) == ([[0, 1]], 2, 3)
    assert (first.sim, first.con, first.loss) == pytest.approx((sim, con, sim + 3 * con), rel=1e-12)
    gradient = torch.tensor([[[[-1 / 8 + 1.5, small / 2 - 1.5]], [[1 / 8 - 1.5, -small / 2 + 1.5]]]],
                            dtype=torch.float64)
    after = start - 0.1 * (gradient + 0.5 * start)
    torch.testing.assert_close(second.response, after[0])
    torch.testing.assert_close(net.r.detach(), after)  # the last reading is not followed by an update


def test_momentum_carries_the_first_update_on():
    "Gradients that do not change while labels and signs do not: the second step is 1 + momentum times the first."
    start = torch.tensor([[[[100.0, 0.0]], [[0.0, 100.0]]]], dtype=torch.float64)  # so sure that L_sim's gradient is 0
    for momentum in (0.0, 0.5, 0.9):
        a, b, c = fit(Responses(start.clone()), start, lambda q_prime: 4.0, T=2, lr=0.1, momentum=momentum)
        torch.testing.assert_close(c.response - b.response, (1 + momentum) * (b.response - a.response))
        torch.testing.assert_close(b.response[0, 0] - a.response[0, 0], torch.tensor([-0.2, 0.2], dtype=torch.float64))


def test_the_defaults_are_the_papers():
    "T = 1000, lr = 0.1, momentum = 0.9, no decay, no floor."
    start = torch.tensor([[[[100.0, 0.0]], [[0.0, 100.0]]]], dtype=torch.float64)
    plain, named = (list(fit(Responses(start.clone()), start, lambda q_prime: 4.0, T=3, **how))
                    for how in ({}, dict(lr=0.1, momentum=0.9, weight_decay=0.0)))
    for one, other in zip(plain, named): assert one.response.equal(other.response)
    flat = torch.ones(1, 2, 1, 2, dtype=torch.float64)  # one label: with a floor of 0 the fit goes on all the same
    assert sum(1 for _ in fit(Responses(flat), flat, fsf())) == 1001


def test_a_fit_computes_gradients_where_they_are_switched_off():
    start = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    expected = list(fit(Responses(start.clone()), start, fsf(), T=2))
    with torch.no_grad(): found = list(fit(Responses(start.clone()), start, fsf(), T=2))
    for one, other in zip(found, expected, strict=True): assert one.response.equal(other.response)


def test_of_equal_responses_the_first_label_is_taken():
    r = torch.tensor([[[[0.0, 1.0]], [[2.0, 1.0]], [[2.0, 0.0]]]])
    step = next(fit(Responses(r), r, fsf()))
    assert step.labels.tolist() == [[1, 0]] and step.n_labels == 2
    level = torch.zeros(1, 3, 2, 2)
    step = next(fit(Responses(level), level, fsf(), floor=1))
    assert step.labels.eq(0).all() and step.n_labels == 1 and step.weight == 1 / 15


def test_the_floor_is_what_the_weight_sees_at_least():
    r = torch.tensor([[[[5.0, 0.0]], [[0.0, 5.0]]]])  # two labels
    for floor, seen, readings in ((0, 2, 3), (1, 2, 3), (2, 2, 1), (3, 3, 1)):
        weights = []
        steps = list(fit(Responses(r.clone()), r, lambda q_prime: weights.append(q_prime) or 0.0, floor=floor, T=2))
        assert weights == [seen] * readings and len(steps) == readings


# --- precision and memory

def test_precision_is_what_the_setting_says():
    cpu = torch.device("cpu")
    for around in (True, False):
        with torch.autocast("cpu", torch.float16, enabled=around):
            for inside in (True, False):
                with precision(cpu, inside):
                    assert torch.is_autocast_enabled("cpu") == inside
                    assert not inside or torch.get_autocast_dtype("cpu") == torch.bfloat16
            assert torch.is_autocast_enabled("cpu") == around
    with precision(cpu): assert not torch.is_autocast_enabled("cpu")


def test_a_device_that_knows_no_autocast():
    with precision(torch.device("meta")): pass
    with pytest.raises(RuntimeError): precision(torch.device("meta"), True)


RESIDENT = """
import sys
import numpy as np
from dynaseg.fit import kept_memory
def megabytes(): return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
def after_freeing(): np.ones(25_000_000); return megabytes()
before = megabytes()
with kept_memory(): kept = after_freeing()
print(after_freeing() - before < 50, kept - before > 150, megabytes() - before < 50)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc",
                    reason="needs Linux and glibc")
def test_freed_memory_is_kept_while_it_holds_and_given_back_afterwards(python):
    "An array of 200 MB: outside the block it goes back to the system at once."
    assert python(RESIDENT) == "True True True"


# --- against the plain loop, and against 64 bits

@pytest.mark.parametrize("weighting", [fsf(), scf()], ids=["fsf", "scf"])
def test_fit_is_the_plain_loop(x, weighting):
    "In 64 bits, where rounding does not reach the labels: both take the same way."
    plain = list(plain_loop(cnn_net(3).double(), x.double(), weighting, T=4))
    fast = list(fit(cnn_net(3).double(), x.double(), weighting, T=4))
    assert len(fast) == len(plain) == 5
    for step, (labels, loss) in zip(fast, plain):
        assert torch.equal(step.labels, labels)
        assert step.n_labels == len(labels.unique()) and step.loss == pytest.approx(loss, rel=1e-9)


def test_fit_is_the_plain_loop_up_to_rounding_in_32_bits(x):
    "One update; further on, rounding grows: a label that flips pulls at all the others."
    plain, fast = list(plain_loop(cnn_net(3), x, fsf(), T=1)), list(fit(cnn_net(3), x, fsf(), T=1))
    for step, (labels, loss) in zip(fast, plain):
        assert (step.labels == labels).float().mean() > 0.999
        assert step.loss == pytest.approx(loss, rel=1e-4)


def first_gradients(net, x, weighting):
    "Loss and gradients with which `fit` makes its first update."
    steps = fit(net, x, weighting, T=1)
    loss = next(steps).loss
    next(steps)
    return loss, [weight.grad.clone() for weight in net.parameters()]


def test_gradients_are_those_of_autograd_in_64_bits(x):
    net = cnn_net(3).double()
    [(_, exact_loss)] = plain_loop(net, x.double(), fsf(), T=0)
    exact = [weight.grad for weight in net.parameters()]
    for dtype, share in [(torch.float64, 1e-9), (torch.float32, 1e-3)]:
        loss, grads = first_gradients(cnn_net(3).to(dtype), x.to(dtype), fsf())
        assert loss == pytest.approx(exact_loss, rel=share / 10)
        close(grads, exact, share)


def test_bfloat16_is_close_and_weights_stay_in_32_bits(x):
    "The first reading is compared: further on, rounding grows, and how fast depends on the processor."
    net = cnn_net(3)
    half = list(fit(net, x, fsf(), T=2, autocast=True))
    full = next(fit(cnn_net(3), x, fsf()))
    assert {w.dtype for w in net.parameters()} == {half[-1].response.dtype} == {torch.float32}
    assert not half[0].response.equal(full.response)  # it is in use
    assert (half[0].labels == full.labels).float().mean() > 0.9
    [(_, loss)] = plain_loop(cnn_net(3).double(), x.double(), fsf(), T=0)
    assert half[0].loss == pytest.approx(loss, rel=0.01)
    assert all(math.isfinite(step.loss) for step in half)


def test_autocast_around_a_program_changes_nothing(x):
    "Only the setting does."
    with torch.autocast("cpu", torch.bfloat16): inside = next(fit(cnn_net(3), x, fsf()))
    assert inside.response.equal(next(fit(cnn_net(3), x, fsf())).response)


def test_other_devices_agree(x):
    if not DEVICES: pytest.skip("no second device here")
    loss, grads = first_gradients(cnn_net(3), x, fsf())
    for device in DEVICES:
        there_loss, there = first_gradients(cnn_net(3).to(device), x.to(device), fsf())
        assert there_loss == pytest.approx(loss, rel=1e-4)
        close([g.cpu() for g in there], grads, share=1e-2)


def test_fits_in_threads_do_not_touch_each_other(x):
    "Several networks at once, each in a thread of its own on one core, come to what they come to one after another."
    def labels_of(seed):
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # of this thread
        *_, last = fit(cnn_net(3, M=2, p=16, q=16, seed=seed), x, fsf(), T=5)
        torch.set_num_threads(before)
        return last.labels
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(4) as four:
        alone, together = list(one.map(labels_of, range(4))), list(four.map(labels_of, range(4)))
    assert all(a.equal(b) for a, b in zip(alone, together))
    assert not alone[0].equal(alone[1])  # the seeds do differ


# --- watchers

def test_settled_counts_from_the_second_map_on():
    "The first map has nothing to be compared with; a tolerance of 0 is never met."
    one, other = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.int64)
    other[0, 0] = 1  # a tenth of the pixels
    watch = settled(tol=0.11, patience=1)
    assert [watch(m) for m in (one, other, one)] == [False, True, True]
    assert [settled(tol=2.0, patience=1)(one), settled(tol=0.0, patience=1)(one)] == [True, False]
    default = settled(tol=0.11)
    assert [default(m) for m in (one, other) * 3 + (one,)] == [False] * 5 + [True] * 2  # five updates in a row


def test_settled_needs_patience_and_calm():
    calm = torch.zeros(4, 4, dtype=torch.int64)
    restless = calm.clone()
    restless[0] = 1  # a quarter of the pixels
    watch = settled(tol=0.25, patience=3)
    assert [watch(m) for m in (calm, calm, calm, calm)] == [False, False, False, True]
    assert watch(restless) is False  # a quarter is not below a quarter: the count starts again
    assert [watch(m) for m in (restless, restless, restless)] == [False, False, True]
    never = settled(tol=0)
    assert not any(never(calm) for _ in range(20))


def test_recorder_keeps_every_third_step(photo, quick):
    record, seen = Recorder(every=3), []
    def both(step):
        record(step)
        seen.append((step.labels.numpy().copy(), step.n_labels, step.weight))
    segment(photo, callback=both, min_labels=None, tol=0, **{**quick, "T": 7})
    assert record.seen == len(seen) == 8 and len(record.frames) == len(record.titles) == 3
    for frame, title, i in zip(record.frames, record.titles, (0, 3, 6)):
        labels, n, weight = seen[i]
        np.testing.assert_array_equal(frame, labels)
        assert title == f"iteration {i}: {n} labels, weight {weight:.2f}"


def test_a_recorder_does_not_end_or_change_a_fit(photo, quick):
    np.testing.assert_array_equal(segment(photo, callback=Recorder(), **quick).labels, segment(photo, **quick).labels)


@pytest.mark.parametrize("every", [0, -1, 1.5, "2"])
def test_recorder_refuses(every):
    with pytest.raises(InputError, match=f"every={every!r}; expected a whole number of at least 1"):
        Recorder(every=every)


# --- pixels without data

def test_labels_in_use_and_changes_count_pixels_with_data_alone():
    "Four pixels, of which the last has no data: three labels would be in use, two are; of three pixels one changes."
    r = torch.tensor([[9.0, 9, 0, 0], [0, 0, 9, 0], [0, 0, 0, 9]]).reshape(1, 3, 1, 4)
    step = next(fit(Responses(r), r, fsf(), valid=torch.tensor([[True, True, True, False]])))
    assert step.labels.tolist() == [[0, 0, 1, -1]] and step.n_labels == 2
    watch = settled(tol=0.4, patience=1)
    assert [watch(torch.tensor([labels])) for labels in ([0, 0, 1, -1], [0, 1, 1, -1])] == [False, True]  # a third
    watch = settled(tol=0.3, patience=1)
    assert [watch(torch.tensor([labels])) for labels in ([0, 0, 1, -1], [0, 1, 1, -1])] == [False, False]
