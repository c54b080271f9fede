"""The figures of each epoch as TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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
