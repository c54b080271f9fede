"""The training of a classifier of bags: steps of so many instances, the same ones by the same seed.

A step takes bags until it has its number of bags or of instances; a bag that is larger is sampled,
where the recipe says so, and otherwise has a step of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Num
from torch import Tensor

from loss_attention.bags.bag_set import BagSet, feature_statistics
from loss_attention.bags.model import AT_ONCE, BagClassifier
from loss_attention.bags.recipe import BagRecipe
from loss_attention.errors import InputError, ReportedError, quoted, unknown_name
from loss_attention.losses import Loss, balanced_weights, loss_for, ramp_up
from loss_attention.metrics.classification import correct_images
from loss_attention.prediction import PatchPrediction
from loss_attention.training.sampling import noise_seed, seed_noise, stream

INSTANCES_OF_BAG = 2**43
"""Beside what `sampling` and `frozen` draw of the same seed."""
READ_AHEAD = 2**25
"""Features that are read together where a bag is decided on in parts: 64 MB of 16 bits. To open a
file again for each part takes longer."""


class BagDivergedError(ReportedError, ValueError):
    """The loss is no longer finite."""

    exit_code = 3


def diverged(what: str, epoch: int, recipe: BagRecipe) -> BagDivergedError:
    """Return the error for a loss that is not finite in an epoch, counted from 0."""
    return BagDivergedError(
        f"{what} became NaN or infinite in epoch {epoch + 1}; a lower `learning_rate` usually "
        f"helps, {recipe.learning_rate / 10:g}"
    )


def build_bag_model(recipe: BagRecipe, bags: BagSet, positive: str | None = None) -> BagClassifier:
    """Return a new classifier for these bags, with their normalisation.

    Args:
        recipe: what to build.
        bags: to train on.
        positive: of two classes, the one that a bag is searched for; None: the second.

    Raises:
        InputError: a value of the recipe that it cannot have.
    """
    names = bags.class_names
    if positive is not None and positive not in names:
        raise unknown_name("class for `positive`:", positive, names)
    torch.manual_seed(recipe.seed)
    model = BagClassifier(
        bags.width,
        len(bags.class_names),
        pooling=recipe.pooling,
        hidden=recipe.hidden,
        dropout=recipe.dropout,
        threshold=recipe.threshold,
        multi_label=bags.multi_label,
        positive=None if positive is None else names.index(positive),
        class_names=names,
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

    What is random in a step follows from the seed and the step alone, so that `state` holds all
    that going on needs.

    Args:
        model: to train, on the device where it is.
        bags: to train on.
        recipe: what to compute.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch that is under way.
        seen: bags of these steps.
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
        self.device = model.mean.device
        weights = None
        if recipe.balance == "weights":
            weights = balanced_weights(bags.labels, len(bags.class_names)).to(self.device)
        self.loss: Loss = loss_for("cross-entropy", multi_label=bags.multi_label, weights=weights)
        self.epoch = self.step = 0
        self.seen, self._loss, self._right = 0, 0.0, 0.0

    def train(self, told: Callable[[Epoch], object] = lambda _: None) -> None:
        """Train what is left of the recipe, and tell what came of each epoch."""
        while self.epoch < self.recipe.epochs:
            self.train_epoch()
            told(self.close_epoch())

    def steps(self) -> list[Int[np.ndarray, " B"]]:
        """Return the bags of each step of the epoch that is under way."""
        return list(step_bags(self._sizes, self.recipe, self.epoch))

    def train_epoch(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train on what is left of an epoch, each bag once; `close_epoch` ends it.

        Args:
            stop: called after each step; where it says so, the rest of the epoch is left.

        Returns:
            False where it was told to stop, even after the last step.

        Raises:
            BagDivergedError: the loss became NaN or infinite.
        """
        steps, stopped = self.steps(), False
        self.model.train()
        while self.step < len(steps) and not stopped:
            self.train_step(steps[self.step], self.step / len(steps))
            self.step += 1
            stopped = stop()
        if not math.isfinite(self._loss):
            raise diverged("the loss", self.epoch, self.recipe)
        return not stopped

    def train_step(self, bags: Int[np.ndarray, " B"], done: float) -> None:
        """Take one step on some bags; `done` is the fraction of the epoch that is over."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(done)
        seed_noise(noise_seed(recipe.seed, 0, self.epoch, self.step), self.device)
        features, sizes = self._batch(bags)
        labels = self.bags.labels[torch.from_numpy(bags)].to(self.device)
        prediction = self.model.decide(features, sizes)
        loss = self.loss(prediction, labels, self.gamma)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.seen += len(bags)
        self._loss += float(loss.detach()) * len(bags)
        self._right += float(correct_images(prediction.logits.detach(), labels).sum())

    def close_epoch(self) -> Epoch:
        """End an epoch whose steps are all done, and return what came of it."""
        assert self.seen == len(self.bags)
        ended = Epoch(self.epoch + 1, *self.so_far())
        self.epoch, self.step = self.epoch + 1, 0
        self.seen, self._loss, self._right = 0, 0.0, 0.0
        return ended

    def so_far(self) -> tuple[float, float]:
        """Return loss and accuracy over the bags of the epoch that were seen, at least one."""
        return self._loss / self.seen, self._right / self.seen

    @property
    def gamma(self) -> float:
        """The weight of the instance regulariser in the epoch that is under way."""
        if not self.model.regularised:
            return 0.0
        return ramp_up(self.epoch, self.recipe.ramp_epochs, self.recipe.gamma_max)

    def learning_rate(self, done: float) -> float:
        """Return the learning rate where a fraction of the epoch under way is over."""
        part = (self.epoch + done) / self.recipe.epochs
        return self.recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * part))

    def state(self) -> dict[str, Any]:
        """Return all that going on needs: tensors and plain numbers."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "position": {"epoch": self.epoch, "step": self.step},
            "sums": {"seen": self.seen, "loss": self._loss, "right": self._right},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`; raise whatever one that is none leads to."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        position, sums = state["position"], state["sums"]
        counts = position["epoch"], position["step"], sums["seen"]
        if any(type(count) is not int or count < 0 for count in counts):
            raise ValueError(f"its position cannot be {quoted(counts)}")
        self.epoch, self.step, self.seen = counts
        self._loss, self._right = float(sums["loss"]), float(sums["right"])

    @property
    def _sizes(self) -> Int[np.ndarray, " N"]:
        most = self.recipe.most_instances
        sizes: Int[np.ndarray, " N"] = self.bags.sizes
        if most is not None:
            sizes = sizes.clip(max=most)
        return sizes

    def _batch(self, bags: Int[np.ndarray, " B"]) -> tuple[Num[Tensor, "S D"], Int[Tensor, " B"]]:
        """Return the instances of bags, one bag's after the other's, and how many each has."""
        parts = [self._instances(int(bag)) for bag in bags]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        sizes = torch.tensor([len(part) for part in parts])
        return torch.from_numpy(values).to(self.device), sizes

    def _instances(self, bag: int) -> np.ndarray:
        """Return the instances of a bag that this epoch sees; no others are read."""
        most, size = self.recipe.most_instances, int(self.bags.sizes[bag])
        if most is None or size <= most:
            return self.bags.features(bag)
        generator = stream(self.recipe.seed, self.epoch, INSTANCES_OF_BAG + bag)
        chosen = torch.randperm(size, generator=generator)[:most].sort().values
        return self.bags.features_at(bag, chosen.numpy())


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
    model.eval()
    for bag, size in enumerate(bags.sizes):
        yield model.predict(_reader(bags, bag, model.mean.device, at_once), int(size), at_once)


def _reader(
    bags: BagSet, bag: int, device: torch.device, at_once: int
) -> Callable[[int, int], Num[Tensor, "M D"]]:
    """Return a function that returns instances of a bag, of which it reads many at a time."""
    most = max(at_once, READ_AHEAD // bags.width)
    first, held = 0, bags.features(bag, 0, most)

    def read(start: int, stop: int) -> Tensor:
        nonlocal first, held
        if not first <= start <= stop <= first + len(held):
            first, held = start, bags.features(bag, start, start + most)
        return torch.from_numpy(held[start - first : stop - first]).to(device)

    return read
