"""COCO JSON as tools and people write it: read as it was meant, or a line with file and id."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from data.making import coco_json, image_folder, write
from data.refusing import load, refusal

IMAGES = {n: (f"{n}.png", 8, 6) for n in (1, 2, 3, 4)}
OBJECTS = [
    (1, 7, [1, 1, 4, 2]),
    (2, 3, [0, 0, 8, 6]),
    (3, 7, [2, 0, 1, 1]),
    (3, 3, [2, 0, 1, 1]),
    (4, 3, [0, 0, 2, 2]),
]
FILE = "train/_annotations.coco.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four training images, of which number 3 has both classes, and a test image."""
    image_folder(tmp_path / "train", {f"{n}.png": n for n in IMAGES}, (8, 6))
    image_folder(tmp_path / "test", {"9.png": 9}, (8, 6))
    coco_json(tmp_path / FILE, IMAGES, OBJECTS)
    coco_json(tmp_path / "test" / "a.coco.json", {9: ("9.png", 8, 6)}, [(9, 3, [0, 0, 2, 2])])
    return tmp_path


def change(root: Path, what) -> None:
    """Change the training JSON."""
    content = json.loads((root / FILE).read_text())
    content = what(content) or content
    (root / FILE).write_text(json.dumps(content))


def annotation(**fields):
    """Change the annotation with id 100, which is of image 1; `...` takes a field away."""

    def changed(content) -> None:
        first = content["annotations"][0]
        first.update(fields)
        for key in [key for key, value in first.items() if value is ...]:
            del first[key]

    return changed


def image(**fields):
    """Change image 1 likewise."""

    def changed(content) -> None:
        content["images"][0].update(fields)
        for key in [key for key, value in content["images"][0].items() if value is ...]:
            del content["images"][0][key]

    return changed


