"""Classes that the reported split shows and training lacks: refused, or left out where asked."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from data.making import coco_json, image_folder, parquet, stored, text
from data.refusing import load, refusal
from typed import exit_code


def coco(root: Path) -> Path:
    image_folder(root / "train", {f"{i}.png": i for i in range(2)}, (8, 6))
    image_folder(root / "val", {f"{i}.png": i for i in range(2)}, (8, 6))
    images = {i: (f"{i}.png", 8, 6) for i in range(2)}
    both = [(0, 3, [0, 0, 1, 1]), (1, 7, [0, 0, 1, 1])]
    coco_json(root / "train" / "a.json", images, both[:1])
    coco_json(root / "val" / "a.json", images, both)
    return root


def table(root: Path) -> Path:
    types = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "hen"])}
    parquet(root / "train.parquet", {"image": stored(1, 2, 3), "label": [0, 2, 0]}, types)
    parquet(root / "test.parquet", {"image": stored(4, 5, 6), "label": [0, 1, 1]}, types)
    return root


def csv(root: Path) -> Path:
    image_folder(root, {f"{i}.png": i for i in range(5)})
    text(root / "train.csv", "image,label", "0.png,cat", "1.png,hen")
    text(root / "test.csv", "image,label", "2.png,cat", "3.png,dog", "4.png,dog")
    return root


SOURCES = [
    (coco, "split validation shows class 'dog', which split train lacks: val/1.png"),
    (table, "split test shows class 'dog', which split train lacks: test[1] and 1 more"),
    (
        csv,
        "split test shows class 'dog', which split train lacks: 3.png (test.csv row 3) and 1 more",
    ),
]


@pytest.mark.parametrize(("make", "said"), SOURCES)
def test_refused_and_left_out(tmp_path: Path, make, said: str, capsys) -> None:
    assert said in refusal(make(tmp_path))
    splits = load(tmp_path, skip_broken=True)
    assert len(splits.test) == 1
    left = 1 if make is coco else 2
    assert any(note.startswith(f"{left} image") and "left out" in note for note in splits.notes)
    assert exit_code("data", "check", tmp_path) == 2
    assert f"error: {said}" in capsys.readouterr().out


def test_nothing_is_left(tmp_path: Path) -> None:
    root = csv(tmp_path)
    text(root / "test.csv", "image,label", "3.png,dog")
    said = refusal(root, skip_broken=True)
    assert "every image of split test is of a class that training lacks" in said


def test_without_that_class_it_is_sound(tmp_path: Path) -> None:
    assert len(load(csv(tmp_path), classes=("cat", "hen")).test) == 1


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5000])
def test_what_is_no_number_of_classes(tmp_path: Path, number: str) -> None:
    assert "unknown class " in refusal(csv(tmp_path), classes=(number,))


def test_a_box_of_a_class_that_no_image_has(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"{i}.png": i for i in range(4)}, (8, 6))
    rows = ["0.png,a,0 0 1 1,a", "1.png,b,0 0 1 1,zebra", "2.png,a,,", "3.png,b,,"]
    text(tmp_path / "x.csv", "image,label,box,box_label", *rows)
    said = refusal(tmp_path)
    assert "x.csv row 3: its box is of 'zebra', which is not a class of the images' labels" in said
