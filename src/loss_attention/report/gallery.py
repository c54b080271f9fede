"""The pictures of a report: which images to show, and what to show of each."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from PIL import Image
from torch import Tensor

from loss_attention.data.sample import ImageSet, LabelledImages
from loss_attention.evaluation.measuring import run_batches
from loss_attention.explanation import Explanation, explain_prediction
from loss_attention.geometry import box_iou
from loss_attention.memory import images_at_once
from loss_attention.metrics.localisation import relevant_boxes
from loss_attention.metrics.locality import kept_squares
from loss_attention.model import PatchClassifier
from loss_attention.prediction import (
    ImagePrediction,
    MapName,
    PatchPrediction,
    WeightedPrediction,
    on_cpu,
    probabilities_of,
)
from loss_attention.quantities import CONTRAST
from loss_attention.report.drawing import number, panel, resized
from loss_attention.report.marks import as_picture, marks_of

MISTAKES = RIGHT_ANSWERS = 12
BARS = 5
MOST_PATCHES = 1600
"""Of a finer grid the page does not have what each patch says."""
BATCH = 256
SHORTEST, LONGEST = 240, 360
QUALITIES = (88, 75, 60, 45, 30)
MOST_BYTES = 3_000_000
"""All pictures of a report together, before base64 makes them a third longer."""


class Picture(NamedTuple):
    """A picture of a card.

    Attributes:
        caption: the image, or whose heat map it is.
        alt: for those who cannot see it.
        uri: the picture itself, as a data URI.
        limit: the value that the colour scale ends with; empty for the plain image.
        facts: what is shown where, as text.
        signed: the scale begins at minus the limit, not at 0.
        titled: the caption is shown even where all heat maps are of one model.
    """

    caption: str
    alt: str
    uri: str
    limit: str = ""
    facts: str = ""
    signed: bool = True
    titled: bool = False


class Bar(NamedTuple):
    """A class and its logit for an image.

    Attributes:
        name: the class.
        logit: the sum of its evidence over patches, where the model has evidence.
        percent: the bar's length, of the longest; negative to the left.
        is_label: the image has this label.
    """

    name: str
    logit: float
    percent: float
    is_label: bool


class PatchValues(NamedTuple):
    """What the patches of an image say, to be read off under the pointer.

    Attributes:
        x: the middle of each column of patches, in fractions of the width.
        y: of each row, in fractions of the height.
        window: width and height of a patch's window, likewise.
        values: by what they are, one number a patch, row by row.
    """

    x: list[float]
    y: list[float]
    window: tuple[float, float]
    values: dict[str, list[float]]


class Card(NamedTuple):
    """One image of the gallery.

    Attributes:
        name: what it is called.
        answer: the predicted class (multi-label: all of them).
        labels: the true classes.
        correct: whether the answer counts as right.
        target: the class that the heat maps are for, the predicted one; of a multi-label mistake,
            the class that is most wrong.
        probability: of that class.
        pictures: the image, and its heat map where the model has patches; then those of its
            counterparts; of a mistake of one label, why the answer and not the label.
        bars: the classes of the highest logits, and the labels.
        patches: what they say to `target`; None without patches, or of a grid too fine.
    """

    name: str
    answer: str
    labels: str
    correct: bool
    target: str
    probability: float
    pictures: tuple[Picture, ...]
    bars: tuple[Bar, ...]
    patches: PatchValues | None


def choose_mistakes(
    correct: Bool[Tensor, " N"], confidence: Float[Tensor, " N"], most: int = MISTAKES
) -> list[int]:
    """Return the wrong answers, the most confident first."""
    wrong = (~correct).nonzero().squeeze(1)
    order = confidence[wrong].argsort(descending=True, stable=True)
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


def wrongness(
    logits: Float[Tensor, "B K"], labels: Shaped[Tensor, "B K"]
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """Return how wrong the most wrong class of each multi-label answer is, and which it is.

    That is the distance of its probability from its label, in [0, 1]; above 0.5 for a mistake.
    """
    worst = (logits.sigmoid() - labels.float()).abs().max(dim=1)
    return worst.values, worst.indices


def mistake_confidence(
    model: PatchClassifier,
    data: LabelledImages,
    correct: Bool[Tensor, " N"],
    probabilities: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Return by what to order mistakes, the most confident being the highest.

    Args:
        model: that made them.
        data: the images.
        correct: whether each is right.
        probabilities: of the predicted class of each. It is the answer where there is one label;
            with several, the most confident class may be right, and mistakes are looked at again.
    """
    wrong = (~correct).nonzero().squeeze(1)
    if not data.multi_label or len(wrong) == 0:
        return probabilities
    confidence = torch.zeros_like(probabilities)
    confidence[wrong] = torch.cat(
        run_batches(
            model,
            data.subset(wrong.to(data.labels.device)),
            lambda batch, prediction: wrongness(prediction.logits.float(), batch.labels)[0].cpu(),
            batch_size=images_at_once(data.size, BATCH),
            autocast=nullcontext,
        )
    ).to(confidence.dtype)
    return confidence


