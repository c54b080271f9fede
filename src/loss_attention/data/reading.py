"""Processes that decode batches of images ahead of whoever asks for them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from loss_attention.data.encoded import EncodedTable
from loss_attention.data.placement import are_originals
from loss_attention.data.sample import PINNED
from loss_attention.data.stacking import Stacked, stack_few, stack_images
from loss_attention.errors import InputError, KilledError
from loss_attention.interruption import blocked_signals, leave_signals_to_the_parent

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
                    "(in a container also of /dev/shm); try fewer --workers, or --workers 0"
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


def _batch(stacked: Stacked) -> Batch:
    # Decided here, where the placements are on the CPU: nobody has to wait for a GPU to say it.
    placements = None if are_originals(stacked.placements) else stacked.placements
    return Batch(stacked.images, placements, stacked.masks)


def _begin(worker: int) -> None:  # noqa: ARG001
    leave_signals_to_the_parent()
