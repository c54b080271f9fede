"""Explaining files by a named method: what is written, for models with and without patches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import loss_attention as la
from loss_attention.attribution.maps import attribute
from loss_attention.data.decoding import read_image, to_tensor
from loss_attention.errors import InputError
from loss_attention.explained.files import explain_files

CLASSES = ("cat", "dog", "ewe")


def make_model(head: str, backbone: str = "resnet18") -> la.PatchClassifier:
    torch.manual_seed(0)
    return la.create_model(
        backbone,
        head=head,
        num_classes=3,
        width=0.05,
        patch_kernel=5,
        image_size=(24, 24),
        class_names=CLASSES,
    ).eval()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("head", "method"),
    [("baseline", "grad-cam"), ("baseline", "cam"), ("mean", "layer-cam"), ("mean", "evidence")],
)
def test_what_is_written(head: str, method: str, photo: Path, tmp_path: Path) -> None:
    model = make_model(head)
    summary = explain_files(model, [photo], tmp_path / "out", method=method, target="dog")
    found = json.loads(summary.written[0].read_text(encoding="utf-8"))
    seen = to_tensor(read_image(photo, 3), (24, 24))[None]
    np.testing.assert_allclose(
        found["heat_map"]["values"], attribute(model, seen, method, 1)[0], rtol=1e-4, atol=1e-9
    )
    with torch.no_grad():
        logits = model(seen).logits[0]
    np.testing.assert_allclose(found["logits"], logits, atol=1e-6)
    np.testing.assert_allclose(found["probabilities"], logits.softmax(0), atol=1e-6)
    assert found["method"] == method
    assert (found["width"], found["height"], found["target"]) == (30, 20, "dog")
    assert found["prediction"] == CLASSES[int(logits.argmax())]
    assert found["heat_map"]["unit"].startswith("logit units")
    assert "evidence" not in found
    with Image.open(tmp_path / "out" / "photo.png") as picture:
        assert picture.width >= 384


def test_refusals_come_before_anything_is_written(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for model, method, message in (
        (make_model("baseline"), None, "`method` cam or `method` grad-cam"),
        (make_model("baseline"), "evidence", "has no exact evidence to show"),
        (make_model("baseline", "vgg11_bn"), "cam", "no class activation map for vgg11_bn"),
        (make_model("mean"), "cams", "unknown method 'cams'; did you mean 'cam'"),
    ):
        with pytest.raises(InputError, match=message):
            explain_files(model, [photo], out, method=method)
        assert not out.exists()
