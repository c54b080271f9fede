"""How time and memory of a training step grow with image size, patches, classes and processes.

    python benchmarks/growth.py             # about six minutes on two cores; the same on a GPU
    python benchmarks/growth.py --quick     # few and tiny points, to try the command

Writes growth-MACHINE.json, growth-MACHINE.md and a plot of each sweep to results/bench/, all at
the end. Each point is measured in a process of its own, with a narrow network: what is shown is how
a step grows, not how long it takes at full width. Nothing else should run meanwhile. The page has
the paragraph on each sweep that someone wrote (growth.md), with the numbers measured.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from measuring import write_and_list

from loss_attention.terminal import markdown_table

if TYPE_CHECKING:
    from isolated import Point

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Arguments:
    """Measure how time and memory of a training step grow."""

    quick: bool = False
    """Few and tiny points, to try the command: no number of it counts."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    out: Path | None = None
    """Where the files go; None: results/bench, or runs/growth-quick for a quick look."""


@dataclass(frozen=True)
class Sweep:
    """What grows.

    Attributes:
        axis: what it is called on the axis, with its unit.
        points: of the line `MAIN`, from the size to what is trained.
        logarithmic: the size is drawn so.
    """

    axis: str
    points: dict[str, dict[int, Point]]
    logarithmic: bool = True


MAIN = "trained"
"""As it is trained, which is the one line of each plot."""


def sweeps(base: Point) -> dict[str, Sweep]:
    """Return what grows, from a narrow network on."""
    sized = replace(base, batch=1)
    # One image, other strides between its patches: (72 - 9) // stride + 1 of them a side.
    by_patches = {16: 21, 64: 9, 256: 4, 1024: 2, 4096: 1}
    patched = replace(base, side=72, batch=4)
    classes = (10, 100, 1000, 4000, 10_000, 21_841)
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
            {MAIN: {k: replace(patched, patch_stride=2, classes=k) for k in classes}},
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
    from isolated import measure_point

    for size, point in line.items():
        found = {"size": size, **measure_point(point)}
        took = f"{1000 * found['seconds']:,.0f} ms, {found['peak_bytes'] / 2**20:,.0f} MiB"
        print(f"{name} {size}: {took}", flush=True)
        yield found


def main() -> None:
    """Run the command; what a user can mend is one line."""
    arguments = tyro.cli(Arguments)
    write_and_list("growth", lambda: grow(arguments))


def grow(arguments: Arguments) -> list[Path]:
    """Measure, write the files, and return their paths."""
    # Not before a flag was wrong or --help was asked for: torch takes seconds.
    from bench_numbers import machine_slug
    from isolated import Point

    from loss_attention.saving import make_folder, write_whole
    from loss_attention.training.devices import choose_accelerator, count_devices
    from loss_attention.training.environment import choose_precision, hardware, versions

    accelerator = choose_accelerator(arguments.accelerator, 1)
    machine = hardware(accelerator, 1, choose_precision("auto", accelerator))
    slug = f"growth-{machine_slug(machine)}"
    folder = arguments.out or ROOT / ("runs/growth-quick" if arguments.quick else "results/bench")
    make_folder(folder)
    base = Point(width=0.125, batch=4, accelerator=accelerator, precision=machine["precision"])
    chosen = quick_sweeps(base) if arguments.quick else sweeps(base)
    if accelerator == "cuda" and count_devices("cuda") < max(chosen["processes"].points[MAIN]):
        del chosen["processes"]  # each would have a GPU of its own
    numbers: dict[str, Any] = {
        "command": f"python benchmarks/growth.py{' --quick' if arguments.quick else ''}",
        "measured": datetime.now(UTC).date().isoformat(),
        "quick": arguments.quick,
        "width": chosen["patches"].points[MAIN][16].width,
        "hardware": machine,
        "versions": versions(),
        "sweeps": measured(chosen),
    }
    plots = {f"{slug}-{name}.png": plot(sweep) for name, sweep in numbers["sweeps"].items()}
    contents: dict[str, str | bytes] = {
        **plots,
        f"{slug}.json": json.dumps(numbers, indent=2, ensure_ascii=False) + "\n",
        f"{slug}.md": growth_page(numbers, slug),
    }
    for name, content in contents.items():
        write_whole(folder / name, content)
    return [folder / name for name in contents]


PARAGRAPHS = Path(__file__).with_name("growth.md")
MIB = 2**20


