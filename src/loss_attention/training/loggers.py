"""Where the curves of a training go: TensorBoard, CSV and trackers, as loggers of Fabric, by name.

Those that Fabric has are used as they are; a tracker gets the thinnest adapter, and its library is
imported when it is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from lightning_fabric.utilities.rank_zero import rank_zero_only

from loss_attention.errors import InputError, ReportedError, reason
from loss_attention.training.recipe import Recipe
from loss_attention.training.run_folder import CSV_FOLDER, TENSORBOARD_FOLDER, RunFolder

CURVES = (
    "loss",
    "accuracy",
    "gamma",
    "learning_rate",
    "images_per_second",
    "validation_loss",
    "validation_accuracy",
    "validation_balanced_accuracy",
)
"""What loggers are given of an epoch."""

PROJECT = "loss-attention"
"""What a tracker files runs under, unless its own environment variable says otherwise."""


def check_loggers(names: Sequence[str]) -> None:
    """Raise `InputError` where the library of a logger is not installed or does not import."""
    for name in names:
        library = LIBRARIES.get(name, name)
        try:
            importlib.import_module(library)
        except ImportError as error:
            if getattr(error, "name", None) == library:
                why = "which is not installed"
            else:
                why = f"which does not import ({reason(error)})"
            raise InputError(
                f"`loggers` {name} needs the library {library}, {why}: pip install {library}"
            ) from error


class Loggers:
    """The loggers of one run; for the first of its processes alone.

    Args:
        run: where files go; run.json has what trackers call the run, so that it goes on there.
        recipe: what trackers are told of it.
        names: of `LOGGERS`.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, names: Sequence[str]) -> None:
        self._run, self._recipe, self._names = run, recipe, tuple(dict.fromkeys(names))
        self._open: dict[str, Logger] = {}
        self._epoch = 0

    @contextlib.contextmanager
    def opened(self, finished_steps: int, history: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """Have the loggers as long as the context lasts.

        Args:
            finished_steps: of the checkpoint that the run continues from.
            history: a line of metrics.jsonl for each epoch that is finished there.

        Raises:
            InputError: one of them fails.
        """
        self._epoch = len(history)
        # Fabric's loggers are mute in a process that anything in its environment gives another
        # number, as Slurm's does where trainings run side by side; this one is its run's first.
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
        try:
            for name in self._names:
                with self._told(name):
                    self._open[name] = self._make(name, Begun(finished_steps, history))
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # what ended the training is said, not this
                self._close("failed")
            raise
        self._close("success" if self._epoch >= self._recipe.epochs else "aborted")

    def log(self, line: Mapping[str, Any]) -> None:
        """Log a finished epoch, given as its line of metrics.jsonl."""
        for name, logger in self._open.items():
            with self._told(name):
                logger.log_metrics(curves(line), line["step"])
                logger.save()
        self._epoch = line["epoch"]

    def _make(self, name: str, begun: Begun) -> Logger:
        if name in FILES:
            return FILES[name](self._run.path, begun)
        known = self._run.facts().get("trackers", {})
        folder = self._run.path.absolute()
        title = self._recipe.name
        title = title if title == folder.name else f"{title}-{folder.name}"
        logger = TRACKERS[name](title, folder, known.get(name))
        if name not in known:
            self._run.note(trackers={**known, name: str(logger.version)})
        logger.log_hyperparams(asdict(self._recipe))
        return logger

    def _close(self, status: str) -> None:
        opened, self._open = self._open, {}
        for name, logger in opened.items():
            with self._told(name):
                logger.finalize(status)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Turn whatever a logger raises into a line; the last checkpoint has all so far."""
        try:
            yield
        except ReportedError:
            raise
        except Exception as error:  # servers, logins and disks fail in many ways
            raise InputError(
                f"the logger {name} failed: {reason(error)}; go on without it: loss-attention "
                f"resume {self._run.path} `loggers` none"
            ) from error


def curves(line: Mapping[str, Any]) -> dict[str, float]:
    """Return what loggers are given of an epoch; what it has no number for is left out."""
    return {name: line[name] for name in CURVES if line[name] is not None}


class Begun(NamedTuple):
    """What there is of a run when its loggers are opened: finished steps, and a line an epoch."""

    steps: int
    history: Sequence[Mapping[str, Any]]


class _TensorBoard(TensorBoardLogger):
    """Fabric's, but in the folder itself, in whose name neither `$` nor `~` means anything."""

    def __init__(self, folder: Path, **writer: Any) -> None:
        super().__init__("", **writer)
        self._folder = folder

    @property
    def log_dir(self) -> str:
        return str(self._folder)


def _tensorboard(run: Path, begun: Begun) -> Logger:
    """Return TensorBoard's; later events of an interrupted part are marked as void."""
    logger = _TensorBoard(run / TENSORBOARD_FOLDER, purge_step=begun.steps + 1)
    logger.save()  # makes the file, and the mark in it
    return logger


def _csv(run: Path, begun: Begun) -> Logger:
    """Return the one of a table, which is written anew up to where the run goes on."""
    (run / CSV_FOLDER / "metrics.csv").unlink(missing_ok=True)
    logger = CSVLogger(run.absolute(), name=CSV_FOLDER, version="")
    for line in begun.history:
        logger.log_metrics(dict(curves(line)), line["step"])
    logger.save()
    return logger


class _Tracker(Logger):
    """What the adapters of trackers share.

    Args:
        title: what people call the run there.
        folder: the run's folder.
        known: by what the tracker knows the run, where it began before.
    """

    def __init__(self, title: str, folder: Path, known: str | None) -> None:
        self._title = title
        self._id = self._begin(title, folder, known)

    @abstractmethod
    def _begin(self, title: str, folder: Path, known: str | None) -> str:
        """Begin the run, or go on with it; return what the tracker knows it by."""

    @abstractmethod
    def _note(self, params: dict[str, Any]) -> None:
        """Have the tracker know the recipe."""

    def log_hyperparams(
        self,
        params: dict[str, Any] | Namespace,
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Log the fields of a recipe."""
        self._note(vars(params) if isinstance(params, Namespace) else params)

    @property
    def name(self) -> str:
        """What people call the run."""
        return self._title

    @property
    def version(self) -> str:
        """What the tracker knows the run by."""
        return self._id


class WandbLogger(_Tracker):
    """Weights & Biases."""

    def _begin(self, title: str, folder: Path, known: str | None) -> str:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=title,
            id=known,
            resume=None if known is None else "allow",
            dir=str(folder),
        )
        return str(self._run.id)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers of a step; wandb itself leaves out steps that it has already."""
        self._run.log(dict(metrics), step=step)

    def _note(self, params: dict[str, Any]) -> None:
        """Log the recipe as the run's configuration."""
        self._run.config.update(params, allow_val_change=True)

    def finalize(self, status: str) -> None:
        """Send what is left."""
        self._run.finish(exit_code=0 if status == "success" else 1)


class MlflowLogger(_Tracker):
    """MLflow, by a client, so that an active run of the caller's is left alone."""

    STATUS = {"success": "FINISHED", "aborted": "KILLED", "failed": "FAILED"}  # noqa: RUF012
    LONGEST = 500  # letters of a parameter that every version takes

    def _begin(self, title: str, folder: Path, known: str | None) -> str:  # noqa: ARG002
        from mlflow import MlflowClient

        self._client, self._new = MlflowClient(), known is None
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            return known
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(project)
        experiment = self._client.create_experiment(project) if found is None else found
        number = getattr(experiment, "experiment_id", experiment)
        return str(self._client.create_run(number, run_name=title).info.run_id)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers of a step."""
        for name, value in metrics.items():
            self._client.log_metric(self._id, name, value, step=step)

    def _note(self, params: dict[str, Any]) -> None:
        """Log the recipe as parameters, once: MLflow has none that change."""
        for name, value in params.items() if self._new else ():
            self._client.log_param(self._id, name, str(value)[: self.LONGEST])

    def finalize(self, status: str) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._id, self.STATUS[status])


class TrackioLogger(_Tracker):
    """Trackio, which knows a run by its name alone."""

    def _begin(self, title: str, folder: Path, known: str | None) -> str:  # noqa: ARG002
        import trackio

        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=known or f"{title}-{secrets.token_hex(4)}",
            resume="never" if known is None else "allow",
            embed=False,
        )
        return str(self._run.name)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers of a step."""
        self._run.log(dict(metrics), step=step)

    def _note(self, params: dict[str, Any]) -> None:
        """Note the recipe as the configuration, which goes out with the next numbers."""
        self._run.config.update(params)

    def finalize(self, status: str) -> None:  # noqa: ARG002
        """Send what is left."""
        self._run.finish()


FILES: dict[str, Callable[[Path, Begun], Logger]] = {"tensorboard": _tensorboard, "csv": _csv}
"""Loggers that write into the run's folder."""
TRACKERS: dict[str, type[_Tracker]] = {
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
    "trackio": TrackioLogger,
}
LIBRARIES = {"csv": "csv"}
"""What a logger imports, where that is not of its own name."""
