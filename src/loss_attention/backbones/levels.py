"""Feature maps of a network at one or several strides, and how several become one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Features = Tensor | tuple[Tensor, ...]
"""A map `(B, D, h, w)`; or one for each level, from the finest to the coarsest, not yet joined."""


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, in units of [0, 1], that images are given."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def levels_of(features: Features) -> tuple[Tensor, ...]:
    """Return the map of each level, of one map that alone."""
    return (features,) if isinstance(features, Tensor) else features


def joined(features: Features, level: int = 0) -> Tensor:
    """Return several maps as one, `(B, sum of D, h, w)`; one map is returned as it is.

    Args:
        features: what a backbone returns.
        level: index of the map whose cells those of the result are; see `joined_level`.

    Example:
        >>> fine, coarse = torch.arange(16.0).reshape(1, 1, 4, 4), torch.ones(1, 2, 2, 2)
        >>> joined((fine, coarse), level=1)[0, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    if isinstance(features, Tensor):
        return features
    height, width = features[level].shape[2:]
    return torch.cat([resized(one, height, width) for one in features], dim=1)


def resized(features: Tensor, height: int, width: int) -> Tensor:
    """Return a map with other cells: the mean of those that are joined, or bilinear between them.

    Which of the two is decided by the map's height.
    """
    rows, columns = features.shape[2:]
    if (rows, columns) == (height, width):
        return features
    if rows > height:
        return F.adaptive_avg_pool2d(features, (height, width))
    return F.interpolate(features, (height, width), mode="bilinear", align_corners=False)
