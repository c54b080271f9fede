"""What `test_export.py` has done in a process of its own.

There the package is as its users run it: what checks annotations in the tests cannot be traced.
"""

from __future__ import annotations

import gc
import io
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from heads.used import used_model
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from loss_attention.backbones.paper import convolution
from loss_attention.explanation import explain_prediction
from loss_attention.exporting.network import ExportedNetwork, sizes_for, traced
from loss_attention.heads import HEADS
from loss_attention.losses import loss_for
from loss_attention.model import PatchClassifier
from loss_attention.prediction import PatchPrediction, WeightedPrediction

ONE_SIZE = ["capsule-dynamic-routing"]
CENTRED = ["loss-attention", "capsule-loss-attention"]
"""Traced with centred logits, as our own recipes have them; the others without."""


class Explained(nn.Module):
    """Several models: what each says of the same images, and its heat maps and boxes."""

    def __init__(self, models: Sequence[PatchClassifier]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> list[Any]:
        predictions = [model(images) for model in self.models]
        weighted = [each for each in predictions if isinstance(each, WeightedPrediction)]
        explanations = [explain_prediction(each) for each in weighted]
        return [*predictions, *((each.heat_maps, each.boxes) for each in explanations)]


def tiny(head: str, **options: object) -> PatchClassifier:
    """A model that is traced in no time: its backbone is one layer."""
    size = {"image_size": (9, 12), "patch_kernel": 3, "patch_stride": 2, "threshold": 0.3}
    model = used_model(head=head, **size, **options)
    model.backbone.layers = nn.Sequential(*convolution(3, model.backbone.channels, 3)).eval()
    return model


def explained(heads: Sequence[str]) -> Explained:
    return Explained([tiny(head, centre=True if head in CENTRED else None) for head in heads])


def pictures(head: str) -> tuple[Tensor, Tensor]:
    """Images to trace with, and others of whatever size and number the head takes too."""
    if head in ONE_SIZE:
        return torch.rand(3, 3, 9, 12), torch.rand(5, 3, 9, 12)
    return torch.rand(3, 3, 9, 12), torch.rand(5, 3, 17, 14)


def export_heads(heads: Sequence[str], strict: bool) -> None:
    """Nothing was explained before, so that nothing can have been kept for it."""
    axes = [0] if heads[0] in ONE_SIZE else [0, 2, 3]
    _export(explained(heads), *pictures(heads[0]), axes, strict)


def export_backbone(backbone: str) -> None:
    images, others = torch.rand(2, 3, 24, 28), torch.rand(3, 3, 33, 41)
    _export(used_model(backbone=backbone), images, others, [0, 2, 3], strict=True)


def export_other_libraries() -> None:
    """A CNN of timm with the maps of several levels, whose cells are joined."""
    options = {"patch_kernel": 1, "patch_stride": 1, "levels": (8, 16), "feature_stride": 16}
    model = used_model(backbone="timm/resnet18", **options)
    images, others = torch.rand(2, 3, 64, 96), torch.rand(3, 3, 96, 128)
    _export(model, images, others, [0, 2, 3], strict=False)


def _export(
    models: nn.Module, images: Tensor, others: Tensor, axes: Sequence[int], strict: bool
) -> None:
    sizes = dict.fromkeys(axes, Dim.AUTO)
    program = torch.export.export(models, (images,), dynamic_shapes=(sizes,), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    same(torch.export.load(file).module()(others), models(others))


def export_without_writing_over() -> None:
    """Which takes torch longer to convert; the model itself keeps to it, as that saves memory."""
    model = tiny("loss-attention")
    assert any(getattr(layer, "inplace", False) for layer in model.modules())
    network = ExportedNetwork(model)
    program = traced(network, sizes_for(model, None, "fixed"), "uint8")
    called = {str(node.target) for node in program.graph.nodes}
    assert "aten.relu.default" in called
    assert "aten.relu_.default" not in called
    assert any(getattr(layer, "inplace", False) for layer in model.modules())


def compile_whole(heads: Sequence[str]) -> None:
    models = explained(heads)
    whole = torch.compile(models, fullgraph=True, backend="eager")
    for images in pictures(heads[0]):
        same(whole(images), models(images))


def train_with_ddp(heads: Sequence[str], store: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=0, world_size=1)
    for head in heads:
        model = tiny(head).train()
        network = nn.parallel.DistributedDataParallel(model)
        prediction = network(pictures(head)[0])
        assert type(prediction) is type(model(pictures(head)[0]))
        gamma = 0.1 if isinstance(prediction, PatchPrediction) else 0.0
        labels = torch.arange(prediction.logits.shape[0])
        loss_for(HEADS[head].objective, multi_label=False)(prediction, labels, gamma).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    del network  # see `leave_together`
    gc.collect()
    torch.distributed.destroy_process_group()


def same(found: Any, expected: Any) -> None:
    """All parts of two predictions agree, and what kind they are."""
    parts, spec = pytree.tree_flatten(found)
    others, other_spec = pytree.tree_flatten(expected)
    assert spec == other_spec
    for part, other in zip(parts, others, strict=True):
        if isinstance(part, Tensor):
            torch.testing.assert_close(part, other, rtol=1e-4, atol=1e-5, equal_nan=True)
        else:
            assert part == other


def serve(connection: Connection) -> None:
    """Do what is asked for, and say what went wrong."""
    torch.set_num_threads(1)
    for function, arguments in iter(connection.recv, None):
        torch.manual_seed(0)
        try:
            function(*arguments)
            connection.send("")
        except Exception:
            connection.send(traceback.format_exc())
