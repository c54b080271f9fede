"""Where is the object? What is true, what the model answers, and what trivial baselines answer.

Of each batch, `see` says what is true (a `Scene`) and `answers` what the model and each baseline
say (an `Answer` each), so that all are measured alike. Masked patches are in no answer.

The trivial baselines do not look at the model:

* whole image: every patch alike, one box, one heat for all pixels;
* centred box: fitted to the training set for each IoU that is asked for;
* uniform: every patch alike, and the box around all windows;
* random: the model's own weights and map, shuffled over the patches of each image;
* edges: patches weighed by the edges in their window, as many selected as by the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.data.sample import ImageSet, LabelledImages
from loss_attention.geometry import PatchGrid, box_iou, enclosing_boxes, paint_patches
from loss_attention.metrics.detection import (
    BOX_IOUS,
    REACHES,
    THRESHOLDS,
    Detections,
    box_overlaps,
    count_overlaps,
    group_boxes,
    spread_overlaps,
)
from loss_attention.metrics.localisation import (
    NEAR,
    centred_box,
    edges_in_windows,
    fit_centred_box,
    framed,
    has_distance,
    near_object,
    patches_in_boxes,
    pixels_in_boxes,
    relevant_boxes,
    right_patches,
    scaled_maps,
)
from loss_attention.prediction import (
    MapName,
    PatchPrediction,
    WeightedPrediction,
    probabilities_of,
)

MODEL = "model"
BASELINES = (
    "whole image",
    "centred box",
    "uniform",
    "random",
    "edges",
)
ANSWERS = (MODEL, *BASELINES)
SHUFFLE_SEED = 0
ASKED_CLASSES = 10
"""Of so many classes an image, the likeliest, objects are looked for."""
HALF = BOX_IOUS.index(0.5)
Size = tuple[float, float]


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


@dataclass(frozen=True)
class Scene:
    """What is true of a batch of B images, on its device.

    Attributes:
        images: the images, shape `(B, C, H, W)`.
        grid: where the model's patches lie.
        real: the patches that are not masked, shape `(B, M)`.
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
        near: the pixels near the object of each image that has a mask, or without masks near the
            boxes of each pair, shape `(R, H, W)`; None where images are too small for that.
    """

    images: Shaped[Tensor, "B C H W"]
    grid: PatchGrid
    real: Bool[Tensor, "B M"]
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
    near: Bool[Tensor, "R H W"] | None


def see(
    batch: ImageSet, prediction: WeightedPrediction, within: int = NEAR, *, competing: bool
) -> Scene | None:
    """Return what is true of a batch, None where its set has neither boxes nor masks.

    Args:
        batch: the images.
        prediction: of the model.
        within: how many pixels from an object are near it.
        competing: a softmax decides between the classes.
    """
    boxes, box_labels = batch.boxes, batch.box_labels
    if boxes is None or box_labels is None:
        if batch.masks is None:
            return None
        boxes = torch.full((len(batch), 1, 4), torch.nan, device=batch.images.device)
        box_labels = torch.full_like(boxes[..., 0], -1, dtype=torch.int64)
    relevant = relevant_boxes(box_labels, batch.labels)
    boxed = relevant.any(dim=1)
    labels, grid, mask = batch.label_matrix(), prediction.image_grid, prediction.mask
    logits = prediction.logits.float()
    real = torch.ones_like(prediction.selected) if mask is None else mask
    probabilities = probabilities_of(logits, competing=competing)
    likeliest = probabilities.topk(min(ASKED_CLASSES, logits.shape[1]), dim=1)
    has_box = torch.zeros_like(labels, dtype=torch.bool)
    image, box = relevant.nonzero(as_tuple=True)
    has_box[image, box_labels[image, box]] = True
    right = right_patches(prediction.patch_scores, batch.labels)

    def questions(image: Tensor, classes: Tensor) -> Questions:
        others = (box_labels[image] != classes.unsqueeze(1)).unsqueeze(2)
        return Questions(image, classes, boxes[image].masked_fill(others, torch.nan))

    pairs = questions(*has_box.nonzero(as_tuple=True))
    image, _ = torch.ones_like(likeliest.indices).nonzero(as_tuple=True)
    pair_pixels = pixels_in_boxes(pairs.boxes, *batch.size)
    near = None
    if has_distance(*batch.size, within):
        masks = batch.masks
        near = near_object(pair_pixels if masks is None else masks[masks.any(dim=(1, 2))], within)
    return Scene(
        images=batch.images,
        grid=grid,
        real=real,
        boxes=boxes,
        relevant=relevant,
        boxed=boxed,
        named=labels.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1).bool(),
        right=right & real & boxed.unsqueeze(1),
        inside=patches_in_boxes(grid.windows(boxes.device), boxes, relevant) & real,
        pairs=pairs,
        objects=questions(image, likeliest.indices.flatten()),
        confidence=likeliest.values.flatten(),
        true_boxes=torch.bincount(box_labels[box_labels >= 0], minlength=labels.shape[1]),
        pair_pixels=pair_pixels,
        labels=labels,
        masks=batch.masks,
        near=near,
    )


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

    def maps(self, values: Float[Tensor, "n M"], grid: PatchGrid) -> Float[Tensor, "n H W"]:
        """Return the heat maps of some of the values."""
        if self.fixed is None:
            return paint_patches(values, grid)
        pixels = pixels_in_boxes(self.fixed[HALF].reshape(1, 1, 4), grid.height, grid.width)
        return pixels.float().expand(len(values), -1, -1)

    def framed_at_thresholds(
        self, maps: Float[Tensor, "P H W"], truth: Float[Tensor, "P G 4"]
    ) -> tuple[Int[Tensor, "T 3"], Bool[Tensor, "P T"]]:
        """Return how the boxes around heat maps frame the pairs, at every threshold.

        Returns:
            How many pairs the best of all boxes frames by each of `BOX_IOUS`, and which pairs the
            box of the largest group frames by an IoU above 0.5.
        """
        if self.fixed is None:
            overlaps = box_overlaps(scaled_maps(maps), truth)
            return count_overlaps(overlaps.best), framed(overlaps.largest)
        # A box is the same at any threshold; which one depends on the IoU that is asked for.
        found = box_iou(self.fixed.unsqueeze(1), truth.unsqueeze(1)).amax(dim=2)
        enough = (found >= torch.tensor(BOX_IOUS, device=found.device)).sum(dim=0)
        largest = framed(found[:, HALF : HALF + 1])
        return enough.expand(len(THRESHOLDS), -1), largest.expand(-1, len(THRESHOLDS))

    def framed_at_reaches(
        self, maps: Float[Tensor, "P H W"], truth: Float[Tensor, "P G 4"]
    ) -> Bool[Tensor, "P T"]:
        """Return which pairs the box of the map's spread frames, at every reach."""
        if self.fixed is None:
            return framed(spread_overlaps(maps, truth))
        overlaps = box_iou(self.fixed[HALF], truth).amax(dim=1, keepdim=True)
        return framed(overlaps).expand(-1, len(REACHES))

    def detections(self, scene: Scene, threshold: float) -> Detections:
        """Return the boxes of the objects that are looked for."""
        assert self.values is not None
        if self.fixed is None:
            return group_boxes(self.values.objects, scene.confidence, scene.grid, threshold)
        count = len(scene.confidence)
        box = self.fixed[HALF].cpu().expand(count, 4)
        return Detections(torch.arange(count), box, scene.confidence.cpu().double())


