"""How time and memory of a training step grow with image size, patches, classes and processes.

    python benchmarks/growth.py             # about six minutes on two cores; the same on a GPU
    python benchmarks/growth.py --quick     # few and tiny points, to try the command

Writes growth-MACHINE.json, growth-MACHINE.md and a plot of each sweep to results/bench/, all at
the end. Each point is measured in a process of its own, with a narrow network: what is shown is how
a step grows, not how long it takes at full width. Nothing else should run meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from measuring import write_and_list

if TYPE_CHECKING:
    from growth_step import Point

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Arguments:
    """Measure how time and memory of a training step grow."""

    quick: bool = False
    """Few and tiny points, to try the command: no figure of it counts."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    out: Path | None = None
    """Where the files go; None: results/bench, or runs/growth-quick for a quick look."""


@dataclass(frozen=True)
class Sweep:
    """What grows.

    Attributes:
        axis: what it is called on the axis, with its unit.
        points: `MAIN`, and where something is compared `HELD`: from the size to what is trained.
        logarithmic: the size is drawn so.
    """

    axis: str
    points: dict[str, dict[int, Point]]
    logarithmic: bool = True


MAIN, HELD = "trained", "held"
"""As it is trained; with all patch logits held, however many."""


def sweeps(base: Point) -> dict[str, Sweep]:
    """Return what grows, from a narrow network on."""
    sized = replace(base, batch=1)
    # One image, other strides between its patches: (72 - 9) // stride + 1 of them a side.
    by_patches = {16: 21, 64: 9, 256: 4, 1024: 2, 4096: 1}
    patched = replace(base, side=72, batch=4)
    classes = (10, 100, 1000, 4000, 10_000, 21_841)
    classified = {k: replace(patched, patch_stride=2, classes=k) for k in classes}
    return {
        "image-size": Sweep(
            "height and width of an image, pixels",
            {MAIN: {side: replace(sized, side=side) for side in (32, 64, 128, 256, 512)}},
        ),
        "patches": Sweep(
            "patches of an image",
            {MAIN: {m: replace(patched, patch_stride=step) for m, step in by_patches.items()}},
        ),
        "classes": Sweep(
            "classes",
            {
                MAIN: classified,
                HELD: {k: replace(classified[k], hold_all=True) for k in classes[3:]},
            },
        ),
        "processes": Sweep(
            "processes that share a batch",
            {MAIN: {n: replace(base, batch=16, processes=n) for n in (1, 2)}},
            logarithmic=False,
        ),
    }


def quick_sweeps(base: Point) -> dict[str, Sweep]:
    """Return the first two sizes of each sweep, with a network narrower yet."""
    tiny = replace(base, width=0.03, steps=2)
    return {
        name: replace(
            sweep,
            points={label: dict(list(line.items())[:2]) for label, line in sweep.points.items()},
        )
        for name, sweep in sweeps(tiny).items()
    }


def measured(all_sweeps: dict[str, Sweep]) -> dict[str, Any]:
    """Measure every point of every sweep."""
    return {
        name: {
            "axis": sweep.axis,
            "logarithmic": sweep.logarithmic,
            "lines": {label: list(_line(name, line)) for label, line in sweep.points.items()},
        }
        for name, sweep in all_sweeps.items()
    }


def _line(name: str, line: dict[int, Point]) -> Iterator[dict[str, float]]:
    from growth_step import measure_point

    for size, point in line.items():
        found = {"size": size, **measure_point(point)}
        held = ", all held" if point.hold_all else ""
        took = f"{1000 * found['seconds']:,.0f} ms, {found['peak_bytes'] / 2**20:,.0f} MiB"
        print(f"{name} {size}{held}: {took}", flush=True)
        yield found


def main() -> None:
    """Run the command; what a user can mend is one line."""
    arguments = tyro.cli(Arguments)
    write_and_list("growth", lambda: grow(arguments))


def grow(arguments: Arguments) -> list[Path]:
    """Measure, write the files, and return their paths."""
    # Not before a flag was wrong or --help was asked for: torch takes seconds.
    from bench_figures import machine_slug
    from growth_page import growth_page
    from growth_plots import plot
    from growth_step import Point

    from loss_attention.saving import make_folder, write_whole
    from loss_attention.training.environment import (
        choose_accelerator,
        choose_precision,
        count_devices,
        hardware,
        versions,
    )

    accelerator = choose_accelerator(arguments.accelerator, 1)
    machine = hardware(accelerator, 1, choose_precision("auto", accelerator))
    slug = f"growth-{machine_slug(machine)}"
    folder = arguments.out or ROOT / ("runs/growth-quick" if arguments.quick else "results/bench")
    make_folder(folder)
    base = Point(width=0.125, batch=4, accelerator=accelerator, precision=machine["precision"])
    chosen = quick_sweeps(base) if arguments.quick else sweeps(base)
    if accelerator == "cuda" and count_devices("cuda") < max(chosen["processes"].points[MAIN]):
        del chosen["processes"]  # each would have a GPU of its own
    figures: dict[str, Any] = {
        "command": f"python benchmarks/growth.py{' --quick' if arguments.quick else ''}",
        "measured": datetime.now(UTC).date().isoformat(),
        "quick": arguments.quick,
        "width": chosen["patches"].points[MAIN][16].width,
        "hardware": machine,
        "versions": versions(),
        "sweeps": measured(chosen),
    }
    plots = {f"{slug}-{name}.png": plot(sweep) for name, sweep in figures["sweeps"].items()}
    contents: dict[str, str | bytes] = {
        **plots,
        f"{slug}.json": json.dumps(figures, indent=2, ensure_ascii=False) + "\n",
        f"{slug}.md": growth_page(figures, slug),
    }
    for name, content in contents.items():
        write_whole(folder / name, content)
    return [folder / name for name in contents]


if __name__ == "__main__":
    main()
