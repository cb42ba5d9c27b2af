"""A folder of photos: what is found, what counts as done, who does it, what is written, and what happens when something
is in the way.

What only shows when processes are killed or disks are full is in test_faults.py.
"""
import errno
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scenarios
import torch
from PIL import Image

from dynaseg import batch, segment
from dynaseg.batch import (
    ROW,
    Claims,
    Manifest,
    Summary,
    differences,
    find_images,
    find_others,
    fitted,
    Fits,
    in_hand,
    in_threads,
    in_words,
    out_of_memory,
    raise_pixel_limit,
    read_ahead,
    segment_folder,
    settings_hash,
    settings_text,
    sha256,
)
from dynaseg import segmenter
from dynaseg.images import InputError, load_image
from dynaseg.segmenter import check_settings, prepare

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
locks = pytest.mark.skipif(batch.lockf is None, reason="this system has no file locks")


@pytest.fixture
def quick(quick): return quick | {"min_labels": 2, "T": 2}


@pytest.fixture
def photos(tmp_path, photo):
    "A folder with four photos, one of them in a folder below, and no two of them the same."
    (tmp_path / "photos" / "below").mkdir(parents=True)
    for i, name in enumerate(["1.png", "2.png", "10.png", "below/1.png"]):
        Image.fromarray(np.roll(photo, 3 * i, 1)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path): return tmp_path / "out"


NAMES = ["1.png", "2.png", "10.png", "below/1.png"]


def tree(folder): return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def results(out):
    "Everything but the lock, by path: contents, and the manifest's rows without the seconds."
    files = {name: (out / name).read_bytes() for name in tree(out) if name not in (".dynaseg/lock", "manifest.jsonl")}
    return files, {path: row | {"seconds": None} for path, row in Manifest(out).rows.items()}


def counts(summary): return summary.done, summary.kept, len(summary.errors)


# --- what is to be done

def test_images_are_found_in_natural_order_at_any_depth(photos, out):
    (photos / "note.txt").write_text("no photo")
    (photos / ".hidden").mkdir()
    (photos / ".hidden" / "1.png").write_bytes((photos / "1.png").read_bytes())
    assert find_images(photos, out) == NAMES


@pytest.mark.parametrize("patterns, wanted",
                         [("*", NAMES), ("below/*", NAMES[3:]), ("1*.png", ["1.png", "10.png"]),
                          (["2*", "10.???"], ["2.png", "10.png"]), (("?.png",), ["1.png", "2.png"])])
def test_patterns(photos, out, patterns, wanted): assert find_images(photos, out, patterns) == wanted


@posix
def test_results_are_no_input(photos, quick):
    "The output folder may lie below the photos; neither what is in it nor links to it count."
    out = photos / "segments"
    segment_folder(photos, out, overlays=True, **quick)
    (photos / "link.png").symlink_to(out / "1.png.overlay.png")
    assert find_images(photos, out) == NAMES
    assert counts(segment_folder(photos, out, overlays=True, **quick)) == (0, 4, 0)


def test_what_there_is_nothing_in(photos, out, tmp_path):
    with pytest.raises(InputError, match=r"None of the 4 images in .*photos' fits '\*\.jpg' or 'x'"):
        find_images(photos, out, ["*.jpg", "x"])
    for where in (photos, tmp_path):
        with pytest.raises(InputError, match="All images of .* lie in the output folder .*beside"):
            find_images(photos, where)
    with pytest.raises(FileNotFoundError, match="not a folder"): find_images(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no photo"): find_images(tmp_path / "empty", out)


def test_what_is_left_out_is_counted_and_named(photos, out, quick, monkeypatch):
    for name in ("note.txt", "below/film.mpg", ".hidden.txt"): (photos / name).write_text("no photo")
    assert find_others(photos, out) == (["below/film.mpg", "note.txt"], {})
    assert find_others(photos, out, "*.txt") == (["note.txt"], {})
    summary = segment_folder(photos, out, **quick)
    assert counts(summary) == (4, 0, 0) and summary.others == ["below/film.mpg",
                                                               "note.txt"] and "left out" in str(summary)
    assert find_others(photos, photos / "below") == (["note.txt"], {})  # results are no input


def test_a_folder_that_cannot_be_read_is_a_failure(photos, out, quick, monkeypatch):
    scandir = os.scandir
    def refusing(path):
        if Path(path).name == "below": raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)
    monkeypatch.setattr(os, "scandir", refusing)
    summary = segment_folder(photos, out, **quick)
    assert summary.errors == {"below/": "the folder cannot be read (Permission denied)"} and summary.done == 3


@posix
def test_links_to_folders_are_left_out_and_named(photos, out, tmp_path):
    (photos / "link").symlink_to(tmp_path)  # a loop
    assert find_others(photos, out) == (["link"], {}) and find_images(photos, out) == NAMES


# --- other settings

def test_results_of_other_settings_are_not_replaced_without_a_word(photos, out, quick):
    segment_folder(photos, out, **quick)
    before = results(out)
    for other, words in ((quick | dict(T=3), r"T=2 \(now 3\)"),
                         (quick | dict(suffix=".tif"), r"suffix='.png' \(now '.tif'\)")):
        with pytest.raises(InputError, match=f"results of 4 of these images made with other settings: {words}. "
                                             f".*--force"):
            segment_folder(photos, out, **other)
        assert results(out) == before
    assert counts(segment_folder(photos, out, force=True, **quick | dict(T=3))) == (4, 0, 0)
    assert counts(segment_folder(photos, out, **quick | dict(T=3))) == (0, 4, 0)


def test_images_without_results_do_not_stand_in_the_way(photos, out, quick):
    "Neither those that failed nor those that were not in the earlier run."
    (photos / "bad.jpg").write_text("text")
    segment_folder(photos, out, ["bad.jpg", "2.png"], **quick)
    assert counts(segment_folder(photos, out, ["bad.jpg", "1.png"], **quick | dict(T=3))) == (1, 0, 1)
    with pytest.raises(InputError, match="results of 1 of these"): segment_folder(photos, out, **quick | dict(T=3))


def test_differences_are_named():
    def text(**given):
        return settings_text(check_settings(device="cpu", **given).settings, suffix=".png")
    assert differences(text(), text(seed=1, T=4)) == "seed=0 (now 1), T=20 (now 4)"
    assert "function" in differences(text(), text())
    assert json.loads(json.dumps(text(variant=lambda q: 1.0, weights=None)))["variant"] == "<lambda>"


# --- what is done

def test_hash_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("other", [dict(preset="paper"), dict(variant="scf"), dict(mu=3.0), dict(min_labels=None),
                                   dict(on="features"), dict(seed=1), dict(T=3), dict(p=9), dict(max_pixels=99),
                                   dict(tol=0.1)], ids=str)
def test_every_setting_counts(other):
    def resolved(**settings):
        return settings_hash(check_settings(device="cpu", **settings)[0])
    assert resolved() == resolved() != resolved(**other)


def test_what_else_counts_and_what_does_not(tmp_path, monkeypatch):
    settings, _, _ = check_settings(device="cpu")
    def of(*more, **other):
        return settings_hash(settings | other, *more)
    assert of(".png") != of(".tif") != of() and of(device="cuda:0") == of(device="cuda:1") != of()
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"some")
    some = of(weights=weights)
    weights.write_bytes(b"other")
    assert of(weights=weights) != some
    weights.write_bytes(b"some")
    assert of(weights=str(weights)) == some
    with pytest.raises(FileNotFoundError): of(weights=tmp_path / "none.pth")
    before = of()
    monkeypatch.setattr(batch, "__version__", "another")
    assert of() != before


