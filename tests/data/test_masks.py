"""Masks as Pascal VOC and YOLO have them, and masks of a part of the classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data.formats.test_voc import official as voc
from data.formats.test_voc import xml
from data.making import image_folder, png, text, write
from data.refusing import load, refusal
from data.test_sources_end_to_end import SMALL, make
from PIL import Image
from typed import exit_code

NUMBERS = np.array([[0, 1, 1, 255], [0, 2, 255, 0], [2, 2, 0, 0]], np.uint8)
"""Object 1 (a dog), object 2 (a cat), and pixels on their edges."""


def numbered(path: Path, numbers: np.ndarray) -> Path:
    """Write a picture with a palette, as VOC does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(numbers, "P")
    # Any colours: the numbers count. Two are black and one is grey.
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 0, 0] + [77] * 759)
    picture.save(path)
    return path


def segmented(root: Path, folder: str = "SegmentationObject") -> Path:
    """Two training images of 4 x 3, of which the first has a mask, and a test image."""
    found = [("dog", (2, 1, 3, 1)), ("cat", (1, 2, 2, 3))]
    for i, name in enumerate("abc"):
        write(root / "JPEGImages" / f"{name}.png", png(i, (4, 3)))
        objects = found if name == "a" else [("dog", (1, 1, 2, 2))]
        write(root / "Annotations" / f"{name}.xml", xml(name, objects, (4, 3)))
    text(root / "ImageSets" / "Main" / "train.txt", "a", "b")
    text(root / "ImageSets" / "Main" / "val.txt", "c")
    numbered(root / folder / "a.png", NUMBERS)
    return root


@pytest.mark.parametrize("folder", ["SegmentationObject", "SegmentationClass"])
def test_voc(tmp_path: Path, folder: str) -> None:
    root = segmented(tmp_path, folder)
    masks = load(root, masks=True).train.masks
    assert masks[0].int().tolist() == [[0, 1, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]]
    assert not masks[1].any()
    assert load(root).train.masks is None


def test_voc_tells_objects_of_a_class_apart(tmp_path: Path) -> None:
    root = segmented(tmp_path)
    for name in "bc":
        write(
            root / "Annotations" / f"{name}.xml",
            xml(name, [("cat", (1, 1, 1, 1)), ("hen", (1, 1, 1, 1))], (4, 3)),
        )
    splits = load(root, masks=True, classes=("cat", "hen"))
    assert splits.train.names == ("JPEGImages/a.png", "JPEGImages/b.png")
    assert splits.train.masks[0].int().tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]
    (root / "SegmentationObject").rename(root / "SegmentationClass")
    said = refusal(root, masks=True, classes=("cat", "hen"))
    assert "SegmentationClass/a.png of JPEGImages/a.png does not say which pixels show" in said


def test_voc_masks_that_cannot_be(tmp_path: Path) -> None:
    root = segmented(tmp_path)
    numbered(
        root / "SegmentationObject" / "a.png", np.where(NUMBERS == 2, 3, NUMBERS).astype(np.uint8)
    )
    assert "a.png numbers 3 objects, its annotation lists 2" in refusal(root, masks=True)
    numbered(root / "SegmentationObject" / "a.png", NUMBERS.T.copy())
    said = refusal(root, masks=True)
    assert "its mask SegmentationObject/a.png is 3 x 4, the image 4 x 3" in said
    write(root / "SegmentationObject" / "a.png", b"junk")
    said = refusal(root, masks=True)
    assert "JPEGImages/a.png (its mask SegmentationObject/a.png: of no known image format)" in said


def test_colours_that_only_a_tool_knows(tmp_path: Path) -> None:
    root = segmented(tmp_path)
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[0, 0], colours[1, 2], colours[2, 2] = (250, 0, 9), (0, 0, 1), (224, 224, 192)
    Image.fromarray(colours).save(root / "SegmentationObject" / "a.png")
    masks = load(root, masks=True).train.masks
    assert masks[0].nonzero().tolist() == [[0, 0], [1, 2]]  # the last is the colour of an edge
    text(root / "ImageSets" / "Main" / "train.txt", "a", "d")
    write(root / "JPEGImages" / "d.png", png(5, (4, 3)))
    write(root / "Annotations" / "d.xml", xml("d", [("hen", (1, 1, 1, 1))], (4, 3)))
    said = refusal(root, masks=True, classes=("dog", "hen"))
    assert "does not say which pixels show which class" in said


def test_masks_beside_images_of_the_same_name_are_no_images(tmp_path: Path) -> None:
    root = voc(tmp_path)
    (root / "JPEGImages").rename(root / "images")  # sorts after SegmentationClass
    assert load(root).train.images[:, 0, 0, 0].tolist() == [0, 1]


