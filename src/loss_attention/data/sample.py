"""What every data source hands over: images with labels and, if there are any, boxes and masks.

`ImageSet` holds its images decoded, in memory. `data/streaming.py` has the set that decodes them on
demand; what both can is `LabelledImages`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from loss_attention.data.placement import to_original

PINNED = ("cuda", "xpu")
"""Kinds of devices that take copies from pinned memory while the host goes on."""

# Not `Self`, which beartype does not know in functions.
Images = TypeVar("Images", bound="LabelledImages")


@dataclass(frozen=True)
class LabelledImages(ABC):
    """A set of images of one size, decoded or not, and what is known of them.

    Attributes:
        images: shape `(N, C, H, W)`; what they are is up to the kind of set.
        labels: class indices, shape `(N,)`, int64; or, multi-label, 0/1 of shape `(N, K)`, uint8.
        class_names: the name of each of the K classes.
        boxes: `(x0, y0, x1, y1)` in pixels of `images`, x1 and y1 exclusive, shape `(N, G, 4)`,
            float32, rows of NaN after an image's last box; None where the set has no boxes.
        box_labels: the class of each box, shape `(N, G)`, int64, -1 for "no box"; None likewise.
        names: where each image came from (a file name, say), for people; empty if unknown.
        masks: the pixels that show an object of one of the image's labels, shape `(N, H, W)`; an
            image without any has no mask. None where the set has no masks, or they come with the
            decoded images.
        placements: size of each original image and the box that its picture fills in `images`,
            shape `(N, 6)`, as `data/placement.py` has it; None: the images are the originals, or
            they come with the decoded images.
    """

    images: Any
    labels: Shaped[Tensor, "N *K"]
    class_names: tuple[str, ...]
    boxes: Float[Tensor, "N G 4"] | None = None
    box_labels: Int[Tensor, "N G"] | None = None
    names: tuple[str, ...] = ()
    masks: Bool[Tensor, "N H W"] | None = None
    placements: Float[Tensor, "N 6"] | None = None

    in_memory: ClassVar[bool]
    """Whether the images are decoded, in memory."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes."""
        return self.labels.ndim == 2

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def label_matrix(self) -> UInt8[Tensor, "N K"]:
        """Return 1 where an image has a class, for single- and multi-label sets alike."""
        if self.multi_label:
            return self.labels
        one_hot = torch.nn.functional.one_hot(self.labels, len(self.class_names))
        return one_hot.to(torch.uint8)

    def subset(self: Images, index: Int[Tensor, " n"]) -> Images:
        """Return the images of these indices, in this order; nothing is decoded."""
        there = sent(index, self.labels.device)
        return replace(
            self,
            images=self.images[there if self.in_memory else index],
            labels=self.labels[there],
            boxes=None if self.boxes is None else self.boxes[there],
            box_labels=None if self.box_labels is None else self.box_labels[there],
            names=tuple(self.names[i] for i in index.tolist()) if self.names else (),
            masks=None if self.masks is None else self.masks[there],
            placements=None if self.placements is None else self.placements[there],
        )

    def without_places(self: Images) -> Images:
        """Return images and labels alone, which is all that training needs."""
        return replace(self, boxes=None, box_labels=None, names=(), masks=None, placements=None)

    def to(self: Images, device: torch.device | str) -> Images:
        """Return the set with its tensors on a device; images not yet decoded come to be there."""
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            boxes=None if self.boxes is None else self.boxes.to(device),
            box_labels=None if self.box_labels is None else self.box_labels.to(device),
            masks=None if self.masks is None else self.masks.to(device),
            placements=None if self.placements is None else self.placements.to(device),
        )

    @abstractmethod
    def take(self, index: Int[Tensor, " n"]) -> ImageSet:
        """Return the images of these indices, in this order, decoded."""

    def decoded(self) -> ImageSet:
        """Return all images decoded. For a few of them: `subset` comes first."""
        return self.take(torch.arange(len(self)))

    @abstractmethod
    def reading(self, processes: int = 1) -> AbstractContextManager[None]:
        """Lend processes that decode ahead, as long as the context lasts.

        Args:
            processes: how many share the machine and each read a part of the set.
        """

    @abstractmethod
    def expect(self, batches: Sequence[Tensor]) -> None:
        """Say which batches `take` will be asked for next, in this order.

        It may be asked for others all the same; those are decoded on the spot.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of the images and labels, the same wherever the same set is loaded so."""


