"""Heat maps over pictures: evidence in two hues, the selected patches outlined, the boxes drawn.

Colours are chosen to be told apart with any colour vision, and none carries a meaning alone:
evidence for the class is red and evidence against it blue, with a scale beside them (of what has
no sign, the margin for example, there is the red half); the outline
of the selected patches is solid white, the model's box dashed yellow, an object's box in long lilac
dashes, what a patch sees in short green ones, a true box dotted cyan, and each line lies on a dark
one, so that it shows on any picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8, UInt32
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from loss_attention.errors import printable
from loss_attention.quantities import EVIDENCE, Quantity

SHORTEST, LONGEST = 384, 1280
"""A picture is enlarged until its shorter side has so many pixels, but its longer one no more."""

_STRONGEST = 0.8
_DIMMEST = 40
_BRIGHTER = [round(_DIMMEST + grey * (1 - _DIMMEST / 255)) for grey in range(256)]
_STEPS = 255
"""Of the values from 0 to 1 that have a colour of their own."""
PAPER, INK, _DARK = (255, 255, 255), (26, 26, 26), (15, 15, 15)
_GREY = 150


class Line(NamedTuple):
    """What a line means, its colour, and lengths on and off in line widths (solid: none)."""

    meaning: str
    colour: tuple[int, int, int]
    dash: tuple[float, float] | None = None


OUTLINE = Line("selected patches", (255, 255, 255))
BOX = Line("box around them", (255, 212, 0), (6, 5))
OBJECT = Line("box of an object", (224, 176, 255), (14, 4))
SEEN = Line("what the heaviest patch sees (r90)", (140, 255, 120), (3, 2))
TRUTH = Line("true box", (0, 229, 255), (1.5, 1.5))


def no_boxes() -> NDArray[np.float32]:
    """Return boxes, of which there are none."""
    return np.empty((0, 4), np.float32)


@dataclass(frozen=True)
class Marks:
    """What is drawn over one picture. All boxes are in pixels of the model's input.

    Attributes:
        heat_map: what is shown for the explained class at each input pixel.
        windows: the windows of the selected patches.
        boxes: what the model says, none or one.
        truths: boxes that are known to be right, where there are any.
        shown: what the heat map shows, and its unit.
        objects: the boxes of connected patches, where they were looked for.
        note: why it is this that the heat map shows, where that needs saying.
        seen: the square that settles nine tenths of what a patch says, none or one.
        most: what the colour scale ends with, where that is not the greatest magnitude: what is
            beyond it has the colour of its end.
    """

    heat_map: Float[np.ndarray, "H W"]
    windows: Float[np.ndarray, "S 4"] = field(default_factory=no_boxes)
    boxes: Float[np.ndarray, "N 4"] = field(default_factory=no_boxes)
    truths: Float[np.ndarray, "G 4"] = field(default_factory=no_boxes)
    shown: Quantity = EVIDENCE
    objects: Float[np.ndarray, "O 4"] = field(default_factory=no_boxes)
    note: str = ""
    seen: Float[np.ndarray, "P 4"] = field(default_factory=no_boxes)
    most: float | None = None

    @property
    def limit(self) -> float:
        """What the colour scale ends with: the greatest magnitude, unless it is said."""
        return self.greatest if self.most is None else self.most

    @property
    def greatest(self) -> float:
        """The greatest magnitude."""
        return float(np.abs(_finite(self.heat_map)).max(initial=0.0))


def panel(
    image: Image.Image, marks: Marks, *, shortest: int = SHORTEST, longest: int = LONGEST
) -> Image.Image:
    """Draw marks on a picture, without text around it.

    Args:
        image: the picture, of any size and mode; the model saw it resized to the heat map's.
        marks: what to draw.
        shortest: the picture is enlarged until its shorter side has so many pixels,
        longest: as long as its longer side has no more than so many; else it is shrunk.
    """
    # Not as dark as it is: colours have to show on black too.
    picture = resized(image.convert("L").point(_BRIGHTER), shortest, longest)
    heat = Image.fromarray(_finite(marks.heat_map)).resize(picture.size, Image.Resampling.BILINEAR)
    drawn = _tint(np.asarray(picture), np.asarray(heat) / (marks.limit or 1.0))
    rows, columns = marks.heat_map.shape
    scale = np.array([picture.width / columns, picture.height / rows] * 2)
    covered = np.zeros((rows, columns), np.bool_)
    for x0, y0, x1, y1 in marks.windows.round().astype(int):
        covered[max(0, y0) : y1, max(0, x0) : x1] = True
    width = max(2, round(min(drawn.size) / 200))
    for line, segments in (
        (OUTLINE, np.array(outline_segments(covered)).reshape(-1, 4)),
        (TRUTH, _sides(marks.truths)),
        (BOX, _sides(marks.boxes)),
        (OBJECT, _sides(marks.objects)),
        (SEEN, _sides(marks.seen)),
    ):
        _draw_line(drawn, line, segments * scale, width)
    return drawn


def overlay(
    image: Image.Image,
    marks: Marks,
    *,
    prediction: str,
    probability: float,
    target: str,
    shortest: int = SHORTEST,
    longest: int = LONGEST,
) -> Image.Image:
    """Draw marks on a picture, the prediction above and what colours and lines mean below.

    Args:
        image: the picture, of any size and mode; the model saw it resized to the heat map's.
        marks: what to draw.
        prediction: the name of the predicted class.
        probability: the probability that the model gives it, in [0, 1].
        target: the name of the explained class.
        shortest: see `panel`,
        longest: likewise.
    """
    drawn = panel(image, marks, shortest=shortest, longest=longest)
    width = max(drawn.width, SHORTEST)
    size = max(15, round(width / 45))
    pad = size
    foot = legend(marks, target, width - 2 * pad, size)
    top = 3 * pad
    sheet = Image.new("RGB", (width, top + drawn.height + foot.height + 2 * pad), PAPER)
    ending = f", {probability:.1%}"
    room = width - 2 * pad - font(size + 2).getlength(ending)
    title = fit(printable(prediction), size + 2, room) + ending
    ImageDraw.Draw(sheet).text((pad, top // 2), title, INK, font(size + 2), anchor="lm")
    sheet.paste(drawn, ((width - drawn.width) // 2, top))
    sheet.paste(foot, (pad, top + drawn.height + pad))
    return sheet


def legend(marks: Marks, target: str, width: int, size: int) -> Image.Image:
    """Draw the colour scale with what it shows and why, and the lines that occur in `marks`.

    Args:
        marks: what was drawn.
        target: the name of the explained class.
        width: of the legend in pixels.
        size: of its letters in pixels.
    """
    lines = (
        (OUTLINE, marks.windows),
        (BOX, marks.boxes),
        (OBJECT, marks.objects),
        (SEEN, marks.seen),
        (TRUTH, marks.truths),
    )
    used = tuple(line for line, drawn in lines if len(drawn))
    sheet = _legend_of_all(marks.shown, marks.note, target, used, width, size).copy()
    draw, top = ImageDraw.Draw(sheet), _note_height(marks.note, size)
    for text, x, anchor in _ticks(marks, width):
        draw.text((x, top + 11 * size // 4), text, INK, font(size), anchor=anchor)
    return sheet


@lru_cache(maxsize=16)
def _legend_of_all(
    shown: Quantity, note: str, target: str, used: tuple[Line, ...], width: int, size: int
) -> Image.Image:
    """Draw what the legends of many pictures have in common: all but the numbers of the scale."""
    keys, top = _keys(used, width, size), _note_height(note, size)
    height = top + 4 * size + (keys.height + size if keys else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((0, 0), fit(note, size, width), INK, font(size))
    before, after = f"{shown.name} for ", f" ({shown.unit})"
    room = width - sum(font(size).getlength(part) for part in (before, after))
    draw.text((0, top), before + fit(printable(target), size, room) + after, INK, font(size))
    ramp = np.linspace(-1 if shown.signed else 0, 1, width, dtype=np.float32)[None].repeat(
        size, axis=0
    )
    colours = _tint(np.full(ramp.shape, _GREY, np.uint8), ramp)
    sheet.paste(colours, (0, top + 3 * size // 2))
    if keys:
        sheet.paste(keys, (0, top + 5 * size))
    return sheet


def _note_height(note: str, size: int) -> int:
    return 3 * size // 2 if note else 0


def _ticks(marks: Marks, width: int) -> tuple[tuple[str, int, str], ...]:
    """Return the texts of a colour scale, where they start, and how they are anchored there."""
    limit = number(marks.limit)
    beyond = marks.limit < marks.greatest
    more, less = (" and more", " and less") if beyond else ("", "")
    if not marks.shown.signed:
        return (("0", 0, "la"), (f"{limit}{more}", width - 1, "ra"))
    return (
        (f"\N{MINUS SIGN}{limit}{less}", 0, "la"),
        ("0", width // 2, "ma"),
        (f"+{limit}{more}", width - 1, "ra"),
    )


def _keys(used: tuple[Line, ...], width: int, size: int) -> Image.Image | None:
    """Draw what lines mean, as many side by side as fit."""
    if not used:
        return None
    swatch, gap = 3 * size, size // 2
    widest = swatch + gap + max(font(size).getlength(line.meaning) for line in used)
    columns = max(1, min(len(used), int((width + 2 * size) // (widest + 2 * size))))
    step = 3 * size // 2
    rows = -(-len(used) // columns)
    sheet = Image.new("RGB", (width, rows * step - step + size), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, line in enumerate(used):
        x, y = round(index % columns * (widest + 2 * size)), index // columns * step
        sample = Image.new("RGB", (swatch, size), (_GREY, _GREY, _GREY))
        middle = size / 2
        ends = (size / 2, middle, swatch - size / 2, middle)
        _draw_line(sample, line, np.array([ends]), max(2, size // 6))
        sheet.paste(sample, (x, y))
        draw.text((x + swatch + gap, y + middle), line.meaning, INK, font(size), anchor="lm")
    return sheet


def resized(image: Image.Image, shortest: int, longest: int) -> Image.Image:
    """Return an image enlarged to `shortest` or shrunk to `longest`, in proportion."""
    scale = max(1.0, shortest / min(image.size))
    scale = min(scale, longest / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    way = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    return image if size == image.size else image.resize(size, way)


def number(value: float) -> str:
    """Return a magnitude in three significant digits.

    Example:
        >>> [number(value) for value in (0.0, 0.01234, 1.5, 12.345, 4321.0)]
        ['0', '0.0123', '1.5', '12.3', '4320']
    """
    return f"{float(f'{value:.3g}'):.12g}"


def fit(text: str, size: int, room: float) -> str:
    """Shorten a text to so many pixels of letters of this size, with an ellipsis if it must be."""
    text = " ".join(text.split())
    letters = font(size)
    if letters.getlength(text[:400]) <= room and len(text) <= 400:
        return text
    text = text[:400]
    while text and letters.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def outline_segments(mask: NDArray[np.bool_]) -> list[tuple[float, float, float, float]]:
    """Return the edges between True and False, and around the array, as straight lines.

    Each is `(x0, y0, x1, y1)` along the lines between pixels; an edge is one line as long as it
    is straight.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    across = np.diff(padded, axis=0)[:, 1:-1]  # row y: the line above pixel row y
    down = np.diff(padded, axis=1)[1:-1].T
    level = [(x0, y, x1, y) for y, x0, x1 in _runs(across)]
    upright = [(x, y0, x, y1) for x, y0, y1 in _runs(down)]
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in level + upright]


