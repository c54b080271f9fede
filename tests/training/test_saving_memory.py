"""Steps in parts and with activation checkpointing: the same step, in less memory."""

from __future__ import annotations

import pytest
import torch
from training.test_processes import one_epoch
from training.tiny import start_run, tiny_recipe, tiny_splits

from loss_attention.errors import InputError
from loss_attention.training.job import RunOptions, continue_run
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import Trainer


def assert_same_epoch(found, expected, *, rtol=1e-4):
    assert found["state"].keys() == expected["state"].keys()
    for name, tensor in expected["state"].items():
        torch.testing.assert_close(found["state"][name], tensor, rtol=rtol, atol=1e-6, msg=name)
    for key in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        assert found["history"][0][key] == pytest.approx(expected["history"][0][key], abs=1e-4)


def test_a_step_in_parts_is_the_same_step(tmp_path):
    """33 images make batches of 7 and 6, so the three parts of a step are uneven."""
    whole = one_epoch(tmp_path, 1, freeze=True)[0]
    parts = one_epoch(tmp_path, 1, freeze=True, accumulate=3)[0]
    assert [len(images) for images in whole["parts"]] == [7, 7, 7, 6, 6]
    assert [len(images) for images in parts["parts"]] == [3, 2, 2] * 3 + [2, 2, 2] * 2
    assert torch.equal(torch.cat(parts["parts"]), torch.cat(whole["parts"]))  # each image once
    assert_same_epoch(parts, whole)


def test_two_processes_take_the_same_step_in_parts(tmp_path):
    """Processes with 4 and 3 images take their 4 and 3 parts, and meet once a step."""
    whole = one_epoch(tmp_path, 1, freeze=True)[0]
    first, second = one_epoch(tmp_path, 2, freeze=True, accumulate=4)
    assert {len(images) for images in first["parts"] + second["parts"]} == {1}
    assert_same_epoch(first, whole)
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name])


def test_a_step_of_weighted_images_in_parts_is_the_same_step(tmp_path):
    assert tiny_splits(images=33).trainval.labels.bincount().diff() != 0  # so weights differ
    whole, parts = (
        one_epoch(tmp_path, 1, freeze=True, accumulate=count, changes={"balance": "weights"})[0]
        for count in (1, 3)
    )
    assert_same_epoch(parts, whole)


@pytest.mark.parametrize("accumulate", [0, -1])
def test_steps_have_at_least_one_part(accumulate):
    with pytest.raises(InputError, match=r"`accumulate` must be at least 1, got"):
        RunOptions(accumulate=accumulate)


def state_of(run):
    state = run.load_state()
    assert state is not None
    return {"state": state["model"], "history": state["position"]["history"][-1:]}


def test_checkpointed_training_is_the_plain_one_and_resumes_bit_identical(tmp_path, monkeypatch):
    def start(name, **changes):
        options = RunOptions(accelerator="cpu", checkpoint_every_steps=1, **changes)
        return start_run(tmp_path / name, tiny_recipe(epochs=2), tiny_splits(), options)

    plain, whole = start("plain"), start("whole", checkpoint_activations=True)
    assert continue_run(plain, tiny_splits())
    assert continue_run(whole, tiny_splits())
    assert_same_epoch(state_of(whole), state_of(plain), rtol=1e-3)

    broken = start("broken", checkpoint_activations=True)
    step, taken = Trainer.train_step, []

    def failing(trainer, batch, gamma):
        taken.append(trainer.model.backbone.checkpoint_activations)
        if len(taken) == 9:  # in the second epoch
            raise RuntimeError("stopped")
        step(trainer, batch, gamma)

    monkeypatch.setattr(Trainer, "train_step", failing)
    with pytest.raises(RuntimeError, match="stopped"):
        continue_run(broken, tiny_splits())
    assert continue_run(broken, tiny_splits())
    assert len(taken) == 13  # 6 steps an epoch, one of them tried twice
    assert all(taken)  # resumed with what it was begun with
    expected, found = state_of(whole)["state"], state_of(broken)["state"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_run_begun_in_parts_is_resumed_in_parts(tmp_path, monkeypatch):
    options = RunOptions(accelerator="cpu", accumulate=2)
    start_run(tmp_path, tiny_recipe(epochs=1), tiny_splits(), options)
    counts = []
    add = Trainer._add_gradients

    def counted(trainer, images, *rest, **flags):
        counts.append(len(images))
        add(trainer, images, *rest, **flags)

    monkeypatch.setattr(Trainer, "_add_gradients", counted)
    assert continue_run(RunFolder.open(tmp_path), tiny_splits())
    assert len(counts) == 12
    assert sum(counts) == 42
