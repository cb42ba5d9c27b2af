"""Run notebooks top to bottom and save their outputs in them: `python tools/run_notebooks.py [NOTEBOOK ...]`.

Cells marked `#| eval: false` keep the outputs they have. Widget state is dropped: it changes at every run.
"""
import json
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbdev.clean import clean_nb

NBS = Path(__file__).resolve().parent.parent / "nbs"


SKIPPED = "skip-execution"  # nbclient leaves a cell with this tag as it is


def tag(nb, on):
    "Sets the tag on every cell with `#| eval: false`, or takes it off."
    for cell in nb.cells:
        if not re.search(r"^#\|\s*eval:\s*false", cell.source, re.MULTILINE): continue
        tags = [name for name in cell.metadata.pop("tags", []) if name != SKIPPED]
        if on: tags.append(SKIPPED)
        if tags: cell.metadata["tags"] = tags


def passing(output):
    """Whether an output is news while the cell runs and noise afterwards: stderr (progress bars), and widgets without
    their kernel."""
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def run(path):
    "Execute one notebook in its own folder and write it back, cleaned as `nbdev_clean` would."
    nb = nbformat.read(path, as_version=4)
    tag(nb, on=True)
    NotebookClient(nb, timeout=3600, resources={"metadata": {"path": str(path.parent)}}).execute()
    tag(nb, on=False)
    for cell in (cell for cell in nb.cells if cell.cell_type == "code"):
        cell.outputs = [output for output in cell.outputs if not passing(output)]
    nb.metadata.pop("widgets", None)
    clean = json.loads(nbformat.writes(nb))
    clean_nb(clean)
    path.write_text(json.dumps(clean, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    paths = [Path(p).resolve() for p in sys.argv[1:]] or sorted(
        p for p in NBS.rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts)
    )
    for path in paths:
        start = time.perf_counter()
        run(path)
        print(f"{path.name}: {time.perf_counter() - start:.1f} s", flush=True)
