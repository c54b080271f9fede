"""Heat maps over pictures: evidence in two hues, the selected patches outlined, the boxes drawn.

Colours are chosen to be told apart with any colour vision, and none carries a meaning alone:
evidence for the class is red and evidence against it blue, with a scale beside them (of what has
no sign, weights for example, there is the red half); the outline
of the selected patches is solid white, the model's box dashed yellow, an object's box in long lilac
dashes, a true box dotted cyan, and each line lies on a dark one, so that it shows on any picture.

The heat maps of several methods side by side, a row for each image.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from loss_attention.attribution.maps import METHODS
from loss_attention.attribution.measures import Subject, maps_of
from loss_attention.errors import printable
from loss_attention.explanation import EVIDENCE, Explanation, Quantity

SHORTEST, LONGEST = 384, 1280
"""A picture is enlarged until its shorter side has so many pixels, but its longer one no more."""

_STRONGEST = 0.8
_DIMMEST = 40.0
_PAPER, _INK, _DARK = (255, 255, 255), (26, 26, 26), (15, 15, 15)
_GREY = 150


Segment = tuple[float, float, float, float]
"""A level or upright line from (x0, y0) to (x1, y1)."""


class Line(NamedTuple):
    """What a line means, its colour, and lengths on and off in line widths (solid: none)."""

    words: str
    colour: tuple[int, int, int]
    dash: tuple[float, float] | None = None


OUTLINE = Line("selected patches", (255, 255, 255))
BOX = Line("box around them", (255, 212, 0), (6, 5))
OBJECT = Line("box of an object", (224, 176, 255), (14, 4))
TRUTH = Line("true box", (0, 229, 255), (1.5, 1.5))


def _no_boxes() -> NDArray[np.float32]:
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
    """

    heat_map: Float[np.ndarray, "H W"]
    windows: Float[np.ndarray, "S 4"] = field(default_factory=_no_boxes)
    boxes: Float[np.ndarray, "N 4"] = field(default_factory=_no_boxes)
    truths: Float[np.ndarray, "G 4"] = field(default_factory=_no_boxes)
    shown: Quantity = EVIDENCE
    objects: Float[np.ndarray, "O 4"] = field(default_factory=_no_boxes)

    @property
    def limit(self) -> float:
        """The greatest magnitude, which the colour scale ends with."""
        return float(np.abs(_finite(self.heat_map)).max(initial=0.0))


def marks_of(
    explanation: Explanation, index: int, truths: Float[np.ndarray, "G 4"] | None = None
) -> Marks:
    """Return what to draw for one image of an explained batch.

    Args:
        explanation: of the batch.
        index: which image of it.
        truths: its true boxes in pixels of the model's input; rows of NaN are left out.
    """
    windows = explanation.grid.windows().numpy()
    boxes = explanation.boxes[index : index + 1].cpu().numpy()
    truths = _no_boxes() if truths is None else truths
    return Marks(
        heat_map=explanation.heat_maps[index].float().cpu().numpy(),
        windows=windows[explanation.selected[index].cpu().numpy()],
        boxes=boxes[~np.isnan(boxes).any(axis=1)],
        truths=truths[~np.isnan(truths).any(axis=1)],
        shown=explanation.shown,
    )


def panel(
    image: Image.Image, marks: Marks, *, shortest: int = SHORTEST, longest: int = LONGEST
) -> Image.Image:
    """Draw marks on a picture, without words around it.

    Args:
        image: the picture, of any size and mode; the model saw it resized to the heat map's.
        marks: what to draw.
        shortest: the picture is enlarged until its shorter side has so many pixels,
        longest: as long as its longer side has no more than so many; else it is shrunk.
    """
    picture = resized(image.convert("L"), shortest, longest)
    # Not as dark as it is: colours have to show on black too.
    grey = _DIMMEST + np.asarray(picture.convert("RGB"), np.float32) * (1 - _DIMMEST / 255)
    heat = Image.fromarray(_finite(marks.heat_map)).resize(picture.size, Image.Resampling.BILINEAR)
    drawn = Image.fromarray(_tint(grey, np.asarray(heat) / (marks.limit or 1.0)))
    rows, columns = marks.heat_map.shape
    scale = (picture.width / columns, picture.height / rows)
    width = max(2, round(min(drawn.size) / 200))
    outline = outline_segments(_cover(marks.windows, rows, columns))
    for line, segments in (
        (OUTLINE, outline),
        (TRUTH, _sides(marks.truths)),
        (BOX, _sides(marks.boxes)),
        (OBJECT, _sides(marks.objects)),
    ):
        _draw_line(drawn, line, _scaled(segments, scale), width)
    return drawn


