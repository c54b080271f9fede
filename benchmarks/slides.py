"""Classifiers of bags at the size of whole slides: time, and memory that does not grow.

    python benchmarks/slides.py --folder WHERE_SLIDES_ARE_MADE

Made-up slides, each in a file of HDF5 as CLAM and TRIDENT write it. Trained and evaluated are our
classifiers and, in turns with them, gated attention as it is commonly written: one bag a step, its
features read whole, in a few lines of torch. Where torchmil is installed, its ABMIL takes turns,
too. A small one, to try it: `--slides 8 --distinct 2 --instances 500 --width 64 --turns 1
--results elsewhere`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import h5py
import numpy as np
import torch
import tyro
from slide_classifiers import (
    DRAWN,
    HIDDEN,
    PLAIN,
    TORCHMIL,
    UNITS,
    Work,
    classifier,
    names,
    slide_path,
)

from loss_attention.terminal import markdown_table

ROOT = Path(__file__).resolve().parent.parent
NAME = "slides"
MILESTONES = (10, 100, 1000)
"""Slides after which the peak of the memory is read."""
GROWN = ("loss-attention", PLAIN)
"""Those that are watched for memory over all slides."""
WORKS: tuple[Work, ...] = ("training", "evaluation")


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    slides: int = 1000
    """How many there are."""
    distinct: int = 25
    """Of these, so many have a file of their own; the others are links to them."""
    instances: int = 20_000
    """Of each slide."""
    width: int = 1024
    """Features of each instance, float16."""
    layout: Literal["rows", "whole"] = "rows"
    """rows: a block a row, as CLAM and TRIDENT write; whole: all features in one piece."""
    slides_a_turn: int = 20
    """Slides that each classifier is trained on in a turn, and as many that it is evaluated on."""
    turns: int = 5
    """How often each takes its turn; one more is to warm up."""
    seed: int = 0
    """Of slides and weights."""
    folder: Path | None = None
    """Where the slides go; what lies there is not made again. None: a folder that is removed."""
    results: Annotated[Path, tyro.conf.arg(help="Folder of the JSON file and the page.")] = (
        ROOT / "results"
    )


@contextmanager
def made_up_slides(given: Arguments) -> Iterator[Path]:
    """Make the slides, a file each, and a CSV of their labels; every second has a lesion."""
    from measuring import same_settings

    if given.folder is None:
        with tempfile.TemporaryDirectory() as name:
            yield fill(Path(name), given)
        return
    decide = ("slides", "distinct", "instances", "width", "layout", "seed")
    same_settings(given.folder, {name: getattr(given, name) for name in decide})
    yield fill(given.folder / "features", given)


def fill(folder: Path, given: Arguments) -> Path:
    """Write what is missing of the slides, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["slide_id,label"]
    for number in range(given.slides):
        path, label = slide_path(folder, number), number % given.distinct % 2
        rows.append(f"{path.stem},{('normal', 'tumour')[label]}")
        if path.exists():
            continue
        if number < given.distinct:
            whole = path.with_suffix(".part")
            write_slide(whole, given, number, lesion=bool(label))
            whole.replace(path)
        else:
            os.link(slide_path(folder, number % given.distinct), path)
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def write_slide(path: Path, given: Arguments, number: int, *, lesion: bool) -> None:
    """Write a slide; in a lesion, a fiftieth of it, the first features are higher."""
    random = np.random.default_rng((given.seed, number))
    features = random.standard_normal((given.instances, given.width), dtype=np.float32)
    side = round(given.instances**0.5) + 1
    tiles = np.arange(given.instances)
    if lesion:
        features[tiles < given.instances / 50, : max(1, given.width // 16)] += 1
    blocks = (1, given.width) if given.layout == "rows" else None
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features.astype(np.float16), chunks=blocks)
        coords = file.create_dataset(
            "coords", data=np.stack([tiles % side, tiles // side], axis=1) * 256
        )
        coords.attrs.update(patch_size=256, patch_size_level0=256)


def rates(given: Arguments, folder: Path) -> dict[str, Any]:
    """Return instances and slides a second of each classifier, which take turns."""
    from measuring import ratio, spread

    from loss_attention.bags.bag_set import feature_statistics
    from loss_attention.bags.reading import read_bags

    bags = read_bags(str(folder))
    each = {name: classifier(name, folder, bags, given.seed) for name in names()}
    instances: dict[str, dict[Work, list[float]]] = {
        name: {one: [] for one in WORKS} for name in each
    }
    first_pass: list[float] = []
    for turn in range(1 + given.turns):
        begin = turn * given.slides_a_turn
        slides = [number % given.slides for number in range(begin, begin + given.slides_a_turn)]
        for name, one in each.items():
            for work in WORKS:
                began = time.perf_counter()
                seen = getattr(one, work)(slides)
                if turn:
                    instances[name][work].append(seen / (time.perf_counter() - began))
        began = time.perf_counter()
        part = bags.subset(slides)
        feature_statistics(part)
        if turn:
            first_pass.append(int(part.sizes.sum()) / (time.perf_counter() - began))
    found: dict[str, Any] = {}
    for name, works in instances.items():
        found[name] = {
            work: {
                "instances_per_second": spread(values),
                "of_plain": ratio(values, instances[PLAIN][work]),
            }
            for work, values in works.items()
        }
    whole, drawn = (
        [rate * of / given.instances for rate in instances[name]["training"]]
        for name, of in (("loss-attention", 1), ("loss-attention, a tenth drawn", DRAWN))
    )
    return {
        "classifiers": found,
        "first_pass_instances_per_second": spread(first_pass),
        "drawn_slides_per_second_of_whole": ratio(drawn, whole),
    }


def memory(given: Arguments, folder: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Return the peak bytes of each classifier after so many slides, in a process of its own."""
    from measuring import timed

    found: dict[str, dict[str, dict[str, int]]] = {}
    for name in names():
        most = given.slides if name in GROWN else min(given.slides, MILESTONES[0])
        for work in WORKS:
            words = json.dumps([name, work, most, str(folder), given.seed])
            done = timed(sys.executable, str(Path(__file__)), "alone", words)
            (line,) = (one for one in done.output.splitlines() if one.startswith("{"))
            found.setdefault(name, {})[work] = json.loads(line)
    return found


def alone(name: str, work: Work, most: int, folder: str, seed: int) -> dict[int, int]:
    """Return the peak bytes of this process after each milestone, but for what it began with."""
    from isolated import process_memory

    from loss_attention.bags.reading import read_bags

    bags = read_bags(folder)
    one = classifier(name, Path(folder), bags, seed)
    before, done = process_memory("VmRSS"), 0
    found = {}
    for milestone in milestones(most):
        getattr(one, work)(range(done, milestone))
        done = milestone
        found[milestone] = max(0, process_memory("VmHWM") - before)
    return found


def milestones(slides: int) -> list[int]:
    """Return after how many of so many slides memory is read.

    Example:
        >>> milestones(1000), milestones(60), milestones(8)
        ([10, 100, 1000], [10, 60], [8])
    """
    return [one for one in MILESTONES if one < slides] + [slides]


def page(numbers: dict[str, Any]) -> str:
    """Return the page of the numbers."""
    from measuring import shown

    said, peaks, machine = numbers["arguments"], numbers["memory"], numbers["hardware"]
    rows = [
        [
            name,
            *(
                cell
                for work in WORKS
                for cell in (
                    shown(one[work]["instances_per_second"], 0),
                    shown(one[work]["of_plain"]),
                )
            ),
            *(_mb(next(iter(peaks[name][work].values()))) for work in WORKS),
        ]
        for name, one in numbers["classifiers"].items()
    ]
    after = milestones(said["slides"])
    grown = [
        [name, work, *(_mb(peaks[name][work][str(one)]) for one in after)]
        for name in GROWN
        for work in WORKS
    ]
    blocks = (
        "a block a row, as CLAM and TRIDENT write" if said["layout"] == "rows" else "as they are"
    )
    megabytes = said["instances"] * said["width"] * 2 / 1e6
    parts = [
        "# Bags at the size of whole slides",
        f"`{numbers['command']}`. {said['slides']:,} made-up slides of {said['instances']:,} "
        f"instances with {said['width']:,} features of 16 bits, {megabytes:,.1f} MB each, in HDF5 "
        f"({blocks}). {said['distinct']:,} of the files are distinct, all others links to them, so "
        "that they fit on the disk; so what is read mostly comes from the system's cache of "
        "files. One slide a step, hidden layer of "
        f"{HIDDEN}, {UNITS} units of attention, AdamW, all in one process that also reads.",
        f"`{PLAIN}` is what the field commonly writes: features read whole by h5py, turned to "
        "float32, and Ilse et al.'s gated attention in a few lines (in this benchmark). "
        "Ours also returns what each instance adds to each class.",
        "## Speed and memory",
        f"{said['turns']} turns of {said['slides_a_turn']} slides each, all classifiers in each "
        "turn; median and range. *Of plain* is by turn. Memory is the peak of a process of its "
        f"own over {after[0]:,} slides, above what it held before the first.",
        markdown_table(
            [
                "",
                *("training, instances/s", "of plain", "evaluation, instances/s", "of plain"),
                *("training, peak MB", "evaluation, peak MB"),
            ],
            rows,
            "lrrrrrr",
        ),
        f"With `--most-instances {said['instances'] // DRAWN:,}`, the third row, a step reads "
        "little more than the instances that it draws: "
        f"{shown(numbers['drawn_slides_per_second_of_whole'], 1)} times the slides a second of a "
        "training that sees them whole. A training that normalises, as by default, first reads "
        "all of its slides once: "
        f"{shown(numbers['first_pass_instances_per_second'], 0)} instances a second.",
        "## Memory does not grow",
        "Peak MB after so many slides, in a process of its own.",
        markdown_table(
            ["", "", *(f"after {one:,}" for one in after)], grown, "ll" + "r" * len(after)
        ),
        f"Measured {numbers['measured']} on {machine['cpu']}, {machine['cores']} cores, "
        f"{numbers['threads']} threads of torch; torch {numbers['versions']['torch']}, h5py "
        f"{numbers['h5py']}{numbers['torchmil']}.",
    ]
    usual = Arguments()
    if any(said[name] < getattr(usual, name) for name in LEAST):
        parts.insert(1, "**Tried at a small size: no number here says anything.**")
    return "\n\n".join(parts) + "\n"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f}"


LEAST = {
    "slides": 2,
    "distinct": 2,
    "instances": DRAWN,
    "width": 1,
    "slides_a_turn": 1,
    "turns": 1,
    "seed": 0,
}
"""The least value of each option."""


def measure(given: Arguments) -> list[Path]:
    """Measure, and write the JSON file and the page of it."""
    from importlib.metadata import version

    from measuring import keep_with_page, told

    options = {
        name: value for name, value in asdict(given).items() if name not in ("folder", "results")
    }
    defaults = {name: getattr(Arguments(), name) for name in options}
    with made_up_slides(given) as folder:
        numbers = {
            "command": told(f"{NAME}.py", given, defaults).replace("_", "-"),
            "arguments": options,
            "threads": torch.get_num_threads(),
            "h5py": h5py.__version__,
            "torchmil": f", torchmil {version('torchmil')}" if TORCHMIL in names() else "",
            **rates(given, folder),
            "memory": memory(given, folder),
        }
    return keep_with_page(NAME, numbers, page, given.results)


def main() -> None:
    """Run the command."""
    if sys.argv[1:2] == ["alone"]:
        print(json.dumps(alone(*json.loads(sys.argv[2]))))
        return
    from measuring import refuse_below, write_and_list

    given = tyro.cli(Arguments)
    least = {name.replace("_", "-"): (getattr(given, name), one) for name, one in LEAST.items()}
    refuse_below(NAME, least)
    write_and_list(NAME, lambda: measure(given))


if __name__ == "__main__":
    main()
