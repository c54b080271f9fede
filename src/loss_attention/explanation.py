"""What a prediction says about where its evidence lies: evidence, heat maps, patches, boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loss_attention.errors import InputError
from loss_attention.geometry import PatchGrid, enclosing_boxes, paint_patches
from loss_attention.prediction import ImagePrediction, PatchPrediction


@dataclass(frozen=True)
class Explanation:
    """The explained predictions of a batch. Nothing in it is estimated: all of it was used.

    Attributes:
        logits: shape `(B, K)`.
        probabilities: shape `(B, K)`: softmax, or sigmoid for a multi-label model.
        target: the explained class of each image, shape `(B,)`.
        evidence: what each patch adds to each class, in units of the logits, shape `(B, M, K)`;
            sums over M to `logits`.
        patch_weights: shape `(B, M)`; each row sums to 1.
        selected: the patches that count as chosen, shape `(B, M)`.
        heat_maps: evidence for the target class painted on the pixels, each pixel the mean over
            the patches that cover it, in units of the logits, shape `(B, H, W)`.
        boxes: the smallest rectangle around the selected patches' windows, in pixels of the input
            `(x0, y0, x1, y1)`, shape `(B, 4)`; NaN where nothing is selected.
        grid: where the patches lie.
    """

    logits: Float[Tensor, "B K"]
    probabilities: Float[Tensor, "B K"]
    target: Int[Tensor, " B"]
    evidence: Float[Tensor, "B M K"]
    patch_weights: Float[Tensor, "B M"]
    selected: Bool[Tensor, "B M"]
    heat_maps: Float[Tensor, "B H W"]
    boxes: Float[Tensor, "B 4"]
    grid: PatchGrid


def explain_prediction(
    prediction: ImagePrediction,
    target: int | Int[Tensor, " B"] | None = None,
    *,
    multi_label: bool = False,
) -> Explanation:
    """Explain a prediction; no hooks, no gradients, one forward pass.

    Args:
        prediction: what the model returned.
        target: the class to explain, one for all or one an image; None: the predicted class.
        multi_label: probabilities are sigmoids rather than a softmax.

    Raises:
        ValueError: a prediction without patches (a baseline), or a target outside the classes.
    """
    if not isinstance(prediction, PatchPrediction):
        raise InputError(
            "this model has no patches, so its decision has no exact evidence to show; "
            "a patch head such as 'loss-attention' or 'mean' has"
        )
    logits = prediction.logits
    batch, classes = logits.shape
    if target is None:
        target = logits.argmax(dim=1)
    target = explained_class(target, batch, classes, logits.device)
    evidence = prediction.evidence
    index = target[:, None, None].expand(-1, evidence.shape[1], 1)
    return Explanation(
        logits=logits,
        probabilities=logits.sigmoid() if multi_label else logits.softmax(dim=1),
        target=target,
        evidence=evidence,
        patch_weights=prediction.patch_weights,
        selected=prediction.selected,
        heat_maps=paint_patches(evidence.gather(2, index).squeeze(2), prediction.grid),
        boxes=enclosing_boxes(prediction.selected, prediction.grid.windows(logits.device)),
        grid=prediction.grid,
    )


def explained_class(
    target: int | Int[Tensor, " B"], batch: int, classes: int, device: torch.device
) -> Int[Tensor, " B"]:
    """Return the class to explain for each image of a batch, as int64 on a device.

    Raises:
        ValueError: not one class for all or one an image, or one outside the classes.
    """
    if isinstance(target, int):
        target = torch.full((batch,), target, device=device)
    in_range = not target.is_floating_point() and ((target >= 0) & (target < classes)).all()
    if target.shape != (batch,) or not in_range:
        raise InputError(
            f"target must be {batch} class indices in 0..{classes - 1}, got {target.tolist()}"
        )
    return target.to(device, torch.int64)
