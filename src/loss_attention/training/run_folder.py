"""A run's folder: what is in it, and writing it so that a crash or a full disk loses nothing."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from loss_attention.errors import InputError, printable
from loss_attention.models import WEIGHTS_FILE
from loss_attention.saving import SaveError, make_folder, write_whole
from loss_attention.showing import json_text
from loss_attention.training.recipe import Recipe, RunOptions, from_file

FORMAT_VERSION = 1
STATE_FILE = "state.pt"
LOCK_FILE = ".lock"
WRITTEN = (
    "recipe.yaml",
    WEIGHTS_FILE,
    STATE_FILE,
    "metrics.jsonl",
    "run.json",
    "evaluation.json",
    "report.html",
    "tensorboard",
)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @classmethod
    def create(cls, path: Path, recipe: Recipe, *, overwrite: bool = False) -> RunFolder:
        """Make the folder of a new run and put the recipe in it.

        Raises:
            InputError: something is there already, and `overwrite` is off; or it is on, and what
                is there is no run folder. Overwriting removes what a run writes, nothing else.
        """
        require_utf8(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; --out names the folder of the run")
        if path.is_dir() and any(path.iterdir()):
            if not overwrite:
                raise InputError(
                    f"{path} exists already: continue it with `loss-attention resume {path}`, "
                    "name another folder with --out, or replace it with --overwrite"
                )
            if not (path / "recipe.yaml").exists():
                raise InputError(f"{path} is not a run folder; --overwrite will not touch it")
            with cls(path).locked():
                for name in WRITTEN:
                    _remove(path / name)
        run = cls(path)
        make_folder(path)
        run.write("recipe.yaml", recipe.to_yaml())
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run.

        Raises:
            InputError: it is not there, is no run folder, never began, or is from a newer version.
        """
        if not (path / "recipe.yaml").is_file():
            what = "has no recipe.yaml, so it is no run folder" if path.is_dir() else "is no folder"
            raise InputError(f"{path} {what}; `loss-attention train` makes one")
        run = cls(path)
        facts = run.read_json("run.json")
        if not facts:
            raise InputError(
                f"{path} has no run.json: its run ended before it began, or the file was lost; "
                "begin again in another folder, or here with --overwrite"
            )
        version = facts.get("format_version", FORMAT_VERSION)
        if not isinstance(version, int):
            raise InputError(f"{path / 'run.json'}: format_version cannot be {version!r}")
        if version > FORMAT_VERSION:
            raise InputError(
                f"{path} was written by a newer loss-attention (format {version}, this one reads "
                f"up to {FORMAT_VERSION}): upgrade to read it"
            )
        return run

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the run meanwhile; the system frees a dead one's lock.

        Raises:
            InputError: another process has it.
        """
        try:
            lock = FileLock(self.path / LOCK_FILE, timeout=0)
            lock.acquire()
        except Timeout as error:
            raise InputError(
                f"another process is training the run {self.path}; wait for it or stop it first"
            ) from error
        except OSError as error:
            raise SaveError(f"cannot write to {self.path}: {error.strerror}") from error
        with lock:
            yield

    def recipe(self) -> Recipe:
        """Return the run's recipe."""
        return Recipe.from_yaml(self.path / "recipe.yaml")

    def options(self) -> RunOptions:
        """Return what the run runs on, as it was chosen when it began."""
        values = self.read_json("run.json").get("options", {})
        return from_file(RunOptions, values, self.path / "run.json")

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file so that it is either the old one or the new one, whole, at every moment.

        Raises:
            SaveError: it could not be written; the old one, if any, is still there.
        """
        write_whole(self.path / name, content)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, whole or not at all."""
        self.write(name, json_text(value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file; an empty one where there is no such file.

        Raises:
            InputError: the file holds no JSON object.
        """
        path = self.path / name
        if not path.exists():
            return {}
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise InputError(f"{path} holds no JSON object")
        return value

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, an epoch each.

        Raises:
            InputError: one of them is no JSON.
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl, a line for each epoch so far."""
        self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the checkpoint that `resume` continues from: tensors and plain values only."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.write(STATE_FILE, buffer.getvalue())

    def load_state(self) -> dict[str, Any] | None:
        """Return the last checkpoint, or None where the run ended before its first.

        Raises:
            InputError: it is truncated, or not what `save_state` writes.
        """
        path = self.path / STATE_FILE
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and runtime errors, as the damage has it
            raise InputError(
                f"{path} is truncated or damaged; {WEIGHTS_FILE} beside it may still load"
            ) from error
        return state

    def remove_leftovers(self) -> None:
        """Remove the temporary files of writes that a kill cut short."""
        for name in WRITTEN:
            for leftover in self.path.glob(f".{name}.*"):
                _remove(leftover)


def require_utf8(path: Path) -> None:
    """Raise `InputError` for a path that TensorBoard cannot write to."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the name of the run folder {printable(str(path))} is no UTF-8; rename it, or name "
            "another with --out"
        ) from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