def answers(
    prediction: WeightedPrediction,
    scene: Scene,
    centred: Sequence[Size] | None,
    generator: torch.Generator,
    map: MapName = "evidence",
) -> Iterator[tuple[str, Answer]]:
    """Return the answers for a batch by their names, the model's first.

    Args:
        prediction: of the model.
        scene: what is true of the batch.
        centred: the sizes of the best centred boxes; None: without that baseline.
        generator: shuffles the patches of each image.
        map: what the model's heat maps show; objects are looked for by their evidence.
    """
    selected, weights = prediction.selected, prediction.real_weights.float()
    values = _values_of(prediction, scene, map)
    yield MODEL, _patch_answer(weights, selected, values, scene)

    alike = scene.real.float()
    equal = alike / alike.sum(dim=1, keepdim=True)
    same = None if values is None else _regardless_of_class(alike, scene)
    height, width = scene.grid.height, scene.grid.width
    whole = centred_box(1.0, 1.0, height, width).to(weights.device)
    boxes = whole.expand(len(weights), 4)
    yield "whole image", Answer(equal, scene.real, boxes, same, whole.expand(3, 4))
    if centred is not None:
        fixed = torch.stack([centred_box(*size, height, width) for size in centred])
        yield "centred box", _box_answer(fixed.to(weights.device), same, scene)
    yield "uniform", _patch_answer(equal, scene.real, same, scene)

    order = _shuffled(scene.real, generator)
    mixed = None
    if values is not None:
        mixed = PatchValues(
            values.pairs.gather(1, order[scene.pairs.image]),
            values.objects.gather(1, order[scene.objects.image]),
            values.images.gather(1, order),
        )
    shuffled = (weights.gather(1, order), selected.gather(1, order))
    yield "random", _patch_answer(*shuffled, mixed, scene)

    edges = edges_in_windows(scene.images, scene.grid).masked_fill(~scene.real, 0.0)
    # Of equal ones the first; an image of one colour has no edges.
    strength = (edges + torch.finfo(edges.dtype).tiny) * scene.real
    rank = strength.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    chosen = rank < selected.sum(dim=1, keepdim=True)
    by_edges = None if values is None else _regardless_of_class(edges, scene)
    strength = strength / strength.sum(dim=1, keepdim=True)
    yield "edges", _patch_answer(strength, chosen, by_edges, scene)


