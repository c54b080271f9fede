"""The figures of where the evidence lies: what the model and each floor got right, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from loss_attention.data.sample import ImageSet
from loss_attention.evaluation.answers import FLOORS, MODEL, AnswerMaker, Size
from loss_attention.evaluation.figures import BOXES, ORACLE, PLACES, Measure
from loss_attention.evaluation.scene import see
from loss_attention.evaluation.totals import Chosen, PlaceTotals
from loss_attention.metrics.max_box import BOX_IOUS
from loss_attention.prediction import ImagePrediction, WeightedPrediction


class Figure(NamedTuple):
    """How one figure is read from what an answer got right."""

    name: str
    label: str
    read: Callable[[PlaceTotals], float | None]


class ChosenFigure(NamedTuple):
    """The same for a figure that needs a threshold."""

    name: str
    label: str
    read: Callable[[PlaceTotals, Chosen], float | None]


class Places:
    """What a model and each floor get right of where the objects are, over a set of images.

    Args:
        centred: the sizes of the best centred boxes, from `fit_centred_boxes`; None: without.
        group_thresholds: those at which each answer looks for objects; none where it has none.
    """

    def __init__(
        self,
        centred: Sequence[Size] | None,
        group_thresholds: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self._maker = AnswerMaker(centred)
        self._group_thresholds = group_thresholds or {}
        self._totals: dict[str, PlaceTotals] = {}

    def add(self, batch: ImageSet, prediction: ImagePrediction) -> None:
        """Measure a batch; one without boxes, or a model without patches, adds nothing."""
        if not isinstance(prediction, WeightedPrediction):
            return
        scene = see(batch, prediction)
        if scene is None:
            return
        for name, answer in self._maker.answers(prediction, scene):
            if name not in self._totals:
                self._totals[name] = PlaceTotals(self._group_thresholds.get(name, ()))
            self._totals[name].add(answer, scene)

    @property
    def has_evidence(self) -> bool:
        """Whether the model has exact evidence, so that there are heat maps to measure."""
        return MODEL in self._totals and self._totals[MODEL].has_evidence

    def best_thresholds(self) -> dict[str, Chosen]:
        """Return the thresholds that are best on these images, for the model and each floor."""
        found = {name: totals.best_thresholds() for name, totals in self._totals.items()}
        return {name: best for name, best in found.items() if best is not None}

    def measures(self, chosen: Mapping[str, Chosen]) -> list[Measure]:
        """Return the figures that apply to the model.

        Args:
            chosen: the thresholds that are best for each answer on held-out images; empty where
                there are none, and what needs a threshold is undefined.
        """
        if MODEL not in self._totals:
            return []
        read, read_at = self._read, self._read_at
        found = [read(PLACES, figure) for figure in _OF_PATCHES]
        if self.has_evidence:
            found += [read(PLACES, figure) for figure in _OF_MAPS]
            if self._totals[MODEL].has_masks:
                found.append(read(PLACES, _OF_MASKS))
        found += [read(BOXES, figure) for figure in _OF_BOXES]
        if self.has_evidence:
            found += [
                read_at(BOXES, figure, chosen)
                for figure in (*_SPREAD_BOX, _MAP_BOX, _MAP_BOX_NAMED, *_MAX_BOX, _OBJECTS)
            ]
            # The best that any threshold could do, had it been known.
            best = self.best_thresholds()
            oracle = [f._replace(name=f"{f.name}_oracle") for f in (_MAP_BOX, *_MAX_BOX)]
            found += [read_at(ORACLE, figure, best) for figure in oracle]
        return found

    def _read(self, group: str, figure: Figure) -> Measure:
        values = {
            name: figure.read(self._totals[name]) if name in self._totals else None
            for name in (MODEL, *FLOORS)
        }
        return Measure(figure.name, figure.label, values.pop(MODEL), values, group=group)

    def _read_at(self, group: str, figure: ChosenFigure, chosen: Mapping[str, Chosen]) -> Measure:
        values = {
            name: figure.read(self._totals[name], chosen[name])
            if name in self._totals and name in chosen
            else None
            for name in (MODEL, *FLOORS)
        }
        return Measure(figure.name, figure.label, values.pop(MODEL), values, group=group)


def _max_box(totals: PlaceTotals, chosen: Chosen, iou: float | None = None) -> float | None:
    """Return MaxBoxAccV2, or its part of one IoU."""
    shares = totals.max_box(chosen.max_box)
    if shares is None:
        return None
    return sum(shares) / len(shares) if iou is None else shares[BOX_IOUS.index(iou)]


_OF_PATCHES = (
    Figure("patch_precision", "patch precision", lambda totals: totals.patches.precision),
    Figure("patch_recall", "patch recall", lambda totals: totals.patches.recall),
    Figure("patch_f", "patch F", lambda totals: totals.patches.f),
    Figure("weight_inside", "weight inside the box", lambda totals: totals.share("weight")),
)
_OF_MAPS = (
    Figure(
        "evidence_inside", "evidence inside the box", lambda totals: totals.share("share", "pairs")
    ),
    Figure("pointing_game", "pointing game", lambda totals: totals.share("pointed", "pairs")),
)
_OF_MASKS = Figure("pixel_ap", "PxAP", PlaceTotals.pixel_ap)
_OF_BOXES = (
    Figure("box_ap", "box AP", lambda totals: totals.share("framed")),
    Figure("box_ap_named", "box AP, class right", lambda totals: totals.share("framed_and_named")),
)
_SPREAD_BOX = (
    ChosenFigure(
        "spread_box_ap",
        "box AP of the map's spread",
        lambda totals, best: totals.spread_box(best.spread),
    ),
    ChosenFigure(
        "spread_box_ap_named",
        "the same, class right",
        lambda totals, best: totals.spread_box(best.spread, named=True),
    ),
)
_MAP_BOX = ChosenFigure(
    "map_box_ap", "box AP of the heat map", lambda totals, best: totals.map_box(best.map_box)
)
_MAP_BOX_NAMED = ChosenFigure(
    "map_box_ap_named",
    "the same, class right",
    lambda totals, best: totals.map_box(best.map_box, named=True),
)
_MAX_BOX = (
    ChosenFigure("max_box_acc_v2", "MaxBoxAccV2", _max_box),
    *(
        ChosenFigure(f"max_box_acc_v2_{iou}", f"its part of IoU {iou}", partial(_max_box, iou=iou))
        for iou in BOX_IOUS
    ),
)
_OBJECTS = ChosenFigure(
    "object_ap", "AP50 of several boxes", lambda totals, best: totals.objects(best.groups)
)