def growth_page(numbers: dict[str, Any], slug: str) -> str:
    """Return the page, whose plots are called `SLUG-SWEEP.png`."""
    from loss_attention.training.environment import shown_precision

    machine = numbers["hardware"]
    parts = [
        "# How a training step grows",
        f"`{numbers['command']}`, {numbers['measured']}, on {machine['cpu']}, {machine['cores']} "
        f"cores, {machine['device']}, {shown_precision(machine['precision'])}; torch "
        f"{numbers['versions']['torch']}. ResNet18 of width {numbers['width']:g} with the "
        "loss-attention head; each point in a process of its own, the median of its steps after "
        "the first, and the most memory that it took beyond what its imports did.",
    ]
    if numbers["quick"]:
        parts.append("**A quick look with tiny networks, to try the command: no number counts.**")
    for name, (title, text) in paragraphs().items():
        sweep = numbers["sweeps"].get(name)
        if sweep is None:
            parts += [f"## {title}", "Not measured: this machine has too few GPUs."]
            continue
        parts += [f"## {title}", filled(text, sweep), f"![{title}]({slug}-{name}.png)"]
        parts.append(_table(sweep))
    return "\n\n".join(parts) + "\n"


def paragraphs() -> dict[str, tuple[str, str]]:
    """Return the title and the paragraph of each sweep, by the sweep's name."""
    sections = re.split(r"^## ", PARAGRAPHS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        title, _, text = section.partition("\n")
        found[title.strip().lower().replace(" ", "-")] = (title.strip(), text.strip())
    return found


def filled(text: str, sweep: dict[str, Any]) -> str:
    """Return a paragraph with its scores; `{trained[time_to]}` is one of `_summary`'s."""
    return text.format_map({name: _summary(line) for name, line in sweep["lines"].items()})


def _summary(line: list[dict[str, float]]) -> dict[str, str]:
    """Return what a paragraph can say of a line: its two ends, and how often one has the other."""
    first, last = line[0], line[-1]

    def times(name: str) -> str:
        ratio = last[name] / first[name]
        return f"{ratio:,.1f}" if ratio < 10 else f"{ratio:,.0f}"

    return {
        "from": f"{first['size']:,}",
        "to": f"{last['size']:,}",
        "times": times("size"),
        "time_from": _milliseconds(first),
        "time_to": _milliseconds(last),
        "time_times": times("seconds"),
        "memory_from": _mebibytes(first),
        "memory_to": _mebibytes(last),
        "memory_times": times("peak_bytes"),
    }


def _milliseconds(point: dict[str, float]) -> str:
    return f"{1000 * point['seconds']:,.0f} ms"


def _mebibytes(point: dict[str, float]) -> str:
    return f"{point['peak_bytes'] / MIB:,.0f} MiB"


def _table(sweep: dict[str, Any]) -> str:
    lines = sweep["lines"]
    heads = [f"{what}, {LABELS[name]}" for name in lines for what in ("time", "peak memory")]
    rows = []
    for size in [point["size"] for point in lines["trained"]]:
        cells = []
        for line in lines.values():
            found = next((point for point in line if point["size"] == size), None)
            cells += ["", ""] if found is None else [_milliseconds(found), _mebibytes(found)]
        rows.append([f"{size:,}", *cells])
    return markdown_table([sweep["axis"], *heads], rows, "r" * (1 + len(heads)))


QUANTITIES = (
    ("seconds", "time of a training step, ms", 1000.0),
    ("peak_bytes", "peak memory of a process, MiB", 1 / 2**20),
)
LABELS = {"trained": "as it is trained", "held": "all patch logits held"}


def plot(sweep: dict[str, Any]) -> bytes:
    """Return a PNG with a panel for time and one for memory, a line for each way of training."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (quantity, label, factor) in zip(figure.subplots(1, 2), QUANTITIES, strict=True):
        for name, line in sweep["lines"].items():
            sizes = [point["size"] for point in line]
            axes.plot(
                sizes, [factor * point[quantity] for point in line], marker="o", label=LABELS[name]
            )
        axes.set_xlabel(sweep["axis"])
        axes.set_ylabel(label)
        if sweep["logarithmic"]:
            axes.set_xscale("log")
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        longest = max(sweep["lines"].values(), key=len)
        axes.set_xticks([point["size"] for point in longest])
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(visible=True, alpha=0.3)
        if len(sweep["lines"]) > 1:
            axes.legend(frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, metadata={"Software": None})
    return drawn.getvalue()


if __name__ == "__main__":
    main()
