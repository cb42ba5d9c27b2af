"""Rows, tables, intervals, the two commands that make them, and the script that makes all result files."""
import ast
import csv
import gc
import os
import shlex
import sys
from functools import wraps
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scripts import script

from dynaseg import segmenter
from dynaseg.benchmark import (
    METHODS,
    SEEDLESS,
    VARIANTS,
    paired_difference,
    evaluate,
    protocol_of,
    read_rows,
    report,
    score,
    table,
)
from dynaseg import benchmark
from dynaseg.datasets import BSD500, Dataset, ICoseg, Photos, VOC2012
from dynaseg.hierarchies import FAMILIES
from dynaseg.images import InputError

DATA = os.environ.get("DYNASEG_DATA")


@pytest.fixture(scope="module", autouse=True)
def little_garbage():
    "Memory is measured for each row, after a search for garbage: what was imported need not be searched each time."
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def bsd(tmp_path):
    "Three small photos with two annotators each, in BSD500's layout."
    rng = np.random.default_rng(0)
    for kind in ("images", "groundTruth"): (tmp_path / "bsd" / kind / "val").mkdir(parents=True)
    for name in ("1001", "1002", "1003"):
        truths = np.empty((1, 2), object)
        for i in range(2):
            truths[0, i] = {"Segmentation": np.kron(rng.integers(1, 4, (3, 4)),
                                                    np.ones((12, 12), int)).astype(np.uint16)}
        savemat(tmp_path / "bsd" / "groundTruth" / "val" / f"{name}.mat", {"groundTruth": truths})
        Image.fromarray(np.kron(rng.integers(0, 255, (3, 4, 3)), np.ones((12, 12, 1))).astype(np.uint8)).save(
            tmp_path / "bsd" / "images" / "val" / f"{name}.jpg"
        )
    return BSD500(tmp_path / "bsd")


QUICK = dict(T=2, p=4, q=4, progress=False)
FAST = QUICK | dict(min_labels=2)  # without the silhouette phase, which takes most of such a fit


def test_every_method_gives_a_row_for_every_image_and_seed(bsd, tmp_path):
    rows = evaluate(bsd, seeds=(0, 1), out=tmp_path / "r.csv", **FAST)
    random = {*METHODS, *VARIANTS} - set(SEEDLESS)
    expected = {*product(random, bsd.names, (0, 1)), *product(SEEDLESS, bsd.names, (0,))}
    assert {(r["method"], r["image"], r["seed"]) for r in rows} == expected and len(rows) == len(expected)
    assert not any(r["error"] for r in rows)
    assert {r["settings"] for r in rows if r["method"] in VARIANTS} == {"min_labels=2 p=4 q=4 T=2"}
    assert {r["settings"] for r in rows if r["method"] in METHODS} == {None}
    assert len({r["fingerprint"] for r in rows if r["method"] in VARIANTS}) == len(VARIANTS)
    assert all(r["seconds"] >= 0 and r["n_labels"] >= 1 for r in rows)


def test_the_blank_row_is_the_closed_form(bsd, tmp_path):
    "A segment overlaps the blank page by its share of the area; the score is the mean of those over all segments."
    rows = evaluate(bsd, ["blank"], out=tmp_path / "r.csv", progress=False)
    shares = [n / t.size for record in bsd for t in record.ground_truths for n in np.unique(t, return_counts=True)[1]]
    assert score(rows)[0] == pytest.approx(np.mean(shares), abs=1e-5)


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_run_goes_on_after_a_line_that_was_cut_off(bsd, tmp_path, cut):
    out = tmp_path / "r.csv"
    whole = evaluate(bsd, ["blank", "felzenszwalb"], out=out, progress=False)
    text = out.read_bytes()
    out.write_bytes(text[:-cut])
    again = evaluate(bsd, ["blank", "felzenszwalb"], out=out, progress=False)
    def known(rows):
        return sorted((r["method"], r["image"], r["n_labels"], r["all_sum"]) for r in rows)
    assert known(again) == known(whole)


