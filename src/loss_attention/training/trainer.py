"""The training loop: train -> train_epoch -> train_step, under lightning-fabric.

What it works with is handed to it: `Validation` measures, `Checkpoints` keep where the run stands,
`TrainingLog` tells of it (bookkeeping.py). `Agreement` (processes.py) has all processes stop at
the same step.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Int, Shaped
from lightning_fabric import Fabric
from torch import Tensor

from loss_attention.backbones import Features
from loss_attention.data.sample import ImageSet, are_uneven
from loss_attention.errors import InputError, ReportedError, guarded
from loss_attention.heads import HEADS
from loss_attention.interruption import StopRequest
from loss_attention.losses import Loss
from loss_attention.metrics.classification import correct_images
from loss_attention.model import PatchClassifier
from loss_attention.prediction import ImagePrediction, PatchPrediction
from loss_attention.training.augmentation import Augmenter
from loss_attention.training.bookkeeping import (
    Checkpoints,
    Choice,
    Position,
    TrainingLog,
    Validation,
)
from loss_attention.training.environment import sum_dtype
from loss_attention.training.frozen import (
    Examples,
    FeatureSet,
    FrozenModel,
    divided,
    of_epoch,
)
from loss_attention.training.guidance import Guide, Objects, energy_loss
from loss_attention.training.mixup import Pairs, draw_pairs
from loss_attention.training.optimisation import (
    RunningStatistics,
    WeightAverage,
    adam_betas,
    keep_statistics,
    learning_rate,
    make_optimizer,
    recipe_loss,
    regulariser_weight,
)
from loss_attention.training.processes import CHECK_INTERVAL, Agreement, processes_here, summed
from loss_attention.training.rates import RATE_FACTOR
from loss_attention.training.recipe import Recipe
from loss_attention.training.sampling import (
    epoch_batches,
    noise_seed,
    process_part,
    seed_noise,
    steps_per_epoch,
)


class DivergedError(ReportedError, ValueError):
    """The loss or the weights are no longer finite."""

    exit_code = 3


class Trainer:
    """Trains one model in one process; with others beside it when Fabric has several.

    Args:
        fabric: precision, device and processes.
        recipe: what to compute.
        model: the model to train; moved to the device.
        train: the training images of every process, without the validation slice; of a recipe
            with a frozen backbone, their features.
        validation: measures the network after each epoch.
        checkpoints: where the run is saved.
        log: what is told of it.
        guide: which training images guide, and by what; None: none.
        accumulate: parts that each step is taken in, one after the other.
        stop: hears of signals; None: one of its own.
    """

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        model: PatchClassifier,
        train: Examples,
        *,
        validation: Validation,
        checkpoints: Checkpoints,
        log: TrainingLog,
        guide: Guide | None = None,
        accumulate: int = 1,
        stop: StopRequest | None = None,
    ) -> None:
        self.fabric, self.recipe, self.accumulate = fabric, recipe, accumulate
        self.validation, self.checkpoints, self.log = validation, checkpoints, log
        self.stop = stop or StopRequest()
        self.agreement = Agreement(fabric, self.stop)
        self.train_set = train.images_and_labels().to(fabric.device)
        # torch's stubs know this overload of `to` for tensors alone.
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network = self._seen(model)
        self.network, self.optimizer = fabric.setup(network, make_optimizer(recipe, network))
        decay = recipe.average_weights
        self.averaged = WeightAverage(self.model, decay) if decay else None
        self.statistics = RunningStatistics(
            fabric, self.model, *([self.averaged.model] if self.averaged else [])
        )
        self.loss: Loss = recipe_loss(recipe, self.train_set.labels, model.spec.num_classes)
        self.classes = train.labels.cpu() if recipe.balance == "sampling" else None
        self.augmented = Augmenter(recipe, len(train))
        self.guide = guide
        self.moved = Augmenter(replace(recipe, colour_jitter=0.0), len(train)) if guide else None
        self.regularised = HEADS[recipe.head].regularised
        self.steps_per_epoch = steps_per_epoch(len(train), recipe.batch_size)
        self.position = Position(chosen_by=chosen_by(recipe, self.train_set.labels))
        # Sums over the epoch: loss x images, correct, images. On the device, so no step waits.
        self.totals = torch.zeros(3, dtype=sum_dtype(fabric.device), device=fabric.device)
        self.bad_step = torch.full((), -1, device=fabric.device)
        self._clock = time.perf_counter()

    def train(self) -> bool:
        """Train from where the position says to the end of the recipe.

        Returns:
            True when the run is finished; False when it was interrupted, with everything saved.

        Raises:
            DivergedError: the loss or the weights became NaN or infinite; the last good
                checkpoint stays.
            SaveError: a checkpoint could not be written; the one before it stays.
        """
        with (
            self.stop.listening(),
            self.train_set.reading(processes_here(self.fabric)),
            self.checkpoints.written(),
            self.log.opened(self._total_steps, self._finished_steps, self.position.history),
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
            len(self.train_set),
            self.recipe.batch_size,
            self.recipe.seed,
            position.epoch,
            self.classes,
        )
        self.train_set = of_epoch(self.train_set, self.recipe.seed, position.epoch)
        steps = range(position.step, len(batches))
        self.train_set.expect([batches[step][self._needed(batches[step], step)] for step in steps])
        self.network.train()
        if self.recipe.frozen_statistics:
            keep_statistics(self.model.backbone)
        started, first_step = time.perf_counter(), position.step

        def images_per_second() -> float:
            images = sum(len(batch) for batch in batches[first_step : position.step])
            return images / (time.perf_counter() - started)

        while position.step < len(batches):
            self.train_step(batches[position.step], gamma)
            position.step += 1
            self.log.advance()
            if self._check_due():
                self._check_finite()
            if self.agreement.due(self._finished_steps):
                self.checkpoints.check()
                seconds = (time.perf_counter() - started) / (position.step - first_step)
                if self.agreement.to_stop(self._finished_steps, seconds):
                    self._check_finite()
                    self.save()
                    return False
            if self.checkpoints.due(position.step, len(batches)):
                self._check_finite()
                self.save()
            if self.log.due():
                self.log.show(position.epoch + 1, *_means(self.totals), images_per_second())
        self._check_finite()
        if position.step > first_step:  # or all were taken before it was stopped in the validation
            position.images_per_second = images_per_second()
        if self.agreement.to_stop() or not self._close_epoch(gamma):
            self.save()
            return False
        return position.epoch == self.recipe.epochs or not self.agreement.to_stop()

    def train_step(self, batch: Int[Tensor, " B"], gamma: float) -> None:
        """Take one step on this process's part of a batch."""
        recipe, position, fabric = self.recipe, self.position, self.fabric
        needed = self._needed(batch, position.step)
        data = self.train_set.take(batch[needed])
        images: Any = data.images
        labels = targets = data.labels
        if not recipe.frozen:  # views are augmented already
            images = self.augmented(images, batch, needed, epoch=position.epoch, step=position.step)
        if recipe.mixup:
            assert isinstance(data, ImageSet)
            part, pairs = self._part(batch), self._pairs(batch, position.step)
            images, targets = pairs.mixed(images, data.label_matrix().float(), part)
            labels = labels[: len(images)]
        # What is random inside the network (dropout) follows from the position too, per process.
        seed = noise_seed(recipe.seed, fabric.global_rank, position.epoch, position.step)
        seed_noise(seed, fabric.device)
        self._set_rates()
        count = min(self.accumulate, len(labels))
        of_labels = (labels.tensor_split(count), targets.tensor_split(count))
        objects, first = self._objects(batch), 0
        parts = zip(divided(images, count), *of_labels, strict=True)
        for number, (images, labels, targets) in enumerate(parts, start=1):
            known = None if objects is None else objects.part(first, len(labels))
            first += len(labels)
            self._add_gradients(
                images, labels, targets, gamma, len(batch), known, last=number == count
            )
        if recipe.clip_gradients:
            # A gradient that is not finite reaches the weights, and is named there.
            fabric.clip_gradients(
                self.network,
                self.optimizer,
                max_norm=recipe.clip_gradients,
                error_if_nonfinite=False,
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.averaged is not None:
            self.averaged.update(self.model, self._finished_steps)

    def _add_gradients(
        self,
        images: Features,
        labels: Tensor,
        targets: Tensor,
        gamma: float,
        step_images: int,
        objects: Objects | None,
        *,
        last: bool,
    ) -> None:
        """Add the gradients of some of a step's images, and note loss and accuracy.

        The accuracy is that of their labels; the targets are these, or what mixup makes of them.
        The objects are those that are known in these images.
        """
        fabric = self.fabric
        # Processes wait for each other once a step.
        with fabric.no_backward_sync(self.network, enabled=not last):
            prediction: ImagePrediction = self.network(images)
            loss = self.loss(prediction, targets, gamma)
            if objects is not None and len(objects):
                loss = loss + self._guidance(prediction, objects) / len(labels)
            # Gradients are averaged over processes, whose parts may differ by an image.
            fabric.backward(loss * (len(labels) * fabric.world_size / step_images))
        with torch.no_grad():
            right = correct_images(prediction.logits, labels).sum()
            seen = torch.full_like(self.totals[2], len(labels))
            of_these = [loss.to(seen.dtype) * len(labels), right.to(seen.dtype), seen]
            self.totals += torch.stack(of_these)
            bad = ~torch.isfinite(loss) & (self.bad_step < 0)
            self.bad_step = torch.where(bad, self._finished_steps + 1, self.bad_step)

    def _objects(self, batch: Int[Tensor, " B"]) -> Objects | None:
        """Return what guides in this process's part of a step, where it is in what is shown."""
        if self.guide is None:
            return None
        part, position = self._part(batch), self.position
        if isinstance(self.train_set, FeatureSet):
            return self.guide.objects(batch[part], self.train_set.shown[batch[part]])
        assert self.moved is not None
        return self.guide.changed(self.moved, batch, part, epoch=position.epoch, step=position.step)

    def _guidance(self, prediction: ImagePrediction, objects: Objects) -> Tensor:
        """Return the weighted sum of the energy loss over objects."""
        assert isinstance(prediction, PatchPrediction)
        assert self.guide is not None
        loss = energy_loss(prediction, objects, competing=self.model.competing)
        return self.recipe.guide * self.guide.factor * loss.sum()

    def _set_rates(self) -> None:
        """Give the optimiser what its schedule says at this step, resumed or not."""
        recipe, step = self.recipe, self._finished_steps
        for group in self.optimizer.param_groups:
            factor = group.get(RATE_FACTOR, 1.0)  # checkpoints of version 0.1 have none
            group["lr"] = factor * learning_rate(recipe, step, self._total_steps)
            if recipe.optimizer in ("adam", "adamw"):
                group["betas"] = adam_betas(recipe, step, self._total_steps)

    def _close_epoch(self, gamma: float) -> bool:
        """Validate, note loss and accuracy, keep the weights if they are the best, and save.

        Returns:
            False where it was asked to stop in the validation; then nothing of it is kept.
        """
        self.statistics.average()
        validated = self.validation.measure(self._seen(self.result), self.loss)
        if validated is None:
            self.agreement.to_stop()  # whichever process heard it, all know the signal
            return False
        if validated.loss is not None and not validated.loss < float("inf"):
            raise self._diverged("validation loss", self._finished_steps)
        loss, accuracy = _means(summed(self.fabric, self.totals))
        position, epoch = self.position, self.position.epoch + 1
        best = position.is_best(validated)
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
            "validation_loss": validated.loss,
            "validation_accuracy": validated.accuracy,
            "validation_balanced_accuracy": validated.balanced_accuracy,
            "best": best,
        }
        self._check_weights()
        position.finish_epoch(line)
        self.totals.zero_()
        self.save(closed=True)
        self._count_seconds()  # saving is training's too
        position.epoch_seconds = 0.0
        self.log.finish_epoch(line)
        return True

    @property
    def result(self) -> PatchClassifier:
        """The network that is validated and kept: the trained one, or its average."""
        return self.model if self.averaged is None else self.averaged.model

    def _seen(self, model: PatchClassifier) -> PatchClassifier | FrozenModel:
        """Return a model as what takes the training set's batches."""
        return FrozenModel(model) if self.recipe.frozen else model

    def save(self, *, closed: bool = False) -> None:
        """Save the checkpoint of this moment.

        Args:
            closed: an epoch has just ended: its line is saved too, and its weights if they are
                the best.
        """
        self._check_weights()
        self._count_seconds()
        statistics = self.statistics.gathered()
        state = {
            "format_version": 1,
            "model": self.model.state_dict(),
            **({"averaged": self.result.state_dict()} if self.averaged else {}),
            "optimizer": self.optimizer.state_dict(),
            "position": asdict(self.position),
            "totals": summed(self.fabric, self.totals).cpu(),
            **({} if statistics is None else {"statistics": statistics.cpu()}),
        }
        history = self.position.history if closed else []
        best = self.result if history and history[-1]["best"] else None
        self.checkpoints.save(state, history, best)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; the opposite of `save`.

        Raises:
            InputError: its weights are not those of this model, or something in it is malformed.
        """
        path = self.checkpoints.run.path
        with guarded(f"the checkpoint in {path}"):
            try:
                self.model.load_state_dict(state["model"])
                if self.averaged is not None:
                    self.averaged.model.load_state_dict(state["averaged"])
                self.optimizer.load_state_dict(state["optimizer"])
            except (RuntimeError, ValueError, KeyError) as error:
                raise InputError(
                    f"the checkpoint in {path} is not of the model that its recipe.yaml names"
                ) from error
            self.position = Position.read(state["position"])
            if "statistics" in state:
                self.statistics.restore(state["statistics"])
            if self.fabric.is_global_zero:  # the sum over all processes, kept by one of them
                self.totals += state["totals"].to(self.totals)
        self.checkpoints.restored(self.position)

    def _part(self, batch: Int[Tensor, " B"]) -> slice:
        """Return this process's part of a batch."""
        return process_part(batch, self.fabric.global_rank, self.fabric.world_size)

    def _needed(self, batch: Int[Tensor, " B"], step: int) -> slice | Tensor:
        """Return which images of a batch this process takes: its part, and those mixed with it."""
        part = self._part(batch)
        return self._pairs(batch, step).needed(part) if self.recipe.mixup else part

    def _pairs(self, batch: Int[Tensor, " B"], step: int) -> Pairs:
        recipe = self.recipe
        return draw_pairs(len(batch), recipe.mixup, recipe.seed, self.position.epoch, step)

    @property
    def _finished_steps(self) -> int:
        return self.position.epoch * self.steps_per_epoch + self.position.step

    @property
    def _total_steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    def _count_seconds(self) -> None:
        """Add to the position what has passed since the last time."""
        now = time.perf_counter()
        self.position.seconds += now - self._clock
        self.position.epoch_seconds += now - self._clock
        self._clock = now

    def _check_due(self) -> bool:
        alone_on_cpu = self.fabric.world_size == 1 and self.fabric.device.type == "cpu"
        return alone_on_cpu or self._finished_steps % CHECK_INTERVAL == 0

    def _check_finite(self) -> None:
        if self.bad_step >= 0:
            raise self._diverged("loss", int(self.bad_step))

    def _check_weights(self) -> None:
        """A finite loss may still have moved the weights to infinity; never save such."""
        sums = [p.detach().to(self.totals.dtype).sum() for p in self.model.parameters()]
        if not torch.stack(sums).isfinite().all():
            raise self._diverged("weights", self._finished_steps)

    def _diverged(self, what: str, step: int) -> DivergedError:
        run = self.checkpoints.run
        kept = f"; the best epoch so far stays in {run.weights}" if run.weights.exists() else ""
        epoch = (step - 1) // self.steps_per_epoch + 1
        lower = f"`learning_rate` {self.recipe.learning_rate / 10:g}"
        return DivergedError(
            f"the {what} became NaN or infinite at step {step} (epoch {epoch}){kept}; a lower "
            "learning rate usually helps, from the last checkpoint on: "
            f"loss-attention resume {run.path} {lower}"
        )


def chosen_by(recipe: Recipe, labels: Shaped[Tensor, N * K]) -> Choice:
    """Return what a run's best epoch is chosen by, from the recipe and the training labels."""
    if recipe.choose_by == "auto":
        return "balanced-accuracy" if are_uneven(labels) else "accuracy"
    return recipe.choose_by


def _means(totals: Tensor) -> tuple[float, float]:
    loss, correct, images = totals.tolist()
    return loss / images, correct / images
