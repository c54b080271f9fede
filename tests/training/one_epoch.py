"""What each process of a test does, in a file of its own: spawned processes import it from here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from training.tiny import tiny_recipe, tiny_splits

from loss_attention.training.guidance import Guide
from loss_attention.training.job import build_model, make_trainer
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.sampling import process_part


class FrozenBatchNorm(nn.BatchNorm2d):
    """Stays in evaluation mode, as in fine-tuning."""

    def train(self, mode: bool = True) -> FrozenBatchNorm:
        return super().train(mode=False)


class OneEpoch:
    """Trains an epoch and saves what this process saw and ended with."""

    def __init__(
        self,
        folder: Path,
        *,
        freeze: bool,
        changes: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.folder, self.freeze, self.options = folder, freeze, options
        self.changes = {"learning_rate": 0.5, **(changes or {})}

    def __call__(self, fabric: Fabric) -> None:
        torch.set_num_threads(1)
        recipe, splits = tiny_recipe(epochs=1, **self.changes), tiny_splits(images=33)
        model = build_model(recipe, splits)
        if self.freeze:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.__class__ = FrozenBatchNorm
        trainer = make_trainer(
            fabric,
            recipe,
            model,
            splits.trainval,
            splits.validation,
            RunFolder(self.folder),
            RunOptions(**self.options),
            guide=Guide.of(splits.trainval, recipe) if recipe.guide else None,
        )
        parts: list[torch.Tensor] = []
        model.register_forward_pre_hook(
            lambda module, inputs: parts.append(inputs[0].clone()) if module.training else None
        )
        seen: list[Any] = []
        step = trainer.train_step

        def watched(batch, gamma):
            seen.extend(batch[process_part(batch, fabric.global_rank, fabric.world_size)].tolist())
            step(batch, gamma)

        trainer.train_step = watched  # type: ignore[method-assign]
        trainer.train()
        torch.save(
            {
                "seen": seen,
                "parts": parts,
                "state": model.state_dict(),
                "history": trainer.position.history,
            },
            self.folder / f"rank{fabric.global_rank}of{fabric.world_size}.pt",
        )
