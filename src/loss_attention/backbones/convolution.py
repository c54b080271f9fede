"""The convolution of all our networks: torch's, but for one case that is unsafe in oneDNN."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """A convolution whose 1 x 1 kernel, where it strides, first picks the places that it will see.

    The result is the same. For the weights' gradient of a strided 1 x 1 convolution, channels last,
    of fewer input channels than a vector register holds, oneDNN writes past its memory on CPUs with
    AVX2 alone, and training narrow ResNets crashed (oneDNN's issue 6035; in torch 2.13). Without a
    stride the same convolution is right.
    """

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the convolved maps."""
        if self.kernel_size != (1, 1) or self.stride == (1, 1) or self.padding != (0, 0):
            return super().forward(input)
        down, right = self.stride
        return F.conv2d(input[..., ::down, ::right], self.weight, self.bias)
