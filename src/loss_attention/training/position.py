"""Where a run stands, and what its files say of it: values, checked wherever they are read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loss_attention.errors import InputError, guarded, quoted


@dataclass
class Position:
    """Where a run stands; with the weights and the optimiser, all that resuming needs.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch that is under way; all of them where it was not
            validated yet.
        best: validation accuracy and negative validation loss of the best epoch; None before it.
        best_epoch: counted from 1; 0 before the first.
        seconds: spent on training and validation so far.
        epoch_seconds: of these, what the epoch that is under way has taken.
        images_per_second: in its training, where that is done.
        history: a line of metrics.jsonl for each finished epoch.
    """

    epoch: int = 0
    step: int = 0
    best: tuple[float, float] | None = None
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
        if any(type(count) is not int or not 0 <= count < 2**63 for count in counts):
            raise ValueError(f"its position cannot be {quoted(counts)}")
        if position.best is not None:
            accuracy, loss = map(float, position.best)
            position.best = (accuracy, loss)
        for name in ("seconds", "epoch_seconds", "images_per_second"):
            setattr(position, name, float(getattr(position, name)))
        return position


def metrics_text(history: list[dict[str, Any]]) -> str:
    """Return metrics.jsonl: a line for each epoch."""
    return "".join(json.dumps(line) + "\n" for line in history)


def checked_epoch(line: Any) -> dict[str, Any]:
    """Return the figures of an epoch as a file has them.

    Raises:
        InputError: they are no object, or one of them is neither a number nor empty.
    """
    if not isinstance(line, dict):
        raise InputError(f"the figures of an epoch cannot be {quoted(line)}")
    for name, value in line.items():
        # A bad start may have an infinite loss; a whole number that no float holds, nobody writes.
        number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
        if value is not None and not number:
            raise InputError(f"the figures of an epoch: {quoted(name)} cannot be {quoted(value)}")
    return line


KINDS: dict[str, type | tuple[type, ...]] = {
    "package_version": str,
    "command": str,
    "precision": str,
    "source": str,
    "storage": str,
    "data_fingerprint": str,
    "classes": list,
    "multi_label": bool,
    "train_images": int,
    "validation_images": int,
    "test_images": int,
    "normalisation": dict,
    "parameters": int,
    "versions": dict,
    "hardware": dict,
    "finished": bool,
    "best_epoch": int,
    "train_seconds": (int, float),
    "changes": list,
}
"""What the facts in run.json are; those that are there."""


def checked_facts(facts: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what run.json says; raise `InputError` where a fact is not what it can be."""
    for name, kind in KINDS.items():
        value = facts.get(name)
        wrong = name in facts and (
            not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        )
        if wrong or (isinstance(value, int | float) and not abs(value) < 2**63):
            raise InputError(f"{path}: {name} cannot be {quoted(value)}")
    normalisation = facts.get("normalisation", {})
    if normalisation:
        with guarded(f"{path}: normalisation"):
            numbers = [*normalisation["mean"], *normalisation["std"]]
            if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
                raise InputError(f"{path}: normalisation cannot be {quoted(normalisation)}")
    return facts
