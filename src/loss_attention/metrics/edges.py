"""How strong the edges in an image are: what an explanation must beat to be worth looking at.

An edge detector passes for an explanation to many eyes and knows nothing of the model: Adebayo et
al., Sanity Checks for Saliency Maps, NeurIPS 2018.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from loss_attention.geometry import PatchGrid


def edge_strength(images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B H W"]:
    """Return the magnitude of the brightness gradient by the Sobel operator, in brightness a pixel.

    Brightness is the mean over the channels; at the border the outermost pixels are repeated.
    """
    grey = images.float().mean(dim=1, keepdim=True)
    across = grey.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    slopes = F.conv2d(padded, torch.stack([across, across.T]).unsqueeze(1))
    strength: Tensor = torch.linalg.vector_norm(slopes, dim=1)
    return strength


def edges_in_windows(images: Shaped[Tensor, "B C H W"], grid: PatchGrid) -> Float[Tensor, "B M"]:
    """Return the mean strength of the edges in each patch's window."""
    strength = edge_strength(images).unsqueeze(1)
    height = (grid.rows - 1) * grid.stride + grid.window
    width = (grid.columns - 1) * grid.stride + grid.window
    # Windows may reach past the image; what is not there adds nothing and does not count.
    pad = (0, max(0, width - grid.width), 0, max(0, height - grid.height))
    total = F.avg_pool2d(F.pad(strength, pad), grid.window, grid.stride)
    there = F.avg_pool2d(F.pad(torch.ones_like(strength[:1]), pad), grid.window, grid.stride)
    return (total / there)[:, 0, : grid.rows, : grid.columns].flatten(1)
