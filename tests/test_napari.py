"""The panel in napari: its functions alone, and in a viewer without a screen where napari is installed."""
import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from dynaseg import segment
from dynaseg.images import InputError
from dynaseg.napari_plugin import segment_layer, write_labels

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "dynaseg" / "napari.yaml"
napari_here = pytest.mark.skipif(importlib.util.find_spec("napari") is None,
                                 reason="needs napari: pip install 'dynaseg[napari]'")


def layer(data, rgb=False): return SimpleNamespace(data=data, rgb=rgb, name="photo", scale=(0.5, 0.5), translate=(3, 4))


def test_a_layer_is_segmented_as_its_array(photo):
    labels, about, kind = segment_layer(layer(photo, rgb=True), n_segments=4)
    assert kind == "labels" and about == {"name": "photo segments", "scale": (0.5, 0.5), "translate": (3, 4)}
    assert (labels == segment(photo, n_segments=4, max_pixels=40_000, progress=False).labels + 1).all()


def test_a_stack_is_segmented_page_by_page(photo):
    stack = np.stack([photo[..., 0], photo[..., 2], photo[::-1, :, 0]])
    labels, _, _ = segment_layer(layer(stack), n_segments=3)
    assert labels.shape == stack.shape
    for page, found in zip(stack, labels):
        assert (found == segment(page, n_segments=3, max_pixels=40_000, progress=False).labels + 1).all()


def test_what_is_no_picture_is_refused():
    with pytest.raises(InputError, match=r"'photo' has the shape \(5,\)"): segment_layer(layer(np.zeros(5)))


def test_labels_are_saved_as_outlines(tmp_path):
    labels = np.array([[0, 1, 1], [0, 2, 2]])
    assert write_labels(str(tmp_path / "a.geojson"), labels, {}) == [str(tmp_path / "a.geojson")]
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    # 0 is no label, and 1 the first
    assert [f["properties"]["cluster"] for f in features] == [0, 1]
    assert len(features) == 2
    write_labels(str(tmp_path / "a.svg"), labels, {})
    write_labels(str(tmp_path / "a.json"), labels, {})
    assert (tmp_path / "a.svg").read_text().count("<path") == 2
    assert len(json.loads((tmp_path / "a.json").read_text())["annotations"]) == 2
    with pytest.raises(InputError, match="ends in one of .geojson"): write_labels(str(tmp_path / "a.png"), labels, {})
    with pytest.raises(InputError, match="one page"): write_labels(str(tmp_path / "b.svg"), labels[None], {})


def test_the_manifest_names_what_is_there():
    import importlib
    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    commands = {command["id"]: command["python_name"] for command in manifest["contributions"]["commands"]}
    for name in commands.values():
        module, function = name.split(":")
        assert callable(getattr(importlib.import_module(module), function))
    for contribution in (*manifest["contributions"]["widgets"], *manifest["contributions"]["writers"]):
        assert contribution["command"] in commands


@pytest.fixture
def viewer(monkeypatch):
    """napari's model of a viewer, without a window (which would need OpenGL), with this plugin and those that come with
    napari."""
    monkeypatch.setitem(os.environ, "QT_QPA_PLATFORM", "offscreen")
    from napari.components import ViewerModel
    from npe2 import PluginManager, PluginManifest
    manager = PluginManager.instance()
    manager.discover()
    if "dynaseg" not in [manifest.name for manifest in manager.iter_manifests()]:
        manager.register(PluginManifest.from_file(MANIFEST))
    return ViewerModel()


@napari_here
def test_the_panel_in_napari(viewer, photo):
    "The panel that napari makes from the manifest, its button pressed."
    from napari.layers import Layer
    from npe2 import PluginManager
    from qtpy.QtWidgets import QApplication
    app = QApplication.instance() or QApplication([])
    contribution, = PluginManager.instance().get_manifest("dynaseg").contributions.widgets
    panel = contribution.get_callable()()
    assert [w.name for w in panel][:5] == ["image", "n_segments", "n_clusters", "max_pixels", "seed"]
    assert panel.max_pixels.value == 40_000
    assert app
    house = viewer.add_image(photo, name="house", rgb=True, scale=(0.5, 0.5))
    panel.image.choices = [house]
    panel.n_segments.value = 3
    labels = viewer.add_layer(Layer.create(*panel()))
    assert type(labels).__name__ == "Labels" and labels.name == "house segments" and tuple(labels.scale) == (0.5, 0.5)
    assert (labels.data == segment(photo, n_segments=3, max_pixels=40_000, progress=False).labels + 1).all()


@napari_here
def test_a_layer_of_labels_is_saved_by_napari(viewer, tmp_path):
    layer = viewer.add_labels(np.array([[0, 1, 1], [0, 2, 2]]), name="two")
    layer.save(str(tmp_path / "two.geojson"), plugin="dynaseg")
    assert len(json.loads((tmp_path / "two.geojson").read_text())["features"]) == 2


@napari_here
def test_napari_opens_our_label_pictures(viewer, tmp_path, photo, quick):
    found = segment(photo, **quick)
    found.save(tmp_path / "labels.ome.tif")
    opened, = viewer.open(str(tmp_path / "labels.ome.tif"), layer_type="labels", plugin="napari")
    assert (np.asarray(opened.data) == found.labels).all()
