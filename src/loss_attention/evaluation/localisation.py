"""How well a model says where: what of each answer is right, added up, and the metrics of that.

`Localisation` takes the batches and gives the metrics, those of the model beside those of each
trivial baseline (`baselines.py`). Nothing of a batch is kept but the `Totals` of each answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loss_attention.data.sample import ImageSet
from loss_attention.evaluation.baselines import (
    ANSWERS,
    MODEL,
    SHUFFLE_SEED,
    Answer,
    Scene,
    Size,
    answers,
    see,
)
from loss_attention.evaluation.metric import BOXES, ORACLE, PATCHES_AND_PIXELS, Metric
from loss_attention.metrics.detection import (
    BOX_IOUS,
    REACHES,
    THRESHOLDS,
    detection_average_precisions,
    match_detections,
)
from loss_attention.metrics.localisation import (
    NEAR,
    SMALL,
    PatchCounts,
    are_small,
    correct_boxes,
    count_patches,
    count_pixels,
    empty_maps,
    energy_pointing,
    hits,
    pixel_average_precision,
    pointed_pixels,
    scaled_maps,
    weight_inside,
)
from loss_attention.prediction import ImagePrediction, MapName, WeightedPrediction

GROUP_THRESHOLDS = tuple(step / 10 for step in range(10))
"""Fractions of the greatest evidence of a patch; those above one are grouped to objects."""


class Chosen(NamedTuple):
    """The thresholds that are best on some images."""

    map_box: float
    """For the box around the largest group of a heat map, one of `THRESHOLDS`."""
    max_box: tuple[float, ...]
    """For MaxBoxAccV2 at each of `BOX_IOUS`."""
    spread: float
    """For the box of a heat map's spread, one of `REACHES`."""
    groups: float
    """For the patches that are grouped to objects, one of `GROUP_THRESHOLDS`."""


Read: TypeAlias = "Callable[[Totals, Chosen | None], float | None]"


class Localisation:
    """What a model and each trivial baseline get right of where the objects are.

    Args:
        centred: the sizes of the best centred boxes, from `fit_centred_boxes`; None: without.
        group_thresholds: those at which each answer looks for objects; none where it has none.
        map: what the model's heat maps show.
        within: how many pixels from an object are near it.
        competing: a softmax decides between the model's classes.
    """

    def __init__(
        self,
        centred: Sequence[Size] | None,
        group_thresholds: Mapping[str, Sequence[float]] | None = None,
        *,
        map: MapName = "evidence",
        within: int = NEAR,
        competing: bool,
    ) -> None:
        self._centred, self._map, self._within = centred, map, within
        self._competing = competing
        # The same shuffles for the same images in the same order, whatever the batch size.
        self._generator = torch.Generator().manual_seed(SHUFFLE_SEED)
        self._group_thresholds = group_thresholds or {}
        self._totals: dict[str, Totals] = {}
        self._has_boxes = False

    def add(self, batch: ImageSet, prediction: ImagePrediction) -> None:
        """Measure a batch; one without boxes, or a model without patches, adds nothing."""
        if not isinstance(prediction, WeightedPrediction):
            return
        scene = see(batch, prediction, self._within, competing=self._competing)
        if scene is None:
            return
        self._has_boxes |= batch.boxes is not None
        asked = (prediction, scene, self._centred, self._generator, self._map)
        for name, answer in answers(*asked):
            if name not in self._totals:
                self._totals[name] = Totals(self._group_thresholds.get(name, ()))
            self._totals[name].add(answer, scene)

    @property
    def has_evidence(self) -> bool:
        """Whether the model has exact evidence, so that there are heat maps to measure."""
        return MODEL in self._totals and "pairs" in self._totals[MODEL].sums

    @property
    def masked(self) -> int:
        """How many images have a mask that the model's maps were held against."""
        return int(self._totals[MODEL].sums.get("masked", 0)) if MODEL in self._totals else 0

    def best_thresholds(self) -> dict[str, Chosen]:
        """Return the thresholds that are best on these images, for each answer."""
        found = {name: totals.best_thresholds() for name, totals in self._totals.items()}
        return {name: best for name, best in found.items() if best is not None}

    def metrics(self, chosen: Mapping[str, Chosen]) -> list[Metric]:
        """Return the metrics that apply to the model.

        Args:
            chosen: the thresholds that are best for each answer on held-out images; empty where
                there are none, and what needs a threshold is undefined.
        """
        if MODEL not in self._totals:
            return []
        has = {"patches"} if self._has_boxes else set()
        has |= {"evidence"} if self._has_boxes and self.has_evidence else set()
        has |= {"masks"} if "pixels" in self._totals[MODEL].sums else set()
        has |= {"margin"} if self._map == "margin" and self.has_evidence else set()
        has |= {"distance"} if "near" in self._totals[MODEL].sums else set()
        # The best that any threshold could do, had it been known.
        best = self.best_thresholds()
        found, oracle = [], []
        for (group, needed), metrics in _METRICS.items():
            for name, (label, read) in metrics.items() if needed in has else ():
                found.append(self._metric(name, label, read, chosen, group))
                if name in _WITH_ORACLE:
                    oracle.append(self._metric(f"{name}_oracle", label, read, best, ORACLE))
        return found + oracle

    def _metric(
        self, name: str, label: str, read: Read, chosen: Mapping[str, Chosen], group: str
    ) -> Metric:
        values = {
            answer: read(self._totals[answer], chosen.get(answer))
            if answer in self._totals
            else None
            for answer in ANSWERS
        }
        higher = name not in _LOWER_IS_BETTER
        name, label = (text.format(within=self._within) for text in (name, label))
        return Metric(name, label, values.pop(MODEL), values, higher_is_better=higher, group=group)


