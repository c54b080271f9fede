"""What a few boxes change: the table of results/guiding.md.

    python benchmarks/guiding.py --data-root DATA --weights FILE        # 0, 1 and 10 %, three seeds
    python benchmarks/guiding.py --data-root DATA --weights FILE --limit 200 --seeds 1      # a try

20 classes of Tiny ImageNet on a frozen backbone, whose training images all have a box: none of the
boxes guides, or those of one or of ten images in a hundred. Each run is trained and evaluated by
the public command, once for the evidence and once for the margin. DATA, the weights and the runs
are as `photos.py` has them: what is finished in runs/guiding is not done again. All runs share the
features of the backbone; with `--runs runs/photos` also those of the row tiny-20 there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import command, keep_with_page, timed, told, write_and_list
from photos import SEEN, Place, Row, options, prepared
from photos import measured as trained
from photos_page import shown, stood_on

from loss_attention.terminal import markdown_table

FRACTIONS = (0.0, 0.01, 0.1)
"""Of the training images whose boxes guide."""
WEIGHT = 0.1
MAPS = ("evidence", "margin")
"""That of the training's own evaluation comes first."""
SHOWN = {
    "EPG": "energy_pointing_game",
    "pointing game": "pointing_game",
    "GT-known Loc": "gt_known_loc_heat_map",
    "GT-known Loc, boxes under 0.4 of the image": "gt_known_loc_small",
}
"""Columns of the tables, and the metrics of `evaluate` that stand there."""
BASELINES = ("centred box", "uniform")
TRAINING = ("--classes", "20", "--validation-fraction", "0.1")
EPOCHS = 6
IMAGE_SIZE = 224
"""That of the row tiny-20; the images have 64 pixels a side."""


def row_of(fraction: float, weight: float, epochs: int, image_size: int) -> tuple[str, Row]:
    """Return the name and the training of a fraction of the boxes."""
    flags = ["--image-size", str(image_size), *TRAINING, "--epochs", str(epochs)]
    what = "labels alone"
    if fraction:
        flags += ["--guide", f"{weight:g}", "--guide-fraction", f"{fraction:g}"]
        what = f"boxes of {fraction:.0%} of the images"
    name = f"guide-{fraction:g}" + (f"-{weight:g}" if fraction else "")
    return name, Row(what, "tiny-imagenet", options=tuple(flags), methods="", remark=SEEN)


def measured(fraction: float, seed: int, place: Place, given: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate what is missing of a run; return what it reached."""
    name, row = row_of(fraction, given.guide, given.epochs, given.image_size)
    run = trained(name, row, seed, place)
    out, maps = place.runs / f"{name}-{seed}", {}
    for map in MAPS:
        file = out / f"evaluation-{map}.json"
        if not file.exists():
            if _read(out / "evaluation.json").get("map", "evidence") != map:
                timed(command(), "evaluate", str(out), "--map", map)
            shutil.copy(out / "evaluation.json", file)
        maps[map] = _read(file)
    del run["metrics"]  # of whichever map was last
    facts = _read(out / "run.json")
    print(f"measured: {out.name}", flush=True)
    return run | {
        "fraction": fraction,
        "guide": facts.get("guide"),
        "guided_by": maps["margin"].get("guided_by", ""),
        "maps": {
            map: {
                "metrics": {one["name"]: one["value"] for one in found["metrics"]},
                "baselines": {one["name"]: one["baselines"] for one in found["metrics"]},
            }
            for map, found in maps.items()
        },
    }


def page(numbers: Mapping[str, Any]) -> str:
    """Return what was measured, as Markdown."""
    runs: dict[float, list[dict[str, Any]]] = {}
    for run in numbers["runs"]:
        runs.setdefault(run["fraction"], []).append(run)
    parts = [
        "# Guidance from a few boxes",
        stood_on(numbers),
        "20 classes of Tiny ImageNet, the head alone trained on the features of a frozen backbone. "
        "Every training image has a box; the boxes of so many of them guide (`--guide "
        f"{numbers['weight']:g}`), and labels train all. Means over seeds; in brackets the lowest, "
        f"the highest and the worst seed. {next(iter(runs.values()))[0]['remark']}",
        *(f"## Heat maps of the {map}\n\n{_table(runs, map)}" for map in reversed(MAPS)),
        "Trivial baselines: what an answer that ignores the model scores on the same images. "
        "Thresholds of boxes are chosen on held-out training images, for each answer.",
        f"## Commands, of the first seed\n\n{_commands(runs)}",
    ]
    return "\n\n".join(parts) + "\n"


def _table(runs: Mapping[float, Sequence[Mapping[str, Any]]], map: str) -> str:
    def cells(found: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
        return [
            shown([one["maps"][map]["metrics"].get(name) for one in found], worst=True)
            for name in names
        ]

    rows = [
        (_named(found), *cells(found, ["accuracy", *SHOWN.values()])) for found in runs.values()
    ]
    every = [one["maps"][map]["baselines"] for found in runs.values() for one in found]
    rows += [
        (
            f"trivial baseline: {name}",
            "-",
            *(shown([one.get(metric, {}).get(name) for one in every]) for metric in SHOWN.values()),
        )
        for name in BASELINES
    ]
    return markdown_table(["training", "accuracy", *SHOWN], rows)


def _named(found: Sequence[Mapping[str, Any]]) -> str:
    """Say what a row of the table is of, and by what it was guided."""
    by = " or ".join(dict.fromkeys(one["guided_by"] for one in found if one["guided_by"]))
    return found[0]["what"] + (f": guided by {by}" if by else "")


def _commands(runs: Mapping[float, Sequence[Mapping[str, Any]]]) -> str:
    rows = [(_named(found), f"`{found[0]['commands'][0]}`") for found in runs.values()]
    return markdown_table(["training", "command"], rows, "ll")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = options("guiding", __doc__)
    parser.add_argument("--guide", type=float, default=WEIGHT, help="weight of the guidance")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE)
    return parser.parse_args(words)


def measure(given: argparse.Namespace) -> list[Path]:
    """Measure what is missing, and write it."""
    import torch

    place = prepared(given)
    runs = [
        measured(fraction, seed, place, given)
        for fraction in FRACTIONS
        for seed in range(given.seeds)
    ]
    chosen = {"limit": None, "seeds": 3, "guide": WEIGHT, "epochs": EPOCHS}
    chosen["image_size"] = IMAGE_SIZE
    numbers = {
        "command": told("guiding.py", given, chosen),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "weight": given.guide,
        "runs": runs,
    }
    return keep_with_page("guiding", numbers, page, given.out)


if __name__ == "__main__":
    write_and_list("guiding", lambda: measure(parsed()))