@pytest.mark.parametrize("name, own", [("variant", lambda q: 1.0), ("features", torch.nn.Conv2d(3, 8, 1))])
def test_what_is_of_your_own_making_is_never_the_same(photos, out, quick, name, own):
    for _ in range(2):
        assert counts(segment_folder(photos, out, "1.png", force=True, **quick | {name: own})) == (1, 0, 0)
    with pytest.raises(InputError, match="a function or network of your own"):
        segment_folder(photos, out, "1.png", **quick | {name: own})
    with pytest.raises(InputError, match=f"{name} is of your own making"):
        segment_folder(photos, out, workers=2, **quick | {name: own})


def row(path="a.jpg", **more):
    return ROW | dict(path=path, sha256="1", settings="2", with_settings={}, outputs={}) | more


@pytest.fixture
def manifest(out):
    (out / ".dynaseg").mkdir(parents=True)
    return Manifest(out)


def test_rows_are_seen_by_others_at_once_and_merged_in_the_end(out, manifest):
    other = Manifest(out)
    manifest.add(row("b"))
    other.add(row("a"))
    assert list(other.rows) == ["a"] and list(manifest.rows) == ["b"]
    manifest.refresh()
    other.refresh()
    assert manifest.rows == other.rows == Manifest(out).rows and set(manifest.rows) == {"a", "b"}
    other.add(row("b", sha256="newer"))
    manifest.merge()
    assert [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()] == [
        row("a"),
        row("b", sha256="newer"),
    ]
    assert tree(out) == ["manifest.jsonl"] and Manifest(out).rows == manifest.rows


def test_a_row_of_a_run_that_was_killed_is_newer_than_the_manifest(out, manifest):
    """It is, since manifests are merged at the end of runs. (Taken for older, work that had been done would be done
    again.)"""
    manifest.add(row(settings="old"))
    manifest.merge()
    Manifest(out).add(row(settings="new"))
    assert Manifest(out).rows["a.jpg"]["settings"] == "new"


def test_what_is_no_row_is_left_out(out, manifest):
    manifest.add(row())
    with open(manifest.own, "ab") as file:
        file.write(b'null\n[1]\n{"path": "b"}\n\xff\xfe\n{"path": "c", '
                   b'"sha2\n' + json.dumps(row("d", outputs=3)).encode() + b"\n" + json.dumps(row("e")).encode())
    assert list(Manifest(out).rows) == ["a.jpg"]
    with open(manifest.own, "ab") as file: file.write(b"\n")  # now the last one is whole
    manifest.refresh()
    assert list(manifest.rows) == ["a.jpg", "e"]


DAMAGE = {"deep": b"[" * 100_000, "a list for a path": json.dumps(row(path=["b"])).encode(),
          "a list begun": b'{"begun": ["b"]}', "a number for an error": json.dumps(row("b", error=5)).encode(),
          "NUL": b"\0\0\0", "a spreadsheet's": b"path;bytes;sha256"}


@pytest.mark.parametrize("line", DAMAGE.values(), ids=DAMAGE)
def test_damaged_lines_of_any_kind_cost_their_own_row_only(out, manifest, line):
    (out / "manifest.jsonl").write_bytes(line + b"\r\n" + json.dumps(row("c")).encode() + b"\r\n")
    assert list(Manifest(out).rows) == ["c"] and not Manifest(out).begun


def test_a_row_without_outputs_is_not_done(out, manifest):
    manifest.add(row())
    assert not manifest.done("a.jpg", "1", "2")


@locks
def test_a_run_with_other_settings_is_refused_while_one_is_at_work(photos, out, quick, elsewhere):
    "Otherwise each would replace what the other has done, without a word."
    (out / ".dynaseg").mkdir(parents=True)
    process, pipe = elsewhere("say(c.enter('other settings')); hear()", out / ".dynaseg" / "lock")
    assert pipe.recv() is True
    with pytest.raises(InputError, match="Another run is at work on .* with other settings"):
        segment_folder(photos, out, "1.png", force=True, **quick)
    assert tree(out) == [".dynaseg/lock"]
    process.kill()
    process.join()
    assert counts(segment_folder(photos, out, "1.png", **quick)) == (1, 0, 0)


@posix
def test_a_pipe_that_is_called_a_photo_is_left_out_and_named(photos, out, quick):
    os.mkfifo(photos / "pipe.jpg")
    (photos / "folder.jpg").mkdir()
    (photos / "lost.jpg").symlink_to("nowhere")
    assert find_images(photos, out) == NAMES and find_others(photos, out)[0] == ["lost.jpg", "pipe.jpg"]


def test_a_number_of_workers_that_the_machine_cannot_bear(monkeypatch):
    monkeypatch.setattr(batch, "_cores", lambda: 2)
    assert batch._useful(3, "ab") == 2 and batch._useful(8, "abcdefghijkl") == 8
    assert batch._useful(100, "abc") == 3  # without a word: there is no work for more
    with pytest.warns(UserWarning, match="workers=100: this machine has 2 cores .* 8 workers run"):
        assert batch._useful(100, range(300)) == 8


def deaf(pipe):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send("deaf")
    time.sleep(100)


@posix
def test_a_worker_that_does_not_end_when_asked_to_is_killed():
    here, there = scenarios.FORKS.Pipe()
    process = scenarios.child(there, target=deaf)
    assert here.recv() == "deaf"
    process.terminate()
    batch._end(process, seconds=0.1)
    assert process.exitcode == -signal.SIGKILL


def test_many_failures_are_counted_as_they_come(monkeypatch):
    "Not all outcomes anew for each: that would take minutes for some ten thousand."
    class Bar:
        total = n = 0
        def set_postfix(self, failed, refresh): self.failed = failed
        def update(self, n): self.n += n
    monkeypatch.setattr(batch, "_count", None)
    bar, outcomes = Bar(), {}
    tell = batch._counting(outcomes, bar)
    for name in "abca": tell(name, "failed")
    assert bar.failed == 3 and len(outcomes) == 3


def test_what_counts_as_done(out, manifest):
    (out / "a").write_text("result")
    manifest.add(row(outputs={"a": sha256(out / "a")}))
    manifest.add(row("failed", error="so it is"))
    assert manifest.done("a.jpg", "1", "2")
    assert not any(manifest.done(*x) for x in [("b.jpg", "1", "2"), ("a.jpg", "0", "2"), ("a.jpg", "1", "0"),
                                               ("failed", "1", "2")])
    (out / "a").write_text("resulT")
    assert not manifest.done("a.jpg", "1", "2")
    (out / "a").unlink()
    assert not manifest.done("a.jpg", "1", "2")
    (out / "a").mkdir()
    assert not manifest.done("a.jpg", "1", "2")


def test_what_was_begun_and_not_finished_comes_last(photos, out, quick, monkeypatch):
    "So a photo that brings its process down does so after all the others."
    (out / ".dynaseg").mkdir(parents=True)
    killed = Manifest(out)
    for name in ("1.png", "2.png"): killed.begin(name)
    killed.add(row("2.png"))
    assert Manifest(out).begun == {"1.png"}
    order = []
    monkeypatch.setattr(batch._Run, "one", lambda self, name, *a, one=batch._Run.one: order.append(name)
                        or one(self, name, *a))
    segment_folder(photos, out, **quick)
    assert order == ["2.png", "10.png", "below/1.png", "1.png"] and not Manifest(out).begun


# --- who does it

def other(lock, code, pipe): exec(code, {"c": Claims(lock), "say": pipe.send, "hear": pipe.recv})