def test_what_the_file_has_is_not_done_again(bsd, tmp_path):
    calls = []

    def mine(image, seed):
        calls.append(seed)
        return np.zeros(image.shape[:2], int)

    for _ in range(2): evaluate(bsd, {"mine": mine}, seeds=(0, 3), out=tmp_path / "r.csv", progress=False)
    assert sorted(calls) == [0] * 3 + [3] * 3
    evaluate(bsd, ["fsf"], out=tmp_path / "r.csv", **QUICK)
    rows = evaluate(bsd, ["fsf"], out=tmp_path / "r.csv", **QUICK, mu=7.0)
    assert {r["settings"] for r in rows if r["method"] == "fsf"} == {"p=4 q=4 T=2", "mu=7.0 p=4 q=4 T=2"}


def test_methods_without_a_seed_use_none():
    image = np.random.default_rng(0).random((40, 50, 3), dtype=np.float32)
    for name in SEEDLESS: assert (METHODS[name](image, 0) == METHODS[name](image, 1)).all(), name


def test_the_published_loops_are_the_paper_preset_but_for_its_size():
    "Whatever is added to the default preset must not slip into them."
    for name in ("fsf", "scf"):
        paper = segmenter.check_settings(preset="paper", variant=name, seed=0)[0]
        assert segmenter.check_settings(preset="paper", seed=0, **VARIANTS[name])[0] == paper
        small = segmenter.check_settings(preset="clusters", seed=0, **VARIANTS[name])[0]
        assert (small["level"], small["cluster_level"]) == (None, 0)  # labels are read pixel by pixel
        assert {k for k in paper if paper[k] != small[k]} <= {"preset", "M", "p", "q", "T", "tol", "max_pixels"}


def test_rows_made_before_a_preset_changed_do_not_mix_with_new_ones(bsd, tmp_path, monkeypatch):
    evaluate(bsd, ["ours"], out=tmp_path / "r.csv", **QUICK)
    before = (tmp_path / "r.csv").read_bytes()
    monkeypatch.setitem(segmenter.PRESETS["clusters"], "momentum", 0.5)
    with pytest.raises(InputError, match="'ours' made before the presets changed"):
        evaluate(bsd, ["ours"], out=tmp_path / "r.csv", **QUICK)
    assert (tmp_path / "r.csv").read_bytes() == before
    evaluate(bsd, ["ours"], out=tmp_path / "r.csv", **QUICK, momentum=0.9)   # named, it is another row


def test_functions_as_settings_keep_their_name_over_runs(bsd, tmp_path):
    def gentle(q): return q / 90
    for _ in range(2): rows = evaluate(bsd, ["ours"], out=tmp_path / "r.csv", variant=gentle, **QUICK)
    assert len(rows) == 3 and {r["settings"] for r in rows} == {"variant=gentle p=4 q=4 T=2"}


def test_an_image_that_fails_counts_as_blank_and_is_told(bsd, tmp_path):
    def broken(image, seed): raise ValueError("not today\nor tomorrow")
    rows = evaluate(bsd, {"broken": broken, "blank": METHODS["blank"]}, out=tmp_path / "r.csv", progress=False)
    by = {name: [r for r in rows if r["method"] == name] for name in ("broken", "blank")}
    assert score(by["broken"]) == score(by["blank"])
    assert [r["error"] for r in by["broken"]] == ["ValueError: not today"] * 3
    assert [line.split("|")[-2].strip() for line in table(rows).splitlines()[2:]] == ["3", "0"]


def test_memory_is_counted_anew_for_each_call(python):
    """What an earlier call freed must not make a later one look cheaper.

    In a process of its own: this one's heap is in pieces that cannot be given back."""
    code = ("from dynaseg.speed import measured; "
            "print([measured(lambda: [bytearray(100_000) for _ in range(1000)] and None)[2] for _ in range(3)])")
    needed = ast.literal_eval(python(code))
    if needed[0] is None: pytest.skip("this system does not tell the peak of a process")
    assert all(80 < mb < 200 for mb in needed), needed


