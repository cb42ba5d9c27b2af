"Many photos at once: each comes to what it would come to alone, nothing waits for the device, and mistakes are named."
import math
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from dynaseg.pretrained import response_net
from dynaseg.images import InputError, load_image, standardise, to_tensor
from dynaseg.loss import loss_gradient
from dynaseg.many import REASONS, _watch_many, batches, fit_many, many_net, segment_many
from dynaseg.fit import fit, settled
from dynaseg.segmenter import check_settings, prepare, segment
from dynaseg.weighting import fsf, scf


@pytest.fixture(scope="module")
def x(photo):
    "(3, 3, 24, 30) float64: the photo, its mirror image, and noise."
    noise = torch.rand(1, 3, 24, 30, generator=torch.Generator().manual_seed(0))
    one = standardise(to_tensor(load_image(photo)))
    return torch.cat([one, one.flip(3) * 1.5, standardise(noise)]).double()


def nets(n=3, C=3, M=2, p=8, q=12, padding="replicate"):
    return [response_net(C, M, p, q, seed=seed, padding=padding).double() for seed in range(n)]


# --- one wide network

@pytest.mark.parametrize("M, p, q, padding", [(1, 5, 2, "zeros"), (2, 8, 12, "replicate"), (3, 4, 7, "zeros")])
def test_side_by_side_each_gives_its_own_response(x, M, p, q, padding):
    alone, before = nets(3, 3, M, p, q, padding), torch.random.get_rng_state()
    wide = many_net(alone)
    assert torch.random.get_rng_state().equal(before)  # nothing was drawn
    r = wide(x.flatten(0, 1)[None])
    assert r.shape == (1, 3 * q, *x.shape[2:])
    for b, net in enumerate(alone): torch.testing.assert_close(r[:, b * q:(b + 1) * q], net(x[b:b + 1]))
    assert sum(w.numel() for w in wide.parameters()) == sum(w.numel() for net in alone for w in net.parameters())


def test_the_networks_given_stay_as_they_are(x):
    alone = nets()
    before = [w.clone() for net in alone for w in net.parameters()]
    for _ in fit_many(many_net(alone), x, fsf(), [0, 0, 0], T=2): pass
    assert all(w.equal(old) and w.grad is None for w, old in zip((w for net in alone for w in net.parameters()),
                                                                 before))


@pytest.mark.parametrize("chunk", [1, 500, 2**19])
def test_the_loss_of_several_maps_is_that_of_each(chunk):
    r, w = torch.randn(3, 5, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), [0.3, 2.0, 50.0]
    labels = r.argmax(1)
    together = loss_gradient(r, labels, r.new_tensor(w).view(-1, 1, 1, 1), chunk)
    for b in range(3):
        torch.testing.assert_close(tuple(part[b] for part in together), loss_gradient(r[b], labels[b], w[b]))


# --- the loop

@pytest.mark.parametrize("weighting, sgd", [(fsf(), {}), (scf(5), dict(lr=0.05, momentum=0.5, weight_decay=0.01))],
                         ids=["fsf", "scf"])
def test_each_fit_is_that_of_fit(x, weighting, sgd):
    "In 64 bits, where rounding does not reach the labels."
    wide, alone = many_net(nets()), nets()
    together = list(fit_many(wide, x, weighting, [0, 0, 0], T=6, **sgd))
    assert len(together) == 7 and not together[-1].ended.any()
    for b, net in enumerate(alone):
        for many, step in zip(together, fit(net, x[b:b + 1], weighting, T=6, **sgd), strict=True):
            assert many.labels[b].equal(step.labels) and many.n_labels[b] == step.n_labels
            assert (many.sim[b], many.con[b], many.loss[b]) == pytest.approx((step.sim, step.con, step.loss), rel=1e-9)
    for weight, *parts in zip(wide.parameters(), *(net.parameters() for net in alone), strict=True):
        torch.testing.assert_close(weight, torch.cat(parts), rtol=1e-7, atol=1e-9)


def test_each_fit_is_that_of_fit_up_to_rounding_in_32_bits(x):
    single, alone = x.float(), [net.float() for net in nets()]
    together = list(fit_many(many_net(alone), single, fsf(), [0, 0, 0], T=1))
    for b, net in enumerate(alone):
        for many, step in zip(together, fit(net, single[b:b + 1], fsf(), T=1)):
            assert (many.labels[b] == step.labels).float().mean() > 0.99 and many.loss[b].item() == pytest.approx(
                step.loss, rel=1e-4
            )


