"""How good a model from a folder of photos becomes in minutes: the table of results/photos.md.

    python benchmarks/photos.py --data-root DATA --weights FILE        # all rows, three seeds each
    python benchmarks/photos.py --data-root DATA --weights FILE --only tiles tiles-mean
    python benchmarks/photos.py --data-root DATA --weights FILE --limit 60 --seeds 1    # a try

Each row is a training that a user would type, once for each seed, evaluated and compared with other
methods by the public command; what that took is beside what it reached. DATA holds the folders of
`DATA_SETS`; --weights are those of tf_efficientnet_lite0, and without it they come from the hub.
Runs lie in runs/photos, and what is finished there is not done again: an interrupted command
continues, and whoever wants all of it anew deletes that folder. Rows of one data set share the
features of the frozen backbone: the first seed of the first of them took the time for all.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measuring import AVX2_ALONE, command, keep_with_page, same_settings, timed, write_and_list
from peers import PEERS, Task, as_in_folders, beside_torch, class_folders, classified, named_as_timm
from photos_page import page

from loss_attention.errors import InputError
from loss_attention.evaluation.metric import CLASSES
from loss_attention.training.recipes import recipe

ROOT = Path(__file__).resolve().parent.parent
TOOK_FILE = "took.json"
DATA_SETS = {
    "magnetic-tile": "magnetic-tile",
    "tiny-imagenet": "tiny-imagenet-200",
    "cifar10": "cifar10",
    "blood-cells": "blood-cells",
}
"""The folder of each within --data-root."""
BY_TILE = "magnetic-tile-by-tile"
"""The tiles again, without their own split, which has photos of one tile on both sides; see
`write_by_tile`."""
BACKBONE = "tf_efficientnet_lite0"
"""Timm's name of the recipes' backbone."""
KNOWN = ("tiny-imagenet", "cifar10")
"""Those that are read by their name and where they lie."""
SEEN = "The backbone was trained on ImageNet, of which these are images."


@dataclass(frozen=True)
class Row:
    """A training of the table.

    Attributes:
        what: what it is, for the reader.
        data: a name of `DATA_SETS`.
        recipe: its recipe.
        options: further options of `train`, without those of data, weights, seed and folder.
        starts_from: the row whose run of the same seed it begins with; "": none.
        methods: of explanation that are compared, with commas between; "": no comparison.
        images: that are explained for it.
        metrics: groups of them that the methods are compared by.
        environment: variables that the training is given.
        seeds: at most so many of them.
        remark: what the reader of the scores has to know.
    """

    what: str
    data: str
    recipe: str = "photos"
    options: tuple[str, ...] = ()
    starts_from: str = ""
    methods: str = "evidence,contrast,margin,grad-cam,grad-cam-competition"
    images: int = 100
    metrics: str = "localisation"
    environment: Mapping[str, str] = field(default_factory=dict)
    seeds: int | None = None
    remark: str = ""


TILES = ("--masks",)
ROWS: dict[str, Row] = {
    "tiles": Row(
        "magnetic tiles, frozen",
        "magnetic-tile",
        options=TILES,
        images=237,
        metrics="localisation,time",
        remark="As their numbers and exposures tell, 197 of the 237 test photos show a tile that "
        "photos of the training split show too, which flatters these scores; so there are rows "
        "whose test photos are of other tiles.",
    ),
    "tiles-mean": Row(
        "magnetic tiles, frozen, mean-pooling counterpart",
        "magnetic-tile",
        options=(*TILES, "--head", "mean"),
        images=237,
    ),
    "tiles-fine-tuned": Row(
        "magnetic tiles, fine-tuned from the frozen run",
        "magnetic-tile",
        "photos-finetune",
        options=TILES,
        starts_from="tiles",
        images=237,
    ),
    "tiles-avx2": Row(
        "magnetic tiles, frozen, vector units limited to AVX2",
        "magnetic-tile",
        options=(*TILES, "--precision", "32"),
        methods="",
        environment=AVX2_ALONE,
        seeds=1,
    ),
    "tiles-scratch": Row(
        "magnetic tiles, `folder`: a small network from scratch",
        "magnetic-tile",
        "folder",
        options=(*TILES, "--resize", "pad"),
        methods="",
    ),
    "by-tile": Row(
        "magnetic tiles, frozen, test photos of other tiles",
        BY_TILE,
        options=(*TILES, "--group", "tile"),
        images=237,
        remark="The tests are a fifth of the tiles that the seed draws. Which photos show one tile "
        "is told from their numbers and exposures, as the data does not say it.",
    ),
    "by-tile-mean": Row(
        "magnetic tiles, frozen, mean-pooling counterpart, test photos of other tiles",
        BY_TILE,
        options=(*TILES, "--group", "tile", "--head", "mean"),
        images=237,
    ),
    "tiny-20": Row(
        "Tiny ImageNet, 20 classes, frozen",
        "tiny-imagenet",
        options=(
            *("--image-size", "224", "--classes", "20", "--epochs", "10", "--threshold", "1"),
            *("--gamma-max", "0.5", "--validation-fraction", "0.1"),
        ),
        images=300,
        remark=f"{SEEN} Threshold and gamma were chosen on 20 other classes.",
    ),
    "tiny-200": Row(
        "Tiny ImageNet, all 200 classes, frozen",
        "tiny-imagenet",
        options=("--image-size", "128", "--views", "1", "--epochs", "4", "--batch-size", "128"),
        methods="",
        remark=f"{SEEN} The paper, trained from scratch: accuracy 64.05, AP 57.52.",
    ),
    "cifar10": Row(
        "CIFAR-10, 32 px enlarged to 128, frozen",
        "cifar10",
        options=("--image-size", "128", "--views", "1", "--epochs", "6", "--batch-size", "128"),
        methods="",
        remark="The images are JPEG re-encodings of CIFAR-10's where --data-root holds those.",
    ),
    "platelets": Row(
        "blood cells, presence of each kind, frozen",
        "blood-cells",
        options=("--image-size", "384"),
        methods="evidence,grad-cam",
        remark="An image has several labels: under accuracy stands exact match, under balanced "
        "accuracy mAP. Nearly every picture has red and white cells: platelets alone can be "
        "missing.",
    ),
}
PROBES = {"tiles-probe": "tiles", "by-tile-probe": "by-tile", "tiny-20-probe": "tiny-20"}
"""Rows of a linear probe on the images of another row: the snippet that users of timm write."""
TIMED = {
    "CNN": "timm/tf_efficientnet_lite0",
    "Swin": "timm/swin_tiny_patch4_window7_224",
    "ViT": "timm/vit_small_patch16_224",
}
"""Backbones, with random weights, on which explaining is timed beside the forward pass."""
ALL = [*ROWS, *PROBES, "times"]


@dataclass(frozen=True)
class Place:
    """Where data, weights and runs are, and how much of all is wanted.

    Attributes:
        data_root: holds the folders of `DATA_SETS`.
        weights: of the backbone; None: from the hub.
        runs: the folder of the runs.
        limit: at most so many training and test images; None: all.
        alone: nothing else runs on the machine, so seconds are worth keeping.
    """

    data_root: Path
    weights: Path | None
    runs: Path
    limit: int | None = None
    alone: bool = True

    def data(self, name: str) -> str:
        """Return what `train --data` is given.

        Raises:
            InputError: the folder is not there.
        """
        if name == BY_TILE:
            return str(write_by_tile(Path(self.data("magnetic-tile")), self.runs / BY_TILE))
        folder = self.data_root / DATA_SETS[name]
        if not folder.exists():
            raise InputError(f"there is no {DATA_SETS[name]} in --data-root {self.data_root}")
        return f"{name}:{folder}" if name in KNOWN else str(folder)

    def options(self, row: Row, seed: int) -> list[str]:
        """Return the options of a row's training."""
        words = [*row.options, "--seed", str(seed)]
        if row.starts_from:
            words += ["--from", str(self.runs / f"{row.starts_from}-{seed}")]
        elif recipe(row.recipe).pretrained:
            words += ["--weights", str(self.weights)] if self.weights else ["--pretrained"]
        if "--classes" in words:
            at = words.index("--classes") + 1
            words[at : at + 1] = drawn_classes(self.data(row.data), int(words[at]))
        return words + (["--limit-images", str(self.limit)] if self.limit else [])


