"""The live panels without a browser: the same objects that a click moves, driven by hand."""
import base64
import io
import re
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dynaseg.widgets as w
from dynaseg.images import InputError
from dynaseg.labels import overlay
from dynaseg.segmenter import MU, NEEDS_GUIDE, PRESETS, segment

SHOWN = [preset for preset in PRESETS if preset not in NEEDS_GUIDE]  # others need more than the panel has


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
    "The picture of a box, or of a pad, whose picture stands in its HTML."
    shown = box.children[0].value
    if isinstance(shown, str): shown = base64.b64decode(re.search(r'base64,([^"]*)"', shown)[1])
    return np.asarray(Image.open(io.BytesIO(shown)))


# --- explore

def test_a_run_to_the_end(panel, photo):
    assert (pixels(panel.pictures.left) == photo).all() and panel.edits.save.disabled
    panel.run_button.click()
    assert panel.wait(60)
    expected = segment(photo, T=10, min_labels=None, progress=False)
    assert (panel.result.labels == expected.labels).all()
    assert abs(pixels(panel.pictures.live.picture) - w.label_picture(expected.labels, photo).astype(int)).max() <= 1
    assert (pixels(panel.pictures.left) == overlay(photo, expected.labels)).all()
    assert f"{expected.n_clusters} clusters after" in panel.status.value and not panel.alert.value
    assert f"labels in use q&#x27;: {expected.history['n_labels'][-1]}<" in panel.pictures.live.curves.value
    assert panel.stop_button.disabled and not panel.run_button.disabled and not panel.edits.save.disabled


def test_the_kernel_is_free_while_it_runs_and_stop_ends_it(endless):
    panel, begun = endless
    start = time.monotonic()
    panel.run_button.click()
    assert time.monotonic() - start < 1
    until(lambda: "update" in panel.status.value)
    assert panel.run_button.disabled and panel.photo.choice.disabled and not panel.stop_button.disabled
    first = pixels(panel.pictures.live.picture)
    until(lambda: (pixels(panel.pictures.live.picture) != first).any())
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


@pytest.mark.parametrize("error, seen, traceback", [
    (InputError("mu is <wrong>"), "mu is &lt;wrong&gt;", False),
    (KeyError("surprise"), "KeyError", True),
    (MemoryError("too large"), "MemoryError: too large", True),
])
def test_errors_show_in_the_panel_and_the_next_run_clears_them(panel, monkeypatch, error, seen, traceback):
    def fails(*args, **settings): raise error
    with monkeypatch.context() as patch:
        patch.setattr(w, "segment", fails)
        panel.run()
        assert panel.wait(30)
    assert seen in panel.alert.value and 'role="alert"' in panel.alert.value
    assert ("Traceback" in panel.alert.value) == traceback
    assert not panel.run_button.disabled and panel.edits.save.disabled
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
    def hidden(): return {k.description for k in panel.knobs if k.layout.display == "none"}
    assert hidden() == {"least labels", "segments", "clusters"}
    panel.fit.floor.value = "number"
    assert hidden() == {"segments", "clusters"}
    panel.many.count.value = "clusters"
    assert hidden() == {"segments"}


def test_every_bundled_photo_can_be_chosen(panel):
    for name in w.PHOTOS:
        panel.photo.choice.value = name
        assert not panel.alert.value
        assert pixels(panel.pictures.left).shape[2] == 3
        assert "press Run" in panel.pictures.live.picture.children[1].value


def test_choosing_another_photo_forgets_the_result(panel):
    panel.run()
    assert panel.wait(60)
    panel.photo.choice.value = "chelsea"
    assert panel.result is None and panel.edits.save.disabled and not panel.pictures.live.curves.value


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_an_upload_that_is_no_picture(panel, content, photo):
    panel.photo.add(file("holiday.jpg", content))
    assert "&#x27;holiday.jpg&#x27;" in panel.alert.value and "upload.jpg" not in panel.alert.value
    assert (pixels(panel.pictures.left) == photo).all()


def test_uploads_of_one_name_do_not_hide_each_other(panel):
    for side in (40, 50): panel.photo.add(file("a.png", w.to_png(np.zeros((side, side, 3), np.uint8))))
    assert panel.photo.image.shape == (50, 50, 3) and "50 × 50" in panel.pictures.left.children[1].value
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
    panel.edits.save.click()
    assert (tmp_path / "overlay.png").read_text() == "mine" and "Saved labels-2.png" in panel.status.value
    assert (np.asarray(Image.open(tmp_path / "labels-2.png")) == panel.result.labels).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels-2.png", "overlay-2.png", "overlay.png"]


