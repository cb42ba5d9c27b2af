"""`segment`, `DynaSeg` and `Segmentation`: contracts, determinism, pictures, files, bad settings."""
import csv
import inspect
import io
import json
import math
import os
import pickle
import random
import signal
import stat
import sys
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.validation import check_is_fitted

import dynaseg
from dynaseg import DynaSeg, Segmentation, segment
from dynaseg.images import InputError, load_image, read_image, to_tensor
from dynaseg.labels import NO_DATA, by_area, overlay
from dynaseg.network import labels_at
from dynaseg.granularity import Hierarchy
from dynaseg.pretrained import response_net
from dynaseg.silhouette import SilhouettePhase
from dynaseg.segmenter import MU, NEEDS_GUIDE, PRESETS, check_settings
from partitions import flood, sets

HISTORY = ["n_labels", "weight", "sim", "con", "loss", "seconds"]


COLLAPSE = dict(variant="scf", mu=300)  # presses so hard that labels merge within a few updates


def is_result(seg, shape):
    "The contract of a Segmentation."
    assert isinstance(seg, Segmentation)
    assert seg.labels.shape == shape[:2] and seg.labels.dtype == np.int64
    assert seg.image.shape == (*shape[:2], shape[2] if len(shape) == 3 else 1) and seg.image.dtype == np.float32
    areas = np.bincount(seg.labels.ravel())
    assert seg.n_clusters == len(areas) >= 1 and (areas > 0).all() and (np.diff(areas) <= 0).all()
    assert list(seg.history) == HISTORY
    rows = {len(column) for column in seg.history.values()}
    assert len(rows) == 1 and rows.pop() >= 1
    assert all(isinstance(column, np.ndarray) and column.ndim == 1 for column in seg.history.values())
    assert seg.stop_reason in ("floor", "converged", "iterations", "interrupted")
    assert seg.floor is None or isinstance(seg.floor, int)
    return True


# --- the method

def reference_fit(net, x, schedule, T, lr, momentum):
    """The method written again from the paper's equations, with PyTorch's textbook losses: readings of (q', w, sim,
    con)."""
    sgd = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    rows = []
    for t in range(T + 1):
        r = net(x)[0]
        rows_by_label = r.permute(1, 2, 0).reshape(-1, r.shape[0])
        target = rows_by_label.argmax(1)
        q_prime = len(set(target.tolist()))
        down, across = r[:, 1:] - r[:, :-1], r[:, :, 1:] - r[:, :, :-1]
        sim = F.cross_entropy(rows_by_label, target)
        con = F.l1_loss(down, torch.zeros_like(down)) + F.l1_loss(across, torch.zeros_like(across))
        w = schedule(q_prime)
        rows.append((q_prime, w, sim.item(), con.item()))
        sgd.zero_grad()
        (sim + w * con).backward()
        sgd.step()
    return np.array(rows)


@pytest.mark.parametrize("variant, schedule",
                         [("fsf", lambda q: q / 15), ("scf", lambda q: 50 / q), ("fixed", lambda q: 5)])
def test_the_paper_preset_is_the_published_loop(photo, variant, schedule):
    "Against a second writing of the method. Rounding grows with the updates, so only a few are compared."
    T, net = 5, dict(M=3, p=12, q=12)
    seg = segment(photo, preset="paper", variant=variant, min_labels=None, T=T, seed=3, progress=False, device="cpu",
                  **net)
    rows = reference_fit(response_net(3, seed=3, **net), to_tensor(load_image(photo)), schedule, T, lr=0.1,
                         momentum=0.9)
    assert seg.history["n_labels"].tolist() == rows[:, 0].tolist()
    for name, column in zip(("weight", "sim", "con"), rows.T[1:]):
        np.testing.assert_allclose(seg.history[name], column, rtol=2e-3)
    assert seg.stop_reason == "iterations"


def test_the_papers_values():
    published = dict(M=3, p=100, q=100, padding="zeros", T=1000, lr=0.1, momentum=0.9, weight_decay=0.0)
    nothing_added = dict(standardised=False, tol=0.0, max_pixels=0, level=None, cluster_level=0.0, penalty="l1",
                         diagonals=False)
    assert PRESETS["paper"] == published | nothing_added
    assert MU["paper"] == {"fsf": 15, "scf": 50, "fixed": 5} and MU.keys() == PRESETS.keys()
    assert set(PRESETS) == {"paper", "clusters", "segments", "dynaguide"}
    assert PRESETS["clusters"].keys() == PRESETS["paper"].keys()
    assert {name for name in PRESETS["clusters"] if PRESETS["clusters"][name] != PRESETS["segments"][name]} == {"level"}


# --- segment: contract

def test_result(photo, quick):
    seg = segment(photo, **quick)
    assert is_result(seg, photo.shape)
    assert seg.history["n_labels"].max() <= 8 and seg.n_clusters <= seg.history["n_labels"][-1]
    assert (np.diff(seg.history["seconds"]) >= 0).all() and 0 <= seg.history["seconds"][-1] <= seg.seconds
    np.testing.assert_array_equal(seg.image, load_image(photo))
    assert sets(seg.regions()) == flood(seg.labels)
    text = repr(seg)
    for part in ("24x30", f"{seg.n_clusters} clusters", f"floor={seg.floor}", seg.stop_reason, "iterations=", " s)"):
        assert part in text


@pytest.mark.parametrize("variant, schedule",
                         [("fsf", lambda q: q / 40), ("scf", lambda q: 5 / q), ("fixed", lambda q: 5),
                          (lambda q: q**0.5, lambda q: q**0.5)])
def test_history_is_consistent(photo, quick, variant, schedule):
    seg = segment(photo, variant=variant, min_labels=3, **quick)
    h = seg.history
    np.testing.assert_allclose(h["weight"], [schedule(max(q, 3)) for q in h["n_labels"]])
    np.testing.assert_allclose(h["loss"], h["sim"] + h["weight"] * h["con"], rtol=1e-5)
    assert h["n_labels"].dtype.kind == "i" and (h["sim"] >= 0).all() and (h["con"] >= 0).all()


def test_at_full_resolution_the_labels_are_the_last_reading(photo, quick):
    last = []
    seg = segment(photo, max_pixels=0, cluster_level=0, callback=lambda step: last.append(step.labels.numpy()) and None,
                  **quick)
    np.testing.assert_array_equal(seg.labels, by_area(last[-1]))
    assert len(last) == len(seg.history["loss"])


def test_the_working_resolution_is_kept_and_labels_come_back_at_full_size(photo, quick):
    shapes = set()
    seg = segment(photo, max_pixels=200, callback=lambda step: shapes.add(tuple(step.labels.shape)), **quick)
    assert len(shapes) == 1 and math.prod(shapes.pop()) <= 200
    assert is_result(seg, photo.shape)


def test_only_labels_in_use_may_win(photo, quick):
    """Between two labels a third may have the largest enlarged response.

    If it won nowhere in the fit, it does not win in the result."""
    between = []
    for seed in range(4):
        steps = []
        how = quick | dict(max_pixels=60, q=60, cluster_level=0, min_labels=None, tol=0, seed=seed)
        seg = segment(photo, callback=steps.append, **how)
        response, used = steps[-1].response, steps[-1].labels.unique()
        between.append(len(labels_at(response, photo.shape[:2]).unique()) > len(used))
        np.testing.assert_array_equal(seg.labels, by_area(labels_at(response[used], photo.shape[:2]).numpy()))
    assert any(between)  # or nothing was tried


def test_settings_are_resolved_and_complete(photo, quick):
    seg = segment(photo, **quick)
    assert set(seg.settings) == set(inspect.signature(segment).parameters) - {"image", "progress", "callback"}
    assert {name: seg.settings[name] for name in ("M", "p", "q", "T")} == dict(M=1, p=8, q=8, T=6)
    assert (seg.settings["lr"] == PRESETS["clusters"]["lr"] and seg.settings["device"] == "cpu"
            and seg.settings["preset"] == "clusters")
    paper = segment(photo, preset="paper", **quick).settings
    assert paper["max_pixels"] == 0 and paper["T"] == 6
    checked, weight, device = check_settings(preset="paper", variant="scf", min_labels=7, device="cpu")
    assert ({name: checked[name] for name in PRESETS["paper"]} == PRESETS["paper"] and weight(25) == 2
            and device == torch.device("cpu"))


