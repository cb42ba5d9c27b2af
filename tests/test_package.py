"""The wheel: built from a copy of the sources, installed into an environment of its own, used from an empty folder."""
import email
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
LATER = ["sklearn", "skimage", "scipy", "matplotlib", "torchvision", "ipywidgets", "IPython", "typer", "tqdm"]


def run(*args, cwd=None, **environment):
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(list(map(str, args)), cwd=cwd, env={**variables, **environment}, text=True,
                          capture_output=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def settings():
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel, built by the tools that are here if they are new enough, else in an environment that pip fills."
    folder = tmp_path_factory.mktemp("build")
    skipped = shutil.ignore_patterns(".git", ".venv", "_docs", "_proc", "build", "dist", "*.egg-info", "__pycache__",
                                     "dynaseg-demo")
    copy = shutil.copytree(ROOT, folder / "copy", symlinks=True, ignore=skipped)
    here = importlib.util.find_spec("setuptools") and int(version("setuptools").split(".")[0]) >= 77
    run(sys.executable, "-m", "build", "--wheel", *["--no-isolation"] * bool(here), "--outdir", folder / "dist", copy)
    built, = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """An environment with the wheel alone. Its dependencies are lent by this one through a .pth file: a line with a
    folder adds that folder only, so an editable dynaseg here is not seen there, and the wheel's own files come
    first."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    lent = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "lent.pth").write_text("\n".join(lent) + "\n")
    return python


@pytest.fixture(scope="module")
def demo(clean, tmp_path_factory):
    "The folder where `dynaseg demo --json` was run, and what it said."
    folder = tmp_path_factory.mktemp("empty")
    said = run(clean.with_name("dynaseg"), "demo", "--json", cwd=folder)
    return folder, json.loads(said)


# --- what is in it

def test_the_wheel_holds_the_package_and_nothing_else(wheel, settings):
    names = zipfile.ZipFile(wheel).namelist()
    package = {n for n in names if n.startswith("dynaseg/")}
    assert package == {f"dynaseg/{p.name}" for p in (ROOT / "dynaseg").glob("*.py")} | {"dynaseg/napari.yaml"}
    rest = {n.split("/", 1)[0] for n in names} - {"dynaseg"}
    assert rest == {f"dynaseg-{settings['version']}.dist-info"}
    assert any(n.endswith("LICENSE") for n in names)
    assert wheel.name == f"dynaseg-{settings['version']}-py3-none-any.whl"


def test_metadata_says_what_settings_ini_says(wheel, settings):
    archive = zipfile.ZipFile(wheel)
    meta = email.message_from_bytes(archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))))
    assert (meta["Name"], meta["Version"], meta["Summary"]) == ("dynaseg", settings["version"], settings["description"])
    assert meta["Requires-Python"] == f">={settings['min_python']}"
    needs = [r for r in meta.get_all("Requires-Dist") if "extra" not in r]
    assert sorted(r.replace(" ", "") for r in needs) == sorted(settings["requirements"].split())
    extras = {name.removesuffix("_requirements"): settings[name].split() for name in settings
              if name.endswith("_requirements")}
    assert sorted(meta.get_all("Provides-Extra")) == sorted(extras) == ["dev", "geo", "napari", "parquet", "timm"]
    def plain(requirement): return requirement.name, requirement.specifier # without the marker
    for extra, packages in extras.items():
        marked = [r for r in map(Requirement, meta.get_all("Requires-Dist")) if f'extra == "{extra}"' in str(r.marker)]
        assert set(map(plain, marked)) == {plain(Requirement(p)) for p in packages}
    entry_points = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
    assert "dynaseg=dynaseg.cli:main" in entry_points.replace(" ", "")
    assert "[napari.manifest]\ndynaseg = dynaseg:napari.yaml" in entry_points
    assert "MIT" in (meta["License-Expression"] or meta["License"])
    assert len(meta.get_payload()) > 500  # the README


# --- how it works where it is installed

def test_it_is_the_wheel_that_is_imported(clean, tmp_path):
    where = run(clean, "-c", "import dynaseg.segmenter; print(dynaseg.segmenter.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(clean.parent.parent) and ROOT not in Path(where).parents


def test_the_demo_writes_labels_overlay_history_and_settings(demo):
    folder, said = demo
    assert [p.name for p in folder.iterdir()] == ["dynaseg-demo"]
    assert sorted(p.name for p in (folder / "dynaseg-demo").iterdir()) == ["history.csv", "labels.png", "overlay.png",
                                                                           "settings.json"]
    labels = np.asarray(Image.open(folder / said["labels"]))
    assert labels.dtype == np.uint8 and list(labels.shape) == said["size"] == [427, 640]
    assert (sorted(np.unique(labels)) == list(range(said["n_labels"])) and said["n_labels"] >= 2
            and said["kind"] == "clusters")
    assert np.asarray(Image.open(folder / said["overlay"])).shape == (427, 640, 3)
    rows = (folder / said["history"]).read_text().splitlines()
    assert rows[0].startswith("iteration,n_labels,weight") and len(rows) == 1 + said["iterations"] + 1
    assert said["error"] is None and said["seconds"] > 0 and said["stop_reason"] in ("floor", "converged", "iterations")


def test_import_loads_nothing_that_is_not_needed_yet(clean, tmp_path):
    "So that `import dynaseg` costs no more than a moment: the rest comes when it is used."
    code = f"import sys, dynaseg; print([m for m in {LATER + ['torch', 'numpy', 'PIL']} if m in sys.modules])"
    assert run(clean, "-c", code, cwd=tmp_path).strip() == "[]"
    assert run(clean, "-c", "import dynaseg; print(dynaseg.__version__, 'segment' in dir(dynaseg))",
               cwd=tmp_path).split()[1] == "True"


def test_segment_loads_no_plotting_and_no_pretrained_models(clean, tmp_path):
    unwanted = ["matplotlib", "torchvision", "ipywidgets", "IPython", "skimage", "typer"]
    code = f"import sys; from dynaseg import segment; print([m for m in {unwanted} if m in sys.modules])"
    assert run(clean, "-c", code, cwd=tmp_path).strip() == "[]"
    # tqdm comes with PyTorch
    arithmetic = (
        "import sys, dynaseg; dynaseg.images, dynaseg.network, dynaseg.loss, dynaseg.weighting, dynaseg.silhouette; "
    )
    assert run(clean, "-c", arithmetic + f"print([m for m in {[m for m in LATER if m != 'tqdm']} if m in sys.modules])",
               cwd=tmp_path).strip() == "[]"


def test_five_lines_of_use(clean, tmp_path):
    "The README's, from an empty folder."
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    code = ('from dynaseg import segment, DynaSeg, Segmentation\n'
            'seg = segment("photo.jpg", T=5)\n'
            'assert isinstance(seg, Segmentation) and seg.labels.shape == (30, 40)\n'
            'seg.save("labels.png"); seg.save("result.npz"); seg.plot(); print(seg)\n'
            'from dynaseg.metrics import BestOverlap\n'
            'score = BestOverlap(); score.update(seg.labels, [seg.labels]); print(score.compute()["all"])')
    said = run(clean, "-c", code, cwd=tmp_path)
    assert (said.startswith("Segmentation(30x40") and (tmp_path / "labels.png").is_file()
            and (tmp_path / "result.npz").is_file())


def test_the_command_is_the_module(clean, tmp_path, settings):
    for command in ([clean.with_name("dynaseg")], [clean, "-m", "dynaseg.cli"]):
        assert run(*command, "--version", cwd=tmp_path).strip() == settings["version"]
        assert "segment" in run(*command, "--help", cwd=tmp_path)
