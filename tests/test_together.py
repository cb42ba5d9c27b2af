"""Several photos, one network: the fit on a canvas, statistics, labels that mean the same, the estimator, files."""
import json

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from sklearn.exceptions import NotFittedError

from dynaseg import DynaSeg, Segmentation, segment
from dynaseg.fit import fit
from dynaseg.images import InputError, filled, read_image, standardise, to_tensor
from dynaseg.network import cnn_net, over_valid
from dynaseg.segmenter import check_settings, prepare
from dynaseg.together import (SharedNetwork, fit_together, groups_of, keep_statistics, nearest, on_canvas,
                              own_statistics, palette_of, voted)


@pytest.fixture(scope="module")
def scene():
    "(30, 60, 3) uint8: sky above, a lawn below, two houses, all noisy."
    rng = np.random.default_rng(1)
    a = np.empty((30, 60, 3))
    a[:15], a[15:] = (90, 150, 230), (60, 160, 50)
    a[8:22, 6:20], a[8:22, 40:54] = (200, 60, 40), (230, 220, 200)
    return (a + rng.normal(0, 8, a.shape)).clip(0, 255).astype(np.uint8)


def by_hand(net, xs):
    "The response of one network to several photos, layer by layer, with means and spreads over the pixels of all."
    def normed(norm, maps):
        pixels = torch.cat([m.flatten(2)[0] for m in maps], 1)
        mean, spread = pixels.mean(1), (pixels.var(1, correction=0) + norm.eps).sqrt()
        return [(m - mean[:, None, None]) / spread[:, None, None] * norm.weight[:, None, None]
                + norm.bias[:, None, None] for m in maps]
    for layer in [*net.features, *net.classifier]:
        xs = normed(layer, xs) if isinstance(layer, torch.nn.BatchNorm2d) else [layer(x) for x in xs]
    return xs


# --- the canvas

@given(st.lists(st.tuples(st.integers(1, 7), st.integers(2, 7)), min_size=1, max_size=4))
def test_each_photo_lies_whole_on_the_canvas_and_apart(sizes):
    rng = np.random.default_rng(0)
    pictures = [read_image(rng.integers(0, 255, (h, w, 3)).astype(np.uint8), axes="YXC") for h, w in sizes]
    canvas = on_canvas(pictures)
    assert canvas.valid.sum() == sum(h * w for h, w in sizes) and canvas.sizes == sizes
    for picture, (h, w), left in zip(pictures, sizes, canvas.lefts):
        assert (canvas.image[:h, left:left + w] == picture.pixels).all()
        assert canvas.valid[:h, left:left + w].all() and not canvas.valid[h:, left:left + w].any()
    for left in canvas.lefts[1:]: assert not canvas.valid[:, left - 2:left].any()


def test_a_pixel_without_data_is_out_on_the_canvas():
    holes = np.ones((4, 5, 1), np.float32)
    holes[1, 2] = np.nan
    canvas = on_canvas([read_image(np.zeros((3, 3, 1), np.float32), axes="YXC"), read_image(holes, axes="YXC")])
    assert (~canvas.valid).sum() == 2 * 4 + 3 + 1 and not canvas.valid[1, 5 + 2]


@pytest.mark.parametrize("M", [1, 3])
def test_the_network_sees_each_photo_as_if_it_were_alone_but_for_the_statistics(M):
    "Photos of two sizes; in 64 bits."
    net = cnn_net(3, M=M, p=6, q=5, padding="replicate").double()
    rng = np.random.default_rng(0)
    photos = [rng.random((h, w, 3), dtype=np.float32) for h, w in ((9, 7), (5, 8), (6, 1))]
    canvas = on_canvas([read_image(photo, value_range=(0, 1), axes="YXC") for photo in photos])
    seen = torch.from_numpy(canvas.valid)
    with over_valid(net, seen): r = net(filled(to_tensor(canvas.image).double(), seen))
    wanted = by_hand(net, [to_tensor(photo).double() for photo in photos])
    for response, left, (h, w) in zip(wanted, canvas.lefts, canvas.sizes):
        torch.testing.assert_close(r[..., :h, left:left + w], response)


