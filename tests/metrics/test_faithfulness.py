"""Agreement with masking and change under randomisation, against SciPy and a linear model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from loss_attention.geometry import PatchGrid
from loss_attention.metrics import faithfulness
from loss_attention.metrics.faithfulness import (
    correlation,
    masking_falls,
    randomisation_similarity,
    rank_correlation,
    sensitivity_1,
)


def test_correlations_are_those_of_scipy() -> None:
    a = torch.randint(0, 5, (6, 40)).float()  # many ties
    b = a + torch.randint(0, 5, (6, 40)) - 3 * torch.arange(6).unsqueeze(1) * a
    for ours, theirs in ((correlation, stats.pearsonr), (rank_correlation, stats.spearmanr)):
        wanted = [
            theirs(x, y).statistic
            for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)
        ]
        assert min(wanted) < -0.5
        assert max(wanted) > 0.5
        np.testing.assert_allclose(ours(a, b), wanted, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
def test_a_constant_map_says_nothing(value: float) -> None:
    constant, other = torch.full((1, 30), value), torch.rand(1, 30)
    assert correlation(constant, other).item() == 0
    assert rank_correlation(other, constant).item() == 0


def test_maps_that_do_not_change_are_worthless() -> None:
    maps = torch.rand(4, 3, 5)
    maps[1] = 0.25
    changed = maps.clone()
    changed[2] = -maps[2]
    changed[3] = maps[3] ** 3  # other values in the same order
    found = randomisation_similarity(maps, changed)
    assert found.tolist() == pytest.approx([1.0, 1.0, -1.0, 1.0])
    assert 0 < randomisation_similarity(maps[:1], torch.rand(1, 3, 5)).abs().item() < 0.9


@pytest.mark.parametrize("pixels", [1, 4 * 5 * 6 * 7, 1 << 30])
def test_masking_a_linear_model(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the score is a sum over pixels, the fall is the window's part of that sum."""
    monkeypatch.setattr(faithfulness, "PIXELS_AT_ONCE", pixels)  # one window, four, or all
    grid = PatchGrid(rows=2, columns=3, window=4, stride=2, height=6, width=7)
    images, fill = torch.rand(5, 2, 6, 7), torch.rand(5, 2, 6, 7)
    weights = torch.randn(2, 6, 7)
    falls = masking_falls(lambda x: (x * weights).sum(dim=(1, 2, 3)), images, grid.windows(), fill)
    parts = (weights * (images - fill)).double().numpy().sum(axis=1)
    wanted = np.stack(
        [
            parts[:, r : r + 4, c : min(c + 4, 7)].sum(axis=(1, 2))
            for r in (0, 2)
            for c in (0, 2, 4)
        ],
        axis=1,
    )
    np.testing.assert_allclose(falls, wanted, atol=1e-5)
    exact = torch.from_numpy(wanted).float()
    assert sensitivity_1(3 * exact + 1, falls).tolist() == pytest.approx([1.0] * 5)
    assert sensitivity_1(-exact, falls).tolist() == pytest.approx([-1.0] * 5)
    assert sensitivity_1(torch.ones_like(exact), falls).tolist() == [0.0] * 5
