"""torchrun starts a training again: the run of the attempt before goes on, and no other."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from apart import HANG, until
from rich.console import Console
from training.tiny import tiny_recipe, tiny_splits
from typed import SMALL, make_folder

from loss_attention.errors import InputError
from loss_attention.fitting import fit_images
from loss_attention.model import load
from loss_attention.training.changing import change_learning_rate, change_loggers
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.restarting import attempt, goes_on
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import Trainer

CPU = RunOptions(accelerator="cpu", checkpoint_every_steps=2)
QUIET = Console(quiet=True)
EPOCHS = 8
"""Of the run that is killed: some seconds, of which a look at it takes hundredths."""


class DiedError(Exception):
    """In place of a kill."""


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have this process be one that torchrun started, in an attempt of a call."""
    for name in ("RANK", "GROUP_RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")

    def started(number: int, call: str = "a", job: str = "none") -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(number))
        log = f"/tmp/torchelastic_{call}/{job}_{call}/attempt_{number}/0/error.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", log)

    return started


def fit(path: Path, recipe: Recipe, *, options: RunOptions = CPU, overwrite: bool = False) -> Any:
    return fit_images(recipe, tiny_splits(), path, QUIET, options, overwrite=overwrite)


def dying_at(step: int, patch: pytest.MonkeyPatch) -> None:
    take = Trainer.train_step

    def watched(self: Trainer, batch: Any, gamma: float) -> None:
        if self._finished_steps == step:
            raise DiedError
        take(self, batch, gamma)

    patch.setattr(Trainer, "train_step", watched)


def died(path: Path, recipe: Recipe, step: int, *, overwrite: bool = False) -> None:
    """Train, and die at a step."""
    with pytest.MonkeyPatch.context() as patch:
        dying_at(step, patch)
        with pytest.raises(DiedError):
            fit(path, recipe, overwrite=overwrite)


def assert_same(model: Any, other: Any) -> None:
    ours, expected = model.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def steps_taken(patch: pytest.MonkeyPatch) -> list[int]:
    taken: list[int] = []
    take = Trainer.train_step

    def watched(self: Trainer, batch: Any, gamma: float) -> None:
        taken.append(self._finished_steps)
        take(self, batch, gamma)

    patch.setattr(Trainer, "train_step", watched)
    return taken


