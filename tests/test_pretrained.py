"""Networks by name: settings that go together, ResNet-18 by hand, weights files good and bad, timm; no network."""
import copy
import hashlib
import pickle
import socket
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from dynaseg import DynaSeg, segment
from dynaseg.extractors import AtScales, channels_of
from dynaseg.fit import fit
from dynaseg.images import InputError
from dynaseg.network import cnn
from dynaseg.pretrained import (
    NAMED,
    STAGES,
    check_features,
    imagenet_colours,
    resnet18,
    resnet18_fpn,
    resnet18_stem,
    response_net,
    timm_backbone,
)
from dynaseg.silhouette import silhouette_phase
from dynaseg.weighting import fsf

Weights = torchvision.models.ResNet18_Weights


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args): raise OSError("this test may not use the network")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


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


# --- settings

@pytest.mark.parametrize("features", [*NAMED, Small()])
def test_the_same_seed_gives_the_same_start(features):
    def net(seed):
        return state(response_net(3, M=1, p=6, q=5, seed=seed, features=features, weights=None))
    before = torch.random.get_rng_state()
    assert same(net(0), net(0)) and not same(net(0), net(1))
    assert before.equal(torch.random.get_rng_state())


@pytest.mark.parametrize("settings, words", [
    (dict(features="resnet50"), "'resnet50'.*'cnn', 'resnet18-fpn', 'resnet18-stem'"), (dict(features=None), "None"),
    (dict(features=3), "3"),
    (dict(features=Small), "instance"), (dict(features=["cnn"]), "cnn"), (dict(freeze="yes"), "'yes'"),
    (dict(features=abs, freeze=False), "no weights to fit"), (dict(weights=5), "weights=5"),
    (dict(weights="mine.pth"), "ResNets"),
    (dict(features=Small(), weights="mine.pth"), "before you pass it"),
    (dict(features="timm:"), "timm:NAME"), (dict(features="tim:resnet18"), "timm:NAME")])
def test_settings_that_do_not_go_together(settings, words):
    with pytest.raises(InputError, match=words): check_features(**{"features": "cnn"} | settings)
    with pytest.raises(InputError, match=words): response_net(3, **settings)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("bad", [dict(p=0), dict(p=1.5), dict(q=1), dict(in_channels=0)])
def test_bad_sizes_are_named_whatever_the_extractor(name, bad):
    with pytest.raises(InputError, match=f"{[*bad][0]}={[*bad.values()][0]}"):
        response_net(**{"in_channels": 3, "features": name, "weights": None} | bad)


# --- ResNet-18, against torchvision's own layers called one by one

def whole_resnet(seed=0):
    torch.manual_seed(seed)
    net = torchvision.models.resnet18(weights=None)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -1, 1)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.uniform_(m.weight)
    return net.eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet.pth"
    torch.save(whole_resnet().state_dict(), path)
    return path


def stages_by_hand(net, x):
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    out = {"relu": net.bn1(net.conv1((x - mean) / std)).relu()}
    y = net.maxpool(out["relu"])
    for name in ("layer1", "layer2", "layer3", "layer4"): out[name] = y = getattr(net, name)(y)
    return out


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (37, 51)])
def test_the_levels_are_torchvisions(file, size):
    x = picture(3, *size)
    got, expected = resnet18(levels=[*STAGES], weights=file).eval()(x), stages_by_hand(whole_resnet(), x)
    assert [*got] == [*STAGES]
    for name, level in got.items():
        torch.testing.assert_close(level, expected[name])
        assert level.shape[1] == STAGES[name]


@torch.no_grad()
def test_the_pyramid_goes_from_the_top_down(file):
    x, net = picture(3, 64, 96), resnet18_fpn(p=8, levels=["layer1", "layer3", "layer4"], weights=file)
    stages, fpn, above = stages_by_hand(whole_resnet(), x), net[1], 0
    for i, name in reversed([*enumerate(("layer1", "layer3", "layer4"))]):
        lateral = fpn.inner_blocks[i](stages[name])
        above = lateral + (F.interpolate(above, lateral.shape[2:], mode="nearest") if torch.is_tensor(above) else 0)
        torch.testing.assert_close(net(x)[name], fpn.layer_blocks[i](above))


