"""The convolutional patch head and the baseline, again in float64 NumPy from their weights."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from heads.used import arrays, feature_maps, patches_of, used_baseline, used_model

from loss_attention.heads.patches import PatchHead


def test_a_patch_head_is_what_its_weights_say() -> None:
    """The whole head again, in float64 NumPy, from the feature map on."""
    model = used_model(patch_kernel=3, patch_stride=2, threshold=0.4).double()
    images = torch.rand(2, 3, 8, 9, dtype=torch.float64)
    head = model.head
    assert isinstance(head, PatchHead)
    with torch.no_grad():
        prediction = patches_of(model, images)
    features, state = feature_maps(model, images), arrays(head)

    def norm(x: np.ndarray, layer: str) -> np.ndarray:
        statistics = ("running_mean", "running_var", "weight", "bias")
        return reference.batch_norm(x, *(state[f"{layer}.{name}"] for name in statistics), 1e-5)

    for i in range(2):
        x = reference.convolution(features[i], state["patch_layers.0.weight"], stride=2)
        x = np.maximum(norm(x, "patch_layers.1"), 0)
        x = reference.convolution(x, state["patch_layers.3.weight"], stride=1)
        x = np.maximum(norm(x, "patch_layers.4"), 0)
        # Row by row: patch m is row m // 4, column m % 4 of the 3 x 4 places.
        patches = np.array([x[:, row, column] for row in range(3) for column in range(4)])
        p = patches @ state["classifier.weight"].T + state["classifier.bias"]
        alpha = reference.patch_weights(p, 0.4)
        # Eq. 5d as printed: the weighted features through the same classifier.
        z = (alpha @ patches) @ state["classifier.weight"].T + state["classifier.bias"]
        np.testing.assert_allclose(prediction.patch_logits[i].numpy(), p, rtol=0, atol=1e-10)
        np.testing.assert_allclose(prediction.patch_weights[i].numpy(), alpha, rtol=0, atol=1e-10)
        np.testing.assert_allclose(prediction.logits[i].numpy(), z, rtol=0, atol=1e-10)
        assert prediction.selected[i].tolist() == (alpha > 0).tolist()
    assert prediction.selection == 0  # Eq. 5b has subtracted the threshold already


@pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18"])
def test_a_baseline_averages_places_and_classifies(backbone: str) -> None:
    model = used_baseline(backbone).double()
    images = torch.rand(2, 3, 40, 33, dtype=torch.float64)
    with torch.no_grad():
        logits = model(images).logits.numpy()
    x, state = feature_maps(model, images).mean(axis=(2, 3)), arrays(model.head)
    # VGG: two hidden layers with ReLU and, in training alone, dropout; ResNet: none.
    layers = ["0", "3", "6"] if backbone == "vgg11_bn" else ["0"]
    for layer in layers:
        x = x @ state[f"classifier.{layer}.weight"].T + state[f"classifier.{layer}.bias"]
        x = x if layer == layers[-1] else np.maximum(x, 0)
    np.testing.assert_allclose(logits, x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("threshold", [0.3, 1.0])
def test_mean_pooling_weighs_all_patches_alike(threshold: float) -> None:
    prediction = patches_of(used_model(head="mean", threshold=threshold), torch.rand(2, 3, 17, 21))
    torch.testing.assert_close(prediction.patch_weights, torch.full((2, 12), 1 / 12))
    torch.testing.assert_close(prediction.logits, prediction.patch_logits.mean(dim=1))
    assert prediction.selected.all()