@pytest.fixture
def elsewhere(tmp_path):
    """Runs code in another process with `c`, the claims of the same lock, `say` and `hear`.

    Returns the process and this end of the pipe."""
    started = []
    def run(code, lock=tmp_path / "lock"):
        here, there = scenarios.FORKS.Pipe()
        started.append(scenarios.child(lock, code, there, target=other))
        return started[-1], here
    yield run
    for process in started:
        process.kill()
        process.join()


@locks
def test_an_image_is_claimed_by_one_process_until_it_gives_it_back_or_dies(tmp_path, elsewhere):
    claims = Claims(tmp_path / "lock")
    process, pipe = elsewhere("say([c.take('a'), c.take('b')]); hear()")
    assert pipe.recv() == [True, True]
    assert not claims.take("a") and claims.take("c") and claims.take("-\n\udcff")
    process.kill()
    process.join()
    assert claims.take("a") and claims.take("b")
    claims.give("a")
    claims.close()


@locks
def test_alone_is_who_is_the_last_to_leave(tmp_path, elsewhere):
    claims = Claims(tmp_path / "lock")
    claims.enter()
    process, pipe = elsewhere("c.enter(); say(c.alone()); c.enter(); say('in again'); hear()")
    assert pipe.recv() is False and pipe.recv() == "in again" and not claims.alone()
    process.kill()
    process.join()
    claims.enter()
    assert claims.alone()
    _, pipe = elsewhere("say('waits'); c.enter(); say('is in')")
    assert pipe.recv() == "waits" and not pipe.poll(0.5)
    claims.close()
    assert pipe.recv() == "is in"


@locks
def test_a_drive_without_locks_is_an_error_not_somebody_else(photos, out, quick, monkeypatch):
    def refuse(*_): raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(batch, "lockf", refuse)
    with pytest.raises(OSError, match="No locks available: .*another drive.*lock"): segment_folder(photos, out, **quick)


def test_without_locks_one_process_does_all_and_of_several_each_its_share(photos, out, quick, monkeypatch):
    "As on Windows: no helping out, and the manifest is merged by the run that is on its own."
    monkeypatch.setattr(batch, "lockf", None)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert counts(segment_folder(photos, out, **quick)) == (2, 0, 0)
    assert sorted(Manifest(out).rows) == ["2.png", "below/1.png"] and not (out / "manifest.jsonl").exists()
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert counts(segment_folder(photos, out, **quick)) == (2, 2, 0)
    assert [name for name in tree(out) if "labels" not in name] == [".dynaseg/lock", "manifest.jsonl"]


@locks
def test_a_share_first_then_what_others_left(photos, out, quick, monkeypatch):
    order = []
    monkeypatch.setattr(batch._Run, "one", lambda self, name, *a, one=batch._Run.one: order.append(name)
                        or one(self, name, *a))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert counts(segment_folder(photos, out, **quick)) == (4, 0, 0)
    assert order[:2] == ["2.png", "below/1.png"] and sorted(order) == sorted(NAMES)


@locks
@pytest.mark.parametrize("patience", [10, 0.3])
@pytest.mark.parametrize("dies", [False, True], ids=["done elsewhere", "dies elsewhere"])
def test_what_another_process_has_in_hand_is_waited_for(photos, out, quick, elsewhere, monkeypatch, recwarn, dies,
                                                        patience):
    "Its image is done when the run ends: by it, or by us if it died. A long wait has its reason named, once."
    monkeypatch.setattr(batch, "PATIENCE", patience)
    segment_folder(photos, out, "2.png", **quick)
    key = Manifest(out).rows["2.png"]["settings"]
    process, pipe = elsewhere(f"c.enter({key!r}); say(c.take('1.png')); hear()", out / ".dynaseg" / "lock")
    assert pipe.recv()
    def end():
        if not dies: Manifest(out).add(Manifest(out).rows["2.png"] | {"path": "1.png"})
        process.kill()
    threading.Timer(1, end).start()
    assert counts(segment_folder(photos, out, "?.png", **quick)) == ((1, 1, 0) if dies else (0, 2, 0))
    said = [str(w.message) for w in recwarn if "another process is at work" in str(w.message)]
    assert [words.partition(":")[0] for words in said] == (["1.png"] if patience < 1 else [])


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2"])
def test_numbers_of_workers_that_make_no_sense(photos, out, quick, workers):
    with pytest.raises(InputError, match="workers="): segment_folder(photos, out, workers=workers, **quick)
    assert not out.exists()


def test_workers_under_torchrun(photos, out, quick, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="workers=2 under torchrun.*nproc-per-node"):
        segment_folder(photos, out, workers=2, **quick)


def test_results_do_not_depend_on_the_number_of_workers(photos, out, tmp_path, quick):
    "Failures and the limit for large files are told to workers and by them."
    (photos / "bad.jpg").write_text("text")
    Image.new("1", (1000, 1001)).save(photos / "large.png")
    more = dict(overlays=True, allow_pixels=10**6)
    one, two = segment_folder(photos, tmp_path / "one", **more,
                              **quick), segment_folder(photos, out, workers=2, **more, **quick)
    assert counts(one) == counts(two) == (4, 0,
                                          2) and one.errors == two.errors and "is refused" in two.errors["large.png"]
    assert results(tmp_path / "one") == results(out)


@pytest.mark.parametrize("told, words", [
    ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x'"), ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1'"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0'"), ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2.*from 0 to 1"),
    ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE='0'"), ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE=''"),
])
def test_numbers_of_processes_that_make_no_sense(photos, out, quick, monkeypatch, told, words):
    for name, value in told.items(): monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{words}.*torchrun"): segment_folder(photos, out, **quick)
    assert not out.exists()


def test_more_processes_than_images(photos, out, quick, monkeypatch):
    for name, value in {"RANK": "6", "WORLD_SIZE": "9"}.items(): monkeypatch.setenv(name, value)
    assert counts(segment_folder(photos, out, **quick)) == (4, 0, 0)  # nobody else came


def test_a_rank_without_a_number_of_processes_is_no_rank(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert batch._world() == (0, 1)


def test_what_workers_warn_of_is_said_once_and_by_the_process_that_started_them(photos, out, python):
    Image.fromarray(np.full((20, 30), 1, np.uint8)).save(photos / "dark.png")
    code = (f"import warnings; from dynaseg.batch import segment_folder\n"
            f"if __name__ == '__main__':\n"
            f"    segment_folder({str(photos)!r}, {str(out)!r}, workers=2, progress=False, **{scenarios.TINY!r},"
            f" standardised=False, features='cnn', weights=None)")
    script = photos.parent / "script.py"
    script.write_text(code)
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, env=scenarios.ENVIRONMENT,
                          timeout=300)
    assert said.returncode == 0, said.stderr
    for words in ("nearly black", "weights=None has no effect"): assert said.stderr.count(words) == 1, said.stderr
    assert said.stderr.count("script.py:3: UserWarning") == said.stderr.count("UserWarning"), said.stderr


