"""What the processes do whose checkpoints in shards are tried."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch.distributed.checkpoint import filesystem

from loss_attention.saving import SaveError
from loss_attention.training.bookkeeping import Checkpoints
from loss_attention.training.run_folder import RunFolder


def state() -> dict[str, Any]:
    """A checkpoint with all that one can hold."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(4, 3, 2, 2, generator=generator)
    model = OrderedDict(
        {
            "conv.weight": weights.contiguous(memory_format=torch.channels_last),
            "conv.bias": torch.randn(4, generator=generator).bfloat16(),
            "transposed": torch.randn(3, 5, generator=generator).t(),
            "double": torch.randn(7, generator=generator).double(),
            "nothing": torch.zeros(0, 3),
            "count": torch.tensor(7),
        }
    )
    model._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    moments = {0: {"step": torch.tensor(3.0), "moment": torch.arange(6)}, 1: {}}
    groups = [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0, 1], "kept": [torch.ones(2)]}]
    return {
        "format_version": 1,
        "model": model,
        "optimizer": {"state": moments, "param_groups": groups},
        "position": {"epoch": 2, "best": None, "history": [{"loss": 0.5}]},
    }


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
        assert found.device.type == "cpu"
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert getattr(found, "_metadata", None) == getattr(expected, "_metadata", None)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def save(fabric: Fabric, *, path: Path, form: Any, times: int = 1) -> None:
    checkpoints = Checkpoints(fabric, RunFolder(path), form=form)
    with checkpoints.written():
        for _ in range(times):
            checkpoints.save(state(), [{"epoch": 1}], None)


def load(fabric: Fabric, *, path: Path) -> None:
    found = Checkpoints(fabric, RunFolder(path), form="sharded").load()
    assert found is not None
    found.pop("shards")
    assert_same(found, state())


def full_after(patch: pytest.MonkeyPatch, writes: int, rank: int = 0) -> None:
    """Have the disk be full from the next shard after so many on, for one process."""
    written = 0
    write = filesystem._write_item

    def limited(*given: Any, **how: Any) -> Any:
        nonlocal written
        written += 1
        group = torch.distributed.is_initialized()
        if written > writes and (not group or torch.distributed.get_rank() == rank):
            raise OSError(28, "No space left on device")
        return write(*given, **how)

    patch.setattr(filesystem, "_write_item", limited)


def save_where_the_second_is_full(fabric: Fabric, *, path: Path, form: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        checkpoints = Checkpoints(fabric, RunFolder(path), form=form)
        checkpoints.save(state(), [], None)
        checkpoints.finish()
        full_after(patch, 0, rank=1)
        with pytest.raises(SaveError, match="No space left"), checkpoints.written():  # in both
            checkpoints.save(state(), [], None)
