"""Methods of explanation side by side: where they point, how faithful they are, their cost.

Among what they are measured on are copies of the model whose weights say nothing any more.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from loss_attention.attribution.maps import METHODS, attribute, find_method, window_grid
from loss_attention.attribution.measures import (
    GROUP_NAMES,
    GROUPS,
    LOCALITY,
    MOSAIC_SIDES,
    RANDOMISED_FRACTIONS,
    TIME,
    Boxed,
    MetricText,
    Mosaics,
    Subject,
    groups_named,
    in_batches,
    logit,
    measure_method,
    measure_time,
    metrics_within,
)
from loss_attention.attribution.scores import MeanScore, Tally
from loss_attention.data.sample import ImageSet, LabelledImages
from loss_attention.errors import InputError
from loss_attention.evaluation.locality import MOST_IMAGES, plan_locality
from loss_attention.evaluation.measuring import for_inference
from loss_attention.explanation import default_map
from loss_attention.geometry import PatchGrid
from loss_attention.metrics.faithfulness import masking_falls, mean_fill
from loss_attention.metrics.localisation import NEAR, assemble, choose_mosaics
from loss_attention.metrics.locality import Locality
from loss_attention.model import PatchClassifier
from loss_attention.prediction import probabilities_of

BASELINES = tuple(name for name, method in METHODS.items() if method.baseline)
MOSAIC_POOL = 1000
"""Mosaics are made of the most confident of at most so many images."""


Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Comparison:
    """What was measured of each method on the same images.

    Attributes:
        scores: by method and measure (`measures.METRICS`); a measure that the data or
            the model does not allow is not there.
        images: how many were explained.
        boxed: how many of them have a box of their class.
        mosaics: how many of each size.
        left_out: why, for each method that this model does not allow.
        seed: which the images were chosen by.
        within: how many pixels from an object are near it.
        groups: of metrics that were asked for, of `measures.GROUP_NAMES`.
        guided_by: what the model's training was guided by beside labels; "": nothing.
        locality: what the patches see, which is the model's whatever the method; None where that
            was not asked for or cannot be measured.
        no_locality: why it cannot be.
        against: the method that others are held against, image by image.
        values: by method and measure, of each image (NaN where it could not be measured), `(N,)`,
            or of each cell of each mosaic, `(G, cells)`; without PxAP and times.
        drawn: which of the data's images they are, shape `(N,)`.
    """

    scores: Mapping[str, Mapping[str, MeanScore]]
    images: int
    boxed: int
    mosaics: Mapping[str, int]
    left_out: Mapping[str, str]
    seed: int
    within: int = NEAR
    groups: tuple[str, ...] = GROUP_NAMES
    guided_by: str = ""
    locality: Locality | None = None
    no_locality: str = ""
    against: str = ""
    values: Mapping[str, Mapping[str, Float[np.ndarray, ...]]] = field(default_factory=dict)
    drawn: Int[Tensor, " N"] = field(default_factory=lambda: torch.arange(0))

    @property
    def metrics(self) -> dict[str, MetricText]:
        """What is measured, by the names that scores have here, in the order to show it."""
        return metrics_within(self.within)


def compare(
    model: PatchClassifier,
    data: LabelledImages,
    methods: Sequence[str] | None = None,
    *,
    train: LabelledImages | None = None,
    images: int = 50,
    batch_size: int = 32,
    seed: int = 0,
    within: int = NEAR,
    metrics: Sequence[str] | None = None,
    against: str | None = None,
    progress: Progress | None = None,
) -> tuple[Comparison, Subject]:
    """Measure methods of explanation on the same model and images.

    The explained class of an image is its label; of several, the one the model finds likeliest.
    Scores have 95 % intervals, and so have their differences from those of one method, image by
    image (`metrics.bootstrap`).

    Args:
        model: any model; it is left as it was.
        data: the images to explain are drawn from these; those without a label are left out.
        methods: names from `METHODS`; None: all that this model allows. The trivial
            baselines come on top.
        train: where the cuts of the boxes around maps are chosen, best of images that the model
            was not trained on; None: only the oracle is measured.
        images: how many to explain.
        batch_size: images at a time; decides speed and memory, not the result.
        seed: which images are drawn, and how weights are randomised.
        within: how many pixels from an object are near it, for the metrics with that tolerance.
        metrics: groups of them, of `measures.GROUP_NAMES`; None: all.
        against: the method that the others are held against; None: the map that is shown of this
            model (`explanation.default_map`), or the first method where that is not among them.
        progress: called with the number of steps done and of all, and what comes next.

    Returns:
        The scores, and what they were measured on.

    Raises:
        InputError: an unknown method or group of metrics, a method that this model does not allow,
            other classes than the model's, fewer than two images with a label, logits that are no
            numbers, or `against` a method that is not compared.
    """
    check_asked(methods, against)
    if data.class_names != model.class_names:
        raise InputError(
            f"the model has the classes {', '.join(model.class_names[:3])}, ... and the data "
            f"{', '.join(data.class_names[:3])}, ...; they must be the same in the same order"
        )
    if images < 2:
        raise InputError(f"`images` must be at least 2, got {images}")
    if batch_size < 1:
        raise InputError(f"`batch_size` must be at least 1, got {batch_size}")
    if within < 1:
        raise InputError(f"`within` must be at least 1 pixel, got {within}")
    if len(_labelled(data)) < 2:
        raise InputError("a comparison needs at least two images with a label")
    groups = groups_named(metrics)
    original, model = model, for_inference(model)
    with torch.no_grad():
        drawn = _drawn(data, images, seed)
        sample = data.take(drawn).to(model.mean.device)
        allowed, left_out = _allowed(model, sample.images[:2], methods)
        reference = _reference(model, allowed, left_out, against)
        measured = [group for group in groups if group in GROUPS]
        steps = len(measured) + (TIME in groups)
        done, total = itertools.count(1), len(allowed) * steps

        def tell(count: int, what: str) -> None:
            if progress is not None:
                progress(count, total, what)

        tell(0, "preparing")
        few = sample.images[: max(2, batch_size)] / 255
        shuffled = {
            name: for_inference(randomised(original, few, fraction, seed))
            for name, fraction in RANDOMISED_FRACTIONS.items()
            if "randomisation" in groups
        }
        subject = _subject(model, shuffled, sample, data, train, batch_size, seed, within, groups)
        locality, no_locality = None, ""
        if LOCALITY in groups:
            locality, no_locality = _locality(model, data, len(sample), seed)
        tally = Tally()
        for number, method in enumerate(allowed):
            tell(number * steps, method)
            for values in measure_method(subject, method, measured):
                tally.add(method, values)
                tell(next(done), method)
            if TIME in groups:
                tally.add_times(method, measure_time(subject, method))
                tell(next(done), method)
    comparison = Comparison(
        scores=tally.against(reference),
        images=len(sample),
        boxed=int(subject.boxed().sum()),
        mosaics={name: len(found.images) for name, found in subject.mosaics.items()},
        left_out=left_out,
        seed=seed,
        within=within,
        groups=groups,
        guided_by=model.spec.guided_by,
        locality=locality,
        no_locality=no_locality,
        against=reference,
        values=tally.values,
        drawn=drawn,
    )
    return comparison, subject


def _locality(
    model: PatchClassifier, data: LabelledImages, images: int, seed: int
) -> tuple[Locality | None, str]:
    """Return what the patches see, or why that cannot be measured."""
    images = min(images, MOST_IMAGES)
    try:
        task = plan_locality(model, data, images=images, seed=seed)
    except InputError as error:
        return None, str(error)
    return task.run(), ""


def check_asked(methods: Sequence[str] | None, against: str | None) -> None:
    """Raise `InputError` for methods that there are not, or one to hold others against of no use.

    Args:
        methods: those to compare; None: all that a model allows.
        against: the one that others are held against; None: chosen by what is shown of the model.
    """
    for name in (*(methods or ()), *([] if against is None else [against])):
        find_method(name)
    if against is not None and methods is not None and against not in (*methods, *BASELINES):
        raise InputError(
            f"`against` is {against}, which is not compared; add it to `methods`, or name one of "
            f"{', '.join(dict.fromkeys((*methods, *BASELINES)))}"
        )


def _reference(
    model: PatchClassifier,
    allowed: Sequence[str],
    left_out: Mapping[str, str],
    against: str | None,
) -> str:
    """Return the method that others are held against."""
    if against is None:
        shown = default_map(competing=model.competing)
        return shown if shown in allowed else allowed[0]
    if against in left_out:
        raise InputError(f"`against` {against} is not possible: {left_out[against]}")
    return against


def _allowed(
    model: PatchClassifier, images: Tensor, methods: Sequence[str] | None
) -> tuple[list[str], dict[str, str]]:
    """Try each method; return those to measure, trivial baselines last, and why not the others."""
    names = dict.fromkeys(name for name in methods or METHODS if name not in BASELINES)
    left_out = {}
    for name in names:
        try:
            attribute(model, images, name)
        except InputError as error:
            if methods is not None:
                raise
            left_out[name] = str(error)
    return [name for name in (*names, *BASELINES) if name not in left_out], left_out


def _drawn(data: LabelledImages, images: int, seed: int) -> Int[Tensor, " N"]:
    """Return which images to take of those with a label, drawn by the seed."""
    labelled = _labelled(data)
    order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))
    return labelled[order[:images]]


def _labelled(data: LabelledImages) -> Int[Tensor, " N"]:
    has = data.labels.any(dim=1) if data.multi_label else torch.ones(len(data)).bool()
    return has.cpu().nonzero().squeeze(1)


def _subject(
    model: PatchClassifier,
    shuffled: dict[str, PatchClassifier],
    sample: ImageSet,
    data: LabelledImages,
    train: LabelledImages | None,
    batch_size: int,
    seed: int,
    within: int,
    groups: Sequence[str],
) -> Subject:
    target = _explained(model, sample, batch_size)[0]
    grid = window_grid(model, *sample.size)
    mosaics: dict[str, Mosaics] = {}
    if "grid-pointing" in groups:
        mosaics = _make_mosaics(model, data, len(sample), batch_size, seed)
    fitting = None
    if train is not None and "localisation" in groups:
        fitting = _fitting(model, train, len(sample), batch_size, seed)
    return Subject(
        model=model,
        images=sample.images,
        target=target,
        boxes=_boxes_of(sample, target),
        grid=grid,
        falls=_falls(model, sample, target, grid, batch_size) if "sensitivity" in groups else None,
        fitting=fitting,
        mosaics=mosaics,
        randomised=shuffled,
        batch_size=batch_size,
        masks=_masks_of(sample),
        within=within,
    )


def _falls(
    model: PatchClassifier,
    sample: ImageSet,
    target: Int[Tensor, " N"],
    grid: PatchGrid,
    batch_size: int,
) -> Float[Tensor, "N M"]:
    """Return how far the logit of each image falls when each window alone is masked."""
    falls = []
    for raw, classes in in_batches(batch_size, sample.images, target):
        part = raw / 255
        fill = mean_fill(part, model.mean)
        windows = grid.windows(part.device)
        falls.append(masking_falls(logit(model, classes), part, windows, fill))
    return torch.cat(falls)


def _explained(
    model: PatchClassifier, data: ImageSet, batch_size: int
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"], Int[Tensor, " N"]]:
    """Return each image's label (the likeliest of several), its probability, and the prediction."""
    logits = torch.cat([model(part).logits for (part,) in in_batches(batch_size, data.images)])
    if not logits.isfinite().all():
        raise InputError("the model's logits are not finite numbers: its weights are damaged")
    probabilities = probabilities_of(logits, competing=model.competing)
    own = logits.masked_fill(~data.label_matrix().bool(), -torch.inf).argmax(dim=1)
    return own, probabilities.gather(1, own.unsqueeze(1)).squeeze(1), logits.argmax(dim=1)


