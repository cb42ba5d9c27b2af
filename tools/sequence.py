"""Measure whether numbers stay with things: python tools/sequence.py [FILE] [--frames 30] [--size 200]

Films are made from photos that come with scikit-learn and scikit-image: a window moves, comes closer and changes its
light, so that the place of every pixel is known. Rows go to nbs/results/sequence.csv; what the file has is not done
again. Seconds are those of the processor with one thread, a frame, without the first; other work on the machine makes
them larger.
"""
import argparse
import csv
import time
from pathlib import Path

import numpy as np
import skimage.data
import torch
from sklearn.datasets import load_sample_image

from dynaseg import segment
from dynaseg.images import load_image
from dynaseg.matching import match_labels
from dynaseg.sequence import kept, made_clip, segment_sequence

FILE = Path(__file__).resolve().parent.parent / "nbs" / "results" / "sequence.csv"
COLUMNS = ("photo", "method", "frames", "kept", "kept_first", "labels", "numbers", "seconds")


def photos():
    "Name and pixels of each."
    for name in ("china", "flower"): yield name, load_image(load_sample_image(f"{name}.jpg"))
    for name in ("coffee", "rocket"): yield name, load_image(getattr(skimage.data, name)())


def timed(results):
    "The label maps of an iterator of results, and the seconds of each."
    labels, seconds = [], []
    start = time.process_time()
    for seg in results:
        labels.append(seg.labels)
        seconds.append(time.process_time() - start)
        start = time.process_time()
    return labels, seconds


def sampled(photo, clip):
    "The labels of the whole photo as each frame would show them: what is lost is lost by counting whole pixels."
    labels = segment(photo, progress=False).labels
    for (top, left, height, width), frame in zip(clip.windows, clip.frames):
        y, x = (np.floor(begin + (np.arange(n) + 0.5) * length / n).astype(int)
                for begin, length, n in ((top, height, frame.shape[0]), (left, width, frame.shape[1])))
        yield labels[y][:, x]


def methods(photo, clip):
    "(method, label maps, seconds of each frame)."
    frames = clip.frames
    yield "labels of the photo, sampled", list(sampled(photo, clip)), [np.nan] * len(frames)
    yield "frames with one update", *timed(segment_sequence(frames))
    yield "without inertia", *timed(segment_sequence(frames, inertia=0))
    yield "with two updates", *timed(segment_sequence(frames, updates=2))
    yield "network of the first frame", *timed(segment_sequence(frames, updates=0))
    alone = []
    def one_by_one():
        for frame in frames:
            alone.append(segment(frame, progress=False))
            yield alone[-1]
    labels, seconds = timed(one_by_one())
    yield "fits apart, by area", labels, seconds
    matched, more = timed(match_labels(alone))
    yield "fits apart, numbers matched", matched, np.add(seconds, more)


def row_of(photo, method, clip, labels, seconds):
    pairs = zip(labels, labels[1:], clip.windows, clip.windows[1:])
    next_one = [kept(before, after, a, b) for before, after, a, b in pairs]
    first = [kept(labels[0], after, clip.windows[0], b) for after, b in zip(labels[1:], clip.windows[1:])]
    used = [len(np.unique(one)) for one in labels]
    numbers = len(np.unique(np.concatenate([one.ravel() for one in labels])))
    return (photo, method, len(labels), f"{np.mean(next_one):.4f}", f"{np.mean(first):.4f}", f"{np.mean(used):.1f}",
            numbers, "" if np.isnan(seconds[1]) else f"{np.median(seconds[1:]):.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--size", type=int, default=200, help="height and width of a frame, pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(csv.DictReader(args.file.open())) if args.file.exists() else []
    done = {(row["photo"], row["method"]) for row in rows}
    with args.file.open("a", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if not rows: table.writerow(COLUMNS)
        for name, photo in photos():
            if (name, "fits apart, numbers matched") in done: continue
            clip = made_clip(photo, args.frames, (args.size, args.size))
            for method, labels, seconds in methods(photo, clip):
                if (name, method) not in done: table.writerow(row_of(name, method, clip, labels, seconds))
                file.flush()


if __name__ == "__main__":
    main()
