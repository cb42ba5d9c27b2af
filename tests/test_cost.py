"""The announcement of long fits and of large ones: what it says for given numbers, and what a trial measures."""
import threading
import warnings

import numpy as np
import pytest
import torch

from dynaseg import segment, segmenter
from dynaseg.segmenter import CORNER, Cost, announcement, check_settings, forecast, free_memory, prepare, steps_of

GB = 1e9
HOUR = 3600


@pytest.mark.parametrize("seconds, memory, free",
                         [(60, 8 * GB, 16 * GB), (59, 1, 16 * GB), (1, 8 * GB, 16 * GB), (60, 100 * GB, None)])
def test_nothing_is_said_of_short_and_small_fits(seconds, memory, free):
    assert announcement(Cost(seconds, memory), 100_000, 1000, free) == ""


@pytest.mark.parametrize("seconds, memory, free", [(60.1, 1, 16 * GB), (1, 8.1 * GB, 16 * GB), (61, 1, None)])
def test_a_minute_or_half_of_the_memory_is_announced(seconds, memory, free):
    said = announcement(Cost(seconds, memory), 100_000, 1000, free)
    assert "\n" not in said and "max_pixels=" in said


def test_how_long_how_much_and_what_instead():
    assert announcement(Cost(2 * HOUR, 11 * GB), 12_000_000, 1000, 16 * GB) == (
        "A fit of 12,000,000 pixels: about 2 hours for 1000 updates, and 11.0 GB of memory (16.0 GB are free). For "
        "about a minute: max_pixels=100000.")
    assert announcement(Cost(300, 2 * GB), 150_000, 1000, 16 * GB) == (
        "A fit of 150,000 pixels: about 5 minutes for 1000 updates, and 2.0 GB of memory (16.0 GB are free). For about "
        "a minute: max_pixels=30000 or T=200.")
    assert announcement(Cost(70, 12 * GB), 4_000_000, 20, 8 * GB) == (
        "A fit of 4,000,000 pixels: about 70 seconds for 20 updates, and 12.0 GB of memory (8.0 GB are free). For half "
        "of the free memory: max_pixels=1000000.")
    assert announcement(Cost(600, 1), 4_800, 1000, 16 * GB).endswith("For about a minute: T=100.")


@pytest.mark.parametrize("cost, pixels, T, free",
                         [(Cost(7 * HOUR, 30 * GB), 9_999_999, 1000, 20 * GB), (Cost(61, 1), 3, 1, 1 * GB),
                          (Cost(65, 7.9 * GB), 77_777, 50, 16 * GB)])
def test_what_it_proposes_is_enough(cost, pixels, T, free):
    "Seconds and memory in proportion to pixels: with the proposal neither is too much, unless it is a single pixel."
    proposed = int(announcement(cost, pixels, T, free).split("max_pixels=")[1].split()[0].rstrip("."))
    share = proposed / pixels
    assert proposed == 1 or share * cost.seconds <= 60 and share * cost.memory <= free / 2


def noise(height, width): return np.random.default_rng(0).random((height, width, 3)).astype(np.float32)


def quick(**more): return check_settings(device="cpu", M=1, p=4, q=4, min_labels=None, max_pixels=0, **more)


def test_the_default_is_not_tried():
    assert forecast(prepare(noise(150, 200), check_settings(device="cpu", min_labels=None))) is None


def test_a_trial_moves_neither_the_network_nor_a_generator():
    ready = prepare(noise(160, 200), quick(T=10**6))
    weights = [weight.clone() for weight in ready.net.state_dict().values()]
    state = torch.get_rng_state()
    assert forecast(ready).seconds > 0
    assert all(torch.equal(a, b) for a, b in zip(weights, ready.net.state_dict().values()))
    assert torch.equal(state, torch.get_rng_state())


def test_the_trial_leaves_random_numbers_to_other_threads(monkeypatch):
    "The generator is not set back behind the back of somebody who draws meanwhile."
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    drawn = []
    def tried(trial):
        thread = threading.Thread(target=lambda: drawn.append(torch.rand(1)))
        thread.start()
        thread.join()
        return 1.0, 1.0
    monkeypatch.setattr(segmenter, "_tried", tried)
    forecast(prepare(noise(CORNER, CORNER), quick(T=10**6)))
    assert torch.equal(torch.cat([*drawn, torch.rand(1)]), wanted)


