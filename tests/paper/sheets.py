"""What tests of drawn sheets share."""

from __future__ import annotations

from matplotlib.figure import Figure

CAPTION = "Figure 0. What it shows."


def legend_of(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]
