"""Explanations and runs as a notebook shows them."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import torch
from PIL import Image

from loss_attention.errors import printable
from loss_attention.evaluation.metric import Evaluation
from loss_attention.explanation import Explanation
from loss_attention.report.drawing import overlay
from loss_attention.report.marks import as_picture, marks_of
from loss_attention.report.summary import key_table, sentences

MOST = 4
"""So many images of a batch are drawn."""
WIDTH = 320
"""Of a picture in a notebook, in pixels."""


def explanation_html(explanation: Explanation) -> str:
    """Return the first pictures of an explanation side by side; words where it has no images."""
    count = len(explanation.target)
    if explanation.images is None:
        what = f"explanation of {count} images by {explanation.shown.name}"
        return f"<p>{what}; it was made of a prediction, without the images</p>"
    drawn = "".join(_picture(explanation, i) for i in range(min(MOST, count)))
    more = f"<p>and {count - MOST} more</p>" if count > MOST else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{drawn}</div>{more}'


def picture_of(explanation: Explanation, index: int) -> Image.Image:
    """Return the picture of one image: heat map, patches and box, with a legend.

    Args:
        explanation: as `model.explain` returns it, with its images.
        index: which image.
    """
    assert explanation.images is not None
    pixels = explanation.images[index].cpu()
    if pixels.dtype != torch.uint8:
        pixels = (pixels.float() * 255).round().clamp(0, 255).byte()
    names = explanation.class_names
    classes = names or tuple(map(str, range(explanation.logits.shape[1])))
    predicted = int(explanation.logits[index].argmax())
    target = classes[int(explanation.target[index])]
    if explanation.versus is not None:
        target += f" against {classes[int(explanation.versus[index])]}"
    return overlay(
        as_picture(pixels),
        marks_of(explanation, index),
        prediction=classes[predicted],
        probability=float(explanation.probabilities[index, predicted]),
        target=target,
    )


def _picture(explanation: Explanation, index: int) -> str:
    file = io.BytesIO()
    picture_of(explanation, index).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    names = explanation.class_names
    target = int(explanation.target[index])
    said = f"{explanation.shown_of(index).name} for {names[target] if names else target}"
    return f'<img width="{WIDTH}" alt="{_text(said)}" src="data:image/png;base64,{data}">'


def run_html(evaluation: Evaluation, report: Path) -> str:
    """Return the scores of a run that say most, what they mean, and where its report is."""
    table = key_table({"score": evaluation})
    heads = "".join(f"<th>{_text(column.heading)}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    said = "".join(f"<p>{_text(sentence)}</p>" for sentence in sentences(evaluation))
    return (
        f"<table><tr>{heads}</tr>{rows}</table>{said}"
        f"<p>report: <code>{_text(str(report))}</code></p>"
    )


def _text(value: str) -> str:
    return escape(printable(value), quote=True)