def test_the_forecast_grows_with_pixels_and_updates(monkeypatch):
    "With a clock that counts its readings, a reading of the network takes as long on any corner."
    readings = iter(range(10**6))
    monkeypatch.setattr(segmenter.time, "perf_counter", lambda: float(next(readings)))
    small = forecast(prepare(noise(CORNER, CORNER), quick(T=10**6)))
    large = forecast(prepare(noise(3 * CORNER, 2 * CORNER), quick(T=10**6)))
    longer = forecast(prepare(noise(CORNER, CORNER), quick(T=2 * 10**6)))
    assert (small.seconds, large.seconds, longer.seconds) == (1e6, 6e6, 2e6)
    assert large.memory == pytest.approx(6 * small.memory, rel=0.05) and longer.memory == small.memory


def test_the_memory_holds_the_maps_of_the_layers():
    "At least the feature map and twice the response map, in float32; at most some twenty maps of this small network."
    pixels = CORNER * CORNER
    memory = forecast(prepare(noise(CORNER, CORNER), quick(T=10**6))).memory
    assert 12 * pixels * 4 <= memory <= 80 * pixels * 4


def test_a_long_fit_is_announced_before_it_begins(monkeypatch):
    order = []
    monkeypatch.setattr(segmenter, "forecast", lambda ready: Cost(2 * HOUR, 11 * GB))
    monkeypatch.setattr(segmenter, "free_memory", lambda device: 16 * GB)
    monkeypatch.setattr(segmenter, "steps_of", lambda ready: order.append("fit") or steps_of(ready))
    monkeypatch.setattr(segmenter, "warn", order.append)
    segment(noise(8, 9), M=1, p=4, q=4, T=2, device="cpu", progress=False)
    said, fit = order
    assert said.startswith("A fit of 72 pixels: about 2 hours for 2 updates") and fit == "fit"


def test_a_short_fit_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment(noise(8, 9), M=1, p=4, q=4, T=2, device="cpu", progress=False)


def test_the_warning_points_at_the_call(monkeypatch):
    monkeypatch.setattr(segmenter, "forecast", lambda ready: Cost(2 * HOUR, 11 * GB))
    with pytest.warns(UserWarning, match="about 2 hours") as caught:
        segment(noise(8, 9), M=1, p=4, q=4, T=2, device="cpu", progress=False)
    assert caught[0].filename == __file__


def test_the_command_line_says_it_on_stderr_in_its_own_words(monkeypatch, capsys, tmp_path):
    from dynaseg import cli
    from PIL import Image
    monkeypatch.setattr(segmenter, "forecast", lambda ready: Cost(2 * HOUR, 11 * GB))
    monkeypatch.setattr(segmenter, "free_memory", lambda device: 16 * GB)
    monkeypatch.setattr(cli, "_said", set())
    small = ["--T", "2", "--M", "1", "--p", "4", "--q", "4"]
    monkeypatch.setattr("sys.argv", ["dynaseg", "segment", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"),
                                     *small])
    Image.fromarray((noise(8, 9) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("always")
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 0 and "max_pixels" not in said.err and "pixels: about" not in said.out
    assert said.err == ("warning: A fit of 72 pixels: about 2 hours for 2 updates, and 11.0 GB of memory (16.0 GB are "
                        "free). For about a minute: --max-pixels 1.\n")


def test_free_memory():
    found = free_memory(torch.device("cpu"))
    assert found is None or 1e6 < found < 1e15


def test_a_photo_with_holes_or_strokes_can_be_tried():
    "The trial looks at a corner of the photo alone; masks and strokes have the size of the whole."
    photo = noise(200, 210)
    valid = np.ones(photo.shape[:2], bool)
    valid[:150, :160] = False  # the whole corner
    settings = check_settings(preset="paper", p=4, q=4, device="cpu", scribbles=np.eye(200, 210, dtype=int))
    cost = segmenter.forecast(prepare(photo, settings, valid))
    assert cost.seconds > 0 and cost.memory > 0
