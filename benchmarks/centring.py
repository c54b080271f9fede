"""What centred patch logits change, seed by seed: the tables of results/centring.md.

    python benchmarks/centring.py                                       # five seeds
    python benchmarks/centring.py --limit 300 --seeds 1 --images 20     # a try

The recipe `digits` with centred logits, as it has them, and with Eq. 5 as printed. Under a softmax
the printed form leaves each patch a constant that the data does not decide: the question is how far
networks that answer equally well then differ in what their maps show. Runs lie in runs/centring;
what is finished there is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import (
    command,
    keep_with_page,
    same_settings,
    timed,
    told,
    train_once,
    write_and_list,
)
from photos_page import shown, stood_on
from trade_off import by_network

from loss_attention.terminal import markdown_table

ROOT = Path(__file__).resolve().parent.parent
NETWORKS: dict[str, tuple[str, ...]] = {
    "centred logits": (),
    "Eq. 5 as printed": ("--no-centre",),
}
"""What is changed in the recipe."""
METHODS = ("evidence", "contrast", "margin", "grad-cam-competition")
METRICS = {
    "EPG": "energy_pointing_game",
    "grid pointing, 2 x 2": "grid_pointing_2x2",
    "grid pointing, 3 x 3": "grid_pointing_3x3",
    "empty maps": "empty_maps",
}
"""Columns of the table of maps, and the metrics of `compare` that stand there."""

Run = Mapping[str, Any]


def train(network: str, seed: int, runs: Path, limit: int | None) -> Path:
    """Train a network unless that was done; return its folder."""
    out = runs / f"{network.replace(' ', '-').replace('.', '')}-{seed}"
    train_once(out, training(network, seed, limit))
    return out


def training(network: str, seed: int, limit: int | None) -> list[str]:
    """Return the words of the command that trains a network."""
    words = ["train", "digits", *NETWORKS[network], "--seed", str(seed)]
    return words + (["--limit-images", str(limit)] if limit else [])


def compare(run: Path, words: Sequence[str], name: str) -> dict[str, Any]:
    """Compare methods on a run unless that was done; return what was found."""
    out = run / name
    if not (out / "comparison.json").exists():
        timed(command(), "compare", str(run), *words, "--out", str(out), "--overwrite")
        print(f"{name}: {run.name}", flush=True)
    found: dict[str, Any] = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    return found


def measured(network: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train and compare what is missing of a network; return what it reached."""
    run = train(network, seed, given.runs, given.limit)
    words = ["--methods", ",".join(METHODS), "--metrics", "localisation,grid-pointing"]
    words += ["--images", str(given.images)]
    comparison = compare(run, words, "compare")
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    metrics = {one["name"]: one["value"] for one in evaluation["metrics"]}
    return {
        "network": network,
        "seed": seed,
        "commands": [
            " ".join(("loss-attention", *training(network, seed, given.limit))),
            " ".join(("loss-attention", "compare", "RUN", *words)),
        ],
        "test_images": evaluation["images"],
        "accuracy": metrics["accuracy"],
        "compared_images": comparison["images"],
        "maps": {
            method: {
                name: comparison["methods"][method]["scores"][name]["value"]
                for name in METRICS.values()
            }
            for method in METHODS
        },
    }


def width(values: Sequence[float]) -> float:
    """Return how far the highest is above the lowest."""
    return max(values) - min(values)


def page(numbers: Mapping[str, Any]) -> str:
    """Return what was measured, as Markdown."""
    networks = by_network(numbers["runs"])
    first = numbers["runs"][0]
    maps = [
        (name, method, *(_range(runs, _score(method, metric)) for metric in METRICS.values()))
        for name, runs in networks.items()
        for method in METHODS
    ]
    accuracies = [
        (name, shown([run["accuracy"] for run in runs], 4, worst=True), f"`{command_line}`")
        for name, runs in networks.items()
        for command_line in [runs[0]["commands"][0]]
    ]
    parts = [
        "# What centred patch logits change",
        stood_on(numbers),
        "Scenes of digits. Means over seeds; in brackets the lowest, the highest and how far apart "
        f"they are. Maps of {first['compared_images']} images, each for its own class "
        f"(`{first['commands'][1]}`); accuracy of all {first['test_images']:,} test images.",
        markdown_table(["network", "map", *METRICS], maps, "ll" + "r" * len(METRICS)),
        markdown_table(["network", "accuracy", "command of the first seed"], accuracies, "lrl"),
    ]
    return "\n\n".join(parts) + "\n"


def _score(method: str, metric: str) -> Callable[[Run], float]:
    return lambda run: run["maps"][method][metric]


def _range(runs: Sequence[Run], score: Callable[[Run], float]) -> str:
    values = [score(run) for run in runs]
    return shown(values).replace(")", f"; {width(values):.3f})")


def options(about: str, seeds: int, images: int) -> argparse.ArgumentParser:
    """Return what the command line may say, with these defaults."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--images", type=int, default=images, help="whose maps are compared")
    parser.add_argument("--limit", type=int, help="of training and of test images, for a try")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "centring")
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    return parser


def measure(given: argparse.Namespace) -> list[Path]:
    """Measure what is missing, and write it."""
    import torch

    same_settings(given.runs, {"limit": given.limit})
    runs = [measured(name, seed, given) for seed in range(given.seeds) for name in NETWORKS]
    defaults = {"limit": None, "seeds": 5, "images": 500}
    numbers = {
        "command": told("centring.py", given, defaults),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "runs": runs,
    }
    return keep_with_page("centring", numbers, page, given.out)


if __name__ == "__main__":
    write_and_list("centring", lambda: measure(options(__doc__ or "", 5, 500).parse_args()))
