"""What a model's patches see, measured on some images of a set, and the metrics of that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.attention import centred
from loss_attention.data.sample import LabelledImages
from loss_attention.errors import InputError
from loss_attention.evaluation.metric import LOCALITY, Metric
from loss_attention.geometry import PatchGrid
from loss_attention.metrics.faithfulness import PIXELS_AT_ONCE
from loss_attention.metrics.locality import (
    Changes,
    Locality,
    LocalityCurve,
    changes_when_kept,
    locality_curve,
    sides_to_try,
    whole_side,
)
from loss_attention.model import PatchClassifier
from loss_attention.prediction import ImagePrediction, PatchPrediction, WeightedPrediction

MOST_IMAGES, LEAST_IMAGES = 64, 8
"""Images that locality is measured on, where the number is left to us."""
FRACTION = 1 / 4
"""Of the forward passes of an evaluation, what locality may cost beside it."""


@dataclass(frozen=True)
class LocalityTask:
    """Images that are going to be used, and how many forward passes that takes.

    Attributes:
        model: in evaluation mode.
        data: the images.
        index: those that are used.
        others: for each, an image of another class.
        grid: where the patches lie.
        seed: which patches are drawn by.
        competing: a softmax decides, so what all classes of a patch have in common says nothing.
        device: where to compute.
    """

    model: PatchClassifier
    data: LabelledImages
    index: Int[Tensor, " n"]
    others: Int[Tensor, " n"]
    grid: PatchGrid
    seed: int
    competing: bool
    device: torch.device

    @property
    def passes(self) -> int:
        """Images that are run through the model."""
        return len(self.index) * _passes(self.grid)

    def run(
        self,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        progress: Callable[[int, int], None] | None = None,
    ) -> Locality:
        """Measure it.

        Args:
            autocast: makes the context that the model runs in.
            progress: called with the number of forward passes done and of all.
        """
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            if progress is not None:
                progress(done, self.passes)

        generator = torch.Generator().manual_seed(self.seed)
        sides = sides_to_try(self.grid)
        found: list[Changes] = []
        chosen: list[Tensor] = []

        def predict(images: Tensor) -> WeightedPrediction:
            with autocast():
                prediction = self.model(images)
            assert isinstance(prediction, WeightedPrediction)
            return prediction

        step = max(1, PIXELS_AT_ONCE // (self.grid.height * self.grid.width))
        with torch.inference_mode():
            parts = (torch.split(every, step) for every in (self.index, self.others))
            for index, others in zip(*parts, strict=True):
                images, foreign = (
                    self.data.take(some).to(self.device).images for some in (index, others)
                )
                own = predict(images)
                tell(len(index))
                patches = _chosen_patches(own.real_weights, generator)
                chosen.append(patches)
                found.append(
                    changes_when_kept(
                        lambda some: class_vectors(predict(some), competing=self.competing),
                        images,
                        foreign,
                        class_vectors(own, competing=self.competing),
                        patches,
                        self.grid,
                        sides,
                        tell,
                    )
                )
            squared, same = (torch.cat(one).cpu() for one in zip(*found, strict=True))
        drawn = torch.cat(chosen).cpu()
        random, heaviest = (
            locality_curve(Changes(squared[:, k], same[:, k]), drawn[:, k], self.grid, sides)
            for k in (slice(0, 1), slice(1, 2))
        )
        return Locality(len(self.index), random, heaviest)


def plan_locality(
    model: PatchClassifier,
    data: LabelledImages,
    *,
    images: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> LocalityTask:
    """Draw images to measure on, each with an image of another class: one of none of its labels.

    Args:
        model: in evaluation mode.
        data: the images.
        images: how many at most; None: as many as cost no more than `FRACTION` of running the model
            over all of them, from `LEAST_IMAGES` to `MOST_IMAGES`.
        seed: which images and patches are drawn.
        device: where to compute; None: where the model is.

    Raises:
        InputError: the model has no patches, or no image has one of another class.
    """
    if len(data) < 2:
        raise InputError("one image alone has none of another class beside it")
    device = torch.device(device or model.mean.device)
    with torch.inference_mode():
        probe: ImagePrediction = model(data.take(torch.arange(1)).to(device).images)
    if not isinstance(probe, WeightedPrediction):
        raise InputError("the model has no patches")
    if images is None:
        affordable = int(FRACTION * len(data) / _passes(probe.image_grid))
        images = min(MOST_IMAGES, max(LEAST_IMAGES, affordable))
    index, others = draw_pairs(data.labels.cpu(), images, seed)
    if not len(index):
        raise InputError("no image has one of another class beside it")
    return LocalityTask(model, data, index, others, probe.image_grid, seed, model.competing, device)


def _passes(grid: PatchGrid) -> int:
    """Return how often the model runs for each image: itself, the other, and both patches' sides.

    At sides of 0 and of the whole image, what comes out is known.
    """
    return 2 + 2 * sum(0 < side < whole_side(grid) for side in sides_to_try(grid))


def class_vectors(prediction: WeightedPrediction, *, competing: bool) -> Float[Tensor, "B M K"]:
    """Return what each patch says to each class, without what decides nothing.

    Under a softmax that is what a patch adds to all classes alike, so its logits are centred. The
    logits of classes that are each decided by itself have a zero that means something, and so have
    the votes of dynamic routing, which are lengths: these stay as they are.
    """
    scores = prediction.patch_scores.float()
    if competing and isinstance(prediction, PatchPrediction):
        return centred(scores)
    return scores


def draw_pairs(
    labels: Shaped[Tensor, N * K], count: int, seed: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Draw images that have one of another class, and such a one for each.

    Args:
        labels: class indices `(N,)` or a 0/1 matrix `(N, K)`.
        count: how many at most.
        seed: the same seed draws the same images.

    Returns:
        The indices of both; empty where no two images differ in class.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).tolist()
    pairs: list[tuple[int, int]] = []
    # Where all images share a label, none is found however many are looked at.
    for i in order[: 4 * count]:
        if len(pairs) == count:
            break
        rivals = _of_other_classes(labels, i).nonzero().squeeze(1)
        if len(rivals):
            which = int(torch.randint(len(rivals), (), generator=generator))
            pairs.append((i, int(rivals[which])))
    index, others = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return index, others


def _of_other_classes(labels: Shaped[Tensor, N * K], i: int) -> Bool[Tensor, " N"]:
    """Return which images have none of the labels of one; of one without any, those with some."""
    if labels.ndim == 1:
        return labels != labels[i]
    own = labels[i].bool()
    return ~labels[:, own].bool().any(dim=1) if own.any() else labels.bool().any(dim=1)


def _chosen_patches(
    weights: Float[Tensor, "B M"], generator: torch.Generator
) -> Int[Tensor, "B 2"]:
    """Return a patch of each image at random, and the heaviest, at random among equals."""
    batch, number = weights.shape
    random = torch.randint(number, (batch,), generator=generator)
    lot = torch.rand(batch, number, generator=generator)
    heaviest = weights.cpu() == weights.cpu().amax(dim=1, keepdim=True)
    heavy = lot.masked_fill(~heaviest, -1.0).argmax(dim=1)
    return torch.stack([random, heavy], dim=1).to(weights.device)


def locality_metrics(found: Locality | None) -> list[Metric]:
    """Return the metrics of random patches, then those of the heaviest."""
    if found is None:
        return []
    return [
        *_metrics_of(found.random, "random", "random patches"),
        *_metrics_of(found.heaviest, "heaviest", "heaviest patch"),
    ]


def _metrics_of(curve: LocalityCurve, name: str, which: str) -> list[Metric]:
    whole = float(curve.sides[-1])
    even = curve.even_r90
    return [
        Metric(
            f"locality_window_{name}",
            f"L(window), {which}",
            curve.in_window,
            {"whole image": curve.even_in_window},
            # It has no least value; below 0 all is lost.
            group=LOCALITY,
        ),
        Metric(
            f"locality_r90_{name}",
            f"r90 in pixels, {which}",
            None if curve.r90 is None else float(curve.r90),
            {"whole image": None if even is None else float(even)},
            unit="px",
            higher_is_better=False,
            range=(0.0, whole),
            group=LOCALITY,
        ),
        Metric(
            f"locality_r90_by_window_{name}",
            f"r90 / window, {which}",
            curve.windows,
            {"whole image": None if even is None else even / curve.window},
            higher_is_better=False,
            range=(0.0, whole / curve.window),
            group=LOCALITY,
        ),
        Metric(
            f"locality_same_top_class_{name}",
            f"same top class in the window, {which}",
            curve.same_in_window,
            {"other image": curve.same_top_class[0]},
            group=LOCALITY,
        ),
    ]
