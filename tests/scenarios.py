"""Trying to lose someone's work: kill, fill the disk, break files. Each scenario says how often it tried, and raises
AssertionError where something was lost.

test_faults.py runs them; the processes that they start import this file by its name.
"""
import ctypes
import gc
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import bombs
import forks
import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from dynaseg import batch, cli, segment
from dynaseg.images import InputError
from forks import FORKS, CannotTry, ended, say_into

SETTINGS = dict(T=2, p=4, q=4, max_pixels=2000, min_labels=2)  # small fits: it is everything around them that is tried
TINY = dict(T=1, p=2, q=2, max_pixels=500, min_labels=1)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1",
               "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])}


def what(scenario):
    "A scenario in a line: its docstring."
    return " ".join(scenario.__doc__.split())


def options(settings):
    return [x for name, value in settings.items() for x in (f"--{name.replace('_', '-')}", str(value))]


# --- photos, runs and what they leave

def album(folder, n, seed=0, block=16, noise=30):
    "n small photos of coloured blocks of that many pixels, with `noise` grey levels, every third in a folder below."
    rng = np.random.default_rng(seed)
    for i in range(n):
        path, (h, w) = folder / ("below" if i % 3 == 2 else "") / f"{i:03}.png", ((3, 4), (4, 3), (5, 6))[i % 3]
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.kron(rng.integers(0, 255, (h, w, 3)), np.ones((block, block, 1)))
        Image.fromarray((blocks + rng.integers(0, noise, blocks.shape)).clip(0, 255).astype(np.uint8)).save(path)
    return folder


def run(source, out, pipe=None):
    "What a process does that may be killed."
    torch.set_num_threads(1)
    summary = batch.segment_folder(source, out, overlays=True, progress=False, **SETTINGS)
    if pipe: pipe.send((summary.done, summary.kept, len(summary.errors)))


def child(*args, target=run): return forks.child(*args, target=target)


def told(*args, target=run):
    "What a process sends when it is done."
    here, there = FORKS.Pipe(duplex=False)
    process = child(*args, there, target=target)
    there.close()
    try: what = here.recv()
    except EOFError: raise AssertionError("it ended before its end")
    assert ended(process) == 0
    return what


def obey_permissions():
    """From here on, root is refused what the owner of its files would be:

    it gives up the two rights (Linux capabilities) to read and to write what it may not."""
    # DAC_OVERRIDE, DAC_READ_SEARCH
    libc, rights, none = ctypes.CDLL(None, use_errno=True), (1, 2), (ctypes.c_uint32 * 6)()
    for right in rights:
        # PR_CAPBSET_DROP: for programs it starts
        assert libc.prctl(24, right, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())
    assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), none) == 0, os.strerror(ctypes.get_errno())


def at_terminal(args, said, obeying):
    "What a process does that is the command `dynaseg`."
    say_into(said)
    if obeying and os.getuid() == 0: obey_permissions()
    torch.set_num_threads(1)
    sys.argv = ["dynaseg", *map(str, args)]
    cli.main()


def command(*args, obeying=False):
    "`dynaseg ARGS` in a process of its own: (exit code, stdout, stderr)."
    with tempfile.TemporaryDirectory() as said:
        code = ended(child(args, Path(said), obeying, target=at_terminal), 1800)
        return code, *((Path(said) / name).read_text(errors="replace") for name in ("stdout", "stderr"))


def one_line(code, stdout, stderr, *words):
    "Whether a command failed as it should: exit code 1, no traceback, these words."
    return code == 1 and "Traceback" not in stderr and all(word in stderr for word in words)


def in_summary(said, what):
    "The number beside `what` in the summary that `dynaseg folder` prints."
    return sum(int(line.removeprefix(what)) for line in said.splitlines() if line.startswith(what + " "))