def test_a_failing_save_says_so(panel, monkeypatch):
    panel.run()
    assert panel.wait(60)
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr(w, "save_pair", full)
    panel.edits.save.click()
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


# --- one fit in your hands

@pytest.fixture(scope="module")
def fitted_panel(photo):
    panel = w.explore(photo)
    panel.fit.T.value = 5
    panel.fit.floor.value = "none"
    assert panel.run() and panel.wait(60) and not panel.alert.value
    return panel


@pytest.fixture
def hands(fitted_panel):
    "The explorer after its fit, as if nothing had been done with it."
    panel = fitted_panel
    panel.many.set({})
    panel.answers.first({})
    panel.tools.take(0)
    panel.change(lambda: None)
    assert not panel.alert.value and panel.edits.undo.disabled
    return panel


def mouse(panel, *places):
    "What the handlers of the picture write: a click, or a stroke, through (x, y) in pixels."
    H, W = panel.result.labels.shape
    way = " ".join(f"{(x + 0.5) / W:.4f},{(y + 0.5) / H:.4f}" for x, y in places)
    panel.pictures.left.path.value = f"{time.monotonic()} {way}"


@pytest.mark.parametrize("preset", SHOWN)
@pytest.mark.parametrize("count", ["as the preset has it", "segments", "clusters"])
@pytest.mark.parametrize("least", [-1, 30])
def test_the_result_is_that_of_the_settings_that_are_shown(photo, preset, count, least):
    panel = w.explore(photo)
    panel.fit.preset.value = preset
    panel.fit.T.value = 4
    panel.many.set({"n_segments": 6})
    panel.many.set({"n_clusters": 3, "min_size": least})
    panel.many.count.value = count
    panel.run()
    assert panel.wait(60) and not panel.alert.value
    expected = segment(photo, **panel.settings(), progress=False)
    assert (panel.result.labels == expected.labels).all() and panel.result.kind == expected.kind
    assert {"segments": 6, "clusters": 3}.get(count, expected.n_clusters) == panel.result.n_clusters
    assert (eval(panel.answers.code, {"segment": segment, "photo": photo}).labels == expected.labels).all()
    panel.many.count.value = "segments"  # and after it has moved
    panel.many.n_segments.value = 9
    expected = segment(photo, **panel.settings(), progress=False)
    assert (panel.result.labels == expected.labels).all() and panel.settings()["n_segments"] == 9


@pytest.mark.parametrize("preset", SHOWN)
def test_a_preset_sets_the_knobs(preset):
    knobs = w.Knobs()
    knobs.variant.value = "scf"
    knobs.mu.value = 300.0
    knobs.T.value = 7
    knobs.preset.value = next(other for other in SHOWN if other != preset)
    knobs.preset.value = preset
    expected = {name: PRESETS[preset][name] for name in ("T", "max_pixels")}
    expected |= {"mu": MU[preset]["scf"], "variant": "scf"}
    assert {name: knobs.settings()[name] for name in expected} == expected
    for variant in MU[preset]:
        knobs.variant.value = variant
        assert knobs.settings()["mu"] == MU[preset][variant]


def test_the_slider_answers_without_a_fit_and_a_drag_is_one_step(hands, monkeypatch):
    monkeypatch.setattr(w, "segment", None)
    found = hands.result
    hands.many.count.value = "segments"
    for n in (36, 19, 8, 3):
        hands.many.n_segments.value = n
        assert hands.result.n_clusters == n
        expected = w.label_picture(hands.result.labels, found.image)
        assert abs(pixels(hands.pictures.live.picture) - expected.astype(int)).max() <= 1
        assert (pixels(hands.pictures.left) == overlay(found.image, hands.result.labels)).all()
    assert len(hands.answers.stack) == 2
    hands.edits.undo.click()
    assert hands.result is found and hands.many.count.value == "as the preset has it"


def test_what_the_photo_does_not_have_is_said(hands):
    hands.many.count.value = "segments"
    hands.many.n_segments.value = 500
    assert hands.result.n_clusters < 500 and "the photo has fewer" in hands.status.value and not hands.alert.value


