"""JupyterLab in a real browser: a small notebook calls `explore`; a fit runs, the picture changes, Stop stops it.
The mouse: the slider is dragged, segments are clicked and merged, strokes are drawn and learnt from, and all of it is
taken back.
Each test has a panel of its own, in one notebook that is open all the time.

The browser is Debian's Chromium, driven by Playwright. Where there is none the tests skip and say so; in CI they fail.
"""
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next((c for c in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if c), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
LACKING = [name for name in ("playwright", "jupyterlab", "ipykernel") if importlib.util.find_spec(name) is None]
LACKING += ["Chromium"] * (CHROMIUM is None)
pytestmark = pytest.mark.skipif(bool(LACKING) and not os.environ.get("CI"), reason=f"needs {', '.join(LACKING)}")

CODE = """
import numpy as np
from dynaseg.widgets import explore
rng = np.random.default_rng(0)
photo = np.kron(rng.random((6, 8, 3)), np.ones((20, 20, 1)))
panel = explore((photo + rng.normal(0, 0.2, photo.shape)).clip(0, 1)) # noise: the labels do not settle at once
panel
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The address of a JupyterLab that serves a folder with demo.ipynb, and the folder."
    assert not LACKING, f"lacking: {LACKING}"
    home = tmp_path_factory.mktemp("lab")
    folder = home / "work"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell(CODE.strip()), nbformat.v4.new_code_cell("panel.result.stop_reason")]
    kernel = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "demo.ipynb")
    (home / "config" / "labconfig").mkdir(parents=True)
    quiet = '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'
    (home / "config" / "labconfig" / "page_config.json").write_text(quiet)
    port = free_port()
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
              "IPYTHONDIR": "ipython"}
    environment = {**os.environ, **{name: str(home / place) for name, place in places.items()}, "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with open(home / "log", "w") as log:
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
                   "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
                   "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api", server, home / "log")
        yield f"http://127.0.0.1:{port}", folder
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address, server, log, seconds=90):
    "Until the address answers."
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try: return urllib.request.urlopen(address, timeout=5).read()
        except OSError: time.sleep(0.3)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def notebook(lab, tmp_path_factory):
    "The notebook, open in the browser, with a kernel that waits."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch_persistent_context(tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM,
                                                       headless=True, args=FLAGS, viewport={"width": 1280,
                                                                                            "height": 1000})
        browser.set_default_timeout(60_000)
        page = browser.pages[0]
        page.goto(f"{lab[0]}/doc/tree/demo.ipynb?reset")
        yield page
        browser.close()


@pytest.fixture
def page(notebook):
    "The notebook with a new panel: its first cell is run again."
    notebook.evaluate("document.querySelectorAll('.jp-OutputArea-output').forEach(old => old.dataset.old = 'yes')")
    notebook.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-editor").first.click()
    notebook.wait_for_function("document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'")
    notebook.keyboard.press("Control+Enter")
    notebook.wait_for_function("document.querySelector('.jp-OutputArea-output[data-old]') === null")
    button(notebook, "Run").wait_for()
    until(notebook, lambda: status(notebook) == "Ready.")
    return notebook


@pytest.fixture
def fitted(page):
    "The notebook with a panel that has fitted its photo: clusters, as many as there are."
    button(page, "Run").click()
    until(page, lambda: "clusters after" in status(page) and button(page, "Run").is_enabled())
    return page


@pytest.fixture
def cut(fitted):
    "The notebook with a panel that shows 40 segments."
    button(fitted, "segments").click()
    until(fitted, lambda: status(fitted).startswith("40 segments"))
    return fitted


def button(page, name): return page.locator(".jp-OutputArea-output button", has_text=name)
def pictures(page):
    "The addresses of the pictures that are there and not broken: the one to touch, then the other."
    sources = "all => all.map(i => i.naturalWidth ? i.src : '')"
    output = page.locator(".jp-OutputArea-output")
    return [output.locator(which).evaluate_all(sources) for which in (".dynaseg-touch img", "img.widget-image")]


def status(page): return page.locator("[role=status]").inner_text()


def upload(page, path):
    with page.expect_file_chooser() as chosen: button(page, "Upload").click()
    chosen.value.set_files(path)


def until(page, condition, seconds=90):
    "Waits until `condition()` holds."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition(): return
        page.wait_for_timeout(100)
    pytest.fail(f"nothing came of it; the page says {page.locator('.jp-OutputArea-output').first.inner_text()!r}")


def unfold(page):
    "Opens the knobs of the method."
    page.locator(".jp-OutputArea-output .jupyter-widget-Collapse-header", has_text="the method").click()


def set_number(page, label, value):
    "Types a value into the field, or the read-out of the slider, with the label."
    row = page.locator(".jp-OutputArea-output .widget-inline-hbox", has=page.locator("label", has_text=label))
    field = row.locator("input[type=number], .widget-readout").last
    field.click()
    page.keyboard.press("Control+A")
    page.keyboard.type(str(value))
    page.keyboard.press("Enter")


def test_run_draws_while_it_fits_and_ends(page):
    before = pictures(page)
    assert [len(which) for which in before] == [1, 1] and all(map(all, before))
    unfold(page)
    set_number(page, "updates T", 150)
    page.evaluate("""() => { // counted in the page: from here, a picture that is replaced soon would be missed
        window.drawn = 0
        const picture = document.querySelector(".jp-OutputArea-output img.widget-image")
        new MutationObserver(() => window.drawn++).observe(picture, {attributes: true, attributeFilter: ["src"]})
    }""")
    button(page, "Run").click()
    until(page, lambda: "clusters after" in status(page))
    assert page.evaluate("window.drawn") > 3, "no pictures on the way"
    until(page, lambda: all(new and new != old for new, old in zip(pictures(page), before)))
    assert page.locator(".jp-OutputArea-output svg[role=img]").count() == 2
    assert button(page, "Stop").is_disabled() and button(page, "Run").is_enabled()


def test_save_writes_two_files_beside_the_notebook(fitted, lab):
    button(fitted, "Save").click()
    until(fitted, lambda: "Saved labels.png" in status(fitted))
    assert (lab[1] / "labels.png").stat().st_size and (lab[1] / "overlay.png").stat().st_size


def code(page): return page.locator(".jp-OutputArea-output code").inner_text()
def chosen(page): return labelled(page, "chosen").locator("input").input_value()


def labelled(page, label):
    "The widget with the label."
    return page.locator(".jp-OutputArea-output .widget-inline-hbox", has=page.locator("label", has_text=label))


def through(page, *places):
    "Moves the mouse over the picture with the button pressed; places are fractions of its width and height."
    page.locator(".dynaseg-touch").scroll_into_view_if_needed()
    box = page.locator(".dynaseg-touch").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]: page.mouse.move(*place, steps=8)
    page.mouse.up()


def test_the_slider_answers_while_it_is_dragged(cut):
    page = cut
    page.evaluate("""() => { // every picture that is shown, counted in the page
        window.shown = new Set()
        const pad = document.querySelector(".jp-OutputArea-output .dynaseg-pad")
        const watcher = new MutationObserver(() => window.shown.add(pad.querySelector("img")?.src))
        watcher.observe(pad, {childList: true, subtree: true})
    }""")
    handle = labelled(page, "segments").locator(".noUi-handle")
    handle.scroll_into_view_if_needed()
    before, box = pictures(page), handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(1, 7):
        page.mouse.move(box["x"] + box["width"] / 2 - 8 * step, box["y"] + box["height"] / 2)
        page.wait_for_timeout(150)
    assert page.evaluate("window.shown.size") > 2, "no pictures while the mouse is down"
    page.mouse.up()
    fewer = int(labelled(page, "segments").locator(".widget-readout").inner_text())
    assert fewer < 40
    until(page, lambda: status(page).startswith(f"{fewer} segments") and f"n_segments={fewer})" in code(page))
    until(page, lambda: all(map(all, pictures(page))) and all(new != old for new, old in zip(pictures(page), before)))


def test_click_merge_split_undo(cut):
    page = cut
    through(page, (0.1, 0.1))
    until(page, lambda: "segment" in status(page) and " pixels, " in status(page))
    first, count = chosen(page), int(code(page).split("n_segments=")[1].split(")")[0])
    assert status(page).startswith(f"segment {first}: ")
    for x in (0.3, 0.5, 0.7, 0.9):  # the nearest place to the right that is in another segment is in a neighbour
        button(page, "Merge with").click()
        through(page, (x, 0.1))
        end = time.monotonic() + 2  # a busy machine takes its time
        while ".merge(" not in code(page) and time.monotonic() < end: page.wait_for_timeout(50)
        if ".merge(" in code(page): break
    assert ".merge(" in code(page)  # a segment that is no neighbour is chosen instead, and the next one merged with it
    until(page, lambda: f"{count - 1} segments over" in page.locator(".dynaseg-pad").inner_text())
    button(page, "Split").click()
    until(page, lambda: ".split(" in code(page))
    for _ in range(2): button(page, "Undo").click()
    until(page, lambda: code(page).endswith(f"n_segments={count})") and chosen(page) == "")


def test_two_strokes_and_back(fitted):
    page = fitted
    before = code(page)
    button(page, "pen 1").click()
    until(page, lambda: page.locator(".dynaseg-touch polyline").get_attribute("stroke") != "none")
    through(page, (0.1, 0.2), (0.4, 0.2))
    until(page, lambda: button(page, "Undo").is_enabled())
    button(page, "pen 2").click()
    page.wait_for_timeout(500)
    through(page, (0.6, 0.8), (0.9, 0.8))
    until(page, lambda: code(page).endswith(".seeded(scribbles)"))
    until(page, lambda: "2 clusters over" in page.locator(".dynaseg-pad").inner_text())
    button(page, "Learn from strokes").click()
    until(page, lambda: code(page).endswith("only_scribbled=True)"), seconds=60)
    for _ in range(3): button(page, "Undo").click()
    until(page, lambda: code(page) == before)


def test_stop_stops(page):
    unfold(page)
    set_number(page, "updates T", 300)
    labelled(page, "floor").locator("select").select_option("none")
    button(page, "Run").click()
    until(page, lambda: status(page).startswith("update "))
    assert button(page, "Run").is_disabled()
    button(page, "Stop").click()
    until(page, lambda: "stopped: interrupted" in status(page), seconds=20)
    assert int(status(page).split(" updates")[0].split()[-1]) < 300


def test_an_error_shows_in_the_panel(page, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but nothing else")
    upload(page, tmp_path / "broken.png")
    alert = page.locator("[role=alert]")
    alert.wait_for()
    assert "'broken.png' cannot be read as an image" in alert.inner_text()
    button(page, "Run").click()  # the photo of before is still there; its fit clears the message
    until(page, lambda: "clusters after" in status(page) or status(page).startswith("update"))
    assert page.locator("[role=alert]").count() == 0
    button(page, "Stop").click()
    until(page, lambda: button(page, "Stop").is_disabled())


def test_an_uploaded_photo_can_be_used(page, tmp_path):
    from PIL import Image
    Image.radial_gradient("L").resize((90, 60)).save(tmp_path / "disc.png")
    upload(page, tmp_path / "disc.png")
    until(page, lambda: "60 × 90, 1 band" in page.locator(".jp-OutputArea-output").first.inner_text())
    unfold(page)
    set_number(page, "updates T", 10)
    button(page, "Run").click()
    until(page, lambda: "clusters after 10 updates" in status(page))
