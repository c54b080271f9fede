"""What `make bench` measured, as a Markdown page."""

from __future__ import annotations

from typing import Any

from spreads import Spread, shown
from targets import NAMES, Target

REACHED = {True: "yes", False: "**no**", None: "-"}
GIGA, TERA = 1e9, 1e12
MIB = 2**20


def bench_page(figures: dict[str, Any], reach: list[Target], notes: str | None) -> str:
    """Return the page.

    Args:
        figures: what was measured.
        reach: the targets.
        notes: the reasons that someone wrote down for what was not reached; None: nobody has.
    """
    parts = [f"# Speed and memory: {figures['machine']}", _stand(figures)]
    if figures["quick"]:
        parts.append("**A quick look with tiny networks, to try the command: no figure counts.**")
    parts += ["## Targets", _targets(reach), "## Why, where it is not reached", _reasons(figures)]
    if notes is not None:
        parts[-1] = notes.strip()
    for head, network in figures["networks"].items():
        parts += [f"## {NAMES[head][0].upper()}{NAMES[head][1:]}", _network(network)]
        parts += [_parts(network["parts"]), _arithmetic(network["step"])]
        parts.append(f"Profile of a step: [{network['profile']}]({network['profile']}).")
    parts += ["## The machine's matrix products", _ceiling(figures["ceiling"])]
    parts += ["## Start", _startup(figures["startup"])]
    return "\n\n".join(parts) + "\n"


def _stand(figures: dict[str, Any]) -> str:
    machine, setting, turns = figures["hardware"], figures["setting"], figures["turns"]
    return (
        f"`{figures['command']}`, {figures['measured']}, {figures['minutes']:.1f} minutes, on "
        f"{machine['cpu']}, {machine['cores']} cores, {machine.get('memory_gib', '?')} GiB, "
        f"{machine['device']}; {_units(figures)}. Python {figures['versions']['python']}, torch "
        f"{figures['versions']['torch']}, {machine['threads']} threads.\n\n"
        f"ResNet18 of width {setting['width']:g}, images of {setting['side']} x "
        f"{setting['side']}, batches of {setting['batch']}. Ours: the training loop's own step, "
        f"{_precision(machine['precision'])}. The yardstick (`benchmarks/"
        "reference_structure.py`): the same network from the same weights, as the first "
        "published implementation has it, in float32.\n\n"
        f"Figures are medians, in brackets the lowest and the highest turn. What is compared "
        f"takes turns in one process ({turns['steps']} of a step, {turns['parts']} of its parts, "
        f"{turns['explanations']} of an explanation), or is measured in pairs of processes "
        f"({turns['processes']}); ratios are taken turn by turn. Before each come "
        f"{turns['warm_up']} turns to warm up, which do not count."
    )


def _precision(precision: str) -> str:
    return "bf16 where autocast has it, float32 elsewhere" if precision == "bf16" else "float32"


def _units(figures: dict[str, Any]) -> str:
    if figures["accelerator"] == "cuda":
        return "CUDA"
    return f"bf16 by {', '.join(figures['bf16_units'])}" if figures["bf16_units"] else "no bf16"


def _targets(reach: list[Target]) -> str:
    lines = ["| what | target | measured | reached |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {target.what} | {target.target} | {target.figure} | {REACHED[target.reached]} |"
        for target in reach
    ]
    return "\n".join(lines)


def _reasons(figures: dict[str, Any]) -> str:
    return f"Nothing is written in `{figures['notes_file']}` yet."


def _network(network: dict[str, Any]) -> str:
    step, evaluation, explained = network["step"], network["evaluation"], network["explanation"]
    alone = network["isolated"]
    lines = [
        "| what | ours | yardstick | yardstick / ours |",
        "| --- | ---: | ---: | ---: |",
        _times("training step", step, step["images"]),
        _times(f"evaluation of {evaluation['images']} images", evaluation, evaluation["images"]),
        _row(
            "process start to first step, s",
            [alone[kind]["first_step_seconds"] for kind in ("ours", "yardstick")],
            alone["first_step_ratio"],
        ),
        _row(
            "peak memory of a step, MiB",
            [alone[kind]["peak_bytes"] for kind in ("ours", "yardstick")],
            alone["memory_times"],
            factor=1 / MIB,
            digits=0,
        ),
        "",
        "| explanation of a batch, float32 | ms | images a second | times the forward pass |",
        "| --- | ---: | ---: | ---: |",
        _explained("plain forward pass", explained["forward_seconds"], step["images"], None),
        _explained("`model.explain`", explained["seconds"], step["images"], explained["ratio"]),
        _explained(
            "Grad-CAM",
            explained["grad_cam_seconds"],
            step["images"],
            explained["grad_cam_ratio"],
        ),
    ]
    return "\n".join(lines)


