"""What an explanation costs beside a plain forward pass, each measured in turn in one process.

python benchmarks/run.py explaining
"""

from __future__ import annotations

from typing import Any

REPEATS = 15
BATCH = 32
# Backbone, head, width, side of the image in pixels, strided layers.
MODELS = (
    ("resnet18", "loss-attention", 1.0, 32, ()),
    ("resnet18", "loss-attention", 0.25, 32, ()),
    ("resnet18", "loss-attention", 1.0, 64, (6,)),
    ("vgg11_bn", "loss-attention", 1.0, 32, ()),
    ("vgg11_bn", "capsule-loss-attention", 1.0, 32, ()),
    ("resnet18", "baseline", 1.0, 32, ()),
)


def explaining() -> dict[str, Any]:
    """Medians of the time of `model.explain` and of every method, over that of a forward pass."""
    rows = [_measured(*settings) for settings in MODELS]
    return {
        "command": "python benchmarks/run.py explaining",
        "about": (
            f"Time over that of a plain forward pass, batches of {BATCH}, float32; medians of "
            f"{REPEATS} runs that take turns. explain: `model.explain`, the prediction included; "
            "the methods: `attribute` for a given class, likewise with a forward pass in it."
        ),
        "models": rows,
    }


def _measured(
    backbone: str, head: str, width: float, side: int, strided: tuple[int, ...]
) -> dict[str, Any]:
    import torch

    import loss_attention as la
    from loss_attention.errors import InputError
    from loss_attention.explain.attributions import METHODS, attribute
    from loss_attention.explain.compare_measures import take_turns

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = la.create_model(backbone, head=head, width=width, strided_layers=strided)
    model = model.to(device).eval()
    images = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8, device=device)
    target = torch.zeros(BATCH, dtype=torch.int64, device=device)

    def plain() -> None:
        with torch.inference_mode():
            model(images)

    jobs = {"explain": lambda: model.explain(images)}
    for name in METHODS:
        jobs[name] = lambda name=name: attribute(model, images, name, target)
    ratios: dict[str, float | None] = {}
    forward = []
    for name, job in jobs.items():
        try:
            job()
        except InputError:  # a method that this model does not allow
            ratios[name] = None
            continue
        # The costly ones need no fine measure, and would take an hour on a CPU.
        repeats = 3 if name in ("integrated-gradients", "occlusion") else REPEATS
        seconds = take_turns([plain, job], repeats, device)
        forward.append(seconds[0])
        ratios[name] = seconds[1] / seconds[0]
    row = {
        "model": f"{backbone}, {head}, width {width:g}, {side} x {side}",
        "forward_seconds": sorted(forward)[len(forward) // 2] / BATCH,
        "ratios": ratios,
    }
    print(row, flush=True)
    return row
