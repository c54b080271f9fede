"""Bags in files of their own: what a file says of its bag, and its instances a slice at a time.

A file has `features`, (M, D) or (1, M, D), and perhaps `coords`, (M, 2), as CLAM and TRIDENT write
them in HDF5, and `instance_labels`; of a file that holds one array alone, it is the features.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, Num

from loss_attention.bags.bag_set import Instances
from loss_attention.bags.formats import (
    COORDS,
    FEATURES,
    LABELS,
    Array,
    Content,
    Rows,
    opened,
)
from loss_attention.errors import InputError, guarded, printable, quoted
from loss_attention.memory import free_memory

Progress = Callable[[int, int], object]

UNASKED = 2**26
"""Bytes that are read without looking at how much memory is free."""
SAMPLED = 8
"""Rows of a file that its fingerprint is made of, beside its shape."""


@dataclass(frozen=True)
class BagFile:
    """What a file says of its bag.

    Attributes:
        size: M, instances.
        width: D, features of each.
        kind: the type of the features, as numpy calls it, or bfloat16.
        placed: whether instances have coordinates.
        tile: pixels of the slide that a tile covers; None: it is not said.
        labels: the shape of the labels of instances, (M,) or (M, K); None: there are none.
        classes: the names of the classes that these number; empty: it is not said.
    """

    size: int
    width: int
    kind: str
    placed: bool
    tile: int | None
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()


class FileInstances(Instances):
    """Instances in files, one a bag. Nothing is kept of what is read.

    Args:
        folder: where the files are.
        names: of each bag's file, from the folder.
        files: what each says, which is of one width.
    """

    def __init__(self, folder: Path, names: Sequence[str], files: Sequence[BagFile]) -> None:
        self.folder, self.names, self.files = folder, tuple(names), tuple(files)
        self.sizes = np.array([one.size for one in files], dtype=np.int64)
        self.width = files[0].width

    def features(
        self, bag: int, start: int = 0, stop: int | None = None
    ) -> Num[np.ndarray, "M {self.width}"]:
        """Return the features of a bag's instances from `start` up to `stop`, as they are stored.

        Integers and bfloat16 become float32.

        Raises:
            InputError: the file is no longer what it was, or does not fit in memory.
        """
        file = self.files[bag]
        rows = slice(*slice(start, stop).indices(file.size))
        (found,) = self._read(bag, FEATURES, [rows], file.width)
        return found.astype(np.float32) if found.dtype.kind in "iu" else found

    def features_at(
        self, bag: int, index: Int[np.ndarray, " n"]
    ) -> Num[np.ndarray, "n {self.width}"]:
        """Return the features of some of a bag's instances, and read no others.

        Of an array in blocks, those blocks are read that an instance is in.

        Raises:
            InputError: see `features`.
        """
        (found,) = self._read(bag, FEATURES, [index], self.files[bag].width)
        return found.astype(np.float32) if found.dtype.kind in "iu" else found

    def coordinates(self, bag: int) -> Num[np.ndarray, "M 2"] | None:
        """Return x and y of each instance; None where they lie nowhere.

        Raises:
            InputError: the file is no longer what it was, or one is not a finite number.
        """
        if not self.files[bag].placed:
            return None
        (found,) = self._read(bag, COORDS, [slice(0, self.files[bag].size)], 2)
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            raise InputError(f"{self.location(bag)}: row {bad[0] + 1} of `coords` is not finite")
        return found

    def tile(self, bag: int) -> int | None:
        """Return how many pixels of the slide a tile covers; None where the file does not say."""
        return self.files[bag].tile

    def instance_labels(
        self, bag: int, classes: Sequence[str], *, several: bool
    ) -> Int[np.ndarray, "M *K"]:
        """Return the class of each instance of a bag, -1 for none.

        Args:
            bag: its number.
            classes: the names of the classes of the bags.
            several: return 0 or 1 for each class instead, of shape `(M, K)`.

        Raises:
            InputError: the file is no longer what it was, or an instance's label is not a class
                of the bags.
        """
        file = self.files[bag]
        assert file.labels is not None
        (found,) = self._read(bag, LABELS, [slice(0, file.size)], *file.labels[1:])
        where = self.location(bag)
        return _by_class(found.astype(np.int64), file.classes, classes, where, several=several)

    def _read(self, bag: int, what: str, parts: Sequence[Rows], *width: int) -> list[np.ndarray]:
        """Return parts of an array of a bag's file, which must have the shape that it had."""
        name, size = self.names[bag], self.files[bag].size
        with opened(self.folder / name, name) as content:
            array = {FEATURES: content.features, COORDS: content.coords, LABELS: content.labels}[
                what
            ]
            if array is None or array.shape not in ((size, *width), (1, size, *width)):
                raise InputError(f"{self.location(bag)} has changed since it was first read")
            return [_rows(array, rows, name, len(width)) for rows in parts]

    def location(self, bag: int) -> str:
        """Return the file of a bag, as errors name it."""
        return printable(self.names[bag])

    def fingerprint(self) -> str:
        """Return a hash of what the files say and of some rows of each, wherever they are.

        Reading all of them may take hours: a file that differs in other rows alone is not told
        apart.
        """

        def sample(bag: int) -> bytes:
            file = self.files[bag]
            rows = sorted({round(at) for at in np.linspace(0, file.size - 1, SAMPLED)})
            digest = hashlib.sha256(repr((file.size, file.width, file.kind, file.placed)).encode())
            for found in self._read(
                bag, FEATURES, [slice(row, row + 1) for row in rows], file.width
            ):
                digest.update(found.data)
            return digest.digest()

        with _threads() as pool:
            found = b"".join(pool.map(sample, range(len(self.files))))
        return hashlib.sha256(found).hexdigest()[:16]


