"""A run on bags from its recipe to trained weights: begun, trained, stopped and gone on with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from rich.console import Console

from loss_attention import __version__
from loss_attention.bags.bag_set import BagSet, class_counts
from loss_attention.bags.division import BagParts, parts_of
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.recipe import BAGS, BagRunRecipe, bag_recipe
from loss_attention.bags.saved import as_bytes
from loss_attention.bags.training import BagTrainer, build_bag_model, diverged, predicted
from loss_attention.data.loading import recorded
from loss_attention.errors import guarded
from loss_attention.interruption import StopRequest
from loss_attention.metrics.classification import correct_images
from loss_attention.saving import WEIGHTS_FILE
from loss_attention.training.bookkeeping import TrainingLog
from loss_attention.training.devices import choose_accelerator, choose_device
from loss_attention.training.environment import command_line, hardware, versions
from loss_attention.training.recipe import Accelerator
from loss_attention.training.run_folder import (
    METRICS_FILE,
    STATE_FILE,
    RunFolder,
    checked_epoch,
    metrics_text,
)


def begin_bag_run(
    run: RunFolder, recipe: BagRunRecipe, bags: BagSet, wanted: Accelerator
) -> BagClassifier:
    """Check everything that can be wrong, then write what a new run begins with.

    Args:
        run: a folder that is `claimed`.
        recipe: what to train.
        bags: all of its data.
        wanted: what to train on.

    Returns:
        The classifier to train, for `continue_bag_run`.

    Raises:
        InputError: a value of the recipe that it cannot have, data that cannot be divided, or an
            accelerator that is not here.
    """
    accelerator = choose_accelerator(wanted, 1)
    parts = parts_of(bags, recipe)
    model = build_bag_model(recipe, parts.train, recipe.positive)
    facts = {
        "package_version": __version__,
        "command": command_line(),
        "options": {"accelerator": accelerator},
        "precision": "32",
        "data": recorded(recipe.data, run.path),
        "data_fingerprint": bags.fingerprint(),
        "division": parts.digest(),
        "classes": list(bags.class_names),
        "multi_label": bags.multi_label,
        "train_bags": len(parts.train),
        "class_bags": class_counts(parts.train),
        "validation_bags": len(parts.validation),
        "test_bags": len(parts.test),
        "instances": int(bags.sizes.sum()),
        "features_of_instance": bags.width,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": versions(),
        "hardware": hardware(accelerator, 1, "32"),
        "finished": False,
    }
    run.begin(recipe, facts)
    return model


@dataclass
class Position:
    """What is noted of a training beside its weights and where it stands.

    Attributes:
        best: the least validation loss; None before the first, and without validation.
        best_epoch: counted from 1; 0 before the first.
        seconds: spent on training and validation.
        epoch_seconds: of these, what the epoch that is under way has taken.
        bags_per_second: in its training, where that is done.
        history: a line of metrics.jsonl for each finished epoch.
    """

    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    bags_per_second: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Position:
        """Return what a checkpoint has; raise whatever a malformed one leads to."""
        best, best_epoch = values["best"], values["best_epoch"]
        if type(best_epoch) is not int:
            raise ValueError("its best epoch is not a number")
        return cls(
            None if best is None else float(best),
            best_epoch,
            float(values["seconds"]),
            float(values["epoch_seconds"]),
            float(values["bags_per_second"]),
            [checked_epoch(line) for line in values["history"]],
        )


class BagRun:
    """The training of a run: epoch by epoch, with a checkpoint after each and where it is stopped.

    Args:
        run: its folder, `locked`.
        model: the classifier, on its device.
        parts: its data.
        recipe: what to compute.
        stop: hears of signals.
        console: where to show progress; None: nowhere.
    """

    def __init__(
        self,
        run: RunFolder,
        model: BagClassifier,
        parts: BagParts,
        recipe: BagRunRecipe,
        stop: StopRequest,
        console: Console | None = None,
    ) -> None:
        self.run, self.model, self.parts, self.recipe, self.stop = run, model, parts, recipe, stop
        self.trainer = BagTrainer(model, parts.train, recipe)
        self.position = Position()
        self.log = TrainingLog(BAGS, recipe.epochs, console, of="bags")
        self._clock = 0.0

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: it is none of this run.
        """
        with guarded(str(self.run.path / STATE_FILE)):
            self.trainer.restore(state)
            self.position = Position.read(state["run"])
        self.run.write(METRICS_FILE, metrics_text(self.position.history))

    def train(self) -> bool:
        """Train what is left; False where it was stopped, with everything saved."""
        steps = len(self.trainer.steps())  # of an epoch; bags of unequal size may make it another
        done = self.trainer.epoch * steps + self.trainer.step
        with self.stop.listening(), self.log.opened(self.recipe.epochs * steps, done):
            self._clock = time.perf_counter()
            while self.trainer.epoch < self.recipe.epochs:
                if not self.train_epoch():
                    self.save()
                    return False
        return True

    def train_epoch(self) -> bool:
        """Train the rest of an epoch, validate and save; False where it was stopped before."""
        trainer, position = self.trainer, self.position
        rate, gamma = trainer.learning_rate(0.0), trainer.gamma
        begun, seen = time.perf_counter(), trainer.seen

        def after_step() -> bool:
            self.log.advance()
            if self.log.due():
                taken = max(time.perf_counter() - begun, 1e-9)
                number, so_far = trainer.epoch + 1, trainer.so_far()
                self.log.show(number, *so_far, (trainer.seen - seen) / taken)
            return self.stop.requested

        if not trainer.train_epoch(after_step):
            return False
        if trainer.seen > seen:  # or all were taken before it was stopped in the validation
            position.bags_per_second = (trainer.seen - seen) / (time.perf_counter() - begun)
        found = self.validated()
        if found is None:
            return False
        ended = trainer.close_epoch()
        loss, accuracy = found
        better = loss is None or position.best is None or loss < position.best
        self._count_seconds()
        if better:
            position.best, position.best_epoch = loss, ended.number
        position.history.append(
            {
                "epoch": ended.number,
                "loss": ended.loss,
                "accuracy": ended.accuracy,
                "gamma": gamma,
                "learning_rate": rate,
                "bags_per_second": position.bags_per_second,
                "seconds": position.epoch_seconds,
                "validation_loss": loss,
                "validation_accuracy": accuracy,
                "best": better,
            }
        )
        position.epoch_seconds = 0.0
        self.save(best=better)
        self.log.finish_epoch(position.history[-1])
        return trainer.epoch == self.recipe.epochs or not self.stop.requested

    def validated(self) -> tuple[float | None, float | None] | None:
        """Return loss and accuracy on the validation bags, both None without any.

        None where it was stopped meanwhile.
        """
        bags, total, right = self.parts.validation, 0.0, 0.0
        if not len(bags):
            return None, None
        with torch.no_grad():
            for bag, prediction in enumerate(predicted(self.model, bags)):
                if self.stop.requested:
                    return None
                label = bags.labels[bag : bag + 1].to(prediction.logits.device)
                total += float(self.trainer.loss(prediction, label, 0.0))
                right += float(correct_images(prediction.logits, label).sum())
        if not np.isfinite(total):
            raise diverged("the validation loss", self.trainer.epoch, self.recipe)
        return total / len(bags), right / len(bags)

    def save(self, *, best: bool = False) -> None:
        """Save a checkpoint, and before it what belongs to an epoch that it closes."""
        self._count_seconds()
        beside: dict[str, str | bytes] = {}
        if best:
            beside[WEIGHTS_FILE] = as_bytes(self.model)
        if self.trainer.step == 0:
            beside[METRICS_FILE] = metrics_text(self.position.history)
        self.run.save_state({**self.trainer.state(), "run": asdict(self.position)}, beside)

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.position.seconds += now - self._clock
        self.position.epoch_seconds += now - self._clock
        self._clock = now


