"""The pages in results/ that people read, made from the JSON files beside them.

results/README.md has the measured numbers of every subject, SUBJECT.md what explanations are worth.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from measuring import COSTS, read_numbers, shown

from loss_attention.terminal import markdown_table
from loss_attention.training.environment import shown_precision

SHOWN = (
    ("accuracy", "accuracy"),
    ("patch_precision", "patch precision"),
    ("patch_recall", "patch recall"),
    ("patch_f1", "patch F1"),
    ("weight_inside", "weight inside the box"),
    ("energy_pointing_game", "energy pointing game (EPG)"),
    ("pointing_game", "pointing game"),
    ("gt_known_loc_patches", "GT-known Loc (patches)"),
    ("gt_known_loc_spread", "GT-known Loc (spread)"),
)


ABSENT = "-"
OWN_PAGES = {
    "peers": "the same folder, trained and explained as people do it today, and by loss-attention",
    "centring": "what centred patch logits change, over five seeds",
    "deletion": "deletion and insertion against Grad-CAM, image by image",
    "trade-off": "how local a patch can be, and what that costs",
    "guiding": "what a few boxes in training change",
}
"""What stands on a page of its own, in this order."""


def write_summary(folder: Path) -> None:
    """Write results/README.md from what has been measured so far."""
    found = {path.stem: read_numbers(path) for path in sorted(folder.glob("*.json"))}
    parts = [
        "# Results",
        "Measured by `benchmarks/run.py` (`make results`), which also writes this page; the JSON "
        "files beside it hold every score with its trivial baselines, versions and hardware. "
        "Mean ± sample standard deviation over seeds. Speed and memory beside the targets "
        "(`make bench`), and "
        f"how a step grows (`python benchmarks/growth.py`): {_bench_pages(folder / 'bench')}.",
    ]
    for name, describe in (
        ("digits", _digits),
        ("cifar10-small", _cifar10),
        ("demo", _demo),
        ("demo-avx2", _demo_avx2),
        ("interpreting", _interpreting),
        ("tiny-imagenet", _tiny_imagenet),
        ("coco", _interpreting),
        ("photos", _photos),
        ("startup", _startup),
        ("explaining", _explaining),
        ("explain-rate", _explain_rate),
        ("serving", _serving),
        ("reliability", _reliability),
        *((name, partial(_on_its_page, name, about)) for name, about in OWN_PAGES.items()),
    ):
        if name in found:
            parts += [f"## {name}", *describe(found[name]), _stand(found[name])]
    parts += _other_pages(folder, "\n".join(parts))
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _other_pages(folder: Path, text: str) -> list[str]:
    """Return a list of the pages that a text does not link, by their headings."""
    pages = [path for path in sorted(folder.glob("*.md")) if path.name != "README.md"]
    lines = [
        f"- [{path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}]({path.name})"
        for path in pages
        if f"]({path.name})" not in text
    ]
    return ["## Other pages", "\n".join(lines)] if lines else []


def _bench_pages(folder: Path) -> str:
    """Return links to what was measured there; the notes are part of the other pages."""
    pages = [path for path in sorted(folder.glob("*.md")) if not path.stem.endswith("-notes")]
    return ", ".join(f"[{path.stem}](bench/{path.name})" for path in pages) or "nothing yet"


def _digits(numbers: dict[str, Any]) -> list[str]:
    took = [
        ("whole command, seconds", "whole_command_seconds"),
        ("peak memory, MiB", "peak_memory_mib"),
    ]
    return [_commands(numbers["runs"]), _beside_mean_pooling(numbers["runs"], took)]


def _beside_mean_pooling(runs: list[dict[str, Any]], took: Sequence[tuple[str, str]]) -> str:
    """Return the table of loss-attention and its mean-pooling counterpart, with baselines."""
    heads = ("loss-attention", "mean")
    by_head = {head: [run for run in runs if run["head"] == head] for head in heads}
    lines = []
    for name, label in SHOWN:
        cells = [spread([value_of(run, name) for run in by_head[head]]) for head in heads]
        lines.append([label, *cells, baselines_of(by_head[heads[0]], name)])
    for label, name in (("training, seconds", "training_seconds"), *took):
        cells = [spread([run[name] for run in by_head[head]], digits=0) for head in heads]
        lines.append([label, *cells, ""])
    headings = ["metric", "loss-attention", "mean-pooling counterpart", "trivial baselines"]
    return markdown_table(headings, lines, "lrrl")


def _demo(numbers: dict[str, Any]) -> list[str]:
    return [
        f"`{numbers['command']}`: {numbers['seconds']:.0f} seconds, report of "
        f"{numbers['report_mib']:.1f} MiB, peak memory of its largest process "
        f"{numbers['peak_memory_mib']:.0f} MiB. Seed 0, {numbers['runs'][0]['source']}.",
        *_once_installed(numbers),
        _beside_mean_pooling(numbers["runs"], []),
        "The end of what it printed:",
        "```\n" + "\n".join(line.rstrip() for line in numbers["output"]) + "\n```",
    ]


def _once_installed(numbers: dict[str, Any]) -> list[str]:
    if "warm_seconds" not in numbers:
        return []
    pointing = ", ".join(
        f"{label} {value:.3f}" for label, value in numbers["grid_pointing"].items()
    )
    return [
        f"`{numbers['warm_command']}`: {shown(numbers['warm_seconds'], 0)} seconds. The margin "
        f"of its network (`{numbers['compare_command']}`): {pointing}."
    ]


def _demo_avx2(numbers: dict[str, Any]) -> list[str]:
    took = ("the whole command, seconds", "whole_command_seconds")
    return [
        "The demo's trainings, which `make demo` begins in turn, where there is AVX2 alone "
        f"(`{numbers['environment']}`).",
        _commands(numbers["runs"]),
        _beside_mean_pooling(numbers["runs"], [took]),
    ]


def _startup(numbers: dict[str, Any]) -> list[str]:
    named = [
        ("loss-attention --help", "help_seconds"),
        ("import loss_attention", "import_seconds"),
        ("import loss_attention and its models", "import_with_models_seconds"),
        ("import torch", "import_torch_seconds"),
        ("Python doing nothing", "python_seconds"),
    ]
    rows = [(label, f"{numbers[name]:.2f}") for label, name in named]
    return [markdown_table(["what", "seconds, median of nine"], rows)]


def _interpreting(numbers: dict[str, Any]) -> list[str]:
    heads = " and ".join(dict.fromkeys(run["head"] for run in numbers["runs"]))
    data = " and ".join(dict.fromkeys(run["recipe"] for run in numbers["runs"]))
    page = numbers["command"].split()[-1] + ".md"
    return [
        f"`{numbers['command']}`: what explanations of {heads} on {data} are worth, every method "
        f"on the same networks: [{page}]({page}).",
        *numbers["remarks"].values(),
    ]


def _cifar10(numbers: dict[str, Any]) -> list[str]:
    by_head = _by_head(numbers["runs"])
    pointed = [
        (f"{metric['label']}, {method}", name, method)
        for name, metric in numbers["runs"][0]["comparison"]["metrics"].items()
        if name in numbers["runs"][0]["comparison"]["mosaics"]
        for method in numbers["runs"][0]["comparison"]["methods"]
    ]
    rows: list[tuple[str, Callable[[dict[str, Any]], float | None], int]] = [
        ("accuracy", lambda run: value_of(run, "accuracy"), 4),
        *(
            (label, lambda run, name=name, method=method: _compared(run, method, name), 3)
            for label, name, method in pointed
        ),
        ("training, minutes", lambda run: _minutes(run["training_seconds"]), 1),
        ("parameters, millions", lambda run: run["parameters"] / 1e6, 2),
        ("peak memory, MiB", lambda run: run.get("peak_memory_mib"), 0),
    ]
    shown = [
        (label, *(spread([read(run) for run in runs], digits) for runs in by_head.values()))
        for label, read, digits in rows
    ]
    headings = ["metric", *(SHOWN_HEADS[head] for head in by_head)]
    return [*_interpreting(numbers), markdown_table(headings, shown)]


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60


def _by_head(runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each head."""
    heads = dict.fromkeys(run["head"] for run in runs)
    return {head: [run for run in runs if run["head"] == head] for head in heads}


