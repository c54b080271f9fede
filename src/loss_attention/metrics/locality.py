"""What a patch sees of an image, which is more than its window.

    L(s) = 1 - E|p(kept) - p|^2 / E|p(swapped) - p|^2

is the locality of a patch whose class vector is p. "Swapped" is an image of another class alone;
"kept" is that image too, but for a square of side s around the middle of the patch's window, which
is of the patch's own image. The expectations are over patches. L is 0 at s = 0 and 1 once the
square covers the receptive field: the fraction of a patch's class vector, by squared distance, that
what is in the square settles. It can be below 0, where a square in foreign surroundings tells less
than nothing. r90 is the smallest side at which L is at least 0.9.

Trivial baseline: a patch that sees all of the image evenly has the fraction of the image that is
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.geometry import PatchGrid, box_area
from loss_attention.metrics.faithfulness import PIXELS_AT_ONCE

PatchVectors = Callable[[Tensor], Tensor]
"""From images `(N, C, H, W)` to the class vectors of their patches, `(N, M, K)`."""
ENOUGH = 0.9
"""L at the side that is called r90."""
_WINDOWS = (1.0, 1.25, 1.5, 2.0, 3.0)
"""Sides as multiples of the window; from 4 on they double, with one in between."""


class Changes(NamedTuple):
    """What becomes of the class vectors of P patches of B images at each of S sides.

    Attributes:
        squared: the squared distance from what it is in its own image, float64.
        same: whether its greatest value is that of the same class.
    """

    squared: Float[Tensor, "B P S"]
    same: Bool[Tensor, "B P S"]


def whole_side(grid: PatchGrid) -> int:
    """Return the side at which all of the image is kept, wherever the patch lies: the longer one.

    A centred square would have to be up to twice as large, which says nothing of use.
    """
    return max(grid.height, grid.width)


def sides_to_try(grid: PatchGrid) -> tuple[int, ...]:
    """Return increasing sides in pixels: none, the window and about some multiples of it, all.

    They are odd or even as the window is, so that its middle is theirs; but for the last.

    Example:
        >>> sides_to_try(PatchGrid(6, 6, window=9, stride=4, height=32, width=32))
        (0, 9, 11, 13, 17, 27, 32)
    """
    window, whole = grid.window, whole_side(grid)
    multiples, step = [*_WINDOWS], 4
    while step * window < whole:
        multiples += [step, 1.5 * step]
        step *= 2
    sides = {window + 2 * round((multiple - 1) * window / 2) for multiple in multiples}
    return (0, *sorted(side for side in sides if 0 < side < whole), whole)


def kept_squares(
    grid: PatchGrid, patches: Int[Tensor, "*N"], sides: Int[Tensor, "*N"]
) -> Int[Tensor, "*N 4"]:
    """Return the boxes of squares around the middles of patches' windows, clipped to the image.

    Where window and square cannot have one middle, as one is odd and the other even, the square
    lies half a pixel further to the upper left. From `whole_side` on it is the image.

    Args:
        grid: where the patches lie.
        patches: their numbers.
        sides: of the squares, in pixels.

    Example:
        >>> grid = PatchGrid(2, 2, window=4, stride=4, height=8, width=8)
        >>> kept_squares(grid, torch.tensor([0, 3, 3]), torch.tensor([2, 6, 8])).tolist()
        [[1, 1, 3, 3], [3, 3, 8, 8], [0, 0, 8, 8]]
    """
    before = (grid.window - sides).div(2, rounding_mode="floor")
    size = torch.tensor([grid.width, grid.height], device=patches.device)
    start = torch.stack([patches % grid.columns, patches // grid.columns], dim=-1) * grid.stride
    start = start + before.unsqueeze(-1)
    end = start + sides.unsqueeze(-1)
    whole = (sides >= whole_side(grid)).unsqueeze(-1)
    return torch.cat(
        [start.clamp(min=0).masked_fill(whole, 0), torch.where(whole, size, end.minimum(size))],
        dim=-1,
    )


def changes_when_kept(
    vectors_of: PatchVectors,
    images: Shaped[Tensor, "B C H W"],
    others: Shaped[Tensor, "B C H W"],
    own: Float[Tensor, "B M K"],
    patches: Int[Tensor, "B P"],
    grid: PatchGrid,
    sides: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> Changes:
    """Keep a square around each patch, put another image everywhere else, and see what changes.

    Nothing is run for a side of 0, which is the other image, and for that of the whole image. The
    rest is run `PIXELS_AT_ONCE` at a time.

    Args:
        vectors_of: called with as many images as fit.
        images: of any values that it takes.
        others: for each, an image of another class.
        own: what `vectors_of` makes of the images.
        patches: the numbers of P patches of each image.
        grid: where they lie.
        sides: of the squares, in pixels.
        progress: called with the number of images after each that are run.
    """
    tell = progress or (lambda _: None)
    batch, number = patches.shape
    image = torch.arange(batch, device=patches.device)
    wanted = own[image.unsqueeze(1), patches]
    swapped = vectors_of(others)[image.unsqueeze(1), patches]
    tell(batch)
    squared = wanted.new_zeros(batch, number, len(sides), dtype=torch.float64)
    same = torch.ones_like(squared, dtype=torch.bool)
    for column, side in enumerate(sides):
        if side == 0:
            squared[:, :, column], same[:, :, column] = _apart(swapped, wanted)
    measured = [s for s, side in enumerate(sides) if 0 < side < whole_side(grid)]
    if not measured:  # a window as large as the image
        return Changes(squared, same)
    of_side = torch.tensor(sides, device=patches.device)
    variants = torch.cartesian_prod(
        image, *(torch.tensor(x, device=patches.device) for x in (range(number), measured))
    ).reshape(-1, 3)
    for some in torch.split(variants, max(1, PIXELS_AT_ONCE // images[0, 0].numel())):
        i, k, s = some.unbind(1)
        boxes = kept_squares(grid, patches[i, k], of_side[s])
        vectors = vectors_of(_with_kept(images[i], others[i], boxes))
        vectors = vectors[torch.arange(len(some), device=i.device), patches[i, k]]
        squared[i, k, s], same[i, k, s] = _apart(vectors, wanted[i, k])
        tell(len(some))
    return Changes(squared, same)


def _apart(
    vectors: Float[Tensor, "*N K"], wanted: Float[Tensor, "*N K"]
) -> tuple[Float[Tensor, "*N"], Bool[Tensor, "*N"]]:
    """Return squared distances, and whether the greatest values are those of the same class."""
    squared = (vectors.double() - wanted.double()).square().sum(dim=-1)
    return squared, vectors.argmax(dim=-1) == wanted.argmax(dim=-1)


def _with_kept(
    images: Shaped[Tensor, "N C H W"],
    others: Shaped[Tensor, "N C H W"],
    boxes: Int[Tensor, "N 4"],
) -> Shaped[Tensor, "N C H W"]:
    """Return the other images with what lies in the boxes of the images in its place."""
    y = torch.arange(images.shape[2], device=images.device)[:, None]
    x = torch.arange(images.shape[3], device=images.device)
    x0, y0, x1, y1 = (edge[:, None, None] for edge in boxes.unbind(1))
    inside = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    return torch.where(inside.unsqueeze(1), images, others)


@dataclass(frozen=True)
class LocalityCurve:
    """L of some patches over the side of the square that is kept.

    Attributes:
        window: the side of a patch's window, in pixels.
        sides: in pixels, increasing; the first is 0 and the last that of the whole image.
        values: L at each of them; empty where it is undefined, as the class vectors of all patches
            stay as they are when the whole image is another.
        same_top_class: the fraction of the patches whose greatest value is that of the same class.
        areas: the mean fraction of the image that is kept, which is L of a patch that sees all of
            the image evenly.
    """

    window: int
    sides: tuple[int, ...]
    values: tuple[float, ...]
    same_top_class: tuple[float, ...]
    areas: tuple[float, ...]

    @property
    def in_window(self) -> float | None:
        """L(window); None where L is undefined."""
        return self.values[self._of_window] if self.values else None

    @property
    def r90(self) -> int | None:
        """The smallest of the sides at which L is at least 0.9; None where L is undefined."""
        return _first_enough(self.sides, self.values)

    @property
    def windows(self) -> float | None:
        """r90 / window, 1 for a patch that sees its window alone; None where L is undefined."""
        return None if self.r90 is None else self.r90 / self.window

    @property
    def even_in_window(self) -> float:
        """L(window) of a patch that sees all of the image evenly."""
        return self.areas[self._of_window]

    @property
    def even_r90(self) -> int | None:
        """r90 of a patch that sees all of the image evenly."""
        return _first_enough(self.sides, self.areas)

    @property
    def same_in_window(self) -> float:
        """The fraction of patches whose top class stays when only their window is kept."""
        return self.same_top_class[self._of_window]

    @property
    def _of_window(self) -> int:
        """Which side is that of the window; the whole image where that is no larger."""
        return self.sides.index(min(self.window, self.sides[-1]))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LocalityCurve:
        """Return the curve that `dataclasses.asdict` made these values of.

        Raises:
            TypeError, KeyError: they are not that.
        """
        rest = dict(values)
        return cls(rest.pop("window"), **{name: tuple(each) for name, each in rest.items()})


def locality_curve(
    changes: Changes, patches: Int[Tensor, "B P"], grid: PatchGrid, sides: Sequence[int]
) -> LocalityCurve:
    """Return the curve of the patches whose changes these are.

    Args:
        changes: from `changes_when_kept`, of any number of images.
        patches: the numbers of the patches.
        grid: where they lie.
        sides: those of the changes, the first of them 0 and the last that of the whole image.
    """
    assert sides[0] == 0
    total = changes.squared.sum(dim=(0, 1))
    values = (1 - total / total[0]).tolist() if total[0] > 0 else ()
    tried = torch.tensor(sides, device=patches.device).expand(*patches.shape, -1)
    boxes = kept_squares(grid, patches.unsqueeze(2).expand_as(tried), tried)
    areas = box_area(boxes.double()).mean(dim=(0, 1)) / (grid.height * grid.width)
    same = changes.same.double().mean(dim=(0, 1))
    return LocalityCurve(
        grid.window, tuple(sides), tuple(values), tuple(same.tolist()), tuple(areas.tolist())
    )


def _first_enough(sides: Sequence[int], values: Sequence[float]) -> int | None:
    enough = (side for side, value in zip(sides, values, strict=False) if value >= ENOUGH)
    return next(enough, None)


@dataclass(frozen=True)
class Locality:
    """What the patches of a model see.

    Attributes:
        images: how many it was measured on, with an image of another class for each.
        random: of a patch of each, drawn by the seed.
        heaviest: of that with the greatest weight; where several have it, one of them is drawn.
    """

    images: int
    random: LocalityCurve
    heaviest: LocalityCurve

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Locality:
        """Return what `dataclasses.asdict` made these values of.

        Raises:
            TypeError, KeyError: they are not that.
        """
        random, heaviest = (LocalityCurve.from_json(values[x]) for x in ("random", "heaviest"))
        return cls(values["images"], random, heaviest)