def test_cores_are_shared_out(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    try:
        for local, threads in (("4", 2), ("16", 1)):
            monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
            assert batch._own_slice("cpu") == "cpu" and torch.get_num_threads() == threads
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
        torch.set_num_threads(3)
        batch._own_slice(None)
        assert torch.get_num_threads() == 3
    finally: torch.set_num_threads(before)


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert batch._own_slice(None) == "cuda:1" and batch._own_slice("cpu") == "cpu"


# --- several photos at once

@pytest.fixture
def two_threads():
    "PyTorch has two threads here, where the tests have one."
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("settings, n", [
    ({}, 2), (dict(preset="segments"), 2), (dict(preset="paper"), 1), (dict(max_pixels=0), 1),
    (dict(variant=lambda q: 1.0), 1), (dict(guide=lambda image: None), 1),
    (dict(features="resnet18-fpn", weights=None), 1), (dict(M=3, p=100, q=100), 1)],
    ids=["default", "segments", "paper", "full size", "one's own weight", "one's own guide", "ResNet", "wide"])
def test_as_many_photos_are_in_hand_as_there_are_threads_for_light_fits(two_threads, settings, n):
    checked = check_settings(device="cpu", **settings)
    assert in_hand(checked) == n and in_hand(checked._replace(device=torch.device("meta"))) == 1
    torch.set_num_threads(64)
    assert in_hand(checked) == (4 if n == 2 else 1)


@pytest.fixture
def mixed(photos, photo):
    "The four photos, one with a hole, one upright, and a file that is none."
    hole = np.dstack([photo, 255 * (np.arange(24) > 5)[:, None].repeat(30, 1).astype(np.uint8)])
    Image.fromarray(hole).save(photos / "hole.png")
    Image.fromarray(np.ascontiguousarray(photo.swapaxes(0, 1))).save(photos / "upright.png")
    (photos / "bad.jpg").write_text("text")
    return photos


def test_threads_change_nothing(mixed, out, tmp_path, quick, two_threads, monkeypatch):
    "To the bit, rows and files."
    inside, most, busy = [], [], threading.Lock()
    def look(*given, fit=segment, **named):
        with busy:
            inside.append(1)
            most.append(len(inside))
        time.sleep(0.05)
        try: return fit(*given, **named)
        finally: inside.pop()
    together = segment_folder(mixed, out, **quick)
    torch.set_num_threads(1)
    alone = segment_folder(mixed, tmp_path / "alone", **quick)
    assert counts(alone) == (6, 0, 1), alone.errors
    assert counts(together) == (6, 0, 1), together.errors
    assert results(out) == results(tmp_path / "alone")
    torch.set_num_threads(2)
    monkeypatch.setattr(batch, "fitted", functools.partial(fitted, fit=look))
    segment_folder(mixed, tmp_path / "again", **quick)
    assert max(most) == 2  # so two were at work at once


@pytest.fixture
def sizes(monkeypatch):
    "How many photos each batch had."
    seen, fit = [], batch.fit_batch
    monkeypatch.setattr(batch, "fit_batch", lambda photos, *more: seen.append(len(photos)) or fit(photos, *more))
    return seen


def test_batches_change_nothing_in_64_bits(mixed, out, tmp_path, quick, sizes, monkeypatch):
    "To the bit, rows and files, where rounding does not reach the labels."
    monkeypatch.setattr(segmenter, "to_tensor", lambda *given, f=segmenter.to_tensor: f(*given).double())
    monkeypatch.setattr(segmenter, "response_net", lambda *given, f=segmenter.response_net, **named: f(
        *given, **named).double())
    how = quick | dict(T=8, overlays=True)
    alone, together = segment_folder(mixed, tmp_path / "alone", **how), segment_folder(mixed, out, batch=4, **how)
    assert sum(sizes) == 5 and max(sizes) > 1
    assert counts(alone) == (6, 0, 1), alone.errors
    assert counts(together) == (6, 0, 1), together.errors
    assert results(out) == results(tmp_path / "alone")


def test_batches_change_labels_by_rounding_alone_in_32_bits(photos, out, quick, sizes):
    segment_folder(photos, out, batch=4, **quick)
    assert sum(sizes) == 4 and max(sizes) > 1
    for name in NAMES:
        labels = np.asarray(Image.open(out / f"{name}.labels.png"))
        assert (labels == segment(photos / name, **quick).labels).mean() > 0.99


def test_results_in_batches_are_kept(photos, out, quick, sizes):
    assert counts(segment_folder(photos, out, batch=2, **quick)) == (4, 0, 0)
    assert counts(segment_folder(photos, out, **quick)) == (0, 4, 0) and sum(sizes) == 4


def test_an_error_in_a_batch_is_that_of_its_photo(photos, out, quick, monkeypatch):
    "A batch that cannot be is done photo by photo; memory that does not suffice means less resolution, as ever."
    def refuse(*_): raise RuntimeError("the batch cannot be")
    def watched(ready, callback, fit=batch.watched):
        if ready.image.shape[0] == 100: raise MemoryError
        if (ready.image == load_image(photos / "2.png")).all(): raise InputError("The loss became nan")
        return fit(ready, callback=callback)
    monkeypatch.setattr(batch, "fit_batch", refuse)
    monkeypatch.setattr(batch, "watched", watched)
    Image.new("RGB", (200, 100)).save(photos / "large.png")
    summary = segment_folder(photos, out, batch=3, **quick)
    assert counts(summary) == (4, 0, 1) and summary.errors == {"2.png": "The loss became nan"}
    assert summary.reduced == {"large.png": 5_000}


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_sizes_of_batches_that_make_no_sense(photos, out, quick, wrong):
    with pytest.raises(InputError, match="batch="): segment_folder(photos, out, batch=wrong, **quick)
    assert not out.exists()


@pytest.mark.parametrize("own", [dict(features=torch.nn.Conv2d(3, 8, 1)), dict(variant=lambda q: 1.0),
                                 dict(guide=lambda image: np.zeros(image.shape[:2], int))],
                         ids=["net", "weight", "guide"])
def test_what_is_of_ones_own_making_is_never_in_batches(photos, out, quick, sizes, own):
    assert counts(segment_folder(photos, out, "1.png", batch=4, **quick | own)) == (1, 0, 0) and sizes == []


@pytest.mark.parametrize("how", [dict(features="resnet18-stem", weights=None), dict(freeze=True, features=abs),
                                 dict(same_labels=True)])
def test_a_number_of_photos_at_once_that_has_no_effect_is_said(photos, out, quick, how):
    sharing = how.pop("same_labels", False)
    work = ("photos", out, ".png", False, {**quick, **how, "p": 4, "q": 4}, 4)
    with pytest.warns(UserWarning, match="batch=4 has no effect here"):
        assert batch._Job(*work, batch.Sharing() if sharing else None).batch == 1
    with pytest.raises(InputError, match="batch=0"): batch._Job(*work[:-1], 0, batch.Sharing() if sharing else None)


def test_a_batch_begins_when_it_is_full_or_nobody_else_can_come(photo, quick):
    checked = check_settings(**{name: value for name, value in quick.items() if name != "progress"})
    ready, fits = prepare(load_image(photo), checked), Fits(checked, 2, threading.Event())
    fits.waiting = {"a": [1], "b": [1, 2]}
    assert fits._next() == "b"  # full, whoever may come
    fits.waiting, fits.inside = {"a": [1], "b": []}, 2
    assert fits._next() is None
    fits.inside = 1
    assert fits._next() == "a"
    fits.waiting, fits.inside = {}, 0
    assert fits._next() is None
    with fits, fits.present(): assert fits.fit(ready)[0].reason in ("iterations", "floor")
    assert Fits(checked, None, fits.stop).size((1, 3, 10, 10)) == 16


@pytest.mark.parametrize("n", [1, 2])
def test_what_one_raises_ends_all(n):
    stop, begun = threading.Event(), []
    def do(i):
        begun.append(i)
        if i == 1: raise KeyError("one")
        if i > 1: assert stop.wait(10)  # it is told
    with pytest.raises(KeyError, match="one"): in_threads(do, [(i,) for i in range(100)], n, stop)
    assert stop.is_set() and len(begun) <= 4


@posix
@pytest.mark.parametrize("together", [1, 2])
def test_ctrl_c_ends_fits_in_threads_and_in_batches(photos, out, quick, two_threads, together):
    "Soon, and half a fit is no result."
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        segment_folder(photos, out, batch=together, **quick | dict(T=10**7, min_labels=None, variant="scf", tol=0))
    assert time.perf_counter() - start < 60 and not [name for name in tree(out) if "labels" in name]
    assert Manifest(out).rows == {} and counts(segment_folder(photos, out, **quick)) == (4, 0, 0)


# --- reading ahead, memory, errors

def test_reading_is_ahead_by_two_and_no_more():
    read = []
    for n, (name, future) in enumerate(read_ahead(range(9), lambda name: read.append(name) or name)):
        assert future.result() == name == n
        time.sleep(0.05)
        assert len(read) == min(9, n + 3)


@pytest.mark.parametrize("n", [1, 2])
def test_a_run_that_is_to_end_does_not_wait_for_a_file(photos, out, quick, monkeypatch, n):
    "Nor does the program wait for the thread that reads: a decoder may take minutes."
    inside, end = threading.Event(), threading.Event()
    def slow(*args, **kwargs):
        inside.set()
        end.wait(60)
    def interrupt():
        inside.wait(60)
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(batch, "read_image", slow)
    monkeypatch.setattr(batch, "in_hand", lambda checked: n)
    threading.Thread(target=interrupt).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt): segment_folder(photos, out, **quick)
    assert time.monotonic() - start < 30 and not end.is_set()
    def busy(): return [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    while busy() and time.monotonic() - start < 30: time.sleep(0.05)
    assert not busy() and not end.is_set()
    end.set()


def test_a_file_that_takes_long_to_read_is_named(photos, out, quick, monkeypatch):
    said, named = [], threading.Event()
    def hear(text):
        said.append(text)
        named.set()
    read = batch.read_image
    def slow(path, **how):
        if path.name == "10.png": assert named.wait(60)
        return read(path, **how)
    monkeypatch.setattr(batch, "SLOW", 0.3)
    monkeypatch.setattr(batch, "warn", hear)
    monkeypatch.setattr(batch, "read_image", slow)
    assert counts(segment_folder(photos, out, **quick)) == (4, 0, 0)
    assert len(said) == 1 and said[0].startswith("10.png: it has been read for 0.3 seconds now")


def test_what_reading_raises_comes_with_its_name():
    results = dict(read_ahead([1, 0], lambda n: 1 / n))
    assert results[1].result() == 1 and isinstance(results[0].exception(), ZeroDivisionError)


@pytest.mark.parametrize("e, memory, words", [
    (MemoryError(), True, "not enough memory"),
    (np._core._exceptions._ArrayMemoryError((9, 9), np.dtype(int)), True, "not enough memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), True, "not enough memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True, "--max-pixels"),
    (RuntimeError("MPS backend out of memory"), True, "not enough memory"),
    (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), True, "not enough memory"),
    (RuntimeError("Storage size calculation overflowed with sizes=[10, 10]"), True, "not enough memory"),
    (RuntimeError("shapes differ\nat ..."), False, "shapes differ"), (InputError("no"), False, "no"),
    (KeyError("x"), False, "KeyError: 'x'"), (AssertionError(), False, "AssertionError"),
    (OSError(28, "No space left on device", "a\nb"), False, r"'a\nb': No space left on device")], ids=repr)
