"""Trainings that torchrun starts again: a later attempt goes on with the run of an earlier one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from loss_attention.errors import InputError, quoted
from loss_attention.saving import digest_of
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.run_folder import RunFolder

NO_ID = "none"
"""What torchrun calls a job that was given no `--rdzv-id`."""


def attempt() -> dict[str, Any] | None:
    """Return which attempt of which call of torchrun this process belongs to; None: of none.

    The folder of its log is new at each call and the same in all attempts of it.
    """
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    if job is None:
        return None
    # CALL/attempt_0/0/error.json
    above = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).parents
    call = digest_of(str(above[2])) if len(above) > 3 else ""
    number = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return {"job": job, "call": call, "attempt": number}


def restarted() -> bool:
    """Whether torchrun has started this once already."""
    now = attempt()
    return now is not None and now["attempt"] > 0


def goes_on(run: RunFolder) -> bool:
    """Whether an earlier attempt began the run in this folder, so that this one goes on with it.

    Neither a run that was there before nor what another call of torchrun began.
    """
    now = attempt()
    if now is None or not restarted() or not run.begun:
        return False
    before = run.facts().get("torchrun", {})
    number = before.get("attempt")
    same_call = before.get("call") == now["call"] != ""
    same_job = before.get("job") == now["job"] != NO_ID  # the process that writes may move
    return isinstance(number, int) and number < now["attempt"] and (same_call or same_job)


def meet(device: torch.device) -> None:
    """Have the processes of a later attempt find each other where earlier ones left nothing.

    With a static rendezvous, its usual one, torchrun keeps its store from attempt to attempt (as of
    torch 2.5), and in it the addresses of processes that are gone. With an elastic one of several
    machines there is a new store each time, and each torchrun has its own count of attempts.

    Args:
        device: what this process computes on.
    """
    now, said = attempt(), os.environ
    if now is None or not restarted() or said.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    if said.get("GROUP_WORLD_SIZE") != "1" and now["job"] != NO_ID:
        return
    processes = int(said["WORLD_SIZE"])
    of_torch: Any = distributed  # torch's stubs do not export its stores
    store = of_torch.TCPStore(
        said["MASTER_ADDR"], int(said["MASTER_PORT"]), processes, is_master=False
    )
    of_torch.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=of_torch.PrefixStore(f"attempt-{now['attempt']}", store),
        rank=int(said["RANK"]),
        world_size=processes,
    )


@contextmanager
def going_on(run: RunFolder, recipe: Recipe, options: RunOptions) -> Iterator[None]:
    """Have the folder of a run that `goes_on`, as `RunFolder.claimed` has that of a new one.

    Raises:
        InputError: what was asked for is not what the run began with, or it is damaged.
    """
    with run.locked():
        run.check()
        _require_same(run, recipe, options)
        yield


def _require_same(run: RunFolder, recipe: Recipe, options: RunOptions) -> None:
    steps = run.facts().get("steps")  # the recipe has them as epochs
    in_steps = {} if steps is None else {"steps": steps, "epochs": 0}
    was = asdict(run.recipe()) | in_steps | asdict(run.options())
    for name, value in (asdict(recipe) | asdict(options)).items():
        # What was left open is written down as it was chosen.
        chosen = name in ("accelerator", "stream") and value == "auto"
        if value != was[name] and not chosen:
            raise InputError(
                f"`{name}` {quoted(value)} is not what the run {run.path} began with, "
                f"{quoted(was[name])}: torchrun starts the same training again, so that it goes on"
            )
