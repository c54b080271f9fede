"""How the images of a step are changed, and what is known of where things are in them.

Pure functions of seed, epoch and step, as in `sampling.py`. What is drawn is drawn for a whole
batch, all processes' parts of it together. A whole batch is shifted, mirrored, turned and erased at
once, by a few lines of torch. Crops that are enlarged, colours and RandAugment are torchvision's,
image by image, each image with a seed of its own; torchvision is imported where they are asked for.

Boxes and masks move along with the pixels where they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from loss_attention.data.sample import sent
from loss_attention.errors import InputError, reason
from loss_attention.training.recipe import Recipe
from loss_attention.training.sampling import (
    FIRST_SIDES,
    HOLES,
    TURNS,
    drawing_from,
    image_seed,
    stream,
)

AUGMENTATION = (
    "crop_padding",
    "horizontal_flip",
    "alternate_flips",
    "cutout",
    "vertical_flip",
    "quarter_turns",
    "random_resized_crop",
    "colour_jitter",
    "rand_augment",
)
"""The fields of a recipe that decide what an `Augmenter` makes of an image, beside the seed."""
OF_LIBRARY = ("random_resized_crop", "colour_jitter", "rand_augment")
"""Those of them that torchvision does."""
ASPECTS = (3 / 4, 4 / 3)
"""Width to height of a crop that is enlarged, as a multiple of the image's, at least and at most:
Szegedy et al. 2015, and so nearly everyone since."""


@dataclass(frozen=True)
class Scenes:
    """Images, and where things are in them.

    Attributes:
        images: of any number of channels and any size.
        boxes: `(x0, y0, x1, y1)` in pixels, x1 and y1 exclusive, NaN for "no box"; None: none are
            known.
        masks: the pixels that show objects; None: none are known.
    """

    images: UInt8[Tensor, "b C H W"]
    boxes: Float[Tensor, "b G 4"] | None = None
    masks: Bool[Tensor, "b H W"] | None = None

    def changed(
        self,
        pixels: Callable[[Tensor], Tensor],
        boxes: Callable[[Float[Tensor, "b G 4"]], Tensor] = lambda same: same,
    ) -> Scenes:
        """Return the scenes with images and masks changed one way, and boxes to match.

        Args:
            pixels: from uint8 of shape `(b, C, H, W)` to the same.
            boxes: from boxes to boxes; what leaves the image is cut off here.
        """
        images, masks = pixels(self.images), self.masks
        if masks is not None:
            masks = pixels(masks.to(torch.uint8).unsqueeze(1)).squeeze(1).bool()
        moved = None if self.boxes is None else inside(boxes(self.boxes), *images.shape[2:])
        return Scenes(images, moved, masks)

    def __getitem__(self, index: slice | Tensor) -> Scenes:
        boxes = None if self.boxes is None else self.boxes[index]
        return Scenes(self.images[index], boxes, None if self.masks is None else self.masks[index])

    @classmethod
    def together(cls, scenes: Sequence[Scenes]) -> Scenes:
        """Return scenes of one size as one; of all of them the same is known."""
        images = torch.cat([one.images for one in scenes])
        boxes = [one.boxes for one in scenes if one.boxes is not None]
        masks = [one.masks for one in scenes if one.masks is not None]
        return cls(images, torch.cat(boxes) if boxes else None, torch.cat(masks) if masks else None)


def inside(boxes: Float[Tensor, "b G 4"], height: int, width: int) -> Float[Tensor, "b G 4"]:
    """Return the part of each box that lies in the image, NaN where there is none."""
    corner = boxes.new_tensor([width, height, width, height])
    clipped = torch.minimum(boxes.clamp(min=0), corner)
    area = (clipped[..., 2:] > clipped[..., :2]).all(dim=-1, keepdim=True)
    return clipped.where(area, torch.nan)


class Augmenter:
    """Changes training images as the recipe says.

    Args:
        recipe: what to do, and the seed.
        images: how many training images there are, over all processes.

    Raises:
        InputError: torchvision is needed and is not there.
    """

    def __init__(self, recipe: Recipe, images: int) -> None:
        self._recipe = recipe
        self._mirrored_first = first_sides(images, recipe.seed) if recipe.alternate_flips else None
        self._library = any(getattr(recipe, name) for name in OF_LIBRARY)
        if self._library:
            torchvision_for(recipe)

    def __call__(
        self,
        images: UInt8[Tensor, "b C H W"],
        batch: Int[Tensor, " B"],
        part: slice | Int[Tensor, " b"],
        *,
        epoch: int,
        step: int,
    ) -> UInt8[Tensor, "b C H W"]:
        """Return what the network is trained on.

        Args:
            images: those of this process.
            batch: which images are in the step.
            part: which of them are this process's.
            epoch: counted from 0.
            step: of the epoch, counted from 0.
        """
        return self.with_targets(Scenes(images), batch, part, epoch=epoch, step=step).images

    def with_targets(
        self,
        scenes: Scenes,
        batch: Int[Tensor, " B"],
        part: slice | Int[Tensor, " b"],
        *,
        epoch: int,
        step: int,
    ) -> Scenes:
        """Return images as `__call__` does, and their boxes and masks moved with them.

        Args:
            scenes: those of this process.
            batch: which images are in the step.
            part: which of them are this process's.
            epoch: counted from 0.
            step: of the epoch, counted from 0.

        Raises:
            InputError: boxes or masks with RandAugment, whose shears and turns they do not follow.
        """
        recipe = self._recipe
        shifts = self._shifts(batch, epoch, step)[part]
        scenes = scenes.changed(
            lambda pixels: crop_and_flip(pixels, shifts, recipe.crop_padding),
            lambda boxes: shifted(boxes, shifts, recipe.crop_padding, scenes.images.shape[3]),
        )
        if recipe.vertical_flip or recipe.quarter_turns:
            turns = self._turns(len(batch), epoch, step)[part]
            size = scenes.images.shape[2:]
            scenes = scenes.changed(
                lambda pixels: turn(pixels, turns), lambda boxes: turned(boxes, turns, *size)
            )
        if self._library:
            positions = torch.arange(len(batch))[part].tolist()
            seeds = [image_seed(recipe.seed, epoch, step, position) for position in positions]
            scenes = changed_by_torchvision(scenes, recipe, seeds)
        if recipe.cutout:
            holes = self._holes(len(batch), epoch, step)[part]
            scenes = scenes.changed(lambda pixels: erase_squares(pixels, holes, recipe.cutout))
        return scenes

    def _shifts(self, batch: Int[Tensor, " B"], epoch: int, step: int) -> Shifts:
        recipe = self._recipe
        generator = stream(recipe.seed, epoch, step + 1)
        drawn = draw_shifts(len(batch), recipe.crop_padding, recipe.horizontal_flip, generator)
        if self._mirrored_first is None:
            return drawn
        return replace(drawn, flip=self._mirrored_first[batch] ^ (epoch % 2 == 1))

    def _holes(self, count: int, epoch: int, step: int) -> Float[Tensor, "B 2"]:
        return torch.rand(count, 2, generator=stream(self._recipe.seed, epoch, HOLES + step))

    def _turns(self, count: int, epoch: int, step: int) -> Turns:
        recipe, generator = self._recipe, stream(self._recipe.seed, epoch, TURNS + step)
        upside_down = torch.rand(count, generator=generator) < 0.5
        quarters = torch.randint(0, 4, (count,), generator=generator)
        return Turns(upside_down & recipe.vertical_flip, quarters * recipe.quarter_turns)


def check_augmentation(recipe: Recipe, size: tuple[int, int]) -> None:
    """Raise `InputError` for what cannot be done with images of this height and width, or here."""
    height, width = size
    if recipe.cutout >= min(size):
        raise InputError(
            f"`cutout` {recipe.cutout} must be less than the images' {height} x {width} pixels"
        )
    if recipe.quarter_turns and height != width:
        raise InputError(
            f"`quarter_turns` needs square images, and these have {height} x {width} pixels "
            "(height x width); take `vertical_flip`, or `image_size` N for N x N"
        )
    if any(getattr(recipe, name) for name in OF_LIBRARY):
        torchvision_for(recipe)


def first_sides(images: int, seed: int) -> Bool[Tensor, " N"]:
    """Draw which images are mirrored in the first epoch and every second one from there."""
    return torch.rand(images, generator=stream(seed, 0, FIRST_SIDES)) < 0.5


@dataclass(frozen=True)
class Shifts:
    """One augmentation for each image of a batch.

    Attributes:
        offset: where each crop starts in the padded image, as (row, column).
        flip: whether it is then mirrored.
    """

    offset: Int[Tensor, "B 2"]
    flip: Bool[Tensor, " B"]

    def __getitem__(self, index: slice | Tensor) -> Shifts:
        return Shifts(self.offset[index], self.flip[index])


def draw_shifts(count: int, padding: int, flip: bool, generator: torch.Generator) -> Shifts:
    """Draw shifts of up to `padding` pixels each way and, if asked, flips of probability 1/2."""
    offset = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
    flipped = torch.rand(count, generator=generator) < 0.5
    return Shifts(offset, flipped & flip)


def crop_and_flip(
    images: UInt8[Tensor, "B C H W"], shifts: Shifts, padding: int
) -> UInt8[Tensor, "B C H W"]:
    """Pad with zeros, crop back to size at each image's offset, and mirror those with a flip.

    The same pixels on any device, without a loop over images: every crop there could be is a view
    of the padded batch, and each image's own is copied out of it.

    Args:
        images: any number of channels, any size.
        shifts: offsets in `0..2 * padding` as `draw_shifts` gives them; `padding` is not a shift.
        padding: pixels of zeros on each side.

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> right_and_mirrored = Shifts(torch.tensor([[1, 0]]), torch.tensor([True]))
        >>> crop_and_flip(image, right_and_mirrored, padding=1).tolist()
        [[[[1, 0], [3, 0]]]]
    """
    batch, _, height, width = images.shape
    offset, flip = sent(shifts.offset, images.device), sent(shifts.flip, images.device)
    padded = F.pad(images, (padding,) * 4)
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p + 1, 2p + 1, H, W)
    each = torch.arange(batch, device=images.device)
    cropped = crops[each, :, offset[:, 0], offset[:, 1]]
    return torch.where(flip[:, None, None, None], cropped.flip(3), cropped)


def shifted(
    boxes: Float[Tensor, "B G 4"], shifts: Shifts, padding: int, width: int
) -> Float[Tensor, "B G 4"]:
    """Return boxes where `crop_and_flip` moves their pixels in images of this width."""
    offset, flip = sent(shifts.offset, boxes.device), sent(shifts.flip, boxes.device)
    moved = boxes + (padding - offset.flip(1).repeat(1, 2)).unsqueeze(1)
    mirrored = torch.stack(
        [width - moved[..., 2], moved[..., 1], width - moved[..., 0], moved[..., 3]], dim=-1
    )
    return torch.where(flip[:, None, None], mirrored, moved)


@dataclass(frozen=True)
class Turns:
    """How each image of a batch is turned.

    Attributes:
        upside_down: whether its first row becomes the last.
        quarters: by how many quarters it is then turned, counter-clockwise, in 0..3.
    """

    upside_down: Bool[Tensor, " B"]
    quarters: Int[Tensor, " B"]

    def __getitem__(self, index: slice | Tensor) -> Turns:
        return Turns(self.upside_down[index], self.quarters[index])

    def steps(self) -> list[Bool[Tensor, " B"]]:
        """Return which images are turned upside down, by a half, and by one more quarter."""
        return [self.upside_down, self.quarters >= 2, self.quarters % 2 == 1]


def turn(images: UInt8[Tensor, "B C H W"], turns: Turns) -> UInt8[Tensor, "B C H W"]:
    """Turn each image as is said; quarters are for square images.

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> turn(image, Turns(torch.tensor([False]), torch.tensor([1]))).tolist()
        [[[[2, 4], [1, 3]]]]
    """
    ways: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda pixels: pixels.flip(2),
        lambda pixels: pixels.flip(2, 3),
        lambda pixels: pixels.rot90(1, (2, 3)),
    )
    for way, which in zip(ways, turns.steps(), strict=True):
        rows = sent(which.nonzero().squeeze(1), images.device)
        if len(rows):
            images = images.index_copy(0, rows, way(images[rows]))
    return images


def turned(
    boxes: Float[Tensor, "B G 4"], turns: Turns, height: int, width: int
) -> Float[Tensor, "B G 4"]:
    """Return boxes where `turn` moves their pixels in images of this size."""
    ways: tuple[Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]], ...] = (
        lambda x0, y0, x1, y1: (x0, height - y1, x1, height - y0),
        lambda x0, y0, x1, y1: (width - x1, height - y1, width - x0, height - y0),
        lambda x0, y0, x1, y1: (y0, width - x1, y1, width - x0),
    )
    for way, which in zip(ways, turns.steps(), strict=True):
        moved = torch.stack(way(*boxes.unbind(-1)), dim=-1)
        boxes = torch.where(sent(which, boxes.device)[:, None, None], moved, boxes)
    return boxes


def erase_squares(
    images: UInt8[Tensor, "B C H W"], corners: Float[Tensor, "B 2"], side: int
) -> UInt8[Tensor, "B C H W"]:
    """Set a square of each image to zero, all of it inside the image.

    Cutout, of DeVries and Taylor 2017 (arXiv:1708.04552), whose squares may reach over the edge.

    Args:
        images: any number of channels, any size from `side` on.
        corners: where the square lies between the first and the last row and column that it can
            begin in, each in [0, 1).
        side: of the square, in pixels.

    Example:
        >>> image = torch.ones(1, 1, 2, 3, dtype=torch.uint8)
        >>> erase_squares(image, torch.tensor([[0.0, 0.9]]), side=2).tolist()
        [[[[1, 0, 0], [1, 0, 0]]]]
    """
    corners, inside = sent(corners, images.device), []
    for axis, length in enumerate(images.shape[2:]):
        pixel = torch.arange(length, device=images.device)
        begin = (corners[:, axis : axis + 1] * (length - side + 1)).long()
        inside.append((pixel >= begin) & (pixel < begin + side))
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def torchvision_for(recipe: Recipe) -> tuple[Any, Any]:
    """Return torchvision and its transforms, imported for what a recipe asks for.

    Raises:
        InputError: it is not installed or does not import.
    """
    try:
        import torchvision
        from torchvision.transforms import v2
    except Exception as error:  # one of another torch raises RuntimeError
        asked = next(name for name in OF_LIBRARY if getattr(recipe, name))
        raise InputError(
            f'`{asked}` needs torchvision ({reason(error)}): pip install "loss-attention[timm]"; '
            "`crop_padding`, flips, turns and `cutout` need nothing"
        ) from error
    return torchvision, v2


def changed_by_torchvision(scenes: Scenes, recipe: Recipe, seeds: list[int]) -> Scenes:
    """Return scenes cropped and enlarged, and their colours changed, as a recipe says.

    Args:
        scenes: of one size, which stays.
        recipe: what to do.
        seeds: what to draw from for each of them.

    Raises:
        InputError: see `Augmenter.with_targets`.
    """
    torchvision, v2 = torchvision_for(recipe)
    height, width = scenes.images.shape[2:]
    ways: list[Any] = []
    if recipe.random_resized_crop is not None:
        ratio = [aspect * width / height for aspect in ASPECTS]
        ways.append(v2.RandomResizedCrop((height, width), recipe.random_resized_crop, ratio))
    if recipe.colour_jitter:
        ways.append(v2.ColorJitter(*[recipe.colour_jitter] * 3))
    if recipe.rand_augment:
        if scenes.boxes is not None or scenes.masks is not None:
            raise InputError("boxes and masks cannot follow `rand_augment`; leave it out")
        ways.append(v2.RandAugment(magnitude=recipe.rand_augment))
    change = v2.Compose(ways)

    def changed_one(index: int) -> tuple[Tensor, ...]:
        parts: list[Tensor] = [scenes.images[index]]
        if scenes.boxes is not None:
            boxes, size = scenes.boxes[index], (height, width)
            parts.append(
                torchvision.tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
            )
        if scenes.masks is not None:
            parts.append(torchvision.tv_tensors.Mask(scenes.masks[index].to(torch.uint8)))
        with drawing_from(seeds[index]):
            changed = change(*parts)
        return changed if isinstance(changed, tuple) else (changed,)

    images, *targets = map(torch.stack, zip(*map(changed_one, range(len(seeds))), strict=True))
    boxes = (
        None if scenes.boxes is None else inside(targets.pop(0).as_subclass(Tensor), height, width)
    )
    masks = None if scenes.masks is None else targets.pop(0).as_subclass(Tensor).bool()
    return Scenes(images, boxes, masks)
