"""Ways of weighing patches that the paper compares with."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.many_classes import PatchLogits
from loss_attention.prediction import full_precision

ATTENTION_UNITS = 128


class MeanPooling(nn.Module):
    """The same weight, 1/M, for every patch."""

    def forward(
        self,
        patches: Float[Tensor, "B M D"],
        patch_logits: PatchLogits,  # noqa: ARG002 (other heads weigh by logits)
    ) -> Float[Tensor, "B M"]:
        """Return uniform weights, in float32 or better."""
        batch, count, _ = patches.shape
        dtype = torch.promote_types(patches.dtype, torch.float32)
        return patches.new_full((batch, count), 1.0 / count, dtype=dtype)


class AttentionPooling(nn.Module):
    """Weights from a network of two layers on the patch features (Ilse et al. 2018, Eqs. 7 to 9).

    `a_m = softmax over m of w^T tanh(V h_m)`; gated: `w^T (tanh(V h_m) * sigmoid(U h_m))`. V, U and
    w have no bias, as printed there; w's would cancel in the softmax. The models' parameter counts
    do not tell whether the paper had them: ungated, ours are 30.79 and 32.74 million either way
    where its Table II prints 30.80 and 32.73.

    Args:
        channels: D, features of a patch.
        units: hidden units; 128 in both papers.
        gated: with the sigmoid gate U.
    """

    def __init__(self, channels: int, units: int, *, gated: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, units, bias=False)
        self.gate = nn.Linear(channels, units, bias=False) if gated else None
        self.score = nn.Linear(units, 1, bias=False)

    def forward(
        self,
        patches: Float[Tensor, "B M D"],
        patch_logits: PatchLogits,  # noqa: ARG002 (other heads weigh by logits)
    ) -> Float[Tensor, "B M"]:
        """Return the weights, in float32 or better."""
        hidden = torch.tanh(self.hidden(patches))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(patches))
        return torch.softmax(full_precision(self.score(hidden).squeeze(2)), dim=1)
