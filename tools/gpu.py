"""Measure what a graphics card makes of dynaseg: checks first, then times, then accuracy, in the seconds that you have.

    python tools/gpu.py --pack FOLDER --root BSDS500   # where the data set is: a named subset of it, under 20 MiB
    python tools/gpu.py --data FOLDER --budget 900     # where the card is; the same command goes on where it was
    python tools/gpu.py --data FOLDER --list           # the steps, and which of them are done

Rows go to nbs/results/gpu.csv after every step, and what they say in words to gpu.txt beside it. Nothing is read from
the network. Without a card every step runs at toy size on the CPU: that proves the script and measures nothing, so
its rows go to another file, gpu-toy.csv. A step that failed has a row that says why, and is tried again the next time.
"""
import argparse
import csv
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dynaseg import __version__
from dynaseg.batch import in_words, segment_folder
from dynaseg.benchmark import score, scored
from dynaseg.datasets import BSD500
from dynaseg.fit import fit
from dynaseg.images import standardise, to_tensor, working_size
from dynaseg.labels import writing
from dynaseg.loss import loss_gradient
from dynaseg.many import REASONS, _responses, _update, _weights_by_count, fit_batch, fit_many, many_net, segment_many
from dynaseg.metrics import GROUPS
from dynaseg.network import cnn_net, labels_at
from dynaseg.segmenter import check_settings, prepare, segment
from dynaseg.speed import plain_loop
from dynaseg.weighting import fsf

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "nbs" / "results"
MOST = 20 * 2**20  # bytes of a packed subset
SUMS = [f"{group}_{what}" for group in GROUPS for what in ("sum", "count")]
COLUMNS = ["step", "what", "size", "value", "unit", "wanted", "kept", "ended", *SUMS, "seconds", "card", "date",
           "torch", "dynaseg"]


class Scale(NamedTuple):
    "How much is measured: as it stands on a card, less to prove the script where there is none."
    fast: dict = {}  # settings beside the preset clusters
    paper: dict = {}  # settings beside the preset paper
    sizes: dict = {"0.04 megapixels": 40_000, "481x321": 0}  # by name: the working resolution, 0 for the photo's own
    together: tuple = (1, 2, 4, 8, 16, 32, 64)  # photos in a batch
    several: int = 4  # photos of the other batches
    updates: int = 20  # of the fits that are compared
    long: int = 1000  # updates of the paper
    at: tuple = (5, 10, 20, 40, 100, 200, 500)  # updates at which its labels are scored on the way
    compared: int = 20  # photos whose scores are compared
    seeds: int = 3  # that say how much a score wavers by itself
    files: int = 200  # photos from files to files
    workers: tuple = (1, 4, 8)  # processes that share them
    times: int = 3  # of which the median counts


_LITTLE = dict(M=1, p=8, q=8, max_pixels=600, min_labels=2)
TOY = Scale(fast=_LITTLE | dict(T=3), paper=_LITTLE, sizes={"600 pixels": 600}, together=(1, 2), several=2, updates=3,
            long=4, at=(1, 2), compared=2, seeds=2, files=3, workers=(1,), times=1)


class Bench(NamedTuple):
    "What the steps work with."
    device: torch.device
    photos: list  # records, in the order of the subset
    scale: Scale

    def settings(self, preset, **more):
        "Of `segment`, on the device."
        own = self.scale.paper if preset == "paper" else self.scale.fast
        return dict(preset=preset, device=self.device, progress=False) | own | more

    def alike(self, n):
        "(H, W, 3) of n photos of one shape, in turn where there are fewer."
        images = [record.image for record in self.photos[:2 * n]]
        same = [image for image in images if image.shape == images[0].shape]
        return [same[i % len(same)] for i in range(n)]


# --- the data

