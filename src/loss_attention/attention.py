"""The paper's attention: patch weights from patch logits (Eqs. 4 to 6), as pure functions.

Nothing here has parameters. A patch that the classifier is indifferent to has a short class
vector, and so a small weight; that is the whole idea.

Decisions where the paper is silent:

* M is the number of patches (for a bag with a mask: the number of its unmasked patches).
* Weights are computed in float32 (float64 stays float64), whatever the autocast dtype, and each
  image's logits are divided by their largest magnitude first, so that squares neither overflow
  nor vanish. Weights do not depend on that scale.
* All patch logits zero: uniform weights, finite (zero) gradients.
* A threshold that would drop every patch, which only rounding at a threshold near 1 can bring
  about, drops none: Eq. 5a stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loss_attention.many_classes import PatchLogits, each_patch


def patch_weights(
    patch_logits: Float[Tensor, "B M K"],
    threshold: float = 0.1,
    mask: Bool[Tensor, "B M"] | None = None,
) -> Float[Tensor, "B M"]:
    """Weigh each patch by the length of its class vector (Eqs. 5a and 5b).

    Args:
        patch_logits: `p`, the class vector of each patch, shape `(B, M, K)`.
        threshold: the paper's xi in [0, 1]: patches whose share is under `threshold / M` are
            dropped, the rest reduced by it and normalised again.
        mask: shape `(B, M)`, True where a patch is real; for bags of unequal size. A masked patch
            has weight exactly 0 and receives no gradient. None: all patches are real.

    Returns:
        `alpha`, shape `(B, M)`, float32 (float64 for float64 logits), non-negative; each row sums
        to 1.

    Raises:
        ValueError: a shape that is not as above, no patch or no class, a threshold outside
            [0, 1], or a bag without a single real patch.

    Example:
        >>> import torch
        >>> p = torch.tensor([[[3.0, 4.0], [0.0, 5.0], [0.1, 0.0]]])
        >>> patch_weights(p, threshold=0.0).round(decimals=3)
        tensor([[0.4950, 0.4950, 0.0100]])
        >>> patch_weights(p, threshold=0.1).round(decimals=3)  # the third is under 0.1 / 3
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    _check_threshold(threshold)
    if patch_logits.ndim != 3 or 0 in patch_logits.shape[1:]:
        raise ValueError(
            "patch_logits must have shape (B, M, K) with at least one patch and one class, "
            f"got {tuple(patch_logits.shape)}"
        )
    if mask is None:
        return weights_of_lengths(scaled_lengths(patch_logits), threshold)
    check_mask(mask, patch_logits.shape[:2])
    return weights_of_lengths(scaled_lengths(real_part(patch_logits, mask)), threshold, mask)


def capsule_weights(
    capsule_logits: Float[Tensor, "B C M K"],
    threshold: float = 0.1,
    mask: Bool[Tensor, "B M"] | None = None,
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B C M"]]:
    """Weigh patches and the capsules in them by the length of their class vectors (Eqs. 6a to 6c).

    Args:
        capsule_logits: `p_cm`, the class vector of each capsule, shape `(B, C, M, K)`.
        threshold: the paper's xi in [0, 1], applied to the share of a patch as a whole.
        mask: True where a patch is real; see `patch_weights`.

    Returns:
        The patch weights of Eq. 6b, shape `(B, M)`, and the capsule weights of Eq. 6c, shape
        `(B, C, M)`, which are 0 in every dropped patch. Each sums to 1 for each image. They are
        float32 (float64 for float64 logits). Note that the capsule weights of a patch do not sum
        to its patch weight: Eq. 6b subtracts the threshold and Eq. 6c does not.

    Raises:
        ValueError: a shape that is not as above, a threshold outside [0, 1], or a bag without a
            single real patch.

    Example:
        >>> import torch
        >>> p = torch.tensor([3.0, 1.0, 4.0, 0.0]).reshape(1, 2, 2, 1)
        >>> patches, capsules = capsule_weights(p, threshold=0.5)
        >>> patches
        tensor([[1., 0.]])
        >>> capsules.round(decimals=3)
        tensor([[[0.4290, 0.0000],
                 [0.5710, 0.0000]]])
    """
    _check_threshold(threshold)
    if capsule_logits.ndim != 4 or 0 in capsule_logits.shape[1:]:
        raise ValueError(
            "capsule_logits must have shape (B, C, M, K) with at least one of each of the last "
            f"three, got {tuple(capsule_logits.shape)}"
        )
    if mask is not None:
        check_mask(mask, capsule_logits.shape[::2])
        capsule_logits = real_part(capsule_logits, mask.unsqueeze(1))
    lengths = scaled_lengths(capsule_logits.flatten(1, 2))
    return capsule_weights_of_lengths(lengths.reshape(capsule_logits.shape[:3]), threshold, mask)


def check_mask(mask: Tensor, shape: Sequence[int]) -> None:
    """Raise `ValueError` for a mask of another type or shape, or one that leaves a bag empty."""
    if tuple(mask.shape) != tuple(shape) or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool of shape {tuple(shape)} like the patches, "
            f"got {mask.dtype} of {tuple(mask.shape)}"
        )
    empty = ~mask.any(dim=1)
    if empty.any():
        raise ValueError(f"bag {int(empty.nonzero()[0])} has no unmasked patch")


