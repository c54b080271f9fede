"""What runs on a GPU, without one: operators that mix CPU and CUDA tensors fail here too.

Under a CUDA build of torch, `FakeTensorMode` makes tensors that have a device and a shape and no
values; each operator checks them as it would on a GPU. `make test-devices` makes an environment
with such a build. What asks a tensor for its values (`nonzero`, `tolist`) cannot run so, and the
backward pass neither, whose engine wants the device itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from heads.used import NARROW, WEIGHTED_HEADS
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import loss_attention as la
from loss_attention.data.sample import ImageSet
from loss_attention.evaluation.measuring import name_images, run_batches
from loss_attention.explanation import explain_prediction
from loss_attention.geometry import enclosing_boxes, paint_patches
from loss_attention.heads import HEADS
from loss_attention.losses import loss_for
from loss_attention.metrics import localisation as metrics
from loss_attention.metrics.faithfulness import correlation
from loss_attention.model import PatchClassifier
from loss_attention.training.augmentation import crop_and_flip, draw_shifts, erase_squares

pytestmark = pytest.mark.skipif(
    torch.version.cuda is None, reason="needs a CUDA build of torch: make test-devices"
)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # What has no values cannot be pinned; it goes from one device to the other all the same.
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    # Tensors that were made before are what they are: on the CPU.
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def on_cuda(value: object) -> None:
    """All tensors in a result are there."""
    leaves = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    assert leaves
    assert {leaf.device.type for leaf in leaves} == {"cuda"}


def model_of(head: str) -> PatchClassifier:
    with torch.device("cuda"):
        return la.create_model(head=head, width=NARROW, num_classes=5, image_size=(20, 24))


def images() -> Tensor:
    return torch.randint(0, 256, (4, 3, 20, 24), dtype=torch.uint8, device="cuda")


def test_tensors_of_two_devices_are_told_apart() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device="cuda") + torch.ones(3)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_forward_and_loss(head: str, multi_label: bool) -> None:
    model = model_of(head).train()
    prediction = model(images())
    on_cuda(prediction)
    labels = torch.ones(4, 5, device="cuda") if multi_label else torch.arange(4, device="cuda")
    gamma = 0.1 if HEADS[head].has_evidence else 0.0
    loss = loss_for(HEADS[head].objective, multi_label=multi_label)(prediction, labels, gamma)
    on_cuda(loss)


@pytest.mark.parametrize("head", WEIGHTED_HEADS)
def test_explaining(head: str) -> None:
    model = model_of(head).eval()
    prediction = model(images())
    on_cuda([prediction.selected, prediction.patch_scores, prediction.real_weights])
    found = explain_prediction(prediction)
    on_cuda([value for value in vars(found).values() if isinstance(value, Tensor)])


@pytest.mark.parametrize("head", HEADS)
def test_classes_are_named(head: str) -> None:
    labels = torch.tensor([0, 1, 2, 3])
    data = ImageSet(images(), labels, tuple("01234"))
    named = run_batches(
        model_of(head),
        data,
        lambda batch, prediction: name_images(prediction.logits, batch.labels, competing=True),
        batch_size=4,
        autocast=nullcontext,
    )
    on_cuda([list(each) for each in named])


def test_metrics_of_localisation() -> None:
    prediction = model_of("loss-attention")(images())
    windows = prediction.grid.windows(torch.device("cuda"))
    labels = torch.arange(4, device="cuda")
    boxes = torch.ones(4, 2, 4, device="cuda")
    relevant = metrics.relevant_boxes(labels.unsqueeze(1).expand(4, 2), labels)
    maps = metrics.scaled_maps(paint_patches(prediction.evidence_of(labels), prediction.grid))
    pixels = metrics.pixels_in_boxes(boxes[:, :1], 20, 24)
    on_cuda(
        [
            metrics.right_patches(prediction.patch_scores, labels),
            metrics.patches_in_boxes(windows, boxes, relevant),
            metrics.edges_in_windows(images(), prediction.grid),
            metrics.energy_pointing(maps, pixels),
            enclosing_boxes(prediction.selected, windows),
            correlation(maps.flatten(1), maps.flatten(1)),
        ]
    )


def test_augmentation() -> None:
    shifts = draw_shifts(4, 2, True, torch.Generator())
    on_cuda(crop_and_flip(images(), shifts, padding=2))
    on_cuda(erase_squares(images(), torch.rand(4, 2), side=3))
