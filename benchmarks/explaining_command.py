"""How many images `loss-attention explain` does a second, beside the bare forward pass; one photo.

python benchmarks/explaining_command.py

A part of the images, to try it: `--images 100 --turns 1 --results elsewhere`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from loss_attention.terminal import markdown_table

if TYPE_CHECKING:
    from loss_attention.model import PatchClassifier

ROOT = Path(__file__).resolve().parent.parent
NAME = "explain-rate"
SIDE, BATCH, WIDTH, CLASSES = 48, 64, 0.25, 10
"""Of the images in pixels; of the network: images at a time, width, classes."""
TABLE, TABLE_GOAL, PICTURES_GOAL, START_GOAL = "a table, no pictures", 0.8, 150.0, 1.3
ON_RAY = "a table by Ray's actors, their start included"
FORMS = ("png", "webp", "jpeg")


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    images: int = 2000
    """Images that are explained, of 48 x 48 pixels."""
    turns: int = 3
    """How often each way is timed, in turns."""
    engine: Literal["local", "ray"] = "local"
    """ray: time a table by an actor for each core too, in a shard each."""
    results: Annotated[Path, tyro.conf.arg(help="Folder of the JSON file and the page.")] = (
        ROOT / "results"
    )


def small_network() -> PatchClassifier:
    """The network of the recipe `digits`, untrained: what it says does not matter."""
    import torch

    import loss_attention as la

    torch.manual_seed(0)
    model = la.create_model(
        "vgg11_bn",
        num_classes=CLASSES,
        width=WIDTH,
        strided_layers=(1, 3),
        patch_kernel=4,
        patch_stride=1,
        image_size=(SIDE, SIDE),
    )
    return model.eval()


def make_images(folder: Path, count: int) -> list[Path]:
    """Write smooth pictures with some noise, as photos have, as JPEG files."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        pixels = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
        noisy = (pixels + rng.integers(-6, 7, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)
    return paths


def rates(images: int, turns: int, engine: str = "local") -> dict[str, Any]:
    """Return images a second, each way in turn with the others, and what of the forward pass it is.

    The forward pass has its images in memory; the command's ways read files and write files.
    """
    from loss_attention.explained.waiting import wait_briefly

    wait_briefly()  # as the command does, before torch is there
    import torch
    from measuring import ratio, spread

    from loss_attention.attribution.measures import take_turns
    from loss_attention.data.decoding import read_image, to_tensor
    from loss_attention.explained.files import explain_files
    from loss_attention.explained.questions import own_question
    from loss_attention.explained.shards import explain_table

    model = small_network()
    question = own_question(model)
    with tempfile.TemporaryDirectory() as folder:
        paths = make_images(Path(folder) / "in", images)
        pixels = torch.stack([to_tensor(read_image(path, 3)) for path in paths])
        out = Path(folder) / "out"

        def forward() -> None:
            with torch.inference_mode():
                for some in pixels.split(BATCH):
                    model(some)

        def anew(way: Callable[[], object]) -> Callable[[], None]:
            def job() -> None:
                shutil.rmtree(out, ignore_errors=True)
                way()

            return job

        ways: dict[str, Callable[[], object]] = {
            TABLE: lambda: explain_table(model, question, paths, out, batch_size=BATCH)
        }
        for form in FORMS:
            ways[f"JSON and {form}"] = lambda form=form: explain_files(
                model, paths, out, batch_size=BATCH, image_format=form, workers=None
            )
        if engine == "ray":
            import ray

            from loss_attention.explained.on_ray import explain_on_ray
            from loss_attention.explained.pipeline import cores

            ray.init("local", include_dashboard=False, log_to_driver=False)
            count = max(1, cores() // torch.get_num_threads())
            ways[ON_RAY] = lambda: explain_on_ray(
                model, question, paths, out, shards=count, workers=count, batch_size=BATCH
            )
        jobs = [forward, *map(anew, ways.values())]
        seconds = dict(
            zip(
                ("forward pass", *ways),
                take_turns(jobs, turns, torch.device("cpu")),
                strict=True,
            )
        )
    bare = seconds["forward pass"]
    return {
        way: {
            "images_per_second": spread([images / one for one in taken]),
            "of_forward": ratio(bare, taken),
        }
        for way, taken in seconds.items()
    }


def one_photo(turns: int) -> dict[str, Any]:
    """Return the seconds that explaining one photo takes above `import torch`, in turns."""
    from measuring import command, spread, timed

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights, [photo] = folder / "model.safetensors", make_images(folder / "in", 1)
        weights.write_bytes(small_network().to_bytes())
        words = (command(), "explain", str(weights), str(photo), "--out", str(folder / "out"))
        seconds: dict[str, list[float]] = {"torch": [], "explain": []}
        for _ in range(1 + turns):  # the first reads files from the disk
            seconds["torch"].append(timed(sys.executable, "-c", "import torch").seconds)
            seconds["explain"].append(timed(*words, "--overwrite").seconds)
    above = [
        whole - torch
        for whole, torch in zip(seconds["explain"][1:], seconds["torch"][1:], strict=True)
    ]
    return {
        "seconds": spread(seconds["explain"][1:]),
        "import_torch_seconds": spread(seconds["torch"][1:]),
        "above_seconds": spread(above),
    }


def page(numbers: dict[str, Any]) -> str:
    """Return the page of the numbers."""
    from measuring import shown

    found = numbers["rates"]
    rows = [
        [
            way,
            shown(one["images_per_second"], 0),
            shown(one["of_forward"]),
            _goal(way, one),
        ]
        for way, one in found.items()
    ]
    photo, machine = numbers["one_photo"], numbers["hardware"]
    met = "met" if photo["above_seconds"]["median"] <= START_GOAL else "not met"
    parts = [
        "# How fast `loss-attention explain` is",
        f"`{numbers['command']}`. {numbers['images']:,} JPEG files of {SIDE} x {SIDE} pixels; "
        f"the network of the recipe `digits`, in colour, {CLASSES} classes, batches of {BATCH}, "
        "float32. Each way in turn with the others in one process; median and range. The forward "
        "pass has its images in memory; all other ways read files and write files.",
        markdown_table(["way", "images a second", "of the forward pass", "goal"], rows, "lrrl"),
        f"One photo, from the command line: {shown(photo['seconds'])} s, of which `import torch` "
        f"takes {shown(photo['import_torch_seconds'])} s; above it "
        f"{shown(photo['above_seconds'])} s (goal: at most {START_GOAL} s, {met}).",
        f"Measured {numbers['measured']} on {machine['cpu']}, {machine['cores']} cores; torch "
        f"{numbers['versions']['torch']}.",
    ]
    if numbers["images"] < Arguments().images:
        parts.insert(1, "**Tried with few images: no number here says anything.**")
    return "\n\n".join(parts) + "\n"


def _goal(way: str, one: dict[str, Any]) -> str:
    """Return what was aimed at, and whether it is reached."""
    if way == TABLE:
        met = one["of_forward"]["median"] >= TABLE_GOAL
        return f"{TABLE_GOAL} of the forward pass: {'met' if met else 'not met'}"
    if way.startswith("JSON"):
        met = one["images_per_second"]["median"] >= PICTURES_GOAL
        return f"{PICTURES_GOAL:.0f} a second: {'met' if met else 'not met'}"
    return ""


def measure(arguments: Arguments) -> list[Path]:
    """Measure, and write the JSON file and the page of it."""
    from measuring import keep_with_page

    numbers = {
        "command": "python benchmarks/explaining_command.py"
        + (" --engine ray" if arguments.engine == "ray" else ""),
        "images": arguments.images,
        "rates": rates(arguments.images, arguments.turns, arguments.engine),
        "one_photo": one_photo(arguments.turns),
    }
    return keep_with_page(NAME, numbers, page, arguments.results)


def main() -> None:
    """Run the command."""
    from measuring import refuse_below, write_and_list

    arguments = tyro.cli(Arguments)
    least = {"images": (arguments.images, 1), "turns": (arguments.turns, 1)}
    refuse_below("explaining_command", least)
    write_and_list("explaining_command", lambda: measure(arguments))


if __name__ == "__main__":
    main()