def test_batches_change_seconds_and_memory_alone(bsd, tmp_path, monkeypatch):
    "In 64 bits, where rounding does not reach the labels: rows, their order, and what the file has already."
    tensor, net, many, sizes = segmenter.to_tensor, segmenter.response_net, benchmark.segment_many, []
    monkeypatch.setattr(segmenter, "to_tensor", lambda *given: tensor(*given).double())
    monkeypatch.setattr(segmenter, "response_net", lambda *given, **named: net(*given, **named).double())
    monkeypatch.setattr(benchmark, "segment_many", lambda images, **named: sizes.append(len(images))
                        or many(images, **named))
    def rows(batch, methods=("fsf", "blank", "ours")):
        found = evaluate(bsd, methods, seeds=(0, 1), out=tmp_path / f"{batch}.csv", batch=batch, **FAST)
        return [r | {"seconds": None, "mb": None} for r in found], found
    evaluate(bsd, ["fsf"], out=tmp_path / "2.csv", **FAST)
    (alone, _), (together, found) = rows(1), rows(2)
    assert sorted(map(str, together)) == sorted(map(str, alone)) and sizes == [3, 3, 3]  # one was there already
    assert all(r["seconds"] > 0 for r in found if r["method"] in VARIANTS)
    assert [r["mb"] for r in found if r["method"] == "ours"] == [None] * 6


def test_where_a_batch_cannot_be_each_row_has_its_own_error(bsd, tmp_path, monkeypatch):
    path = bsd.records[1].path
    Image.fromarray(np.zeros((36, 48, 3), np.uint8)).save(path)
    one = benchmark.segment
    @wraps(one)
    def segment(image, **named):
        if not image.any(): raise InputError("all black")
        return one(image, **named)
    def refuse(*_, **__): raise MemoryError
    monkeypatch.setattr(benchmark, "segment", segment)
    monkeypatch.setattr(benchmark, "segment_many", refuse)
    rows = evaluate(bsd, ["ours"], out=tmp_path / "r.csv", batch=2, **QUICK)
    assert [r["error"] for r in rows] == [None, "InputError: all black", None]


def test_labels_on_the_way_get_rows_of_their_own(bsd, tmp_path):
    rows = evaluate(bsd, ["fsf", "blank"], out=tmp_path / "r.csv", at=(0, 2), cluster_level=0.0, **QUICK)
    assert {r["method"] for r in rows} == {"fsf", "fsf@0", "fsf@2", "blank"}
    last, end = ([r["all_sum"] for r in rows if r["method"] == name] for name in ("fsf@2", "fsf"))
    assert last == end                                         # without a vote the last look is the result


def slow_score(rows, images):
    "All groups by the definition: a list of images, with repetitions."
    parts = []
    for group in ("all", "fine", "coarse"):
        chosen = [next(r for r in rows if r["image"] == name) for name in images]
        parts.append(sum(r[f"{group}_sum"] for r in chosen) / sum(r[f"{group}_count"] for r in chosen))
    return np.mean(parts)


def made_rows(rng, n, shift=0.0):
    counts = {g: rng.integers(2, 9, n) for g in ("all", "fine", "coarse")}
    rows = [{"method": "m", "settings": None, "image": str(i),
             "seed": 0} | {f"{g}_count": float(c[i]) for g, c in counts.items()} for i in range(n)]
    for row in rows:
        for g in counts: row[f"{g}_sum"] = row[f"{g}_count"] * float(np.clip(rng.normal(0.4 + shift, 0.1), 0, 1))
    return rows


