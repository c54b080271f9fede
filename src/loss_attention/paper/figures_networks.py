"""Figures 4 to 6 of trained networks: which images they show, and what their captions say.

matplotlib loads when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from loss_attention.data.sample import LabelledImages
from loss_attention.explanation import Explanation
from loss_attention.geometry import box_area
from loss_attention.metrics.localisation import relevant_boxes
from loss_attention.paper.figures_captions import scores
from loss_attention.paper.numbers import LOSS_ATTENTION
from loss_attention.paper.trainings import Trained

if TYPE_CHECKING:
    from loss_attention.paper.figures_layout import Drawing
    from loss_attention.paper.figures_pictures import Sample

HEAT_MAP_SAMPLES, SAMPLES = 6, 12
_CHOICE = (
    "The images are the first of the test split of each class that comes up, whatever the "
    "networks answer."
)


def choose_samples(data: LabelledImages, most: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return which images to show, and the class to explain in each; no network has a say.

    The class of an image is its only label, or the one with the largest box (without boxes, the
    first). Shown are the first image of each class, then the second, in the order of the set.
    """
    from loss_attention.report.page import choose_right_answers

    matrix = data.label_matrix().bool()
    classes = torch.where(matrix.any(dim=1), matrix.int().argmax(dim=1), -1)
    if data.multi_label and data.boxes is not None and data.box_labels is not None:
        relevant = relevant_boxes(data.box_labels, data.labels)
        areas = torch.where(relevant, box_area(data.boxes), -1.0)
        largest = data.box_labels.gather(1, areas.argmax(dim=1, keepdim=True)).squeeze(1)
        classes = torch.where(relevant.any(dim=1), largest, classes)
    # The report spreads its right answers over the classes by the same rule.
    index = torch.tensor(choose_right_answers(classes >= 0, classes, most), dtype=torch.int64)
    return index, classes[index]


def samples_of(
    data: LabelledImages, index: Int[Tensor, " n"], target: Int[Tensor, " n"]
) -> list[Sample]:
    """Return images as figures show them, with the true boxes of their labels."""
    from PIL import Image

    from loss_attention.paper.figures_pictures import Sample

    part = data.take(index)
    truths = [torch.empty(0, 4)] * len(part)
    if part.boxes is not None and part.box_labels is not None:
        relevant = relevant_boxes(part.box_labels, part.labels)
        truths = [boxes[kept] for boxes, kept in zip(part.boxes, relevant, strict=True)]
    return [
        Sample(
            part.names[i] if part.names else f"test image {int(index[i])}",
            Image.fromarray(part.images[i].permute(1, 2, 0).squeeze(2).numpy()),
            data.class_names[int(target[i])],
            truths[i],
        )
        for i in range(len(part))
    ]


def figure4(networks: Mapping[str, Trained], facts: str) -> tuple[Drawing, str]:
    """Return the heat maps of the baseline and of Loss-Attention, and the caption.

    Args:
        networks: by the method's name.
        facts: what the caption says of data, scale and seed.
    """
    from loss_attention.attribution.maps import attribute
    from loss_attention.inference import evaluation_mode
    from loss_attention.paper.figures_pictures import HeatMaps, draw_heat_maps

    baseline, ours = networks["Baseline"], networks[LOSS_ATTENTION]
    index, target = choose_samples(ours.splits.test, HEAT_MAP_SAMPLES)
    images = ours.splits.test.take(index).images
    systems = []
    for words, network, method in (
        ("Grad-CAM\nof the baseline", baseline, "grad-cam"),
        ("Grad-CAM of\nLoss-Attention", ours, "grad-cam"),
        ("Evidence of\nLoss-Attention", ours, "evidence"),
    ):
        model = network.model
        with torch.inference_mode(), evaluation_mode(model):
            logits = model(images).logits.float()
        probabilities = logits.sigmoid() if model.multi_label else logits.softmax(dim=1)
        given = probabilities[torch.arange(len(index)), target]
        systems.append(HeatMaps(words, attribute(model, images, method, target), given))
    measures = ("mean_average_precision", "accuracy")
    caption = (
        "Figure 4. Heat maps of test images: Grad-CAM of the baseline, Grad-CAM of Loss-Attention "
        "(convolutional), and the exact evidence of Loss-Attention, all with ResNet18. Above each "
        "image is the explained class, of its labels the one with the largest box; p is the "
        "probability that the network gives it. Grad-CAM shows only what speaks for a "
        "class, and leaves an image grey where nothing does. "
        f"{_CHOICE} {facts} Baseline: {scores(baseline.record, measures)}. Loss-Attention: "
        f"{scores(ours.record, measures)}."
    )
    return draw_heat_maps(samples_of(ours.splits.test, index, target), systems, caption), caption


def figure5(networks: Mapping[str, Trained], facts: str) -> tuple[Drawing, str]:
    """Return the selected patches of Loss-Attention, and the caption; see `figure4`."""
    from loss_attention.paper.figures_pictures import draw_patches

    ours = networks[LOSS_ATTENTION]
    caption = (
        "Figure 5. Selected patches of test images by Loss-Attention (convolutional) with "
        "ResNet18: those with a weight above 0. What no window of theirs covers is pale; a "
        "network sees beyond its windows. Above each image is one of its labels, that of the "
        f"largest box. {_CHOICE} {facts} On the whole test split: "
        f"{scores(ours.record, ('patch_precision', 'patch_recall', 'patch_f'))}."
    )
    return draw_patches(*_explained(ours), caption), caption


def figure6(networks: Mapping[str, Trained], facts: str) -> tuple[Drawing, str]:
    """Return the boxes of Loss-Attention beside the true ones, and the caption; see `figure4`."""
    from loss_attention.paper.figures_pictures import draw_boxes

    ours = networks[LOSS_ATTENTION]
    caption = (
        "Figure 6. Boxes of test images by Loss-Attention (convolutional) with ResNet18: the "
        "smallest rectangle around the windows of the selected patches, and the true boxes of the "
        "image's labels. One box stands for the whole image, so with several objects it can frame "
        "them all and match none. Above each image is one of its labels, that of the largest box; "
        f"IoU is with the true box that fits best. {_CHOICE} {facts} On the whole test split: "
        f"{scores(ours.record, ('box_ap',))}."
    )
    return draw_boxes(*_explained(ours), caption), caption


def _explained(network: Trained) -> tuple[list[Sample], Explanation]:
    """Return the images that a figure shows, and what the network says of them."""
    test = network.splits.test
    index, target = choose_samples(test, SAMPLES)
    return samples_of(test, index, target), network.model.explain(test.take(index).images)
