"""A run's folder, written so that a crash or a full disk loses nothing, and checked when read."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout

from loss_attention.errors import InputError, guarded, printable, quoted, reason
from loss_attention.saving import (
    DIGEST,
    FACTS_FILE,
    FILES,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    SaveError,
    check_file,
    digest_of,
    file_digest,
    known_digests,
    make_folder,
    read_facts,
    read_object,
    remove_leftovers,
    sealed,
    write_whole,
)
from loss_attention.terminal import json_text
from loss_attention.training.recipe import Recipe, RunOptions, from_file

RECIPE_FILE = "recipe.yaml"
STATE_FILE, PREVIOUS_STATE_FILE = "state.pt", "state.previous.pt"
METRICS_FILE, EVALUATION_FILE, REPORT_FILE = "metrics.jsonl", "evaluation.json", "report.html"
SHARDS = "shards"
"""The field of a checkpoint whose tensors lie in shards: their folder, and digests by file."""
SHARDS_FOLDER = re.compile(r"state\.[0-9a-f]{16}\.shards(\.tmp)?")
LOCK_FILE, TENSORBOARD_FOLDER, CSV_FOLDER, WANDB_FOLDER = ".lock", "tensorboard", "csv", "wandb"
MEND = {
    RECIPE_FILE: "put it back as it was, or begin a new run with the changed settings "
    "(resume an unfinished one with another `learning_rate`)",
    EVALUATION_FILE: "`loss-attention evaluate` writes it anew",
    WEIGHTS_FILE: "restore it from a copy, or begin again with `overwrite`",
}
"""What to do about a file of a run that is not as it was written."""

WRITTEN = (
    WEIGHTS_FILE,
    STATE_FILE,
    PREVIOUS_STATE_FILE,
    METRICS_FILE,
    EVALUATION_FILE,
    REPORT_FILE,
    TENSORBOARD_FOLDER,
    CSV_FOLDER,
    WANDB_FOLDER,
)
"""What a run writes beside its recipe and run.json."""

MOST_DIGESTS = 3
"""Of a file: what it will be, what it is, and what is kept of the one before."""


class Written(Protocol):
    """What a run computes, as its recipe.yaml has it."""

    def to_yaml(self) -> str:
        """Return the content of recipe.yaml."""


class RunFolder:
    """The folder of one run, on images or on something else.

    Args:
        path: where it is. What is read from it is compared with the digests in its run.json.
        writes: False in all but the first of the processes that torchrun or srun started: there
            nothing is locked or written, and a run that begins is known from memory.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._begun: tuple[Written, dict[str, Any]] | None = None
        self._options: RunOptions | None = None
        self._lock: FileLock | None = None
        self._sound = True  # the last checkpoint, as far as it was looked at

    @property
    def weights(self) -> Path:
        """The file of the best epoch's weights."""
        return self.path / WEIGHTS_FILE

    def __reduce__(self) -> tuple[type[RunFolder], tuple[Path]]:
        """Leave the lock with the process that has it."""
        return RunFolder, (self.path,)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run, to read it.

        Raises:
            InputError: it is not there, is not a run folder, never began, is from a newer version,
                or its recipe or run.json are not as they were written.
        """
        run = cls(path)
        run.check()
        return run

    @classmethod
    @contextlib.contextmanager
    def opened_to_write(cls, path: Path, *, writes: bool = True) -> Iterator[RunFolder]:
        """Open an existing run, keeping others from writing it meanwhile.

        Raises:
            InputError: what `open` raises, or another process has it.
        """
        run = cls(path, writes=writes)
        run._require()
        with run.locked():
            run.check()
            yield run

    def check(self) -> None:
        """Raise `InputError` unless this is a run that began, with its recipe as it was."""
        if not self.writes:  # the process that writes checks it, and may be changing it
            return
        self._require()
        facts = self.facts()
        if not facts:
            raise InputError(
                f"{self.path} has no run.json: its run ended before it began, or the file was lost;"
                " begin again in another folder, or here with `overwrite`"
            )
        known = known_digests(facts, RECIPE_FILE)
        with guarded(str(self.path / RECIPE_FILE)):
            changed = known and file_digest(self.path / RECIPE_FILE) not in known
        if changed:
            raise InputError(
                f"{self.path / RECIPE_FILE} was changed since the run began: {MEND[RECIPE_FILE]}"
            )

    def _require(self) -> None:
        path = self.path
        if not (path / RECIPE_FILE).is_file():
            what = "is not a folder"
            if path.is_dir():
                what = "has no recipe.yaml, so it is not a run folder"
            raise InputError(f"{path} {what}; `loss-attention train` makes one")

    @contextlib.contextmanager
    def claimed(self, *, overwrite: bool = False) -> Iterator[None]:
        """Have the folder for a new run; nothing in it is touched before `begin`.

        Where no run begins, a folder that was not there goes again.

        Raises:
            InputError: something is there already, and `overwrite` is off; or it is on, and what
                is there is no run folder; or another process has it.
        """
        require_utf8(self.path)
        if not self.writes:
            yield
            return
        self._require_room(overwrite=overwrite)
        if not self.path.is_dir():
            make_folder(self.path)
        try:
            with self.locked():
                self._require_room(overwrite=overwrite)
                yield
        finally:
            if not (self.path / RECIPE_FILE).exists() and not self._content():
                with contextlib.suppress(OSError):
                    (self.path / LOCK_FILE).unlink()
                    self.path.rmdir()

    def _require_room(self, *, overwrite: bool) -> None:
        path = self.path
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; `out` names the folder of the run")
        if self._content():
            if not overwrite:
                raise InputError(
                    f"{path} exists already: continue it with `loss-attention resume {path}`, "
                    "name another folder with `out`, or replace it with `overwrite`"
                )
            if not (path / RECIPE_FILE).exists():
                raise InputError(f"{path} is not a run folder; `overwrite` will not touch it")

    def _content(self) -> bool:
        """Whether there is anything in the folder but its lock."""
        if not self.path.is_dir():
            return False
        with guarded(str(self.path)):
            return any(path.name != LOCK_FILE for path in self.path.iterdir())

    def begin(self, recipe: Written, facts: Mapping[str, Any]) -> None:
        """Remove what an earlier run wrote, nothing else, and put recipe and facts there.

        A crash in between leaves a folder whose run never began.
        """
        if not self.writes:
            self._begun = recipe, dict(facts)
            return
        remove_leftovers(self.path)
        for name in (FACTS_FILE, *WRITTEN):
            _remove(self.path / name)
        self._remove_shards()
        text = recipe.to_yaml()
        write_whole(self.path / RECIPE_FILE, text)
        if facts:
            vouched = {RECIPE_FILE: [digest_of(text)]}
            self.write_facts({"format_version": FORMAT_VERSION, **facts, FILES: vouched})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the run meanwhile; the system frees a dead one's lock.

        Within a context of the same `RunFolder`, it is held already.

        Raises:
            InputError: another process has it.
            SaveError: the folder cannot be written to.
        """
        if self._lock is not None or not self.writes:
            yield
            return
        lock = FileLock(self.path / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"another process is training or evaluating the run {self.path}; "
                "wait for it or stop it first"
            ) from error
        except OSError as error:
            raise SaveError(f"cannot write to {self.path}: {reason(error)}") from error
        self._lock = lock
        try:
            yield
        finally:
            self._lock = None
            lock.release()

    def recipe(self) -> Recipe:
        """Return the recipe of a run on images.

        Raises:
            InputError: it cannot be read, or the run is on something else.
        """
        if self._begun is not None:
            recipe = self._begun[0]
            assert isinstance(recipe, Recipe)
            return recipe
        return Recipe.from_yaml(self.path / RECIPE_FILE)

    def options(self) -> RunOptions:
        """Return what the run runs on, as it was chosen when it began."""
        if self._options is not None:
            return self._options
        values = self.facts().get("options", {})
        return from_file(RunOptions, values, self.path / FACTS_FILE)

    def take_options(self, options: RunOptions) -> None:
        """Use these from now on, in a process that does not write and may read older ones."""
        self._options = options

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file so that it is either the old one or the new one, whole, at every moment.

        Raises:
            SaveError: it could not be written; the old one, if any, is still there.
        """
        self.write_all({name: content})

    def write_all(self, files: Mapping[str, str | bytes], **news: Any) -> None:
        """Write files in this order, each whole or not at all; before them, their digests.

        So whatever a crash leaves of each, the old one or the new one, run.json knows it.

        Args:
            files: the content of each, by its name.
            news: facts that come into run.json with the digests.
        """
        if not self.writes:
            return
        facts = self.facts()
        if facts:
            known = {name: [digest_of(content)] for name, content in files.items()}
            for name, digests in known.items():
                before = [one for one in known_digests(facts, name) if one not in digests]
                digests += before[: MOST_DIGESTS - 1]
            news |= {"format_version": FORMAT_VERSION, FILES: facts.get(FILES, {}) | known}
            self.write_facts(facts | news)
        for name, content in files.items():
            kept = name == STATE_FILE and self._sound
            previous = self.path / PREVIOUS_STATE_FILE if kept else None
            write_whole(self.path / name, content, previous=previous)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, whole or not at all."""
        self.write(name, json_text(value, indent=2) + "\n")

    def note(self, **facts: Any) -> None:
        """Put facts into run.json beside those that are there."""
        if self.writes:
            self.write_facts(self.facts() | {"format_version": FORMAT_VERSION} | facts)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write run.json anew, with its digest, whole or not at all."""
        write_whole(self.path / FACTS_FILE, json_text(sealed(facts), indent=2) + "\n")

    @property
    def begun(self) -> bool:
        """Whether its run began: there is a run.json."""
        return (self.path / FACTS_FILE).exists()

    def facts(self) -> dict[str, Any]:
        """Return what run.json says; nothing where there is none.

        Raises:
            InputError: it is not what the run wrote, or of a newer version.
        """
        if self._begun is not None:
            return self._begun[1]
        return checked_facts(read_facts(self.path), self.path / FACTS_FILE)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the object in another JSON file; an empty one where there is no such file.

        Raises:
            InputError: the file holds no JSON object, or is not what the run wrote.
        """
        assert name != FACTS_FILE
        path = self.path / name
        if not path.exists():
            return {}
        check_file(path, MEND.get(name, "restore it from a copy"))
        return read_object(path)

    def check_weights(self) -> None:
        """Raise `InputError` where the best weights are not what the run wrote."""
        if (self.path / WEIGHTS_FILE).is_file():
            check_file(self.path / WEIGHTS_FILE, MEND[WEIGHTS_FILE])

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, an epoch each.

        Raises:
            InputError: one of them is not a JSON object of numbers, or not what the run wrote.
        """
        path = self.path / METRICS_FILE
        if not path.exists():
            return []
        check_file(path)
        with guarded(str(path)):
            texts = path.read_text(encoding="utf-8").split("\n")
        lines = []
        for number, text in enumerate(texts, start=1):
            try:
                lines += [checked_epoch(json.loads(text))] if text else []
            except Exception as error:  # whatever broken JSON leads to
                raise InputError(
                    f"{path} cannot be read: line {number}: {reason(error)}"
                ) from error
        return lines

    def save_state(
        self, state: dict[str, Any], beside: Mapping[str, str | bytes] | None = None
    ) -> None:
        """Write the checkpoint that `resume` continues from: tensors and plain values only.

        The one before it is kept too.

        Args:
            state: the checkpoint; its tensors may lie in shards, which are there already.
            beside: files to write just before it.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.write_all({**(beside or {}), STATE_FILE: buffer.getvalue()})
        self._sound = True
        self._remove_shards()

    def new_shards(self) -> Path:
        """Return a folder for the shards of the next checkpoint, which is not there yet."""
        return self.path / f"state.{secrets.token_hex(8)}.shards"

    def _remove_shards(self) -> None:
        """Remove shards that belong to no checkpoint, half written ones among them."""
        folders = [one for one in self.path.iterdir() if SHARDS_FOLDER.fullmatch(one.name)]
        if not folders:
            return
        files = [self.path / name for name in (STATE_FILE, PREVIOUS_STATE_FILE)]
        try:
            kept = {_shards_of(file) for file in files if file.exists()}
        except Exception:  # whatever a damaged one leads to: nobody knows what it needs
            return
        for folder in folders:
            if folder.name not in kept:
                _remove(folder)

    @property
    def has_state(self) -> bool:
        """Whether there is a checkpoint, sound or not."""
        return any((self.path / name).exists() for name in (STATE_FILE, PREVIOUS_STATE_FILE))

    def load_state(self, say: Callable[[str], None] | None = None) -> dict[str, Any] | None:
        """Return the last sound checkpoint, whole; see `find_state`."""
        state = self.find_state(say)
        return None if state is None else self.whole_state(state)

    def whole_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a checkpoint with the tensors that lie in shards, read by this process."""
        if SHARDS not in state:
            return state
        from loss_attention.training.sharded import filled

        return filled(state, self.path / state[SHARDS]["folder"])

    def find_state(self, say: Callable[[str], None] | None = None) -> dict[str, Any] | None:
        """Return the last sound checkpoint, or None where the run ended before its first.

        Of tensors that lie in shards it has the outline; `whole_state` reads them.

        Args:
            say: told in one line when it is not the last; None: the standard error output.

        Raises:
            InputError: neither the last nor the one before it is what `save_state` writes.
        """
        problem: InputError | None = None
        for name in (STATE_FILE, PREVIOUS_STATE_FILE):
            path = self.path / name
            if not path.exists():
                continue
            try:
                state = _read_state(path)
            except InputError as error:
                problem = problem or error
                continue
            if name == PREVIOUS_STATE_FILE:
                why = problem or f"{self.path / STATE_FILE} is not there"
                self._sound = False  # so that it does not replace the one before it
                (say or _say)(f"{why}; going on from the checkpoint before it, {name}")
            return state
        if problem is not None:
            raise InputError(f"{problem}; {WEIGHTS_FILE} beside it may still load") from problem
        return None

    def remove_state(self, *, previous_only: bool = False) -> None:
        """Remove checkpoints, which a finished run needs no more."""
        if not self.writes:
            return
        for name in (PREVIOUS_STATE_FILE,) if previous_only else (PREVIOUS_STATE_FILE, STATE_FILE):
            (self.path / name).unlink(missing_ok=True)
        self._remove_shards()

    def settle(self) -> None:
        """Before training goes on: remove what a kill left, and forget digests of files that never
        came to be, so that those of files that are there stay known.

        Of a run of version 0.1, files are known from here on.
        """  # noqa: D205
        if not self.writes:
            return
        remove_leftovers(self.path)
        self._remove_shards()
        facts = self.facts()
        files = dict(facts.get(FILES, {}))
        for name in (RECIPE_FILE, WEIGHTS_FILE, STATE_FILE, METRICS_FILE):
            kept = [PREVIOUS_STATE_FILE] if name == STATE_FILE else []
            paths = [self.path / one for one in (name, *kept) if (self.path / one).is_file()]
            found = [file_digest(path) for path in paths]
            known = files.pop(name, found)
            if found:
                files[name] = [one for one in known if one in found] or known
        if files != facts.get(FILES) or DIGEST not in read_object(self.path / FACTS_FILE):
            self.note(**{FILES: files})

    def changed_pages(self) -> list[str]:
        """Return a line for each file that nothing here reads and that is not as it was written."""
        try:
            check_file(self.path / REPORT_FILE, "`loss-attention report` writes it anew")
        except InputError as error:
            return [str(error)] if (self.path / REPORT_FILE).is_file() else []
        return []


def _read_state(path: Path) -> dict[str, Any]:
    check_file(path, "resume needs it whole", STATE_FILE)
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and runtime errors, as the damage has it
        raise InputError(f"{path} is truncated or damaged") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} is damaged: it holds no checkpoint")
    if SHARDS in state:
        _check_shards(path, state[SHARDS])
    return state


def _check_shards(path: Path, record: Any) -> None:
    """Raise `InputError` unless the shards that a checkpoint names are there, as it has them."""
    values = record if isinstance(record, dict) else {}
    folder, files = values.get("folder"), values.get("files")
    named = isinstance(folder, str) and SHARDS_FOLDER.fullmatch(folder)
    if not named or not isinstance(folder, str) or not isinstance(files, dict):
        raise InputError(f"{path} is damaged: its shards cannot be {quoted(record)}")
    with guarded(str(path.parent / folder)):
        there = {one.name for one in (path.parent / folder).glob("*.safetensors")}
    if there != set(files):
        one = sorted(there ^ set(files), key=str)[0]
        said = "has no" if one in files else "has another"
        raise InputError(f"{path.parent / folder} is not whole: it {said} {quoted(one)}")
    for name, digest in files.items():
        shard = path.parent / folder / name
        with guarded(str(shard)):
            found = file_digest(shard)
        if found != digest:
            raise InputError(
                f"{shard} is truncated or damaged: its SHA-256 is not the one in {path.name}; "
                "resume needs it whole"
            )


def _shards_of(path: Path) -> str | None:
    """Return the folder of a checkpoint's shards; None: it has none. Its tensors are not read."""
    state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state[SHARDS]["folder"] if SHARDS in state else None


