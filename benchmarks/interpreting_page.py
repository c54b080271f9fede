"""SUBJECT.md: what explanations are worth, as people read it, made from SUBJECT.json."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from summary import ABSENT, floors_of, spread, value_of

from loss_attention.terminal import markdown_table
from loss_attention.training.environment import shown_precision

ARROWS = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}"}
SHOWN_HEADS = {"loss-attention": "loss-attention", "mean": "mean pooling"}
COSTS = ("seconds", "time_ratio")
BESIDE = ("evidence", "contrast", "grad-cam")
"""The methods of both networks that stand side by side."""

Run = dict[str, Any]


class Column(NamedTuple):
    """A method on some networks."""

    title: str
    runs: Sequence[Run]
    method: str


def write_page(subject: str, folder: Path) -> Path:
    """Write SUBJECT.md from the JSON beside it, and return its path."""
    figures = json.loads((folder / f"{subject}.json").read_text(encoding="utf-8"))
    path = folder / f"{subject}.md"
    path.write_text(interpreting_page(figures), encoding="utf-8")
    return path


def interpreting_page(figures: dict[str, Any]) -> str:
    """Return the whole page."""
    parts = ["# What explanations of the same networks are worth", _about(figures)]
    if figures["part"] < 1:
        parts.append(
            f"**Tried with {figures['part']:.0%} of the whole: no figure here says anything.**"
        )
    for name in dict.fromkeys(run["recipe"] for run in figures["runs"]):
        runs = [run for run in figures["runs"] if run["recipe"] == name]
        parts += _study(name, runs, figures["remarks"].get(name, ""))
    return "\n\n".join([*parts, _stand(figures)]) + "\n"


def _about(figures: dict[str, Any]) -> str:
    heads = dict.fromkeys(SHOWN_HEADS[run["head"]] for run in figures["runs"])
    return (
        f"`{figures['command']}` trains {' and '.join(heads)} on the same data, and measures on "
        "each network what methods of explanation say of the same test images. What the measures "
        "and methods are, and what they do not say, is in "
        "[comparing.md](../docs/comparing.md)."
    )


def _study(name: str, runs: Sequence[Run], remark: str) -> list[str]:
    by_head = {
        head: [run for run in runs if run["head"] == head]
        for head in dict.fromkeys(run["head"] for run in runs)
    }
    seeds = sorted({run["seed"] for run in runs})
    listed = dict.fromkeys(command for run in runs for command in run["commands"])
    parts = [
        f"## {name}",
        "```\n" + "\n".join(listed) + "\n```",
        f"Data: {runs[0]['source']}"
        + (" and likewise with each seed" if len(seeds) > 1 else "")
        + f". Seeds: {', '.join(map(str, seeds))}; the seed decides what is drawn of the data, the "
        "weights and which images are explained." + (f" {remark}" if remark else ""),
        "### The networks",
        f"All {runs[0]['test_images']:,} test images. Mean"
        + (" ± sample standard deviation over seeds." if len(seeds) > 1 else " of one seed.")
        + " All 0 to 1.",
        _networks(by_head),
        "### Explanations side by side",
        _errors(len(seeds)),
        _table(
            [
                *(
                    Column(f"{SHOWN_HEADS[head]}: {method}", found, method)
                    for head, found in by_head.items()
                    for method in BESIDE
                    if method in found[0]["comparison"]["methods"]
                ),
                *_floor_columns(next(iter(by_head.values()))),
            ]
        ),
    ]
    for head, found in by_head.items():
        parts += [
            f"### All methods on {SHOWN_HEADS[head]}",
            _table([*_method_columns(found), *_floor_columns(found)]),
            _counts(found),
        ]
        slow = [run | {"comparison": run["slow_comparison"]} for run in found if _has_slow(run)]
        if slow:
            parts += [
                f"### The slow methods on {SHOWN_HEADS[head]}, others on the same images",
                _table([*_method_columns(slow), *_floor_columns(slow)]),
                _counts(slow),
            ]
    return parts


def _has_slow(run: Run) -> bool:
    return run.get("slow_comparison") is not None


def _networks(by_head: dict[str, list[Run]]) -> str:
    """Return what `evaluate` measured of both networks, and what the floors score."""
    first = next(iter(by_head.values()))
    lines = []
    for measure in first[0]["measures"]:
        name = measure["name"]
        cells = [spread([value_of(run, name) for run in found]) for found in by_head.values()]
        oracle = " (oracle)" if name.endswith("_oracle") else ""
        label = f"{measure['label']}{oracle} {ARROWS[measure['higher_is_better']]}"
        lines.append([label, *cells, floors_of(first, name)])
    for key, label in (
        ("training_seconds", "training, seconds"),
        ("train_command_seconds", "training and evaluation, seconds"),
        ("compare_command_seconds", "comparison, seconds"),
        ("compare_slow_command_seconds", "comparison of the slow methods, seconds"),
        ("peak_memory_mib", "peak memory of training, MiB"),
    ):
        # Of some seeds alone, a whole could seem to take less time than its part of all.
        if all(run.get(key) is not None for found in by_head.values() for run in found):
            cells = [spread([run.get(key) for run in found], 0) for found in by_head.values()]
            lines.append([label, *cells, ""])
    headings = ["measure", *(SHOWN_HEADS[head] for head in by_head), "floors"]
    return markdown_table(headings, lines, "l".ljust(1 + len(by_head), "r") + "l")


def _errors(seeds: int) -> str:
    error = "\N{PLUS-MINUS SIGN} the standard error of the mean over images"
    if seeds > 1:
        error = f"Mean over seeds {error} of all seeds, or over seeds where that is larger"
    return (
        f"{error}. \N{UPWARDS ARROW} higher is better, \N{DOWNWARDS ARROW} lower. Floors know "
        "nothing of the model; those here are of the first network, as its patches decide what is "
        "random."
    )


def _table(columns: Sequence[Column]) -> str:
    measures = columns[0].runs[0]["comparison"]["measures"]
    lines = []
    for name, measure in measures.items():
        label = f"{measure['label']} {ARROWS[measure['higher_is_better']]}"
        cells = [_cell(column, name) for column in columns]
        lines.append([label, *cells])
    return markdown_table(["measure", *(column.title for column in columns)], lines)


def _cell(column: Column, measure: str) -> str:
    found = [
        run["comparison"]["methods"].get(column.method, {"figures": {}})["figures"].get(measure)
        for run in column.runs
    ]
    known = [figure for figure in found if figure is not None]
    if not known:
        return ABSENT
    value = statistics.mean(figure["value"] for figure in known)
    if measure in COSTS:
        return f"{value:.2g}" if measure == "seconds" else f"{value:.2f}"
    error = standard_error(
        [figure["value"] for figure in known], [figure["standard_error"] for figure in known]
    )
    return f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def standard_error(values: Sequence[float], errors: Sequence[float | None]) -> float | None:
    """Return the error of the mean over networks: from their images, or from how they differ.

    Each network has images of its own, so both estimate it; few networks estimate it badly, and
    the larger one is taken.

    Args:
        values: a figure of each network.
        errors: its standard error over images; None where there is one image.
    """
    over_images = None
    if None not in errors:
        over_images = math.sqrt(sum(error**2 for error in errors if error is not None)) / len(
            errors
        )
    over_networks = None
    if len(values) > 1:
        over_networks = statistics.stdev(values) / math.sqrt(len(values))
    return max((e for e in (over_images, over_networks) if e is not None), default=None)


def _floor(method: str, runs: Sequence[Run]) -> bool:
    floor: bool = runs[0]["comparison"]["methods"][method]["floor"]
    return floor


def _method_columns(runs: Sequence[Run]) -> list[Column]:
    methods: Iterable[str] = runs[0]["comparison"]["methods"]
    return [Column(m, runs, m) for m in methods if not _floor(m, runs)]


def _floor_columns(runs: Sequence[Run]) -> list[Column]:
    methods: Iterable[str] = runs[0]["comparison"]["methods"]
    return [Column(f"floor: {m}", runs, m) for m in methods if _floor(m, runs)]


def _counts(runs: Sequence[Run]) -> str:
    """Return how many images and mosaics the figures are of, and what could not be measured."""
    first = runs[0]["comparison"]
    each = " a network" if len(runs) > 1 else ""
    words = f"Of {first['images']} images{each}, {first['boxed_images']} with a box of their class"
    for name, count in first["mosaics"].items():
        words += f"; {count} mosaics of {first['measures'][name]['label'].split(', ')[1]}"
    left_out = "; ".join(f"{name} ({why})" for name, why in first["left_out"].items())
    return words + "." + (f" Not possible with this network: {left_out}." if left_out else "")


def _stand(figures: dict[str, Any]) -> str:
    comparison = figures["runs"][0]["comparison"]
    machine, versions = comparison["hardware"], comparison["versions"]
    return (
        f"Written {figures['measured']}; measured on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine.get('memory_gib', '?')} GiB, {machine['device']}, comparisons in float32, "
        f"training in {shown_precision(figures['hardware']['precision'])}; loss-attention "
        f"{comparison['loss_attention']}, Python {versions['python']}, torch {versions['torch']}."
    )
