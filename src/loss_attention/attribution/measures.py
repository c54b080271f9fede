"""What is measured of each method in a comparison: names, directions, ranges, and how."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from loss_attention.attribution.maps import attribute, attribute_classes, attribute_patches
from loss_attention.errors import unknown_name
from loss_attention.geometry import PatchGrid
from loss_attention.metrics.detection import BOX_IOUS, box_overlaps, spread_overlaps
from loss_attention.metrics.faithfulness import (
    Ends,
    Score,
    blurred_fill,
    deletion_curve,
    insertion_curve,
    mean_fill,
    patch_order,
    pixel_order,
    randomisation_similarity,
    sensitivity_1,
)
from loss_attention.metrics.localisation import (
    NEAR,
    count_pixels,
    empty_maps,
    energy_pointing,
    framed,
    grid_pointing,
    has_distance,
    near_object,
    pixels_in_boxes,
    pointing_hits,
    scaled_maps,
)
from loss_attention.model import PatchClassifier
from loss_attention.prediction import probabilities_of

LEAST_REPEATS, REPEATS = 3, 50
"""Of the timing, at least and at most; the median counts."""
ENOUGH_SECONDS = 0.5
"""A method is repeated for so long."""
TIMED_IMAGES = 16


class MetricText(NamedTuple):
    """A measure as it is shown."""

    label: str
    higher_is_better: bool
    range: tuple[float, float | None]


MOSAIC_SIDES = {"grid_pointing_2x2": 2, "grid_pointing_3x3": 3}
METRICS: dict[str, MetricText] = {
    "energy_pointing_game": MetricText("energy pointing game (EPG)", True, (0, 1)),
    "pointing_game": MetricText("pointing game", True, (0, 1)),
    "evidence_within_{within}_px": MetricText("positive evidence within {within} px", True, (0, 1)),
    "pointing_within_{within}_px": MetricText("pointing within {within} px", True, (0, 1)),
    "pxap": MetricText("PxAP", True, (0, 1)),
    "empty_maps": MetricText("empty maps", False, (0, 1)),
    "gt_known_loc_spread": MetricText("GT-known Loc (spread)", True, (0, 1)),
    "gt_known_loc_heat_map": MetricText("GT-known Loc (heat map)", True, (0, 1)),
    "gt_known_loc_heat_map_oracle": MetricText("GT-known Loc (heat map, oracle)", True, (0, 1)),
    "max_box_acc_v2": MetricText("MaxBoxAccV2", True, (0, 1)),
    **{
        f"{way}_{fill}_{unit}": MetricText(f"{way} AUC, {fill}, {unit}", way == "insertion", (0, 1))
        for unit in ("patches", "pixels")
        for way in ("insertion", "deletion")
        for fill in ("blurred", "mean")
    },
    "sensitivity_1": MetricText("Sensitivity-1 (masking)", True, (-1, 1)),
    "grid_pointing_2x2": MetricText("grid pointing game, 2 x 2", True, (0, 1)),
    "grid_pointing_3x3": MetricText("grid pointing game, 3 x 3", True, (0, 1)),
    "randomisation_last_third": MetricText("randomisation test, last third", False, (-1, 1)),
    "randomisation_all": MetricText("randomisation test, all layers", False, (-1, 1)),
    "seconds": MetricText("seconds an image", False, (0, None)),
    "time_ratio": MetricText("time / forward pass", False, (0, None)),
}
"""By name, in the order in which they are shown; `metrics_within` fills in the pixels."""
COSTS = ("seconds", "time_ratio")
"""Those that are not of single images."""


def metrics_within(within: int) -> dict[str, MetricText]:
    """Return the metrics with the pixels that are near an object in their names and labels."""
    return {
        name.format(within=within): text._replace(label=text.label.format(within=within))
        for name, text in METRICS.items()
    }


RANDOMISED_FRACTIONS = {"randomisation_last_third": 1 / 3, "randomisation_all": 1.0}


class Boxed(NamedTuple):
    """Images with boxes, on the model's device."""

    images: UInt8[Tensor, "N C H W"]
    target: Int[Tensor, " N"]
    boxes: Float[Tensor, "N G 4"]
    """Of the target class; NaN for "no box"."""


class Mosaics(NamedTuple):
    """Mosaics, and the class of the image in each of their cells."""

    images: UInt8[Tensor, "G C V U"]
    target: Int[Tensor, "G cells"]
    side: int