def test_default_settings_segment_a_photo(photo):
    assert is_result(segment(photo, device="cpu"), photo.shape)


def test_found_regions_are_the_painted_ones():
    "Three flat areas: any method worth the name finds them. `seg` may split them at their edges, not mix them."
    painted = np.zeros((24, 32), int)
    painted[:, 16:], painted[8:16, 8:24] = 1, 2
    photo = np.array([[30, 60, 200], [220, 200, 40], [60, 160, 60]], np.uint8)[painted]
    seg = segment(photo, min_labels=3, progress=False, device="cpu")
    mixed = sum(np.bincount(painted[seg.labels == i]).sum() - np.bincount(painted[seg.labels == i]).max()
                for i in range(seg.n_clusters))
    assert seg.n_clusters >= 2 and mixed / painted.size < 0.15


# --- ask for what you want

@pytest.fixture(scope="module")
def mosaic():
    "Twelve flat tiles of (10, 12) pixels in five colours, with little noise."
    rng = np.random.default_rng(3)
    colours = rng.integers(20, 236, (5, 3))
    tiles = np.array([[0, 1, 2, 3], [2, 3, 4, 0], [1, 0, 3, 4]])
    image = colours[tiles].repeat(10, 0).repeat(12, 1) + rng.normal(0, 4, (30, 48, 3))
    return image.clip(0, 255).astype(np.uint8)


def pieces(labels): return len(flood(labels))


@pytest.mark.parametrize("preset", ["clusters", "segments", "paper"])
def test_exactly_as_many_as_asked_for(mosaic, quick, preset):
    for n in (1, 2, 5, 12):
        seg = segment(mosaic, preset=preset, n_segments=n, **quick)
        assert seg.n_clusters == pieces(seg.labels) == n and seg.kind == "segments" and f"{n} segments" in repr(seg)
    for n in (1, 2, 5, 9):
        seg = segment(mosaic, preset=preset, n_clusters=n, **quick)
        assert seg.n_clusters == n and seg.kind == "clusters" and f"{n} clusters" in repr(seg)


def test_asking_later_is_asking_at_once(mosaic, quick):
    seg = segment(mosaic, **quick)
    for asked in (dict(n_segments=7), dict(n_clusters=4), dict(level=0.9), dict(level=1.1, min_size=40),
                  dict(min_size=40)):
        at_once, later = segment(mosaic, **quick, **asked), seg.at(**asked)
        np.testing.assert_array_equal(at_once.labels, later.labels)
        assert {n: v for n, v in at_once.settings.items()} == later.settings
    np.testing.assert_array_equal(seg.at(level=PRESETS["segments"]["level"]).labels,
                                  segment(mosaic, preset="segments", **quick).labels)


def test_coarser_answers_are_unions_of_finer_ones(mosaic, quick):
    seg = segment(mosaic, **quick)
    for chain in ([dict(n_segments=n) for n in (30, 12, 5, 2)], [dict(level=l) for l in (0.5, 1, 2, 4)],
                  [dict(n_clusters=n) for n in (9, 5, 3)],
                  [dict(level=1, min_size=n) for n in (0, 20, 90)]):
        maps = [seg.at(**asked).labels for asked in chain]
        for fine, coarse in zip(maps, maps[1:]):
            assert len(np.unique(np.stack([fine.ravel(), coarse.ravel()]), axis=1).T) == fine.max() + 1


def test_no_segment_is_smaller_than_asked(mosaic, quick):
    seg = segment(mosaic, preset="segments", min_size=60, **quick)
    assert np.bincount(seg.labels.ravel()).min() >= 60


def test_what_cannot_be_honoured_is_said(quick, photo):
    flat = np.full((20, 30, 3), 0.5)
    with pytest.warns(UserWarning, match="n_segments=4: the photo has fewer.*1"):
        assert segment(flat, n_segments=4, **quick).n_clusters == 1
    with pytest.warns(UserWarning, match="n_clusters=4: the photo has fewer.*1"):
        assert segment(flat, n_clusters=4, **quick).n_clusters == 1
    with pytest.warns(UserWarning, match="min_labels=3 is the floor.*n_segments"):
        segment(photo, min_labels=3, n_segments=4, **quick)
    with pytest.warns(UserWarning, match="min_labels=3 is the floor"):
        segment(photo, min_labels=3, preset="segments", **quick)
    with pytest.warns(UserWarning, match="min_size=9 has no effect"):
        segment(photo, preset="paper", min_size=9, **quick)
    seg = segment(photo, **quick)
    with pytest.warns(UserWarning, match="n_segments=700.*at least 100 pixels"):
        assert seg.at(n_segments=700, min_size=100).n_clusters <= 7
    for wrong in (dict(), dict(n_segments=2, level=1), dict(n_clusters=0), dict(level=-1)):
        with pytest.raises(InputError): seg.at(**wrong)


def test_merge_and_split(mosaic, quick):
    seg = segment(mosaic, n_segments=12, **quick)
    apart = next((a, b) for a in range(12) for b in range(12) if a != b and not touching(seg.labels, a, b))
    near = next((a, b) for a in range(12) for b in range(12) if a != b and touching(seg.labels, a, b))
    merged = seg.merge(*near)
    # the first stays as it was
    assert is_result(merged, mosaic.shape) and merged.n_clusters == 11 and seg.n_clusters == 12
    assert len(np.unique(merged.labels[(seg.labels == near[0]) | (seg.labels == near[1])])) == 1
    with pytest.raises(InputError, match="do not touch"): seg.merge(*apart)
    assert seg.at(n_clusters=4).merge(0, 3).n_clusters == 3  # clusters may lie in several places
    split = seg.split(0)
    assert split.n_clusters == 13 == pieces(split.labels) and len(np.unique(split.labels[seg.labels == 0])) == 2
    for wrong in (dict(a=99, b=0), dict(a=1, b=1), dict(a=0, b=1.5)):
        with pytest.raises(InputError): seg.merge(**wrong)
    with pytest.raises(InputError, match="pixel by pixel"): segment(mosaic, preset="paper", **quick).split(0)


def touching(labels, a, b):
    pairs = {frozenset(p) for one, other in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1]))
             for p in zip(one.ravel().tolist(), other.ravel().tolist())}
    return frozenset((a, b)) in pairs


def test_strokes_are_respected(mosaic, quick):
    seg = segment(mosaic, **quick)
    strokes = np.full(mosaic.shape[:2], 255)
    strokes[3:5, 2:10], strokes[25, 40:47], strokes[15, 20:30] = 4, 9, 0
    found = seg.seeded(strokes, unmarked=255)
    assert set(np.unique(found.labels)) == {0, 4, 9} and found.labels.dtype == np.int64
    np.testing.assert_array_equal(found.labels[strokes != 255], strokes[strokes != 255])
    with pytest.raises(InputError, match="No pixel is marked"): seg.seeded(np.zeros_like(strokes))
    with pytest.raises(InputError, match="shape \\(3, 3\\)"): seg.seeded(np.zeros((3, 3), int))
    with pytest.raises(InputError, match="float64"): seg.seeded(strokes / 2)


def test_the_contour_map_holds_every_cut(mosaic, quick):
    seg = segment(mosaic, **quick)
    contours = seg.contours()
    for level in (0.5, 1.0, 2.0):
        labels = seg.hierarchy.at_pixels(seg.hierarchy.segments(level=level, min_size=0))
        border = np.zeros(labels.shape, bool)
        border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
        border[:-1] |= labels[:-1] != labels[1:]
        np.testing.assert_array_equal(contours > level, border)
    assert seg.contours(doubled=True).shape == (2 * 30 + 1, 2 * 48 + 1)


def test_a_best_number_at_the_end_of_the_range_is_no_floor(quick):
    """Forty colours, each in a block of its own: the silhouette score is best at the most groups that are tried.

    Only the paper preset takes it for a floor."""
    from dynaseg.silhouette import silhouette_phase
    rng = np.random.default_rng(0)
    image = rng.random((5, 8, 3)).repeat(4, 0).repeat(4, 1)
    assert silhouette_phase(load_image(image)).opt_nC == 26
    assert segment(image, **quick | dict(q=40)).floor == 3
    assert segment(image, preset="paper", **quick | dict(q=40)).floor == 26


