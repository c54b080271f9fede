"""Classifiers of bags as files: what is read is what was written, or refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loss_attention.bags.kind import is_bag_model
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.pooling import POOLINGS
from loss_attention.bags.saved import as_bytes, load_bag_model
from loss_attention.errors import InputError
from loss_attention.model import create_model, load
from loss_attention.saving import METADATA_KEY


def written(path: Path, pooling: str = "gated-attention") -> BagClassifier:
    torch.manual_seed(1)
    model = BagClassifier(3, 2, pooling=pooling, hidden=(5, 4), class_names=("no", "yes"))
    model.set_normalisation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0]))
    path.write_bytes(as_bytes(model))
    return model.eval()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_model_comes_back(pooling: str, tmp_path: Path) -> None:
    model = written(tmp_path / "model.safetensors", pooling)
    again = load_bag_model(tmp_path)
    assert again.settings == model.settings
    bags = torch.randn(2, 6, 3)
    torch.testing.assert_close(again(bags).evidence, model(bags).evidence, rtol=0, atol=0)
    assert is_bag_model(tmp_path)
    assert is_bag_model(tmp_path / "model.safetensors")


def test_one_of_images_is_told_apart(tmp_path: Path) -> None:
    image = tmp_path / "image.safetensors"
    image.write_bytes(create_model("vgg11_bn", num_classes=2, width=0.1).to_bytes())
    assert not is_bag_model(image)
    with pytest.raises(InputError, match="holds a classifier of images, not of bags"):
        load_bag_model(image)
    bags = tmp_path / "bags.safetensors"
    written(bags)
    with pytest.raises(ValueError, match="holds a classifier of 'bags', not of images"):
        load(bags)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pooling": "median"}, "unknown pooling 'median'"),
        ({"in_features": 7}, "mean has the shape"),
        ({"in_features": "3"}, "in_features is '3'"),
        ({"hidden": [5, 4.5]}, r"hidden is \[5, 4.5\]"),
        ({"class_names": ["yes"]}, "another number of classes"),
        ({"heads": 2}, "heads"),
    ],
)
def test_what_a_file_claims_is_checked(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    model = written(path)
    config = {"kind": "bags", **model.settings, **change}
    description = json.dumps({"format_version": 1, "config": config})
    save_file(load_file(path), path, {METADATA_KEY: description})
    with pytest.raises(InputError, match=said):
        load_bag_model(path)
    with pytest.raises(InputError, match="there is no such file"):
        load_bag_model(tmp_path / "other.safetensors")
