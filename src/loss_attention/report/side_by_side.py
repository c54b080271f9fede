"""The heat maps of several methods side by side, a row for each image."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from loss_attention.attribution.maps import METHODS
from loss_attention.attribution.measures import Subject, maps_of
from loss_attention.errors import printable
from loss_attention.report.drawing import INK, PAPER, Marks, fit, font, no_boxes, panel, resized

SHOWN_IMAGES = 6
_CELL, _LETTERS = 192, 13
"""The side of a cell and the height of letters, in pixels."""


def maps_picture(subject: Subject, methods: Sequence[str], images: int = SHOWN_IMAGES) -> bytes:
    """Draw the first images of a comparison, and beside each its map by every method, as a PNG.

    Each map has a colour scale of its own, red for the class and blue against it: what is to be
    compared is where, not how much. True boxes are dotted.
    """
    raw, target = subject.images[:images], subject.target[:images]
    columns = {
        method: maps_of(subject.model, raw, target, method, subject.batch_size).cpu().numpy()
        for method in methods
    }
    size, head = _LETTERS, 2 * _LETTERS
    sheet = Image.new("RGB", (_CELL * (1 + len(columns)), head + (_CELL + head) * len(raw)), PAPER)
    draw = ImageDraw.Draw(sheet)

    def put(text: str, column: int, top: int) -> None:
        middle = (column * _CELL + _CELL // 2, top + head // 2)
        draw.text(middle, fit(text, size, _CELL - size), INK, font(size), anchor="mm")

    for column, title in enumerate(["image", *columns]):
        put(title, column, 0)
    for row, pixels in enumerate(raw.permute(0, 2, 3, 1).cpu().numpy()):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3])
        truths = no_boxes()
        if subject.boxes is not None:
            truths = subject.boxes[row].cpu().numpy()
            truths = truths[~np.isnan(truths).any(axis=1)]
        side, top = _CELL - size, head + row * (_CELL + head)
        shown = [resized(picture.convert("RGB"), side, side)]
        for method, maps in columns.items():
            marks = Marks(maps[row], truths=truths, shown=METHODS[method].shown)
            shown.append(panel(picture, marks, shortest=side, longest=side))
        for column, one in enumerate(shown):
            sheet.paste(one, (column * _CELL + (_CELL - one.width) // 2, top))
        put(printable(subject.model.class_names[int(target[row])]), 0, top + side)
    drawn = io.BytesIO()
    sheet.save(drawn, "PNG")
    return drawn.getvalue()