def files(out):
    "Path to content of what looks finished: everything but what is hidden, and the manifest."
    paths = [p.relative_to(out) for p in out.rglob("*") if p.is_file()]
    return {p.as_posix(): (out / p).read_bytes() for p in paths if not any(part.startswith(".") for part in p.parts)
            and p.name != "manifest.jsonl"}


def rows(out):
    "The manifest's rows by path, without the seconds, which no two runs have in common."
    return {path: row | {"seconds": None} for path, row in batch.Manifest(out).rows.items()}


def whole(out, reference):
    "Whether a run's results are those of an undisturbed one, to the byte, with nothing half-written beside them."
    stray = [p.relative_to(out).as_posix() for p in out.rglob(".dynaseg*")
             if p.name.startswith(".dynaseg-")] + [p.name for p in (out / ".dynaseg").iterdir() if p.name != "lock"]
    assert not stray, f"left over: {stray}"
    return files(out) == files(reference) and rows(out) == rows(reference)


def undisturbed(source, home):
    "The folder with the results of a run that nothing happens to."
    assert ended(child(source, home / "reference")) == 0
    return home / "reference"


# --- scenarios

def kills(times=50, seed=0, images=10):
    """kill -9 at a random moment of a run, then on from there, again and again:

    the results are the same to the byte, and nothing finished is done twice"""
    rng, killed, ends = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as home:
        source, out = album(Path(home) / "in", images, seed), Path(home) / "out"
        reference = undisturbed(source, Path(home))
        start = time.monotonic()
        ended(child(source, Path(home) / "timed"))
        seconds = time.monotonic() - start
        before = {}
        while killed < times:
            process = child(source, out)
            process.join(rng.uniform(0, seconds))
            if process.exitcode is None:
                process.kill()
                process.join()
                killed += 1
            else: assert process.exitcode == 0
            after = batch.Manifest(out).rows
            assert all(after.get(path) == row
                       for path, row in before.items()), "what was finished is gone, or was done again"
            assert all(content == files(reference)[name]
                       for name, content in files(out).items()), "a file looks finished and is not"
            before = after
            if process.exitcode == 0:
                assert whole(out, reference)
                shutil.rmtree(out)
                ends += 1
                before = {}
        assert ended(child(source, out)) == 0 and whole(out, reference)
    return killed, f"{images} images; {ends + 1} runs came to their end in between"


def counted(source, out, last, pipe=None):
    "A run that kills itself before a given one of its calls that change the disk."
    calls = 0
    def before(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == last: os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call
    for name in ("fsync", "replace", "unlink", "mkdir"): setattr(os, name, before(getattr(os, name)))
    run(source, out)
    if pipe: pipe.send(calls)


def steps(times=None, seed=0, images=3):
    """kill -9 before every single call that changes the disk, one after the other, and on from there:

    the results are the same to the byte"""
    with tempfile.TemporaryDirectory() as home:
        source = album(Path(home) / "in", images, seed)
        reference = undisturbed(source, Path(home))
        n = told(source, Path(home) / "counted", 0, target=counted)
        chosen = range(1, n + 1) if times is None else sorted(random.Random(seed).sample(range(1, n + 1), times))
        for last in chosen:
            out = Path(home) / f"out{last}"
            assert ended(child(source, out, last, target=counted)) == -signal.SIGKILL
            assert all(
                content == files(reference)[name] for name, content in (files(out) if out.exists() else {}).items()
            ), f"a file looks finished and is not (call {last})"
            assert ended(child(source, out)) == 0 and whole(out, reference), f"call {last}"
    return len(chosen), f"{images} images, {n} calls"


def together(times=5, seed=0, images=12):
    "two runs on one output folder at once: every image done once, results as from one run"
    for i in range(times):
        with tempfile.TemporaryDirectory() as home:
            source, out = album(Path(home) / "in", images, seed + i), Path(home) / "out"
            pipes = [FORKS.Pipe(duplex=False) for _ in range(2)]
            both = [child(source, out, there) for _, there in pipes]
            assert [ended(p) for p in both] == [0, 0]
            counts = [here.recv() for here, _ in pipes]
            assert sum(done for done, _, _ in counts) == images and not any(failed for _, _, failed in counts), counts
            assert told(source, out) == (0, images, 0) and whole(out, undisturbed(source, Path(home)))
    return times, f"{images} images"


def launched(source, out, *more):
    """torchrun, started.

    All its processes keep to one core, so that each computes with one thread, as the reference does."""
    one_core = (
        (lambda: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])) if hasattr(os, "sched_setaffinity") else None
    )
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *more, "--max-restarts", "3",
                             "--monitor-interval", "0.2",
                             "-m", "--", "dynaseg.cli", "folder", str(source), str(out), "--overlays",
                             *options(SETTINGS), "--no-progress"],
                            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            preexec_fn=one_core)


