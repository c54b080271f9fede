"""Heads whose patch logits are too many to hold answer what they answer when they hold them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from heads.used import PATCH_HEADS, patches_of, used_model
from live_memory import LiveMemory
from torch import Tensor

import loss_attention.many_classes as many_classes
from loss_attention.attribution.maps import contrast_patches, evidence_patches
from loss_attention.attribution.peers import class_patches
from loss_attention.data.sample import ImageSet
from loss_attention.evaluation import evaluate
from loss_attention.heads.capsules import CapsuleHead
from loss_attention.losses import multi_label_loss, single_label_loss
from loss_attention.many_classes import LogitsOnDemand
from loss_attention.models import PatchClassifier
from loss_attention.prediction import (
    EvidencePrediction,
    ManyClassPrediction,
    PatchPrediction,
    on_cpu,
)
from loss_attention.report.explained import describe

HoldNone = Callable[[], None]


@pytest.fixture
def hold_none(monkeypatch: pytest.MonkeyPatch) -> HoldNone:
    """From its call on, no logits are held, and three patches are computed at a time."""

    def call() -> None:
        monkeypatch.setattr(many_classes, "MOST_HELD", 0)
        monkeypatch.setattr(many_classes, "AT_A_TIME", 3 * 2 * 5)

    return call


def small_model(head: str) -> PatchClassifier:
    return used_model(head=head, patch_kernel=3, patch_stride=2, threshold=0.7)


def pictures(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 9, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("head", PATCH_HEADS)
def test_predictions_are_the_same(head: str, hold_none: HoldNone) -> None:
    model, images = small_model(head).double(), pictures()
    held = patches_of(model, images)
    hold_none()
    found = patches_of(model, images, ManyClassPrediction)
    names = ("logits", "patch_logits", "patch_weights", "patch_scores", "evidence", "mean_evidence")
    for name in names:
        torch.testing.assert_close(getattr(found, name), getattr(held, name), rtol=0, atol=1e-11)
    assert found.selected.tolist() == held.selected.tolist()
    assert found.grid == held.grid
    image, classes = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 3])
    for prediction in (found, held):
        asked = prediction.evidence_at(image, classes)
        expected = held.evidence[image, :, classes]
        torch.testing.assert_close(asked, expected, rtol=0, atol=1e-11)
    own = found.each_patch(lambda scores: scores.argmax(dim=2))
    assert own.tolist() == held.patch_scores.argmax(dim=2).tolist()
    moved = on_cpu(found)
    assert moved.lazy_evidence is not found.lazy_evidence
    assert torch.equal(moved.evidence, found.evidence)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("head", PATCH_HEADS)
def test_losses_and_gradients_are_the_same(
    head: str, multi_label: bool, hold_none: HoldNone
) -> None:
    model, images = small_model(head).double().train(), pictures(3)
    matrix = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])

    def step(model: PatchClassifier, kind: type[EvidencePrediction]) -> dict[str, Tensor]:
        prediction = patches_of(model, images, kind)
        if multi_label:
            loss = multi_label_loss(prediction, matrix, gamma=0.7)
        else:
            loss = single_label_loss(prediction, torch.tensor([3, 0, 4]), gamma=0.7)
        loss.backward()
        found = {"loss": loss.detach()}
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            found[name] = parameter.grad
        return found

    expected = step(copy.deepcopy(model), PatchPrediction)
    hold_none()
    found = step(model, ManyClassPrediction)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11)
    assert all(value.any() for value in found.values())


def test_contrast_does_without_the_evidence_for_all_classes(
    hold_none: HoldNone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_self: LogitsOnDemand) -> Tensor:
        raise AssertionError("all of the evidence was computed")

    hold_none()
    monkeypatch.setattr(ManyClassPrediction, "evidence", property(refused))
    model, images = small_model("capsule-loss-attention").float(), pictures().float()
    values, grid = contrast_patches(model, images, torch.tensor([1, 4]))
    assert values.shape == (2, grid.patches)


@pytest.mark.parametrize("head", ["loss-attention", "capsule-loss-attention"])
def test_explanations_and_figures_are_the_same(head: str, hold_none: HoldNone) -> None:
    model, images = small_model(head), pictures(4).float()
    target = torch.tensor([1, 4, 0, 2])
    boxes = torch.tensor([[[0.0, 0.0, 5.0, 6.0]], [[2.0, 2.0, 8.0, 9.0]]]).repeat(2, 1, 1)
    data = ImageSet((images * 255).byte(), target, tuple("01234"), boxes, target.unsqueeze(1))

    def answers() -> tuple[dict[str, Tensor], list[float]]:
        explanation = model.explain(images, target)
        assert explanation.target_evidence is not None
        shown = {
            "heat maps": explanation.heat_maps,
            "boxes": explanation.boxes,
            "evidence": explanation.target_evidence,
        }
        with torch.inference_mode():
            shown["method evidence"] = evidence_patches(model, images, target)[0]
            shown["method contrast"] = contrast_patches(model, images, target)[0]
            own = class_patches(model, images, target)
        assert own is not None
        shown["method cam"] = own[0]
        assert torch.equal(shown["method evidence"], shown["evidence"])
        measures = evaluate(model, data, train=data, held_out=data, batch_size=2).measures
        return shown, [measure.value for measure in measures if measure.value is not None]

    held, held_figures = answers()
    whole = model.explain(images, target).evidence
    assert whole is not None
    torch.testing.assert_close(whole[torch.arange(4), :, target], held["evidence"])
    hold_none()
    found, figures = answers()
    assert model.explain(images, target).evidence is None
    assert model.explain(images).target.tolist() == model(images).logits.argmax(dim=1).tolist()
    for name, value in held.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert len(figures) > 15
    assert figures == pytest.approx(held_figures, rel=1e-4)


def test_the_json_of_an_image_has_the_evidence_of_its_target(hold_none: HoldNone) -> None:
    model, images = small_model("loss-attention"), pictures().float()
    held = describe(model.explain(images, 3), 0, tuple("01234"), (8, 9))
    hold_none()
    found = describe(model.explain(images, 3), 0, tuple("01234"), (8, 9))
    assert held["target_evidence"] == [row[3] for row in held["evidence"]]
    assert found["target_evidence"] == pytest.approx(held["target_evidence"], rel=1e-4)
    assert found["evidence"] is None
    assert sum(found["target_evidence"]) == pytest.approx(found["logits"][3], abs=1e-4)
    assert "too many classes" in found["units"]


@pytest.mark.parametrize("head", ["loss-attention", "capsule-loss-attention"])
def test_it_is_the_number_of_patch_logits_that_decides(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(head)
    images = pictures().float()
    held = patches_of(model, images)
    logits = held.patch_logits.numel()
    if isinstance(model.head, CapsuleHead):
        logits *= model.head.patch_capsules.shape[0]
    monkeypatch.setattr(many_classes, "MOST_HELD", logits)
    assert isinstance(model(images), PatchPrediction)
    monkeypatch.setattr(many_classes, "MOST_HELD", logits - 1)
    assert isinstance(model(images), ManyClassPrediction)
    assert isinstance(model(images[:1]), PatchPrediction)


@pytest.mark.parametrize("head", ["loss-attention", "capsule-loss-attention"])
def test_a_step_takes_less_memory_than_the_patch_logits(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = used_model(
        head=head, num_classes=2000, patch_kernel=1, patch_stride=1, strided_layers=(6,)
    ).train()
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([7, 1999])

    def step() -> tuple[EvidencePrediction, int]:
        with LiveMemory() as memory:
            prediction = patches_of(model, images, EvidencePrediction)
            single_label_loss(prediction, labels, gamma=0.1).backward()
        return prediction, memory.peak

    held, before = step()
    of_logits = held.patch_logits.numel() * 4
    if isinstance(model.head, CapsuleHead):
        of_logits *= model.head.patch_capsules.shape[0]
    assert before > 2 * of_logits
    monkeypatch.setattr(many_classes, "MOST_HELD", 2**18)
    monkeypatch.setattr(many_classes, "AT_A_TIME", 2**14)
    _, after = step()
    assert after < of_logits


def test_patches_are_classified_once_where_the_logits_are_held() -> None:
    model = used_model().train()
    calls: list[int] = []
    model.head.classifier.register_forward_hook(lambda *_: calls.append(1))
    prediction = patches_of(model, torch.rand(2, 3, 20, 20))
    single_label_loss(prediction, torch.tensor([0, 1]), gamma=0.1).backward()
    assert len(calls) == 1


def test_fabric_leaves_no_hook_on_the_parameters(hold_none: HoldNone) -> None:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model = small_model("loss-attention").train()
    network = fabric.setup_module(model)
    hold_none()
    prediction = network(pictures().float())
    assert isinstance(prediction, ManyClassPrediction)
    fabric.backward(single_label_loss(prediction, torch.tensor([0, 1]), gamma=0.1))
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any(parameter._backward_hooks for parameter in model.parameters())
