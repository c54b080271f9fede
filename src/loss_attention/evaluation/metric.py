"""Named figures about a model, what a constant answer scores beside them, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.data.sample import LabelledImages
from loss_attention.errors import InputError
from loss_attention.metrics.classification import (
    among_best,
    average_precisions,
    calibration_error,
    class_accuracies,
    commonest_answer,
    correct_images,
    eleven_point_precisions,
)

FORMAT_VERSION = 3
TOP = 5
Classes = Mapping[str, Mapping[str, float | None]]
CLASSES = "classes"
PLACES = "where: patches and pixels"
BOXES = "where: boxes"
ORACLE = "oracle: threshold chosen on these images"
# Version 1 had no groups.
_GROUPS_OF_VERSION_1 = {
    "accuracy": CLASSES,
    "mean_average_precision": CLASSES,
    "exact_match": CLASSES,
    "patch_precision": PLACES,
    "patch_recall": PLACES,
    "patch_f": PLACES,
    "weight_inside": PLACES,
    "box_ap": BOXES,
}


@dataclass(frozen=True)
class Measure:
    """One figure about a model; docs/measures.md says what each means.

    Attributes:
        name: for programs, `patch_f` for example.
        label: for people.
        value: None where it is undefined (nothing to divide by), or needs a threshold and there
            were no held-out images to choose it on.
        floors: what constant answers score, by name; None likewise, or where they had to be
            fitted to training data that were not there.
        unit: empty for a plain fraction.
        higher_is_better: the direction.
        range: the least and the greatest possible value.
        group: the heading to show it under.
    """

    name: str
    label: str
    value: float | None
    floors: Mapping[str, float | None]
    unit: str = ""
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    group: str = ""


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
        per_class: figures of each class, by the name of the figure and that of the class.
        thresholds: what was chosen on held-out images, by what it is for.
        held_out: the model's figures of place on the images that thresholds were chosen on, by
            name: what settings may be chosen by, as the reported images must not be looked at.
        per_image: kept in memory only; None when read from a file.
    """

    split: str
    images: int
    boxed_images: int
    measures: tuple[Measure, ...]
    per_class: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, float | None] = field(default_factory=dict)
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
        """Return the evaluation that `to_json` made these values of, in this version or before.

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
            measures = tuple(_read_measure(measure) for measure in rest.pop("measures"))
            return cls(**rest, measures=measures)
        except (TypeError, KeyError) as error:
            raise InputError("this is not an evaluation that loss-attention wrote") from error


def _read_measure(values: Mapping[str, Any]) -> Measure:
    group = values.get("group", _GROUPS_OF_VERSION_1.get(values["name"], ""))
    return Measure(**{**values, "range": tuple(values["range"]), "group": group})


_Measure = partial(Measure, group=CLASSES)


@dataclass(frozen=True)
class NamedImages:
    """What a model calls the images of a batch, on its device.

    Attributes:
        results: image by image.
        in_top: whether the label is among the five best; None for few classes or several labels.
        logits: for multi-label data only.
    """

    results: ImageResults
    in_top: Tensor | None
    logits: Tensor | None


def name_images(logits: Float[Tensor, "B K"], labels: Shaped[Tensor, "B *K"]) -> NamedImages:
    """Keep what the figures need of the logits of a batch."""
    logits = logits.float()
    several = labels.ndim == 2
    best = (logits.sigmoid() if several else logits.softmax(dim=1)).max(dim=1)
    results = ImageResults(logits.argmax(dim=1), best.values, correct_images(logits, labels))
    if several:
        return NamedImages(results, None, logits)
    in_top = among_best(logits, labels, TOP) if logits.shape[1] > TOP else None
    return NamedImages(results, in_top, None)


def classification_measures(
    batches: Sequence[NamedImages], data: LabelledImages, train: LabelledImages | None
) -> tuple[list[Measure], Classes, ImageResults]:
    """Return the figures, those of each class, and the results image by image."""
    results = ImageResults(
        torch.cat([batch.results.predictions for batch in batches]).cpu(),
        torch.cat([batch.results.probabilities for batch in batches]).cpu(),
        torch.cat([batch.results.correct for batch in batches]).cpu(),
    )
    if data.multi_label:
        logits = torch.cat([batch.logits for batch in batches if batch.logits is not None])
        return *_several_labels(logits.cpu(), results, data, train), results
    in_top = [batch.in_top for batch in batches if batch.in_top is not None]
    found = torch.cat(in_top).cpu() if in_top else None
    return *_one_label(results, found, data, train), results


def _one_label(
    results: ImageResults, in_top: Tensor | None, data: LabelledImages, train: LabelledImages | None
) -> tuple[list[Measure], Classes]:
    labels = data.labels.cpu()
    constant = None if train is None else commonest_answer(train.labels.cpu(), labels)
    counts = None
    if train is not None:
        counts = torch.bincount(train.labels.cpu(), minlength=len(data.class_names)).double()
    measures = [
        _Measure("accuracy", "accuracy", mean(results.correct), {"majority class": mean(constant)})
    ]
    if in_top is not None:
        floor = None if counts is None else among_best(counts.unsqueeze(0), labels, TOP)
        floors = {"commonest classes": mean(floor)}
        measures.append(_Measure("top5_accuracy", "top-5 accuracy", mean(in_top), floors))
    by_class = class_accuracies(results.correct, labels, len(data.class_names))
    present = ~by_class.isnan()
    floors = {"majority class": None}
    if constant is not None:
        of_class = class_accuracies(constant, labels, len(data.class_names))
        floors = {"majority class": mean(of_class[present])}
    label = "mean class accuracy" + _how_many(present)
    measures.append(_Measure("class_accuracy", label, mean(by_class[present]), floors))
    shares = None
    if counts is not None and constant is not None:
        confidence = (counts.max() / counts.sum()).expand(len(labels))
        shares = calibration_error(confidence, constant)
    error = calibration_error(results.probabilities, results.correct)
    measures.append(_calibration(error, shares))
    return measures, {"accuracy": _named(by_class, data)}


def _several_labels(
    logits: Float[Tensor, "N K"],
    results: ImageResults,
    data: LabelledImages,
    train: LabelledImages | None,
) -> tuple[list[Measure], Classes]:
    labels = data.labels.cpu()
    precisions = average_precisions(logits, labels)
    eleven = eleven_point_precisions(logits, labels)
    present = ~precisions.isnan()
    constant = {"constant scores": mean(labels.double().mean(dim=0)[present])}
    floor, shares = None, None
    if train is not None:
        of_train = train.labels.cpu()
        floor = mean(commonest_answer(of_train, labels))
        expected = of_train.double().mean(dim=0).expand(labels.shape)
        shares = calibration_error(expected.flatten(), labels.bool().flatten())
    label = "mean AP" + _how_many(present)
    error = calibration_error(logits.sigmoid().flatten(), labels.bool().flatten())
    measures = [
        _Measure("mean_average_precision", label, mean(precisions[present]), constant),
        _Measure(
            "mean_average_precision_voc2007",
            "mean AP, 11 points (VOC 2007)",
            mean(eleven[present]),
            constant,
        ),
        _Measure("exact_match", "exact match", mean(results.correct), {"commonest labels": floor}),
        _calibration(error, shares),
    ]
    return measures, {
        "average_precision": _named(precisions, data),
        "average_precision_voc2007": _named(eleven, data),
    }


def _calibration(error: float, floor: float | None) -> Measure:
    floors = {"class shares": floor}
    return _Measure("calibration_error", "calibration error", error, floors, higher_is_better=False)


def _named(values: Float[Tensor, " K"], data: LabelledImages) -> dict[str, float | None]:
    """Return the figure of each class, None where it is undefined."""
    found = (None if value != value else value for value in values.tolist())
    return dict(zip(data.class_names, found, strict=True))


def _how_many(present: Tensor) -> str:
    """Return how many classes occur, where some do not."""
    return "" if present.all() else f" ({int(present.sum())} of {len(present)} occur)"


def mean(values: Tensor | None) -> float | None:
    """Return the mean, None where there is nothing to take it of."""
    if values is None or not len(values):
        return None
    return float(values.cpu().double().mean())