_TILE = re.compile(r"exp(\d+)_num_(\d+)")
_FURTHEST = 100
"""Photos of one tile have numbers that are at most so far apart."""


def write_by_tile(tiles: Path, folder: Path) -> Path:
    """Write the table of the magnetic tiles with the tile of each photo; return the folder.

    Each tile was photographed at up to six exposures, one after the other: a new tile begins where
    the exposure does not rise, the number jumps, or the class is another.
    """
    with (tiles / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def taken(row: Mapping[str, str]) -> tuple[int, int]:
        found = _TILE.search(row["image"])
        assert found is not None
        return int(found[2]), int(found[1])

    rows.sort(key=taken)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("images", "masks"):
        if not (folder / name).exists():
            (folder / name).symlink_to((tiles / name).resolve())
    tile, before = 0, (0, 0, "")
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "label", "mask", "tile"))
        for row in rows:
            number, exposure = taken(row)
            near = number - before[0] <= _FURTHEST and exposure > before[1]
            tile += not (near and row["label"] == before[2])
            before = number, exposure, row["label"]
            table.writerow((row["image"], row["label"], row["mask"], f"tile {tile}"))
    return folder


def drawn_classes(data: str, number: int) -> list[str]:
    """Return the names of the classes that seed 0 draws, so that all seeds have the same."""
    from loss_attention.data.assembling import chosen, select_classes
    from loss_attention.data.loading import open_source

    names = select_classes(chosen(open_source(data)), (str(number),), 0).class_names
    assert names is not None
    return list(names)


