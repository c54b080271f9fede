"""Streamed, a run computes what it computes in memory, whatever stops it, and leaves nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from apart import apart, ended, heard, until
from rich.console import Console
from training.several import in_processes
from training.stored import load_stored, store_tiny
from training.stream_epoch import StreamedEpoch, train_in_a_group_of_its_own
from training.test_resume import assert_same_run
from training.tiny import start_run, tiny_recipe

from loss_attention.cli import subcommands
from loss_attention.data.sample import Splits
from loss_attention.data.streaming import Reader
from loss_attention.errors import InputError
from loss_attention.evaluation.measuring import evaluate
from loss_attention.model import load
from loss_attention.training.job import continue_run
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import Trainer

CPU = RunOptions(accelerator="cpu", checkpoint_every_steps=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_tiny(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def in_memory(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs with the images in memory."""
    return trained(tmp_path_factory.mktemp("memory") / "run", load_stored(data, "no"))


def recipe() -> Recipe:
    return tiny_recipe(epochs=2, horizontal_flip=True)


def trained(folder: Path, splits: Splits) -> Path:
    assert continue_run(start_run(folder, recipe(), splits, CPU), splits)
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_training_and_evaluation_are_those_in_memory(
    data: Path, in_memory: Path, tmp_path: Path, workers: int
) -> None:
    splits = load_stored(data, workers=workers)
    folder = trained(tmp_path / "run", splits)
    assert multiprocessing.active_children() == []
    assert_same_run(folder, in_memory)
    facts = [RunFolder(path).facts() for path in (folder, in_memory)]
    assert [one["options"]["stream"] for one in facts] == ["yes", "no"]
    assert facts[0]["storage"] == splits.storage
    assert facts[0]["normalisation"] == facts[1]["normalisation"]
    model, memory = load(in_memory), load_stored(data, "no")
    found = evaluate(
        model, splits.test, train=splits.trainval, held_out=splits.trainval, batch_size=7
    )
    expected = evaluate(
        model, memory.test, train=memory.trainval, held_out=memory.trainval, batch_size=7
    )
    assert found.to_json() == expected.to_json()


def test_stopped_inside_an_epoch_and_resumed_it_ends_bit_identical(
    data: Path, in_memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(tmp_path / "run", recipe(), load_stored(data), CPU)
    train_step, steps = Trainer.train_step, 0

    def watched(self: Trainer, batch: Any, gamma: float) -> None:
        nonlocal steps
        train_step(self, batch, gamma)
        steps += 1
        self.stop.requested = steps in (3, 8)  # of 6 an epoch

    monkeypatch.setattr(Trainer, "train_step", watched)
    monkeypatch.setattr(Reader, "_read_now", None)  # the workers begin where the run stopped
    for _ in range(2):
        assert not continue_run(run, load_stored(data, workers=1))
        assert multiprocessing.active_children() == []
    assert continue_run(run, load_stored(data, workers=1))
    assert steps == 12  # none was done twice
    assert_same_run(run.path, in_memory)


def test_an_image_that_breaks_stops_the_run_and_the_last_checkpoint_stays(
    data: Path, tmp_path: Path, in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = load_stored(data, workers=1)
    run = start_run(tmp_path / "run", recipe(), splits, CPU)
    files = {file: file.read_bytes() for file in (data / "train").iterdir()}
    train_step = Trainer.train_step

    def watched(self: Trainer, batch: Any, gamma: float) -> None:
        train_step(self, batch, gamma)
        if (self.position.epoch, self.position.step) == (0, 5):
            for file, content in files.items():
                file.write_bytes(content[: len(content) // 2])

    monkeypatch.setattr(Trainer, "train_step", watched)
    with pytest.raises(InputError, match=r"cannot be read: train/\d+\.png \(") as caught:
        continue_run(run, splits)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []
    state = run.load_state()
    assert state is not None
    assert (state["position"]["epoch"], state["position"]["step"]) == (0, 4)
    monkeypatch.undo()
    for file, content in files.items():
        file.write_bytes(content)
    assert continue_run(run, load_stored(data, workers=1))
    assert_same_run(run.path, in_memory)


@pytest.mark.parametrize("devices", [1, 2])
def test_each_image_is_decoded_once_an_epoch_over_all_processes(
    data: Path, tmp_path: Path, devices: int
) -> None:
    in_processes(StreamedEpoch(data, tmp_path), devices)
    ranks = [torch.load(tmp_path / f"rank{rank}of{devices}.pt") for rank in range(devices)]
    assert Counter(name for rank in ranks for name in rank["seen"]) == {
        f"train/{i:03}.png": 1 for i in range(46)
    }
    # Batches of 8, 8, 8, 8, 7, 7; the first process takes the odd image.
    assert [len(rank["seen"]) for rank in ranks] == {1: [46], 2: [24, 22]}[devices]
    for name, tensor in ranks[0]["state"].items():
        assert torch.equal(tensor, ranks[-1]["state"][name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_leave_no_process_behind(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C in a terminal comes to every process of the group; a kill to one alone."""
    process, told = apart(train_in_a_group_of_its_own, data, tmp_path / "run")
    workers = heard(told)
    assert len(workers) == 2
    assert all(map(alive, workers))
    assert process.pid is not None
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
        assert heard(told) is False  # not finished, and all saved
        assert ended(process) == 0
    else:
        process.kill()
        assert ended(process) == -signal.SIGKILL
    until(lambda: not any(map(alive, workers)))
    state = RunFolder(tmp_path / "run").load_state()
    assert state is not None
    assert state["position"]["epoch"] * 6 + state["position"]["step"] >= 8


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may stay in the list of processes."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return listed.stdout.strip()[:1] not in ("", "Z")


def test_the_terminal_says_which_was_chosen_and_resuming_keeps_to_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = RunOptions(accelerator="cpu", stream="yes", workers=0)
    asked = tiny_recipe(epochs=1, data=str(data), image_size=12)
    subcommands.train(Console(width=300), asked, options, tmp_path / "run")
    assert "images streamed from disk, as asked for: decoded they take" in capsys.readouterr().out
    run = RunFolder.open(tmp_path / "run")
    assert run.options().stream == "yes"
    subcommands.resume(Console(width=300), run.path)
    assert "images streamed from disk" in capsys.readouterr().out
    expected = run.read_json("evaluation.json")
    subcommands.evaluate(Console(quiet=True), run.path)
    assert run.read_json("evaluation.json") == expected
