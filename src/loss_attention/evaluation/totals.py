"""What one answer to "where?" gets right, added up batch by batch; nothing of a batch is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loss_attention.evaluation.answers import Answer
from loss_attention.evaluation.scene import Scene
from loss_attention.geometry import box_iou
from loss_attention.metrics.boxes import correct_boxes, framed
from loss_attention.metrics.detection import (
    Detections,
    detection_average_precisions,
    group_boxes,
    match_detections,
)
from loss_attention.metrics.heat_maps import (
    count_pixels,
    pixel_average_precision,
    pointing_hits,
    scaled_maps,
    share_inside,
)
from loss_attention.metrics.max_box import (
    BOX_IOUS,
    THRESHOLDS,
    box_overlaps,
    count_overlaps,
)
from loss_attention.metrics.patches import PatchCounts, count_patches, weight_inside
from loss_attention.metrics.spread_boxes import REACHES, spread_overlaps

GROUP_THRESHOLDS = tuple(step / 10 for step in range(10))
"""Shares of the greatest evidence of a patch; those above one are grouped to objects."""


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


class PlaceTotals:
    """Sums over images of what one answer gets right.

    Args:
        group_thresholds: those at which objects are looked for.
    """

    def __init__(self, group_thresholds: Sequence[float]) -> None:
        self._sums: dict[str, Tensor] = {}
        self._detected: dict[float, list[tuple[Tensor, Tensor, Tensor]]] = {
            threshold: [] for threshold in group_thresholds
        }
        self._patches: PatchCounts | None = None

    def add(self, answer: Answer, scene: Scene) -> None:
        """Measure an answer to a batch and add it up."""
        patches = count_patches(answer.selected, scene.right, scene.inside)
        self._patches = patches if self._patches is None else self._patches + patches
        framed = correct_boxes(answer.boxes, scene.boxes, scene.relevant)
        self._sum("images", scene.boxed.sum())
        self._sum("weight", weight_inside(answer.weights, scene.inside).sum())
        self._sum("framed", framed.sum())
        self._sum("framed_and_named", (framed & scene.named).sum())
        if answer.values is None:
            return
        self._add_maps(answer, scene)
        self._add_objects(answer, scene)
        if scene.masks is not None:
            some = scene.masks.any(dim=(1, 2))
            maps = scaled_maps(answer.image_maps(scene.grid)[some])
            self._sum("pixels", count_pixels(maps, scene.masks[some]))

    def _add_maps(self, answer: Answer, scene: Scene) -> None:
        maps = answer.pair_maps(scene.grid)
        self._sum("pairs", torch.tensor(len(maps)))
        self._sum("share", share_inside(maps, scene.pair_pixels).sum())
        self._sum("pointed", pointing_hits(maps, scene.pair_pixels).sum())
        named = scene.named[scene.pairs.image]
        enough, largest = _framed(answer, maps, scene)
        self._sum("best", enough)
        self._sum("largest", largest.sum(dim=0))
        self._sum("largest_and_named", largest[named].sum(dim=0))
        spread = _spread_framed(answer, maps, scene)
        self._sum("spread", spread.sum(dim=0))
        self._sum("spread_and_named", spread[named].sum(dim=0))

    def _add_objects(self, answer: Answer, scene: Scene) -> None:
        assert answer.values is not None
        classes = scene.objects.classes.cpu()
        self._sum("true_boxes", scene.true_boxes)
        for threshold, kept in self._detected.items():
            if answer.fixed is None:
                found = group_boxes(answer.values.objects, scene.confidence, scene.grid, threshold)
            else:
                box = answer.fixed[BOX_IOUS.index(0.5)].cpu().expand(len(classes), 4)
                found = Detections(torch.arange(len(classes)), box, scene.confidence.cpu().double())
            right = match_detections(found, scene.objects.boxes)
            kept.append((found.scores, right, classes[found.question]))

    def _sum(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    @property
    def patches(self) -> PatchCounts:
        """Patches selected, right and inside."""
        assert self._patches is not None
        return self._patches

    @property
    def has_evidence(self) -> bool:
        """Whether the answer gave values to patches, so that there is more than its selection."""
        return "pairs" in self._sums

    def share(self, name: str, of: str = "images") -> float | None:
        """Return a sum as the share of another; None where that is 0."""
        whole = float(self._sums[of])
        return float(self._sums[name]) / whole if whole else None

    def map_box(self, threshold: float, *, named: bool = False) -> float | None:
        """Return the share of pairs that the box of the largest group frames, IoU above 0.5.

        Args:
            threshold: one of `THRESHOLDS`.
            named: the image's predicted class has to be right as well.
        """
        return self._share_framed("largest", THRESHOLDS.index(threshold), named=named)

    def spread_box(self, reach: float, *, named: bool = False) -> float | None:
        """Return the share of pairs that the box of the map's spread frames, IoU above 0.5.

        Args:
            reach: one of `REACHES`.
            named: the image's predicted class has to be right as well.
        """
        return self._share_framed("spread", REACHES.index(reach), named=named)

    def _share_framed(self, boxes: str, index: int, *, named: bool) -> float | None:
        hits = self._sums[f"{boxes}_and_named" if named else boxes]
        return _ratio(hits[index], self._sums["pairs"])

    def max_box(self, thresholds: Sequence[float]) -> list[float] | None:
        """Return the share of pairs with a box that overlaps enough, for each of `BOX_IOUS`."""
        shares = [
            _ratio(self._sums["best"][THRESHOLDS.index(threshold), column], self._sums["pairs"])
            for column, threshold in enumerate(thresholds)
        ]
        found = [share for share in shares if share is not None]
        return found if len(found) == len(shares) else None

    def objects(self, threshold: float) -> float | None:
        """Return the average precision of detected objects, mean over the classes with boxes."""
        scores, right, classes = (
            torch.cat(parts) for parts in zip(*self._detected[threshold], strict=True)
        )
        found = detection_average_precisions(scores, right, classes, self._sums["true_boxes"])
        present = found[~found.isnan()]
        return float(present.mean()) if len(present) else None

    def pixel_ap(self) -> float | None:
        """Return the average precision of pixels, None without masks."""
        return pixel_average_precision(self._sums["pixels"]) if "pixels" in self._sums else None

    @property
    def has_masks(self) -> bool:
        """Whether there were masks to compare with."""
        return "pixels" in self._sums

    def best_thresholds(self) -> Chosen | None:
        """Return the thresholds that are best on these images; the lowest of equal ones.

        None where no image has a box of one of its labels.
        """
        if not int(self._sums["pairs"]):
            return None
        groups = {threshold: self.objects(threshold) or 0.0 for threshold in self._detected}
        return Chosen(
            THRESHOLDS[_first_best(self._sums["largest"])],
            tuple(THRESHOLDS[_first_best(hits)] for hits in self._sums["best"].unbind(1)),
            REACHES[_first_best(self._sums["spread"])],
            max(groups, key=groups.__getitem__, default=0.0),
        )


def _framed(
    answer: Answer, maps: Float[Tensor, "P H W"], scene: Scene
) -> tuple[Int[Tensor, "T 3"], Bool[Tensor, "P T"]]:
    """Return how an answer's boxes frame the pairs, at every threshold.

    Returns:
        How many pairs the best of all boxes frames by each of `BOX_IOUS`, and which pairs the box
        of the largest group frames by an IoU above 0.5.
    """
    if answer.fixed is None:
        overlaps = box_overlaps(scaled_maps(maps), scene.pairs.boxes)
        return count_overlaps(overlaps.best), framed(overlaps.largest)
    # A box is the same at any threshold; which one depends on the IoU that is asked for.
    found = box_iou(answer.fixed.unsqueeze(1), scene.pairs.boxes.unsqueeze(1)).amax(dim=2)
    wanted = torch.tensor(BOX_IOUS, device=found.device)
    enough = (found >= wanted).sum(dim=0).expand(len(THRESHOLDS), -1)
    middle = BOX_IOUS.index(0.5)
    return enough, framed(found[:, middle : middle + 1]).expand(-1, len(THRESHOLDS))


def _spread_framed(
    answer: Answer, maps: Float[Tensor, "P H W"], scene: Scene
) -> Bool[Tensor, "P T"]:
    """Return which pairs the box of the map's spread frames, at every reach."""
    if answer.fixed is None:
        return framed(spread_overlaps(maps, scene.pairs.boxes))
    box = answer.fixed[BOX_IOUS.index(0.5)]
    overlaps = box_iou(box, scene.pairs.boxes).amax(dim=1, keepdim=True)
    return framed(overlaps).expand(-1, len(REACHES))


def _first_best(hits: Int[Tensor, " T"]) -> int:
    """Not argmax: which of several maxima it returns is left open."""
    values = hits.tolist()
    return values.index(max(values))


def _ratio(part: Tensor, whole: Tensor) -> float | None:
    return int(part) / int(whole) if int(whole) else None
