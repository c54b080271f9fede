"""Whether a map says what the model does: masking, randomised weights, insertion and deletion.

Sensitivity-1 and the randomisation test are correlations, in [-1, 1]; the
values are taken as float64 first.

Insertion and deletion are what becomes of a score as pixels go or come in the order of a map.
Deletion replaces the most important pixels first; the sooner the score falls the better, so a
smaller area under the curve is better. Insertion starts from the fill and brings the most important
pixels back first; a larger area is better. Both areas are in the score's range, so in [0, 1] for
probabilities. Petsiuk et al. 2018, "RISE"; the patch version removes the windows of the model's own
patches. Trivial baselines: the same curves in a random order and in that of edges. What the fill
brings in is new to the model as well, which is why there are two, blurred and of the mean colour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loss_attention.geometry import PatchGrid

Score = Callable[[Tensor], Tensor]
"""From N times a batch, `(N * B, C, H, W)`, to what the model makes of the explained class of each,
`(N * B,)`; N is 1 or more."""
Images = Float[Tensor, "B C H W"]
Order = Int[Tensor, "B H W"]
"""In which step each pixel changes."""
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


def sensitivity_1(
    patch_scores: Float[Tensor, "B M"], falls: Float[Tensor, "B M"]
) -> Float[Tensor, " B"]:
    """Return how the scores of an image's patches go along with what masking each does to it.

    The linear correlation over patches, in [-1, 1]; higher is better. Alvarez-Melis & Jaakkola
    2018, "Towards Robust Interpretability with Self-Explaining Neural Networks"; Ancona et al.
    2018 (Sensitivity-n, for n = 1). Uniform scores have 0, random ones about 0.

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
    Saliency Maps". Trivial baselines have 1: uniform, random and edge maps ignore the model.
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


STEPS = 16
"""Steps in which pixels or patches go or come, about equally many in each."""
BLUR = 1 / 8
"""Standard deviation of the Gaussian that blurs, as a part of the image's shorter side."""
_TIES = 20210118
"""Seed of the order in which equal values are taken: in reading order, a constant map would not be
neutral, but start in a corner."""


class Curve(NamedTuple):
    """What each image scored as its pixels changed.

    Attributes:
        scores: before the first step and after each.
        changed: the fraction of the pixels that had changed by then, from 0 to 1.
    """

    scores: Float[Tensor, "B S"]
    changed: Float[Tensor, "B S"]

    @property
    def area(self) -> Float[Tensor, " B"]:
        """The area under the scores over the fraction of changed pixels, by trapezoids."""
        return torch.trapezoid(self.scores.double(), self.changed.double(), dim=1)


def mean_fill(
    images: Float[Tensor, "B C H W"], colour: Float[Tensor, "C 1 1"]
) -> Float[Tensor, "B C H W"]:
    """Return images of one colour, the training set's mean."""
    return colour.to(images.dtype).expand_as(images)


def blurred_fill(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Return the images blurred until only their large patches of colour are left.

    A Gaussian of a standard deviation of an eighth of the shorter side; near the border the weights
    that fall inside the image are scaled to a sum of 1.
    """
    height, width = images.shape[2:]
    sigma = BLUR * min(height, width)
    down, across = (_gaussian(side, sigma, images) for side in (height, width))
    return torch.einsum("yv,bcvu,xu->bcyx", down, images, across)


def pixel_order(maps: Float[Tensor, "B H W"], steps: int = STEPS) -> Int[Tensor, "B H W"]:
    """Return in which step, 1 to `steps`, each pixel changes: the largest values in the first.

    Example:
        >>> pixel_order(torch.tensor([[[0.1, 0.9], [0.5, -2.0]]]), steps=2)
        tensor([[[2, 1],
                 [1, 2]]])
    """
    ranks = _descending_ranks(maps.flatten(1))
    return (ranks * steps // ranks.shape[1] + 1).reshape(maps.shape)


def patch_order(
    scores: Float[Tensor, "B M"], grid: PatchGrid, steps: int = STEPS
) -> Int[Tensor, "B H W"]:
    """Return in which step each pixel changes when windows go whole, those of most worth first.

    A pixel under several windows goes with the first. Pixels under no window go with the last, so
    that every curve ends at the same image. There are `steps` of them, or M if that is fewer.
    """
    steps = min(steps, grid.patches)
    ranks = _descending_ranks(scores) * steps // grid.patches + 1
    order = ranks.new_full((len(scores), grid.height, grid.width), steps)
    for m, (x0, y0, x1, y1) in enumerate(grid.windows().int().tolist()):
        part = order[:, y0:y1, x0:x1]
        torch.minimum(part, ranks[:, m, None, None], out=part)
    return order


class Ends(NamedTuple):
    """The scores that all curves of a batch and a fill begin or end with."""

    images: Float[Tensor, " B"]
    fill: Float[Tensor, " B"]


def deletion_curve(
    score: Score, images: Images, fill: Images, order: Order, ends: Ends | None = None
) -> Curve:
    """Return the scores as pixels are replaced by the fill; a smaller area is better.

    Args:
        score: called with images of this batch, all of it several times over.
        images: in [0, 1].
        fill: what a removed pixel becomes.
        order: in which step each pixel changes, from `pixel_order` or `patch_order`.
        ends: the scores of the images and of the fill, where they are known already.
    """
    ends = ends or Ends(score(images), score(fill))
    return _curve(score, images, fill, order, ends)


def insertion_curve(
    score: Score, images: Images, fill: Images, order: Order, ends: Ends | None = None
) -> Curve:
    """Return the scores as the fill's pixels become the image's; a larger area is better.

    The arguments are those of `deletion_curve`.
    """
    ends = ends or Ends(score(images), score(fill))
    return _curve(score, fill, images, order, Ends(ends.fill, ends.images))


def _curve(
    score: Score,
    start: Float[Tensor, "B C H W"],
    end: Float[Tensor, "B C H W"],
    order: Int[Tensor, "B H W"],
    ends: Ends,
) -> Curve:
    """Return the scores on the way from `start` to `end`; those of `ends` are in this order."""
    last = int(order.max())
    steps = torch.arange(1, last, device=order.device)
    scores = [ends[0].unsqueeze(0)]
    for some in torch.split(steps, max(1, PIXELS_AT_ONCE // order.numel())):
        done = (order <= some[:, None, None, None]).unsqueeze(2)
        between = torch.where(done, end, start)
        scores.append(score(between.flatten(0, 1)).reshape(len(some), len(start)))
    scores.append(ends[1].unsqueeze(0))
    counts = torch.stack([(order <= step).double().mean(dim=(1, 2)) for step in range(last + 1)])
    return Curve(torch.cat(scores).T, counts.T)


def _descending_ranks(values: Float[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """Return each value's rank in its row, 0 for the largest; ties in a fixed random order."""
    count = values.shape[1]
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(_TIES))
    mixed = mixed.to(values.device)
    order = mixed[values[:, mixed].argsort(dim=1, descending=True, stable=True)]
    ranks = torch.empty_like(order)
    return ranks.scatter_(1, order, torch.arange(count, device=values.device).expand_as(order))


def _gaussian(side: int, sigma: float, like: Tensor) -> Float[Tensor, "n n"]:
    """Return the matrix that blurs one axis; each row sums to 1."""
    at = torch.arange(side, dtype=like.dtype, device=like.device)
    weights = torch.exp(-((at - at.unsqueeze(1)) ** 2) / (2 * sigma**2))
    return weights / weights.sum(dim=1, keepdim=True)