def until_the_end(net, x, weighting, floor, T, tol):
    "A fit as `segment` watches it: (its readings, why it ended)."
    steps, done = [], settled(tol)
    for step in fit(net, x, weighting, floor, T=T):
        steps.append(step)
        if step.n_labels <= floor: return steps, "floor"
        if done(step.labels): return steps, "converged"
    return steps, "iterations"


def test_networks_end_one_by_one_and_then_stand_still(x):
    floors, T, tol = [8, 0, 0], 15, 0.05
    together = list(fit_many(many_net(nets()), x, fsf(), floors, T=T, tol=tol))
    reasons = []
    for b, net in enumerate(nets()):
        steps, reason = until_the_end(net, x[b:b + 1], fsf(), floors[b], T, tol)
        reasons.append(reason)
        assert REASONS[together[-1].ended[b]] == reason
        n = len(steps)
        assert [int(s.ended[b]) > 0 for s in together] == [reason != "iterations" and t >= n - 1 for t in range(T + 1)]
        for many, step in zip(together, steps): assert many.labels[b].equal(step.labels)
        for later in together[n:]: assert later.response[b].equal(together[n - 1].response[b])  # to the bit
    assert reasons == ["floor", "converged", "iterations"]  # so all three were seen here


def test_a_floor_that_is_there_from_the_start(x):
    first = list(fit_many(many_net(nets()), x, fsf(), [12, 12, 12], T=3))
    assert all((step.ended == 1).all() and step.response.equal(first[0].response) for step in first)


def test_the_weighting_sees_no_fewer_labels_than_the_floor(x):
    flat = torch.cat([torch.zeros_like(x[:1]), x[1:]])
    step = next(fit_many(many_net(nets()), flat, scf(300), [5, 7, 2]))
    assert step.n_labels[0] == 1 and step.n_labels[2] > 7
    weights = torch.tensor([300 / max(int(n), floor) for n, floor in zip(step.n_labels, [5, 7, 2])])
    torch.testing.assert_close(step.loss, step.sim + weights.double() * step.con, rtol=1e-6, atol=0)


def test_any_function_of_the_number_of_labels_is_a_weighting(x):
    asked = []
    def own(n):
        asked.append(n)
        return 0.5 if n > 6 else math.log(n + 1)
    together = list(fit_many(many_net(nets()), x, own, [2, 5, 3], T=5))
    assert asked == list(range(2, 13)) and all(type(n) is int for n in asked)  # once each, before the fit
    for step in together:
        w = torch.tensor([own(max(int(n), floor)) for n, floor in zip(step.n_labels, [2, 5, 3])])
        torch.testing.assert_close(step.loss, step.sim + w * step.con, rtol=1e-6, atol=0)


def test_a_network_whose_numbers_overflow_leaves_the_others_alone(x):
    good = list(fit_many(many_net(nets()[1:]), x[1:], fsf(), [0, 0], T=3))
    broken = nets()
    with torch.no_grad(): broken[0].classifier[0].weight.fill_(float("nan"))
    for both, step in zip(good, fit_many(many_net(broken), x, fsf(), [0, 0, 0], T=3)):
        assert step.loss[0].isnan() and torch.allclose(step.loss[1:], both.loss, rtol=1e-9)


# --- no waiting

WAITS = ("_local_scalar_dense", "nonzero", "_unique", "unique", "bincount", "masked_select", "equal", "is_nonzero",
         "allclose", "_to_copy", "lift_fresh",
         "_pin_memory", "repeat_interleave.Tensor")


class Watch(TorchDispatchMode):
    """Notes every operation for which a program has to wait for a GPU: a value read, a size that depends on values, a
    copy to or from it."""
    def __init__(self):
        super().__init__()
        self.waits, self.operations = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.")
        self.operations += 1
        masks = function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put,
                                            torch.ops.aten.index_put_) and any(
            i is not None and i.dtype == torch.bool for i in args[1])
        # another precision, on the same device
        stays = name.startswith("_to_copy") and (kwargs or {}).get("device") in (None, args[0].device)
        if name.startswith(WAITS) and not stays or masks: self.waits.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("autocast", [False, True])
def test_nothing_is_waited_for_between_two_readings(x, autocast):
    steps = fit_many(many_net([net.float() for net in nets()]), x.float(), fsf(), [9, 0, 0], T=6, tol=0.5,
                     weight_decay=0.1, autocast=autocast)
    next(steps)  # the tables have been made
    with Watch() as watch: last = [*steps][-1]
    assert watch.waits == [] and watch.operations > 300
    assert (last.ended[:2] > 0).all()  # networks did end in between


