"""What the JSON of an explained image says, in pixels of the original image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from loss_attention.data.placement import Resize, placement_of
from loss_attention.data.sample import to_original
from loss_attention.errors import InputError
from loss_attention.explained.objects import THRESHOLD, FoundObject
from loss_attention.explanation import Explanation
from loss_attention.geometry import PatchGrid
from loss_attention.prediction import margins
from loss_attention.quantities import NO_MARGIN, Quantity

MOST_NUMBERS = 1_000_000
"""Of all classes' evidence for the patches of a photo in tiles, which would make files of GBs."""
EVIDENCE_UNITS = (
    "evidence and logits: in units of the logits; the evidence of a class summed over patches is "
    "its logit."
)
NO_EVIDENCE_UNITS = (
    "evidence: null, as no sum over patches is what this model decides on; the patch weights, "
    "which the picture shows, are those of the target class and sum to 1. logits: log-odds of the "
    "lengths of the class capsules."
)
MARGIN_UNITS = (
    "margin: evidence of a patch for a class less that for its closest rival, of which the picture "
    "shows the part above 0 unless told otherwise. No patch of the image puts the target first "
    "where margin_is_empty is true; the picture shows its evidence over the mean of all classes "
    "then."
)
BOX_UNITS = (
    "boxes and windows: [x0, y0, x1, y1] in pixels of the upright original image, x1 and y1 "
    "exclusive."
)
OBJECT_UNITS = (
    "objects: connected patches with more than threshold times the greatest evidence for the class "
    "in the image; score is the probability of the class times share, the fraction of its positive "
    "evidence that is theirs."
)
METHOD_UNITS = (
    "logits: the model's own. heat_map: in its unit, a row of values for each row of pixels of the "
    "image in the size that the model saw it in; it need not add up to the logit."
)

ONE_VS_REST_UNITS = (
    "probabilities: of each class by itself against all others, the sigmoid of its logit; those of "
    "an image need not sum to 1."
)
TILED_UNITS = (
    "tiles: sides in pixels of the tiles that the photo was seen in, the least fraction that two "
    "share, and what the photo's sides were multiplied by; all its patches were weighed together."
)
TARGET_UNITS = (
    "logits and target_evidence: in units of the logits; the evidence of the target class summed "
    "over patches is its logit. evidence: null, as that of all classes would be of "
    f"over {MOST_NUMBERS:,} numbers; margin: null likewise."
)


def describe(
    explanation: Explanation,
    index: int,
    class_names: Sequence[str],
    original: tuple[int, int],
    resize: Resize = "squash",
    objects: Sequence[FoundObject] | None = None,
    object_threshold: float = THRESHOLD,
    most_numbers: int | None = None,
) -> dict[str, Any]:
    """Return the JSON of one explained image.

    Args:
        explanation: of its batch.
        index: which image of the batch.
        class_names: of the model.
        original: width and height of the upright original image, in pixels.
        resize: how it was brought to the model's size.
        objects: what was found in it; None: nothing was looked for.
        object_threshold: what they were looked for with.
        most_numbers: evidence of all classes is left out where it would be of more; None: never.
    """
    grid = explanation.grid
    originally = partial(boxes_in_original, grid=grid, original=original, resize=resize)
    found = [
        {
            "class": class_names[one.class_index],
            "score": one.score,
            "share": one.share,
            "box": [x0, y0, x1, y1],
        }
        for one in objects or ()
        for x0, y0, x1, y1 in originally(torch.tensor([one.box]))
        if x0 < x1 and y0 < y1  # what lies on the border alone is nowhere in the original
    ]
    box = explanation.boxes[index].cpu()
    evidence, of_target = explanation.evidence, explanation.target_evidence
    of_target_margin = explanation.target_margin
    units = [NO_EVIDENCE_UNITS if evidence is None else EVIDENCE_UNITS]
    if evidence is not None and most_numbers is not None and evidence[index].numel() > most_numbers:
        evidence, units = None, [TARGET_UNITS]
    units += [] if of_target_margin is None else [MARGIN_UNITS]
    units += [BOX_UNITS] if objects is None else [BOX_UNITS, OBJECT_UNITS]
    margin = None
    if evidence is not None and of_target_margin is not None:
        margin = margins(evidence[index]).tolist()
    no_margin = explanation.no_margin
    note = NO_MARGIN if explanation.is_empty(index) else ""
    return {
        **decision(
            explanation.logits[index],
            explanation.probabilities[index],
            int(explanation.target[index]),
            class_names,
            original,
        ),
        "box": None if box.isnan().any() else originally(box.unsqueeze(0))[0],
        "objects": None if objects is None else {"threshold": object_threshold, "found": found},
        "selected_patches": explanation.selected[index].nonzero().squeeze(1).tolist(),
        "patch_weights": explanation.patch_weights[index].tolist(),
        "evidence": None if evidence is None else evidence[index].tolist(),
        "target_evidence": None if of_target is None else of_target[index].tolist(),
        "margin": margin,
        "target_margin": None if of_target_margin is None else of_target_margin[index].tolist(),
        "margin_is_empty": None if no_margin is None else bool(no_margin[index]),
        "versus": _versus(explanation, index, class_names),
        "heat_map": shown_json(explanation.shown_of(index), note),
        "grid": {
            "rows": grid.rows,
            "columns": grid.columns,
            "windows": _windows(grid, original, resize),
        },
        "units": " ".join(units),
    }