@pytest.mark.parametrize("best, end, floor", [(24, "", 24), (25, "upper", 3), (26, "upper", 3), (26, "", 3)])
def test_where_a_best_number_is_near_the_end(quick, monkeypatch, best, end, floor):
    "A curve that rises to its end may have its best value a step before it."
    phase = SilhouettePhase(np.arange(3, 27), np.zeros(24), best, end)
    monkeypatch.setattr("dynaseg.segmenter.silhouette_phase", lambda pixels, seed: phase)
    image = np.random.default_rng(0).random((8, 8, 3))
    assert segment(image, **quick | dict(q=40)).floor == floor
    assert segment(image, preset="paper", **quick | dict(q=40)).floor == best


# --- pixels without data

def halves(rng):
    "(40, 60) heights: a plain at 900 on the left, a hill at 1500 on the right."
    return np.where(np.arange(60) < 30, 900.0, 1500.0) + rng.normal(0, 5, (40, 60))


WAYS_TO_LEAVE_OUT = {
    "fill value": lambda a, out: (np.where(out, -9999, a), dict(nodata=-9999)),
    "NaN": lambda a, out: (np.where(out, np.nan, a), {}),
    "masked array": lambda a, out: (np.ma.masked_array(a, out), {}),
    "mask": lambda a, out: (a, dict(mask=~out)),
}


@pytest.mark.parametrize("way", WAYS_TO_LEAVE_OUT)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rows_that_are_out_are_as_if_cut_off(way):
    """The first rows are left out, in whatever way: the fit is that of the picture without them, and the labels agree.

    (Outlines may differ by a pixel in the first row, where the slope of the colours is one-sided once the rows are
    gone.)"""
    a = halves(np.random.default_rng(0))
    out = np.zeros(a.shape, bool)
    out[:6] = True
    image, how = WAYS_TO_LEAVE_OUT[way](a, out)
    for more in ({}, {"preset": "segments"}, {"n_segments": 2}):
        seg = segment(image, progress=False, device="cpu", T=8, **how, **more)
        without = segment(a[6:], progress=False, device="cpu", T=8, **more)
        assert (seg.labels[:6] == -1).all() and (seg.valid == ~out).all()
        assert adjusted_rand_score(seg.labels[7:].ravel(), without.labels[1:].ravel()) >= 0.97
        assert seg.floor == without.floor
        np.testing.assert_array_equal(seg.history["n_labels"], without.history["n_labels"])
    assert len(np.unique(seg.labels[6:, :30])) == len(np.unique(seg.labels[6:, 30:])) == 1
    assert seg.labels[6, 0] != seg.labels[6, 59]


@pytest.mark.parametrize("preset", PRESETS)
def test_what_pixels_without_data_hold_does_not_matter(preset, photo):
    "A hole, a frame and single pixels are left out; other numbers there change nothing."
    rng = np.random.default_rng(1)
    mask = rng.random(photo.shape[:2]) < 0.95
    mask[8:14, 5:22], mask[:2] = False, False
    other = np.where(mask[..., None], photo, 255 - photo)
    how = dict(preset=preset, mask=mask, value_range=(0, 255), progress=False, device="cpu", T=4, q=16, p=8)
    if preset in NEEDS_GUIDE: how["guide"] = np.indices(mask.shape)[1] // 20
    one, two = segment(photo, **how), segment(other, **how)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert ((one.labels == -1) == ~mask).all() and one.floor == two.floor
    areas = np.bincount(one.labels[mask])
    assert (np.diff(areas) <= 0).all() and len(areas) == one.n_clusters
    for name in ("n_labels", "sim", "con"): np.testing.assert_array_equal(one.history[name], two.history[name])


def test_a_mask_that_is_true_everywhere_changes_nothing(photo, quick):
    whole, masked = segment(photo, **quick), segment(photo, mask=np.ones(photo.shape[:2], bool), **quick)
    assert masked.valid is None
    np.testing.assert_array_equal(masked.labels, whole.labels)
    np.testing.assert_array_equal(masked.history["loss"], whole.history["loss"])


def test_islands_stay_apart(quick):
    "A cross without data parts the picture into four: no segment lies in two of them, a cluster may."
    a = np.full((24, 30), 0.5) + np.random.default_rng(0).normal(0, 0.02, (24, 30))
    mask = np.ones(a.shape, bool)
    mask[11:13], mask[:, 14:16] = False, False
    seg = segment(a, mask=mask, n_clusters=1, value_range=(0, 1), **quick)
    assert seg.hierarchy.islands == 4 and seg.n_clusters == 1 and (seg.labels[mask] == 0).all()
    with pytest.warns(UserWarning, match="part the photo into 4 pieces"): four = seg.at(n_segments=1)
    quarters = np.add.outer(np.arange(24) > 11, 2 * (np.arange(30) > 14))
    assert four.n_clusters == 4
    for k in range(4): assert len(np.unique(four.labels[mask & (quarters == k)])) == 1
    assert len(np.unique(four.regions()[mask])) == 4 and (four.regions()[~mask] == -1).all()
    assert (seg.at(n_segments=6).n_clusters, seg.at(n_segments=6).labels[~mask].max()) == (6, -1)
    contours = seg.contours()
    assert np.isfinite(contours).all() and contours[11:13].max() == 0
    with pytest.raises(InputError, match="do not touch"): four.merge(0, 1)
    with pytest.raises(InputError, match="no label here"): four.merge(0, -1)


def test_strokes_on_pixels_without_data_do_not_count(photo, quick):
    mask = np.ones(photo.shape[:2], bool)
    mask[:, :4] = False
    seg = segment(photo, mask=mask, **quick)
    strokes = np.zeros(mask.shape, int)
    strokes[:, :4], strokes[3, 10:20], strokes[20, 10:20] = 7, 1, 2
    assert np.unique(seg.seeded(strokes).labels).tolist() == [-1, 1, 2]
    with pytest.raises(InputError, match="No pixel is marked"): seg.seeded(np.where(mask, 0, strokes))


def test_everything_that_is_kept_of_a_picture_with_holes(photo, quick, tmp_path):
    mask = np.tri(*photo.shape[:2], 9) > 0
    seg = segment(photo, mask=mask, n_segments=5, **quick)
    again = Segmentation.load(seg.save(tmp_path / "a.npz"))
    assert (again.valid == mask).all() and again.meta == seg.meta and again.meta["axes"] == "YXC"
    np.testing.assert_array_equal(again.at(n_segments=3).labels, seg.at(n_segments=3).labels)
    for other in (seg.at(n_clusters=2), seg.split(0)): assert other.valid is seg.valid and other.meta == seg.meta
    stored = np.asarray(Image.open(seg.save(tmp_path / "a.png")))
    assert (stored[~mask] == 255).all() and (stored[mask] == seg.labels[mask]).all()
    shifted = np.asarray(Image.open(seg.save(tmp_path / "b.png", nodata=0)))
    assert (shifted == seg.labels + 1).all()
    assert (overlay(photo, seg.labels, edges=False)[~mask] == NO_DATA).all()


def test_a_picture_that_is_mostly_hole(quick):
    "Thousands of single pixels, no two of which touch, still fall into two clusters."
    a = np.where(np.arange(80) < 40, 0.2, 0.8) + np.random.default_rng(0).normal(0, 0.01, (80, 80))
    mask = np.zeros(a.shape, bool)
    mask[::2, ::2] = True
    seg = segment(a, mask=mask, n_clusters=2, max_pixels=0, value_range=(0, 1), **quick | dict(M=1))
    left, right = seg.labels[::2, :40:2], seg.labels[::2, 40::2]
    assert seg.n_clusters == 2 and (left == left[0, 0]).all() and (right == 1 - left[0, 0]).all()


# --- what is read

