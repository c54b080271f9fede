"""Fine-tuning: AdamW, clipping and kept statistics against torch's own, and resumed to the bit."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from training.test_processes import one_epoch
from training.test_resume import figures
from training.tiny import new_run, run_stopped_at, start_run, tiny_recipe, tiny_splits

from loss_attention.losses import single_label_loss
from loss_attention.model import load
from loss_attention.training.job import build_model, continue_run, make_trainer
from loss_attention.training.optimisation import keep_statistics
from loss_attention.training.recipe import RunOptions
from loss_attention.training.trainer import Trainer

CPU = RunOptions(accelerator="cpu")
PLAIN = {"crop_padding": 0, "gamma_max": 0.0, "validation_fraction": 0.0}
NO_NORM_OUTSIDE = {"backbone": "resnet18", "head": "baseline", "strided_layers": ()}
"""All batch norm of this network is its backbone's."""


def trainer_in(
    folder: Path, *, accumulate: int = 1, precision: Any = "32-true", **changes: Any
) -> Trainer:
    recipe, splits = tiny_recipe(**PLAIN | changes), tiny_splits(held_out=0.0)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    empty = splits.trainval.subset(torch.empty(0, dtype=torch.int64))
    model = build_model(recipe, splits)
    options = RunOptions(accumulate=accumulate)
    run = new_run(folder, recipe)
    trainer = make_trainer(fabric, recipe, model, splits.trainval, empty, run, options)
    trainer.network.train()
    return trainer


