r"""The first picture of the README: two photos side by side as one, and why each of two classes.

    loss-attention train photos --data tiny-imagenet:PATH --image-size 320 --views 2 --epochs 10 \
        --threshold 1 --gamma-max 0.5 --out runs/first-picture --classes tabby espresso \
        'golden retriever' teapot 'military uniform' 'sports car' mushroom banana 'king penguin' \
        'school bus' goldfish 'rocking chair' sunglasses umbrella 'bullet train' 'brain coral' \
        orange bannister 'pop bottle' 'moving van'
    python benchmarks/first_picture.py runs/first-picture chelsea.png coffee.png tabby espresso

The photos are scikit-image's `data.chelsea()` and `data.coffee()`, which their photographers gave
to the public domain (CC0).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import loss_attention as la
from loss_attention.report.drawing import panel
from loss_attention.report.marks import marks_of

SIDE, GAP, LETTERS = 240, 8, 20
ROOT = Path(__file__).resolve().parent.parent


def square(path: Path, side: int) -> Image.Image:
    """Return the middle of a photo."""
    with Image.open(path) as photo:
        whole = photo.convert("RGB")
    least = min(whole.size)
    left, top = (whole.width - least) // 2, (whole.height - least) // 2
    return whole.crop((left, top, left + least, top + least)).resize((side, side))


def drawn(model: la.PatchClassifier, photo: Image.Image, target: str) -> Image.Image:
    """Return the margin of a class over the photo, without outlines and boxes."""
    explanation = model.explain(photo, target=target)
    nothing = np.empty((0, 4), np.float32)
    marks = replace(marks_of(explanation, 0), windows=nothing, boxes=nothing)
    return panel(photo, marks, shortest=SIDE, longest=2 * SIDE)


def main() -> None:
    """Draw it, and say what the network answers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path, nargs=2)
    parser.add_argument("targets", nargs=2)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "photos.jpg")
    given = parser.parse_args()
    model = la.load(given.run)
    height, width = model.spec.image_size or (SIDE, SIDE)
    both = Image.new("RGB", (2 * width, height))
    for place, path in enumerate(given.photos):
        both.paste(square(path, height), (width * place, 0))
    probabilities = model.explain(both).logits.softmax(dim=1)[0]
    for name in given.targets:
        print(f"{name}: {float(probabilities[model.class_names.index(name)]):.3f}")
    shown = [
        ("the photo", both.resize((2 * SIDE, SIDE))),
        *((f"why {name}", drawn(model, both, name)) for name in given.targets),
    ]
    page = Image.new("RGB", (3 * 2 * SIDE + 2 * GAP, SIDE + LETTERS + GAP), "white")
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), LETTERS)
    pen = ImageDraw.Draw(page)
    for place, (caption, picture) in enumerate(shown):
        x = place * (2 * SIDE + GAP)
        page.paste(picture, (x, 0))
        pen.text((x + SIDE, SIDE + GAP // 2), caption, fill=(40, 40, 40), font=font, anchor="ma")
    page.save(given.out, quality=88, subsampling=0)
    print(given.out)


if __name__ == "__main__":
    main()