def output(process, seconds=900):
    "What a started command has said in the end."
    try: return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError("it hangs")


def children(pid):
    "The processes that one has started."
    parents = ((int(p.parent.name), p.read_text().rpartition(")")[2].split()[1])
               for p in Path("/proc").glob("[0-9]*/stat"))
    return sorted(child for child, parent in parents if parent == str(pid))


def kill_a_worker(launcher, out, seed):
    "Waits for the first result, then kills one of the launcher's processes."
    while not files(out) and launcher.poll() is None: time.sleep(0.01)
    workers = children(launcher.pid) if launcher.poll() is None else []
    if workers: os.kill(random.Random(seed).choice(workers), signal.SIGKILL)
    return bool(workers)


def torchrun(times=2, seed=0, images=40):
    "torchrun with two workers, one killed with -9: it is started again, the folder is completed"
    if not Path("/proc/self/stat").exists(): raise CannotTry("no /proc to find the workers in")
    for i in range(times):
        with tempfile.TemporaryDirectory() as home:
            source, out = album(Path(home) / "in", images, seed + i), Path(home) / "out"
            out.mkdir()
            launcher = launched(source, out, "--standalone", "--nproc-per-node", "2")
            hit = kill_a_worker(launcher, out, seed + i)
            said = output(launcher)
            assert hit and launcher.returncode == 0, said
            assert whole(out, undisturbed(source, Path(home))), said
    return times, f"{images} images, 2 workers"


def machines(times=1, seed=0, images=40):
    """two torchrun launchers, as on two machines that see the same folders, a worker of one killed with -9:

    the folder is completed"""
    if not Path("/proc/self/stat").exists(): raise CannotTry("no /proc to find the workers in")
    import socket
    for i in range(times):
        with tempfile.TemporaryDirectory() as home:
            source, out = album(Path(home) / "in", images, seed + i), Path(home) / "out"
            out.mkdir()
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                address = f"127.0.0.1:{s.getsockname()[1]}"
            both = [launched(source, out, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
                             "--rdzv-endpoint", address, "--rdzv-id", "album") for _ in range(2)]
            hit = kill_a_worker(both[1], out, seed + i)
            said = [output(launcher) for launcher in both]
            assert hit and [launcher.returncode for launcher in both] == [0, 0], "\n".join(said)
            assert whole(out, undisturbed(source, Path(home))), "\n".join(said)
    return times, f"{images} images, 2 launchers with a worker each"