def test_the_interval_agrees_with_a_slow_bootstrap():
    rng = np.random.default_rng(1)
    a = made_rows(rng, 12)
    b = [r | {f"{g}_sum": r[f"{g}_sum"] + float(rng.normal(0.3, 0.4)) for g in ("all", "fine", "coarse")} for r in a]
    difference, low, high = paired_difference(a, b, draws=4000)
    names = [r["image"] for r in a]
    assert difference == pytest.approx(slow_score(b, names) - slow_score(a, names))
    draws = [slow_score(b, drawn) - slow_score(a, drawn) for drawn in rng.choice(names, (1500, 12))]
    assert (low, high) == pytest.approx(np.percentile(draws, (2.5, 97.5)), abs=0.15 * (high - low))


def test_a_real_difference_and_none():
    rng = np.random.default_rng(0)
    a, b = made_rows(rng, 40), made_rows(rng, 40, shift=0.2)
    b = [r | {k: v for k, v in q.items()
              if k.endswith("_count")} | {f"{g}_sum": r[f"{g}_sum"] / r[f"{g}_count"] * q[f"{g}_count"]
                                          for g in ("all", "fine", "coarse")}
         for q, r in zip(a, b)]
    assert paired_difference(a, a) == (0, 0, 0)
    assert paired_difference(a, b)[1] > 0
    with pytest.raises(InputError, match="different images"): paired_difference(a, b[1:])


def test_seeds_are_averaged_and_spread(bsd, tmp_path):
    def noisy(image, seed): return np.random.default_rng(seed).integers(0, 3, image.shape[:2])
    rows = evaluate(bsd, {"noisy": noisy, "blank": METHODS["blank"]}, seeds=(0, 1, 2), out=tmp_path / "r.csv",
                    progress=False)
    lines = table(rows).splitlines()
    assert " ± " in lines[2] and " ± " not in lines[3]         # what does not depend on the seed has no spread
    assert "| noisy |" in report(rows, against="blank").split("difference")[1]


def test_a_seed_that_saw_fewer_images_spoils_nothing(bsd, tmp_path):
    "Neither the spread over seeds, nor the weight of an image in a comparison."
    def noisy(image, seed): return np.random.default_rng(seed).integers(0, 3, image.shape[:2])
    one = evaluate(bsd, {"noisy": noisy, "blank": METHODS["blank"]}, out=tmp_path / "r.csv", progress=False)
    more = evaluate(bsd[:1], {"noisy": noisy, "blank": METHODS["blank"]}, seeds=(1, 2), out=tmp_path / "r.csv",
                    progress=False)
    def shown(rows):
        return [line.split("|")[:9] for line in table(rows).splitlines()]  # without seconds and MB
    assert len(more) == len(one) + 2 and shown(more) == shown(one)
    def perfect(rows):
        return [r | {f"{g}_sum": r[f"{g}_count"] for g in ("all", "fine", "coarse")} for r in rows
                                if r["method"] == "noisy"]
    differences = [paired_difference([r for r in rows if r["method"] == "blank"], perfect(rows))[0]
                   for rows in (one, more)]
    assert differences[0] == pytest.approx(differences[1])


def test_parquet_holds_the_same_rows(bsd, tmp_path):
    pytest.importorskip("pyarrow")
    rows = evaluate(bsd, ["blank", "felzenszwalb"], out=tmp_path / "r.parquet", progress=False)
    stored = read_rows(tmp_path / "r.parquet")
    assert [(r["method"], r["image"], r["all_sum"])
            for r in stored] == [(r["method"], r["image"], r["all_sum"]) for r in rows]


def test_a_set_with_classes_is_scored_by_hungarian_matching(tmp_path):
    for kind, value in (("images", 200), ("ground_truth", 1)):
        (tmp_path / kind / "group").mkdir(parents=True)
        picture = np.zeros((30, 40), np.uint8)
        picture[:, 20:] = value
        Image.fromarray(picture).save(tmp_path / kind / "group" / "a.png")
    rows = evaluate(ICoseg(tmp_path), {"right": lambda image, seed: (image[..., 0] > 0.5).astype(int),
                                       "blank": METHODS["blank"]}, out=tmp_path / "r.csv", progress=False)
    assert [r["miou_sum"] for r in rows] == [1, 0.25] and [r["accuracy_sum"] for r in rows] == [1, 0.5]


