"""Measure what a guide brings: DYNASEG_DATA=... python tools/guide.py [--split val] [--images 3096,105025] [--weight 1]

A guide is made from what the first annotator of a BSD500 photo drew, damaged by a known amount; or it is another
method's labels. It is scored itself, and so is the fit that follows it, against all other annotators: the best overlap
of each of their segments, and covering. Rows go to nbs/results/guide.csv; what the file has is not done again.
"""
import argparse
import csv
import os
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks import TWENTY
from extractors import NOTEBOOK, definitions
from skimage.segmentation import felzenszwalb
from sklearn.cluster import KMeans

from dynaseg import segment
from dynaseg.datasets import BSD500
from dynaseg.labels import regions
from dynaseg.metrics import BestOverlap, segmentation_covering

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "nbs" / "results" / "guide.csv"
COLUMNS = ("split", "image", "seed", "guide", "amount", "labels", "weight", "method", "regions", "all_sum",
           "all_count", "covering", "seconds")
SPARE = 8  # outputs of the network beyond the labels of the guide
SEGMENTS = 30  # of the tree, as a guide
GROUPS = 12  # of what a pretrained network sees, as a guide


def joined(truth, share, rng):
    "So many of the segments have gone into a neighbour each."
    truth = truth.copy()
    for _ in range(round(share * (len(np.unique(truth)) - 1))):
        inside = truth == rng.choice(np.unique(truth))
        beside = np.zeros_like(inside)
        beside[1:] |= inside[:-1]
        beside[:-1] |= inside[1:]
        beside[:, 1:] |= inside[:, :-1]
        beside[:, :-1] |= inside[:, 1:]
        near = np.unique(truth[beside & ~inside])
        if len(near): truth[inside] = rng.choice(near)
    return truth


def shifted(truth, pixels, rng):
    "Every border has moved so many pixels down and to the right."
    H, W = truth.shape
    return np.pad(truth, ((pixels, 0), (pixels, 0)), mode="edge")[:H, :W]


def flipped(truth, share, rng):
    "So many of the pixels have the label of a pixel somewhere else."
    others = rng.permutation(truth.ravel()).reshape(truth.shape)
    return np.where(rng.random(truth.shape) < share, others, truth)


def missing(truth, share, rng):
    "So many of the segments say nothing; one is left at least."
    names = rng.permutation(np.unique(truth))
    mute = names[:min(round(share * len(names)), len(names) - 1)]
    return np.where(np.isin(truth, mute), -1, truth)


DAMAGE = [("as drawn", "", None), ("joined", 0.5, joined), ("shifted", 4, shifted), ("shifted", 16, shifted),
          ("flipped", 0.4, flipped), ("missing", 0.5, missing), ("missing", 0.9, missing)]


def pretrained_groups(image, seed):
    """k-means of the maps of EfficientNet-Lite0 at strides 4, 8 and 16, each divided by its spread.

    The network is that of the tutorial on extractors, so its two packages are needed."""
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    with torch.no_grad(): levels = NETWORK(x)[1:]
    size = levels[0].shape[2:]
    maps = [torch.nn.functional.interpolate(level / level.std(), size, mode="bilinear") for level in levels]
    pixels = torch.cat(maps, 1)[0].flatten(1).T.numpy()
    groups = KMeans(GROUPS, n_init=1, random_state=seed).fit_predict(pixels).reshape(size)
    H, W = image.shape[:2]
    return groups[np.arange(H) * size[0] // H][:, np.arange(W) * size[1] // W]


NETWORK = definitions(NOTEBOOK)["Lite0"]((2, 4, 10)).eval()


def guides_of(record, other, seed, alone):
    "(kind, amount, labels) of every guide; alone: the fit without one."
    truth = record.ground_truths[0].astype(int)
    for kind, amount, damage in DAMAGE:
        rng = np.random.default_rng(seed)
        yield kind, amount, truth if damage is None else damage(truth, amount, rng)
    foreign = other.ground_truths[0].astype(int)
    yield "another photo's", "", np.resize(foreign if foreign.shape == truth.shape else foreign.T, truth.shape)
    yield "Felzenszwalb", "", felzenszwalb(record.image, scale=1000, sigma=0.8, min_size=400)
    yield "the tree", SEGMENTS, alone.at(n_segments=SEGMENTS).labels
    yield "EfficientNet-Lite0", GROUPS, pretrained_groups(record.image, seed)


def scored(labels, truths):
    "(connected regions, sum of the best overlaps, their count, covering by the regions)."
    score = BestOverlap()
    score.update(labels, truths)
    parts = regions(labels)
    covering = segmentation_covering(parts, truths)
    return parts.max() + 1, f"{score.sums['all']:.5f}", score.counts["all"], f"{covering:.5f}"


def rows_of(record, other, seed, weight):
    "(guide, amount, labels in it, weight, method, regions, sum, count, covering, seconds) of one photo."
    truths = record.ground_truths[1:]
    start = time.perf_counter()
    alone = segment(record.image, seed=seed, progress=False)
    yield "none", "", 0, 0, "fit", *scored(alone.labels, truths), f"{time.perf_counter() - start:.2f}"
    for kind, amount, guide in guides_of(record, other, seed, alone):
        K = len(np.unique(guide[guide >= 0]))
        yield kind, amount, K, "", "itself", *scored(guide - guide.min(), truths), ""
        start = time.perf_counter()
        q = max(alone.settings["q"], K + SPARE)
        seg = segment(record.image, guide=guide, guide_weight=weight, q=q, seed=seed, progress=False)
        yield kind, amount, K, weight, "fit", *scored(seg.labels, truths), f"{time.perf_counter() - start:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", default=TWENTY, help="names with commas between them")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--weight", type=float, default=1.0)
    args = parser.parse_args()
    rows = list(csv.DictReader(FILE.open())) if FILE.exists() else []
    done = {(row["split"], row["image"], row["seed"]) for row in rows if float(row["weight"] or 0) == args.weight}
    records = list(BSD500(os.environ["DYNASEG_DATA"], args.split, args.images.split(",")))
    with FILE.open("a", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if not file.tell(): table.writerow(COLUMNS)
        for seed in map(int, args.seeds.split(",")):
            for record, other in zip(records, records[1:] + records[:1]):
                if (args.split, record.name, str(seed)) in done: continue
                found = list(rows_of(record, other, seed, args.weight))
                table.writerows([args.split, record.name, seed, *row] for row in found)
                file.flush()


if __name__ == "__main__":
    main()
