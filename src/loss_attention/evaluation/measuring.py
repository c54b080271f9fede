"""A model and data in, named metrics with their trivial baselines out.

A trivial baseline is what an answer that ignores the model scores on the same images. Localisation
(patches, heat maps and boxes) is measured over the images that have a box of one of their labels;
where there is none, there is nothing to point at. Each batch is measured and forgotten.

`run_batches` runs a model over any images, for others too, and `for_inference` makes it faster.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from loss_attention.backbones.layers import Conv2d, is_plain, neighbours
from loss_attention.data.sample import (
    AnyBatch,
    Batch,
    Batches,
    ImageSet,
    LabelledImages,
)
from loss_attention.errors import InputError
from loss_attention.evaluation.baselines import ANSWERS, MODEL, fit_centred_boxes
from loss_attention.evaluation.localisation import GROUP_THRESHOLDS, Chosen, Localisation
from loss_attention.evaluation.locality import LocalityTask, locality_metrics, plan_locality
from loss_attention.evaluation.metric import (
    ORACLE,
    Evaluation,
    Kept,
    classification_metrics,
    confusions,
    name_images,
)
from loss_attention.explanation import check_map, default_map
from loss_attention.heads import HEADS
from loss_attention.losses import Loss, loss_for
from loss_attention.memory import images_at_once
from loss_attention.metrics.classification import (
    correct_images,
)
from loss_attention.metrics.detection import BOX_IOUS
from loss_attention.metrics.localisation import NEAR, relevant_boxes
from loss_attention.model import PatchClassifier
from loss_attention.prediction import ImagePrediction, MapName

MOST_HELD_OUT = 2000
"""Held-out images that thresholds are chosen on, evenly taken from all there are."""


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
    map: MapName | None = None,
    within: int = NEAR,
    locality: int | None = None,
) -> Evaluation:
    """Run a model once over a set of images and measure it.

    The model is left as it was: a `PatchClassifier` is measured by a copy `for_inference`, another
    module is in evaluation mode meanwhile.

    Args:
        model: a `PatchClassifier` or any module that returns a prediction.
        data: the images. Without boxes, or for a model without patches, only the classification
            is measured; what needs exact evidence is measured where there is any.
        train: the training set, which the baselines "majority class" and "centred box" are
            fitted to; None: they stay empty.
        held_out: images that are neither reported nor trained on, to choose thresholds on, for
            the model and for each trivial baseline; at most `MOST_HELD_OUT` are used. None, or
            without boxes: what needs a threshold stays empty.
        split: what to call the images.
        batch_size: images at a time, of large ones fewer; decides speed and memory, not the result.
        device: where to compute; None: where the model is.
        autocast: makes the context that the model runs in (`fabric.autocast`, say).
        progress: called after each batch with the number of images done and of all images.
        map: what the heat maps that are measured show; None: what is shown of such a model (see
            `explanation.default_map`).
        within: how many pixels from an object are near it, for the metrics with that tolerance.
        locality: images to measure on what the patches of a `PatchClassifier` see; 0: none, None:
            as many as take a quarter of the time that all of them do (`plan_locality`).

    Raises:
        InputError: no images, classes that are not the model's, a map that it does not have,
            `within` below 1, or `locality` below 0.
    """
    _check_classes(model, data)
    if locality is not None and locality < 0:
        raise InputError(f"`locality` must be at least 0 images, got {locality}")
    if within < 1:
        raise InputError(f"`within` must be at least 1 pixel, got {within}")
    if isinstance(model, PatchClassifier):
        has_evidence = HEADS[model.spec.head].has_evidence
        check_map(map, has_evidence=has_evidence, competing=model.competing)
    known = _classifier(model)
    # Of a model that does not say, a softmax decides where there is one label.
    competing = not data.multi_label if known is None else known.competing
    measured_map = map or default_map(competing=competing)
    localised = partial(Localisation, map=measured_map, within=within, competing=competing)
    fast = for_inference(model) if isinstance(model, PatchClassifier) else model

    total = 0

    def tick(done: int) -> None:
        if progress is not None and total:
            progress(done, total)

    def run(images: LabelledImages, localisation: Localisation, before: int = 0) -> list[Kept]:
        """Run over a set, before which so many images of the total are done."""

        def measure(batch: ImageSet, prediction: ImagePrediction) -> Kept:
            localisation.add(batch, prediction)
            return name_images(prediction.logits, batch.labels, competing=competing)

        return run_batches(
            fast,
            images,
            measure,
            batch_size=images_at_once(images.size, batch_size),
            autocast=autocast,
            device=device,
            progress=lambda done, _: tick(before + done),
        )

    centred = fit_centred_boxes(train) if data.boxes is not None else None
    chosen: Mapping[str, Chosen] = {}
    on_held_out: dict[str, float | None] = {}
    fitting = None if data.boxes is None else _for_fitting(held_out)
    if fitting is not None:
        probe = localised(centred)
        run(fitting.subset(torch.arange(1)), probe)
        if not probe.has_evidence:
            fitting = None
    held = 0 if fitting is None else len(fitting)
    task = _locality_task(fast, data, locality, device)
    total = held + len(data) + (0 if task is None else task.passes)
    if fitting is not None:
        localisation = localised(centred, dict.fromkeys(ANSWERS, GROUP_THRESHOLDS))
        run(fitting, localisation)
        chosen = localisation.best_thresholds()
        on_held_out = {
            metric.name: metric.value
            for metric in localisation.metrics(chosen)
            if metric.group != ORACLE
        }
    localisation = localised(centred, {name: (best.groups,) for name, best in chosen.items()})
    batches = run(data, localisation, held)
    metrics, per_class, per_image = classification_metrics(batches, data, train)
    seen = None
    if task is not None:
        seen = task.run(autocast, lambda done, _: tick(held + len(data) + done))
    return Evaluation(
        split=split,
        images=len(data),
        boxed_images=_boxed_images(data),
        metrics=(*metrics, *localisation.metrics(chosen), *locality_metrics(seen)),
        per_class=per_class,
        thresholds=_named_thresholds(chosen),
        held_out=on_held_out,
        confusion=confusions(per_image, data),
        masked_images=localisation.masked,
        map=measured_map,
        guided_by="" if known is None else known.spec.guided_by,
        locality=seen,
        per_image=per_image,
    )


def _locality_task(
    model: Model, data: LabelledImages, images: int | None, device: torch.device | str | None
) -> LocalityTask | None:
    """Return how locality is going to be measured; None where it is not, or cannot be."""
    if images == 0 or not isinstance(model, PatchClassifier):
        return None
    try:
        return plan_locality(model, data, images=images, device=device)
    except InputError:
        return None


def validate(
    model: Model,
    data: Batches[Batch],
    batch_size: int,
    autocast: Autocast = nullcontext,
    *,
    loss: Loss | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, Bool[Tensor, " N"]]:
    """Return the mean loss (no regulariser) and which images are right, on the CPU.

    For multi-label data those are the exact matches. The model is in
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

    def measure(batch: Batch, prediction: ImagePrediction) -> tuple[Tensor, Tensor]:
        loss = loss_of(prediction, batch.labels, 0.0) * len(batch)
        return loss, correct_images(prediction.logits, batch.labels)

    if isinstance(data, LabelledImages):
        batch_size = images_at_once(data.size, batch_size)
    losses, right = zip(
        *run_batches(
            model, data, measure, batch_size=batch_size, autocast=autocast, progress=progress
        ),
        strict=True,
    )
    total = float(torch.stack(losses).cpu().double().sum())
    return total / len(data), torch.cat(right).cpu()


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
    """Return the model's thresholds by the names of the metrics that they were chosen for."""
    if MODEL not in chosen:
        return {}
    best = chosen[MODEL]
    by_iou = {
        f"max_box_acc_v2_{iou}": threshold
        for iou, threshold in zip(BOX_IOUS, best.max_box, strict=True)
    }
    return {
        "gt_known_loc_spread": best.spread,
        "gt_known_loc_heat_map": best.map_box,
        **by_iou,
        "detection_ap50": best.groups,
    }


