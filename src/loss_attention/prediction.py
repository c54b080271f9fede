"""What a forward pass returns: the logits and everything that they were made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loss_attention.geometry import PatchGrid


@dataclass
class ImagePrediction:
    """The prediction of a network without patches: logits and nothing to point at."""

    logits: Float[Tensor, "B K"]


# Not frozen: Fabric rebuilds a module's outputs in full precision, which needs settable fields.
@dataclass
class PatchPrediction(ImagePrediction):
    """The prediction of a patch network, with the evidence that adds up to it.

    Attributes:
        logits: the image's class vector, shape `(B, K)`, float32.
        patch_logits: `p_m`, the class vector of each patch, shape `(B, M, K)`, float32.
        patch_weights: `alpha_m`, shape `(B, M)`, float32; non-negative, each row sums to 1.
        grid: where the patches lie in the input image.
        selection: a patch is selected when its weight is greater than `selection / M`.
    """

    patch_logits: Float[Tensor, "B M K"]
    patch_weights: Float[Tensor, "B M"]
    grid: PatchGrid
    selection: float

    @property
    def evidence(self) -> Float[Tensor, "B M K"]:
        """`alpha_m * p_m`, what each patch adds to each class; sums over M to `logits`."""
        return self.patch_weights.unsqueeze(-1) * self.patch_logits

    @property
    def selected(self) -> Bool[Tensor, "B M"]:
        """True for the patches that count as chosen by the network."""
        return self.patch_weights > self.selection / self.patch_weights.shape[1]


def full_precision(values: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Return float32 for anything less; float64 stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pool_patches(
    patch_logits: Float[Tensor, "B M K"], weights: Float[Tensor, "B M"]
) -> Float[Tensor, "B K"]:
    """Return the image logits `sum over m of alpha_m p_m` (Eqs. 5c and 5d).

    The classifier's bias is part of `p_m`; as the weights sum to 1, it comes through unchanged.
    """
    return torch.einsum("bm,bmk->bk", weights, patch_logits)
