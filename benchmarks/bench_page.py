"""What `make bench` measured, as a Markdown page."""

from __future__ import annotations

from typing import Any

from spreads import Spread, shown
from targets import NAMES, TARGET_BATCH, Target

from loss_attention.terminal import markdown_table

REACHED = {True: "yes", False: "**no**", None: "-"}
GIGA = 1e9
MIB = 2**20
CHECKPOINTED = "the same, activations checkpointed"
KINDS = {"ours": "ours", "checkpointed": CHECKPOINTED, "yardstick": "yardstick"}


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
    why = notes or f"Nobody has written that into `{figures['notes_file']}` yet."
    parts += ["## Targets", _targets(reach), "## Where a target is not reached, why", why.strip()]
    for head, network in figures["networks"].items():
        parts += [f"## {NAMES[head][0].upper()}{NAMES[head][1:]}", _network(network)]
        parts += [_parts(network["parts"]), _arithmetic(network["step"])]
        parts.append(f"Profile of our step: [{network['profile']}]({network['profile']}).")
    parts += ["## The machine's matrix products", _ceiling(figures["ceiling"])]
    parts += ["## Start", _startup(figures["startup"])]
    return "\n\n".join(parts) + "\n"


def _stand(figures: dict[str, Any]) -> str:
    machine, setting, turns = figures["hardware"], figures["setting"], figures["turns"]
    return (
        f"`{figures['command']}`, {figures['measured']}, {figures['minutes']:.1f} minutes, on "
        f"{machine['cpu']}, {machine['cores']} cores, {machine.get('memory_gib', '?')} GiB, "
        f"{machine['device']}; {_units(figures)}. Python {figures['versions']['python']}, torch "
        f"{figures['versions']['torch']}, threads: {machine['threads']}.\n\n"
        f"ResNet18 of width {setting['width']:g}, images of {setting['side']} x "
        f"{setting['side']}, batches of {setting['batch']}{_half(figures)}. Ours: the "
        f"training loop's own step, {_precision(machine['precision'])}. The yardstick (`benchmarks/"
        "reference_structure.py`): the same network from the same weights, as the first "
        f"published implementation has it, in float32{_tf32(figures)}.\n\n"
        f"Figures are medians, in brackets the lowest and the highest turn. What is compared "
        f"takes turns in one process ({turns['steps']} of a step, {turns['parts']} of its parts, "
        f"{turns['explanations']} of an explanation), or is measured in processes of its own, one "
        f"after the other ({turns['processes']} of each); ratios are taken turn by turn. Turns to "
        f"warm up come before and do not count: {turns['warm_up']}, and none in a process of its "
        "own, which is to be cold."
    )


def _half(figures: dict[str, Any]) -> str:
    """Say where the batch is not the one that the targets are for."""
    fewer = figures["setting"]["batch"] < TARGET_BATCH and not figures["quick"]
    reason = "as a step takes long without units for bf16"
    return f" (the targets are for {TARGET_BATCH}; {reason})" if fewer else ""


def _precision(precision: str) -> str:
    return "bf16 where autocast has it, float32 elsewhere" if precision == "bf16" else "float32"


def _tf32(figures: dict[str, Any]) -> str:
    on_gpu = figures["accelerator"] == "cuda"
    return ", convolutions in TF32 as is torch's default" if on_gpu else ""


def _units(figures: dict[str, Any]) -> str:
    if figures["accelerator"] == "cuda":
        return "CUDA"
    return f"bf16 by {', '.join(figures['bf16_units'])}" if figures["bf16_units"] else "no bf16"


def _targets(reach: list[Target]) -> str:
    rows = [(one.what, one.target, one.figure, REACHED[one.reached]) for one in reach]
    return markdown_table(["what", "target", "measured", "reached"], rows, "llll")


def _network(network: dict[str, Any]) -> str:
    step, evaluation, explained = network["step"], network["evaluation"], network["explanation"]
    count = evaluation["images"]
    times = [
        _times("training step", step, step["images"]),
        _times(CHECKPOINTED, step, step["images"], ours="checkpointed", ratio="checkpointed_"),
        _times(f"evaluation of {count} images", evaluation, count),
    ]
    alone = [_alone(label, network["isolated"][kind]) for kind, label in KINDS.items()]
    explanations = [
        _explained(what, explained[f"{name}seconds"], step["images"], explained.get(ratio))
        for what, name, ratio in (
            ("plain forward pass", "forward_", ""),
            ("`model.explain`", "", "ratio"),
            ("Grad-CAM", "grad_cam_", "grad_cam_ratio"),
        )
    ]
    own, memory = "in a process of its own", "peak memory of a step, MiB"
    batch, forward = "explanation of a batch, float32", "times the forward pass"
    tables = (
        (["what, ms and images a second", "ours", "yardstick", "times faster"], times),
        ([own, "start to first step, s", memory, "of the yardstick's memory"], alone),
        ([batch, "ms", "images a second", forward], explanations),
    )
    return "\n\n".join(markdown_table(headings, rows) for headings, rows in tables)


def _times(
    what: str, found: dict[str, Any], images: int, ours: str = "ours", ratio: str = ""
) -> list[str]:
    cells = []
    for kind in (ours, "yardstick"):
        seconds = found[f"{kind}_seconds"]
        cells.append(f"{shown(seconds, 1, 1000)}; {_rate(seconds, images)} images/s")
    return [what, *cells, shown(found[f"{ratio}ratio"])]


def _alone(label: str, found: dict[str, Spread]) -> list[str]:
    first, peak = shown(found["first_step_seconds"]), shown(found["peak_bytes"], 0, 1 / MIB)
    return [label, first, peak, shown(found["memory_share"], 1, 100, " %")]


def _explained(what: str, seconds: Spread | None, images: int, ratio: Spread | None) -> list[str]:
    if seconds is None:
        return [what, "-", "-", "-"]
    return [what, shown(seconds, 1, 1000), _rate(seconds, images), shown(ratio, 3)]


def _rate(seconds: Spread, images: int) -> str:
    return f"{images / seconds['median']:,.1f}"


def _parts(parts: dict[str, Any]) -> str:
    rows = [
        (name, shown(parts["seconds"][name], 2, 1000), shown(share, 2, 100, " %"))
        for name, share in parts["shares"].items()
    ]
    decode = parts["decode"]
    return markdown_table(["part of our step", "ms", "share"], rows) + (
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
        f"A step needs {operations['ours'] / GIGA:,.2f} giga-operations (the yardstick's "
        f"{operations['yardstick'] / GIGA:,.2f}), counted by torch's counter; ours does "
        f"{rate / GIGA:,.0f} giga-operations a second: {shares}."
    )


def _ceiling(ceiling: dict[str, Any]) -> str:
    rows = [
        (dtype, str(found["size"]), shown(found["rate"], 0, 1 / GIGA))
        for dtype, found in ceiling.items()
    ]
    table = markdown_table(["format", "size", "giga-operations a second"], rows)
    return f"{table}\n\nMeasured in turn with the training steps."


def _startup(startup: dict[str, Spread]) -> str:
    named = [
        ("loss-attention --help", "help_seconds"),
        ("import loss_attention", "import_seconds"),
        ("import loss_attention and its models", "import_with_models_seconds"),
        ("import torch", "import_torch_seconds"),
        ("import torch, then loss_attention", "import_after_torch_seconds"),
        ("Python doing nothing", "python_seconds"),
    ]
    rows = [(label, shown(startup[name])) for label, name in named]
    return markdown_table(["what", "seconds"], rows)