@dataclass(frozen=True)
class ImageSet(LabelledImages):
    """A set of images of one size, decoded, in memory: `images` is uint8."""

    images: UInt8[Tensor, "N C H W"]

    in_memory: ClassVar[bool] = True

    def take(self, index: Int[Tensor, " n"]) -> ImageSet:
        """Return the images of these indices, in this order."""
        return self.subset(index)

    def decoded(self) -> ImageSet:
        """Return the set itself."""
        return self

    def reading(self, processes: int = 1) -> AbstractContextManager[None]:  # noqa: ARG002
        """There is nothing left to decode."""
        return nullcontext()

    def expect(self, batches: Sequence[Tensor]) -> None:
        """There is nothing left to decode."""

    def original_boxes(self, boxes: Float[Tensor, "N G 4"]) -> Float[Tensor, "N G 4"]:
        """Return boxes in pixels of the upright originals, clipped to them."""
        return boxes if self.placements is None else to_original(boxes, self.placements)

    def fingerprint(self) -> str:
        """Return a hash of the images and labels, the same wherever the same set is loaded."""
        digest = hashlib.sha256(repr((self.class_names, tuple(self.images.shape))).encode())
        for tensor in (self.images, self.labels):
            digest.update(tensor.contiguous().cpu().numpy().data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Splits:
    """What a data source offers: sets to train on, to choose by and to report on.

    Attributes:
        trainval: the whole training split, `train` and `validation` together, in its own order.
            What is measured of the data that a run has is measured of it: statistics of pixels,
            the commonest class, the fingerprint.
        test: the reported split, which is looked at once.
        source: what the data is, in a line for people.
        notes: what in it is unlike expected or was left out, a line each; `source` has them too.
        storage: whether the images are in memory or streamed, and why, in a line for people.
        validation_fraction: the part of `trainval` that is held out, in [0, 1).
        seed: decides which images are.
    """

    trainval: LabelledImages
    test: LabelledImages
    source: str
    notes: tuple[str, ...] = ()
    storage: str = "images made in memory"
    validation_fraction: float = 0.0
    seed: int = 0

    @cached_property
    def train(self) -> LabelledImages:
        """What weights are fitted to: all of `trainval` that is not held out."""
        return self.trainval.subset(self._divided[0]) if self.validation_fraction else self.trainval

    @cached_property
    def validation(self) -> LabelledImages:
        """What is held out of `trainval`, to choose an epoch and thresholds by; may be empty."""
        return self.trainval.subset(self._divided[1])

    @cached_property
    def _divided(self) -> tuple[Tensor, Tensor]:
        return hold_out(self.trainval.labels, self.validation_fraction, self.seed)


def limited(splits: Splits, images: int, seed: int) -> Splits:
    """Keep at most so many training and so many test images, drawn at random by the seed."""

    def part(data: LabelledImages) -> LabelledImages:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        return data.subset(order[:images].sort().values)

    source = f"{splits.source}, limited to {images:,} training and {images:,} test images"
    return replace(splits, trainval=part(splits.trainval), test=part(splits.test), source=source)


def hold_out(labels: Shaped[Tensor, "N *K"], fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide the indices of a set into a kept and a held-out part, both sorted.

    Single-label sets are divided class by class, multi-label sets as a whole. A class (or set) of
    two images or more gives at least one and keeps at least one; a single image is kept.

    Args:
        labels: class indices `(N,)` or a 0/1 matrix `(N, K)`.
        fraction: the part to hold out, in [0, 1).
        seed: the same seed divides the same way, on any machine.

    Example:
        >>> kept, held_out = hold_out(torch.tensor([0, 0, 0, 0, 1, 1]), 0.25, seed=0)
        >>> len(kept), len(held_out)
        (4, 2)
    """
    assert 0 <= fraction < 1
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    groups = [order]
    if labels.ndim == 1:
        classes = labels.cpu()[order]
        groups = [order[classes == value] for value in sorted(set(classes.tolist()))]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for members in groups:
        if fraction > 0 and len(members) > 1:
            count = round(fraction * len(members))
            held_out[members[: min(max(1, count), len(members) - 1)]] = True
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


def sent(tensor: Shaped[Tensor, "*N"], device: torch.device) -> Shaped[Tensor, "*N"]:
    """Return a tensor on a device; to a GPU through pinned memory, so that the host goes on.

    A plain `.to(device)` of what was just made on the CPU, and indexing a tensor of a GPU by one of
    the CPU, both make the host wait until the GPU has done all that it was given.
    """
    if device.type in PINNED and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
