"""YOLO text files: layouts, boxes in fractions of the image, and what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data.making import png, text, write
from data.refusing import load, refusal

from loss_attention.data.formats import yolo


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
        ("2 0.5 0.5 1 1", "labels/train/b.txt row 2: class 2 has no name in data.yaml"),
        ("0 0.5 0.5 1", "labels/train/b.txt row 2 is neither four numbers nor a polygon"),
        ("cat 0.5 0.5 1 1", "labels/train/b.txt row 2: 'cat' is not a number"),
        ("0 0.5 0.5 0.2 -1", "row 2: box (0.4, 1, 0.6, 0) has y1 < y0"),
        ("0 0.5 nan 1 1", "row 2: 'nan' is not a finite number; YOLO's run from 0 to 1"),
        ("0 0.5 0.5 inf 1", "row 2: 'inf' is not a finite number"),
        ("0 0.1 0.1 NaN 0.2 0.3 0.3", "row 2: 'NaN' is not a finite number"),
        ("0 0.5 0.5 1e999 1", "row 2: '1e999' is not a finite number"),
        ("1.0 0.5 0.5 1 1", "row 2: class '1.0' is not a whole number from 0"),
        ("-1 0.5 0.5 1 1", "row 2: class '-1' is not a whole number from 0"),
        ("1e0 0.5 0.5 1 1", "row 2: class '1e0' is not a whole number from 0"),
        ("nan 0.5 0.5 1 1", "row 2: class 'nan' is not a whole number from 0"),
        ("1_0 0.5 0.5 1 1", "row 2: '1_0' is not a number"),
        ("\u0661 0.5 0.5 1 1", "row 2: '\u0661' is not a number"),
        (f"{'9' * 5000} 0.5 0.5 1 1", "is not a whole number from 0"),
        (
            "0,0.5,0.5,1,1",
            "row 2: '0,0.5,0.5,1,1' is not a number; a row is CLASS X Y WIDTH HEIGHT",
        ),
        ("0 0,5 0,5 1 1", "row 2: '0,5' is not a number"),
        ("0 0.5 0.5 1 1 0.9", "row 2 has five numbers after the class; four are a box (is the las"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "row 2 is neither four numbers nor a polygon"),
        ("0", "row 2 is neither four numbers nor a polygon"),
        ("0 12 30 80 96", "row 2: '12' is not a fraction of a size; YOLO's run from 0 to 1"),
        ("0 0.5 0.5 1 \x1b[31m1", "row 2: '\\x1b[31m1' is not a number"),
    ],
)
def test_lines_that_cannot_be(tmp_path: Path, line: str, said: str) -> None:
    text(make(tmp_path) / "labels" / "train" / "b.txt", "0 0.5 0.5 1 1", line)
    assert said in refusal(tmp_path, image_size=20)
    assert len(load(tmp_path, image_size=20, skip_broken=True).train) == 2
    if "outside images" not in said:  # of the layout, too, where this is all that there is
        for file in ("b", "a"):
            text(tmp_path / "labels" / "train" / f"{file}.txt", line)
        assert said.replace("row 2", "row 1") in refusal(tmp_path, image_size=20)


def test_label_files_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    write(tmp_path / "labels" / "train" / "b.txt", b"0 0.5 \xff\xfe")
    write(tmp_path / "labels" / "train" / "c.txt", b"\x80\x81")
    said = refusal(tmp_path, image_size=20)
    assert "labels/train/b.txt is not UTF-8 text" in said
    assert "labels/train/c.txt is not UTF-8 text" in said
    text(tmp_path / "labels" / "train" / "c.txt")
    write(tmp_path / "labels" / "train" / "b.txt", "0 0.5 0.5 1 1\n".encode("utf-16"))
    assert len(load(tmp_path, image_size=20).train) == 3
    monkeypatch.setattr(yolo, "MOST_TEXT", 2**10)
    text(tmp_path / "labels" / "train" / "b.txt", *["0 0.5 0.5 1 1"] * 100)
    assert "labels/train/b.txt is of 1,400 bytes, and read up to 1,024 here" in refusal(tmp_path)


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n"])
def test_lines_end_as_any_system_ends_them(tmp_path: Path, end: str) -> None:
    make(tmp_path)
    write(
        tmp_path / "labels" / "train" / "a.txt",
        end.join(["0 0.5 0.5 1 1", "", "1 0.25\t0.5  .25 5e-1 "]).encode(),
    )
    originals = load(tmp_path, image_size=20).train
    boxes = originals.original_boxes(originals.boxes)[0]
    assert torch.allclose(boxes, torch.tensor([[0.0, 0, 8, 4], [1, 1, 3, 3]]))


def test_labels_lie_in_the_place_of_the_last_images(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "images" / "x" / "images" / f"{i}.v1.png", png(i))
        text(tmp_path / "images" / "x" / "labels" / f"{i}.v1.txt", f"{i % 2} 0.5 0.5 1 1")
        text(tmp_path / "labels" / "x" / "images" / f"{i}.v1.txt", "0 0.5 0.5 1 1")
    text(tmp_path / "classes.txt", "cat", "dog")
    splits = load(tmp_path)
    both = [*splits.train.labels.tolist(), *splits.test.labels.tolist()]
    assert sorted(both) == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_captions_beside_images_are_no_labels(tmp_path: Path) -> None:
    for i in range(6):
        write(tmp_path / "ab"[i % 2] / f"{i}.png", png(i))
        text(tmp_path / "ab"[i % 2] / f"{i}.txt", "a small grey square, one of 6")
    text(tmp_path / "classes.txt", "a", "b")
    assert load(tmp_path).train.class_names == ("a", "b")
    for i in range(6):
        text(tmp_path / "ab"[i % 2] / f"{i}.txt", "a 0.5 0.5 1 1")
    assert "a/0.txt row 1: 'a' is not a number" in refusal(tmp_path)


def test_a_declared_set_is_no_other_layout_without_its_labels(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for c in "ab":
            write(tmp_path / split / c / "1.png", png())
    text(tmp_path / "data.yaml", "train: train", "val: val", "names: [cat, dog]")
    assert "the image train/a/1.png has no annotation" in refusal(tmp_path)


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
