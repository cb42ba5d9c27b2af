"""Make the result files that nbs/benchmarks.ipynb shows, in nbs/results/.

    DYNASEG_DATA=... python tools/benchmarks.py              # all steps
    DYNASEG_DATA=... python tools/benchmarks.py voc2012-val  # some of them
    python tools/benchmarks.py --list                        # the steps, their commands, and how long each took where
    its file was made

Every step can be stopped at any time and goes on where it was. What a file has already is not done again: to measure
anew, after a change of the method or on another machine, delete the file first. DYNASEG_DATA names a folder that holds
BSDS500 and VOCdevkit. Seconds only mean something when the machine has nothing else to do.
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

# every 5th of the val split
TWENTY = ("3096,105025,109053,134035,148089,163085,175043,19021,208001,223061,"
          "241048,285079,299086,306005,38082,42049,58060,69020,86000,97033")
PHOTOS = "3096,105025,109053,134035,148089"  # the first five of them: a thousand updates take an hour each on one core
ABLATIONS = { # name of a file: (preset, what is set otherwise)
    "ablations": ("clusters", [
        "--seeds 0,1,2", # nothing else; so its own values are not run again below
        *(f"--mu {mu}" for mu in (10, 160)),
        *(f"--variant scf --mu {mu}" for mu in (1.25, 5, 50)),
        *(f"--variant fixed --mu {mu}" for mu in (0.001, 0.2, 5)),
        *(f"--M {M}" for M in (1, 3)),
        *(f"--T {T}" for T in (1, 5, 80)),
        *(f"--max-pixels {n}" for n in (10_000, 80_000)),
        *(f"--cluster-level {level}" for level in (0, 0.8, 2.2)),
        "--min-labels none", "--autocast", "--on features", "--no-standardised", "--padding zeros"]),
    "ablations-segments": ("segments", [
        "--seeds 0,1,2",
        *(f"--level {level}" for level in (0.6, 1.2, 2.0, 2.6)),
        *(f"--min-size {pixels}" for pixels in (0, 30)),
        *(f"--T {T}" for T in (1, 80)), "--autocast", "--variant scf", "--min-labels none"]),
}


def steps():
    "Name of a file: the arguments of `dynaseg evaluate` that make it, in turn."
    from dynaseg.segmenter import NEEDS_GUIDE, PRESETS
    others = [preset for preset in PRESETS if preset not in ("clusters", "paper", *NEEDS_GUIDE)]
    def all_presets(arguments, methods):
        return [f"{arguments} --methods {methods}",
                *(f"{arguments} --methods ours --preset {preset}" for preset in others)]
    def peers(arguments):
        return [*all_presets(f"{arguments} --seeds 0,1,2", "kmeans,slic,felzenszwalb,ours"),
                f"{arguments} --seeds 0,1,2 --methods dfc,fsf,scf"]
    hierarchies = "'felzenszwalb,slic,quickshift,normalised cuts'"
    taken_apart = "bsd500 --split train --subset 20 --methods ours"
    return {
        "bsd500-val": peers("bsd500 --split val"),
        "voc2012-val": peers("voc2012 --split val"),
        "bsd500-val-levels": ["bsd500 --split val --measures region,boundary --methods 'ours,no network' "
                              "--seeds 0,1,2"],
        "bsd500-train-levels": ["bsd500 --split train --measures region --methods 'ours,no network'"],
        "bsd500-val-levels-peers": [f"bsd500 --split val --measures region,boundary --methods {hierarchies} "
                                    "--seeds 0,1,2"],
        "bsd500-train-levels-peers": [f"bsd500 --split train --measures region --methods {hierarchies}"],
        "voc2012-hungarian": ["voc2012 --split val --protocol 'per-image Hungarian' --methods felzenszwalb,ours"],
        "bsd500-train": all_presets("bsd500 --split train", "felzenszwalb,ours"),
        **{name: [f"{taken_apart}{f' --preset {preset}' * (preset != 'clusters')} {more}" for more in lines]
           for name, (preset, lines) in ABLATIONS.items()},
        "on-the-way": ["bsd500 --split train --subset 10 --methods dfc,fsf,scf --T 160 --tol 0 --at "
                       "1,2,5,10,20,40,80,160"],
        "presets": [f"bsd500 --split val --images {TWENTY} --methods ours --seeds {seeds}{more}"
                    for seeds, more in (("0,1,2", ""), ("0,1,2", " --variant scf"), ("0", " --preset segments"))],
        "paper": [f"bsd500 --split val --images {PHOTOS} --preset paper --methods fsf,scf --T 100 --at 5,10,20,40,100"],
    }


# name of a file: (method of the benchmark, two constants tried together, the third: what it is meanwhile, and what is
# tried after)
GRIDS = {
    "felzenszwalb-train": (
        "felzenszwalb",
        dict(scale=(150, 200, 250, 300, 400), sigma=(0.4, 0.5, 0.6, 0.7, 0.8)),
        ("min_size", 20, (1, 5, 10, 40, 80)),
    ),
    "slic-train": (
        "slic",
        dict(n_segments=(400, 800, 1600, 3200), threshold=(10, 15, 25)),
        ("compactness", 10, (3, 30)),
    ),
}


def grid(name):
    """Scores a peer on every second train photo, a row for each setting: each pair of the first two constants, then
    each value of the third with the best pair, then the pair's neighbours with the best third."""
    from dynaseg.benchmark import METHODS
    from dynaseg.datasets import BSD500
    from dynaseg.metrics import BestOverlap
    method, pairs, (third, usual, others) = GRIDS[name]
    names, (first, second) = [*pairs, third], pairs.values()
    file, photos = RESULTS / f"{name}.csv", BSD500(os.environ["DYNASEG_DATA"], "train")[::2]
    lines = list(csv.DictReader(file.open())) if file.exists() else []
    means = {tuple(float(line[name]) for name in names): float(line["mean"]) for line in lines}
    with file.open("a", newline="") as f:
        table = csv.writer(f, lineterminator="\n")
        if not lines: table.writerow([*names, "photos", "all", "fine", "coarse", "mean"])
        def measure(*values):
            if values not in means:
                score = BestOverlap()
                for photo in photos:
                    score.update(METHODS[method](photo.image, **dict(zip(names, values))), photo.ground_truths)
                means[values] = score.compute()["mean"]
                table.writerow([*values, len(photos), *(f"{v:.5f}" for v in score.compute().values())])
                f.flush()
            return means[values]
        best = max(product(first, second), key=lambda pair: measure(*pair, usual))
        size = max([usual, *others], key=lambda value: measure(*best, value))
        i, j = first.index(best[0]), second.index(best[1])
        for pair in product(first[max(0, i - 1): i + 2], second[max(0, j - 1): j + 2]): measure(*pair, size)


