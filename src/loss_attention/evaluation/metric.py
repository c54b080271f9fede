"""Named metrics of a model beside their trivial baselines, as values and as JSON; classification.

Below `Evaluation` and how its files are read, of this version or before, stand the metrics of the
classification; those of localisation are in `localisation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.data.sample import LabelledImages
from loss_attention.errors import InputError
from loss_attention.metrics.classification import (
    among_best,
    average_precisions,
    class_accuracies,
    commonest_answer,
    confusion_matrix,
    correct_images,
    eleven_point_precisions,
    expected_calibration_error,
)
from loss_attention.metrics.locality import Locality
from loss_attention.prediction import probabilities_of

FORMAT_VERSION = 5
TOP = 5
Classes = Mapping[str, Mapping[str, float | None]]
T = TypeVar("T")
CLASSES = "classification"
PATCHES_AND_PIXELS = "localisation: patches and pixels"
BOXES = "localisation: boxes"
ORACLE = "oracle: threshold chosen on these images"
LOCALITY = "locality: what a patch sees"
OLD_NAMES = {
    # Metrics of `evaluate`.
    "class_accuracy": "balanced_accuracy",
    "calibration_error": "expected_calibration_error",
    "patch_f": "patch_f1",
    "evidence_inside": "energy_pointing_game",
    "pixel_ap": "pxap",
    "box_ap": "gt_known_loc_patches",
    "box_ap_named": "top1_loc_patches",
    "spread_box_ap": "gt_known_loc_spread",
    "spread_box_ap_named": "top1_loc_spread",
    "map_box_ap": "gt_known_loc_heat_map",
    "map_box_ap_named": "top1_loc_heat_map",
    "object_ap": "detection_ap50",
    # Their labels.
    "mean class accuracy": "balanced accuracy",
    "mean AP": "mAP",
    "mean AP, 11 points": "mAP, 11 points",
    "calibration error": "expected calibration error (ECE)",
    "patch F": "patch F1",
    "evidence inside the box": "energy pointing game (EPG)",
    "box AP": "GT-known Loc (patches)",
    "box AP, class right": "Top-1 Loc (patches)",
    "box AP of the map's spread": "GT-known Loc (spread)",
    "box AP of the heat map": "GT-known Loc (heat map)",
    "its part of IoU 0.3": "MaxBoxAccV2 @ IoU 0.3",
    "its part of IoU 0.5": "MaxBoxAccV2 @ IoU 0.5",
    "its part of IoU 0.7": "MaxBoxAccV2 @ IoU 0.7",
    "AP50 of several boxes": "detection AP50",
    # Headings.
    "classes": CLASSES,
    "where: patches and pixels": PATCHES_AND_PIXELS,
    "where: boxes": BOXES,
    # Trivial baselines.
    "best centred box": "centred box",
    "uniform weights": "uniform",
    "random weights": "random",
    "edge detector": "edges",
    "commonest classes": "most frequent classes",
    "commonest labels": "most frequent labels",
    "class shares": "class frequencies",
    "constant scores": "chance level",
    # Metrics of `compare`, and their labels.
    "share_inside": "energy_pointing_game",
    "pointing": "pointing_game",
    "spread_box": "gt_known_loc_spread",
    "box": "gt_known_loc_heat_map",
    "max_box": "max_box_acc_v2",
    "masking": "sensitivity_1",
    "grid_2x2": "grid_pointing_2x2",
    "grid_3x3": "grid_pointing_3x3",
    "randomised_part": "randomisation_last_third",
    "randomised": "randomisation_all",
    "positive share in the box": "energy pointing game (EPG)",
    "box IoU > 0.5, spread fitted": "GT-known Loc (spread)",
    "box IoU > 0.5, cut fitted": "GT-known Loc (heat map)",
    "box IoU > 0.5, cut oracle": "GT-known Loc (heat map, oracle)",
    # Before 0.1 was released, an IoU of exactly 0.5 was enough.
    "box IoU >= 0.5, cut fitted": "GT-known Loc (heat map, IoU >= 0.5)",
    "box IoU >= 0.5, cut oracle": "GT-known Loc (heat map, IoU >= 0.5, oracle)",
    "MaxBoxAccV2, cuts fitted": "MaxBoxAccV2",
    "agreement with masking": "Sensitivity-1 (masking)",
    "grid pointing, 2 x 2": "grid pointing game, 2 x 2",
    "grid pointing, 3 x 3": "grid pointing game, 3 x 3",
    "likeness, last third random": "randomisation test, last third",
    "likeness, all layers random": "randomisation test, all layers",
    **{
        f"{way}, {fill} fill, {unit}": f"{way} AUC, {fill}, {unit}"
        for way in ("insertion", "deletion")
        for fill in ("blurred", "mean")
        for unit in ("patches", "pixels")
    },
}
"""What files of version 0.1 call metrics, headings and baselines, and what they are called now."""
# Its first files had no headings.
_GROUPS_OF_VERSION_1 = {
    "accuracy": CLASSES,
    "mean_average_precision": CLASSES,
    "exact_match": CLASSES,
    "patch_precision": PATCHES_AND_PIXELS,
    "patch_recall": PATCHES_AND_PIXELS,
    "patch_f1": PATCHES_AND_PIXELS,
    "weight_inside": PATCHES_AND_PIXELS,
    "gt_known_loc_patches": BOXES,
}
_OLD_LABELS = {"top1_loc_spread": "Top-1 Loc (spread)", "top1_loc_heat_map": "Top-1 Loc (heat map)"}
"""Both were "the same, class right"."""


def current_name(name: str) -> str:
    """Return what a name or label of version 0.1 has become; any other is as it was.

    Example:
        >>> current_name("box_ap"), current_name("map_box_ap_oracle"), current_name("accuracy")
        ('gt_known_loc_patches', 'gt_known_loc_heat_map_oracle', 'accuracy')
    """
    stem = name.removesuffix("_oracle")
    label, bracket, rest = stem.partition(" (")  # "mean AP (3 of 4 occur)"
    return OLD_NAMES.get(label, label) + bracket + rest + name[len(stem) :]


def current_names(values: Mapping[str, T]) -> dict[str, T]:
    """Return values with the names that their metrics or baselines have now."""
    return {current_name(name): value for name, value in values.items()}


def current_metric(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a metric as version 0.1 wrote it, with the names that it has now."""
    name = current_name(values["name"])
    renewed = {
        **values,
        "name": name,
        "label": _OLD_LABELS.get(name) or current_name(values["label"]),
        "baselines": current_names(values["floors"]),
        "group": current_name(values.get("group") or _GROUPS_OF_VERSION_1.get(name, "")),
    }
    del renewed["floors"]
    return renewed


