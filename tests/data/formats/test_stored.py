"""Labels and boxes in parquet files: missing, mixed, malformed; and files that lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.making import image_folder, parquet, stored, write
from data.refusing import load, refusal, short
from datasets import ClassLabel, Image, List, Value
from typed import exit_code

NAN = float("nan")
PETS = ClassLabel(names=["cat", "None"])
NUMBERS = List(List(Value("float64")))


def table(root: Path, labels: list[Any], kind: Any, **more: tuple[list[Any], Any]) -> Path:
    columns = {"image": stored(*range(len(labels))), "label": labels}
    types = {"image": Image(), "label": kind}
    columns |= {name: column for name, (column, _) in more.items()}
    types |= {name: feature for name, (_, feature) in more.items()}
    parquet(root / "train.parquet", columns, types)
    return root


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([NAN, 1.0, 10.0, 2.0, 10.0, 1.0, 2.0], Value("float64")),
        ([None, 1.0, 10.0, 2.0, 10.0, 1.0, 2.0], Value("float32")),
        ([None, 1, 10, 2, 10, 1, 2], Value("int64")),
        (["nan", "1", "10", "2", "10", "1", "2"], Value("string")),
        ([None, "1", "10", "2", "10", "1", "2"], Value("large_string")),
        (["", "1", "10", "2.0", "10", "1.0", "2"], Value("string")),
        ([[1, None], [1], [10], [2], [10], [1], [2]], List(Value("int64"))),
        ([["1", "nan"], ["1"], ["10"], ["2"], ["10"], ["1"], ["2"]], List(Value("string"))),
        ([None, [1.0], [10.0], [2.0], [10.0], [1.0], [2.0]], List(Value("float64"))),
    ],
    ids=short,
)
def test_missing_labels_and_numbers(
    tmp_path: Path, labels: list[Any], kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path, labels, kind)
    assert "train[0] has " in refusal(tmp_path)
    assert exit_code("data", "check", tmp_path) == 2
    assert "error: train[0] has " in capsys.readouterr().out
    splits = load(tmp_path, skip_broken=True)
    assert splits.train.class_names == ("1", "2", "10")
    assert len(splits.train) + len(splits.test) == 6
    assert "1 image left out, as asked" in splits.source


@pytest.mark.parametrize("dtype", ["Int64", "string", "category"])
def test_missing_values_of_pandas(tmp_path: Path, dtype: str) -> None:
    values = [2, 1, 2, 1, pd.NA] if dtype == "Int64" else ["b", "a", "b", "a", None]
    images = [one["bytes"] for one in stored(*range(5))]
    frame = pd.DataFrame({"image": images, "label": pd.array(values, dtype=dtype)})
    frame.to_parquet(tmp_path / "train.parquet")
    assert "train[4] has no label" in refusal(tmp_path)
    assert len(load(tmp_path, skip_broken=True).train.class_names) == 2


def test_declared_classes_keep_their_names_and_minus_one_is_no_label(tmp_path: Path) -> None:
    table(tmp_path, [0, 1, 0, 1, -1], PETS)
    assert "train[4] has label -1" in refusal(tmp_path)
    splits = load(tmp_path, skip_broken=True)
    assert splits.train.class_names == ("cat", "None")
    table(tmp_path, [[0], [1], [0, 1], [], [0, -1]], List(PETS))
    assert "train[4] has label [0, -1]" in refusal(tmp_path)


def test_lists_as_text(tmp_path: Path) -> None:
    table(tmp_path, ["['a', 'b']", "a;b", "b", "a", "[]"], Value("string"))
    splits = load(tmp_path)
    assert splits.train.class_names == ("a", "b")
    assert splits.train.labels.sum() + splits.test.labels.sum() == 6
    table(tmp_path, ["a,b", "a", "b", "a", "b"], Value("string"))
    assert "train[0] has 'a,b' as label, which may be one label or several" in refusal(tmp_path)
    table(tmp_path, [["a, b"], ["a"], ["b"], ["a"]], List(Value("string")))
    assert load(tmp_path).train.class_names == ("a", "a, b", "b")


def test_measurements(tmp_path: Path) -> None:
    table(tmp_path, [0.5, 1.0, 2.0], Value("float64"))
    assert "train[0] has label 0.5, which is a measurement and no class" in refusal(tmp_path)


def test_truth_values(tmp_path: Path) -> None:
    table(tmp_path, [True, False] * 2, Value("bool"))
    assert load(tmp_path).train.class_names == ("False", "True")


BOX = [[0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"bbox": [[0, 0, NAN, 1]], "category": ["a"]},
            "a box is four numbers, not [0.0, 0.0, nan",
        ),
        ({"bbox": [[0, 0, None, 1]], "category": ["a"]}, "a box is four numbers"),
        ({"bbox": [None], "category": ["a"]}, "a box is four numbers, not [None]"),
        ({"bbox": [[0, 0, float("inf"), 1]], "category": ["a"]}, "a box is four numbers"),
        ({"bbox": [[2, 2, -1, 1]], "category": ["a"]}, "box (2, 2, 1, 3) has x1 < x0"),
        ({"bbox": BOX, "category": [None]}, "has a list of labels, one of which is missing"),
        ({"bbox": BOX, "category": ["nan"]}, "has a list of labels, one of which is missing"),
        ({"bbox": BOX * 2, "category": ["a"]}, "has 2 boxes and 1 classes of them"),
    ],
    ids=short,
)
@pytest.mark.parametrize("labelled", [False, True])
def test_objects_that_are_none(tmp_path: Path, row: Any, said: str, labelled: bool) -> None:
    sound = [{"bbox": BOX, "category": [name]} for name in "abab"]
    objects = [*sound, row]
    types = {"bbox": NUMBERS, "category": List(Value("string"))}
    if labelled:
        table(tmp_path, [*"abab", "a"], Value("string"), objects=(objects, types))
    else:
        columns = {"image": stored(*range(5)), "objects": objects}
        parquet(tmp_path / "train.parquet", columns, {"image": Image(), "objects": types})
    found = refusal(tmp_path)
    assert "train row 4" in found
    assert said in found
    splits = load(tmp_path, skip_broken=True)
    assert len(splits.train) + len(splits.test) == 4


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("1 2 3 4", Value("string"), "boxes are lists of four numbers, not '1 2 3 4'"),
        (["x"], List(Value("string")), "a box is four numbers, not ['x']"),
        ([[True, False, True, True]], List(List(Value("bool"))), "a box is four numbers"),
        ([{"x": 1}], List({"x": Value("int64")}), "a box is four numbers"),
    ],
    ids=short,
)
def test_objects_of_other_types(tmp_path: Path, value: Any, kind: Any, said: str) -> None:
    objects = [{"bbox": value, "category": ["a"]}] * 2
    types = {"bbox": kind, "category": List(Value("string"))}
    table(tmp_path, ["a", "b"], Value("string"), objects=(objects, types))
    assert f"train row 0: {said}" in refusal(tmp_path)


@pytest.mark.parametrize(
    "labels",
    [
        [{"name": "a"}, {"name": "b"}],
        [[["a"]], [["b"]]],
        pa.array([1, 2], pa.decimal128(5, 1)),
        pa.array([1, 2], pa.timestamp("s")),
        [b"a", b"b"],
    ],
    ids=short,
)
def test_columns_that_hold_no_labels(tmp_path: Path, labels: Any) -> None:
    parquet(tmp_path / "train.parquet", {"image": stored(1, 2), "label": labels})
    assert "has no label column among image (" in refusal(tmp_path)


def test_files_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    parquet(path, {"image": stored(1, 2), "label": [0, 1]})
    whole = path.read_bytes()
    for content in (
        b"",
        whole[: len(whole) // 2],
        whole[:40] + b"\xff" * 60 + whole[100:],
        b"PAR1" * 99,
    ):
        write(path, content)
        assert refusal(tmp_path).startswith(f"data folder {tmp_path} cannot be read: ")
    images = [one["bytes"] for one in stored(1, 2)]
    twice = pa.table([pa.array(images), pa.array([0, 1]), pa.array([0, 1])], ["image", "y", "y"])
    pq.write_table(twice, path)
    assert "cannot be read: " in refusal(tmp_path)
    parquet(path, {"image": stored(1, 2), "label": ["a", "b"]})
    parquet(tmp_path / "train-1.parquet", {"image": stored(1, 2), "label": [0, 1]})
    assert len(refusal(tmp_path)) < 500


def test_paths_as_windows_writes_them(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"pics/{i}.png": i for i in range(4)})
    paths = ["pics\\0.png", "./pics/1.png", "pics/2.png", f"{tmp_path}/pics/3.png"]
    parquet(tmp_path / "train.parquet", {"image": paths, "label": [0, 1] * 2})
    splits = load(tmp_path)
    levels = [*splits.train.images[:, 0, 0, 0].tolist(), *splits.test.images[:, 0, 0, 0].tolist()]
    assert sorted(levels) == [0, 1, 2, 3]


def test_labels_outside_the_declared_classes_are_named_by_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path, [0, 1, 1, 0, 7, 0, 1], Value("int64"))
    features = pq.read_schema(tmp_path / "train.parquet").metadata[b"huggingface"]
    declared = features.replace(
        b'"label": {"dtype": "int64", "_type": "Value"}',
        b'"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}',
    )
    assert declared != features
    rows = pq.read_table(tmp_path / "train.parquet")
    rows = rows.replace_schema_metadata({b"huggingface": declared})
    pq.write_table(rows, tmp_path / "train.parquet")
    said = "train[4] has label 7, outside the 2 classes, 0 to 1"
    assert said in refusal(tmp_path)
    assert exit_code("data", "check", tmp_path) == 2
    assert said in capsys.readouterr().out
    splits = load(tmp_path, skip_broken=True)
    assert len(splits.train) + len(splits.test) == 6


def test_classes_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    table(tmp_path, [0, 1, 0, 1], PETS)
    rows = pq.read_table(tmp_path / "train.parquet")
    features = rows.schema.metadata[b"huggingface"].replace(b'"cat"', b"[]")
    rows = rows.replace_schema_metadata({b"huggingface": features})
    pq.write_table(rows, tmp_path / "train.parquet")
    assert "declares classes that are not text: [[], 'None']" in refusal(tmp_path)
