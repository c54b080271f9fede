"""How well a model says where: its own answer and those of trivial baselines, measured alike.

Of each batch it is noted what is true (`Scene`), what each `Answer` says, and what of that is
right (`PlaceTotals`); nothing else of a batch is kept.

The trivial baselines do not look at the model:

* whole image: every patch alike, one box, one heat for all pixels;
* best centred box: fitted to the training set for each IoU that is asked for;
* uniform weights: every patch alike, and the box around all windows;
* random weights: the model's own weights and evidence, shuffled over the patches of each image;
* edge detector: patches weighed by the edges in their window, as many selected as by the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.data.sample import ImageSet, LabelledImages
from loss_attention.evaluation.metric import BOXES, ORACLE, PLACES, Measure
from loss_attention.geometry import PatchGrid, box_iou, enclosing_boxes, paint_patches
from loss_attention.metrics.detection import (
    BOX_IOUS,
    REACHES,
    THRESHOLDS,
    Detections,
    box_overlaps,
    count_overlaps,
    detection_average_precisions,
    group_boxes,
    match_detections,
    spread_overlaps,
)
from loss_attention.metrics.localisation import (
    PatchCounts,
    centred_box,
    correct_boxes,
    count_patches,
    count_pixels,
    edges_in_windows,
    fit_centred_box,
    framed,
    patches_in_boxes,
    pixel_average_precision,
    pixels_in_boxes,
    pointing_hits,
    relevant_boxes,
    right_patches,
    scaled_maps,
    share_inside,
    weight_inside,
)
from loss_attention.prediction import ImagePrediction, PatchPrediction, WeightedPrediction

ASKED_CLASSES = 10
"""Of so many classes an image, the likeliest, objects are looked for."""


@dataclass(frozen=True)
class Questions:
    """Where is this class in this image? Asked n times.

    Attributes:
        image: an index into the batch, shape `(n,)`.
        classes: shape `(n,)`.
        boxes: the true boxes of the class in the image, shape `(n, G, 4)`; NaN for "no box".
    """

    image: Int[Tensor, " n"]
    classes: Int[Tensor, " n"]
    boxes: Float[Tensor, "n G 4"]

    @classmethod
    def of(
        cls,
        image: Int[Tensor, " n"],
        classes: Int[Tensor, " n"],
        boxes: Float[Tensor, "B G 4"],
        box_labels: Int[Tensor, "B G"],
    ) -> Questions:
        """Return the questions with their true boxes."""
        others = (box_labels[image] != classes.unsqueeze(1)).unsqueeze(2)
        return cls(image, classes, boxes[image].masked_fill(others, torch.nan))


@dataclass(frozen=True)
class Scene:
    """The true places of a batch of B images with boxes, on its device.

    Attributes:
        images: the images, shape `(B, C, H, W)`.
        grid: where the model's patches lie.
        boxes: shape `(B, G, 4)`.
        relevant: the boxes of one of their image's labels, shape `(B, G)`.
        boxed: the images that have one, shape `(B,)`.
        named: the images whose predicted class is one of their labels, shape `(B,)`.
        right: the patches A of the boxed images, shape `(B, M)`; see `metrics/localisation.py`.
        inside: the patches B, shape `(B, M)`.
        pairs: every boxed image with each of its labels that has a box.
        objects: every image with its likeliest classes, right or not.
        confidence: the probability of the class of each of `objects`, shape `(n,)`.
        true_boxes: how many boxes each class has, shape `(K,)`.
        pair_pixels: the pixels inside the boxes of each pair, shape `(P, H, W)`.
        labels: 0/1, shape `(B, K)`.
        masks: the pixels of objects, shape `(B, H, W)`, None where the set has none.
    """

    images: Shaped[Tensor, "B C H W"]
    grid: PatchGrid
    boxes: Float[Tensor, "B G 4"]
    relevant: Bool[Tensor, "B G"]
    boxed: Bool[Tensor, " B"]
    named: Bool[Tensor, " B"]
    right: Bool[Tensor, "B M"]
    inside: Bool[Tensor, "B M"]
    pairs: Questions
    objects: Questions
    confidence: Float[Tensor, " n"]
    true_boxes: Int[Tensor, " K"]
    pair_pixels: Bool[Tensor, "P H W"]
    labels: Shaped[Tensor, "B K"]
    masks: Bool[Tensor, "B H W"] | None


def see(batch: ImageSet, prediction: WeightedPrediction) -> Scene | None:
    """Return what is true of a batch, None where its set has neither boxes nor masks."""
    boxes, box_labels = batch.boxes, batch.box_labels
    if boxes is None or box_labels is None:
        if batch.masks is None:
            return None
        boxes = torch.full((len(batch), 1, 4), torch.nan, device=batch.images.device)
        box_labels = torch.full_like(boxes[..., 0], -1, dtype=torch.int64)
    relevant = relevant_boxes(box_labels, batch.labels)
    boxed = relevant.any(dim=1)
    labels, grid = batch.label_matrix(), prediction.image_grid
    logits = prediction.logits.float()
    has_box = torch.zeros_like(labels, dtype=torch.bool)
    image, box = relevant.nonzero(as_tuple=True)
    has_box[image, box_labels[image, box]] = True
    image, shown = has_box.nonzero(as_tuple=True)
    pairs = Questions.of(image, shown, boxes, box_labels)
    probabilities = logits.sigmoid() if batch.multi_label else logits.softmax(dim=1)
    right = right_patches(prediction.patch_scores, batch.labels)
    likeliest = probabilities.topk(min(ASKED_CLASSES, logits.shape[1]), dim=1)
    which = torch.arange(len(batch), device=logits.device).repeat_interleave(
        likeliest.indices.shape[1]
    )
    return Scene(
        images=batch.images,
        grid=grid,
        boxes=boxes,
        relevant=relevant,
        boxed=boxed,
        named=labels.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1).bool(),
        right=right & boxed.unsqueeze(1),
        inside=patches_in_boxes(grid.windows(boxes.device), boxes, relevant),
        pairs=pairs,
        objects=Questions.of(which, likeliest.indices.flatten(), boxes, box_labels),
        confidence=likeliest.values.flatten(),
        true_boxes=torch.bincount(box_labels[box_labels >= 0], minlength=labels.shape[1]),
        pair_pixels=pixels_in_boxes(pairs.boxes, *batch.size),
        labels=labels,
        masks=batch.masks,
    )


MODEL = "model"
FLOORS = (
    "whole image",
    "best centred box",
    "uniform weights",
    "random weights",
    "edge detector",
)
ANSWERS = (MODEL, *FLOORS)
SHUFFLE_SEED = 0
Size = tuple[float, float]


@dataclass(frozen=True)
class PatchValues:
    """How much each patch speaks for what is asked, larger where more.

    Attributes:
        pairs: for the class of each of the P pairs, shape `(P, M)`.
        objects: for the class of each of the n objects looked for, shape `(n, M)`.
        images: for all labels of each image together, shape `(B, M)`.
    """

    pairs: Float[Tensor, "P M"]
    objects: Float[Tensor, "n M"]
    images: Float[Tensor, "B M"]


@dataclass(frozen=True)
class Answer:
    """Where something says that the objects of B images are.

    Attributes:
        weights: of the patches, shape `(B, M)`; each row sums to 1.
        selected: shape `(B, M)`.
        boxes: one an image, shape `(B, 4)`.
        values: None where there is no exact evidence.
        fixed: for an answer that is a box and no map: the one to give for each IoU of
            `BOX_IOUS`, shape `(3, 4)`.
    """

    weights: Float[Tensor, "B M"]
    selected: Bool[Tensor, "B M"]
    boxes: Float[Tensor, "B 4"]
    values: PatchValues | None = None
    fixed: Float[Tensor, "3 4"] | None = None

    def pair_maps(self, grid: PatchGrid) -> Float[Tensor, "P H W"]:
        """Return the heat map of each pair."""
        assert self.values is not None
        return self._maps(self.values.pairs, grid)

    def image_maps(self, grid: PatchGrid) -> Float[Tensor, "B H W"]:
        """Return the heat map of all labels of each image together."""
        assert self.values is not None
        return self._maps(self.values.images, grid)

    def _maps(self, values: Float[Tensor, "n M"], grid: PatchGrid) -> Float[Tensor, "n H W"]:
        if self.fixed is None:
            return paint_patches(values, grid)
        box = self.fixed[BOX_IOUS.index(0.5)].reshape(1, 1, 4)
        pixels = pixels_in_boxes(box, grid.height, grid.width).float()
        return pixels.expand(len(values), -1, -1)


class AnswerMaker:
    """Makes the model's answer and those of the floors, batch by batch.

    Args:
        centred: the sizes of the best centred boxes, from `fit_centred_boxes`; None: without.
    """

    def __init__(self, centred: Sequence[Size] | None) -> None:
        self._centred = centred
        # The same shuffles for the same images in the same order, whatever the batch size.
        self._generator = torch.Generator().manual_seed(SHUFFLE_SEED)

    def answers(self, prediction: WeightedPrediction, scene: Scene) -> Iterator[tuple[str, Answer]]:
        """Return the answers for a batch by their names, the model's first."""
        selected, weights = prediction.selected, prediction.patch_weights.float()
        values = _values_of(prediction, scene)
        yield MODEL, _patch_answer(weights, selected, values, scene)

        alike = torch.ones_like(weights)
        every = torch.ones_like(selected)
        same = None if values is None else _regardless_of_class(alike, scene)
        height, width = scene.grid.height, scene.grid.width
        whole = centred_box(1.0, 1.0, height, width).to(weights.device)
        share = alike / weights.shape[1]
        yield (
            "whole image",
            Answer(share, every, whole.expand(len(weights), 4), same, whole.expand(3, 4)),
        )
        if self._centred is not None:
            boxes = torch.stack([centred_box(*size, height, width) for size in self._centred])
            yield "best centred box", _box_answer(boxes.to(weights.device), same, scene)
        yield "uniform weights", _patch_answer(share, every, same, scene)

        order = torch.rand(weights.shape, generator=self._generator).argsort(dim=1)
        order = order.to(weights.device)
        shuffled = None if values is None else _shuffled(values, order, scene)
        yield (
            "random weights",
            _patch_answer(weights.gather(1, order), selected.gather(1, order), shuffled, scene),
        )

        edges = edges_in_windows(scene.images, scene.grid)
        chosen = _highest(edges, selected.sum(dim=1))
        strength = edges + torch.finfo(edges.dtype).tiny  # an image of one colour has no edges
        by_edges = None if values is None else _regardless_of_class(edges, scene)
        yield (
            "edge detector",
            _patch_answer(strength / strength.sum(dim=1, keepdim=True), chosen, by_edges, scene),
        )