def _runs(changes: NDArray[np.int8]) -> Iterator[tuple[int, int, int]]:
    """Yield (row, start, end) of each run of equal nonzero values in a row."""
    padded = np.pad(changes, ((0, 0), (1, 1)))
    for row in np.flatnonzero(changes.any(axis=1)):
        changed = np.flatnonzero(np.diff(padded[row]))
        for start, end in pairwise(changed):
            if changes[row, start]:
                yield int(row), int(start), int(end)


def _sides(boxes: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "S 4"]:
    """Return the sides of boxes, each from left to right or downward."""
    return boxes[:, [0, 1, 2, 1, 2, 1, 2, 3, 0, 3, 2, 3, 0, 1, 0, 3]].reshape(-1, 4)


def _draw_line(
    image: Image.Image, line: Line, segments: Float[np.ndarray, "S 4"], width: int
) -> None:
    """Draw level and upright lines, all of each within the image, over a wider dark line."""
    draw = ImageDraw.Draw(image)
    edge = max(1, width // 2)
    inset = width / 2 + edge
    most = np.array([image.width, image.height] * 2) - inset
    kept = np.maximum(np.minimum(segments, most), inset)
    # The gaps of a dashed line show what lies under it: an outline that runs along a box.
    pieces = np.concatenate([np.empty((0, 4)), *(_dashes(one, line, width) for one in kept)])
    for half, colour in ((inset, _DARK), (width / 2, line.colour)):
        corners = (pieces + np.array([-half, -half, half, half])).round() - (0, 0, 1, 1)
        for corner in corners.tolist():
            draw.rectangle(corner, colour)


def _dashes(segment: Float[np.ndarray, 4], line: Line, width: int) -> Float[np.ndarray, "dashes 4"]:
    """Cut a line into dashes, one at each end, the gaps stretched to fit."""
    way = segment[2:] - segment[:2]
    length = way.sum()
    on, off = (part * width for part in line.dash or (length, 0))
    gaps = round((length - on) / (on + off)) if length > on else 0
    if gaps == 0:
        return segment[None]
    at = np.linspace(0, length - on, gaps + 1)[:, None] / length
    start, end = at * way, (at + on / length) * way
    return np.concatenate([segment[:2] + start, segment[:2] + end], axis=1)


def _tint(grey: UInt8[np.ndarray, "h w"], values: Float[np.ndarray, "h w"]) -> Image.Image:
    """Colour a grey picture by values in [-1, 1]; 0 leaves it as it is."""
    places = np.rint(values.clip(-1, 1) * _STEPS).astype(np.int32)
    places += _STEPS
    places <<= 8
    places |= grey
    return Image.frombytes("RGB", grey.shape[::-1], _mixtures().take(places), "raw", "RGBX")


@lru_cache(maxsize=1)
def _mixtures() -> UInt32[np.ndarray, " mixtures"]:
    """Return each colour that a heat map's value and a grey mix to: red, green, blue and nothing.

    The mixture of value `v / _STEPS` with grey `g` is at `(v + _STEPS) * 256 + g`: to look one up
    takes a tenth of the time of mixing it.
    """
    values = np.arange(-_STEPS, _STEPS + 1) / _STEPS
    colours = matplotlib.colormaps["coolwarm"]((values + 1) / 2)[:, None, :3] * 255
    opacity = (_STRONGEST * np.abs(values) ** 0.6)[:, None, None]
    greys = np.arange(256)[None, :, None]
    mixed = np.zeros((len(values), 256, 4), np.uint8)
    mixed[..., :3] = np.rint(greys + (colours - greys) * opacity)
    return mixed.view(np.uint32).ravel()


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(values, np.float32), posinf=0.0, neginf=0.0)


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return letters of a height in pixels."""
    # matplotlib brings the same letters to every machine.
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
