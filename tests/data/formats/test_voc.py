"""Pascal VOC XML: its official layout, loose files, and what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.making import png, text, write
from data.refusing import load, refusal


def xml(name: str, objects: list[tuple[str, tuple[int, int, int, int]]], size=(8, 6)) -> bytes:
    sides = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(
        f"<object><name>{label}</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=True))
        + "</bndbox></object>"
        for label, box in objects
    )
    width, height = size
    return (
        f"<annotation><filename>{name}.png</filename><size><width>{width}</width>"
        f"<height>{height}</height></size>{inside}</annotation>"
    ).encode()


def official(root: Path) -> Path:
    objects = {
        "a": [("dog", (1, 1, 8, 6)), ("cat", (2, 3, 4, 5))],
        "b": [("cat", (8, 6, 8, 6))],
        "c": [("dog", (1, 1, 2, 2))],
        "d": [("cat", (1, 1, 3, 3))],
    }
    for i, (name, found) in enumerate(objects.items()):
        write(root / "JPEGImages" / f"{name}.png", png(i, (8, 6)))
        write(root / "Annotations" / f"{name}.xml", xml(name, found))
        write(root / "SegmentationClass" / f"{name}.png", png(0, (8, 6)))
    text(root / "ImageSets" / "Main" / "train.txt", "a", "b")
    text(root / "ImageSets" / "Main" / "val.txt", "c")
    text(root / "ImageSets" / "Main" / "dog_train.txt", "a  1", "b -1")
    return root


def test_the_official_layout(tmp_path: Path) -> None:
    for place in (official(tmp_path / "VOCdevkit" / "VOC2012"), tmp_path):
        splits = load(place)
        assert splits.train.class_names == ("cat", "dog")
        assert splits.train.labels.tolist() == [[1, 1], [1, 0]]
        # Pixels from 1, inclusive, in the files; from 0, exclusive, here.
        assert splits.train.boxes[0].tolist() == [[0, 0, 8, 6], [1, 2, 4, 5]]
        assert splits.train.boxes[1, 0].tolist() == [7, 5, 8, 6]
        assert splits.train.images[:, 0, 0, 0].tolist() == [0, 1]  # not those of the masks
        assert splits.test.names[0].endswith("JPEGImages/c.png")
        assert splits.test.labels.tolist() == [[0, 1]]


def test_trainval_and_test(tmp_path: Path) -> None:
    root = official(tmp_path)
    text(root / "ImageSets" / "Main" / "trainval.txt", "a", "b", "c")
    text(root / "ImageSets" / "Main" / "test.txt", "d")
    splits = load(root)
    assert (len(splits.train), splits.test.names) == (3, ("JPEGImages/d.png",))
    assert splits.test.labels.tolist() == [[1, 0]]


def test_loose_files_by_folder(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("train", "b"), ("test", "c")):
        write(tmp_path / split / f"{name}.png", png(1, (8, 6)))
        objects = [("cat", (1, 1, 2, 2)), ("dog", (1, 1, 2, 2))]
        write(tmp_path / split / f"{name}.xml", xml(name, objects, size=(0, 0)))
    splits = load(tmp_path)
    assert splits.train.names == ("train/a.png", "train/b.png")
    assert splits.test.names == ("test/c.png",)
    write(tmp_path / "train" / "z.png", png(1, (8, 6)))
    assert "the image train/z.png has no annotation in any XML file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (xml("a", [("dog", (5, 1, 2, 6))]), "Annotations/a.xml object 1: box (4, 0, 2, 6) has x1"),
        (xml("a", [("dog", (1, 1, 12, 6))]), "Annotations/a.xml object 1: box (0, 0, 12, 6) lies"),
        (
            xml("a", [("dog", (1, 1, 2, 2))], (6, 8)),
            "its annotations say 6 x 8, upright it is 8 x 6",
        ),
        (xml("a", [("", (1, 1, 2, 2))]), "Annotations/a.xml object 1 has no name"),
        (b"<annotation><object><name>x</name></object></annotation>", "has no bndbox of four"),
        (b"<annotation><object>", "Annotations/a.xml is not valid XML: "),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, content: bytes, said: str) -> None:
    write(official(tmp_path) / "Annotations" / "a.xml", content)
    assert said in refusal(tmp_path)


def test_files_and_images_that_do_not_fit(tmp_path: Path) -> None:
    root = official(tmp_path)
    (root / "JPEGImages" / "b.png").unlink()
    (root / "SegmentationClass" / "b.png").unlink()
    assert "Annotations/b.xml: its image b.png is missing" in refusal(root)
    (root / "Annotations" / "a.xml").unlink()
    assert "the image a has no annotation in Annotations/a.xml" in refusal(root)


def test_a_class_that_training_lacks(tmp_path: Path) -> None:
    write(official(tmp_path) / "Annotations" / "c.xml", xml("c", [("hen", (1, 1, 2, 2))]))
    said = refusal(tmp_path)
    assert "shows class 'hen', which split train lacks: JPEGImages/c.png" in said


@pytest.mark.parametrize("folders", [("{0}/", "{0}/"), ("Annotations/{0}/", "images/{0}/")])
def test_an_image_of_another_split_does_not_stand_in(tmp_path: Path, folders) -> None:
    """The same file names in both splits, as many tools number them."""
    for i, split in enumerate(("train", "test")):
        for k, name in enumerate(("1", "2")):
            found = [(("cat", "dog")[k], (1, 1, 2, 2))]
            write(tmp_path / folders[0].format(split) / f"{name}.xml", xml(name, found))
            write(tmp_path / folders[1].format(split) / f"{name}.png", png(10 * i + k, (8, 6)))
    splits = load(tmp_path)
    assert splits.train.images[:, 0, 0, 0].tolist() == [0, 1]
    assert splits.test.images[:, 0, 0, 0].tolist() == [10, 11]
    (tmp_path / folders[1].format("train") / "2.png").unlink()
    assert "train/2.xml: its image 2.png is missing" in refusal(tmp_path)
