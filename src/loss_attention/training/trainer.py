"""The training loop: train -> train_epoch -> train_step, under lightning-fabric."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

import torch
from jaxtyping import Int
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from loss_attention.data.sample import LabelledImages
from loss_attention.errors import InputError, ReportedError, guarded
from loss_attention.evaluation import validate
from loss_attention.heads.catalog import HEADS
from loss_attention.interruption import StopRequest
from loss_attention.losses import Loss
from loss_attention.metrics.classification import correct_images
from loss_attention.models import WEIGHTS_FILE, PatchClassifier
from loss_attention.prediction import ImagePrediction
from loss_attention.training.logging import Scalars, TrainingProgress
from loss_attention.training.optimisation import (
    WeightAverage,
    adam_betas,
    learning_rate,
    make_optimizer,
    recipe_loss,
    regulariser_weight,
)
from loss_attention.training.recipe import Recipe
from loss_attention.training.run_folder import METRICS_FILE, Position, RunFolder, metrics_text
from loss_attention.training.sampling import (
    Augmenter,
    epoch_batches,
    noise_seed,
    process_part,
    steps_per_epoch,
)

# Steps between the looks at device values that make the host wait for a GPU.
CHECK_INTERVAL = 20

AGREE_SECONDS = 1.0
"""Processes ask each other about so often whether one of them was told to stop."""


class DivergedError(ReportedError, ValueError):
    """The loss or the weights are no longer finite."""

    exit_code = 3


class _ValidationStoppedError(Exception):
    """This process was told to stop; what it found so far is worth nothing."""


class Trainer:
    """Trains one model in one process; with others beside it when Fabric has several.

    Args:
        fabric: precision, device and processes.
        recipe: what to compute.
        model: the model to train; moved to the device.
        train: the training images of every process, without the validation slice.
        validation: the held-out slice; may be empty, then the last epoch is the best.
        run: where to save.
        checkpoint_every: also save each so many steps; 0: at the ends of epochs only.
        accumulate: parts that each step is taken in, one after the other.
        console: where the first process shows its progress.
        stop: hears of signals; None: one of its own.
    """

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        model: PatchClassifier,
        train: LabelledImages,
        validation: LabelledImages,
        run: RunFolder,
        *,
        checkpoint_every: int = 0,
        accumulate: int = 1,
        console: Console | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        self.fabric, self.recipe, self.run = fabric, recipe, run
        self.checkpoint_every, self.accumulate = checkpoint_every, accumulate
        self.train_set = train.without_places().to(fabric.device)
        part = torch.arange(len(validation))[fabric.global_rank :: fabric.world_size]
        self.validation = validation.without_places().subset(part).to(fabric.device)
        self.validation_images = len(validation)
        # torch's stubs know this overload of `to` for tensors alone.
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network, self.optimizer = fabric.setup(model, make_optimizer(recipe, model))
        decay = recipe.average_weights
        self.averaged = WeightAverage(self.model, decay) if decay else None
        self.loss: Loss = recipe_loss(recipe, multi_label=train.multi_label)
        self.augmented = Augmenter(recipe, len(train))
        self.regularised = HEADS[recipe.head].regularised
        self.steps_per_epoch = steps_per_epoch(len(train), recipe.batch_size)
        self.position = Position()
        # Sums over the epoch: loss x images, correct, images. On the device, so no step waits.
        self.totals = torch.zeros(3, dtype=torch.float64, device=fabric.device)
        self.bad_step = torch.full((), -1, device=fabric.device)
        self.stop = stop or StopRequest()
        self._agree_at, self._clock = 0, time.perf_counter()
        self.console = console if fabric.is_global_zero else None

    def train(self) -> bool:
        """Train from where the position says to the end of the recipe.

        Returns:
            True when the run is finished; False when it was interrupted, with everything saved.

        Raises:
            DivergedError: the loss or the weights became NaN or infinite; the last good
                checkpoint stays.
            SaveError: a checkpoint could not be written; the one before it stays.
        """
        total = self.recipe.epochs * self.steps_per_epoch
        self.display = TrainingProgress(
            self.console, self.recipe.name, self.recipe.epochs, total, self._finished_steps
        )
        with (
            self.stop.listening(),
            self.train_set.reading(self.fabric.world_size),
            self.display,
            self._scalars() as self.scalars,
        ):
            self._clock = time.perf_counter()
            while self.position.epoch < self.recipe.epochs:
                if not self.train_epoch():
                    return False
        return True

    def train_epoch(self) -> bool:
        """Train the rest of an epoch and close it; False when asked to stop before the end."""
        position = self.position
        gamma = regulariser_weight(self.recipe, position.epoch, by_default=self.regularised)
        batches = epoch_batches(
            len(self.train_set), self.recipe.batch_size, self.recipe.seed, position.epoch
        )
        self.train_set.expect([batch[self._part(batch)] for batch in batches[position.step :]])
        self.network.train()
        started, first_step = time.perf_counter(), position.step

        def images_per_second() -> float:
            images = sum(len(batch) for batch in batches[first_step : position.step])
            return images / (time.perf_counter() - started)

        while position.step < len(batches):
            self.train_step(batches[position.step], gamma)
            position.step += 1
            self.display.advance()
            if self._check_due():
                self._check_finite()
            if self._agreeing_due() and self._stop_agreed(started, position.step - first_step):
                self._check_finite()
                self.save()
                return False
            if self._checkpoint_due(len(batches)):
                self._check_finite()
                self.save()
            if self.display.due():
                loss, accuracy = self._figures(self.totals)
                self.display.show(position.epoch + 1, loss, accuracy, images_per_second())
        self._check_finite()
        if position.step > first_step:  # or all were taken before it was stopped in the validation
            position.images_per_second = images_per_second()
        if self._stop_agreed() or not self._close_epoch(gamma):
            self.save()
            return False
        return position.epoch == self.recipe.epochs or not self._stop_agreed()

    def train_step(self, batch: Int[Tensor, " B"], gamma: float) -> None:
        """Take one step on this process's part of a batch."""
        recipe, position, fabric = self.recipe, self.position, self.fabric
        part = self._part(batch)
        data = self.train_set.take(batch[part])
        images = self.augmented(data.images, batch, part, epoch=position.epoch, step=position.step)
        # What is random inside the network (dropout) follows from the place too, per process.
        torch.manual_seed(
            noise_seed(recipe.seed, fabric.global_rank, position.epoch, position.step)
        )
        self._set_rates()
        count = min(self.accumulate, len(data))
        parts = list(zip(images.tensor_split(count), data.labels.tensor_split(count), strict=True))
        for number, (images, labels) in enumerate(parts, start=1):
            self._add_gradients(images, labels, gamma, len(batch), last=number == count)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.averaged is not None:
            self.averaged.update(self.model, self._finished_steps)

    def _add_gradients(
        self, images: Tensor, labels: Tensor, gamma: float, step_images: int, *, last: bool
    ) -> None:
        """Add the gradients of some of a step's images, and note their figures."""
        fabric = self.fabric
        # Processes wait for each other once a step.
        with fabric.no_backward_sync(self.network, enabled=not last):
            prediction: ImagePrediction = self.network(images)
            loss = self.loss(prediction, labels, gamma)
            # Gradients are averaged over processes, whose parts may differ by an image.
            fabric.backward(loss * (len(labels) * fabric.world_size / step_images))
        with torch.no_grad():
            self.totals += torch.stack(
                [
                    loss.double() * len(labels),
                    correct_images(prediction.logits, labels).sum().double(),
                    torch.full((), len(labels), dtype=torch.float64, device=fabric.device),
                ]
            )
            bad = ~torch.isfinite(loss) & (self.bad_step < 0)
            self.bad_step = torch.where(bad, self._finished_steps + 1, self.bad_step)

    def save(self, beside: Mapping[str, str | bytes] | None = None) -> None:
        """Write the checkpoint of this moment, from the first process.

        Args:
            beside: files to write just before it.
        """
        self._check_weights()
        self._count_seconds()
        totals = self._sum(self.totals)
        statistics = self._gathered_statistics()
        if self.fabric.is_global_zero:
            self.run.save_state(
                {
                    "format_version": 1,
                    "model": self.model.state_dict(),
                    **({"averaged": self.result.state_dict()} if self.averaged else {}),
                    "optimizer": self.optimizer.state_dict(),
                    "position": asdict(self.position),
                    "totals": totals.cpu(),
                    **({} if statistics is None else {"statistics": statistics.cpu()}),
                },
                beside,
            )
        self.fabric.barrier()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; the opposite of `save`.

        Raises:
            InputError: its weights are not those of this model, or something in it is malformed.
        """
        with guarded(f"the checkpoint in {self.run.path}"):
            self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            if self.averaged is not None:
                self.averaged.model.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(
                f"the checkpoint in {self.run.path} is not of the model that its recipe.yaml names"
            ) from error
        self.position = Position.read(state["position"])
        if "statistics" in state:
            mine = state["statistics"][self.fabric.global_rank].to(self.fabric.device)
            statistics = self._statistics()
            for statistic, part in zip(
                statistics, mine.split([one.numel() for one in statistics]), strict=True
            ):
                statistic.copy_(part.view_as(statistic))
        if self.fabric.is_global_zero:  # the sum over all processes, kept by one of them
            self.totals += state["totals"].to(self.totals.device)
            self.run.write_metrics(self.position.history)

    @property
    def result(self) -> PatchClassifier:
        """The network that is validated and kept: the trained one, or its average."""
        return self.model if self.averaged is None else self.averaged.model

    def _set_rates(self) -> None:
        """Give the optimiser what its schedule says at this step, resumed or not."""
        recipe, step = self.recipe, self._finished_steps
        total = recipe.epochs * self.steps_per_epoch
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, total)
            if recipe.optimizer == "adam":
                group["betas"] = adam_betas(recipe, step, total)

    def _part(self, batch: Int[Tensor, " B"]) -> slice:
        """Return this process's part of a batch."""
        return process_part(batch, self.fabric.global_rank, self.fabric.world_size)

    @property
    def _finished_steps(self) -> int:
        return self.position.epoch * self.steps_per_epoch + self.position.step

    def _close_epoch(self, gamma: float) -> bool:
        """Validate, note the figures, keep the weights if they are the best, and save.

        Returns:
            False where it was asked to stop in the validation; then nothing of it is kept.
        """
        self._share_statistics()
        validated = self._validate()
        if validated is None:
            return False
        loss, accuracy = self._figures(self._sum(self.totals))
        validation_loss, validation_accuracy = validated
        position, epoch = self.position, self.position.epoch + 1
        if validation_accuracy is None or validation_loss is None:
            better = True
        else:
            score = (validation_accuracy, -validation_loss)
            better = position.best is None or score >= position.best
            position.best = score if better else position.best
        position.best_epoch = epoch if better else position.best_epoch
        self._count_seconds()
        line = {
            "epoch": epoch,
            "step": epoch * self.steps_per_epoch,
            "loss": loss,
            "accuracy": accuracy,
            "gamma": gamma,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": position.images_per_second,
            "seconds": position.epoch_seconds,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "best": better,
        }
        self._check_weights()
        position.epoch, position.step, position.epoch_seconds = epoch, 0, 0.0
        position.history.append(line)
        self.totals.zero_()
        beside: dict[str, str | bytes] = {}
        if self.fabric.is_global_zero:
            beside = {WEIGHTS_FILE: self.result.to_bytes()} if better else {}
            beside[METRICS_FILE] = metrics_text(position.history)
        self.save(beside)
        self._count_seconds()  # saving is training's too
        position.epoch_seconds = 0.0
        self.scalars.write(line)
        self.display.finish_epoch(line)
        return True

    def _count_seconds(self) -> None:
        """Add to the position what has passed since the last time."""
        now = time.perf_counter()
        self.position.seconds += now - self._clock
        self.position.epoch_seconds += now - self._clock
        self._clock = now

    def _validate(self) -> tuple[float | None, float | None] | None:
        """Return loss and accuracy on the validation slice, each process doing its part.

        None where one of the processes was asked to stop meanwhile.
        """
        if not self.validation_images:
            return None, None
        sums = torch.zeros(3, dtype=torch.float64)  # loss and accuracy x images; stopped
        try:
            sums[:2] = torch.tensor(self._validate_part(), dtype=torch.float64)
        except _ValidationStoppedError:
            sums[2] = 1
        sums = self._sum(sums.to(self.fabric.device))
        if sums[2] > 0:
            return None
        loss, accuracy = (sums[:2] / self.validation_images).tolist()
        if not loss < float("inf"):
            raise self._diverged("validation loss", self._finished_steps)
        return loss, accuracy

    def _validate_part(self) -> tuple[float, float]:
        """Return this process's sums of loss and accuracy over its images."""
        images = len(self.validation)
        if not images:
            return 0.0, 0.0

        def look(done: int, total: int) -> None:  # noqa: ARG001
            if self.stop.requested:
                raise _ValidationStoppedError

        # So much as a few steps of training, as a stop is heard in between.
        size = max(self.recipe.batch_size, min(256, 8 * self.recipe.batch_size))
        loss, accuracy = validate(
            self.result,
            self.validation,
            size,
            self.fabric.autocast,
            loss=self.loss,
            progress=look,
        )
        return loss * images, accuracy * images

    def _share_statistics(self) -> None:
        """Average batch norm's running statistics over processes, so that all end the same.

        In float64, where the mean of equal ones is exactly that: once more changes nothing.
        """
        if self.fabric.world_size > 1:
            for statistic in self._statistics():
                statistic.copy_(self._sum(statistic.double()) / self.fabric.world_size)

    def _statistics(self) -> list[Tensor]:
        """Return batch norm's running statistics, which each process has of its own images."""
        averaged = self.averaged.model.modules() if self.averaged else ()
        return [
            statistic
            for module in chain(self.model.modules(), averaged)
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for statistic in (module.running_mean, module.running_var)
            if statistic is not None
        ]

    def _gathered_statistics(self) -> Tensor | None:
        """Return those of all processes, a row each; None where there is but one process."""
        statistics = self._statistics()
        if self.fabric.world_size == 1 or not statistics:
            return None
        mine = torch.cat([one.flatten() for one in statistics])
        rows = mine.new_zeros(self.fabric.world_size, len(mine))
        rows[self.fabric.global_rank] = mine
        return self._sum(rows)

    def _scalars(self) -> Scalars:
        folder = self.run.path / "tensorboard" if self.fabric.is_global_zero else None
        return Scalars(folder, self._finished_steps)

    def _checkpoint_due(self, epoch_steps: int) -> bool:
        """Each so many steps; not at the end of an epoch, which saves anyway."""
        every, step = self.checkpoint_every, self.position.step
        return every > 0 and step % every == 0 and step < epoch_steps

    def _sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes."""
        total = self.fabric.all_reduce(tensor, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _check_due(self) -> bool:
        alone_on_cpu = self.fabric.world_size == 1 and self.fabric.device.type == "cpu"
        return alone_on_cpu or self._finished_steps % CHECK_INTERVAL == 0

    def _agreeing_due(self) -> bool:
        """Whether to ask if one was told to stop; the same in all processes, who wait for it."""
        return self.fabric.world_size == 1 or self._finished_steps >= self._agree_at

    def _stop_agreed(self, started: float = 0.0, steps: int = 0) -> bool:
        """Whether any process was asked to stop; all of them get the same answer.

        Args:
            started: when the steps began that tell how long one takes.
            steps: how many these were; 0: the next time stays as it is.
        """
        if self.fabric.world_size == 1:
            return self.stop.requested
        seconds = (time.perf_counter() - started) / steps if steps else 0.0
        asked = [float(self.stop.requested), seconds]
        told, seconds = self._sum(torch.tensor(asked, device=self.fabric.device)).tolist()
        if steps:
            apart = AGREE_SECONDS * self.fabric.world_size / max(seconds, 1e-9)
            self._agree_at = self._finished_steps + max(1, min(CHECK_INTERVAL, int(apart)))
        return bool(told > 0)

    def _check_finite(self) -> None:
        if self.bad_step >= 0:
            raise self._diverged("loss", int(self.bad_step))

    def _check_weights(self) -> None:
        """A finite loss may still have moved the weights to infinity; never save such."""
        sums = torch.stack([p.detach().double().sum() for p in self.model.parameters()])
        if not sums.isfinite().all():
            raise self._diverged("weights", self._finished_steps)

    def _diverged(self, what: str, step: int) -> DivergedError:
        last = self.run.path / WEIGHTS_FILE
        kept = f"; the best epoch so far stays in {last}" if last.exists() else ""
        epoch = (step - 1) // self.steps_per_epoch + 1
        lower = f"--learning-rate {self.recipe.learning_rate / 10:g}"
        return DivergedError(
            f"the {what} became NaN or infinite at step {step} (epoch {epoch}){kept}; a lower "
            "learning rate usually helps, from the last checkpoint on: "
            f"loss-attention resume {self.run.path} {lower}"
        )

    @staticmethod
    def _figures(totals: Tensor) -> tuple[float, float]:
        loss, correct, images = totals.tolist()
        return loss / images, correct / images