class Totals:
    """Sums over images of what one answer gets right.

    Args:
        group_thresholds: those at which objects are looked for.
    """

    def __init__(self, group_thresholds: Sequence[float]) -> None:
        self.sums: dict[str, Tensor] = {}
        self._detected: dict[float, list[tuple[Tensor, Tensor, Tensor]]] = {
            threshold: [] for threshold in group_thresholds
        }
        self._patches: PatchCounts | None = None

    def add(self, answer: Answer, scene: Scene) -> None:
        """Measure an answer to a batch and add it up."""
        patches = count_patches(answer.selected, scene.right, scene.inside)
        self._patches = patches if self._patches is None else self._patches + patches
        right = correct_boxes(answer.boxes, scene.boxes, scene.relevant)
        self._sum("images", scene.boxed.sum())
        self._sum("weight", weight_inside(answer.weights, scene.inside).sum())
        self._sum("selected", right.sum())
        self._sum("selected_named", (right & scene.named).sum())
        if answer.values is None:
            return
        self._add_maps(answer, scene)
        self._sum("true_boxes", scene.true_boxes)
        classes = scene.objects.classes.cpu()
        for threshold, kept in self._detected.items():
            found = answer.detections(scene, threshold)
            right = match_detections(found, scene.objects.boxes)
            kept.append((found.scores, right, classes[found.question]))
        if scene.masks is not None:
            some = scene.masks.any(dim=(1, 2))
            maps = scaled_maps(answer.maps(answer.values.images, scene.grid)[some])
            self._sum("pixels", count_pixels(maps, scene.masks[some]))
            self._sum("masked", some.sum())
            self._sum("empty_masked", empty_maps(maps).sum())
            self._add_near(maps, pointed_pixels(maps), scene)

    def _add_maps(self, answer: Answer, scene: Scene) -> None:
        assert answer.values is not None
        maps, truth = answer.maps(answer.values.pairs, scene.grid), scene.pairs.boxes
        named = scene.named[scene.pairs.image]
        enough, largest = answer.framed_at_thresholds(maps, truth)
        spread = answer.framed_at_reaches(maps, truth)
        self._sum("pairs", torch.tensor(len(maps)))
        self._sum("energy", energy_pointing(maps, scene.pair_pixels).sum())
        pointed = pointed_pixels(maps)
        self._sum("pointed", hits(pointed, scene.pair_pixels).sum())
        self._sum("empty", empty_maps(maps).sum())
        self._sum("best", enough)
        self._sum("largest", largest.sum(dim=0))
        self._sum("largest_named", largest[named].sum(dim=0))
        small = are_small(truth, scene.grid.height, scene.grid.width)
        self._sum("small", small.sum())
        self._sum("largest_small", largest[small].sum(dim=0))
        self._sum("spread", spread.sum(dim=0))
        self._sum("spread_named", spread[named].sum(dim=0))
        if scene.masks is None:
            self._add_near(maps, pointed, scene)

    def _add_near(
        self, maps: Float[Tensor, "R H W"], pointed: Int[Tensor, " R"], scene: Scene
    ) -> None:
        if scene.near is not None:
            self._sum("near", torch.tensor(len(maps)))
            self._sum("energy_near", energy_pointing(maps, scene.near).sum())
            self._sum("pointed_near", hits(pointed, scene.near).sum())

    def _sum(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    @property
    def patches(self) -> PatchCounts:
        """Patches selected, right and inside."""
        assert self._patches is not None
        return self._patches

    def fraction(self, name: str, of: str, *at: int) -> float | None:
        """Return a sum, or what is at an index of it, as a fraction of another; None of nothing."""
        whole = float(self.sums[of])
        return float(self.sums[name][at]) / whole if whole else None

    def empty_maps(self) -> float | None:
        """Return the fraction of maps that point nowhere.

        Of the pairs; where there are no boxes, of the images that have a mask.
        """
        if int(self.sums["pairs"]) or "masked" not in self.sums:
            return self.fraction("empty", "pairs")
        return self.fraction("empty_masked", "masked")

    def map_box(self, best: Chosen | None, suffix: str = "") -> float | None:
        """Return the fraction of pairs that the box of the largest group frames, IoU above 0.5."""
        if best is None:
            return None
        return self.fraction(f"largest{suffix}", "pairs", THRESHOLDS.index(best.map_box))

    def small_box(self, best: Chosen | None) -> float | None:
        """Return the same fraction of the pairs whose objects are small."""
        if best is None:
            return None
        return self.fraction("largest_small", "small", THRESHOLDS.index(best.map_box))

    def spread_box(self, best: Chosen | None, suffix: str = "") -> float | None:
        """Return the fraction of pairs that the box of the map's spread frames, IoU above 0.5."""
        if best is None:
            return None
        return self.fraction(f"spread{suffix}", "pairs", REACHES.index(best.spread))

    def max_box(self, best: Chosen | None, ious: Sequence[float] = BOX_IOUS) -> float | None:
        """Return the fraction of pairs with a box that overlaps enough, mean over some IoUs."""
        if best is None or not int(self.sums["pairs"]):
            return None
        columns = [BOX_IOUS.index(iou) for iou in ious]
        hits = [
            int(self.sums["best"][THRESHOLDS.index(best.max_box[column]), column])
            / int(self.sums["pairs"])
            for column in columns
        ]
        return sum(hits) / len(hits)

    def objects(self, threshold: float) -> float | None:
        """Return the average precision of detected objects, mean over the classes with boxes."""
        scores, right, classes = (
            torch.cat(parts) for parts in zip(*self._detected[threshold], strict=True)
        )
        found = detection_average_precisions(scores, right, classes, self.sums["true_boxes"])
        present = found[~found.isnan()]
        return float(present.mean()) if len(present) else None

    def best_thresholds(self) -> Chosen | None:
        """Return the thresholds that are best on these images; the lowest of equal ones.

        None where no image has a box of one of its labels, or there is no evidence.
        """
        if not int(self.sums.get("pairs", 0)):
            return None
        groups = {threshold: self.objects(threshold) or 0.0 for threshold in self._detected}
        return Chosen(
            THRESHOLDS[_first_best(self.sums["largest"])],
            tuple(THRESHOLDS[_first_best(hits)] for hits in self.sums["best"].unbind(1)),
            REACHES[_first_best(self.sums["spread"])],
            max(groups, key=groups.__getitem__, default=0.0),
        )


def _first_best(hits: Int[Tensor, " T"]) -> int:
    """Not argmax: which of several maxima it returns is left open."""
    values = hits.tolist()
    return values.index(max(values))


def _at_iou(iou: float) -> Read:
    return lambda totals, best: totals.max_box(best, (iou,))


_METRICS: dict[tuple[str, str], dict[str, tuple[str, Read]]] = {
    (PATCHES_AND_PIXELS, "patches"): {
        "patch_precision": ("patch precision", lambda t, _: t.patches.precision),
        "patch_recall": ("patch recall", lambda t, _: t.patches.recall),
        "patch_f1": ("patch F1", lambda t, _: t.patches.f),
        "weight_inside": ("weight inside the box", lambda t, _: t.fraction("weight", "images")),
    },
    (PATCHES_AND_PIXELS, "evidence"): {
        "energy_pointing_game": (
            "energy pointing game (EPG)",
            lambda t, _: t.fraction("energy", "pairs"),
        ),
        "pointing_game": ("pointing game", lambda t, _: t.fraction("pointed", "pairs")),
    },
    (PATCHES_AND_PIXELS, "distance"): {
        "evidence_within_{within}_px": (
            "positive evidence within {within} px",
            lambda t, _: t.fraction("energy_near", "near"),
        ),
        "pointing_within_{within}_px": (
            "pointing within {within} px",
            lambda t, _: t.fraction("pointed_near", "near"),
        ),
    },
    (PATCHES_AND_PIXELS, "masks"): {
        "pxap": ("PxAP", lambda t, _: pixel_average_precision(t.sums["pixels"])),
    },
    (PATCHES_AND_PIXELS, "margin"): {
        "empty_maps": ("empty maps", lambda t, _: t.empty_maps()),
    },
    (BOXES, "patches"): {
        "gt_known_loc_patches": (
            "GT-known Loc (patches)",
            lambda t, _: t.fraction("selected", "images"),
        ),
        "top1_loc_patches": (
            "Top-1 Loc (patches)",
            lambda t, _: t.fraction("selected_named", "images"),
        ),
    },
    (BOXES, "evidence"): {
        "gt_known_loc_spread": ("GT-known Loc (spread)", lambda t, best: t.spread_box(best)),
        "top1_loc_spread": (
            "Top-1 Loc (spread)",
            lambda t, best: t.spread_box(best, "_named"),
        ),
        "gt_known_loc_heat_map": ("GT-known Loc (heat map)", lambda t, best: t.map_box(best)),
        "top1_loc_heat_map": ("Top-1 Loc (heat map)", lambda t, best: t.map_box(best, "_named")),
        "gt_known_loc_small": (
            f"GT-known Loc (heat map), boxes under {SMALL} of the image",
            lambda t, best: t.small_box(best),
        ),
        "max_box_acc_v2": ("MaxBoxAccV2", lambda t, best: t.max_box(best)),
        **{f"max_box_acc_v2_{iou}": (f"MaxBoxAccV2 @ IoU {iou}", _at_iou(iou)) for iou in BOX_IOUS},
        "detection_ap50": (
            "detection AP50",
            lambda t, best: None if best is None else t.objects(best.groups),
        ),
    },
}
"""By heading and by what the model, its map or the data must have, in the order in which they are
shown: what each metric is called, and how it is read from what an answer got right at some
thresholds."""
_LOWER_IS_BETTER = ("empty_maps",)
_WITH_ORACLE = (
    "gt_known_loc_heat_map",
    "max_box_acc_v2",
    *(f"max_box_acc_v2_{iou}" for iou in BOX_IOUS),
)
"""Shown too at the thresholds that are best on the reported images."""
