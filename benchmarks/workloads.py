"""A training step and an evaluation pass, ours and the yardstick's, ready to be timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from reference_structure import augmented, copied, reference_loss, unaugmented
from torch import Tensor

from loss_attention.data.sample import ImageSet, Splits
from loss_attention.evaluation import validate
from loss_attention.models import PatchClassifier
from loss_attention.training.job import build_model, make_trainer
from loss_attention.training.processes import make_fabric
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.recipes import paper_recipe
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.sampling import draw_shifts

GAMMA = 0.1
"""The regulariser's full weight: a step early in training has less to compute."""
BATCHES = 4
"""Batches that there are images for."""


@dataclass(frozen=True)
class Setting:
    """What is trained: the paper's CIFAR-10 recipe of ResNet18, but for what is named here."""

    head: str = "loss-attention"
    width: float = 1.0
    classes: int = 10
    side: int = 32
    """Of the images, in pixels."""
    patch_stride: int = 4
    """Step between patches, in places of the feature map."""
    batch: int = 32
    evaluated: int = 64
    """Images of an evaluation pass."""
    accelerator: str = "cpu"
    precision: str = "32"
    """Of ours; the yardstick is in float32."""
    checkpoint_activations: bool = False
    """Of ours: less memory, for more time."""

    def recipe(self) -> Recipe:
        """Return what is trained."""
        recipe = paper_recipe("cifar10", head=self.head)
        return replace(
            recipe, width=self.width, patch_stride=self.patch_stride, batch_size=self.batch
        )

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return torch.device(self.accelerator)

    def splits(self) -> Splits:
        """Return noise of the size of CIFAR-10's images: what they show costs nothing."""
        generator = torch.Generator().manual_seed(0)

        def some(count: int) -> ImageSet:
            images = torch.randint(
                0, 256, (count, 3, self.side, self.side), generator=generator, dtype=torch.uint8
            )
            labels = torch.randint(0, self.classes, (count,), generator=generator)
            return ImageSet(images, labels, tuple(map(str, range(self.classes))))

        return Splits(some(BATCHES * self.batch), some(self.evaluated), "noise")

    def model(self) -> PatchClassifier:
        """Return a new model, the same each time."""
        return build_model(self.recipe(), self.splits())


class Workload(Protocol):
    """What is timed."""

    def step(self) -> None:
        """Take the next training step, from images in memory to changed weights."""

    def evaluate(self) -> None:
        """Classify the evaluated images and add up what is right."""


def fabric_for(setting: Setting, processes: int = 1) -> Fabric:
    """Return what trains as the recipe would, in so many processes; not launched yet."""
    return make_fabric(setting.accelerator, setting.precision, RunOptions(devices=processes))


class Ours:
    """The training loop's own step and validation."""

    def __init__(self, setting: Setting, fabric: Fabric | None = None) -> None:
        self.setting = setting
        if fabric is None:
            fabric = fabric_for(setting)
            fabric.launch()
        splits = setting.splits()
        self.images = splits.test.to(fabric.device)
        model = setting.model()
        model.backbone.checkpoint_activations = setting.checkpoint_activations
        nowhere = RunFolder(Path("nothing is saved"))
        recipe, train = setting.recipe(), splits.train
        self.trainer = make_trainer(fabric, recipe, model, train, splits.test, nowhere)
        self.trainer.network.train()
        self.batches = _batches(setting)

    def step(self) -> None:
        """Take a step of the loop."""
        self.trainer.train_step(next(self.batches), GAMMA)

    def evaluate(self) -> None:
        """Measure loss and accuracy as after each epoch."""
        trainer = self.trainer
        size = max(self.setting.batch, 256)  # as after each epoch of training
        validate(trainer.model, self.images, size, trainer.fabric.autocast, loss=trainer.loss)


class Yardstick:
    """The same steps as the first published implementation would take them."""

    def __init__(self, setting: Setting) -> None:
        recipe, splits = setting.recipe(), setting.splits()
        model = setting.model()
        self.recipe, self.device = recipe, setting.device
        self.mean, self.std = model.mean.clone(), model.std.clone()
        self.network: Any = copied(model).to(self.device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.train, self.test = (
            (list(part.images.permute(0, 2, 3, 1).contiguous().numpy()), part.labels)
            for part in (splits.train.decoded(), splits.test.decoded())
        )
        self.batch = setting.batch
        self.batches = _batches(setting)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        """Take a step, its images through PIL one by one, its loss read back."""
        self.network.train()
        index = next(self.batches)
        padding = self.recipe.crop_padding
        shifts = draw_shifts(len(index), padding, flip=True, generator=self.generator)
        pixels = [self.train[0][i] for i in index.tolist()]
        images = augmented(pixels, shifts, padding, self.mean, self.std).to(self.device)
        labels = self.train[1][index].to(self.device)
        loss = reference_loss(self.network(images), labels, GAMMA)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()

    @torch.no_grad()
    def evaluate(self) -> None:
        """Measure loss and accuracy, reading both back for each batch."""
        self.network.eval()
        pixels, truth = self.test
        for start in range(0, len(pixels), self.batch):
            part = slice(start, start + self.batch)
            images = unaugmented(pixels[part], self.mean, self.std).to(self.device)
            labels = truth[part].to(self.device)
            outputs = self.network(images)
            reference_loss(outputs, labels, 0.0).item()
            (outputs.logits.argmax(dim=1) == labels).sum().item()


def _batches(setting: Setting) -> Iterator[Tensor]:
    """Yield the indices of a batch, for ever."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(BATCHES * setting.batch, generator=generator)
        yield from order.split(setting.batch)


def checkpointed(setting: Setting) -> Ours:
    """Return ours with activation checkpointing."""
    return Ours(replace(setting, checkpoint_activations=True))


WORKLOADS: dict[str, Callable[[Setting], Workload]] = {
    "ours": Ours,
    "checkpointed": checkpointed,
    "yardstick": Yardstick,
}
"""What is measured, by name."""
