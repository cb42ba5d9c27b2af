"""Draw the picture that a link to the site shows elsewhere:

`python tools/card.py` writes nbs/images/card.png from a run."""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from dynaseg import segment
from dynaseg.labels import label_picture

CARD = Path(__file__).resolve().parent.parent / "nbs" / "images" / "card.png"
SIZE, PAPER, INK = (1200, 630), (34, 48, 60), (244, 241, 234)


def cover(picture, size):
    "The middle of a picture, filling `size`."
    scale = max(size[0] / picture.width, size[1] / picture.height)
    big = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.LANCZOS)
    left, top = (big.width - size[0]) // 2, (big.height - size[1]) // 2
    return big.crop((left, top, left + size[0], top + size[1]))


def font(size):
    "The font that matplotlib ships, so that the card is the same on every machine."
    import matplotlib
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def card():
    "A photo beside its segments, each in its mean colour, over the name."
    photo = skimage.data.coffee()
    seg = segment(photo, progress=False)
    means = np.stack([seg.image[seg.labels == k].mean(0) for k in range(seg.n_clusters)])
    found = Image.fromarray((means[seg.labels] * 255).astype(np.uint8))
    labels = Image.fromarray(label_picture(seg.labels))
    image = Image.new("RGB", SIZE, PAPER)
    for i, picture in enumerate((Image.fromarray(photo), labels, found)):
        image.paste(cover(picture, (392, 400)), (6 + i * 398, 6))
    draw = ImageDraw.Draw(image)
    draw.text((48, 442), "dynaseg", INK, font(84))
    draw.text((52, 556), "The segments of one photo: no labels, no training set.", INK, font(34))
    return image


if __name__ == "__main__":
    CARD.parent.mkdir(exist_ok=True)
    card().quantize(128).save(CARD, optimize=True)
    print(f"{CARD}: {CARD.stat().st_size // 1024} KB")