def pack(root, folder, seed=0):
    "Copies photos and truths of BSD500, val first, in a seeded order, until 20 MiB are full; returns their names."
    folder = Path(folder).resolve()
    if folder.is_relative_to(ROOT): raise SystemExit(f"{folder} lies in the project; data belong outside of it.")
    if folder.exists(): raise SystemExit(f"{folder} exists. Choose another name.")
    names = []
    total = 0
    for split in ("val", "train"):
        records = BSD500(root, split)
        for i in np.random.default_rng(seed).permutation(len(records)):
            size = sum(file.stat().st_size for file in (records[i].path, records[i].truth_path))
            if total + size > MOST - 2**16: break  # a little for the list
            total += size
            names.append(f"{split}/{records[i].name}")
            _copy(records[i], split, folder)
    (folder / "subset.txt").write_text("\n".join(names) + "\n", encoding="ascii")
    return names


def _copy(record, split, folder):
    for kind, file in (("images", record.path), ("groundTruth", record.truth_path)):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / kind / split / file.name)


def photos_in(folder):
    "The records of a packed folder, in the order of its list; of a whole BSDS500 the val photos in the seeded order."
    listed = Path(folder) / "subset.txt"
    if not listed.is_file():
        records = BSD500(folder, "val")
        return [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    names = listed.read_text(encoding="ascii").split()
    records = {split: BSD500(folder, split) for split in dict.fromkeys(name.split("/")[0] for name in names)}
    return [records[name.split("/")[0]][name.split("/")[1]] for name in names]


# --- rows

def row(what, value, unit, size="", least=None, most=None, **more):
    "One figure; whether it keeps the bound that was wanted, if there is one."
    wanted = kept = ""
    if least is not None:
        wanted = f">= {least:g}"
        kept = "yes" if value >= least else "no"
    if most is not None:
        wanted = f"<= {most:g}"
        kept = "yes" if value <= most else "no"
    return dict(what=what, size=size, value=f"{value:.6g}", unit=unit, wanted=wanted, kept=kept, **more)


def waited(device):
    "Waits until the card has done everything that it was given."
    if device.type == "cuda": torch.cuda.synchronize(device)


def seconds_of(device, call, times=1):
    "(median of the seconds that a call takes, what the last one returned); one call before them does not count."
    result = call()
    seconds = []
    for _ in range(times):
        waited(device)
        start = time.perf_counter()
        result = call()
        waited(device)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), result


def peak(device, call):
    "(GB that the card held at most during a call, None without a card; what the call returned)."
    if device.type != "cuda": return None, call()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    waited(device)
    return torch.cuda.max_memory_allocated() / 1e9, result


@contextmanager
def tf32(on):
    "Convolutions and products of matrices on the card with 10 bits of fraction, or with all 23."
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places: place.allow_tf32 = on
    try: yield
    finally:
        for place, value in zip(places, before): place.allow_tf32 = value


PRECISIONS = {"32 bits": (False, False), "TF32": (True, False), "bfloat16": (False, True)}  # TF32, autocast


# --- checks

def about(bench):
    "Not a check: what the card is, and what PyTorch does by default."
    if bench.device.type == "cuda":
        card = torch.cuda.get_device_properties(bench.device)
        yield row("memory of the card", card.total_memory / 1e9, "GB")
        yield row("compute capability", card.major + card.minor / 10, "")
        yield row("bfloat16 at hand", torch.cuda.is_bf16_supported(), "0 or 1")
    yield row("TF32 in convolutions, by default", torch.backends.cudnn.allow_tf32, "0 or 1")
    yield row("TF32 in products of matrices, by default", torch.backends.cuda.matmul.allow_tf32, "0 or 1")
    yield row("cores of the CPU", os.cpu_count(), "cores")


def weights(bench):
    "The weights that one seed draws, here and there."
    image = bench.photos[0].image
    here, there = (prepare(image, _checked(bench.settings("clusters", device=device))).net
                   for device in ("cpu", bench.device))
    same = all(a.cpu().equal(b.cpu()) for a, b in zip(here.parameters(), there.parameters(), strict=True))
    yield row("initial weights equal to the bit", same, "0 or 1", least=1)


def nets(bench, preset):
    "(a network of the preset on the CPU, its image): the same at each call."
    checked = _checked(bench.settings(preset))
    image = bench.photos[0].image
    size = working_size(image.shape[:2], checked.settings["max_pixels"] or None)
    x = to_tensor(image, size)
    own = {name: checked.settings[name] for name in ("M", "p", "q", "padding")}
    return cnn_net(3, **own), standardise(x) if checked.settings["standardised"] else x