@dataclass(frozen=True)
class Subject:
    """What all methods are measured on; tensors are on the model's device.

    Attributes:
        model: in evaluation mode.
        images: N of them.
        target: the explained class of each.
        boxes: those of the target class, NaN for "no box"; None where the data have none.
        grid: the windows that are masked.
        falls: how far the logit of each image falls when a window is masked, `(N, M)`; None where
            the sensitivity is not asked for.
        fitting: other images with a box each, on which the cuts of the boxes are chosen; or None.
        mosaics: by measure.
        randomised: copies of the model by measure.
        batch_size: images at a time.
        masks: the pixels of objects, `(N, H, W)`; None where the data have none.
        within: how many pixels from an object are near it.
    """

    model: PatchClassifier
    images: UInt8[Tensor, "N C H W"]
    target: Int[Tensor, " N"]
    boxes: Float[Tensor, "N G 4"] | None
    grid: PatchGrid
    falls: Float[Tensor, "N M"] | None
    fitting: Boxed | None
    mosaics: dict[str, Mosaics]
    randomised: dict[str, PatchClassifier]
    batch_size: int
    masks: Bool[Tensor, "N H W"] | None = None
    within: int = NEAR

    def boxed(self) -> Bool[Tensor, " N"]:
        """Return which images have a box of their target class."""
        if self.boxes is None:
            return torch.zeros(len(self.images), dtype=torch.bool, device=self.images.device)
        return ~self.boxes.isnan().any(dim=2).all(dim=1)


class Pooled(NamedTuple):
    """What PxAP pools of each image that has a mask: one value of them all, no mean over them."""

    counts: Int[Tensor, "n 2 T"]
    """Pixels by value, off and on the object."""


Values = dict[str, Tensor | Pooled]
"""By measure, a value for each image, NaN where it could not be measured, `(N,)`; or for each cell
of each mosaic, `(G, cells)`."""


class Explained(NamedTuple):
    """What a method says of the images of a subject."""

    method: str
    maps: Float[Tensor, "N H W"]
    windows: Float[Tensor, "N M"] | None
    """Of each window: the method's own value, or the mean of its map there; None where no group of
    `BY_WINDOW` is asked for."""


def measure_method(subject: Subject, method: str, groups: Sequence[str]) -> Iterator[Values]:
    """Measure one method by these of the `GROUPS`; yield what each finds."""
    maps = maps_of(subject.model, subject.images, subject.target, method, subject.batch_size)
    windows = _window_scores(subject, method, maps) if BY_WINDOW & set(groups) else None
    explained = Explained(method, maps, windows)
    for group in groups:
        yield {
            name: value if isinstance(value, Pooled) else value.double().cpu()
            for name, value in GROUPS[group](subject, explained).items()
        }


def maps_of(
    model: PatchClassifier, images: Tensor, target: Tensor, method: str, batch_size: int
) -> Float[Tensor, "N H W"]:
    """Return the heat maps of any number of images."""
    parts = in_batches(batch_size, images, target)
    return torch.cat([attribute(model, part, method, of).float() for part, of in parts])


