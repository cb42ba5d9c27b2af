"""`dynaseg` at a terminal: what it writes, says and exits with.

Some runs are processes of their own, the many small ones are not."""

import inspect
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from dynaseg import segment
from dynaseg.cli import FILES, NOT_OPTIONS, _folders, _option_name, app, demo_command, main, segment_command
from dynaseg.labels import overlay

SMALL = ["--M", "1", "--p", "6", "--q", "6", "--T", "2", "--device", "cpu"]
FAST = [*SMALL, "--min-labels", "2"]  # without the silhouette phase, which a new process imports scikit-learn for
posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


@pytest.fixture
def folder(tmp_path, photo, monkeypatch):
    "An own current folder with a photo in it."
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("photo.png")
    return tmp_path


@pytest.fixture
def cli(folder, monkeypatch, capfd):
    "Runs the command in this process: (exit code, stdout, stderr)."
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["dynaseg", *map(str, args)])
        code = 0
        try: main()
        except SystemExit as e: code = e.code or 0
        return code, *capfd.readouterr()
    return run


@pytest.fixture
def process(folder):
    "Runs the command in a process of its own, without a terminal."
    def run(*args, **environment):
        return subprocess.run([sys.executable, "-m", "dynaseg.cli", *args], capture_output=True, timeout=300,
                              env={**os.environ, **environment})
    return run


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*"))


def results(*stems, out="segments"):
    "What a folder with photo.png holds after these were segmented."
    return sorted(["photo.png", out, *(f"{out}/{stem}" for stem in stems),
                   *(f"{out}/{stem}/{file}" for stem in stems for file in FILES)])


# --- results

def test_several_files_in_a_process_of_its_own(process, folder, photo):
    "Names with spaces, with letters beyond ASCII, with a dash in front, with dots."
    names = ["my photo.png", "été 東京.jpg", "-dash.png", "a.b.tif"]
    for name in names: Image.fromarray(photo).save(folder / name)
    done = process("segment", "-o", "out dir", *FAST, "--", *names, PYTHONUTF8="1")
    assert done.returncode == 0 and done.stderr == b""
    said = done.stdout.decode()
    for name in names:
        stem = Path(name).stem
        assert re.search(rf"^{re.escape(name)}: \d+ clusters in [\d.]+ s \(\d+ iterations, stopped: \w+, floor \d+\)$",
                         said, re.MULTILINE)
        assert sorted(p.name for p in (folder / "out dir" / stem).iterdir()) == sorted(FILES)
        for file in FILES: assert f"  out dir/{stem}/{file}\n".replace("/", os.sep) in said