def test_no_pair_of_neighbours_reaches_across_a_gap():
    "Two flat photos of different colours: within each, neighbours are alike, so L_con is 0."
    canvas = on_canvas([read_image(np.full((6, 6, 3), v, np.uint8)) for v in (20, 220)])
    ready = prepare(canvas.image, check_settings(M=1, p=4, q=4, max_pixels=0, min_labels=None), canvas.valid)
    with over_valid(ready.net, ready.seen): step = next(fit(ready.net, ready.x, lambda n: 1.0, T=0, valid=ready.seen))
    assert step.con == pytest.approx(0, abs=1e-5) and step.sim > 0


# --- statistics

def test_what_is_kept_are_mean_and_spread_over_all_photos(scene, quick):
    net = fit_together([scene[:, :25], scene[:20, 25:]], **quick)
    canvas = on_canvas([read_image(scene[:, :25]), read_image(scene[:20, 25:])])
    pixels = canvas.image[canvas.valid]
    np.testing.assert_allclose(net.mean, pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(net.spread, pixels.std(0), rtol=1e-5)
    x = filled(standardise(to_tensor(canvas.image), torch.from_numpy(canvas.valid)), torch.from_numpy(canvas.valid))
    y = net.net.features[:2](x)[0][:, torch.from_numpy(canvas.valid)]
    torch.testing.assert_close(net.norms[0].running_mean, y.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.norms[0].running_var, y.var(1), rtol=1e-4, atol=1e-5)


def test_running_statistics_do_not_see_the_rest_of_the_photo(scene, quick):
    "Batch statistics do. Pixels two away from the cut are the same input."
    net = fit_together([scene], **quick | {"max_pixels": 0})
    whole, part = read_image(scene), read_image(scene[:, :30])
    kept = np.s_[:, :, :28]
    torch.testing.assert_close(net.response(whole)[kept], net.response(part)[kept], rtol=1e-3, atol=1e-4)
    own = net.response(whole, "batch")[kept] - net.response(part, "batch")[kept]
    assert own.abs().max() > 0.1


def test_batch_statistics_take_the_light_out(scene, quick):
    net = fit_together([scene], **quick)
    darker = read_image(scene.astype(np.float32) / 255 * 0.5, value_range=(0, 1))
    light = net.response(read_image(scene), "batch"), net.response(darker, "batch")
    torch.testing.assert_close(*light, rtol=1e-3, atol=1e-3)
    assert (net.response(read_image(scene)) - net.response(darker)).abs().max() > 0.1


def test_labelling_changes_nothing(scene, quick):
    net = fit_together([scene], **quick)
    before = {name: values.clone() for name, values in net.net.state_dict().items()}
    first = net.label(scene).labels
    for statistics in ("batch", "running"): net.label(scene[:12, :17], statistics)
    with pytest.raises(InputError): net.label(scene, "mean")
    assert all(values.equal(before[name]) for name, values in net.net.state_dict().items())
    assert (net.label(scene).labels == first).all() and not net.net.features[2].training


def test_own_statistics_end_with_an_error():
    ready = prepare(np.random.default_rng(0).random((8, 8, 3), dtype=np.float32), check_settings(M=1, p=4, q=4))
    norms = keep_statistics(ready)
    assert len(norms) == 2
    with pytest.raises(KeyError), own_statistics(norms): raise KeyError
    assert not any(norm.training for norm in norms)


# --- labels

def response_of(labels, q):
    "(q, h, w) whose argmax are these labels."
    return 8 * torch.nn.functional.one_hot(torch.tensor(labels), q).permute(2, 0, 1).float()


def test_outputs_are_numbered_by_area_on_all_photos():
    used, groups = groups_of(response_of([[4, 4, 4], [1, 1, 2]], 6), np.zeros((2, 3, 1), np.float32),
                             np.ones((2, 3), bool))
    assert used.tolist() == [1, 2, 4] and groups.tolist() == [1, 2, 0]


def test_outputs_in_gaps_do_not_count():
    valid = np.array([[True, True, False]])
    used, groups = groups_of(response_of([[3, 0, 5]], 6), np.zeros((1, 3, 1), np.float32), valid)
    assert used.tolist() == [0, 3] and groups.tolist() == [0, 1]


def test_outputs_of_like_colour_are_joined_first():
    image = np.array([[[0.1], [0.1], [0.12], [0.9], [0.9], [0.9], [0.9]]], np.float32)
    response = response_of([[0, 0, 1, 2, 2, 2, 2]], 3)
    assert groups_of(response, image, np.ones((1, 7), bool), 2)[1].tolist() == [1, 1, 0]
    with pytest.warns(UserWarning, match="n_clusters=9"): groups_of(response, image, np.ones((1, 7), bool), 9)


class Tree:
    "Four patches in a row, of 1, 1, 10 and 10 pixels; the first is a speck beside the second."
    sizes = np.array([1, 1, 10, 10])
    patches = np.repeat(np.arange(4), sizes)[None]
    features = np.array([[0.0], [1.0], [2.0], [9.0]])

    def __init__(self, shares): self.soft = np.array(shares, np.float32)[self.patches]

    def scaled(self, min_size): return min_size or 0

    @property
    def tree(self):
        from dynaseg.merging import MergeTree
        return MergeTree(np.array([[0, 1], [1, 2], [2, 3]]), np.array([0.5, 1.0, 2.0]), np.array([1.0, 2.0, 10.0]))


def test_each_patch_gets_the_label_with_the_largest_share():
    tree = Tree([[0.9, 0.1, 0], [0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0, 0.5, 0.5]])
    assert voted(tree, np.array([0, 1, 2])).tolist() == [0, 0, 0, 1]
    assert voted(tree, np.array([0, 1, 1])).tolist() == [0, 1, 1, 1]  # outputs of one label count together
    assert voted(tree, np.array([0, 1, 1]), min_size=2).tolist() == [0, 0, 1, 1]  # the first two vote together


def test_the_nearest_entry_of_the_palette():
    tree = Tree([[1.0]] * 4)
    palette = palette_of(tree.features, tree.sizes, np.array([1, 1, 1, 0]))
    np.testing.assert_allclose(palette, [[9], [21 / 12]])
    assert nearest(tree, palette, level=0.7).tolist() == [1, 1, 1, 0]
    assert nearest(tree, np.array([[9.0], [1.9], [0.6]]), level=0.7).tolist() == [2, 2, 1, 0]


# --- the fit

def test_a_list_of_one_is_the_same_fit_as_alone(scene, quick):
    together, alone = fit_together([scene], **quick), segment(scene, **quick)
    for name in ("n_labels", "sim", "con"): assert (together.history[name] == alone.history[name]).all()
    assert (together.floor, together.stop_reason) == (alone.floor, alone.stop_reason)


def test_labels_mean_the_same_on_all_photos(scene, quick):
    settings = quick | {"T": 20, "max_pixels": 0}
    net = fit_together([scene[:, :34], scene[:, 26:]], **settings)
    left, right = (net.label(view).labels for view in (scene[:, :34], scene[:, 26:]))
    assert (left[:, 28:32] == right[:, 2:6]).mean() > 0.95 and len(np.unique(left)) > 1
    new = net.label(scene).labels  # a view that the fit has not seen
    assert (new[:, :30] == left[:, :30]).mean() > 0.95 and (new[:, 30:] == right[:, 4:]).mean() > 0.95


def test_the_same_seed_gives_the_same_network(scene, quick):
    views = [scene[:, :30], scene[:, 30:]]
    one, two, other = (fit_together(views, **quick, seed=seed) for seed in (3, 3, 4))
    assert all(a.equal(b) for a, b in zip(one.net.state_dict().values(), two.net.state_dict().values()))
    assert not all(a.equal(b) for a, b in zip(one.net.state_dict().values(), other.net.state_dict().values()))


def test_so_many_clusters_on_all_photos_together(scene, quick):
    net = fit_together([scene[:15], scene[15:]], n_clusters=3, **quick)
    labels = np.concatenate([net.label(view).labels for view in (scene[:15], scene[15:])])
    assert net.n_labels == 3 and set(np.unique(labels)) <= {0, 1, 2}


def test_pixels_without_data_stay_out(scene, quick):
    masked = np.ma.masked_array(scene, np.broadcast_to(np.arange(60)[None, :, None] < 10, scene.shape))
    net = fit_together([masked, scene], **quick)
    found = net.label(masked)
    assert (found.labels[:, :10] == -1).all() and (found.labels[:, 10:] >= 0).all()


def test_the_result_of_a_photo_can_be_asked_on(scene, quick):
    net = fit_together([scene, scene[:, ::-1]], **quick)
    found = net.label(scene)
    assert isinstance(found, Segmentation) and found.kind == "clusters" and found.labels.dtype == np.int64
    assert found.at(n_segments=4).n_clusters == 4 and "iterations" in repr(found)


def test_clusters_that_are_asked_for_later_are_those_of_the_photo(scene, quick):
    "The other photo has colours of its own, so the network has labels that are nowhere on this one."
    net = fit_together([scene, 1 - scene], **quick)
    found = net.label(scene)
    assert found.n_clusters < net.n_labels
    assert found.at(min_size=1).n_clusters == found.n_clusters


def test_pixel_by_pixel_under_the_papers_preset(scene, quick):
    net = fit_together([scene, scene[:20]], preset="paper", **quick)
    found = net.label(scene)
    assert found.of_patch is None and found.n_clusters <= net.n_labels
    assert (found.labels == net.groups[net.response(read_image(scene)).argmax(0).numpy()]).all()


@pytest.mark.parametrize("photos, more, words", [
    ([], {}, "no photo"),
    ([np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)], {}, r"images\[1\] has 1 bands, images\[0\] has 3"),
    (np.zeros((4, 5, 3), np.uint8), {}, "expected several"),
    ([np.zeros((4, 5, 3), np.uint8)], {"n_segments": 3}, "Connected segments"),
    ([np.zeros((4, 5, 3), np.uint8)], {"preset": "segments"}, "Connected segments"),
    ([np.zeros((4, 5, 3), np.uint8)], {"pages": "all"}, "pages"),
    ([np.zeros((4, 5, 3), np.uint8)], {"scribbles": np.ones((4, 5), int)}, "scribbles"),
    ([np.zeros((4, 5, 3), np.uint8)], {"features": "resnet18-fpn", "weights": None}, "features"),
    ([np.zeros((4, 5, 3), np.uint8)], {"progress": 3}, "progress=3"),
])
def test_what_cannot_be_used_is_named(photos, more, words):
    with pytest.raises(InputError, match=words): fit_together(photos, **more)


