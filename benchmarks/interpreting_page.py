"""results/SUBJECT.md: what explanations of the same networks are worth, from the JSON beside it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from measuring import COSTS, read_numbers
from run_scores import (
    ABSENT,
    SHOWN_HEADS,
    baselines_of,
    before_centring,
    by_head_of,
    compared_by,
    spread,
    value_of,
)

from loss_attention.terminal import markdown_table
from loss_attention.training.environment import shown_precision

ARROWS = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}"}
BESIDE = ("evidence", "contrast", "margin", "grad-cam", "grad-cam-competition")
"""The methods of both networks that stand side by side."""
POINTING = ("margin", "grad-cam-competition")
"""The methods whose grid pointing is given for each network."""

Run = dict[str, Any]


class Column(NamedTuple):
    """A method on some networks."""

    title: str
    runs: Sequence[Run]
    method: str


def write_page(subject: str, folder: Path) -> Path:
    """Write SUBJECT.md from the JSON beside it, and return its path."""
    numbers = read_numbers(folder / f"{subject}.json")
    path = folder / f"{subject}.md"
    path.write_text(interpreting_page(numbers), encoding="utf-8")
    return path


def interpreting_page(numbers: dict[str, Any]) -> str:
    """Return the whole page."""
    parts = ["# What explanations of the same networks are worth", _about(numbers)]
    if numbers["part"] < 1:
        parts.append(
            f"**Tried with {numbers['part']:.0%} of the whole: no number here says anything.**"
        )
    for name in dict.fromkeys(run["recipe"] for run in numbers["runs"]):
        runs = [run for run in numbers["runs"] if run["recipe"] == name]
        parts += _study(name, runs, numbers["remarks"].get(name, ""))
    return "\n\n".join([*parts, _compared_on(numbers)]) + "\n"


def _about(numbers: dict[str, Any]) -> str:
    heads = dict.fromkeys(SHOWN_HEADS[run["head"]] for run in numbers["runs"])
    maps = dict.fromkeys(run.get("map", "evidence") for run in numbers["runs"])
    return (
        f"`{numbers['command']}` trains {' and '.join(heads)} on the same data, and measures on "
        "each network what methods of explanation say of the same test images. What the measures "
        "and methods are, and what they do not say, is in "
        "[comparing.md](../docs/comparing.md). The heat maps of both networks are of the "
        f"{' or the '.join(maps)}. {before_centring(numbers)}"
    ).rstrip()


def _study(name: str, runs: Sequence[Run], remark: str) -> list[str]:
    by_head = by_head_of(runs)
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
                *_baseline_columns(next(iter(by_head.values()))),
            ]
        ),
        *_seed_by_seed(by_head, seeds),
    ]
    for head, found in by_head.items():
        parts += [
            f"### All methods on {SHOWN_HEADS[head]}",
            _table([*_method_columns(found), *_baseline_columns(found)]),
            _counts(found),
        ]
        slow = [run | {"comparison": run["slow_comparison"]} for run in found if _has_slow(run)]
        if slow:
            parts += [
                f"### The slow methods on {SHOWN_HEADS[head]}, others on the same images",
                _table([*_method_columns(slow), *_baseline_columns(slow)]),
                _counts(slow),
            ]
    return parts


def _seed_by_seed(by_head: dict[str, list[Run]], seeds: Sequence[int]) -> list[str]:
    """Return the grid pointing of each network of several: a mean hides the worst of them."""
    first = next(iter(by_head.values()))[0]["comparison"]
    pointed = [
        (f"{SHOWN_HEADS[head]}: {method}, {first['metrics'][name]['label']}", runs, method, name)
        for name in first["mosaics"]
        for head, runs in by_head.items()
        for method in POINTING
        if method in runs[0]["comparison"]["methods"]
    ]
    if len(seeds) < 2 or not pointed:
        return []
    lines = []
    for title, runs, method, name in pointed:
        values = {run["seed"]: compared_by(run, method, name) for run in runs}
        known = [value for value in values.values() if value is not None]
        cells = [ABSENT if values.get(s) is None else f"{values[s]:.3f}" for s in seeds]
        lines.append([title, *cells, f"{min(known):.3f}" if known else ABSENT])
    headings = ["grid pointing game", *(f"seed {seed}" for seed in seeds), "worst"]
    return ["### Grid pointing, seed by seed", markdown_table(headings, lines)]


def _has_slow(run: Run) -> bool:
    return run.get("slow_comparison") is not None


def _networks(by_head: dict[str, list[Run]]) -> str:
    """Return what `evaluate` measured of both networks, and what the trivial baselines score."""
    first = next(iter(by_head.values()))
    lines = []
    for metric in first[0]["metrics"]:
        name = metric["name"]
        cells = [spread([value_of(run, name) for run in found]) for found in by_head.values()]
        oracle = " (oracle)" if name.endswith("_oracle") else ""
        label = f"{metric['label']}{oracle} {ARROWS[metric['higher_is_better']]}"
        lines.append([label, *cells, baselines_of(first, name)])
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
    headings = ["metric", *(SHOWN_HEADS[head] for head in by_head), "trivial baselines"]
    return markdown_table(headings, lines, "l".ljust(1 + len(by_head), "r") + "l")


def _errors(seeds: int) -> str:
    error = "\N{PLUS-MINUS SIGN} the standard error of the mean over images"
    if seeds > 1:
        error = f"Mean over seeds {error} of all seeds, or over seeds where that is larger"
    return (
        f"{error}. \N{UPWARDS ARROW} higher is better, \N{DOWNWARDS ARROW} lower. Trivial "
        "baselines ignore the model; those here are of the first network, as its patches decide "
        "what is random."
    )


def _table(columns: Sequence[Column]) -> str:
    metrics = columns[0].runs[0]["comparison"]["metrics"]
    lines = []
    for name, metric in metrics.items():
        label = f"{metric['label']} {ARROWS[metric['higher_is_better']]}"
        cells = [_cell(column, name) for column in columns]
        lines.append([label, *cells])
    return markdown_table(["metric", *(column.title for column in columns)], lines)


def _cell(column: Column, metric: str) -> str:
    found = [
        run["comparison"]["methods"].get(column.method, {"scores": {}})["scores"].get(metric)
        for run in column.runs
    ]
    known = [measurement for measurement in found if measurement is not None]
    if not known:
        return ABSENT
    value = statistics.mean(measurement["value"] for measurement in known)
    if metric in COSTS:
        return f"{value:.2g}" if metric == "seconds" else f"{value:.2f}"
    error = standard_error(
        [measurement["value"] for measurement in known],
        [measurement["standard_error"] for measurement in known],
    )
    return f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def standard_error(values: Sequence[float], errors: Sequence[float | None]) -> float | None:
    """Return the error of the mean over networks: from their images, or from how they differ.

    Each network has images of its own, so both estimate it; few networks estimate it badly, and
    the larger one is taken.

    Args:
        values: a score of each network.
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


