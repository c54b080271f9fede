"""A photo larger than what a model was trained on, decided in overlapping tiles.

Backbone and patch layers see a tile at a time. What they make of it, the features of its patches,
is put where it belongs in the photo, and only then are patches weighed, all together: so the
evidence of the whole photo still adds up to its logits. Were each tile weighed by itself, the
patches of an empty one would count as much as those of any other.

Where tiles overlap, a patch is taken from the tile whose edge it is farther from, as there a tile
is padded where the photo goes on. For a network of convolutions, and tiles that overlap by the
receptive field and a unit of theirs, the result is that of the whole photo at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, product
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from loss_attention.backbones.foreign import ForeignBackbone, ImageSizes
from loss_attention.backbones.levels import Features
from loss_attention.errors import InputError, quoted
from loss_attention.heads import HEADS
from loss_attention.heads.patches import PatchLayout
from loss_attention.memory import free_memory
from loss_attention.prediction import ImagePrediction

OVERLAP = 0.25
BATCH_SIZE = 4
"""Tiles at a time: as many as make a batch of large images elsewhere."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How a photo is cut.

    Attributes:
        tile: side of a tile in pixels.
        overlap: the least fraction of a tile that its neighbour sees too, in [0, 1); it is less
            only where a neighbour would begin nearer than tiles may.

    Raises:
        ValueError: a value of another type or out of its range.
    """

    tile: int
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if isinstance(self.tile, bool) or not isinstance(self.tile, int) or self.tile < 1:
            raise InputError(f"`tile` must be a number of pixels, got {quoted(self.tile)}")
        number = isinstance(self.overlap, int | float) and not isinstance(self.overlap, bool)
        if not number or not 0 <= self.overlap < 1:
            raise InputError(f"`overlap` must be in [0, 1), got {quoted(self.overlap)}")


class RefusedPhoto(InputError):  # noqa: N818
    """A photo that cannot be explained in these tiles; another may."""


class Classifier(Protocol):
    """What is needed of a model."""

    @property
    def backbone(self) -> Any:
        """From images to features."""

    @property
    def head(self) -> Any:
        """From features to a prediction."""

    def features(self, images: Tensor, /) -> Features:
        """Return what the backbone makes of images."""

    def __call__(self, images: Tensor, /) -> ImagePrediction:
        """Return the prediction for images."""


def predict_in_tiles(
    model: Classifier,
    images: Shaped[Tensor, "B C H W"],
    tiles: Tiles,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> ImagePrediction:
    """Return a model's prediction for photos, seen in tiles and decided as a whole.

    A photo that one tile covers is seen at once, as any image is.

    Args:
        model: whose patches are wanted.
        images: the photos, as the model takes them, of any size from one patch up.
        tiles: how they are cut.
        batch_size: tiles at a time.
        progress: called with the number of tiles done and of all.

    Raises:
        ValueError: a head without patches that can be put together; a tile that holds no patch, or
            whose side is not a multiple of the model's; photos of a size that the network does not
            take; more patches than the memory has room for.
    """
    grid = tile_grid(model, tiles)
    height, width = images.shape[2:]
    grid.check_photo(height, width)
    if height <= tiles.tile and width <= tiles.tile:
        return model(images)
    cells = _patches_in_tiles(model, images, tiles, grid, batch_size, progress)
    prediction: ImagePrediction = model.head.decide_map(cells, (height, width))
    return prediction


class TileGrid(NamedTuple):
    """Where the tiles of a model may begin, in pixels, and which photos can be cut into them.

    Attributes:
        tile: side of a tile.
        unit: tiles begin at multiples of it: there, the cells of every level and the patches are
            where they are in the whole photo.
        layout: of the patches.
        sizes: the image sizes that the backbone takes.
        name: of the backbone.
    """

    tile: int
    unit: int
    layout: PatchLayout
    sizes: ImageSizes
    name: str

    @property
    def step(self) -> int:
        """Pixels between neighbouring patches."""
        return self.layout.stride * self.layout.feature_stride

    @property
    def window(self) -> int:
        """Pixels across a patch."""
        return self.layout.kernel * self.layout.feature_stride

    def nearest(self, height: int, width: int) -> tuple[int, int]:
        """Return the size next to a photo's that can be cut into tiles; most networks take any."""
        step, least = self._sides
        tall, wide = (max(least, round(side / step) * step) for side in (height, width))
        return tall, wide

    @property
    def _sides(self) -> tuple[int, int]:
        """What the sides of photos are multiples of, and the least."""
        if self.sizes.only is None:  # the last tile may be shorter
            return self.sizes.multiple, self.sizes.multiple
        return self.unit, self.tile

    def check_photo(self, height: int, width: int) -> None:
        """Raise `RefusedPhoto` where it cannot be cut into tiles that the network takes."""
        if (height, width) != (near := self.nearest(height, width)):
            raise RefusedPhoto(
                f"in tiles of {self.tile} pixels, {self.name} takes photos whose sides are "
                f"multiples of {self._sides[0]} pixels, at least {self._sides[1]}, got {height} x "
                f"{width}; the nearest size is {near[0]} x {near[1]}"
            )
        least = self.window - self.layout.feature_stride + 1
        if min(height, width) < least:
            raise RefusedPhoto(
                f"a photo of {height} x {width} pixels is smaller than one patch; the smallest "
                f"this model takes is {least} x {least}"
            )


