"""Make the result files that nbs/benchmarks.ipynb shows, in nbs/results/.

    DYNASEG_DATA=... python tools/benchmarks.py              # all steps
    DYNASEG_DATA=... python tools/benchmarks.py voc2012-val  # some of them
    python tools/benchmarks.py --list                        # the steps, their commands, and about how long each takes on two cores

Every step can be stopped at any time and goes on where it was. What a file has already is not done again: to measure anew, after a change
of the method or on another machine, delete the file first. DYNASEG_DATA names a folder that holds BSDS500 and VOCdevkit. Seconds only mean
something when the machine has nothing else to do.
"""
import argparse
import csv
import os
import platform
import shlex
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "nbs" / "results"
LOG = ("file", "command", "seconds", "machine", "threads", "torch")

PHOTOS = "3096,58060,105025,163085,241048"  # every 20th of the val split
TRAIN = "bsd500 --split train --subset 20 --methods ours"
ABLATIONS = [
    "--seeds 0,1,2,3,4,5,6,7,8,9",
    *(f"--mu {mu}" for mu in (5, 10, 20, 40, 80, 160)),
    *(f"--variant scf --mu {mu}" for mu in (1.25, 2.5, 5, 10, 20, 50)),
    *(f"--variant fixed --mu {mu}" for mu in (1e-6, 0.2, 1, 5)),
    *(f"--M {M}" for M in (1, 2, 3, 4)),
    *(f"--T {T}" for T in (5, 10, 20, 40, 80, 160)),
    *(f"--min-labels {floor}" for floor in ("none", 3, 6, 12)),
    "--on features",
    "--superpixels 0", "--no-standardised", "--padding zeros",
    *(f"--max-pixels {n}" for n in (10_000, 20_000, 80_000)),
]
STEPS = { # name of the file: the arguments of `dynaseg evaluate` that make it
    "bsd500-val": ["bsd500 --split val --seeds 0,1,2"],
    "voc2012-val": ["voc2012 --split val --seeds 0,1,2"],
    "voc2012-hungarian": ["voc2012 --split val --protocol 'per-image Hungarian' --methods felzenszwalb,ours"],
    "bsd500-train": ["bsd500 --split train --methods felzenszwalb,ours"],
    "ablations": [f"{TRAIN} {more}" for more in ABLATIONS],
    "on-the-way": ["bsd500 --split train --subset 20 --methods dfc,fsf,scf --T 160 --tol 0 --at 1,2,5,10,20,40,80,160"],
    "paper": [f"bsd500 --split val --images {PHOTOS} --preset paper --methods dfc,fsf,scf --T 100 --at 20,40,60,80,100"],
}
MINUTES = {}
FELZENSZWALB = ("scale", "sigma", "min_size")
SCALES, SIGMAS, SIZES = (150, 200, 250, 300, 400), (0.5, 0.6, 0.7, 0.8), (5, 10, 20, 40, 80)


def grid(file):
    "Scores Felzenszwalb's method on every second train photo: every scale with every sigma, then sizes with the best of those. A row for each."
    from dynaseg.benchmark import felzenszwalb
    from dynaseg.datasets import BSD500
    from dynaseg.metrics import BestOverlap
    photos = BSD500(os.environ["DYNASEG_DATA"], "train")[::2]
    lines = list(csv.DictReader(file.open())) if file.exists() else []
    means = {tuple(float(line[name]) for name in FELZENSZWALB): float(line["mean"]) for line in lines}
    with file.open("a", newline="") as f:
        table = csv.writer(f, lineterminator="\n")
        if not lines: table.writerow([*FELZENSZWALB, "photos", "all", "fine", "coarse", "mean"])
        def measure(values):
            if values in means: return
            score = BestOverlap()
            for photo in photos: score.update(felzenszwalb(photo.image, **dict(zip(FELZENSZWALB, values))), photo.ground_truths)
            means[values] = score.compute()["mean"]
            table.writerow([*values, len(photos), *(f"{v:.5f}" for v in score.compute().values())])
            f.flush()
        for values in product(SCALES, SIGMAS, [20]): measure(values)
        best = max(product(SCALES, SIGMAS), key=lambda v: means[*v, 20])
        for size in SIZES: measure((*best, size))


def commands():
    "Name of each file to the commands that make it, as a person would type them."
    evaluate = "dynaseg evaluate {} --root $DYNASEG_DATA --out nbs/results/{}.csv"
    return {"felzenszwalb-train": ["python tools/benchmarks.py felzenszwalb-train"],
            **{name: [evaluate.format(arguments, name) for arguments in steps] for name, steps in STEPS.items()}}


def machine():
    "The processor's name."
    try: return next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration): return platform.processor() or platform.machine()


def log(name, command, seconds):
    "Adds the time to the command's line in commands.csv, or makes the line."
    import torch
    file = RESULTS / "commands.csv"
    lines = {(r["file"], r["command"]): r for r in csv.DictReader(file.open())} if file.exists() else {}
    before = float(lines.get((name, command), {"seconds": 0})["seconds"])
    lines[name, command] = dict(zip(LOG, (name, command, round(before + seconds), machine(), torch.get_num_threads(), torch.__version__)))
    order = {key: i for i, key in enumerate((n, c) for n, cs in commands().items() for c in cs)}
    with file.open("w", newline="") as f:
        table = csv.DictWriter(f, LOG, lineterminator="\n")
        table.writeheader()
        table.writerows(lines[key] for key in sorted(lines, key=lambda key: order.get(key, len(order))) if (RESULTS / f"{key[0]}.csv").exists())


def run(name, command):
    "Runs one command of a step; whether it succeeded."
    file = RESULTS / f"{name}.csv"
    size, start = file.stat().st_size if file.exists() else 0, time.perf_counter()
    print(f"\n$ {command}", flush=True)
    if name == "felzenszwalb-train": grid(file); code = 0
    else:
        words = [os.path.expandvars(word) for word in shlex.split(command)]
        code = subprocess.run([sys.executable, "-m", "dynaseg.cli", *words[1:]], cwd=ROOT).returncode
    if code == 130: raise KeyboardInterrupt
    if file.exists() and file.stat().st_size > size: log(name, command, time.perf_counter() - start)
    return code == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(commands()))
    parser.add_argument("--list", action="store_true", help="run nothing")
    args = parser.parse_args()
    if wrong := [step for step in args.steps if step not in commands()]: parser.error(f"no step {wrong[0]!r}; expected some of {', '.join(commands())}")
    chosen = {name: steps for name, steps in commands().items() if name in (args.steps or commands())}
    if args.list:
        for name, steps in chosen.items(): print(f"{name}: about {MINUTES.get(name, '?')} minutes", *steps, "", sep="\n")
        return
    if "DYNASEG_DATA" not in os.environ: parser.error("DYNASEG_DATA is not set; expected a folder that holds BSDS500 and VOCdevkit")
    RESULTS.mkdir(exist_ok=True)
    failed = [(name, command) for name, steps in chosen.items() for command in steps if not run(name, command)]
    for name, command in failed: print(f"not whole: {name} ({command})", file=sys.stderr)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