def test_a_click_tells_about_a_segment_and_lights_it_up(hands):
    hands.many.count.value = "segments"
    hands.many.n_segments.value = 5
    mouse(hands, (14, 12))
    label = hands.chosen
    labels = hands.result.labels
    assert label == labels[12, 14] and hands.edits.which.value == str(label)
    inside = labels == label
    own = np.bincount(hands.answers.fitted.labels[inside]).argmax()
    expected = f"segment {label}: {inside.sum()} pixels, {inside.mean():.1%} of the photo, in cluster {own}"
    assert expected in hands.status.value
    shown = pixels(hands.pictures.left)
    deep = inside.copy()  # not beside another segment: no line runs there
    for axis in (0, 1):
        for shift in (1, -1): deep &= np.roll(inside, shift, axis)
    assert deep.any() and (shown[deep] == (hands.result.image * 255).round()[deep]).all()
    assert shown[~inside].mean() < 0.9 * overlay(hands.result.image, labels)[~inside].mean()


def merged(seg, a, b):
    try: return seg.merge(a, b)
    except InputError: return None


def test_merge_and_split_and_back(hands):
    hands.many.count.value = "segments"
    hands.many.n_segments.value = 5
    before = hands.result
    a = before.labels[12, 14]
    b = next(b for b in range(5) if b != a and merged(before, a, b))
    mouse(hands, (14, 12))
    hands.edits.merge.value = True
    hands.edits.which.value = str(b)  # typed: no mouse is needed
    joint = hands.result
    assert (joint.labels == before.merge(a, b).labels).all() and joint.n_clusters == 4
    assert not hands.edits.merge.value and joint.labels[12, 14] == hands.chosen
    hands.edits.split.click()
    assert hands.result.n_clusters == 5 and (hands.result.labels == joint.split(joint.labels[12, 14]).labels).all()
    assert hands.answers.code.endswith(f".merge({a}, {b}).split({joint.labels[12, 14]})")
    hands.undo()
    hands.undo()
    assert hands.result is before and hands.many.n_segments.value == 5


def test_segments_that_do_not_touch_are_not_merged(hands):
    hands.many.count.value = "segments"
    hands.many.n_segments.value = 29
    labels = hands.result.labels
    a, b = next((a, b) for a in range(29) for b in range(a) if not merged(hands.result, a, b))
    hands.edits.which.value = str(a)
    hands.edits.merge.value = True
    hands.edits.which.value = str(b)
    assert "do not touch" in hands.alert.value and hands.result.labels is labels
    assert hands.chosen == a and hands.edits.merge.value  # another neighbour may be chosen


@pytest.mark.parametrize("text", ["99", "-1", "one", "1.5"])
def test_ids_that_are_not_there(hands, text):
    hands.edits.which.value = text
    assert text in hands.alert.value and hands.chosen is None


def test_strokes_are_respected_and_taken_back(hands):
    found = hands.result
    hands.tools.take(1)
    mouse(hands, (2, 2), (27, 3))
    assert hands.result is found and (pixels(hands.pictures.left)[2, 5] == w.label_picture(np.array([[1]]))[0, 0]).all()
    hands.tools.take(2)
    mouse(hands, (12, 14))
    strokes = hands.answers.drawn()
    assert set(np.unique(strokes)) == {0, 1, 2} and strokes[14, 12] == 2 and strokes[2, 2] == strokes[3, 27] == 1
    assert (hands.result.labels == found.seeded(strokes).labels).all()
    hands.tools.take(5)
    mouse(hands, (12, 16), (14, 16))
    assert set(np.unique(hands.result.labels)) == {1, 2, 5}
    for _ in range(3): hands.undo()
    assert hands.result is found and not hands.answers.last.strokes


def test_the_slider_clears_strokes_and_undo_brings_them_back(hands):
    for number in (1, 2):
        hands.tools.take(number)
        mouse(hands, (number * 8, 3), (number * 8, 9))
    seeded = hands.result
    hands.many.count.value = "clusters"
    assert not hands.answers.last.strokes and hands.result.n_clusters == 8
    hands.undo()
    assert hands.result is seeded and len(hands.answers.last.strokes) == 2


