"""How long the training waits for a checkpoint: plain, sharded, and in the background.

python benchmarks/checkpointing.py --folder WHERE_RUNS_ARE

A small one, to try it: `--megabytes 20 --turns 1 --results elsewhere`.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from loss_attention.terminal import markdown_table
from loss_attention.training.recipe import CheckpointForm

ROOT = Path(__file__).resolve().parent.parent
NAME = "checkpointing"
LAYER = 512
"""Channels in and out of each of the 3 x 3 convolutions that the checkpoint is of."""


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    megabytes: int = 1000
    """Size of the checkpoint: half of it weights, half their momentum."""
    turns: int = 5
    """How often each form is written, in turns."""
    folder: Path | None = None
    """Where it is written: what counts is that disk. None: the system's folder for such."""
    results: Annotated[Path, tyro.conf.arg(help="Folder of the JSON file and the page.")] = (
        ROOT / "results"
    )


def checkpoint(megabytes: int) -> dict[str, Any]:
    """Return a checkpoint of about so many megabytes, as a training with SGD has it."""
    import torch

    layers = max(1, round(megabytes * 1e6 / (2 * 4 * 9 * LAYER**2)))

    def tensors() -> list[torch.Tensor]:
        form = torch.channels_last
        return [
            torch.randn(LAYER, LAYER, 3, 3).contiguous(memory_format=form) for _ in range(layers)
        ]

    return {
        "format_version": 1,
        "model": {f"layer.{number}.weight": one for number, one in enumerate(tensors())},
        "optimizer": {
            "state": {number: {"momentum_buffer": one} for number, one in enumerate(tensors())},
            "param_groups": [{"lr": 0.1, "params": list(range(layers))}],
        },
        "position": {"epoch": 0, "step": 0},
    }


def waits(megabytes: int, turns: int, folder: Path | None) -> dict[str, Any]:
    """Return the seconds that the training waits for each form, and until it is on the disk."""
    from lightning_fabric import Fabric
    from measuring import ratio, spread

    from loss_attention.training.bookkeeping import Checkpoints
    from loss_attention.training.run_folder import RunFolder

    state, forms = checkpoint(megabytes), get_args(CheckpointForm)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    waited: dict[str, list[float]] = {form: [] for form in forms}
    written: dict[str, list[float]] = {form: [] for form in forms}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for turn in range(1 + turns):  # the first imports what each needs
            for form in forms:
                path = Path(name) / form
                path.mkdir(exist_ok=True)
                checkpoints = Checkpoints(fabric, RunFolder(path), form=form)
                began = time.perf_counter()
                checkpoints.save(state, [], None)
                seconds = time.perf_counter() - began
                checkpoints.finish()
                if turn:
                    waited[form].append(seconds)
                    written[form].append(time.perf_counter() - began)
    return {
        form: {
            "waits_seconds": spread(waited[form]),
            "written_seconds": spread(written[form]),
            "of_plain": ratio(waited[form], waited["plain"]),
        }
        for form in forms
    }


def page(numbers: dict[str, Any]) -> str:
    """Return the page of the numbers."""
    from measuring import shown

    rows = [
        [
            f"`{form}`",
            shown(one["waits_seconds"]),
            shown(one["of_plain"]),
            shown(one["written_seconds"]),
        ]
        for form, one in numbers["forms"].items()
    ]
    machine = numbers["hardware"]
    parts = [
        "# How long the training waits for a checkpoint",
        f"`{numbers['command']}`. A checkpoint of {numbers['megabytes']:,} MB, half weights and "
        "half momentum, written by one process, each form in turn with the others; median and "
        "range. In the background nothing else runs meanwhile, so what a training loses to the "
        "writing beside it is not in here.",
        markdown_table(
            ["`--checkpoint`", "seconds waited", "of plain", "seconds until it is written"],
            rows,
            "lrrr",
        ),
        f"Measured {numbers['measured']} on {machine['cpu']}, {machine['cores']} cores; torch "
        f"{numbers['versions']['torch']}.",
    ]
    if numbers["megabytes"] < Arguments().megabytes:
        parts.insert(1, "**Tried with a small checkpoint: no number here says anything.**")
    return "\n\n".join(parts) + "\n"


def measure(arguments: Arguments) -> list[Path]:
    """Measure, and write the JSON file and the page of it."""
    from measuring import keep_with_page

    numbers = {
        "command": "python benchmarks/checkpointing.py",
        "megabytes": arguments.megabytes,
        "forms": waits(arguments.megabytes, arguments.turns, arguments.folder),
    }
    return keep_with_page(NAME, numbers, page, arguments.results)


def main() -> None:
    """Run the command."""
    from measuring import refuse_below, write_and_list

    arguments = tyro.cli(Arguments)
    least = {"megabytes": (arguments.megabytes, 1), "turns": (arguments.turns, 1)}
    refuse_below("checkpointing", least)
    write_and_list("checkpointing", lambda: measure(arguments))


if __name__ == "__main__":
    main()
