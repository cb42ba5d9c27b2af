"""What a program around dynaseg has set in PyTorch changes no result:

default type, default device, the global random numbers."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from dynaseg.extractors import AtScales
from dynaseg.fit import fit, settled
from dynaseg.loss import continuity, loss_gradient, similarity
from dynaseg.pretrained import response_net
from dynaseg.silhouette import silhouette_phase
from dynaseg.weighting import weighting

IMAGE = np.random.default_rng(0).random((40, 50, 3), dtype=np.float32)


@contextmanager
def doubles():
    torch.set_default_dtype(torch.float64)
    try: yield
    finally: torch.set_default_dtype(torch.float32)


@contextmanager
def another_seed():
    torch.manual_seed(99)
    np.random.seed(99)
    yield


around = pytest.mark.parametrize("around", [doubles, lambda: torch.device("meta"), another_seed],
                                 ids=["float64", "meta", "seed"])


def tensors(result):
    "All tensors, arrays and numbers in a result, in order."
    if isinstance(result, (torch.Tensor, np.ndarray, int, float, str)): return [np.asarray(result)]
    return [value for part in result for value in tensors(part)]


def losses():
    r = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 6, 9, 11)).astype(np.float32))
    w = weighting("fsf")(7)
    return similarity(r), continuity(r), loss_gradient(r[0], r[0].argmax(0), w)


def fitted(**how):
    "Five readings, and whether the labels have settled."
    x = torch.from_numpy(IMAGE).permute(2, 0, 1)[None].contiguous()
    net = response_net(3, p=8, q=8, like=x, **how)
    watch = settled(0.5, 2)
    return [(*step, watch(step.labels)) for step in fit(net, x, weighting("scf"), floor=2, T=4)]


def own():
    "An extractor of one's own, with weights that do not hang on the global random numbers."
    conv = torch.nn.Conv2d(3, 5, 3, padding=1, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        for weight in conv.parameters():
            weight.copy_(torch.from_numpy(np.linspace(-1, 1, weight.numel())).view_as(weight))
    return conv


WAYS = {"cnn": {}, "fpn": dict(features="resnet18-fpn", weights=None),
        "stem": dict(features="resnet18-stem", weights=None),
        "timm": dict(features="timm:resnet18", weights=None)}


@around
@pytest.mark.parametrize("result", [losses, lambda: silhouette_phase(IMAGE),
                                    *(lambda how=how: fitted(**how) for how in WAYS.values()),
                                    lambda: fitted(features=own()),
                                    lambda: fitted(features=AtScales(own()), freeze=False)],
                         ids=["loss", "silhouette", *WAYS, "own", "scales"])
def test_the_result_is_the_same(result, around):
    want = tensors(result())
    with around(): have = tensors(result())
    assert len(have) == len(want)
    for a, b in zip(have, want):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("made", [losses, lambda: silhouette_phase(IMAGE),
                                  *(lambda how=how: fitted(**how) for how in WAYS.values())],
                         ids=["loss", "silhouette", *WAYS])
def test_the_users_random_numbers_go_on_undisturbed(made):
    torch.manual_seed(5)
    np.random.seed(5)
    made()
    after = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(after[0], torch.rand(3)) and np.array_equal(after[1], np.random.rand(3))
