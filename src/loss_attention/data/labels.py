"""What a column of labels means: class indices, or a 0/1 matrix where rows hold several."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from loss_attention.errors import InputError, printable, quoted

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,999})(\.0*)?", re.ASCII)
_NUMBER = re.compile(
    r"-?(((0|[1-9]\d{0,999})(\.\d*)?|\.\d+)(e[+-]?\d{1,3})?|inf)", re.ASCII | re.IGNORECASE
)
HIDDEN = (-1, "-1")
"""What stands for a label that is not published."""

Rows = Sequence[Any]
"""A label for each row: a value, or a list of values; None where there is none."""


class CellError(InputError):
    """What is wrong with a cell of a table, to be said after the row's name."""


@dataclass(frozen=True)
class LabelKind:
    """What the labels of a data set are together: numbers, where all can be, else texts.

    So 1, 1.0 and "1" are one class, and 10 comes after 9; "01" is a text, and so is "1" beside it.

    Example:
        >>> kind = LabelKind.of([10, "9", 1.0])
        >>> [kind(10), kind("9"), kind(1.0)], LabelKind.of([1, "01"])(1)
        ([10, 9, 1], '1')
    """

    numbers: bool
    booleans: bool
    whole: frozenset[str] = frozenset()

    @classmethod
    def of(cls, labels: Iterable[Any]) -> LabelKind:
        """Return the kind of all labels of a data set."""
        found = {(type(label), label) for label in labels}
        values = [label for _, label in found]
        texts = {label for label in values if isinstance(label, str)}
        whole = {str(int(v)) for v in values if _is_whole(v)} | {
            text for text in texts if _WHOLE.fullmatch(text) and "." not in text
        }
        return cls(
            numbers=all(not isinstance(v, str) or _NUMBER.fullmatch(v) for v in values),
            booleans=bool(values) and all(isinstance(v, bool) for v in values),
            whole=frozenset(whole),
        )

    def __call__(self, label: Any) -> Any:
        """Return a label as the class that it is of.

        Raises:
            CellError: a fraction, or a truth value among others.
        """
        if isinstance(label, bool):
            if self.booleans:
                return str(label)
            raise CellError(
                f"has label {label}, a truth value, where others are none; write all in one way"
            )
        if isinstance(label, str):
            whole = _WHOLE.fullmatch(label)
            if self.numbers and whole:
                return int(label.partition(".")[0])
            if self.numbers:
                raise _fraction(label)
            integer = label.partition(".")[0]
            return integer if whole and integer in self.whole else label
        if not _is_whole(label):
            raise _fraction(label)
        return int(label) if self.numbers else str(int(label))


def _is_whole(label: Any) -> bool:
    if isinstance(label, bool) or not isinstance(label, (int, float)):
        return False
    return isinstance(label, int) or label.is_integer()


def _fraction(label: Any) -> CellError:
    return CellError(
        f"has label {quoted(label)}, which is a measurement and no class: classes are texts or "
        "whole numbers; give each range of values a name"
    )


@dataclass(frozen=True)
class Labels:
    """The labels of every split: indices `(N,)` or a matrix `(N, K)`, as in `ImageSet`.

    `index` leads from a label as it is stored to the index of its class.
    """

    class_names: tuple[str, ...]
    splits: dict[str, Shaped[Tensor, "N *K"]]
    index: dict[Any, int]


def read_labels(
    rows: Mapping[str, Rows],
    declared: tuple[str, ...] | None,
    *,
    multi_label: bool,
    title: Callable[[str, int], str],
    where: str,
) -> Labels:
    """Turn labels of any kind into tensors.

    Args:
        rows: the labels of each split, the training split first.
        declared: the class names, and rows hold their indices; None: the classes are the distinct
            values of the training split, sorted.
        multi_label: rows hold lists.
        title: what a row of a split is called in an error.
        where: what the data is called in an error.

    Raises:
        InputError: a row without a label, a label outside the classes, or one class only.
    """
    training = next(iter(rows))
    if declared is None:
        found = _distinct(rows[training], multi_label)
        index = {value: k for k, value in enumerate(found)}
        names = tuple(str(value) for value in found)
        rule = f"is no class of split {training}, which has {_few(names)}"
    else:
        index = {k: k for k in range(len(declared))}
        names = declared
        rule = f"is outside the {len(names)} classes, 0 to {len(names) - 1}"

    def indices(split: str, row: int, label: Any) -> list[int]:
        if label is None:
            raise InputError(f"{where}: {title(split, row)} has no label")
        values = label if multi_label else [label]
        for value in values:
            if value not in index:
                raise InputError(f"{where}: label {quoted(value)} of {title(split, row)} {rule}")
        return [index[value] for value in values]

    tensors = {}
    for split, labels in rows.items():
        found_indices = [indices(split, row, label) for row, label in enumerate(labels)]
        tensors[split] = label_tensor(found_indices, len(names) if multi_label else None)
    _require_two_classes(names, tensors[training], where)
    return Labels(names, tensors, index)


def unlabelled(rows: Rows) -> bool:
    """Return whether a split has no labels at all: None or -1, as hidden test labels are given."""
    return all(
        label is None or label in HIDDEN or label == [] or label in ([one] for one in HIDDEN)
        for label in rows
    )


def _distinct(rows: Rows, multi_label: bool) -> list[Any]:
    labels = (label for label in rows if label is not None)
    values = {value for row in labels for value in row} if multi_label else set(labels)
    return sorted(values - {None})


def label_tensor(indices: Sequence[Sequence[int]], classes: int | None) -> Shaped[Tensor, "N *K"]:
    """Return the classes of each image as `ImageSet` has them.

    Args:
        indices: of each image; one where `classes` is None.
        classes: how many there are, for a 0/1 matrix; None: for indices.
    """
    if classes is None:
        return torch.tensor([row[0] for row in indices], dtype=torch.int64)
    matrix = torch.zeros(len(indices), classes, dtype=torch.uint8)
    for row, columns in enumerate(indices):
        matrix[row, columns] = 1
    return matrix


def _require_two_classes(names: tuple[str, ...], labels: Tensor, where: str) -> None:
    seen = sorted(set(labels.tolist())) if labels.ndim == 1 else list(range(len(names)))
    if len(seen) < 2:
        only = f", {quoted(names[seen[0]])}" if seen else ""
        raise InputError(f"{where} has one class only{only}: a classifier needs at least two")


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:10])) + (
        f" and {len(names) - 10} more" if len(names) > 10 else ""
    )
