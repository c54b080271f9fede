"""Some rows of an array in an HDF5 file, wherever they are in it.

HDF5 keeps an array as it is, or in blocks of rows that may be compressed; CLAM and TRIDENT write
each row as a block. Its library asks for what is chosen a row at a time, and opens a compressed
block again for each. Here each block is opened once, and what is not compressed is taken from
where it lies in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Int, Num

AT_ONCE = 2**23
"""Bytes of blocks that are read together."""
LISTED_FOR_ONE = 8
"""Of small blocks, so many are listed in the time in which the library reads one that is drawn."""
LISTED_IN_A_ROW = 2
"""Likewise where blocks are read that follow one another."""


def some_rows(
    dataset: Any, rows: slice | Int[np.ndarray, " n"], axis: int
) -> Num[np.ndarray, "n D"]:
    """Return some rows of a dataset `(M, D)` or `(1, M, D)`, in memory of their own.

    Args:
        dataset: of h5py, all of it in the file.
        rows: which: from one to another, or ascending numbers, each once.
        axis: along which they are counted: 0, or 1 where there is one before it.
    """
    width, blocks = dataset.shape[-1], dataset.chunks
    row_bytes = width * dataset.dtype.itemsize
    height = 1 if blocks is None else blocks[axis]

    def between(span: slice) -> np.ndarray:
        found: np.ndarray = dataset[(slice(None),) * axis + (span,)]
        return found.reshape(-1, width)

    if isinstance(rows, slice):
        few = (rows.stop - rows.start) * LISTED_IN_A_ROW < dataset.shape[axis]
        if blocks is None or height > 1 or few:
            return between(rows)
        rows = np.arange(rows.start, rows.stop)
    found = np.empty((len(rows), width), dataset.dtype)
    places = _places(dataset, rows, axis)
    if places is not None:
        _copy(dataset.file.filename, places, found)
        return found
    for part in _together(rows // height, max(1, AT_ONCE // (height * row_bytes))):
        numbers = rows[part]
        first, last = int(numbers[0]), int(numbers[-1])
        found[part] = between(slice(first, last + 1))[numbers - first]
    return found


def _together(of_block: Int[np.ndarray, " n"], most: int) -> Iterator[slice]:
    """Yield which rows are read together: those of blocks side by side, at most so many."""
    first = 0
    for place in (*(np.flatnonzero(np.diff(of_block) > 1) + 1).tolist(), len(of_block)):
        while first < place:
            end = np.searchsorted(of_block[first:place], of_block[first] + most)
            yield slice(first, first + int(end))
            first += int(end)


def _places(dataset: Any, rows: Int[np.ndarray, " n"], axis: int) -> Int[np.ndarray, " n"] | None:
    """Return where in the file each row begins; None where rows are not in it as they are."""
    from h5py import h5t

    stored, blocks, width = dataset.id, dataset.chunks, dataset.shape[-1]
    row_bytes = width * dataset.dtype.itemsize
    if (
        not len(rows)
        or dataset.file.driver != "sec2"
        or dataset.file.userblock_size
        or stored.get_create_plist().get_nfilters()
        or not stored.get_type().equal(h5t.py_create(dataset.dtype))
    ):
        return None
    if blocks is None:
        start = stored.get_offset()  # None of a small array, which lies within its description
        return None if start is None else start + rows * row_bytes
    height, number = blocks[axis], -(-dataset.shape[axis] // blocks[axis])
    wanted = len(np.unique(rows // height))
    whole_rows = blocks[-1] == width
    if not whole_rows or wanted * LISTED_FOR_ONE < number or not hasattr(stored, "chunk_iter"):
        return None
    begins = np.full(number, -1, dtype=np.int64)

    def note(block: Any) -> None:
        if block.size == prod(blocks) * dataset.dtype.itemsize:
            begins[block.chunk_offset[axis] // height] = block.byte_offset

    stored.chunk_iter(note)
    of_rows = begins[rows // height]
    return None if (of_rows < 0).any() else of_rows + rows % height * row_bytes


def _copy(file: str, places: Int[np.ndarray, " n"], into: Num[np.ndarray, "n D"]) -> None:
    """Copy rows from their places in a file."""
    content = np.memmap(file, mode="r")
    size = into.shape[1] * into.itemsize
    if places.min() < 0 or places.max() + size > len(content):
        raise ValueError("it ends before what it says is there")
    flat = into.view(np.uint8).reshape(-1)
    cuts = (np.flatnonzero(np.diff(places) != size) + 1).tolist()
    for first, last in zip([0, *cuts], [*cuts, len(places)], strict=True):
        start = int(places[first])
        flat[first * size : last * size] = content[start : start + (last - first) * size]
