"""Image folders and parquet files, in every layout that is promised."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import datasets
import pytest
from data.making import image_folder, parquet, png, stored, write

from loss_attention.data.loading import load_splits
from loss_attention.data.sample import ImageSet, Splits
from loss_attention.errors import InputError

TYPES = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}


def load(path: Path | str, image_size: int | None = None, seed: int = 0) -> Splits:
    return load_splits(str(path), in_channels=1, image_size=image_size, seed=seed)


def refusal(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(images: ImageSet) -> dict[str, tuple[int, str]]:
    """Return the level and the class of every image, by its name."""
    rows = zip(images.names, images.images[:, 0, 0, 0].tolist(), images.labels, strict=True)
    return {name: (level, images.class_names[label]) for name, level, label in rows}


CLASSES = {"cat/1.png": 10, "cat/2.png": 11, "dog/1.png": 20, "dog/deep/er/2.png": 21}


def with_prefix(prefix: str, files: dict[str, int]) -> dict[str, int]:
    return {f"{prefix}/{name}": value for name, value in files.items()}


def test_train_and_test_folders(tmp_path: Path) -> None:
    image_folder(tmp_path, with_prefix("train", CLASSES))
    image_folder(tmp_path, {"test/dog/x.png": 30, "val/cat/y.png": 40})
    write(tmp_path / "train" / ".DS_Store", b"")
    write(tmp_path / "train" / "dog" / "._1.png", b"")
    splits = load(tmp_path)
    assert splits.train.class_names == ("cat", "dog")
    assert contents(splits.train) == {
        "train/cat/1.png": (10, "cat"),
        "train/cat/2.png": (11, "cat"),
        "train/dog/1.png": (20, "dog"),
        "train/dog/deep/er/2.png": (21, "dog"),
    }
    assert contents(splits.test) == {"test/dog/x.png": (30, "dog")}
    assert splits.source == f"data folder {tmp_path}: 4 training and 1 test images"


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
@pytest.mark.parametrize("unlabelled_test", [False, True])
def test_validation_folder_stands_in_for_the_test_split(
    tmp_path: Path, name: str, unlabelled_test: bool
) -> None:
    image_folder(tmp_path, {**with_prefix("train", CLASSES), f"{name}/cat/y.png": 40})
    if unlabelled_test:
        image_folder(tmp_path, {"test/1.png": 1, "test/2.png": 2})
    splits = load(tmp_path)
    assert contents(splits.test) == {f"{name}/cat/y.png": (40, "cat")}
    assert "no labelled test split, so split validation is the test set" in splits.source


def test_class_folders_without_splits(tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": i for name in ("a", "b") for i in range(10)}
    image_folder(tmp_path, files)
    splits = load(tmp_path, seed=3)
    both = contents(splits.train) | contents(splits.test)
    assert both == {name: (level, name[0]) for name, level in files.items()}
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    assert splits.source == (
        f"data folder {tmp_path}: 16 training and 4 test images "
        "(no labelled test split, so 20% of train held out by seed 3)"
    )
    assert contents(load(tmp_path, seed=3).test) == contents(splits.test)
    assert contents(load(tmp_path, seed=4).test) != contents(splits.test)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"{name}/{i}.png": i for name in ("car", "train") for i in (1, 2)})
    assert load(tmp_path).train.class_names == ("car", "train")


def test_folders_beside_the_splits_are_no_classes(tmp_path: Path) -> None:
    image_folder(tmp_path, {**with_prefix("train", CLASSES), "test/cat/1.png": 1, "docs/a.png": 9})
    assert load(tmp_path).train.class_names == ("cat", "dog")


def test_names_that_mean_something_to_a_glob(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a [1] *?", with_prefix("[b]", CLASSES))
    image_folder(folder, {"c/1.png": 1})
    assert load(folder).train.class_names == ("[b]", "c")
    columns = {"image": stored(1, 2, 3, 4), "label": [0, 1] * 2}
    parquet(tmp_path / "[p]" / "x[1].parquet", columns, TYPES)
    assert len(load(tmp_path / "[p]").train) == 2
    assert len(load(tmp_path / "[p]" / "x[1].parquet").train) == 2


def test_relative_paths_and_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder(tmp_path / "pets", CLASSES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    expected = contents(load(tmp_path / "pets").train)
    for name in ("pets", "./pets", "pets/", "~/pets", "../" + tmp_path.name + "/pets"):
        assert contents(load(name).train) == expected


def test_changes_are_seen(tmp_path: Path) -> None:
    image_folder(tmp_path, {**with_prefix("train", CLASSES), "test/cat/1.png": 1})
    assert len(load(tmp_path).train) == 4
    image_folder(tmp_path, {"train/dog/new.png": 99})
    image_folder(tmp_path, {"train/dog/1.png": 77})
    again = contents(load(tmp_path).train)
    assert again["train/dog/new.png"] == (99, "dog")
    assert again["train/dog/1.png"] == (77, "dog")


def test_changes_of_a_parquet_file_are_seen(tmp_path: Path) -> None:
    for level in (5, 6):
        parquet(tmp_path / "train.parquet", {"image": stored(level, 2), "label": [0, 1]}, TYPES)
        parquet(tmp_path / "test.parquet", {"image": stored(1), "label": [0]}, TYPES)
        assert load(tmp_path).train.images[0, 0, 0, 0] == level


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.parquet", "test.parquet"),
        ("data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet"),
        ("pets_Training.parquet", "validation/0.parquet"),
        ("pets.parquet", "pets-test.parquet"),
    ],
)
def test_parquet_files_by_name(tmp_path: Path, train: str, test: str) -> None:
    parquet(tmp_path / train, {"image": stored(1, 2), "label": [0, 1]}, TYPES)
    parquet(tmp_path / test, {"image": stored(3), "label": [1]}, TYPES)
    write(tmp_path / "README.md", b"# pets")
    write(tmp_path / "assets" / "cover.png", png())
    splits = load(tmp_path)
    assert contents(splits.train) == {"train[0]": (1, "cat"), "train[1]": (2, "dog")}
    assert list(contents(splits.test).values()) == [(3, "dog")]


def test_parts_of_a_split_are_joined(tmp_path: Path) -> None:
    for i in range(3):
        columns = {"image": stored(i, i + 10), "label": [0, 1]}
        parquet(tmp_path / f"train-{i}.parquet", columns, TYPES)
    parquet(tmp_path / "test.parquet", {"image": stored(3), "label": [1]}, TYPES)
    assert load(tmp_path).train.images[:, 0, 0, 0].tolist() == [0, 10, 1, 11, 2, 12]


def test_a_parquet_file_by_itself(tmp_path: Path) -> None:
    columns = {"image": stored(*range(20)), "label": [0, 1] * 10}
    splits = load(parquet(tmp_path / "pets.parquet", columns, TYPES))
    assert (len(splits.train), len(splits.test)) == (16, 4)
    assert "20% of train held out" in splits.source


def test_parquet_names_its_files(tmp_path: Path) -> None:
    images = [{"bytes": png(i), "path": f"pets/{i}.png"} for i in range(2)]
    parquet(tmp_path / "train.parquet", {"image": images, "label": [0, 1]}, TYPES)
    parquet(tmp_path / "test.parquet", {"image": images, "label": [0, 1]}, TYPES)
    assert load(tmp_path).train.names == ("pets/0.png", "pets/1.png")


def test_parquet_that_points_at_files_beside_it(tmp_path: Path) -> None:
    image_folder(tmp_path, {"pets/0.png": 5, "pets/1.png": 6})
    columns = {"image": ["pets/0.png", "pets/1.png"], "label": ["a", "b"]}
    for split in ("train", "test"):
        parquet(tmp_path / f"{split}.parquet", columns)
    assert contents(load(tmp_path).train) == {"pets/0.png": (5, "a"), "pets/1.png": (6, "b")}


def test_metadata_beside_the_images(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"train/{i}.png": i for i in range(4)})
    image_folder(tmp_path, {"test/0.png": 9})
    lines = "\n".join(
        f'{{"file_name": "{i}.png", "labels": {labels}}}'
        for i, labels in enumerate(['["x"]', '["x", "y"]', "[]", '["y"]'])
    )
    write(tmp_path / "train" / "metadata.jsonl", lines.encode())
    write(tmp_path / "test" / "metadata.jsonl", b'{"file_name": "0.png", "labels": ["y"]}')
    splits = load(tmp_path)
    assert splits.train.class_names == ("x", "y")
    assert splits.train.labels.tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]
    assert splits.train.names == ("train/0.png", "train/1.png", "train/2.png", "train/3.png")
    assert splits.test.labels.tolist() == [[0, 1]]


def test_what_datasets_saved(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict(
        {"image": stored(*range(10)), "label": [0, 1] * 5}, features=datasets.Features(TYPES)
    )
    datasets.disable_progress_bars()
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "two")
    datasets.enable_progress_bars()
    assert len(load(tmp_path / "one").train) == 8
    assert len(load(tmp_path / "two").train) == 10


@pytest.mark.parametrize("layout", ["folders", "parquet", "metadata", "saved"])
def test_nothing_is_written_into_the_folder(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "data"
    if layout == "folders":
        image_folder(folder, CLASSES)
    elif layout == "parquet":
        parquet(folder / "x.parquet", {"image": stored(*range(4)), "label": [0, 1] * 2}, TYPES)
    elif layout == "metadata":
        image_folder(folder, {f"{i}.png": i for i in range(4)})
        lines = [f'{{"file_name": "{i}.png", "label": {i % 2}}}' for i in range(4)]
        write(folder / "metadata.jsonl", "\n".join(lines).encode())
    else:
        table = datasets.Dataset.from_dict(
            {"image": stored(*range(4)), "label": [0, 1] * 2}, features=datasets.Features(TYPES)
        )
        datasets.disable_progress_bars()
        table.save_to_disk(folder)
        datasets.enable_progress_bars()

    def snapshot() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}

    before = snapshot()
    assert len(load(folder).train) == 2
    assert snapshot() == before


def test_unreadable_files_are_all_named(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"train/{name}/{i}.png": i for name in "ab" for i in range(8)})
    image_folder(tmp_path, {"test/a/1.png": 1})
    for i in range(6):
        write(tmp_path / "train" / "a" / f"{i}.png", b"junk")
        write(tmp_path / "test" / "a" / f"bad{i}.jpg", b"")
    message = refusal(tmp_path)
    assert message.startswith("12 images cannot be read: train/a/0.png (of no known image format)")
    assert "test/a/bad3.jpg (empty)" in message
    assert message.endswith(" and 2 more")


def test_unequal_sizes(tmp_path: Path) -> None:
    image_folder(tmp_path, with_prefix("train", CLASSES))
    image_folder(tmp_path, {"test/cat/1.png": 1}, size=(6, 5))
    message = refusal(tmp_path)
    assert "train/cat/1.png is 4 x 4, test/cat/1.png is 6 x 5" in message
    assert "`image_size` N resizes them all" in message
    splits = load(tmp_path, image_size=7)
    assert splits.train.size == splits.test.size == (7, 7)


def test_nothing_there(tmp_path: Path) -> None:
    for missing in (tmp_path / "nope", "./nope", "../nope", "~/nope-nope", "a/b/c", "x.parquet"):
        message = refusal(missing)
        assert message.startswith("data folder ")
        assert message.endswith(" does not exist")


def test_no_images(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"data folder {tmp_path} holds no images to train on"
    (tmp_path / "train" / "cat").mkdir(parents=True)
    assert refusal(tmp_path) == f"data folder {tmp_path} holds no images to train on"
    write(tmp_path / "train" / "cat" / "notes.txt", b"")
    assert "train/cat holds files but no images of a known suffix (.avif, " in refusal(tmp_path)
    assert "is not a parquet file" in refusal(tmp_path / "train" / "cat" / "notes.txt")


def test_an_empty_class_folder_is_no_class(tmp_path: Path) -> None:
    image_folder(tmp_path, CLASSES)
    (tmp_path / "bird").mkdir()
    assert load(tmp_path).train.class_names == ("cat", "dog")


def test_one_class(tmp_path: Path) -> None:
    image_folder(tmp_path, {"train/cat/1.png": 1, "train/cat/2.png": 2, "test/cat/1.png": 1})
    assert "has one class only, 'cat': a classifier needs at least two" in refusal(tmp_path)


def test_one_image_a_class(tmp_path: Path) -> None:
    image_folder(tmp_path, {"cat/1.png": 1, "dog/1.png": 2})
    assert "one image a class is too few" in refusal(tmp_path)


def test_images_outside_class_folders(tmp_path: Path) -> None:
    flat = image_folder(tmp_path / "flat", {"1.png": 1, "2.png": 2})
    assert "holds images but no class folders" in refusal(flat)
    split = image_folder(tmp_path / "split", {"train/1.png": 1, "test/2.png": 2})
    assert f"{split}/train holds images but no class folders" in refusal(split)
    mixed = image_folder(tmp_path / "mixed", {**CLASSES, "stray.png": 1})
    assert f"1 image lies outside the class folders of {mixed} (stray.png, say)" in refusal(mixed)
    image_folder(mixed, {"z.png": 1})
    assert f"2 images lie outside the class folders of {mixed} (stray.png, " in refusal(mixed)


def test_split_folders_that_do_not_fit(tmp_path: Path) -> None:
    image_folder(tmp_path, {**with_prefix("train", CLASSES), **with_prefix("val", CLASSES)})
    image_folder(tmp_path, with_prefix("valid", CLASSES))
    assert "val and valid both name the validation split; keep one" in refusal(tmp_path)
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "valid")
    assert "has a folder val but none named train" in refusal(tmp_path)


def test_a_test_class_that_training_lacks(tmp_path: Path) -> None:
    image_folder(tmp_path, {**with_prefix("train", CLASSES), "test/zebra/1.png": 1})
    assert refusal(tmp_path) == (
        f"data folder {tmp_path}: split test shows class 'zebra', which split train lacks: "
        "test/zebra/1.png"
    )


def test_parquet_of_an_unclear_split(tmp_path: Path) -> None:
    for name in ("train", "test", "other"):
        parquet(tmp_path / f"{name}.parquet", {"image": stored(1, 2), "label": [0, 1]}, TYPES)
    assert "the name of other.parquet says no split" in refusal(tmp_path)


def test_variants_of_a_data_set_are_not_mixed(tmp_path: Path) -> None:
    for variant in ("fine", "coarse"):
        columns = {"image": stored(1, 2, 3, 4), "label": [0, 1] * 2}
        parquet(tmp_path / variant / "train.parquet", columns, TYPES)
    assert "split train in several folders (coarse, fine); give one" in refusal(tmp_path)
    assert len(load(tmp_path / "fine").train) == 2


def test_broken_parquet(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", b"PAR1 but no more")
    assert refusal(tmp_path).startswith(f"data folder {tmp_path} cannot be read: ")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs permissions to deny")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    image_folder(tmp_path, CLASSES)
    (tmp_path / "dog").chmod(0)
    try:
        assert "cannot be read: " in refusal(tmp_path)
    finally:
        (tmp_path / "dog").chmod(0o755)
