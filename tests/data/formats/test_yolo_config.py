"""Which classes and splits a YOLO data set declares, and that these are what is read."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from data.making import png, text, write
from data.refusing import load, refusal
from data.test_tree import make_zip


def pictures(root: Path, ids: Mapping[str, int]) -> Path:
    """Write a picture and its label file, with one box of the given class, for each name."""
    for i, (name, number) in enumerate(ids.items()):
        write(root / f"{name}.png", png(i))
        text(root / f"{name.replace('images/', 'labels/')}.txt", f"{number} 0.5 0.5 0.5 0.5")
    return root


def classes_of(root: Path | str) -> dict[str, str]:
    """Return the class of every image, which has one."""
    splits = load(root)
    return {
        name: splits.train.class_names[row.index(1)]
        for part in (splits.train, splits.test)
        for name, row in zip(part.names, part.labels.tolist(), strict=True)
    }


IDS = {f"images/train/{i}": 1 + i % 3 for i in range(6)} | {"images/val/9": 2}
CAT_DOG_OWL = {1: "cat", 2: "dog", 3: "owl"}


@pytest.mark.parametrize(
    "names",
    [
        "names: {1: cat, 2: dog, 3: owl, 4: elk}",
        "names: {4: elk, 3: owl, 2: dog, 1: cat}",
        "names: {'1': cat, \"2\": dog, 3: owl}",
        "names: {03: owl, 02: dog, 01: cat}",
        "names: {1: cat, 2: dog, 3: owl, 10: yak, 9: elk}",
        "names:\n  3: owl\n  1: cat\n  2: 'dog'",
        "names: [bat, cat, dog, owl]",
        "names:\n- bat\n- cat\n- dog\n- owl",
        "names: ['', cat, dog, owl]",
        "nc: 3\nnames: {1: cat, 2: dog, 3: owl}",
        "nc: 4\nnames: {1: cat, 2: dog, 3: owl}",
        "nc: 4\nnames: [bat, cat, dog, owl]",
        "names: {0: , 1: cat, 2: dog, 3: owl}",
        "all: &all [bat, cat, dog, owl]\nnames: *all",
        "names: my.names",
    ],
)
def test_a_number_means_the_name_that_is_given_for_it(tmp_path: Path, names: str) -> None:
    pictures(tmp_path, IDS)
    text(tmp_path / "data.yaml", "train: images/train", "val: images/val", names)
    if "my.names" in names:
        text(tmp_path / "my.names", "", "cat", "dog", "owl")
    assert classes_of(tmp_path) == {f"{name}.png": CAT_DOG_OWL[n] for name, n in IDS.items()}
    assert classes_of(tmp_path / "data.yaml") == classes_of(tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_any_mapping_is_what_yaml_itself_says(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    words = ["no", "yes", "on", "off", "010", "null", "~", "1e3", "0x1f", "true", "y", "2001-01-01"]
    numbers = chance.sample(range(40), len(words))
    keys = [chance.choice(("{}", "'{}'", '"{}"')).format(number) for number in numbers]
    lines = [f"  {key}: {word}" for key, word in zip(keys, words, strict=True)]
    text(tmp_path / "data.yaml", "train: images", "names:", *lines)
    pictures(tmp_path, {f"images/{copy}{n}": n for n in numbers for copy in "ab"})
    meant = yaml.load((tmp_path / "data.yaml").read_text(), yaml.BaseLoader)["names"]
    expected = {f"images/{copy}{n}.png": meant[str(n)] for n in numbers for copy in "ab"}
    assert classes_of(tmp_path) == expected


@pytest.mark.parametrize(
    "file", ["classes.txt", "obj.names", "coco.names", "labels/train/classes.txt"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_count_in_a_list_of_names(tmp_path: Path, file: str, end: str) -> None:
    pictures(tmp_path, IDS)
    write(tmp_path / file, end.join(["", " cat ", "dog", "owl", "", "elk", "", ""]).encode())
    assert classes_of(tmp_path) == {f"{name}.png": CAT_DOG_OWL[n] for name, n in IDS.items()}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("names: {0: cat, 1: dog}", "labels/train/1.txt row 1: class 2 has no name in data.yaml"),
        (
            "names: {1: cat, 2: dog, 4: x}",
            "labels/train/2.txt row 1: class 3 has no name in data.y",
        ),
        ("names: {1: cat, 2: dog, 3: }", "labels/train/2.txt row 1: class 3 has no name in data.y"),
        ("nc: 3\nnames: [a, b]", "data.yaml says nc: 3, and data.yaml names 2 classes"),
        ("nc: 2\nnames: {1: a, 2: b, 3: c}", "data.yaml says nc: 2, and data.yaml names 3 classes"),
        ("nc: many\nnames: [a, b]", "data.yaml says nc: many, and data.yaml names 2 classes"),
        ("names: [a, b, a]", "data.yaml gives the classes 0 and 2 one name, 'a'"),
        ("names: {1: a, 2: b, 7: a}", "data.yaml gives the classes 1 and 7 one name, 'a'"),
        ("names: {1: a, 1: b}", "line 3: '1' stands there a second time"),
        ("names: {1: a, '01': b}", "names has class 1 twice"),
        ("names: {cat: 1, dog: 2}", "names has 'cat', which is not a number; write 1: cat"),
        ("names: {1.0: a, 2: b}", "names has '1.0', which is not a number"),
        ("names: {-1: a, 2: b}", "names has '-1', which is not a number"),
        ("names: {1: [a], 2: b}", "class 1 is ['a'], which is not a name"),
        (
            "names: cat",
            "names is 'cat'; it has to be a list, or a mapping such as {0: cat, 1: dog}",
        ),
        ("names: []\nnc: 3", "holds YOLO text files but no names of the classes"),
        ("names: {99999999999: a}", "names has '99999999999', which is not a number"),
        ("names: [a, b", "data.yaml cannot be read: "),
        ("names: *a", "data.yaml cannot be read: line 3: the alias 'a' refers to nothing"),
        ("names: [a, b, c, d]\nkpt_shape: [17, 3]", "declares key points (kpt_shape), which are"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, names: str, said: str) -> None:
    pictures(tmp_path, IDS)
    text(tmp_path / "data.yaml", "train: images/train", "val: images/val", names)
    assert said in refusal(tmp_path)


def test_lists_of_names_beside_a_yaml_and_each_other(tmp_path: Path) -> None:
    pictures(tmp_path, IDS)
    text(tmp_path / "labels" / "train" / "classes.txt", "x", "cat", "dog", "owl")
    text(tmp_path / "labels" / "val" / "classes.txt", "x", "cat", "dog", "owl", "")
    assert set(classes_of(tmp_path).values()) == {"cat", "dog", "owl"}
    text(tmp_path / "labels" / "val" / "classes.txt", "y", "cat", "dog", "owl")
    assert "classes.txt and labels/val/classes.txt name different classes" in refusal(tmp_path)
    (tmp_path / "labels" / "val" / "classes.txt").unlink()
    text(tmp_path / "data.yaml", "names: [no, one, two, three]")
    assert set(classes_of(tmp_path).values()) == {"one", "two", "three"}
    assert "labels/train/classes.txt, which names others, is not used" in load(tmp_path).source
    text(tmp_path / "data.yaml", "nc: 7", "train: images/train")
    assert "data.yaml says nc: 7, and labels/train/classes.txt names 4" in refusal(tmp_path)


def test_several_yaml_files(tmp_path: Path) -> None:
    pictures(tmp_path, IDS)
    text(tmp_path / "a.yaml", "names: [x, cat, dog, owl]")
    text(tmp_path / "b.yml", "names: [x, cat, dog, owl]")
    text(tmp_path / "yolov8n.yaml", "nc: 80", "names: [q]", "backbone: [[-1, 1, Conv]]")
    text(tmp_path / "args.yaml", "task: detect", "data: x.yaml", "val: true", "model: y.pt")
    text(tmp_path / "hyp.yaml", "lr0: 0.01")
    text(tmp_path / "ci.yml", "on: {push: [")  # none of ours
    assert set(classes_of(tmp_path).values()) == {"cat", "dog", "owl"}
    text(tmp_path / "b.yml", "names: [x, one, two, three]")
    said = refusal(tmp_path)
    assert "a.yaml and b.yml both describe the data, in different ways; name the one that" in said
    assert f"`data` {tmp_path}/b.yml" in said
    assert set(classes_of(tmp_path / "b.yml").values()) == {"one", "two", "three"}
    assert "it has no `names` of classes" in refusal(tmp_path / "hyp.yaml")


PARTS = {"partA/images/1": 0, "partA/images/2": 1, "partB/images/3": 0, "partC/images/4": 1}
A, B, C = (
    ["partA/images/1.png", "partA/images/2.png"],
    ["partB/images/3.png"],
    ["partC/images/4.png"],
)


@pytest.mark.parametrize(
    ("lines", "train", "test"),
    [
        (["train: partA/images", "val: partB/images"], A, B),
        (["train: partA", "val: ./partB/images/"], A, B),
        (["train: partA/images", "val: partB", "test: partC"], A, C),
        (["train: partA", "validation: partB"], A, B),
        (["train: partA", "valid: partB", "test:"], A, B),
        (["train: partA", "val: partB", "test: null"], A, B),
        (["train: [partA/images, partC/images]", "val: [partB]"], [*A, *C], B),
        (["train:", "- partA/images", "- partC", "val: partB"], [*A, *C], B),
        (["train: ../partA/images", "val: ../partB/images"], A, B),  # as Roboflow writes them
        ([r"train: partA\images", r"val: .\partB\images"], A, B),
        (["path: .", "train: partA", "val: partB"], A, B),
        (["path: ", "train: partA", "val: partB"], A, B),
        (["path: {root}", "train: partA", "val: partB"], A, B),
        (["path: {root}/partA", "train: images", "val: ../partB"], A, B),
        (["path: partA", "train: images", "val: ../partB/images"], A, B),
        (["path: ../{name}", "train: partA", "val: partB"], A, B),
        (["path: /content/datasets/x", "train: partA", "val: partB"], A, B),
        (["path: coco8", "train: partA", "val: partB"], A, B),
        (["train: {root}/partA", "val: {root}/partB/images"], A, B),
        (["train: ../{name}/partA", "val: partB"], A, B),
        (["train: a.txt", "val: b.txt"], A, B),
        (["train: lists/a.txt", "val: lists/b.txt"], A, B),
        (["train: [a.txt, partC]", "val: b.txt"], [*A, *C], B),
        (["train: abs.txt", "val: win.txt"], A, B),
        (["train: far.txt", "val: partB"], A, B),
        (["train: twice.txt", "val: partB"], A, B),
        (["train: [partA, a.txt]", "val: partB"], A, B),
    ],
)
def test_declared_splits_are_what_is_read(
    tmp_path: Path, lines: list[str], train: list[str], test: list[str]
) -> None:
    root = pictures(tmp_path / "set", PARTS)
    text(root / "a.txt", *A)
    text(root / "b.txt", "", *(f"./{name}" for name in B), "")
    text(root / "lists" / "a.txt", *(f"../{name}" for name in A))
    text(root / "lists" / "b.txt", *B)  # from the folder of the data.yaml
    text(root / "abs.txt", *(f"{root}/{name}" for name in A))
    write(root / "win.txt", b"\xef\xbb\xbf" + "\r\n".join(B).replace("/", "\\").encode())
    text(root / "far.txt", *(f"/somewhere/else/data/{name}" for name in A))
    text(root / "twice.txt", *A, A[0])
    written = [line.format(root=root, name="set") for line in lines]
    text(root / "data.yaml", *written, "names: [cat, dog]")
    for place in (root, root / "data.yaml"):
        splits = load(place)
        assert list(splits.train.names) == train
        assert list(splits.test.names) == test
    assert "by seed" not in splits.source
    left = {*A, *B, *C} - {*train, *test}
    used = "test: partC" in lines  # so that partB is for validation, and not left out
    assert ("in no split that data.yaml names left out" in splits.source) is (
        bool(left) and not used
    )
    assert ("twice.txt lists 1 image again, which count once" in splits.source) is (
        "train: twice.txt" in lines
    )
    for what in (
        "far.txt has paths from '/somewhere/else/data'",
        "'/content/datasets/x', which is",
    ):
        assert (what in splits.source) is any(
            word in line for line in lines for word in ("far.txt", "/content") if word in what
        )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["train: partA", "val: gone/images"], "data.yaml: val: 'gone/images' leads to no images"),
        (["train: partA", "val: partB", "test: ../test/images"], "test: '../test/images' leads to"),
        (["train: empty", "val: partB"], "train: 'empty' leads to no images"),
        (["train: gone.txt", "val: partB"], "train: 'gone.txt' leads to no images"),
        (["train: 'part*/images'", "val: partB"], "train: 'part*/images' is a pattern"),
        (["train: partA", "val: https://x.org/a.zip"], "val is the address 'https://x.org/a.zip'"),
        (["path: s3://bucket/x", "train: partA"], "path is the address 's3://bucket/x'"),
        (["train: partA", "val: {a: partB}"], "val holds {'a': 'partB'}; a split is a folder"),
        (["train: [[partA]]", "val: partB"], "train holds ['partA']; a split is a folder"),
        (["train: partA", "val: partB", "valid: partC"], "val and valid are one split; keep one"),
        (["path: {outside}", "train: partA"], "lies outside of "),
        (["path: ../outside", "train: partA"], "lies outside of "),
        (["train: {outside}", "val: partB"], "leads to no images in "),
        (["val: partA"], "has no split named train"),
        (["train: list.txt", "val: partB"], "list.txt row 2: its image 'partA/images/7.png' is mi"),
        (["train: odd.txt", "val: partB"], "odd.txt row 1: 'list.txt' is not an image"),
        (
            ["train: out.txt", "val: partB"],
            "out.txt row 2: its image '../outside/1.png' is missing",
        ),
        (
            ["train: mixed.txt", "val: partB"],
            "mixed.txt row 1: its image 'x/partA/images/1.png' is",
        ),
    ],
)
def test_splits_that_are_not_there_are_refused_by_name(
    tmp_path: Path, lines: list[str], said: str
) -> None:
    root = pictures(tmp_path / "set", PARTS)
    write(tmp_path / "outside" / "1.png", png())
    text(root / "list.txt", A[0], "partA/images/7.png")
    text(root / "odd.txt", "list.txt", *A)
    text(root / "out.txt", A[0], "../outside/1.png")
    text(root / "mixed.txt", "x/partA/images/1.png", "y/partA/images/2.png")
    write(root / "empty" / "notes.md", b"")
    written = [line.replace("{outside}", str(tmp_path / "outside")) for line in lines]
    text(root / "data.yaml", *written, "names: [cat, dog]")
    assert said in refusal(root)


def test_a_yaml_by_its_own_name_follows_its_path(tmp_path: Path) -> None:
    pictures(tmp_path / "store" / "set", PARTS)
    for path in (tmp_path / "store" / "set", "../store/set", "../store"):
        inside = "set/" if path == "../store" else ""
        lines = [f"path: {path}", f"train: {inside}partA", f"val: {inside}partB"]
        file = tmp_path / "configs" / "pets.yaml"
        text(file, *lines, "names: {0: cat, 1: dog}")
        splits = load(file)
        assert list(splits.train.names) == [inside + name for name in A]
        assert list(splits.test.names) == [inside + name for name in B]


def test_an_image_in_two_splits_is_said(tmp_path: Path) -> None:
    pictures(tmp_path, PARTS)
    text(tmp_path / "data.yaml", "train: [partA, partB]", "val: partB", "names: [cat, dog]")
    assert "1 image of train also in validation (partB/images/3.png)" in load(tmp_path).source


def test_links_share_no_image_between_declared_splits(tmp_path: Path) -> None:
    pictures(tmp_path, PARTS)
    (tmp_path / "copy").symlink_to("partA")
    text(tmp_path / "data.yaml", "train: partA", "val: [copy, partB]", "names: [cat, dog]")
    assert "copy/images/1.png is the same file as partA/images/1.png, by a link" in refusal(
        tmp_path
    )
    splits = load(tmp_path, skip_broken=True)
    assert (list(splits.train.names), list(splits.test.names)) == (A, B)
    text(tmp_path / "data.yaml", "train: copy", "val: partB", "names: [cat, dog]")
    assert list(load(tmp_path).train.names) == A


def test_lists_without_a_yaml(tmp_path: Path) -> None:
    """As annotation tools write them for Darknet: the root is called data there."""
    pictures(tmp_path, {f"obj_train_data/{i}": i % 2 for i in range(6)})
    text(tmp_path / "obj.names", "cat", "dog")
    text(tmp_path / "obj.data", "classes = 2", "train = data/train.txt", "names = data/obj.names")
    text(tmp_path / "train.txt", *(f"data/obj_train_data/{i}.png" for i in range(4)))
    text(tmp_path / "valid.txt", "data/obj_train_data/4.png")
    splits = load(tmp_path)
    assert splits.train.names == tuple(f"obj_train_data/{i}.png" for i in range(4))
    assert splits.test.names == ("obj_train_data/4.png",)
    assert "train.txt has paths from 'data', which is not there" in splits.source
    assert "1 image in no split that train.txt and valid.txt names left out" in splits.source


def test_names_of_files_that_are_no_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    pictures(tmp_path, {f"images/{name}{i}": i % 2 for i in range(4)})
    (tmp_path / "a.txt").write_bytes(b"images/caf\xe90.png\nimages/caf\xe91.png\n")
    (tmp_path / "b.txt").write_bytes(b"./images/caf\xe92.png\n")
    text(tmp_path / "data.yaml", "train: a.txt", "val: b.txt", "names: [x, y]")
    assert load(tmp_path).train.names == (f"images/{name}0.png", f"images/{name}1.png")


def test_an_archive_with_a_yaml(tmp_path: Path) -> None:
    made = pictures(tmp_path / "set", PARTS)
    text(made / "data.yaml", "train: ../partA/images", "val: a.txt", "names: [cat, dog]")
    text(made / "a.txt", r".\partB\images\3.png")
    for top, join in (("", "/"), ("pets/", "/"), ("pets\\", "\\")):
        files = {
            top + path.relative_to(made).as_posix().replace("/", join): path.read_bytes()
            for path in made.rglob("*.*")
        }
        splits = load(make_zip(tmp_path / "x.zip", files))
        assert (list(splits.train.names), list(splits.test.names)) == (A, B)