def test_a_missing_file_is_named(quick, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"images\[0\]"): fit_together([tmp_path / "nowhere.png"], **quick)


# --- files

def test_a_network_comes_back_from_its_file(scene, quick, tmp_path):
    for net in (fit_together([scene, scene[:20]], **quick), DynaSeg(**quick).fit(scene).network_):
        again = SharedNetwork.load(net.save(tmp_path / "net.npz", overwrite=True), device="cpu")
        for statistics in ("running", "batch"):
            a, b = net.label(scene[:22], statistics), again.label(scene[:22], statistics)
            assert (a.labels == b.labels).all() and a.settings == b.settings
        assert repr(again) == repr(net) and (again.history["loss"] == net.history["loss"]).all()
        assert np.load(tmp_path / "net.npz", allow_pickle=False)["said"]


def test_files_that_are_no_network(scene, quick, tmp_path):
    net = fit_together([scene], **quick)
    with pytest.raises(InputError, match=".npz"): net.save(tmp_path / "net.pt")
    net.save(tmp_path / "net.npz")
    with pytest.raises(FileExistsError): net.save(tmp_path / "net.npz")
    with pytest.raises(FileNotFoundError): SharedNetwork.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    segment(scene, **quick).save(tmp_path / "seg.npz")
    whole = (tmp_path / "net.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:len(whole) // 2])
    with np.load(tmp_path / "net.npz") as file: parts = dict(file)
    parts["said"] = json.dumps(json.loads(str(parts["said"])) | {"kind": "other"})
    np.savez(tmp_path / "kind.npz", **parts)
    for name in ("text", "seg", "cut", "kind"):
        with pytest.raises(InputError, match="is no network"): SharedNetwork.load(tmp_path / f"{name}.npz")


def test_what_a_file_cannot_hold_is_refused(scene, quick, tmp_path):
    net = fit_together([scene], variant=lambda n: 0.5, **quick)
    with pytest.raises(InputError, match="weighting"): net.save(tmp_path / "net.npz")
    assert not list(tmp_path.iterdir())


# --- the estimator

def test_one_photo_keeps_its_meaning(scene, quick):
    model = DynaSeg(**quick).fit(scene)
    assert (model.labels_ == segment(scene, **quick).labels).all()
    assert model.n_clusters_ == model.segmentation_.n_clusters == model.network_.n_labels
    assert (model.predict(scene) == model.labels_).mean() > 0.9
    assert model.predict(scene[:12, :20]).shape == (12, 20)


def test_one_photo_read_pixel_by_pixel_is_predicted_exactly(scene, quick):
    model = DynaSeg("paper", **quick).fit(scene)
    assert (model.predict(scene) == model.labels_).mean() > 0.99


def test_a_list_of_photos(scene, quick):
    views = [scene[:, :30], scene[:20, 30:]]
    model = DynaSeg(**quick).fit(views)
    assert [labels.shape for labels in model.labels_] == [(30, 30), (20, 30)]
    for view, labels in zip(views, model.labels_): assert (model.predict(view) == labels).all()
    both = model.predict(views, statistics="batch")
    assert len(both) == 2 and (both[1] == model.predict(views[1], "batch")).all()
    assert model.n_clusters_ == model.network_.n_labels and len(model.segmentation_) == 2
    assert [a.tolist() for a in DynaSeg(**quick).fit_predict(views)] == [a.tolist() for a in model.labels_]


def test_predict_wants_a_fit_and_the_same_bands(scene, quick):
    with pytest.raises(NotFittedError): DynaSeg(**quick).predict(scene)
    model = DynaSeg(**quick).fit(scene)
    with pytest.raises(InputError, match="has 1 bands; expected 3"): model.predict(scene[..., 0])
    with pytest.raises(InputError, match="table of pixels"): model.predict(scene.reshape(-1, 3))
    with pytest.raises(InputError, match="no photo"): DynaSeg(**quick).fit([])
    segments = DynaSeg(n_segments=4, **quick).fit(scene)
    with pytest.raises(InputError, match="belong to their photo"): segments.predict(scene)


def test_a_fitted_estimator_can_be_pickled_and_copied(scene, quick):
    import copy
    import pickle
    for given_photos in (scene, [scene, scene[:20]]):
        model = DynaSeg(**quick).fit(given_photos)
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert (other.predict(scene) == model.predict(scene)).all()


def test_equal_networks_have_equal_digests(scene, quick):
    one, two, other = (fit_together([scene], **quick, seed=seed) for seed in (0, 0, 1))
    assert one.digest == two.digest != other.digest and len(one.digest) == 16
    two.label(scene, "batch")
    assert one.digest == two.digest


def test_threads_do_not_get_in_each_others_way(scene, quick):
    "Own statistics in one thread, those of the fit in another, at the same time."
    from concurrent.futures import ThreadPoolExecutor
    net = fit_together([scene], **quick)
    wanted = {name: net.label(scene[:20], name).labels for name in ("running", "batch")}
    with ThreadPoolExecutor(4) as pool:
        jobs = [(name, pool.submit(net.label, scene[:20], name)) for name in ("running", "batch") * 10]
        for name, job in jobs: assert (job.result().labels == wanted[name]).all()


def test_a_guide_belongs_to_one_photo(scene, quick):
    with pytest.raises(InputError, match="guide"): fit_together([scene], guide=np.zeros((30, 60), int), **quick)
