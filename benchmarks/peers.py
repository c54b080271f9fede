"""One folder, trained and explained the way people do today, and by this library, side by side.

    python benchmarks/peers.py --data DATA --weights FILE
    python benchmarks/peers.py --data DATA --pretrained --seeds 1 --only probe ours

The peers are what users of timm write: a linear probe on pooled features and a fine-tuned network,
explained by Grad-CAM of pytorch-grad-cam and of captum. What a user writes for each lies in
snippets/, is run from there, and its lines are counted: those that are neither empty, nor a comment
or a docstring. DATA is as of train --data, and has masks. All read the same class folders, made
once of DATA: its images, padded to squares.

Scores are of the test split, by the same functions, with maps for each image's own class: accuracy,
balanced accuracy, PxAP and pointing within 16 pixels on the images that have a mask. Seconds of an
explanation are an image's, the forward pass included. Needs timm, torchvision, grad-cam and captum.
What was measured lies in the folder of runs and is not measured again; whoever wants it anew
deletes that.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import io
import json
import os
import runpy
import sys
import time
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import keep_with_page, same_settings, write_and_list
from photos_page import stood_on

from loss_attention.errors import InputError, quoted
from loss_attention.terminal import markdown_table

if TYPE_CHECKING:
    from torch import Tensor

    from loss_attention.data.sample import ImageSet, Splits

ROOT = Path(__file__).resolve().parent.parent
SNIPPETS = Path(__file__).resolve().parent / "snippets"
STOOD_ON = ("timm", "torchvision", "grad-cam", "captum")
NEAR = 16
"""Pixels around an object within which a map's maximum still points at it."""
BATCH = 16


@dataclass(frozen=True)
class Peer:
    """A way to train, and the ways to explain what it trained.

    Attributes:
        named: what it is called in the table.
        train: the snippet that trains.
        explain: the snippets that explain, by what they are called in the table.
        options: further arguments of `train`.
    """

    named: str
    train: str
    explain: Mapping[str, str]


GRAD_CAMS = {
    "Grad-CAM (pytorch-grad-cam)": "grad_cam",
    "Grad-CAM with class competition (pytorch-grad-cam)": "grad_cam_competing",
    "Grad-CAM (captum)": "captum_grad_cam",
}
EXACT = {"evidence": "evidence", "contrast": "contrast", "margin": "margin"}
PEERS = {
    "probe": Peer("timm, linear probe", "probe", GRAD_CAMS),
    "fine-tuned": Peer("timm, fine-tuned", "fine_tune", GRAD_CAMS),
    "ours": Peer("loss-attention, recipe photos", "ours", EXACT),
    "ours-fine-tuned": Peer(
        "loss-attention, recipe photos-finetune",
        "ours_fine_tuned",
        EXACT,
    ),
}


@dataclass(frozen=True)
class Task:
    """What all are given.

    Attributes:
        folder: with train/CLASS/*.png and test/CLASS/*.png.
        test: the test images, with their masks.
        backbone: a name of timm's.
        weights: the file of its weights, in timm's names; None: timm's own.
        runs: where what is trained here may lie.
        alone: nothing else runs on the machine, so seconds are worth keeping.
    """

    folder: Path
    test: ImageSet
    backbone: str
    weights: str | None
    runs: Path
    alone: bool = True


def beside_torch() -> None:
    """Let torchvision be imported, here and in commands, beside another build of torch."""
    folder = ROOT / "tests" / "beside_torch"
    runpy.run_path(str(folder / "sitecustomize.py"))
    told = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([told] if told else [])])


def snippet(name: str) -> Any:
    """Return the module of a snippet."""
    if str(SNIPPETS.parent) not in sys.path:
        sys.path.insert(0, str(SNIPPETS.parent))
    return importlib.import_module(f"snippets.{name}")


def lines_of(text: str) -> int:
    """Count the lines of a program that are neither empty, nor a comment or a docstring.

    Example:
        >>> lines_of('"What it does."' + chr(10) * 3 + 'x = 1  # one' + chr(10) + '# two')
        1
    """
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    silent |= {tokenize.ENCODING, tokenize.ENDMARKER}
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            said = node.body[0]
            docstrings |= set(range(said.lineno, (said.end_lineno or said.lineno) + 1))
    written: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            written |= set(range(token.start[0], token.end[0] + 1))
    return len(written - docstrings)


def lines(*names: str) -> int:
    """Count the lines of snippets, each taken once."""
    return sum(
        lines_of((SNIPPETS / f"{name}.py").read_text(encoding="utf-8"))
        for name in dict.fromkeys(names)
    )


def class_folders(splits: Splits, folder: Path) -> None:
    """Write the images as train/CLASS/NUMBER.png and test/CLASS/NUMBER.png, unless they are there.

    Raises:
        InputError: images of several classes each, or a class that is not a name of a folder.
    """
    from PIL import Image

    names = splits.trainval.class_names
    if splits.trainval.multi_label:
        raise InputError("the peers are compared on images of one class each")
    if len({Path(name).name for name in names}) < len(names) or "" in names:
        raise InputError(f"class names must be names of folders, got {quoted(names)}")
    for part, images in (("train", splits.trainval), ("test", splits.test)):
        done = folder / part / ".done"
        if done.exists():
            continue
        for name in names:
            (folder / part / Path(name).name).mkdir(parents=True, exist_ok=True)
        whole = images.decoded()
        for number, (picture, label) in enumerate(zip(whole.images, whole.labels, strict=True)):
            file = folder / part / Path(names[int(label)]).name / f"{number:06d}.png"
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file)
        done.touch()


