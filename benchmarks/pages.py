"""results/README.md: the measured numbers of every subject, from the JSON files beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from measuring import read_numbers, shown
from run_scores import (
    ABSENT,
    SHOWN,
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
    by_head = by_head_of(numbers["runs"])
    pointed = [
        (f"{metric['label']}, {method}", name, method)
        for name, metric in numbers["runs"][0]["comparison"]["metrics"].items()
        if name in numbers["runs"][0]["comparison"]["mosaics"]
        for method in numbers["runs"][0]["comparison"]["methods"]
    ]
    rows: list[tuple[str, Callable[[dict[str, Any]], float | None], int]] = [
        ("accuracy", lambda run: value_of(run, "accuracy"), 4),
        *(
            (label, lambda run, name=name, method=method: compared_by(run, method, name), 3)
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


def _stand(numbers: dict[str, Any]) -> str:
    machine, versions = numbers["hardware"], numbers["versions"]
    then = before_centring(numbers)
    return (f"{then}\n\n" if then else "") + (
        f"Measured {numbers['measured']} on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine.get('memory_gib', '?')} GiB, {machine['device']}, "
        f"{shown_precision(machine['precision'])}; "
        f"Python {versions['python']}, torch {versions['torch']}."
    )
