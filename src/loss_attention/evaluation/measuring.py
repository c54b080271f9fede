"""A model and data in, named metrics with their trivial baselines out.

A trivial baseline is what an answer scores on the same images that ignores the model. Localisation
(patches, heat maps and boxes) is measured over the images that have a box of one of their labels;
where there is none, there is nothing to point at. Each batch is measured and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from loss_attention.data.sample import ImageSet, LabelledImages
from loss_attention.errors import InputError
from loss_attention.evaluation.localisation import (
    ANSWERS,
    GROUP_THRESHOLDS,
    MODEL,
    Chosen,
    Places,
    fit_centred_boxes,
)
from loss_attention.evaluation.metric import CLASSES, ORACLE, Evaluation, ImageResults, Measure
from loss_attention.inference import Autocast, Model, for_inference, run_batches
from loss_attention.losses import Loss, loss_for
from loss_attention.metrics.classification import (
    among_best,
    average_precisions,
    calibration_error,
    class_accuracies,
    commonest_answer,
    correct_images,
    eleven_point_precisions,
)
from loss_attention.metrics.detection import BOX_IOUS
from loss_attention.metrics.localisation import relevant_boxes
from loss_attention.model import PatchClassifier
from loss_attention.prediction import ImagePrediction

MOST_HELD_OUT = 2000
"""Held-out images that thresholds are chosen on, evenly taken from all there are."""
TOP = 5
Classes = Mapping[str, Mapping[str, float | None]]
_Measure = partial(Measure, group=CLASSES)


def evaluate(
    model: Model,
    data: LabelledImages,
    *,
    train: LabelledImages | None = None,
    held_out: LabelledImages | None = None,
    split: str = "test",
    batch_size: int = 256,
    device: torch.device | str | None = None,
    autocast: Autocast = nullcontext,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run a model once over a set of images and measure it.

    The model is left as it was: a `PatchClassifier` is measured by a copy `for_inference`, another
    module is in evaluation mode meanwhile.

    Args:
        model: a `PatchClassifier` or any module that returns a prediction.
        data: the images. Without boxes, or for a model without patches, only the classification
            is measured; what needs exact evidence is measured where there is any.
        train: the training set, which the floors "majority class" and "best centred box" are
            fitted to; None: they stay empty.
        held_out: images that are neither reported nor trained on, to choose thresholds on, for
            the model and for each floor; at most `MOST_HELD_OUT` are used. None, or without
            boxes: what needs a threshold stays empty.
        split: what to call the images.
        batch_size: images at a time; decides speed and memory, not the result.
        device: where to compute; None: where the model is.
        autocast: makes the context that the model runs in (`fabric.autocast`, say).
        progress: called after each batch with the number of images done and of all images.

    Raises:
        InputError: no images, or classes that are not the model's.
    """
    _check_classes(model, data)
    fast = for_inference(model) if isinstance(model, PatchClassifier) else model

    def run(
        images: LabelledImages, places: Places, before: int = 0, total: int = 0
    ) -> list[NamedImages]:
        """Run over a set, as a part of so many images of which so many are done."""

        def measure(batch: ImageSet, prediction: ImagePrediction) -> NamedImages:
            places.add(batch, prediction)
            return name_images(prediction.logits, batch.labels)

        def tick(done: int, _: int) -> None:
            if progress is not None and total:
                progress(before + done, total)

        return run_batches(
            fast,
            images,
            measure,
            batch_size=batch_size,
            autocast=autocast,
            device=device,
            progress=tick,
        )

    centred = fit_centred_boxes(train) if data.boxes is not None else None
    chosen: Mapping[str, Chosen] = {}
    on_held_out: dict[str, float | None] = {}
    fitting = None if data.boxes is None else _for_fitting(held_out)
    if fitting is not None:
        probe = Places(centred)
        run(fitting.subset(torch.arange(1)), probe)
        if not probe.has_evidence:
            fitting = None
    held = 0 if fitting is None else len(fitting)
    if fitting is not None:
        places = Places(centred, dict.fromkeys(ANSWERS, GROUP_THRESHOLDS))
        run(fitting, places, total=held + len(data))
        chosen = places.best_thresholds()
        on_held_out = {
            measure.name: measure.value
            for measure in places.measures(chosen)
            if measure.group != ORACLE
        }
    places = Places(centred, {name: (best.groups,) for name, best in chosen.items()})
    batches = run(data, places, held, held + len(data))
    measures, per_class, per_image = classification_measures(batches, data, train)
    return Evaluation(
        split=split,
        images=len(data),
        boxed_images=_boxed_images(data),
        measures=(*measures, *places.measures(chosen)),
        per_class=per_class,
        thresholds=_named_thresholds(chosen),
        held_out=on_held_out,
        per_image=per_image,
    )


def validate(
    model: Model,
    data: LabelledImages,
    batch_size: int,
    autocast: Autocast = nullcontext,
    *,
    loss: Loss | None = None,
    progress: Callable[[int, int], None] | None = None,
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
        progress: called after each batch with the number of images done and of all images.

    Raises:
        InputError: no images.
    """
    loss_of = loss or loss_for("cross-entropy", multi_label=data.multi_label)

    def measure(batch: ImageSet, prediction: ImagePrediction) -> Tensor:
        right = correct_images(prediction.logits, batch.labels).sum()
        return torch.stack([loss_of(prediction, batch.labels, 0.0) * len(batch), right])

    batches = run_batches(
        model, data, measure, batch_size=batch_size, autocast=autocast, progress=progress
    )
    total, right = torch.stack(batches).cpu().double().sum(dim=0).tolist()
    return total / len(data), right / len(data)


def _for_fitting(held_out: LabelledImages | None) -> LabelledImages | None:
    """Return the held-out images to choose thresholds on; None where no image has a box."""
    if held_out is None or not _boxed_images(held_out):
        return None
    if len(held_out) <= MOST_HELD_OUT:
        return held_out
    # Evenly, as images are often in the order of their classes.
    return held_out.subset(torch.arange(MOST_HELD_OUT) * len(held_out) // MOST_HELD_OUT)


def _boxed_images(data: LabelledImages) -> int:
    """Return how many images have a box of one of their labels."""
    if data.box_labels is None:
        return 0
    return int(relevant_boxes(data.box_labels, data.labels).any(dim=1).sum())


def _named_thresholds(chosen: Mapping[str, Chosen]) -> dict[str, float]:
    """Return the model's thresholds by the names of the figures that they were chosen for."""
    if MODEL not in chosen:
        return {}
    best = chosen[MODEL]
    by_iou = {
        f"max_box_acc_v2_{iou}": threshold
        for iou, threshold in zip(BOX_IOUS, best.max_box, strict=True)
    }
    return {
        "spread_box_ap": best.spread,
        "map_box_ap": best.map_box,
        **by_iou,
        "object_ap": best.groups,
    }


def _check_classes(model: Model, data: LabelledImages) -> None:
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