def _boxes_of(data: ImageSet, target: Int[Tensor, " N"]) -> Float[Tensor, "N G 4"] | None:
    """Return the boxes of the target class, NaN for the others."""
    if data.boxes is None or data.box_labels is None:
        return None
    others = data.box_labels != target.unsqueeze(1)
    return data.boxes.masked_fill(others.unsqueeze(2), torch.nan)


def _masks_of(data: ImageSet) -> Bool[Tensor, "N H W"] | None:
    """Return the masks of images with one label: of several, a mask does not say whose it is."""
    if data.masks is None:
        return None
    return data.masks & (data.label_matrix().sum(dim=1) == 1)[:, None, None]


def _fitting(
    model: PatchClassifier, train: LabelledImages, count: int, batch_size: int, seed: int
) -> Boxed | None:
    """Return images that have a box of the class that is explained."""
    if train.boxes is None or train.box_labels is None:
        return None
    some = train.take(_drawn(train, 4 * count, seed)).to(model.mean.device)
    target = _explained(model, some, batch_size)[0]
    boxes = _boxes_of(some, target)
    assert boxes is not None
    has = (~boxes.isnan().any(dim=2).all(dim=1)).nonzero().squeeze(1)[:count]
    return Boxed(some.images[has], target[has], boxes[has]) if len(has) else None