def test_the_watch_notices_one_who_waits(x):
    with Watch() as watch: next(fit(nets()[0], x[:1], fsf()))
    assert {name.split(".")[0] for name in watch.waits} >= {"bincount", "_local_scalar_dense"}
    for wait in (lambda: x[x > 0], lambda: bool(x.sum()), lambda: x.unique(), lambda: x.to("meta"),
                 lambda: torch.tensor([1.0])):
        with Watch() as watch: wait()
        assert len(watch.waits) > 0


def test_the_loop_runs_where_there_are_no_values(x):
    "On the device `meta` every attempt to read a value, or to mix devices, is an error."
    there = many_net([net.float().to("meta") for net in nets()])
    for step in fit_many(there, x.float().to("meta"), fsf(), [9, 0, 0], T=3, tol=0.1): pass
    assert {part.device.type for part in step} == {"meta"} and step.labels.shape == (3, 24, 30)
    nowhere = step.loss
    for wait in (nowhere.tolist, nowhere[0].item, nowhere.cpu, nowhere.numpy, nowhere.all,
                 lambda: nowhere + torch.ones(3)):
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)): assert wait()


@pytest.mark.parametrize("check, looks", [(1, 21), (10, 3), (50, 1)])
def test_one_look_every_check_updates(x, check, looks):
    with Watch() as watch: _watch_many(fit_many(many_net(nets()), x, fsf(), [0, 0, 0], T=20), check)
    assert sum(name.startswith("_local_scalar_dense") for name in watch.waits) == looks


def test_all_have_ended_at_a_look_and_the_fits_end(x):
    _, columns, seconds = _watch_many(fit_many(many_net(nets()), x, fsf(), [11, 11, 11], T=500), check=4)
    assert len(seconds) == len(columns[0]) < 60 and len(seconds) % 4 == 1 and (columns[4][-1] == 1).all()


def test_other_devices_agree(x):
    if not torch.cuda.is_available(): pytest.skip("no GPU here")
    here = list(fit_many(many_net([net.float() for net in nets()]), x.float(), fsf(), [0, 0, 0], T=1))
    there = list(fit_many(many_net([net.float().cuda() for net in nets()]), x.float().cuda(), fsf(), [0, 0, 0], T=1))
    for a, b in zip(here, there): torch.testing.assert_close(b.loss.cpu(), a.loss, rtol=1e-3, atol=1e-4)


# --- bfloat16

def test_bfloat16_is_close_and_weights_stay_in_32_bits(x):
    wide = many_net([net.float() for net in nets()])
    half = list(fit_many(wide, x.float(), fsf(), [0, 0, 0], T=3, autocast=True))
    full = list(fit_many(many_net([net.float() for net in nets()]), x.float(), fsf(), [0, 0, 0], T=3))
    assert {w.dtype for w in wide.parameters()} == {half[0].response.dtype} == {torch.float32}
    assert not half[0].response.equal(full[0].response)                        # it is in use
    assert (half[0].labels == full[0].labels).float().mean() > 0.95
    for a, b in zip(half, full): torch.testing.assert_close(a.loss, b.loss, rtol=0.05, atol=0)


# --- segment_many

def like(a, b, rtol=1e-3):
    "Two results of one photo, equal up to rounding."
    assert (a.labels == b.labels).mean() > 0.99
    assert (a.floor, a.stop_reason, a.settings) == (b.floor, b.stop_reason,
                                                    b.settings) and np.array_equal(a.image, b.image)
    assert list(a.history) == list(b.history)
    for name in set(a.history) - {"seconds"}:
        assert a.history[name].dtype == b.history[name].dtype
        np.testing.assert_allclose(a.history[name], b.history[name], rtol=rtol)
    return True


@pytest.fixture
def brief(quick):
    "Without the silhouette phase, which takes longer than these fits."
    return quick | dict(min_labels=2)


@pytest.fixture(scope="module")
def several(photo):
    "Seven photos of three shapes, mixed."
    return [photo, photo[:, ::-1], photo[:20], photo[..., 0], np.ascontiguousarray(photo.swapaxes(0, 1)),
            photo[..., 1] / 255, photo[::-1]]


def test_many_are_as_each_alone_in_their_order(several, quick):
    how = quick | dict(T=2, seed=3)
    many, alone = segment_many(several, **how), [segment(image, **how) for image in several]
    assert len(many) == 7 and all(map(like, many, alone))


