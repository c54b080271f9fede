"""What is asked of a model about images, and what it answers: JSON, and marks to draw.

By the model itself, whose JSON has its patches, box and objects; or by a method of `attribution`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from loss_attention.data.decoding import MOST_PIXELS, fitted
from loss_attention.data.placement import Resize
from loss_attention.errors import InputError, quoted
from loss_attention.explained.described import (
    METHOD_UNITS,
    MOST_NUMBERS,
    ONE_VS_REST_UNITS,
    TILED_UNITS,
    decision,
    describe,
    shown_json,
)
from loss_attention.explained.objects import THRESHOLD, FoundObject, find_objects
from loss_attention.explanation import Explanation, check_map, class_index
from loss_attention.heads import HEADS
from loss_attention.memory import images_at_once
from loss_attention.metrics.localisation import empty_maps
from loss_attention.model import PatchClassifier
from loss_attention.prediction import MapName, probabilities_of
from loss_attention.quantities import CONTRAST, MARGIN, NO_MARGIN
from loss_attention.report.drawing import Marks
from loss_attention.report.marks import marks_of
from loss_attention.tiling import RefusedPhoto, TileGrid, Tiles, tile_grid

LEAST_DRAWN = 0.1
"""Objects with a smaller fraction of the evidence are listed, not drawn."""

Progress = Callable[[int, int], None]
Question = Callable[
    [Tensor, Sequence[tuple[int, int]], Progress | None], Iterator[tuple[dict[str, Any], Marks]]
]


class Sight(NamedTuple):
    """How a model sees image files.

    Attributes:
        size: from the height and width of a picture to those that it is resized to.
        resize: how.
        tiles: how it is cut then; None: it is seen at once.
        scale: what its sides are multiplied by, where it is cut.
    """

    size: Callable[[int, int], tuple[int, int]]
    resize: Resize
    tiles: Tiles | None = None
    scale: float = 1.0

    def of(self, image: Image.Image) -> tuple[int, int]:
        """Return the height and width that a picture is seen at."""
        return self.size(image.height, image.width)


def sight_of(model: PatchClassifier, tiles: Tiles | None, scale: float) -> Sight:
    """Return how a model sees image files.

    Raises:
        InputError: a model without image size, tiles that it does not take, or a scale that is no
            positive number or without tiles.
    """
    if tiles is None:
        seen = model.image_size
        if seen is None:
            raise InputError("this model does not say the image size that it was trained at")
        if scale != 1:
            raise InputError("`scale` is for photos in tiles: it needs `tile`")
        return Sight(partial(_as_trained, seen), model.resize)
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"`scale` must be above 0 and finite, got {scale}")
    return Sight(partial(_in_tiles, tile_grid(model, tiles), scale), "squash", tiles, scale)


# Functions by their names, as actors on other machines are sent them.
def _as_trained(seen: tuple[int, int], _height: int, _width: int) -> tuple[int, int]:
    return seen


def _in_tiles(grid: TileGrid, scale: float, height: int, width: int) -> tuple[int, int]:
    if height * width * scale**2 > MOST_PIXELS:
        raise RefusedPhoto(
            f"{height} x {width} pixels at the scale {scale:g} are more than {MOST_PIXELS:,}"
        )
    seen = grid.nearest(*(max(1, round(side * scale)) for side in (height, width)))
    grid.check_photo(*seen)
    return seen


def images_together(model: PatchClassifier, sight: Sight, most: int) -> int:
    """Return how many images are answered together: in tiles one, else as memory allows."""
    size = model.image_size
    return 1 if sight.tiles is not None or size is None else images_at_once(size, most)


def rival_of(model: PatchClassifier, target: int | None, versus: str) -> int:
    """Return the class of a name that the evidence for another, the target, is held against.

    Raises:
        InputError: there is no such class, no target, or it is the target.
    """
    rival = class_index(versus, model.class_names)
    if target is None:
        raise InputError("`versus` needs `target`: the class to show the evidence for")
    if rival == target:
        raise InputError(
            f"`versus` {quoted(versus)} is the `target` itself; name the class it is held against"
        )
    return rival


class OwnQuestion(NamedTuple):
    """What is asked of what a model's own patches say.

    Attributes:
        target: the class to explain; None: the predicted one of each image.
        versus: the class that the evidence is held against, if any.
        map: what is shown; None: see `explanation.default_map`.
        threshold: see `find_objects`.
        sight: how the model sees images.
    """

    target: int | None
    versus: int | None
    map: MapName | None
    threshold: float
    sight: Sight

    def answer(
        self,
        model: PatchClassifier,
        images: UInt8[Tensor, "B C H W"],
        progress: Progress | None = None,
    ) -> tuple[Explanation, list[list[FoundObject]] | None]:
        """Return the explanation of a batch, and the objects that are found in its images."""
        explain = partial(model.explain, images, self.target, map=self.map, versus=self.versus)
        tiles = self.sight.tiles
        own = explain() if tiles is None else explain(progress=progress, **asdict(tiles))
        return own, find_objects(own, self.threshold)


def own_question(
    model: PatchClassifier,
    *,
    target: str | None = None,
    versus: str | None = None,
    map: MapName | None = None,
    threshold: float = THRESHOLD,
    tiles: Tiles | None = None,
    scale: float = 1.0,
) -> OwnQuestion:
    """Return what is asked of what the model's own patches say; see `explain_files`.

    Raises:
        InputError: a model without patches, an unknown class, a map that the model does not have;
            see `sight_of`.
    """
    if HEADS[model.spec.head].pooled_backbone:
        raise InputError(
            f"a model with the head {model.spec.head} has no patches, so it has no evidence "
            "to show; train with `head` loss-attention, or try `method` cam or `method` grad-cam"
        )
    sight = sight_of(model, tiles, scale)
    index = None if target is None else class_index(target, model.class_names)
    rival = None if versus is None else rival_of(model, index, versus)
    check_map(
        map,
        has_evidence=HEADS[model.spec.head].has_evidence,
        competing=model.competing,
        versus=versus is not None,
    )
    return OwnQuestion(index, rival, map, threshold, sight)


def own_marks(
    own: Explanation, objects: Sequence[Sequence[FoundObject]] | None, index: int
) -> Marks:
    """Return what to draw for an image of a batch, its larger objects of the target included."""
    boxes = [
        one.box
        for one in (() if objects is None else objects[index])
        if one.class_index == int(own.target[index]) and one.share >= LEAST_DRAWN
    ]
    return replace(marks_of(own, index), objects=np.array(boxes, np.float32).reshape(-1, 4))


def by_model(
    model: PatchClassifier,
    question: OwnQuestion,
    images: UInt8[Tensor, "B C H W"],
    sizes: Sequence[tuple[int, int]],
    progress: Progress | None,
) -> Iterator[tuple[dict[str, Any], Marks]]:
    """Yield the JSON of each image of a batch and what to draw for it, by the model itself."""
    sight, threshold = question.sight, question.threshold
    tiles = sight.tiles
    own, objects = question.answer(model, images, progress)
    for index, size in enumerate(sizes):
        found, marks = None if objects is None else objects[index], own_marks(own, objects, index)
        described = describe(
            own,
            index,
            model.class_names,
            size,
            sight.resize,
            found,
            threshold,
            most_numbers=None if tiles is None else MOST_NUMBERS,
        )
        if model.spec.one_vs_rest:
            described["units"] += f" {ONE_VS_REST_UNITS}"
        if tiles is not None:
            described["tiles"] = {**asdict(tiles), "scale": sight.scale}
            described["units"] += f" {TILED_UNITS}"
        yield described, marks


def by_method(
    model: PatchClassifier,
    target: int | None,
    method: str,
    images: UInt8[Tensor, "B C H W"],
    sizes: Sequence[tuple[int, int]],
    progress: Progress | None,  # noqa: ARG001 (of tiles, which a method has none of)
) -> Iterator[tuple[dict[str, Any], Marks]]:
    """Yield the JSON of each image of a batch and what to draw for it, by a named method."""
    from loss_attention.attribution.maps import METHODS, attribute

    with torch.inference_mode():
        logits = model(images).logits
    probabilities = probabilities_of(logits, competing=model.competing)
    explained = logits.argmax(dim=1)
    if target is not None:
        explained = torch.full_like(explained, target)
    maps, usual = attribute(model, images, method, explained).float().cpu(), METHODS[method].shown
    empty = empty_maps(maps) if usual == MARGIN else torch.zeros(len(maps), dtype=torch.bool)
    if empty.any():
        instead = attribute(model, images[empty], "contrast", explained[empty])
        maps[empty] = instead.float().cpu()
    for index, size in enumerate(sizes):
        decided = (logits[index], probabilities[index], int(explained[index]))
        values = [[float(f"{value:.5g}") for value in row] for row in maps[index].tolist()]
        note, shown = (NO_MARGIN, CONTRAST) if empty[index] else ("", usual)
        yield (
            {
                **decision(*decided, model.class_names, size),
                "method": method,
                "heat_map": {**shown_json(shown, note), "values": values},
                "units": f"{METHOD_UNITS} {ONE_VS_REST_UNITS}"
                if model.spec.one_vs_rest
                else METHOD_UNITS,
            },
            Marks(maps[index].numpy(), shown=shown, note=note),
        )


def as_seen(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    """Return a picture with the border that the model sees it with, in the picture's own size."""
    if resize == "squash":  # the heat map is stretched to the picture instead
        return image
    scale = max(image.height / size[0], image.width / size[1])
    return fitted(image, (round(size[0] * scale), round(size[1] * scale)), resize)
