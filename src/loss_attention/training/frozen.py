"""Training on features of a frozen backbone: the network that learns, and the set that it sees.

What a frozen backbone makes of an image is computed once, of the image as it is (view 0) and of
augmented views of it (features.py). The trainer works on a `FeatureSet` in place of images and
trains a `FrozenModel`, whose backbone takes no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from loss_attention.backbones import Features
from loss_attention.data.sample import LabelledImages, sent
from loss_attention.model import PatchClassifier
from loss_attention.prediction import ImagePrediction
from loss_attention.training.sampling import stream

FIRST_VIEW = 2**42
"""Beside what `sampling` draws of the same seed."""

Kind = Literal["float16", "float32"]


class FrozenModel(nn.Module):
    """A model that is given features in place of images, and whose backbone does not learn.

    Args:
        model: its head is trained; its backbone stays in evaluation mode.
    """

    def __init__(self, model: PatchClassifier) -> None:
        super().__init__()
        self.model = model
        assert model.image_size is not None
        self.image_size = model.image_size
        model.backbone.requires_grad_(False)
        self.train(model.training)

    def train(self, mode: bool = True) -> FrozenModel:
        """Set the mode of all but the backbone."""
        super().train(mode)
        self.model.backbone.eval()
        return self

    def forward(self, features: Features) -> ImagePrediction:
        """Return the prediction for the features of images."""
        return self.model.decide(features, self.image_size)


@dataclass(frozen=True)
class FeatureBatch:
    """Features of some images, and their labels.

    Attributes:
        images: a map for each level, float32.
        labels: as those of the images.
    """

    images: Features
    labels: Shaped[Tensor, N * K]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> FeatureBatch:
        """Return the batch on a device."""
        return FeatureBatch(
            of_each(self.images, lambda one: one.to(device)), self.labels.to(device)
        )


def of_each(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    """Return features whose maps are changed in one way."""
    return change(features) if isinstance(features, Tensor) else tuple(map(change, features))


def divided(features: Features, parts: int) -> Sequence[Features]:
    """Divide a batch into parts that differ by at most one image."""
    if isinstance(features, Tensor):
        return features.tensor_split(parts)
    return list(zip(*(one.tensor_split(parts) for one in features), strict=True))


class FeatureMaps:
    """The numbers of files of features, mapped: what is used of them stays in memory.

    Another process that it is sent to maps the files itself.

    Args:
        paths: a file for each level.
        shapes: `(D, h, w)` of each level.
        rows: images times views.
        kind: of the numbers.
    """

    def __init__(
        self, paths: Sequence[Path], shapes: Sequence[tuple[int, int, int]], rows: int, kind: Kind
    ) -> None:
        self._made_of = paths, shapes, rows, kind
        self.maps: tuple[Tensor, ...] = tuple(
            torch.from_file(
                str(path),
                shared=False,
                size=rows * height * width * channels,
                dtype=getattr(torch, kind),
            ).view(rows, height, width, channels)
            for path, (channels, height, width) in zip(paths, shapes, strict=True)
        )

    def __reduce__(self) -> tuple[type[FeatureMaps], tuple[Any, ...]]:
        return FeatureMaps, self._made_of

    def to(self, device: torch.device | str) -> FeatureMaps:
        """Return a copy of all of them on a device."""
        moved = object.__new__(FeatureMaps)
        moved._made_of, moved.maps = self._made_of, tuple(one.to(device) for one in self.maps)
        return moved

    def take(self, rows: Int[Tensor, " B"], device: torch.device) -> Features:
        """Return rows as float32 maps `(B, D, h, w)`, channels last, on a device."""
        maps = []
        for one in self.maps:
            part = one[rows.to(one.device)]
            maps.append(sent(part, device).float().permute(0, 3, 1, 2))
        return maps[0] if len(maps) == 1 else tuple(maps)


@dataclass(frozen=True)
class FeatureSet:
    """Features of images in place of these: what training asks of a set of images.

    Attributes:
        features: of all images and views in the files.
        numbers: which of the images in the files these are, on the CPU.
        labels: theirs, as those of `LabelledImages`.
        views: of each image.
        shown: which view of each image `take` returns, on the CPU; see `in_epoch`.
        movable: all features fit on the device that trains.
        device: where batches are to be.
    """

    features: FeatureMaps
    numbers: Int[Tensor, " N"]
    labels: Shaped[Tensor, N * K]
    views: int
    shown: Int[Tensor, " N"]
    movable: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes."""
        return self.labels.ndim == 2

    def subset(self, index: Int[Tensor, " n"]) -> FeatureSet:
        """Return the images of these indices, in this order."""
        index = index.cpu()
        return replace(
            self,
            numbers=self.numbers[index],
            labels=self.labels[index.to(self.labels.device)],
            shown=self.shown[index],
        )

    def in_epoch(self, seed: int, epoch: int) -> FeatureSet:
        """Return the set with the views that an epoch shows: each image's, one after the other.

        Which one an image begins with is drawn by the seed.
        """
        first = torch.randint(self.views, (len(self),), generator=stream(seed, 0, FIRST_VIEW))
        return replace(self, shown=(first + epoch) % self.views)

    def take(self, index: Int[Tensor, " n"]) -> FeatureBatch:
        """Return the features of these images, in this order."""
        rows = self.numbers[index] * self.views + self.shown[index]
        labels = self.labels[sent(index, self.labels.device)]
        return FeatureBatch(self.features.take(rows, self.device), sent(labels, self.device))

    def images_and_labels(self) -> FeatureSet:
        """Return the set itself."""
        return self

    def to(self, device: torch.device | str) -> FeatureSet:
        """Return the set for a device; where it does not fit there, batches go there one by one."""
        device = torch.device(device)
        moved = self.movable and device.type != "cpu"
        return replace(
            self,
            features=self.features.to(device) if moved else self.features,
            labels=self.labels.to(device),
            device=device,
        )

    def reading(self, processes: int = 1) -> AbstractContextManager[None]:  # noqa: ARG002
        """There is nothing to decode."""
        return nullcontext()

    def expect(self, batches: Sequence[Tensor]) -> None:
        """There is nothing to decode."""


Examples = LabelledImages | FeatureSet
"""What is trained and validated on."""


def of_epoch(data: Examples, seed: int, epoch: int) -> Examples:
    """Return a training set as an epoch sees it: of features, certain views."""
    return data.in_epoch(seed, epoch) if isinstance(data, FeatureSet) else data