def workers(times=2, seed=0, images=40):
    "--workers 2, one of them killed with -9: the rest is done all the same"
    if not Path("/proc/self/stat").exists(): raise CannotTry("no /proc to find the workers in")
    for i in range(times):
        with tempfile.TemporaryDirectory() as home:
            source, out = album(Path(home) / "in", images, seed + i), Path(home) / "out"
            out.mkdir()
            started = subprocess.Popen([sys.executable, "-m", "dynaseg.cli", "folder", source, out, "--overlays",
                                        "--workers", "2", *options(SETTINGS)],
                                       env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            while not files(out) and started.poll() is None: time.sleep(0.01)
            busy = [p for p in children(started.pid) if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
            os.kill(random.Random(seed + i).choice(busy), signal.SIGKILL)
            said = output(started)
            assert started.returncode == 0, said
            # a worker killed between a photo's result and its word leaves a photo that counts as done before
            assert in_summary(said, "segmented") + in_summary(said, "done before") == images, said
            assert in_summary(said, "failed") == 0, said
            assert whole(out, undisturbed(source, Path(home))), said
    return times, f"{images} images"


def signals(times=9, seed=0, images=20):
    "SIGTERM, SIGHUP or Ctrl-C at a random moment of a run with two workers: all of its processes end"
    if not Path("/proc/self/stat").exists(): raise CannotTry("no /proc to find the workers in")
    rng, ends = random.Random(seed), []
    with tempfile.TemporaryDirectory() as home:
        source = album(Path(home) / "in", images, seed)
        for i in range(times):
            number = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)[i % 3]
            code = 128 + number
            out = Path(home) / f"out{i}"
            out.mkdir()
            started = folder_with_workers(source, out)
            while not files(out) and started.poll() is None: time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            left = children(started.pid)
            started.send_signal(number)
            if number == signal.SIGINT and i % 2:
                time.sleep(rng.uniform(0, 0.1))
                started.send_signal(number)
            said = output(started)
            assert started.returncode in (code, 0) and "Traceback" not in said, (started.returncode, said)
            all_end(left)
            assert started.returncode or len(files(out)) == 2 * images
            ends.append(started.returncode)
        assert ended(child(source, out)) == 0 and whole(out, undisturbed(source, Path(home)))
    return times, f"{images} images, 2 workers; {ends.count(0)} had finished before the signal came"


def orphans(times=3, seed=0, images=30):
    "kill -9 for the one process that started two workers: they end too, and do not go on writing"
    if not Path("/proc/self/stat").exists(): raise CannotTry("no /proc to find the workers in")
    with tempfile.TemporaryDirectory() as home:
        source = album(Path(home) / "in", images, seed)
        for i in range(times):
            out = Path(home) / f"out{i}"
            out.mkdir()
            started = folder_with_workers(source, out)
            while not files(out) and started.poll() is None: time.sleep(0.01)
            left = children(started.pid)
            started.kill()
            started.communicate()
            all_end(left)
        assert ended(child(source, out)) == 0 and whole(out, undisturbed(source, Path(home)))
    return times, f"{images} images, 2 workers"


def folder_with_workers(source, out):
    "`dynaseg folder --workers 2`, started."
    args = ["folder", source, out, "--overlays", "--workers", "2", *options(SETTINGS)]
    def hear_ctrl_c(): signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen([sys.executable, "-m", "dynaseg.cli", *args], env=ENVIRONMENT, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, preexec_fn=hear_ctrl_c)


def running(pid):
    "Whether the process runs: it is there, and not merely waiting to be buried."
    try: return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError: return False


def all_end(pids, seconds=10):
    "Makes sure that none of the processes runs on."
    limit = time.monotonic() + seconds
    while any(running(pid) for pid in pids) and time.monotonic() < limit: time.sleep(0.02)
    assert not any(running(pid) for pid in pids), "a worker goes on"


def damage(times=60, seed=0, images=4):
    "a manifest or a result deleted, cut, swapped or written over: the next run ends with all results as they were"
    rng = random.Random(seed)
    def cut(data): return data[: rng.randrange(len(data))]
    def twice(data): return data + data
    def crlf(data): return data.replace(b"\n", b"\r\n")
    def nul(data):
        at = rng.randrange(len(data))
        return data[:at] + bytes(rng.randint(1, 40)) + data[at:]
    def swap():
        one, two = rng.sample([name for name in files(out) if "labels" in name], 2)
        shutil.copy(out / one, out / two)
    def deep(data): return b"[" * 100_000 + b"\n" + data
    def table(data): return b"path;bytes;sha256\n" + data.replace(b",", b";")
    with tempfile.TemporaryDirectory() as home:
        source, out = album(Path(home) / "in", images, seed), Path(home) / "out"
        reference = undisturbed(source, Path(home))
        shutil.copytree(reference, out)
        for i in range(times):
            manifest, results = out / "manifest.jsonl", sorted(files(out))
            change = (cut, twice, crlf, nul, deep, table, "delete", "cut", "swap")[i % 9]
            if callable(change): manifest.write_bytes(change(manifest.read_bytes()))
            elif change == "delete": (out / rng.choice(results)).unlink()
            elif change == "cut": os.truncate(out / rng.choice(results), 10)
            else: swap()
            batch.segment_folder(source, out, overlays=True, progress=False, **SETTINGS)
            assert whole(out, reference), change
    return times, f"{images} images, 9 kinds of damage"


def mounted(folder, *options):
    "Mounts a small file system in memory on a folder."
    folder.mkdir(exist_ok=True)
    try: done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, text=True)
    except OSError as e: raise CannotTry(f"no command to mount a file system: {e.strerror}")
    if done.returncode: raise CannotTry(f"no right to mount a file system: {done.stderr.strip()[:80]}")