def test_errors_in_a_line(e, memory, words):
    assert out_of_memory(e) == memory and words in in_words(e) and len(in_words(e).splitlines()) == 1
    assert memory or in_words(e) == words


def machine(most, tried):
    "`segment` on a machine whose memory is enough for that many pixels."
    def fit(image, **settings):
        pixels = settings.get("max_pixels")
        if pixels is None: pixels = 40_000
        tried.append(pixels)
        height, width, *_ = getattr(image, "pixels", image).shape
        if not 0 < min(pixels or 10**9, height * width) <= most:
            raise RuntimeError("can't allocate memory")
        return segment(image, **settings)
    return fit


@pytest.mark.parametrize("size, settings, most, tried", [
    ((300, 400), {}, 10_000, [40_000, 10_000]), ((300, 400), dict(max_pixels=0), 8_000, [0, 30_000, 7_500]),
    ((300, 400), dict(preset="paper", T=1, p=2, q=4, max_pixels=0), 30_000, [0, 30_000]),
    ((300, 400), dict(max_pixels=60_000), 60_000, [60_000]), ((100, 200), dict(max_pixels=0), 5_000, [0, 5_000]),
    ((100, 200), dict(max_pixels=10**6), 5_000, [10**6, 5_000])], ids=str)
def test_less_memory_less_resolution(quick, size, settings, most, tried):
    told, image = [], np.random.default_rng(0).random((*size, 3), np.float32)
    seg = fitted(image, {k: v for k, v in quick.items() if k not in settings} | settings, machine(most, told))
    assert told == tried and seg.settings["max_pixels"] == tried[-1] and seg.labels.shape == size


def test_memory_that_is_never_enough_and_other_errors(quick, photo):
    told = []
    with pytest.raises(RuntimeError, match="allocate"):
        fitted(np.zeros((100, 200, 3), np.float32), quick, machine(100, told))
    assert told == [40_000, 5_000]
    def fit(*_, **__): raise InputError("no")
    with pytest.raises(InputError, match="^no$"): fitted(photo, quick, fit)


def test_the_manifest_says_so(photos, out, quick, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 255,
                                                      (100, 200, 3)).astype(np.uint8)).save(photos / "large.png")
    monkeypatch.setattr(batch, "fitted", functools.partial(fitted, fit=machine(5_000, [])))
    summary = segment_folder(photos, out, **quick)
    assert (
        counts(summary) == (5, 0, 0)
        and summary.reduced == {"large.png": 5_000}
        and "with less memory       1" in str(summary)
    )
    assert {name: row["reduced_to"]
            for name, row in Manifest(out).rows.items()} == dict.fromkeys(NAMES) | {"large.png": 5_000}
    assert counts(segment_folder(photos, out, **quick)) == (0, 5, 0)


# --- what is written

def test_results_mirror_the_tree_and_are_those_of_segment(photos, out, quick):
    summary = segment_folder(photos, out, overlays=True, **quick)
    assert counts(summary) == (4, 0, 0) and summary.seconds > 0
    assert tree(out) == sorted([".dynaseg/lock", "manifest.jsonl"] + [f"{name}.{kind}.png" for name in NAMES
                                                                      for kind in ("labels", "overlay")])
    for name in NAMES:
        assert (np.asarray(Image.open(out / f"{name}.labels.png")) == segment(photos / name, **quick).labels).all()
        assert Image.open(out / f"{name}.overlay.png").size == Image.open(photos / name).size


@pytest.mark.parametrize("suffix", batch.LABEL_SUFFIXES)
def test_every_kind_of_label_map(photos, out, quick, suffix):
    segment_folder(photos, out, "1.png", suffix, **quick)
    wanted, file = segment(photos / "1.png", **quick), out / f"1.png.labels{suffix}"
    if suffix == ".npz":
        with np.load(file, allow_pickle=False) as stored:
            labels, _ = stored["labels"], [stored[name] for name in stored]  # nothing pickled
    else: labels = np.asarray(Image.open(file))
    assert (labels == wanted.labels).all()


