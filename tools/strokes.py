"""Measure segmentation from strokes: DYNASEG_DATA=... python tools/strokes.py [--seeds 0,1,2] [--every 1]

Strokes are drawn by code from the ground truth of VOC2012's photos, one for each connected region of a class, at random
but the same for the same seed. Of the scribbles in the folder `scribbles`, which people drew, one half is given and the
other scored, since those photos have no ground truth there. Every method gets the same strokes and is scored by the
mean IoU over the classes of the photo. GrabCut knows two classes, so it is tried on the photos that have two, where
OpenCV is at hand (`pip install opencv-python-headless`). Seconds are those of the processor with one thread. Rows go to
nbs/results/strokes.csv; what the file has is not done again.
"""
import argparse
import csv
import os
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt, label
from skimage.feature import multiscale_basic_features
from skimage.filters import gaussian, sobel
from skimage.graph import route_through_array
from skimage.segmentation import random_walker, watershed
from sklearn.ensemble import RandomForestClassifier

from dynaseg import segment
from dynaseg.datasets import VOC2012
from dynaseg.images import load_image

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "nbs" / "results" / "strokes.csv"
COLUMNS = ("set", "image", "seed", "method", "miou", "seconds")
VOID = 255
LEAST = 0.005  # share of the photo that a region has at least to get a stroke


def strokes_of(truth, seed):
    "(H, W) the class + 1 on strokes of three pixels' width, 0 elsewhere."
    rng = np.random.default_rng(seed)
    strokes = np.zeros(truth.shape, int)
    for name in np.unique(truth[truth != VOID]):
        parts, n = label(truth == name)
        for part in range(1, n + 1):
            region = parts == part
            if region.sum() >= LEAST * truth.size: strokes[_stroke(region, rng)] = name + 1
    return strokes


def _stroke(region, rng):
    "A way between two random places inside a region that keeps away from its border, (H, W) bool."
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    inside = np.argwhere(depth >= min(5, 0.6 * depth.max()))
    start, end = inside[rng.choice(len(inside), 2)]
    cost = np.where(region, 1 + 20 / depth.clip(1), 1e6)
    way = np.array(route_through_array(cost, start, end)[0])
    line = np.ones(region.shape, bool)
    line[way[:, 0], way[:, 1]] = False
    return (distance_transform_edt(line) <= 1.5) & region


def halved(drawn):
    """(given, kept): of each connected scribble the half on the left, or above if it is higher than wide, and the rest.

    The six photos with drawn scribbles have no ground truth here; what was drawn and not given takes its place."""
    given = np.zeros_like(drawn)
    for name in np.unique(drawn[drawn > 0]):
        parts, n = label(drawn == name, np.ones((3, 3)))
        for part in range(1, n + 1):
            places = np.argwhere(parts == part)
            along = places[:, np.ptp(places, 0).argmax()]
            first = places[along <= np.median(along)]
            given[first[:, 0], first[:, 1]] = name
    return given, np.where(given > 0, 0, drawn)


def by_watershed(image, strokes):
    return watershed(sobel(gaussian(image.mean(-1), 1)), strokes)


def by_random_walker(image, strokes):
    names = np.unique(strokes[strokes > 0])  # it numbers what it returns from 1
    return names[random_walker(image, strokes, mode="cg_j", channel_axis=-1) - 1]


def by_forest(image, strokes):
    "Each pixel by itself, from colours, edges and textures in windows of several widths (scikit-image's gallery)."
    features = multiscale_basic_features(image, channel_axis=-1, sigma_min=1, sigma_max=16)
    forest = RandomForestClassifier(n_estimators=50, max_depth=10, random_state=0, n_jobs=1)
    forest.fit(features[strokes > 0], strokes[strokes > 0])
    return forest.predict(features.reshape(-1, features.shape[-1])).reshape(strokes.shape)


def by_grabcut(image, strokes):
    "Two mixtures of colours and a cut between them (Rother and others 2004), of two classes."
    import cv2
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    first, second = np.unique(strokes[strokes > 0])
    mask = np.full(strokes.shape, cv2.GC_PR_BGD, np.uint8)
    mask[strokes == first] = cv2.GC_BGD
    mask[strokes == second] = cv2.GC_FGD
    pixels = (255 * image[..., ::-1]).round().astype(np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(pixels, mask, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    return np.where(np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)), second, first)


def has_grabcut(strokes):
    "Whether GrabCut can be tried: OpenCV is at hand, and there are two classes."
    return bool(find_spec("cv2")) and len(np.unique(strokes[strokes > 0])) == 2


def mean_iou(labels, truth):
    counts = truth != VOID
    ious = []
    for name in np.unique(truth[counts]):
        found, true = (labels == name + 1) & counts, truth == name
        ious.append((found & true).sum() / (found | true).sum())
    return float(np.mean(ious))


def timed(method, *given):
    start = time.process_time()
    return method(*given), time.process_time() - start


def rows_of(image, truth, strokes):
    "(method, labels, seconds) of every method; `fit` is what the seeded cut needs once before the first stroke."
    seg, fit = timed(lambda: segment(image, progress=False))
    seg.at(n_segments=2)
    yield "fit", None, fit
    yield "seeded", *timed(lambda: seg.seeded(strokes).labels)
    yield "in the fit", *timed(lambda: segment(image, scribbles=strokes, only_scribbled=True, progress=False).labels)
    yield "watershed", *timed(by_watershed, image, strokes)
    yield "random walker", *timed(by_random_walker, image, strokes)
    yield "random forest", *timed(by_forest, image, strokes)
    if has_grabcut(strokes): yield "GrabCut", *timed(by_grabcut, image, strokes)


def photos(seeds, every):
    "(set, name, seed, image, truth, strokes) of everything to be scored."
    records = VOC2012(Path(os.environ["DYNASEG_DATA"]) / "VOCdevkit")
    for file in sorted((Path(os.environ["DYNASEG_DATA"]) / "scribbles").glob("*_scribble.png")):
        name = file.stem.removesuffix("_scribble")
        drawn = np.array(Image.open(file)).astype(int)
        given, kept = halved(np.where(drawn == VOID, 0, drawn + 1))
        yield "scribbles", name, 0, load_image(file.with_name(f"{name}.jpg")), np.where(kept > 0, kept - 1, VOID), given
    for seed in seeds:
        for record in list(records)[::every]:
            truth = record.ground_truths[0]
            yield "strokes by code", record.name, seed, record.image, truth, strokes_of(truth, seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--every", type=int, default=1, help="every so many photos")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(csv.DictReader(FILE.open())) if FILE.exists() else []
    done = {(row["set"], row["image"], row["seed"]) for row in rows}
    with FILE.open("a", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if not rows: table.writerow(COLUMNS)
        for kind, name, seed, image, truth, strokes in photos(map(int, args.seeds.split(",")), args.every):
            if (kind, name, str(seed)) in done or len(np.unique(strokes[strokes > 0])) < 2: continue
            for method, labels, seconds in rows_of(image, truth, strokes):
                score = "" if labels is None else f"{mean_iou(labels, truth):.5f}"
                table.writerow([kind, name, seed, method, score, f"{seconds:.3f}"])
            file.flush()


if __name__ == "__main__":
    main()
