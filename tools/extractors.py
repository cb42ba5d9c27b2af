"""Measure the extractors of the tutorial nbs/tutorials/extractors.ipynb on BSD500 photos, for its tables.

    DYNASEG_DATA=... python tools/extractors.py              # into nbs/results/extractors.csv
    DYNASEG_DATA=... python tools/extractors.py --imagenet   # and the ResNets with ImageNet's weights, where they can
    be downloaded
    DYNASEG_DATA=... python tools/extractors.py --levels     # merge trees level by level, on all photos of the val
    split, into nbs/results/bsd500-val-levels-extractors.csv

Photos and settings are those of the notebook: its cells that only import or define are run. DYNASEG_DATA names a folder
that holds BSDS500. A run that was stopped goes on where it was. After a change of the method or of a setting, delete
the file first; then run the notebook (`python tools/run_notebooks.py nbs/tutorials/extractors.ipynb`).
"""
import argparse
import ast
import json
import os
import sys
from functools import partial
from pathlib import Path

import torch

from dynaseg import segment
from dynaseg.benchmark import evaluate
from dynaseg.datasets import BSD500
from dynaseg.hierarchies import TREE_LEVELS, Family, evaluate_levels, merge_tree
from dynaseg.pretrained import response_net
from dynaseg.images import InputError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "nbs" / "tutorials" / "extractors.ipynb"
RESULTS = ROOT / "nbs" / "results"


def defining(source):
    "Whether a cell only imports and defines: functions, classes, and constants in capitals."
    try: body = ast.parse(source).body
    except SyntaxError: return False # a magic
    def constant(s):
        return isinstance(s, ast.Assign) and all(isinstance(t, ast.Name) and t.id.isupper() for t in s.targets)
    return not source.startswith("#|") and all(isinstance(s,
                                                          (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))
                                               or constant(s) for s in body)


def definitions(path):
    "What the notebook's defining cells give, by name."
    names = {"__name__": "extractors"}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and defining(source): exec(compile(source, str(path), "exec"), names)
    return names


def method(settings):
    "A function of image and seed to labels."
    return lambda image, seed: segment(image, seed=seed, device="cpu", progress=False, **settings).labels


def levels(settings, seeds, args):
    "The merge trees of these settings on the val split."
    photos = BSD500(os.environ["DYNASEG_DATA"] + "/BSDS500", "val", subset=args.photos)
    trees = {name: Family(partial(merge_tree, device="cpu", **how), TREE_LEVELS, random=True)
             for name, how in settings.items()}
    evaluate_levels(photos, trees, seeds, args.out or RESULTS / "bsd500-val-levels-extractors.csv",
                    ("region", "boundary"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--imagenet", action="store_true", help="with the ResNets that ImageNet trained")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--photos", type=int, help="only the first so many")
    parser.add_argument("--levels", action="store_true", help="score merge trees level by level instead")
    args = parser.parse_args()
    if "DYNASEG_DATA" not in os.environ:
        sys.exit("DYNASEG_DATA is not set; it should name a folder that holds BSDS500.")

    torch.set_num_threads(1)
    names = definitions(NOTEBOOK)
    seeds = [int(s) for s in args.seeds.split(",")]
    if args.levels: return levels(names["KNOWING"], seeds, args)
    try: [response_net(3, **how) for how in names["IMAGENET"].values() if args.imagenet]
    except (InputError, FileNotFoundError) as e: sys.exit(str(e)) # better before the work than in each row
    settings = names["EXTRACTORS"] | names["WAYS"] | names["SIZES"] | (names["IMAGENET"] if args.imagenet else {})
    photos = BSD500(os.environ["DYNASEG_DATA"] + "/BSDS500", "val", subset=names["PHOTOS"][:args.photos])
    rows = evaluate(photos, {name: method(how) for name, how in settings.items()},
                    seeds, args.out or RESULTS / "extractors.csv")
    if failed := [row for row in rows if row["error"]]:
        sys.exit(f"{len(failed)} failed, the first with {failed[0]['error']}; delete the rows that have an error.")


if __name__ == "__main__":
    main()