def as_in_folders(images: ImageSet) -> ImageSet:
    """Return images with their classes in the order of their folders, as torchvision numbers."""
    import torch

    names = tuple(sorted(images.class_names))
    numbers = torch.tensor([names.index(name) for name in images.class_names])
    return replace(images, class_names=names, labels=numbers[images.labels])


def named_as_timm(weights: Path, backbone: str, folder: Path) -> Path:
    """Return a file of weights in timm's names; those of another port in its order are renamed.

    Raises:
        InputError: weights of another network.
    """
    import timm
    import torch
    from safetensors.torch import load_file

    try:
        if weights.suffix == ".safetensors":
            found = load_file(weights)
        else:
            found = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{weights} holds no tensors that can be read") from error
    wanted = timm.create_model(backbone).state_dict()
    if set(wanted) <= set(found):
        return weights
    shapes = [value.shape for value in found.values()]
    if shapes != [value.shape for value in wanted.values()]:
        raise InputError(f"the weights in {weights} are not those of timm's {backbone}")
    renamed = folder / f"{backbone}.pth"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(zip(wanted, found.values(), strict=True)), renamed)
    return renamed


def measured(peer: Peer, task: Task, seed: int) -> dict[str, Any]:
    """Train a peer and explain the test images by all of its ways."""
    model, inputs, found = classified(peer, task, seed)
    return found | {
        "explained": {
            named: {"lines": lines(peer.train, name)}
            | explained(snippet(name), model, inputs, task)
            for named, name in peer.explain.items()
        }
    }


def classified(peer: Peer, task: Task, seed: int) -> tuple[Any, list[Tensor], dict[str, Any]]:
    """Train a peer; return its model, the test images as it takes them, and what it reached."""
    import torch
    from sklearn.metrics import balanced_accuracy_score

    trainer = snippet(peer.train)
    arguments = [str(task.folder), task.backbone, task.weights, seed]
    if peer.train.startswith("ours"):
        arguments.append(str(task.runs / f"{peer.train}-{seed}"))
    begun = time.perf_counter()
    model, transform = trainer.train(*arguments)
    seconds = time.perf_counter() - begun
    inputs = [transform(picture.permute(1, 2, 0).numpy()) for picture in task.test.images]
    with torch.inference_mode():
        logits = [of_images(model, part) for part in batches(inputs)]
    found = torch.cat(logits).argmax(dim=1)
    labels = task.test.labels
    reached = {
        "train_seconds": seconds if task.alone else None,
        "accuracy": float((found == labels).double().mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels, found)),
    }
    return model, inputs, reached


def of_images(model: Any, images: Tensor) -> Tensor:
    """Return a model's logits; those of ours are in what it returns."""
    found = model(images)
    logits: Tensor = getattr(found, "logits", found)
    return logits


