"""Speed and memory on this machine: ours beside the yardstick, and the targets with both.

    python benchmarks/bench.py             # 12 to 15 minutes on two cores; the same on a GPU
    python benchmarks/bench.py --quick     # the same with tiny networks, to try the command

Writes MACHINE.json, MACHINE.md and a profile of each network's step to results/bench/, all at the
end: whoever interrupts it keeps the files of the run before. Reasons that someone wrote into
MACHINE-notes.md there become part of the page. Nothing else should run meanwhile.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro
from measuring import write_and_list

from loss_attention.errors import unknown_name

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Arguments:
    """Measure speed and memory on this machine, beside the first published structure."""

    quick: bool = False
    """Tiny networks and few turns, to try the command: no number of it counts."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    networks: tuple[str, ...] = ("loss-attention", "capsule-loss-attention")
    """The networks to measure, by the name of their head."""
    out: Path | None = None
    """Where the files go; None: results/bench, or runs/bench-quick for a quick look."""


def main() -> None:
    """Run the command; what a user can mend is one line."""
    arguments = tyro.cli(Arguments)
    write_and_list("bench", lambda: bench(arguments))


def bench(arguments: Arguments) -> list[Path]:
    """Measure, write the files, and return their paths."""
    # Read when torch loads its profiler, which else prints a line when it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    # Not before a flag was wrong or --help was asked for: torch takes seconds.
    from bench_numbers import measured
    from bench_page import NAMES, bench_page, targets

    from loss_attention.saving import make_folder, write_whole

    for head in arguments.networks:
        if head not in NAMES:
            raise unknown_name("network", head, NAMES)
    folder = arguments.out or ROOT / ("runs/bench-quick" if arguments.quick else "results/bench")
    make_folder(folder)
    started = time.perf_counter()
    numbers, profiles = measured(arguments.networks, arguments.accelerator, arguments.quick)
    numbers["minutes"] = (time.perf_counter() - started) / 60
    reach = targets(numbers)
    numbers["targets"] = [asdict(target) for target in reach]
    notes = folder / numbers["notes_file"]
    page = bench_page(numbers, reach, notes.read_text(encoding="utf-8") if notes.exists() else None)
    machine = numbers["machine"]
    contents = {
        **profiles,
        f"{machine}.json": json.dumps(numbers, indent=2, ensure_ascii=False) + "\n",
        f"{machine}.md": page,
    }
    for name, content in contents.items():
        write_whole(folder / name, content)
    return [folder / name for name in contents]


if __name__ == "__main__":
    main()
