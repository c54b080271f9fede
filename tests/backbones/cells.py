"""Whether the cells of a map lie where the image has what they show."""

from __future__ import annotations

import torch

from loss_attention.backbones import Backbone


def check_cells(backbone: Backbone, channels: int, stride: int, *, images: int, name: str) -> None:
    """Change squares of an image: the cells there have to change the most, of `(B, D, 5, 7)`."""
    pixels = torch.rand(images, 3, 5 * stride, 7 * stride)
    with torch.inference_mode():
        before = backbone(pixels)
        assert before.shape == (images, channels, 5, 7)
        for row, column in ((0, 0), (0, 5), (3, 0)):
            changed = pixels.clone()
            changed[
                ..., row * stride : (row + 2) * stride, column * stride : (column + 2) * stride
            ] *= -3
            moved = (backbone(changed) - before).square().sum(1)[0]
            most = divmod(moved.argmax().item(), 7)
            # Where a cell lies at the first of its pixels, a third row and column sees as many.
            assert row <= most[0] <= row + 2, name
            assert column <= most[1] <= column + 2, name
