"""Dropout that draws a byte for each feature: torch's own takes a quarter of a step on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 256
"""Of a byte: a fraction is rounded to a multiple of one over so many."""
_BYTES = 8
"""Of a random number of 64 bits."""


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, faster where it trains on a CPU.

    There the dropped fraction is that of the nearest byte, at most 1/512 away, and what is kept is
    scaled by the same: the expectation of each feature is that of the feature itself.

    Args:
        p: the fraction that training drops, in [0, 1).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return features of any shape, some of them 0 in training."""
        if not self.training or input.device.type != "cpu":
            return functional.dropout(input, self.p, self.training)
        kept = max(1, LEVELS - round(LEVELS * self.p))
        if kept == LEVELS:
            return input
        numbers = torch.randint(-(2**63), 2**63 - 1, (-(-input.numel() // _BYTES),))
        chance = numbers.view(torch.uint8)[: input.numel()].view(input.shape)
        # Scaled before: one product for the gradient, too, and not two.
        return input * (chance < kept).to(input.dtype).mul_(LEVELS / kept)
