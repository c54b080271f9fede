"""The paper's data are loaded once for all trainings that hold them alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console
from training.tiny import tiny_recipe, tiny_splits

from loss_attention.data.sample import Splits
from loss_attention.paper import trainings
from loss_attention.paper.trainings import Shelf
from loss_attention.training.recipe import Recipe, RunOptions


def test_streamed_or_not_as_the_training_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(_recipe: Recipe, _console: Console, options: RunOptions) -> Splits:
        loaded.append(options.stream)
        return replace(tiny_splits(), storage=options.stream)

    monkeypatch.setattr(trainings, "load_data", load)
    shelf, recipe = Shelf(None, Console(quiet=True)), tiny_recipe()
    streamed, held = RunOptions(stream="yes"), RunOptions(stream="no")
    assert shelf.splits(recipe, streamed).storage == "yes"
    assert shelf.splits(recipe, held).storage == "no"
    assert shelf.splits(replace(recipe, epochs=9), streamed).storage == "yes"
    assert loaded == ["yes", "no"]
