"""Work in several processes that need not import torch, as they are forked."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection

from apart import apart, ended, heard
from lightning_fabric import Fabric

Work = Callable[[Fabric], None]


def in_processes(work: Work, devices: int) -> None:
    """Do some work in so many processes; in this one, where it is one."""
    if devices == 1:
        fabric = Fabric(accelerator="cpu", devices=1)
        fabric.launch()
        work(fabric)
        return
    process, told = apart(_launch, work, devices)
    assert heard(told) == "done"
    assert ended(process) == 0


def _launch(told: Connection, work: Work, devices: int) -> None:
    Fabric(accelerator="cpu", devices=devices, strategy="ddp_fork").launch(work)
    told.send("done")