def trained(name: str, row: Row, seed: int, place: Place) -> tuple[Path, dict[str, Any]]:
    """Train and evaluate what is missing of a run; return its folder, and what it took."""
    out = place.runs / f"{name}-{seed}"
    took = _read(out / TOOK_FILE) if (out / TOOK_FILE).exists() else {}
    words = ["train", row.recipe, "--data", place.data(row.data), *place.options(row, seed)]
    if took and took["command"] != shown_command(words, row.environment):
        raise InputError(f"{out} holds a run of another command; delete it to measure anew")
    took["command"] = shown_command(words, row.environment)
    if not (out / "evaluation.json").exists():
        begun = (out / "recipe.yaml").exists()
        anew = [*words, "--out", str(out), *(["--overwrite"] if out.exists() else [])]
        asked = ["resume", str(out)] if begun else anew
        done = timed(command(), *asked, environment=row.environment)
        # A continued run took longer than what is left of it.
        took["train_command_seconds"] = done.seconds if place.alone and not begun else None
        took["peak_memory_mib"] = done.peak_memory_mib
        _keep(out, took)
        print(f"trained: {out.name} [{done.seconds:.0f} s]", flush=True)
    return out, took


def measured(name: str, row: Row, seed: int, place: Place) -> dict[str, Any]:
    """Train, evaluate and compare what is missing of a run; return what it reached and took."""
    out, took = trained(name, row, seed, place)
    images = min(row.images, place.limit or row.images)
    compare = ["--methods", row.methods, "--metrics", row.metrics, "--images", str(images)]
    if row.methods and not (out / "compare" / "comparison.json").exists():
        done = timed(command(), "compare", str(out), *compare, "--overwrite")
        took["compare_command_seconds"] = done.seconds if place.alone else None
        _keep(out, took)
        print(f"compared: {out.name} [{done.seconds:.0f} s]", flush=True)
    facts, evaluation = _read(out / "run.json"), _read(out / "evaluation.json")
    return {
        "row": name,
        "what": row.what,
        "remark": row.remark,
        "seed": seed,
        "commands": [took.pop("command"), *([_of_run(compare)] if row.methods else [])],
        "source": facts["source"],
        "parameters": facts["parameters"],
        "training_seconds": facts["train_seconds"],
        **took,
        "test_images": evaluation["images"],
        "map": evaluation.get("map", "evidence"),
        "metrics": evaluation["metrics"],
        "comparison": _read(out / "compare" / "comparison.json") if row.methods else None,
    }


def probed(name: str, seed: int, place: Place) -> dict[str, Any]:
    """Fit a linear probe to the training images of a row's run; return what it reached and took."""
    row = ROWS[PROBES[name]]
    out, _ = trained(PROBES[name], row, seed, place)
    file = place.runs / f"{name}-{seed}.json"
    if not file.exists():
        from rich.console import Console

        from loss_attention.runs import own_data
        from loss_attention.training.run_folder import RunFolder

        splits = own_data(RunFolder(out), Console(quiet=True))
        folder = place.runs / "classes" / f"{PROBES[name]}-{seed}"
        class_folders(splits, folder)
        weights = place.weights and str(named_as_timm(place.weights, BACKBONE, place.runs))
        test = as_in_folders(splits.test.decoded())
        task = Task(folder, test, BACKBONE, weights, place.runs)
        reached = classified(PEERS["probe"], task, seed)[2]
        reached["train_command_seconds"] = reached["train_seconds"] if place.alone else None
        file.write_text(json.dumps(reached, indent=2) + "\n", encoding="utf-8")
        print(f"probed: {file.stem}", flush=True)
    found = _read(file)
    return {
        "row": name,
        "what": f"{row.what.replace(', frozen', '')}, linear probe on pooled features",
        "remark": "",
        "seed": seed,
        "commands": ["benchmarks/snippets/probe.py"],
        "training_seconds": found["train_seconds"],
        "train_command_seconds": found["train_command_seconds"],
        "metrics": [
            {
                "name": metric,
                "label": metric.replace("_", " "),
                "value": found[metric],
                "baselines": {},
                "group": CLASSES,
            }
            for metric in ("accuracy", "balanced_accuracy")
        ],
        "comparison": None,
    }