def full_disk(times=1, seed=0, images=10):
    """the disk is full in the middle: one line of error, exit code 1, what was finished stands;

    with room again it goes on"""
    for i in range(times):
        with tempfile.TemporaryDirectory() as home:
            source, small = album(Path(home) / "in", images, seed + i), Path(home) / "small"
            reference = undisturbed(source, Path(home))
            mounted(small, "-o", "size=80k")
            try:
                done = command("folder", source, small / "out", "--overlays", *options(SETTINGS))
                assert one_line(*done, "No space left"), done
                finished = files(small / "out")
                assert 0 < len(finished) < 2 * images and all(files(reference)[name] == content
                                                              for name, content in finished.items())
                subprocess.run(["mount", "-o", "remount,size=2m", str(small)], check=True)
                assert command("folder", source, small / "out", "--overlays", *options(SETTINGS))[0] == 0
                assert whole(small / "out", reference)
            finally: subprocess.run(["umount", str(small)], check=True)
    return times, f"{len(finished)} files of {2 * images} stood when it was full"


def read_only(times=1, seed=0):
    "the output folder cannot be written to: one line of error, exit code 1"
    for i in range(times):
        with tempfile.TemporaryDirectory() as home:
            source, fixed = album(Path(home) / "in", 2, seed + i), Path(home) / "fixed"
            mounted(fixed, "-o", "size=80k,ro")
            try: done = command("folder", source, fixed, *options(SETTINGS))
            finally: subprocess.run(["umount", str(fixed)], check=True)
            assert one_line(*done, "Read-only file system"), done
    return times, ""


def no_permission(times=1, seed=0):
    """an image that may not be read, a folder of the output that may not be written to, an output folder that may not
    be made: a line of error each, the rest is done"""
    for i in range(times):
        with tempfile.TemporaryDirectory() as home:
            source, out = album(Path(home) / "in", 6, seed + i), Path(home) / "out"
            (out / "below").mkdir(parents=True)
            (source / "000.png").chmod(0)
            (out / "below").chmod(0o500)
            done = command("folder", source, out, *options(SETTINGS), obeying=True)
            assert one_line(*done, "000.png", "below/002.png", "below/005.png",
                            "Permission denied") and len(files(out)) == 3, done
            (source / "000.png").chmod(0o600)
            (out / "below").chmod(0o700)
            done = command("folder", source, out, *options(SETTINGS), obeying=True)
            assert done[0] == 0 and len(files(out)) == 6, done
            out.chmod(0o500)
            done = command("folder", source, out / "more", *options(SETTINGS), obeying=True)
            out.chmod(0o700)
            assert one_line(*done, "Permission denied"), done
    return 4 * times, "6 images"


