"""Run all scenarios of tests/test_faults.py at full length and write what they tried: `python tools/faults.py [FILE]`.

Takes some minutes."""

import csv
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import scenarios  # noqa: E402


def rows_of(report):
    "A row for each scenario, from pytest's report in JUnit's form."
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name").partition("[")[2].rstrip("]")
        said = {p.get("name"): p.get("value") for p in case.iter("property")}
        wrong = next((case.find(tag).get("message") for tag in ("failure", "error", "skipped")
                      if case.find(tag) is not None), "")
        lost = int(case.find("failure") is not None or case.find("error") is not None)
        yield dict(scenario=name, what=scenarios.what(getattr(scenarios, name)), tried=said.get("tried", lost),
                   unit=scenarios.COUNTED[name], lost=lost,
                   remarks=said.get("remarks", wrong))


def main():
    out = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "nbs" / "results" / "faults.csv"
    with tempfile.TemporaryDirectory() as home:
        report = Path(home) / "report.xml"
        code = pytest.main(["-n", "0", str(ROOT / "tests" / "test_faults.py"), "-k", "nothing_is_lost", "--faults",
                            "long", f"--junitxml={report}"])
        rows = list(rows_of(report))
    with open(out, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    sys.exit(code)


if __name__ == "__main__":
    main()
