from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import sobel

from loss_attention.geometry import PatchGrid
from loss_attention.metrics.localisation import edge_strength, edges_in_windows


def test_strength_is_scipys_sobel() -> None:
    images = torch.randint(256, (3, 3, 9, 12), dtype=torch.uint8)
    grey = images.double().numpy().mean(axis=1)
    for image, strength in zip(grey, edge_strength(images), strict=True):
        slopes = [sobel(image, axis=axis, mode="nearest") / 8 for axis in (0, 1)]
        np.testing.assert_allclose(strength, np.hypot(*slopes), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "grid",
    [
        PatchGrid(2, 3, window=4, stride=3, height=9, width=12),
        PatchGrid(2, 2, window=7, stride=6, height=9, width=12),  # past both edges
    ],
)
def test_a_patch_has_the_mean_over_its_window(grid: PatchGrid) -> None:
    images = torch.rand(2, 1, 9, 12)
    strength = edge_strength(images)
    expected = [
        [
            image[int(y0) : int(y1), int(x0) : int(x1)].mean().item()
            for x0, y0, x1, y1 in grid.windows().tolist()
        ]
        for image in strength
    ]
    assert edges_in_windows(images, grid).tolist() == [pytest.approx(row) for row in expected]