def shown_command(words: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Return a command, and its environment, without the folders of this machine."""
    kept, before = [f"{name}={value}" for name, value in (environment or {}).items()], ""
    kept.append("loss-attention")
    for word in words:
        if before in ("--weights", "--from"):
            word = Path(word).name
        elif before == "--data":
            known, _, path = word.rpartition(":")
            word = f"{known}:{Path(path).name}" if known else Path(path).name
        kept.append(f"'{word}'" if set(word) & set(" \\()'") else word)
        before = word
    return " ".join(kept)


def _of_run(flags: Sequence[str]) -> str:
    return " ".join(("loss-attention", "compare", "RUN", *flags))


def times() -> list[dict[str, Any]]:
    """Time explaining beside the forward pass, in turns, of one network of each kind."""
    import torch
    from explaining import EXPLAIN, beside_forward
    from measuring import ratio, spread

    import loss_attention as la

    rows = []
    for kind, backbone in TIMED.items():
        torch.manual_seed(0)
        model = la.create_model(backbone, num_classes=6, image_size=(224, 224)).eval()
        images = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8)
        found = beside_forward(model, images, (EXPLAIN,), 9)[EXPLAIN]
        assert found is not None
        forward, explained = found
        rows.append(
            {
                "kind": kind,
                "backbone": backbone,
                "forward_seconds": spread([value / len(images) for value in forward]),
                "ratio": ratio(explained, forward),
            }
        )
        print(f"timed: {backbone}", flush=True)
    return rows


def _keep(out: Path, took: Mapping[str, str | float | None]) -> None:
    (out / TOOK_FILE).write_text(json.dumps(took, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def options(subject: str, description: str | None) -> argparse.ArgumentParser:
    """Return the options of a benchmark of trainings of `Row`s."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True, help="holds the data sets")
    parser.add_argument("--weights", type=Path, help="of tf_efficientnet_lite0; none: the hub's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--not-alone", action="store_true", help="other work runs beside it: keep no seconds"
    )
    parser.add_argument(
        "--train-only", action="store_true", help="do not compare methods yet, nor write the table"
    )
    parser.add_argument("--limit", type=int, help="of training and of test images, for a try")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / subject)
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    return parser


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = options("photos", __doc__)
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL)
    return parser.parse_args(words)


def prepared(given: argparse.Namespace) -> Place:
    """Return where everything is, with the environment that commands need."""
    beside_torch()
    os.environ.setdefault("HF_HUB_OFFLINE", "1" if given.weights else "0")
    weights = given.weights and given.weights.name
    same_settings(given.runs, {"weights": weights, "limit": given.limit})
    return Place(given.data_root, given.weights, given.runs, given.limit, not given.not_alone)


def measure(given: argparse.Namespace) -> list[Path]:
    """Measure what is missing of all that is asked for, and write it."""
    import torch

    place = prepared(given)
    rows = [(name, ROWS[name]) for name in given.only if name in ROWS]
    wanted = [
        (name, row, seed, place)
        for name, row in rows
        for seed in range(min(given.seeds, row.seeds or given.seeds))
    ]
    if given.train_only:
        return [trained(*one)[0] for one in wanted]
    probes = [
        (name, seed, place) for name in given.only if name in PROBES for seed in range(given.seeds)
    ]
    # What they say of the data names folders of this machine.
    found = json.dumps([*(measured(*one) for one in wanted), *(probed(*one) for one in probes)])
    for folder in (given.data_root, given.runs):
        found = found.replace(json.dumps(f"{folder}{os.sep}")[1:-1], "")
    runs = json.loads(found)
    numbers = {
        "command": "python benchmarks/photos.py"
        + (f" --limit {given.limit}" if given.limit else "")
        + (f" --seeds {given.seeds}" if given.seeds != 3 else "")
        + (f" --only {' '.join(given.only)}" if {*given.only} < {*ALL} else ""),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "backbone_versions": {name: version(name) for name in ("timm", "torchvision")},
        "runs": runs,
        "times": times() if "times" in given.only else [],
    }
    return keep_with_page("photos", numbers, page, given.out)


if __name__ == "__main__":
    write_and_list("photos", lambda: measure(parsed()))
