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


def patch_weights(
    patch_logits: Float[Tensor, "B M K"],
    threshold: float = 0.1,
    mask: Bool[Tensor, "B M"] | None = None,
) -> Float[Tensor, "B M"]:
    """Weigh each patch by the length of its class vector (Eqs. 5a and 5b).

    Args:
        patch_logits: `p`, the class vector of each patch, shape `(B, M, K)`.
        threshold: the paper's xi in [0, 1]: patches whose fraction is under `threshold / M` are
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
    if mask is not None:
        check_mask(mask, patch_logits.shape[:2])
    fractions = _fractions(_lengths(real_part(patch_logits, mask)), mask)
    return _drop_trivial(fractions, threshold, mask)


def capsule_weights(
    capsule_logits: Float[Tensor, "B C M K"],
    threshold: float = 0.1,
    mask: Bool[Tensor, "B M"] | None = None,
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B C M"]]:
    """Weigh patches and the capsules in them by the length of their class vectors (Eqs. 6a to 6c).

    Args:
        capsule_logits: `p_cm`, the class vector of each capsule, shape `(B, C, M, K)`.
        threshold: the paper's xi in [0, 1], applied to the fraction of a patch as a whole.
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
    of_capsules = None
    if mask is not None:
        check_mask(mask, capsule_logits.shape[::2])
        capsule_logits = real_part(capsule_logits, mask.unsqueeze(1))
        of_capsules = mask.repeat(1, capsule_logits.shape[1])
    fractions = _fractions(_lengths(capsule_logits.flatten(1, 2)), of_capsules)
    fractions = fractions.reshape(capsule_logits.shape[:3])
    weights = _drop_trivial(fractions.sum(dim=1), threshold, mask)
    kept = fractions * (weights > 0).unsqueeze(1)
    return weights, kept / kept.sum(dim=(1, 2), keepdim=True)


def pool_patches(
    patch_logits: Float[Tensor, "B M K"],
    weights: Float[Tensor, "B M"],
    mask: Bool[Tensor, "B M"] | None = None,
) -> Float[Tensor, "B K"]:
    """Return the image logits `sum over m of alpha_m p_m` (Eqs. 5c and 5d).

    The classifier's bias is part of `p_m`; as the weights sum to 1, it comes through unchanged.

    Args:
        patch_logits: `p`, shape `(B, M, K)`.
        weights: `alpha`, shape `(B, M)`.
        mask: True where a patch is real; what a masked one holds takes no part. None: all are.

    Raises:
        ValueError: a mask of another shape or type, or a bag without a single real patch.
    """
    if mask is not None:
        check_mask(mask, weights.shape)
    return torch.einsum("bm,bmk->bk", real_part(weights, mask), real_part(patch_logits, mask))


def centred(logits: Float[Tensor, "*N K"]) -> Float[Tensor, "*N K"]:
    """Return logits less their mean over the classes: `p_mk - mean over j of p_mj`.

    A softmax does not see a number that a patch adds to all classes alike. The length of its class
    vector does, and with it Eq. 5's weight, and so does its evidence; here that number is gone.

    Args:
        logits: class vectors, of patches or capsules, K at least 2.

    Example:
        >>> import torch
        >>> centred(torch.tensor([[6.0, 4.0, 2.0], [11.0, 13.0, 9.0]]))
        tensor([[ 2.,  0., -2.],
                [ 0.,  2., -2.]])
    """
    return logits - logits.mean(dim=-1, keepdim=True)


def check_mask(mask: Tensor, shape: Sequence[int]) -> None:
    """Raise `ValueError` for a mask of another type or shape, or one that leaves a bag empty.

    An empty bag is found on the CPU only, and not while a graph is traced: reading the mask would
    make the host wait for the device, or has nothing to read yet. Its weights are NaN there.
    """
    if tuple(mask.shape) != tuple(shape) or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool of shape {tuple(shape)} like the patches, "
            f"got {mask.dtype} of {tuple(mask.shape)}"
        )
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return
    empty = ~mask.any(dim=1)
    if empty.any():
        raise ValueError(f"bag {int(empty.nonzero()[0])} has no unmasked patch")


def real_part(values: Float[Tensor, "*N"], mask: Bool[Tensor, "*P"] | None) -> Float[Tensor, "*N"]:
    """Return values with zeros for what is masked, whatever it holds, NaN included.

    Args:
        values: of patches, one each or, along further axes, several.
        mask: True where a patch is real; its axes are the first of the values'. None: all are.
    """
    if mask is None:
        return values
    # A product would not do: 0 * NaN is NaN.
    masked = ~mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))
    return values.masked_fill(masked, 0.0)


def full_precision(values: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Return float32 for anything less; float64 stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def per_patch(
    threshold: float, weights: Float[Tensor, "B M"], mask: Bool[Tensor, "B M"] | None
) -> Float[Tensor, ""] | Float[Tensor, "B 1"]:
    """Return `threshold / M`, where M counts the patches that are not masked."""
    # Divided in float64 both times: the same number for a bag with and without filler.
    if mask is None:
        # A tensor rather than a number, which no exported program can have of an unknown size.
        whole = torch.full((), threshold, dtype=torch.float64, device="cpu")
        return (whole / weights.shape[1]).to(weights.dtype)
    return (threshold / mask.sum(dim=1, keepdim=True).double()).to(weights.dtype)


def _check_threshold(threshold: float) -> None:
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")


def _lengths(logits: Float[Tensor, "B N K"]) -> Float[Tensor, "B N"]:
    """Return the lengths of class vectors, the terms of the l2,1 norm (Eq. 4).

    They are in units of the largest magnitude of the image's logits, which weights do not depend
    on.
    """
    logits = full_precision(logits)
    values, of_image = logits.detach(), (1, 2)
    # Not of absolute values, which would be a copy, and a large one for many classes.
    largest = torch.maximum(
        values.amax(of_image, keepdim=True), -values.amin(of_image, keepdim=True)
    )
    # Below the smallest normal number, dividing by it would overflow the gradient: all but zero.
    scale = largest.where(largest >= torch.finfo(largest.dtype).tiny, 1.0)
    # vector_norm has gradient 0 at a zero row, where the derivative of the root does not exist.
    lengths: Tensor = torch.linalg.vector_norm(logits / scale, dim=2)
    return lengths


def _fractions(
    lengths: Float[Tensor, "B N"], mask: Bool[Tensor, "B N"] | None
) -> Float[Tensor, "B N"]:
    """Each length as a fraction of their sum (Eq. 5a); uniform where that is zero."""
    if mask is None:
        uniform = torch.ones_like(lengths) / lengths.shape[1]
    else:
        uniform = mask.to(lengths.dtype) / mask.sum(dim=1, keepdim=True)
    total = lengths.sum(dim=1, keepdim=True)
    nonzero = total > 0
    return torch.where(nonzero, lengths / total.where(nonzero, 1.0), uniform)


def _drop_trivial(
    fractions: Float[Tensor, "B M"], threshold: float, mask: Bool[Tensor, "B M"] | None
) -> Float[Tensor, "B M"]:
    """Subtract `threshold / M`, drop what falls below zero, normalise again (Eqs. 5b and 6b)."""
    kept = torch.relu(fractions - per_patch(threshold, fractions, mask))
    total = kept.sum(dim=1, keepdim=True)
    # What is kept sums to at least 1 - threshold; less than a few roundings is nothing but them.
    meaningful = total > 16 * torch.finfo(fractions.dtype).eps
    return torch.where(meaningful, kept / total.where(meaningful, 1.0), fractions)
