"""Where the curves of a training go: whole tables, whatever stops a run, and trackers by name.

The trackers are stand-ins that take what the libraries take, as none of these is installed here.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lightning_fabric.utilities.rank_zero import rank_zero_only
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from training.tiny import start_run, tiny_recipe, tiny_splits

import loss_attention as la
from loss_attention.cli import main
from loss_attention.errors import InputError
from loss_attention.training.changing import change_learning_rate, change_loggers
from loss_attention.training.job import continue_run
from loss_attention.training.loggers import CURVES, TRACKERS
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import Trainer

EPOCHS, STEPS = 3, 6
"""Epochs of a run here, and steps of each."""


def begun(path: Path, *loggers: str) -> RunFolder:
    options = RunOptions(accelerator="cpu", loggers=loggers)
    return start_run(path, tiny_recipe(epochs=EPOCHS), tiny_splits(), options)


def stop_after(run: RunFolder, step: int) -> None:
    """Train up to a step of the whole run, as where a signal comes."""
    train_step = Trainer.train_step

    def until(self: Trainer, batch: Any, gamma: float) -> None:
        train_step(self, batch, gamma)
        self.stop.requested = self._finished_steps + 1 >= step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", until)
        assert not continue_run(run, tiny_splits())


def wanted(run: RunFolder) -> list[dict[str, float]]:
    """What metrics.jsonl has of the curves, an epoch each."""
    lines = map(json.loads, (run.path / "metrics.jsonl").read_text("utf-8").splitlines())
    return [{name: line[name] for name in ("step", *CURVES)} for line in lines]


def table(run: RunFolder) -> list[dict[str, float]]:
    with (run.path / "csv" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{name: row[name] for name in ("step", *CURVES)} for row in rows]


def test_a_table_has_each_epoch_once_however_often_a_run_stops(tmp_path: Path) -> None:
    run = begun(tmp_path / "a::b $HOME", "csv")
    stop_after(run, STEPS + 2)
    assert table(run) == wanted(run)
    file = run.path / "csv" / "metrics.csv"
    # A crash may leave a row of an epoch that is trained again, or take one that was not written.
    file.write_text(file.read_text("utf-8") + "9" * 8 + ",0,0,0,0,0,0,0,12\n", "utf-8")
    stop_after(run, STEPS + 4)
    file.write_text(file.read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    assert continue_run(run, tiny_splits())
    assert table(run) == wanted(run)
    assert [row["step"] for row in table(run)] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert not (run.path / "tensorboard").exists()


def test_tensorboard_is_the_default_and_marks_what_a_stop_made_void(tmp_path: Path) -> None:
    assert RunOptions().loggers == ("tensorboard",)
    run = begun(tmp_path / "run $HOME", "tensorboard")
    stop_after(run, STEPS + 2)
    assert continue_run(run, tiny_splits())
    first, second = sorted(
        (run.path / "tensorboard").iterdir(), key=lambda file: file.stat().st_ctime
    )
    told = [list(EventFileLoader(str(file)).Load()) for file in (first, second)]
    starts = [[one.step for one in events if one.HasField("session_log")] for events in told]
    assert starts == [[1], [STEPS + 3]]
    found = {
        (value.tag, event.step): value.tensor.float_val[0]
        for event in (*told[0], *told[1])
        for value in event.summary.value
    }
    lines = wanted(run)
    assert found == {
        (name, line["step"]): pytest.approx(line[name]) for line in lines for name in CURVES
    }


def test_a_number_in_the_environment_mutes_no_logger(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    run = begun(tmp_path / "run", "csv", "tensorboard")
    assert continue_run(run, tiny_splits())
    assert len(table(run)) == EPOCHS
    assert len(list((run.path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("names", [(), ("none",)])
def test_none_writes_nothing(tmp_path: Path, names: tuple[str, ...]) -> None:
    run = begun(tmp_path / "run", *names)
    assert run.options().loggers == ()
    assert continue_run(run, tiny_splits())
    assert not {"tensorboard", "csv"} & {path.name for path in run.path.iterdir()}


class Server:
    """What a tracker was told: of each run its title, configuration, numbers and end."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.broken = False

    def run(self, known: str | None, title: str = "") -> str:
        known = known or f"id-{len(self.runs)}"
        self.runs.setdefault(known, {"title": title, "config": {}, "log": [], "ends": []})
        return known

    def log(self, known: str, metrics: dict[str, float], step: int) -> None:
        if self.broken:
            raise ConnectionError("no route\nto the server")
        self.runs[known]["log"].append({"step": step, **metrics})