def current_record(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of the ledger that reproduces the paper; one of today is as it was."""
    renewed = dict(values)
    if "measures" in values:
        floors = renewed.pop("floors")
        renewed["metrics"] = current_names(renewed.pop("measures"))
        renewed["baselines"] = {current_name(name): current_names(floors[name]) for name in floors}
    return renewed


def current_comparison(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison of explanations, the content of comparison.json, likewise."""
    renewed = dict(values)
    if "measures" in values:
        renewed["mosaics"] = current_names(values["mosaics"])
        renewed["metrics"] = {
            current_name(name): {**metric, "label": current_name(metric["label"])}
            for name, metric in renewed.pop("measures").items()
        }
        renewed["methods"] = {
            method: {
                "trivial_baseline": found["floor"],
                "scores": current_names(found["figures"]),
            }
            for method, found in values["methods"].items()
        }
    return renewed


def current_run(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run as `results/` keeps it, with its metrics and comparisons, likewise."""
    renewed = dict(values)
    if "measures" in values:
        renewed["metrics"] = [current_metric(metric) for metric in renewed.pop("measures")]
    for name in ("comparison", "slow_comparison"):
        if renewed.get(name):
            renewed[name] = current_comparison(renewed[name])
    return renewed


@dataclass(frozen=True)
class Metric:
    """What a model scores by one metric; docs/measures.md says what each means.

    Attributes:
        name: for programs, `patch_f1` for example.
        label: for people.
        value: None where it is undefined (nothing to divide by), or needs a threshold and there
            were no held-out images to choose it on.
        baselines: what the trivial baselines score, by name; None likewise, or where they had to
            be fitted to training data that were not there.
        unit: empty for a plain fraction.
        higher_is_better: the direction.
        range: the least and the greatest possible value.
        group: the heading to show it under.
    """

    name: str
    label: str
    value: float | None
    baselines: Mapping[str, float | None]
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
    """The metrics of one model on one set of images.

    Attributes:
        split: which images, `test` for example.
        images: how many.
        boxed_images: how many of them have a box of one of their labels.
        metrics: in the order in which to show them.
        per_class: scores of each class, by the name of the metric and that of the class.
        thresholds: what was chosen on held-out images, by the metric that it is for.
        confusion: of each class that occurs, how many images are called what; of one label an
            image. Pairs that never occur are left out.
        held_out: the model's localisation on the images that thresholds were chosen on, by the
            metric: what settings may be chosen by, as the reported images must not be looked at.
        masked_images: how many have a mask, where maps were held against masks; files of before
            have 0.
        map: what the heat maps that were measured show; a file that does not say so is of evidence.
        guided_by: what the model's training was guided by beside labels ("90 boxes"); "": nothing.
        locality: what the patches see, as curves; None where there are no patches, or no two images
            of different classes, and in files of before.
        per_image: kept in memory only; None when read from a file.
    """

    split: str
    images: int
    boxed_images: int
    metrics: tuple[Metric, ...]
    per_class: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, float | None] = field(default_factory=dict)
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    masked_images: int = 0
    map: str = "evidence"
    guided_by: str = ""
    locality: Locality | None = None
    per_image: ImageResults | None = field(default=None, compare=False, repr=False)

    def get(self, name: str) -> Metric | None:
        """Return a metric, None where this evaluation does not have it."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __getitem__(self, name: str) -> Metric:
        metric = self.get(name)
        if metric is None:
            raise KeyError(f"{name!r} is not among {', '.join(m.name for m in self.metrics)}")
        return metric

    def value(self, name: str) -> float | None:
        """Return the value of a metric, None where it is undefined.

        Raises:
            KeyError: a metric that this evaluation does not have.
        """
        return self[name].value

    def to_json(self) -> dict[str, Any]:
        """Return all but `per_image` as plain values, the content of `evaluation.json`."""
        values = {"format_version": FORMAT_VERSION, **asdict(replace(self, per_image=None))}
        del values["per_image"]
        if not self.guided_by:
            del values["guided_by"]
        values["metrics"] = [
            {**metric, "range": list(metric["range"])} for metric in values["metrics"]
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
            if version is None or version < 4:
                rest["metrics"] = [current_metric(metric) for metric in rest.pop("measures")]
                for field_ in ("per_class", "thresholds", "held_out"):
                    rest[field_] = current_names(rest.get(field_, {}))
            metrics = tuple(
                Metric(**{**metric, "range": tuple(metric["range"])})
                for metric in rest.pop("metrics")
            )
            found = rest.pop("locality", None)
            locality = None if found is None else Locality.from_json(found)
            return cls(**rest, metrics=metrics, locality=locality)
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError("this is not an evaluation that loss-attention wrote") from error


_Metric = partial(Metric, group=CLASSES)
Kept = tuple[Tensor, Tensor, Tensor, Tensor]


def name_images(
    logits: Float[Tensor, "B K"], labels: Shaped[Tensor, B * K], *, competing: bool
) -> Kept:
    """Return what is kept of a batch: of each image what the metrics need, on its device.

    The predicted class, its probability, whether the image counts as right, and its logits; of one
    label an image whether that is among the five best in their place. The probability is a softmax
    where classes are `competing`, else the sigmoid of the class's logit.
    """
    logits = logits.float()
    best = probabilities_of(logits, competing=competing).max(dim=1)
    more = logits if labels.ndim == 2 else among_best(logits, labels, TOP)
    return logits.argmax(dim=1), best.values, correct_images(logits, labels), more


def classification_metrics(
    batches: Sequence[Kept], data: LabelledImages, train: LabelledImages | None
) -> tuple[list[Metric], Classes, ImageResults]:
    """Return the metrics, those of each class, and the results image by image."""
    *found, more = (torch.cat(parts).cpu() for parts in zip(*batches, strict=True))
    results = ImageResults(*found)
    measured = _several_labels if data.multi_label else _one_label
    return *measured(results, more, data, train), results


def _one_label(
    results: ImageResults, in_top: Tensor, data: LabelledImages, train: LabelledImages | None
) -> tuple[list[Metric], Classes]:
    labels, classes = data.labels.cpu(), len(data.class_names)
    by_class = class_accuracies(results.correct, labels, classes)
    present = ~by_class.isnan()
    majority = most_frequent = balanced = expected = None
    if train is not None:
        constant = commonest_answer(train.labels.cpu(), labels)
        counts = torch.bincount(train.labels.cpu(), minlength=classes).double()
        majority = mean(constant)
        most_frequent = mean(among_best(counts.unsqueeze(0), labels, TOP))
        balanced = mean(class_accuracies(constant, labels, classes)[present])
        confidence = (counts.max() / counts.sum()).expand(len(labels))
        expected = expected_calibration_error(confidence, constant)
    chance = {"chance level": 1 / classes}  # each class as likely as any other, whatever occurs
    baselines = {"majority class": majority, **chance}
    metrics = [_Metric("accuracy", "accuracy", mean(results.correct), baselines)]
    label, baselines = "balanced accuracy" + _how_many(present), {"majority class": balanced}
    metrics.append(
        _Metric("balanced_accuracy", label, mean(by_class[present]), {**baselines, **chance})
    )
    if classes > TOP:
        baselines = {"most frequent classes": most_frequent}
        metrics.append(_Metric("top5_accuracy", "top-5 accuracy", mean(in_top), baselines))
    metrics.append(_calibration(results.probabilities, results.correct, expected))
    return metrics, {"accuracy": _named(by_class, data)}


def confusions(results: ImageResults, data: LabelledImages) -> dict[str, dict[str, int]]:
    """Return how many images of each class are called what; empty where they have several."""
    counts: dict[str, dict[str, int]] = {}
    if not data.multi_label:
        for label, called, images in confusion_matrix(results.predictions, data.labels).tolist():
            row = counts.setdefault(data.class_names[label], {})
            row[data.class_names[called]] = images
    return counts


def _several_labels(
    results: ImageResults,
    logits: Float[Tensor, "N K"],
    data: LabelledImages,
    train: LabelledImages | None,
) -> tuple[list[Metric], Classes]:
    labels = data.labels.cpu()
    precisions = average_precisions(logits, labels)
    eleven = eleven_point_precisions(logits, labels)
    present = ~precisions.isnan()
    chance = {"chance level": mean(labels.double().mean(dim=0)[present])}
    most_frequent = expected = None
    if train is not None:
        of_train = train.labels.cpu()
        most_frequent = mean(commonest_answer(of_train, labels))
        frequencies = of_train.double().mean(dim=0).expand(labels.shape)
        expected = expected_calibration_error(frequencies.flatten(), labels.bool().flatten())
    label, eleven_points = "mAP" + _how_many(present), "mAP, 11 points (VOC 2007)"
    baselines = {"most frequent labels": most_frequent}
    metrics = [
        _Metric("mean_average_precision", label, mean(precisions[present]), chance),
        _Metric("mean_average_precision_voc2007", eleven_points, mean(eleven[present]), chance),
        _Metric("exact_match", "exact match", mean(results.correct), baselines),
        _calibration(logits.sigmoid().flatten(), labels.bool().flatten(), expected),
    ]
    return metrics, {
        "average_precision": _named(precisions, data),
        "average_precision_voc2007": _named(eleven, data),
    }


def _calibration(
    confidence: Float[Tensor, " N"], right: Shaped[Tensor, " N"], expected: float | None
) -> Metric:
    return _Metric(
        "expected_calibration_error",
        "expected calibration error (ECE)",
        expected_calibration_error(confidence, right),
        {"class frequencies": expected},
        higher_is_better=False,
    )


def _named(values: Float[Tensor, " K"], data: LabelledImages) -> dict[str, float | None]:
    """Return the score of each class, None where it is undefined."""
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
