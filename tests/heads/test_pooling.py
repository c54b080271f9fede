"""The attention networks of Ilse et al. against their equations, gradients included."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from heads.used import arrays, feature_maps, patches_of, used_model

from loss_attention.heads.patches import AttentionPooling

HEAD_OF = {False: "attention", True: "gated-attention"}


def matrices(weighing: AttentionPooling) -> list[np.ndarray]:
    """V, w and, where there is one, U."""
    found = arrays(weighing)
    gate = [found["gate.weight"]] if "gate.weight" in found else []
    return [found["hidden.weight"], found["score.weight"][0], *gate]


@pytest.mark.parametrize("gated", [False, True])
def test_weights_and_their_gradients_are_those_of_the_equations(gated: bool) -> None:
    weighing = AttentionPooling(4, 3, gated=gated).double()
    for parameter in weighing.parameters():
        torch.nn.init.normal_(parameter)
    patches, importance = torch.randn(2, 5, 4).double(), torch.randn(2, 5).double()
    weights = weighing(patches, torch.empty(2, 5, 7))
    (weights * importance).sum().backward()
    tables = matrices(weighing)
    for i in range(2):
        expected = reference.attention_weights(patches[i].numpy(), *tables)
        np.testing.assert_allclose(weights[i].detach().numpy(), expected, rtol=0, atol=1e-12)

    def objective() -> float:
        """The same sum, from the equations."""
        return sum(
            float(importance[i].numpy() @ reference.attention_weights(patches[i].numpy(), *tables))
            for i in range(2)
        )

    layers = [weighing.hidden, weighing.score] + ([weighing.gate] if gated else [])
    for table, layer in zip(tables, layers, strict=True):
        gradient = layer.weight.grad.reshape(table.shape).numpy()
        for place in np.ndindex(table.shape):
            value, step = table[place], 1e-5
            table[place] = value + step
            above = objective()
            table[place] = value - step
            slope = (above - objective()) / (2 * step)
            table[place] = value
            assert gradient[place] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("gated", [False, True])
def test_the_head_is_the_equations_on_its_patch_features(gated: bool) -> None:
    model = used_model(head=HEAD_OF[gated], patch_kernel=3, patch_stride=2, threshold=1.0).double()
    for parameter in model.head.weighing.parameters():
        torch.nn.init.normal_(parameter)
    images = torch.rand(2, 3, 8, 9, dtype=torch.float64)
    with torch.no_grad():
        prediction = patches_of(model, images)
        maps = torch.from_numpy(feature_maps(model, images))
        patches = model.head.patch_layers(maps).flatten(2).transpose(1, 2).numpy()
    weight, bias = (p.detach().numpy() for p in model.head.classifier.parameters())
    for i in range(2):
        alpha = reference.attention_weights(patches[i], *matrices(model.head.weighing))
        z = (alpha @ patches[i]) @ weight.T + bias
        np.testing.assert_allclose(prediction.patch_weights[i].numpy(), alpha, rtol=0, atol=1e-10)
        np.testing.assert_allclose(prediction.logits[i].numpy(), z, rtol=0, atol=1e-10)
        # 12 patches: the paper selects those of a weight above threshold / M.
        assert prediction.selected[i].tolist() == (alpha > 1 / 12).tolist()
        assert 0 < (alpha > 1 / 12).sum() < 12


def test_width_scales_the_hidden_units() -> None:
    weighing = used_model(head="gated-attention", width=0.25).head.weighing
    assert [p.shape for p in weighing.parameters()] == [(32, 128), (32, 128), (1, 32)]