@torch.no_grad()
def test_the_coarsest_stage_reaches_the_finest_level(file):
    x, net = picture(3, 64, 96), resnet18_fpn(p=8, levels=["layer1", "layer4"], weights=file)
    before = net(x)["layer1"]
    net[0].net[1].layers.get_submodule("layer4.1.bn2").weight.add_(1)
    assert not net(x)["layer1"].allclose(before)


@torch.no_grad()
@pytest.mark.parametrize("size", [(20, 30), (21, 33)])
def test_the_published_simpler_form(file, size):
    x, net = picture(3, *size), response_net(3, p=6, q=5, features="resnet18-stem", weights=file)
    whole = whole_resnet()
    stride2 = whole.layer1(stages_by_hand(whole, x)["relu"])
    conv = net.features.extractor[-1]
    expected = F.conv2d(F.interpolate(stride2, scale_factor=2, mode="bilinear"), conv.weight, conv.bias, padding=1)
    if size[0] % 2: expected = F.interpolate(expected, size, mode="bilinear")
    torch.testing.assert_close(net.features(x), expected)
    assert net(x).shape == (1, 5, *size)


@pytest.mark.parametrize("p, q", [(64, 64), (100, 100), (7, 3)])
def test_parameter_counts(p, q):
    classifier = p * q + q + 2 * q
    resnet = 11_689_512 - 513_000                                     # torchvision's count, less 1000 classes
    stem = 9_408 + 128 + 147_968                                      # conv1, bn1, layer1
    shallow = stem + 525_568                                          # and layer2
    fpn = (64 + 64 + 128) * p + 3 * p + 3 * (9 * p * p + p)
    deep = (64 + 128 + 256 + 512) * p + 4 * p + 4 * (9 * p * p + p)
    nets = {name: response_net(3, p=p, q=q, features=name, weights=None) for name in NAMED[1:]}
    assert n_parameters(resnet18_fpn(p=p, levels=[f"layer{i}" for i in (1, 2, 3, 4)], weights=None)) == resnet + deep
    assert n_parameters(nets["resnet18-fpn"]) == shallow + fpn + 2 * p + classifier
    assert n_parameters(nets["resnet18-stem"]) == stem + 9 * 64 * p + p + classifier
    frozen = {name: response_net(3, p=p, q=q, features=name, weights=None, freeze=True) for name in NAMED[1:]}
    assert n_parameters(frozen["resnet18-fpn"], to_fit=True) == fpn + 2 * p + classifier
    assert n_parameters(frozen["resnet18-stem"], to_fit=True) == 9 * 64 * p + p + classifier


@pytest.mark.parametrize("name", NAMED[1:])
@pytest.mark.parametrize("freeze", [None, False])
def test_loaded_weights_are_kept_unless_asked_otherwise(file, name, freeze):
    net = response_net(3, p=4, q=4, features=name, weights=file, freeze=freeze)
    resnet = net.features.extractor[0]
    before = state(resnet)
    run(net, picture(3, 40, 70))
    if freeze is None: assert same(state(resnet), before) and not any(m.training for m in resnet.modules())
    else:
        assert all(m.training for m in resnet.modules())
        changed = [k for k in before if not state(resnet)[k].equal(before[k])]
        assert {"weight", "running_mean", "running_var"} <= {k.rsplit(".", 1)[1] for k in changed}


@pytest.mark.parametrize("name", NAMED[1:])
def test_random_weights_are_fitted_unless_asked_otherwise(name):
    every = response_net(3, p=4, features=name, weights=None)
    assert n_parameters(every) == n_parameters(every, to_fit=True)


