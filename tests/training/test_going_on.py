"""After a divergence, a killed process, a full disk: one line, a code, and how to go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException
from training.tiny import start_run, tiny_recipe, tiny_splits
from typed import SMALL, exit_code, make_folder, run

from loss_attention.errors import InputError, KilledError, ReportedError
from loss_attention.interruption import StopRequest
from loss_attention.saving import SaveError
from loss_attention.training import job
from loss_attention.training.changing import change_learning_rate, change_processes
from loss_attention.training.job import continue_run
from loss_attention.training.processes import launch_processes
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import DivergedError, Trainer

CPU = RunOptions(accelerator="cpu")


def diverging(trainer: Trainer, batch: Any, gamma: float) -> None:
    """A step that a learning rate above 0.01 makes infinite in the second epoch."""
    STEP(trainer, batch, gamma)
    if trainer.recipe.learning_rate > 0.01 and trainer._finished_steps >= 3:
        trainer.bad_step.fill_(trainer._finished_steps + 1)


STEP = Trainer.train_step


def test_after_a_divergence_a_lower_rate_goes_on_from_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = make_folder(tmp_path / "images"), tmp_path / "run"
    words = [*SMALL, "--learning-rate", "0.05", "--epochs", "3", "--out", out]
    monkeypatch.setattr(Trainer, "train_step", diverging)
    assert exit_code("train", "folder", "--data", images, *words) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    said = said.replace("`learning_rate`", "--learning-rate")
    assert f"loss-attention resume {out} --learning-rate 0.005" in said
    assert exit_code("resume", out) == 3  # again, as nothing is changed
    run("resume", out, "--learning-rate", 0.005)
    assert "learning rate 0.005 in place of 0.05 from epoch 2 on" in capsys.readouterr().out
    folder = RunFolder.open(out)  # the digest is that of the recipe as it is now
    assert folder.recipe().learning_rate == 0.005
    (change,) = folder.facts()["changes"]
    assert change == {"learning_rate": [0.05, 0.005], "epoch": 1, "step": 0}
    assert [line["learning_rate"] for line in folder.metrics()] == pytest.approx(
        [0.05, 0.0025, 0.0]  # half a cosine from the peak down
    )
    for rate in (0.001, 0.005):
        assert exit_code("resume", out, "--learning-rate", rate) == 2
        assert "is finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--devices", 0), "`--devices` must be at least 1, got 0"),
        (("--devices", 100_000), "`--devices` 100000: "),
        (("--num-nodes", 0), "`--num-nodes` must be at least 1, got 0"),
        (("--num-nodes", 2), "torchrun or srun has to start a process for each device"),
    ],
)
def test_processes_that_no_run_can_have(
    words: tuple[Any, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start_run(tmp_path / "run", tiny_recipe(), tiny_splits(), CPU)
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    assert exit_code("resume", run.path, *words) == 2
    said = capsys.readouterr().err
    assert message.replace("`", "") in said.replace("`", "")
    assert said.count("\n") == 1
    after = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    assert before == after


def test_fewer_images_than_processes_is_one_line(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", tiny_recipe(), tiny_splits(), CPU)
    many = replace(run.options(), num_nodes=9)
    with pytest.raises(InputError, match="9 processes: with `batch_size` 8, a step"):
        change_processes(run, many, print)


def test_a_finished_run_changes_no_processes(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", tiny_recipe(epochs=1), tiny_splits(), CPU)
    assert continue_run(run, tiny_splits())
    with pytest.raises(InputError, match="is finished: `devices` and `num_nodes` change what"):
        change_processes(run, replace(run.options(), devices=2), print)
    change_processes(run, run.options(), print)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_no_run_can_have(rate: float, tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", tiny_recipe(), tiny_splits(), CPU)
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="`learning_rate` must be"):
        change_learning_rate(run, rate, print)
    after = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    assert before == after


@pytest.mark.parametrize("error", [DivergedError, SaveError])
def test_they_are_no_bad_input_and_values_all_the_same(error: type[ReportedError]) -> None:
    assert not issubclass(error, InputError)
    assert issubclass(error, ValueError)  # as in version 0.1
    codes = {kind.exit_code for kind in (DivergedError, SaveError, KilledError, InputError)}
    assert len(codes) == 4


class Launching:
    """Fabric, as far as a launch is concerned that goes wrong."""

    def __init__(self, error: Exception, told: ReportedError | None = None) -> None:
        self.error, self.told = error, told

    def launch(self, work: Any) -> None:
        if self.told is not None:
            work.problems.put((type(self.told), str(self.told)))
        raise self.error


def launched(launching: Any, *, requested: bool = False) -> dict[str, Any]:
    stop = StopRequest()
    stop.requested = requested
    return launch_processes(launching, lambda fabric, stop: {}, stop)


@pytest.mark.parametrize(
    "told", [DivergedError("NaN at step 3"), SaveError("disk full"), InputError("no image")]
)
def test_an_error_of_another_process_keeps_its_kind(told: ReportedError) -> None:
    trace = ProcessRaisedException("RuntimeError: Connection closed by peer", 0, 1)
    with pytest.raises(type(told), match=str(told)) as caught:
        launched(Launching(trace, told))
    assert type(caught.value) is type(told)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ProcessExitedException("...", 0, 1, -9, "SIGKILL"), "SIGKILL"),
        (ProcessExitedException("...", 0, 1, 1), "exit code 1"),
        (ProcessRaisedException("gloo: Connection closed by peer [::1]", 0, 1), "another"),
    ],
)
def test_a_process_that_ended_is_told_in_a_line(error: Exception, words: str) -> None:
    with pytest.raises(KilledError, match=words) as caught:
        launched(Launching(error))
    assert "\n" not in str(caught.value)
    assert "memory ran out" in str(caught.value)


def test_a_process_that_a_signal_ended_after_a_request_is_a_stop() -> None:
    error = ProcessExitedException("...", 0, 1, -15, "SIGTERM")
    assert launched(Launching(error), requested=True) == {"finished": False}


def test_what_only_we_can_have_got_wrong_keeps_its_traceback() -> None:
    with pytest.raises(ProcessRaisedException):
        launched(Launching(ProcessRaisedException("IndexError: 3", 0, 1)))


def test_a_killed_decoder_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KilledError("a process that decodes images was ended")

    run = start_run(tmp_path / "run", tiny_recipe(), tiny_splits(), CPU)
    monkeypatch.setattr(Trainer, "train_step", killed)
    with pytest.raises(KilledError, match=f"resume {run.path}$"):
        continue_run(run, tiny_splits())


def test_statistics_of_each_process_are_its_own_after_resuming(tmp_path: Path) -> None:
    """As a process has them that is the second of two, without a second process."""
    run = start_run(tmp_path / "run", tiny_recipe(epochs=1), tiny_splits(), CPU)
    assert continue_run(run, tiny_splits())
    state = run.load_state()
    assert state is not None
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    splits = tiny_splits()
    model = job.build_model(tiny_recipe(), splits)
    trainer = job.make_trainer(fabric, tiny_recipe(), model, splits.trainval, splits.trainval, run)
    flat = torch.cat([one.flatten() for one in trainer.statistics.tensors])
    mine = torch.arange(len(flat)).to(flat)
    rows = state | {"statistics": torch.stack([mine, 3 * mine])}
    for rank, processes, expected in ((1, 2, 3 * mine), (0, 2, mine), (0, 1, 2 * mine)):
        place = SimpleNamespace(global_rank=rank, world_size=processes, device=fabric.device)
        trainer.statistics._fabric = place  # of another number of processes: their mean
        trainer.restore(rows)
        found = torch.cat([one.flatten() for one in trainer.statistics.tensors])
        assert torch.equal(found, expected)
    assert json.loads(json.dumps(trainer.position.best_epoch)) == 1
