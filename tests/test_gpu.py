"""The script for the hour with a card: all of it runs at toy size on the CPU, goes on where it was, and keeps to its
seconds."""
import csv
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from scripts import script

from dynaseg.many import fit_many, many_net
from dynaseg.network import cnn_net
from dynaseg.weighting import fsf

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def gpu():
    return script("gpu")


@pytest.fixture(scope="module")
def bsd(tmp_path_factory):
    "A folder in BSD500's layout: three val photos of two shapes, two train photos, two annotators each."
    home = tmp_path_factory.mktemp("bsd")
    rng = np.random.default_rng(0)
    for split, names in (("val", ["1", "2", "3"]), ("train", ["8", "9"])):
        for kind in ("images", "groundTruth"): (home / kind / split).mkdir(parents=True)
        for name in names:
            pixels = rng.integers(0, 255, (36, 24, 3) if name == "3" else (24, 36, 3)).astype(np.uint8)
            pixels[:12] //= 3
            Image.fromarray(pixels).save(home / "images" / split / f"{name}.jpg")
            truths = np.empty((1, 2), object)
            for i in range(2): truths[0, i] = {"Segmentation": 1 + (np.arange(pixels[..., 0].size).reshape(
                pixels.shape[:2]) // 12 + i) % 3}
            savemat(home / "groundTruth" / split / f"{name}.mat", {"groundTruth": truths})
    return home


@pytest.fixture(scope="module")
def packed(gpu, bsd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "subset"
    gpu.main(["--pack", str(folder), "--root", str(bsd)])
    return folder


@pytest.fixture
def bench(gpu, packed): return gpu.Bench(torch.device("cpu"), gpu.photos_in(packed), gpu.TOY)


# --- the subset

def test_the_packed_subset_is_named_and_in_a_seeded_order(gpu, bsd, packed):
    names = (packed / "subset.txt").read_text().split()
    assert sorted(names[:3]) == ["val/1", "val/2", "val/3"] and sorted(names[3:]) == ["train/8", "train/9"]
    assert [record.name for record in gpu.photos_in(packed)] == [name.split("/")[1] for name in names]
    again = packed.parent / "again"
    assert gpu.pack(bsd, again) == names and gpu.photos_in(again)[0].ground_truths[1].max() == 3
    assert sum(file.stat().st_size for file in packed.rglob("*")) < 20 * 2**20


def test_the_subset_ends_where_it_would_grow_too_large(gpu, bsd, tmp_path, monkeypatch):
    whole = sum(file.stat().st_size for file in bsd.rglob("*") if file.is_file())
    monkeypatch.setattr(gpu, "MOST", 2**16 + whole - 1)
    assert len(gpu.pack(bsd, tmp_path / "less")) == 4


def test_data_stay_outside_of_the_project(gpu, bsd, tmp_path):
    with pytest.raises(SystemExit, match="outside"): gpu.pack(bsd, ROOT / "subset")
    with pytest.raises(SystemExit, match="exists"): gpu.pack(bsd, tmp_path)
    assert not (ROOT / "subset").exists()


def test_a_whole_data_set_will_do(gpu, bsd):
    assert sorted(record.name for record in gpu.photos_in(bsd)) == ["1", "2", "3"]


# --- all of it

def test_every_step_runs_at_toy_size_without_card_and_network(gpu, packed, tmp_path, monkeypatch, capsys):
    if torch.cuda.is_available(): pytest.skip("here the steps would run at full size")
    def refuse(*_): raise AssertionError("the network was asked")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    file = tmp_path / "gpu.csv"
    gpu.main(["--data", str(packed), "--out", str(file)])
    rows = list(csv.DictReader(file.open()))
    assert [r for r in rows if r["what"] == "error"] == [] and {r["card"] for r in rows} == {"CPU, toy size"}
    assert [r for r in rows if r["kept"] == "no"] == [] and sum(r["kept"] == "yes" for r in rows) >= 9
    names = list(dict.fromkeys(r["step"] for r in rows))
    assert names == list(gpu.steps(gpu.Bench(torch.device("cpu"), gpu.photos_in(packed), gpu.TOY)))
    kinds = [gpu._kind(name) for name in names]
    assert list(dict.fromkeys(kinds)) == ["about", "weights", "labels", "gradient", "batch", "scores", "one", "folder",
                                          "paper", "together", "update", "profile", "accuracy"]
    said = file.with_suffix(".txt").read_text()
    assert "Measured on CPU, toy size" in said and "0 missed; 0 steps failed" in said
    assert "| fsf, end | 5 |" in said and "| scf, update 2 | 5 |" in said
    before = file.read_bytes()
    gpu.main(["--data", str(packed), "--out", str(file)])
    assert file.read_bytes() == before and "All done" in capsys.readouterr().out


def test_toy_rows_do_not_go_where_measured_ones_do(gpu, packed, tmp_path, monkeypatch):
    if torch.cuda.is_available(): pytest.skip("here they are measured")
    monkeypatch.chdir(tmp_path)
    gpu.main(["--data", str(packed), "--steps", "about"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gpu-toy.csv", "gpu-toy.txt"]


# --- going on

@pytest.fixture
def made(gpu, monkeypatch):
    "Steps of our own in place of the others: what was called, and what each does."
    called = []
    what = {"a 1": lambda: None, "b 1": lambda: None, "a 2": lambda: None, "c 1": lambda: None}
    def step(name):
        def go():
            called.append(name)
            what[name]()
            yield gpu.row(name, 1, "s")
        return go
    monkeypatch.setattr(gpu, "steps", lambda bench: {name: step(name) for name in what})
    return called, what


def test_a_step_that_fails_says_why_and_is_tried_again_alone(gpu, bench, made, tmp_path):
    called, what = made
    def fail(): raise RuntimeError("CUDA out of memory")
    what["b 1"] = fail
    file = tmp_path / "gpu.csv"
    assert gpu.run(bench, file, 60) == 0 and called == ["a 1", "b 1", "a 2", "c 1"]
    error, = (r for r in gpu.read(file) if r["what"] == "error")
    assert error["step"] == "b 1" and "memory" in error["unit"] and "1 steps failed" in file.with_suffix(
        ".txt").read_text()
    what["b 1"] = lambda: None
    called.clear()
    gpu.run(bench, file, 60)
    assert called == ["b 1"] and {r["what"] for r in gpu.read(file)} == set(what)


def test_an_interrupted_run_keeps_the_steps_before(gpu, bench, made, tmp_path):
    called, what = made
    def interrupt(): raise KeyboardInterrupt
    what["a 2"] = interrupt
    with pytest.raises(KeyboardInterrupt): gpu.run(bench, tmp_path / "gpu.csv", 60)
    assert gpu.done(gpu.read(tmp_path / "gpu.csv")) == {"a 1", "b 1"}


def test_no_step_begins_that_will_not_end_in_time(gpu, bench, made, tmp_path, monkeypatch):
    "A clock of our own: each step of kind a takes 40 s, b and c one."
    called, what = made
    now = [0.0]
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])
    for name in what: what[name] = lambda name=name: now.__setitem__(0, now[0] + (40 if name[0] == "a" else 1))
    assert gpu.run(bench, tmp_path / "gpu.csv", 60) == 1 and called == ["a 1", "b 1", "c 1"]
    called.clear()
    assert gpu.run(bench, tmp_path / "gpu.csv", 0) == 1 and called == []


def test_rows_of_another_card_are_not_mixed_in(gpu, bench, made, tmp_path, monkeypatch):
    gpu.run(bench, tmp_path / "gpu.csv", 60)
    monkeypatch.setattr(gpu, "card_of", lambda device: "another")
    with pytest.raises(SystemExit, match="CPU, toy size.*--out"): gpu.run(bench, tmp_path / "gpu.csv", 60)


# --- parts

def test_a_bound_is_kept_or_missed(gpu):
    assert [gpu.row("x", 2, "s", **bound)["kept"] for bound in ({}, dict(least=2), dict(least=3), dict(most=2),
                                                               dict(most=1))] == ["", "yes", "no", "yes", "no"]
    assert gpu.row("x", 2, "s", most=1)["wanted"] == "<= 1"


def test_scores_of_a_set_are_sums_over_counts(gpu):
    sums = [dict(zip(gpu.SUMS, values)) for values in ((1, 2, 1, 1, 3, 4), (5, 6, 0, 1, 1, 4))]
    table, = gpu._score_table([r | {"what": "fsf, end"} for r in sums])
    assert table.splitlines()[2] == "| fsf, end | 2 | 0.750 | 0.500 | 0.500 | 0.583 |"


def test_precision_is_put_back(gpu):
    before = torch.backends.cudnn.allow_tf32
    with gpu.tf32(not before): assert torch.backends.cudnn.allow_tf32 != before
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("compiled", [None, "aot_eager"])
def test_the_loop_for_graphs_is_that_of_fit_many(gpu, compiled):
    x = torch.rand(2, 3, 12, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    def net(): return many_net([cnn_net(3, 2, 6, 7, seed=seed).double() for seed in range(2)])
    loop = gpu._Loop(net(), x, compiled=compiled)
    for step in fit_many(net(), x, fsf(), [0, 0], T=5): torch.testing.assert_close(loop(), step.labels)
