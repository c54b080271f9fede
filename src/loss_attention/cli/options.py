"""Options that several subcommands have."""

from __future__ import annotations

from typing import Annotated

import tyro

from loss_attention.training.recipe import Accelerator

Device = Annotated[Accelerator, tyro.conf.arg(help="auto: a GPU if there is one.")]
