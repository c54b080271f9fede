"""The heat maps of several methods side by side, a row for each image."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from loss_attention.errors import printable
from loss_attention.explain.attributions import METHODS
from loss_attention.explain.compare_measures import Subject, maps_of
from loss_attention.explain.drawing import Marks, fit, panel

SHOWN_IMAGES = 6
_INCHES, _DOTS = 1.6, 120
_LETTERS = round(8 / 72 * _DOTS)
"""Height of the letters in pixels."""


def maps_picture(subject: Subject, methods: Sequence[str], images: int = SHOWN_IMAGES) -> bytes:
    """Draw the first images of a comparison, and beside each its map by every method, as a PNG.

    Each map has a colour scale of its own, red for the class and blue against it: what is to be
    compared is where, not how much. True boxes are dotted.
    """
    count = min(images, len(subject.images))
    raw, target = subject.images[:count], subject.target[:count]
    columns = {
        method: maps_of(subject.model, raw, target, method, subject.batch_size).cpu().numpy()
        for method in methods
    }
    figure = Figure(figsize=(_INCHES * (1 + len(columns)), _INCHES * count + 0.3), dpi=_DOTS)
    axes = figure.subplots(count, 1 + len(columns), squeeze=False)
    for row in range(count):
        pixels = raw[row].permute(1, 2, 0).cpu().numpy()
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3])
        truths = np.empty((0, 4), np.float32)
        if subject.boxes is not None:
            truths = subject.boxes[row].cpu().numpy()
            truths = truths[~np.isnan(truths).any(axis=1)]
        axes[row][0].imshow(picture.convert("RGB"))
        name = printable(subject.model.class_names[int(target[row])])
        name = fit(name, _LETTERS, _INCHES * _DOTS)
        # A name is no formula, whatever dollars it has.
        axes[row][0].set_ylabel(name, fontsize=8, parse_math=False)
        for axis, (method, maps) in zip(axes[row][1:], columns.items(), strict=True):
            marks = Marks(maps[row], truths=truths, shown=METHODS[method].shown)
            axis.imshow(panel(picture, marks))
    for axis, title in zip(axes[0], ["image", *columns], strict=True):
        axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as an empty box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.tight_layout(pad=0.4)
        figure.savefig(drawn, format="png")
    return drawn.getvalue()