def _checked(settings):
    return check_settings(**{name: value for name, value in settings.items() if name != "progress"})


def labels(bench):
    "The labels after some updates, card and CPU beside each other."
    T = bench.scale.updates
    for preset in ("clusters", "paper"):
        net, x = nets(bench, preset)
        expected = [step.labels for step in fit(net, x, fsf(), T=T)]
        for name, (ten, autocast) in PRECISIONS.items():
            net, x = nets(bench, preset)
            net.to(bench.device)
            steps_there = fit(net, x.to(bench.device), fsf(), T=T, autocast=autocast)
            with tf32(ten): found = [step.labels.cpu() for step in steps_there]
            for t in sorted({0, 1, T}):
                share = (found[t] == expected[t]).double().mean().item()
                least = 0.99 if name == "32 bits" and preset == "clusters" else None
                yield row(f"labels as on the CPU, {preset}, {name}", share, "of pixels", f"{t} updates", least)


def gradient(bench):
    "Loss and gradient of the first reading against 64 bits on the CPU, with the same labels and weight."
    net, x = nets(bench, "clusters")
    exact = _gradients(net.double(), x.double())
    where = torch.device("cpu")
    yield from _errors("32 bits on the CPU", exact, bench, where, False, None)
    for name, (ten, autocast) in PRECISIONS.items():
        with tf32(ten):
            yield from _errors(name, exact, bench, bench.device, autocast, 1e-3 if name == "32 bits" else None)


def _gradients(net, x, labels=None, autocast=False):
    "(loss, gradient with respect to the response, with respect to the weights), and the labels they are for."
    maps = _responses(torch.nn.Sequential(*net.features, *net.classifier), x, autocast)[0]
    if labels is None: labels = maps.max(0).indices
    sim, con, gradient = loss_gradient(maps.detach(), labels, 0.5)
    maps.backward(gradient)
    parts = (sim + 0.5 * con, gradient, torch.cat([weight.grad.flatten() for weight in net.parameters()]))
    return [part.detach().cpu().double() for part in parts], labels.cpu()


def _errors(name, exact, bench, device, autocast, bound):
    net, x = nets(bench, "clusters")
    expected, labels = exact
    found, _ = _gradients(net.to(device), x.to(device), labels.to(device), autocast)
    for what, a, b in zip(("loss", "gradient of the response", "gradient of the weights"), found, expected):
        error = ((a - b).norm() / b.norm()).item()
        yield row(f"{what}, {name}", error, "relative error", most=bound)


def batch(bench):
    "A batch of networks beside each of them alone, on the device."
    n = bench.scale.several
    checked = _checked(bench.settings("clusters"))
    ready = [prepare(image, checked) for image in bench.alike(n)]
    for bits, T in ((64, bench.scale.updates), (32, 1), (32, bench.scale.updates)):
        kind = torch.float64 if bits == 64 else torch.float32
        own = [cnn_net(3, *(checked.settings[name] for name in ("M", "p", "q")), seed=b).to(bench.device, kind)
               for b in range(n)]
        x = torch.cat([photo.x for photo in ready]).to(kind)
        with tf32(False):
            *_, together = fit_many(many_net(own), x, fsf(), [0] * n, T=T)
            alone = torch.stack([_last(fit(net, x[b:b + 1], fsf(), T=T)).labels for b, net in enumerate(own)])
        share = (together.labels == alone).double().mean().item()
        least = {(64, T): 1, (32, 1): 0.99}.get((bits, T)) # later, roundings in 32 bits have grown
        yield row(f"labels of a batch as alone, {bits} bits", share, "of pixels", f"{T} updates", least)


def _last(steps):
    *_, step = steps
    return step


