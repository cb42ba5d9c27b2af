"""The live panels without a browser: the same objects that a click moves, driven by hand."""
import threading
import time

import numpy as np
import pytest
from PIL import Image

import dynaseg.widgets as w
from dynaseg.images import InputError
from dynaseg.segmenter import MU, segment


def file(name, content): return {"name": name, "content": memoryview(content)}


@pytest.fixture
def panel(photo):
    "An explorer whose fits take a moment; none is left running."
    panel = w.explore(photo)
    panel.fit.T.value, panel.fit.floor.value = 10, "none"
    yield panel
    panel.stop()
    assert panel.wait(60)


@pytest.fixture
def endless(panel, monkeypatch):
    "The explorer, with a fit that goes on until it is stopped; and how many fits were begun."
    begun, real = [], segment
    def slow(image, **settings):
        begun.append(settings)
        return real(image, **settings | dict(T=10**6, tol=0.0, M=1, p=8))
    monkeypatch.setattr(w, "segment", slow)
    return panel, begun


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def pixels(box):
    import io
    return np.asarray(Image.open(io.BytesIO(box.children[0].value)))


# --- explore

def test_a_run_to_the_end(panel, photo):
    assert (pixels(panel.left) == photo).all() and panel.save_button.disabled
    panel.run_button.click()
    assert panel.wait(60)
    expected = segment(photo, T=10, min_labels=None, progress=False)
    assert (panel.result.labels == expected.labels).all()
    assert (pixels(panel.right) == w.label_picture(expected.labels, photo)).all()
    assert (pixels(panel.left) == w.overlay(photo, expected.labels)).all()
    assert f"{expected.n_clusters} clusters after" in panel.status.value and not panel.alert.value
    assert f"labels in use q&#x27;: {expected.history['n_labels'][-1]}<" in panel.curves.value
    assert panel.stop_button.disabled and not panel.run_button.disabled and not panel.save_button.disabled


def test_the_kernel_is_free_while_it_runs_and_stop_ends_it(endless):
    panel, begun = endless
    start = time.monotonic()
    panel.run_button.click()
    assert time.monotonic() - start < 1
    until(lambda: "update" in panel.status.value)
    assert panel.run_button.disabled and panel.photo.choice.disabled and not panel.stop_button.disabled
    first = pixels(panel.right)
    until(lambda: (pixels(panel.right) != first).any())
    panel.stop_button.click()
    assert panel.wait(30) and panel.result.stop_reason == "interrupted"
    assert "stopped: interrupted" in panel.status.value and not panel.run_button.disabled


def test_many_clicks_one_fit(endless):
    panel, begun = endless
    clicks = [threading.Thread(target=panel.run_button.click) for _ in range(20)]
    for click in clicks: click.start()
    for click in clicks: click.join()
    until(lambda: "update" in panel.status.value)
    assert not panel.run() and len(begun) == 1
    panel.stop()
    assert panel.wait(30) and panel.run() and not panel.wait(0)  # and then it can run again
    until(lambda: len(begun) == 2)


def test_a_stop_of_before_does_not_end_the_next_run(panel):
    panel.stop()
    panel.run()
    assert panel.wait(60) and panel.result.stop_reason != "interrupted"


@pytest.mark.parametrize("error, seen, traceback", [(InputError("mu is <wrong>"), "mu is &lt;wrong&gt;", False), (KeyError("surprise"), "KeyError", True),
                                                    (MemoryError("too large"), "MemoryError: too large", True)])
def test_errors_show_in_the_panel_and_the_next_run_clears_them(panel, monkeypatch, error, seen, traceback):
    def fails(*args, **settings): raise error
    with monkeypatch.context() as patch:
        patch.setattr(w, "segment", fails)
        panel.run()
        assert panel.wait(30)
    assert seen in panel.alert.value and 'role="alert"' in panel.alert.value
    assert ("Traceback" in panel.alert.value) == traceback
    assert not panel.run_button.disabled and panel.save_button.disabled
    panel.run()
    assert panel.wait(60) and not panel.alert.value and panel.result is not None


def test_knobs_reach_the_fit(panel):
    fit = panel.fit
    fit.variant.value, fit.floor.value, fit.least.value, fit.seed.value, fit.T.value = "scf", "number", 5, 3, 7
    assert fit.mu.value == MU["clusters"]["scf"]
    fit.mu.value = 70
    panel.run()
    assert panel.wait(60) and not panel.alert.value
    expected = dict(variant="scf", mu=70, min_labels=5, seed=3, T=7)
    assert {name: panel.result.settings[name] for name in expected} == expected


def test_only_one_knob_is_hidden(panel):
    "Widgets that share a layout are hidden together."
    assert [k.description for k in panel.knobs if k.layout.display == "none"] == ["least labels", "how many"]
    panel.fit.floor.value = "number"
    panel.granularity.kind.value = "segments"
    assert not [k for k in panel.knobs if k.layout.display == "none"]


def test_every_bundled_photo_can_be_chosen(panel):
    for name in w.PHOTOS:
        panel.photo.choice.value = name
        assert not panel.alert.value
        assert pixels(panel.left).shape[2] == 3 and "press Run" in panel.right.children[1].value


def test_choosing_another_photo_forgets_the_result(panel):
    panel.run()
    assert panel.wait(60)
    panel.photo.choice.value = "chelsea"
    assert panel.result is None and panel.save_button.disabled and not panel.curves.value


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_an_upload_that_is_no_picture(panel, content, photo):
    panel.photo.add(file("holiday.jpg", content))
    assert "&#x27;holiday.jpg&#x27;" in panel.alert.value and "upload.jpg" not in panel.alert.value
    assert (pixels(panel.left) == photo).all()


