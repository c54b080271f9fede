"""Ways of weighing patches that the paper compares with."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class MeanPooling(nn.Module):
    """The same weight, 1/M, for every patch."""

    def forward(
        self,
        patches: Float[Tensor, "B M D"],  # noqa: ARG002 (other heads weigh by features)
        patch_logits: Float[Tensor, "B M K"],
    ) -> Float[Tensor, "B M"]:
        """Return uniform weights."""
        batch, count, _ = patch_logits.shape
        return patch_logits.new_full((batch, count), 1.0 / count)