def scores(bench):
    "Scores on both devices; the difference may be as large as that of two seeds."
    chosen = bench.photos[:bench.scale.compared]
    images = [record.image for record in chosen]
    def of(device, seed):
        segs = segment_many(images, **bench.settings("clusters", seed=seed, device=device))
        return np.array([_score(seg.labels, record)["mean"] for seg, record in zip(segs, chosen)])
    there = np.array([of(bench.device, seed) for seed in range(bench.scale.seeds)])
    here = of("cpu", 0)
    noise = float(np.sqrt(2 * there.var(0, ddof=1).mean() / len(chosen)))
    yield row("mean score on the CPU", here.mean(), "mean of all, fine, coarse", f"{len(chosen)} photos")
    yield row("mean score on the device", there[0].mean(), "mean of all, fine, coarse", f"{len(chosen)} photos")
    yield row("difference of two seeds, one standard deviation", noise, "score", f"{bench.scale.seeds} seeds")
    difference = abs(here.mean() - there[0].mean())
    yield row("difference of the devices", difference, "score", most=round(2 * noise, 6))


def _score(labels, record):
    "Sums and counts of one photo, and its mean score."
    sums = scored(labels, record.ground_truths, BSD500, "best-overlap")
    return sums | {"mean": score([sums])[-1]}


# --- times

def one(bench):
    "One photo from array to segments."
    image = bench.photos[0].image
    for preset in ("clusters", "segments"):
        for autocast in (False, True):
            call = partial(segment, image, **bench.settings(preset, autocast=autocast))
            seconds, _ = seconds_of(bench.device, call, bench.scale.times)
            yield row(f"one photo, {preset}{', bfloat16' * autocast}", seconds, "s", "481x321")


def together(bench, name, B):
    "B photos in one batch: all of it, the fit alone, the memory of the card."
    settings = bench.settings("clusters", max_pixels=bench.scale.sizes[name])
    images = bench.alike(B)
    seconds, _ = seconds_of(bench.device, partial(segment_many, images, batch=B, **settings))
    yield row(f"segment_many, B={B}", B / seconds, "photos a second", name)
    checked = _checked(settings)
    ready = [prepare(image, checked) for image in images]
    fitting = partial(fit_batch, ready, checked, range(B), 10)
    gigabytes, _ = peak(bench.device, fitting)
    seconds, _ = seconds_of(bench.device, fitting)
    yield row(f"the fit alone, B={B}", B / seconds, "photos a second", name)
    if gigabytes: yield row(f"memory of the fit, B={B}", gigabytes, "GB", name)


def folder(bench, workers):
    "Files in, files out: the photos of the subset, in turn where there are fewer."
    with tempfile.TemporaryDirectory() as home:
        source = Path(home, "photos")
        source.mkdir()
        for i in range(bench.scale.files):
            path = bench.photos[i % len(bench.photos)].path
            shutil.copyfile(path, source / f"{i:03}{path.suffix}")
        summary = segment_folder(source, Path(home, "out"), workers=workers, **bench.settings("clusters"))
    if summary.errors: raise RuntimeError(next(iter(summary.errors.values())))
    most = 30 if bench.scale.files == 200 else None
    yield row(f"files in, files out, {workers} processes", summary.seconds, "s", f"{summary.done} photos", most=most)
    yield row(f"files in, files out, {workers} processes", summary.done / summary.seconds, "photos a second")


def paper(bench, B):
    "The paper's updates to the last, without floor."
    T = bench.scale.long
    checked = _checked(bench.settings("paper", T=T, min_labels=None, tol=0.0))
    ready = [prepare(image, checked) for image in bench.alike(B)]
    start = time.perf_counter()
    gigabytes, _ = peak(bench.device, partial(fit_batch, ready, checked, range(B), 10))
    seconds = (time.perf_counter() - start) / B
    yield row(f"paper preset, B={B}", seconds, "s a photo", f"{T} updates", most=5 if T == 1000 else None)
    if gigabytes: yield row(f"paper preset, B={B}", gigabytes, "GB", f"{T} updates")


