"""What every source of bags hands over: instances, wherever they lie, and what is known of them.

A bag is a set of feature vectors, its instances, with one label for all of them. `Instances` says
where they are: `PackedInstances` holds them in memory, `bags/files.py` reads a file a bag.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor

from loss_attention.errors import InputError, printable, quoted

NUMBERS_AT_ONCE = 2**22
"""Features of instances that are looked at together."""


class Instances(ABC):
    """The instances of a number of bags.

    Attributes:
        sizes: instances of each bag, at least 1, shape `(N,)`, int64.
        width: D, features of an instance.
    """

    sizes: Int[np.ndarray, " N"]
    width: int

    @abstractmethod
    def features(
        self, bag: int, start: int = 0, stop: int | None = None
    ) -> Num[np.ndarray, "M {self.width}"]:
        """Return the features of a bag's instances from `start` up to `stop`, of any float type."""

    def features_at(
        self, bag: int, index: Int[np.ndarray, " n"]
    ) -> Num[np.ndarray, "n {self.width}"]:
        """Return the features of some of a bag's instances.

        Args:
            bag: its number.
            index: numbers of instances, ascending, each once.
        """
        found: np.ndarray = self.features(bag)[index]
        return found

    @abstractmethod
    def coordinates(self, bag: int) -> Num[np.ndarray, "M 2"] | None:
        """Return x and y of each instance; None where they lie nowhere."""

    def tile(self, bag: int) -> int | None:  # noqa: ARG002 (only files say so)
        """Return how many pixels of its slide a tile of a bag covers; None: it is not said."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of what is in them, the same wherever the same is loaded."""

    def location(self, bag: int) -> str:  # noqa: ARG002 (all bags are in one place)
        """Return the file of a bag, as errors name it; "": all are in one."""
        return ""


class PackedInstances(Instances):
    """Instances in memory, those of one bag after the other's.

    Args:
        values: their features, shape `(sum of M, D)`.
        sizes: instances of each bag.
        positions: x and y of each, shape `(sum of M, 2)`; None: they lie nowhere.
    """

    def __init__(
        self,
        values: Num[np.ndarray, "S D"],
        sizes: Int[np.ndarray, " N"],
        positions: Num[np.ndarray, "S 2"] | None = None,
    ) -> None:
        assert int(sizes.sum()) == len(values)
        self.sizes, self.width = sizes, values.shape[1]
        self._values, self._positions = values, positions
        self._first = np.concatenate([[0], np.cumsum(sizes)])

    def features(
        self, bag: int, start: int = 0, stop: int | None = None
    ) -> Num[np.ndarray, "M {self.width}"]:
        """Return the features of a bag's instances from `start` up to `stop`."""
        return self._values[self._first[bag] : self._first[bag + 1]][start:stop]

    def coordinates(self, bag: int) -> Num[np.ndarray, "M 2"] | None:
        """Return x and y of each instance; None where they lie nowhere."""
        if self._positions is None:
            return None
        return self._positions[self._first[bag] : self._first[bag + 1]]

    def fingerprint(self) -> str:
        """Return a hash of features, sizes and places."""
        digest = hashlib.sha256(repr((self._values.shape, str(self._values.dtype))).encode())
        for array in (self._values, self.sizes, self._positions):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


class ReadLabels(Sequence[Any]):
    """Labels of the instances of bags that are read when they are asked for.

    Args:
        read: returns those of a bag by its number in `Instances`.
        rows: the numbers of the bags.
        changes: what is made of them after that, in this order.
    """

    def __init__(
        self,
        read: Callable[[int], Int[np.ndarray, "M *K"]],
        rows: Int[np.ndarray, " N"],
        changes: tuple[Callable[[np.ndarray], np.ndarray], ...] = (),
    ) -> None:
        self._read, self._rows, self._changes = read, rows, changes

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, bag: Any) -> Any:
        found = self._read(int(self._rows[bag]))
        for change in self._changes:
            found = change(found)
        return found

    def of(self, index: Int[np.ndarray, " n"]) -> ReadLabels:
        """Return those of the bags of these indices, in this order."""
        return ReadLabels(self._read, self._rows[index], self._changes)

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> ReadLabels:
        """Return what a function makes of those of each bag, once they are read."""
        return ReadLabels(self._read, self._rows, (*self._changes, change))