def batches(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the inputs in batches."""
    import torch

    return [torch.stack(list(inputs[i : i + BATCH])) for i in range(0, len(inputs), BATCH)]


def explained(module: Any, model: Any, inputs: Sequence[Tensor], task: Task) -> dict[str, Any]:
    """Explain the images that have a mask, and score the maps."""
    import torch

    masks = task.test.masks
    assert masks is not None
    some = masks.any(dim=(1, 2)).nonzero().squeeze(1)
    maps, begun = [], time.perf_counter()
    for part, index in zip(batches([inputs[i] for i in some]), some.split(BATCH), strict=True):
        maps.append(torch.as_tensor(module.explain(model, part, task.test.labels[index])))
    seconds = (time.perf_counter() - begun) / len(some)
    kept = seconds if task.alone else None
    return {"explain_seconds": kept} | scores(torch.cat(maps).float(), masks[some])


def scores(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Return PxAP and the fraction of maps whose maximum is within 16 pixels of the object."""
    from loss_attention.metrics.localisation import (
        count_pixels,
        pixel_average_precision,
        pointing_hits,
        scaled_maps,
    )

    found = pixel_average_precision(count_pixels(scaled_maps(maps), masks))
    assert found is not None
    hits = pointing_hits(maps, near(masks))
    return {"pxap": found, "pointing": float(hits.double().mean())}


def near(masks: Tensor) -> Tensor:
    """Return the pixels within 16 pixels of each mask's."""
    import numpy as np
    import torch
    from scipy.ndimage import distance_transform_edt

    far = [distance_transform_edt(~mask) for mask in masks.numpy()]
    return torch.from_numpy(np.stack(far) <= NEAR)


def compared(task: Task, only: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """Measure what has not been measured yet, and return all of it."""
    rows = []
    for name in only:
        for seed in range(seeds):
            file = task.runs / f"{name}-{seed}.json"
            if not file.exists():
                found = {"peer": name, "seed": seed} | measured(PEERS[name], task, seed)
                file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
                print(f"measured: {name}, seed {seed}", flush=True)
            rows.append(json.loads(file.read_text(encoding="utf-8")))
    return rows


def page(numbers: Mapping[str, Any]) -> str:
    """Return the table of what was measured, as Markdown."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in numbers["runs"]:
        for method, values in run["explained"].items():
            grouped.setdefault((run["peer"], method), []).append(run | values)
    columns: list[tuple[str, Callable[[dict[str, Any]], float | None], int]] = [
        ("accuracy", lambda run: run["accuracy"], 3),
        ("balanced accuracy", lambda run: run["balanced_accuracy"], 3),
        ("PxAP", lambda run: run["pxap"], 3),
        (f"pointing within {NEAR} px", lambda run: run["pointing"], 3),
        ("seconds to train", lambda run: run["train_seconds"], 0),
        ("ms an explanation", lambda run: _milliseconds(run["explain_seconds"]), 1),
        ("lines of code", lambda run: run["lines"], 0),
    ]
    rows = [
        (PEERS[peer].named, method, *(_spread(list(map(read, runs)), n) for _, read, n in columns))
        for (peer, method), runs in grouped.items()
    ]
    headings = ["trained", "explained", *(name for name, _, _ in columns)]
    size = numbers["image_size"]
    parts = [
        "# The same folder, as people do it today and by loss-attention",
        stood_on(numbers),
        f"{numbers['training_images']:,} images to train on, {numbers['test_images']:,} to test, "
        f"{numbers['masked_images']:,} of them with a mask, padded to {size} x {size} pixels.",
        "Means over seeds, lowest and highest in brackets; times of those that had the machine for "
        "themselves. Our seeds share the features, which the slowest of them computed. Equal "
        f"values everywhere reach a PxAP of {numbers['uniform_pxap']:.3f}. An explanation's time "
        "includes its forward pass. What a user writes for each is in "
        "`benchmarks/snippets`.",
        markdown_table(headings, rows, "ll" + "r" * len(columns)),
    ]
    return "\n\n".join(parts) + "\n"


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{sum(known) / len(known):,.{digits}f}"
    low, high = f"{min(known):,.{digits}f}", f"{max(known):,.{digits}f}"
    return mean if low == high else f"{mean} ({low} to {high})"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="as of train --data, with masks")
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--weights", type=Path, help="a file of the backbone's weights")
    weights.add_argument("--pretrained", action="store_true", help="timm's weights, from the hub")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="a name of timm's")
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=sorted(PEERS), default=list(PEERS))
    parser.add_argument("--limit", type=int, help="of training and of test images, for a try")
    parser.add_argument(
        "--not-alone", action="store_true", help="other work runs beside it: keep no seconds"
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "peers")
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    return parser.parse_args()


def measure(given: argparse.Namespace) -> list[Path]:
    """Measure all that is asked for, and write it."""
    import torch

    from loss_attention.data.loading import load_splits
    from loss_attention.data.sample import limited

    beside_torch()
    size, runs = given.image_size, given.runs
    settings = {"data": str(Path(given.data).absolute()), "image_size": size, "limit": given.limit}
    settings |= {"backbone": given.backbone, "weights": given.weights and given.weights.name}
    same_settings(runs, settings)
    splits = load_splits(
        given.data, in_channels=3, image_size=size, seed=0, resize="pad", masks=True
    )
    if given.limit:
        splits = limited(splits, given.limit, 0)
    test = as_in_folders(splits.test.decoded())
    if test.masks is None or not test.masks.any():
        raise InputError(f"{given.data} has no masks of its test images")
    class_folders(splits, runs / "data")
    weights = given.weights and named_as_timm(given.weights, given.backbone, runs)
    file = str(weights) if weights else None
    task = Task(runs / "data", test, given.backbone, file, runs, not given.not_alone)
    some = test.masks.any(dim=(1, 2))
    flat = scores(torch.ones(int(some.sum()), *test.size), test.masks[some])
    numbers = {
        "command": " ".join(["python", "benchmarks/peers.py", *_told(given)]),
        "image_size": size,
        "training_images": len(splits.trainval),
        "test_images": len(test),
        "masked_images": int(some.sum()),
        "uniform_pxap": flat["pxap"],
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "backbone_versions": {name: version(name) for name in STOOD_ON},
        "runs": compared(task, given.only, given.seeds),
    }
    return keep_with_page("peers", numbers, page, given.out)


def _told(given: argparse.Namespace) -> list[str]:
    """Return the options that decide the numbers, without paths of this machine."""
    weights = ["--weights", given.weights.name] if given.weights else ["--pretrained"]
    told = ["--data", Path(given.data).name, *weights, "--backbone", given.backbone]
    told += ["--image-size", str(given.image_size), "--seeds", str(given.seeds)]
    told += ["--only", *given.only] if len(given.only) < len(PEERS) else []
    return told + (["--limit", str(given.limit)] if given.limit else [])


if __name__ == "__main__":
    write_and_list("peers", lambda: measure(parsed()))
