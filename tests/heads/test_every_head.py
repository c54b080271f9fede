"""What holds for every head: evidence that adds up, other precisions, gradients, no images."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from heads.used import NARROW, PATCH_HEADS, WEIGHTED_HEADS, patches_of, used_model

import loss_attention as la
from loss_attention.heads.catalog import HEADS
from loss_attention.losses import loss_for, single_label_loss
from loss_attention.prediction import WeightedPrediction


@pytest.mark.parametrize("head", PATCH_HEADS)
@pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18"])
def test_the_evidence_sums_to_the_logits(backbone: str, head: str) -> None:
    model = used_model(backbone=backbone, head=head)
    images = torch.rand(7, 3, 32, 40)
    with torch.inference_mode():
        whole = patches_of(model, images)
        batches = [patches_of(model, part) for part in images.split(3)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = patches_of(model, images)
    for prediction in (whole, *batches, half, patches_of(model, images)):
        assert prediction.logits.abs().max() > 1  # or "to 1e-4" would say little
        for values in (prediction.logits, prediction.patch_logits, prediction.patch_weights):
            assert values.dtype == torch.float32
        difference = prediction.evidence.sum(dim=1) - prediction.logits
        assert difference.abs().max() <= 1e-4
    joined = torch.cat([prediction.evidence for prediction in batches])
    torch.testing.assert_close(joined, whole.evidence, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", PATCH_HEADS)
def test_the_evidence_for_a_class_is_its_part_of_all_evidence(head: str) -> None:
    model, images = used_model(head=head), torch.rand(3, 3, 20, 24)
    target, image = torch.tensor([4, 0, 2]), torch.tensor([2, 0, 0, 1])
    explanation, prediction = model.explain(images, target), patches_of(model, images)
    torch.testing.assert_close(
        explanation.target_evidence, explanation.evidence[torch.arange(3), :, target]
    )
    classes = torch.tensor([1, 1, 3, 0])
    torch.testing.assert_close(
        prediction.evidence_at(image, classes), prediction.evidence[image, :, classes]
    )


def test_patches_are_classified_once() -> None:
    model = used_model().train()
    calls: list[int] = []
    model.head.classifier.register_forward_hook(lambda *_: calls.append(1))
    prediction = patches_of(model, torch.rand(2, 3, 20, 20))
    single_label_loss(prediction, torch.tensor([0, 1]), gamma=0.1).backward()
    assert len(calls) == 1


@pytest.mark.parametrize("head", HEADS)
def test_models_work_in_other_precisions(head: str) -> None:
    images = torch.rand(2, 3, 20, 20)
    model = used_model(head=head, image_size=(20, 20))
    expected = model(images).logits
    exact = copy.deepcopy(model).double()(images).logits
    rough = copy.deepcopy(model).bfloat16()(images).logits
    assert (exact.dtype, rough.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(exact.float(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rough, expected, rtol=0.2, atol=0.2 * expected.abs().max().item())


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_training_reaches_every_parameter(head: str, multi_label: bool) -> None:
    model = la.create_model(head=head, width=NARROW, num_classes=5, image_size=(20, 20)).train()
    loss_of = loss_for(HEADS[head].objective, multi_label=multi_label)
    labels = torch.randint(0, 2, (4, 5)) if multi_label else torch.arange(4)
    gamma = 0.1 if head in PATCH_HEADS else 0.0
    loss_of(model(torch.rand(4, 3, 20, 20)), labels, gamma).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("head", HEADS)
def test_images_all_alike_train_too(head: str) -> None:
    """Batch norm makes them all zeros: no length, no norm, and no gradient that is not a number."""
    model = la.create_model(head=head, width=NARROW, num_classes=5, image_size=(20, 20)).train()
    prediction = model(torch.full((4, 3, 20, 20), 0.5))
    loss_for(HEADS[head].objective, multi_label=False)(prediction, torch.arange(4), 0.0).backward()
    assert prediction.logits.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("head", HEADS)
def test_no_images_give_no_predictions(head: str) -> None:
    model = used_model(head=head, image_size=(20, 20))
    assert model(torch.rand(0, 3, 20, 20)).logits.shape == (0, 5)


@pytest.mark.parametrize("head", WEIGHTED_HEADS)
def test_weights_are_shares_and_the_answer_is_the_same_in_any_batch(head: str) -> None:
    model = used_model(head=head, image_size=(24, 20))
    images = torch.rand(5, 3, 24, 20)
    with torch.inference_mode():
        whole = patches_of(model, images, WeightedPrediction)
        parts = [patches_of(model, part, WeightedPrediction) for part in images.split(2)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = patches_of(model, images, WeightedPrediction)
    assert whole.patch_weights.shape == (5, 12)
    assert whole.patch_scores.shape == (5, 12, 5)
    assert (whole.patch_weights >= 0).all()
    torch.testing.assert_close(whole.patch_weights.sum(dim=1), torch.ones(5))
    for name in ("logits", "patch_weights", "patch_scores"):
        assert getattr(half, name).dtype == torch.float32
        joined = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(joined, getattr(whole, name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_a_model_that_was_saved_answers_the_same(head: str, tmp_path: Path) -> None:
    model = used_model(head=head, image_size=(20, 20), class_names=tuple("abcde"))
    (tmp_path / "model.safetensors").write_bytes(model.to_bytes())
    again = la.load(tmp_path)
    images = torch.rand(2, 3, 20, 20)
    assert torch.equal(again(images).logits, model(images).logits)
    assert again.class_names == tuple("abcde")