class _Loop:
    "Updates of one batch of networks, without floors: what `fit_many` does between two readings, in arrays that stay."
    def __init__(self, net, x, weighting=fsf(), compiled=None):
        self.net = net
        self.x = x
        self.weights = _weights_by_count(weighting, [1] * len(x), net[-1].num_features // len(x), x)
        self.velocities = [torch.zeros_like(weight) for weight in net.parameters()]
        self.ended = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.response = partial(_responses, net) if compiled is None else torch.compile(partial(_responses, net),
                                                                                        backend=compiled)

    def __call__(self):
        "One update."
        r = self.response(self.x, False)
        maps = r.detach()
        found = maps.max(1).indices
        n = self.ended.new_zeros(maps.shape[:2]).scatter_(1, found.flatten(1), 1).sum(1)
        _, _, gradient = loss_gradient(maps, found, self.weights[n][:, None, None, None])
        self.net.zero_grad()
        r.backward(gradient)
        _update(self.net, self.velocities, self.ended, lr=0.1, momentum=0.9, weight_decay=0.0)
        return found


def captured(loop):
    "The loop as a CUDA graph: one call for all of its operations. The arrays of the loop stay the same."
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3): loop()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph): loop()
    return graph.replay


def update(bench, name, how):
    "Seconds of one update of the paper's network, done in one of several ways."
    checked = _checked(bench.settings("paper", max_pixels=bench.scale.sizes[name], min_labels=None))
    ready = prepare(bench.photos[0].image, checked)
    updates = 4 if bench.scale.long < 1000 else 20
    seconds, _ = seconds_of(bench.device, _repeated(how, ready.net, ready.x, updates), bench.scale.times)
    yield row(f"an update, {how}", seconds / updates, "s", name)


def _repeated(how, net, x, updates):
    "A function that does so many updates."
    if how in ("plain loop", "fit"):
        loop = plain_loop if how == "plain loop" else fit
        def go(): return _last(loop(net, x, fsf(), T=updates))
        return go
    backend = None if how != "compiled" else "inductor" if x.is_cuda else "aot_eager"  # nothing to compile for at toy
    step = _Loop(many_net([net]), x, compiled=backend)
    if how == "CUDA graph": step = captured(step)
    def repeat():
        for _ in range(updates): step()
    return repeat


def same_graph(bench):
    "The weights after some updates by the CUDA graph and one by one."
    ready = prepare(bench.photos[0].image, _checked(bench.settings("clusters", min_labels=None)))
    loops = [_Loop(many_net([ready.net]), ready.x) for _ in range(2)]
    replay = captured(loops[1])
    for _ in range(5): replay()
    for _ in range(3 + 5): loops[0]()  # the three that warmed the other up; capturing computes nothing
    waited(bench.device)
    pairs = zip(loops[0].net.parameters(), loops[1].net.parameters())
    worst = max(((a - b).norm() / (a.norm() + 1e-12)).item() for a, b in pairs)
    yield row("weights by CUDA graph and one by one", worst, "relative difference", "5 updates", most=1e-2)


def profile(bench):
    "Where the time of the paper's updates goes: the operations that take most of it."
    from torch.profiler import ProfilerActivity
    ready = prepare(bench.photos[0].image, _checked(bench.settings("paper", min_labels=None)))
    repeat = _repeated("many", ready.net, ready.x, 5)
    repeat()
    on_card = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with torch.profiler.profile(activities=activities) as found:
        repeat()
        waited(bench.device)
    name = "self_device_time_total" if on_card else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, name))
    total = sum(getattr(event, name) for event in events)
    for event in events[:12]:
        yield row(f"where the time goes: {event.key[:60]}", 100 * getattr(event, name) / total, "% of the time",
                  f"{event.count} calls")


# --- accuracy

def accuracy(bench, variant, first):
    "The paper preset to its end on some photos: scores on the way and in the end."
    chosen = bench.photos[first:first + bench.scale.several]
    checked = _checked(bench.settings("paper", variant=variant, T=bench.scale.long))
    groups = {}
    for record in chosen: groups.setdefault(record.image.shape, []).append(record)
    for records in groups.values():
        for record, t, reason, answer in _answers(records, checked, bench.scale.at):
            sums = _score(answer, record)
            mean = sums.pop("mean")
            yield row(f"{variant}, {t}", mean, "mean of all, fine, coarse", record.name, ended=reason, **sums)