def _times(what: str, found: dict[str, Any], images: int) -> str:
    cells = []
    for kind in ("ours", "yardstick"):
        seconds = found[f"{kind}_seconds"]
        cells.append(f"{shown(seconds, 1, 1000)}; {_rate(seconds, images)} images/s")
    return f"| {what}, ms | {cells[0]} | {cells[1]} | {shown(found['ratio'])} |"


def _row(
    what: str, values: list[Spread], ratio: Spread, factor: float = 1.0, digits: int = 2
) -> str:
    cells = " | ".join(shown(value, digits, factor) for value in values)
    return f"| {what} | {cells} | {shown(ratio)} |"


def _explained(what: str, seconds: Spread | None, images: int, ratio: Spread | None) -> str:
    if seconds is None:
        return f"| {what} | - | - | - |"
    times = shown(ratio, 3)
    return f"| {what} | {shown(seconds, 1, 1000)} | {_rate(seconds, images)} | {times} |"


def _rate(seconds: Spread, images: int) -> str:
    return f"{images / seconds['median']:,.1f}"


def _parts(parts: dict[str, Any]) -> str:
    lines = ["| part of our step | ms | share |", "| --- | ---: | ---: |"]
    for name, share in parts["shares"].items():
        lines.append(
            f"| {name} | {shown(parts['seconds'][name], 2, 1000)} | {shown(share, 2, 100, ' %')} |"
        )
    decode = parts["decode"]
    return "\n".join(lines) + (
        "\n\nData: take the images, crop, flip, normalise; the step has them decoded in memory, "
        f"once for {decode['epochs']} epochs. Decoding a batch anew, as a streamed set does beside "
        f"the steps, takes {shown(decode['seconds'], 2, 1000, ' ms')}, "
        f"{shown(decode['share'], 2, 100, ' %')} of a step; the target counts one of "
        f"{decode['epochs']} parts of it."
    )


def _arithmetic(step: dict[str, Any]) -> str:
    operations = step["operations"]
    rate = operations["ours"] / step["ours_seconds"]["median"]
    shares = "; ".join(
        f"{shown(share, 1, 100, ' %')} of the {dtype} matrix-product ceiling"
        for dtype, share in step["share_of_ceiling"].items()
    )
    return (
        f"A step needs {operations['ours'] / TERA:.3f} tera-operations (the yardstick "
        f"{operations['yardstick'] / TERA:.3f}), counted by torch's counter; ours does "
        f"{rate / GIGA:,.0f} giga-operations a second: {shares}."
    )


def _ceiling(ceiling: dict[str, Any]) -> str:
    lines = ["| format | size | giga-operations a second |", "| --- | ---: | ---: |"]
    lines += [
        f"| {dtype} | {found['size']} | {shown(found['rate'], 0, 1 / GIGA)} |"
        for dtype, found in ceiling.items()
    ]
    return "\n".join(lines) + "\n\nMeasured in turn with the training steps."


def _startup(startup: dict[str, Spread]) -> str:
    named = [
        ("loss-attention --help", "help_seconds"),
        ("import loss_attention", "import_seconds"),
        ("import loss_attention and its models", "import_with_models_seconds"),
        ("import torch", "import_torch_seconds"),
        ("import torch, then loss_attention", "import_after_torch_seconds"),
        ("Python doing nothing", "python_seconds"),
    ]
    lines = ["| what | seconds |", "| --- | ---: |"]
    return "\n".join(lines + [f"| {label} | {shown(startup[name])} |" for label, name in named])
