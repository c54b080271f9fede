"""What labels mean, and which are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from data.refusing import short

from loss_attention.data.assembling import Labels, read_labels
from loss_attention.data.formats.cells import CellError
from loss_attention.data.records import (
    LabelKind,
    Part,
    Record,
    Source,
    unlabelled,
)
from loss_attention.errors import InputError

PETS = ("cat", "dog", "hen")


def read(
    rows: Mapping[str, Sequence[Any]],
    declared: tuple[str, ...] | None = None,
    multi_label: bool = False,
) -> Labels:
    parts = tuple(
        Part(split, [Record(f"{split}[{row}]", None, label) for row, label in enumerate(labels)])
        for split, labels in rows.items()
    )
    return read_labels(Source("pets", parts, declared, multi_label))


def test_declared_classes_keep_their_indices() -> None:
    labels = read({"train": [2, 0, 2], "test": [1]}, PETS)
    assert labels.class_names == PETS
    assert labels.splits["train"].tolist() == [2, 0, 2]
    assert labels.splits["train"].dtype == torch.int64
    assert labels.splits["test"].tolist() == [1]  # declared, though training has none


@pytest.mark.parametrize(
    ("rows", "names", "indices"),
    [
        (["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1]),
        ([10, 9, 100], ("9", "10", "100"), [1, 0, 2]),  # sorted as numbers
        ([-1, 1, -1], ("-1", "1"), [0, 1, 0]),
        ([True, False], ("False", "True"), [1, 0]),
    ],
)
def test_classes_of_the_training_split(
    rows: list[Any], names: tuple[str, ...], indices: list[int]
) -> None:
    labels = read({"train": rows, "test": rows[:1]})
    assert labels.class_names == names
    assert labels.splits["train"].tolist() == indices
    assert labels.splits["test"].tolist() == indices[:1]


def test_several_labels_a_row() -> None:
    labels = read({"train": [[0, 2], [], [1], [2, 2]], "test": [[2]]}, PETS, multi_label=True)
    assert labels.splits["train"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert labels.splits["train"].dtype == torch.uint8
    assert labels.splits["test"].tolist() == [[0, 0, 1]]
    found = read({"train": [["dog"], ["cat", "dog"]]}, multi_label=True)
    assert found.class_names == ("cat", "dog")
    assert found.splits["train"].tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("rows", "declared", "multi_label", "message"),
    [
        ([0, 1, 3], PETS, False, "label 3 of test[2] is outside the 3 classes, 0 to 2"),
        ([0, -1], PETS, False, "label -1 of test[1] is outside the 3 classes, 0 to 2"),
        ([0, None], PETS, False, "test[1] has no label"),
        ([[0], [1, 7]], PETS, True, "label 7 of test[1] is outside the 3 classes, 0 to 2"),
        ([[0], None], PETS, True, "test[1] has no label"),
        ([[0], [None]], PETS, True, "label None of test[1] is outside the 3 classes, 0 to 2"),
        (["z"], None, False, "label 'z' of test[0] is not a class of split train, which has a, b"),
    ],
)
def test_labels_outside_the_classes(
    rows: list[Any], declared: tuple[str, ...] | None, multi_label: bool, message: str
) -> None:
    train: list[Any] = ["a", "b"] if declared is None else [0, 1]
    train = [[label] for label in train] if multi_label else train
    with pytest.raises(InputError) as caught:
        read({"train": train, "test": rows}, declared, multi_label)
    assert str(caught.value) == f"pets: {message}"


def test_many_classes_are_not_all_listed() -> None:
    with pytest.raises(InputError) as caught:
        read({"train": list(range(1000)), "test": [1001]})
    assert str(caught.value).endswith("which has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 990 more")


@pytest.mark.parametrize(
    ("rows", "declared", "multi_label", "only"),
    [
        (["cat", "cat"], None, False, ", 'cat'"),
        ([1, 1], PETS, False, ", 'dog'"),  # declared three, there is one
        ([0, 0], ("cat",), False, ", 'cat'"),
        ([["cat"], []], None, True, ", 'cat'"),
        ([[], []], None, True, ""),
    ],
)
def test_one_class_only(
    rows: list[Any], declared: tuple[str, ...] | None, multi_label: bool, only: str
) -> None:
    with pytest.raises(InputError) as caught:
        read({"train": rows}, declared, multi_label)
    assert str(caught.value) == (f"pets has one class only{only}: a classifier needs at least two")


def test_unlabelled() -> None:
    for rows in ([-1, -1], [None, None], [[], []], [[-1]], [None, -1], ["-1", "-1"], [-1.0]):
        assert unlabelled(rows)
    for rows in ([-1, 0], [None, "x"], [[], [1]], [0]):
        assert not unlabelled(rows)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1.0, 10.0, 2.0], [1, 2, 10]),
        (["1", "10", "2"], [1, 2, 10]),
        (["1.0", "10.0", "2."], [1, 2, 10]),
        ([1, "1", 1.0, "1.0", 2], [1, 2]),
        ([1, "1", 1.0, "cat"], ["1", "cat"]),
        (["1", "1.0", "cat"], ["1", "cat"]),
        (["1.0", "2.0", "cat"], ["1.0", "2.0", "cat"]),
        (["01", "1", 2], ["01", "1", "2"]),
        (["1", "+1"], ["+1", "1"]),
        ([-1, "1"], [-1, 1]),
        ([10**30, 1e22, "9"], [9, 10**22, 10**30]),
        ([True, False], ["False", "True"]),
        (["True", "1"], ["1", "True"]),
        (["9" * 5000, "1"], ["1", "9" * 5000]),
        (["1.5", "cat"], ["1.5", "cat"]),
        (["1_0", "1"], ["1", "1_0"]),
        ([], []),
    ],
    ids=short,
)
def test_numbers_in_order_where_all_are_numbers(labels: list[Any], classes: list[Any]) -> None:
    kind = LabelKind.of(labels)
    assert sorted({kind(label) for label in labels}) == classes


@pytest.mark.parametrize(
    ("labels", "bad", "said"),
    [
        ([1.5, 2, 3], 1.5, "has label 1.5, which is a measurement and no class"),
        (["0.5", "1", 2], "0.5", "has label '0.5', which is a measurement and no class"),
        (["0.1", "4e-05"], "4e-05", "which is a measurement"),
        (["1", "inf"], "inf", "which is a measurement"),
        ([1.5, "cat"], 1.5, "which is a measurement"),
        ([True, 1], True, "has label True, a truth value, where others are none"),
        ([True, "True"], True, "a truth value"),
    ],
)
def test_measurements_and_mixed_truth_values(labels: list[Any], bad: Any, said: str) -> None:
    with pytest.raises(CellError) as caught:
        LabelKind.of(labels)(bad)
    assert said in str(caught.value)