def stand_in_wandb(server: Server) -> ModuleType:
    def init(*, project: str, name: str, id: str | None, resume: str | None, dir: str) -> Any:
        assert project == "loss-attention"
        assert Path(dir).is_dir()
        assert resume == (None if id is None else "allow")
        known = server.run(id, name)

        def update(config: dict[str, Any], *, allow_val_change: bool) -> None:
            assert allow_val_change
            server.runs[known]["config"].update(config)

        return SimpleNamespace(
            id=known,
            config=SimpleNamespace(update=update),
            log=lambda metrics, step: server.log(known, metrics, step),
            finish=lambda exit_code: server.runs[known]["ends"].append(exit_code),
        )

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    return module


def stand_in_trackio(server: Server) -> ModuleType:
    def init(*, project: str, name: str, resume: str, embed: bool) -> Any:
        assert (project, embed) == ("loss-attention", False)
        assert (name in server.runs) == (resume == "allow")
        known, config = server.run(name, name), dict[str, Any]()
        server.runs[known]["config"] = config  # what a later part says takes its place
        return SimpleNamespace(
            name=known,
            config=config,
            log=lambda metrics, step: server.log(known, metrics, step),
            finish=lambda: server.runs[known]["ends"].append(0),
        )

    module = ModuleType("trackio")
    module.init = init  # type: ignore[attr-defined]
    return module


def stand_in_mlflow(server: Server) -> ModuleType:
    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> Any:
            assert name == "loss-attention"
            return SimpleNamespace(experiment_id="7") if server.runs else None

        def create_experiment(self, name: str) -> str:
            return "7"

        def create_run(self, experiment_id: str, run_name: str) -> Any:
            assert experiment_id == "7"
            return SimpleNamespace(info=SimpleNamespace(run_id=server.run(None, run_name)))

        def update_run(self, run_id: str, status: str) -> None:
            assert status == "RUNNING"
            assert run_id in server.runs

        def log_param(self, run_id: str, key: str, value: str) -> None:
            assert server.runs[run_id]["config"].setdefault(key, value) == value
            assert len(value) <= 500

        def log_metric(self, run_id: str, key: str, value: float, step: int) -> None:
            log = server.runs[run_id]["log"]
            if not log or log[-1]["step"] != step:
                server.log(run_id, {}, step)
            log[-1][key] = value

        def set_terminated(self, run_id: str, status: str) -> None:
            server.runs[run_id]["ends"].append(status)

    module = ModuleType("mlflow")
    module.MlflowClient = MlflowClient  # type: ignore[attr-defined]
    return module


STAND_INS = {"wandb": stand_in_wandb, "mlflow": stand_in_mlflow, "trackio": stand_in_trackio}
ENDS = {"wandb": [1, 0], "mlflow": ["KILLED", "FINISHED"], "trackio": [0, 0]}


@pytest.fixture(params=TRACKERS)
def tracker(request, monkeypatch) -> tuple[str, Server]:
    server = Server()
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(sys.modules, request.param, STAND_INS[request.param](server))
    return request.param, server


def test_a_tracker_has_the_recipe_and_each_epoch_once(tmp_path: Path, tracker) -> None:
    name, server = tracker
    run = begun(tmp_path / "photos", name)
    stop_after(run, STEPS + 2)
    before = asdict(run.recipe())
    change_learning_rate(run, 0.03, print)
    assert continue_run(run, tiny_splits())
    ((known, told),) = server.runs.items()
    assert run.facts()["trackers"] == {name: known}
    assert told["title"].startswith("tiny-photos")
    # MLflow has no parameters that change.
    texts = {key: str(value) for key, value in before.items()}
    assert told["config"] == (texts if name == "mlflow" else asdict(run.recipe()))
    assert told["log"] == wanted(run)
    assert told["ends"] == ENDS[name]
    assert continue_run(begun(tmp_path / "other", name), tiny_splits())
    assert len(server.runs) == 2


def test_a_tracker_that_fails_ends_in_a_line_and_can_be_left_out(tmp_path: Path, tracker) -> None:
    name, server = tracker
    run = begun(tmp_path / "run", name, "csv")
    server.broken = True
    with pytest.raises(InputError, match=rf"the logger {name} failed: no route to the") as caught:
        continue_run(run, tiny_splits())
    assert "\n" not in str(caught.value)
    assert "`loggers` none" in str(caught.value)
    change_loggers(run, ("csv",))
    assert continue_run(run, tiny_splits())
    assert table(run) == wanted(run)
    assert len(table(run)) == EPOCHS
    with pytest.raises(InputError, match="is finished: `loggers`"):
        change_loggers(run, ())


@pytest.mark.parametrize("name", TRACKERS)
def test_a_library_that_is_missing_is_told_before_anything_is_done(
    tmp_path: Path, name: str, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"pip install {name}$"):
        la.train("folder", data="nowhere", out=tmp_path / "run", quiet=True, loggers=name)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "folder", "--data", "nowhere", "--loggers", "csv", name])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert f"--loggers {name} needs the library {name}" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="unknown logger 'tensorbord'; did you mean 'tensorboard'"):
        RunOptions(loggers=("tensorbord",))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="`loggers` none does not go with others"):
        RunOptions(loggers=("csv", "none"))
