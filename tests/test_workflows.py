"""The workflows on GitHub: what they use, and when a site is deployed."""
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FLOWS = {path.stem: path for path in (ROOT / ".github" / "workflows").glob("*.yml")}
MAJORS = {"actions/checkout": 6, "actions/setup-python": 6, "actions/cache": 5, "actions/upload-pages-artifact": 5,
          "actions/deploy-pages": 5,
          "quarto-dev/quarto-actions/setup": 2}


@pytest.fixture(scope="module")
def flows(): return {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in FLOWS.items()}


def steps(flow): return [step for job in flow["jobs"].values() for step in job["steps"]]


def commands(job): return "\n".join(step.get("run", "") for step in job["steps"])


def test_actions_have_their_current_majors(flows):
    used = [step["uses"].split("@") for flow in flows.values() for step in steps(flow) if "uses" in step]
    assert used and all(version == f"v{MAJORS[action]}" for action, version in used)


def test_quarto_is_pinned_to_the_release_of_the_test_pages(flows):
    setup, = [step for step in steps(flows["docs"]) if "quarto-actions" in step.get("uses", "")]
    pages = (ROOT / "tests" / "quarto" / "many.html").read_text(encoding="utf-8")
    assert setup["with"]["version"] == re.search(r'content="quarto-([\d.]+)"', pages)[1]


def test_the_site_is_looked_at_before_it_is_deployed_from_main_and_to_the_end(flows):
    docs = flows["docs"]
    made = commands(docs["jobs"]["build"])
    assert made.index("tools/site.py --engine quarto") < made.index("pytest tests/test_site.py --site _docs")
    assert docs["jobs"]["deploy"]["needs"] == "build"
    assert "github.ref == 'refs/heads/main'" in docs["jobs"]["deploy"]["if"]
    assert "pull_request" in docs["jobs"]["deploy"]["if"]
    # no push to main ends a run
    assert docs["concurrency"]["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"


def test_every_python_and_the_lower_bounds_are_tried(flows):
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    jobs = flows["ci"]["jobs"]
    pythons = jobs["library"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.11", "3.12", "3.13"] and pythons[0] == settings["DEFAULT"]["min_python"]
    lowest = commands(jobs["lower-bounds"])
    assert "--resolution lowest-direct" in lowest
    for job in ("library", "lower-bounds"): assert "pytest --library" in commands(jobs[job])
    assert "bash .ci/run" in commands(jobs["everything"])


def test_pytorch_comes_without_gpu_libraries(flows):
    wheels = "https://download.pytorch.org/whl/cpu"
    assert flows["ci"]["env"]["PIP_EXTRA_INDEX_URL"] == wheels
    assert wheels in commands(flows["ci"]["jobs"]["library"]) and wheels in commands(flows["docs"]["jobs"]["build"])
    assert "--torch-backend cpu" in commands(flows["ci"]["jobs"]["lower-bounds"])
