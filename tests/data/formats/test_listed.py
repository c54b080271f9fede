"""CSV and JSON-lines files that list images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.making import image_folder, png, text, write
from data.refusing import load, refusal, short
from typed import exit_code


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
    assert "x.jsonl row 2 is not valid JSON: " in refusal(images / "x.jsonl")
    assert (
        "labels.csv is not a CSV or JSON-lines file with a column of images: it has name, breed"
        in (refusal(images))
    )


def named(images: Path, **options: Any) -> dict[str, Any]:
    """Return the class of each image, or all of them where it may have several."""
    found: dict[str, Any] = {}
    splits = load(images, **options)
    for part in (splits.train, splits.test):
        for name, label in zip(part.names, part.labels.tolist(), strict=True):
            classes = part.class_names
            if isinstance(label, int):
                found[name] = classes[label]
            else:
                found[name] = [classes[k] for k, is_there in enumerate(label) if is_there]
    return found


@pytest.mark.parametrize("cell", ["['cat', 'dog']", '[""cat"",""dog""]', "{cat,dog}", "cat|dog"])
def test_a_list_is_a_list(images: Path, cell: str) -> None:
    csv(images, "image,label", *rows(f'"{cell}"', *["cat", "dog"] * 2, "[]"))
    assert named(images) == {
        "pics/0.png": ["cat", "dog"],
        **{f"pics/{i}.png": [("dog", "cat")[i % 2]] for i in range(1, 5)},
        "pics/5.png": [],
    }


def test_a_comma_is_refused_and_quotes_of_its_own_say_that_it_is_one_class(images: Path) -> None:
    csv(images, "image,label", *rows('"tench, Tinca tinca"', *["cat"] * 5))
    said = refusal(images)
    assert "labels.csv row 2 has 'tench, Tinca tinca' as label, which may be one label or" in said
    fish = '"""tench, Tinca tinca"""'
    csv(images, "image,label", *rows(*[fish, "cat"] * 3))
    assert set(named(images).values()) == {"tench, Tinca tinca", "cat"}


MISSING = ["", "nan", "NaN", "NA", "N/A", "null", "None", "<NA>", "  "]


@pytest.mark.parametrize("word", MISSING)
def test_an_image_without_label_is_refused_by_row_or_left_out(
    images: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    csv(images, "image,label", *rows(word, "a", "b", "a", "b", "a"))
    assert "labels.csv row 2: pics/0.png has no label" in refusal(images)
    splits = load(images, skip_broken=True)
    assert splits.train.class_names == ("a", "b")
    assert len(splits.train) + len(splits.test) == 5
    assert "1 image left out, as asked" in splits.source
    assert exit_code("data", "check", images) == 2
    assert "error: labels.csv row 2: pics/0.png has no label" in capsys.readouterr().out


@pytest.mark.parametrize("label", [None, float("nan"), "nan", [None], ["a", None], ["a", "nan"]])
def test_null_in_json_lines(images: Path, label: Any) -> None:
    labels = [label, ["a"], ["b"], ["a", "b"], ["a"], []]
    lines = [{"image": f"pics/{i}.png", "label": each} for i, each in enumerate(labels)]
    text(images / "all.jsonl", *map(json.dumps, lines))
    assert "all.jsonl row 1: pics/0.png has " in refusal(images)
    assert load(images, skip_broken=True).train.class_names == ("a", "b")


def test_one_of_two_rows_without_label(images: Path) -> None:
    csv(images, "image,label", *rows(*"ababab"), "pics/0.png,")
    assert "labels.csv row 8: pics/0.png has no label" in refusal(images)


@pytest.mark.parametrize("hidden", ["", "nan", "-1", "-1.0"])
@pytest.mark.parametrize("labels", ["aabb", "0011"])
def test_a_test_split_without_labels_is_hidden(images: Path, hidden: str, labels: str) -> None:
    csv(images, "image,label", *rows(*labels), name="train.csv")
    csv(images, "image,label", f"pics/4.png,{hidden}", f"pics/5.png,{hidden}", name="test.csv")
    splits = load(images)
    assert "no labelled test split, so 20% of train held out" in splits.source
    assert len(splits.train) + len(splits.test) == 4
    assert exit_code("data", "check", images) == 0


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["1.0", "10.0", "2.0"] * 2, ("1", "2", "10")),
        (["1", "10", "2"] * 2, ("1", "2", "10")),
        (["01", "1", "10", "01", "1", "10"], ("01", "1", "10")),
        (["1", "1.0", "2", "2.0", "1", "2"], ("1", "2")),
    ],
)
def test_numbers_in_csv(images: Path, labels: list[str], names: tuple[str, ...]) -> None:
    csv(images, "image,label", *rows(*labels))
    assert load(images).train.class_names == names


def test_mixed_numbers_in_json_lines(images: Path) -> None:
    labels: list[Any] = [1, "1", 1.0, 2, "2", 2.0]
    lines = [{"image": f"pics/{i}.png", "label": each} for i, each in enumerate(labels)]
    text(images / "all.jsonl", *map(json.dumps, lines))
    assert sorted(named(images).values()) == ["1"] * 3 + ["2"] * 3
    lines[0]["label"] = 1.5
    text(images / "all.jsonl", *map(json.dumps, lines))
    assert "all.jsonl row 1 has label 1.5, which is a measurement and no class" in refusal(images)


def test_a_minus_one_among_other_numbers_is_said(images: Path) -> None:
    csv(images, "image,label", *rows("-1", "0", "1", "-1", "0", "1"))
    assert any("label -1 is a class here" in note for note in load(images).notes)
    csv(images, "image,label", *rows("-1", "1", "-1", "1", "-1", "1"))
    assert not load(images).notes


@pytest.mark.parametrize(
    "path", ["./pics/0.png", "pics\\0.png", ".\\pics\\0.png", "x/../pics/0.png", " pics/0.png "]
)
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("lines", [False, True])
def test_paths_as_people_write_them(images: Path, path: str, absolute: bool, lines: bool) -> None:
    if absolute:
        path = f"{images}/{path.strip().replace(chr(92), '/')}"
    others = rows(*"ababa")[1:]
    if lines:
        pairs = [row.split(",") for row in others] + [[path, "b"]]
        found = [json.dumps({"image": image, "label": label}) for image, label in pairs]
        text(images / "all.jsonl", *found)
    else:
        csv(images, "image,label", *others, f'"{path}",b')
    assert named(images)["pics/0.png"] == "b"


def test_paths_from_the_folder_of_a_table_or_from_the_top(images: Path) -> None:
    lines = ["../pics/0.png,a", "..\\pics\\1.png,b", "pics/2.png,a", "pics/3.png,b"]
    csv(images, "image,label", *lines, name="annotations/labels.csv")
    assert sorted(named(images)) == [f"pics/{i}.png" for i in range(4)]
    said = refusal(images / "annotations" / "labels.csv")
    assert "labels.csv row 2: its image ../pics/0.png is missing; it lies outside of " in said
    assert "give a folder that holds both" in said


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("https://x.org/0.png", "is missing; it is a web address: download the images"),
        ("s3://bucket/0.png", "is missing; it is a web address"),
        ("C:\\data\\0.png", "is missing; it is a path of a Windows drive"),
        ("D:/data/0.png", "is missing; it is a path of a Windows drive"),
        ("/etc/0.png", "is missing; it lies outside of "),
        ("pics/0", "is missing; pics/0.png is there"),
        ("Pics/0.PNG", "is missing; pics/0.png is there"),
        ("\x1b[2J0.png", "its image \\x1b[2J0.png is missing"),
        ("x" * 10**5 + ".png", "xxx... is missing"),
        ("nan", "names no image"),
    ],
    ids=short,
)
def test_paths_that_lead_nowhere(images: Path, path: str, said: str) -> None:
    csv(images, "image,label", *rows(*"ababa"), f'"{path}",a')
    found = refusal(images)
    assert "labels.csv row 7" in found
    assert said in found
    assert len(found) < 900
    assert len(load(images, skip_broken=True).train) == 3


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (5, "a box is four numbers, x0 y0 x1 y1, not 5"),
        ({"x": 1}, "a box is four numbers"),
        ([1, 2, None, 4], "a box is four numbers"),
        ([1, 2, True, 4], "a box is four numbers, x0 y0 x1 y1, not True"),
        ([0, 0, float("inf"), 1], "a box is four numbers"),
        ([0, 0, 10**400, 1], "a box is four numbers"),
        ([[0, 0, 1, 1], None], "a box is four numbers"),
        ([5, 0, 3, 3], "box (5, 0, 3, 3) has x1 < x0"),
    ],
    ids=short,
)
def test_boxes_that_are_none(images: Path, box: Any, said: str) -> None:
    lines = [{"image": f"pics/{i}.png", "label": "ab"[i % 2]} for i in range(6)]
    text(images / "all.jsonl", *map(json.dumps, [*lines[:5], {**lines[5], "box": box}]))
    assert f"all.jsonl row 6: {said}" in refusal(images)
    assert load(images, skip_broken=True).train.boxes is None


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({"bbox": "1 2 3 4", "category": ["a"]}, "boxes are lists of four numbers, not '1 2 3 4'"),
        ({"bbox": {"x": 1}, "category": ["a"]}, "boxes are lists of four numbers"),
        ({"bbox": [[1, 2, 3]], "category": ["a"]}, "a box is four numbers, not [1, 2, 3]"),
        ({"bbox": [[1, 2, True, 1]], "category": ["a"]}, "a box is four numbers, not [1, 2, True"),
        ({"bbox": [[1, 2, float("nan"), 1]], "category": ["a"]}, "a box is four numbers"),
        ({"bbox": [[1, 2, 10**400, 1]], "category": ["a"]}, "a box is four numbers"),
        ({"bbox": [[1, 2, -1, 1]], "category": ["a"]}, "box (1, 2, 0, 3) has x1 < x0"),
        ({"bbox": [[0, 0, 1, 1]] * 3, "category": "cat"}, "has 3 boxes and 1 classes of them"),
        ({"bbox": [[0, 0, 1, 1]], "category": {"a": 1}}, "classes of objects are a list"),
        (
            {"bbox": [[0, 0, 1, 1]], "category": [None]},
            "has a list of labels, one of which is missing",
        ),
        ({"bbox": [[0, 0, 1, 1]], "category": [["a"]]}, "has ['a'] as label"),
        ([{"bbox": [0, 0, 1, 1], "category": "a"}, 5], "objects have fields bbox and category"),
        ([{"bbox": [0, 0, 1, 1], "category": "a"}, {"category": "b"}], "a box is four numbers"),
        ("text", "objects need a field bbox"),
        (7, "objects need a field bbox"),
    ],
    ids=short,
)
def test_objects_that_are_none(images: Path, objects: Any, said: str) -> None:
    lines = [{"image": f"pics/{i}.png", "label": "ab"[i % 2]} for i in range(6)]
    text(images / "all.jsonl", *map(json.dumps, [*lines[:5], {**lines[5], "objects": objects}]))
    found = refusal(images)
    assert "all.jsonl row 6" in found
    assert said in found
    assert load(images, skip_broken=True).train.boxes is None


@pytest.mark.parametrize(
    "label", [{"a": 1}, [["a"]], [{"a": 1}], float("inf"), [1.5, 2], True], ids=short
)
def test_labels_that_are_none(images: Path, label: Any) -> None:
    lines = [{"image": f"pics/{i}.png", "label": i % 2} for i in range(6)]
    text(images / "all.jsonl", *map(json.dumps, [*lines[:5], {**lines[5], "label": label}]))
    assert "all.jsonl row 6 has " in refusal(images)
    assert load(images, skip_broken=True).train.class_names == ("0", "1")


def test_a_mask_that_is_no_path(images: Path) -> None:
    lines = [{"image": f"pics/{i}.png", "label": i % 2, "mask": None} for i in range(6)]
    text(images / "all.jsonl", *map(json.dumps, [*lines[:5], {**lines[5], "mask": 5}]))
    assert "all.jsonl row 6 has 5 as mask, which is not a path" in refusal(images)


def test_rows_of_different_labels_are_said(images: Path) -> None:
    csv(images, "image,label", *rows(*"ababab"), "pics/0.png,b")
    said = "1 image with rows of different labels (pics/0.png), so an image may have several labels"
    assert said in load(images).notes