def test_pages(quick, photo):
    stack = np.stack([photo[..., 0], photo[..., 1], photo[..., 2] // 4])
    results = segment(stack, axes="ZYX", pages="all", **quick)
    assert [seg.meta["page"] for seg in results] == [1, 2, 3] and [seg.settings["page"] for seg in results] == [1, 2, 3]
    assert {seg.meta["value_range"] for seg in results} == {(0, 255)}  # one range for all: a dark page stays dark
    for seg in results: # the same clusters, whatever their numbers
        again = segment(stack, **seg.settings, progress=False).labels
        assert adjusted_rand_score(again.ravel(), seg.labels.ravel()) == 1
    np.testing.assert_array_equal(segment(stack, axes="ZYX", page=2, **quick).labels,
                                  segment(photo[..., 1], **quick).labels)
    with pytest.raises(InputError, match="page=2 and pages='all'"):
        segment(stack, axes="ZYX", page=2, pages="all", **quick)
    with pytest.raises(InputError, match="an estimator is for one image"):
        DynaSeg(axes="ZYX", pages="all", **quick).fit(stack)
    with pytest.raises(InputError, match="page=4"): segment(stack, axes="ZYX", page=4, **quick)


def test_clusters_keep_their_numbers_through_the_pages(quick):
    "The bright square is the smaller part of page 1 and the larger one of page 2."
    stack = np.full((3, 24, 24), 30, np.uint8)
    for page, size in enumerate((8, 20, 10)): stack[page, :size, :size] = 220
    results = segment(stack, axes="ZYX", pages="all", n_clusters=2, **quick)
    for seg, size in zip(results, (8, 20, 10)):
        assert seg.labels[0, 0] == 1 and seg.labels[-1, -1] == 0
        assert (seg.at(n_clusters=2).labels[0, 0] == 0) == (size == 20)  # a new question, numbered by area


def test_segments_of_pages_are_not_matched(quick, photo):
    stack = np.stack([photo[..., 0], photo[..., 1]])
    with pytest.warns(UserWarning, match="2 pages, each segmented by itself"):
        results = segment(stack, axes="ZYX", pages="all", n_segments=3, **quick)
    assert all(np.bincount(seg.labels.ravel()).tolist() == sorted(np.bincount(seg.labels.ravel()), reverse=True)
               for seg in results)


def test_a_stack_says_that_it_is_one(tmp_path, quick, photo):
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([photo[..., 0]] * 8), photometric="minisblack")
    with pytest.warns(UserWarning, match="This is page 1 of 8 of .*stack.tif"):
        seg = segment(tmp_path / "stack.tif", **quick)
    assert (seg.meta["page"], seg.meta["pages"]) == (1, 8)


@pytest.mark.parametrize("wrong, words", [(dict(axes="YYX"), "axes='YYX'"), (dict(axes=3), "axes=3"),
                                          (dict(value_range=(1, 1)), r"value_range=\(1, 1\)"),
                                          (dict(nodata="x"), "nodata='x'"), (dict(nodata=True), "nodata=True"),
                                          (dict(page=0), "page=0"),
                                          (dict(pages="odd"), "pages='odd'; expected 'all'"),
                                          (dict(nodata=[[1]]), "nodata=")])
def test_wrong_settings_of_reading(wrong, words):
    with pytest.raises(InputError, match=words): check_settings(device="cpu", **wrong)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_the_same_photo_in_other_numbers_gives_the_same_segments(bits, photo, quick):
    whole = (photo / 255 * (2**bits - 1)).round().astype(np.uint16)
    whole[0, 0] = 2**bits - 1
    eight = np.where(whole == 2**bits - 1, 255, photo).astype(np.uint8)
    for how in ({}, {"preset": "segments"}, {"preset": "paper"}):
        one, other = (segment(x, **quick | how).labels.ravel() for x in (eight, whole))
        assert adjusted_rand_score(one, other) >= 0.9


def test_a_picture_that_was_read_is_taken_as_it_is(photo, quick):
    picture = read_image(photo, mask=np.tri(24, 30, 9), value_range=(0, 200))
    seg = segment(picture, **quick)
    assert seg.valid is picture.valid and seg.meta == picture.meta
    np.testing.assert_array_equal(seg.labels,
                                  segment(photo, mask=np.tri(24, 30, 9), value_range=(0, 200), **quick).labels)


# --- one source of settings

def test_every_setting_has_words_for_help():
    for thing in (segment, DynaSeg):
        for name in inspect.signature(segment).parameters:
            if name != "image": assert f"\n{name} : " in thing.__doc__, name
    assert "[default: 20; paper, dynaguide: 1000]" in " ".join(segment.__doc__.split())  # T
    assert "a whole number of at least 2, optional" in segment.__doc__  # q


def test_a_new_setting_is_one_line(tmp_path, python, repo):
    "A parameter is added to the signature of a copy; the check, the estimator, help and the command line know it."
    import shutil
    shutil.copytree(repo / "dynaseg", tmp_path / "dynaseg", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "dynaseg" / "segmenter.py"
    text = file.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines(keepends=True) if line.startswith("    M: whole(1) = None, # "))
    assert text.count(line) == 1
    file.write_text(text.replace(line, line + "    zeal: whole(1, 9) = 3, # how hard it tries, from 1 to 9\n"),
                    encoding="utf-8")
    out = python(
        """
import inspect, sys
sys.path.insert(0, sys.argv[1])
from typer.testing import CliRunner
from dynaseg import DynaSeg, segment
from dynaseg.cli import app
from dynaseg.segmenter import check_settings
assert DynaSeg(zeal=4).get_params()["zeal"] == 4 and DynaSeg().zeal == 3
assert check_settings(zeal=5).settings["zeal"] == 5
try: check_settings(zeal=10)
except ValueError as e: print(e)
assert "how hard it tries" in segment.__doc__ and "how hard it tries" in DynaSeg.__doc__
helps = [CliRunner().invoke(app, [command, "--help"]).output for command in ("segment", "folder")]
print("--zeal" in helps[0], "how hard it tries" in helps[1])
""",
        tmp_path,
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    assert out.splitlines() == ["zeal=10; expected a whole number from 1 to 9.", "True True"]


# --- determinism and invariance

CODE = """
import hashlib, sys
import numpy as np, torch
torch.set_num_threads(1)
from dynaseg import segment
photo = np.load(sys.argv[1])
torch.rand(5), np.random.rand(3)
seg = segment(photo, M=1, p=8, q=8, T=6, progress=False, device="cpu", seed=int(sys.argv[2]), max_pixels=300)
print(hashlib.sha256(seg.labels.tobytes()).hexdigest(), seg.floor, *seg.history["loss"].tolist())
"""


def test_same_seed_same_labels_in_one_process_and_in_two(photo, quick, python, digest, tmp_path):
    np.save(tmp_path / "photo.npy", photo)
    here, again, other = (segment(photo, seed=s, max_pixels=300, **quick) for s in (5, 5, 6))
    np.testing.assert_array_equal(here.labels, again.labels)
    for name in HISTORY[:-1]: np.testing.assert_array_equal(here.history[name], again.history[name])
    assert not np.array_equal(here.history["loss"], other.history["loss"])
    there = python(CODE, tmp_path / "photo.npy", 5).split()
    assert there[:2] == [digest(here.labels), str(here.floor)]
    assert [float(v) for v in there[2:]] == here.history["loss"].tolist()


THREADS = """
import hashlib, sys
import numpy as np, torch
from dynaseg import segment
x = np.random.default_rng(0).random((100, 120, 3))
print(torch.get_num_threads())
# of light work, of heavy work, a network that is fitted, one that keeps its weights and takes part in the merging
for features, freeze, q in (("cnn", None, 16), ("cnn", None, 100), ("resnet18-stem", None, 16),
                            ("resnet18-stem", True, 16)):
    seg = segment(x, p=q, q=q, M=3, T=3, max_pixels=0, min_labels=2, features=features, freeze=freeze, weights=None,
                  progress=False, device="cpu")
    print(hashlib.sha256(seg.labels.tobytes()).hexdigest(), *seg.history["loss"].tolist())
"""


def test_the_number_of_threads_does_not_matter(python):
    one, two = (python(THREADS, OMP_NUM_THREADS=n, OMP_WAIT_POLICY="PASSIVE").splitlines() for n in "12")
    assert (one[0], two[0]) == ("1", "2") and one[1:] == two[1:]


def test_a_table_of_pixels_is_no_image(photo, quick):
    with pytest.raises(InputError, match=r"X has the shape \(720, 3\); expected one image .*reshape"):
        DynaSeg(**quick).fit_predict(photo.reshape(-1, 3))
    assert DynaSeg(**quick).fit_predict(photo[:, :3, :1]).shape == (24, 3)


def test_a_damaged_file_is_no_segmentation(photo, quick, tmp_path):
    segment(photo, **quick).save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    for damaged in (b"", whole[:100], whole[:len(whole) // 2], whole[:2000] + bytes(40) + whole[2040:], b"no zip"):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(InputError, match="damaged.npz' is no segmentation"):
            Segmentation.load(tmp_path / "damaged.npz")


def test_warnings_name_the_line_of_the_users_program(photo, quick):
    with pytest.warns(UserWarning) as caught:
        seg = segment(photo.astype(np.int16) - 40, n_segments=10**6, min_labels=2, **quick)
        seg.at(n_segments=10**6)
        DynaSeg(**quick | dict(n_clusters=10**6)).fit(photo)
    assert len(caught) == 5 and {Path(warning.filename).name for warning in caught} == {"test_segmenter.py"}


def test_what_an_extractor_knows_takes_part_in_the_merging(quick):
    "It knows where a thing ends that colours do not show, though the fit of six updates on 300 pixels hardly does."
    noise = np.random.default_rng(0).uniform(0.4, 0.6, (60, 80, 3)).astype(np.float32)
    def knows(x):
        maps = torch.zeros(1, 1, *x.shape[2:])
        maps[..., maps.shape[3] // 4:] = 1
        return maps
    left = np.arange(80) < 20
    def found(**settings):
        labels = segment(noise, n_segments=2, **quick | dict(max_pixels=300) | settings).labels
        return max((labels == own).mean() for own in (np.where(left, 0, 1), np.where(left, 1, 0)))
    assert found(features=knows) > 0.97 > found()


def test_without_standard_error_there_is_no_bar(photo, quick, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert segment(photo, **quick | dict(progress=True)).labels.shape == photo.shape[:2]


def test_the_form_of_the_picture_does_not_matter(photo, quick, tmp_path):
    expected = segment(photo, **quick).labels
    Image.fromarray(photo).save(tmp_path / "photo.png")
    chw = torch.from_numpy(photo.copy()).permute(2, 0, 1)
    for same in (photo.astype(np.uint16) * 257, photo / 255, (photo / 255).astype(np.float32), photo.astype(int),
                 np.asfortranarray(photo),
                 chw, chw / 255, Image.fromarray(photo), tmp_path / "photo.png", str(tmp_path / "photo.png")):
        np.testing.assert_array_equal(segment(same, **quick).labels, expected)


def test_standardised_bands_take_brightness_and_contrast_away(photo, quick):
    "Another gain and offset in every band: the same fit, up to rounding. Without it, another one."
    image = load_image(photo)
    other = image * np.float32([0.5, 0.25, 0.8]) + np.float32([0.1, 0.4, 0])
    def run(x, standardised):
        return segment(x, standardised=standardised, min_labels=2, cluster_level=0, **quick)
    a, b = run(image, True), run(other, True)
    np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=0.02)
    assert (a.labels == b.labels).mean() > 0.98
    a, b = run(image, False), run(other, False)
    assert np.abs(a.history["loss"] / b.history["loss"] - 1).max() > 0.02


def test_the_program_around_it_is_left_alone(photo, quick):
    before = (
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
        random.getstate(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    original = photo.copy()
    segment(photo, seed=4, **quick)
    after = (
        torch.get_rng_state(),
        np.random.get_state()[1],
        random.getstate(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    for a, b in zip(before, after):
        assert np.array_equal(np.asarray(a, dtype=object),
                              np.asarray(b, dtype=object)) if not isinstance(a, torch.Tensor) else a.equal(b)
    np.testing.assert_array_equal(photo, original)


def test_users_random_state_does_not_matter(photo, quick):
    torch.manual_seed(1), np.random.seed(1)
    one = segment(photo, **quick).labels
    torch.manual_seed(2), np.random.seed(2)
    np.testing.assert_array_equal(segment(photo, **quick).labels, one)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)])
def test_works_where_gradients_are_switched_off(photo, quick, mode):
    "As in a notebook that opened with torch.set_grad_enabled(False) for another model."
    expected = segment(photo, **quick).labels
    with mode():
        np.testing.assert_array_equal(segment(photo, **quick).labels, expected)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


# --- why a fit stops

def test_stops_at_the_floor(photo, quick):
    seg = segment(photo, min_labels=4, **{**quick, "T": 60}, **COLLAPSE)
    counts = seg.history["n_labels"]
    assert seg.stop_reason == "floor" and seg.floor == 4
    assert counts[-1] <= 4 < counts[:-1].min() and len(counts) < 61
    assert seg.n_clusters <= counts[-1]


def test_without_a_floor_the_same_fit_collapses_further(photo, quick):
    seg = segment(photo, min_labels=None, tol=0, **{**quick, "T": 60}, **COLLAPSE)
    assert seg.floor is None and seg.stop_reason == "iterations" and seg.history["n_labels"][-1] < 4


def test_the_silhouette_floor_is_the_phases(photo, quick):
    from dynaseg.silhouette import silhouette_phase
    assert segment(photo, seed=2, **quick).floor == silhouette_phase(load_image(photo), seed=2).opt_nC


def test_stops_after_T_updates(photo, quick):
    seg = segment(photo, min_labels=None, tol=0, **{**quick, "T": 4})
    assert seg.stop_reason == "iterations" and len(seg.history["loss"]) == 4 + 1


def test_stops_when_labels_settle(photo, quick):
    seg = segment(photo, min_labels=None, tol=0.95, **{**quick, "T": 50})
    assert seg.stop_reason == "converged" and 6 <= len(seg.history["loss"]) < 51


def test_a_callback_ends_the_fit(photo, quick):
    for answer in (True, np.bool_(True)):
        steps = []
        seg = segment(photo, min_labels=None, tol=0, callback=lambda step: steps.append(step)
                      or (answer if len(steps) == 3 else None), **quick)
        assert (seg.stop_reason == "interrupted" and len(steps) == len(seg.history["loss"]) == 3
                and is_result(seg, photo.shape))
    assert segment(photo, min_labels=None, tol=0, callback=lambda step: False, **quick).stop_reason == "iterations"


def press_stop_after(n):
    seen = []
    def callback(step):
        seen.append(step)
        if len(seen) == n: raise KeyboardInterrupt
    return callback


def test_ctrl_c_at_a_prompt_returns_what_there_is(photo, quick, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    seg = DynaSeg(callback=press_stop_after(3), min_labels=None, **quick).fit(photo).segmentation_
    assert seg.stop_reason == "interrupted" and len(seg.history["loss"]) == 3 and is_result(seg, photo.shape)


def test_ctrl_c_in_a_script_is_passed_on(photo, quick, monkeypatch):
    monkeypatch.delattr(sys, "ps1", raising=False)
    model = DynaSeg(callback=press_stop_after(3), min_labels=None, **quick)
    with pytest.raises(KeyboardInterrupt): model.fit(photo)
    assert not hasattr(model, "labels_")


def test_a_signal_at_a_prompt(photo, quick, monkeypatch):
    "The real thing: SIGINT while the loop runs."
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    steps = []
    def press(step):
        return steps.append(step) or (len(steps) == 3 and signal.raise_signal(signal.SIGINT))
    seg = segment(photo, callback=press, min_labels=None, tol=0, **quick)
    assert seg.stop_reason == "interrupted" and len(seg.history["loss"]) == 3


def test_errors_of_a_callback_reach_the_user(photo, quick):
    def broken(step): raise RuntimeError("mine")
    with pytest.raises(RuntimeError, match="mine"): segment(photo, callback=broken, **quick)


# --- odd pictures

@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 12), (30, 2, 3), (2, 30, 3), (1, 2), (2, 1, 3),
                                   (2, 2, 3), (1, 40, 3), (40, 1)])
@pytest.mark.parametrize("preset", ["clusters", "segments", "paper"])
def test_odd_shapes(shape, preset, quick):
    image = np.random.default_rng(0).random(shape)
    assert is_result(segment(image, preset=preset, **{**quick, "T": 3}), shape)


@pytest.mark.parametrize("preset", ["clusters", "segments", "paper"])
@pytest.mark.parametrize("value", [0, 90, 255])
def test_constant_image(value, preset, quick):
    seg = segment(np.full((20, 30, 3), value, np.uint8), preset=preset, **quick)
    assert is_result(seg, (20, 30, 3)) and seg.floor == 1


@pytest.mark.parametrize("max_pixels", [1, 2, 3, 7])
def test_the_smallest_working_resolutions(photo, quick, max_pixels):
    assert is_result(segment(photo, max_pixels=max_pixels, **quick), photo.shape)
    assert is_result(segment(photo[:3, :3], max_pixels=max_pixels, **quick), (3, 3, 3))


# --- patches and features

def test_clusters_are_segments_of_the_tree(photo, quick):
    """As many as the network has labels in use, and each a union of segments at the cluster level.

    The fit is the same as without."""
    plain, joined = segment(photo, cluster_level=0, min_labels=None,
                            **quick), segment(photo, cluster_level=0.3, min_labels=None, **quick)
    np.testing.assert_array_equal(plain.history["loss"], joined.history["loss"])
    segments = joined.at(level=0.3).labels
    assert len(np.unique(np.stack([segments.ravel(), joined.labels.ravel()]), axis=1).T) == segments.max() + 1
    assert joined.n_clusters == min(plain.history["n_labels"][-1], segments.max() + 1)
    assert is_result(joined, photo.shape)


@pytest.mark.parametrize("preset", ["clusters", "segments"])
def test_a_flag_has_as_many_parts_as_colours(preset, quick):
    "Few patches, each of one colour: no merge is cheap, whatever most merges cost."
    flag = np.zeros((30, 60, 3))
    flag[:, 20:40], flag[:, 40:] = (1, 0.9, 0), (0.8, 0, 0.1)
    seg = segment(flag, preset=preset, **quick)
    assert seg.n_clusters == 3 and [len(np.unique(seg.labels[:, a:a + 20])) for a in (0, 20, 40)] == [1, 1, 1]


def test_the_silhouette_phase_on_features(photo, quick):
    seg = segment(photo, on="features", **quick)
    assert is_result(seg, photo.shape) and 1 <= seg.floor <= 26


# --- bad settings

@pytest.mark.parametrize("wrong, words", [
    (dict(preset="slow"), ["preset='slow'", "'paper'", "'clusters'"]),
    (dict(preset=["clusters"]), ["preset=['clusters']", "'segments'"]),
    (dict(variant="fcf"), ["variant='fcf'", "'fsf'", "'scf'"]),
    (dict(variant=None), ["variant=None", "'fsf'"]),
    (dict(variant=["fsf"]), ["variant=['fsf']", "'fsf'"]),
    (dict(mu=0), ["mu=0", "above 0"]),
    (dict(mu=-2.5), ["mu=-2.5", "above 0"]),
    (dict(mu=float("nan")), ["mu=nan", "finite"]),
    (dict(mu=3, variant=lambda q: 1.0), ["mu=3", "named variant"]),
    (dict(min_labels="auto"), ["min_labels='auto'", "'silhouette'", "below q=8"]),
    (dict(min_labels=0), ["min_labels=0", "at least 1"]),
    (dict(min_labels=8), ["min_labels=8", "below q=8"]),
    (dict(min_labels=2.5), ["min_labels=2.5", "whole number"]),
    (dict(min_labels=True), ["min_labels=True"]),
    (dict(min_labels=[3]), ["min_labels=[3]"]),
    (dict(q=1), ["q=1;", "whole number", " 2"]),
    (dict(q=2.0), ["q=2.0", "whole number"]),
    (dict(M=0), ["M=0", " 1"]),
    (dict(p=0), ["p=0", " 1"]),
    (dict(p=True), ["p=True", "whole number"]),
    (dict(T=0), ["T=0", " 1"]),
    (dict(T="100"), ["T='100'", "whole number"]),
    (dict(lr=0), ["lr=0", "above 0"]),
    (dict(lr=float("inf")), ["lr=inf", "finite"]),
    (dict(lr=1e308), ["lr=1e+308", "at most 3.40282e+38"]),
    (dict(lr=10**400), ["lr=1000", "at most 3.40282e+38"]),
    (dict(lr="fast"), ["lr='fast'", "above 0"]),
    (dict(momentum=1), ["momentum=1", "below 1"]),
    (dict(momentum=-0.1), ["momentum=-0.1", "at least 0"]),
    (dict(weight_decay=-1e-4), ["weight_decay=-0.0001", "at least 0"]),
    (dict(weight_decay=float("nan")), ["weight_decay=nan", "at least 0"]),
    (dict(tol=1.5), ["tol=1.5", "below 1"]),
    (dict(tol=float("nan")), ["tol=nan"]),
    (dict(max_pixels=-1), ["max_pixels=-1", " 0"]),
    (dict(max_pixels=10**10), ["max_pixels=10000000000", "at least 0, and at most 1e+09"]),
    (dict(max_pixels=1e6), ["max_pixels=1000000.0", "whole number"]),
    (dict(cluster_level=-1), ["cluster_level=-1", "at least 0"]),
    (dict(n_segments=0), ["n_segments=0", "at least 1"]),
    (dict(n_clusters=2.5), ["n_clusters=2.5", "whole number"]),
    (dict(level=-0.1), ["level=-0.1", "at least 0"]),
    (dict(min_size=-1), ["min_size=-1", "at least 0"]),
    (dict(n_segments=3, n_clusters=3), ["n_segments=3 and n_clusters=3", "one of them"]),
    (dict(n_segments=3, level=1), ["n_segments=3 and level=1"]),
    (dict(standardised="yes"), ["standardised='yes'", "True"]),
    (dict(autocast=1), ["autocast=1", "True or False"]),
    (dict(padding="reflect"), ["padding='reflect'", "zeros"]),
    (dict(on="colours"), ["on='colours'", "'image'", "'features'"]),
    (dict(features="vgg"), ["features='vgg'", "'cnn'"]),
    (dict(freeze="yes"), ["freeze='yes'"]),
    (dict(seed=-1), ["seed=-1", " 0"]),
    (dict(seed=0.5), ["seed=0.5", "whole number"]),
    (dict(seed=2**32), ["seed=4294967296"]),
    (dict(seed=None), ["seed=None"]),
    (dict(device="tpu"), ["device='tpu'", "'cpu'"]),
    (dict(device="cuda:77"), ["device='cuda:77'", "'cpu'"]),
    (dict(device="meta"), ["device='meta'", "'cpu'"]),
])
def test_bad_settings_are_named_before_any_work(wrong, words, photo, quick):
    with pytest.raises(InputError) as caught:
        segment("no such photo.jpg", **{**quick, **wrong})  # the image is not even opened
    for word in words: assert word in str(caught.value), (word, str(caught.value))


@pytest.mark.parametrize("image, error, words",
                         [("no such photo.jpg", FileNotFoundError, "no such photo.jpg"),
                          (np.full((3, 3), np.nan), InputError, "left out|NaN"),
                          (np.zeros((0, 3)), InputError, "no pixels"), (np.zeros((1, 1)), InputError, "1 pixel"),
                          (None, InputError, "NoneType")])
def test_bad_images_are_named(image, error, words, quick):
    with pytest.raises(error, match=words): segment(image, **quick)
    with pytest.raises(error, match=words): DynaSeg(**quick).fit(image)


def test_a_loss_that_blows_up_says_what_to_lower(photo, quick):
    with pytest.raises(InputError, match=r"loss became .* updates: lower lr or mu"): segment(photo, lr=1e30, **quick)
    with pytest.raises(InputError, match="loss became nan"): segment(photo, variant=lambda q: float("nan"), **quick)


def test_numpy_numbers_are_numbers(photo, quick):
    plain = segment(photo, mu=15, lr=0.5, min_labels=3, seed=2, tol=0.5, max_pixels=400, **quick)
    fancy = segment(photo, mu=np.float32(15), lr=np.float32(0.5), min_labels=np.int64(3), seed=np.int64(2),
                    tol=np.float64(0.5),
                    max_pixels=np.int64(400), **{**quick,
                                                 **{name: np.int64(quick[name]) for name in ("M", "p", "q", "T")}})
    np.testing.assert_array_equal(plain.labels, fancy.labels)
    assert json.dumps(fancy.settings) == json.dumps(plain.settings)


# --- progress

def test_a_bar_with_labels_and_loss_on_long_fits_only(photo, quick, capsys):
    loud = {**quick, "progress": True, "min_labels": None, "tol": 0}
    segment(photo, **loud)
    assert capsys.readouterr() == ("", "")
    def slow(step):
        return time.sleep(0.35)
    segment(photo, callback=slow, **{**loud, "T": 4})
    out, err = capsys.readouterr()
    assert out == "" and "labels=" in err and "loss=" in err and "/4" in err
    segment(photo, callback=slow, **{**loud, "progress": False, "T": 4})
    assert capsys.readouterr() == ("", "")


# --- figures

@pytest.fixture(scope="module")
def seg(photo):
    return segment(photo, M=1, p=8, q=8, T=3, progress=False, device="cpu")


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    plt.close("all")
    yield
    assert not plt.get_fignums()


def test_plot_shows_photo_and_segments(seg):
    figure = seg.plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    left, right = figure.axes
    assert (left.get_title() == "24 × 30, 3 bands"
            and right.get_title() == f"{seg.n_clusters} clusters, stopped: {seg.stop_reason}")
    np.testing.assert_allclose(left.images[0].get_array(), seg.image)
    np.testing.assert_array_equal(right.images[0].get_array(), overlay(seg.image, seg.labels))


def test_a_segmentation_shows_itself(seg):
    image = Image.open(io.BytesIO(seg._repr_png_()))
    assert image.format == "PNG" and np.asarray(image.convert("RGB")).std() > 10
    assert len(seg.plot().axes) == 2 and len(seg.plot_history().axes) == 3


@pytest.mark.parametrize("shape", [(30, 2), (2, 60, 3), (14, 15, 12)])
def test_odd_pictures_are_drawn_too(shape, quick):
    odd = segment(np.random.default_rng(0).random(shape), **quick)
    assert Image.open(io.BytesIO(odd._repr_png_())).size[0] > 100
    odd.plot_history().canvas.draw()


def test_curves_are_the_history(seg):
    count, weight, losses = seg.plot_history().axes
    drawn = {line.get_label(): line.get_ydata() for ax in (count, weight, losses) for line in ax.lines}
    for name in ("n_labels", "weight", "sim", "con", "loss"):
        np.testing.assert_array_equal(drawn[name], seg.history[name])
    assert any(list(line.get_ydata()) == [seg.floor] * 2 for line in count.lines)  # the floor


# --- files

def painted(labels):
    "A Segmentation with these labels, made by hand."
    image = np.zeros((*labels.shape, 1), np.float32)
    settings = {"n_segments": None, "level": None}
    return Segmentation(labels, image, None, "iterations", {name: np.zeros(2) for name in HISTORY}, settings, 0.0,
                        Hierarchy(image, np.ones((*labels.shape, 1), np.float32)))


@pytest.mark.parametrize("name", ["labels.png", "labels.tif", "labels.tiff", "LABELS.PNG", "été 1.png"])
def test_label_pictures_hold_the_ids(seg, tmp_path, name):
    assert seg.save(tmp_path / name) == tmp_path / name
    assert [f.name for f in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), seg.labels)


def test_more_than_256_clusters_fit_into_16_bits(tmp_path):
    labels = np.arange(600).reshape(20, 30)
    for name in ("a.png", "a.tif"):
        painted(labels).save(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), labels)
    painted(labels % 256).save(tmp_path / "b.png")
    assert np.asarray(Image.open(tmp_path / "b.png")).dtype == np.uint8


@pytest.mark.parametrize("name", ["result.npz", "RESULT.NPZ"])
def test_npz_holds_everything_without_pickle(seg, tmp_path, name):
    seg.save(tmp_path / name)
    assert [f.name for f in tmp_path.iterdir()] == [name]
    with np.load(tmp_path / name, allow_pickle=False) as file: data = {key: file[key] for key in file.files}
    np.testing.assert_array_equal(data["labels"], seg.labels)
    assert data["image"].dtype == np.uint8  # a photo of 8 bits is kept in 8
    again = Segmentation.load(tmp_path / name)
    for column in HISTORY: np.testing.assert_array_equal(again.history[column], seg.history[column])
    assert (again.stop_reason, again.floor, again.settings, again.kind,
            repr(again)) == (seg.stop_reason, seg.floor, seg.settings, seg.kind, repr(seg))
    np.testing.assert_array_equal(again.image, seg.image)
    for asked in (dict(n_segments=5), dict(n_clusters=3), dict(level=1.0), dict(min_size=30)):
        np.testing.assert_array_equal(again.at(**asked).labels, seg.at(**asked).labels)
    np.testing.assert_array_equal(again.split(0).labels, seg.split(0).labels)
    assert again.plot() is not None


def test_npz_with_a_weighting_of_ones_own_and_no_floor(photo, quick, tmp_path):
    mine = segment(photo, variant=math.sqrt, min_labels=None, **quick)
    mine.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file: assert "sqrt" in str(file["settings"])
    assert Segmentation.load(tmp_path / "a.npz").floor is None


def test_what_is_no_result_is_not_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file.*nothing.npz"): Segmentation.load(tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("no zip")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(InputError, match=f"{name}.*no segmentation.*Segmentation.save"):
            Segmentation.load(tmp_path / name)


def test_ids_that_a_picture_cannot_hold_are_refused(tmp_path):
    many = painted(np.arange(70_000).reshape(200, 350))
    with pytest.raises(InputError, match="69999.*0 to 65535"): many.save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_the_history_is_a_table_of_its_own(seg, tmp_path):
    assert seg.save_history(tmp_path / "history.csv") == tmp_path / "history.csv"
    with open(tmp_path / "history.csv", newline="") as file: rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["iteration", *HISTORY] and [int(r["iteration"])
                                                         for r in rows] == list(range(len(seg.history["loss"])))
    for name in HISTORY: np.testing.assert_allclose([float(r[name]) for r in rows], seg.history[name], rtol=1e-6)
    assert all(r["n_labels"].isdigit() for r in rows)


def test_a_history_is_not_written_over_nor_under_another_suffix(seg, tmp_path):
    with pytest.raises(InputError, match="ends in .csv"): seg.save_history(tmp_path / "history.json")
    (tmp_path / "history.csv").write_text("precious")
    with pytest.raises(FileExistsError): seg.save_history(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text() == "precious"


def test_table_polygons_and_masks_have_the_ids_of_the_regions(seg, tmp_path):
    ids = seg.regions()
    rows = seg.table().rows()
    assert [row["area"] for row in rows] == np.bincount(ids.ravel()).tolist()
    for row, feature in zip(rows, seg.polygons(), strict=True):
        assert feature["properties"] == row
        assert feature["id"] == row["id"]
        assert row["cluster"] == seg.labels[ids == row["id"]][0]
    for name in ("regions.csv", "regions.geojson", "coco.json", "regions.svg"): seg.save(tmp_path / name)
    with open(tmp_path / "regions.csv", newline="") as file:
        assert [int(row["area"]) for row in csv.DictReader(file)] == [row["area"] for row in rows]
    assert json.loads((tmp_path / "regions.geojson").read_text())["features"] == seg.polygons()
    assert ([a["area"] for a in json.loads((tmp_path / "coco.json").read_text())["annotations"]]
            == [row["area"] for row in rows])
    assert (tmp_path / "regions.svg").read_text().count("<path") == len(rows)


def test_segments_keep_their_ids_in_the_table(seg):
    few = seg.at(n_segments=6)
    assert (few.regions() == few.labels).all()
    assert few.table()["id"].tolist() == few.table()["cluster"].tolist() == list(range(6))


def test_a_place_goes_from_file_to_file(photo, quick, tmp_path):
    tags = [(33550, "d", 3, (2, 2, 0), True), (33922, "d", 6, (0, 0, 0, 100, 900, 0), True),
            (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632), True)]
    tifffile.imwrite(tmp_path / "photo.tif", photo, extratags=tags, photometric="rgb", metadata=None)
    placed = segment(tmp_path / "photo.tif", **quick).at(n_segments=4)
    placed.save(tmp_path / "labels.tif")
    placed.save(tmp_path / "regions.geojson")
    assert (read_image(tmp_path / "labels.tif").meta["georeference"]
            == read_image(tmp_path / "photo.tif").meta["georeference"])
    collection = json.loads((tmp_path / "regions.geojson").read_text())
    corners = [point for feature in collection["features"] for ring in feature["geometry"]["coordinates"]
               for point in ring]
    assert collection["crs"]["properties"]["name"].endswith("EPSG::32632")
    assert [min(corners), max(corners)] == [[100, 852], [160, 900]]
    assert placed.table()["area"].sum() == photo.shape[0] * photo.shape[1]


def test_nodata_is_for_label_pictures(tmp_path):
    some = painted(np.array([[0, 1, -1], [0, 0, -1]]))
    some.save(tmp_path / "a.png"), some.save(tmp_path / "b.tif", nodata=0)
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 1, 255], [0, 0, 255]]
    assert np.asarray(Image.open(tmp_path / "b.tif")).tolist() == [[1, 2, 0], [1, 1, 0]]
    with pytest.raises(InputError, match="nodata=0 is for label pictures"): some.save(tmp_path / "c.csv", nodata=0)
    assert some.table()["area"].tolist() == [3, 1]
    assert len(some.polygons()) == 2
    assert some.regions().tolist() == [[0, 1, -1], [0, 0, -1]]


