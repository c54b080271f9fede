"""Bags in a table: what is read, and what is refused in one line that names file and row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from loss_attention.bags.labels import USUAL, HowRead
from loss_attention.bags.reading import read_bags
from loss_attention.bags.recipe import COLUMNS, BagRunRecipe
from loss_attention.errors import InputError

ROWS: dict[str, list[Any]] = {
    "slide_id": ["b", "a", "b", "c", "a", "b"],
    "label": ["tumour", "normal", "tumour", "normal", "normal", "tumour"],
    "x": [0, 256, 512, 0, 0, 256],
    "y": [0, 0, 256, 256, 512, 0],
    "f0": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5],
    "f1": [1, 2, 3, 4, 5, 6],
}


def table(folder: Path, *, kind: str = "csv", drop: str = "", **changes: list[Any]) -> str:
    frame = pd.DataFrame({**ROWS, **changes}).drop(columns=[drop] if drop else [])
    path = folder / f"bags.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_rows_of_a_bag_are_found_wherever_they_are(kind: str, tmp_path: Path) -> None:
    bags = read_bags(table(tmp_path, kind=kind))
    assert bags.names == ("b", "a", "c")
    assert bags.class_names == ("normal", "tumour")
    assert bags.labels.tolist() == [1, 0, 0]
    assert bags.sizes.tolist() == [3, 2, 1]
    np.testing.assert_array_equal(bags.features(0), [[0.5, 1], [2.5, 3], [5.5, 6]])
    np.testing.assert_array_equal(bags.features(1, 1), [[4.5, 5]])
    np.testing.assert_array_equal(bags.coordinates(1), [[256, 0], [0, 512]])
    some = bags.subset([2, 0])
    assert some.names == ("c", "b")
    np.testing.assert_array_equal(some.features(1), bags.features(0))
    assert some.fingerprint() != bags.fingerprint() == read_bags(table(tmp_path)).fingerprint()


def test_patients_splits_and_labels_of_instances_are_kept(tmp_path: Path) -> None:
    data = table(
        tmp_path,
        patient=["p", "p", "p", "r", "p", "p"],
        split=["train", "train", "train", "val", "train", "train"],
        instance_label=["tumour", "normal", "normal", "normal", "normal", "tumour"],
    )
    bags = read_bags(data)
    assert bags.groups is not None
    assert bags.groups.tolist() == [0, 0, 1]
    assert bags.splits == ("train", "train", "validation")
    assert bags.split("validation").names == ("c",)
    assert bags.instance_labels is not None
    assert [labels.tolist() for labels in bags.instance_labels] == [[1, 0, 1], [0, 0], [0]]
    assert bags.width == 2


@pytest.mark.parametrize("kind", ["csv", "parquet", "lists"])
def test_a_bag_may_have_several_labels_and_so_may_an_instance(kind: str, tmp_path: Path) -> None:
    labels = {"b": ["tumour", "necrosis"], "a": [], "c": ["tumour"]}
    each = [["tumour"], [], ["necrosis", "tumour"], [], [], []]
    if kind == "lists":
        bag_cells: list[Any] = [labels[name] for name in ROWS["slide_id"]]
        cells: list[Any] = each
    else:
        bag_cells = ["; ".join(labels[name]) or "[]" for name in ROWS["slide_id"]]
        cells = ["|".join(one) or "[]" for one in each]
    kind = "parquet" if kind == "lists" else kind
    bags = read_bags(table(tmp_path, kind=kind, label=bag_cells, instance_label=cells))
    assert bags.class_names == ("necrosis", "tumour")
    assert bags.labels.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert bags.instance_labels is not None
    found = [one.tolist() for one in bags.instance_labels]
    assert found == [[[0, 1], [1, 1], [0, 0]], [[0, 0], [0, 0]], [[0, 0]]]


def test_an_empty_cell_of_an_instance_is_none_of_several_classes(tmp_path: Path) -> None:
    cells = ["a;b", "a", "a;b", "b", "a", "a;b"]
    data = table(tmp_path, label=cells, instance_label=["", "a", "a", "b", "", "a;c"])
    with pytest.raises(
        InputError, match=r"row 6: instance_label 'c' is not a class of a bag \(a, b\)"
    ):
        read_bags(data)
    bags = read_bags(table(tmp_path, label=cells, instance_label=["", "a", "a", "b", "", "b"]))
    assert bags.instance_labels is not None
    assert bags.instance_labels[0].tolist() == [[0, 0], [1, 0], [0, 1]]


def test_classes_of_numbers_are_in_their_order(tmp_path: Path) -> None:
    bags = read_bags(table(tmp_path, label=[10, 2, 10, 2, 2, 10]))
    assert bags.class_names == ("2", "10")
    assert torch.equal(bags.labels, torch.tensor([1, 0, 0]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drop": "slide_id"}, r"no column for the bag \(usually bag or bag_id\)"),
        ({"drop": "label"}, "no column for the label"),
        ({"drop": "y"}, "a column of one coordinate without the other"),
        ({"bag": [1, 2, 1, 3, 2, 1]}, "'slide_id' and 'bag' may both be the bag"),
        (
            {"label": ["tumour", "normal", "normal", "normal", "normal", "tumour"]},
            "row 3 says label 'normal' of the bag 'b', and row 1 'tumour'",
        ),
        ({"label": ["t", "t", "t", "t", "t", "t"]}, "all bags are of class 't'"),
        ({"f1": [1, 2, None, 4, 5, 6]}, "row 3, column 'f1' is missing"),
        ({"f1": [1, 2, float("inf"), 4, 5, 6]}, "row 3, column 'f1' is infinite"),
        ({"stain": ["HE"] * 6}, "column 'stain' holds .*string, not numbers"),
        ({"slide_id": ["b", None, "b", "c", "a", "b"]}, "row 2 has no 'slide_id'"),
        (
            {"patient": ["p", "q", "p", "r", "q", "q"]},
            "row 6 says patient 'q' of the bag 'b', and row",
        ),
        (
            {"patient": ["p"] * 6, "split": ["train", "val", "train", "train", "val", "train"]},
            r"patient 'p' is in two splits, train and validation \(rows 1 and 2\)",
        ),
        ({"split": ["train"] * 5 + ["fold1"]}, "row 6 says split 'fold1' of the bag 'b'"),
        ({"split": ["fold1"] * 6}, "split 'fold1' is none of train"),
        ({"instance_label": ["mitosis"] * 6}, "row 1: instance_label 'mitosis' is not a class"),
        ({"label": ["a;b", "b", "a;b", "", "b", "a;b"]}, "row 4: label has no label"),
        ({"label": ["a;b", "b", "a", "b", "b", "a;b"]}, "row 3 says label 'a' of the bag 'b'"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^bags\.parquet: .*{said}|^{said}"):
        read_bags(table(tmp_path, kind="parquet", **changes))


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_bags(str(tmp_path / "none.csv"))
    (tmp_path / "bags.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(InputError, match=r"bags\.parquet"):
        read_bags(str(tmp_path / "bags.parquet"))
    (tmp_path / "empty.csv").write_text("bag,label,f0\n")
    with pytest.raises(InputError, match=r"^empty\.csv: a table without rows$"):
        read_bags(str(tmp_path / "empty.csv"))
    (tmp_path / "bags.xlsx").write_bytes(b"")
    with pytest.raises(InputError, match="is neither a table of instances"):
        read_bags(str(tmp_path / "bags.xlsx"))


def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loss_attention.bags.labels.free_memory", lambda: 100)
    with pytest.raises(InputError, match="make it a folder of one file a bag"):
        read_bags(table(tmp_path, kind="parquet"))


def test_labels_may_be_left_out_where_nothing_is_trained(tmp_path: Path) -> None:
    data = table(tmp_path, kind="parquet", drop="label", instance_label=["x"] * 6)
    for labelled in (None, False):
        bags = read_bags(data, how=HowRead(labelled=labelled))
        assert bags.class_names == ()
        assert bags.labels.tolist() == [0, 0, 0]
        assert (bags.width, bags.instance_labels) == (2, None)
    alike = table(tmp_path, kind="parquet", label=["t"] * 6)
    assert read_bags(alike, how=HowRead(labelled=None)).class_names == ("t",)
    assert read_bags(alike, how=HowRead(labelled=False)).class_names == ()


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    usual = read_bags(table(tmp_path, kind="parquet"))
    frame = pd.read_parquet(tmp_path / "bags.parquet")
    other = {"slide_id": "group", "label": "diagnosis", "x": "left", "y": "top"}
    frame.rename(columns=other).to_parquet(tmp_path / "other.parquet")
    named = {"bag": "group", "label": "diagnosis", "x": "left", "y": "top"}
    bags = read_bags(str(tmp_path / "other.parquet"), how=HowRead(named))
    assert bags.fingerprint() == usual.fingerprint()
    assert bags.names == usual.names
    assert bags.groups is None  # `group` is the bag here, and not the patient
    # Where names are a run's own, those that are not there are passed over.
    assert read_bags(str(tmp_path / "bags.parquet"), how=HowRead(named, required=False)).width == 2
    with pytest.raises(InputError, match="no column 'group' for the bag among slide_id, label"):
        read_bags(str(tmp_path / "bags.parquet"), how=HowRead(named))


def test_kinds_of_columns_are_those_that_have_usual_names() -> None:
    assert tuple(USUAL) == COLUMNS


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["slide"], "`columns` 'slide': write WHAT=COLUMN, as bag=slide_name"),
        (["bag="], "write WHAT=COLUMN"),
        (["bags=a"], "unknown kind of column in `columns`: 'bags'; did you mean 'bag'?"),
        (["bag=a", "bag=b"], "named twice"),
        (["bag=a", "label=a"], "named twice"),
    ],
)
def test_names_of_columns_are_checked(columns: list[str], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        BagRunRecipe(data="x", columns=tuple(columns))
