"""What the subcommands do, without the command: where they compute, and on what they choose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from training.tiny import start_run, tiny_recipe, tiny_splits

import loss_attention as la
from loss_attention import fitting, runs
from loss_attention.cli import explaining, subcommands
from loss_attention.errors import InputError
from loss_attention.saving import sealed
from loss_attention.training import devices
from loss_attention.training.devices import choose_device
from loss_attention.training.job import build_model, continue_run
from loss_attention.training.recipe import RunOptions

CPU = RunOptions(accelerator="cpu")
QUIET = Console(quiet=True)
SPLITS = tiny_splits()
Moves = list[tuple[str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    run = start_run(tmp_path_factory.mktemp("runs") / "run", tiny_recipe(epochs=1), SPLITS, CPU)
    assert continue_run(run, SPLITS)
    return run.path


@pytest.fixture
def moves(monkeypatch) -> Moves:
    """What is asked of the chooser of devices, and where models then go.

    It names the CPU in a way that nothing else does.
    """
    seen: Moves = []
    move = la.PatchClassifier.to

    def choose(wanted: str) -> torch.device:
        seen.append(("chosen for", wanted))
        return torch.device("cpu", 0)

    def to(model: la.PatchClassifier, *where: Any, **how: Any) -> la.PatchClassifier:
        seen.extend(("model to", str(device)) for device in where)
        return move(model, *where, **how)

    monkeypatch.setattr(devices, "choose_device", choose)
    monkeypatch.setattr(runs, "choose_device", choose)
    for module in (fitting, runs):
        monkeypatch.setattr(module, "load_data", lambda *_: SPLITS)
    monkeypatch.setattr(la.PatchClassifier, "to", to)
    return seen


def explain(run: Path, out: Path, accelerator: str) -> None:
    picture = out / "picture.png"
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(picture)
    explaining.explain(QUIET, run, (picture,), out / "explained", accelerator=accelerator)


@pytest.mark.parametrize("wanted", ["auto", "cpu"])
@pytest.mark.parametrize(
    "job",
    [
        lambda run, _, wanted: subcommands.evaluate(QUIET, run, accelerator=wanted),
        lambda run, _, wanted: subcommands.report(QUIET, run, accelerator=wanted),
        explain,
    ],
    ids=["evaluate", "report", "explain"],
)
def test_models_compute_where_the_chooser_says(
    job: Callable[[Path, Path, str], object],
    wanted: str,
    finished: Path,
    tmp_path: Path,
    moves: Moves,
) -> None:
    job(finished, tmp_path, wanted)
    assert moves == [("chosen for", wanted), ("model to", "cpu:0")]


def test_what_trained_a_run_evaluates_it(tmp_path: Path, moves: Moves) -> None:
    subcommands.train(QUIET, tiny_recipe(epochs=1), CPU, tmp_path / "run")
    assert moves[-2:] == [("chosen for", "cpu"), ("model to", "cpu:0")]


def come_from(trained_on: str, run: Path, to: Path, **facts: object) -> Path:
    """A copy of a run that was trained on something else, with other facts."""
    run = Path(shutil.copytree(run, to))
    found = json.loads((run / "run.json").read_text()) | facts
    found["options"]["accelerator"] = trained_on
    (run / "run.json").write_text(json.dumps(sealed(found)))
    return run


@pytest.mark.parametrize(("trained_on", "wanted"), [("cpu", "cpu"), ("cuda", "auto")])
def test_a_finished_run_may_come_from_another_machine(
    trained_on: str, wanted: str, finished: Path, tmp_path: Path, moves: Moves, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    subcommands.resume(QUIET, come_from(trained_on, finished, tmp_path / "run"))
    assert moves == [("chosen for", wanted), ("model to", "cpu:0")]


def test_a_run_that_began_on_a_gpu_goes_on_on_one(
    finished: Path, tmp_path: Path, moves: Moves, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = come_from("cuda", finished, tmp_path / "run", finished=False)
    with pytest.raises(InputError, match="began on a GPU and torch finds none here: resume it on"):
        subcommands.resume(QUIET, run)
    assert moves == []


@pytest.mark.parametrize("held_out", [0.2, 0.0])
def test_thresholds_are_chosen_on_the_validation_slice_if_there_is_one(held_out: float) -> None:
    recipe = tiny_recipe(validation_fraction=held_out)
    splits = replace(SPLITS, validation_fraction=held_out)
    figures = runs.measure(build_model(recipe, splits), splits.test, splits, QUIET)
    assert bool(figures.thresholds) == bool(held_out)
    assert (figures.value("gt_known_loc_heat_map") is None) == (not held_out)


def test_a_device_is_chosen_as_for_training(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [choose_device(wanted).type for wanted in ("auto", "cuda", "cpu")] == [
        "cuda",
        "cuda",
        "cpu",
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