@pytest.mark.parametrize("name", ["labels.png", "result.npz", "regions.csv", "labels.tif", "labels.ome.tif",
                                  "regions.geojson"])
def test_nothing_is_overwritten_unless_asked(seg, tmp_path, name):
    path = tmp_path / name
    path.write_text("precious")
    with pytest.raises(FileExistsError) as caught: seg.save(str(path))
    for word in (name, "overwrite=True", "--force"): assert word in str(caught.value)
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]
    seg.save(path, overwrite=True)
    assert path.read_bytes()[:8] != b"precious" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["labels.jpg", "labels", "labels.npy", ".png", "x.gif"])
def test_unknown_suffixes_are_named_with_the_known_ones(seg, tmp_path, name):
    with pytest.raises(InputError) as caught: seg.save(tmp_path / name)
    for word in (name, ".png", ".npz", ".csv"): assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(seg, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder.*nowhere.*Make it first"):
        seg.save(tmp_path / "nowhere" / "labels.png")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("there_before", [False, True])
def test_a_write_that_fails_leaves_nothing_behind(seg, tmp_path, monkeypatch, error, there_before):
    path = tmp_path / "labels.png"
    if there_before: path.write_text("precious")

    def half(self, file, *args, **kwargs):
        Path(file).write_bytes(b"\x89PNG half")
        raise error

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(type(error)): seg.save(path, overwrite=True)
    assert [f.read_text() for f in tmp_path.iterdir()] == ["precious"] * there_before


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_files_have_the_users_usual_mode(seg, tmp_path):
    seg.save(tmp_path / "labels.png")
    (tmp_path / "plain").touch()
    def mode(name):
        return stat.S_IMODE((tmp_path / name).stat().st_mode)
    assert mode("labels.png") == mode("plain")


def test_a_result_survives_pickling(seg):
    again = pickle.loads(pickle.dumps(seg))
    np.testing.assert_array_equal(again.labels, seg.labels)
    assert again.settings == seg.settings and repr(again) == repr(seg)


# --- the estimator

def test_parameters_are_the_keywords_of_segment():
    keywords = {name: p.default for name, p in inspect.signature(segment).parameters.items() if name != "image"}
    assert DynaSeg().get_params() == keywords
    assert {name: p.default for name, p in inspect.signature(DynaSeg).parameters.items()} == keywords
    assert all(p.kind is p.KEYWORD_ONLY for name, p in inspect.signature(segment).parameters.items() if name != "image")


def test_every_setting_is_passed_on(photo, tmp_path):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.tri(24, 30, 20) > 0).save(mask)
    guide = tmp_path / "guide.png"
    Image.fromarray(np.eye(24, 30, dtype=np.uint8)).save(guide)
    settings = dict(axes="YXC", page=1, pages=None, value_range=(0.0, 200.0), nodata=False, mask=str(mask),
                    preset="paper", variant="scf", mu=40.0, min_labels=3, on="features", features="cnn", weights=None,
                    freeze=False, M=2, p=6, q=7,
                    standardised=True, padding="replicate", T=3, lr=0.2, momentum=0.5, weight_decay=0.01, tol=0.1,
                    max_pixels=300, cluster_level=0.5, n_segments=None, n_clusters=3, level=None, min_size=4, seed=9,
                    device="cpu", autocast=True, scribbles=None, unmarked=0, only_scribbled=False, penalty="huber",
                    diagonals=True, guide=str(guide), guide_weight=0.5, unguided=0, guide_matching="majority")
    assert set(settings) == set(inspect.signature(segment).parameters) - {"image", "progress", "callback"}
    model = DynaSeg(progress=False, callback=None, **settings).fit(photo)
    assert {name: model.segmentation_.settings[name] for name in settings} == settings
    np.testing.assert_array_equal(model.labels_, segment(photo, progress=False, **settings).labels)
    assert ((model.labels_ == -1) == (np.tri(24, 30, 20) == 0)).all()


