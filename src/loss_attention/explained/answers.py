"""Batches of image files answered by the model itself, for whatever is written of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from loss_attention.explained.columns import Columns, columns_of
from loss_attention.explained.objects import FoundObject
from loss_attention.explained.questions import OwnQuestion
from loss_attention.explained.reading import ReadImage, refused
from loss_attention.explanation import Explanation
from loss_attention.model import PatchClassifier
from loss_attention.tiling import RefusedPhoto


class Answered(NamedTuple):
    """A batch and what the model says of those of its images that can be read.

    Attributes:
        batch: all of them; those that turned out not to be explained have an error now.
        own: of the others; None: there are none.
        objects: likewise; None where the model has no evidence too.
    """

    batch: list[ReadImage]
    own: Explanation | None
    objects: list[list[FoundObject]] | None

    def columns(self, model: PatchClassifier, question: OwnQuestion) -> Columns:
        """Return the batch as columns; see `columns_of`."""
        names, resize = model.class_names, question.sight.resize
        return columns_of(self.batch, self.own, self.objects, names, resize)


def answered(
    model: PatchClassifier,
    question: OwnQuestion,
    batches: Iterable[list[ReadImage]],
    total: int,
    unreadable: list[str],
    progress: Callable[..., None] | None,
) -> Iterator[Answered]:
    """Yield what a model says of batches.

    Args:
        model: the model.
        question: what is asked of it.
        batches: of images; of one image each where there are tiles.
        total: how many images there are.
        unreadable: gets a line for each that cannot be read or explained.
        progress: called with the number of images done and of all; with tiles, of the tiles of a
            photo, and its name.
    """
    done, in_tiles = 0, question.sight.tiles is not None
    for read in batches:
        told = None
        if progress is not None and in_tiles:
            told = named(progress, read[0])
        answer = _answer(model, question, read, told)
        unreadable += [image.error for image in answer.batch if image.error]
        yield answer
        done += len(read)
        if progress is not None and not in_tiles:
            progress(done, total)


def _answer(
    model: PatchClassifier,
    question: OwnQuestion,
    batch: list[ReadImage],
    told: Callable[[int, int], None] | None,
) -> Answered:
    pixels = [image.pixels for image in batch if image.pixels is not None]
    if not pixels:
        return Answered(batch, None, None)
    try:
        images = torch.stack(pixels).to(model.mean.device)
        return Answered(batch, *question.answer(model, images, told))
    except RefusedPhoto as error:  # one at a time, where there are tiles
        return Answered(_unexplained(batch, error), None, None)


def _unexplained(batch: Sequence[ReadImage], error: RefusedPhoto) -> list[ReadImage]:
    return [image._replace(pixels=None, error=refused(image.source, error)) for image in batch]


def named(progress: Callable[..., None], image: ReadImage) -> Callable[[int, int], None]:
    """Return a function of done and total that tells a progress bar whose tiles those are."""
    name = image.source.name
    return lambda done, total: progress(done, total, name)
