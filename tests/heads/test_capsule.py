"""The capsule head against the paper's equations and against a loop over capsules."""

from __future__ import annotations

import numpy as np
import reference
import torch
from heads.used import arrays, feature_maps, patches_of, used_model
from torch import nn

from loss_attention.heads.capsule import Capsules
from loss_attention.prediction import CapsulePrediction


def test_one_convolution_is_a_loop_over_capsule_dimensions() -> None:
    """Outputs, gradients and batch norm's statistics, with a convolution for each dimension."""
    channels, dimension = 3, 4
    merged = Capsules(5, channels, dimension, kernel=3, stride=2, normalised=True).double()
    nn.init.normal_(merged.layers[1].weight)
    nn.init.normal_(merged.layers[1].bias)
    loop = []
    for d in range(dimension):
        one = nn.Sequential(nn.Conv2d(5, channels, 3, 2), nn.BatchNorm2d(channels), nn.ReLU())
        for mine, theirs in zip(one.double().parameters(), merged.parameters(), strict=True):
            mine.data.copy_(theirs.data[d::dimension])
        loop.append(one)
    maps = torch.randn(6, 5, 9, 8, dtype=torch.float64, requires_grad=True)
    same_maps = maps.detach().clone().requires_grad_()
    importance = torch.randn(6, channels, dimension, 4, 3, dtype=torch.float64)

    together = merged(maps)
    (together * importance).sum().backward()
    apart = torch.stack([one(same_maps) for one in loop], dim=2)
    (apart * importance).sum().backward()

    assert (together > 0).any()
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)
    torch.testing.assert_close(maps.grad, same_maps.grad, rtol=0, atol=1e-10)
    for d, one in enumerate(loop):
        for mine, theirs in zip(one.parameters(), merged.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad[d::dimension], rtol=0, atol=1e-10)
        statistics = merged.layers[1].running_mean[d::dimension]
        torch.testing.assert_close(one[1].running_mean, statistics, rtol=0, atol=1e-12)


def capsules(
    maps: np.ndarray, state: dict[str, np.ndarray], layer: str, dimension: int, stride: int
) -> np.ndarray:
    """A layer of capsules on `maps` (C, h, w): each dimension by itself, (C, D, rows, columns)."""
    found = []
    for d in range(dimension):
        part = {name: table[d::dimension] for name, table in state.items() if layer in name}
        weight, bias = part[f"{layer}.layers.0.weight"], part[f"{layer}.layers.0.bias"]
        x = reference.convolution(maps, weight, stride) + bias[:, None, None]
        names = ("running_mean", "running_var", "weight", "bias")
        x = reference.batch_norm(x, *(part[f"{layer}.layers.1.{name}"] for name in names), 1e-5)
        found.append(np.maximum(x, 0))
    return np.stack(found, axis=1)


def test_the_head_is_section_4b_and_eq_6() -> None:
    model = used_model(
        head="capsule-loss-attention", patch_kernel=3, patch_stride=2, threshold=1.0, width=1 / 16
    ).double()
    images = torch.rand(2, 3, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        lengths = model.head.primary(torch.from_numpy(feature_maps(model, images))).norm(dim=2)
        model.head.trivial_length.copy_(lengths.mean(dim=(0, 2, 3)))  # some above, some below
        prediction = patches_of(model, images, CapsulePrediction)
    state = {name: table for name, table in arrays(model.head).items() if table.ndim}
    assert prediction.capsule_logits.shape == (2, 4, 6, 5)
    for i, maps in enumerate(feature_maps(model, images)):
        primary = capsules(maps, state, "primary", 16, stride=2)
        # Eq. 11, the root over squares.
        norms = np.sqrt((primary**2).sum(axis=1))
        activities = np.maximum(norms - state["trivial_length"][:, None, None], 0)
        assert 0 < (activities == 0).mean() < 1
        h = capsules(activities, state, "patch_capsules", 128, stride=1)
        # Patch m is row m // 3, column m % 3 of the 2 x 3 places.
        h = np.array([[c[:, row, col] for row in range(2) for col in range(3)] for c in h])
        p = h @ state["classifier.weight"].T + state["classifier.bias"]
        alpha, capsule_alpha = reference.capsule_weights(p, 1.0)
        # Eqs. 6d and 6e as printed: the weighted vectors through the same classifier.
        pooled = (capsule_alpha[..., None] * h).sum(axis=(0, 1))
        z = pooled @ state["classifier.weight"].T + state["classifier.bias"]
        evidence = (capsule_alpha[..., None] * p).sum(axis=0)
        for found, expected in (
            (prediction.capsule_logits, p),
            (prediction.patch_logits, p.sum(axis=0)),
            (prediction.patch_weights, alpha),
            (prediction.capsule_weights, capsule_alpha),
            (prediction.evidence, evidence),
            (prediction.logits, z),
        ):
            np.testing.assert_allclose(found[i].numpy(), expected, rtol=0, atol=1e-9)
        assert prediction.selected[i].tolist() == (alpha > 0).tolist()
        assert 0 < (alpha > 0).sum() < 6
        # Which is why the evidence of a patch is not its weight times its logits.
        assert np.abs(capsule_alpha.sum(axis=0) - alpha).max() > 0.01


def test_capsules_are_as_many_as_the_paper_says_and_width_scales_their_number() -> None:
    with torch.device("meta"):
        whole = used_model(head="capsule-loss-attention", width=1.0).head
        half = used_model(head="capsule-loss-attention", width=0.5).head
    assert (whole.primary.shape, whole.patch_capsules.shape) == ((32, 16), (64, 128))
    assert (half.primary.shape, half.patch_capsules.shape) == ((16, 16), (32, 128))
    assert whole.trivial_length.shape == (32,)
    assert whole.classifier.in_features == half.classifier.in_features == 128
