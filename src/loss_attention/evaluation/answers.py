"""Where a model says that its evidence lies, and where answers say so that know nothing of it.

Each of these floors is measured by the same code as the model:

* whole image: every patch alike, one box, one heat for all pixels;
* best centred box: fitted to the training set for each IoU that is asked for;
* uniform weights: every patch alike, and the box around all windows;
* random weights: the model's own weights and evidence, shuffled over the patches of each image;
* edge detector: patches weighed by the edges in their window, as many selected as by the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loss_attention.data.sample import LabelledImages
from loss_attention.evaluation.scene import Questions, Scene
from loss_attention.geometry import PatchGrid, enclosing_boxes, paint_patches
from loss_attention.metrics.boxes import centred_box, fit_centred_box, relevant_boxes
from loss_attention.metrics.edges import edges_in_windows
from loss_attention.metrics.heat_maps import pixels_in_boxes
from loss_attention.metrics.max_box import BOX_IOUS
from loss_attention.metrics.patches import patches_in_boxes
from loss_attention.prediction import EvidencePrediction, WeightedPrediction

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
    if not isinstance(prediction, EvidencePrediction):
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
