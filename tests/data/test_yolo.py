"""YOLO text files: layouts, boxes in shares of the image, and what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data.making import png, text, write
from data.refusing import load, refusal


def make(root: Path) -> Path:
    for split, name, size, lines in (
        ("train", "a", (8, 4), ["0 0.5 0.5 1 1", "1 0.25 0.5 0.25 0.5"]),
        ("train", "b", (10, 10), ["1 0.1 0.2 0.6 0.2 0.6 0.9 0.1 0.5"]),
        ("train", "c", (8, 4), []),
        ("val", "d", (8, 4), ["0 0.5 0.5 0.5 0.5"]),
    ):
        write(root / "images" / split / f"{name}.png", png(9, size))
        text(root / "labels" / split / f"{name}.txt", *lines)
    text(root / "data.yaml", "train: images/train", "val: images/val", "names: {0: cat, 1: dog}")
    return root


def test_boxes_in_pixels_of_each_image(tmp_path: Path) -> None:
    splits = load(make(tmp_path), image_size=20)
    assert splits.train.class_names == ("cat", "dog")
    assert splits.train.names == ("images/train/a.png", "images/train/b.png", "images/train/c.png")
    assert splits.train.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    originals = splits.train.original_boxes(splits.train.boxes)
    assert torch.allclose(originals[0], torch.tensor([[0.0, 0, 8, 4], [1, 1, 3, 3]]))
    assert torch.allclose(originals[1, 0], torch.tensor([1.0, 2, 6, 9]), atol=1e-5)  # a polygon
    assert originals[2].isnan().all()
    assert torch.allclose(splits.train.boxes[0, 1], torch.tensor([2.5, 5, 7.5, 15]))
    assert splits.test.names == ("images/val/d.png",)


@pytest.mark.parametrize("names", ["names: [cat, dog]", None])
def test_texts_beside_the_images(tmp_path: Path, names: str | None) -> None:
    for i in range(6):
        write(tmp_path / f"{i}.png", png(i))
        text(tmp_path / f"{i}.txt", f"{i % 2} 0.5 0.5 0.5 0.5")
    text(
        tmp_path / ("classes.txt" if names is None else "x.yaml"),
        *([names] if names else ["cat", "dog"]),
    )
    splits = load(tmp_path)
    assert splits.train.class_names == ("cat", "dog")
    assert len(splits.train) + len(splits.test) == 6


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 -0.2 1", "labels/train/b.txt row 2: box (0.6, 0, 0.4, 1) has x1 < x0"),
        (
            "0 0.9 0.5 0.9 1",
            "labels/train/b.txt row 2: box (4.5, 0, 13.5, 10) lies outside images/",
        ),
        ("2 0.5 0.5 1 1", "labels/train/b.txt row 2: class 2 is outside the 2 named"),
        ("0 0.5 0.5 1", "labels/train/b.txt row 2 is neither four numbers nor a polygon"),
        ("cat 0.5 0.5 1 1", "labels/train/b.txt row 2 is no class and numbers"),
    ],
)
def test_lines_that_cannot_be(tmp_path: Path, line: str, said: str) -> None:
    text(make(tmp_path) / "labels" / "train" / "b.txt", "0 0.5 0.5 1 1", line)
    assert said in refusal(tmp_path, image_size=20)


def test_files_and_images_that_do_not_fit(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "labels" / "train" / "c.txt").unlink()
    said = refusal(tmp_path, image_size=20)
    assert "images/train/c.png has no annotation; one without objects has an empty c.txt" in said
    assert len(load(tmp_path, image_size=20, skip_broken=True).train) == 2
    text(tmp_path / "labels" / "train" / "c.txt")
    (tmp_path / "images" / "train" / "a.png").unlink()
    said = refusal(tmp_path, image_size=20)
    assert "labels/train/a.txt row 1: its image is missing" in said
    (tmp_path / "data.yaml").unlink()
    assert "no names of the classes: add a classes.txt" in refusal(tmp_path)
