"""CSV and JSON-lines files that list images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data.making import image_folder, png, text, write
from data.refusing import load, refusal


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six images of 8 x 6 pixels."""
    return image_folder(tmp_path, {f"pics/{i}.png": i for i in range(6)}, (8, 6))


def csv(root: Path, *lines: str, name: str = "labels.csv") -> Path:
    return text(root / name, *lines)


def rows(*labels: str) -> list[str]:
    return [f"pics/{i}.png,{label}" for i, label in enumerate(labels)]


def test_one_label_an_image(images: Path) -> None:
    path = csv(images, "image,label", *rows("b", "a", "b", "a", "b", "a"))
    for place in (images, path):
        splits = load(place)
        found = dict(zip(splits.train.names, splits.train.labels.tolist(), strict=True))
        found |= dict(zip(splits.test.names, splits.test.labels.tolist(), strict=True))
        assert found == {f"pics/{i}.png": 1 - i % 2 for i in range(6)}
        assert splits.train.class_names == ("a", "b")
        assert splits.train.boxes is None


def test_numbers_are_sorted_as_numbers(images: Path) -> None:
    csv(images, "Filename,Class", *rows("10", "9", "10", "9", "10", "9"))
    assert load(images).train.class_names == ("9", "10")


def test_splits_by_column_and_by_file(images: Path) -> None:
    csv(
        images,
        "image,label,split",
        *(
            f"{row},{s}"
            for row, s in zip(rows(*"ababab"), ["train"] * 4 + ["val", "Test"], strict=True)
        ),
    )
    splits = load(images)
    assert (len(splits.train), splits.test.names) == (4, ("pics/5.png",))
    (images / "labels.csv").unlink()
    csv(images, "image,label", *rows(*"abab"), name="train.csv")
    csv(images, "image,label", "pics/5.png,b", name="test.csv")
    splits = load(images)
    assert (len(splits.train), splits.test.names) == (4, ("pics/5.png",))
    assert "1 image beside test.csv not listed there (pics/4.png)" in splits.notes
    csv(images, "image,label,split", "pics/1.png,a,third", name="test.csv")
    assert "test.csv row 2: split 'third' is not train" in refusal(images)


def test_a_row_a_box(images: Path) -> None:
    csv(
        images,
        "image,label,xmin,ymin,xmax,ymax,split",
        "pics/0.png,dog,0,0,4,3,train",
        "pics/1.png,cat,1,1,2,2.5,train",
        "pics/0.png,cat,5,5,8,6,train",
        "pics/2.png,cat,,,,,test",
    )
    splits = load(images)
    assert splits.train.labels.tolist() == [[1, 1], [1, 0]]
    assert splits.train.boxes[0].tolist() == [[0, 0, 4, 3], [5, 5, 8, 6]]
    assert splits.train.boxes[1, 0].tolist() == [1, 1, 2, 2.5]
    assert splits.train.box_labels.tolist() == [[1, 0], [0, -1]]
    assert splits.test.boxes is None


def test_a_row_an_image(images: Path) -> None:
    csv(
        images,
        "image,labels,boxes,split",
        "pics/0.png,dog;cat,0 0 4 3;1 1 2 2,train",
        'pics/1.png,cat,"1,1,2,2|3,3,5,5",train',
        "pics/2.png,dog|cat,,train",
        "pics/3.png,cat,0 0 1 1,test",
    )
    splits = load(images)
    assert splits.train.labels.tolist() == [[1, 1], [1, 0], [1, 1]]
    assert splits.train.box_labels.tolist() == [[1, 0], [0, 0], [-1, -1]]
    assert splits.train.boxes[1].tolist() == [[1, 1, 2, 2], [3, 3, 5, 5]]