def test_a_row_has_all_its_fields(photos, out, quick):
    (photos / "bad.jpg").write_text("text")
    segment_folder(photos, out, **quick)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [r["path"] for r in lines] == sorted(NAMES + ["bad.jpg"]) and all(list(r) == list(ROW) for r in lines)
    good, bad = (next(r for r in lines if r["path"] == name) for name in ("below/1.png", "bad.jpg"))
    seg = segment(photos / "below" / "1.png", **quick)
    assert good == dict(path="below/1.png", bytes=(photos / "below" / "1.png").stat().st_size,
                        sha256=sha256(photos / "below" / "1.png"), size=[24, 30], settings=good["settings"],
                        with_settings=good["with_settings"],
                        n_clusters=seg.n_clusters, floor=2, stop_reason=seg.stop_reason, reduced_to=None,
                        seconds=good["seconds"],
                        outputs={"below/1.png.labels.png": sha256(out / "below" / "1.png.labels.png")}, error=None)
    assert len(good["settings"]) == 16 and good["seconds"] > 0
    assert good["with_settings"].items() >= dict(preset="clusters", T=2, min_labels=2, n_segments=None, suffix=".png",
                                                 overlays=False).items()
    assert (bad["bytes"], bad["sha256"], bad["size"],
            bad["outputs"]) == (4, sha256(photos / "bad.jpg"), None, {}) and "cannot be read" in bad["error"]


def test_results_of_earlier_settings_go(photos, out, quick):
    segment_folder(photos, out, "1.png", overlays=True, **quick)
    (out / "1.png.txt").write_text("a note of mine")
    segment_folder(photos, out, "1.png", ".npz", force=True, **quick)
    assert [name for name in tree(out) if name.startswith("1")] == ["1.png.labels.npz", "1.png.txt"]


@posix
def test_nothing_is_written_outside(photos, out, tmp_path, quick):
    "Where links in the output folder lead away: that image has an error, the others are done."
    away = tmp_path / "away"
    away.mkdir()
    out.mkdir()
    (out / "below").symlink_to(away)
    (photos / "below" / "deeper").mkdir()
    (photos / "below" / "deeper" / "1.png").write_bytes((photos / "1.png").read_bytes())
    (out / "1.png.labels.png").symlink_to(away / "labels.png")  # a file is replaced, not followed
    (out / "2.png.labels.png").symlink_to("2.png.labels.png")
    summary = segment_folder(photos, out, **quick)
    assert (
        summary.done == 3
        and set(summary.errors) == {"below/1.png", "below/deeper/1.png"}
        and all("leads out of the output folder" in e for e in summary.errors.values())
    )
    assert list(away.iterdir()) == [] and not (out / "1.png.labels.png").is_symlink()


@posix
@pytest.mark.parametrize("name", [".dynaseg", ".dynaseg/lock", "manifest.jsonl"])
def test_nor_are_the_books(photos, out, tmp_path, quick, name):
    away = tmp_path / "away"
    away.mkdir()
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(away if name == ".dynaseg" else away / "file")
    try: assert segment_folder(photos, out, **quick).done == 4
    except (InputError, OSError) as e: assert "leads out" in str(e) or e.errno == errno.ELOOP
    assert list(away.iterdir()) == []


@posix
def test_links_that_lead_in_circles(photos, out, quick):
    out.mkdir()
    (out / "below").symlink_to("below")
    summary = segment_folder(photos, out, **quick)
    assert summary.done == 3 and list(summary.errors) == ["below/1.png"]


@posix
def test_a_pipe_in_the_place_of_the_manifest_and_a_folder_in_that_of_a_result(photos, out, quick):
    (out / "1.png.labels.png").mkdir(parents=True)
    summary = segment_folder(photos, out, "1.png", **quick)
    assert "1.png.labels.png': Is a directory" in summary.errors["1.png"] and ".dynaseg-" not in summary.errors["1.png"]
    (out / "manifest.jsonl").unlink()
    os.mkfifo(out / "manifest.jsonl")
    with pytest.raises(InputError, match="manifest.jsonl' is no regular file"): segment_folder(photos, out, **quick)


@posix
def test_an_output_folder_that_is_a_link_to_itself(photos, out, quick):
    out.symlink_to(out)
    with pytest.raises(OSError, match="symbolic links|loop"): segment_folder(photos, out, **quick)


def test_folders_with_dots_in_their_paths(photos, tmp_path, quick, monkeypatch):
    monkeypatch.chdir(photos / "below")
    assert counts(segment_folder("../../photos/below/..", "../../photos/../out", **quick)) == (4, 0, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "photos"] and tree(photos) == sorted(NAMES)


STRANGE = ["two words.png", "été 東京 🌸.png", "new\nline.png", "-dash.png", "--out.png", "'quoted\".png", "tab\t.png",
           "back\\slash.png", "*?[x].png", "percent%20.png", " .png", "a.png.labels.png", "UPPER.PNG"]


@posix
def test_strange_names(photos, out, quick, photo):
    names = STRANGE + ["-folder\n/" + STRANGE[3], os.fsdecode(b"byte-\xff.png")]
    (photos / "-folder\n").mkdir()
    for name in names: Image.fromarray(photo).save(photos / name, "png")
    assert counts(segment_folder(photos, out, overlays=True, **quick)) == (4 + len(names), 0, 0)
    for name in names:
        assert (out / f"{name}.labels.png").is_file() and Manifest(out).rows[name]["outputs"].keys() == {
            f"{name}.labels.png",
            f"{name}.overlay.png",
        }
    assert counts(segment_folder(photos, out, overlays=True, **quick)) == (0, 4 + len(names), 0)


def test_a_name_that_is_too_long_for_its_results(photos, out, quick, photo):
    name = "n" * 246 + ".png"
    try: Image.fromarray(photo).save(photos / name)
    except OSError: pytest.skip("no such long names here")
    summary = segment_folder(photos, out, **quick)
    assert summary.done == 4 and list(summary.errors) == [name] and "too long" in summary.errors[name]


# --- again

def stamps(out): return {name: (out / name).stat().st_mtime_ns for name in tree(out) if "labels" in name}


def test_a_second_run_has_nothing_to_do(photos, out, quick):
    segment_folder(photos, out, **quick)
    before, rows = stamps(out), Manifest(out).rows
    assert counts(segment_folder(photos, out, **quick)) == (0, 4,
                                                            0) and stamps(out) == before and Manifest(out).rows == rows


