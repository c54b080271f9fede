"""The plot of a sweep: time and memory of a training step over what grows."""

from __future__ import annotations

import io
from typing import Any

QUANTITIES = (
    ("seconds", "time of a training step, ms", 1000.0),
    ("peak_bytes", "peak memory of a process, MiB", 1 / 2**20),
)
LABELS = {"trained": "as it is trained"}


def plot(sweep: dict[str, Any]) -> bytes:
    """Return a PNG with a panel for time and one for memory, a line for each way of training."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (quantity, label, factor) in zip(figure.subplots(1, 2), QUANTITIES, strict=True):
        for name, line in sweep["lines"].items():
            sizes = [point["size"] for point in line]
            axes.plot(
                sizes, [factor * point[quantity] for point in line], marker="o", label=LABELS[name]
            )
        axes.set_xlabel(sweep["axis"])
        axes.set_ylabel(label)
        if sweep["logarithmic"]:
            axes.set_xscale("log")
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        longest = max(sweep["lines"].values(), key=len)
        axes.set_xticks([point["size"] for point in longest])
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(visible=True, alpha=0.3)
        if len(sweep["lines"]) > 1:
            axes.legend(frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, metadata={"Software": None})
    return drawn.getvalue()
