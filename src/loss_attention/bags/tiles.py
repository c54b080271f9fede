"""An image as a bag of tiles: where they lie, what a frozen backbone makes of each, what they show.

A tile is cut out and goes through the network by itself, so its features are of its own pixels and
of no others. All tiles have one size and every pixel is in one: where the steps do not end with the
image, the last tiles of a row or column reach back over the ones before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageStat
from torch import Tensor

from loss_attention.data.decoding import to_tensor
from loss_attention.data.masks import Mask
from loss_attention.data.records import Record, outside
from loss_attention.errors import InputError, printable
from loss_attention.memory import free_memory
from loss_attention.training.features import LARGEST_HALF, FrozenBackbone

LARGEST_TILE = 10_000
"""Pixels of a side."""
COVERED = 0.01
"""Of a tile of 256 pixels, a square of 26."""

Objects = Literal["auto", "masks", "boxes", "none"]
"""What says which tiles show which class; auto: the mask of an image where it has one, else its
boxes."""


class BadBox(InputError):  # noqa: N818
    """An image whose box lies outside of it."""


@dataclass(frozen=True)
class Tiling:
    """How images are cut, and when a tile has the class of an object.

    Attributes:
        tile: side of a tile, in pixels of the upright image.
        stride: pixels from one tile to the next; None: its side.
        image_size: pixels of a side that the network sees of it; None: its side.
        objects: what says where objects are.
        covered: fraction of a tile that an object covers at least for the tile to have its class,
            in (0, 1].
    """

    tile: int
    stride: int | None = None
    image_size: int | None = None
    objects: Objects = "auto"
    covered: float = COVERED

    def __post_init__(self) -> None:
        """Refuse what nothing can be cut by."""
        for name in ("tile", "stride", "image_size"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= LARGEST_TILE:
                raise InputError(
                    f"`{name}` must be from 1 to {LARGEST_TILE:,} pixels, got {value:,}"
                )
        if self.step > self.tile:
            raise InputError(
                f"`stride` must be at most `tile`, {self.tile}, or pixels between tiles are in "
                f"none, got {self.stride}"
            )
        if not 0 < self.covered <= 1:
            raise InputError(f"`covered` must be in (0, 1], got {self.covered:g}")

    @property
    def step(self) -> int:
        """Pixels from one tile to the next."""
        return self.tile if self.stride is None else self.stride

    @property
    def seen(self) -> int:
        """Pixels of a side that the network sees of a tile."""
        return self.tile if self.image_size is None else self.image_size

    def coordinates(self, width: int, height: int) -> Int[np.ndarray, "M 2"]:
        """Return x and y of the upper left corner of each tile of an image, row by row.

        Example:
            >>> Tiling(tile=4, stride=3).coordinates(9, 4).tolist()
            [[0, 0], [3, 0], [5, 0]]
        """
        rows, columns = (self._starts(length) for length in (height, width))
        y, x = np.meshgrid(rows, columns, indexing="ij")
        return np.stack([x.ravel(), y.ravel()], axis=1)

    def _starts(self, length: int) -> list[int]:
        last = max(0, length - self.tile)
        return [*range(0, last, self.step), last]

    def cut(
        self, picture: Image.Image, corners: Int[np.ndarray, "M 2"], at_once: int
    ) -> Iterator[Tensor]:
        """Yield tiles as the network sees them, so many at a time, uint8 `(B, C, H, W)`.

        A picture that is narrower or lower than a tile lies on a border of its mean colour.
        """
        width, height = picture.size
        if min(width, height) < self.tile:
            colour = tuple(round(mean) for mean in ImageStat.Stat(picture).mean)
            canvas = Image.new(
                picture.mode, (max(width, self.tile), max(height, self.tile)), colour
            )
            canvas.paste(picture, (0, 0))
            picture = canvas
        for start in range(0, len(corners), at_once):
            some = corners[start : start + at_once].tolist()
            crops = (picture.crop((x, y, x + self.tile, y + self.tile)) for x, y in some)
            yield torch.stack([to_tensor(one, (self.seen, self.seen)) for one in crops])


def tile_features(
    backbone: FrozenBackbone, tiling: Tiling, picture: Image.Image, name: str
) -> tuple[Float[np.ndarray, "M D"], Int[np.ndarray, "M 2"]]:
    """Return what a frozen backbone makes of each tile of a picture, and where the tiles lie.

    Args:
        backbone: makes maps, whose cells' mean is a tile's features.
        tiling: how the picture is cut.
        picture: upright, of as many bands as the backbone takes.
        name: of the picture, for errors.

    Returns:
        Features as float16, or as float32 where one is larger than those can be; and x and y.

    Raises:
        InputError: features that are not finite, or more than the memory has room for.
    """
    corners = tiling.coordinates(*picture.size)
    found = np.empty((0, 0), np.float16)
    done = 0
    for tiles in tiling.cut(picture, corners, backbone.images_at_once(tiling.seen, tiling.seen)):
        values = backbone.pooled(tiles).numpy()
        largest = np.abs(values).max()
        if not np.isfinite(largest):
            raise InputError(
                f"{name}: the backbone makes NaN or infinity of it; try `precision` 32, or other "
                "weights"
            )
        if not done:
            _require_memory(len(corners) * values.shape[1] * 2, name)
            found = np.empty((len(corners), values.shape[1]), np.float16)
        if largest > LARGEST_HALF and found.dtype == np.float16:
            _require_memory(found.size * 4, name)
            found = found.astype(np.float32)
        found[done : done + len(values)] = values
        done += len(values)
    return found, corners


def _require_memory(needed: int, name: str) -> None:
    if needed > (free := free_memory()):
        raise InputError(
            f"{name}: the features of its tiles take {needed / 1e9:.2g} GB and {free / 1e9:.2g} GB "
            "are free: take larger tiles, or a larger `stride`"
        )


def object_pixels(
    record: Record, labels: Sequence[Any], objects: Objects, width: int, height: int
) -> dict[Any, Bool[np.ndarray, "H W"]]:
    """Return the pixels of an image that show each class that something is drawn of.

    Args:
        record: the image.
        labels: its own, as the record has them.
        objects: what says where they are.
        width: of the upright image.
        height: likewise.

    Raises:
        BadBox: a box outside the image.
        UnreadableImage: a mask that cannot be read, or is of another size.
        InputError: a mask that does not say which of several classes it shows.
    """
    masks = _mask_of_each(record, labels, objects) if objects in ("auto", "masks") else {}
    if masks:
        return {label: np.asarray(mask((width, height))) > 0 for label, mask in masks.items()}
    found: dict[Any, np.ndarray] = {}
    boxes = record.boxes if objects in ("auto", "boxes") else ()
    across, down = (width, height) if record.relative else (1, 1)
    for number, box in enumerate(boxes):
        if (fault := outside(record, number, width, height)) is not None:
            raise BadBox(fault)
        pixels = found.setdefault(box.label, np.zeros((height, width), bool))
        left, top = (max(0, int(edge)) for edge in (box.x0 * across, box.y0 * down))
        right, bottom = (int(np.ceil(edge)) for edge in (box.x1 * across, box.y1 * down))
        pixels[top:bottom, left:right] = True
    return found


def _mask_of_each(record: Record, labels: Sequence[Any], objects: Objects) -> dict[Any, Mask]:
    """Return the mask of the objects of each class; none where boxes are to say it."""
    if record.mask is None or len(labels) < 2:
        return {} if record.mask is None else dict.fromkeys(labels, record.mask)
    try:
        return {label: record.mask.of([label]) for label in labels}
    except InputError as error:
        if objects == "auto" and record.boxes:
            return {}
        raise InputError(
            f"{printable(record.called)}: its mask does not say which of its classes a pixel "
            "shows: leave it out with `objects` none"
        ) from error


def covered_fractions(
    pixels: Mapping[Any, Bool[np.ndarray, "H W"]],
    classes: Sequence[Any],
    corners: Int[np.ndarray, "M 2"],
    tile: int,
) -> Float[np.ndarray, "M K"]:
    """Return the fraction of each tile's pixels within the image that show each class.

    Args:
        pixels: that show a class, of those that are shown.
        classes: of the columns.
        corners: x and y of each tile.
        tile: side of a tile.

    Example:
        >>> shown = np.array([[True, True, False, False]] * 2)
        >>> covered_fractions({"a": shown}, ["a", "b"], np.array([[0, 0], [1, 0]]), 2).tolist()
        [[1.0, 0.0], [0.5, 0.0]]
    """
    found = np.zeros((len(corners), len(classes)))
    for label, there in pixels.items():
        column = classes.index(label)
        for row, (x, y) in enumerate(corners.tolist()):
            found[row, column] = there[y : y + tile, x : x + tile].mean()
    return found


def tile_labels(
    fractions: Float[np.ndarray, "M K"], covered: float, *, several: bool
) -> Int[np.ndarray, "M *K"]:
    """Return the class of each tile, -1 for none; or, of several, 0 or 1 for each.

    A tile has a class where that covers so much of it; of two, where one is asked for, the one
    that covers more.

    Example:
        >>> tile_labels(np.array([[0.2, 0.3], [0.0, 0.05]]), 0.1, several=False).tolist()
        [1, -1]
    """
    there = fractions >= covered
    if several:
        return there.astype(np.uint8)
    return np.where(there.any(axis=1), fractions.argmax(axis=1), -1).astype(np.int32)