def overlay(
    image: Image.Image, marks: Marks, *, prediction: str, probability: float, target: str
) -> Image.Image:
    """Draw marks on a picture, the prediction above and what colours and lines mean below.

    Args:
        image: the picture, of any size and mode; the model saw it resized to the heat map's.
        marks: what to draw.
        prediction: the name of the predicted class.
        probability: the probability that the model gives it, in [0, 1].
        target: the name of the explained class.
    """
    drawn = panel(image, marks)
    width = max(drawn.width, SHORTEST)
    size = max(15, round(width / 45))
    pad = size
    foot = legend(marks, target, width - 2 * pad, size)
    top = 3 * pad
    sheet = Image.new("RGB", (width, top + drawn.height + foot.height + 2 * pad), _PAPER)
    ending = f", {probability:.1%}"
    room = width - 2 * pad - _font(size + 2).getlength(ending)
    title = fit(printable(prediction), size + 2, room) + ending
    ImageDraw.Draw(sheet).text((pad, top // 2), title, _INK, _font(size + 2), anchor="lm")
    sheet.paste(drawn, ((width - drawn.width) // 2, top))
    sheet.paste(foot, (pad, top + drawn.height + pad))
    return sheet


def legend(marks: Marks, target: str, width: int, size: int) -> Image.Image:
    """Draw the colour scale with what it shows, and the kinds of lines that occur in `marks`.

    Args:
        marks: what was drawn.
        target: the name of the explained class.
        width: of the legend in pixels.
        size: of its letters in pixels.
    """
    keys = _keys(marks, width, size)
    sheet = Image.new("RGB", (width, 4 * size + (keys.height + size if keys else 0)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    before, after = f"{marks.shown.name} for ", f" ({marks.shown.unit})"
    room = width - sum(_font(size).getlength(part) for part in (before, after))
    draw.text((0, 0), before + fit(printable(target), size, room) + after, _INK, _font(size))
    ramp = np.linspace(-1 if marks.shown.signed else 0, 1, width, dtype=np.float32)[None].repeat(
        size, axis=0
    )
    sheet.paste(Image.fromarray(_tint(np.full((*ramp.shape, 3), _GREY), ramp)), (0, 3 * size // 2))
    for text, x, anchor in _ticks(marks, width):
        draw.text((x, 11 * size // 4), text, _INK, _font(size), anchor=anchor)
    if keys:
        sheet.paste(keys, (0, 5 * size))
    return sheet


def _ticks(marks: Marks, width: int) -> tuple[tuple[str, int, str], ...]:
    """Return the words of a colour scale, where they stand, and how they are anchored there."""
    limit = number(marks.limit)
    if not marks.shown.signed:
        return (("0", 0, "la"), (limit, width - 1, "ra"))
    return (
        (f"\N{MINUS SIGN}{limit}", 0, "la"),
        ("0", width // 2, "ma"),
        (f"+{limit}", width - 1, "ra"),
    )


def _keys(marks: Marks, width: int, size: int) -> Image.Image | None:
    """Draw what the lines mean, as many side by side as there is room for."""
    lines = (
        (OUTLINE, marks.windows),
        (BOX, marks.boxes),
        (OBJECT, marks.objects),
        (TRUTH, marks.truths),
    )
    used = [line for line, places in lines if len(places)]
    if not used:
        return None
    swatch, gap = 3 * size, size // 2
    widest = swatch + gap + max(_font(size).getlength(line.words) for line in used)
    columns = max(1, min(len(used), int((width + 2 * size) // (widest + 2 * size))))
    step = 3 * size // 2
    rows = -(-len(used) // columns)
    sheet = Image.new("RGB", (width, rows * step - step + size), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, line in enumerate(used):
        x, y = round(place % columns * (widest + 2 * size)), place // columns * step
        sample = Image.new("RGB", (swatch, size), (_GREY, _GREY, _GREY))
        middle = size / 2
        ends = (size / 2, middle, swatch - size / 2, middle)
        _draw_line(sample, line, [ends], max(2, size // 6))
        sheet.paste(sample, (x, y))
        draw.text((x + swatch + gap, y + middle), line.words, _INK, _font(size), anchor="lm")
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
    font = _font(size)
    if font.getlength(text[:400]) <= room and len(text) <= 400:
        return text
    text = text[:400]
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def outline_segments(mask: NDArray[np.bool_]) -> list[Segment]:
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
        places = np.flatnonzero(np.diff(padded[row]))
        for start, end in pairwise(places):
            if changes[row, start]:
                yield int(row), int(start), int(end)


def _cover(windows: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return which pixels lie under at least one window."""
    mask = np.zeros((rows, columns), np.bool_)
    for x0, y0, x1, y1 in windows.round().astype(int):
        mask[max(0, y0) : y1, max(0, x0) : x1] = True
    return mask


def _sides(boxes: NDArray[np.float32]) -> list[Segment]:
    """Return the four sides of each box as lines, one after the other around it."""
    lines = []
    for x0, y0, x1, y1 in boxes.tolist():
        lines += [(x0, y0, x1, y0), (x1, y0, x1, y1), (x1, y1, x0, y1), (x0, y1, x0, y0)]
    return lines


def _scaled(segments: Iterable[Segment], scale: tuple[float, float]) -> list[Segment]:
    x, y = scale
    return [(x0 * x, y0 * y, x1 * x, y1 * y) for x0, y0, x1, y1 in segments]


def _draw_line(
    image: Image.Image,
    line: Line,
    segments: list[Segment],
    width: int,
) -> None:
    """Draw level and upright lines, all of each within the image, over a wider dark line."""
    draw = ImageDraw.Draw(image)
    edge = max(1, width // 2)
    inset = width / 2 + edge
    most = (image.width - inset, image.height - inset)
    kept = [
        tuple(min(max(value, inset), most[axis % 2]) for axis, value in enumerate(segment))
        for segment in segments
    ]
    # The gaps of a dashed line show what lies under it: an outline that runs along a box.
    pieces = [piece for x0, y0, x1, y1 in kept for piece in _dashes((x0, y0, x1, y1), line, width)]
    for half, colour in ((width / 2 + edge, _DARK), (width / 2, line.colour)):
        for piece in pieces:
            _stroke(draw, piece, half, colour)


def _dashes(segment: Segment, line: Line, width: int) -> Iterator[Segment]:
    """Cut a line into dashes, one at each end, the gaps stretched to fit."""
    x0, y0, x1, y1 = segment
    length = abs(x1 - x0) + abs(y1 - y0)
    on, off = (part * width for part in line.dash or (length, 0))
    gaps = round((length - on) / (on + off)) if length > on else 0
    if gaps == 0:
        yield segment
        return
    for start in np.linspace(0, length - on, gaps + 1) / length:
        end = start + on / length
        ends = (start, start, end, end)
        yield tuple(
            a + (b - a) * at for a, b, at in zip((x0, y0) * 2, (x1, y1) * 2, ends, strict=True)
        )


def _stroke(
    draw: ImageDraw.ImageDraw,
    segment: Segment,
    half: float,
    colour: tuple[int, int, int],
) -> None:
    x0, y0, x1, y1 = segment
    left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    corners = (round(left - half), round(top - half), round(right + half), round(bottom + half))
    draw.rectangle((corners[0], corners[1], corners[2] - 1, corners[3] - 1), colour)


def _tint(
    grey: Float[np.ndarray, "h w 3"], values: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Colour a grey picture by values in [-1, 1]; 0 leaves it as it is."""
    table = _colours()
    colour = table[((values.clip(-1, 1) + 1) / 2 * (len(table) - 1)).round().astype(np.intp)]
    opacity = (_STRONGEST * np.abs(values).clip(0, 1) ** 0.6)[..., None]
    mixed: UInt8[np.ndarray, "h w 3"] = (grey + (colour - grey) * opacity).round().astype(np.uint8)
    return mixed


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(values, np.float32), posinf=0.0, neginf=0.0)


@lru_cache(maxsize=1)
def _colours() -> NDArray[np.float32]:
    """Return matplotlib's coolwarm, a diverging map made for every colour vision, as 0..255."""
    table = matplotlib.colormaps["coolwarm"](np.linspace(0, 1, 256))[:, :3]
    return np.asarray(table * 255, np.float32)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings the same letters to every machine.
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


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
