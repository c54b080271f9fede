"""Two processes on the CPU: the same images, the same weights, the same step as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from training.one_epoch import OneEpoch
from training.several import in_processes
from training.tiny import tiny_recipe, tiny_splits

from loss_attention.training.job import build_model


def one_epoch(folder: Path, devices: int, *, freeze: bool, **options: Any) -> list[dict[str, Any]]:
    in_processes(OneEpoch(folder, freeze=freeze, **options), devices)
    return [torch.load(folder / f"rank{rank}of{devices}.pt") for rank in range(devices)]


def test_two_processes_see_every_image_once_and_end_identical(tmp_path):
    first, second = one_epoch(tmp_path, 2, freeze=False)
    assert sorted(first["seen"] + second["seen"]) == list(range(33))
    assert first["state"].keys() == second["state"].keys()
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name


def test_with_frozen_batch_norm_two_processes_step_like_one(tmp_path):
    """33 images make batches of 7 and 6, so the processes' parts are uneven."""
    alone = one_epoch(tmp_path, 1, freeze=True)[0]
    first, second = one_epoch(tmp_path, 2, freeze=True)
    start = build_model(tiny_recipe(), tiny_splits(images=33)).state_dict()
    moved = 0.0
    for name, tensor in alone["state"].items():
        torch.testing.assert_close(first["state"][name], tensor, rtol=1e-4, atol=1e-6)
        moved = max(moved, float((tensor.float() - start[name].float()).abs().max()))
    assert moved > 0.01  # or agreeing would mean nothing
    for key in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        assert abs(first["history"][0][key] - alone["history"][0][key]) < 1e-4
        assert first["history"][0][key] == second["history"][0][key]


def test_saving_in_the_middle_of_an_epoch_counts_no_image_twice(tmp_path):
    histories = []
    for every in (0, 2):
        (tmp_path / str(every)).mkdir()
        found = one_epoch(tmp_path / str(every), 2, freeze=False, checkpoint_every_steps=every)
        histories.append(found[0]["history"][0])
    for key in ("loss", "accuracy", "validation_loss"):
        assert histories[0][key] == histories[1][key]