def tile_grid(model: Classifier, tiles: Tiles) -> TileGrid:
    """Return where a model's tiles may begin.

    Raises:
        InputError: see `predict_in_tiles`, of the model and of the tile.
    """
    head, backbone = model.head, model.backbone
    if not (hasattr(head, "patch_features") and hasattr(head, "decide_map")):
        able = ", ".join(name for name, entry in HEADS.items() if entry.has_evidence)
        raise InputError(
            f"`tile`: the patches of this model's head, {type(head).__name__}, cannot be put "
            f"together from tiles; those of these heads can: {able}"
        )
    layout = head.layout
    sizes = backbone.sizes if isinstance(backbone, ForeignBackbone) else ImageSizes()
    strides: tuple[int, ...] = getattr(backbone, "level_strides", (backbone.stride,))
    name = getattr(backbone, "name", "this network")
    unit = math.lcm(layout.stride * layout.feature_stride, *strides, sizes.multiple)
    grid = TileGrid(tiles.tile, unit, layout, sizes, name)
    if sizes.only is not None and sizes.only != (tiles.tile, tiles.tile):
        made_for = " x ".join(map(str, sizes.only))
        raise InputError(f"`tile`: {name} takes images of {made_for} pixels alone")
    # So that a tile reaches the next one, and a photo's last, which may be shorter, has a patch.
    least = -(-(unit - layout.feature_stride + grid.window) // unit) * unit
    if tiles.tile < least or tiles.tile % unit:
        near = max(least, round(tiles.tile / unit) * unit)
        raise InputError(
            f"`tile` must be a multiple of {unit} pixels for this model, at least {least}, got "
            f"{tiles.tile}; the nearest is {near}"
        )
    return grid


class Piece(NamedTuple):
    """A tile along one axis.

    Attributes:
        start, stop: its pixels in the photo, `stop` exclusive.
        first, last: the patches of the photo that are taken from it, `last` exclusive; None: to its
            end.
    """

    start: int
    stop: int
    first: int
    last: int | None


def cut(length: int, grid: TileGrid, overlap: float, patches: int) -> list[Piece]:
    """Return the tiles along one axis of a photo.

    All are of the same length, but for the last, which ends with the photo and begins at a multiple
    of the unit, so it may be shorter by less than that.

    Args:
        length: of the photo in pixels.
        grid: where tiles may begin.
        overlap: the least fraction of a tile that its neighbour sees too.
        patches: how many a whole tile holds.

    Raises:
        InputError: a tile has too few patches to reach the next one.
    """
    tile, unit, step = grid.tile, grid.unit, grid.step
    if length <= tile:
        return [Piece(0, length, 0, None)]
    # Where the patch layers do not pad, the last patches of a tile end before it does.
    advance = min(max(unit, int(tile * (1 - overlap))), patches * step) // unit * unit
    if advance < 1:
        raise InputError(f"`tile`: {tile} pixels hold too few patches; a larger tile holds more")
    final = -(-(length - tile) // unit) * unit
    starts = [*range(0, final, advance), final]
    # Half way through what two tiles share, each is as far from its edge as the other.
    ends = [
        min(-(-(start + tile + after - grid.window) // (2 * step)), start // step + patches)
        for start, after in pairwise(starts)
    ]
    stops = [*(start + tile for start in starts[:-1]), length]
    return [Piece(*piece) for piece in zip(starts, stops, [0, *ends], [*ends, None], strict=True)]


def _patches_in_tiles(
    model: Classifier,
    images: Shaped[Tensor, "B C H W"],
    tiles: Tiles,
    grid: TileGrid,
    batch_size: int,
    progress: Progress | None,
) -> Float[Tensor, "B *D rows columns"]:
    """Return the features of all patches of photos, each from the tile that it lies deepest in."""
    height, width = images.shape[2:]

    def seen(some: Sequence[_Tile]) -> Tensor:
        parts = [
            images[one.image, :, one.down.start : one.down.stop, one.across.start : one.across.stop]
            for one in some
        ]
        found: Tensor = model.head.patch_features(model.features(torch.stack(parts)))
        return found

    # The first tile tells how many patches one holds, and the last where the photo's end.
    whole = Piece(0, min(tiles.tile, height), 0, None), Piece(0, min(tiles.tile, width), 0, None)
    first = seen([_Tile(0, *whole)])
    down = cut(height, grid, tiles.overlap, first.shape[-2])
    across = cut(width, grid, tiles.overlap, first.shape[-1])
    last = seen([_Tile(0, down[-1], across[-1])])
    rows = down[-1].start // grid.step + last.shape[-2]
    columns = across[-1].start // grid.step + last.shape[-1]
    _check_memory(model, first, len(images) * rows * columns, (height, width))
    joined = first.new_empty(len(images), *first.shape[1:-2], rows, columns)

    jobs = [_Tile(*job) for job in product(range(len(images)), down, across)]
    done = 0
    for some, found in _batches(jobs, first, last, seen, batch_size):
        for one, cells in zip(some, found, strict=True):
            (top, bottom), (left, right) = (
                (piece.first, count if piece.last is None else piece.last)
                for piece, count in ((one.down, rows), (one.across, columns))
            )
            y, x = one.down.start // grid.step, one.across.start // grid.step
            joined[one.image, ..., top:bottom, left:right] = cells[
                ..., top - y : bottom - y, left - x : right - x
            ]
        done += len(some)
        if progress is not None:
            progress(done, len(jobs))
    return joined


class _Tile(NamedTuple):
    """Which photo a tile is of, and where it lies there."""

    image: int
    down: Piece
    across: Piece

    @property
    def shape(self) -> tuple[int, int]:
        """Its height and width in pixels."""
        return self.down.stop - self.down.start, self.across.stop - self.across.start


def _batches(
    jobs: Sequence[_Tile],
    first: Tensor,
    last: Tensor,
    seen: Callable[[Sequence[_Tile]], Tensor],
    batch_size: int,
) -> Iterator[tuple[Sequence[_Tile], Tensor]]:
    """Yield tiles and the features of their patches, those of one size together.

    Two of the first photo are known already.
    """
    ends = jobs[0], next(one for one in reversed(jobs) if one.image == 0)
    yield from (([one], known) for one, known in zip(ends, (first, last), strict=True))
    others = sorted((one for one in jobs if one not in ends), key=lambda one: one.shape)
    for _, group in groupby(others, key=lambda one: one.shape):
        same = list(group)
        for start in range(0, len(same), batch_size):
            some = same[start : start + batch_size]
            yield some, seen(some)


def _check_memory(model: Classifier, cells: Tensor, patches: int, size: tuple[int, int]) -> None:
    """Raise `RefusedPhoto` where the patches of photos do not fit in memory."""
    if cells.device.type != "cpu":
        return
    classes, vectors = model.head.classifier.out_features, cells.shape[1] if cells.ndim > 4 else 1
    numbers = math.prod(cells.shape[1:-2]) + 3 * vectors * classes
    needed, free = patches * numbers * cells.element_size(), free_memory()
    if needed > free:
        raise RefusedPhoto(
            f"{size[0]} x {size[1]} pixels make {patches:,} patches, which take {needed / 1e9:.3g} "
            f"GB, and {free / 1e9:.3g} GB of memory are free; half the scale takes a quarter of it"
        )