def _values_of(prediction: WeightedPrediction, scene: Scene, map: MapName) -> PatchValues | None:
    """Return what is said for the classes asked about, None for a head without evidence."""
    if not isinstance(prediction, PatchPrediction):
        return None
    pairs, objects = scene.pairs, scene.objects
    image, label = scene.labels.nonzero(as_tuple=True)
    in_favour = prediction.map_at(map, image, label).float().clamp(min=0)
    of_labels = in_favour.new_zeros(prediction.patch_weights.shape).index_add(0, image, in_favour)
    return PatchValues(
        prediction.map_at(map, pairs.image, pairs.classes).float(),
        prediction.evidence_at(objects.image, objects.classes).float(),
        of_labels,
    )


def _regardless_of_class(values: Float[Tensor, "B M"], scene: Scene) -> PatchValues:
    return PatchValues(values[scene.pairs.image], values[scene.objects.image], values)


def _shuffled(real: Bool[Tensor, "B M"], generator: torch.Generator) -> Int[Tensor, "B M"]:
    """Return the patches of each image in another order; masked ones change among themselves."""
    order = torch.rand(real.shape, generator=generator).argsort(dim=1).to(real.device)
    # Both have the real patches first: those at random, and those that they take the turn of.
    at_random = order.gather(1, (~real).gather(1, order).argsort(dim=1, stable=True))
    in_turn = (~real).long().argsort(dim=1, stable=True)
    return torch.empty_like(order).scatter(1, in_turn, at_random)


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
    box = fixed[HALF]
    windows = scene.grid.windows(box.device)
    one = torch.ones(1, 1, dtype=torch.bool, device=box.device)
    inside = patches_in_boxes(windows, box.reshape(1, 1, 4), one) & scene.real
    # A box smaller than half a window holds no patch; the middle ones are nearest.
    away = ((windows[:, :2] + windows[:, 2:]) - (box[:2] + box[2:])).square().sum(dim=1)
    away = away.expand(inside.shape).masked_fill(~scene.real, torch.inf)
    nearest = away == away.amin(dim=1, keepdim=True)
    selected = torch.where(inside.any(dim=1, keepdim=True), inside, nearest)
    weights = selected.float() / selected.sum(dim=1, keepdim=True)
    return Answer(weights, selected, box.expand(len(selected), 4), values, fixed)


def fit_centred_boxes(train: LabelledImages | None) -> list[Size] | None:
    """Return the best size of a centred box for each of `BOX_IOUS`.

    None where there are no training images with a box of one of their labels to fit it to.
    """
    if train is None or train.boxes is None or train.box_labels is None:
        return None
    relevant = relevant_boxes(train.box_labels, train.labels)
    sizes = [fit_centred_box(train.boxes, relevant, *train.size, iou) for iou in BOX_IOUS]
    return [size for size in sizes if size is not None] or None