def vanishing(times=3, seed=0, images=24):
    "an image is deleted while a run goes on: its row says so, the others are done"
    for i in range(times):
        with tempfile.TemporaryDirectory() as home:
            source, out = album(Path(home) / "in", images, seed + i), Path(home) / "out"
            out.mkdir()
            process, last = child(source, out), max(p for p in source.glob("*/*.png"))
            while not files(out) and process.is_alive(): time.sleep(0.002)
            last.unlink()
            assert ended(process) == 0
            assert [name for name, row in rows(out).items()
                    if row["error"]] == [last.relative_to(source).as_posix()] and len(files(out)) == 2 * (images - 1)
    return times, f"{images} images"


# --- broken files

KINDS = {".jpg": ["L", "RGB", "CMYK"], ".png": ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"],
         ".tif": ["1", "L", "RGB", "RGBA", "CMYK", "I;16", "F", "I"],
         ".bmp": ["1", "L", "RGB", "P"], ".gif": ["L", "P", "RGB"], ".webp": ["RGB", "RGBA"]}


def encoded(suffix, mode, width, height, seed):
    "A file of noise in a format and mode that Pillow writes."
    shape = (height, width, 4) if mode in ("RGBA", "CMYK") else (height, width,
                                                                 3) if mode in ("RGB", "P") else (height, width)
    noise, file = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8), io.BytesIO()
    if mode in ("I;16", "I", "F"):
        image = Image.fromarray(noise.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]) * 200)
    else:
        image = Image.fromarray(noise) if mode != "CMYK" else Image.frombytes("CMYK", (width, height), noise.tobytes())
    (image if image.mode == mode else image.convert(mode)).save(file, Image.registered_extensions()[suffix])
    return file.getvalue()


def mutated(data, changes):
    "The bytes with some changed, cut out, put in or repeated."
    data = bytearray(data)
    for what, at, length, value in changes:
        at = at % max(1, len(data))
        if what == "set": data[at: at + 1] = bytes([value])
        elif what == "cut": del data[at: at + length]
        elif what == "put": data[at:at] = bytes([value]) * length
        elif what == "repeat": data[at:at] = data[at: at + length]
        else: del data[at:]
    return bytes(data)


MOST = 10_000_000  # pixels: a changed byte can make a file say that it has a thousand times as many as it had
CHANGES = ("set", "cut", "put", "repeat", "end")


def by_chance(rng):
    "(suffix, bytes): every byte of a change drawn with equal chances, headers getting more than their share."
    suffix = rng.choice(sorted(KINDS))
    data = encoded(suffix, rng.choice(KINDS[suffix]), rng.randint(1, 24), rng.randint(1, 24), rng.getrandbits(32))
    def place():
        return rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(len(data), 64))
    return suffix, mutated(data, [(rng.choice(CHANGES), place(), rng.randint(1, 40), rng.randrange(256))
                                  for _ in range(rng.choice([1, 1, 2, 5, 20]))])


@st.composite
def pictures(draw):
    "(suffix, bytes) as hypothesis draws them: whole files, changed ones and mere bytes, with a liking for extremes."
    suffix = draw(st.sampled_from(sorted(KINDS)))
    if draw(st.integers(0, 9)) == 9: return suffix, draw(st.binary(max_size=200))
    data = encoded(suffix, draw(st.sampled_from(KINDS[suffix])), draw(st.integers(1, 24)), draw(st.integers(1, 24)),
                   draw(st.integers(0, 2**32 - 1)))
    change = st.tuples(st.sampled_from(CHANGES), st.integers(0, max(0, len(data) - 1)), st.integers(1, 40),
                       st.integers(0, 255))
    return suffix, mutated(data, draw(st.lists(change, max_size=6)))


