"""Whether a set of images fits in memory.

A set of images that stay where they are stored and are decoded on demand.

Labels, boxes and names are in memory. Any image can be had at any time, in any order: so which
images a step sees stays the pure function of `training/sampling.py` that it is in memory. Processes
decode batches ahead of whoever asks for them.

A million records as Python objects take most of a gigabyte, once more in every process that looks
at them. So where the images lie is packed: names and paths are bytes in tensors, which processes
share and none copies.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from loss_attention.data.masks import Mask
from loss_attention.data.records import Content, Encoded, Part
from loss_attention.data.sample import PINNED, ImageSet, LabelledImages, are_originals
from loss_attention.data.stacking import Form, Stack, stack_few, stack_images
from loss_attention.errors import InputError, KilledError
from loss_attention.interruption import blocked_signals, leave_signals_to_the_parent

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


MOST_WORKERS = 8
"""So many decode fast enough for most networks; more are used where they are asked for."""


class Batch(NamedTuple):
    """Decoded images; see `data/stacking.py`. A tuple, as the loader knows how to pin those.

    No placements: the images are the originals.
    """

    images: Tensor
    placements: Tensor | None
    masks: Tensor | None
    error: str = ""
    """What a user can mend: exceptions do not come out of processes as they were."""


class Reader:
    """Decodes images of a table, in processes where `running`, else on the spot.

    All sets that look at one table share its reader, so that training and validation have the same
    processes; what they look at in turn is what `expect` was told last.

    Args:
        table: where the images are.
        workers: processes that decode; 0: none, the asking one does; None: as many as suit.
    """

    def __init__(self, table: EncodedTable, workers: int | None = None) -> None:
        self.table, self.workers = table, workers
        self._expected: deque[Tensor] = deque()
        self._coming = _Coming()
        self._loader: DataLoader[Batch] | None = None
        self._batches: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the processes out: another process starts its own."""
        return {"table": self.table, "workers": self.workers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @contextmanager
    def running(self, processes: int, device: torch.device) -> Iterator[None]:
        """Have workers as long as the context lasts, unless an outer context has them already.

        Args:
            processes: how many share the machine, each with workers of its own.
            device: what the images are for.

        Raises:
            KilledError: one of them died.
        """
        workers = default_workers(processes) if self.workers is None else self.workers
        if self._loader is not None or workers == 0:
            yield
            return
        self._loader = DataLoader(
            _Decoding(self.table),
            batch_size=None,
            sampler=self._coming,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=device.type in PINNED,
            worker_init_fn=_begin,
            generator=torch.Generator(),  # or it would draw from the one of the training
        )
        try:
            yield
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                raise KilledError(
                    "a process that decodes images was ended, most likely for want of memory "
                    "(in a container also of /dev/shm); try fewer `workers`, or `workers` 0"
                ) from error
            raise
        finally:
            # Now, and not when the last reference goes: an exception's traceback may hold one.
            shut_down = getattr(self._batches, "_shutdown_workers", None)
            if shut_down is not None:
                shut_down()
            self._loader = self._batches = None
            self._expected.clear()

    def expect(self, batches: Sequence[Tensor]) -> None:
        """Begin to decode batches of images, given by their numbers, in this order."""
        if self._loader is not None and batches:
            self._expected = deque(batches)
            self._coming.batches = batches
            with blocked_signals():  # or one to the whole group would end a worker that begins
                self._batches = iter(self._loader)

    def read(self, numbers: Tensor) -> Batch:
        """Return images by their numbers.

        Raises:
            InputError: an image cannot be read, or is of another size than the others.
        """
        if self._expected and torch.equal(self._expected[0], numbers):
            self._expected.popleft()
            batch: Batch = next(self._batches)
        else:
            batch = self._read_now(numbers.tolist())
        if batch.error:
            raise InputError(batch.error)
        return batch

    def _read_now(self, numbers: list[int]) -> Batch:
        stacked = stack_images(self.table.encoded(numbers), len(numbers), self.table.form)
        return _batch(stacked)


def default_workers(processes: int) -> int:
    """Return how many processes decode for each of those that train: all cores but theirs."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // processes - 1))


class _Coming(Sampler[list[int]]):
    """The batches that are expected, whatever they are when the loader starts over.

    As plain numbers: a tensor on its way to another process is moved into shared memory by a thread
    of this one, and whoever compares it meanwhile may read memory that is no longer there.
    """

    def __init__(self) -> None:
        self.batches: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return (numbers.tolist() for numbers in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Decoding(Dataset[Batch]):
    """What each process does."""

    def __init__(self, table: EncodedTable) -> None:
        self.table = table

    def __getitem__(self, numbers: list[int]) -> Batch:
        try:
            stacked = stack_few(self.table.encoded(numbers), self.table.form)
        except InputError as error:
            return Batch(torch.empty(0), None, None, str(error))
        return _batch(stacked)


def _batch(stacked: Stack) -> Batch:
    # Decided here, where the placements are on the CPU: nobody has to wait for a GPU to say it.
    placements = None if are_originals(stacked.placements) else stacked.placements
    return Batch(stacked.images, placements, stacked.masks)


def _begin(worker: int) -> None:  # noqa: ARG001
    leave_signals_to_the_parent()


_NOT_A_ROW = -1


class Texts:
    """Texts by their number.

    Example:
        >>> Texts(["a.jpg", "", "grün"])[2]
        'grün'
    """

    def __init__(self, texts: Sequence[str]) -> None:
        # Names of files need not be valid Unicode.
        coded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._ends = torch.tensor([0, *map(len, coded)]).cumsum(0)
        self._bytes = torch.from_numpy(np.frombuffer(b"".join(coded), np.uint8).copy())

    def __getitem__(self, number: int) -> str:
        start, stop = self._ends[number : number + 2].tolist()
        return self._bytes[start:stop].numpy().tobytes().decode("utf-8", "surrogatepass")


class EncodedTable:
    """The images of all parts of a source, one part after the other, and the form they are to have.

    Args:
        parts: of the source.
        form: what to bring the images to.
    """

    def __init__(self, parts: Sequence[Part], form: Form) -> None:
        records = [record for part in parts for record in part.records]
        contents = [record.content for record in records]
        self.form = form
        self.names = Texts([record.name for record in records])
        self._paths = Texts([str(c) if isinstance(c, Path) else "" for c in contents])
        self._row = torch.tensor([c if isinstance(c, int) else _NOT_A_ROW for c in contents])
        self._others: dict[int, Content] = {
            number: content
            for number, content in enumerate(contents)
            if content is not None and not isinstance(content, (Path, int))
        }
        self._sizes = torch.tensor(
            [record.size or (0, 0) for record in records], dtype=torch.int32
        ).reshape(-1, 2)
        self._masks: dict[int, Mask] = {
            number: record.mask
            for number, record in enumerate(records)
            if form.masks and record.mask is not None
        }
        self._lookups = [part.lookup for part in parts]
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def encoded(self, numbers: Sequence[int]) -> list[Encoded]:
        """Return images of these numbers, in this order; those in tables are looked up together."""
        contents = dict(zip(numbers, map(self._direct, numbers), strict=True))
        parts = torch.searchsorted(self._ends, torch.tensor(numbers), right=True).tolist()
        for which, lookup in enumerate(self._lookups):
            asked = [n for n, part in zip(numbers, parts, strict=True) if part == which]
            rows = self._row[asked].tolist()
            stored = [(n, row) for n, row in zip(asked, rows, strict=True) if row != _NOT_A_ROW]
            if lookup is not None and stored:
                found = lookup([row for _, row in stored])
                contents |= {n: content for (n, _), content in zip(stored, found, strict=True)}
        return [
            Encoded(self.names[n], contents[n], self._size(n), self._masks.get(n)) for n in numbers
        ]

    def file_size(self, number: int) -> int:
        """Return the bytes of the file of an image; 0 where it has none of its own."""
        path = self._paths[number]
        return Path(path).stat().st_size if path else 0

    def _direct(self, number: int) -> Content:
        if number in self._others:
            return self._others[number]
        path = self._paths[number]
        return Path(path) if path else None

    def _size(self, number: int) -> tuple[int, int] | None:
        width, height = self._sizes[number].tolist()
        return (width, height) if width else None