def _say(line: str) -> None:
    print(f"loss-attention: {line}", file=sys.stderr)


def require_utf8(path: Path) -> None:
    """Raise `InputError` for a path that TensorBoard cannot write to."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the name of the run folder {printable(str(path))} is not UTF-8; rename it, or name "
            "another with `out`"
        ) from None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def metrics_text(history: list[dict[str, Any]]) -> str:
    """Return metrics.jsonl: a line for each epoch."""
    return "".join(json.dumps(line) + "\n" for line in history)


def checked_epoch(line: Any) -> dict[str, Any]:
    """Return the numbers of an epoch as a file has them.

    Raises:
        InputError: it is not an object, or one of them is neither a number nor empty.
    """
    if not isinstance(line, dict):
        raise InputError(f"the numbers of an epoch cannot be {quoted(line)}")
    for name, value in line.items():
        # A bad start may have an infinite loss; a whole number that no float holds, nobody writes.
        number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
        if value is not None and not number:
            raise InputError(f"the numbers of an epoch: {quoted(name)} cannot be {quoted(value)}")
    return line


KINDS: dict[str, type | tuple[type, ...]] = {
    "package_version": str,
    "command": str,
    "precision": str,
    "source": str,
    "storage": str,
    "data_fingerprint": str,
    "classes": list,
    "multi_label": bool,
    "train_images": int,
    "class_images": list,
    "validation_images": int,
    "test_images": int,
    "train_bags": int,
    "class_bags": list,
    "validation_bags": int,
    "test_bags": int,
    "instances": int,
    "features_of_instance": int,
    "division": str,
    "normalisation": dict,
    "features": dict,
    "initial": dict,
    "steps": int,
    "parameters": int,
    "versions": dict,
    "hardware": dict,
    "finished": bool,
    "best_epoch": int,
    "train_seconds": (int, float),
    "changes": list,
    "torchrun": dict,
    "trackers": dict,
}
"""What the facts in run.json are; those that are there."""


def checked_facts(facts: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what run.json says; raise `InputError` where a fact is not what it can be."""
    for name, kind in KINDS.items():
        value = facts.get(name)
        wrong = name in facts and (
            not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        )
        if wrong or (isinstance(value, int | float) and not abs(value) < 2**63):
            raise InputError(f"{path}: {name} cannot be {quoted(value)}")
    for name in ("class_images", "class_bags"):
        if any(type(count) is not int for count in facts.get(name, ())):
            raise InputError(f"{path}: {name} cannot be {quoted(facts[name])}")
    normalisation = facts.get("normalisation", {})
    if normalisation:
        with guarded(f"{path}: normalisation"):
            numbers = [*normalisation["mean"], *normalisation["std"]]
            if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
                raise InputError(f"{path}: normalisation cannot be {quoted(normalisation)}")
    return facts
