"""Everything that is measured of one network, ours beside the yardstick."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from arithmetic import MatrixProduct, operations_of_step
from explaining import EXPLAIN, beside_forward
from isolated import isolated
from parts import host_waits, parts_of_step, profile_of_step
from PIL import Image
from spreads import ratio, spread
from workloads import WORKLOADS, Ours, Setting, Yardstick, checkpointed

from loss_attention.attribution.measures import take_turns
from loss_attention.data.decoding import read_image, to_tensor

KINDS = tuple(WORKLOADS)
COMPARED = ("ours", "yardstick")
JPEG_QUALITY = 75
Stage = Callable[[str], AbstractContextManager[None]]
"""Says what is being measured, as long as the context lasts."""


@dataclass(frozen=True)
class Turns:
    """How often each thing is measured, and how large the matrix products are.

    Attributes:
        steps: a training step, ours and the yardstick's.
        evaluations: a pass over the evaluated images, likewise.
        parts: the parts of our step.
        explanations: an explanation, and the forward pass beside it.
        processes: pairs of processes.
        startup: processes that start and end.
        products: matrix products, before the fastest size of each format is chosen.
        sizes: of the matrices.
        warm_up: turns before each of these that do not count, but for processes.
    """

    steps: int
    evaluations: int
    parts: int
    explanations: int
    processes: int
    startup: int
    products: int
    sizes: tuple[int, ...]
    warm_up: int = 1


def measure_alone(setting: Setting, turns: Turns) -> dict[str, Any]:
    """Return time to the first step and peak memory, in pairs of processes."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(turns.processes):
        for kind in KINDS:
            found[kind].append(isolated(kind, setting))
    names = ("first_step_seconds", "peak_bytes")
    values = {kind: {name: [one[name] for one in found[kind]] for name in names} for kind in KINDS}
    theirs = values["yardstick"]
    return {
        kind: {name: spread(values[kind][name]) for name in names}
        | {
            "first_step_share": ratio(
                values[kind]["first_step_seconds"], theirs["first_step_seconds"]
            ),
            "memory_share": ratio(values[kind]["peak_bytes"], theirs["peak_bytes"]),
        }
        for kind in KINDS
    }


def measure_network(
    setting: Setting, turns: Turns, products: dict[str, MatrixProduct], stage: Stage
) -> tuple[dict[str, Any], dict[str, list[float]], str]:
    """Return the figures of a network, the rates of the matrix products, and a step's profile."""
    found: dict[str, Any] = {}
    with stage("operations of a step, counted"):
        operations = {kind: operations_of_step(setting, kind) for kind in COMPARED}
    with stage("a process for each: time to the first step, peak memory"):
        found["isolated"] = measure_alone(setting, turns)
    ours, yardstick = Ours(setting), Yardstick(setting)
    with stage(f"training steps, {turns.steps} turns"):
        found["step"], rates = _steps(ours, yardstick, turns, products, operations)
    with stage(f"evaluation, {turns.evaluations} turns"):
        found["evaluation"] = _evaluation(ours, yardstick, turns)
    del yardstick
    with stage(f"parts of our step, {turns.parts} turns"):
        found["parts"] = _parts(ours, turns)
        found["host_waits"] = host_waits(ours)
    with stage("profile of our step"):
        profile = profile_of_step(ours)
    del ours
    with stage(f"explanations, {turns.explanations} turns"):
        found["explanation"] = _explanation(setting, turns)
    return found, rates, profile


def _steps(
    ours: Ours,
    yardstick: Yardstick,
    turns: Turns,
    products: dict[str, MatrixProduct],
    operations: dict[str, float],
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Time training steps in turn with each other and with the matrix products."""
    lean = checkpointed(ours.setting)
    steps = [ours.step, lean.step, yardstick.step]
    jobs = [*steps, *(product.job for product in products.values())]
    device = ours.setting.device
    mine, leaner, theirs, *taken = take_turns(jobs, turns.steps, device, turns.warm_up)
    rates = {
        name: [product.operations / seconds for seconds in one]
        for (name, product), one in zip(products.items(), taken, strict=True)
    }
    done = [operations["ours"] / seconds for seconds in mine]
    figures = _beside(mine, theirs) | {
        "images": ours.setting.batch,
        "checkpointed_seconds": spread(leaner),
        "checkpointed_over_ours": ratio(leaner, mine),
        "checkpointed_ratio": ratio(theirs, leaner),
        "operations": operations,
        "share_of_ceiling": {dtype: ratio(done, ceiling) for dtype, ceiling in rates.items()},
    }
    return figures, rates


def _evaluation(ours: Ours, yardstick: Yardstick, turns: Turns) -> dict[str, Any]:
    device = ours.setting.device
    jobs = [ours.evaluate, yardstick.evaluate]
    mine, theirs = take_turns(jobs, turns.evaluations, device, turns.warm_up)
    return _beside(mine, theirs) | {"images": ours.setting.evaluated}


def _beside(mine: list[float], theirs: list[float]) -> dict[str, Any]:
    return {
        "ours_seconds": spread(mine),
        "yardstick_seconds": spread(theirs),
        "ratio": ratio(theirs, mine),
    }


def _parts(ours: Ours, turns: Turns) -> dict[str, Any]:
    """Return the parts of a step, and what decoding its images would add to it."""
    decode = _decode_job(ours.setting)
    taken, decoding = [], []
    for _ in range(turns.warm_up + turns.parts):
        taken.append(parts_of_step(ours))
        decoding += take_turns([decode], 1, ours.setting.device, warm_up=0)[0]
    seconds = {name: [one[name] for one in taken[turns.warm_up :]] for name in taken[0]}
    decoding, step = decoding[turns.warm_up :], seconds.pop("step")
    epochs = ours.setting.recipe().epochs
    data = [a + b / epochs for a, b in zip(seconds["data"], decoding, strict=True)]
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "shares": {name: ratio(values, step) for name, values in seconds.items()},
        "data_share": ratio(data, step),
        "decode": {
            "epochs": epochs,
            "seconds": spread(decoding),
            "share": ratio(decoding, step),
        },
    }


def _decode_job(setting: Setting) -> Callable[[], object]:
    """Return what decodes a batch of JPEG files, one after the other in one thread."""
    # Smooth, as photographs are: noise would take longer.
    small = torch.rand(setting.batch, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(small, size=setting.side, mode="bilinear")
    files = []
    for pixels in (255 * smooth).byte().permute(0, 2, 3, 1).contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "jpeg", quality=JPEG_QUALITY)
        files.append(file.getvalue())
    return lambda: torch.stack([to_tensor(read_image(file, in_channels=3)) for file in files])


def _explanation(setting: Setting, turns: Turns) -> dict[str, Any]:
    """Time `model.explain` and Grad-CAM of a batch, in turn with a plain forward pass."""
    model = setting.model().to(setting.device).eval()
    images = setting.splits().train.decoded().images[: setting.batch].to(setting.device)
    names = (EXPLAIN, "grad-cam")
    measured = beside_forward(model, images, names, turns.explanations, turns.warm_up)
    own, peer = measured[EXPLAIN], measured["grad-cam"]
    assert own is not None
    return {
        "forward_seconds": spread(own[0]),
        "seconds": spread(own[1]),
        "ratio": ratio(own[1], own[0]),
        "grad_cam_seconds": None if peer is None else spread(peer[1]),
        "grad_cam_ratio": None if peer is None else ratio(peer[1], peer[0]),
    }