def drawn(n, seed):
    "n of hypothesis's pictures, always the same for a seed."
    found = []
    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=n, database=None, deadline=None, derandomize=False,
                         phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(pictures())
    def keep(picture): found.append(picture)
    while len(found) < n: keep()  # it ends early where it thinks that it has seen all
    return found[:n]


def tried(paths, pipe):
    "Each file through `segment`: name, and 'result', 'error' or what should not be."
    torch.set_num_threads(1)
    batch.raise_pixel_limit(MOST)
    warnings.simplefilter("ignore")
    def late(*_): raise TimeoutError("it hangs")
    signal.signal(signal.SIGALRM, late)
    for path in paths:
        signal.alarm(120)
        try:
            segment(path, progress=False, **TINY)
            what = "result"
        except InputError:
            what = "error"
        except BaseException as e:
            what = "".join(traceback.format_exception_only(e)).strip()
        signal.alarm(0)
        pipe.send((path.name, what))


def fuzz(times=2000, seed=0):
    """JPEG, PNG, TIFF, BMP, GIF and WebP files, half from hypothesis, half broken by chance:

    each ends in a result or in a sentence, for `segment`, `dynaseg folder` and (each twentieth) `dynaseg segment` alike
    (above 10 million pixels: refused)"""
    rng = random.Random(seed)
    found = drawn(times // 2, seed) + [by_chance(rng) for _ in range(times - times // 2)]
    with tempfile.TemporaryDirectory() as home:
        source, out, said = Path(home) / "in", Path(home) / "out", {}
        source.mkdir()
        for i, (suffix, data) in enumerate(found): (source / f"{i:05}{suffix}").write_bytes(data)
        here, there = FORKS.Pipe(duplex=False)
        process = child(sorted(source.iterdir()), there, target=tried)
        there.close()
        try:
            while True: name, said[name] = here.recv()
        except EOFError: process.join()
        assert process.exitcode == 0 and len(said) == times, f"it crashed after {list(said)[-1:]}"
        assert set(said.values()) <= {"result", "error"}, [x for x in said.items()
                                                           if x[1] not in ("result", "error")][:5]
        code, _, stderr = command("folder", source, out, *options(TINY), "--allow-pixels", MOST)
        assert code in (0, 1) and "Traceback" not in stderr, stderr[-1000:]
        errors = {name: row["error"] for name, row in rows(out).items()}
        assert {name: "error" if error else "result"
                for name, error in errors.items()} == said, "the command line has another opinion"
        assert all(error is None or len(error.splitlines()) == 1 for error in errors.values())
        some = sorted(source.iterdir())[::20]
        code, stdout, stderr = command("segment", *some, "--out", Path(home) / "some", "--json", *options(TINY),
                                       "--allow-pixels", MOST)
        assert code in (0, 1) and "Traceback" not in stderr, stderr[-1000:]
        assert {Path(one["image"]).name: "error" if one["error"] else "result"
                for one in map(json.loads, stdout.splitlines())} == {p.name: said[p.name] for p in some}
    results = sum(what == "result" for what in said.values())
    return times, f"{results} results, {times - results} errors in words"


def peak():
    "The most memory that this process has had, MB."
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def defused(paths, pipe):
    "Each file through `segment`: name, what it says (None: a result), seconds of computing, MB more than before."
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    segment(np.eye(20), progress=False, **TINY)  # what is loaded once
    for path in paths:
        start = time.process_time()
        before = peak()
        try: said = segment(path, progress=False, **TINY) and None
        except InputError as e: said = str(e)
        pipe.send((path.name, said, time.process_time() - start, peak() - before))


IGNORED = {"pixels.png", "text.png", "profile.png", "frames.png", "notes.ome.tif"}  # what is beside the picture itself


def bombing(times=None, seed=0):
    """small files that say that they are enormous, of every format that is read: a line that names the file, in 2
    seconds and 500 MB at most, for `segment` and `dynaseg folder`; the other photos of the folder are done"""
    if not Path("/proc/self/status").exists(): raise CannotTry("no /proc to read the memory from")
    found = bombs.photos() | bombs.tables()
    with tempfile.TemporaryDirectory() as home:
        source, out = album(Path(home) / "in", 2, seed), Path(home) / "out"
        for name, data in found.items(): (source / name).write_bytes(data)
        with open(source / "sparse.npy", "wb") as file:
            file.write(bombs.npy((30_000, 30_000, 3)))
            file.truncate(128 + 30_000 * 30_000 * 3)
        names = sorted([*found, "sparse.npy"])
        here, there = FORKS.Pipe(duplex=False)
        process = child([source / name for name in names], there, target=defused)
        there.close()
        said = [here.recv() for _ in names]
        assert ended(process) == 0
        assert all((what is None) == (name in IGNORED) and name in (what or name) for name, what, _, _ in said), said
        most = max(seconds for _, _, seconds, _ in said), max(more for _, _, _, more in said)
        assert most[0] < 2 and most[1] < 500, said
        code, _, stderr = command("folder", source, out, *options(TINY))
        assert code == 1 and "Traceback" not in stderr, stderr[-1000:]
        good = {name for name, row in rows(out).items() if not row["error"]}
        assert good == {name for name in rows(out) if name[:3].isdigit()} | IGNORED, good
    return len(names), f"at most {most[0]:.1f} s and {most[1]:.0f} MB each"


def resident():
    "The memory of this process, MB, without what it has freed and keeps for later."
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library has it
    if trim is not None: trim(0)
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def watched(source, out, leak, pipe):
    "A run that looks at its memory before every second image, MB. It may leak so many KB an image."
    gc.freeze()  # what PyTorch's import made need not be searched for garbage each time
    taken, kept, one = [], [], batch._Run.one
    def look(self, *args):
        if len(kept) % EVERY == 0: taken.append(resident())
        kept.append(np.ones(leak * 1024, np.uint8))
        return one(self, *args)
    batch._Run.one = look
    run(source, out)
    pipe.send(taken)


EVERY = 2  # images between two looks: in an album two sizes take turns
WINDOW = 6  # looks


def growth(taken):
    """KB an image: the median over all windows in the last three quarters of a run.

    A leak is in every window. What is loaded once and stays makes a step that only a few windows see, and so do larger
    photos: those of an album are in the folder below, and come last."""
    late = np.asarray(taken[len(taken) // 4:]) * 1024
    return float(np.median(late[WINDOW:] - late[:-WINDOW])) / (WINDOW * EVERY)


def memory(times=500, seed=0, leak=0, block=64, noise=30):
    "the memory of a run does not grow with the number of images"
    if not Path("/proc/self/status").exists(): raise CannotTry("no /proc to read the memory from")
    with tempfile.TemporaryDirectory() as home:
        source = album(Path(home) / "in", times, seed, block, noise)  # about 1 MB each, once read
        taken = told(source, Path(home) / "out", leak, target=watched)
    n = len(taken)
    early, late = np.median(taken[n // 5: n // 3]), np.median(taken[-n // 5:])
    assert growth(taken) < 50, f"{growth(taken):.0f} KB an image: {early:.0f} MB, then {late:.0f} MB"
    return times, f"{early:.0f} MB after a quarter, {late:.0f} MB at the end"


SCENARIOS = (kills, steps, together, signals, orphans, damage, workers, torchrun, machines, full_disk,
             read_only, no_permission, vanishing, fuzz, bombing, memory)
COUNTED = dict(kills="kills", steps="kills", together="pairs of runs", signals="signals", orphans="kills",
               damage="changes", workers="kills", torchrun="kills",
               machines="kills", full_disk="full disks", read_only="output folders",
               no_permission="files and folders", vanishing="images deleted", fuzz="files", bombing="files",
               memory="images")