def _make_mosaics(
    model: PatchClassifier, data: LabelledImages, count: int, batch_size: int, seed: int
) -> dict[str, Mosaics]:
    """Return mosaics of confidently and correctly classified images with one label, by measure.

    A size is left out where too few classes have such an image, or the model takes no image so
    large.
    """
    pool = data.take(_drawn(data, max(MOSAIC_POOL, count), seed)).to(model.mean.device)
    target, confidence, predicted = _explained(model, pool, batch_size)
    usable = (predicted == target) & (pool.label_matrix().sum(dim=1) == 1)
    confidence = confidence.masked_fill(~usable, -1.0).cpu()
    mosaics = {}
    for name, side in MOSAIC_SIDES.items():
        cells = side * side
        chosen = choose_mosaics(confidence, target.cpu(), cells, max(1, count // cells), seed)
        if chosen is None:
            continue
        chosen = chosen.to(target.device)
        pictures = assemble(pool.images[chosen], side)
        try:
            model(pictures[:1])
        except InputError:  # a head that is made for one size only
            continue
        mosaics[name] = Mosaics(pictures, target[chosen], side)
    return mosaics


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def randomised(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], fraction: float, seed: int = 0
) -> PatchClassifier:
    """Return a copy of a model with the weights of its last layers randomised.

    The values of each weight tensor are shuffled, which keeps their scale and takes away what they
    have learned; batch norms among those layers then count their statistics anew on the images, so
    that what is left is a network with healthy activations that has learned nothing. Adebayo et al.
    2018, "Sanity Checks for Saliency Maps", whose cascade goes from the classifier to the image
    too.

    Args:
        model: left as it is.
        images: in [0, 1]; at least two.
        fraction: of the layers with weights that is randomised, counted from the classifier
            towards the image; 1 for all.
        seed: the same seed shuffles the same way.

    Returns:
        The copy, in evaluation mode.
    """
    copied = copy.deepcopy(model).eval()
    layers = [module for module in copied.modules() if list(module.parameters(recurse=False))]
    last = layers[len(layers) - max(1, round(fraction * len(layers))) :]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in last:
            for parameter in layer.parameters(recurse=False):
                order = torch.randperm(parameter.numel(), generator=generator)
                flat = parameter.flatten()[order.to(parameter.device)]
                parameter.copy_(flat.reshape(parameter.shape))
        norms = [layer for layer in last if isinstance(layer, _NORMS)]
        _count_anew(copied, norms, images)
    return copied


def _count_anew(
    model: PatchClassifier, norms: list[nn.BatchNorm1d | nn.BatchNorm2d], images: Tensor
) -> None:
    """Set the running statistics of batch norms to those of the images."""
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, here one
        norm.train()
    model(images)
    for norm in norms:
        norm.eval()
