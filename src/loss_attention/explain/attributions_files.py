"""What is written of an image that was explained by a named method instead of the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from loss_attention.errors import InputError
from loss_attention.explain.attributions import attribute, find_method
from loss_attention.explain.drawing import Marks
from loss_attention.explanation import Quantity
from loss_attention.models import PatchClassifier

UNITS = (
    "logits: the model's own. heat_map: in its unit, a row of values for each row of pixels of the "
    "image in the size that the model saw it in; it need not add up to the logit."
)


class Decided(Protocol):
    """What was decided of a batch and for which class it is explained."""

    @property
    def logits(self) -> Float[Tensor, "B K"]: ...  # noqa: D102
    @property
    def probabilities(self) -> Float[Tensor, "B K"]: ...  # noqa: D102
    @property
    def target(self) -> Int[Tensor, " B"]: ...  # noqa: D102


@dataclass(frozen=True)
class Attribution:
    """Heat maps of a batch by a named method.

    Attributes:
        logits: shape `(B, K)`.
        probabilities: shape `(B, K)`: softmax, or sigmoid for a multi-label model.
        target: the explained class of each image, shape `(B,)`.
        heat_maps: shape `(B, H, W)`.
        shown: what they show, and its unit.
        method: its name.
    """

    logits: Float[Tensor, "B K"]
    probabilities: Float[Tensor, "B K"]
    target: Int[Tensor, " B"]
    heat_maps: Float[Tensor, "B H W"]
    shown: Quantity
    method: str

    def marks(self, index: int) -> Marks:
        """Return what to draw for one image."""
        return Marks(self.heat_maps[index].float().cpu().numpy(), shown=self.shown)


def explain_by(
    model: PatchClassifier, images: UInt8[Tensor, "B C H W"], target: int | None, method: str
) -> Attribution:
    """Explain a batch by a named method.

    Raises:
        InputError: an unknown method, or one that this model does not allow.
    """
    chosen = find_method(method)
    with torch.inference_mode():
        logits = model(images).logits
    of = logits.argmax(dim=1) if target is None else torch.full((len(images),), target)
    of = of.to(logits.device)
    return Attribution(
        logits=logits,
        probabilities=logits.sigmoid() if model.multi_label else logits.softmax(dim=1),
        target=of,
        heat_maps=attribute(model, images, method, of),
        shown=chosen.shown,
        method=method,
    )


def check_method(model: PatchClassifier, size: tuple[int, int], method: str) -> None:
    """Raise `InputError` for an unknown method, or one that this model does not allow."""
    attribute(model, model.mean.expand(1, -1, *size), method, 0)


def describe_decision(
    decided: Decided, index: int, class_names: Sequence[str], original: tuple[int, int]
) -> dict[str, Any]:
    """Return the part of an image's JSON that says what was decided, and what is explained.

    Args:
        decided: of its batch.
        index: which image of the batch.
        class_names: of the model.
        original: width and height of the upright original image, in pixels.
    """
    logits = decided.logits[index]
    if not logits.isfinite().all():
        raise InputError("the model's logits are not finite numbers: its weights are damaged")
    predicted = int(logits.argmax())
    return {
        "width": original[0],
        "height": original[1],
        "prediction": class_names[predicted],
        "probability": float(decided.probabilities[index, predicted]),
        "target": class_names[int(decided.target[index])],
        "classes": list(class_names),
        "logits": logits.tolist(),
        "probabilities": decided.probabilities[index].tolist(),
    }


def describe_attribution(
    attribution: Attribution, index: int, class_names: Sequence[str], original: tuple[int, int]
) -> dict[str, Any]:
    """Return the JSON of one image; the arguments are those of `describe_decision`."""
    rows = attribution.heat_maps[index].tolist()
    return {
        **describe_decision(attribution, index, class_names, original),
        "method": attribution.method,
        "heat_map": {
            "shows": attribution.shown.name,
            "unit": attribution.shown.unit,
            "values": [[float(f"{value:.5g}") for value in row] for row in rows],
        },
        "units": UNITS,
    }
