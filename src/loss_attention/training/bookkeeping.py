"""The books of a run as it trains: where it stands, checkpoints, validation, and its log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from loss_attention.errors import InputError, printable, quoted
from loss_attention.evaluation.measuring import validate
from loss_attention.interruption import StopRequest
from loss_attention.losses import Loss
from loss_attention.metrics.classification import class_accuracies
from loss_attention.model import PatchClassifier
from loss_attention.saving import WEIGHTS_FILE
from loss_attention.terminal import say
from loss_attention.training.environment import sum_dtype
from loss_attention.training.frozen import Examples, FrozenModel
from loss_attention.training.loggers import Loggers
from loss_attention.training.processes import from_first, summed
from loss_attention.training.recipe import CheckpointForm
from loss_attention.training.run_folder import (
    METRICS_FILE,
    SHARDS,
    RunFolder,
    checked_epoch,
    metrics_text,
)

REFRESH_SECONDS = 0.5

Choice = Literal["accuracy", "balanced-accuracy"]
"""What the best epoch is chosen by; the validation loss decides between equals."""


@dataclass
class Position:
    """Where a run stands; with the weights and the optimiser, all that resuming needs.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch that is under way; all of them where it was not
            validated yet.
        best: score of the validation and negative validation loss of the best epoch; None before
            it.
        chosen_by: the score, `accuracy` or `balanced-accuracy`; version 0.1 knew the first alone.
        best_epoch: counted from 1; 0 before the first.
        seconds: spent on training and validation so far.
        epoch_seconds: of these, what the epoch that is under way has taken.
        images_per_second: in its training, where that is done.
        history: a line of metrics.jsonl for each finished epoch.
    """

    epoch: int = 0
    step: int = 0
    best: tuple[float, float] | None = None
    chosen_by: Choice = "accuracy"
    best_epoch: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    images_per_second: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, values: Any) -> Position:
        """Return what a checkpoint has; raise whatever a malformed one leads to."""
        position = cls(**values)
        try:
            position.history = [checked_epoch(line) for line in position.history]
        except InputError as error:
            raise ValueError(str(error)) from error
        counts = (position.epoch, position.step, position.best_epoch)
        if position.chosen_by not in get_args(Choice):
            raise ValueError(f"it cannot be chosen by {quoted(position.chosen_by)}")
        if any(type(count) is not int or not 0 <= count < 2**63 for count in counts):
            raise ValueError(f"its position cannot be {quoted(counts)}")
        if position.best is not None:
            accuracy, loss = map(float, position.best)
            position.best = (accuracy, loss)
        for name in ("seconds", "epoch_seconds", "images_per_second"):
            setattr(position, name, float(getattr(position, name)))
        return position

    def is_best(self, validated: Validated) -> bool:
        """Note what an epoch's validation gave; return whether it is the best so far.

        Without images for it, the last is the best.
        """
        balanced = self.chosen_by == "balanced-accuracy"
        found = validated.balanced_accuracy if balanced else validated.accuracy
        if validated.loss is None or found is None:
            better = True
        else:
            score = (found, -validated.loss)
            better = self.best is None or score >= self.best
            self.best = score if better else self.best
        self.best_epoch = self.epoch + 1 if better else self.best_epoch
        return better

    def finish_epoch(self, line: dict[str, Any]) -> None:
        """Go on to the next epoch, with a line of metrics.jsonl for the one that is over."""
        self.epoch, self.step, self.epoch_seconds = self.epoch + 1, 0, 0.0
        self.history.append(line)


class Checkpoints:
    """Keeps where a run stands in its folder.

    Args:
        fabric: has the processes.
        run: the folder.
        every: also save each so many steps; 0: at the ends of epochs only.
        form: whether the first process writes all of it, or each its shard, and whether the
            training goes on meanwhile; then at most one checkpoint is being written.
    """

    def __init__(
        self, fabric: Fabric, run: RunFolder, every: int = 0, form: CheckpointForm = "plain"
    ) -> None:
        self.run, self._fabric, self._every, self._form = run, fabric, every, form
        # Of its own, so that what is written in the background does not meet the training's.
        several = form != "plain" and fabric.world_size > 1
        self._group = torch.distributed.new_group(backend="gloo") if several else None
        self._background = ThreadPoolExecutor(1) if form == "async" else None
        self._writing: Future[None] | None = None

    def due(self, step: int, epoch_steps: int) -> bool:
        """Whether to save after a step of an epoch; not at its end, which saves anyway."""
        return self._every > 0 and step % self._every == 0 and step < epoch_steps

    def save(
        self, state: dict[str, Any], history: list[dict[str, Any]], best: PatchClassifier | None
    ) -> None:
        """Save a checkpoint, and what belongs to the epoch that it closes just before it.

        Args:
            state: tensors and plain values.
            history: lines of metrics.jsonl; none: the epoch is under way.
            best: the network to keep; None: the one that is kept already.
        """
        beside: dict[str, str | bytes] = {}
        if self._fabric.is_global_zero:
            if best is not None:
                beside[WEIGHTS_FILE] = best.to_bytes()
            if history:
                beside[METRICS_FILE] = metrics_text(history)
        if self._form != "plain":
            self._save_shards(state, beside)
            return
        if self._fabric.is_global_zero:
            self.run.save_state(state, beside)
        self._fabric.barrier()

    def _save_shards(self, state: dict[str, Any], beside: Mapping[str, str | bytes]) -> None:
        from loss_attention.training import sharded

        self.finish()
        sharded.expect_one_process()
        folder = from_first(self._fabric, self.run.new_shards)
        outline, tensors = sharded.outlined(state)
        own = sharded.shares(tensors, self._fabric.world_size)[self._fabric.global_rank]

        def commit(shards: dict[str, Any]) -> None:
            self.run.save_state(outline | {SHARDS: shards}, beside)

        share = sharded.staged(tensors, own)
        write = partial(sharded.write_shards, share, folder, self._group, commit)
        if self._background is None:
            write()
        else:
            self._writing = self._background.submit(write)

    def check(self) -> None:
        """Raise what went wrong in the background, if anything; all processes ask together."""
        if self._writing is None:
            return
        failed = self._writing.done() and self._writing.exception() is not None
        if summed(self._fabric, torch.tensor(float(failed), device=self._fabric.device)) > 0:
            self.finish()

    def finish(self) -> None:
        """Wait for what is written in the background.

        Raises:
            SaveError: it could not be written; the checkpoint before it stays.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """Have all checkpoints of this context written at its end, whatever ends it."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # what ended the training is told
                self.finish()
            raise
        self.finish()

    def load(self) -> dict[str, Any] | None:
        """Return the last sound checkpoint; None where the run ended before its first."""
        state = from_first(self._fabric, self.run.find_state)
        return None if state is None else self.run.whole_state(state)

    def restored(self, position: Position) -> None:
        """Have metrics.jsonl end where the run goes on."""
        if self._fabric.is_global_zero:
            self.run.write(METRICS_FILE, metrics_text(position.history))


class Validated(NamedTuple):
    """What a validation found; all None where there are no images for it.

    Attributes:
        loss: of the images, on average.
        accuracy: fraction of them that are right; of several labels, exact matches.
        balanced_accuracy: mean over classes that occur of the fraction of theirs that are right;
            None where an image may have several.
    """

    loss: float | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None


class Validation:
    """The held-out images, of which each process measures its part.

    Args:
        fabric: precision, device and processes.
        images: of all processes; may be none, then the last epoch is the best.
        batch_size: images in a step of the training.
        stop: hears of signals.
    """

    def __init__(
        self, fabric: Fabric, images: Examples, batch_size: int, stop: StopRequest
    ) -> None:
        self._fabric, self._stop, self._count = fabric, stop, len(images)
        self._labels = None if images.multi_label else images.labels.cpu()
        part = torch.arange(len(images))[fabric.global_rank :: fabric.world_size]
        self._rows = part
        self._part = images.images_and_labels().subset(part).to(fabric.device)
        # So much as a few steps of training, as a stop is heard in between.
        self._batch_size = max(batch_size, min(256, 8 * batch_size))

    def measure(self, model: PatchClassifier | FrozenModel, loss: Loss) -> Validated | None:
        """Return what a model scores, the same in all processes.

        None where one of the processes was asked to stop meanwhile.
        """
        if not self._count:
            return Validated()
        device = self._fabric.device
        # Whether it was stopped; the sum of the loss over images; which are right.
        sums = torch.zeros(2 + self._count, dtype=sum_dtype(device))
        try:
            self._measure(model, loss, sums)
        except _ValidationStoppedError:
            sums[0] = 1
        sums = summed(self._fabric, sums.to(device)).cpu()
        if sums[0] > 0:
            return None
        right, balanced = sums[2:] > 0, None
        if self._labels is not None:
            by_class = class_accuracies(right, self._labels, int(self._labels.max()) + 1)
            balanced = float(by_class.nanmean())
        return Validated(float(sums[1]) / self._count, int(right.sum()) / self._count, balanced)

    def _measure(self, model: PatchClassifier | FrozenModel, loss: Loss, sums: Tensor) -> None:
        """Note what this process finds of its images: the sum of the loss, and which are right."""
        images = len(self._part)
        if not images:
            return

        def look(done: int, total: int) -> None:  # noqa: ARG001
            if self._stop.requested:
                raise _ValidationStoppedError

        mean_loss, right = validate(
            model,
            self._part,
            self._batch_size,
            self._fabric.autocast,
            loss=loss,
            progress=look,
        )
        sums[1] = mean_loss * images
        sums[2 + self._rows] = right.to(sums.dtype)


class _ValidationStoppedError(Exception):
    """This process was told to stop; what it found so far is worth nothing."""


class TrainingLog:
    """A bar with loss, accuracy, images a second and time left; each epoch as a line and as curves.

    Args:
        label: the run's name.
        epochs: epochs of the run.
        console: where to write; None shows nothing (every process but the first).
        loggers: where its curves go; None: nowhere (every process but the first).
        balanced: tell the balanced accuracy of the validation too.
        of: what is trained on, `images` or `bags`.
    """

    def __init__(
        self,
        label: str,
        epochs: int,
        console: Console | None = None,
        loggers: Loggers | None = None,
        *,
        balanced: bool = False,
        of: Literal["images", "bags"] = "images",
    ) -> None:
        self._balanced, self._of = balanced, of
        self._epochs, self._console, self._loggers = epochs, console, loggers
        self._next_refresh = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[scores]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console or Console(quiet=True),
            transient=True,
            disable=console is None or not console.is_terminal,
        )
        self._task = self._bar.add_task(printable(label), total=None, scores="")

    @contextlib.contextmanager
    def opened(
        self, total_steps: int, finished_steps: int, history: Sequence[Mapping[str, Any]] = ()
    ) -> Iterator[None]:
        """Show the bar and have the loggers as long as the context lasts.

        Args:
            total_steps: steps of the run.
            finished_steps: of the checkpoint that it continues from.
            history: a line of metrics.jsonl for each epoch that is finished there.
        """
        self._bar.update(self._task, total=total_steps, completed=finished_steps)
        loggers = self._loggers
        with (
            self._bar,
            loggers.opened(finished_steps, history) if loggers else contextlib.nullcontext(),
        ):
            yield

    def due(self) -> bool:
        """Whether new scores would be seen; reading them may make the host wait for a GPU."""
        return not self._bar.disable and time.monotonic() >= self._next_refresh

    def advance(self) -> None:
        """Count one step."""
        self._bar.advance(self._task)

    def show(self, epoch: int, loss: float, accuracy: float, per_second: float) -> None:
        """Show the scores of the epoch so far."""
        self._next_refresh = time.monotonic() + REFRESH_SECONDS
        scores = (
            f"epoch {epoch}/{self._epochs}  loss {loss:.3f}  accuracy {accuracy:.1%}  "
            f"{per_second:,.0f} {self._of}/s"
        )
        self._bar.update(self._task, scores=scores)

    def finish_epoch(self, line: Mapping[str, Any]) -> None:
        """Tell of a finished epoch, given as its line of metrics.jsonl."""
        if self._loggers is not None:
            self._loggers.log(line)
        if self._console is None:
            return
        text = (
            f"epoch {line['epoch']:>3}/{self._epochs}  loss {line['loss']:.3f}  "
            f"accuracy {line['accuracy']:6.1%}"
        )
        if line["validation_accuracy"] is not None:
            text += f"  val {line['validation_loss']:.3f} {line['validation_accuracy']:6.1%}"
            if self._balanced and line["validation_balanced_accuracy"] is not None:
                text += f" (balanced {line['validation_balanced_accuracy']:.1%})"
        unit = "img" if self._of == "images" else self._of
        text += f"  {line[f'{self._of}_per_second']:,.0f} {unit}/s"
        say(self._console, text + ("  best" if line["best"] else ""))
