"""What `test_files.py` has written in a process of its own, and what the models said themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones.kinds import model_on
from heads.used import used_baseline, used_model
from torch import nn
from tracing import ONE_SIZE, tiny

import loss_attention as la
from loss_attention.exporting import writing
from loss_attention.exporting.network import ExportedNetwork
from loss_attention.exporting.quantising import quantisation_loss
from loss_attention.exporting.reading import ExportedModel
from loss_attention.exporting.writing import ExportError, export
from loss_attention.model import PatchClassifier
from loss_attention.prediction import PatchPrediction

CLASSES = ("cat", "dog", "ewe", "fox", "gnu")
BATCH = 5
"""Another than those that `export` tries, and than that which is traced."""


def images_for(model: PatchClassifier, *, fixed: bool) -> torch.Tensor:
    """Images of a size that was not traced, where the model takes other sizes."""
    if "/" in model.spec.backbone:
        assert model.image_size is not None
        size = model.image_size if fixed else (96, 128)
    else:
        size = (9, 12) if fixed or model.spec.head in ONE_SIZE else (15, 19)
    shape = (BATCH, model.spec.in_channels, *size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(3))


def write(model: PatchClassifier, path: Path, **options: Any) -> None:
    """Export a model; beside the file goes what it says itself of some images."""
    export(model, path, **options)
    others = "/" in model.spec.backbone
    images = images_for(model, fixed=options.get("sizes", "fixed" if others else "") == "fixed")
    with torch.inference_mode():
        prediction = model(images)
    said = {"images": images, "logits": prediction.logits}
    if model.spec.head != "baseline":
        explained = model.explain(images)
        said |= {"heat_maps": explained.heat_maps, "boxes": explained.boxes}
        said |= {"selected": explained.selected, "windows": explained.grid.windows()}
        said |= {"patch_weights": explained.patch_weights}
        if explained.no_margin is not None:
            said["no_margin"] = explained.no_margin
    if isinstance(prediction, PatchPrediction):
        said["evidence"] = prediction.evidence
    np.savez(path.with_suffix(".npz"), **{name: value.numpy() for name, value in said.items()})


def write_head(folder: Path, head: str, file: str, model: Any, options: Any) -> None:
    write(tiny(head, class_names=CLASSES, **model), folder / file, **options)


def write_on_backbone(path: Path, backbone: str, model: Any, options: Any) -> None:
    """A model on a backbone of another library, and its file."""
    library, kind = backbone.split("/")
    given = {"num_classes": 5, "class_names": CLASSES, "image_size": (64, 64)} | model
    if library == "hf":
        made = model_on(kind, **given)
    else:
        made = la.create_model(backbone, patch_kernel=1, patch_stride=1, **given)
    write(made.eval(), path, **options)


def write_baseline(folder: Path) -> None:
    model = used_baseline()
    model.backbone = _Small(model.backbone)
    write(model, folder / "baseline.onnx", image_size=(9, 12), sizes="fixed")


class _Small(nn.Module):
    """A backbone that is traced in no time, in the place of another."""

    def __init__(self, other: Any) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, other.channels, 3, padding=1)
        self.channels, self.stride, self.normalisation = other.channels, 1, other.normalisation
        self.receptive_field = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.layer(images)
        return maps


def write_in_8_bits(folder: Path) -> None:
    model = tiny("loss-attention")
    images = torch.randint(0, 256, (20, 3, 9, 12), dtype=torch.uint8).numpy()
    export(model, folder / "int8.onnx", calibration=images, sizes="fixed")
    file = ExportedModel(folder / "int8.onnx")
    labels = model(torch.from_numpy(images)).logits.argmax(dim=1).numpy()
    labels[:5] = (labels[:5] + 1) % 5
    loss = quantisation_loss(model, file, images, labels)
    assert loss.accuracy == 15 / 20
    assert loss.quantised_accuracy >= 12 / 20
    assert loss.margin_agreement is not None
    assert 0.7 < loss.margin_agreement < 1


def find_out_a_wrong_file(folder: Path) -> None:
    """A file that computes something else is refused, and nothing of it is left."""
    right = writing.traced

    def wrong(network: ExportedNetwork, *arguments: Any) -> Any:
        with torch.no_grad():
            network.model.head.classifier.bias += 0.01
        return right(network, *arguments)

    writing.traced = wrong
    before = sorted(folder.iterdir())
    try:
        with pytest.raises(ExportError, match=r"logits of . images of 9 x 12 differs .* by 0\.01"):
            export(tiny("mean"), folder / "wrong.pt2", sizes="fixed")
    finally:
        writing.traced = right
    assert sorted(folder.iterdir()) == before


def write_model_and_file(folder: Path) -> None:
    """A model and its file that both read photos."""
    options = {"backbone": "vgg11_bn", "image_size": (24, 20), "patch_kernel": 3, "resize": "pad"}
    model = used_model(**options, class_names=CLASSES)
    with torch.no_grad():  # or one class is certain whatever is shown
        biases = model.head.classifier.bias
        biases -= model(torch.rand(8, 3, 24, 20)).logits.mean(dim=0)
    (folder / "model.safetensors").write_bytes(model.to_bytes())
    export(model, folder / "model.onnx", sizes="fixed")