def test_a_device_without_bfloat16_is_named(monkeypatch):
    def refuse(*args, enabled): raise RuntimeError("no bfloat16 here") if enabled else AssertionError
    monkeypatch.setattr(torch, "autocast", refuse)
    with pytest.raises(InputError, match="autocast=True cannot be used with device='cpu'.*no bfloat16 here.*Leave "
                                         "it out"):
        check_settings(device="cpu", autocast=True)


def test_scikit_learns_manners(photo, quick):
    model = DynaSeg(**quick)
    assert not [name for name in vars(model) if name.endswith("_")]
    with pytest.raises(NotFittedError): check_is_fitted(model)
    assert model.fit(photo) is model
    check_is_fitted(model)
    assert model.labels_.shape == photo.shape[:2] and model.labels_.dtype == np.int64
    assert model.n_clusters_ == model.segmentation_.n_clusters and model.labels_ is model.segmentation_.labels
    fresh = clone(model)
    assert fresh.get_params() == model.get_params() and not hasattr(fresh, "labels_")
    np.testing.assert_array_equal(fresh.fit_predict(photo), model.labels_)
    np.testing.assert_array_equal(DynaSeg(**quick).fit_predict(photo, None), model.labels_)
    assert model.set_params(mu=3.0) is model and model.get_params()["mu"] == 3.0
    assert "T=6" in repr(DynaSeg(**quick)) and "DynaSeg" in DynaSeg(**quick)._repr_html_()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fresh)).labels_, fresh.labels_)