def test_one_band_is_three_equal_ones(file):
    net, grey = resnet18(1, weights=file).eval(), picture(1)
    with torch.no_grad(): a, b = net(grey), net(grey.expand(1, 3, -1, -1))
    for name in a: torch.testing.assert_close(a[name], b[name])


@pytest.mark.parametrize("C", [2, 4, 12])
@pytest.mark.parametrize("name", NAMED)
def test_other_numbers_of_bands(file, name, C):
    assert response_net(C, p=4, q=4, features=name, weights=None)(picture(C, 40, 70)).shape == (1, 4, 40, 70)
    if name == "cnn": return
    with pytest.raises(InputError, match=f"{C} bands.*three bands.*'cnn'"):
        response_net(C, features=name, weights=file)


def test_the_order_in_which_levels_are_asked_for_does_not_matter(file):
    levels = [*resnet18(levels=["layer2", "relu"], weights=file)(picture())]
    assert levels == ["relu", "layer2"]
    assert channels_of(resnet18_fpn(p=5, levels=["layer2", "relu"], weights=file), picture()) == [5, 5]


def test_stages_after_the_last_level_are_left_off(file):
    assert n_parameters(resnet18(levels=["relu"], weights=file)) == 9_408 + 128


@pytest.mark.parametrize("levels", [[], ["layer5"], ["layer1", "fc"]])
def test_unknown_levels(levels):
    with pytest.raises(InputError, match="layer4"): resnet18(levels=levels, weights=None)


def test_colours_are_imagenets():
    transform = Weights.DEFAULT.transforms()
    expected = torchvision.transforms.functional.normalize(picture(), transform.mean, transform.std)
    torch.testing.assert_close(imagenet_colours(picture()), expected)


def test_other_colours():
    x = picture()
    torch.testing.assert_close(imagenet_colours(x, (0.5, 0.4, 0.3), (0.1, 0.2, 0.5)),
                               (x - torch.tensor([[[0.5]], [[0.4]], [[0.3]]])) / torch.tensor([[[0.1]], [[0.2]],
                                                                                               [[0.5]]]))


# --- weights

