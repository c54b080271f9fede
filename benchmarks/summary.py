"""results/README.md: the measured figures as people read them, made from the JSON files there."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loss_attention.terminal import markdown_table
from loss_attention.training.environment import shown_precision

SHOWN = (
    ("accuracy", "accuracy"),
    ("patch_precision", "patch precision"),
    ("patch_recall", "patch recall"),
    ("patch_f", "patch F"),
    ("weight_inside", "weight inside the box"),
    ("evidence_inside", "evidence inside the box"),
    ("pointing_game", "pointing game"),
    ("box_ap", "box AP"),
    ("spread_box_ap", "box AP of the map's spread"),
)


ABSENT = "-"


def write_summary(folder: Path) -> None:
    """Write results/README.md from what has been measured so far."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    parts = [
        "# Results",
        "Measured by `benchmarks/run.py` (`make results`), which also writes this page; the JSON "
        "files beside it hold every figure with its floors, versions and hardware. Mean ± sample "
        "standard deviation over seeds. Speed and memory beside the targets (`make bench`), and "
        f"how a step grows (`python benchmarks/growth.py`): {_bench_pages(folder / 'bench')}.",
    ]
    for name, describe in (
        ("digits", _digits),
        ("cifar10-small", _cifar10),
        ("demo", _demo),
        ("interpreting", _interpreting),
        ("tiny-imagenet", _tiny_imagenet),
        ("coco", _interpreting),
        ("startup", _startup),
        ("explaining", _explaining),
        ("reliability", _reliability),
    ):
        if name in found:
            parts += [f"## {name}", *describe(found[name]), _stand(found[name])]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _bench_pages(folder: Path) -> str:
    """Return links to what was measured there; the notes are part of the other pages."""
    pages = [path for path in sorted(folder.glob("*.md")) if not path.stem.endswith("-notes")]
    return ", ".join(f"[{path.stem}](bench/{path.name})" for path in pages) or "nothing yet"


def _digits(figures: dict[str, Any]) -> list[str]:
    took = [
        ("whole command, seconds", "whole_command_seconds"),
        ("peak memory, MiB", "peak_memory_mib"),
    ]
    return [_commands(figures["runs"]), _beside_its_twin(figures["runs"], took)]


def _beside_its_twin(runs: list[dict[str, Any]], took: Sequence[tuple[str, str]]) -> str:
    """Return the table of loss-attention and its mean-pooling twin, with floors."""
    heads = ("loss-attention", "mean")
    by_head = {head: [run for run in runs if run["head"] == head] for head in heads}
    lines = []
    for name, label in SHOWN:
        cells = [spread([value_of(run, name) for run in by_head[head]]) for head in heads]
        lines.append([label, *cells, floors_of(by_head[heads[0]], name)])
    for label, name in (("training, seconds", "training_seconds"), *took):
        cells = [spread([run[name] for run in by_head[head]], digits=0) for head in heads]
        lines.append([label, *cells, ""])
    headings = ["measure", "loss-attention", "mean-pooling twin", "floors"]
    return markdown_table(headings, lines, "lrrl")


def _demo(figures: dict[str, Any]) -> list[str]:
    return [
        f"`{figures['command']}`: {figures['seconds']:.0f} seconds, report of "
        f"{figures['report_mib']:.1f} MiB, peak memory of its largest process "
        f"{figures['peak_memory_mib']:.0f} MiB. Seed 0, {figures['runs'][0]['source']}.",
        _beside_its_twin(figures["runs"], []),
        "The end of what it printed:",
        "```\n" + "\n".join(line.rstrip() for line in figures["output"]) + "\n```",
    ]


def _startup(figures: dict[str, Any]) -> list[str]:
    named = [
        ("loss-attention --help", "help_seconds"),
        ("import loss_attention", "import_seconds"),
        ("import loss_attention and its models", "import_with_models_seconds"),
        ("import torch", "import_torch_seconds"),
        ("Python doing nothing", "python_seconds"),
    ]
    rows = [(label, f"{figures[name]:.2f}") for label, name in named]
    return [markdown_table(["what", "seconds, median of nine"], rows)]


