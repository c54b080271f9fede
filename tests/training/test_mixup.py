"""Images mixed in pairs with their labels: drawn by the place in the run, for any processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from lightning_fabric import Fabric
from scipy import stats
from test_losses import predict, random_case
from torch import Tensor
from training.one_epoch import OneEpoch
from training.several import in_processes
from training.tiny import run_stopped_at, start_run, tiny_recipe, tiny_splits

from loss_attention.losses import margin_loss, multi_label_loss, single_label_loss
from loss_attention.prediction import ImagePrediction
from loss_attention.training import trainer as training
from loss_attention.training.job import build_model, continue_run, make_trainer
from loss_attention.training.mixup import Pairs, draw_pairs
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.sampling import process_part


def test_partners_are_a_permutation_and_fractions_follow_beta() -> None:
    pairs = draw_pairs(4000, 0.4, seed=0, epoch=1, step=2)
    assert sorted(pairs.partner.tolist()) == list(range(4000))
    # Folded at a half: P(kept <= x) = F(x) - F(1 - x).
    beta = stats.beta(0.4, 0.4)
    assert stats.kstest(pairs.kept.numpy(), lambda x: beta.cdf(x) - beta.cdf(1 - x)).pvalue > 0.01
    again, other = draw_pairs(4000, 0.4, 0, 1, 2), draw_pairs(4000, 0.4, 0, 1, 3)
    assert torch.equal(pairs.kept, again.kept)
    assert not torch.equal(pairs.kept, other.kept)
    assert draw_pairs(100, 0.01, 0, 0, 0).kept.isfinite().all()


def test_a_mixed_pair_by_hand() -> None:
    images = torch.tensor([100, 201, 7], dtype=torch.uint8).reshape(3, 1, 1, 1)
    pairs = Pairs(torch.tensor([1, 0, 2]), torch.tensor([0.75, 0.5, 0.9]))
    mixed, targets = pairs.mixed(images, torch.eye(3), slice(0, 3))
    assert mixed.flatten().tolist() == [125, 150, 7]  # 125.25, 150.5 to even, 7
    assert targets.tolist() == [[0.75, 0.25, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]


def test_parts_of_a_step_are_mixed_as_the_whole_is() -> None:
    images = torch.randint(0, 256, (13, 3, 4, 5), dtype=torch.uint8)
    targets = torch.eye(4)[torch.arange(13) % 4]
    pairs = draw_pairs(13, 1.0, seed=3, epoch=0, step=0)
    whole = pairs.mixed(images, targets, slice(0, 13))
    found = []
    for rank in range(3):
        part = process_part(torch.arange(13), rank, 3)
        needed = pairs.needed(part)
        assert len(set(needed.tolist())) == len(needed)
        found.append(pairs.mixed(images[needed], targets[needed], part))
    for one, parts in zip(whole, zip(*found, strict=True), strict=True):
        assert torch.equal(one, torch.cat(parts))


def fractions(labels: Tensor, others: Tensor, kept: float) -> Tensor:
    eye = torch.eye(4, dtype=torch.float64)
    return kept * eye[labels] + (1 - kept) * eye[others]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixed_targets_are_the_losses_of_both_labels_weighted(smoothing: float) -> None:
    """Eqs. 1 and 9 are linear in the label."""
    logits, labels, _ = random_case()
    others = (labels + 1) % 4
    prediction = predict(logits)
    mixed = single_label_loss(prediction, fractions(labels, others, 0.7), 0.5, smoothing)
    of_each = [single_label_loss(prediction, one, 0.5, smoothing) for one in (labels, others)]
    assert mixed.item() == pytest.approx(float(0.7 * of_each[0] + 0.3 * of_each[1]), abs=1e-12)
    lengths = ImagePrediction(prediction.logits)
    mixed = margin_loss(lengths, fractions(labels, others, 0.7))
    of_each = [margin_loss(lengths, one) for one in (labels, others)]
    assert mixed.item() == pytest.approx(float(0.7 * of_each[0] + 0.3 * of_each[1]), abs=1e-12)


def test_a_patch_answers_with_a_label_of_either_image() -> None:
    logits, _, matrix = random_case()
    others = matrix.roll(1, 0)
    prediction = predict(logits)
    z, p, alpha = (one.numpy() for one in (prediction.logits, logits, prediction.patch_weights))
    both = ((matrix + others) > 0).double().numpy()
    mixed = 0.6 * matrix.double() + 0.4 * others.double()
    expected = (
        0.6 * reference.multi_label_loss(z, p, alpha, matrix.numpy(), 0.0)
        + 0.4 * reference.multi_label_loss(z, p, alpha, others.numpy(), 0.0)
        + reference.multi_label_loss(z, p, alpha, both, 0.5)
        - reference.multi_label_loss(z, p, alpha, both, 0.0)
    )
    assert multi_label_loss(prediction, mixed, 0.5).item() == pytest.approx(expected, abs=1e-12)


def test_fractions_that_are_none_are_named() -> None:
    logits, labels, _ = random_case()
    with pytest.raises(ValueError, match="sum of 1 for each image"):
        single_label_loss(predict(logits), 0.5 * fractions(labels, labels, 0.5))
    with pytest.raises(ValueError, match=r"in \[0, 1\], got -1\.0"):
        single_label_loss(predict(logits), 1 - 2 * fractions(labels, labels, 0.5))


MIXED = tiny_recipe(epochs=1, mixup=0.5, horizontal_flip=True)


def state_of(run: RunFolder) -> dict[str, Tensor]:
    return torch.load(run.path / "state.pt", weights_only=True)["model"]


def test_a_mixed_run_goes_on_as_if_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = tiny_splits()
    whole = start_run(tmp_path / "whole", MIXED, splits, RunOptions(accelerator="cpu"))
    assert continue_run(whole, splits)
    broken = run_stopped_at(tmp_path / "broken", MIXED, splits, [2, 5], monkeypatch)
    plain = start_run(
        tmp_path / "plain", tiny_recipe(epochs=1), splits, RunOptions(accelerator="cpu")
    )
    assert continue_run(plain, splits)
    found, expected, other = state_of(broken), state_of(whole), state_of(plain)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not all(torch.equal(other[name], tensor) for name, tensor in expected.items())


def test_each_process_is_shown_its_part_of_what_one_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(rank: int, processes: int, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
        """The images and the targets of each step, without processes."""
        monkeypatch.setattr(
            training, "process_part", lambda batch, *_: process_part(batch, rank, processes)
        )
        splits, fabric = tiny_splits(images=33), Fabric(accelerator="cpu", devices=1)
        model = build_model(MIXED, splits)
        folder = RunFolder(tmp_path / f"{rank}of{processes}{len(options)}")
        trainer = make_trainer(
            fabric, MIXED, model, splits.trainval, splits.validation, folder, RunOptions(**options)
        )
        images: list[Tensor] = []
        targets: list[Tensor] = []

        def noted(prediction: ImagePrediction, labels: Tensor, gamma: float) -> Tensor:
            targets.append(labels)
            return single_label_loss(prediction, labels, gamma)

        trainer.loss = noted
        model.register_forward_pre_hook(lambda _, given: images.append(given[0].clone()))
        for step in range(3):
            batch = torch.arange(33).tensor_split(3)[step]
            trainer.position.step = step
            trainer.train_step(batch, 0.1)
        return images, targets

    whole, first, second = shown(0, 1), shown(0, 2), shown(1, 2)
    in_parts = shown(0, 1, accumulate=2)
    for what in (0, 1):
        for step in range(3):
            together = torch.cat([first[what][step], second[what][step]])
            assert torch.equal(together, whole[what][step])
            assert torch.equal(torch.cat(in_parts[what][2 * step : 2 * step + 2]), together)
    assert ((whole[1][0] > 0).sum(dim=1) == 2).any()
    assert np.allclose(whole[1][0].sum(dim=1), 1)


@pytest.mark.slow
def test_two_processes_step_like_one(tmp_path: Path) -> None:
    changes = {"mixup": 0.5, "horizontal_flip": True}
    for devices in (1, 2):
        in_processes(OneEpoch(tmp_path, freeze=True, changes=changes), devices)
    alone, first, second = (
        torch.load(tmp_path / f"rank{name}.pt") for name in ("0of1", "0of2", "1of2")
    )
    for name, tensor in alone["state"].items():
        assert torch.equal(first["state"][name], second["state"][name])
        torch.testing.assert_close(first["state"][name], tensor, rtol=1e-4, atol=1e-6)