def real_part(
    values: Float[Tensor, "*N K"], mask: Bool[Tensor, "*#N"] | None
) -> Float[Tensor, "*N K"]:
    """Return values of patches with zeros for what is masked, whatever it holds, NaN included."""
    # A product would not do: 0 * NaN is NaN.
    return values if mask is None else values.masked_fill(~mask.unsqueeze(-1), 0.0)


def scaled_lengths(logits: PatchLogits) -> Float[Tensor, "B M"]:
    """Return the lengths of class vectors, the terms of the l2,1 norm (Eq. 4).

    They are in units of the largest magnitude of the image's logits, which weights do not depend
    on. The logits may be held or on demand.
    """

    def full(part: Float[Tensor, "B m K"]) -> Float[Tensor, "B m K"]:
        return part.to(torch.promote_types(part.dtype, torch.float32))

    with torch.no_grad():
        largest = each_patch(logits, lambda part: full(part).abs().amax(dim=2)).amax(dim=1)
    # Below the smallest normal number, dividing by it would overflow the gradient: all but zero.
    scale = largest.where(largest >= torch.finfo(largest.dtype).tiny, 1.0).reshape(-1, 1, 1)
    # vector_norm has gradient 0 at a zero row, where the derivative of the root does not exist.
    return each_patch(logits, lambda part: torch.linalg.vector_norm(full(part) / scale, dim=2))


def weights_of_lengths(
    lengths: Float[Tensor, "B M"], threshold: float, mask: Bool[Tensor, "B M"] | None = None
) -> Float[Tensor, "B M"]:
    """Weigh each patch by the length of its class vector; see `patch_weights`.

    Args:
        lengths: of the class vectors, in any unit; 0 for a masked patch.
        threshold: the paper's xi in [0, 1].
        mask: True where a patch is real; None: all are.
    """
    return _drop_trivial(_shares(lengths, mask), threshold, mask)


def capsule_weights_of_lengths(
    lengths: Float[Tensor, "B C M"], threshold: float, mask: Bool[Tensor, "B M"] | None = None
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B C M"]]:
    """Weigh patches and capsules by the lengths of the latter; see `capsule_weights`.

    Args:
        lengths: of the class vectors, in any unit; 0 for the capsules of a masked patch.
        threshold: the paper's xi in [0, 1].
        mask: True where a patch is real; None: all are.
    """
    of_capsules = None if mask is None else mask.repeat(1, lengths.shape[1])
    shares = _shares(lengths.flatten(1), of_capsules).reshape(lengths.shape)
    weights = _drop_trivial(shares.sum(dim=1), threshold, mask)
    kept = shares * (weights > 0).unsqueeze(1)
    return weights, kept / kept.sum(dim=(1, 2), keepdim=True)


def per_patch(
    threshold: float, weights: Float[Tensor, "B M"], mask: Bool[Tensor, "B M"] | None
) -> float | Float[Tensor, "B 1"]:
    """Return `threshold / M`, where M counts the patches that are not masked."""
    if mask is None:
        return threshold / weights.shape[1]
    # Divided in float64, as Python does above: the same number for a bag with and without filler.
    return (threshold / mask.sum(dim=1, keepdim=True).double()).to(weights.dtype)


def _check_threshold(threshold: float) -> None:
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")


def _shares(
    lengths: Float[Tensor, "B N"], mask: Bool[Tensor, "B N"] | None = None
) -> Float[Tensor, "B N"]:
    """Each length's share of their sum (Eq. 5a); uniform where that is zero."""
    if mask is None:
        uniform = torch.full_like(lengths, 1.0 / lengths.shape[1])
    else:
        uniform = mask.to(lengths.dtype) / mask.sum(dim=1, keepdim=True)
    total = lengths.sum(dim=1, keepdim=True)
    nonzero = total > 0
    return torch.where(nonzero, lengths / total.where(nonzero, 1.0), uniform)


def _drop_trivial(
    shares: Float[Tensor, "B M"], threshold: float, mask: Bool[Tensor, "B M"] | None = None
) -> Float[Tensor, "B M"]:
    """Subtract `threshold / M`, drop what falls below zero, normalise again (Eqs. 5b and 6b)."""
    bound = per_patch(threshold, shares, mask)
    kept = torch.relu(shares - bound)
    total = kept.sum(dim=1, keepdim=True)
    # What is kept sums to at least 1 - threshold; less than a few roundings is nothing but them.
    meaningful = total > 16 * torch.finfo(shares.dtype).eps
    return torch.where(meaningful, kept / total.where(meaningful, 1.0), shares)