def yolo(root: Path) -> Path:
    """Polygons over the right half and the left quarter, an image of boxes, one of both."""
    right, left = "0 0.5 0 1 0 1 1 0.5 1", "1 0 0 0.2 0 0.2 1 0 1"
    for split, name, lines in (
        ("train", "a", [right, left]),
        ("train", "b", ["1 0.5 0.5 1 1"]),
        ("train", "c", [left, "0 0.5 0.5 1 1"]),
        ("val", "d", [right]),
    ):
        write(root / "images" / split / f"{name}.png", png(9, (10, 5)))
        text(root / "labels" / split / f"{name}.txt", *lines)
    text(root / "data.yaml", "names: [cat, dog]")
    return root


def test_yolo_polygons(tmp_path: Path) -> None:
    splits = load(yolo(tmp_path), masks=True)
    columns = splits.train.masks.all(dim=1)
    assert torch.equal(columns, splits.train.masks.any(dim=1))  # whole columns or nothing
    assert columns[0].nonzero().flatten().tolist() == [0, 1, 5, 6, 7, 8, 9]
    assert not columns[1].any()
    assert not columns[2].any()
    assert "1 image left without mask: not all objects in it are segmented" in splits.notes
    assert splits.test.masks.any()
    write(tmp_path / "images/train/a.png", png(9, (20, 10)))  # shares go with the image's size
    twice = load(tmp_path, masks=True, image_size=20).train.masks
    assert twice[0].any(dim=0).nonzero().flatten().tolist() == [0, 1, 2, 3, *range(10, 20)]


def test_a_picture_shows_any_class(tmp_path: Path) -> None:
    image_folder(tmp_path / "pics", {f"{i}.png": i for i in range(4)}, (6, 4))
    write(tmp_path / "m.png", png(1, (6, 4)))
    rows = ["pics/0.png,a;b,m.png,train", "pics/1.png,c,,train"]
    rows += ["pics/2.png,a,m.png,train", "pics/3.png,c,,test"]
    text(tmp_path / "x.csv", "image,label,mask,split", *rows)
    assert load(tmp_path, masks=True).train.masks[0].all()
    said = refusal(tmp_path, masks=True, classes=("a", "c"))
    assert "the mask m.png of pics/0.png does not say which pixels show which class" in said
    text(tmp_path / "x.csv", "image,label,mask,split", *rows[1:])
    assert load(tmp_path, masks=True, classes=("a", "c")).train.masks[1].all()


def test_masks_of_some_classes_are_of_their_objects_alone(tmp_path: Path) -> None:
    lines = ["0 0.5 0 1 0 1 1 0.5 1", "1 0 0 0.2 0 0.2 1 0 1"]
    for split, name, own in (("train", "a", lines), ("train", "b", ["2 0 0 1 0 1 1"])):
        write(tmp_path / "images" / split / f"{name}.png", png(9, (10, 5)))
        text(tmp_path / "labels" / split / f"{name}.txt", *own)
    write(tmp_path / "images" / "val" / "c.png", png(9, (10, 5)))
    text(tmp_path / "labels" / "val" / "c.txt", lines[0])
    text(tmp_path / "data.yaml", "names: [cat, dog, hen]")
    masks = load(tmp_path, masks=True, classes=("cat", "hen")).train.masks
    assert masks[0].any(dim=0).nonzero().flatten().tolist() == [5, 6, 7, 8, 9]


def test_the_command_measures_against_masks(tmp_path: Path, capsys) -> None:
    """What `evaluate` says of pixels comes from the masks: none without --masks."""
    data = Path(make("yolo", tmp_path / "data"))
    for file in data.rglob("labels/*.txt"):
        label, x, y, w, h = map(float, file.read_text().split())
        left, right, top, bottom = x - w / 2, x + w / 2, y - h / 2, y + h / 2
        corners = (left, top, right, top, right, bottom, left, bottom)
        text(file, f"{label:.0f} {' '.join(map(str, corners))}")
    folder = tmp_path / "run"
    assert exit_code("train", "folder", "--data", data, *SMALL, "--out", folder) == 0
    assert "PxAP" not in capsys.readouterr().out
    assert exit_code("evaluate", folder, "--masks") == 0
    assert "PxAP" in capsys.readouterr().out


def test_masks_without_boxes_are_measured_against(tmp_path: Path) -> None:
    data = Path(make("csv", tmp_path / "data"))
    write(data / "m.png", png(255, (24, 12)))
    for split in ("train", "test"):
        rows = [f"{split}/{i}.png,{'ab'[i % 2]},m.png" for i in range(8)]
        text(data / f"{split}.csv", "image,label,mask", *rows)
    words = ["train", "folder", "--data", data, *SMALL, "--masks", "--out", tmp_path / "run"]
    assert exit_code(*words) == 0
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert figures["boxed_images"] == 0
    found = {metric["name"]: metric["value"] for metric in figures["metrics"]}
    # The picture fills half of the square, and a map of one level says no more than that.
    assert 0.4 < found["pxap"] <= 1
    assert "gt_known_loc_patches" not in found