def _baseline(method: str, runs: Sequence[Run]) -> bool:
    trivial: bool = runs[0]["comparison"]["methods"][method]["trivial_baseline"]
    return trivial


def _method_columns(runs: Sequence[Run]) -> list[Column]:
    methods: Iterable[str] = runs[0]["comparison"]["methods"]
    return [Column(m, runs, m) for m in methods if not _baseline(m, runs)]


def _baseline_columns(runs: Sequence[Run]) -> list[Column]:
    methods: Iterable[str] = runs[0]["comparison"]["methods"]
    return [Column(f"baseline: {m}", runs, m) for m in methods if _baseline(m, runs)]


def _counts(runs: Sequence[Run]) -> str:
    """Return how many images and mosaics the numbers are of, and what could not be measured."""
    first = runs[0]["comparison"]
    each = " a network" if len(runs) > 1 else ""
    words = f"Of {first['images']} images{each}, {first['boxed_images']} with a box of their class"
    for name, count in first["mosaics"].items():
        words += f"; {count} mosaics of {first['metrics'][name]['label'].split(', ')[1]}"
    left_out = "; ".join(f"{name} ({why})" for name, why in first["left_out"].items())
    return words + "." + (f" Not possible with this network: {left_out}." if left_out else "")


def _compared_on(numbers: dict[str, Any]) -> str:
    """Return what each network was measured on, and which where they were several machines."""
    seeds: dict[str, dict[int, None]] = {}
    for run in numbers["runs"]:
        seeds.setdefault(_measured_on(numbers, run), {})[run["seed"]] = None
    return "\n\n".join(
        (f"Seeds {', '.join(map(str, ran))}: " if len(seeds) > 1 else "") + machine
        for machine, ran in seeds.items()
    )


def _measured_on(numbers: dict[str, Any], run: Run) -> str:
    comparison, stand = run["comparison"], run.get("stand", numbers)
    machine, versions = comparison["hardware"], comparison["versions"]
    units = f", vector units {stand['vector_units']}" if "vector_units" in stand else ""
    return (
        f"Written {stand['measured']}; measured on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine.get('memory_gib', '?')} GiB, {machine['device']}{units}, comparisons in "
        f"float32, training in {shown_precision(stand['hardware']['precision'])}; loss-attention "
        f"{comparison['loss_attention']}, Python {versions['python']}, torch {versions['torch']}."
    )