def make_cards(
    model: PatchClassifier,
    data: LabelledImages,
    chosen: Sequence[int],
    counterparts: Mapping[str, PatchClassifier] | None = None,
    *,
    map: MapName | None = None,
    seen: Mapping[str, int | None] | None = None,
    most_bytes: int = MOST_BYTES,
) -> list[Card]:
    """Explain the chosen images, and describe each; in this order.

    Args:
        model: the report's model.
        data: the images to choose from.
        chosen: their indices.
        counterparts: models whose heat map for the same class is shown beside it, by what to call
            them.
        map: what is shown of models with evidence; None: see `explanation.default_map`.
        seen: r90 of the heaviest patches of each model, by its head or what to call it, which is
            outlined around the heaviest patch; None: nothing is.
        most_bytes: of all pictures together.
    """
    if not chosen:
        return []
    part = data.take(torch.tensor(chosen)).to("cpu")
    prediction = _predict(model, part)
    logits = prediction.logits.float()
    matrix = part.label_matrix().bool()
    target = logits.argmax(dim=1)
    correct = matrix[torch.arange(len(part)), target]
    if part.multi_label:
        correct = ((logits > 0) == matrix).all(dim=1)
        target = torch.where(correct, target, wrongness(logits, matrix)[1])
    predictions = {model.spec.head: (prediction, model.competing)}
    predictions |= {
        name: (_predict(one, part), one.competing) for name, one in (counterparts or {}).items()
    }
    explanations = {
        name: explain_prediction(
            one,
            target,
            competing=competing,
            map=map if isinstance(one, PatchPrediction) else None,
        )
        for name, (one, competing) in predictions.items()
        if isinstance(one, WeightedPrediction)
    }
    against = None
    if isinstance(prediction, PatchPrediction) and model.competing and not part.multi_label:
        against = explain_prediction(
            prediction, target, versus=_rivals(logits, target, part.labels.cpu())
        )
    probabilities = probabilities_of(logits, competing=model.competing)
    sure = probabilities.gather(1, target.unsqueeze(1)).squeeze(1).tolist()
    room = most_bytes // (len(chosen) * (1 + len(explanations) + (against is not None)))
    names = part.names or [f"test image {index}" for index in chosen]
    return [
        _card(
            part,
            i,
            names[i],
            logits[i],
            int(target[i]),
            sure[i],
            bool(correct[i]),
            explanations,
            None if bool(correct[i]) else against,
            seen or {},
            room,
        )
        for i in range(len(chosen))
    ]