@pytest.mark.parametrize(("overwrite", "length"), [(False, {}), (True, {"steps": 22, "epochs": 0})])
def test_a_later_attempt_goes_on_and_ends_alike(
    length: dict[str, int],
    overwrite: bool,
    torchrun: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = tiny_recipe(**length)
    whole = fit(tmp_path / "whole", recipe)
    path = tmp_path / "run"
    torchrun(0)
    died(path, recipe, 9, overwrite=overwrite)
    torchrun(1)
    died(path, recipe, 11, overwrite=overwrite)
    torchrun(2)
    taken = steps_taken(monkeypatch)
    assert_same(fit(path, recipe, overwrite=overwrite), whole)
    assert taken == list(range(10, 24))  # the last checkpoint is that of step 10
    again = fit(path, recipe, overwrite=overwrite)  # it died after the training
    assert_same(again, whole)
    assert len(taken) == 14


def test_an_attempt_that_died_before_the_first_checkpoint(torchrun: Any, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", tiny_recipe())
    torchrun(0)
    died(tmp_path / "run", tiny_recipe(), 1)
    assert not (tmp_path / "run" / "state.pt").exists()
    torchrun(1)
    assert_same(fit(tmp_path / "run", tiny_recipe()), whole)


def test_an_attempt_that_died_before_the_run_began(torchrun: Any, tmp_path: Path) -> None:
    torchrun(1)
    fit(tmp_path / "run", tiny_recipe(epochs=1))
    facts = RunFolder.open(tmp_path / "run").facts()
    assert facts["torchrun"]["attempt"] == 1


def test_a_half_written_checkpoint_is_not_taken(
    torchrun: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = fit(tmp_path / "whole", tiny_recipe())
    torchrun(0)
    died(tmp_path / "run", tiny_recipe(), 9)
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:5000])
    torchrun(1)
    capsys.readouterr()
    assert_same(fit(tmp_path / "run", tiny_recipe()), whole)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "going on from the checkpoint before it, state.previous.pt" in said


@pytest.mark.parametrize(
    ("number", "call", "job", "overwritten"),
    [(0, "a", "none", True), (1, "b", "none", True), (0, "b", "job", True), (1, "b", "job", False)],
    ids=["the same attempt", "another call", "a new call of the job", "another machine of the job"],
)
def test_which_attempts_go_on(
    number: int, call: str, job: str, overwritten: bool, torchrun: Any, tmp_path: Path
) -> None:
    """Whatever does not, meets the run as anyone does: an error, or `overwrite`."""
    torchrun(0, "a", job)
    died(tmp_path, tiny_recipe(), 9)
    torchrun(number, call, job)
    assert goes_on(RunFolder(tmp_path)) is not overwritten
    if overwritten:
        with pytest.raises(InputError, match="exists already"):
            fit(tmp_path, tiny_recipe())
        fit(tmp_path, tiny_recipe(epochs=1), overwrite=True)
        assert RunFolder.open(tmp_path).recipe().epochs == 1


def test_a_run_without_torchrun_is_nobodys(torchrun: Any, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        assert attempt() is None
        died(tmp_path, tiny_recipe(), 9)
        assert not goes_on(RunFolder(tmp_path))
    torchrun(1)
    assert not goes_on(RunFolder(tmp_path))


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ({"epochs": 5}, {}, "`epochs` 5 is not what the run"),
        ({"steps": 7, "epochs": 0}, {}, "`epochs` 0 is not what the run"),
        ({}, {"checkpoint": "async"}, "`checkpoint` 'async' is not what"),
    ],
)
def test_other_settings_are_one_line(
    recipe: dict[str, Any],
    options: dict[str, Any],
    message: str,
    torchrun: Any,
    tmp_path: Path,
) -> None:
    torchrun(0)
    died(tmp_path, tiny_recipe(), 9)
    before = (tmp_path / "state.pt").read_bytes()
    torchrun(1)
    with pytest.raises(InputError, match=message) as caught:
        fit(tmp_path, tiny_recipe(**recipe), options=replace(CPU, **options))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_later_attempt_of_resume_changes_nothing_again(torchrun: Any, tmp_path: Path) -> None:
    """It may come after the training, when an error would say that the run is finished."""
    fit(tmp_path, tiny_recipe(epochs=1))
    run = RunFolder.open(tmp_path)
    for number in (0, 1):
        torchrun(number)
        with nullcontext() if number else pytest.raises(InputError, match="is finished"):
            change_learning_rate(run, run.recipe().learning_rate, print)
        with nullcontext() if number else pytest.raises(InputError, match="is finished"):
            change_loggers(run, run.options().loggers)
    with pytest.raises(InputError, match="is finished"):
        change_learning_rate(run, 0.9, print)


def processes_of(torchrun: int) -> dict[str, int]:
    """The processes that a torchrun started, by their rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):  # it has just ended, or is not ours
            continue
        ranks = [one for one in variables if one.startswith(b"LOCAL_RANK=")]
        if parent == torchrun and ranks:
            found[ranks[0].partition(b"=")[2].decode()] = int(folder.name)
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images", each=40)


def words(images: Path, out: Path, checkpoint: str) -> list[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("--master-addr", "127.0.0.1", "--master-port", str(port), "--max-restarts", "2"),
        *("-m", "loss_attention", "train", "folder", "--data", str(images), *SMALL),
        *("--devices", "2", "--epochs", str(EPOCHS), "--precision", "32", "--out", str(out)),
        *("--checkpoint-every-steps", "2", "--checkpoint", checkpoint),
    ]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("checkpoint", ["plain", "async"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_torchrun_and_a_kill(rank: str, checkpoint: str, images: Path, tmp_path: Path) -> None:
    """A worker is killed after the first checkpoint: the weights end as without, bit for bit."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    subprocess.run(words(images, whole, checkpoint), check=True, timeout=HANG)
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        begun = subprocess.Popen(words(images, out, checkpoint), stdout=file, stderr=file)
    until((out / "state.pt").exists)
    os.kill(processes_of(begun.pid)[rank], signal.SIGKILL)
    assert begun.wait(HANG) == 0, log.read_text()
    assert log.read_text().count(f"started again by torchrun: going on with {out}") == 1
    assert_same(load(out), load(whole))
    clock = {"seconds", "images_per_second"}
    lines = [
        [
            {key: value for key, value in json.loads(line).items() if key not in clock}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (out, whole)
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == EPOCHS
    assert (out / "report.html").exists()
