"""`model.explain`: the prediction spelled out, in any mode, and its messages."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from heads.used import patches_of, used_baseline, used_model

from loss_attention.errors import InputError


def test_explain_is_the_prediction_spelled_out() -> None:
    model = used_model(threshold=1.0)  # keeps patches above the average alone
    images = torch.rand(3, 3, 24, 21)
    prediction = patches_of(model, images)
    explanation = model.explain(images)
    torch.testing.assert_close(explanation.logits, prediction.logits)
    torch.testing.assert_close(explanation.evidence.sum(dim=1), prediction.logits)
    assert explanation.target.tolist() == prediction.logits.argmax(dim=1).tolist()
    assert explanation.probabilities.sum(dim=1).tolist() == pytest.approx([1.0] * 3)
    windows = prediction.grid.windows().double().numpy()
    for i in range(3):
        evidence = prediction.evidence[i, :, explanation.target[i]].detach().double().numpy()
        painted = reference.painted(evidence, windows, 24, 21)
        np.testing.assert_allclose(explanation.heat_maps[i].numpy(), painted, rtol=0, atol=1e-5)
        chosen = windows[(prediction.patch_weights[i] > 0).numpy()]
        assert 0 < len(chosen) < len(windows)
        low, high = chosen[:, :2].min(axis=0), chosen[:, 2:].max(axis=0)
        assert explanation.boxes[i].tolist() == [*low, *high]


def test_explain_takes_a_target_for_all_or_one_an_image() -> None:
    model = used_model()
    images = torch.rand(2, 3, 20, 20)
    assert model.explain(images, 4).target.tolist() == [4, 4]
    assert model.explain(images, torch.tensor([3, 0])).target.tolist() == [3, 0]
    with pytest.raises(InputError, match=r"0\.\.4, got \[5, 5\]"):
        model.explain(images, 5)


def test_explaining_works_under_inference_mode_and_keeps_no_graph() -> None:
    model = used_model()
    images = torch.rand(2, 3, 20, 20)
    with torch.inference_mode():
        inside = model.explain(images)
    outside = model.explain(images)
    torch.testing.assert_close(inside.heat_maps, outside.heat_maps)
    assert not outside.evidence.requires_grad


def test_explaining_leaves_every_mode_as_it_was() -> None:
    model = used_model()
    images = torch.rand(2, 3, 20, 20)
    expected = model.explain(images).logits
    model.train()
    frozen = model.backbone.layers[1]
    frozen.eval()
    before = {name: module.training for name, module in model.named_modules()}
    statistics = model.state_dict()["backbone.layers.1.running_mean"].clone()

    torch.testing.assert_close(model.explain(images).logits, expected)

    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(model.state_dict()["backbone.layers.1.running_mean"], statistics)
    with pytest.raises(InputError):
        model.explain(images, target=99)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_a_baseline_says_why_it_explains_nothing() -> None:
    with pytest.raises(InputError, match="no patches") as caught:
        used_baseline().explain(torch.rand(1, 3, 20, 20))
    assert "\n" not in str(caught.value)


def test_probabilities_of_a_multi_label_model_are_sigmoids() -> None:
    model = used_model(multi_label=True)
    explanation = model.explain(torch.rand(3, 3, 20, 20))
    torch.testing.assert_close(explanation.probabilities, 1 / (1 + (-explanation.logits).exp()))
