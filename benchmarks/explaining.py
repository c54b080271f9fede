"""What an explanation costs beside a plain forward pass, each measured in turn in one process.

python benchmarks/run.py explaining
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from loss_attention.model import PatchClassifier

REPEATS = 15
BATCH = 32
EXPLAIN = "explain"
"""`model.explain`; all other names are methods of `attribute`."""
COSTLY, COSTLY_REPEATS = ("integrated-gradients", "occlusion"), 1
"""They need no fine measure, and take tens of forward passes."""
WIDTH = 0.25
"""Of all models; bench.py has the full width, where these methods would take an hour on a CPU."""
# Backbone, head, side of the image in pixels, strided layers.
MODELS = (
    ("resnet18", "loss-attention", 32, ()),
    ("resnet18", "loss-attention", 64, (6,)),
    ("vgg11_bn", "loss-attention", 32, ()),
    ("vgg11_bn", "capsule-loss-attention", 32, ()),
    ("resnet18", "baseline", 32, ()),
)


def explaining() -> dict[str, Any]:
    """Medians of the time of `model.explain` and of every method, over that of a forward pass."""
    rows = [_measured(*settings) for settings in MODELS]
    return {
        "command": "python benchmarks/run.py explaining",
        "about": (
            f"Time over that of a plain forward pass, batches of {BATCH}, float32; medians of "
            f"{REPEATS} runs that take turns, {COSTLY_REPEATS} of {' and '.join(COSTLY)}. explain: "
            "`model.explain`, the prediction included; the methods: `attribute` for a given class, "
            "likewise with a forward pass in it."
        ),
        "models": rows,
    }


def beside_forward(
    model: PatchClassifier,
    images: Tensor,
    names: Sequence[str],
    repeats: int,
    warm_up: int = 1,
) -> dict[str, tuple[list[float], list[float]] | None]:
    """Time explanations of a batch, each in turn with a plain forward pass.

    Args:
        model: in evaluation mode, on the device of the images.
        images: a batch.
        names: `explain`, and methods.
        repeats: turns that count.
        warm_up: turns before them that do not.

    Returns:
        By name, the seconds of the forward pass and those of the explanation at each turn; None
        for a method that this model does not allow.
    """
    import torch

    from loss_attention.attribution.maps import attribute
    from loss_attention.attribution.measures import take_turns
    from loss_attention.errors import InputError

    target = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def plain() -> None:
        with torch.inference_mode():
            model(images)

    def job_of(name: str) -> Callable[[], object]:
        if name == EXPLAIN:
            return lambda: model.explain(images)
        return lambda: attribute(model, images, name, target)

    seconds: dict[str, tuple[list[float], list[float]] | None] = {}
    for name in names:
        turns = COSTLY_REPEATS if name in COSTLY else repeats
        try:
            forward, taken = take_turns([plain, job_of(name)], turns, images.device, warm_up)
        except InputError:
            seconds[name] = None
        else:
            seconds[name] = (forward, taken)
    return seconds


def _measured(backbone: str, head: str, side: int, strided: tuple[int, ...]) -> dict[str, Any]:
    import torch

    import loss_attention as la
    from loss_attention.attribution.maps import METHODS

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = la.create_model(backbone, head=head, width=WIDTH, strided_layers=strided)
    model = model.to(device).eval()
    images = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8, device=device)
    measured = beside_forward(model, images, (EXPLAIN, *METHODS), REPEATS)
    medians = {
        name: None if found is None else tuple(statistics.median(taken) for taken in found)
        for name, found in measured.items()
    }
    known = [pair for pair in medians.values() if pair is not None]
    row = {
        "model": f"{backbone}, {head}, width {WIDTH:g}, {side} x {side}",
        "forward_seconds": statistics.median(pair[0] for pair in known) / BATCH,
        "ratios": {
            name: None if pair is None else pair[1] / pair[0] for name, pair in medians.items()
        },
    }
    print(row, flush=True)
    return row
