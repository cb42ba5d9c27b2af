"The loop that was made fast: against the plain one, against 64 bits, against other devices, and in threads beside itself."
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import nn

from dynaseg.features import response_net
from dynaseg.images import load_image, to_tensor
from dynaseg.segmenter import fit
from dynaseg.weighting import fsf, scf

DEVICES = [name for name, there in [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())] if there]


@pytest.fixture(scope="module")
def x():
    return to_tensor(load_image(load_sample_image("china.jpg")), (45, 61))


def plain_loop(net, x, weighting, T):
    "The method as published scripts write it: labels, loss and the gradient with respect to the weights, T + 1 times; T updates between."
    (H, W), q = x.shape[2:], net.classifier[1].num_features
    cross_entropy, l1 = nn.CrossEntropyLoss(), nn.L1Loss()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(T + 1):
        sgd.zero_grad()
        r = net(x)[0].permute(1, 2, 0)
        down, across = r[1:] - r[:-1], r[:, 1:] - r[:, :-1]
        target = r.reshape(H * W, q).argmax(1)
        w = weighting(len(np.unique(target.cpu().numpy())))
        loss = cross_entropy(r.reshape(H * W, q), target) + w * (l1(down, torch.zeros_like(down)) + l1(across, torch.zeros_like(across)))
        loss.backward()
        yield target.reshape(H, W), loss.item(), [weight.grad.clone() for weight in net.parameters()]
        sgd.step()


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
    for step, (labels, loss, _) in zip(fast, plain):
        assert torch.equal(step.labels, labels)
        assert step.n_labels == len(labels.unique()) and step.loss == pytest.approx(loss, rel=1e-9)


def test_fit_is_the_plain_loop_up_to_rounding_in_32_bits(x):
    "One update; further on, rounding grows: a label that flips pulls at all the others."
    plain, fast = list(plain_loop(response_net(3), x, fsf(), T=1)), list(fit(response_net(3), x, fsf(), T=1))
    for step, (labels, loss, _) in zip(fast, plain):
        assert (step.labels == labels).float().mean() > 0.999
        assert step.loss == pytest.approx(loss, rel=1e-4)


def first_gradients(net, x, weighting):
    "Loss and gradients with which `fit` makes its first update."
    steps = fit(net, x, weighting, T=1)
    loss = next(steps).loss
    next(steps)
    return loss, [weight.grad.clone() for weight in net.parameters()]


def test_gradients_are_those_of_autograd_in_64_bits(x):
    exact_labels, exact_loss, exact = next(plain_loop(response_net(3).double(), x.double(), fsf(), T=0))
    for dtype, share in [(torch.float64, 1e-9), (torch.float32, 1e-3)]:
        loss, grads = first_gradients(response_net(3).to(dtype), x.to(dtype), fsf())
        assert loss == pytest.approx(exact_loss, rel=share / 10)
        close(grads, exact, share)


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
