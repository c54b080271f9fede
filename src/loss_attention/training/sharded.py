"""Checkpoints that all processes write, each its shard, and that any number of them can read.

A shard has tensors and is a safetensors file: numbers behind a JSON header. The usual form of
torch.distributed.checkpoint has pickles, whose reading runs what they say. The rest of a
checkpoint, with the outline of each tensor and the shards' digests, is state.pt. That is written
last, so a checkpoint is whole or not there.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from loss_attention.errors import InputError, guarded, reason
from loss_attention.saving import SaveError, file_digest, placed

Commit = Callable[[dict[str, Any]], None]
"""Makes a checkpoint of shards that are there, given as their folder's name and their digests."""

UNFINISHED = ".tmp"
"""What the folder's name ends in while shards are written into it."""


def outlined(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Take a checkpoint apart.

    Returns:
        It with the outline of each tensor in the tensor's place, and the tensors by name. Tensors
        of one element or none stay where they are, as copies.
    """
    tensors: dict[str, Tensor] = {}

    def outline(name: str, tensor: Tensor) -> Tensor:
        if tensor.numel() < 2:
            return tensor.detach().cpu().clone()
        assert name not in tensors
        tensors[name] = tensor.detach()
        form = tensor.size(), tensor.stride()
        return torch.empty_strided(*form, dtype=tensor.dtype, device="meta")

    changed: dict[str, Any] = _changed(state, outline)
    return changed, tensors


def _changed(value: Any, change: Callable[[str, Tensor], Tensor], name: str = "") -> Any:
    """Return a checkpoint with its tensors changed, each by its name."""
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, dict):
        made = copy.copy(value)  # as a module's has versions beside its values
        for key, one in value.items():
            made[key] = _changed(one, change, f"{name}/{key}" if name else str(key))
        return made
    if type(value) in (list, tuple):
        return type(value)(
            _changed(one, change, f"{name}/{number}") for number, one in enumerate(value)
        )
    return value


def shares(tensors: Mapping[str, Tensor], processes: int) -> list[list[str]]:
    """Divide tensors among processes, so that each writes about as many bytes.

    It is the same division in all of them, who have the same tensors.

    Example:
        >>> sizes = {"a": 5, "b": 4, "c": 3, "d": 2}
        >>> shares({name: torch.zeros(size) for name, size in sizes.items()}, 2)
        [['a', 'd'], ['b', 'c']]
    """
    found: list[list[str]] = [[] for _ in range(processes)]
    filled_to = [0] * processes
    for name in sorted(tensors, key=lambda one: (-tensors[one].nbytes, one)):
        least = filled_to.index(min(filled_to))
        found[least].append(name)
        filled_to[least] += tensors[name].nbytes
    return found


def staged(tensors: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Return copies of some tensors in the host's memory, as safetensors has them: contiguous."""
    return {
        name: torch.empty(tensors[name].shape, dtype=tensors[name].dtype).copy_(tensors[name])
        for name in names
    }


def expect_one_process() -> None:
    """Have torch say nothing of a process that is alone: not in the thread that writes either."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or un")


def write_shards(
    share: dict[str, Tensor], folder: Path, group: ProcessGroup | None, commit: Commit
) -> None:
    """Write this process's share beside those of the others; the first then makes a checkpoint.

    All return together, and what goes wrong in one of them is raised in all.

    Args:
        share: staged tensors.
        folder: of all shards, new; it has its name once they are all there.
        group: the processes; None: this one is alone.
        commit: what the first calls then.

    Raises:
        SaveError: a shard could not be written; the checkpoint before it stays.
    """
    temporary = folder.with_name(folder.name + UNFINISHED)
    try:
        save(
            dict(share),
            storage_writer=_Writer(temporary, folder, commit),
            planner=DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            process_group=group,
            no_dist=group is None,
        )
    except CheckpointException as error:
        if group is None or torch.distributed.get_rank(group) == 0:
            for one in (temporary, folder):
                shutil.rmtree(one, ignore_errors=True)
        cause = _cause(error)
        if isinstance(cause, OSError):
            raise SaveError(
                f"cannot write {folder}: {reason(cause)}; the checkpoint before it, if there is "
                "one, is kept"
            ) from error
        raise cause from error


class _Writer(HuggingFaceStorageWriter):
    """Writes shards; the first process's `finish` makes a checkpoint of them all."""

    def __init__(self, temporary: Path, folder: Path, commit: Commit) -> None:
        super().__init__(str(temporary), save_distributed=True)
        self._temporary, self._folder, self._commit = temporary, folder, commit

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this process's shard, and tell the first its digest."""
        written = super().write_data(plan, planner).wait()
        names = {result.storage_data.relative_path for result in written}
        digests = {name: file_digest(self._temporary / name) for name in names}
        told: Future[list[WriteResult]] = Future()
        told.set_result([replace(result, storage_data=digests) for result in written])
        return told

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:  # noqa: ARG002
        """Give the folder its name, in the first process, and make the checkpoint."""
        files: dict[str, str] = {}
        for of_process in results:
            for result in of_process:
                files |= result.storage_data
        placed(self._temporary, self._folder)
        self._commit({"folder": self._folder.name, "files": files})


def _cause(error: CheckpointException) -> Exception:
    """Return what went wrong in the first process in which something did."""
    _, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
    return cause if isinstance(cause, Exception) else RuntimeError(str(cause))


def filled(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a checkpoint with its tensors, read from shards of any number of processes.

    Args:
        state: as `outlined` leaves it.
        folder: of the shards.

    Raises:
        InputError: they are not the shards of this checkpoint.
    """
    outlines: dict[str, Tensor] = {}

    def note(name: str, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            outlines[name] = tensor
        return tensor

    with guarded(str(folder)):
        _changed(state, note)
        reader = HuggingFaceStorageReader(str(folder))
        _check_outlines(outlines, reader.read_metadata(), folder)
        tensors = {name: torch.zeros_like(one, device="cpu") for name, one in outlines.items()}
        with warnings.catch_warnings():
            expect_one_process()
            try:
                load(
                    tensors,
                    storage_reader=reader,
                    planner=DefaultLoadPlanner(
                        flatten_state_dict=False, flatten_sharded_tensors=False
                    ),
                    no_dist=True,
                )
            except CheckpointException as error:
                raise _cause(error) from error
        made: dict[str, Any] = _changed(state, lambda name, one: tensors.get(name, one))
        return made


def _check_outlines(outlines: Mapping[str, Tensor], found: Metadata, folder: Path) -> None:
    """Raise `InputError` unless the shards hold all of what is outlined, before memory is taken."""
    held = found.state_dict_metadata
    for name, outline in outlines.items():
        there = held.get(name)
        if (
            not isinstance(there, TensorStorageMetadata)
            or there.size != outline.size()
            or there.properties.dtype != outline.dtype
            or sum(chunk.sizes.numel() for chunk in there.chunks) != outline.numel()
        ):
            raise InputError(f"{folder} has other tensors than its checkpoint")
    bytes_there = sum(file.stat().st_size for file in folder.iterdir())
    if sum(outline.numel() * outline.element_size() for outline in outlines.values()) > bytes_there:
        raise InputError(f"{folder} is smaller than its checkpoint")
