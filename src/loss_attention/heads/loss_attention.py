"""The paper's weighing of patches: the classifier's own logits decide (Eq. 5)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.attention import scaled_lengths, weights_of_lengths
from loss_attention.many_classes import PatchLogits


class LossAttention(nn.Module):
    """Weights from the lengths of the patches' class vectors; no parameters of its own."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(
        self,
        patches: Float[Tensor, "B M D"],  # noqa: ARG002 (other heads weigh by features)
        patch_logits: PatchLogits,
    ) -> Float[Tensor, "B M"]:
        """Return Eq. 5's weights."""
        return weights_of_lengths(scaled_lengths(patch_logits), self.threshold)
