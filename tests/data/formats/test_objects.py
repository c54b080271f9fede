"""Boxes in tables of `datasets`: the columns and layouts that people use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from data.making import image_folder, parquet, png, text
from data.refusing import load, refusal
from datasets import ClassLabel, Image, List, Value

from loss_attention.data.formats.hub import layout_of

PETS = ClassLabel(names=["cat", "dog"])
NUMBERS = List(List(Value("float32")))
WIDTH, HEIGHT = 20, 10
TRUE = [[(2, 1, 18, 9), (10, 5, 14, 10)], [(12, 6, 20, 10)], []]
"""Corners of the boxes of three images."""
CLASSES = [[1, 0], [1], []]


def sized(boxes: list[tuple[float, ...]]) -> list[list[float]]:
    return [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in boxes]


def corners(boxes: list[tuple[float, ...]]) -> list[list[float]]:
    return [list(box) for box in boxes]


def fractions(boxes: list[tuple[float, ...]]) -> list[list[float]]:
    return [[x0 / 20, y0 / 10, x1 / 20, y1 / 10] for x0, y0, x1, y1 in boxes]


def stored(root: Path, columns: dict[str, list[Any]], features: dict[str, Any]) -> Path:
    """Write the same table for both splits."""
    images = [{"bytes": png(i, (WIDTH, HEIGHT)), "path": None} for i in range(3)]
    for split in ("train", "test"):
        parquet(
            root / f"{split}.parquet", {"image": images, **columns}, {"image": Image(), **features}
        )
    return root


def of_lists(layout: Any) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """An `objects` of lists, as cppe-5 and COCO on the hub have it."""
    rows = [
        {"id": list(range(len(b))), "bbox": layout(b), "category": c}
        for b, c in zip(TRUE, CLASSES, strict=True)
    ]
    fields = {"id": List(Value("int64")), "bbox": NUMBERS, "category": List(PETS)}
    return {"image_id": [7, 8, 9], "objects": rows}, {"image_id": Value("int64"), "objects": fields}


def of_pairs(layout: Any) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """An `objects` that lists one object after the other."""
    rows = [
        [{"bbox": box, "label": label} for box, label in zip(layout(b), c, strict=True)]
        for b, c in zip(TRUE, CLASSES, strict=True)
    ]
    return {"objects": rows}, {"objects": List({"bbox": List(Value("float32")), "label": PETS})}


@pytest.mark.parametrize("kind", [of_lists, of_pairs])
@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (sized, "x, y, width, height in pixels"),
        (corners, "x0, y0, x1, y1 in pixels"),
        (fractions, "x0, y0, x1, y1 in fractions of the image"),
    ],
)
@pytest.mark.parametrize("stream", ["yes", "no"])
def test_boxes_with_classes(tmp_path: Path, kind: Any, layout: Any, said: str, stream: Any) -> None:
    from loss_attention.data.sample import Storage

    splits = load(stored(tmp_path, *kind(layout)), storage=Storage(stream, workers=0))
    assert splits.notes == (f"boxes read as {said}",)
    assert splits.train.class_names == ("cat", "dog")
    assert splits.train.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert splits.train.boxes[0].round(decimals=4).tolist() == [list(box) for box in TRUE[0]]
    assert splits.train.boxes[1, 0].round(decimals=4).tolist() == list(TRUE[1][0])
    assert splits.train.box_labels.tolist() == [[1, 0], [1, -1], [-1, -1]]


def test_a_box_column_beside_the_label(tmp_path: Path) -> None:
    box = [list(boxes[0]) if boxes else None for boxes in TRUE]
    columns = {"label": [1, 0, 1], "bbox": box}
    splits = load(stored(tmp_path, columns, {"label": PETS, "bbox": List(Value("float32"))}))
    assert splits.train.labels.tolist() == [1, 0, 1]
    assert splits.train.boxes[:2, 0].tolist() == [list(TRUE[0][0]), list(TRUE[1][0])]
    assert splits.train.box_labels.tolist() == [[1], [0], [-1]]


def test_a_label_and_the_classes_of_objects(tmp_path: Path) -> None:
    columns, features = of_lists(sized)
    both = {**columns, "label": [0, 1, 1]}, {**features, "label": PETS}
    splits = load(stored(tmp_path, *both))
    assert splits.train.labels.tolist() == [0, 1, 1]
    assert splits.train.box_labels[0].tolist() == [1, 0]
    others = ClassLabel(names=["wild", "tame"])
    stored(tmp_path, both[0], {**features, "label": others})
    assert "columns label and objects declare different classes" in refusal(tmp_path)


def test_what_is_wrong_is_named_by_row(tmp_path: Path) -> None:
    columns, features = of_lists(sized)
    columns["objects"][1]["bbox"] = [[12.0, 6.0, -3.0, 4.0]]
    said = refusal(stored(tmp_path, columns, features))
    assert "train row 1: box (12, 6, 9, 10) has x1 < x0" in said
    columns["objects"][1]["bbox"] = [[12.0, 6.0, 13.0, 4.0]]
    said = refusal(stored(tmp_path, columns, features))
    assert "train row 1: box (12, 6, 25, 10) lies outside train[1], which is 20 x 10" in said
    columns["objects"][1]["bbox"] = [[12.0, 6.0, 13.0]]
    assert "train row 1: a box is four numbers" in refusal(stored(tmp_path, columns, features))
    columns["objects"][1]["bbox"] = []
    said = refusal(stored(tmp_path, columns, features))
    assert "train row 1 has 0 boxes and 1 classes of them" in said


def test_without_any_sign_the_documentation_is_followed() -> None:
    few = [[[0.0, 0.0, 5.0, 5.0]], []]
    assert layout_of(few, lambda row: (100, 100)).kind == "sized"
    assert layout_of(few, lambda row: None).kind == "sized"
    # A box drawn by mistake does not turn all others.
    many = [[[10.0 + i, 10.0, 90.0, 90.0]] for i in range(30)] + [[[50.0, 50.0, 40.0, 60.0]]]
    assert layout_of(many, lambda row: (100, 100)).kind == "corners"


def test_json_lines_as_datasets_documents_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        image_folder(tmp_path / split, {f"{i}.png": i for i in range(3)}, (WIDTH, HEIGHT))
        lines = [
            json.dumps({"file_name": f"{i}.png", "objects": {"bbox": sized(b), "categories": c}})
            for i, (b, c) in enumerate(zip(TRUE, CLASSES, strict=True))
        ]
        text(tmp_path / split / "metadata.jsonl", *lines)
    splits = load(tmp_path)
    assert splits.train.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert splits.train.boxes[0].tolist() == [list(box) for box in TRUE[0]]
    text(
        tmp_path / "test" / "metadata.jsonl", '{"file_name": "0.png", "objects": {"area": [1, 2]}}'
    )
    assert "test/metadata.jsonl row 1: objects need a field bbox" in refusal(tmp_path)


def test_a_saved_table_with_boxes(tmp_path: Path) -> None:
    columns, features = of_lists(corners)
    images = [{"bytes": png(i, (WIDTH, HEIGHT)), "path": None} for i in range(3)]
    table = datasets.Dataset.from_dict(
        {"image": images, **columns}, features=datasets.Features({"image": Image(), **features})
    )
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "saved")
    datasets.enable_progress_bars()
    assert load(tmp_path / "saved").train.boxes[0].tolist() == [list(box) for box in TRUE[0]]


def test_objects_of_other_classes_in_another_split(tmp_path: Path) -> None:
    columns, features = of_lists(sized)
    images = [{"bytes": png(i, (WIDTH, HEIGHT)), "path": None} for i in range(3)]
    types = datasets.Features({"image": Image(), **features})
    train = datasets.Dataset.from_dict({"image": images, **columns}, features=types)
    types["objects"]["category"] = List(ClassLabel(names=["dog", "cat"]))
    test = datasets.Dataset.from_dict({"image": images, **columns}, features=types)
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "saved")
    datasets.enable_progress_bars()
    assert "splits train and test declare different classes" in refusal(tmp_path / "saved")