def test_results_are_those_of_the_library(cli, folder, photo):
    code, out, err = cli("segment", "photo.png", *SMALL, "--variant", "scf", "--mu", "40", "--seed", "3",
                         "--min-labels", "2")
    assert (code, err) == (0, "") and tree(folder) == results("photo")
    seg = segment(photo, M=1, p=6, q=6, T=2, device="cpu", variant="scf", mu=40, seed=3, min_labels=2)
    there = folder / "segments" / "photo"
    np.testing.assert_array_equal(np.asarray(Image.open(there / "labels.png")), seg.labels)
    np.testing.assert_array_equal(np.asarray(Image.open(there / "overlay.png")), overlay(seg.image, seg.labels))
    table = np.genfromtxt(there / "history.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["loss"], seg.history["loss"], rtol=1e-6)


def test_json_is_one_object_for_each_image(cli, folder, photo):
    Image.fromarray(photo[:20]).save("second été.png")
    code, out, err = cli("segment", "photo.png", "none.png", "second été.png", "--json", *SMALL)
    assert code == 1 and err == ""
    first, failed, second = map(json.loads, out.splitlines())
    assert failed["image"] == "none.png" and "no file" in failed["error"]
    for said, name, size in ((first, "photo.png", [24, 30]), (second, "second été.png", [20, 30])):
        assert said["image"] == name and said["error"] is None and said["size"] == size and said["iterations"] in (0, 1,
                                                                                                                   2)
        labels = np.asarray(Image.open(said["labels"]))
        assert (said["n_labels"] == labels.max() + 1 and said["kind"] == "clusters"
                and said["stop_reason"] in ("floor", "converged", "iterations") and said["seconds"] > 0)
        assert isinstance(said["floor"], int) and Path(said["overlay"]).is_file() and Path(said["history"]).is_file()


def test_format_says_what_is_written(cli, folder, photo):
    code, out, err = cli("segment", "photo.png", "--format", "tif, .csv,geojson,json,csv", "--json", *SMALL)
    assert (code, err) == (0, "")
    said = json.loads(out)
    names = ["labels.tif", "regions.csv", "regions.geojson", "coco.json", "overlay.png", "history.csv", "settings.json"]
    assert said["files"] == [str(Path("segments", "photo", name)) for name in names]
    assert sorted(names) == sorted(os.listdir(folder / "segments" / "photo"))
    assert said["labels"].endswith("labels.tif")
    assert said["regions"].endswith("regions.csv")
    assert said["regions.geojson"].endswith("regions.geojson")
    labels = np.asarray(Image.open(said["labels"]))
    rows = (folder / said["regions"]).read_text().splitlines()
    assert rows[0].startswith("id,cluster,area")
    assert len(rows) - 1 == len(json.loads(Path(said["regions.geojson"]).read_text())["features"])
    assert said["n_labels"] == labels.max() + 1


@pytest.mark.parametrize("wrong", ["gif", "png,jpg", "", ","])
def test_formats_that_are_not_known(cli, folder, wrong):
    code, out, err = cli("segment", "photo.png", "--format", wrong, *SMALL)
    assert code == 2
    assert out == ""
    assert "--format" in err
    assert "ome.tif, csv, parquet, geojson" in err
    assert not (folder / "segments").exists()


def test_parquet_without_pyarrow_is_said_before_the_work(cli, folder, monkeypatch):
    import dynaseg.cli
    there = dynaseg.cli.find_spec
    monkeypatch.setattr(dynaseg.cli, "find_spec", lambda name: None if name == "pyarrow" else there(name))
    code, out, err = cli("segment", "photo.png", "--format", "parquet", *FAST)
    assert code == 2 and "pip install 'dynaseg[parquet]'" in err and not (folder / "segments").exists()


def test_demo(cli, folder):
    code, said, err = cli("demo")
    assert code == 0, err
    assert re.search(r"\d+ clusters in [\d.]+ s", said)
    assert tree(folder) == results("x", out="dynaseg-demo")[:1] + [f"dynaseg-demo/{f}"
                                                                   for f in sorted(FILES)] + ["photo.png"]
    for file in FILES: assert os.path.join("dynaseg-demo", file) in said
    labels, picture = (np.asarray(Image.open(folder / "dynaseg-demo" / name)) for name in ("labels.png", "overlay.png"))
    assert labels.shape == (427, 640) and picture.shape == (427, 640, 3) and 2 <= labels.max() + 1 <= 100
    counts = np.bincount(labels.ravel())
    assert (counts > 0).all() and (np.diff(counts) <= 0).all() and counts[0] < 0.9 * labels.size


# --- options

def options(command):
    import typer.main
    return {p.name: p for p in typer.main.get_command(app).commands[command].params}


def test_every_setting_is_an_option_that_names_its_default():
    "An option that is left out is None: then settings.json, the preset or `segment` decides."
    keywords = {name: p.default for name, p in inspect.signature(segment).parameters.items() if name not in NOT_OPTIONS}
    given = options("segment")
    own = {"images", "out", "force", "as_json", "allow_pixels", "settings", "formats", "nodata_label"}
    assert set(given) == set(keywords) | own
    for name, default in keywords.items():
        assert given[name].default is None, name
        in_words = {True: "yes", False: "no"}.get(default, default) if isinstance(default, bool) else default
        assert default is None or f"[default: {in_words}]" in given[name].help, name
        assert any(o in (f"--{name}", f"--{name.replace('_', '-')}") for o in given[name].opts), name
        assert given[name].help, name
    assert inspect.signature(segment_command).parameters.keys() == given.keys()
    assert set(options("demo")) == {"out", "force", "as_json"} == set(inspect.signature(demo_command).parameters)


def test_every_option_reaches_the_library(cli, monkeypatch):
    import dynaseg.batch  # before the patch, or it would keep what is patched
    import dynaseg.cli
    import dynaseg.segmenter
    seen = {}
    def spy(image, **settings):
        seen.update(settings)
        raise ValueError("seen")
    monkeypatch.setattr(dynaseg.segmenter, "segment", with_signature(spy))
    monkeypatch.setattr(dynaseg.segmenter, "check_settings", lambda **settings: None)  # not all of these go together
    monkeypatch.setattr(dynaseg.cli, "_read", lambda image, settings: image)  # this file has no third page
    wanted = dict(preset="paper", n_segments=5, n_clusters=6, level=0.7, min_size=8, variant="scf", mu=40.5,
                  min_labels=3, on="features",
                  features="resnet18-stem", weights="some file.pth", M=2, p=6, q=7, padding="replicate", T=3, lr=0.2,
                  momentum=0.5, weight_decay=0.01,
                  tol=0.1, cluster_level=0.9, max_pixels=300, seed=9, device="cpu")
    args = [part for name, value in wanted.items() for part in (f"--{name.replace('_', '-')}", value)]
    wanted |= dict(axes="CYX", page=3, value_range=(0.0, 4095.0), nodata=[-9999.0, 0.0], mask="region.png")
    wanted |= dict(scribbles="strokes.png", only_scribbled=True)
    args += ["--scribbles", "strokes.png", "--only-scribbled"]
    wanted |= dict(guide="guide.png", guide_weight=0.5, unguided=0, guide_matching="majority", penalty="huber",
                   diagonals=True)
    args += ["--guide", "guide.png", "--guide-weight", "0.5", "--unguided", "0", "--guide-matching", "majority",
             "--penalty", "huber", "--diagonals"]
    args += ["--axes", "CYX", "--page", "3", "--value-range", "0", "4095", "--nodata", "-9999,0", "--mask",
             "region.png"]
    assert cli("segment", "photo.png", *args, "--no-progress", "--no-freeze", "--standardised", "--autocast")[0] == 1
    assert seen == wanted | dict(progress=False, freeze=False, standardised=True, autocast=True)
    assert set(seen) == set(inspect.signature(segment).parameters) - {*NOT_OPTIONS}


def with_signature(function):
    function.__signature__ = inspect.signature(segment)
    return function


@pytest.mark.parametrize("words, value", [("none", None), ("3", 3), ("silhouette", "silhouette")])
def test_min_labels_in_words(cli, folder, words, value):
    code, out, err = cli("segment", "photo.png", "--json", "--min-labels", words, *SMALL)
    assert code == 0
    assert json.loads(out)["floor"] == segment("photo.png", M=1, p=6, q=6, T=2, device="cpu", min_labels=value).floor


KEPT = """
--preset segments
--preset segments --n-segments 3
--preset paper --T 2 --min-labels none
--n-clusters 3 --min-size 20
--level 0.3 --min-labels 2
--n-segments 4 --max-pixels 0 --seed 7
--value-range 0 200 --nodata none
--nodata 0
--nodata 3,4,5 --mask mask.png
--page 2 --axes ZYXC
--page all
--variant fixed --mu 3 --on features --no-standardised --padding zeros
--cluster-level 0 --tol 0
--scribbles drawn.png --only-scribbled
--scribbles drawn.png
--features resnet18-stem --weights none --no-freeze --max-pixels 2000
"""


@pytest.mark.parametrize("line", KEPT.split("\n")[1:-1])
def test_the_settings_of_a_result_repeat_it(cli, folder, photo, line):
    Image.fromarray(np.full(photo.shape[:2], 255, np.uint8)).save("mask.png")
    drawn = np.zeros((*photo.shape[:2], 4), np.uint8)
    drawn[2:5, 2:8] = 255, 0, 0, 255
    drawn[15:20, 20:25] = 0, 255, 0, 255
    Image.fromarray(drawn).save("drawn.png")
    source = "photo.png"
    if "--page" in line:
        source = "stack.tif"
        tifffile.imwrite(source, np.stack([photo, photo[::-1]]), photometric="rgb")
    place = "photo" if source == "photo.png" else "stack" + ("/page-2" if "all" in line else "")
    assert cli("segment", source, "--out", "one", *SMALL, *line.split())[0] == 0
    made = folder / "one" / place
    assert cli("segment", source, "--out", "two", "--settings", made / "settings.json", "--device", "cpu")[0] == 0
    again = folder / "two" / place.partition("/")[0]
    assert (again / "labels.png").read_bytes() == (made / "labels.png").read_bytes()
    assert json.loads((again / "settings.json").read_text()) == json.loads((made / "settings.json").read_text())


def test_an_option_replaces_the_question_of_a_file_of_settings(cli, folder):
    assert cli("segment", "photo.png", "--out", "one", *SMALL, "--preset", "segments")[0] == 0
    kept = folder / "one" / "photo" / "settings.json"
    code, out, _ = cli("segment", "photo.png", "--out", "two", "--settings", kept, "--n-clusters", "2", "--json")
    assert (code, json.loads(out)["kind"], json.loads(out)["n_labels"]) == (0, "clusters", 2)


def test_help(cli):
    code, out, err = cli("segment", "--help")
    assert code == 0
    for option in ("--preset", "--variant", "--mu", "--min-labels", "--max-pixels", "--force", "--json", "--out",
                   "--allow-pixels"):
        assert option in out
    code, out, err = cli("--help")
    assert code == 0 and "segment" in out and "demo" in out
    code, out, err = cli()
    assert code in (0, 2) and "Usage" in out + err


COMMANDS = ("segment", "demo", "folder", "evaluate", "report")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_for_people_who_do_not_write_python(cli, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = cli(command, "-h")
    assert (code, err) == (0, "") and max(map(len, out.splitlines())) <= 80
    assert not re.search(r"<\w+|None|\bTrue\b|\bFalse\b|x>=|`|\(H, W\)|\{", out)
    examples = out.partition("Examples:\n")[2].splitlines()
    assert len(examples) >= 3 and examples[-1].strip().startswith("More: https://")
    assert all(line.startswith(f"    dynaseg {command}") for line in examples[:-1])


def test_help_names_what_every_setting_may_be(cli, monkeypatch):
    from dynaseg.segmenter import PRESET_WORDS, RULES
    monkeypatch.setenv("COLUMNS", "80")
    out = " ".join(cli("segment", "--help")[1].split())
    given = options("segment")
    for name, rule in RULES.items():
        if name not in given: continue
        if rule.choices: assert f"{_option_name(name)} {'|'.join(rule.choices)} " in out, name
        elif rule.kind is not bool: assert given[name].metavar in ("N", "NUMBER", "N|all"), name
    for said in ("[above 0; default: fsf 40, scf 5, fixed 5; paper, dynaguide: fsf 15, scf 50, fixed 5]",
                 "[at least 0 and below 1; default: 0.9]", "[from 0 to 4294967295; default: 0]",
                 "[at least 0; default: not used; segments: 1.6]", "[default: yes; paper, dynaguide: no]"):
        assert said in out, said
    for words in PRESET_WORDS.values():
        assert words.strip("[]").replace("True", "yes").replace("False", "no") in out


def test_help_says_which_settings_exclude_each_other(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = " ".join(cli("segment", "--help")[1].split())
    for one, two in (("n-clusters", "level"), ("n-segments", "level"), ("n-segments", "n-clusters")):
        assert f"not together with --{one} or --{two}" in out


def test_version(cli):
    from dynaseg import __version__
    assert cli("--version") == (0, f"{__version__}\n", "")


# --- pages, and pixels without data

@pytest.fixture
def stack(folder, photo):
    "stack.tif: three pages."
    tifffile.imwrite("stack.tif", np.stack([photo[..., i] for i in range(3)]), photometric="minisblack")


def test_a_page_and_all_pages(cli, stack):
    code, out, err = cli("segment", "stack.tif", "-o", "one", *SMALL)
    assert code == 0 and "stack.tif, page 1 of 3" in out
    assert err.count("page 1 of 3 of 'stack.tif': say --page 2 for another, or --page all (dynaseg segment) for") == 1
    code, out, err = cli("segment", "stack.tif", "-o", "two", "--page", "2", "--json", *SMALL)
    assert (code, err) == (0, "") and json.loads(out)["page"] == 2
    code, out, err = cli("segment", "stack.tif", "-o", "all", "--page", "all", *SMALL)
    assert code == 0
    assert [p.name for p in sorted(Path("all/stack").iterdir())] == ["page-1", "page-2", "page-3"]
    one, other = (np.asarray(Image.open(file)) for file in ("all/stack/page-2/labels.png", "two/stack/labels.png"))
    assert adjusted_rand_score(one.ravel(), other.ravel()) == 1  # the same clusters, under the numbers of page 1
    code, out, err = cli("segment", "stack.tif", "-o", "all", "--page", "all", *SMALL)
    assert code == 1 and "exists" in err


@pytest.mark.parametrize("args, code, words",
                         [(["--page", "x"], 2, "--page 'x'"), (["--page", "4"], 1, "--page 4; 'stack.tif' has 3 pages"),
                          (["--nodata", "x"], 2, "--nodata 'x'"),
                          (["--value-range", "5", "1"], 2, "--value-range 5.0 1.0"),
                          (["--axes", "CY"], 2, "--axes 'CY'"),
                          (["--mask", "no.png", "--page", "1"], 1, "There is no file 'no.png'"),
                          (["--page", "all", "--out", "-"], 2, "--out - takes one page")])
def test_mistakes_about_what_is_read(cli, stack, args, code, words):
    found, out, err = cli("segment", "stack.tif", *args, *SMALL)
    assert (found, out) == (code, "") and words in err


def test_masks_and_fill_values(cli, folder, photo):
    mask = np.tri(24, 30, 20) > 0
    Image.fromarray(mask).save("mask.png")
    code, out, err = cli("segment", "photo.png", "-o", "a", "--mask", "mask.png", *SMALL)
    assert (code, err) == (0, "") and f"{(~mask).sum()} pixels without data are left out" in out
    labels = np.asarray(Image.open("a/photo/labels.png"))
    assert ((labels == 255) == ~mask).all()
    assert json.loads(Path("a/photo/settings.json").read_text())["settings"]["mask"] == "mask.png"
    assert cli("segment", "photo.png", "-o", "b", "--settings", "a/photo/settings.json", "--nodata-label", "0")[0] == 0
    assert (np.asarray(Image.open("b/photo/labels.png")) == np.where(mask, labels + 1, 0)).all()
    heights = np.where(mask, photo[..., 0], -9999.0)
    np.save("heights.npy", heights)
    code, out, err = cli("segment", "heights.npy", "-o", "c", *SMALL)
    assert code == 0 and "--nodata -9999" in err and "--nodata none" in err and "value_range" not in err
    assert (cli("segment", "heights.npy", "-o", "d", "--nodata", "-9999", "--value-range", "0", "255", *SMALL)[::2]
            == (0, ""))
    assert cli("segment", "heights.npy", "-o", "e", "--nodata", "none", *SMALL)[0] == 0
    outs = [(np.asarray(Image.open(f"{name}/heights/labels.png")) == 255) for name in "cde"]
    assert (outs[0] == ~mask).all() and (outs[1] == ~mask).all() and not outs[2].any()


def test_a_folder_with_a_mask(cli, folder, photo):
    Path("in").mkdir()
    Image.fromarray(photo).save("in/a.png")
    Image.fromarray(photo[:10]).save("in/b.png")
    mask = np.tri(24, 30, 20) > 0
    Image.fromarray(mask).save("mask.png")
    code, out, err = cli("folder", "in", "out", "--mask", "mask.png", *SMALL)
    assert code == 1 and err.count("error:") == 1 and "b.png: The mask has 24×30 pixels, the image 10×30" in err
    assert ((np.asarray(Image.open("out/a.png.labels.png")) == 255) == ~mask).all()
    code, out, err = cli("folder", "in", "out2", "--page", "all", *SMALL)
    assert code == 2 and "a folder has one label map for each file" in err


# --- what exists is kept

def test_nothing_is_overwritten_without_force(cli, folder):
    assert cli("segment", "photo.png", *FAST)[0] == 0
    there = folder / "segments" / "photo"
    for name in FILES: (there / name).unlink()
    (there / "overlay.png").write_text("precious")  # one of them is enough
    code, out, err = cli("segment", "photo.png", *FAST)
    assert code == 1 and out == "" and len(err.splitlines()) == 1
    assert "overlay.png" in err and "exists" in err and "--force" in err and "--out" in err
    assert (there / "overlay.png").read_text() == "precious" and len(list(there.iterdir())) == 1
    assert cli("segment", "photo.png", "--force", *FAST)[0] == 0 and tree(folder) == results("photo")
    Image.open(there / "overlay.png").load()
    assert cli("segment", "photo.png", "-o", "elsewhere", *FAST)[0] == 0


def test_other_files_in_the_folder_are_left_alone(cli, folder):
    note = folder / "segments" / "photo" / "note.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine")
    assert cli("segment", "photo.png", *FAST)[0] == 0 and cli("segment", "photo.png", "--force", *FAST)[0] == 0
    assert note.read_text() == "mine"


@pytest.mark.parametrize("error, code", [(OSError(28, "No space left on device"), 1), (KeyboardInterrupt(), 130),
                                         (MemoryError(), 1)])
def test_a_write_that_fails_leaves_what_was_there(cli, folder, monkeypatch, error, code):
    assert cli("segment", "photo.png", *SMALL)[0] == 0
    before = {name: (folder / name).read_bytes() for name in tree(folder) if (folder / name).is_file()}
    save = Image.Image.save
    def failing(self, path, *args, **kwargs):
        if "overlay" in str(path): raise error  # labels.png and history.csv are written by then
        return save(self, path, *args, **kwargs)
    monkeypatch.setattr(Image.Image, "save", failing)
    got, out, err = cli("segment", "photo.png", "--force", "--seed", "1", *SMALL)
    assert got == code and "Traceback" not in err
    assert {name: (folder / name).read_bytes() for name in tree(folder) if (folder / name).is_file()} == before
    assert [n for n in tree(folder) if Path(n).name.startswith(".")] == []
    got, out, err = cli("segment", "photo.png", "-o", "new", *SMALL)
    assert got == code and not [n for n in tree(folder) if n.startswith("new/photo")]


# --- mistakes

@pytest.mark.parametrize("args, words", [
    (["--mu", "0"], "--mu 0.0; expected a finite number above 0"), (["--mu", "nan"], "--mu nan"),
    (["--variant", "fcf"], "--variant 'fcf'"),
    (["--preset", "slow"], "--preset 'slow'"), (["--q", "1"], "--q 1; expected"), (["--M", "0"], "--M 0; expected"),
    (["--T", "0"], "--T 0; expected"),
    (["--device", "tpu"], "--device 'tpu'"), (["--device", "cuda:77"], "--device 'cuda:77'"),
    (["--seed", "-1"], "--seed -1"), (["--lr", "-1"], "--lr -1.0"),
    (["--min-labels", "some"], "--min-labels 'some'"), (["--min-labels", "0"], "--min-labels 0"),
    (["--min-labels", "99", "--q", "9"], "below --q 9"),
    (["--min-labels", "²"], "--min-labels '²'"), (["--min-labels", "-3"], "--min-labels '-3'"),
    (["--tol", "2"], "--tol 2.0"), (["--momentum", "1"], "--momentum 1.0"),
    (["--max-pixels", "-5"], "--max-pixels -5"),
])
def test_settings_that_cannot_be_used_are_exit_2_and_one_line(cli, folder, args, words):
    code, out, err = cli("segment", "photo.png", *args)
    assert code == 2 and out == "" and words in err and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert tree(folder) == ["photo.png"]


@pytest.mark.parametrize("args, words", [
    (["segment"], "IMAGE"), (["segment", "photo.png", "--nonsense", "1"], "nonsense"),
    (["segment", "photo.png", "--mu", "big"], "--mu"),
    (["segment", "photo.png", "--q", "2.5"], "--q"), (["segments", "photo.png"], "segments"),
    (["segment", "-dash.png"], "-d"),
    (["segment", "photo.png", "--allow-pixels", "0"], "--allow-pixels"), (["demo", "photo.png"], "photo.png"),
])
def test_usage_mistakes_are_exit_2(cli, folder, args, words):
    code, out, err = cli(*args)
    assert code == 2 and out == "" and words in err and "Traceback" not in err and tree(folder) == ["photo.png"]


def test_two_images_of_one_stem_get_folders_by_their_whole_names(cli, folder, photo):
    Image.fromarray(photo).save("photo.jpg")
    assert cli("segment", "photo.png", "photo.jpg", *SMALL)[0] == 0
    assert tree("segments") == sorted(n for name in ("photo.jpg", "photo.png")
                                      for n in (name, *(f"{name}/{file}" for file in FILES)))


WRONG = """
segment nowhere.png
segment empty
segment text.png
segment cut.jpg
segment zero.png
segment https://example.org/a.png
segment photo.png --preset
segment photo.png --preset slow
segment photo.png --n-segments 2.5
segment photo.png --n-segments=many
segment photo.png --n-clusters -1
segment photo.png --level none
segment photo.png --level nan
segment photo.png --min-size x
segment photo.png --max-pixels 1e4
segment photo.png --seed -1
segment photo.png --axes QQ
segment photo.png --axes ZYX
segment photo.png --page 7
segment photo.png --page x
segment photo.png --value-range 1
segment photo.png --value-range 1 x
segment photo.png --value-range 5 1
segment photo.png --nodata x
segment photo.png --nodata 1,2,3,4,5
segment photo.png --mask nowhere.png
segment photo.png --mask text.png
segment photo.png --mask empty
segment photo.png --variant fcf
segment photo.png --mu x
segment photo.png --min-labels none --q 1
segment photo.png --min-labels x
segment photo.png --on eyes
segment photo.png --T 0
segment photo.png --tol 1
segment photo.png --padding ones
segment photo.png --cluster-level -1
segment photo.png --scribbles nowhere.png
segment photo.png --scribbles empty
segment photo.png --scribbles text.png
segment photo.png --scribbles photo.png
segment photo.png --scribbles photo.png --n-segments 3
segment photo.png --features vgg
segment photo.png --features resnet18-fpn --weights nowhere.pth
segment photo.png --weights text.png
segment photo.png --device tpu
segment photo.png --format gif
segment photo.png --nodata-label -1
segment photo.png --allow-pixels x
segment photo.png --allow-pixels 0
segment photo.png --settings nowhere.json
segment photo.png --settings empty
segment photo.png --settings text.png
segment photo.png --settings list.json
segment photo.png --settings unknown.json
segment photo.png --out text.png
segment photo.png --out text.png/deeper
segment photo.png --out - --out
segment photo.png text.png --out -
segment photo.png --jsn
segment
sgment photo.png
photo.png
empty
-x
folder empty
folder nowhere out
folder empty out
folder photo.png out
folder . photo.png
folder . out --suffix gif
folder . out --workers x
folder . out --glob *.gif
evaluate
evaluate bsd --root empty
evaluate bsd500 --root nowhere
evaluate bsd500 --root empty --subset x
evaluate icoseg --root empty --split val
report nowhere.csv
report empty
report text.png
demo photo.png
demo --out photo.png
segment photo.png --n-segments 3 --n-clusters 2
segment photo.png --diagonals yes
segment photo.png --nodata-label 3 --format csv
segment photo.png --guide nowhere.png
segment photo.png --guide small.png
segment photo.png --guide photo.png --q 2
segment photo.png --preset dynaguide
segment photo.png --scribbles one.png --only-scribbled
segment photo.png --scribbles one.png --q 2 --min-labels 2
segment photo.png --mask black.png
segment photo.png --nodata 1,2
segment photo.png --page 2
segment photo.png --device mps
segment photo.png --force=yes
segment photo.png --value-range 0,255
segment photo.png --weights nowhere.pth
segment photo.png --features resnet18-fpn --weights text.png
segment some.npz
segment four.npy
segment fake.heic
segment fake.h5
segment fake.dng
segment fake.nii
folder album out --page all
folder album out --same-labels --n-segments 3
folder album out --same-labels --preset segments
folder album out --same-labels --statistics mean
folder album out --preset dynaguide
folder album out --guide small.png
folder album out --scribbles one.png
folder album out --out there
folder album out --format tif
folder album out one two
folder album out --settings guided.json
folder album out --settings drawn.json
evaluate bsd500 --root empty --out photo.png
evaluate bsd500 --root empty --out nowhere/results.csv
evaluate bsd500 --root empty --seed 1
evaluate bsd500 --root empty --preset dynaguide
evaluate bsd500 --root empty --measures region --at 3
"""


@pytest.fixture
def mistakes(folder):
    "What the wrong commands name."
    (folder / "empty").mkdir()
    (folder / "text.png").write_text("not a photo")
    (folder / "cut.jpg").write_bytes((folder / "photo.png").read_bytes()[:60])
    (folder / "zero.png").touch()
    (folder / "list.json").write_text('{"settings": [1]}')
    (folder / "unknown.json").write_text('{"settings": {"colour": 1}}')
    (folder / "guided.json").write_text('{"settings": {"guide": "small.png"}}')
    (folder / "drawn.json").write_text('{"settings": {"scribbles": "one.png"}}')
    photo = np.asarray(Image.open("photo.png"))
    drawn = np.zeros((*photo.shape[:2], 4), np.uint8)
    drawn[2:5, 2:8] = 255
    Image.fromarray(drawn).save("one.png")
    Image.fromarray(photo[:5, :, 0]).save("small.png")
    Image.fromarray(np.zeros(photo.shape[:2], np.uint8)).save("black.png")
    np.savez("some.npz", photo=photo)
    np.save("four.npy", photo[None] / 255)
    for ending in ("heic", "h5", "dng", "nii"): (folder / f"fake.{ending}").write_bytes(b"no photo")
    (folder / "album").mkdir()
    Image.fromarray(photo).save("album/a.png")


# words of Python: values, names of errors, arguments, calls, modules, and settings of two words
PYTHON = (r"None(?! of)|True|False|Errno|\w+Error|Exception|\b\w+=|\(\)|nn\.|PIL|<|should be|\w\(path|\bsegment\("
          r"|(?<![\w'./-])[a-z]+_[a-z]+|\(\d+, \d+\);|\[\d")


@pytest.mark.parametrize("line", WRONG.split("\n")[1:-1])
def test_a_wrong_command_gets_one_line_without_python(cli, mistakes, line):
    code, out, err = cli(*line.split())
    assert code in (1, 2) and out == "" and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert not re.search(PYTHON, err)


@pytest.mark.parametrize("line", [line for line in WRONG.split("\n")[1:-1] if line.startswith("segment")])
def test_a_wrong_command_with_json_gets_one_document(cli, mistakes, line):
    code, out, err = cli("segment", "--json", *line.split()[1:])
    said = [json.loads(document) for document in out.splitlines()]
    assert code in (1, 2) and len(said) == 1 and said[0]["error"]


@pytest.mark.parametrize("args, words", [
    (["photo.png"], "dynaseg segment 'photo.png'"), (["."], "dynaseg folder '.' OUT"),
    (["sgment", "x"], "Did you mean 'segment'? See dynaseg --help."),
    (["segment", "photo.png", "--n-segments=many"], "--n-segments 'many'; expected a whole number."),
    (["segment", "photo.png", "--value-range", "1", "x"], "--value-range '1 x'; expected two numbers with a space"),
    (["folder", ".", "out", "--workers", "0"], "--workers '0'; expected a whole number of at least 1. See dynaseg f"),
    (["segment", "photo.png", "--n-segments", "3", "--level", "1"], "--n-segments 3 and --level 1.0"),
    (["segment", "photo.png", "--out", "photo.png"], "'photo.png': nothing can be written there (Not a directory)"),
    (["segment", "photo.png", "--scribbles", "nowhere.png"], "There is no file 'nowhere.png'"),
    (["segment", "photo.png", "--out", "-", "--json"], "--json and --out - both write to standard output")])
def test_mistakes_say_what_to_do(cli, folder, args, words):
    code, _, err = cli(*args)
    assert code in (1, 2) and words in err


@pytest.mark.parametrize("line, words", [
    ("segment photo.png --guide small.png", "The guide has 5×30 pixels; expected 24×30, as the photo."),
    ("segment photo.png --guide nowhere.png", "Check --guide."),
    ("segment photo.png --guide photo.png --q 2 --min-labels none", "expected at most --q 2"),
    ("segment photo.png --scribbles one.png --only-scribbled", "or leave out --only-scribbled."),
    ("segment photo.png --preset dynaguide", "Give --guide FILE, or take --preset 'paper'."),
    ("folder album out --preset dynaguide", "Take dynaseg segment, photo by photo, or take"),
    ("segment photo.png --mask black.png", "are needed. Check --nodata, the mask, and the transparency."),
    ("segment photo.png --nodata 1,2", "--nodata 1.0, 2.0; expected a number, one number for each of the 3 bands, or"),
    ("segment photo.png --page 2", "--page 2; 'photo.png' has 1 page: leave it out"),
    ("segment photo.png --diagonals yes", "There is no image 'yes'. If it answers an option"),
    ("segment photo.png --n-segments", "--n-segments needs a value behind it. See dynaseg segment --help."),
    ("segment photo.png --value-range 3", "--value-range needs 2 values behind it, with a space between them."),
    ("segment photo.png --nodata-label 3 --format csv", "--format csv makes none. Leave it out"),
    ("segment photo.png --nodata-label 1", "--nodata-label 1, but that is the id of a label"),
    ("segment photo.png --nodata-label 70000", "--nodata-label 70000, but such a picture holds 0 to 65535. Take"),
    ("segment photo.png --weights text.png", "is for the ResNets and timm; give --features too."),
    ("segment some.npz", "It holds several arrays: save the photo as .npy."),
    ("segment four.npy", "Save its images one by one, or name the axes: --axes 'ZYXC' is a stack."),
    ("segment fake.heic", "Convert it to JPEG or PNG."),
    ("segment fake.h5", "Save the array as .npy or .tif first."),
    ("segment fake.dng", "is a camera's raw file. Export a TIFF"),
    ("folder album out --page all", "for every page of a file there is dynaseg segment FILE --page all."),
    ("folder album out --page 2", "error: a.png: --page 2; 'album/a.png' has 1 page"),
    ("folder album out --same-labels --level 2", "Leave out --n-segments, --level and --preset 'segments'."),
    ("folder album out --guide-weight 2", "--guide-weight belongs to one photo: take dynaseg segment"),
    ("folder album out --out there", "OUT is the second word"),
    ("folder album out --format tif", "say --suffix .png, .tif or .npz"),
    ("folder album out a b", "Too many words: a b."),
    ("folder album out --glob *.gif", "error: None of the 1 images"),
    ("folder album out --settings guided.json", "Give guides to dynaseg segment, photo by photo."),
    ("evaluate bsd500 --root empty --seed 1", "say --seeds"),
    ("evaluate bsd500 --root empty --out photo.png", "expected a name that ends in .csv or .parquet."),
    ("evaluate bsd500 --root empty --methods fsf --out nowhere/a.csv", "there is no folder 'nowhere'. Make it first."),
    ("report nowhere.csv", "There is no file 'nowhere.csv'. Check the path."),
    ("report empty", "expected files that evaluate wrote.")])
def test_messages_are_in_words_of_the_command_line(cli, mistakes, line, words):
    first, *others = line.split()
    small = SMALL if first != "report" and "--q" not in others else []
    code, _, err = cli(first, *others[:1], *(small if first != "evaluate" else []), *others[1:])
    assert code in (1, 2) and words in err


@pytest.mark.parametrize("args, words", [
    (["--min-labels", "3", "--n-segments", "2"], "--n-segments and --n-clusters do."),
    (["--only-scribbled"], "--only-scribbled has no effect without --scribbles."),
    (["--guide-weight", "2"], "--guide-weight 2.0 has no effect without --guide."),
    (["--min-labels", "none", "--on", "features"], "--on 'features' has no effect without --min-labels 'silhouette'."),
    (["--features", "resnet18-stem", "--weights", "none", "--padding", "zeros"],
     "--padding 'zeros' has no effect on this network; it is for --features 'cnn'."),
    (["--features", "resnet18-stem", "--weights", "none", "--no-standardised"], "--no-standardised has no effect on")])
def test_warnings_are_in_words_of_the_command_line(cli, folder, args, words):
    code, _, err = cli("segment", "photo.png", *SMALL, *args)
    assert code == 0 and words in err and not re.search(PYTHON, err)


def test_a_folder_of_other_settings_says_which_in_words_of_the_command_line(cli, album):
    assert cli("folder", "in", "out", *FAST)[0] == 0
    more = ["--n-clusters", "2", "--nodata", "3,4", "--value-range", "0", "200", "--diagonals"]
    code, _, err = cli("folder", "in", "out", *FAST, *more)
    assert code == 2 and "--n-clusters not given (now 2), " in err and "--value-range not given (now 0.0 200.0)" in err
    assert "--nodata not given (now 3.0,4.0)" in err and "--diagonals no (now yes)" in err
    assert "or pass --force to" in err
    assert not re.search(PYTHON, err)
    code, _, err = cli("folder", "in", "out", *FAST, "--same-labels")
    assert code == 2 and "other settings: --same-labels not given (now yes). Choose" in err
    assert cli("folder", "in", "shared", *FAST, "--same-labels")[0] == 0
    code, _, err = cli("folder", "in", "shared", *FAST, "--same-labels", "--seed", "4")
    assert code == 2 and "other settings: --seed 0 (now 4). Choose" in err
    code, _, err = cli("folder", "in", "more", *FAST, "--sample", "3")
    assert code == 0 and "--sample 3 has no effect without --same-labels." in err


def completed(*words):
    "What the shell is offered for the last of these words."
    from typer.testing import CliRunner
    line = " ".join(["dynaseg", *words])
    asked = {"_DYNASEG_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    return CliRunner().invoke(app, env=asked, prog_name="dynaseg").output.split()


@pytest.mark.parametrize("words, offered", [
    (["segment", "--preset", ""], ["clusters", "paper", "segments", "dynaguide"]),
    (["segment", "--preset", "s"], ["segments"]), (["segment", "--min-labels", ""], ["silhouette", "none"]),
    (["segment", "--on", ""], ["image", "features"]), (["segment", "--variant", "s"], ["scf"]),
    (["segment", "--features", "resnet"], ["resnet18-fpn", "resnet18-stem"]),
    (["segment", "--page", ""], ["all"]), (["segment", "--format", "png,geo"], ["png,geojson"]),
    (["segment", "--device", "c"], ["cpu", "cuda"]), (["folder", "in", "out", "--suffix", ".t"], [".tif"]),
    (["folder", "in", "out", "--statistics", ""], ["running", "batch"]), (["evaluate", "coco-s"], ["coco-stuff"])])
def test_the_shell_offers_the_words_that_an_option_may_have(words, offered):
    assert completed(*words) == offered


def test_words_that_completion_offers_are_those_of_the_settings():
    from dynaseg.cli import DATASETS, METHODS, VALUES
    from dynaseg.pretrained import NAMED
    from dynaseg.segmenter import MU, PRESETS
    from dynaseg import benchmark
    assert VALUES["preset"].split("|") == list(PRESETS) and VALUES["features"] == "|".join([*NAMED, "timm:NAME"])
    assert VALUES["variant"].split("|") == list(MU["paper"])
    assert set(METHODS.split("|")) == {*benchmark.METHODS, *benchmark.VARIANTS}
    assert "coco-things" in DATASETS.split("|")


@posix
@pytest.mark.parametrize("redirect, code", [(">&-", 0), ("2>&-", 0), (">/dev/full", 1)])
def test_streams_that_are_closed_or_full(folder, redirect, code):
    line = f"{sys.executable} -m dynaseg.cli segment photo.png {' '.join(FAST)} {redirect}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=300)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    if code: assert "standard output cannot be written to" in done.stderr and len(done.stderr.splitlines()) == 1
    assert (folder / "segments" / "photo" / "labels.png").exists()


def test_standard_input_that_is_closed(cli, folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    code, _, err = cli("segment", "-", *FAST)
    assert code == 1 and "Standard input is closed" in err


@posix
def test_no_file_takes_the_place_of_a_closed_stream(folder):
    "A C library's remark would go into it."
    line = "import os; from dynaseg import cli; cli._open_streams(); exit(open('photo.png').fileno())"
    done = subprocess.run(f"{sys.executable} -c \"{line}\" <&- >&- 2>&-", shell=True, timeout=300)
    assert done.returncode > 2


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_end_it_as_ctrl_c_does(cli, folder, monkeypatch, name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        monkeypatch.setattr("dynaseg.segmenter.segment", lambda *_, **__: os.kill(os.getpid(), number) or time.sleep(5))
        assert cli("segment", "photo.png", *FAST)[0] == 128 + number
    finally: signal.signal(number, before)
    assert not list(folder.rglob(".dynaseg-*"))


def test_the_system_s_own_errors_are_a_line(cli, monkeypatch):
    "Too few files may be open, say, when a module is to be loaded."
    def full(): raise OSError(24, "Too many open files", "typing.py")
    monkeypatch.setattr("dynaseg.cli._ran", full)
    code, _, err = cli("--version")
    assert code == 1 and err == "error: 'typing.py': Too many open files.\n"


@pytest.mark.parametrize("error, words", [(PermissionError(13, "Permission denied", "china.jpg"), "Permission denied"),
                                          (MemoryError(), "not enough memory"), (ImportError("cut"), "library")])
def test_an_error_of_the_system_is_a_json_document_when_asked_for(cli, monkeypatch, error, words):
    def broken(name): raise error
    monkeypatch.setattr("sklearn.datasets.load_sample_image", broken)
    code, out, err = cli("demo", "--json")
    said = json.loads(out)["error"]
    assert code == 1 and words in said and err == f"error: {said}\n"


@posix
def test_a_file_that_would_be_too_large_is_named(folder):
    "ulimit -f: a limit on the size of files."
    import resource
    def limited(): resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    said = subprocess.run([sys.executable, "-m", "dynaseg.cli", "segment", "photo.png", "--json", *SMALL],
                          capture_output=True, text=True, preexec_fn=limited, timeout=300)
    error = json.loads(said.stdout)["error"]
    assert said.returncode == 1 and "File too large" in error and "labels.png" in error and ".dynaseg" not in error
    assert not [name for name in tree(folder) if ".dynaseg" in name]
    said = subprocess.run([sys.executable, "-m", "dynaseg.cli", "folder", ".", "out", *SMALL],
                          capture_output=True, text=True, preexec_fn=limited, timeout=300)
    assert said.returncode == 1 and "File too large" in said.stderr and "'out" in said.stderr, said.stderr


def test_a_file_is_named_once_in_its_error(cli, folder):
    Path("empty.png").touch()
    Path("broken.png").write_text("no picture")
    code, out, err = cli("segment", "empty.png", "broken.png", ".", *SMALL)
    empty, broken, inside = err.splitlines()
    assert code == 1 and empty == "error: empty.png: it is empty (0 bytes); expected an image file."
    assert broken.startswith("error: broken.png: it cannot be read as an image")
    assert inside == "error: .: it is a folder. For all images in it: dynaseg folder '.' OUT"


def test_usage_mistakes_are_a_json_document_when_asked_for(cli, folder):
    code, out, err = cli("segment", "photo.png", "--json", "--q", "1")
    assert code == 2 and "--q" in json.loads(out)["error"] and "--q" in err


def test_the_place_is_tried_before_the_work(cli, folder, monkeypatch):
    def full(*_, **__): raise PermissionError(13, "Permission denied", "/a/temporary/name")
    monkeypatch.setattr("dynaseg.cli.tempfile.TemporaryDirectory", full)
    monkeypatch.setattr("dynaseg.segmenter.segment", None)
    code, _, err = cli("segment", "photo.png", "-o", "there", *FAST)
    assert code == 1 and "Permission denied" in err and "--out" in err and "temporary" not in err


def test_whatever_an_image_makes_a_library_raise_the_others_are_done(cli, folder, photo, monkeypatch):
    Image.fromarray(photo).save("bad.png")
    real = segment
    def odd(image, **settings):
        if "bad" in str(image): raise AttributeError("odd")
        return real(image, **settings)
    monkeypatch.setattr("dynaseg.segmenter.segment", odd)
    code, out, _ = cli("segment", "bad.png", "photo.png", "--json", *FAST)
    assert code == 1 and [json.loads(line)["error"] for line in out.splitlines()] == ["AttributeError: odd", None]


def test_images_of_one_name_have_folders_of_their_own(cli, folder, photo):
    (folder / "below").mkdir()
    Image.fromarray(photo).save("below/photo.png")
    assert cli("segment", "photo.png", "below/photo.png", *FAST)[0] == 0
    for place in ("photo.png", "below/photo.png"): assert (folder / "segments" / place / "labels.png").is_file()


@pytest.mark.parametrize("one, other", [("A", "a"), ("caf\u00e9", "cafe\u0301"), ("Stra\u00dfe", "STRASSE")])
def test_names_that_a_file_system_may_take_for_one_have_folders_of_their_own(one, other):
    "Apple's and Microsoft's do."
    images = [Path(f"x/{one}.png"), Path(f"y/{other}.png"), Path("z/b.png")]
    assert _folders(images, Path("out")) == [Path(f"out/x/{one}.png"), Path(f"out/y/{other}.png"), Path("out/b")]
    images = [Path(f"{one}.png"), Path(f"{other}.jpg")]
    assert _folders(images, Path("out")) == [Path(f"out/{one}.png"), Path(f"out/{other}.jpg")]


def test_one_image_twice_is_done_once(cli, folder):
    code, out, err = cli("segment", "photo.png", "photo.png", *FAST)
    assert code == 1 and len(err.splitlines()) == 1 and "exists" in err and "--force" in err
    assert len(list(folder.rglob("labels.png"))) == 1


def bad_files(folder):
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not a photo")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:700])
    (folder / "folder.png").mkdir()
    Image.new("L", (1, 1)).save(folder / "dot.png")
    np.save(folder / "nan.npy", np.full((4, 4), np.nan))
    return {"missing.png": "no file", "empty.png": "empty", "text.jpg": "cannot be read", "cut.png": "cannot be read",
            "folder.png": "is a folder",
            "dot.png": "1 pixel", "nan.npy": "NaN"}


def test_each_bad_file_gets_one_line_and_the_others_are_done(cli, folder):
    bad = bad_files(folder)
    code, out, err = cli("segment", *bad, "photo.png", *FAST)
    assert code == 1 and out.startswith("photo.png: ")
    lines = err.splitlines()
    assert len(lines) == len(bad) and "Traceback" not in err
    for line, (name, words) in zip(lines, bad.items()): assert line.startswith(f"error: {name}: ") and words in line
    assert [p.name for p in (folder / "segments").iterdir()] == ["photo"]


def test_an_address_is_its_own_error(cli, folder):
    code, out, err = cli("segment", "https://a.example/other.png", "photo.png", *FAST)
    assert code == 1 and out.startswith("photo.png: ") and "https://a.example/other.png: it is an address" in err


def test_a_mistake_in_a_process_of_its_own(process, folder):
    done = process("segment", "missing.png", *FAST)
    assert (done.returncode == 1 and done.stdout == b"" and len(done.stderr.decode().splitlines()) == 1
            and not (folder / "segments").exists())


def test_a_bomb_is_refused_unless_allowed(cli, folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    code, out, err = cli("segment", "photo.png", *FAST)
    assert code == 1 and "refused" in err and "--allow-pixels" in err and len(err.splitlines()) == 1
    assert cli("segment", "photo.png", "--allow-pixels", 719, *FAST)[0] == 1
    assert cli("segment", "photo.png", "--allow-pixels", 24 * 30, *FAST)[0] == 0


@pytest.mark.parametrize("out", ["photo.png", "photo.png/deeper"])
def test_an_output_folder_that_is_a_file(cli, folder, out):
    before = (folder / "photo.png").read_bytes()
    code, said, err = cli("segment", "photo.png", "-o", out, *FAST)
    assert code in (1, 2) and len(err.splitlines()) == 1 and "photo.png" in err and tree(folder) == ["photo.png"]
    assert (folder / "photo.png").read_bytes() == before


def test_networks_too_large_for_the_machine(cli, folder):
    code, out, err = cli("segment", "photo.png", "--p", 900_000_000, "--M", 2, "--T", 1, "--min-labels", "none")
    assert code in (1, 2) and "Traceback" not in err and len(err.splitlines()) == 1 and tree(folder) == ["photo.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are bytes")
def test_a_name_that_is_not_unicode(process, folder, photo):
    name = b"caf\xe9.png"
    Image.fromarray(photo).save("x.png")
    os.rename(b"x.png", name)
    done = process("segment", name, *FAST, PYTHONIOENCODING="utf-8:strict")  # as at a terminal with a UTF-8 language
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert sorted(os.listdir(b"segments/caf\xe9")) == sorted(f.encode() for f in FILES)


# --- a folder of photos

@pytest.fixture
def album(folder, photo):
    "photo.png in a folder `in`, three times and no two the same, one of them in a folder below."
    (folder / "in" / "below").mkdir(parents=True)
    (folder / "photo.png").unlink()
    for i, name in enumerate(["1.png", "2.jpg", "below/1.png"]):
        Image.fromarray(np.roll(photo, 3 * i, 1)).save(folder / "in" / name)
    return folder


def table(said):
    "What `dynaseg folder` prints: numbers by name, and the path of the manifest."
    *lines, manifest = said.splitlines()
    return {line.rsplit(None, 1)[0]: float(line.rsplit(None, 1)[1]) for line in lines}, manifest


def test_a_folder(cli, album):
    code, said, err = cli("folder", "in", "out put", *FAST)
    numbers, manifest = table(said)
    assert (code, err) == (0, "") and manifest == str(Path("out put") / "manifest.jsonl")
    assert list(numbers) == ["segmented", "done before", "failed", "seconds",
                             "images a second"] and list(numbers.values())[:3] == [3, 0, 0]
    assert [n for n in tree("out put") if n.endswith("labels.png")] == ["1.png.labels.png", "2.jpg.labels.png",
                                                                        "below/1.png.labels.png"]
    labels = segment("in/1.png", M=1, p=6, q=6, T=2, min_labels=2, device="cpu").labels
    assert (np.asarray(Image.open("out put/1.png.labels.png")) == labels).all()
    assert list(table(cli("folder", "in", "out put", *FAST)[1])[0].values())[:3] == [0, 3, 0]
    other = ["folder", "in", "out put", *FAST, "--variant", "scf", "--seed", "3"]
    code, said, err = cli(*other)
    assert code == 2 and said == "" and "--seed 0 (now 3)" in err and "--force" in err and "(now 'scf')" in err
    assert list(table(cli(*other, "--force")[1])[0].values())[:3] == [3, 0, 0]


def test_what_a_folder_leaves_out_is_named(cli, album):
    (album / "in" / "film.mpg").write_bytes(b"x")
    code, said, err = cli("folder", "in", "out", *FAST)
    assert code == 0 and table(said)[0]["left out"] == 1 and "left out" in err and "film.mpg" in err


@posix
def test_names_of_dots_stay_inside(cli, folder, photo):
    "The stem of `...png` is two dots."
    (folder / "photo.png").rename("...png")
    assert cli("segment", "...png", "-o", "out/deep", *FAST)[0] == 0
    assert [n for n in tree(folder) if n.endswith("labels.png")] == ["out/deep/image-2-dots/labels.png"]


def test_the_options_of_a_folder(cli, album):
    code, said, err = cli("folder", "in", "out", "--glob", "*.jpg", "--glob", "below/*", "--suffix", ".npz",
                          "--overlays", *FAST)
    assert code == 0 and err == ""
    assert [n for n in tree("out") if "." in n[1:]
            and "dynaseg" not in n] == ["2.jpg.labels.npz", "2.jpg.overlay.png", "below/1.png.labels.npz",
                                        "below/1.png.overlay.png", "manifest.jsonl"]


def test_a_folder_with_broken_files_is_exit_1_and_a_line_for_each(cli, album):
    (album / "in" / "empty.png").touch()
    (album / "in" / "a\nb.jpg").write_text("text")
    for kept in (0, 3):
        code, said, err = cli("folder", "in", "out", *FAST)
        assert code == 1 and list(table(said)[0].values())[:3] == [3 - kept, kept, 2]
        assert sorted(line.split(": ")[1] for line in err.splitlines()) == [repr("a\nb.jpg"), "empty.png"] and all(
            line.startswith("error: ") for line in err.splitlines()
        )


def test_under_torchrun_images_that_fail_are_no_reason_to_start_again(cli, album, monkeypatch):
    (album / "in" / "empty.png").touch()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    code, said, err = cli("folder", "in", "out", *FAST)
    assert code == 0 and "empty.png" in err


@pytest.mark.parametrize("args, words", [
    (["folder", "in"], "OUT"), (["folder", "nowhere", "out"], "not a folder"),
    (["folder", "in", "in"], "lie in the output folder"), (["folder", "in", "in/1.png"], "is a file"),
    (["folder", "in", "out", "--suffix", "png"], "--suffix 'png'"),
    (["folder", "in", "out", "--glob", "*.gif"], "'*.gif'"), (["folder", "in", "out", "--workers", "0"], "--workers"),
    (["folder", "in", "out", "--mu", "0"], "--mu 0.0"),
    (["folder", "in", "out", "--allow-pixels", "0"], "--allow-pixels"),
    (["folder", "in/below", "out", "--nonsense"], "nonsense"),
    (["folder", "in", "out", "--features", "resnet18-fpn", "--weights", "none.pth"], "none.pth")])
def test_usage_mistakes_with_a_folder_are_exit_2(cli, album, args, words):
    before = tree(album)
    code, out, err = cli(*args)
    assert code == 2 and out == "" and words in err and "Traceback" not in err and tree(album) == before


def test_trouble_with_the_output_is_exit_1_and_a_line(cli, album, monkeypatch):
    def full(fd): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    code, out, err = cli("folder", "in", "out", *FAST)
    assert (code == 1 and out == "" and len(err.splitlines()) == 1 and "No space left on device" in err
            and "same command" in err)


def test_a_photo_that_memory_did_not_suffice_for_is_named(cli, album, monkeypatch):
    from dynaseg import batch
    from functools import partial
    def small_machine(image, **settings):
        if settings.get("max_pixels") is None: raise MemoryError
        return segment(image, **settings)
    monkeypatch.setattr(batch, "fitted", partial(batch.fitted, fit=small_machine, least=10))
    code, said, err = cli("folder", "in", "out", "--glob", "1*", *FAST)
    assert code == 0 and "with less memory" in said and "1.png: fitted at 180 pixels" in err


def test_bombs_in_a_folder(cli, album, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert cli("folder", "in", "out", *FAST)[0] == 1
    code, said, err = cli("folder", "in", "out", "--allow-pixels", "720", *FAST)
    assert code == 0 and list(table(said)[0].values())[:3] == [3, 0, 0]


def test_an_interruption_of_a_folder_is_130(cli, album, monkeypatch):
    def press(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr("dynaseg.batch.fitted", press)
    code, out, err = cli("folder", "in", "out", *FAST)
    assert code == 130 and "Traceback" not in err and not [n for n in tree("out") if "labels" in n]


@posix
def test_ctrl_c_with_workers_leaves_nothing_half_written(cli, album, photo):
    "The signal goes to all processes of the terminal, as from the keyboard."
    for i in range(60): Image.fromarray(np.roll(photo, i, 0)).save(album / "in" / f"more{i}.png")
    (album / "in").rename(album / "-in")
    # a folder with a leading dash
    args = [sys.executable, "-m", "dynaseg.cli", "folder", "--workers", "2", *FAST, "--", "-in", "out"]
    child = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        while len(list(album.glob("out/*.labels.png"))) < 4 and child.poll() is None: time.sleep(0.01)
        os.killpg(child.pid, signal.SIGINT)
        said, err = child.communicate(timeout=120)
        assert child.returncode == 130 and said == b"", err.decode()
        assert b"Traceback" not in err and b"leaked" not in err, err.decode()
    finally: child.kill(), child.wait()
    assert [n for n in tree("out") if "dynaseg" in n] == [".dynaseg", ".dynaseg/lock"]
    assert 0 < len(list(album.glob("out/*.labels.png"))) < 63
    code, said, _ = cli("folder", *FAST, "--", "-in", "out")
    numbers, _ = table(said)
    assert code == 0 and numbers["segmented"] + numbers["done before"] == 63 and numbers["done before"] > 0


# --- Ctrl-C

@pytest.mark.parametrize("where", ["dynaseg.segmenter.check_settings", "dynaseg.segmenter.segment"])
def test_an_interruption_anywhere_is_130(cli, folder, monkeypatch, where):
    def press(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(where, with_signature(press))
    code, out, err = cli("segment", "photo.png", *FAST)
    assert code == 130 and "Traceback" not in err and tree(folder) == ["photo.png"]


STUCK = """
import ctypes, signal, sys
from PIL import Image
from dynaseg import cli
def stuck(*args, **more):
    print("reading", flush=True)
    mutex = ctypes.create_string_buffer(256)
    for _ in range(2): ctypes.CDLL(None).pthread_mutex_lock(mutex)  # the second time for ever, whatever signals come
Image.open = stuck
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["dynaseg", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc to be stuck")
@pytest.mark.parametrize("words, number, code", [
    (["segment", "photo.png"], "SIGINT", -2), (["segment", "photo.png"], "SIGTERM", -15),
    (["folder", "there", "out"], "SIGINT", 130), (["folder", "there", "out"], "SIGTERM", 143),
])
def test_signals_end_it_in_the_middle_of_a_decoder(folder, words, number, code):
    "A decoder may compute for minutes without a look at signals."
    (folder / "there").mkdir()
    (folder / "photo.png").rename(folder / "there" / "photo.png")
    words = [word.replace("photo.png", "there/photo.png") for word in words]
    child = subprocess.Popen([sys.executable, "-c", STUCK, *words, *SMALL], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "reading\n"
        child.send_signal(getattr(signal, number))
        out, err = child.communicate(timeout=60)
        assert child.returncode == code and "Traceback" not in err and not out
        assert not [name for name in tree(folder) if ".dynaseg-" in name or name.endswith(".labels.png")]
    finally: child.kill()


@posix
def test_ctrl_c_while_the_bar_runs(folder):
    "At a terminal: the bar shows q' and the loss; then the signal that Ctrl-C sends."
    import fcntl, struct, termios
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # a terminal of no size shows no bar
    args = ["segment", "photo.png", "--T", "1000000", "--tol", "0", "--min-labels", "none", "--M", "1", "--p", "8",
            "--q", "8", "--device", "cpu"]
    child = subprocess.Popen([sys.executable, "-m", "dynaseg.cli", *args], stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    said, end = b"", time.monotonic() + 240
    try:
        while not re.search(rb"labels=\d+, loss=\d", said) and child.poll() is None and time.monotonic() < end:
            if select.select([ours], [], [], 1)[0]: said += os.read(ours, 4096)
        assert re.search(rb"labels=\d+, loss=\d", said), said
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 130
        while select.select([ours], [], [], 0)[0]:
            try: said += os.read(ours, 4096)
            except OSError: break  # the other end is closed
        assert b"Traceback" not in said and child.stdout.read() == b""
        assert tree(folder) == ["photo.png"]
    finally:
        child.kill(), child.wait(), child.stdout.close(), os.close(ours)


def test_a_library_that_cannot_be_loaded_is_a_line(cli, monkeypatch):
    "As PyTorch says it where `ulimit -v` leaves too little memory."
    def fails(): raise ImportError("libtorch.so: failed to map segment\nfrom shared object")
    monkeypatch.setattr("dynaseg.cli._ran", fails)
    code, out, err = cli("segment", "photo.png")
    assert code == 1 and out == "" and err.count("\n") == 1
    assert err.startswith("error: a library cannot be loaded (libtorch.so: failed to map segment from shared object).")