def test_a_fit_learns_from_the_strokes_and_is_taken_back(hands):
    assert hands.edits.learn.disabled
    for number, place in ((1, (2, 2)), (2, (12, 14))):
        hands.tools.take(number)
        mouse(hands, place, (place[0] + 4, place[1]))
    seeded = hands.result
    assert not hands.edits.learn.disabled
    hands.edits.learn.click()
    assert hands.wait(60) and not hands.alert.value
    strokes = hands.answers.drawn()
    again = segment(hands.photo.image, **hands.answers.settings, scribbles=strokes, only_scribbled=True, progress=False)
    assert (hands.result.labels == again.labels).all() and set(np.unique(again.labels)) == {1, 2}
    assert hands.pictures.code.value.endswith("scribbles=scribbles, only_scribbled=True)</code>")
    hands.many.count.value = "clusters"  # the first fit answers
    assert hands.result.n_clusters == 8
    for _ in range(2): hands.undo()
    assert hands.result is seeded and len(hands.answers.last.strokes) == 2


def test_nothing_can_be_touched_before_or_during_a_fit(endless):
    panel, begun = endless
    panel.pictures.left.path.value = "1 0.5,0.5"
    panel.edits.which.value = "1"
    panel.many.count.value = "segments"
    panel.undo()
    panel.split()
    assert panel.result is None and panel.chosen is None and not panel.alert.value
    panel.run()
    until(lambda: "update" in panel.status.value)
    panel.pictures.left.path.value = "2 0.5,0.5"
    assert panel.chosen is None and panel.edits.which.disabled and panel.many.n_segments.disabled


def test_a_text_that_is_no_way_is_shown_as_an_error(hands):
    hands.pictures.left.path.value = f"<b> {time.monotonic()}"
    assert "&lt;b&gt;" in hands.alert.value


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9),
       st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4))
def test_strokes_against_distances(H, W, width, path):
    "Every pixel whose middle is well inside the stroke is marked, none well outside is, and both ends are."
    found = w.strokes_map([(3, tuple(path))], (H, W), width)
    assert found.shape == (H, W) and set(np.unique(found)) <= {0, 3}
    at = np.array(path) * (W, H) - 0.5
    y, x = np.mgrid[:H, :W]
    away = np.full((H, W), np.inf)
    for start, end in zip(at, [*at[1:], at[-1]]):
        for t in np.linspace(0, 1, 100):
            x0, y0 = start + t * (end - start)
            away = np.minimum(away, np.hypot(x - x0, y - y0))
    assert (found[away < width / 2 - 1.6] == 3).all() and not found[away > width / 2 + 1.6].any()
    for end in (path[0], path[-1]): assert w.picked(found, *end) == 3


def test_later_strokes_lie_on_top():
    line = ((0.0, 0.5), (1.0, 0.5))
    assert (w.strokes_map([(1, line), (2, line)], (5, 9), 1)[2] == 2).all()


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 60))
def test_thinned_label_maps_have_the_size_of_small_photos(H, W, side):
    labels = np.arange(H * W).reshape(H, W)
    thin = w.thinned(labels, side)
    assert thin.shape == w.small_photo(np.zeros((H, W, 1), np.float32), side).shape[:2]
    assert max(thin.shape) <= side and (max(H, W) > side or (thin == labels).all())
    assert (np.diff(thin, axis=0) > 0).all() and (np.diff(thin, axis=1) > 0).all()


@pytest.mark.parametrize("text", ["", "0", "0 1", "0 1,2,3", "0 nan,0", "0 0.5,0.5 x,1"])
def test_texts_that_are_no_way(text):
    with pytest.raises(InputError, match="no way of a mouse"): w.path_of(text)


def test_places_beyond_the_picture_are_on_its_border():
    assert w.path_of("0 -3,0.5 0.25,7") == ((0, 0.5), (0.25, 1))


# --- the other two

def test_compare_runs_the_three_in_order_and_stops_between(photo, monkeypatch):
    panel, real = w.compare(photo), segment
    panel.fit.T.value, panel.fit.floor.value = 5, "none"
    panel.run()
    assert panel.wait(60) and not panel.alert.value
    used = [(s.settings["variant"], s.settings["min_labels"]) for s in panel.results.values()]
    assert used == [("fixed", None), ("fsf", None), ("scf", None)]
    for variant, box in panel.boxes.items(): assert (pixels(box) == overlay(photo, panel.results[variant].labels)).all()
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