def _answers(records, checked, at):
    "Record, update (or `end`), why its fit ended so far, and labels."
    ready = [prepare(record.image, checked) for record in records]
    names = ("T", "lr", "momentum", "weight_decay", "tol", "penalty", "diagonals")
    own = {name: checked.settings[name] for name in names}
    floors = [photo.stop_at for photo in ready]
    x = torch.cat([photo.x for photo in ready])
    net = many_net([photo.net for photo in ready])
    for t, step in enumerate(fit_many(net, x, checked.weighting, floors, **own)):
        if t in at: yield from _read(records, step, f"update {t}")
        if t % 10 == 0 and (step.ended > 0).all().item(): break
    yield from _read(records, step, "end")


def _read(records, step, when):
    for b, record in enumerate(records):
        response = step.response[b]
        used = response.max(0).indices.unique()
        answer = labels_at(response[used], record.image.shape[:2]).cpu().numpy()
        yield record, when, REASONS[step.ended[b].item()], answer


# --- steps

def steps(bench) -> dict[str, Callable]:
    "By name, in the order of their worth; each yields its rows."
    scale = bench.scale
    result = {f.__name__: partial(f, bench) for f in (about, weights, labels, gradient, batch, scores, one)}
    result |= {f"folder, {n} processes": partial(folder, bench, n) for n in scale.workers}
    result |= {f"paper B={B}": partial(paper, bench, B) for B in (1, scale.several)}
    for name in scale.sizes:
        result |= {f"together {name} B={B}": partial(together, bench, name, B) for B in scale.together}
    ways = ["plain loop", "fit", "many", *(["CUDA graph"] if bench.device.type == "cuda" else []), "compiled"]
    result |= {f"update {name} {how}": partial(update, bench, name, how) for name in scale.sizes for how in ways}
    if bench.device.type == "cuda": result["same graph"] = partial(same_graph, bench)
    result["profile"] = partial(profile, bench)
    for first in range(0, len(bench.photos), scale.several):
        for variant in ("fsf", "scf"):
            result[f"accuracy {variant} {first:03}"] = partial(accuracy, bench, variant, first)
    return result


def card_of(device):
    "The card's name; without one the words that nobody takes for a measurement."
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, toy size"


def read(file):
    "The rows that a file has; none if there is no such file."
    if not file.exists(): return []
    with open(file, newline="", encoding="utf-8") as f: return list(csv.DictReader(f))