NO_BOX = "annotation 100 has no bbox of four numbers"
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (annotation(bbox=None), NO_BOX),
        (annotation(bbox=7), NO_BOX),
        (annotation(bbox={"x": 1, "y": 1, "width": 2, "height": 2}), NO_BOX),
        (annotation(bbox="1234"), NO_BOX),
        (annotation(bbox=[]), NO_BOX),
        (annotation(bbox=[1, 2, 3]), NO_BOX),
        (annotation(bbox=[1, 1, 2, 2, 1]), NO_BOX),
        (annotation(bbox=[[1, 1, 2, 2]]), NO_BOX),
        (annotation(bbox=[1, 1, True, 2]), NO_BOX),
        (annotation(bbox=[1, 1, None, 2]), NO_BOX),
        (annotation(bbox=["1", "1", "2", "2"]), NO_BOX),
        (annotation(bbox=...), f"{NO_BOX}: it is missing"),
        (annotation(bbox=..., segmentation=[[0, 0, 4, 0, 4, 4]]), f"{NO_BOX}: it is missing"),
        (annotation(bbox=[1, 1, NAN, 2]), "annotation 100: box (1, 1, nan, 3) holds no numbers"),
        (annotation(bbox=[1, 1, INF, 2]), "annotation 100: box (1, 1, inf, 3) holds no numbers"),
        (annotation(bbox=[-INF, 1, 2, 2]), "holds no numbers"),
        (annotation(bbox=[5, 1, -2, 2]), "annotation 100: box (5, 1, 3, 3) has x1 < x0"),
        (annotation(bbox=[1, 1, 1e300, 2]), "annotation 100: box (1, 1, 1e+300, 3) lies outside"),
        (annotation(bbox=[1e308, 1, 1e308, 2]), "holds no numbers"),
        (annotation(bbox=[1, 1, 10**30, 2]), "lies outside"),
        (annotation(bbox=[1, 1, 10**400, 2]), "annotation 100: bbox [1, 1, 1000"),
        (annotation(id="a-1", bbox=None), "annotation 'a-1' has no bbox"),
        (annotation(id=..., bbox=None), "annotation no. 1 has no bbox"),
        (annotation(id="x\n\x1b[31m", bbox=None), r"annotation 'x\n\x1b[31m' has no bbox"),
        (annotation(category_id=5), "annotation 100: unknown category 5"),
        (annotation(category_id=None), "annotation 100: unknown category None"),
        (annotation(category_id=...), "annotation 100: unknown category None"),
        (annotation(category_id=[7]), "annotation 100: unknown category [7]"),
        (annotation(category_id=True), "annotation 100: unknown category True"),
        (annotation(category_id={"id": 7}), "annotation 100: unknown category {'id': 7}"),
        (annotation(category_id=7.5), "annotation 100: unknown category 7.5"),
        (annotation(category_id="dog"), "annotation 100: unknown category 'dog'"),
        (image(width=-8), "image 1: width -8 and height 6 are not numbers of pixels"),
        (image(width=NAN), "image 1: width nan and height 6 are not numbers of pixels"),
        (image(width=8.5), "image 1: width 8.5 and height 6 are not numbers of pixels"),
        (image(height=True), "image 1: width 8 and height True are not numbers of pixels"),
        (image(height=[6]), "image 1: width 8 and height [6] are not numbers of pixels"),
        (image(height="six"), "image 1: width 8 and height 'six' are not numbers of pixels"),
        (image(width=10**9, height=10**9), "image 1: 1e+09 x 1e+09 pixels are more than an image"),
        (image(width=10**400), "are not numbers of pixels"),
    ],
)
def test_a_fault_of_one_image(root: Path, what, said: str) -> None:
    change(root, what)
    line = refusal(root)
    assert FILE in line
    assert said in line
    names = load(root, skip_broken=True).train.names
    assert names == ("train/2.png", "train/3.png", "train/4.png")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (image(file_name=...), f"{FILE} image 1: its file_name is None"),
        (image(file_name=None), f"{FILE} image 1: its file_name is None"),
        (image(file_name=""), f"{FILE} image 1: its file_name is ''"),
        (image(file_name=1), f"{FILE} image 1: its file_name is 1"),
        (image(file_name=["1.png"]), f"{FILE} image 1: its file_name is ['1.png']"),
        (image(file_name="../../etc/passwd"), "image 1: '../../etc/passwd' is missing"),
        (image(file_name="\x1b[2J\ud800"), r"image 1: '\x1b[2J\ud800' is missing"),
        (image(file_name="a" * 9999), f"{FILE} image 1: 'aaaaaaaaaaaaaaaaaaaaaaaaaaa..."),
        (image(id=None), f"{FILE}: entry 1 of images has no id"),
        (image(id=...), f"{FILE}: entry 1 of images has no id"),
        (image(id=[1]), f"{FILE}: entry 1 of images has no id"),
        (image(id=True), f"{FILE}: entry 1 of images has no id"),
        (lambda c: c["images"].append(None), f"{FILE}: entry 5 of images has no id: None"),
        (lambda c: c["images"].append(7), f"{FILE}: entry 5 of images has no id: 7"),
        (image(id=2), f"{FILE} image 2: 2 files have this id, train/"),
        (image(id="2"), f"{FILE} image '2': 2 files have this id, train/"),
        (image(file_name="2.png"), f"{FILE} image 2: its file train/2.png is that of image 1 too"),
    ],
)
def test_a_fault_of_an_entry_of_images(root: Path, what, said: str) -> None:
    change(root, what)
    assert said in refusal(root)
    load(root, skip_broken=True)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda c: [c], "is not COCO JSON: it holds a list, not an object"),
        (lambda c: c.pop("categories") and None, "is not COCO JSON: it lacks 'categories'"),
        (lambda c: c.pop("images") and None, "is not COCO JSON: it lacks 'images'"),
        (lambda c: c.update(annotations=None), "its 'annotations' is null, not a list"),
        (lambda c: c.update(images=None), "its 'images' is null, not a list"),
        (lambda c: c.update(images={"1": {}}), "its 'images' is an object, not a list"),
        (lambda c: c.update(categories="cat"), "its 'categories' is text, not a list"),
        (lambda c: c.update(annotations=7), "its 'annotations' is a number, not a list"),
        (lambda c: c.update(categories=[]), "its 'categories' is an empty list"),
        (lambda c: c.update(categories=[None]), "entry 1 of categories has no id: None"),
        (lambda c: c["categories"][0].pop("id") and None, "entry 1 of categories has no id"),
        (lambda c: c["categories"][0].update(id=None), "entry 1 of categories has no id"),
        (lambda c: c["categories"][0].pop("name") and None, "category 7: None is not a name"),
        (lambda c: c["categories"][0].update(name=None), "category 7: None is not a name"),
        (lambda c: c["categories"][0].update(name=" "), "category 7: ' ' is not a name"),
        (lambda c: c["categories"][0].update(name=1.5), "category 7: 1.5 is not a name"),
        (lambda c: c["categories"][0].update(name=["dog"]), "category 7: ['dog'] is not a name"),
        (lambda c: c["categories"][0].update(name="\ud800"), r"category 7: '\ud800' is not a name"),
        (lambda c: c["categories"][0].update(name="cat"), "gives 1 class a name twice: 'cat'"),
        (lambda c: c["categories"][0].update(name="cat "), "gives 1 class a name twice: 'cat'"),
        (lambda c: c["categories"][0].update(id=3), "category 3 has two names, 'dog' and 'cat'"),
        (lambda c: c["annotations"].append(None), "entry 6 of annotations is null, not an object"),
        (lambda c: c["annotations"].append([]), "entry 6 of annotations is a list, not an object"),
        (annotation(image_id=...), "annotation 100 says no image: image_id None"),
        (annotation(image_id=[1]), "annotation 100 says no image: image_id [1]"),
    ],
)
def test_a_fault_of_the_file(root: Path, what, said: str) -> None:
    change(root, what)
    for skip_broken in (False, True):
        line = refusal(root, skip_broken=skip_broken)
        assert FILE in line
        assert said in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON"),
        (b'{"images": [], "annotations": [', "is not valid JSON"),
        (b'{"images": "\xe9"}', "is not valid JSON"),
        (b'{"images": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "it is nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "it is nested too deeply"),
    ],
)
def test_a_file_that_is_no_json(root: Path, content: bytes, said: str) -> None:
    name = root / "annotations" / "instances_train2017.json"
    write(name, content)
    line = refusal(root)
    assert "annotations/instances_train2017.json" in line
    assert said in line
    assert len(line) < 700


