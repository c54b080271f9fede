"""What `slides.py` times: our classifiers of bags, and attention as it is commonly written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import h5py
import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from loss_attention.bags.bag_set import BagSet

HIDDEN, UNITS, DROPOUT = 256, 128, 0.25
"""Of every network: features after the hidden layer, and units of the attention."""
LEARNING_RATE = 1e-4
DRAWN = 10
"""With `most_instances`, a tenth of each slide is trained on."""
PLAIN, TORCHMIL = "plain torch, gated attention", "torchmil, gated attention"
OURS = {
    "loss-attention": ("loss-attention", 1),
    "gated attention": ("gated-attention", 1),
    "loss-attention, a tenth drawn": ("loss-attention", DRAWN),
}
"""Our classifiers: their pooling, and the part of a slide that a step sees, one of so many."""
Work = Literal["training", "evaluation"]


def slide_path(folder: Path, number: int) -> Path:
    """Return the file of a slide."""
    return folder / f"slide_{number:04}.h5"


class PlainAttention(nn.Module):
    """Gated attention (Ilse et al. 2018, Eqs. 7 to 9), as it is commonly written.

    Args:
        width: D, features of an instance.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT))
        self.tanh = nn.Sequential(nn.Linear(HIDDEN, UNITS), nn.Tanh())
        self.gate = nn.Sequential(nn.Linear(HIDDEN, UNITS), nn.Sigmoid())
        self.score = nn.Linear(UNITS, 1)
        self.classifier = nn.Linear(HIDDEN, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (2,) of a bag of features (M, D)."""
        hidden = self.hidden(features)
        scores = self.score(self.tanh(hidden) * self.gate(hidden))
        weights = torch.softmax(scores, dim=0)
        logits: Tensor = self.classifier((weights * hidden).sum(dim=0))
        return logits


def of_torchmil(width: int) -> nn.Module:
    """Return torchmil's gated attention of the same size; its logit is of the second class."""
    from torchmil.models import ABMIL

    hidden = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT))
    network: nn.Module = ABMIL(in_shape=(width,), att_dim=UNITS, gated=True, feat_ext=hidden)
    return network


class Plain:
    """A network that is trained and evaluated on one slide at a time, read whole to float32."""

    def __init__(self, folder: Path, bags: BagSet, seed: int, kind: str) -> None:
        torch.manual_seed(seed)
        self.folder, self.labels = folder, bags.labels
        if kind == TORCHMIL:
            network = of_torchmil(bags.width)
            self.logits: Callable[[Tensor], Tensor] = lambda one: network(one[None])[0]
            self.loss: Callable[[Tensor, Tensor], Tensor] = lambda logit, label: (
                nn.functional.binary_cross_entropy_with_logits(logit, label.float())
            )
        else:
            network = self.logits = PlainAttention(bags.width)
            self.loss = nn.functional.cross_entropy
        self.network = network
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)

    def features(self, number: int) -> Tensor:
        """Return the features of a slide."""
        with h5py.File(slide_path(self.folder, number), "r") as file:
            return torch.from_numpy(file["features"][:]).float()

    def training(self, slides: Sequence[int]) -> int:
        """Take a step on each slide, and return how many instances were seen."""
        self.network.train()
        seen = 0
        for number in slides:
            features = self.features(number)
            loss = self.loss(self.logits(features), self.labels[number])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            seen += len(features)
        return seen

    @torch.no_grad()
    def evaluation(self, slides: Sequence[int]) -> int:
        """Decide on each slide, and return how many instances were seen."""
        self.network.eval()
        seen = 0
        for number in slides:
            features = self.features(number)
            float(self.logits(features).argmax())
            seen += len(features)
        return seen


class Ours:
    """A `BagClassifier`, with a slide a step."""

    def __init__(self, bags: BagSet, seed: int, pooling: str, part: int) -> None:
        from loss_attention.bags.recipe import BagRecipe
        from loss_attention.bags.training import BagTrainer, build_bag_model

        self.bags = bags
        recipe = BagRecipe(
            pooling=pooling,
            hidden=(HIDDEN,),
            dropout=DROPOUT,
            batch_bags=1,
            most_instances=None if part == 1 else max(1, int(bags.sizes.max()) // part),
            learning_rate=LEARNING_RATE,
            normalise=False,  # that is: it divides by 1, and a first pass is measured by itself
            seed=seed,
        )
        self.trainer = BagTrainer(build_bag_model(recipe, bags), bags, recipe)

    def training(self, slides: Sequence[int]) -> int:
        """Take a step on each slide, and return how many instances were seen."""
        trainer, most = self.trainer, self.trainer.recipe.most_instances
        trainer.model.train()
        seen = 0
        for number in slides:
            trainer.train_step(np.array([number]), 0.0)
            trainer.step += 1
            size = int(self.bags.sizes[number])
            seen += size if most is None else min(size, most)
        return seen

    def evaluation(self, slides: Sequence[int]) -> int:
        """Decide on each slide, and return how many instances were seen."""
        from loss_attention.bags.training import predicted

        part = self.bags.subset(list(slides))
        for prediction in predicted(self.trainer.model, part):
            float(prediction.logits.argmax())
        return int(part.sizes.sum())


def names() -> list[str]:
    """Return what is measured: torchmil where it is installed."""
    return [*OURS, PLAIN, *([TORCHMIL] if find_spec("torchmil") else [])]


def classifier(name: str, folder: Path, bags: BagSet, seed: int) -> Ours | Plain:
    """Return what is measured, by its name."""
    if name in OURS:
        return Ours(bags, seed, *OURS[name])
    return Plain(folder, bags, seed, name)
