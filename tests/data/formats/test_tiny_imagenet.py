"""Tiny ImageNet: its layout in small, and the whole of it where it is at hand."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data.making import png, text, tiny_imagenet, write
from data.refusing import load, refusal

from loss_attention.data.loading import open_path


def packed(folder: Path, form: str) -> Path:
    """Pack a folder into a zip, or into a folder of two tars as they are handed around."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if form == "zip":
        with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
            for file in files:
                archive.write(file, f"tiny-imagenet-200/{file.relative_to(folder)}")
        return folder.with_suffix(".zip")
    home = folder.with_name("tars")
    home.mkdir()
    for name, wanted in (("train.tar.xz", True), ("val.tar.xz", False)):
        with tarfile.open(home / name, "w:xz") as archive:
            for file in files:
                if ("train" in file.relative_to(folder).parts) == wanted:
                    archive.add(file, f"tiny-imagenet-200/{file.relative_to(folder)}")
    return home


@pytest.mark.parametrize("form", ["folder", "above", "zip", "tars"])
def test_images_labels_and_boxes(tmp_path: Path, form: str) -> None:
    folder = tiny_imagenet(tmp_path / "in" / "tiny")
    path = {"folder": folder, "above": tmp_path / "in"}.get(form) or packed(folder, form)
    splits = load(path)
    assert splits.train.class_names == ("word0", "word1")
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    assert splits.train.images[:, 0, 0, 0].tolist() == [0, 1, 10, 11]
    # Inclusive pixels in the files, x1 and y1 exclusive here.
    assert splits.train.boxes.tolist() == [[[0, 1, 4, y1]] for y1 in (5, 6, 5, 6)]
    assert splits.train.box_labels.tolist() == [[0], [0], [1], [1]]
    assert splits.test.boxes.tolist() == [[[2, 0, 8, 6]]] * 2
    assert splits.test.names == ("val/images/val_0.JPEG", "val/images/val_1.JPEG")
    assert splits.test.labels.tolist() == [0, 1]


def test_the_known_name_says_what_is_off(tmp_path: Path) -> None:
    splits = load(f"tiny-imagenet:{tiny_imagenet(tmp_path)}")
    assert "4 training images found where the whole set has 100,000" in splits.notes
    assert "2 classes found where the whole set has 200" in splits.source
    line = refusal("tiny-imagenet")
    assert "http://cs231n.stanford.edu/tiny-imagenet-200.zip" in line
    assert "`data` tiny-imagenet:PATH" in line


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    listing = root / "train" / "n00000001" / "n00000001_boxes.txt"
    good = listing.read_text()
    place = "train/n00000001/n00000001_boxes.txt row 2"
    for line, said in (
        (
            "gone.JPEG\t0\t0\t1\t1",
            f"{place}: its image train/n00000001/images/gone.JPEG is missing",
        ),
        ("n00000001_1.JPEG\t5\t1\t3\t4", f"{place}: box (5, 1, 4, 5) has x1 < x0"),
        ("n00000001_1.JPEG\t0\t1\t30\t4", f"{place}: box (0, 1, 31, 5) lies outside train/"),
        ("n00000001_1.JPEG\t0\t1\t3", f"{place} is not an image and box"),
        ("n00000001_1.JPEG 0 1 3 4", f"{place} is not an image and box"),
    ):
        text(listing, good.splitlines()[0], line)
        assert said in refusal(root)
    text(listing, good.splitlines()[0])
    said = refusal(root)
    assert "the image train/n00000001/images/n00000001_1.JPEG has no annotation in train/" in said
    splits = load(root, skip_broken=True)
    assert len(splits.train) == 3
    assert splits.notes == ("1 image left out, as asked, for what is wrong with them",)


