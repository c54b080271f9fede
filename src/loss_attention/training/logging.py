"""What is told of a run as it trains: a bar, a line for each epoch, curves for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loss_attention.errors import printable

FIGURES = (
    "loss",
    "accuracy",
    "gamma",
    "learning_rate",
    "images_per_second",
    "validation_loss",
    "validation_accuracy",
)


class Scalars:
    """Writes the lines of metrics.jsonl as TensorBoard scalars, from one process.

    Args:
        folder: where the events go; None writes nothing (every process but the first).
        finished_steps: of the checkpoint that a run continues from: later events of an
            interrupted part are marked as void.
    """

    def __init__(self, folder: Path | None, finished_steps: int) -> None:
        self.folder = folder
        self.finished_steps = finished_steps

    def __enter__(self) -> Self:
        if self.folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # a second's import

            self.writer = SummaryWriter(str(self.folder), purge_step=self.finished_steps + 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.folder is not None:
            self.writer.close()

    def write(self, line: Mapping[str, Any]) -> None:
        """Write the figures of a finished epoch."""
        if self.folder is None:
            return
        for name in FIGURES:
            if line[name] is not None:
                self.writer.add_scalar(name, line[name], line["step"])
        self.writer.flush()


REFRESH_SECONDS = 0.5


class TrainingProgress:
    """A bar with loss, accuracy, images a second and time left, for one process of a run.

    Args:
        console: where to write; None shows nothing (every process but the first).
        label: the run's name.
        epochs: epochs of the run.
        total_steps: steps of the run.
        done_steps: steps that an earlier part of a resumed run took.
    """

    def __init__(
        self, console: Console | None, label: str, epochs: int, total_steps: int, done_steps: int
    ) -> None:
        self.console = console
        self.epochs = epochs
        self._next_refresh = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console or Console(quiet=True),
            transient=True,
            disable=console is None or not console.is_terminal,
        )
        self._task = self._bar.add_task(
            printable(label), total=total_steps, completed=done_steps, figures=""
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def due(self) -> bool:
        """Whether new figures would be seen; reading them may make the host wait for a GPU."""
        return not self._bar.disable and time.monotonic() >= self._next_refresh

    def advance(self) -> None:
        """Count one step."""
        self._bar.advance(self._task)

    def show(self, epoch: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Show the figures of the epoch so far."""
        self._next_refresh = time.monotonic() + REFRESH_SECONDS
        figures = (
            f"epoch {epoch}/{self.epochs}  loss {loss:.3f}  accuracy {accuracy:.1%}  "
            f"{images_per_second:,.0f} images/s"
        )
        self._bar.update(self._task, figures=figures)

    def finish_epoch(self, line: Mapping[str, Any]) -> None:
        """Write the line of a finished epoch."""
        if self.console is None:
            return
        text = (
            f"epoch {line['epoch']:>3}/{self.epochs}  loss {line['loss']:.3f}  "
            f"accuracy {line['accuracy']:6.1%}"
        )
        if line["validation_accuracy"] is not None:
            text += f"  val {line['validation_loss']:.3f} {line['validation_accuracy']:6.1%}"
        text += f"  {line['images_per_second']:,.0f} img/s"
        self.console.print(text + ("  best" if line["best"] else ""), highlight=False)