@pytest.mark.parametrize("more", [dict(variant="scf", mu=300, T=30), dict(preset="segments", tol=0.2, T=12),
                                  dict(min_labels=6, T=12), dict(min_labels=None, T=2),
                                  dict(on="features", min_labels="silhouette", cluster_level=0.0, T=2),
                                  dict(variant=lambda n: 3.0 if n > 4 else 1 / n, T=2),
                                  dict(max_pixels=300, weight_decay=0.1)])
def test_every_setting_does_what_it_does_in_segment(several, brief, more):
    how = brief | more
    for a, b in zip(segment_many(several[:2], **how), (segment(image, **how) for image in several)):
        assert (a.floor, a.settings, a.stop_reason) == (b.floor, b.settings, b.stop_reason)
        n = min(3, len(a.history["loss"]), len(b.history["loss"]))  # further on, rounding has grown
        for name in ("n_labels", "weight", "sim", "con", "loss"):
            np.testing.assert_allclose(a.history[name][:n], b.history[name][:n], rtol=5e-3)


@pytest.mark.parametrize("batch, workers, check", [(1, 1, 1), (2, 3, 7), (3, None, 10)])
def test_how_they_are_shared_out_changes_nothing(several, brief, batch, workers, check):
    how = brief | dict(T=2)
    shared = segment_many(several, batch=batch, workers=workers, check=check, **how)
    assert all(map(like, shared, segment_many(several, batch=7, **how)))


def test_batches_hold_like_photos_in_order():
    checked = check_settings(preset="paper", device="cpu", max_pixels=1200)
    images = [np.zeros(s) for s in [(30, 40, 3), (60, 80, 3), (40, 30, 3), (30, 40, 1), (30, 40, 3)]]
    assert batches(images, checked) == [[0, 1, 4], [2], [3]]  # the second is seen at half its size
    assert batches(images, checked, most=2) == [[0, 1], [4], [2], [3]]
    full = check_settings(preset="paper", device="cpu")
    assert batches([np.zeros((321, 481, 3))] * 3, full) == [[0], [1], [2]]  # memory stays bounded
    assert batches([np.zeros((321, 481, 3))] * 9,
                   full._replace(device=torch.device("cuda"))) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_histories_end_where_the_photo_ended(several, brief):
    how = brief | dict(T=40, variant="scf", mu=300, min_labels=3, check=25)
    segs = segment_many([several[0], several[1], np.random.default_rng(0).random((24, 30, 3))], **how)
    assert {seg.stop_reason for seg in segs} == {"floor"}
    for seg in segs:
        assert seg.history["n_labels"][-1] <= 3 < seg.history["n_labels"][:-1].min(initial=99)
        assert (
            len({len(column) for column in seg.history.values()}) == 1 and (np.diff(seg.history["seconds"]) >= 0).all()
        )
        np.testing.assert_allclose(seg.history["loss"], seg.history["sim"] + seg.history["weight"] * seg.history["con"],
                                   rtol=1e-5)
    assert len({len(seg.history["loss"]) for seg in segs}) > 1


