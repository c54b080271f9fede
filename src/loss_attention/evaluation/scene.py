"""What is true of the places in a batch of images: the boxes, masks and classes to be found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.data.sample import ImageSet
from loss_attention.geometry import PatchGrid
from loss_attention.metrics.boxes import relevant_boxes
from loss_attention.metrics.heat_maps import pixels_in_boxes
from loss_attention.metrics.patches import patches_in_boxes, right_patches
from loss_attention.prediction import WeightedPrediction

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
        right: the patches A of the boxed images, shape `(B, M)`; see `metrics/patches.py`.
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
    labels, grid = batch.label_matrix(), prediction.grid
    logits = prediction.logits.float()
    has_box = torch.zeros_like(labels, dtype=torch.bool)
    image, box = relevant.nonzero(as_tuple=True)
    has_box[image, box_labels[image, box]] = True
    image, shown = has_box.nonzero(as_tuple=True)
    pairs = Questions.of(image, shown, boxes, box_labels)
    probabilities = logits.sigmoid() if batch.multi_label else logits.softmax(dim=1)
    right = prediction.each_patch(lambda scores: right_patches(scores, batch.labels))
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
