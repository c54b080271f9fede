"""A model and data in, named figures with their floors out.

A floor is what a constant answer scores on the same images. Measures of place (patches and boxes)
are taken over the images that have a box of one of their labels; where there is none, there is
nothing to point at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.data.sample import ImageSet
from loss_attention.errors import InputError
from loss_attention.geometry import enclosing_boxes
from loss_attention.inference import Autocast, Model, run_batches
from loss_attention.losses import Loss, loss_for
from loss_attention.metrics.boxes import (
    centred_box,
    correct_boxes,
    fit_centred_box,
    relevant_boxes,
)
from loss_attention.metrics.classification import (
    average_precisions,
    commonest_answer,
    correct_images,
)
from loss_attention.metrics.patches import (
    PatchCounts,
    count_patches,
    patches_in_boxes,
    right_patches,
    weight_inside,
)
from loss_attention.models import PatchClassifier
from loss_attention.prediction import ImagePrediction, WeightedPrediction

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Measure:
    """One figure about a model.

    Attributes:
        name: for programs, `patch_f` for example.
        label: for people.
        value: None where it is undefined (nothing to divide by).
        floors: what constant answers score, by name; None where that is undefined, or had to be
            fitted to training data that were not there.
        unit: empty for a plain fraction.
        higher_is_better: the direction.
        range: the least and the greatest possible value.
    """

    name: str
    label: str
    value: float | None
    floors: Mapping[str, float | None]
    unit: str = ""
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class ImageResults:
    """What a model made of each of N images; on the CPU.

    Attributes:
        predictions: the predicted class (multi-label: the most confident), shape `(N,)`.
        probabilities: its probability, shape `(N,)`.
        correct: whether the image counts as right (multi-label: every class is), shape `(N,)`.
    """

    predictions: Int[Tensor, " N"]
    probabilities: Float[Tensor, " N"]
    correct: Bool[Tensor, " N"]


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model on one set of images.

    Attributes:
        split: which images, `test` for example.
        images: how many.
        boxed_images: how many of them have a box of one of their labels.
        measures: the figures, in the order in which to show them.
        per_image: kept in memory only; None when read from a file.
    """

    split: str
    images: int
    boxed_images: int
    measures: tuple[Measure, ...]
    per_image: ImageResults | None = field(default=None, compare=False, repr=False)

    def get(self, name: str) -> Measure | None:
        """Return a measure, None where this evaluation does not have it."""
        return next((measure for measure in self.measures if measure.name == name), None)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __getitem__(self, name: str) -> Measure:
        measure = self.get(name)
        if measure is None:
            raise KeyError(f"{name!r} is not among {', '.join(m.name for m in self.measures)}")
        return measure

    def value(self, name: str) -> float | None:
        """Return the value of a measure, None where it is undefined.

        Raises:
            KeyError: a measure that this evaluation does not have.
        """
        return self[name].value

    def to_json(self) -> dict[str, Any]:
        """Return all but `per_image` as plain values, the content of `evaluation.json`."""
        values = {"format_version": FORMAT_VERSION, **asdict(replace(self, per_image=None))}
        del values["per_image"]
        values["measures"] = [
            {**measure, "range": list(measure["range"])} for measure in values["measures"]
        ]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_json` made these values of.

        Raises:
            InputError: values that are from a newer version, or are not an evaluation.
        """
        rest = dict(values)
        version = rest.pop("format_version", None)
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise InputError(
                f"the evaluation is of format {version}, this version reads up to "
                f"{FORMAT_VERSION}: upgrade loss-attention"
            )
        try:
            measures = tuple(
                Measure(**{**measure, "range": tuple(measure["range"])})
                for measure in rest.pop("measures")
            )
            return cls(**rest, measures=measures)
        except (TypeError, KeyError) as error:
            raise InputError("this is not an evaluation that loss-attention wrote") from error


def evaluate(
    model: Model,
    data: ImageSet,
    *,
    train: ImageSet | None = None,
    split: str = "test",
    batch_size: int = 256,
    device: torch.device | str | None = None,
    autocast: Autocast = nullcontext,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run a model once over a set of images and measure it.

    The model is in evaluation mode meanwhile, and left in the mode it was in.

    Args:
        model: a `PatchClassifier` or any module that returns a prediction.
        data: the images. Without boxes, or for a model without patches, only the classification
            is measured.
        train: the training set, which the floors "commonest answer" and "best centred box" are
            fitted to; None: they stay empty.
        split: what to call the images.
        batch_size: images at a time; decides speed and memory, not the result.
        device: where to compute; None: where the model is.
        autocast: makes the context that the model runs in (`fabric.autocast`, say).
        progress: called after each batch with the number of images done and of all images.

    Raises:
        InputError: no images, or classes that are not the model's.
    """
    _check_classes(model, data)
    batches = run_batches(
        model,
        data,
        _measure_batch,
        batch_size=batch_size,
        autocast=autocast,
        device=device,
        progress=progress,
    )
    measures, per_image = _classification(data, train, batches)
    boxed = _relevant(data)
    if data.boxes is not None and batches[0].place is not None:
        place = reduce(add, [batch.place for batch in batches if batch.place is not None])
        measures += _places(place, _box_floors(data, train))
    return Evaluation(
        split=split,
        images=len(data),
        boxed_images=0 if boxed is None else int(boxed.any(dim=1).sum()),
        measures=tuple(measures),
        per_image=per_image,
    )


def validate(
    model: Model,
    data: ImageSet,
    batch_size: int,
    autocast: Autocast = nullcontext,
    *,
    loss: Loss | None = None,
) -> tuple[float, float]:
    """Return the mean loss (no regulariser) and the share of images that are right.

    The share is the accuracy, or for multi-label data that of exact matches. The model is in
    evaluation mode meanwhile, and left in the mode it was in. The host waits for the device once.

    Args:
        model: a `PatchClassifier` or any module that returns a prediction.
        data: the images.
        batch_size: images at a time.
        autocast: makes the context that the model runs in.
        loss: what the model is trained with; None: cross-entropy, in nats.

    Raises:
        InputError: no images.
    """
    loss_of = loss or loss_for("cross-entropy", multi_label=data.multi_label)

    def measure(batch: ImageSet, prediction: ImagePrediction) -> Tensor:
        right = correct_images(prediction.logits, batch.labels).sum()
        return torch.stack([loss_of(prediction, batch.labels, 0.0) * len(batch), right])

    batches = run_batches(model, data, measure, batch_size=batch_size, autocast=autocast)
    total, right = torch.stack(batches).cpu().double().sum(dim=0).tolist()
    return total / len(data), right / len(data)


@dataclass(frozen=True)
class _Place:
    """What measures where the evidence lies; adds up over batches, on the device."""

    counts: PatchCounts
    counts_of_all: PatchCounts
    """As if every patch were selected."""
    weight: Tensor
    weight_of_uniform: Tensor
    boxes: Tensor
    """Images whose predicted box is correct."""
    images: Tensor
    """Images with a relevant box, over which the three above are summed."""

    def __add__(self, other: _Place) -> _Place:
        return _Place(
            self.counts + other.counts,
            self.counts_of_all + other.counts_of_all,
            self.weight + other.weight,
            self.weight_of_uniform + other.weight_of_uniform,
            self.boxes + other.boxes,
            self.images + other.images,
        )


@dataclass(frozen=True)
class _Batch:
    """What is kept of a batch, on the device."""

    per_image: ImageResults
    scores: Tensor | None
    """The logits, for multi-label data."""
    place: _Place | None


def _measure_batch(batch: ImageSet, prediction: ImagePrediction) -> _Batch:
    logits = prediction.logits.float()
    probabilities = logits.sigmoid() if batch.multi_label else logits.softmax(dim=1)
    best = probabilities.max(dim=1)
    predictions = logits.argmax(dim=1)
    per_image = ImageResults(predictions, best.values, correct_images(logits, batch.labels))
    relevant = _relevant(batch)
    place = None
    boxes = batch.boxes
    if isinstance(prediction, WeightedPrediction) and boxes is not None and relevant is not None:
        place = _measure_place(prediction, batch.labels, boxes, relevant)
    return _Batch(per_image, logits if batch.multi_label else None, place)


def _relevant(data: ImageSet) -> Bool[Tensor, "N G"] | None:
    return None if data.box_labels is None else relevant_boxes(data.box_labels, data.labels)


def _measure_place(
    prediction: WeightedPrediction,
    labels: Shaped[Tensor, "B *K"],
    boxes: Float[Tensor, "B G 4"],
    relevant: Bool[Tensor, "B G"],
) -> _Place:
    windows = prediction.grid.windows(boxes.device)
    weights, selected = prediction.patch_weights.float(), prediction.selected
    boxed = relevant.any(dim=1, keepdim=True)
    right = right_patches(prediction.patch_scores, labels) & boxed
    inside = patches_in_boxes(windows, boxes, relevant)
    uniform = torch.full_like(weights, 1 / weights.shape[1])
    return _Place(
        counts=count_patches(selected, right, inside),
        counts_of_all=count_patches(torch.ones_like(selected), right, inside),
        weight=weight_inside(weights, inside).sum(),
        weight_of_uniform=weight_inside(uniform, inside).sum(),
        boxes=correct_boxes(enclosing_boxes(selected, windows), boxes, relevant).sum(),
        images=boxed.sum(),
    )


def _classification(
    data: ImageSet, train: ImageSet | None, batches: list[_Batch]
) -> tuple[list[Measure], ImageResults]:
    """Return the measures that need no patches, and the results of each image."""
    results = ImageResults(
        torch.cat([batch.per_image.predictions for batch in batches]).cpu(),
        torch.cat([batch.per_image.probabilities for batch in batches]).cpu(),
        torch.cat([batch.per_image.correct for batch in batches]).cpu(),
    )
    value = _mean(results.correct)
    floor = None if train is None else _mean(commonest_answer(train.labels, data.labels))
    if not data.multi_label:
        return [Measure("accuracy", "accuracy", value, {"majority class": floor})], results
    scores = torch.cat([batch.scores for batch in batches if batch.scores is not None])
    precisions = average_precisions(scores, data.labels)
    present = ~precisions.isnan()
    label = "mean average precision"
    if not present.all():
        label += f" ({int(present.sum())} of {len(present)} classes occur)"
    chance = {"constant scores": _mean(data.labels.cpu().double().mean(dim=0)[present])}
    mean_ap = Measure("mean_average_precision", label, _mean(precisions[present]), chance)
    return [mean_ap, Measure("exact_match", "exact match", value, {"commonest labels": floor})], (
        results
    )


def _places(place: _Place, box_floors: dict[str, float | None]) -> list[Measure]:
    """Return the measures of where the evidence lies."""

    def uniform(floor: float | None) -> dict[str, float | None]:
        return {"uniform weights": floor}

    def share(total: Tensor) -> float | None:
        return float(total) / int(place.images) if int(place.images) else None

    counts, every = place.counts, place.counts_of_all
    weight_floor = uniform(share(place.weight_of_uniform))
    return [
        Measure("patch_precision", "patch precision", counts.precision, uniform(every.precision)),
        Measure("patch_recall", "patch recall", counts.recall, uniform(every.recall)),
        Measure("patch_f", "patch F", counts.f, uniform(every.f)),
        Measure("weight_inside", "weight inside the box", share(place.weight), weight_floor),
        Measure("box_ap", "box AP", share(place.boxes), box_floors),
    ]


def _box_floors(data: ImageSet, train: ImageSet | None) -> dict[str, float | None]:
    """Return the box AP of the whole image and of the best centred box."""

    def score(across: float, down: float) -> float | None:
        relevant = _relevant(data)
        if data.boxes is None or relevant is None:
            return None
        box = centred_box(across, down, *data.size).to(data.boxes.device)
        right = correct_boxes(box.expand(len(data), 4), data.boxes, relevant)
        return _mean(right[relevant.any(dim=1)])

    fitted = None
    if train is not None and train.boxes is not None:
        relevant = _relevant(train)
        if relevant is not None:
            fitted = fit_centred_box(train.boxes, relevant, *train.size)
    return {
        "whole image": score(1.0, 1.0),
        "best centred box": None if fitted is None else score(*fitted),
    }


def _mean(values: Tensor) -> float | None:
    return float(values.cpu().double().mean()) if len(values) else None


def _check_classes(model: Model, data: ImageSet) -> None:
    """Raise `InputError` where the data's classes are not those of the model."""
    inner = getattr(model, "module", model)  # what Fabric wraps
    if not isinstance(inner, PatchClassifier):
        return
    count, named = inner.config["num_classes"], inner.config["class_names"]
    if count != len(data.class_names):
        raise InputError(f"the model has {count} classes and the data {len(data.class_names)}")
    for k, (ours, theirs) in enumerate(zip(named, data.class_names, strict=False)):
        if ours != theirs:
            raise InputError(
                f"class {k} is {ours!r} in the model and {theirs!r} in the data; "
                "they must have the same classes in the same order"
            )
    if inner.multi_label != data.multi_label:
        kinds = {True: "any number of labels", False: "one label"}
        raise InputError(
            f"the model was made for {kinds[inner.multi_label]} an image and the data have "
            f"{kinds[data.multi_label]}"
        )
