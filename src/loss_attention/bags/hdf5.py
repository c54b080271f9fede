"""Some rows of an array in an HDF5 file, a few reads for many of them.

HDF5 keeps an array as it is, or in blocks of rows that may be compressed; CLAM and TRIDENT write
each row as a block. Asked for numbered rows, its library reads them one by one, and opens a
compressed block again for each. Here rows that lie close together are read together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int, Num

AT_ONCE = 2**23
"""Bytes that are read together, where a block is no larger."""
GAP = 2**14
"""Bytes that are read and not asked for rather than asking once more."""


def some_rows(
    dataset: Any, rows: slice | Int[np.ndarray, " n"], axis: int
) -> Num[np.ndarray, "n *D"]:
    """Return some rows of a dataset.

    Args:
        dataset: of h5py, of shape `(M, *D)` or `(1, M, *D)`.
        rows: which: from one to another, or ascending numbers, each once.
        axis: along which they are counted: 0, or 1 where there is one before it.
    """

    def between(span: slice) -> np.ndarray:
        found: np.ndarray = dataset[(slice(None),) * axis + (span,)]
        return found.reshape(-1, *dataset.shape[axis + 1 :])

    if isinstance(rows, slice):
        return between(rows)
    found = np.empty((len(rows), *dataset.shape[axis + 1 :]), dataset.dtype)
    height = 1 if dataset.chunks is None else dataset.chunks[axis]
    block_bytes = max(1, height * (found.nbytes // max(1, len(found))))
    for part in _together(rows // height, 1 + GAP // block_bytes, max(1, AT_ONCE // block_bytes)):
        numbers = rows[part]
        first, last = int(numbers[0]), int(numbers[-1])
        found[part] = between(slice(first, last + 1))[numbers - first]
    return found


def _together(of_block: Int[np.ndarray, " n"], near: int, most: int) -> Iterator[slice]:
    """Yield which rows are read together: those of blocks that are near each other, within most."""
    first = 0
    for place in (*(np.flatnonzero(np.diff(of_block) > near) + 1).tolist(), len(of_block)):
        while first < place:
            end = np.searchsorted(of_block[first:place], of_block[first] + most)
            yield slice(first, first + int(end))
            first += int(end)
