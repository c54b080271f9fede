"""Deletion and insertion against Grad-CAM, image by image: the table of results/deletion.md.

    python benchmarks/deletion.py                                      # three seeds, 1,000 images
    python benchmarks/deletion.py --limit 300 --seeds 1 --images 20    # a try

The networks of the recipe `digits` that `centring.py` trains, in its folder of runs. Of each map
the patches or pixels are taken away (deletion) or put back (insertion), the strongest first, and
the area under the curve of the class's probability is compared with that of Grad-CAM's map of the
same image: the mean difference, with its 95 % interval by the bootstrap over images.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from centring import compare, options, train, training
from measuring import keep_with_page, same_settings, told, write_and_list
from photos_page import stood_on

from loss_attention.terminal import markdown_table

NETWORK = "centred logits"
AGAINST = "grad-cam"
METHODS = ("margin", "contrast", "grad-cam-competition", AGAINST)
"""Of centred logits, the evidence is the contrast."""


def measured(seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train and compare what is missing of a network; return how its maps differ from Grad-CAM."""
    run = train(NETWORK, seed, given.runs, given.limit)
    words = ["--methods", ",".join(METHODS), "--metrics", "insertion-deletion,localisation"]
    words += ["--images", str(given.images), "--against", AGAINST]
    comparison = compare(run, words, "compare-deletion")
    curves = [name for name in comparison["metrics"] if name.startswith(("insertion", "deletion"))]
    return {
        "seed": seed,
        "commands": [
            " ".join(("loss-attention", *training(NETWORK, seed, given.limit))),
            " ".join(("loss-attention", "compare", "RUN", *words)),
        ],
        "images": comparison["images"],
        "labels": {name: comparison["metrics"][name]["label"] for name in curves},
        "scores": {
            method: {name: comparison["methods"][method]["scores"][name] for name in curves}
            for method in METHODS
        },
        "empty_maps": {
            method: comparison["methods"][method]["scores"]["empty_maps"]["value"]
            for method in METHODS
        },
    }


def page(numbers: Mapping[str, Any]) -> str:
    """Return what was measured, as Markdown."""
    runs = numbers["runs"]
    seeds = [f"seed {run['seed']}" for run in runs]
    better = {"insertion": "higher is better", "deletion": "lower is better"}
    rows = []
    for name, label in runs[0]["labels"].items():
        for method in METHODS:
            cells = [_cell(run["scores"][method][name]) for run in runs]
            rows.append((f"{label}: {better[name.split('_')[0]]}", method, *cells))
    empty = [(method, *(f"{run['empty_maps'][method]:.3f}" for run in runs)) for method in METHODS]
    parts = [
        "# Deletion and insertion against Grad-CAM",
        stood_on(numbers),
        f"Scenes of digits, {runs[0]['images']:,} test images a network "
        f"(`{runs[0]['commands'][0]}`, `{runs[0]['commands'][1]}`). Of Grad-CAM the score; of the "
        "other maps the difference from it on the same images, and in brackets its 95 % interval; "
        "in bold where that leaves out 0.",
        markdown_table(["metric", "map", *seeds], rows, "ll" + "r" * len(seeds)),
        markdown_table(["empty maps", *seeds], empty, "l" + "r" * len(seeds)),
    ]
    return "\n\n".join(parts) + "\n"


def _cell(score: Mapping[str, Any]) -> str:
    difference = score.get("difference")
    if difference is None:
        return f"{score['value']:.3f}"
    if difference["interval"] is None:
        return f"{difference['value']:+.3f}"
    low, high = difference["interval"]
    cell = f"{difference['value']:+.3f} ({low:+.3f} to {high:+.3f})"
    return f"**{cell}**" if difference["told_apart"] else cell


def measure(given: argparse.Namespace) -> list[Path]:
    """Measure what is missing, and write it."""
    import torch

    same_settings(given.runs, {"limit": given.limit})
    runs = [measured(seed, given) for seed in range(given.seeds)]
    defaults = {"limit": None, "seeds": 3, "images": 1000}
    numbers = {
        "command": told("deletion.py", given, defaults),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "runs": runs,
    }
    return keep_with_page("deletion", numbers, page, given.out)


if __name__ == "__main__":
    write_and_list("deletion", lambda: measure(options(__doc__ or "", 3, 1000).parse_args()))