def data_uri(image: Image.Image, room: int) -> str:
    """Return a picture as a data URI, as good as so many bytes (before base64) allow."""
    for quality in QUALITIES:
        file = io.BytesIO()
        # Full resolution of colour: the lines are thin.
        image.convert("RGB").save(file, "JPEG", quality=quality, subsampling=0)
        if file.tell() <= room or image.size == (1, 1):
            return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    width, height = image.size
    return data_uri(image.resize((max(1, width // 2), max(1, height // 2))), room)


def _predict(model: PatchClassifier, part: ImageSet) -> ImagePrediction:
    """Run a model over a few images; the prediction is on the CPU."""
    return run_batches(
        model,
        part,
        lambda _, prediction: on_cpu(prediction),
        batch_size=len(part),
        autocast=nullcontext,
    )[0]


def _card(
    part: ImageSet,
    i: int,
    name: str,
    logits: Float[Tensor, " K"],
    target: int,
    probability: float,
    correct: bool,
    explanations: Mapping[str, Explanation],
    against: Explanation | None,
    seen: Mapping[str, int | None],
    room: int,
) -> Card:
    names = part.class_names
    labels = part.label_matrix()[i].bool()
    answer = (logits > 0) if part.multi_label else torch.arange(len(names)) == target
    image = as_picture(part.images[i])
    plain = Picture("image", name, data_uri(resized(image, SHORTEST, LONGEST), room))
    truths = _true_boxes(part, i)
    drawn = [
        _heat_map(image, caption, one, i, names[target], truths, seen.get(caption), room)
        for caption, one in explanations.items()
    ]
    if against is not None and against.versus is not None:
        drawn.append(_why(image, against, i, names, room))
    own = next(iter(explanations.values()), None)
    return Card(
        name=name,
        answer=listed(names, answer),
        labels=listed(names, labels),
        correct=correct,
        target=names[target],
        probability=probability,
        pictures=(plain, *drawn),
        bars=class_bars(logits, labels, names),
        patches=None if own is None else _patch_values(own, i),
    )


def _rivals(
    logits: Float[Tensor, "B K"], target: Int[Tensor, " B"], labels: Int[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """Return the label of each image that is called otherwise, and of the others the runner-up."""
    others = logits.scatter(1, target.unsqueeze(1), -torch.inf).argmax(dim=1)
    return torch.where(labels == target, others, labels)


def _why(
    image: Image.Image, against: Explanation, i: int, names: Sequence[str], room: int
) -> Picture:
    """Draw why an image was called what it was called, and not what it is."""
    assert against.versus is not None
    target, rival = int(against.target[i]), int(against.versus[i])
    marks = marks_of(against, i)
    apart = float(against.logits[i, target] - against.logits[i, rival])
    why = f"why {names[target]}, not {names[rival]}"
    return Picture(
        caption=why,
        alt=f"evidence for {names[target]} against {names[rival]}",
        uri=data_uri(panel(image, marks, shortest=SHORTEST, longest=LONGEST), room),
        limit=number(marks.limit),
        facts=f"in all {number(apart)}",
        titled=True,
    )


def _patch_values(explanation: Explanation, i: int) -> PatchValues | None:
    """Return what each patch of an image says to the explained class; None of a grid too fine."""
    grid = explanation.grid
    if grid.rows * grid.columns > MOST_PATCHES:
        return None
    windows = grid.windows().double() / torch.tensor([grid.width, grid.height] * 2)
    middles = (windows[:, :2] + windows[:, 2:]) / 2
    sides = (windows[:, 2:] - windows[:, :2]).amax(dim=0).tolist()
    values = {
        "evidence": explanation.target_evidence,
        "margin": explanation.target_margin,
        "weight": explanation.patch_weights,
    }
    return PatchValues(
        x=[round(x, 4) for x in middles[: grid.columns, 0].tolist()],
        y=[round(y, 4) for y in middles[:: grid.columns, 1].tolist()],
        window=(round(sides[0], 4), round(sides[1], 4)),
        values={
            name: [float(f"{value:.3g}") for value in of_images[i].tolist()]
            for name, of_images in values.items()
            if of_images is not None
        },
    )


def _heat_map(
    image: Image.Image,
    caption: str,
    explanation: Explanation,
    i: int,
    target: str,
    truths: Float[Tensor, "G 4"],
    seen: int | None,
    room: int,
) -> Picture:
    marks = replace(marks_of(explanation, i, truths.numpy()), seen=_seen(explanation, i, seen))
    return Picture(
        caption=caption,
        alt=f"{caption}, {marks.shown.name} for {target}",
        uri=data_uri(panel(image, marks, shortest=SHORTEST, longest=LONGEST), room),
        limit=number(marks.limit),
        facts=_facts(explanation, i, truths)
        + (f"; {marks.note}: {CONTRAST.name}" if marks.note else ""),
        signed=marks.shown.signed,
    )


def _seen(explanation: Explanation, i: int, side: int | None) -> Float[np.ndarray, "P 4"]:
    """Return the square of this side around the heaviest patch; none where several are equal."""
    weights = explanation.patch_weights[i]
    heaviest = (weights == weights.max()).nonzero().squeeze(1)
    if side is None or len(heaviest) > 1:
        return np.empty((0, 4), np.float32)
    square = kept_squares(explanation.grid, heaviest, torch.tensor([side]))
    return square.float().numpy()


def _facts(explanation: Explanation, i: int, truths: Float[Tensor, "G 4"]) -> str:
    """Say what was selected and where, for those who cannot or need not see it."""
    selected = explanation.selected[i]
    facts = f"{int(selected.sum())} of {len(selected)} patches"
    if len(truths):
        facts += f", IoU of the boxes {float(box_iou(explanation.boxes[i], truths).max()):.2f}"
    return facts


def class_bars(
    logits: Float[Tensor, " K"], labels: Bool[Tensor, " K"], names: Sequence[str]
) -> tuple[Bar, ...]:
    """Return the classes of the highest logits and those of the labels, as bars."""
    top = logits.argsort(descending=True, stable=True)[:BARS].tolist()
    shown = top + [k for k in labels.nonzero().squeeze(1).tolist() if k not in top][:BARS]
    longest = max(1e-9, max(abs(float(logits[k])) for k in shown))
    return tuple(
        Bar(names[k], float(logits[k]), 100 * float(logits[k]) / longest, bool(labels[k]))
        for k in shown
    )


def _true_boxes(part: ImageSet, i: int) -> Float[Tensor, "G 4"]:
    """Return the boxes of the image's labels; the measures count no others."""
    if part.boxes is None or part.box_labels is None:
        return torch.empty(0, 4)
    relevant = relevant_boxes(part.box_labels[i : i + 1], part.labels[i : i + 1])[0]
    return part.boxes[i][relevant & ~part.boxes[i].isnan().any(dim=1)]


def listed(names: Sequence[str], has: Bool[Tensor, " K"]) -> str:
    """Return the names of some classes in a line."""
    return ", ".join(names[k] for k in has.nonzero().squeeze(1).tolist()) or "none"
