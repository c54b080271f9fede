"""Whether a map says what the model does: agreement with masking, and change under randomisation.

All are correlations, in [-1, 1], of pure tensors; the values are taken as float64 first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Score = Callable[[Tensor], Tensor]
"""From N times a batch, `(N * B, C, H, W)`, to what the model makes of the explained class of each,
`(N * B,)`; N is 1 or more."""
PIXELS_AT_ONCE = 256 * 64 * 64
"""Of the variants of images that are scored together."""


def masking_falls(
    score: Score,
    images: Float[Tensor, "B C H W"],
    windows: Float[Tensor, "M 4"],
    fill: Float[Tensor, "B C H W"],
) -> Float[Tensor, "B M"]:
    """Return how far the score falls when one window alone is replaced by the fill.

    Args:
        score: the logit of each image's explained class.
        images: in [0, 1].
        windows: `(x0, y0, x1, y1)` in whole pixels, x1 and y1 exclusive.
        fill: what a masked pixel becomes.
    """
    whole, falls = score(images), []
    for some in torch.split(windows, max(1, PIXELS_AT_ONCE // images[:, 0].numel())):
        masked = images.repeat(len(some), 1, 1, 1, 1)
        for variant, (x0, y0, x1, y1) in zip(masked, some.int().tolist(), strict=True):
            variant[:, :, y0:y1, x0:x1] = fill[:, :, y0:y1, x0:x1]
        falls.append(whole - score(masked.flatten(0, 1)).reshape(len(some), -1))
    return torch.cat(falls).T


def masking_agreement(
    patch_scores: Float[Tensor, "B M"], falls: Float[Tensor, "B M"]
) -> Float[Tensor, " B"]:
    """Return how the scores of an image's patches go along with what masking each does to it.

    The linear correlation over patches, in [-1, 1]; higher is better. Alvarez-Melis & Jaakkola
    2018, "Towards Robust Interpretability with Self-Explaining Neural Networks"; Ancona et al.
    2018 (Sensitivity-1). The floor of uniform scores is 0, of random ones about 0.

    Args:
        patch_scores: what the explanation says of each patch.
        falls: how far the logit fell when it alone was masked, from `masking_falls`.
    """
    return correlation(patch_scores, falls)


def randomisation_similarity(
    before: Float[Tensor, "B H W"], after: Float[Tensor, "B H W"]
) -> Float[Tensor, " B"]:
    """Return how much a map stayed as it was when the model's weights were randomised.

    The rank correlation over pixels, in [-1, 1]; lower is better, down to 0: a map that does not
    change (1) does not come from the weights, and is worthless as an explanation of the model.
    Equal maps have 1 even where they are constant. Adebayo et al. 2018, "Sanity Checks for
    Saliency Maps". The floor is 1: uniform, random and edge maps do not heed the model.
    """
    same = (before == after).flatten(1).all(dim=1)
    return torch.where(same, 1.0, rank_correlation(before.flatten(1), after.flatten(1)))


def correlation(a: Float[Tensor, "B N"], b: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
    """Return Pearson's correlation of each pair of rows, float64; 0 where a row is constant.

    Example:
        >>> correlation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 1.0, 1.0]]))
        tensor([-0.8660], dtype=torch.float64)
    """
    return (_centred(a) * _centred(b)).sum(dim=1).clamp(-1, 1)


def rank_correlation(a: Float[Tensor, "B N"], b: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
    """Return Spearman's correlation of each pair of rows, float64; 0 where a row is constant.

    Equal values share the mean of their ranks.

    Example:
        >>> rank_correlation(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[2.0, 9.0, 3.0]]))
        tensor([0.5000], dtype=torch.float64)
    """
    return correlation(_ranks(a), _ranks(b))


def _ranks(values: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Return the rank of each value in its row, equal values with the mean of theirs."""
    values = values.contiguous()
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to + 1).double() / 2


def _centred(values: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Return rows of mean 0 and length 1; zeros for a constant row."""
    values = values.double()
    apart = values - values.mean(dim=1, keepdim=True)
    length = torch.linalg.vector_norm(apart, dim=1, keepdim=True)
    # Rounding leaves a little of equal values too.
    least = 1e-13 * torch.linalg.vector_norm(values, dim=1, keepdim=True)
    return torch.where(length > least, apart / length, 0.0)