def test_a_missing_split(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    (root / "val" / "val_annotations.txt").unlink()
    assert "lacks the validation split of Tiny ImageNet" in refusal(root)
    only = write(tmp_path / "x" / "val" / "images" / "val_0.JPEG", png()).parents[2]
    text(only / "val" / "val_annotations.txt", "val_0.JPEG\tn00000001\t0\t0\t1\t1")
    assert "lacks the training split of Tiny ImageNet" in refusal(only)


def test_classes_of_one_first_word_keep_their_ids(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    text(root / "words.txt", "n00000001\tcrane, bird", "n00000002\tcrane, machine")
    assert load(root).train.class_names == ("crane n00000001", "crane n00000002")
    (root / "words.txt").unlink()
    assert load(root).train.class_names == ("n00000001", "n00000002")


def test_the_published_validation_set(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "tiny-imagenet-200" / "val.tar.xz"
    if not archive.is_file():
        pytest.skip("needs ../shared/data/tiny-imagenet-200 beside the repository")
    tiny_imagenet(tmp_path / "made")
    with tarfile.open(tmp_path / "train.tar", "w") as made:
        made.add(tmp_path / "made" / "train", "tiny-imagenet-200/train")
    shutil.rmtree(tmp_path / "made")
    (tmp_path / "val.tar.xz").symlink_to(archive)
    validation = open_path(tmp_path, "tiny").parts[1]
    assert len(validation) == 10_000
    assert set(Counter(record.label for record in validation.records).values()) == {50}
    boxes = np.array([record.boxes[0][1:5] for record in validation.records])
    assert all(len(record.boxes) == 1 for record in validation.records)
    assert boxes.min() >= 0
    assert boxes.max() == 64  # exclusive, of 64 pixels
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    assert (area / 64**2 > 0.5).mean() == pytest.approx(0.517, abs=0.0005)
    margin = np.clip(boxes, 6, 58)
    shared = np.prod(margin[:, 2:] - margin[:, :2], axis=1)
    assert (shared / (area + 52**2 - shared) > 0.5).mean() == pytest.approx(0.5705, abs=0.0005)


@pytest.mark.parametrize(
    "line",
    [
        "{}\t0\t1\t3",
        "{}\t0\t1\t3\t4\t5",
        "{}\t0.5\t1\t3\t4",
        "{}\tnan\t1\t3\t4",
        "{}\t0\t1\t1_0\t4",
        "{}\t0\t1\t\t4",
        "{}\t0\t1\t" + "9" * 5000 + "\t4",
        "{}",
    ],
)
def test_a_malformed_row_is_named_and_its_image_left_out(tmp_path: Path, line: str) -> None:
    root = tiny_imagenet(tmp_path)
    listing = root / "train" / "n00000001" / "n00000001_boxes.txt"
    good = listing.read_text().splitlines()[0]
    text(listing, good, line.format("n00000001_1.JPEG"))
    place = "train/n00000001/n00000001_boxes.txt row 2"
    assert f"{place} is not an image and box" in refusal(root)
    assert len(load(root, skip_broken=True).train) == 3
    text(root / "val" / "val_annotations.txt", *["val_0.JPEG"], "val_1.JPEG\tn00000002\t2\t0\t7\t5")
    assert "val/val_annotations.txt row 1 is not an image and box" in refusal(root)


def test_an_image_listed_twice(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    listing = root / "val" / "val_annotations.txt"
    text(listing, *listing.read_text().splitlines(), "val_0.JPEG\tn00000002\t2\t0\t7\t5")
    said = "val/val_annotations.txt row 3 lists 'val_0.JPEG' as row 1 does"
    assert said in refusal(root)


def test_blank_lines_and_line_ends(tmp_path: Path) -> None:
    plain = load(tiny_imagenet(tmp_path))
    for file in tmp_path.rglob("*.txt"):
        write(file, b"\r\n" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    found = load(tmp_path)
    assert found.train.fingerprint() == plain.train.fingerprint()
    assert found.train.class_names == ("word0", "word1")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("n00000001 crane", "words.txt row 2 is not an id, tab and words: 'n00000001 crane'"),
        ("n00000001\t", "words.txt row 2 is not an id, tab and words"),
        ("n00000002\tboat", "words.txt row 2 names n00000002 'boat', once 'crane'"),
    ],
)
def test_malformed_words(tmp_path: Path, line: str, said: str) -> None:
    root = tiny_imagenet(tmp_path)
    text(root / "words.txt", "n00000002\tcrane, bird", line)
    assert said in refusal(root)
    write(root / "words.txt", b"n00000001\tgr\xfcn\n")
    assert "words.txt is not UTF-8 text" in refusal(root)
