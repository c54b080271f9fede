"""Centred logits: Eq. 5 and the evidence without the number that a softmax does not see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from heads.used import NARROW, PATCH_HEADS, arrays, patches_of, used_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as parse
from safetensors.torch import save as serialise

import loss_attention as la
from loss_attention.attention import capsule_weights, centred, patch_weights, pool_patches
from loss_attention.errors import InputError
from loss_attention.heads import HEADS, centres
from loss_attention.heads.capsules import pooled_capsules
from loss_attention.heads.patches import LossAttention, pooled
from loss_attention.losses import single_label_loss
from loss_attention.model_spec import ModelSpec
from loss_attention.prediction import CapsulePrediction
from loss_attention.saving import METADATA_KEY

IMAGES = (3, 3, 20, 24)


def minus_mean(p: np.ndarray) -> np.ndarray:
    """`p_mk - mean over j of p_mj`, class by class."""
    out = np.empty_like(p)
    for index in np.ndindex(p.shape[:-1]):
        for k in range(p.shape[-1]):
            out[(*index, k)] = p[(*index, k)] - sum(p[index].tolist()) / p.shape[-1]
    return out


@pytest.mark.parametrize("threshold", [0.0, 0.8])
def test_weights_evidence_and_logits_are_those_of_centred_class_vectors(threshold: float) -> None:
    model = used_model(backbone="vgg11_bn", centre=True, threshold=threshold).double()
    images = torch.rand(IMAGES, dtype=torch.float64)
    cells: list[torch.Tensor] = []
    model.head.classifier.register_forward_hook(lambda _, given, __: cells.append(given[0]))
    with torch.no_grad():
        prediction = patches_of(model, images)
    linear = arrays(model.head.classifier)
    h = cells[0].numpy()
    p = minus_mean(h @ linear["weight"].T + linear["bias"])
    alpha = np.array([reference.patch_weights(one, threshold) for one in p])
    evidence = alpha[:, :, None] * p
    np.testing.assert_allclose(prediction.patch_logits.numpy(), p, atol=1e-11)
    np.testing.assert_allclose(prediction.patch_weights.numpy(), alpha, atol=1e-12)
    np.testing.assert_allclose(prediction.evidence.numpy(), evidence, atol=1e-11)
    np.testing.assert_allclose(prediction.logits.numpy(), evidence.sum(axis=1), atol=1e-11)
    rivals = np.stack([np.delete(evidence, k, axis=2).max(axis=2) for k in range(5)], axis=2)
    np.testing.assert_allclose(prediction.margin.numpy(), evidence - rivals, atol=1e-11)
    assert np.abs(evidence.sum(axis=2)).max() < 1e-11  # over classes, nothing is left


def test_each_capsules_logits_are_centred() -> None:
    model = used_model(head="capsule-loss-attention", centre=True).double()
    plain = used_model(head="capsule-loss-attention").double()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(IMAGES, dtype=torch.float64)
    with torch.no_grad():
        found, other = (patches_of(one, images, CapsulePrediction) for one in (model, plain))
    p = minus_mean(other.capsule_logits.numpy())
    patches, capsules = (one.numpy() for one in capsule_weights(torch.from_numpy(p), 0.1))
    np.testing.assert_allclose(found.capsule_logits.numpy(), p, atol=1e-11)
    np.testing.assert_allclose(found.patch_weights.numpy(), patches, atol=1e-12)
    evidence = np.einsum("bcm,bcmk->bmk", capsules, p)
    np.testing.assert_allclose(found.evidence.numpy(), evidence, atol=1e-11)
    np.testing.assert_allclose(found.logits.numpy(), evidence.sum(axis=1), atol=1e-11)
    assert not np.allclose(found.patch_weights.numpy(), other.patch_weights.numpy(), atol=1e-5)


@pytest.mark.parametrize("head", PATCH_HEADS)
def test_the_centred_evidence_sums_to_the_logits(head: str) -> None:
    model = used_model(head=head, centre=True)
    with torch.inference_mode():
        whole = patches_of(model, torch.rand(7, 3, 32, 40))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = patches_of(model, torch.rand(2, 3, 32, 40))
    for prediction in (whole, half):
        assert prediction.logits.abs().max() > 1
        gap = prediction.evidence.sum(dim=1) - prediction.logits
        assert gap.abs().max() <= 1e-4
        assert prediction.logits.sum(dim=1).abs().max() <= 1e-3
    # In tiles, large photos are decided by the same head.
    photo = torch.rand(1, 3, 64, 96)
    tiled = model.explain(photo, tile=64)
    torch.testing.assert_close(tiled.evidence.sum(dim=1), tiled.logits, rtol=1e-4, atol=1e-4)
    assert tiled.logits.sum().abs() < 1e-3


numbers = st.tuples(
    st.integers(0, 2**32),  # seed
    st.integers(1, 6),  # patches
    st.integers(2, 6),  # classes
    st.floats(-2.0, 3.0),  # power of ten of what is added
)


@given(numbers)
@settings(max_examples=30)
def test_a_number_that_a_patch_adds_to_all_classes_changes_nothing(
    case: tuple[int, int, int, float],
) -> None:
    seed, patches, classes, power = case
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 4, generator=generator, dtype=torch.float64)
    h = torch.randn(2, patches, 4, generator=generator, dtype=torch.float64)
    added = 10**power * torch.randn(2, patches, 1, generator=generator, dtype=torch.float64)

    class Classifier(torch.nn.Linear):
        offset = torch.zeros(())

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return super().forward(features) + self.offset

    classifier = Classifier(4, classes, bias=False).double()
    classifier.weight.data = weight
    before = pooled(h, classifier, LossAttention(0.5), 0.0, centre=True)
    bags = pooled_capsules(h.unsqueeze(2), classifier, 0.5, centre=True)
    classifier.offset = added
    after = pooled(h, classifier, LossAttention(0.5), 0.0, centre=True)
    for name in ("logits", "patch_weights", "evidence", "margin"):
        found, expected = getattr(after, name), getattr(before, name)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    classifier.offset = added.unsqueeze(2)
    again = pooled_capsules(h.unsqueeze(2), classifier, 0.5, centre=True)
    torch.testing.assert_close(again.evidence, bags.evidence, rtol=0, atol=1e-9)


def test_without_centring_that_number_decides_the_weights() -> None:
    p = torch.tensor([[[6.0, 4.0, 2.0], [3.0, 5.0, 1.0]]])
    more = p + torch.tensor([[[0.0], [8.0]]])
    assert patch_weights(p)[0, 0] > 0.5 > patch_weights(more)[0, 0]
    torch.testing.assert_close(patch_weights(centred(p)), patch_weights(centred(more)))


@pytest.mark.parametrize("head", ["mean", "attention", "gated-attention"])
def test_where_class_vectors_have_no_say_in_the_weights_the_answer_stays(head: str) -> None:
    model, images = used_model(head=head), torch.rand(5, 3, 20, 24)
    other = la.create_model(model.spec, centre=True).eval()
    other.load_state_dict(model.state_dict())
    found, plain = other.explain(images), model.explain(images)
    torch.testing.assert_close(found.patch_weights, plain.patch_weights)
    torch.testing.assert_close(found.probabilities, plain.probabilities, rtol=1e-4, atol=1e-5)
    assert found.target.tolist() == plain.target.tolist()
    torch.testing.assert_close(found.margin, plain.margin, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found.evidence, plain.evidence, atol=0.01)


@pytest.mark.parametrize("head", PATCH_HEADS)
def test_gradients_flow_through_centred_logits(head: str) -> None:
    options = {"width": NARROW, "num_classes": 5, "centre": True}
    model = la.create_model("vgg11_bn", head=head, **options).train()
    prediction = patches_of(model, torch.rand(4, 3, 16, 16))
    single_label_loss(prediction, torch.arange(4), gamma=0.1).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
        assert parameter.grad.isfinite().all(), name
    # What all classes have in common has no gradient.
    common = model.head.classifier.weight.grad.sum(dim=0)
    assert common.abs().max() < 1e-5 * model.head.classifier.weight.grad.abs().max() + 1e-9


def test_the_gradient_is_that_of_differences() -> None:
    p = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def logits(p: torch.Tensor) -> torch.Tensor:
        return pool_patches(centred(p), patch_weights(centred(p), 0.3))

    assert torch.autograd.gradcheck(logits, (p,))


def test_a_saved_model_stays_centred_and_one_without_the_field_is_not(tmp_path: Path) -> None:
    model, images = used_model(centre=True), torch.rand(2, 3, 20, 24)
    file = tmp_path / "model.safetensors"
    file.write_bytes(model.to_bytes())
    again = la.load(file)
    assert again.spec.centre is True
    assert torch.equal(again(images).logits, model(images).logits)
    config = {name: value for name, value in model.config.items() if name != "centre"}
    del config["one_vs_rest"]
    metadata = {METADATA_KEY: json.dumps({"format_version": 1, "config": config})}
    file.write_bytes(serialise(parse(file.read_bytes()), metadata))
    old = la.load(file)
    assert old.spec.centre is old.spec.one_vs_rest is False
    assert not torch.allclose(old(images).logits, model(images).logits, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, True),
        ({"head": "mean"}, True),
        ({"head": "capsule-loss-attention"}, True),
        ({"multi_label": True}, False),
        ({"one_vs_rest": True}, False),
        ({"num_classes": 1}, False),
        ({"head": "baseline"}, False),
        ({"head": "capsule-dynamic-routing", "image_size": (20, 20)}, False),
    ],
)
def test_none_is_yes_where_it_can_be(options: dict[str, object], found: bool) -> None:
    model = la.create_model(width=NARROW, centre=None, **options)
    assert model.spec.centre is found
    assert getattr(model.head, "centre", False) is found
    assert centres(ModelSpec(centre=None, **options)) is found
    assert la.create_model(width=NARROW, **options).spec.centre is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multi_label": True}, "with several labels an image a sigmoid decides each class"),
        ({"one_vs_rest": True}, "with one-vs-rest a sigmoid decides each class"),
        ({"num_classes": 1}, "`centre` needs at least two classes"),
        ({"head": "baseline"}, "the head baseline has no patch logits; these have: mean,"),
        (
            {"head": "capsule-dynamic-routing", "image_size": (20, 20)},
            "the head capsule-dynamic-routing has no patch logits",
        ),
        ({"centre": 1}, "`centre` must be True or False, got 1"),
        ({"centre": "yes"}, "`centre` must be True or False, got 'yes'"),
    ],
)
def test_centring_that_cannot_be_is_refused_in_one_line(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        la.create_model(width=NARROW, **{"centre": True, **options})
    assert "`centre`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_evidence_of_a_trained_class_is_the_difference_it_makes() -> None:
    """Of two classes, centred evidence is half of the difference of the raw one."""
    model = used_model(num_classes=2, head="mean")
    other = la.create_model(model.spec, centre=True).eval()
    other.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 20, 24)
    raw, own = patches_of(model, images).evidence, patches_of(other, images).evidence
    torch.testing.assert_close(own[..., 0], (raw[..., 0] - raw[..., 1]) / 2, rtol=1e-4, atol=1e-5)


def test_every_head_says_whether_it_can() -> None:
    assert {head for head in HEADS if centres(ModelSpec(head=head, centre=None))} == set(
        PATCH_HEADS
    )
