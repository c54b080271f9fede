"""The paper's data sets by name, and a part of the classes."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from data.making import coco_json, image_folder, parquet, stored, text
from data.refusing import load, refusal

from loss_attention.data.loading import KNOWN


def test_the_counts_of_the_paper() -> None:
    counts = {name: (known.train, known.test, known.classes) for name, known in KNOWN.items()}
    assert counts == {
        "cifar10": (50_000, 10_000, 10),
        "cifar100": (50_000, 10_000, 100),
        "svhn": (73_257, 26_032, 10),
        "tiny-imagenet": (100_000, 10_000, 200),
        "coco2014": (82_081, 40_137, 80),
        "coco2017": (117_266, 4_952, 80),
        "imagenet32": (1_281_167, 50_000, 1000),
        "imagenet": (1_281_167, 50_000, 1000),
    }
    for name, known in KNOWN.items():
        assert f"--data {name}:" in known.get


def test_local_parquet_by_name(tmp_path: Path) -> None:
    types = {"img": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1"])}
    for split, count in (("train", 4), ("test", 2), ("extra", 6)):
        columns = {"img": stored(*range(count)), "label": [0, 1] * (count // 2)}
        parquet(tmp_path / "cropped_digits" / f"{split}-00000-of-00001.parquet", columns, types)
    splits = load(f"svhn:{tmp_path}")
    assert (len(splits.train), len(splits.test)) == (4, 2)  # extra is none of the paper's
    assert splits.notes == (
        "4 training images found where the whole set has 73,257",
        "2 test images found where the whole set has 26,032",
        "2 classes found where the whole set has 10",
    )
    assert all(note in splits.source for note in splits.notes)
    assert refusal("svhn:./nowhere") == "svhn in ./nowhere does not exist"


def test_a_whole_set_has_nothing_to_note(shared_data: Path) -> None:
    if not (shared_data / "cifar10" / "test.parquet").is_file():
        pytest.skip("needs ../shared/data/cifar10 beside the repository")
    from loss_attention.data.loading import open_source

    source = open_source(f"cifar10:{shared_data / 'cifar10'}")
    assert KNOWN["cifar10"].differences(source) == ()


def test_an_image_folder_by_name(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"{s}/{c}/1.png": 1 for s in ("train", "val") for c in "ab"})
    splits = load(f"imagenet:{tmp_path}")
    assert splits.source.startswith(f"imagenet in {tmp_path}: 2 training and 2 test images")


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    files = {f"{s}/{c}/{i}.png": 9 for s in ("train", "test") for c in "abcdef" for i in range(2)}
    return image_folder(tmp_path, files)


def test_classes_by_name(letters: Path) -> None:
    splits = load(letters, classes=("e", "b"))
    assert splits.train.class_names == ("b", "e")  # in their order, not that of asking
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    assert splits.test.names == ("test/b/0.png", "test/b/1.png", "test/e/0.png", "test/e/1.png")
    assert "2 classes of 6" in splits.source


def test_classes_drawn_by_the_seed(letters: Path) -> None:
    drawn = {seed: load(letters, classes=("3",), seed=seed).train.class_names for seed in range(9)}
    assert drawn[4] == load(letters, classes=("3",), seed=4).train.class_names
    assert {len(set(names)) for names in drawn.values()} == {3}
    assert len(set(drawn.values())) > 3
    assert set().union(*drawn.values()) == set("abcdef")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("7",), "--classes 7: at least 2 and at most the 6 there are"),
        (("1",), "--classes 1: at least 2"),
        (("a",), "--classes: a classifier needs at least two"),
        (("a", "x"), "unknown class 'x'; known: a, b"),
    ],
)
def test_classes_that_cannot_be(letters: Path, classes: tuple[str, ...], said: str) -> None:
    assert said in refusal(letters, classes=classes)


def test_classes_of_several_labels_take_their_boxes_along(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"{i}.png": i for i in range(3)}, (8, 6))
    lines = ["0.png,a,0 0 1 1", "0.png,b,0 0 2 2", "1.png,c,0 0 3 3", "2.png,c,0 0 4 4"]
    lines += ["2.png,b,0 0 5 5"]
    text(tmp_path / "train.csv", "image,label,box", *lines)
    text(tmp_path / "test.csv", "image,label,box", *lines)
    splits = load(tmp_path, classes=("a", "b"))
    assert splits.train.names == ("0.png", "2.png")
    assert splits.train.labels.tolist() == [[1, 1], [0, 1]]
    assert splits.train.boxes[1, 0].tolist() == [0, 0, 5, 5]
    assert splits.train.box_labels.tolist() == [[0, 1], [1, -1]]


def test_classes_that_are_declared(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"{i}.png": i for i in range(4)}, (8, 6))
    images = {i: (f"{i}.png", 8, 6) for i in range(4)}
    coco_json(tmp_path / "x.json", images, [(i, 3 + 4 * (i % 2), [0, 0, 1, 1]) for i in range(4)])
    splits = load(tmp_path, classes=("dog", "cat"))
    assert splits.train.class_names == ("cat", "dog")


def test_made_data_has_no_choice() -> None:
    assert "--classes and --masks do not apply" in refusal("digits", classes=("3",))


def test_a_known_set_without_its_test_split(tmp_path: Path) -> None:
    types = {"img": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1"])}
    parquet(tmp_path / "train.parquet", {"img": stored(1, 2, 3), "label": [0, 1, 0]}, types)
    said = refusal(f"cifar10:{tmp_path}")
    assert said.startswith(f"cifar10 in {tmp_path} lacks the split to report on: 10,000 labelled")
    assert said.endswith(
        "https://huggingface.co/datasets/uoft-cs/cifar10 into one folder and give "
        "that: --data cifar10:FOLDER"
    )


@pytest.mark.parametrize("name", ["cifar100", "svhn", "imagenet32", "imagenet"])
def test_where_to_get_what_cannot_be_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = refusal(name)
    assert said.startswith(f"cannot load {KNOWN[name].hub!r} from the Hugging Face hub: no network")
    assert said.endswith(f"; {KNOWN[name].get}")


@pytest.mark.parametrize(
    ("name", "asked", "size"),
    [("imagenet32", None, 32), ("imagenet32", 40, 40), ("imagenet", 24, 24), ("imagenet", None, 0)],
)
def test_the_size_of_a_known_set(tmp_path: Path, name: str, asked: int | None, size: int) -> None:
    for i, shape in enumerate([(50, 30), (30, 50)]):
        files = {f"{s}/{c}/{i}.png": 1 for s in ("train", "val") for c in "ab"}
        image_folder(tmp_path, files, shape)
    if size:
        assert load(f"{name}:{tmp_path}", image_size=asked).train.size == (size, size)
    else:
        assert "`image_size` N resizes them all" in refusal(f"{name}:{tmp_path}")
