"""Processes that need not import PyTorch again: they are split off a server that has imported what most tests need."""
import os
from multiprocessing import get_context

FORKS = get_context("forkserver") if os.name == "posix" else None
PRELOADED = ["dynaseg.batch", "dynaseg.cli", "hypothesis", "matplotlib.pyplot", "nbdev.test", "skimage.color",
             "skimage.measure", "skimage.segmentation", "sklearn.cluster",
             "torch.fx.experimental.symbolic_shapes",  # comes with PyTorch's first gradient
             "tqdm.auto"]


class CannotTry(Exception):
    "This machine does not allow the scenario; says why."


def child(*args, target, daemon=True):
    "A process of its own, started. A daemon ends with this process, and may start none itself."
    if FORKS is None: raise CannotTry("no way to start a process without importing everything again")
    FORKS.set_forkserver_preload(PRELOADED)
    process = FORKS.Process(target=target, args=args, daemon=daemon)
    process.start()
    return process


def ended(process, seconds=300):
    "The exit code of a process that has to end by itself."
    process.join(seconds)
    late = process.exitcode is None
    if late: process.kill()
    assert not late, "it hangs"
    return process.exitcode


def say_into(folder):
    "From here on, what this process prints goes to the files `stdout` and `stderr` of the folder."
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), stream)
