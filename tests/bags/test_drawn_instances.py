"""Large bags in training: which instances a step sees, and that no others are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bags.bag_files import write
from jaxtyping import Int, Num

from loss_attention.bags import training
from loss_attention.bags.bag_set import BagSet, Instances
from loss_attention.bags.made_up import digit_bags
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.reading import read_bags
from loss_attention.bags.recipe import BagRecipe
from loss_attention.bags.training import BagTrainer, build_bag_model, fit_bags, predicted

MOST = 5
RECIPE = BagRecipe(
    hidden=(8,), epochs=3, batch_bags=4, most_instances=MOST, normalise=False, learning_rate=0.01
)


class Noted(Instances):
    """Instances of which is noted what is read: the bag, and which of its instances."""

    def __init__(self, real: Instances) -> None:
        self.real, self.sizes, self.width = real, real.sizes, real.width
        self.read: list[tuple[int, list[int]]] = []

    def features(self, bag: int, start: int = 0, stop: int | None = None) -> Num[np.ndarray, "M D"]:
        self.read.append((bag, list(range(int(self.sizes[bag])))[start:stop]))
        return self.real.features(bag, start, stop)

    def features_at(self, bag: int, index: Int[np.ndarray, " n"]) -> Num[np.ndarray, "n D"]:
        self.read.append((bag, index.tolist()))
        return self.real.features(bag)[index]

    def coordinates(self, bag: int) -> Num[np.ndarray, "M 2"] | None:
        return self.real.coordinates(bag)

    def fingerprint(self) -> str:
        return self.real.fingerprint()


@pytest.fixture(scope="module")
def bags() -> BagSet:
    return digit_bags(12, seed=3)


def trained(bags: BagSet, recipe: BagRecipe = RECIPE) -> BagClassifier:
    return fit_bags(bags, recipe)


def assert_same_weights(model: BagClassifier, other: BagClassifier) -> None:
    theirs = other.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_a_step_reads_what_was_drawn_and_each_epoch_draws_anew(bags: BagSet) -> None:
    noted = Noted(bags.instances)
    trained(replace(bags, instances=noted))
    assert len(noted.read) == RECIPE.epochs * len(bags)
    drawn: dict[int, list[list[int]]] = {}
    for bag, index in noted.read:
        size = int(bags.sizes[bag])
        assert index == sorted(set(index))
        assert len(index) == min(size, MOST)
        assert 0 <= index[0] <= index[-1] < size
        drawn.setdefault(bag, []).append(index)
    large = [each for bag, each in drawn.items() if bags.sizes[bag] > 2 * MOST]
    assert len(large) > 2
    assert all(len(set(map(tuple, each))) == RECIPE.epochs for each in large)


def test_every_instance_is_drawn_equally_often(bags: BagSet) -> None:
    noted = Noted(bags.instances)
    watched = replace(bags, instances=noted)
    trainer = BagTrainer(build_bag_model(RECIPE, bags), watched, RECIPE)
    bag, epochs = int(bags.sizes.argmax()), 2000
    for trainer.epoch in range(epochs):
        trainer._instances(bag)
    size = int(bags.sizes[bag])
    counts = np.bincount([one for _, index in noted.read for one in index], minlength=size)
    part = MOST / size
    assert counts.sum() == epochs * MOST
    assert np.abs(counts - epochs * part).max() < 5 * np.sqrt(epochs * part * (1 - part))


@pytest.mark.parametrize("ending", [".h5", ".pt", ".npy", ".safetensors", ".zarr"])
def test_from_files_it_learns_what_it_learns_in_memory(
    ending: str, bags: BagSet, tmp_path: Path
) -> None:
    narrow, rows = Narrow(bags.instances, 16), ["bag,label"]
    for bag, name in enumerate(bags.names):
        write(tmp_path / f"{name}{ending}", narrow.features(bag))
        rows.append(f"{name},{bags.class_names[bags.labels[bag]]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    of_files = read_bags(str(tmp_path))
    order = [of_files.names.index(name) for name in bags.names]
    model = trained(of_files.subset(order))
    assert_same_weights(model, trained(replace(bags, instances=narrow)))


class Narrow(Noted):
    """The first features alone, and 1 more: zarr leaves out blocks of zeros."""

    def __init__(self, real: Instances, width: int) -> None:
        super().__init__(real)
        self.width = width

    def features(self, bag: int, start: int = 0, stop: int | None = None) -> Num[np.ndarray, "M D"]:
        return self.real.features(bag, start, stop)[:, : self.width] + 1

    def features_at(self, bag: int, index: Int[np.ndarray, " n"]) -> Num[np.ndarray, "n D"]:
        return self.features(bag)[index]


@pytest.mark.parametrize(("pooling", "passes"), [("loss-attention", 1), ("additive", 2)])
def test_a_bag_is_read_many_parts_at_a_time(
    pooling: str, passes: int, bags: BagSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BagClassifier(bags.width, 2, pooling=pooling, hidden=(8,)).eval()
    noted = Noted(bags.instances)
    size = int(bags.sizes.max())
    alone = replace(bags, instances=noted).subset([int(bags.sizes.argmax())])
    with torch.no_grad():
        whole = model(torch.from_numpy(alone.features(0))[None]).logits
    noted.read.clear()
    for ahead, reads in ((10**9, 1), (6 * bags.width, passes * -(-size // 6))):
        monkeypatch.setattr(training, "READ_AHEAD", ahead)
        (found,) = predicted(model, alone, at_once=3)
        torch.testing.assert_close(found.logits, whole)
        once = noted.read[: reads // (passes if reads > 1 else 1)]
        assert [one for _, index in once for one in index] == list(range(size))
        assert len(noted.read) == reads
        noted.read.clear()


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_what_a_model_is_given_stays_as_it_is(kind: torch.dtype) -> None:
    model = BagClassifier(4, 2, hidden=(8,))
    model.set_normalisation(torch.arange(4.0), 1 + torch.arange(4.0))
    features = torch.randn(7, 4).to(kind)
    before = features.clone()
    logits = model.decide(features, torch.tensor([3, 4])).logits
    assert torch.equal(features, before)
    normalised = (features.float() - torch.arange(4.0)) / (1 + torch.arange(4.0))
    model.set_normalisation(torch.zeros(4), torch.ones(4))
    assert torch.equal(model.decide(normalised, torch.tensor([3, 4])).logits, logits)
