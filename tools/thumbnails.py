"""Cut the pictures of the tutorials' page out of the tutorials' own figures.

`python tools/thumbnails.py` writes nbs/images/tutorials."""

import base64
import io
import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

NBS = Path(__file__).resolve().parent.parent / "nbs"
FOLDER = NBS / "images" / "tutorials"
SIZE = (480, 300)  # pixels


class Cut(NamedTuple):
    "Which part of which figure stands for a notebook."
    figure: int  # its number among the pictures of the notebook
    box: tuple  # left, top, right, bottom, as shares of its size


CUTS = {
    "your_photo": Cut(0, (0.51, 0.1, 0.985, 0.97)),
    "how_many": Cut(3, (0.258, 0.14, 0.49, 0.96)),
    "use_labels": Cut(4, (0.04, 0.04, 0.96, 0.96)),
    "beside_classics": Cut(0, (0.172, 0.384, 0.332, 0.644)),
    "microscopy": Cut(0, (0.345, 0.1, 0.655, 0.95)),
    "many_bands": Cut(2, (0.675, 0.13, 0.985, 0.98)),
    "satellite": Cut(0, (0.675, 0.1, 0.99, 0.99)),
    "stack": Cut(2, (0.342, 0.12, 0.497, 0.98)),
    "paper_figures": Cut(0, (0.503, 0.384, 0.663, 0.649)),
    "extractors": Cut(0, (0.505, 0.12, 0.99, 0.98)),
}


def figures(notebook):
    "The pictures of a notebook, in their order."
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {}).get("image/png")
            if data: yield Image.open(io.BytesIO(base64.b64decode("".join(data)))).convert("RGB")


def thumbnail(notebook, cut):
    "The picture of one tutorial."
    figure = list(figures(notebook))[cut.figure]
    part = figure.crop([round(share * side) for share, side in zip(cut.box, figure.size * 2)])
    return ImageOps.fit(part, SIZE, Image.LANCZOS)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, cut in CUTS.items():
        picture = thumbnail(NBS / "tutorials" / f"{name}.ipynb", cut)
        picture.save(FOLDER / f"{name}.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