def test_voc_is_scored_without_the_void_seam_and_with_it(tmp_path):
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"): (root / folder).mkdir(parents=True)
    mask = np.zeros((20, 40), np.uint8)
    mask[:, 20:] = 7
    mask[:, 18:22] = 255
    Image.fromarray(mask).save(root / "SegmentationClass" / "a.png")
    Image.fromarray(mask).convert("RGB").save(root / "JPEGImages" / "a.jpg")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    rows = evaluate(VOC2012(root), ["blank"], out=tmp_path / "r.csv", progress=False)
    assert score(rows) == pytest.approx([1 / 2, 1 / 3, 1 / 2]) and (rows[0]["all_count"],
                                                                    rows[0]["with_void_count"]) == (2, 3)
    assert "| all | with_void | seconds |" in table(rows)
    rows = evaluate(VOC2012(root), ["blank"], out=tmp_path / "h.csv", protocol="per-image Hungarian", progress=False)
    # one class matched and half right, the other without a cluster
    assert score(rows) == pytest.approx([1 / 4, 1 / 2, 1 / 4])


def test_a_set_of_ones_own_is_scored_by_best_overlap(bsd, tmp_path):
    mine = Dataset(list(bsd))
    assert protocol_of(mine) == "best-overlap"
    rows, official = (evaluate(records, ["felzenszwalb"], out=tmp_path / f"{i}.csv", progress=False)
                      for i, records in enumerate((mine, bsd)))
    assert score(rows) == score(official)


def test_an_image_of_void_only_counts_nothing(tmp_path):
    class Void:
        name, image, ground_truths = "a", np.zeros((4, 4, 3), np.float32), [np.full((4, 4), 255)]
    records = Dataset([])
    records.records, records.n_classes, records.ignore = [Void()], 27, 255
    assert score(evaluate(records, ["blank"], out=tmp_path / "r.csv", progress=False)) == [0, 0, 0]


def test_runs_in_two_files_are_told_apart(bsd, tmp_path):
    for name in ("one", "two"):
        evaluate(bsd, ["blank", "felzenszwalb"] if name == "two" else ["blank"], out=tmp_path / f"{name}.csv",
                 progress=False)
    rows = read_rows(tmp_path / "one.csv", tmp_path / "two.csv")
    assert {r["method"] for r in rows} == {"blank (one)", "blank (two)", "felzenszwalb"}
    assert "| blank (two) |  | +0.000 | +0.000 to +0.000 |" in report(rows, against="blank")
    evaluate(ICoseg(iciest(tmp_path)), ["blank"], out=tmp_path / "three.csv", progress=False)
    with pytest.raises(InputError, match="all, fine, coarse and miou, accuracy"):
        read_rows(tmp_path / "one.csv", tmp_path / "three.csv")


def iciest(root):
    "A set in the layout of iCoseg with one small picture."
    for kind in ("images", "ground_truth"):
        (root / kind / "g").mkdir(parents=True)
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(root / kind / "g" / "a.png")
    return root


@pytest.mark.parametrize("bad, words", [
    (dict(methods=["nothing"]), "'nothing'; expected some of blank"),
    (dict(methods=["fsf"], colour=3), "'colour' is no setting"),
    (dict(methods=["fsf"], callback=print), "'callback' is no setting"),
    (dict(methods=["ours", "scf"], variant="scf"), "variant='scf' does not go with the method 'scf'"),
    (dict(methods=["ours", "fsf"], preset="segments"), "preset='segments' does not go with the method 'fsf'"),
    (dict(methods=["ours"], mu=-1), "mu=-1; expected"),
    (dict(methods=["blank"], protocol="dataset Hungarian"), "protocol='dataset Hungarian'"),
    (dict(methods=["blank"], protocol="per-image Hungarian"), "where ids are classes"),
])
def test_bad_arguments(bsd, tmp_path, bad, words):
    with pytest.raises(InputError, match=words): evaluate(bsd, out=tmp_path / "r.csv", progress=False, **bad)
    assert not (tmp_path / "r.csv").exists()


