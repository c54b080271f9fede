"""How local a patch can be, and what that costs: the table and picture of results/trade-off.*.

    python benchmarks/trade_off.py                           # all networks, three seeds each
    python benchmarks/trade_off.py --limit 300 --seeds 1     # a try

The recipe `digits` with wider or narrower windows, coarser or finer strides and other backbones.
Of each: accuracy, how well the margin map lies on the digit, and r90 / window, how many windows
wide the square is that settles nine tenths of what the heaviest patch says. Runs lie in
runs/trade-off; what is finished there is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import keep_with_page, same_settings, told, train_once, write_and_list
from photos_page import shown

from loss_attention.terminal import markdown_table

ROOT = Path(__file__).resolve().parent.parent
NETWORKS: dict[str, tuple[str, ...]] = {
    "as the recipe has it": (),
    "narrower windows": ("--patch-kernel", "3"),
    "wider windows": ("--patch-kernel", "5"),
    "much wider windows": ("--patch-kernel", "6"),
    "one layer of strides": ("--strided-layers", "1", "--patch-kernel", "9"),
    "later strides": ("--strided-layers", "3", "5"),
    "three layers of strides": ("--strided-layers", "1", "3", "5", "--patch-kernel", "2"),
    "ResNet18": ("--backbone", "resnet18", "--strided-layers", "1", "6"),
}
"""What is changed in the recipe."""
METRICS = {
    "accuracy": "accuracy",
    "EPG": "energy_pointing_game",
    "pointing game": "pointing_game",
    "r90 / window": "locality_r90_by_window_heaviest",
    "L(window)": "locality_window_heaviest",
    "window, px": "window",
    "r90, px": "locality_r90_heaviest",
}
"""Columns of the table, and what stands there; all of the heaviest patch of an image."""


def measured(name: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing of a network; return what it reached."""
    out = given.runs / f"{name.replace(' ', '-')}-{seed}"
    words = ["train", "digits", *NETWORKS[name], "--seed", str(seed)]
    words += ["--limit-images", str(given.limit)] if given.limit else []
    train_once(out, words)
    found = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    locality = found["locality"]
    assert locality is not None
    return {
        "network": name,
        "seed": seed,
        "command": " ".join(("loss-attention", *words)),
        "locality_images": locality["images"],
        "map": found.get("map", "evidence"),
        "scores": {one["name"]: one["value"] for one in found["metrics"]}
        | {"window": float(locality["heaviest"]["window"])},
    }


def by_network(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the runs of each network."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        found.setdefault(run["network"], []).append(run)
    return found


def page(numbers: Mapping[str, Any]) -> str:
    """Return what was measured, as Markdown."""
    machine, networks = numbers["hardware"], by_network(numbers["runs"])
    versions = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    rows = [
        (
            name,
            *(
                shown([run["scores"].get(metric) for run in runs], 0 if "px" in label else 3)
                for label, metric in METRICS.items()
            ),
            f"`{runs[0]['command']}`",
        )
        for name, runs in networks.items()
    ]
    images = next(iter(networks.values()))[0]["locality_images"]
    parts = [
        "# How local a patch can be, and what that costs",
        f"`{numbers['command']}`, {numbers['measured']}, on {machine['cpu']}, {machine['cores']} "
        f"cores; {versions}.",
        "Scenes of digits. Means over seeds, lowest and highest in brackets; r90 and L of the "
        f"heaviest patch of {images} images, EPG and pointing of the margin map. Another patch "
        "layer changes the window more than how far a patch sees: a wider window is truer to what "
        "it shows, and says less about where.",
        "![Accuracy over r90 / window, a point a network](trade-off.png)",
        markdown_table(
            ["network", *METRICS, "command of the first seed"], rows, "l" + "r" * len(METRICS) + "l"
        ),
    ]
    return "\n\n".join(parts) + "\n"


def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy over r90 / window, a point a network, with the range over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for name, runs in by_network(numbers["runs"]).items():
        ranges = []
        for metric in ("locality_r90_by_window_heaviest", "accuracy"):
            values = [run["scores"][metric] for run in runs]
            middle = sum(values) / len(values)
            ranges.append((middle, [[middle - min(values)], [max(values) - middle]]))
        (x, across), (y, up) = ranges
        axes.errorbar(x, y, xerr=across, yerr=up, fmt="o", capsize=3, color="#3b4cc0")
        axes.annotate(name, (x, y), xytext=(6, 5), textcoords="offset points", fontsize=8)
    axes.axvline(1, color="#5b5b5b", linewidth=1, linestyle=":")
    axes.set_xlabel("r90 / window of the heaviest patch (1: its window alone)")
    axes.set_ylabel("accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="of training and of test images, for a try")
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "trade-off")
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    return parser.parse_args(words)


def measure(given: argparse.Namespace) -> list[Path]:
    """Measure what is missing, and write it."""
    same_settings(given.runs, {"limit": given.limit})
    runs = [measured(name, seed, given) for name in given.only for seed in range(given.seeds)]
    chosen = {"limit": None, "seeds": 3, "only": list(NETWORKS)}
    numbers = {"command": told("trade_off.py", given, chosen), "runs": runs}
    written, picture = (
        keep_with_page("trade-off", numbers, page, given.out),
        given.out / "trade-off.png",
    )
    draw(numbers, picture)
    return [*written, picture]


if __name__ == "__main__":
    write_and_list("trade-off", lambda: measure(parsed()))
