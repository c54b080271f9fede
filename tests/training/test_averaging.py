"""Averaged weights: the figures by hand, kept and validated, resumed to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training.test_resume import assert_same_run
from training.tiny import run_stopped_at, start_run, tiny_recipe, tiny_splits

import loss_attention as la
from loss_attention.data.division import hold_out
from loss_attention.evaluation.measuring import validate
from loss_attention.model import load
from loss_attention.training.job import continue_run
from loss_attention.training.optimisation import WeightAverage
from loss_attention.training.recipe import RunOptions

CPU = RunOptions(accelerator="cpu")


def test_the_average_is_that_of_its_definition() -> None:
    model = la.create_model("vgg11_bn", num_classes=2, width=0.05, patch_kernel=5)
    average = WeightAverage(model, 0.9)
    floats = [name for name, tensor in model.state_dict().items() if tensor.is_floating_point()]
    names = [next(n for n in floats if n.endswith(end)) for end in (".weight", ".running_mean")]
    known = {name: model.state_dict()[name].double().numpy().copy() for name in names}
    generator = torch.Generator().manual_seed(0)
    for step in range(120):  # (1 + step) / (10 + step) is 0.9 at step 80
        for name in names:
            model.state_dict()[name].normal_(generator=generator)
            decay = min(0.9, (1 + step) / (10 + step))
            new = model.state_dict()[name].double().numpy()
            known[name] = decay * known[name] + (1 - decay) * new
        average.update(model, step)
    found = average.model.state_dict()
    for name in names:
        np.testing.assert_allclose(found[name].numpy(), known[name], atol=1e-5)
    assert torch.equal(found["mean"], model.state_dict()["mean"])


def test_the_average_is_kept(tmp_path: Path) -> None:
    recipe = tiny_recipe(average_weights=0.8, validation_fraction=0.0)
    splits = tiny_splits(held_out=0.0)
    run = start_run(tmp_path / "run", recipe, splits, CPU)
    assert continue_run(run, splits)
    state, kept = run.load_state(), load(run.path).state_dict()
    assert state is not None
    assert all(torch.equal(kept[name], state["averaged"][name]) for name in kept)
    weights = [name for name in kept if name.endswith("weight")]
    assert not any(torch.equal(kept[name], state["model"][name]) for name in weights)


def test_the_average_is_validated(tmp_path: Path) -> None:
    recipe = tiny_recipe(average_weights=0.8, validation_fraction=0.3)
    splits = tiny_splits(held_out=0.3)
    run = start_run(tmp_path / "run", recipe, splits, CPU)
    assert continue_run(run, splits)
    _, held_out = hold_out(splits.trainval.labels, 0.3, recipe.seed)
    loss, right = validate(load(run.path), splits.trainval.subset(held_out), 256)
    accuracy = float(right.double().mean())
    best = run.metrics()[run.facts()["best_epoch"] - 1]
    assert (best["validation_loss"], best["validation_accuracy"]) == pytest.approx((loss, accuracy))


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path, monkeypatch) -> None:
    recipe, splits = tiny_recipe(average_weights=0.8), tiny_splits()
    whole = start_run(tmp_path / "whole", recipe, splits, CPU)
    assert continue_run(whole, splits)
    stopped = run_stopped_at(tmp_path / "stopped", recipe, splits, (2, 9), monkeypatch)
    assert_same_run(stopped.path, whole.path)


def test_without_it_nothing_is_averaged(tmp_path: Path) -> None:
    splits = tiny_splits()
    run = start_run(tmp_path / "run", tiny_recipe(epochs=1), splits, CPU)
    assert continue_run(run, splits)
    assert "averaged" not in run.load_state()
