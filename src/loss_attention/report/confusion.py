"""Which classes are taken for which: the confusion matrix, or of many classes its largest cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

MOST_CLASSES = 30
"""Of more, a matrix does not fit a page, and most of its cells are empty."""
MOST_PAIRS = 30


class Cell(NamedTuple):
    """Images of one class that are called by another's name, or by their own.

    Attributes:
        images: how many.
        percent: of the class's images.
        right: it is their own.
    """

    images: int
    percent: float
    right: bool


class Row(NamedTuple):
    """What the images of a class are called.

    Attributes:
        name: the class.
        images: how many there are.
        cells: one for each column.
    """

    name: str
    images: int
    cells: tuple[Cell, ...]


class Pair(NamedTuple):
    """Images of one class that are called by another's name.

    Attributes:
        name: their class.
        called: what they are called.
        images: how many.
        percent: of the class's images.
    """

    name: str
    called: str
    images: int
    percent: float


class Confusion(NamedTuple):
    """A confusion matrix as people can read it: one of `rows` and `pairs` is empty.

    Attributes:
        columns: the classes that images have or are called by, in the order of the data.
        rows: one for each class that occurs.
        pairs: in place of a matrix that would be too large, what is confused most often.
        confused: how many pairs there are in all.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    confused: int


def readable_confusion(
    counts: Mapping[str, Mapping[str, int]], names: Sequence[str]
) -> Confusion | None:
    """Return a confusion matrix as people can read it; None where there is none.

    Args:
        counts: as `Evaluation.confusion` has them.
        names: all classes, in the order of the data.
    """
    if not counts:
        return None
    called = {name for row in counts.values() for name in row}
    columns = tuple(name for name in names if name in called or name in counts)
    total = {name: sum(row.values()) for name, row in counts.items()}
    pairs = [
        Pair(name, other, images, 100 * images / total[name])
        for name, row in counts.items()
        for other, images in row.items()
        if other != name
    ]
    if len(columns) > MOST_CLASSES:
        pairs.sort(key=lambda pair: (-pair.images, -pair.percent))
        return Confusion(columns, (), tuple(pairs[:MOST_PAIRS]), len(pairs))
    rows = tuple(
        Row(
            name,
            total[name],
            tuple(
                Cell(row.get(other, 0), 100 * row.get(other, 0) / total[name], other == name)
                for other in columns
            ),
        )
        for name, row in ((name, counts[name]) for name in columns if name in counts)
    )
    return Confusion(columns, rows, (), len(pairs))
