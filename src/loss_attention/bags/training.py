"""The training of a classifier of bags: steps of so many instances, the same ones by the same seed.

A step takes bags until it has its number of bags or of instances; a bag that is larger is sampled,
where the recipe says so, and otherwise has a step of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from loss_attention.bags.bag_set import BagSet, feature_statistics
from loss_attention.bags.model import AT_ONCE, BagClassifier
from loss_attention.bags.recipe import BagRecipe
from loss_attention.errors import InputError, ReportedError
from loss_attention.losses import Loss, balanced_weights, loss_for, ramp_up
from loss_attention.prediction import PatchPrediction
from loss_attention.training.sampling import noise_seed, seed_noise, stream

INSTANCES_OF_BAG = 2**43
"""Beside what `sampling` and `frozen` draw of the same seed."""


class BagDivergedError(ReportedError, ValueError):
    """The loss is no longer finite."""

    exit_code = 3


def build_bag_model(recipe: BagRecipe, bags: BagSet) -> BagClassifier:
    """Return a new classifier for these bags, with their normalisation.

    Raises:
        InputError: a value of the recipe that it cannot have.
    """
    torch.manual_seed(recipe.seed)
    model = BagClassifier(
        bags.width,
        len(bags.class_names),
        pooling=recipe.pooling,
        hidden=recipe.hidden,
        dropout=recipe.dropout,
        threshold=recipe.threshold,
        multi_label=bags.multi_label,
        class_names=bags.class_names,
    )
    if recipe.normalise:
        model.set_normalisation(*feature_statistics(bags))
    return model


@dataclass(frozen=True)
class Epoch:
    """What came of an epoch: its mean loss over bags, and the part of them that was right."""

    number: int
    loss: float
    accuracy: float


class BagTrainer:
    """Trains one classifier of bags in this process.

    Args:
        model: to train, on the device where it is.
        bags: to train on.
        recipe: what to compute.
    """

    def __init__(self, model: BagClassifier, bags: BagSet, recipe: BagRecipe) -> None:
        if not len(bags):
            raise InputError("there is no bag to train on")
        self.model, self.bags, self.recipe = model, bags, recipe
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        weights = None
        if recipe.balance == "weights":
            weights = balanced_weights(bags.labels, len(bags.class_names))
        self.loss: Loss = loss_for("cross-entropy", multi_label=bags.multi_label, weights=weights)
        self.device = model.mean.device
        self.epoch = 0
        self._steps_before = 0

    def train(self, told: Callable[[Epoch], object] = lambda _: None) -> None:
        """Train what is left of the recipe, and tell what came of each epoch."""
        while self.epoch < self.recipe.epochs:
            told(self.train_epoch())

    def train_epoch(self) -> Epoch:
        """Train on each bag once.

        Raises:
            BagDivergedError: the loss became NaN or infinite.
        """
        recipe, model = self.recipe, self.model
        gamma = 0.0
        if model.regularised:
            gamma = ramp_up(self.epoch, recipe.ramp_epochs, recipe.gamma_max)
        model.train()
        steps = list(step_bags(self._sizes, recipe, self.epoch))
        total = right = 0.0
        for number, bags in enumerate(steps):
            done = (self.epoch + number / len(steps)) / recipe.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
            seed_noise(noise_seed(recipe.seed, 0, self.epoch, number), self.device)
            features, sizes = self._batch(bags)
            labels = self.bags.labels[torch.from_numpy(bags)].to(self.device)
            prediction = model.decide(features, sizes)
            loss = self.loss(prediction, labels, gamma)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += float(loss.detach()) * len(bags)
            right += float(correct(prediction.logits.detach(), labels).sum())
        if not math.isfinite(total):
            raise BagDivergedError(
                f"the loss became NaN or infinite in epoch {self.epoch + 1}; a lower "
                f"`learning_rate` usually helps, {recipe.learning_rate / 10:g}"
            )
        self.epoch += 1
        return Epoch(self.epoch, total / len(self.bags), right / len(self.bags))

    @property
    def _sizes(self) -> Int[np.ndarray, " N"]:
        most = self.recipe.most_instances
        sizes: Int[np.ndarray, " N"] = self.bags.sizes
        if most is not None:
            sizes = sizes.clip(max=most)
        return sizes

    def _batch(self, bags: Int[np.ndarray, " B"]) -> tuple[Float[Tensor, "S D"], Int[Tensor, " B"]]:
        """Return the instances of bags, one bag's after the other's, and how many each has."""
        parts = [self._instances(int(bag)) for bag in bags]
        features = torch.from_numpy(np.concatenate(parts)).to(self.device)
        return features.float(), torch.tensor([len(part) for part in parts])

    def _instances(self, bag: int) -> np.ndarray:
        """Return the instances of a bag that this epoch sees."""
        most, size = self.recipe.most_instances, int(self.bags.sizes[bag])
        found = self.bags.features(bag)
        if most is None or size <= most:
            return found
        generator = stream(self.recipe.seed, self.epoch, INSTANCES_OF_BAG + bag)
        chosen = torch.randperm(size, generator=generator)[:most].sort().values
        sampled: np.ndarray = found[chosen.numpy()]
        return sampled


def step_bags(
    sizes: Int[np.ndarray, " N"], recipe: BagRecipe, epoch: int
) -> Iterator[Int[np.ndarray, " B"]]:
    """Yield the bags of each step of an epoch, in an order that the seed draws."""
    order = torch.randperm(len(sizes), generator=stream(recipe.seed, epoch, 0)).tolist()
    step: list[int] = []
    instances = 0
    for bag in order:
        size = int(sizes[bag])
        full = len(step) == recipe.batch_bags or instances + size > recipe.batch_instances
        if step and full:
            yield np.array(step)
            step, instances = [], 0
        step.append(bag)
        instances += size
    yield np.array(step)


def correct(logits: Float[Tensor, "B K"], labels: Tensor) -> Tensor:
    """Return 1 for each bag whose class, or all of whose labels, are right."""
    if labels.ndim == 1:
        return logits.argmax(dim=1) == labels
    return ((logits > 0) == labels.bool()).all(dim=1)


def fit_bags(
    bags: BagSet,
    recipe: BagRecipe,
    told: Callable[[Epoch], object] = lambda _: None,
) -> BagClassifier:
    """Train a classifier on bags, and return it in evaluation mode.

    Raises:
        InputError: a value of the recipe that it cannot have.
        BagDivergedError: the loss became NaN or infinite.
    """
    model = build_bag_model(recipe, bags)
    BagTrainer(model, bags, recipe).train(told)
    return model.eval()


def predicted(
    model: BagClassifier, bags: BagSet, at_once: int = AT_ONCE
) -> Iterator[PatchPrediction]:
    """Yield the prediction for each bag, of any size, by itself."""
    device = model.mean.device
    model.eval()
    for bag, size in enumerate(bags.sizes):

        def read(start: int, stop: int, bag: int = bag) -> Tensor:
            values = np.ascontiguousarray(bags.features(bag, start, stop))
            return torch.from_numpy(values).to(device).float()

        yield model.predict(read, int(size), at_once)
