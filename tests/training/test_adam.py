"""Adam under the paper's schedule: what each step is given, and resuming to the last bit."""

import copy
import math

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from training.tiny import new_run, run_stopped_at, start_run, tiny_recipe, tiny_splits

from loss_attention.losses import single_label_loss
from loss_attention.model import load
from loss_attention.training.job import build_model, continue_run, make_trainer
from loss_attention.training.recipe import RunOptions

ADAM = {
    "optimizer": "adam",
    "schedule": "paper-adam",
    "learning_rate": 0.003,
    "weight_decay": 0.0,
    "epochs": 5,
}


def trainer_in(folder, **changes):
    recipe, splits = tiny_recipe(**{**ADAM, **changes}), tiny_splits()
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    run = new_run(folder, recipe)
    empty = splits.trainval.subset(torch.empty(0, dtype=torch.int64))
    model = build_model(recipe, splits)
    return make_trainer(fabric, recipe, model, splits.trainval, empty, run)


def test_each_step_gets_the_rate_and_betas_of_its_epoch(tmp_path):
    trainer = trainer_in(tmp_path / "run")
    seen = []
    step = trainer.optimizer.step

    def watched(*arguments, **options):
        group = trainer.optimizer.param_groups[0]
        seen.append((group["lr"], *group["betas"]))
        return step(*arguments, **options)

    trainer.optimizer.step = watched
    trainer.train()
    rates = [0.003 * math.exp(-5), 0.003 * math.exp(-5 / 4), 0.003, 0.0003, 0.00003]
    second = [0.99, 0.99, 0.999, 0.999, 0.999]
    steps = 6  # 46 images in batches of 8
    expected = [
        (rate, 0.9, beta2) for rate, beta2 in zip(rates, second, strict=True) for _ in range(steps)
    ]
    assert np.array(seen) == pytest.approx(np.array(expected))


def test_two_steps_are_those_of_adams_paper(tmp_path):
    """Kingma & Ba's Algorithm 1 in float64 NumPy, on the gradients of the same batches."""
    trainer = trainer_in(tmp_path / "run", crop_padding=0, gamma_max=0.0)
    batches = (torch.arange(0, 8), torch.arange(8, 16))
    twin = copy.deepcopy(trainer.model).train()
    name = "head.classifier.weight"
    assert name in dict(twin.named_parameters())
    weights = {n: p.detach().double().numpy().copy() for n, p in twin.named_parameters()}
    first = {n: np.zeros_like(w) for n, w in weights.items()}
    second = {n: np.zeros_like(w) for n, w in weights.items()}
    trainer.network.train()
    rate = 0.003 * math.exp(-5)
    for t, batch in enumerate(batches, start=1):
        data = trainer.train_set.subset(batch)
        loss = single_label_loss(twin(data.images), data.labels)
        twin.zero_grad()
        loss.backward()
        with torch.no_grad():
            for n, p in twin.named_parameters():
                g = p.grad.double().numpy()
                first[n] = 0.9 * first[n] + 0.1 * g
                second[n] = 0.99 * second[n] + 0.01 * g * g
                m, v = first[n] / (1 - 0.9**t), second[n] / (1 - 0.99**t)
                weights[n] -= rate * m / (np.sqrt(v) + 1e-8)
                p.copy_(torch.from_numpy(weights[n]))
        trainer.train_step(batch, 0.0)
        trainer.position.step += 1
    ours = dict(trainer.model.named_parameters())[name].detach().numpy()
    assert ours == pytest.approx(weights[name], abs=2e-6)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    recipe, splits = tiny_recipe(**ADAM), tiny_splits()
    whole = start_run(tmp_path / "whole", recipe, splits, RunOptions(accelerator="cpu"))
    assert continue_run(whole, splits)

    # In the ramp, right before beta2 changes, and in the constant part.
    stopped = run_stopped_at(tmp_path / "stopped", recipe, splits, (4, 11, 15), monkeypatch)

    expected, found = load(whole.path).state_dict(), load(stopped.path).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    states = [run.load_state()["optimizer"]["state"] for run in (whole, stopped)]
    assert len(states[0]) > 10
    for moment in ("exp_avg", "exp_avg_sq", "step"):
        assert all(torch.equal(states[0][i][moment], states[1][i][moment]) for i in states[0])