def test_a_file_larger_than_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loss_attention.data.formats.coco.free_memory", lambda: 800)
    line = refusal(root)
    assert "a.coco.json is of " in line
    assert "is not valid JSON" not in line


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_any_unicode(root: Path, encoding: str) -> None:
    plain = load(root).train
    (root / FILE).write_text((root / FILE).read_text(), encoding=encoding)
    assert load(root).train.fingerprint() == plain.fingerprint()


def as_text(content) -> None:
    for one in content["images"]:
        one["id"] = str(one["id"])
    for category in content["categories"]:
        category["id"] = str(category["id"])


def as_floats(content) -> None:
    for one in content["annotations"]:
        one["image_id"], one["category_id"] = float(one["image_id"]), float(one["category_id"])


def as_sizes(width, height):
    def changed(content) -> None:
        for one in content["images"]:
            one.update(width=width, height=height)

    return changed


@pytest.mark.parametrize(
    "what",
    [
        as_text,
        as_floats,
        as_sizes("8", "6"),
        as_sizes(8.0, 6.0),
        as_sizes(0, 0),
        as_sizes(None, None),
        as_sizes(8, None),
        annotation(iscrowd=1),
        annotation(iscrowd="yes"),
        annotation(id=101),
        annotation(id=None),
        annotation(id=...),
        annotation(segmentation={"no": "segmentation"}),  # nobody asked for masks
        lambda c: c["images"].append(c["images"][0]),
        lambda c: c["categories"].append(c["categories"][0]),
    ],
)
def test_what_is_read_all_the_same(root: Path, what) -> None:
    plain = load(root).train
    change(root, what)
    found = load(root).train
    assert found.fingerprint() == plain.fingerprint()
    assert found.class_names == ("cat", "dog")


def test_what_is_read_once_is_said(root: Path) -> None:
    change(root, lambda c: c["images"].append(c["images"][0]))
    change(root, annotation(id=101))
    assert load(root).notes == (
        f"1 image of {FILE} listed twice, read once",
        f"1 annotation of {FILE} with the id of another, all read",
    )


def test_ids_in_text_are_sorted_as_numbers(root: Path) -> None:
    names = {"10": "ten", "9": "nine", "x": "letter"}
    for file in (FILE, "test/a.coco.json"):
        content = json.loads((root / file).read_text())
        content["categories"] = [{"id": k, "name": name} for k, name in names.items()]
        for one in content["annotations"]:
            one["category_id"] = {3: 9, 7: "10"}[one["category_id"]]
        (root / file).write_text(json.dumps(content))
    splits = load(root)
    assert splits.train.class_names == ("nine", "ten", "letter")
    assert splits.train.labels.tolist() == [[0, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_classes_may_be_called_by_numbers(root: Path) -> None:
    for file in (FILE, "test/a.coco.json"):
        text = (root / file).read_text().replace('"name": "cat"', '"name": 0')
        (root / file).write_text(text)
    assert load(root).train.class_names == ("0", "dog")


def test_a_file_without_categories_is_no_folder_of_classes(tmp_path: Path) -> None:
    """It is not another layout that is read then, without a word."""
    image_folder(tmp_path, {"cat/1.png": 1, "cat/2.png": 2, "dog/3.png": 3, "dog/4.png": 4})
    write(tmp_path / "notes.json", b'{"images": [1], "annotations": ["a cat"]}')  # captions
    assert load(tmp_path).train.class_names == ("cat", "dog")
    write(tmp_path / "boxes.json", b'{"annotations": [{"category_id": 1}], "info": {}}')
    assert "boxes.json is not COCO JSON: it lacks 'categories'" in refusal(tmp_path)


@pytest.mark.parametrize(
    "written",
    [
        "./{}",
        ".\\{}",
        "train/{}",
        "train\\{}",
        "./train/{}",
        "x/../{}",
        "{root}/train/{}",
        "{name}/train/{}",
        "{name}\\train\\{}",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_paths(root: Path, tmp_path_factory, written: str, packed: bool) -> None:
    def changed(content) -> None:
        for one in content["images"]:
            one["file_name"] = written.format(one["file_name"], root=root, name=root.name)

    change(root, changed)
    place = root
    if packed:
        if "{root}" in written:
            pytest.skip("a path within an archive is absolute nowhere")
        place = tmp_path_factory.mktemp("packed") / "all.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for file in root.rglob("*.*"):
                archive.write(file, f"{root.name}/{file.relative_to(root)}")
    assert load(place).train.names == tuple(f"train/{n}.png" for n in IMAGES)