@dataclass(frozen=True)
class BagSet:
    """A set of labelled bags.

    Attributes:
        instances: of these bags and perhaps of others.
        rows: which of the bags of `instances` these are, shape `(N,)`, int64.
        labels: class indices `(N,)`, int64; or, multi-label, 0/1 of shape `(N, K)`, uint8.
        class_names: the name of each of the K classes.
        names: of each bag, for people.
        instance_labels: for each bag the class of each instance, shape `(M,)`, int64, -1 for none
            of them; of several labels, 0/1 of shape `(M, K)`. None where they are not known.
        groups: which bags belong together, as those of one patient do, the same number for those,
            shape `(N,)`, int64; None: each stands alone.
        splits: "train", "validation" or "test" for each bag; empty: it is not said.
    """

    instances: Instances
    rows: Int[np.ndarray, " N"]
    labels: Shaped[Tensor, N * K]
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    instance_labels: tuple[Int[np.ndarray, M * K], ...] | ReadLabels | None = None
    groups: Int[Tensor, " N"] | None = None
    splits: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def multi_label(self) -> bool:
        """Whether a bag may have several classes."""
        return self.labels.ndim == 2

    @property
    def width(self) -> int:
        """D, features of an instance."""
        return self.instances.width

    @property
    def sizes(self) -> Int[np.ndarray, " N"]:
        """Instances of each bag."""
        sizes: Int[np.ndarray, " N"] = self.instances.sizes[self.rows]
        return sizes

    def features(self, bag: int, start: int = 0, stop: int | None = None) -> Num[np.ndarray, "M D"]:
        """Return the features of a bag's instances from `start` up to `stop`."""
        return self.instances.features(int(self.rows[bag]), start, stop)

    def features_at(self, bag: int, index: Int[np.ndarray, " n"]) -> Num[np.ndarray, "n D"]:
        """Return the features of those of a bag's instances that ascending numbers say."""
        return self.instances.features_at(int(self.rows[bag]), index)

    def coordinates(self, bag: int) -> Num[np.ndarray, "M 2"] | None:
        """Return x and y of each instance of a bag; None where they lie nowhere."""
        return self.instances.coordinates(int(self.rows[bag]))

    def tile(self, bag: int) -> int | None:
        """Return how many pixels of its slide a tile of a bag covers; None: it is not said."""
        return self.instances.tile(int(self.rows[bag]))

    def location(self, bag: int) -> str:
        """Return what errors call a bag: its file, where it has one of its own, or its name."""
        return self.instances.location(int(self.rows[bag])) or f"bag {quoted(self.names[bag])}"

    def subset(self, index: Sequence[int] | Int[np.ndarray, " n"]) -> BagSet:
        """Return the bags of these indices, in this order."""
        index = np.asarray(index, dtype=np.int64)
        there = torch.from_numpy(index)
        known, groups = self.instance_labels, self.groups
        if isinstance(known, ReadLabels):
            known = known.of(index)
        elif known is not None:
            known = tuple(known[i] for i in index)
        return replace(
            self,
            rows=self.rows[index],
            labels=self.labels[there],
            names=tuple(self.names[i] for i in index),
            instance_labels=known,
            groups=None if groups is None else groups[there],
            splits=tuple(self.splits[i] for i in index) if self.splits else (),
        )

    def split(self, name: str) -> BagSet:
        """Return the bags of a split, in their order."""
        return self.subset([i for i, one in enumerate(self.splits) if one == name])

    def fingerprint(self) -> str:
        """Return a hash of bags and labels, the same wherever the same set is loaded."""
        digest = hashlib.sha256(repr((self.class_names, self.instances.fingerprint())).encode())
        digest.update(np.ascontiguousarray(self.rows).data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()[:16]


class Features:
    """The features of one bag, which are read when a slice of them is taken.

    Args:
        bags: it is one of these.
        bag: its number among them.

    Attributes:
        shape: `(M, D)`.
    """

    def __init__(self, bags: BagSet, bag: int) -> None:
        self.shape = int(bags.sizes[bag]), bags.width
        self._bags, self._bag = bags, bag

    def __getitem__(self, rows: slice) -> Num[np.ndarray, "m D"]:
        return self._bags.features(self._bag, rows.start, rows.stop)


def class_counts(bags: BagSet) -> list[int]:
    """Return how many bags have each class."""
    labels, classes = bags.labels, len(bags.class_names)
    counts = labels.sum(dim=0) if bags.multi_label else labels.bincount(minlength=classes)
    found: list[int] = counts.tolist()
    return found


def described(bags: BagSet) -> str:
    """Return what a set of bags holds, in a line."""
    sizes = bags.sizes
    counts = class_counts(bags)
    classes = ", ".join(
        f"{count} of {printable(name)}"
        for name, count in zip(bags.class_names, counts, strict=True)
    )
    return (
        f"{len(bags):,} bags ({classes}) of {sizes.min():,} to {sizes.max():,} instances, "
        f"{int(sizes.sum()):,} in all, of {bags.width:,} features"
    )


def feature_statistics(
    bags: BagSet, at_once: int | None = None
) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Return mean and standard deviation of each feature over all instances of all bags.

    A feature that is the same everywhere has standard deviation 1, so that dividing by it changes
    nothing.

    Args:
        bags: those to train on.
        at_once: instances that are read together; None: as many as have 4 million numbers.

    Raises:
        InputError: there is no bag, or a feature is NaN or infinite: bag and row are named.
    """
    count, total, square = 0, np.zeros(bags.width), np.zeros(bags.width)
    shift: np.ndarray | None = None  # squares of large numbers lose what makes them differ
    for bag in range(len(bags)):
        for start, found in slices(bags, bag, at_once):
            values = found.astype(np.float64)
            if not np.isfinite(values).all():
                raise InputError(f"{bags.location(bag)}: {not_finite(values, start)}")
            if shift is None:
                shift = values.mean(axis=0)
            values -= shift
            count += len(values)
            total += values.sum(axis=0)
            square += np.einsum("md,md->d", values, values)
    if shift is None:
        raise InputError("there is no bag to take mean and spread of the features from")
    mean = total / count
    spread = np.sqrt(np.maximum(square / count - mean**2, 0.0))
    constant = spread <= 1e-6 * np.abs(shift + mean)
    spread[constant | (spread == 0)] = 1.0
    return torch.from_numpy(mean + shift).float(), torch.from_numpy(spread).float()


def slices(
    bags: BagSet, bag: int, at_once: int | None = None
) -> Iterator[tuple[int, Num[np.ndarray, "m D"]]]:
    """Yield all features of a bag a slice at a time, each with the number of its first instance."""
    step = max(1, NUMBERS_AT_ONCE // bags.width) if at_once is None else at_once
    for start in range(0, int(bags.sizes[bag]), step):
        yield start, bags.features(bag, start, start + step)


def not_finite(values: Num[np.ndarray, "m D"], start: int) -> str:
    """Say which instance has a feature that is NaN or infinite, the first of these.

    Args:
        values: features, one of which is.
        start: the number of the first of these instances in its bag.
    """
    row, place = np.argwhere(~np.isfinite(values))[0]
    what = "NaN" if np.isnan(values[row, place]) else "infinite"
    return f"row {start + row + 1}, feature {place + 1} is {what}"
