"""Measure a preset on BSD500 photos: one CSV row per photo, seed and iteration looked at.

    DYNASEG_DATA=... python tools/measure.py nbs/results/fast.csv --preset fast --every 5 --seeds 0,1,2
    DYNASEG_DATA=... python tools/measure.py nbs/results/paper.csv --preset paper --photos 101085 --T 100 --at 20,40,60

The photos are every n-th of the val split's sorted list (`--every`), or those named (`--photos`). Rows are appended as they come,
and (photo, variant, seed) that the file has already for these superpixels are left out, so a run that was stopped goes on. `08_metrics` shows the tables.
"""
import argparse
import csv
import os
from pathlib import Path

from dynaseg import segment
from dynaseg.datasets import BSD500
from dynaseg.images import labels_at
from dynaseg.metrics import GROUPS, BestOverlap
from dynaseg.segmenter import check_settings

COLUMNS = ["preset", "variant", "superpixels", "photo", "seed", "iteration", "n_labels", "stop_reason", "seconds",
           *(f"{group}_{what}" for group in GROUPS for what in ("sum", "count"))]


def scored(labels, truths):
    "The sums and counts of the best-overlap protocol for one label map."
    score = BestOverlap()
    score.update(labels, truths)
    return [x for group in GROUPS for x in (round(score.sums[group], 6), score.counts[group])]


def rows_of(record, variant, seed, at, settings):
    "One row for each iteration in `at`, and one for the result."
    rows, truths, size = [], record.ground_truths, record.image.shape[:2]
    label = [settings["preset"], variant, check_settings(**settings)[0]["superpixels"], record.name, seed]

    def look(step):
        look.iteration += 1
        if look.iteration in at:
            labels = labels_at(step.response[step.labels.unique()], size).cpu().numpy()
            rows.append([*label, look.iteration, step.n_labels, "", "", *scored(labels, truths)])
    look.iteration = -1

    seg = segment(record.image, variant=variant, seed=seed, callback=look, device="cpu", progress=False, **settings)
    iterations = len(seg.history["loss"]) - 1
    return [*rows, [*label, iterations, seg.n_clusters, seg.stop_reason, round(seg.seconds, 3), *scored(seg.labels, truths)]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--variants", default="fsf,scf")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--photos", help="names of val photos, with commas between them")
    parser.add_argument("--T", type=int)
    parser.add_argument("--superpixels", type=float)
    parser.add_argument("--at", default="", help="iterations to score on the way, without the superpixels' vote")
    args = parser.parse_args()

    records = BSD500(os.environ["DYNASEG_DATA"] + "/BSDS500", "val", subset=args.photos.split(",") if args.photos else None)
    records = list(records) if args.photos else list(records)[:: args.every]
    at = {int(i) for i in args.at.split(",") if i}
    settings = {"preset": args.preset, "T": args.T, "superpixels": args.superpixels}

    superpixels = check_settings(**settings)[0]["superpixels"]

    args.out.parent.mkdir(parents=True, exist_ok=True)
    new = not args.out.exists()
    have = set() if new else {(r["variant"], float(r["superpixels"]), r["photo"], r["seed"]) for r in csv.DictReader(args.out.open()) if r["stop_reason"]}
    with args.out.open("a", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if new: table.writerow(COLUMNS)
        for record in records:
            for variant in args.variants.split(","):
                for seed in args.seeds.split(","):
                    if (variant, superpixels, record.name, seed) in have: continue
                    table.writerows(rows_of(record, variant, int(seed), at, settings))
                    file.flush()


if __name__ == "__main__":
    main()
