"""The command that measures the loop: ratios of one run, a file that is not overwritten."""
import csv
import sys

import pytest

from dynaseg.speed import figures, main, parts_table

VALUES = {"plain": "s an update", "plain, memory kept": "s an update", "fit": "s an update",
          "fit, bfloat16": "s an update", "arithmetic": "GFLOP an update", "matrix product": "GFLOP/s",
          "convolution": "GFLOP/s", "clusters": "s a photo", "clusters, bfloat16": "s a photo", "segments": "s a photo",
          "import torch": "s", "import dynaseg": "s", "from dynaseg import segment": "s",
          "dynaseg demo": "s"}


@pytest.fixture
def rows():
    "As `measure` makes them, with made-up values; the notebook runs it."
    rows = [dict(what=what, size="", value=i + 2, unit=unit) for i, (what, unit) in enumerate(VALUES.items())]
    return rows + [dict(what="one photo", size=12, value=value, unit=unit) for value, unit in ((6, "s"), (1.5, "GB"))]


def test_figures_are_ratios_of_the_same_run(rows):
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in figures(rows).splitlines()[2:]}
    assert "| 0.5 times as fast |" in lines["the fit"]  # 2 s / 4 s
    assert "| 0.4 times as fast |" in lines["the fit with autocast=True (bfloat16)"]  # 2 s / 5 s
    # 6 GFLOP at 8 GFLOP/s
    assert "| 0.75 s | 2.7 times as fast |" in lines["its arithmetic at the best rate that anything below reaches in "
                                                     "32 bits"]
    # 1000 x 2 s / 9 s, / 10 s
    assert "| 222 times as fast" in lines["a photo, preset "
                                          "clusters"] and "| 200 times as fast" in lines["a photo, preset clusters, "
                                                                                         "bfloat16"]
    assert (
        "| 114% to 114% " in lines["convolutions"]
        and "| 6.0 s, 1.50 GB | 0.50 s a megapixel |" in lines["a photo of 12 megapixels"]
    )


def test_the_command_writes_what_it_measured(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dynaseg.speed.measure", lambda sizes: iter(rows))
    file = tmp_path / "speed.csv"
    monkeypatch.setattr(sys, "argv", ["benchmark", str(file)])
    main()
    assert figures(rows) in capsys.readouterr().out
    assert figures(list(csv.DictReader(file.open()))) == figures(rows)
    with pytest.raises(SystemExit): main()  # it exists now
    assert "exists" in capsys.readouterr().err and list(tmp_path.iterdir()) == [file]


def test_the_table_of_parts_adds_up():
    "Made-up seconds: 8 of convolutions, 2 of ReLU, 4 of batch norm, 2 of the loss; the plain loop needs 40."
    parts = {"3 x 3 convolutions, forwards": (8, 4), "ReLU": (2, 3), "batch norm, forwards": (4, 5),
             "loss and its gradient": (2, 2), "3 x 3 convolutions with ReLU in one": (9, 3),
             "mean and variance alone": (6, 7), "each value of the map once": (0.5, 1)}
    whole = {"plain": 40, "plain, memory kept": 30, "fit": 20, "fit, channels last": 25}
    rows = [dict(what=name, value=value) for name, value in whole.items()]
    rows += [dict(what=name + suffix, value=values[i]) for i, suffix in enumerate(("", ", channels last"))
             for name, values in parts.items()]
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in parts_table(rows).splitlines()[2:]}
    assert "| 8.000 s | 4.000 s | 3.000 s |" in lines["3 x 3 convolutions, forwards"]  # with ReLU in the same call
    assert "| 2.000 s | 3.000 s | 1.000 s |" in lines["ReLU"] and "| 4.000 s |" in lines["batch norm, forwards"][-12:]
    assert "| 16.000 s | 14.000 s | 8.500 s |" in lines["together"]  # 3 + 1 + 4 + 0.5
    assert "| 2.50 times | 2.86 times | 4.71 times |" in lines["the plain loop, by that"]
    assert "| 20.000 s, 2.00 times |" in lines["a whole update: fit"] and len(lines) == 10
