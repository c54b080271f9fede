"""The pictures of a report: which images to show, and what to show of each."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from loss_attention.data.sample import ImageSet
from loss_attention.explain.drawing import Marks, marks_of, number, panel, resized
from loss_attention.explanation import Explanation, explain_prediction
from loss_attention.models import PatchClassifier
from loss_attention.prediction import PatchPrediction

MISTAKES = RIGHT_ANSWERS = 12
BARS = 5
SHORTEST, LONGEST = 200, 320
QUALITY = 88


@dataclass(frozen=True)
class Bar:
    """A class and its evidence in an image.

    Attributes:
        name: the class.
        evidence: its logit, the sum of its evidence over patches.
        percent: the bar's length, of half the width.
        is_label: the image has this label.
    """

    name: str
    evidence: float
    percent: float
    is_label: bool


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Attributes:
        name: what it is called.
        prediction: the predicted class.
        probability: of it.
        labels: the true classes.
        correct: whether the answer counts as right.
        picture: the image, as a data URI.
        heat_map: the image with its evidence, patches and boxes; empty without patches.
        limit: the evidence at the ends of the colour scale, in units of the logits.
        bars: the classes of most evidence, and the labels.
    """

    name: str
    prediction: str
    probability: float
    labels: str
    correct: bool
    picture: str
    heat_map: str
    limit: str
    bars: tuple[Bar, ...]


def choose_mistakes(
    correct: Bool[Tensor, " N"], probabilities: Float[Tensor, " N"], most: int = MISTAKES
) -> list[int]:
    """Return the wrong answers, the most confident first."""
    wrong = (~correct).nonzero().squeeze(1)
    order = probabilities[wrong].argsort(descending=True, stable=True)
    return [int(index) for index in wrong[order][:most]]


def choose_right_answers(
    correct: Bool[Tensor, " N"], predictions: Int[Tensor, " N"], most: int = RIGHT_ANSWERS
) -> list[int]:
    """Return right answers spread over the predicted classes, in the order of the set.

    The first of each class, then the second of each, and so on; not the most flattering ones.
    """
    by_class: dict[int, list[int]] = defaultdict(list)
    for index in correct.nonzero().squeeze(1).tolist():
        by_class[int(predictions[index])].append(index)
    rounds = [
        (turn, members[turn]) for members in by_class.values() for turn in range(len(members))
    ]
    return sorted(index for _, index in sorted(rounds)[:most])


def make_cards(model: PatchClassifier, data: ImageSet, chosen: Sequence[int]) -> list[Card]:
    """Explain the chosen images, and describe each; in this order."""
    if not chosen:
        return []
    part = data.subset(torch.tensor(chosen))
    with torch.inference_mode():
        prediction = model(part.images.to(model.mean.device))
    logits = prediction.logits.cpu()
    probabilities = logits.sigmoid() if model.multi_label else logits.softmax(dim=1)
    # The same forward pass says both, so picture and words cannot differ.
    explanation = (
        explain_prediction(prediction, multi_label=model.multi_label)
        if isinstance(prediction, PatchPrediction)
        else None
    )
    return [
        _card(part, i, chosen[i], logits[i], probabilities[i], explanation)
        for i in range(len(chosen))
    ]


def _card(
    part: ImageSet,
    i: int,
    number_in_set: int,
    logits: Float[Tensor, " K"],
    probabilities: Float[Tensor, " K"],
    explanation: Explanation | None,
) -> Card:
    image = _picture(part.images[i])
    labels = part.label_matrix()[i].bool()
    predicted = int(logits.argmax())
    right = bool(((logits > 0) == labels).all()) if part.multi_label else bool(labels[predicted])
    heat_map, limit = "", ""
    if explanation is not None:
        marks = marks_of(explanation, i, _true_boxes(part, i))
        heat_map, limit = _data_uri(_drawn(image, marks)), number(marks.limit)
    return Card(
        name=part.names[i] if part.names else f"test image {number_in_set}",
        prediction=part.class_names[predicted],
        probability=float(probabilities[predicted]),
        labels=", ".join(name for name, has in zip(part.class_names, labels, strict=True) if has)
        or "none",
        correct=right,
        picture=_data_uri(resized(image, SHORTEST, LONGEST)),
        heat_map=heat_map,
        limit=limit,
        bars=_bars(logits, labels, part.class_names),
    )


def _bars(
    logits: Float[Tensor, " K"], labels: Bool[Tensor, " K"], class_names: Sequence[str]
) -> tuple[Bar, ...]:
    top = logits.argsort(descending=True, stable=True)[:BARS].tolist()
    shown = top + [k for k in labels.nonzero().squeeze(1).tolist() if k not in top][:BARS]
    longest = max(1e-9, max(abs(float(logits[k])) for k in shown))
    return tuple(
        Bar(class_names[k], float(logits[k]), 100 * float(logits[k]) / longest, bool(labels[k]))
        for k in shown
    )


def _true_boxes(part: ImageSet, i: int) -> Float[np.ndarray, "G 4"] | None:
    return None if part.boxes is None else part.boxes[i].cpu().numpy()


def _picture(pixels: Tensor) -> Image.Image:
    array = pixels.cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _drawn(image: Image.Image, marks: Marks) -> Image.Image:
    return panel(image, marks, shortest=SHORTEST, longest=LONGEST)


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