def _compared(run: dict[str, Any], method: str, name: str) -> float | None:
    measurement = run["comparison"]["methods"][method]["scores"].get(name)
    value: float | None = measurement and measurement["value"]
    return value


def _on_its_page(name: str, about: str, numbers: dict[str, Any]) -> list[str]:
    return [f"`{numbers['command']}`: {about}: [{name}.md]({name}.md)."]


def _tiny_imagenet(numbers: dict[str, Any]) -> list[str]:
    return [*_interpreting(numbers), _beside_mean_pooling(numbers["runs"], [])]


def _explaining(numbers: dict[str, Any]) -> list[str]:
    heads = list(numbers["models"][0]["ratios"])
    lines = []
    for row in numbers["models"]:
        cells = [
            ABSENT if row["ratios"][name] is None else f"{row['ratios'][name]:.3f}"
            for name in heads
        ]
        lines.append([row["model"], f"{1000 * row['forward_seconds']:.2f}", *cells])
    headings = ["model", "forward pass, ms an image", *heads]
    return [numbers["about"], markdown_table(headings, lines)]


def _explain_rate(numbers: dict[str, Any]) -> list[str]:
    table = numbers["rates"]["a table, no pictures"]["of_forward"]["median"]
    return [
        f"`{numbers['command']}`: a table of {numbers['images']:,} images takes place at "
        f"{table:.2f} of the forward pass's rate; with pictures, and one photo, see "
        "[explain-rate.md](explain-rate.md)."
    ]