def test_the_constructor_only_stores():
    strange = object()
    model = DynaSeg(mu=strange, T="many")
    assert model.mu is strange and model.T == "many"
    with pytest.raises(InputError): model.fit(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="Invalid parameter"): model.set_params(nu=1)


def test_refitting_replaces_the_result(photo, quick):
    model = DynaSeg(**quick).fit(photo)
    model.fit(photo[:10])
    assert model.labels_.shape == (10, 30)


# --- the front door

def test_names_of_the_package():
    from dynaseg import segmenter, together
    assert (dynaseg.segment, dynaseg.DynaSeg,
            dynaseg.Segmentation) == (segmenter.segment, together.DynaSeg, segmenter.Segmentation)
    assert {"segment", "DynaSeg", "Segmentation"} <= set(dir(dynaseg)) and {"segment", "DynaSeg",
                                                                            "Segmentation"} <= set(dynaseg.__all__)
    assert dynaseg.__version__ and dynaseg.metrics.BestOverlap
    with pytest.raises(AttributeError): dynaseg.no_such_name


def test_a_result_draws_itself_wherever_the_front_door_was_used(python):
    out = python("import numpy as np\nfrom dynaseg import segment\n"
                 "seg = segment(np.random.default_rng(0).random((9, 9, 3)), M=1, p=4, q=4, T=2, device='cpu')\n"
                 "seg.plot(); print(seg._repr_png_()[1:4])")
    assert out == "b'PNG'"
