"""Whatever stops a run, resuming it ends with the same weights, to the last bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training.tiny import tiny_recipe, tiny_splits

from loss_attention.errors import InputError
from loss_attention.models import load
from loss_attention.training.job import RunOptions, continue_run, start_run
from loss_attention.training.run_folder import RunFolder

TESTS = Path(__file__).parents[1]


def launch(folder: Path, devices: int = 1) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "training.killable", str(folder), str(devices)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_to_end(folder: Path, devices: int = 1) -> None:
    out, err = launch(folder, devices).communicate(timeout=120)
    assert "finished" in out, err


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
    run_to_end(folder)
    return folder


def test_killed_at_random_moments_ends_bit_identical(whole_run, tmp_path):
    folder = tmp_path / "run"
    chance = random.Random(0)
    killed_in_training = 0
    for _ in range(5):
        process = launch(folder)
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        time.sleep(chance.uniform(0.05, 0.8))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        killed_in_training += process.returncode == -signal.SIGKILL
    assert killed_in_training >= 3  # or the run is too short to prove anything
    run_to_end(folder)
    assert_same_run(folder, whole_run)
    assert [file.name for file in folder.glob(".*")] == [".lock"]


def test_ctrl_c_finishes_the_step_and_saves(whole_run, tmp_path):
    folder = tmp_path / "run"
    process = launch(folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    while not (folder / "state.pt").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == "interrupted\n"
    assert process.returncode == 0, err
    state = RunFolder(folder).load_state()
    assert state is not None
    assert 0 < state["position"]["epoch"] * 6 + state["position"]["step"] < 12 * 6
    run_to_end(folder)
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
    run_to_end(whole, devices=2)
    process = launch(folder, devices=2)
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    while not (folder / "state.pt").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # to the waiting process alone, which passes it on
    out, err = process.communicate(timeout=60)
    assert out == "interrupted\n", err
    run_to_end(folder, devices=2)
    assert_same_run(folder, whole)


def test_a_run_in_training_is_left_alone_by_another_process(tmp_path: Path) -> None:
    recipe, splits = tiny_recipe(epochs=1), tiny_splits()
    run = start_run(tmp_path / "run", recipe, splits, RunOptions(accelerator="cpu"))
    with run.locked():
        with pytest.raises(InputError, match="another process is training the run"):
            continue_run(run, splits)
        with pytest.raises(InputError, match="another process is training the run"):
            start_run(run.path, recipe, splits, RunOptions(accelerator="cpu"), overwrite=True)
    assert continue_run(run, splits)


def test_a_killed_run_leaves_no_lock_behind(tmp_path: Path) -> None:
    held = (
        "import sys, time; from pathlib import Path\n"
        "from loss_attention.training.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another process"), RunFolder(tmp_path).locked():
        pass
    process.kill()
    process.communicate()
    with RunFolder(tmp_path).locked():
        pass