def in_batches(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Return tensors of equal length side by side, so many rows at a time."""
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)


def _localisation(subject: Subject, explained: Explained) -> Values:
    """Measure how the maps lie on the objects of their class, and how many point nowhere."""
    return {
        **_on_boxes(subject, explained),
        **_on_masks(subject, explained.maps),
        **_near(subject, explained.maps),
        "empty_maps": empty_maps(explained.maps),
    }


def _on_masks(subject: Subject, maps: Float[Tensor, "N H W"]) -> Values:
    """Measure PxAP over the images that have a mask, all together."""
    if subject.masks is None or not subject.masks.any():
        return {}
    has = subject.masks.any(dim=2).any(dim=1)
    each = in_batches(1, scaled_maps(maps[has]), subject.masks[has])
    counts = [count_pixels(scaled, masks).int().cpu() for scaled, masks in each]
    return {"pxap": Pooled(torch.stack(counts))}


def _near(subject: Subject, maps: Float[Tensor, "N H W"]) -> Values:
    """Measure how the maps lie on and near the objects: their masks where there are any."""
    height, width = maps.shape[1:]
    objects = subject.masks
    if objects is None and subject.boxes is not None:
        objects = pixels_in_boxes(subject.boxes, height, width)
    if objects is None or not has_distance(height, width, subject.within):
        return {}
    has = objects.any(dim=2).any(dim=1)
    if not has.any():
        return {}
    near = near_object(objects[has], subject.within)
    found = {
        f"evidence_within_{subject.within}_px": energy_pointing(maps[has], near),
        f"pointing_within_{subject.within}_px": pointing_hits(maps[has], near),
    }
    return {name: _of_all(has, of_some) for name, of_some in found.items()}


def _of_all(has: Bool[Tensor, " N"], of_some: Shaped[Tensor, " n"]) -> Float[Tensor, " N"]:
    """Return the values in the places of the images that have one, and NaN in the others."""
    every = torch.full(has.shape, torch.nan, dtype=torch.float64)
    every[has.cpu()] = of_some.double().cpu()
    return every


def _on_boxes(subject: Subject, explained: Explained) -> Values:
    """Measure how the maps lie on the boxes of their class."""
    has = subject.boxed()
    if subject.boxes is None or not has.any():
        return {}
    chosen, boxes = explained.maps[has], subject.boxes[has]
    inside = pixels_in_boxes(boxes, *chosen.shape[1:])
    found = box_overlaps(scaled_maps(chosen), boxes)
    overlaps = found.largest
    values = {
        "energy_pointing_game": energy_pointing(chosen, inside),
        "pointing_game": pointing_hits(chosen, inside),
        "gt_known_loc_heat_map_oracle": framed(overlaps[:, _best_cut(framed(overlaps))]),
    }
    if subject.fitting is not None:
        images, target, truth = subject.fitting
        known = maps_of(subject.model, images, target, explained.method, subject.batch_size)
        fitted = box_overlaps(scaled_maps(known), truth)
        values["gt_known_loc_heat_map"] = framed(overlaps[:, _best_cut(framed(fitted.largest))])
        right = [found.best[:, _best_cut(fitted.best >= iou)] >= iou for iou in BOX_IOUS]
        values["max_box_acc_v2"] = torch.stack(right).double().mean(dim=0)
        reach = _best_cut(framed(spread_overlaps(known, truth)))
        values["gt_known_loc_spread"] = framed(spread_overlaps(chosen, boxes)[:, reach])
    return {name: _of_all(has, of_some) for name, of_some in values.items()}


def _best_cut(right: Bool[Tensor, "N T"]) -> int:
    """Return the threshold, or reach, at which most boxes are right, the lowest of equal ones."""
    hits = right.sum(dim=0).tolist()
    return int(hits.index(max(hits)))


def _curves(subject: Subject, explained: Explained) -> Values:
    """Measure the areas of insertion and deletion curves, of the class's probability."""
    assert explained.windows is not None
    areas: dict[str, list[Tensor]] = defaultdict(list)
    tensors = (subject.images, subject.target, explained.maps, explained.windows)
    for raw, target, maps, windows in in_batches(subject.batch_size, *tensors):
        images = raw / 255
        score = probability(subject.model, target)
        whole = score(images)
        orders = {"patches": patch_order(windows, subject.grid), "pixels": pixel_order(maps)}
        fills = {"blurred": blurred_fill(images), "mean": mean_fill(images, subject.model.mean)}
        for name, fill in fills.items():
            ends = Ends(whole, score(fill))
            for unit, order in orders.items():
                for way, curve in (("insertion", insertion_curve), ("deletion", deletion_curve)):
                    area = curve(score, images, fill, order, ends).area
                    areas[f"{way}_{name}_{unit}"].append(area)
    return {name: torch.cat(found) for name, found in areas.items()}


def _masking(subject: Subject, explained: Explained) -> Values:
    """Measure how the scores of windows go along with what masking each does to the logit."""
    assert subject.falls is not None
    assert explained.windows is not None
    return {"sensitivity_1": sensitivity_1(explained.windows, subject.falls)}


def _window_scores(
    subject: Subject, method: str, maps: Float[Tensor, "N H W"]
) -> Float[Tensor, "N M"]:
    """Return what a method says of each window: its own value, or the mean of its map there."""
    scores = []
    for images, target, part in in_batches(
        subject.batch_size, subject.images, subject.target, maps
    ):
        own = attribute_patches(subject.model, images, method, target)
        scores.append(window_means(part, subject.grid) if own is None else own)
    return torch.cat(scores)


def window_means(maps: Float[Tensor, "N H W"], grid: PatchGrid) -> Float[Tensor, "N M"]:
    """Return the mean of each map over each window, as far as it lies in the image."""
    return torch.stack(
        [
            maps[:, y0:y1, x0:x1].mean(dim=(1, 2))
            for x0, y0, x1, y1 in grid.windows().int().tolist()
        ],
        dim=1,
    )


def _mosaics(subject: Subject, explained: Explained) -> Values:
    """Measure how much of a map of a mosaic lies in the cell of its class, asked for each cell."""
    values: Values = {}
    for name, (images, target, side) in subject.mosaics.items():
        cell = torch.arange(side**2, device=target.device)
        fractions = []
        for part, of in in_batches(max(1, subject.batch_size // side**2), images, target):
            maps = attribute_classes(subject.model, part, explained.method, of).float()
            fraction = grid_pointing(maps.flatten(0, 1), cell.repeat(len(part)), side)
            fractions.append(fraction.reshape(of.shape))
        values[name] = torch.cat(fractions)
    return values


def _randomised(subject: Subject, explained: Explained) -> Values:
    """Measure how much a map stays as it was when the weights are randomised."""
    asked = (subject.images, subject.target, explained.method, subject.batch_size)
    return {
        name: randomisation_similarity(explained.maps, maps_of(model, *asked))
        for name, model in subject.randomised.items()
    }


GROUPS: dict[str, Callable[[Subject, Explained], Values]] = {
    "localisation": _localisation,
    "insertion-deletion": _curves,
    "sensitivity": _masking,
    "grid-pointing": _mosaics,
    "randomisation": _randomised,
}
"""Metrics that are measured together, by name. Insertion and deletion, and the sensitivity, take
some hundred forward passes an image; the others few."""
BY_WINDOW = {"insertion-deletion", "sensitivity"}
"""Those that ask for a value of each window, which takes another forward pass."""
TIME = "time"
LOCALITY = "locality"
GROUP_NAMES = (*GROUPS, TIME, LOCALITY)
"""What a comparison may be asked for; time is measured by itself, and locality once for the model,
whatever the methods."""


def groups_named(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return groups in the order in which they are measured; of None, all.

    Raises:
        InputError: a name that is not of `GROUP_NAMES`, or no name at all.
    """
    if names is None:
        return GROUP_NAMES
    for name in names or ("",):
        if name not in GROUP_NAMES:
            raise unknown_name("group of metrics", name, GROUP_NAMES)
    return tuple(name for name in GROUP_NAMES if name in names)


def measure_time(subject: Subject, method: str) -> dict[str, float]:
    """Return seconds an image, and their ratio to those of a plain forward pass.

    Both are medians of runs that take turns, so that whatever else the machine does meets both.
    """
    images, target = subject.images[:TIMED_IMAGES], subject.target[:TIMED_IMAGES]

    def plain() -> None:
        with torch.inference_mode():
            subject.model(images)

    def explain() -> None:
        attribute(subject.model, images, method, target)

    jobs = [plain, explain]
    first = take_turns(jobs, 1, images.device, warm_up=0)[1][0]
    repeats = min(max(int(ENOUGH_SECONDS / first), LEAST_REPEATS), REPEATS)
    seconds = take_turns(jobs, repeats, images.device, warm_up=0)
    forward, explained = map(statistics.median, seconds)
    return {"seconds": explained / len(images), "time_ratio": explained / forward}


def take_turns(
    jobs: Sequence[Callable[[], object]], repeats: int, device: torch.device, warm_up: int = 1
) -> list[list[float]]:
    """Return the seconds of each job at each turn, after some turns that do not count.

    Every second turn goes the other way round, so that none always finds what another has warmed.
    """
    seconds: list[list[float]] = [[] for _ in jobs]
    for turn in range(warm_up + repeats):
        for job, taken in list(zip(jobs, seconds, strict=True))[:: -1 if turn % 2 else 1]:
            _wait_for(device)
            start = time.perf_counter()
            job()
            _wait_for(device)
            taken.append(time.perf_counter() - start)
    return [taken[warm_up:] for taken in seconds]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def logit(model: PatchClassifier, target: Int[Tensor, " B"]) -> Score:
    """Return the function from N times B images to the logits of their explained classes."""
    return lambda images: _of_target(model(images).logits, target)


def probability(model: PatchClassifier, target: Int[Tensor, " B"]) -> Score:
    """Return the function from N times B images to the probabilities of their explained classes."""

    def score(images: Tensor) -> Tensor:
        logits: Tensor = model(images).logits
        return _of_target(probabilities_of(logits, competing=model.competing), target)

    return score


def _of_target(values: Float[Tensor, "N K"], target: Int[Tensor, " B"]) -> Float[Tensor, " N"]:
    index = target.repeat(len(values) // len(target)).unsqueeze(1)
    return values.gather(1, index).squeeze(1)