def write(rows, file):
    "The rows, and beside them what they say; whole or not at all."
    with writing(file, overwrite=True) as draft, open(draft, "w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    with writing(file.with_suffix(".txt"), overwrite=True) as draft: draft.write_text(text(rows), encoding="utf-8")


def done(rows):
    "Names of the steps that came to their end."
    return {r["step"] for r in rows} - {r["step"] for r in rows if r["what"] == "error"}


def run(bench, file, budget, chosen=None):
    "Does the steps that are not done, while there is time; returns how many are left."
    start = time.perf_counter()
    rows = read(file)
    cards = {r["card"] for r in rows} - {card_of(bench.device)}
    if cards: raise SystemExit(f"{file} holds rows of {', '.join(sorted(cards))}; name another file with --out.")
    took = {}  # seconds of the last step of each kind
    known = steps(bench)
    todo = [name for name in known if name not in done(rows) and (not chosen or _kind(name) in chosen)]
    left = len(todo)
    for name in todo:
        kind = _kind(name)
        remaining = budget - (time.perf_counter() - start)
        if remaining <= 0: break
        if took.get(kind, 0) > remaining: continue  # another kind may still fit
        before = time.perf_counter()
        new = outcome(known[name])
        took[kind] = time.perf_counter() - before
        rows = [r for r in rows if r["step"] != name] + [_stamped(r, name, took[kind], bench) for r in new]
        write(rows, file)
        left -= 1
        print(f"{name}: {took[kind]:.1f} s", *(_words(r) for r in new), sep="\n    ", flush=True)
    return left


def _kind(name):
    "The first word of a step's name; steps of one kind take about as long."
    return name.split()[0].rstrip(",")


def outcome(step):
    "The rows of a step, or one that says what went wrong."
    try: return list(step())
    except Exception as e: return [dict(what="error", size="", value="", unit=in_words(e), wanted="", kept="")]


def _stamped(row, step, seconds, bench):
    "A row with the step, its seconds, and where and when it was made."
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")
    return row | dict(step=step, seconds=f"{seconds:.1f}", card=card_of(bench.device), date=now,
                      torch=torch.__version__, dynaseg=__version__)


# --- words

def _words(row):
    parts = [row["what"], row["size"], f"{row['value']} {row['unit']}", row["wanted"] and f"wanted {row['wanted']}",
             row["kept"] and {"yes": "kept", "no": "MISSED"}[row["kept"]]]
    return ", ".join(part.strip() for part in parts if part.strip())


def text(rows):
    "What the rows say, in Markdown: the card, the checks, the times, the scores."
    kinds = ("about", "weights", "labels", "gradient", "batch", "scores", "same graph")
    checks = [r for r in rows if r["step"] in kinds]
    scores = [r for r in rows if r["step"].startswith("accuracy") and r["what"] != "error"]
    others = [r for r in rows if r not in checks and r not in scores]
    dates = sorted({r["date"][:10] for r in rows})
    failed = sum(r["kept"] == "no" for r in rows)
    errors = sum(r["what"] == "error" for r in rows)
    head = (f"Measured on {rows[0]['card']}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, PyTorch "
            f"{rows[0]['torch']}, dynaseg {rows[0]['dynaseg']}. Of the bounds, "
            f"{sum(r['kept'] == 'yes' for r in rows)} were kept and {failed} missed; {errors} steps failed. Times are "
            f"with PyTorch's defaults, which on a card compute convolutions in TF32.")
    return "\n\n".join([head, *(_table(part) for part in (checks, others) if part), *_score_table(scores)]) + "\n"


def _table(rows):
    lines = [("what", "at", "value", "unit", "wanted", "kept"), ("---",) * 6]
    lines += [tuple(r[name] for name in ("what", "size", "value", "unit", "wanted", "kept")) for r in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _score_table(rows):
    "Of each variant and update over all its photos: the scores of the set."
    if not rows: return
    lines = [("paper preset", "photos", *GROUPS, "mean"), ("---",) * (len(GROUPS) + 3)]
    for what in dict.fromkeys(r["what"] for r in rows):
        mine = [{name: float(r[name]) for name in SUMS} for r in rows if r["what"] == what]
        lines.append((what, str(len(mine)), *(f"{value:.3f}" for value in score(mine))))
    yield "\n".join("| " + " | ".join(line) + " |" for line in lines)


def arguments(words=None):
    "The command line, understood."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed folder, or BSDS500")
    parser.add_argument("--budget", type=float, default=900, metavar="SECONDS", help="no step begins after it [900]")
    parser.add_argument("--out", type=Path, help="[nbs/results/gpu.csv; without a card gpu-toy.csv, here]")
    parser.add_argument("--steps", nargs="*", metavar="KIND", help="only some: the first words of their names")
    parser.add_argument("--list", action="store_true", help="name the steps and run nothing")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="make the folder for --data from --root")
    parser.add_argument("--root", type=Path, help="BSDS500, for --pack")
    args = parser.parse_args(words)
    if args.pack and not args.root: parser.error("--pack takes its photos from --root BSDS500.")
    if not args.pack and not args.data: parser.error("--data is missing; expected a packed folder (see --pack).")
    return args


def main(words=None):
    args = arguments(words)
    if args.pack:
        print(f"{len(pack(args.root, args.pack))} photos in {args.pack}")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    toy = device.type == "cpu"
    file = args.out or (Path("gpu-toy.csv") if toy else RESULTS / "gpu.csv")
    bench = Bench(device, photos_in(args.data), TOY if toy else Scale())
    if args.list:
        finished = done(read(file))
        for name in steps(bench): print("done" if name in finished else "    ", name)
        return
    if toy: print("no card here: everything at toy size on the CPU, which measures nothing", file=sys.stderr)
    left = run(bench, file, args.budget, args.steps)
    print(f"\n{left} steps left; the same command goes on." if left else f"\nAll done: {file}")


if __name__ == "__main__":
    main()
