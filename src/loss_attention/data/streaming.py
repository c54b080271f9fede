"""A set of images that stay where they are stored and are decoded on demand.

Labels, boxes and names are in memory. Any image can be had at any time, in any order: so which
images a step sees stays the pure function of `training/sampling.py` that it is in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from loss_attention.data.reading import Batch, Reader
from loss_attention.data.sample import PINNED, ImageSet, LabelledImages

FINGERPRINTED = 64
"""Images whose stored bytes are part of a set's fingerprint, evenly taken."""


@dataclass(frozen=True)
class EncodedImages:
    """Images of a table: a tensor `(N, C, H, W)` that is not there yet.

    Attributes:
        reader: of the table; shared by all that look at it.
        numbers: of the images in the table, shape `(N,)`, on the CPU.
        image_shape: channels, height and width once decoded.
        device: where they will be.
    """

    reader: Reader
    numbers: Int[Tensor, " N"]
    image_shape: tuple[int, int, int]
    device: torch.device

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """What the tensor's shape will be."""
        return len(self), *self.image_shape

    def __getitem__(self, index: Tensor | slice) -> EncodedImages:
        chosen = index if isinstance(index, slice) else index.cpu()
        return replace(self, numbers=self.numbers[chosen])

    def to(self, device: torch.device | str) -> EncodedImages:
        """Return the same images, to be decoded for a device."""
        return replace(self, device=torch.device(device))

    def read(self) -> Batch:
        """Decode the images; their tensors are on the device."""
        if not len(self):
            empty = torch.empty(self.shape, dtype=torch.uint8, device=self.device)
            return Batch(empty, None, None)
        images, placements, masks, _ = self.reader.read(self.numbers)
        # From pinned memory the copy goes on beside whatever the GPU does.
        ahead = self.device.type in PINNED
        return Batch(
            images.to(self.device, non_blocking=ahead),
            None if placements is None else placements.to(self.device, non_blocking=ahead),
            None if masks is None else masks.to(self.device, non_blocking=ahead),
        )


@dataclass(frozen=True)
class StreamedSet(LabelledImages):
    """A set of images of one size that are decoded on demand, always to the same pixels.

    Masks and placements come with the decoded images.
    """

    images: EncodedImages

    in_memory: ClassVar[bool] = False

    def take(self, index: Int[Tensor, " n"]) -> ImageSet:
        """Return the images of these indices, in this order, decoded.

        Raises:
            InputError: one of them cannot be read; the line names it.
        """
        part = self.subset(index)
        batch = part.images.read()
        return ImageSet(
            batch.images,
            part.labels,
            part.class_names,
            part.boxes,
            part.box_labels,
            part.names,
            batch.masks,
            batch.placements,
        )

    def reading(self, processes: int = 1) -> AbstractContextManager[None]:
        """Lend processes that decode ahead; they end with the context."""
        return self.images.reader.running(processes, self.images.device)

    def expect(self, batches: Sequence[Tensor]) -> None:
        """Say which batches `take` will be asked for next, in this order."""
        self.images.reader.expect([self.images[index].numbers for index in batches])

    def fingerprint(self) -> str:
        """Return a hash of names, labels, sizes of files, and the bytes of a few images.

        It is another than that of the same images in memory, which is of their pixels.
        """
        table, count = self.images.reader.table, len(self)
        assert count > 0
        facts = (self.class_names, self.images.shape, table.form)
        digest = hashlib.sha256(repr(facts).encode())
        digest.update(self.labels.contiguous().cpu().numpy().data)
        for number in self.images.numbers.tolist():
            line = f"{table.names[number]}\n{table.file_size(number)}\n"
            digest.update(line.encode("utf-8", "surrogatepass"))  # names need not be Unicode
        few = torch.arange(min(count, FINGERPRINTED)) * count // min(count, FINGERPRINTED)
        for image in table.encoded(self.images.numbers[few].tolist()):
            source = image.source() if callable(image.source) else image.source
            content = source.read_bytes() if isinstance(source, Path) else source
            if isinstance(content, bytes):
                digest.update(content)
        return digest.hexdigest()[:16]
