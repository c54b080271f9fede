"""Data that a model was not trained on: which of it is measured, and what its classes are."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from data.making import coco_json, image_folder, parquet, png, stored, text, write

from loss_attention.data.outside import Outside, Wanted, load_outside
from loss_attention.data.sample import Storage
from loss_attention.data.stacking import Form
from loss_attention.errors import InputError

CLASSES = ("cat", "dog", "elk", "owl")


def load(
    data: Path | str,
    names: Sequence[str] = CLASSES,
    *,
    multi_label: bool = False,
    stream: Any = "no",
    **wanted: Any,
) -> Outside:
    return load_outside(
        str(data),
        Wanted(names, multi_label, **wanted),
        Form(1, 4),
        storage=Storage(stream, workers=0),
    )


def refusal(data: Path | str, names: Sequence[str] = CLASSES, **wanted: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(data, names, **wanted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels(found: Outside) -> dict[int, str]:
    """The class of each image, by the grey level that it is of."""
    images = found.images.decoded()
    levels = images.images[:, 0, 0, 0].tolist()
    names = [images.class_names[k] for k in images.labels.tolist()]
    return dict(zip(levels, names, strict=True))


def folder(root: Path, *files: str) -> Path:
    """Images of the levels 1, 2, 3, ..."""
    return image_folder(root, {file: level for level, file in enumerate(files, start=1)})


@pytest.mark.parametrize(
    ("files", "measured", "split"),
    [
        (("owl/a.png", "cat/a.png", "dog/a.png", "elk/b.png"), ["owl", "cat", "dog", "elk"], ""),
        (("owl/a.png", "owl/b.png", "dog/a.png"), ["owl", "owl", "dog"], ""),
        (("owl/a.png", "owl/b.png"), ["owl", "owl"], ""),
        (("owl/deep/er/a.png", "owl/deep/er/b.png"), ["owl", "owl"], ""),
        (("owl/one/a.png", "owl/two/b.png"), ["owl", "owl"], ""),
        (("around/it/owl/a.png", "around/it/cat/b.png"), ["owl", "cat"], ""),
        (("around/it/owl/a.png",), ["owl"], ""),
        (("test/owl/a.png", "test/cat/a.png"), ["owl", "cat"], "test"),
        (("test/owl/a.png",), ["owl"], "test"),
        (("val/owl/a.png", "val/dog/a.png"), ["owl", "dog"], "validation"),
        (("train/owl/a.png", "train/dog/a.png"), ["owl", "dog"], ""),
        (("train/cat/a.png", "test/owl/a.png", "val/dog/b.png"), [None, "owl", None], "test"),
        (("val/cat/a.png", "test/owl/a.png"), [None, "owl"], "test"),
        (
            ("train/cat/a.png", "train/dog/a.png", "val/dog/b.png"),
            [None, None, "dog"],
            "validation",
        ),
        (("val/owl/a.png", "test/a.png", "test/b.png"), ["owl", None, None], "validation"),
    ],
    ids=lambda files: "+".join(files) if isinstance(files, tuple) else None,
)
@pytest.mark.parametrize("stream", ["no", "yes"])
def test_classes_are_matched_by_name_and_all_is_measured(
    files: Sequence[str], measured: list[str | None], split: str, stream: str, tmp_path: Path
) -> None:
    found = load(folder(tmp_path / "other", *files), stream=stream)
    assert labels(found) == {k: name for k, name in enumerate(measured, start=1) if name}
    assert found.images.class_names == CLASSES
    assert found.split == split
    count = sum(name is not None for name in measured)
    said = next(note for note in found.notes if "measured" in note)
    assert f"{count} image" in said
    assert (f"of split {split} measured" in said) == bool(split)
    assert ("not" in said) == (count < len(files) and "test/b.png" not in files)


def test_one_flat_folder_is_of_the_class_that_it_is_named_after(tmp_path: Path) -> None:
    root = folder(tmp_path / "elk", "a.png", "b.png")
    assert labels(load(root)) == {1: "elk", 2: "elk"}
    assert labels(load(f"{root}/../elk/")) == {1: "elk", 2: "elk"}
    for kind in ("zip", "gztar"):
        archive = shutil.make_archive(str(tmp_path / "packed" / "elk"), kind, root)
        assert labels(load(archive)) == {1: "elk", 2: "elk"}
    (tmp_path / "of").mkdir()
    moved = root.rename(tmp_path / "of" / "moose")
    said = refusal(moved)
    assert "holds images but no class folders" in said
    assert "'moose' is not a class of the model" in said


def test_images_below_an_unknown_folder_are_not_of_the_class_around_it(tmp_path: Path) -> None:
    assert "'wolf' (1 image" in refusal(folder(tmp_path / "cat", "wolf/a.png", "yak/a.png"))


def test_a_split_folder_may_be_what_a_class_is_called(tmp_path: Path) -> None:
    root = folder(tmp_path, "train/a.png", "bus/a.png")
    assert labels(load(root, ("bus", "train"))) == {1: "train", 2: "bus"}
    shutil.rmtree(root / "bus")
    assert labels(load(root, ("bus", "train"))) == {1: "train"}


def test_unknown_classes_are_named_together_with_what_is_near(tmp_path: Path) -> None:
    root = folder(tmp_path, "Cat/a.png", "Cat/b.png", "owl/a.png", "wolf/a.png", "dog /a.png")
    said = refusal(root)
    assert "shows 3 classes that the model does not know: " in said
    assert "'Cat' (2 images, did you mean 'cat'?)" in said
    assert "'dog ' (1 image, did you mean 'dog'?)" in said
    assert "'wolf' (1 image" in said
    assert "`skip_broken`" in said
    assert "`classes`" in said
    left = load(root, skip_unknown=True)
    assert labels(left) == {3: "owl"}
    assert any("4 images of classes that the model does not know left out" in n for n in left.notes)
    chosen = load(root, classes=("owl", "dog"))
    assert labels(chosen) == {3: "owl"}
    assert "4 images of other classes left out" in chosen.notes
    assert "unknown class of the model 'wolf'" in refusal(root, classes=("wolf",))
    assert "no image of a class that is to be measured" in refusal(root, classes=("elk",))


def test_classes_that_are_not_there_are_said(tmp_path: Path) -> None:
    found = load(folder(tmp_path, "owl/a.png", "dog/a.png"))
    assert any("2 classes of the model not in it" in n and "cat, elk" in n for n in found.notes)


def test_numbers_are_names_like_others(tmp_path: Path) -> None:
    numbers = ("0", "1", "2", "10")
    root = folder(tmp_path / "folders", "10/a.png", "2/a.png")
    assert labels(load(root, numbers)) == {1: "10", 2: "2"}
    assert "'02' (1 image, did you mean '2'?)" in refusal(folder(root, "02/a.png"), numbers)
    folder(tmp_path / "listed", "a.png", "b.png")
    table = text(tmp_path / "listed" / "all.csv", "image,label", "a.png,10", "b.png,1")
    assert labels(load(table, numbers)) == {1: "10", 2: "1"}
    columns = {"image": stored(1, 2), "label": [10, 1]}
    assert labels(load(parquet(tmp_path / "all.parquet", columns), numbers)) == {1: "10", 2: "1"}
    assert "'0'" in refusal(parquet(tmp_path / "no.parquet", columns | {"label": [0, 1]}))


def test_one_name_is_one_class_however_its_letters_are_stored(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "kätzchen") for form in ("NFC", "NFD"))
    root = folder(tmp_path, f"{apart}/a.png", "dog/a.png")
    assert labels(load(root, ("dog", composed))) == {1: composed, 2: "dog"}


def test_declared_classes_are_matched_by_name(tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["owl", "yak", "cat"])
    features = {"image": datasets.Image(), "label": names}
    file = parquet(tmp_path / "a" / "x.parquet", {"image": stored(1, 2), "label": [2, 0]}, features)
    assert labels(load(file)) == {1: "cat", 2: "owl"}
    parquet(tmp_path / "b" / "test.parquet", {"image": stored(1), "label": [2]}, features)
    parquet(tmp_path / "b" / "val.parquet", {"image": stored(2), "label": [0]}, features)
    found = load(tmp_path / "b")
    assert (labels(found), found.split) == ({1: "cat"}, "test")
    (tmp_path / "b" / "test.parquet").unlink()
    assert labels(load(tmp_path / "b")) == {2: "owl"}


def test_a_known_set_needs_no_training_split_and_its_counts_are_said(tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["owl", "yak", "cat"])
    features = {"image": datasets.Image(), "label": names}
    parquet(tmp_path / "test.parquet", {"image": stored(1, 2), "label": [2, 0]}, features)
    found = load(f"cifar10:{tmp_path}")
    assert labels(found) == {1: "cat", 2: "owl"}
    assert "2 test images found where the whole set has 10,000" in found.notes
    assert found.source == f"cifar10 in {tmp_path}: 2 images of split test"


def test_tables_say_their_splits(tmp_path: Path) -> None:
    folder(tmp_path, "a.png", "b.png", "c.png")
    rows = ("a.png,dog,test", "b.png,owl,test", "c.png,cat,train")
    table = text(tmp_path / "all.csv", "image,label,split", *rows)
    assert labels(load(table)) == {1: "dog", 2: "owl"}
    text(tmp_path / "all.csv", "image,label,split", *rows[:2])
    assert labels(load(table)) == {1: "dog", 2: "owl"}
    text(tmp_path / "all.csv", "image,label", *(row.rsplit(",", 1)[0] for row in rows))
    assert labels(load(table)) == {1: "dog", 2: "owl", 3: "cat"}


def cats_and_dogs(root: Path, objects: Sequence[tuple[int, int, Sequence[float]]]) -> Path:
    """COCO of categories dog and cat, in that order, with three images."""
    for number in (1, 2, 3):
        write(root / f"{number}.png", png(number))
    images = {number: (f"{number}.png", 4, 4) for number in (1, 2, 3)}
    coco_json(root / "some.json", images, objects)
    return root


def test_boxes_and_several_labels_follow(tmp_path: Path) -> None:
    box = (0, 0, 2, 2)
    root = cats_and_dogs(tmp_path / "coco", [(1, 3, box), (1, 7, box), (2, 7, box)])
    found = load(root, ("ant", "dog", "cat"), multi_label=True).images
    assert found.labels.tolist() == [[0, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert found.box_labels is not None
    assert sorted(found.box_labels[0].tolist()) == [1, 2]
    said = refusal(root, ("ant", "cat", "dog"))
    assert "1.png has 2 labels, and the model was made for one an image" in said
    assert "3.png has 0 labels" in said
    left = load(root, ("ant", "cat", "dog"), skip_broken=True)
    assert labels(left) == {2: "dog"}
    assert any("2 images left out, as asked" in note for note in left.notes)
    assert "'cat' (1 image" in refusal(root, ("ant", "dog"), multi_label=True)
    chosen = load(root, ("ant", "dog"), multi_label=True, classes=("dog",)).images
    assert chosen.labels.tolist() == [[0, 1], [0, 1]]
    assert chosen.boxes is not None
    assert (~chosen.boxes.isnan().any(dim=2)).sum(dim=1).tolist() == [1, 1]


def test_one_label_an_image_is_enough_for_a_model_of_several(tmp_path: Path) -> None:
    found = load(folder(tmp_path, "owl/a.png", "cat/a.png"), multi_label=True).images
    assert found.labels.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    box = (1, 1, 2, 2)
    root = cats_and_dogs(tmp_path / "coco", [(1, 3, box), (2, 7, box), (3, 7, box)])
    assert labels(load(root)) == {1: "cat", 2: "dog", 3: "dog"}


def test_broken_images_are_named_or_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path, "owl/a.png", "cat/a.png")
    write(root / "owl" / "b.png", b"no image")
    assert "owl/b.png" in refusal(root)
    left = load(root, skip_broken=True)
    assert labels(left) == {1: "cat", 2: "owl"} or len(left.images) == 2
    assert any("1 image left out, as asked" in note for note in left.notes)


@pytest.mark.parametrize("empty", ["nothing", "test", "test/owl"])
def test_nothing_to_measure_is_one_line(empty: str, tmp_path: Path) -> None:
    (tmp_path / "other" / empty).mkdir(parents=True)
    assert "holds no images" in refusal(tmp_path / "other")


def test_data_made_here_is_measured_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from loss_attention.data import loading
    from loss_attention.data.digits import digits, multi_digits

    monkeypatch.setitem(loading.MADE, "digits", lambda seed: digits(seed, 2, 40))
    monkeypatch.setitem(loading.MADE, "multi-digits", lambda seed: multi_digits(seed, 2, 10))
    turned = tuple("9876543210")
    whole, found = digits(0, 2, 40).test, load("digits", turned).images
    assert isinstance(found.labels, torch.Tensor)
    assert found.labels.tolist() == [9 - k for k in whole.labels.tolist()]
    assert found.boxes is not None
    assert whole.boxes is not None
    assert torch.allclose(found.boxes, whole.boxes * 4 / 48)
    assert "'9' (" in refusal("digits", turned[1:])
    several = load("multi-digits", turned, multi_label=True).images
    assert torch.equal(several.labels, multi_digits(0, 2, 10).test.labels.flip(1))
