"""Whatever stops a run, resuming it ends with the same weights, to the last bit."""

import json
import random
import signal
from pathlib import Path

import pytest
import torch
from apart import apart, ended, heard
from training import killable
from training.tiny import start_run, tiny_recipe, tiny_splits

from loss_attention.errors import InputError
from loss_attention.model import load
from loss_attention.training.job import RunOptions, continue_run
from loss_attention.training.run_folder import RunFolder


def assert_same_run(folder: Path, other: Path) -> None:
    best, expected = load(folder).state_dict(), load(other).state_dict()
    assert all(torch.equal(best[name], expected[name]) for name in expected)
    one, two = RunFolder(folder).load_state(), RunFolder(other).load_state()
    assert one is not None
    assert two is not None
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    momenta = [
        {key: value["momentum_buffer"] for key, value in state["optimizer"]["state"].items()}
        for state in (one, two)
    ]
    assert all(torch.equal(momenta[0][key], momenta[1][key]) for key in momenta[0])
    assert figures(folder) == figures(other)


def figures(folder: Path) -> list[dict[str, object]]:
    """The lines of metrics.jsonl but for what the clock decides."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = {"seconds", "images_per_second"}
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    killable.to_the_end(folder)
    return folder


def test_killed_at_random_moments_ends_bit_identical(whole_run, tmp_path):
    folder = tmp_path / "run"
    chance = random.Random(0)
    for _ in range(5):
        process, told = apart(killable.train_until_killed, folder, chance.randint(3, 9))
        assert heard(told) == "now"
        process.kill()
        assert ended(process) == -signal.SIGKILL
    killable.to_the_end(folder)
    assert_same_run(folder, whole_run)
    assert [file.name for file in folder.glob(".*")] == [".lock"]


def test_ctrl_c_finishes_the_step_and_saves(whole_run, tmp_path):
    folder = tmp_path / "run"
    process, told = apart(killable.train_interrupted, folder, 1, 33)
    assert heard(told) is False
    assert ended(process) == 0
    state = RunFolder(folder).load_state()
    assert state is not None
    assert (state["position"]["epoch"], state["position"]["step"]) == (5, 3)  # of 6 an epoch
    killable.to_the_end(folder)
    assert_same_run(folder, whole_run)


def test_resuming_with_other_data_is_refused(tmp_path):
    run = start_run(tmp_path / "run", tiny_recipe(), tiny_splits(), RunOptions(accelerator="cpu"))
    with pytest.raises(InputError, match=r"training data of .* has changed"):
        continue_run(run, tiny_splits(seed=1))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    options = RunOptions(accelerator="cpu")
    run = start_run(tmp_path / "run", tiny_recipe(epochs=1), tiny_splits(), options)
    assert continue_run(run, tiny_splits())
    run.write("recipe.yaml", tiny_recipe(epochs=2, width=0.1).to_yaml())
    with pytest.raises(InputError, match=r"is not of the model that its recipe\.yaml names"):
        continue_run(run, tiny_splits())


def test_ctrl_c_stops_two_processes_and_resuming_ends_like_an_uninterrupted_run(tmp_path):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    in_two_processes(whole)
    facts = RunFolder(whole).facts()
    assert facts["finished"]
    assert facts["hardware"]["processes"] == 2
    # To the waiting process alone, which passes it on.
    process, told = apart(killable.train_interrupted, folder, 2, 23)
    assert heard(told) is False
    assert ended(process) == 0
    state = RunFolder(folder).load_state()
    assert state is not None
    assert 23 <= state["position"]["epoch"] * 6 + state["position"]["step"] < killable.STEPS
    in_two_processes(folder)
    assert_same_run(folder, whole)


def in_two_processes(folder: Path) -> None:
    process, told = apart(killable.to_the_end_in_two, folder)
    assert heard(told) is True
    assert ended(process) == 0


def test_a_run_in_training_is_left_alone_by_another_process(tmp_path: Path) -> None:
    recipe, splits = tiny_recipe(epochs=1), tiny_splits()
    run = start_run(tmp_path / "run", recipe, splits, RunOptions(accelerator="cpu"))
    with RunFolder(run.path).locked():  # as another process would
        with pytest.raises(InputError, match="another process is training"):
            continue_run(run, splits)
        with pytest.raises(InputError, match="another process is training"):
            start_run(run.path, recipe, splits, RunOptions(accelerator="cpu"), overwrite=True)
    assert continue_run(run, splits)


def test_a_killed_run_leaves_no_lock_behind(tmp_path: Path) -> None:
    process, told = apart(killable.hold_lock, tmp_path)
    assert heard(told) == "held"
    with pytest.raises(InputError, match="another process"), RunFolder(tmp_path).locked():
        pass
    process.kill()
    assert ended(process) == -signal.SIGKILL
    with RunFolder(tmp_path).locked():
        pass
