"""What every data source hands over: images with labels and, if there are any, boxes and masks.

`ImageSet` holds its images decoded, in memory. `data/streaming.py` has the set that decodes them on
demand; what both can is `LabelledImages`. `Splits` are the sets to train on, to choose by and to
report on, and which split of a source is which is told by its name.

Where a picture lies in an image of another size is its placement (`data/placement.py`).

`choose_stream` decides whether a set of images fits in memory.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from loss_attention.data.division import SPLITS, hold_out
from loss_attention.errors import InputError
from loss_attention.memory import free_memory

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
        groups: which images belong together, the same number for those, shape `(N,)`, int64; None:
            each stands alone.
    """

    images: Any
    labels: Shaped[Tensor, N * K]
    class_names: tuple[str, ...]
    boxes: Float[Tensor, "N G 4"] | None = None
    box_labels: Int[Tensor, "N G"] | None = None
    names: tuple[str, ...] = ()
    masks: Bool[Tensor, "N H W"] | None = None
    placements: Float[Tensor, "N 6"] | None = None
    groups: Int[Tensor, " N"] | None = None

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
            names=tuple(self.names[i] for i in index.tolist()) if self.names else (),
            **self._each(lambda tensor: tensor[there]),
        )

    def images_and_labels(self: Images) -> Images:
        """Return images and labels alone, which is all that training needs."""
        return replace(
            self,
            boxes=None,
            box_labels=None,
            names=(),
            masks=None,
            placements=None,
            groups=None,
        )

    def to(self: Images, device: torch.device | str) -> Images:
        """Return the set with its tensors on a device; images not yet decoded come to be there."""
        moved = self._each(lambda tensor: tensor.to(device))
        return replace(self, images=self.images.to(device), **moved)

    def _each(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Return what is known of the images, all that there is of it changed in one way."""
        fields = ("labels", "boxes", "box_labels", "masks", "placements", "groups")
        known = {name: getattr(self, name) for name in fields}
        return {name: None if value is None else change(value) for name, value in known.items()}

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


@runtime_checkable
class Batch(Protocol):
    """Some images, or what stands for them, and their labels; `ImageSet` is one."""

    @property
    def images(self) -> Any:
        """What a network is given."""

    @property
    def labels(self) -> Tensor:
        """As `LabelledImages` has them."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> Any:
        """Return it on a device."""


AnyBatch = TypeVar("AnyBatch", bound=Batch, covariant=True)


@runtime_checkable
class Batches(Protocol[AnyBatch]):
    """What a loop over batches asks of a set; `LabelledImages` are one."""

    @property
    def labels(self) -> Tensor:
        """As `LabelledImages` has them."""

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes."""

    def __len__(self) -> int: ...

    def take(self, index: Int[Tensor, " n"]) -> AnyBatch:
        """Return the images of these indices, in this order."""

    def reading(self, processes: int = 1) -> AbstractContextManager[None]:
        """Lend processes that decode ahead, as long as the context lasts."""

    def expect(self, batches: Sequence[Tensor]) -> None:
        """Say which batches `take` will be asked for next, in this order."""


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
        group: what says which images belong together, as the user named it.
        drawn: the seed decides more than that: made data, classes, or images for the test.
    """

    trainval: LabelledImages
    test: LabelledImages
    source: str
    notes: tuple[str, ...] = ()
    storage: str = "images made in memory"
    validation_fraction: float = 0.0
    seed: int = 0
    group: str | None = None
    drawn: bool = False

    @cached_property
    def train(self) -> LabelledImages:
        """What weights are fitted to: all of `trainval` that is not held out."""
        return self.trainval.subset(self.divided[0]) if self.validation_fraction else self.trainval

    @cached_property
    def validation(self) -> LabelledImages:
        """What is held out of `trainval`, to choose an epoch and thresholds by; may be empty."""
        return self.trainval.subset(self.divided[1])

    @cached_property
    def divided(self) -> tuple[Tensor, Tensor]:
        """The indices in `trainval` of what is kept for training and of what is held out."""
        data = self.trainval
        return hold_out(data.labels, self.validation_fraction, self.seed, data.groups)


UNEVEN = 2
"""Classes are uneven where the largest has more than so many times the images of the smallest. Up
to there, accuracy and balanced accuracy rank networks much alike."""


def are_uneven(labels: Shaped[Tensor, N * K]) -> bool:
    """Return whether the classes that occur are uneven; never where an image may have several.

    Example:
        >>> are_uneven(torch.tensor([0, 0, 2])), are_uneven(torch.tensor([0, 0, 0, 2]))
        (False, True)
    """
    if labels.ndim > 1 or not len(labels):
        return False
    _, counts = torch.unique(labels.cpu(), return_counts=True)
    return bool(counts.max() > UNEVEN * counts.min())


def images_by_class(data: LabelledImages) -> Int[Tensor, " K"]:
    """Return how many images have each class, on the CPU."""
    labels = data.labels.cpu()
    if data.multi_label:
        return labels.sum(dim=0, dtype=torch.int64)
    return torch.bincount(labels, minlength=len(data.class_names))


def limited(splits: Splits, images: int, seed: int) -> Splits:
    """Keep at most so many training and so many test images, drawn at random by the seed."""

    def part(data: LabelledImages) -> LabelledImages:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        return data.subset(order[:images].sort().values)

    source = f"{splits.source}, limited to {images:,} training and {images:,} test images"
    trainval, test = part(splits.trainval), part(splits.test)
    return replace(splits, trainval=trainval, test=test, source=source, drawn=True)


def training_split(parts: Mapping[str, object], where: str) -> str:
    """Return the name of the training split: the one called so, or the only one.

    Raises:
        InputError: no split at all, several and none called so, or one that is for testing.
    """
    if not parts:
        raise InputError(f"{where} holds no images")
    found = find_training_split(parts)
    if found is None:
        raise InputError(f"{where} has no split named train among {', '.join(parts)}")
    return found


def find_training_split(parts: Mapping[str, object]) -> str | None:
    """Return the name of the training split, None where there is none; see `training_split`."""
    if (found := _called("train", parts)) or len(parts) != 1:
        return found
    (only,) = parts
    return None if SPLITS.get(only.lower()) in ("test", "validation") else only


def reported_split(parts: Mapping[str, object], usable: Callable[[str], bool]) -> str | None:
    """Return the test split if that is usable (has labels), else the validation split."""
    found = (_called(split, parts) for split in ("test", "validation"))
    return next((name for name in found if name is not None and usable(name)), None)


def _called(split: str, parts: Mapping[str, object]) -> str | None:
    return next((name for name in parts if SPLITS.get(name.lower()) == split), None)


def to_image(
    boxes: Float[Tensor, "N G 4"], placements: Float[Tensor, "N 6"]
) -> Float[Tensor, "N G 4"]:
    """Return boxes in pixels of the originals in pixels of the images; NaN stays NaN."""
    scale, shift = _maps(placements)
    return boxes * scale + shift


def to_original(
    boxes: Float[Tensor, "N G 4"], placements: Float[Tensor, "N 6"]
) -> Float[Tensor, "N G 4"]:
    """Return boxes in pixels of the images in pixels of the originals, clipped to them.

    A box that lies on the border alone ends up empty, at the original's edge.

    Example:
        >>> from loss_attention.data.placement import placement_of
        >>> placed = torch.tensor([placement_of((200, 100), (50, 50), "pad")]).float()
        >>> to_original(torch.tensor([[[0.0, 0.0, 25.0, 37.0]]]), placed)
        tensor([[[  0.,   0., 100., 100.]]])
    """
    scale, shift = _maps(placements)
    size = placements[:, None, [0, 1, 0, 1]]
    return torch.minimum(((boxes - shift) / scale).clamp(min=0), size)


def are_originals(placements: Float[Tensor, "N 6"]) -> bool:
    """Return whether every picture is its image, neither resized nor padded."""
    return bool((placements[:, :2] == placements[:, 4:]).all() and (placements[:, 2:4] == 0).all())


def _maps(
    placements: Float[Tensor, "N 6"],
) -> tuple[Float[Tensor, "N 1 4"], Float[Tensor, "N 1 4"]]:
    """Return factor and shift of each coordinate, from the originals to the images."""
    inner = placements[:, 4:] - placements[:, 2:4]
    scale = inner / placements[:, :2]
    return scale.repeat(1, 2).unsqueeze(1), placements[:, 2:4].repeat(1, 2).unsqueeze(1)


def sent(tensor: Shaped[Tensor, "*N"], device: torch.device) -> Shaped[Tensor, "*N"]:
    """Return a tensor on a device; to a GPU through pinned memory, so that the host goes on.

    A plain `.to(device)` of what was just made on the CPU, and indexing a tensor of a GPU by one of
    the CPU, both make the host wait until the GPU has done all that it was given.
    """
    if device.type in PINNED and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


Stream = Literal["auto", "yes", "no"]
"""Whether to stream: where a set would take too much memory, always, or never."""


@dataclass(frozen=True)
class Storage:
    """Where the images of a set are to be while it is used; nothing of it changes what they are.

    Attributes:
        stream: whether to decode them on demand.
        memory: the bytes of memory there are for them; None: what is free.
        workers: processes that decode ahead; None: as many as suit the machine.
    """

    stream: Stream = "auto"
    memory: int | None = None
    workers: int | None = None


IN_REACH = Storage()
"""In memory where that is large enough."""

PARTS = 3
"""A set may take one part in so many of the free memory: its training part is copied out of it
once, and the network, its gradients and the results need memory too."""


def choose_stream(storage: Storage, needed: int) -> tuple[bool, str]:
    """Return whether to stream, and a line that says what was chosen and why.

    Args:
        storage: what was asked for, and the memory that there is.
        needed: the bytes of all images, decoded.

    Example:
        >>> choose_stream(Storage(memory=16 * 10**9), needed=150 * 10**9)[1]
        'images streamed from disk: decoded they take 150 GB, over a third of the 16 GB free'
        >>> choose_stream(Storage(memory=16 * 10**9), needed=150 * 10**6)[1]
        'images held in memory: decoded they take 0.15 GB of 16 GB free'
    """
    size = f"decoded they take {_gigabytes(needed)}"
    if storage.stream == "yes":
        return True, f"images streamed from disk, as asked for: {size}"
    if storage.stream == "no":
        return False, f"images held in memory, as asked for: {size}"
    free = free_memory() if storage.memory is None else storage.memory
    available = f"{_gigabytes(free)} free"
    if needed * PARTS > free:
        return True, f"images streamed from disk: {size}, over a third of the {available}"
    return False, f"images held in memory: {size} of {available}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