def test_whatever_holds_photos_will_do(photo, brief, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    expected = segment_many([photo, photo], **brief)
    stack = np.stack([photo, photo])
    for images in ((p for p in [tmp_path / "photo.png", str(tmp_path / "photo.png")]), stack,
                   torch.from_numpy(stack).permute(0, 3, 1, 2), (Image.fromarray(photo), photo)):
        assert [np.array_equal(a.labels, b.labels) for a, b in zip(segment_many(images, **brief), expected,
                                                                   strict=True)] == [True, True]
    assert segment_many([], **brief) == []


def test_odd_pictures(quick):
    odd = [np.full((6, 7, 3), 0.5), np.zeros((1, 2)), np.random.default_rng(0).random((40, 1, 5)),
           np.random.default_rng(0).random((2, 1))]
    assert all(map(like, segment_many(odd, **quick), [segment(image, **quick) for image in odd]))


def test_the_program_around_it(several, brief):
    "Switched-off gradients do not stop it; random numbers and filters for warnings are left as they were."
    expected, state, filters = segment_many(several, **brief), torch.random.get_rng_state(), list(warnings.filters)
    for off in (torch.no_grad(), torch.inference_mode()):
        with off:
            assert all(np.array_equal(a.labels, b.labels) for a, b in zip(segment_many(several, **brief), expected))
    assert torch.random.get_rng_state().equal(state) and warnings.filters == filters


def test_autocast_is_among_the_settings(several, brief):
    half, full = (segment_many(several[:2], autocast=on, **brief) for on in (True, False))
    assert all(a.settings == b.settings | {"autocast": True} != b.settings and (a.labels == b.labels).mean() > 0.5
               for a, b in zip(half, full))
    assert half[0].settings is not half[1].settings


def test_seconds_are_shares_of_the_whole(several, brief):
    start = time.perf_counter()
    segs = segment_many(several, workers=1, **brief)
    assert all(seg.seconds > 0 for seg in segs)
    assert sum(seg.seconds for seg in segs) <= 2 * (time.perf_counter() - start)  # one thread beside the fits


# --- mistakes

@pytest.mark.parametrize("bad, error, words",
                         [("none.png", FileNotFoundError, r"images\[2\]: There is no file 'none.png'"),
                          (np.zeros((1, 1)), InputError, r"images\[2\]: .*1 pixel"),
                          (np.full((5, 5), np.nan), InputError, r"images\[2\]: .*NaN"),
                          (7, InputError, r"images\[2\]: ")])
def test_a_photo_that_cannot_be_used_is_named_before_any_work(several, quick, bad, error, words, monkeypatch):
    monkeypatch.setattr("dynaseg.many.prepare", None)
    with pytest.raises(error, match=words): segment_many([*several[:2], bad, several[3]], **quick)


@pytest.mark.parametrize("one", ["photo.png", np.zeros((20, 30, 3)), np.zeros((20, 30)), torch.zeros(3, 20, 30),
                                 Image.new("RGB", (9, 9)), None, 5])
def test_a_single_photo_is_referred_to_segment(one, quick):
    with pytest.raises(InputError, match="expected several photos.*segment"): segment_many(one, **quick)


@pytest.mark.parametrize("wrong, words", [
    (dict(features="resnet18-fpn"), "features='resnet18-fpn'.*Take segment"),
    (dict(features=torch.nn.Identity()), "Take segment"), (dict(freeze=True), "freeze=True.*Take segment"),
    (dict(callback=print), "callback"), (dict(colour=1), "colour: no setting here"), (dict(batch=0), "batch=0"),
    (dict(check=2.5), "check=2.5"), (dict(workers=True), "workers=True"),
    (dict(lr=-1), "lr=-1"), (dict(preset="slow"), "preset='slow'"), (dict(min_labels=500), "min_labels=500"),
    (dict(device="tpu"), "device='tpu'")])
def test_wrong_settings_are_named(photo, quick, wrong, words):
    with pytest.raises(InputError, match=words): segment_many([photo], **quick | wrong)


def test_a_mistake_ends_it_without_preparing_the_rest(photo, brief, monkeypatch):
    prepared = []
    def slow(*given):
        prepared.append(time.sleep(0.05))
        return prepare(*given)
    monkeypatch.setattr("dynaseg.many.prepare", slow)
    with pytest.raises(InputError, match="the loss became"):
        segment_many([photo] * 100, batch=1, workers=1, variant=lambda n: float("inf"), **brief)
    assert len(prepared) <= 2


def test_a_loss_that_is_no_number_names_the_photo(several, brief):
    with pytest.raises(InputError, match=r"images\[[01]\]: the loss became \w+ after \d+ updates: lower lr"):
        segment_many(several[:2], **brief | dict(lr=1e30, cluster_level=0.0, T=30))
    with pytest.raises(InputError, match=r"images\[0\]: the loss became nan after 0 updates"):
        segment_many(several[:2], variant=lambda n: float("nan"), **brief)


def test_threads_that_start_later_have_all_cores_again(photo, brief):
    "PyTorch keeps one number of threads for the process, from which a new thread takes its own."
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        segment_many([photo], workers=4, **brief)
        with ThreadPoolExecutor(1) as later: assert later.submit(torch.get_num_threads).result() == 4
    finally: torch.set_num_threads(before)


# --- pixels without data

def test_photos_with_holes_among_others(photo, quick):
    "Each as alone; the settings of reading hold for all of them."
    masked = np.ma.masked_array(photo, np.repeat(np.tri(*photo.shape[:2], -9)[..., None] > 0, 3, 2))
    results = segment_many([photo, masked, photo[::-1]], **quick)
    assert [seg.valid is None for seg in results] == [True, False, True]
    alone = segment(masked, **quick)
    np.testing.assert_array_equal(results[1].labels, alone.labels)
    assert results[1].labels.min() == -1 and results[1].meta == alone.meta
    for seg in segment_many([photo, photo[::-1]], mask=np.tri(*photo.shape[:2], 9), **quick):
        assert ((seg.labels == -1) == (np.tri(24, 30, 9) == 0)).all()
    with pytest.raises(InputError, match="pages='all'"): segment_many([photo], pages="all", **quick)
