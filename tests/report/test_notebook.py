"""Explanations in a notebook: pictures of what was explained, and no markup of anybody's."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import torch
from PIL import Image
from report.pages import make_model

from loss_attention.explanation import explain_prediction
from loss_attention.report.drawing import overlay
from loss_attention.report.marks import marks_of
from loss_attention.report.notebook import MOST, picture_of

NAMES = ("ant", "bee", '"><b>cow')


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def test_the_first_images_of_a_batch_are_drawn() -> None:
    model = make_model("loss-attention", NAMES)
    images = torch.randint(0, 256, (MOST + 2, 3, 16, 16), dtype=torch.uint8)
    explanation = model.explain(images, target=2)
    page = explanation._repr_html_()
    drawn = pictures(page)
    assert len(drawn) == MOST
    assert "and 2 more" in page
    assert "<b>" not in page
    predicted = int(explanation.logits[1].argmax())
    wanted = overlay(
        Image.fromarray(images[1].movedim(0, 2).numpy()),
        marks_of(explanation, 1),
        prediction=NAMES[predicted],
        probability=float(explanation.probabilities[1, predicted]),
        target=NAMES[2],
    )
    assert np.array_equal(np.asarray(drawn[1]), np.asarray(wanted))


def test_images_are_drawn_as_they_were_given() -> None:
    model = make_model("loss-attention", NAMES)
    whole = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    as_float = picture_of(model.explain(whole.float() / 255), 0)
    assert np.array_equal(np.asarray(as_float), np.asarray(picture_of(model.explain(whole), 0)))


def test_a_prediction_alone_has_words() -> None:
    model = make_model("loss-attention", NAMES)
    with torch.inference_mode():
        explanation = explain_prediction(model(torch.rand(2, 3, 16, 16)))
    assert explanation._repr_html_() == (
        "<p>explanation of 2 images by margin; it was made of a prediction, without the images</p>"
    )