def _by_class(
    found: Int[np.ndarray, "M *K"],
    own: Sequence[str],
    classes: Sequence[str],
    where: str,
    *,
    several: bool,
) -> Int[np.ndarray, "M *K"]:
    """Return labels of instances by the classes of the bags; see `FileInstances.instance_labels`.

    Args:
        found: as they are stored.
        own: the names of the classes that these number; empty: those of the bags.
        classes: of the bags.
        where: the file, for errors.
        several: an instance may have several.
    """
    names = tuple(own or classes)
    flat = found.ndim == 1
    wrong = (found < -1) | (found >= len(names)) if flat else (found != 0) & (found != 1)
    if wrong.any():
        row, *column = np.argwhere(wrong)[0]
        rule = f"the number of a class, below {len(names)}, or -1 for none" if flat else "0 or 1"
        raise InputError(
            f"{where}: row {row + 1} of `{LABELS}` is {found[(row, *column)]}: it must be {rule}"
        )
    rows, *columns = np.nonzero(found >= 0 if flat else found)
    numbers = found[rows] if flat else columns[0]
    place = np.array([classes.index(name) if name in classes else -1 for name in names], int)
    lost = np.flatnonzero(place[numbers] < 0)
    if len(lost):
        row, name = rows[lost[0]] + 1, quoted(names[numbers[lost[0]]])
        raise InputError(
            f"{where}: row {row} of `{LABELS}` is of the class {name}, which no bag has"
        )
    if several:
        spread = np.zeros((len(found), len(classes)), dtype=np.int64)
        spread[rows, place[numbers]] = 1
        return spread
    of_each = np.full(len(found), -1, dtype=np.int64)
    of_each[rows] = place[numbers]
    return of_each


def look_at_files(
    folder: Path, names: Sequence[str], progress: Progress | None = None
) -> Iterator[BagFile | InputError]:
    """Yield what each file says of its bag, in their order, or what is wrong with it."""

    def look(name: str) -> BagFile | InputError:
        try:
            with opened(folder / name, name) as content:
                return understood(content, name)
        except InputError as error:
            return error

    with _threads() as pool:
        for done, found in enumerate(pool.map(look, names), start=1):
            yield found
            if progress is not None:
                progress(done, len(names))


def understood(content: Content, name: str) -> BagFile:
    """Return what an open file says of its bag.

    Raises:
        InputError: no features, none that are numbers, a shape that is not a bag's, or less in the
            file than it says.
    """
    name = printable(name)
    features, coords, labels, tile, classes = content
    if features is None:
        other = ", but has `coords`: they are of other files" if coords is not None else ""
        raise InputError(f"{name} holds no `{FEATURES}`{other}")
    for what, array in ((FEATURES, features), (COORDS, coords), (LABELS, labels)):
        if array is None:
            continue
        whole_numbers = what == LABELS
        with guarded(f"{name}: `{what}`"):
            kind = "f" if array.kind == "bfloat16" else np.dtype(array.kind).kind
        if kind not in ("iub" if whole_numbers else "fiu") or (
            kind == "f" and array.kind in ("float128", "longdouble")
        ):
            rule = "whole numbers" if whole_numbers else "numbers"
            raise InputError(f"{name}: `{what}` holds {printable(array.kind)}, not {rule}")
        if not array.whole():
            raise InputError(
                f"{name}: `{what}` is declared as {_shape(array)}, of which the file holds a part"
            )
    shape = features.shape[1:] if len(features.shape) == 3 else features.shape
    if len(shape) != 2 or (len(features.shape) == 3 and features.shape[0] != 1):
        raise InputError(
            f"{name}: `{FEATURES}` is {_shape(features)}: it must be (instances, features)"
        )
    size, width = shape
    if not size or not width:
        raise InputError(f"{name}: a bag without {'features' if size else 'instances'}")
    if coords is not None and coords.shape not in ((size, 2), (1, size, 2)):
        raise InputError(
            f"{name}: `{COORDS}` is {_shape(coords)}, and there are {size:,} instances: it must be "
            f"({size}, 2)"
        )
    if labels is not None and (len(labels.shape) not in (1, 2) or labels.shape[0] != size):
        raise InputError(
            f"{name}: `{LABELS}` is {_shape(labels)}, and there are {size:,} instances: it must be "
            f"({size}), or ({size}, classes) of 0 and 1"
        )
    known = None if labels is None else labels.shape
    return BagFile(size, width, features.kind, coords is not None, tile, known, classes)


def _rows(array: Array, rows: Rows, name: str, axes: int = 1) -> np.ndarray:
    """Return some rows of an array as an array of their own, in this machine's order of bytes.

    Args:
        array: of an open file.
        rows: which of them.
        name: of the file.
        axes: that a row has.
    """
    axis = len(array.shape) - 1 - axes
    count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
    asked = max(count * array.bytes // max(array.shape[axis], 1), array.block)
    if asked > UNASKED and asked > (free := free_memory()):
        raise InputError(
            f"{printable(name)}: {asked / 1e9:.1f} GB are to be read at once and {free / 1e9:.1f} "
            "GB are free"
        )
    found = array.part(rows, axis).reshape(-1, *array.shape[axis + 1 :])
    if len(found) != count:
        raise InputError(f"{printable(name)} holds less data than it declares")
    return np.ascontiguousarray(found, dtype=found.dtype.newbyteorder("="))


def _shape(array: Array) -> str:
    return f"({', '.join(map(str, array.shape))})"


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1)))
