"""A tiny run as one of the processes that torchrun or srun start on several machines.

`python -m torch.distributed.run ... tests/training/machines.py FOLDER` runs it, and so do tests
that set what these say in the environment by themselves.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from torch import nn
from training.one_epoch import FrozenBatchNorm
from training.tiny import tiny_recipe, tiny_splits

from loss_attention.errors import InputError
from loss_attention.interruption import StopRequest
from loss_attention.training import job, processes
from loss_attention.training.changing import change_processes
from loss_attention.training.job import begin_run, continue_run
from loss_attention.training.processes import leads
from loss_attention.training.recipe import CheckpointForm, RunOptions
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.sampling import process_part
from loss_attention.training.trainer import Trainer

TWO = RunOptions(num_nodes=2, accelerator="cpu", checkpoint_every_steps=2)


def of_torchrun(rank: int, port: int) -> dict[str, str]:
    """What torchrun says to the process of a machine with one."""
    return {
        "TORCHELASTIC_RUN_ID": "a run",
        "RANK": str(rank),
        "GROUP_RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def of_srun(rank: int, port: int) -> dict[str, str]:
    """What srun says to it."""
    return {
        "SLURM_JOB_ID": str(10_000 + port % 10_000),
        "SLURM_JOB_NAME": "tiny",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_NODEID": str(rank),
        "SLURM_LOCALID": "0",
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def on_a_machine(
    told: Connection, folder: Path, environment: dict[str, str], **changes: Any
) -> None:
    """Train in this process, which another one started; tell whether it finished."""
    os.environ.update(environment)
    try:
        told.send(train(folder, TWO, **changes))
    except InputError as error:
        told.send(str(error))


def on_one_machine(told: Connection, folder: Path, **changes: Any) -> None:
    """Likewise, alone."""
    told.send(train(folder, RunOptions(accelerator="cpu"), **changes))


def train(
    folder: Path,
    options: RunOptions,
    *,
    begins: bool = True,
    stop_at: int | None = None,
    seed: int = 0,
    checkpoint: CheckpointForm = "plain",
) -> tuple[bool, int | None]:
    """Train a run, new or as it stands, with frozen batch norm; save what this process saw."""
    torch.set_num_threads(1)
    freeze_batch_norm()
    processes.CHECK_INTERVAL = 1  # at these few steps, processes would ask each other but once
    seen: list[int] = []
    step, stop = Trainer.train_step, StopRequest()

    def watched(self: Trainer, batch: Any, gamma: float) -> None:
        fabric = self.fabric
        seen.extend(batch[process_part(batch, fabric.global_rank, fabric.world_size)].tolist())
        if stop_at is not None and self._finished_steps == stop_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        step(self, batch, gamma)
        torch.save(
            {"seen": seen, "state": self.model.state_dict()},
            folder.parent / f"{folder.name}-rank{fabric.global_rank}of{fabric.world_size}.pt",
        )

    Trainer.train_step = watched  # type: ignore[method-assign]
    splits, model = tiny_splits(images=33, seed=seed), None
    options = replace(options, checkpoint=checkpoint)
    run = RunFolder(folder, writes=leads(options))
    if not begins:  # in as many processes as there are now
        change_processes(run, replace(run.options(), num_nodes=options.num_nodes), print)
    else:
        with run.claimed():
            recipe = tiny_recipe(epochs=2, learning_rate=0.05)
            model = begin_run(run, recipe, splits, options)
    return continue_run(run, splits, model=model, stop=stop), stop.number


def freeze_batch_norm() -> None:
    """So that each process's own images decide nothing."""
    build = job.build_model

    def frozen(*arguments: Any, **options: Any) -> Any:
        model = build(*arguments, **options)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = FrozenBatchNorm
        return model

    job.build_model = frozen


if __name__ == "__main__":
    assert train(Path(sys.argv[1]), TWO)[0]