def _values_of(prediction: WeightedPrediction, scene: Scene) -> PatchValues | None:
    """Return the evidence for the classes asked about, None for a head without any."""
    if not isinstance(prediction, PatchPrediction):
        return None

    def of(asked: Questions) -> Tensor:
        return prediction.evidence_at(asked.image, asked.classes).float()

    image, label = scene.labels.nonzero(as_tuple=True)
    in_favour = prediction.evidence_at(image, label).float().clamp(min=0)
    of_labels = in_favour.new_zeros(prediction.patch_weights.shape).index_add(0, image, in_favour)
    return PatchValues(of(scene.pairs), of(scene.objects), of_labels)


def _regardless_of_class(values: Float[Tensor, "B M"], scene: Scene) -> PatchValues:
    return PatchValues(values[scene.pairs.image], values[scene.objects.image], values)


def _shuffled(values: PatchValues, order: Int[Tensor, "B M"], scene: Scene) -> PatchValues:
    """Return the values with the patches of each image in another order."""
    return PatchValues(
        values.pairs.gather(1, order[scene.pairs.image]),
        values.objects.gather(1, order[scene.objects.image]),
        values.images.gather(1, order),
    )


def _patch_answer(
    weights: Float[Tensor, "B M"],
    selected: Bool[Tensor, "B M"],
    values: PatchValues | None,
    scene: Scene,
) -> Answer:
    boxes = enclosing_boxes(selected, scene.grid.windows(weights.device))
    return Answer(weights, selected, boxes, values)