def _classifier(model: Model) -> PatchClassifier | None:
    """Return the classifier that a model is, or that Fabric wraps; None: another module."""
    inner = getattr(model, "module", model)
    return inner if isinstance(inner, PatchClassifier) else None


def _check_classes(model: Model, data: LabelledImages) -> None:
    """Raise `InputError` where the data's classes are not those of the model."""
    inner = _classifier(model)
    if inner is None:
        return
    count, named = inner.spec.num_classes, inner.spec.class_names
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


T = TypeVar("T")
Network = TypeVar("Network", bound=nn.Module)
Model = Callable[[Tensor], ImagePrediction]
Autocast = Callable[[], AbstractContextManager[Any]]


def run_batches(
    model: Model,
    data: Batches[AnyBatch],
    measure: Callable[[AnyBatch, ImagePrediction], T],
    *,
    batch_size: int,
    autocast: Autocast,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[T]:
    """Run a model over a set and return what `measure` makes of each batch.

    Everything runs in inference mode and with the model in evaluation mode; it is left in the mode
    it was in. The host waits for the device only where `measure` makes it.

    Args:
        model: a module, or any function, from images to a prediction.
        data: the images, on any device, in memory or streamed.
        measure: called with each batch, on the computing device, and its prediction.
        batch_size: images at a time; the last batch may be smaller.
        autocast: makes the context that the model runs in (`fabric.autocast`, say).
        device: where to compute; None: where the model's parameters are.
        progress: called after each batch with the number of images done and of all images.

    Raises:
        InputError: no images, or a batch size below 1.
    """
    if len(data) == 0:
        raise InputError("there are no images to evaluate")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if device is None:
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        device = data.labels.device if parameter is None else parameter.device
    results = []
    batches = torch.split(torch.arange(len(data)), batch_size)
    with torch.inference_mode(), evaluation_mode(model), data.reading():
        data.expect(batches)
        for index in batches:
            batch: AnyBatch = data.take(index).to(device)
            with autocast():
                prediction = model(batch.images)
            results.append(measure(batch, prediction))
            if progress is not None:
                progress(int(index[-1]) + 1, len(data))
    return results


@contextmanager
def evaluation_mode(model: Model | nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode and back, module by module: frozen ones stay frozen."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    in_training = [module for module in modules if module.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def for_inference(network: Network) -> Network:
    """Return a copy of a network that computes the same to rounding, in less time.

    In evaluation mode batch norm is a factor and a summand of each channel: both become part of the
    convolution before it, where it is certain that there is one (`backbones.layers.neighbours`).
    The weights lie channels last, which convolutions on a CPU and bf16 units of a GPU want.

    Args:
        network: left as it is.
    """
    copied = copy.deepcopy(network).eval()
    holders = {
        id(child): (module, name)
        for module in copied.modules()
        for name, child in module.named_children()
    }
    for first, second in list(neighbours(copied)):
        fused = _fused(first, second)
        if fused is not None:
            for old, new in ((first, fused), (second, nn.Identity().eval())):
                holder, name = holders[id(old)]
                setattr(holder, name, new)
    # torch's stubs know this overload of `to` for tensors alone.
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fused(first: nn.Module, second: nn.Module) -> nn.Conv2d | None:
    """Return one convolution for a convolution and a batch norm; None where they are not just that.

    A layer of another class, or one that something hooks into, may do more than it seems to.
    """
    if type(first) not in (nn.Conv2d, Conv2d) or type(second) is not nn.BatchNorm2d:
        return None
    if second.running_mean is None or not (is_plain(first) and is_plain(second)):
        return None
    assert isinstance(first, nn.Conv2d)
    return fuse_conv_bn_eval(first, second)