def _serving(numbers: dict[str, Any]) -> list[str]:
    rates = {
        way: one["requests_per_second"]["median"]
        for way, one in numbers["ways"].items()
        if "requests_per_second" in one
    }
    most = max(rates, key=rates.__getitem__)
    return [
        f"`{numbers['command']}`: up to {rates[most]:,.0f} requests a second ({most}); latencies, "
        "memory, and the bare forward pass beside them, see [serving.md](serving.md)."
    ]


def _photos(numbers: dict[str, Any]) -> list[str]:
    rows = dict.fromkeys(run["what"] for run in numbers["runs"])
    return [
        f"`{numbers['command']}`: what a folder of photos reaches in minutes, and in how many, see "
        f"[photos.md](photos.md): {'; '.join(rows)}."
    ]


def _reliability(numbers: dict[str, Any]) -> list[str]:
    rows = [row for part in numbers["parts"].values() for row in part["rows"]]
    tried, good = (sum(row[name] for row in rows) for name in ("tried", "good"))
    return [
        f"What goes wrong on purpose, and what became of it: {good:,} of {tried:,} ended as they "
        "should, see [reliability.md](reliability.md)."
    ]


def _commands(runs: list[dict[str, Any]]) -> str:
    listed = dict.fromkeys(run["command"] for run in runs)
    return "```\n" + "\n".join(listed) + "\n```"


CENTRED = {"digits", "demo", "cifar10-small", "cifar10-fast", "tiny-imagenet-small"}
"""What centres patch logits, and did not before runs recorded which map was measured."""


def before_centring(numbers: dict[str, Any]) -> str:
    """Return what to type today for what was measured, where defaults were others; else ""."""
    runs = [run for run in numbers.get("runs", ()) if "map" not in run and "metrics" in run]
    commands = [run.get("command", "") for run in runs]
    commands += [command for run in runs for command in run.get("commands", ())]
    commands += [numbers.get("command", "")] if runs else []
    if not CENTRED & {word.rstrip(",") for command in commands for word in command.split()}:
        return ""
    return (
        "Measured before these recipes centred patch logits and before the margin was what is "
        "measured by default: today, add `--no-centre` to `train` and `--map evidence` to "
        "`evaluate` for the same."
    )


def _stand(numbers: dict[str, Any]) -> str:
    machine, versions = numbers["hardware"], numbers["versions"]
    then = before_centring(numbers)
    return (f"{then}\n\n" if then else "") + (
        f"Measured {numbers['measured']} on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine.get('memory_gib', '?')} GiB, {machine['device']}, "
        f"{shown_precision(machine['precision'])}; "
        f"Python {versions['python']}, torch {versions['torch']}."
    )


def value_of(run: dict[str, Any], name: str) -> float | None:
    """Return a score of a run, None where it does not have it."""
    for metric in run["metrics"]:
        if metric["name"] == name:
            value: float | None = metric["value"]
            return value
    return None


def baselines_of(runs: Sequence[dict[str, Any]], name: str) -> str:
    """Return what the trivial baselines of a metric score."""
    baselines: dict[str, list[float | None]] = {}
    for run in runs:
        for metric in run["metrics"]:
            if metric["name"] == name:
                for label, value in metric["baselines"].items():
                    baselines.setdefault(label, []).append(value)
    return "; ".join(f"{label} {spread(values)}" for label, values in baselines.items())


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Return the mean of what is known and, of several, their sample standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.{digits}f}"
    return f"{mean} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else mean


ARROWS = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}"}
SHOWN_HEADS = {"loss-attention": "loss-attention", "mean": "mean pooling"}
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
    by_head = _by_head(runs)
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
        values = {run["seed"]: _compared(run, method, name) for run in runs}
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