def _box_answer(fixed: Float[Tensor, "3 4"], values: PatchValues | None, scene: Scene) -> Answer:
    """Return the answer of a box: the patches that lie in it, all alike."""
    box = fixed[BOX_IOUS.index(0.5)]
    windows = scene.grid.windows(box.device)
    one = torch.ones(1, 1, dtype=torch.bool, device=box.device)
    inside = patches_in_boxes(windows, box.reshape(1, 1, 4), one)
    # A box smaller than half a window holds no patch; the middle ones are nearest.
    if not inside.any():
        away = ((windows[:, :2] + windows[:, 2:]) - (box[:2] + box[2:])).square().sum(dim=1)
        inside = (away == away.min()).unsqueeze(0)
    count = len(scene.images)
    selected = inside.expand(count, -1)
    weights = (inside.float() / inside.sum()).expand(count, -1)
    return Answer(weights, selected, box.expand(count, 4), values, fixed)


def _highest(values: Float[Tensor, "B M"], count: Int[Tensor, " B"]) -> Bool[Tensor, "B M"]:
    """Return the `count` highest values of each row; of equal ones the first."""
    place = values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return place < count.unsqueeze(1)


def fit_centred_boxes(train: LabelledImages | None) -> list[Size] | None:
    """Return the best size of a centred box for each of `BOX_IOUS`.

    None where there are no training images with a box of one of their labels to fit it to.
    """
    if train is None or train.boxes is None or train.box_labels is None:
        return None
    relevant = relevant_boxes(train.box_labels, train.labels)
    sizes = [fit_centred_box(train.boxes, relevant, *train.size, iou) for iou in BOX_IOUS]
    found = [size for size in sizes if size is not None]
    return found or None


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