def test_files_of_other_kinds_are_refused(bsd, tmp_path):
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no file of results"):
        evaluate(bsd, ["blank"], out=tmp_path / "r.csv", progress=False)
    assert (tmp_path / "r.csv").read_text() == "a,b\n1,2\n"
    (tmp_path / "r.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="other columns .a, b"):
        evaluate(bsd, ["blank"], out=tmp_path / "r.csv", progress=False)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="no ground truths"):
        evaluate(Photos(tmp_path, subset=["a.png"]), ["blank"], out=tmp_path / "s.csv", progress=False)


def test_the_commands(command, bsd, tmp_path):
    done = command("evaluate", "bsd500", "--root", "bsd", "--methods", "blank,felzenszwalb,scf", "--seeds", "0,1",
                   "--T", 2, "--p", 4, "--q", 4, "--out", "r.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| scf | p=4 q=4 T=2 | 3 | 2 |" in done.stdout
    assert "3 images, 1001 … 1003), best-overlap" in done.stdout
    assert len(list(csv.reader(open(tmp_path / "r.csv")))) == 1 + 3 * (1 + 1 + 2)
    done = command("report", "r.csv", "--against", "blank", cwd=tmp_path)
    assert done.returncode == 0 and "95 % interval" in done.stdout


def test_the_blank_page_is_always_there(command, bsd, tmp_path):
    done = command("evaluate", "bsd500", "--root", "bsd", "--methods", "ours", "--variant", "scf", "--T", 2, "--p", 4,
                   "--q", 4, cwd=tmp_path)
    assert done.returncode == 0 and "| blank |" in done.stdout and "| ours | variant=scf p=4 q=4 T=2 |" in done.stdout


@pytest.mark.parametrize("name, measures", [("coco-all", 27), ("coco-stuff", 15), ("coco-things", 12), ("icoseg", 2),
                                            ("voc2012-objects", None)])
def test_names_of_data_sets(name, measures, tmp_path):
    from dynaseg.cli import _dataset
    with pytest.raises(FileNotFoundError, match="Get it from|get it from"):
        _dataset(name, tmp_path, None, None, 0, None)
    if name == "icoseg":
        assert _dataset(name, iciest(tmp_path), None, None, 0, None).n_classes == measures
        with pytest.raises(InputError, match="split='val'"): _dataset(name, tmp_path, "val", None, 0, None)
    if name.startswith("coco"):
        for kind in ("val2017", "stuffthingmaps/val2017", "maps"): (tmp_path / kind).mkdir(parents=True)
        (tmp_path / "maps" / "fine_to_coarse.json").write_text('{"fine_index_to_coarse_index": {}}')
        (tmp_path / "maps" / "val2017_curated.txt").write_text("")
        assert _dataset(name, tmp_path, None, None, 0, tmp_path / "maps").n_classes == measures


def test_coco_from_the_command_line(command, tmp_path):
    "The command of the benchmark page, on two pictures in the official layout."
    for kind in ("images/val2017", "annotations/val2017"): (tmp_path / "COCO" / kind).mkdir(parents=True)
    for name in ("000000000001", "000000000002"):
        fine = np.kron(np.random.default_rng(int(name)).integers(0, 3, (3, 4)), np.ones((12, 12))).astype(np.uint8)
        Image.fromarray(fine).save(tmp_path / "COCO" / "annotations" / "val2017" / f"{name}.png")
        Image.fromarray(100 * fine).convert("RGB").save(tmp_path / "COCO" / "images" / "val2017" / f"{name}.jpg")
    (tmp_path / "COCO" / "val2017_curated.txt").write_text("000000000001\n000000000002\n")
    (tmp_path / "COCO" / "fine_to_coarse.json").write_text('{"fine_index_to_coarse_index": {"0": 9, "1": 26, "2": 5}}')
    done = command("evaluate", "coco-all", "--root", "COCO", "--methods", "felzenszwalb,ours", "--T", 2, "--p", 4,
                   "--q", 4, "--out", "coco-all.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "COCOStuff27(split 'val2017', 2 images, 000000000001 … 000000000002), per-image Hungarian" in done.stdout
    assert "| blank |  | 2 | 1 |" in done.stdout and "| miou | accuracy |" in done.stdout


@pytest.mark.parametrize("args, words", [
    (("evaluate", "nothing", "--root", "bsd"), "no data set 'nothing'"),
    (("evaluate", "bsd500", "--root", "elsewhere"), "no folder"),
    (("evaluate", "bsd500", "--root", "bsd", "--seeds", "0,x"), "--seeds '0,x'"),
    (("evaluate", "bsd500", "--root", "bsd", "--images", "1001,9"), "not in the set"),
    (("evaluate", "bsd500", "--root", "bsd", "--mu", "-1"), "--mu -1.0"),
    (("report", "none.csv"), "none.csv"),
])
def test_a_mistake_gets_a_line_and_exit_code_2(command, bsd, tmp_path, args, words):
    done = command(*args, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def benchmarks():
    return script("benchmarks")


def test_every_command_of_the_script_is_understood(benchmarks):
    "A mistake in the last line of a night's work should not wait until the morning."
    from typer.main import get_command

    from dynaseg.cli import _setting_words, _settings_of, app
    for command in [c for cs in benchmarks.commands().values() for c in cs if c.startswith("dynaseg ")]:
        _, name, *words = shlex.split(command)
        given = get_command(app).commands[name].make_context(name, words).params
        _settings_of({p.name: given[p.name] for p in _setting_words() if p.name in given}, None)
        known = FAMILIES if given["measures"] else {*METHODS, *VARIANTS}
        assert set(given["methods"].split(",")) <= set(known), command
        assert str(given["out"]).startswith("nbs/results/")


def test_the_script_goes_on_where_it_was(benchmarks, bsd, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path / "nbs" / "results")
    monkeypatch.setattr(benchmarks, "ROOT", tmp_path)
    monkeypatch.setattr(benchmarks, "steps", lambda: {"one": ["bsd500 --methods felzenszwalb"],
                                                  "two": ["bsd500 --images 1001,nowhere"]})
    monkeypatch.setattr(sys, "argv", ["benchmarks.py", "one", "two"])
    monkeypatch.setenv("DYNASEG_DATA", str(tmp_path / "bsd"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped: benchmarks.main()
        assert stopped.value.code == 1                         # there is no image "nowhere"
        assert len(read_rows(tmp_path / "nbs" / "results" / "one.csv")) == 6
        logged, = csv.DictReader((tmp_path / "nbs" / "results" / "commands.csv").open())
        assert (
            logged["command"]
            == "dynaseg evaluate bsd500 --methods felzenszwalb --root $DYNASEG_DATA --out nbs/results/one.csv"
        )


@pytest.mark.skipif(not DATA, reason="DYNASEG_DATA is not set: no real data to score")
@pytest.mark.parametrize("split, expected", [("train", [0.0482, 0.0263, 0.1013]), ("val", [0.0510, 0.0273, 0.1063])])
def test_blank_on_the_real_photos(split, expected, tmp_path):
    rows = evaluate(BSD500(DATA, split), ["blank"], out=tmp_path / "r.csv", progress=False)
    assert [round(v, 4) for v in score(rows)[:3]] == expected