def test_uploads_of_one_name_do_not_hide_each_other(panel):
    for side in (40, 50): panel.photo.add(file("a.png", w.to_png(np.zeros((side, side, 3), np.uint8))))
    assert panel.photo.image.shape == (50, 50, 3) and "50 × 50" in panel.left.children[1].value
    panel.photo.choice.value = min(name for name in panel.photo.choice.options if name.endswith("a.png"))
    assert panel.photo.image.shape == (40, 40, 3)


def test_a_name_that_is_a_path_stays_in_its_folder(tmp_path, panel):
    panel.photo.add(file(f"{tmp_path}/../escape.png", w.to_png(np.zeros((4, 4, 3), np.uint8))))
    assert not list(tmp_path.parent.glob("escape.png")) and panel.photo.image.shape == (4, 4, 3)


def test_save_does_not_overwrite(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "overlay.png").write_text("mine")
    panel.run()
    assert panel.wait(60)
    panel.save_button.click()
    assert (tmp_path / "overlay.png").read_text() == "mine" and "Saved labels-2.png" in panel.status.value
    assert (np.asarray(Image.open(tmp_path / "labels-2.png")) == panel.result.labels).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels-2.png", "overlay-2.png", "overlay.png"]


def test_a_failing_save_says_so(panel, monkeypatch):
    panel.run()
    assert panel.wait(60)
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr(w, "save_pair", full)
    panel.save_button.click()
    assert "No space left on device" in panel.alert.value


def test_bad_images_are_refused_at_once():
    for make in (w.explore, w.compare, w.silhouette_explorer):
        with pytest.raises(InputError): make(np.zeros((2, 2, 2, 2)))


@pytest.mark.parametrize("bands", [1, 2, 4, 12])
def test_any_number_of_bands(bands):
    panel = w.explore(np.random.default_rng(0).random((20, 24, bands)))
    panel.fit.T.value = 3
    panel.run()
    assert panel.wait(60) and not panel.alert.value and panel.result.labels.shape == (20, 24)


# --- the other two

def test_compare_runs_the_three_in_order_and_stops_between(photo, monkeypatch):
    panel, real = w.compare(photo), segment
    panel.fit.T.value, panel.fit.floor.value = 5, "none"
    panel.run()
    assert panel.wait(60) and not panel.alert.value
    assert [(s.settings["variant"], s.settings["min_labels"]) for s in panel.results.values()] == [("fixed", None), ("fsf", None), ("scf", None)]
    for variant, box in panel.boxes.items(): assert (pixels(box) == w.overlay(photo, panel.results[variant].labels)).all()
    def stops(*args, **settings):
        panel.stop_button.click()
        return real(*args, **settings)
    monkeypatch.setattr(w, "segment", stops)
    panel.run()
    assert panel.wait(60) and list(panel.results) == ["fixed"] and "Stopped" in panel.status.value


def test_silhouette_explorer(photo):
    panel = w.silhouette_explorer(photo)
    panel.k.value = 9  # before there are scores: nothing to draw yet
    assert not panel.scores.value
    panel.run()
    assert panel.wait(60) and panel.k.value == panel.phase.opt_nC
    for k in (3, 7):
        panel.k.value = k
        assert len(np.unique(pixels(panel.picture).reshape(-1, 3), axis=0)) == k and f"k = {k}" in panel.scores.value
    panel.photo.choice.value = "coffee"
    assert panel.phase is None and not panel.scores.value


def test_silhouette_explorer_with_hardly_a_colour():
    panel = w.silhouette_explorer(np.kron([[0, 1]], np.ones((8, 8))))
    panel.run()
    assert panel.wait(60) and "2 different colours" in panel.alert.value
    four = w.silhouette_explorer(np.kron([[0.0, 0.3, 0.7, 1.0]], np.ones((8, 8))))
    four.run()
    assert four.wait(60) and not four.alert.value and four.k.max == 4


# --- the parts

def test_live_draws_the_first_step_and_then_by_the_clock(monkeypatch):
    now, drawn = [0.0], []
    monkeypatch.setattr(w.time, "monotonic", lambda: now[0])
    callback = w.live(lambda step, counts, weights: drawn.append(len(counts)), stop=lambda: now[0] > 2, interval=0.5)
    class Now: n_labels, weight = 3, 0.5
    ended = []
    for now[0] in (0.0, 0.2, 0.4, 0.6, 0.7, 1.2, 2.5): ended.append(callback(Now))
    assert drawn == [1, 4, 6, 7] and ended == [False] * 6 + [True]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_runner_survives_a_callback_that_fails():
    def fails(error): raise RuntimeError("the page is gone")
    runner = w.Runner(changed=lambda busy: None, failed=fails)
    runner.start(lambda: 1 / 0)
    assert runner.wait(10)
    assert runner.start(lambda: None) and runner.wait(10)


@pytest.mark.parametrize("values", [[0], [5], [1, 0, 0], [0.5, 900.0]])
def test_curves_stay_inside_their_picture(values):
    import re
    svg = w.curve(values, "q", T=3, line=2)
    points = re.search(r'points="([^"]*)"', svg)[1].split()
    assert len(points) == len(values)
    for point in points:
        x, y = map(float, point.split(","))
        assert 0 <= x <= 240 and 20 <= y <= 90


def test_the_text_of_a_panel_without_a_kernel(photo):
    assert repr(w.explore(photo)) == "(a live panel: run this cell in JupyterLab or Colab to use it)"
