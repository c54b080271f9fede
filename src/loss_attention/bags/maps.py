"""A bag drawn as a slide: a coloured tile for each instance, where it lies, over a thumbnail.

Coordinates are the upper left corners of tiles, in pixels of the slide at its full size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from PIL import Image

from loss_attention.errors import InputError, quoted
from loss_attention.quantities import Quantity
from loss_attention.report.drawing import Marks

LONGEST, MOST_ZOOM = 800, 10
"""Pixels of the longer side of a map at zoom 1, and the largest zoom."""
EMPTY, TISSUE = 255, 185
"""Greys of a map without a thumbnail: where no tile is, and where one is."""
NO_MARGIN = "no instance puts this class first"
STRONGEST = 0.25
MOST_STRETCH = 1.05
"""A thumbnail that shows the tiles alone may differ from them in proportion by this factor."""


class Frame(NamedTuple):
    """The part of a slide that a map shows, in pixels of the slide."""

    left: float
    top: float
    width: float
    height: float


def tile_size(coordinates: Num[np.ndarray, "M 2"]) -> float:
    """Return the side of the tiles that lie at these coordinates.

    It is the commonest step between neighbours of a row or a column. The smallest of all would not
    do: pieces of tissue often have grids of their own, a few pixels apart. Where no two tiles are
    in a row, as when places were drawn at random, it is what as many squares fill their rectangle
    with.

    Example:
        >>> tile_size(np.array([[0, 0], [256, 0], [512, 0], [300, 256], [556, 256], [300, 512]]))
        256.0
    """
    steps = []
    for along, across in ((0, 1), (1, 0)):
        placed = coordinates[np.lexsort((coordinates[:, along], coordinates[:, across]))]
        step = np.diff(placed[:, along])
        steps.append(step[(np.diff(placed[:, across]) == 0) & (step > 0)])
    sizes, counts = np.unique(np.concatenate(steps), return_counts=True)
    if len(sizes):
        return float(sizes[counts.argmax()])
    width, height = (float(side) for side in np.ptp(coordinates, axis=0))
    filled = (width * height / len(coordinates)) ** 0.5
    return filled or max(width, height) / len(coordinates) or 1.0


def frame_of(
    name: str,
    coordinates: Num[np.ndarray, "M 2"],
    tile: float,
    thumbnail: Image.Image | None,
    downsample: float | None,
) -> Frame:
    """Return what a map is to show: the tiles, or all of a thumbnail whose scale is known.

    Args:
        name: of the bag, for errors.
        coordinates: of its tiles.
        tile: their side.
        thumbnail: of the slide, if there is one.
        downsample: pixels of the slide in one of the thumbnail, which shows all of the slide then.
            None: it shows just the rectangle around the tiles.

    Raises:
        InputError: tiles beyond the thumbnail, or one whose proportions are not those of the tiles.
    """
    left, top = (float(edge) for edge in coordinates.min(axis=0))
    right, bottom = (float(edge) + tile for edge in coordinates.max(axis=0))
    if thumbnail is None:
        return Frame(left, top, right - left, bottom - top)
    if downsample is not None:
        width, height = (side * downsample for side in thumbnail.size)
        if min(left, top) < -tile or right > width + tile or bottom > height + tile:
            raise InputError(
                f"bag {quoted(name)}: its tiles reach from {left:.0f}, {top:.0f} to {right:.0f}, "
                f"{bottom:.0f}, and its thumbnail to {width:.0f}, {height:.0f} pixels of the "
                f"slide: `thumbnail_downsample` is not {downsample:g}"
            )
        return Frame(0.0, 0.0, width, height)
    stretch = thumbnail.width / thumbnail.height * (bottom - top) / (right - left)
    if not 1 / MOST_STRETCH <= stretch <= MOST_STRETCH:
        raise InputError(
            f"bag {quoted(name)}: its thumbnail is {thumbnail.width} x {thumbnail.height} and its "
            f"tiles fill {right - left:.0f} x {bottom - top:.0f} pixels of the slide, so that it "
            "shows more than those: say its scale with `thumbnail_downsample`"
        )
    return Frame(left, top, right - left, bottom - top)


def painted(
    values: Float[np.ndarray, " M"],
    coordinates: Num[np.ndarray, "M 2"],
    tile: float,
    frame: Frame,
    longest: int,
) -> tuple[Float[np.ndarray, "H W"], np.ndarray]:
    """Return a value for each pixel of a map, 0 where no tile is, and where one is.

    A tile has at least a pixel. Where several share one, it is the strongest of them that is seen.

    Args:
        values: of the tiles.
        coordinates: of the tiles.
        tile: their side.
        frame: what the map shows.
        longest: pixels of its longer side.
    """
    scale = longest / max(frame.width, frame.height)
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    start = (coordinates - np.array([frame.left, frame.top])) * scale
    most = np.array([width, height])
    first = np.clip(np.rint(start), 0, most - 1).astype(int)
    last = np.clip(np.maximum(np.rint(start + tile * scale), first + 1), 1, most).astype(int)
    order = np.argsort(np.abs(values), kind="stable")
    heat, there = np.zeros((height, width), np.float32), np.zeros((height, width), bool)
    for value, (x0, y0), (x1, y1) in zip(
        values[order].tolist(), first[order].tolist(), last[order].tolist(), strict=True
    ):
        heat[y0:y1, x0:x1] = value
        there[y0:y1, x0:x1] = True
    return heat, there


def end_of_scale(values: Float[np.ndarray, " M"]) -> float:
    """Return the magnitude that has the strongest colour: that of a tile among thousands would not.

    Tiles of this magnitude and more hold a quarter (`STRONGEST`) of all magnitudes together, be
    they three or three thousand.

    Example:
        >>> end_of_scale(np.array([0.0, 1.0, -1.0, 2.0, -4.0]))
        4.0
        >>> end_of_scale(np.array([8.0, *[2.0] * 20]))
        2.0
    """
    magnitudes = np.sort(np.abs(values).astype(np.float64))[::-1]
    held = np.cumsum(magnitudes)
    return float(magnitudes[np.searchsorted(held, STRONGEST * held[-1])])


def slide_marks(
    values: Float[np.ndarray, " M"],
    quantity: Quantity,
    coordinates: Num[np.ndarray, "M 2"],
    tile: float,
    frame: Frame,
    longest: int,
    thumbnail: Image.Image | None = None,
) -> tuple[Image.Image, Marks]:
    """Return what lies under a map, grey, and what is drawn over it.

    Args:
        values: what is shown of each instance.
        quantity: what that is.
        coordinates: of the instances.
        tile: their side.
        frame: what the map shows; see `frame_of`.
        longest: pixels of its longer side.
        thumbnail: of the frame; None: grey where a tile is.
    """
    heat, there = painted(values, coordinates, tile, frame, longest)
    size = heat.shape[1], heat.shape[0]
    if thumbnail is None:
        below = Image.fromarray(np.where(there, np.uint8(TISSUE), np.uint8(EMPTY)))
    else:
        below = thumbnail.convert("L").resize(size, Image.Resampling.LANCZOS)
    empty = not quantity.signed and not (values > 0).any()
    note = NO_MARGIN if empty else ""
    return below, Marks(heat, shown=quantity, note=note, most=end_of_scale(values))


def check_zooms(zooms: tuple[int, ...]) -> None:
    """Raise `InputError` for zooms that no map is drawn at."""
    if not zooms or len(set(zooms)) < len(zooms):
        raise InputError("`zooms` must be whole numbers such as 1 4, each once")
    for zoom in zooms:
        if not 1 <= zoom <= MOST_ZOOM:
            raise InputError(f"`zooms` must be from 1 to {MOST_ZOOM}, got {zoom}")


def check_side(name: str, value: float | None) -> None:
    """Raise `InputError` for what is not a length."""
    if value is not None and not 0 < value < float("inf"):
        raise InputError(f"`{name}` must be a number above 0, got {value}")