def _interpreting(figures: dict[str, Any]) -> list[str]:
    heads = " and ".join(dict.fromkeys(run["head"] for run in figures["runs"]))
    data = " and ".join(dict.fromkeys(run["recipe"] for run in figures["runs"]))
    page = figures["command"].split()[-1] + ".md"
    return [
        f"`{figures['command']}`: what explanations of {heads} on {data} are worth, every method "
        f"on the same networks: [{page}]({page}).",
        *figures["remarks"].values(),
    ]


def _cifar10(figures: dict[str, Any]) -> list[str]:
    runs = figures["runs"]
    rows = [
        ("accuracy", [value_of(run, "accuracy") for run in runs], 4),
        *(
            (f"{measure['label']}, {method}", [_compared(run, method, name) for run in runs], 3)
            for name, measure in runs[0]["comparison"]["measures"].items()
            if name in runs[0]["comparison"]["mosaics"]
            for method in runs[0]["comparison"]["methods"]
        ),
        ("training, minutes", [run["training_seconds"] / 60 for run in runs], 1),
        ("parameters, millions", [run["parameters"] / 1e6 for run in runs], 2),
        ("peak memory, MiB", [run.get("peak_memory_mib") for run in runs], 0),
    ]
    shown = [(label, spread(values, digits)) for label, values, digits in rows]
    return [*_interpreting(figures), markdown_table(["measure", "loss-attention"], shown)]


def _compared(run: dict[str, Any], method: str, name: str) -> float | None:
    figure = run["comparison"]["methods"][method]["figures"].get(name)
    value: float | None = figure and figure["value"]
    return value


def _tiny_imagenet(figures: dict[str, Any]) -> list[str]:
    return [*_interpreting(figures), _beside_its_twin(figures["runs"], [])]


def _explaining(figures: dict[str, Any]) -> list[str]:
    heads = list(figures["models"][0]["ratios"])
    lines = []
    for row in figures["models"]:
        cells = [
            ABSENT if row["ratios"][name] is None else f"{row['ratios'][name]:.3f}"
            for name in heads
        ]
        lines.append([row["model"], f"{1000 * row['forward_seconds']:.2f}", *cells])
    headings = ["model", "forward pass, ms an image", *heads]
    return [figures["about"], markdown_table(headings, lines)]


def _reliability(figures: dict[str, Any]) -> list[str]:
    rows = [row for part in figures["parts"].values() for row in part["rows"]]
    tried, good = (sum(row[name] for row in rows) for name in ("tried", "good"))
    return [
        f"What goes wrong on purpose, and what became of it: {good:,} of {tried:,} ended as they "
        "should, see [reliability.md](reliability.md)."
    ]


def _commands(runs: list[dict[str, Any]]) -> str:
    listed = dict.fromkeys(run["command"] for run in runs)
    return "```\n" + "\n".join(listed) + "\n```"


def _stand(figures: dict[str, Any]) -> str:
    machine, versions = figures["hardware"], figures["versions"]
    return (
        f"Measured {figures['measured']} on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine.get('memory_gib', '?')} GiB, {machine['device']}, "
        f"{shown_precision(machine['precision'])}; "
        f"Python {versions['python']}, torch {versions['torch']}."
    )


def value_of(run: dict[str, Any], name: str) -> float | None:
    """Return a figure of a run, None where it does not have it."""
    for measure in run["measures"]:
        if measure["name"] == name:
            value: float | None = measure["value"]
            return value
    return None


def floors_of(runs: Sequence[dict[str, Any]], name: str) -> str:
    """Return what the floors of a figure score."""
    floors: dict[str, list[float | None]] = {}
    for run in runs:
        for measure in run["measures"]:
            if measure["name"] == name:
                for label, value in measure["floors"].items():
                    floors.setdefault(label, []).append(value)
    return "; ".join(f"{label} {spread(values)}" for label, values in floors.items())


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Return the mean of what is known and, of several, their sample standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.{digits}f}"
    return f"{mean} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else mean
