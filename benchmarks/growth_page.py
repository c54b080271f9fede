"""The page on growth: a paragraph on each sweep that someone wrote, with the figures measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from growth_plots import LABELS

from loss_attention.terminal import markdown_table
from loss_attention.training.environment import shown_precision

PARAGRAPHS = Path(__file__).with_name("growth.md")
MIB = 2**20


def growth_page(figures: dict[str, Any], slug: str) -> str:
    """Return the page, whose plots are called `SLUG-SWEEP.png`."""
    machine = figures["hardware"]
    parts = [
        "# How a training step grows",
        f"`{figures['command']}`, {figures['measured']}, on {machine['cpu']}, {machine['cores']} "
        f"cores, {machine['device']}, {shown_precision(machine['precision'])}; torch "
        f"{figures['versions']['torch']}. ResNet18 of width {figures['width']:g} with the "
        "loss-attention head; each point in a process of its own, the median of its steps after "
        "the first, and the most memory that it took beyond what its imports did.",
    ]
    if figures["quick"]:
        parts.append("**A quick look with tiny networks, to try the command: no figure counts.**")
    for name, (title, text) in paragraphs().items():
        sweep = figures["sweeps"].get(name)
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
    """Return a paragraph with its figures; `{trained[time_to]}` is one of `_summary`'s."""
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
