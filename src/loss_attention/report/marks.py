"""What is drawn of an explanation, and tensors as pictures: from torch to what draws without it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from loss_attention.explanation import Explanation
from loss_attention.geometry import PatchGrid
from loss_attention.quantities import NO_MARGIN
from loss_attention.report.drawing import Marks, no_boxes


def marks_of(
    explanation: Explanation, index: int, truths: Float[np.ndarray, "G 4"] | None = None
) -> Marks:
    """Return what to draw for one image of an explained batch.

    Args:
        explanation: of the batch.
        index: which image of it.
        truths: its true boxes in pixels of the model's input; rows of NaN are left out.
    """
    windows = _windows(explanation.grid)
    boxes = explanation.boxes[index : index + 1].cpu().numpy()
    truths = no_boxes() if truths is None else truths
    return Marks(
        heat_map=explanation.heat_maps[index].float().cpu().numpy(),
        windows=windows[explanation.selected[index].cpu().numpy()],
        boxes=boxes[~np.isnan(boxes).any(axis=1)],
        truths=truths[~np.isnan(truths).any(axis=1)],
        shown=explanation.shown_of(index),
        note=NO_MARGIN if explanation.is_empty(index) else "",
    )


@lru_cache(maxsize=16)
def _windows(grid: PatchGrid) -> Float[np.ndarray, "M 4"]:
    """Return the windows of a grid, the same for all images of one size."""
    windows: Float[np.ndarray, "M 4"] = grid.windows().numpy()
    return windows


def as_picture(pixels: UInt8[Tensor, "C H W"]) -> Image.Image:
    """Return an image of one channel or of three, on the CPU, as a picture."""
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
