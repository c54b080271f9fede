"""Every head in the real training loop: it learns, and resumes to the last bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from training.tiny import run_stopped_at, start_run, tiny_recipe, tiny_splits

from loss_attention.data.digits import multi_digits
from loss_attention.data.division import hold_out
from loss_attention.errors import InputError
from loss_attention.evaluation.measuring import evaluate
from loss_attention.heads import HEADS
from loss_attention.model import load
from loss_attention.training.job import RunOptions, continue_run

CPU = RunOptions(accelerator="cpu")


@pytest.mark.parametrize("head", HEADS)
def test_a_head_learns_and_resumes_where_it_was_stopped(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, splits = tiny_recipe(head=head, epochs=3), tiny_splits()
    assert continue_run(start_run(tmp_path / "whole", recipe, splits, CPU), splits)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < 0.7 * losses[0]

    stopped = run_stopped_at(tmp_path / "stopped", recipe, splits, [4], monkeypatch)
    expected, found = load(tmp_path / "whole").state_dict(), load(stopped.path).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_trains_and_is_measured_on_images_of_several_labels(
    head: str, tmp_path: Path
) -> None:
    splits = replace(multi_digits(train=24, test=8), validation_fraction=0.25)
    recipe = tiny_recipe(
        head=head, epochs=1, strided_layers=(1, 2), patch_kernel=3, validation_fraction=0.25
    )
    assert continue_run(start_run(tmp_path, recipe, splits, CPU), splits)
    figures = evaluate(load(tmp_path), splits.test, train=splits.trainval)
    assert figures.value("mean_average_precision") is not None
    assert ("patch_f1" in figures) == (not HEADS[head].pooled_backbone)


def test_the_validation_loss_of_routing_is_the_margin_loss(tmp_path: Path) -> None:
    splits = tiny_splits(held_out=0.5)
    recipe = tiny_recipe(head="capsule-dynamic-routing", epochs=1, validation_fraction=0.5)
    run = start_run(tmp_path, recipe, splits, CPU)
    assert continue_run(run, splits)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    _, held_out = hold_out(splits.trainval.labels, 0.5, recipe.seed)
    validation = splits.trainval.subset(held_out)
    with torch.inference_mode():
        lengths = load(tmp_path)(validation.images).lengths.double().numpy()
    expected = reference.margin_loss(lengths, np.eye(2)[validation.labels.numpy()])
    assert line["validation_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("head", ["baseline", "capsule-dynamic-routing"])
def test_a_regulariser_without_patch_logits_is_refused(head: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(head=head, regularise=True)
    with pytest.raises(InputError, match=f"`regularise`: the head {head} has no patch") as caught:
        start_run(tmp_path / "run", recipe, tiny_splits(), CPU)
    assert "these have: mean, attention" in str(caught.value)
    assert not (tmp_path / "run").exists()
