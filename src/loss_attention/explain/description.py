"""What is written of an explained image: the JSON, in pixels of the original image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from loss_attention.data.placement import Resize, place, to_original
from loss_attention.explain.attributions_files import describe_decision
from loss_attention.explain.objects import THRESHOLD, FoundObject
from loss_attention.explanation import Explanation

EVIDENCE_UNITS = (
    "evidence and logits: in units of the logits; the evidence of a class summed over patches is "
    "its logit."
)
MANY_CLASSES_UNITS = (
    "evidence: null, as there are too many classes to list it for each. target_evidence and "
    "logits: in units of the logits; target_evidence summed over patches is the logit of the "
    "target class."
)
NO_EVIDENCE_UNITS = (
    "evidence: null, as no sum over patches is what this model decides on; the patch weights, "
    "which the picture shows, are those of the target class and sum to 1. logits: log-odds of the "
    "lengths of the class capsules."
)
BOX_UNITS = (
    "boxes and windows: [x0, y0, x1, y1] in pixels of the upright original image, x1 and y1 "
    "exclusive."
)
OBJECT_UNITS = (
    "objects: connected patches with more than threshold times the greatest evidence for the class "
    "in the image; score is the probability of the class times share, which is theirs of its "
    "positive evidence."
)


def describe(
    explanation: Explanation,
    index: int,
    class_names: Sequence[str],
    original: tuple[int, int],
    resize: Resize = "squash",
    objects: Sequence[FoundObject] | None = None,
    object_threshold: float = THRESHOLD,
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
    """
    grid = explanation.grid
    placement = torch.tensor([place(original, (grid.height, grid.width), resize)]).float()

    def originally(boxes: Float[Tensor, "N 4"]) -> list[Any]:
        return _rounded(to_original(boxes.cpu().unsqueeze(0), placement)[0])

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
    units = EVIDENCE_UNITS
    if evidence is None:
        units = NO_EVIDENCE_UNITS if of_target is None else MANY_CLASSES_UNITS
    return {
        **describe_decision(explanation, index, class_names, original),
        "box": None if box.isnan().any() else originally(box.unsqueeze(0))[0],
        "objects": None if objects is None else {"threshold": object_threshold, "found": found},
        "selected_patches": explanation.selected[index].nonzero().squeeze(1).tolist(),
        "patch_weights": explanation.patch_weights[index].tolist(),
        "evidence": None if evidence is None else evidence[index].tolist(),
        "target_evidence": None if of_target is None else of_target[index].tolist(),
        "heat_map": {"shows": explanation.shown.name, "unit": explanation.shown.unit},
        "grid": {
            "rows": grid.rows,
            "columns": grid.columns,
            "windows": originally(grid.windows()),
        },
        "units": " ".join([units, BOX_UNITS, *([] if objects is None else [OBJECT_UNITS])]),
    }


def _rounded(values: Float[Tensor, "*N 4"]) -> list[Any]:
    """Round pixels to hundredths, which is all that a resized image can say."""
    rounded: list[Any] = (values.double() * 100).round().div(100).tolist()
    return rounded