def boxes_in_original(
    boxes: Float[Tensor, "N 4"], grid: PatchGrid, original: tuple[int, int], resize: Resize
) -> list[list[float]]:
    """Return boxes in pixels of the original image, rounded to hundredths and clipped to it.

    Args:
        boxes: in pixels of the model's input.
        grid: which has the size of that.
        original: width and height of the upright original image, in pixels.
        resize: how it was brought to the model's size.
    """
    placement = torch.tensor([placement_of(original, (grid.height, grid.width), resize)]).float()
    return _rounded(to_original(boxes.cpu().unsqueeze(0), placement)[0])


@lru_cache(maxsize=16)
def _windows(grid: PatchGrid, original: tuple[int, int], resize: Resize) -> list[list[float]]:
    """Return the windows of a grid in pixels of the original, once for all images of one size."""
    return boxes_in_original(grid.windows(), grid, original, resize)


def _versus(
    explanation: Explanation, index: int, class_names: Sequence[str]
) -> dict[str, Any] | None:
    """Return what an image's JSON says of the class that the evidence is held against, if any."""
    if explanation.versus is None or explanation.evidence is None:
        return None
    evidence, logits = explanation.evidence[index], explanation.logits[index]
    target, rival = int(explanation.target[index]), int(explanation.versus[index])
    return {
        "class": class_names[rival],
        "difference_of_evidence": (evidence[:, target] - evidence[:, rival]).tolist(),
        "difference_of_logits": float(logits[target] - logits[rival]),
    }


def _rounded(values: Float[Tensor, "*N 4"]) -> list[Any]:
    """Round pixels to hundredths, which is all that a resized image can say."""
    rounded: list[Any] = (values.double() * 100).round().div(100).tolist()
    return rounded


def decision(
    logits: Float[Tensor, " K"],
    probabilities: Float[Tensor, " K"],
    target: int,
    class_names: Sequence[str],
    original: tuple[int, int],
) -> dict[str, Any]:
    """Return the part of an image's JSON that says what was decided, and what is explained."""
    if not logits.isfinite().all():
        raise InputError("the model's logits are not finite numbers: its weights are damaged")
    predicted = int(logits.argmax())
    return {
        "width": original[0],
        "height": original[1],
        "prediction": class_names[predicted],
        "probability": float(probabilities[predicted]),
        "target": class_names[target],
        "classes": list(class_names),
        "logits": logits.tolist(),
        "probabilities": probabilities.tolist(),
    }


def shown_json(shown: Quantity, note: str) -> dict[str, str]:
    """Return what a heat map shows, as JSON; with the reason, where that needs saying."""
    return {"shows": shown.name, "unit": shown.unit} | ({"note": note} if note else {})