def test_three_steps_are_those_of_torchs_adamw(tmp_path: Path) -> None:
    """With rates of blocks, by name: eight convolutions, each with batch norm, then the head."""
    trainer = trainer_in(
        tmp_path / "run",
        optimizer="adamw",
        learning_rate=0.01,
        weight_decay=0.3,
        backbone_rate=0.5,
        layer_decay=0.8,
        momentum=0.85,
    )
    twin = copy.deepcopy(trainer.model)

    def rate(name: str) -> float:
        # Convolution, batch norm, ReLU: three layers a block.
        return 0.01 * 0.5 * 0.8 ** (8 - _layer(name) // 3) if "backbone" in name else 0.01

    adamw = torch.optim.AdamW(
        [
            {"params": [p], "lr": rate(name), "weight_decay": 0.3 if p.ndim > 1 else 0.0}
            for name, p in twin.named_parameters()
        ],
        betas=(0.85, 0.999),
    )
    for batch in torch.arange(24).split(8):
        data = trainer.train_set.subset(batch)
        adamw.zero_grad()
        single_label_loss(twin(data.images), data.labels).backward()
        adamw.step()
        trainer.train_step(batch, 0.0)
    for (name, p), other in zip(trainer.model.named_parameters(), twin.parameters(), strict=True):
        # Batch norm takes such a bias away: its gradient is rounding, and AdamW makes it large.
        if not (name.startswith("backbone") and name.endswith("bias") and _layer(name) % 3 == 0):
            torch.testing.assert_close(p, other, rtol=1e-4, atol=1e-6, msg=name)


def _layer(name: str) -> int:
    return int(name.split(".")[2])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_is_shortened_as_torch_does_it(accumulate: int, tmp_path: Path) -> None:
    """That of the whole step, taken in parts or not: batch norm sees no batch here."""
    trainer = trainer_in(
        tmp_path / "run",
        accumulate=accumulate,
        clip_gradients=0.05,
        frozen_statistics=True,
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=1.0,
        **NO_NORM_OUTSIDE,
    )
    twin = copy.deepcopy(trainer.model).eval()
    data = trainer.train_set.subset(torch.arange(8))
    single_label_loss(twin(data.images), data.labels).backward()
    length = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
    assert length > 0.1  # or nothing was shortened
    with torch.no_grad():
        for p in twin.parameters():
            p -= p.grad
    keep_statistics(trainer.model.backbone)  # as each epoch begins
    trainer.train_step(torch.arange(8), 0.0)
    for p, other in zip(trainer.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, other, rtol=1e-4, atol=1e-6)


def test_a_gradient_that_is_short_enough_stays_as_it_is(tmp_path: Path) -> None:
    ends = []
    for name, most in (("without", 0.0), ("with", 1e6)):
        trainer = trainer_in(tmp_path / name, clip_gradients=most)
        trainer.train_step(torch.arange(8), 0.0)
        ends.append(trainer.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_step_in_bf16_is_clipped_too(tmp_path: Path) -> None:
    trainer = trainer_in(
        tmp_path / "run",
        precision="bf16-mixed",
        clip_gradients=1e-3,
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=1.0,
    )
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train_step(torch.arange(8), 0.0)
    moved = [p.detach() - q for p, q in zip(trainer.model.parameters(), before, strict=True)]
    length = torch.cat([one.flatten() for one in moved]).norm()
    assert float(length) == pytest.approx(1e-3, rel=1e-2)


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: value.clone()
        for name, value in model.state_dict().items()
        if name.split(".")[-1] in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_kept_statistics_stay_to_the_bit_while_weights_are_trained(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path / "run", frozen_statistics=True, average_weights=0.9, epochs=2)
    generator = torch.Generator().manual_seed(0)
    for name, value in trainer.model.backbone.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(generator=generator)
    trainer.averaged.model.load_state_dict(trainer.model.state_dict())
    before, weights = statistics(trainer.model), trainer.model.state_dict()
    weights = {name: value.clone() for name, value in weights.items()}
    assert trainer.train()
    for model in (trainer.model, trainer.averaged.model):
        after = statistics(model)
        for name in before:
            same = torch.equal(after[name], before[name])
            of_head = name.startswith("head") and "tracked" not in name
            assert same or not name.startswith("backbone")
            assert not (same and of_head)
    changed = trainer.model.state_dict()
    for name, _ in trainer.model.named_parameters():
        if not name.endswith(".bias"):  # a bias under kept statistics does learn, by little
            assert not torch.equal(changed[name], weights[name]), name


ALL = {
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "backbone_rate": 0.5,
    "layer_decay": 0.8,
    "clip_gradients": 0.5,
    "frozen_statistics": True,
    "average_weights": 0.8,
    "schedule": "one-cycle",
    "epochs": 3,
}


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path, monkeypatch) -> None:
    splits = tiny_splits()
    before = start_run(tmp_path / "before", tiny_recipe(epochs=1), splits, CPU)
    assert continue_run(before, splits)
    recipe = tiny_recipe(**ALL, initial=str(before.path))
    whole = start_run(tmp_path / "whole", recipe, splits, CPU)
    assert continue_run(whole, splits)
    stopped = run_stopped_at(tmp_path / "stopped", recipe, splits, (2, 9), monkeypatch)
    one, two = load(whole.path).state_dict(), load(stopped.path).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert figures(whole.path) == figures(stopped.path)
    states = [run.load_state()["optimizer"]["state"] for run in (whole, stopped)]
    for index, moments in states[0].items():
        assert all(torch.equal(moments[name], states[1][index][name]) for name in moments)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("timm/test_efficientnet", 32),
        ("timm/test_vit", 32),
        pytest.param("timm/swin_tiny_patch4_window7_224", 64, marks=pytest.mark.slow),
    ],
)
def test_a_step_of_a_pretrained_kind_of_backbone(name: str, side: int, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    splits = tiny_splits(16)
    images = splits.trainval.images.repeat(1, 3, 1, 1).float()
    images = nn.functional.interpolate(images, size=(side, side)).to(torch.uint8)
    large = replace(splits.trainval, images=images, boxes=None, box_labels=None)
    splits = replace(splits, trainval=large, test=large)
    changes = {"backbone": name, "width": 1.0, "strided_layers": (), "in_channels": 3}
    recipe = tiny_recipe(**ALL | changes | {"epochs": 1, "patch_kernel": 1, "batch_size": 8})
    run = start_run(tmp_path / "run", recipe, splits, CPU)
    before = {n: p.clone() for n, p in build_model(recipe, splits).named_parameters()}
    assert continue_run(run, splits)
    after = dict(load(run.path).named_parameters())
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(before)  # all but what this map does not need


def test_two_processes_step_like_one(tmp_path: Path) -> None:
    changes = {"backbone_rate": 0.5, "layer_decay": 0.8, "clip_gradients": 0.5}
    (alone,) = one_epoch(tmp_path, 1, freeze=True, changes=changes)
    first, second = one_epoch(tmp_path, 2, freeze=True, changes=changes)
    (unclipped,) = one_epoch(tmp_path, 1, freeze=True)
    for name, tensor in alone["state"].items():
        torch.testing.assert_close(first["state"][name], tensor, rtol=1e-4, atol=1e-6)
        assert torch.equal(first["state"][name], second["state"][name])
    weight = "backbone.layers.0.weight"
    assert not torch.allclose(alone["state"][weight], unclipped["state"][weight], rtol=1e-3)


def test_two_processes_keep_statistics_alike(tmp_path: Path) -> None:
    changes = {"optimizer": "adamw", "learning_rate": 0.01, "frozen_statistics": True}
    first, second = one_epoch(tmp_path, 2, freeze=False, changes=changes)
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name
        if name.startswith("backbone") and name.endswith("running_var"):
            assert torch.equal(tensor, torch.ones_like(tensor))
