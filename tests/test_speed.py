"The loop that was made fast: against the plain one, against 64 bits, against other devices, and in threads beside itself; and the command that measures it."
import csv
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from sklearn.datasets import load_sample_image

from dynaseg.pretrained import response_net
from dynaseg.images import load_image, to_tensor
from dynaseg.fit import fit
from dynaseg.speed import figures, main, plain_loop
from dynaseg.weighting import fsf, scf

DEVICES = [name for name, there in [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())] if there]


@pytest.fixture(scope="module")
def x():
    return to_tensor(load_image(load_sample_image("china.jpg")), (45, 61))


def close(grads, exact, share=1e-3):
    "Every gradient within this share of the largest one of its tensor; those that batch norm makes zero (biases before it) are noise."
    largest = max(g.abs().max() for g in exact)
    for g, e in zip(grads, exact):
        assert (g.to(e) - e).abs().max() <= share * max(e.abs().max(), 1e-2 * largest)


@pytest.mark.parametrize("weighting", [fsf(), scf()], ids=["fsf", "scf"])
def test_fit_is_the_plain_loop(x, weighting):
    "In 64 bits, where rounding does not reach the labels: both take the same way."
    plain = list(plain_loop(response_net(3).double(), x.double(), weighting, T=4))
    fast = list(fit(response_net(3).double(), x.double(), weighting, T=4))
    assert len(fast) == len(plain) == 5
    for step, (labels, loss) in zip(fast, plain):
        assert torch.equal(step.labels, labels)
        assert step.n_labels == len(labels.unique()) and step.loss == pytest.approx(loss, rel=1e-9)


def test_fit_is_the_plain_loop_up_to_rounding_in_32_bits(x):
    "One update; further on, rounding grows: a label that flips pulls at all the others."
    plain, fast = list(plain_loop(response_net(3), x, fsf(), T=1)), list(fit(response_net(3), x, fsf(), T=1))
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
    net = response_net(3).double()
    [(_, exact_loss)] = plain_loop(net, x.double(), fsf(), T=0)
    exact = [weight.grad for weight in net.parameters()]
    for dtype, share in [(torch.float64, 1e-9), (torch.float32, 1e-3)]:
        loss, grads = first_gradients(response_net(3).to(dtype), x.to(dtype), fsf())
        assert loss == pytest.approx(exact_loss, rel=share / 10)
        close(grads, exact, share)


def test_bfloat16_is_close_and_weights_stay_in_32_bits(x):
    net, exact = response_net(3), response_net(3).double()
    half, full = list(fit(net, x, fsf(), T=3, autocast=True)), list(fit(response_net(3), x, fsf(), T=3))
    assert {w.dtype for w in net.parameters()} == {half[-1].response.dtype} == {torch.float32}
    assert not half[0].response.equal(full[0].response)  # it is in use
    assert (half[0].labels == full[0].labels).float().mean() > 0.9
    assert all(a.loss == pytest.approx(b.loss, rel=0.02) for a, b in zip(half, full))
    [(_, loss)] = plain_loop(exact, x.double(), fsf(), T=0)
    assert half[0].loss == pytest.approx(loss, rel=0.01)


def test_autocast_around_a_program_changes_nothing(x):
    "Only the setting does."
    with torch.autocast("cpu", torch.bfloat16): inside = next(fit(response_net(3), x, fsf()))
    assert inside.response.equal(next(fit(response_net(3), x, fsf())).response)


def test_other_devices_agree(x):
    if not DEVICES: pytest.skip("no second device here")
    loss, grads = first_gradients(response_net(3), x, fsf())
    for device in DEVICES:
        there_loss, there = first_gradients(response_net(3).to(device), x.to(device), fsf())
        assert there_loss == pytest.approx(loss, rel=1e-4)
        close([g.cpu() for g in there], grads, share=1e-2)


def test_threads_do_not_draw_each_others_weights():
    "All of PyTorch's layers draw from one generator."
    def weights(seed): return torch.cat([weight.detach().flatten() for weight in response_net(3, p=64, q=64, seed=seed).parameters()])
    with ThreadPoolExecutor(4) as pool:
        assert all(drawn.equal(weights(seed)) for seed, drawn in enumerate(pool.map(weights, range(50))))


def test_fits_in_threads_do_not_touch_each_other(x):
    "Several networks at once, each in a thread of its own on one core, come to what they come to one after another."
    def labels_of(seed):
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # of this thread
        *_, last = fit(response_net(3, M=2, p=16, q=16, seed=seed), x, fsf(), T=5)
        torch.set_num_threads(before)
        return last.labels
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(4) as four:
        alone, together = list(one.map(labels_of, range(4))), list(four.map(labels_of, range(4)))
    assert all(a.equal(b) for a, b in zip(alone, together))
    assert not alone[0].equal(alone[1])  # the seeds do differ


VALUES = {"plain": "s an update", "plain, memory kept": "s an update", "fit": "s an update", "fit, bfloat16": "s an update", "arithmetic": "GFLOP an update", "matrix product": "GFLOP/s",
          "convolution": "GFLOP/s", "fast": "s a photo", "fast, bfloat16": "s a photo", "regions": "s a photo", "import torch": "s", "import dynaseg": "s", "from dynaseg import segment": "s",
          "dynaseg demo": "s"}


@pytest.fixture
def rows():
    "As `measure` makes them, with made-up values; the notebook runs it."
    rows = [dict(what=what, size="", value=i + 2, unit=unit) for i, (what, unit) in enumerate(VALUES.items())]
    return rows + [dict(what="one photo", size=12, value=value, unit=unit) for value, unit in ((6, "s"), (1.5, "GB"))]


def test_figures_are_ratios_of_the_same_run(rows):
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in figures(rows).splitlines()[2:]}
    assert "| 0.5 times as fast |" in lines["the fit"]  # 2 s / 4 s
    assert "| 0.4 times as fast |" in lines["the fit with autocast=True (bfloat16)"]  # 2 s / 5 s
    assert "| 0.75 s | 2.7 times as fast |" in lines["its arithmetic at the best rate that anything below reaches in 32 bits"]  # 6 GFLOP at 8 GFLOP/s
    assert "| 222 times as fast" in lines["a photo, preset fast"] and "| 200 times as fast" in lines["a photo, preset fast, bfloat16"]  # 1000 x 2 s / 9 s, / 10 s
    assert "| 114% to 114% " in lines["convolutions"] and "| 6.0 s, 1.50 GB | 0.50 s a megapixel |" in lines["a photo of 12 megapixels"]


def test_the_command_writes_what_it_measured(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dynaseg.speed.measure", lambda sizes: iter(rows))
    file = tmp_path / "speed.csv"
    monkeypatch.setattr(sys, "argv", ["benchmark", str(file)])
    main()
    assert figures(rows) in capsys.readouterr().out
    assert figures(list(csv.DictReader(file.open()))) == figures(rows)
    with pytest.raises(SystemExit): main()  # it exists now
    assert "exists" in capsys.readouterr().err and list(tmp_path.iterdir()) == [file]
