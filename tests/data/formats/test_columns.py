"""Which columns are images and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from datasets import ClassLabel, Image, List, Value

from loss_attention.data.formats.cells import class_names, image_column, is_list, label_column
from loss_attention.errors import InputError

PETS = ClassLabel(names=["cat", "dog"])
STORED = {"bytes": Value("binary"), "path": Value("string")}


@pytest.mark.parametrize(
    ("features", "image", "label"),
    [
        ({"image": Image(), "label": PETS}, "image", "label"),
        # The type decides, whatever the name.
        (
            {"scan": Image(decode=False), "finding": PETS, "text": Value("string")},
            "scan",
            "finding",
        ),
        ({"scan": Image(), "label": Value("int64"), "finding": List(PETS)}, "scan", "finding"),
        # Several of a type: the plain name, then a usual one.
        ({"image": Image(), "mask": Image(), "label": PETS, "class": PETS}, "image", "label"),
        ({"img": Image(), "depth": Image(), "label": PETS}, "img", "label"),
        ({"img": Image(), "fine_label": PETS, "coarse_label": PETS}, "img", "fine_label"),
        # No types: usual names of columns that may hold such things.
        ({"Image": STORED, "Label": Value("string")}, "Image", "Label"),
        ({"img": Value("binary"), "class": Value("int32"), "id": Value("int64")}, "img", "class"),
        ({"picture": Value("string"), "labels": List(Value("string"))}, "picture", "labels"),
        ({"image": Value("binary"), "y": Value("bool")}, "image", "y"),
        # Whole numbers, where pandas lacks some.
        ({"image": Value("binary"), "y": Value("float64")}, "image", "y"),
    ],
)
def test_found(features: Mapping[str, Any], image: str, label: str) -> None:
    assert image_column(features, "pets") == image
    assert label_column(features, "pets") == label


def test_several_images() -> None:
    with pytest.raises(InputError) as caught:
        image_column({"left": Image(), "right": Image(), "label": PETS}, "pets")
    assert str(caught.value) == (
        "pets has several image columns, left, right: name the right one 'image' or leave the "
        "others out"
    )


def test_several_labels() -> None:
    with pytest.raises(InputError, match="several label columns, class, category: "):
        label_column({"image": Image(), "class": PETS, "category": PETS}, "pets")
    with pytest.raises(InputError, match="several label columns, breed, species: "):
        label_column({"image": Image(), "breed": PETS, "species": List(PETS)}, "pets")
    with pytest.raises(InputError, match="several label columns, target, y: "):
        label_column({"target": Value("int64"), "y": Value("int64")}, "pets")


def test_none() -> None:
    columns = {"a": Value("string"), "label": Value("binary"), "b": List(Value("int8"))}
    with pytest.raises(InputError) as caught:
        image_column(columns, "pets")
    assert str(caught.value) == (
        "pets has no image column among a (string), label (binary), b (List)"
    )
    with pytest.raises(InputError, match=r"^pets has no label column among a \(string\), "):
        label_column(columns, "pets")
    with pytest.raises(InputError, match=r"no image column among image \(int64\)"):
        image_column({"image": Value("int64")}, "pets")


def test_declared_classes() -> None:
    assert class_names(PETS) == class_names(List(PETS)) == ("cat", "dog")
    assert class_names(Value("int64")) is None
    assert class_names(List(Value("int64"))) is None
    assert is_list(List(PETS))
    assert not is_list(PETS)