def test_json_lines(images: Path) -> None:
    lines = [
        {"image": "pics/0.png", "label": ["dog", "cat"], "boxes": [[0, 0, 4, 3], [1, 1, 2, 2]]},
        {"image": "pics/1.png", "label": []},
        {"image": "pics/2.png", "label": ["dog"], "boxes": [1, 1, 2, 2], "split": "test"},
    ]
    lines[0]["split"] = lines[1]["split"] = "train"
    text(images / "all.jsonl", *map(json.dumps, lines), "")
    splits = load(images)
    assert splits.train.labels.tolist() == [[1, 1], [0, 0]]
    assert splits.train.box_labels.tolist() == [[1, 0], [-1, -1]]
    assert splits.test.boxes.tolist() == [[[1, 1, 2, 2]]]


def test_masks(images: Path) -> None:
    mask = png(0, (8, 6))
    write(images / "masks" / "0.png", mask)
    write(images / "masks" / "1.png", png(255, (8, 6)))
    csv(
        images,
        "image,label,mask,split",
        "pics/0.png,a,masks/0.png,train",
        "pics/1.png,b,masks/1.png,train",
        "pics/2.png,b,,test",
    )
    splits = load(images, masks=True, image_size=12, resize="pad")
    assert not splits.train.masks[0].any()
    # 8 x 6 becomes 12 x 9: two rows of border above, one below, where no object is.
    assert splits.train.masks[1].sum() == 12 * 9
    assert splits.train.masks[1, 1:10].all() or splits.train.masks[1, 2:11].all()
    assert not splits.test.masks.any()
    assert load(images).train.masks is None
    write(images / "masks" / "1.png", png(255, (6, 8)))
    assert "its mask masks/1.png is 6 x 8, the image 8 x 6" in refusal(images, masks=True)
    (images / "masks" / "1.png").unlink()
    assert "labels.csv row 3: its mask masks/1.png is missing" in refusal(images, masks=True)


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("image,label", "pics/9.png,a", "labels.csv row 4: its image pics/9.png is missing"),
        ("image,label", "../x.png,a", "labels.csv row 4: its image ../x.png is missing"),
        ("image,label", "pics/2.png,", "labels.csv row 4: pics/2.png has no label"),
        ("image,label", ",a", "labels.csv row 4 names no image"),
        ("image,label", "pics/2.png,a,b", "labels.csv row 4 has 3 cells, the header 2"),
        ("image,label,box", "pics/2.png,a,1 2 3", "row 4: a box is four numbers, x0 y0 x1 y1"),
        ("image,label,box", "pics/2.png,a,1 2 x 3", "row 4: a box is four numbers"),
        ("image,label,box", "pics/2.png,a,5 0 3 3", "row 4: box (5, 0, 3, 3) has x1 < x0"),
        ("image,label,box", "pics/2.png,a,0 0 8 9", "row 4: box (0, 0, 8, 9) lies outside pics/2"),
        ("image,label,box", "pics/2.png,a;b,0 0 1 1;0 0 1 1;0 0 2 2", "has 3 boxes and 2 labels"),
    ],
)
def test_rows_that_cannot_be(images: Path, header: str, row: str, said: str) -> None:
    more = "," * (header.count(",") - 1)
    csv(images, header, f"pics/0.png,a{more}", f"pics/1.png,b{more}", row)
    assert said in refusal(images)


def test_a_file_without_labels_or_images(images: Path) -> None:
    csv(images, "image,breed", "pics/0.png,a")
    assert "labels.csv has no label column among image, breed" in refusal(images)
    csv(images, "name,breed", "pics/0.png,a")
    assert "CSV or JSON-lines file with a column of images" in refusal(images / "labels.csv")
    text(images / "x.jsonl", '{"image": "pics/0.png", "label": 1}', "{oops")
    assert "x.jsonl row 2 is no JSON: " in refusal(images / "x.jsonl")


def test_a_folder_of_classes_with_some_other_table(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"{name}/{i}.png": i for name in "ab" for i in range(3)})
    csv(tmp_path, "epoch,loss", "1,0.5", name="results.csv")
    text(tmp_path / "notes.json", "{}")
    assert load(tmp_path).train.class_names == ("a", "b")
