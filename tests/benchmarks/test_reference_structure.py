"""The yardstick of the benchmarks computes what our networks compute, from the same weights."""

from __future__ import annotations

import pytest
import torch
from reference_structure import (
    REFERENCES,
    CapsuleReference,
    augmented,
    copied,
    reference_loss,
    unaugmented,
)
from torch import Tensor, nn

import loss_attention as la
from loss_attention.model import PatchClassifier
from loss_attention.prediction import PatchPrediction
from loss_attention.training.augmentation import crop_and_flip, draw_shifts

WIDTH, SIDE, BATCH = 0.1, 16, 4


def unlike_new(head: str) -> PatchClassifier:
    """A small model whose every weight and statistic differs from what a new one has."""
    model = la.create_model("resnet18", head=head, width=WIDTH, threshold=0.95)
    with torch.no_grad():
        for name, values in model.state_dict().items():
            if values.ndim == 1 and "num_batches" not in name:
                values.add_(torch.rand_like(values) * 0.1)
            if name.endswith("running_var"):  # so that patches differ in evaluation, too
                values.mul_(0.3)
    # So precisely that nothing but another formula could make a difference.
    return model.double()


def some_images() -> Tensor:
    """Noise that is brighter to the right."""
    images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE)) * torch.arange(SIDE) // (SIDE - 1)
    return images.to(torch.uint8)


def normalised(model: PatchClassifier, images: Tensor) -> Tensor:
    return (images.to(model.mean.dtype) / 255 - model.mean) / model.std


@pytest.mark.parametrize("head", sorted(REFERENCES))
@pytest.mark.parametrize("training", [True, False])
def test_same_weights_give_the_same_outputs(head: str, training: bool) -> None:
    ours = unlike_new(head).train(training)
    theirs = copied(ours).train(training)
    images = some_images()
    labels = torch.tensor([0, 3, 9, 3])
    prediction = ours(images)
    outputs = theirs(normalised(ours, images))
    assert isinstance(prediction, PatchPrediction)
    # Some patches are dropped, so the threshold is part of what is compared.
    assert 0 < (outputs.patch_weights == 0).sum() < outputs.patch_weights.numel()
    torch.testing.assert_close(outputs.logits, prediction.logits)
    torch.testing.assert_close(outputs.patch_logits, prediction.patch_logits)
    torch.testing.assert_close(outputs.patch_weights, prediction.patch_weights)
    loss = la.single_label_loss(prediction, labels, gamma=0.3)
    torch.testing.assert_close(reference_loss(outputs, labels, gamma=0.3), loss)
    assert abs(loss - la.single_label_loss(prediction, labels)) > 0.1


@pytest.mark.parametrize("head", sorted(REFERENCES))
def test_a_step_of_gradient_descent_is_the_same(head: str) -> None:
    ours = unlike_new(head)
    theirs = copied(ours)
    images = some_images()
    labels = torch.tensor([0, 3, 9, 3])
    gradients = []
    for model, loss in (
        (ours, la.single_label_loss(ours(images), labels, 0.1)),
        (theirs, reference_loss(theirs(normalised(ours, images)), labels, 0.1)),
    ):
        loss.backward()
        first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        gradients.append(first.weight.grad)
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(gradients[1], gradients[0])


def test_parameters_are_as_many_as_ours() -> None:
    for head, make in REFERENCES.items():
        ours = la.create_model("resnet18", head=head, width=0.5)
        theirs = make(10, 0.5, 0.1)
        count = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
        assert count[0] == count[1]


def test_capsules_are_separate_convolutions() -> None:
    with torch.device("meta"):
        reference = CapsuleReference(10, 1.0, 0.1)
    primary = [layer[0] for layer in reference.primary.layers]
    patches = [layer[0] for layer in reference.patch_capsules.layers]
    assert [tuple(layer.weight.shape) for layer in primary] == [(32, 512, 9, 9)] * 16
    assert [tuple(layer.weight.shape) for layer in patches] == [(64, 32, 1, 1)] * 128


def test_images_through_pil_are_those_of_a_whole_batch() -> None:
    model = la.create_model("resnet18", width=WIDTH)
    model.set_normalisation(torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1]))
    images = torch.randint(0, 256, (8, 3, SIDE, SIDE + 2), dtype=torch.uint8)
    shifts = draw_shifts(8, 4, flip=True, generator=torch.Generator().manual_seed(1))
    assert 0 < shifts.flip.sum() < 8
    pixels = list(images.permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(
        augmented(pixels, shifts, 4, model.mean, model.std),
        normalised(model, crop_and_flip(images, shifts, 4)),
    )
    torch.testing.assert_close(
        unaugmented(pixels, model.mean, model.std), normalised(model, images)
    )