@pytest.fixture
def cache(tmp_path, monkeypatch, file):
    """A cache folder of the test's own, and ImageNet's file played by one that the test wrote, named as the publisher
    does."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hub" / "checkpoints"
    name = f"resnet18-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setattr(Weights.DEFAULT.value, "url", f"https://weights.example/{name}")
    folder.mkdir(parents=True)
    return folder / name


def loaded(net, seed=0):
    return net[0].net[1].layers.conv1.weight.equal(whole_resnet(seed).conv1.weight)


def test_default_weights_come_from_the_cache(cache, file):
    cache.write_bytes(file.read_bytes())
    assert loaded(resnet18_fpn())
    assert (
        response_net(3, features="resnet18-stem")
        .features.extractor[0]
        .net[1][0]
        .weight.equal(whole_resnet().conv1.weight)
    )


def test_default_weights_are_downloaded_once_with_a_progress_bar(cache, file, monkeypatch, capfd):
    source = cache.parent.parent.parent.parent / "server"
    source.mkdir()
    (source / cache.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(Weights.DEFAULT.value, "url", (source / cache.name).as_uri())
    assert loaded(resnet18_fpn()) and cache.read_bytes() == file.read_bytes()
    assert "100%" in capfd.readouterr().err
    (source / cache.name).unlink()
    assert loaded(resnet18_fpn())


def test_a_damaged_download_is_not_kept(cache, file, monkeypatch):
    source = cache.parent.parent.parent.parent / cache.name
    source.write_bytes(file.read_bytes()[:-5])
    monkeypatch.setattr(Weights.DEFAULT.value, "url", source.as_uri())
    with pytest.raises(InputError, match="invalid hash"): resnet18()
    assert not any(cache.parent.iterdir())


def test_offline_and_not_cached_says_what_to_get_and_where_to_put_it(cache):
    with pytest.raises(InputError) as e: response_net(3, features="resnet18-fpn")
    for words in (f"https://weights.example/{cache.name}", str(cache), "weights=None", "features='cnn'",
                  "may not use the network"):
        assert words in str(e.value)


def test_the_real_name_is_torchvisions(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="https://download.pytorch.org/models/resnet18-f37072fd.pth could not"):
        resnet18()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="could not be downloaded.*file"): resnet18()


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


DAMAGE = {
    "cut short": lambda good: good[:len(good) // 2],
    "cut short: it ends after 0 bytes": lambda good: b"",
    "SHA-256": lambda good: flipped(good, len(good) // 2),
}


@pytest.mark.parametrize("words", DAMAGE)
def test_damage_in_the_cache_is_told_apart(cache, file, words):
    cache.write_bytes(DAMAGE[words](file.read_bytes()))
    with pytest.raises(InputError, match=f"{words}.*download it anew"): resnet18()
    cache.write_bytes(file.read_bytes()) # the advice helps
    assert loaded(resnet18_fpn())


def test_another_network_in_the_cache(cache, monkeypatch, tmp_path):
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "r34.pth")
    digits = hashlib.sha256((tmp_path / "r34.pth").read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(Weights.DEFAULT.value, "url", f"https://weights.example/resnet18-{digits}.pth")
    (tmp_path / "r34.pth").rename(cache.parent / f"resnet18-{digits}.pth")
    with pytest.raises(InputError, match="another network.*layer1.2.conv1.weight"): resnet18()


@pytest.mark.parametrize("as_str", [True, False])
def test_a_file_of_the_users_own(file, as_str):
    assert loaded(resnet18_fpn(weights=str(file) if as_str else file))


def save(tmp_path, state, name="mine.pth", **how):
    torch.save(state, tmp_path / name, **how)
    return tmp_path / name


def test_files_with_less_in_them_that_still_have_all_that_is_needed(tmp_path):
    full = whole_resnet().state_dict()
    for name, leave_out in {"no_classes.pth": "fc.", "no_counts.pth": "num_batches_tracked"}.items():
        assert loaded(resnet18_fpn(weights=save(tmp_path, {k: v for k, v in full.items() if leave_out not in k}, name)))
    other_classes = full | {"fc.weight": torch.rand(5, 512), "fc.bias": torch.rand(5)}
    assert loaded(resnet18_fpn(weights=save(tmp_path, other_classes)))


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.999])
def test_the_format_from_before_pytorch_1_6(tmp_path, keep):
    path = save(tmp_path, whole_resnet().state_dict(), _use_new_zipfile_serialization=False)
    assert loaded(resnet18_fpn(weights=path))
    path.write_bytes(path.read_bytes()[:int(keep * path.stat().st_size)])
    with pytest.raises(InputError, match="cut short"): resnet18(weights=path)


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_one_wrong_bit_in_a_users_file_is_found(tmp_path, file, at):
    (tmp_path / "flipped.pth").write_bytes(flipped(file.read_bytes(), int(at * file.stat().st_size)))
    with pytest.raises(InputError, match="damaged.*checksum"): resnet18(weights=tmp_path / "flipped.pth")


def change(state, name):
    return {"missing": {k: v for k, v in state.items() if k != "layer3.0.conv1.weight"},
            "shape": state | {"layer3.0.conv1.weight": torch.rand(3, 3)},
            "extra": state | {"layer3.0.conv1.weight2": torch.rand(3)},
            "prefix": {f"module.{k}": v for k, v in state.items()},
            "nested": {"state_dict": state, "epoch": 3}, "numbered": {i: v for i, v in enumerate(state.values())}}[name]


@pytest.mark.parametrize("name, entry", [("missing", "layer3.0.conv1.weight"), ("shape", "layer3.0.conv1.weight"),
                                         ("extra", "layer3.0.conv1.weight2"), ("prefix", "module.conv1.weight"),
                                         ("nested", "state_dict"), ("numbered", "0")])
def test_the_weights_of_another_network_are_named(tmp_path, name, entry):
    path = save(tmp_path, change(whole_resnet().state_dict(), name))
    with pytest.raises(InputError, match=f"another network.*{entry}.*Expected"): resnet18(weights=path)


@pytest.mark.parametrize("make", [torchvision.models.resnet34, torchvision.models.resnet50,
                                  torchvision.models.mobilenet_v3_small])
def test_other_architectures(tmp_path, make):
    with pytest.raises(InputError, match="another network"):
        resnet18(weights=save(tmp_path, make(weights=None).state_dict()))


@pytest.mark.parametrize("thing", [[1, 2], torch.rand(3), {}, 5])
def test_a_file_that_holds_no_state_dict(tmp_path, thing):
    with pytest.raises(InputError, match="expected a state dict"): resnet18(weights=save(tmp_path, thing))


@pytest.mark.parametrize("content", [b"<html>Please log in</html>", b"\x89PNG\r\n\x1a\n" + bytes(100),
                                     np.random.default_rng(0).bytes(50)])
def test_a_file_that_is_something_else(tmp_path, content):
    (tmp_path / "page.pth").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as weights|cut short"): resnet18(weights=tmp_path / "page.pth")


class Trap:
    def __init__(self, path): self.path = path
    def __reduce__(self): return (open, (str(self.path), "w"))


def test_code_in_a_weights_file_does_not_run(tmp_path):
    torch.save({"conv1.weight": Trap(tmp_path / "ran")}, tmp_path / "trap.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    for name in ("trap.pth", "plain.pth"):
        with pytest.raises(InputError, match="cannot be read") as e: resnet18(weights=tmp_path / name)
        assert "weights_only" not in str(e.value) # no advice to switch the guard off
    assert not (tmp_path / "ran").exists()


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"): resnet18(weights=tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match="no weights file"): resnet18(weights=tmp_path)


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "mine.safetensors"
    safetensors.save_file(whole_resnet().state_dict(), path)
    assert loaded(resnet18_fpn(weights=path))
    good = path.read_bytes()
    for n in (0, 5, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:n])
        with pytest.raises(InputError, match="cut short"): resnet18(weights=path)
    for junk in (b"<html>Please log in</html>" * 9, (10).to_bytes(8, "little") + b"not json!!",
                 (2).to_bytes(8, "little") + b"[]"):
        path.write_bytes(junk)
        with pytest.raises(InputError, match="cannot be read|cut short"): resnet18(weights=path)


def test_headers_of_safetensors_that_no_memory_or_stack_holds(tmp_path):
    pytest.importorskip("safetensors.torch")
    path = tmp_path / "mine.safetensors"
    nested = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    path.write_bytes(len(nested).to_bytes(8, "little") + nested)
    with pytest.raises(InputError, match="cannot be read as weights"): resnet18(weights=path)
    with open(path, "wb") as file:
        file.write((2 * 10**8).to_bytes(8, "little") + b"{")
        file.truncate(3 * 10**8)  # takes a block on the disk
    with pytest.raises(InputError, match="cannot be read as weights"): resnet18(weights=path)


def test_safetensors_without_its_package(tmp_path, monkeypatch):
    (tmp_path / "mine.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(InputError, match="pip install safetensors"): resnet18(weights=tmp_path / "mine.safetensors")


# --- torchvision

def test_a_torchvision_that_does_not_go_with_pytorch(monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]: monkeypatch.delitem(sys.modules, name)
    class Broken:
        def find_spec(self, name, *args):
            if name == "torchvision": raise RuntimeError("operator torchvision::nms does not exist")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(InputError, match=r"nms does not exist\).*--force-reinstall torch torchvision.*'cnn'"):
        response_net(3, features="resnet18-fpn", weights=None)
    assert response_net(3, M=1, p=4, q=4)(picture()).shape == (1, 4, 37, 50)


def test_the_cnn_does_not_import_torchvision(python):
    python("import sys; from dynaseg.pretrained import response_net; response_net(3); assert 'torchvision' not in "
           "sys.modules")


@pytest.mark.parametrize("make", [torchvision.models.segmentation.lraspp_mobilenet_v3_large,
                                  torchvision.models.segmentation.fcn_resnet50])
def test_a_segmentation_network_of_torchvisions_can_be_fitted(make):
    torch.manual_seed(0)
    theirs = make(weights=None, weights_backbone=None, num_classes=6)
    net, x = response_net(3, p=6, q=5, features=theirs, freeze=False), picture(3, 48, 64)
    steps = run(net, x, T=2)
    assert steps[-1].response.shape == (5, 48, 64) and steps[-1].loss != steps[0].loss
    again = run(response_net(3, p=6, q=5, features=theirs, freeze=False), x, T=2)
    assert [s.loss for s in again] == [s.loss for s in steps]


# --- several sizes

def test_scales_around_any_module_can_be_fitted_or_frozen():
    for extractor in (Small(), resnet18(weights=None, levels=["layer1"])):
        for freeze in (True, False):
            net = response_net(3, p=4, q=4, features=AtScales(extractor), freeze=freeze)
            assert (n_parameters(net, to_fit=True) == n_parameters(net)) is not freeze
            assert run(net, picture(3, 40, 60), T=2)[-1].response.shape == (4, 40, 60)


@pytest.mark.parametrize("C", [1, 3, 5])
def test_scales_go_with_every_extractor_and_any_number_of_bands(C):
    x = picture(C, 40, 60)
    for extractor in (cnn(C, 2, 6), resnet18_fpn(C, 6, weights=None), resnet18_stem(C, 6, weights=None),
                      lambda x: F.avg_pool2d(x, 3)):
        for freeze in (None, False) if isinstance(extractor, nn.Module) else (None,):
            net = response_net(C, p=4, q=4, features=AtScales(extractor, (1, 0.6, 1.5)), freeze=freeze, like=x)
            assert run(net, x, T=1)[-1].response.shape == (4, 40, 60)


# --- timm

@pytest.fixture
def timm(monkeypatch):
    "The package, and no waiting for a network that is not there."
    package = pytest.importorskip("timm")
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return package


@pytest.fixture
def theirs(timm, tmp_path):
    "A small network of timm's, and the file that the test wrote of its weights."
    torch.manual_seed(3)
    net = timm.create_model("resnet10t").eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -1, 1)
            nn.init.uniform_(m.weight, 0.5, 1)
    torch.save(net.state_dict(), tmp_path / "timm.pth")
    return net, tmp_path / "timm.pth"


def finest_two(net, x):
    mean, std = (torch.tensor(net.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    stem = net.act1(net.bn1(net.conv1((x - mean) / std)))
    return [stem, net.layer1(net.maxpool(stem))]


@torch.no_grad()
def test_a_name_of_timms_is_its_two_finest_levels(theirs):
    net, file = theirs
    for x in (picture(3, 40, 60), picture(1, 40, 60)):
        for got, expected in zip(timm_backbone("resnet10t", x.shape[1], weights=file).eval()(x), finest_two(net, x),
                                 strict=True):
            torch.testing.assert_close(got, expected)
    assert "state_dict" not in timm_backbone("resnet10t", weights=file)[1].pretrained_cfg # each copy would hold it
    assert [level.shape[1] for level in timm_backbone("resnet10t", levels=(1, 3), weights=None)(picture())] == [64, 256]


def test_timm_by_name_is_frozen_with_weights_and_fitted_without(theirs):
    x = picture(3, 40, 60)
    kept = response_net(3, p=4, q=4, features="timm:resnet10t", weights=theirs[1], like=x)
    before = state(kept.features.extractor)
    run(kept, x)
    assert same(state(kept.features.extractor),
                before) and n_parameters(kept, to_fit=True) == (64 + 64) * 4 + 2 * 4 + 8 + 4 * 4 + 4 + 8
    for how in (dict(weights=None), dict(weights=theirs[1], freeze=False)):
        net = response_net(3, p=4, q=4, features="timm:resnet10t", like=x, **how)
        assert n_parameters(net) == n_parameters(net, to_fit=True) == n_parameters(kept)
        before = state(net.features.extractor)
        run(net, x)
        assert not any(v.equal(before[k]) for k, v in state(net.features.extractor).items()
                       if k.endswith("running_mean"))


def test_timm_by_name_in_segment(photo, quick, theirs):
    how = quick | dict(features="timm:resnet10t", weights=theirs[1])
    first = segment(photo, **how)
    assert np.array_equal(first.labels, segment(photo, **how).labels) and first.labels.shape == photo.shape[:2]
    assert segment(photo, **how, on="features").floor >= 2


def test_timms_own_weights_from_the_cache(theirs, tmp_path, monkeypatch, timm):
    "Laid out as the hub's client keeps them; never random ones in their place."
    safetensors, constants = pytest.importorskip("safetensors.torch"), pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / f"models--{timm.get_pretrained_cfg('resnet10t').hf_hub_id.replace('/', '--')}"
    with pytest.raises(InputError, match=r"https://huggingface.co/timm/resnet10t\S* could "
                                         r"not.*model.safetensors.*weights=None.*'cnn'"):
        response_net(3, features="timm:resnet10t")
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    safetensors.save_file(theirs[0].state_dict(), folder / "snapshots" / ("0" * 40) / "model.safetensors")
    assert timm_backbone("resnet10t")[1].conv1[0].weight.equal(theirs[0].conv1[0].weight)


def test_the_weights_of_another_network_or_a_damaged_file_for_timm(theirs, timm, tmp_path):
    with pytest.raises(InputError, match="another network.*timm's resnet14t"):
        timm_backbone("resnet14t", weights=theirs[1])
    torch.save(timm.create_model("resnet14t").state_dict(), tmp_path / "larger.pth")
    with pytest.raises(InputError, match="another network.*layer1.0.conv3.*timm's resnet10t"):
        timm_backbone("resnet10t", weights=tmp_path / "larger.pth")
    theirs[1].write_bytes(theirs[1].read_bytes()[:-100])
    with pytest.raises(InputError, match="cut short"):
        segment(np.zeros((9, 9, 3)), features="timm:resnet10t", weights=theirs[1])
    with pytest.raises(FileNotFoundError): timm_backbone("resnet10t", weights=tmp_path / "nowhere.pth")


def test_a_file_of_another_number_of_classes_for_timm(theirs, timm, tmp_path):
    torch.save(timm.create_model("resnet10t", num_classes=7).state_dict(), tmp_path / "seven.pth")
    assert len(timm_backbone("resnet10t", weights=tmp_path / "seven.pth")(picture())) == 2


def test_what_timm_cannot_make_is_told_in_its_words(timm):
    with pytest.raises(InputError, match="Unknown model.*list_models"):
        response_net(3, features="timm:resnet10000", weights=None)
    with pytest.raises(InputError, match=r"levels=\(0, 9\)"): timm_backbone("resnet10t", levels=(0, 9), weights=None)
    unpublished = next(n for n in timm.list_models("coatnet*") if not timm.is_model_pretrained(n))
    with pytest.raises(InputError, match="No pretrained weights exist"): response_net(3, features=f"timm:{unpublished}")


@pytest.mark.parametrize("C", [2, 4, 12])
def test_other_numbers_of_bands_in_timm(theirs, C):
    assert response_net(C, p=4, q=4, features="timm:resnet10t",
                        weights=None)(picture(C, 40, 70)).shape == (1, 4, 40, 70)
    for weights in ("DEFAULT", theirs[1]):
        with pytest.raises(InputError, match=f"{C} bands.*three bands.*'cnn'"):
            response_net(C, features="timm:resnet10t", weights=weights)


def test_a_transformer_of_timms_with_an_option(timm):
    x = picture(3, 40, 60)
    with pytest.raises(InputError, match="Input height"):
        response_net(3, features="timm:vit_tiny_patch16_224", weights=None, like=x)
    vit = timm_backbone("vit_tiny_patch16_224", weights=None, dynamic_img_size=True, dynamic_img_pad=True)
    assert channels_of(vit, x) == [192, 192] and vit[0].spread == dict(mean=(0.5, 0.5, 0.5), spread=(0.5, 0.5, 0.5))
    assert response_net(3, p=4, q=4, features=vit, like=x)(x).shape == (1, 4, 40, 60)


def test_scales_around_timm(timm):
    assert len(channels_of(AtScales(timm_backbone("resnet10t", weights=None)), picture(3, 40, 60))) == 4


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="pip install timm"): response_net(3, features="timm:resnet18", weights=None)


# --- habits that programs rely on

def test_nets_can_be_copied_and_pickled(tmp_path, file):
    x = picture(3, 40, 60)
    for features in (*NAMED, Small()):
        net = response_net(3, M=1, p=4, q=4, features=features, weights=file
                           if str(features).startswith("resnet") else "DEFAULT")
        r = net(x)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))): torch.testing.assert_close(other(x), r)


# --- in `segment`

@pytest.mark.parametrize("features, weights, on",
                         [("cnn", None, "features"), ("resnet18-stem", None, "image"),
                          ("resnet18-fpn", None, "features"),
                          ("resnet18-stem", "file", "features"), ("resnet18-fpn", "file", "image"),
                          (Small(), "DEFAULT", "features"), (lambda x: F.avg_pool2d(x, 2), "DEFAULT", "image")])
def test_segment_takes_every_extractor_and_repeats_itself(photo, quick, file, features, weights, on):
    how = quick | dict(features=features, weights=file if weights == "file" else weights, on=on)
    first, again = segment(photo, **how), DynaSeg(**how).fit(photo).segmentation_
    assert first.labels.shape == photo.shape[:2] and first.labels.dtype == np.int64
    assert np.array_equal(first.labels,
                          again.labels) and first.history["loss"].tolist() == again.history["loss"].tolist()
    assert 2 <= first.floor <= 26


def test_the_silhouette_phase_can_look_at_features(quick):
    def extractor(x): return x * torch.tensor([1.0, 0, 0])[:, None, None]     # sees red only: 4 of the 8 colours
    rng = np.random.default_rng(0)
    colours = np.array([[r, g, 0.5] for r in (0.1, 0.4, 0.6, 0.9) for g in (0.2, 0.8)])[rng.integers(0, 8, (30, 40))]
    image = (colours + rng.normal(0, 0.01, colours.shape)).clip(0, 1).astype(np.float32)
    how = quick | dict(features=extractor, p=3)
    assert segment(image, **how, on="features").floor == 4 == silhouette_phase(image * np.float32([1, 0, 0])).opt_nC
    assert segment(image, **how, on="image").floor == segment(image, **how).floor == 8


def test_an_image_too_small_for_batch_norm_in_training_is_told(photo, quick):
    whole = resnet18(levels=["layer4"], weights=None)
    with pytest.raises(InputError, match="24 x 30 pixels is too small.*freeze=True"):
        segment(photo, **quick, features=whole, freeze=False)
    assert segment(photo, **quick, features=whole).labels.shape == (24, 30)


def test_grey_and_many_bands_in_segment(photo, quick, file):
    grey = photo[..., 0]
    assert segment(grey, **quick, features="resnet18-stem", weights=file).labels.shape == grey.shape
    with pytest.raises(InputError, match="6 bands"):
        segment(np.concatenate([photo, photo], 2), **quick, features="resnet18-stem", weights=file)


def test_segment_never_falls_back_to_random_weights(photo, quick, cache):
    for name in NAMED[1:]:
        with pytest.raises(InputError, match="could not be downloaded"): segment(photo, **quick, features=name)
    segment(photo, **quick)                                                # the CNN has no such need