def commands():
    "Name of each file to the commands that make it, as a person would type them."
    evaluate = "dynaseg evaluate {} --root $DYNASEG_DATA --out nbs/results/{}.csv"
    return {"speed": ["python -m dynaseg.speed nbs/results/speed.csv"],
            "guide": ["python tools/guide.py"],
            "sequence": ["python tools/sequence.py nbs/results/sequence.csv"],
            "bsd500-val-levels-extractors": ["python tools/extractors.py --levels --seeds 0"],
            **{name: [f"python tools/benchmarks.py {name}"] for name in GRIDS},
            **{name: [evaluate.format(arguments, name) for arguments in lines] for name, lines in steps().items()}}


def machine():
    "The processor's name."
    try: return next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration): return platform.processor() or platform.machine()


def log(name, command, seconds, fresh=False):
    """Adds the time to the command's line in commands.csv, or makes the line; for a fresh file, without the commands
    that made an earlier one."""
    import torch
    file = RESULTS / "commands.csv"
    lines = {(r["file"], r["command"]): r for r in csv.DictReader(file.open())} if file.exists() else {}
    if fresh: lines = {key: line for key, line in lines.items() if key[0] != name}
    before = float(lines.get((name, command), {"seconds": 0})["seconds"])
    lines[name, command] = dict(zip(LOG, (name, command, round(before + seconds), machine(), torch.get_num_threads(),
                                          torch.__version__)))
    order = {key: i for i, key in enumerate((n, c) for n, cs in commands().items() for c in cs)}
    with file.open("w", newline="") as f:
        table = csv.DictWriter(f, LOG, lineterminator="\n")
        table.writeheader()
        table.writerows(lines[key] for key in sorted(lines, key=lambda key: order.get(key, len(order)))
                        if (RESULTS / f"{key[0]}.csv").exists())


def run(name, command):
    "Runs one command of a step; whether it succeeded."
    file = RESULTS / f"{name}.csv"
    size, start = file.stat().st_size if file.exists() else 0, time.perf_counter()
    print(f"\n$ {command}", flush=True)
    if name in GRIDS:
        grid(name)
        code = 0
    else:
        program, *words = [os.path.expandvars(word) for word in shlex.split(command)]
        if program == "python" and file.exists(): return True
        code = subprocess.run([sys.executable, *(["-m", "dynaseg.cli"] if program == "dynaseg" else []), *words],
                              cwd=ROOT).returncode
    if code == 130: raise KeyboardInterrupt
    if file.exists() and file.stat().st_size > size: log(name, command, time.perf_counter() - start, fresh=size == 0)
    return code == 0


def main():
    known = commands()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(known))
    parser.add_argument("--list", action="store_true", help="run nothing")
    args = parser.parse_args()
    if wrong := [step for step in args.steps if step not in known]:
        parser.error(f"no step {wrong[0]!r}; expected some of {', '.join(known)}")
    chosen = {name: lines for name, lines in known.items() if name in (args.steps or known)}
    if args.list:
        log = list(csv.DictReader((RESULTS / "commands.csv").open())) if (RESULTS / "commands.csv").exists() else []
        for name, lines in chosen.items():
            took = sum(float(line["seconds"]) for line in log if line["file"] == name)
            print(f"{name}: {f'took {took / 60:.0f} minutes' if took else 'not made yet'}", *lines, "", sep="\n")
        return
    if "DYNASEG_DATA" not in os.environ:
        parser.error("DYNASEG_DATA is not set; expected a folder that holds BSDS500 and VOCdevkit")
    RESULTS.mkdir(parents=True, exist_ok=True)
    failed = [(name, command) for name, lines in chosen.items() for command in lines if not run(name, command)]
    for name, command in failed: print(f"not whole: {name} ({command})", file=sys.stderr)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