def finished(source, out, n, settings):
    "A folder with n finished images below another one: one is segmented, the others have its photo, labels and row."
    segment_folder(source, out, "1.png", **settings)
    row = Manifest(out).rows["1.png"]
    files = [f"{i}.png" for i in range(1, n + 1)]
    photos, results = source.parent / f"{n} photos", source.parent / f"{n} results"
    for folder in (photos, results): folder.mkdir()
    for file in files:
        os.link(source / "1.png", photos / file)
        os.link(out / "1.png.labels.png", results / f"{file}.labels.png")
    digest, = row["outputs"].values()
    rows = [row | {"path": file, "outputs": {f"{file}.labels.png": digest}} for file in files]
    (results / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return photos, results


def calls(function, *args, **settings):
    "What it returns, and how many functions were called meanwhile in this thread."
    count = 0
    def see(_, event, __):
        nonlocal count
        count += event in ("call", "c_call")
    sys.setprofile(see)
    try: return function(*args, **settings), count
    finally: sys.setprofile(None)


def test_the_work_of_finding_that_nothing_is_to_be_done_grows_with_the_number_of_images(photos, out, quick):
    "No claims (locks), no second look at the manifest for what is finished: 10,000 images in a few seconds."
    few, double, four = (finished(photos, out, n, quick) for n in (50, 100, 200))
    found = [calls(segment_folder, *folders, **quick) for folders in (few, double, four)]
    (_, least), (_, more), (summary, most) = found
    assert summary.kept == 200
    assert most - more < 2.2 * (more - least) and most - more < 600 * 100, (least, more, most)


@locks
def test_what_is_finished_is_not_claimed(photos, out, quick, monkeypatch):
    segment_folder(photos, out, **quick)
    taken = []
    monkeypatch.setattr(batch.Claims, "take", lambda self, name, *a, take=batch.Claims.take: taken.append(name)
                        or take(self, name, *a))
    (out / "2.png.labels.png").unlink()
    assert counts(segment_folder(photos, out, **quick)) == (1, 3, 0) and taken == ["2.png"]


def test_what_is_done_again(photos, out, quick):
    """A changed photo, a result that was changed or is gone: that one.

    Other settings, if forced: everything. A photo that was touched and is the same: nothing."""
    segment_folder(photos, out, **quick)
    def again(**other):
        return segment_folder(photos, out, **quick | other).done
    Image.fromarray(np.asarray(Image.open(photos / "1.png"))[::-1]).save(photos / "1.png")
    assert again() == 1
    (out / "2.png.labels.png").write_bytes(b"oops")
    assert again() == 1
    (out / "below" / "1.png.labels.png").unlink()
    assert again() == 1
    (photos / "10.png").touch()
    assert again() == 0
    assert again(seed=1, force=True) == 4 and again(seed=1) == 0 and again(force=True) == 4


def test_a_photo_that_fails_does_not_stop_the_run_and_is_tried_again(photos, out, quick):
    good = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(good[:200])
    (photos / "2.png").write_bytes(b"")
    summary = segment_folder(photos, out, **quick)
    assert counts(summary) == (2, 0,
                               2) and "cannot be read" in summary.errors["1.png"] and "empty" in summary.errors["2.png"]
    (photos / "1.png").write_bytes(good)
    summary = segment_folder(photos, out, **quick)
    assert counts(summary) == (1, 2, 1) and set(summary.errors) == {"2.png"}


def test_only_this_run_s_photos_are_reported(photos, out, quick):
    (photos / "bad.jpg").write_text("text")
    segment_folder(photos, out, **quick)
    assert counts(segment_folder(photos, out, "*.png", **quick)) == (0, 4, 0) and Manifest(out).rows["bad.jpg"]["error"]


def test_a_mistake_in_the_program_costs_one_photo(photos, out, quick, monkeypatch):
    def fit(image, settings):
        if (image.pixels == load_image(photos / "2.png")).all(): raise KeyError("oops")
        return fitted(image, settings)
    monkeypatch.setattr(batch, "fitted", fit)
    summary = segment_folder(photos, out, **quick)
    assert summary.done == 3 and summary.errors == {"2.png": "KeyError: 'oops'"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", [2, 5, 9, 12])
def test_trouble_with_the_disk_ends_the_run_and_the_next_one_goes_on(photos, out, tmp_path, quick, monkeypatch, number,
                                                                     call):
    segment_folder(photos, tmp_path / "wanted", **quick)
    calls = iter(range(1, 1000))
    def fsync(fd, fsync=os.fsync):
        if next(calls) >= call: raise OSError(number, os.strerror(number))
        return fsync(fd)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match=os.strerror(number)): segment_folder(photos, out, **quick)
    assert not list(out.rglob(".dynaseg-*"))
    files, _ = results(out)
    assert all(results(tmp_path / "wanted")[0][name] == content for name, content in files.items() if "labels" in name)
    segment_folder(photos, out, **quick)
    assert results(out) == results(tmp_path / "wanted")


def test_what_may_not_be_written_costs_one_photo(photos, out, quick):
    "A folder stands where a result should."
    (out / "2.png.labels.png").mkdir(parents=True)
    summary = segment_folder(photos, out, **quick)
    assert summary.done == 3 and list(summary.errors) == ["2.png"] and not list(out.rglob(".dynaseg-*"))


def test_an_interruption_leaves_whole_results_and_one_manifest(photos, out, quick, monkeypatch):
    done = []
    def fit(image, settings):
        if len(done) == 2: raise KeyboardInterrupt
        done.append(1)
        return fitted(image, settings)
    with monkeypatch.context() as patch:
        patch.setattr(batch, "fitted", fit)
        with pytest.raises(KeyboardInterrupt): segment_folder(photos, out, **quick)
    assert tree(out) == [".dynaseg/lock", "1.png.labels.png", "2.png.labels.png", "manifest.jsonl"]
    assert counts(segment_folder(photos, out, **quick)) == (2, 2, 0)


def test_half_a_fit_is_no_result(photos, out, quick, monkeypatch):
    "Ctrl-C at a prompt ends a fit early and gives what there is; in a folder it ends the run."
    def fit(image, settings):
        seg = fitted(image, settings)
        seg.stop_reason = "interrupted"
        return seg
    monkeypatch.setattr(batch, "fitted", fit)
    with pytest.raises(KeyboardInterrupt): segment_folder(photos, out, **quick)
    assert tree(out) == [".dynaseg/lock", "manifest.jsonl"]


def test_drafts_of_killed_runs_go_folders_of_other_commands_stay(photos, out, quick):
    (out / "below" / ".dynaseg-folder").mkdir(parents=True)
    (out / "below" / ".dynaseg-abc.png").write_bytes(b"half")
    segment_folder(photos, out, **quick)
    assert [p.name for p in out.rglob(".dynaseg-*")] == [".dynaseg-folder"]


# --- settings and limits

@pytest.mark.parametrize("settings, words", [
    (dict(T=0), "T=0"), (dict(variant="x"), "variant='x'"),
    (dict(suffix=".bmp"), "suffix='.bmp'; expected one of '.png', '.tif', '.npz'"),
    (dict(foo=1), "foo: not among the settings"),
    (dict(callback=print), "callback: not among"), (dict(image="x.jpg"), "image: not among"),
    (dict(device="nonsense"), "device='nonsense'")], ids=str)
def test_settings_that_cannot_be_used_come_before_anything_is_written(photos, out, quick, settings, words):
    with pytest.raises(InputError, match=words): segment_folder(photos, out, **quick | settings)
    assert not out.exists()


def test_an_output_that_is_a_file(photos, quick):
    with pytest.raises(InputError, match="is a file; expected a folder"):
        segment_folder(photos, photos / "1.png", **quick)


def test_bombs_are_refused_unless_allowed(photos, out, quick, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # Pillow refuses above twice that; the photos have 720 pixels
    summary = segment_folder(photos, out, **quick)
    assert counts(summary) == (0, 0, 4) and all("is refused" in e and "--allow-pixels" in e
                                                for e in summary.errors.values())
    assert counts(segment_folder(photos, out, allow_pixels=719, **quick)) == (0, 0, 4)
    assert counts(segment_folder(photos, out, allow_pixels=720, **quick)) == (4, 0, 0)
    assert Image.MAX_IMAGE_PIXELS == 300  # as it was
    raise_pixel_limit(1000)
    assert Image.MAX_IMAGE_PIXELS == 500


def test_the_bar_shows_images_a_second_and_the_time_left(photos, out, quick, capfd):
    (photos / "bad.jpg").write_text("text")
    segment_folder(photos, out, **quick | dict(progress=True))
    said = capfd.readouterr().err
    assert "5/5 [00:" in said and " images/s" in said and "<00:" in said and "failed=1" in said
    segment_folder(photos, out, **quick)
    assert capfd.readouterr() == ("", "")


def test_what_a_run_did_is_a_table():
    lines = str(Summary(done=118, kept=20, errors={"a": "no", "b": "no"}, reduced={}, seconds=59)).splitlines()
    assert [line.split() for line in lines] == [["segmented", "118"], ["done", "before", "20"], ["failed", "2"],
                                                ["seconds", "59.0"], ["images", "a", "second", "2.00"]]
    assert len({len(line) for line in lines}) == 1


def test_the_examples_of_several_machines_are_commands(repo, tmp_path):
    "With stand-ins for torchrun, srun and scontrol, a shell reads the two examples as what they should be."
    text = "".join("".join(cell["source"])
                   for cell in json.loads((repo / "nbs" / "21_batch.ipynb").read_text(encoding="utf-8"))["cells"]
                   if cell["cell_type"] == "markdown")
    examples = [part.split("```")[0] for part in text.split("```sh\n")[1:]]
    for name, does in {"torchrun": 'printf "%s\\n" "$@"', "srun": '"$@"', "scontrol": "echo node1; echo node2"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_NNODES": "4",
                   "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]"}
    said = [subprocess.run(["bash", "-euc", example], env=environment, text=True, capture_output=True,
                           check=True).stdout.splitlines() for example in examples]
    assert len(said) == 2 and all(args[:2] == ["--nnodes", n] and "c10d" in args for args, n in zip(said, "24"))
    assert said[0][-6:] == ["dynaseg.cli", "folder", "photos", "segments", "--variant",
                            "scf"] and said[1][-4:] == ["dynaseg.cli", "folder", "photos", "segments"]
    assert "node1:29500" in said[1] and "77" in said[1]


# --- one network for the folder

@pytest.fixture
def alike(quick): return quick | {"same_labels": True}


def as_arrays(out):
    return {name: np.asarray(Image.open(out / name)) for name in tree(out) if name.endswith("labels.png")}


def test_one_network_labels_the_folder_and_what_comes_later(photos, out, alike, photo):
    from dynaseg.together import SharedNetwork
    assert counts(segment_folder(photos, out, **alike)) == (4, 0, 0)
    network = SharedNetwork.load(out / "network.npz")
    assert network.photos == 4
    for name, labels in as_arrays(out).items():
        assert (labels == network.label(photos / name.removesuffix(".labels.png")).labels).all()
    Image.fromarray(photo[::-1]).save(photos / "new.png")
    before = (out / "network.npz").read_bytes()
    assert counts(segment_folder(photos, out, **alike)) == (1, 4, 0)
    assert (out / "network.npz").read_bytes() == before
    assert (as_arrays(out)["new.png.labels.png"] == network.label(photo[::-1]).labels).all()


def test_the_sample_is_drawn_with_the_seed(photos, out, alike, tmp_path):
    from dynaseg.together import SharedNetwork
    digests = []
    for i, (seed, sample) in enumerate([(0, 2), (0, 2), (5, 2), (0, 4)]):
        segment_folder(photos, tmp_path / str(i), sample=sample, seed=seed, **alike)
        digests.append(SharedNetwork.load(tmp_path / str(i) / "network.npz").digest)
    assert digests[0] == digests[1] and len(set(digests)) == 3


@locks
def test_a_network_that_another_process_fits_is_waited_for(photos, out, alike, elsewhere, monkeypatch, recwarn):
    "If that process dies, the network is fitted here. A long wait has its reason named, once."
    monkeypatch.setattr(batch, "PATIENCE", 0.3)
    (out / ".dynaseg").mkdir(parents=True)
    process, pipe = elsewhere(f"say(c.take({batch.NETWORK_CLAIM!r})); hear()", out / ".dynaseg" / "lock")
    assert pipe.recv()
    threading.Timer(1, process.kill).start()
    assert counts(segment_folder(photos, out, **alike)) == (4, 0, 0)
    said = [str(w.message) for w in recwarn if "another process is at work" in str(w.message)]
    assert [words.partition(":")[0] for words in said] == ["network.npz"]


def test_another_network_is_refused_and_replaced_by_force(photos, out, alike, quick):
    segment_folder(photos, out, **alike)
    for other, said in (({"sample": 3}, r"sample=\d+ \(now 3\)\."), ({"T": 3}, r"T=\d+ \(now 3\)\."),
                        ({"statistics": "batch"}, r"statistics='running' \(now 'batch'\)\.")):
        with pytest.raises(InputError, match=f"with other settings: {said}"):
            segment_folder(photos, out, **alike | other)
    with pytest.raises(InputError, match="made with other settings"): segment_folder(photos, out, **quick)
    (out / "network.npz").unlink()
    with pytest.raises(InputError, match=r"network='\w+' \(now None\)"): segment_folder(photos, out, **alike)
    assert counts(segment_folder(photos, out, force=True, statistics="batch", **alike)) == (4, 0, 0)
    assert counts(segment_folder(photos, out, statistics="batch", **alike)) == (0, 4, 0)


def test_a_network_without_results_is_taken_up_by_the_same_settings_only(photos, out, alike, monkeypatch):
    "The run ends between the fit and the first image."
    monkeypatch.setattr(batch._Run, "all", lambda self, names, tell: 1 / 0)
    with pytest.raises(ZeroDivisionError): segment_folder(photos, out, **alike)
    monkeypatch.undo()
    with pytest.raises(InputError, match="fitted with other settings"): segment_folder(photos, out, **alike | {"T": 3})
    before = (out / "network.npz").read_bytes()
    assert counts(segment_folder(photos, out, **alike)) == (4, 0, 0)
    assert (out / "network.npz").read_bytes() == before


def test_a_fit_that_fails_leaves_nothing_behind(photos, out, alike, monkeypatch):
    def failing(*args, **more): raise KeyboardInterrupt
    monkeypatch.setattr("dynaseg.together.SharedNetwork.save", failing)
    with pytest.raises(KeyboardInterrupt): segment_folder(photos, out, **alike)
    monkeypatch.undo()
    assert [name for name in tree(out) if name != ".dynaseg/lock"] == []
    assert counts(segment_folder(photos, out, **alike)) == (4, 0, 0)


def test_what_cannot_be_read_is_passed_over_and_named_in_its_row(photos, out, alike, photo):
    (photos / "broken.png").write_text("text")
    Image.fromarray(photo[..., 0]).save(photos / "grey.png")
    summary = segment_folder(photos, out, **alike)
    assert counts(summary)[0] == 4 and set(summary.errors) == {"broken.png", "grey.png"}
    assert "has 1 bands; expected 3" in summary.errors["grey.png"]


def test_a_folder_of_nothing_that_can_be_read(out, tmp_path, alike):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("text")
    with pytest.raises(InputError, match="None of the 1 images can be read"):
        segment_folder(tmp_path / "bad", out, **alike)


@pytest.mark.parametrize("more, words", [
    ({"n_segments": 4}, "Connected segments"), ({"variant": lambda q: 1.0}, "weighting of your own"),
    ({"sample": 0}, "sample=0"), ({"statistics": "mean"}, "statistics='mean'"),
    ({"features": "resnet18-fpn", "weights": None}, "features")])
def test_what_cannot_share_a_network_is_refused_before_anything_is_written(photos, out, alike, more, words):
    with pytest.raises(InputError, match=words): segment_folder(photos, out, **alike | more)
    assert not out.exists()


@locks
def test_workers_and_rival_runs_take_the_same_network(photos, out, alike, python):
    code = ("import sys; from dynaseg.batch import segment_folder\n"
            "if __name__ == '__main__': segment_folder(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))")
    rivals = [threading.Thread(target=python, args=(code, photos, out, repr(alike | {"workers": n}))) for n in (1, 2)]
    for rival in rivals: rival.start()
    for rival in rivals: rival.join()
    assert counts(segment_folder(photos, out, **alike)) == (0, 4, 0)
    assert len({row["settings"] for row in Manifest(out).rows.values()}) == 1