def continue_bag_run(
    run: RunFolder,
    parts: BagParts,
    console: Console | None = None,
    *,
    model: BagClassifier | None = None,
    stop: StopRequest | None = None,
) -> bool:
    """Train a run from its last checkpoint, or from the start where it has none.

    Args:
        run: the run; its folder names the recipe and the device.
        parts: its data.
        console: where to show progress.
        model: what `begin_bag_run` returned; None: it is built anew.
        stop: hears of signals; None: one of its own.

    Returns:
        True when the run is finished, False when it was interrupted and can be resumed.

    Raises:
        InputError: another process is training it, or its checkpoint is damaged.
        BagDivergedError: the loss became NaN or infinite; the last checkpoint stays.
    """
    with run.locked():
        run.check()
        run.check_weights()
        run.settle()
        recipe = bag_recipe(run.path)
        device = choose_device(run.options().accelerator)
        if model is None:
            model = build_bag_model(recipe, parts.train, recipe.positive)
        training = BagRun(run, model.to(device), parts, recipe, stop or StopRequest(), console)
        state = run.load_state()
        if state is not None:
            training.restore(state)
        finished = training.train()
        position = training.position
        run.note(finished=finished, best_epoch=position.best_epoch, train_seconds=position.seconds)
        if finished:
            run.remove_state(previous_only=True)
    return finished
