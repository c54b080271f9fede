"""Which images a report shows, and what it says of each."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import loss_attention as la
from loss_attention.data.sample import ImageSet
from loss_attention.geometry import PatchGrid
from loss_attention.prediction import PatchPrediction
from loss_attention.report import gallery
from loss_attention.report.gallery import (
    BARS,
    Card,
    choose_mistakes,
    choose_right_answers,
    data_uri,
    make_cards,
    mistake_confidence,
    wrongness,
)

NAMES = ("ant", "bee", "cow")


def make_model(head: str = "loss-attention", classes: int = 3, **options) -> la.PatchClassifier:
    torch.manual_seed(1)
    model = la.create_model(
        "vgg11_bn",
        head=head,
        num_classes=classes,
        width=0.05,
        patch_kernel=5,
        threshold=0.9,
        **options,
    )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.01, 0.1)
    return model.eval()


def make_set(labels: Tensor, names: tuple[str, ...] = NAMES, size: int = 24) -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (len(labels), 3, size, size), np.uint8)
    return ImageSet(torch.from_numpy(pixels), labels, names)


def decoded(uri: str) -> Image.Image:
    start, _, rest = uri.partition(",")
    assert start == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(rest)))


def test_mistakes_come_the_most_confident_first():
    correct = torch.tensor([True, False, False, True, False])
    confidence = torch.tensor([0.99, 0.4, 0.9, 0.8, 0.6])
    assert choose_mistakes(correct, confidence) == [2, 4, 1]
    assert choose_mistakes(correct, confidence, most=2) == [2, 4]
    assert choose_mistakes(torch.ones(3, dtype=torch.bool), torch.rand(3)) == []


def test_mistakes_of_one_confidence_keep_the_order_of_the_set():
    assert choose_mistakes(torch.zeros(4, dtype=torch.bool), torch.full((4,), 0.7)) == [0, 1, 2, 3]


def test_right_answers_are_spread_over_the_classes():
    predictions = torch.tensor([0, 0, 0, 0, 1, 0, 2, 2])
    correct = torch.tensor([True] * 7 + [False])
    assert choose_right_answers(correct, predictions, most=3) == [0, 4, 6]
    assert choose_right_answers(correct, predictions, most=4) == [0, 1, 4, 6]
    assert choose_right_answers(correct, predictions, most=99) == [0, 1, 2, 3, 4, 5, 6]
    assert choose_right_answers(torch.zeros(8, dtype=torch.bool), predictions) == []


def test_wrongness_is_the_distance_of_the_most_wrong_class():
    # Probabilities 0.73, 0.27, 0.5 and 0.95, 0.5, 0.05.
    logits = torch.tensor([[1.0, -1.0, 0.0], [3.0, 0.0, -3.0]])
    values, classes = wrongness(logits, torch.tensor([[1, 1, 0], [0, 0, 0]]))
    assert classes.tolist() == [1, 0]
    np.testing.assert_allclose(values, [1 - 1 / (1 + np.e), 1 / (1 + np.exp(-3))], rtol=1e-5)


def test_confidence_of_multi_label_mistakes_is_that_of_the_wrong_class():
    model, data = make_model(), make_set(torch.randint(0, 2, (6, 3), dtype=torch.uint8))
    correct = torch.tensor([False, True, False, False, True, False])
    found = mistake_confidence(model, data, correct, torch.rand(6))
    with torch.inference_mode():
        probabilities = model(data.images).logits.sigmoid().numpy()
    expected = np.abs(probabilities - data.labels.numpy()).max(axis=1)
    np.testing.assert_allclose(found[~correct], expected[~correct.numpy()], atol=1e-5)


def test_confidence_of_single_label_mistakes_is_the_probability():
    probabilities = torch.rand(4)
    data = make_set(torch.zeros(4, dtype=torch.int64))
    found = mistake_confidence(make_model(), data, torch.zeros(4, dtype=torch.bool), probabilities)
    assert torch.equal(found, probabilities)


def test_cards_say_what_the_model_says():
    model, data = make_model(), make_set(torch.tensor([0, 1, 2, 0]))
    explanation = model.explain(data.images)
    chosen = [3, 1]
    cards = make_cards(model, data, chosen)
    assert [card.name for card in cards] == ["test image 3", "test image 1"]
    for card, i in zip(cards, chosen, strict=True):
        predicted = int(explanation.target[i])
        assert card.answer == card.target == NAMES[predicted]
        assert card.labels == NAMES[data.labels[i]]
        assert card.correct == (predicted == data.labels[i])
        assert card.probability == pytest.approx(
            float(explanation.probabilities[i, predicted]), abs=1e-5
        )
        plain, evidence, *why = card.pictures
        assert len(why) == (not card.correct)
        assert decoded(plain.uri).size == decoded(evidence.uri).size == (240, 240)
        assert plain.limit == ""
        assert float(evidence.limit) == pytest.approx(
            float(explanation.heat_maps[i].abs().max()), rel=0.01
        )
        selected = int(explanation.selected[i].sum())
        assert evidence.facts == f"{selected} of 25 patches"


def test_why_it_is_not_the_label_adds_up_to_the_difference_of_the_logits():
    model, data = make_model(), make_set(torch.tensor([0, 1, 2, 0]))
    logits = model.explain(data.images).logits
    predicted = logits.argmax(dim=1)
    wrong = replace(data, labels=(predicted + 1) % 3)
    for i, card in enumerate(make_cards(model, wrong, [0, 1, 2, 3])):
        target, label = int(predicted[i]), int(wrong.labels[i])
        why = card.pictures[2]
        apart = float(logits[i, target] - logits[i, label])
        assert why.caption == f"why {NAMES[target]}, not {NAMES[label]}"
        assert float(why.facts.rpartition(" ")[2]) == pytest.approx(apart, rel=0.01, abs=1e-6)
        found = model.explain(data.images[i : i + 1], target=target, versus=label).heat_maps
        assert float(why.limit) == pytest.approx(float(found.abs().max()), rel=0.01)
    # Neither where classes do not compete, nor without patches.
    one_vs_rest = make_cards(make_model(one_vs_rest=True), wrong, [0, 1, 2, 3])
    baseline = make_cards(make_model(head="baseline"), wrong, [0, 1, 2, 3])
    assert {len(card.pictures) for card in one_vs_rest} == {2}
    assert {len(card.pictures) for card in baseline} == {1}


def test_a_grid_too_fine_is_not_read_off_patch_by_patch(monkeypatch):
    model, data = make_model(), make_set(torch.tensor([0]))
    assert make_cards(model, data, [0])[0].patches is not None
    monkeypatch.setattr(gallery, "MOST_PATCHES", 24)  # of 5 x 5
    assert make_cards(model, data, [0])[0].patches is None


def test_cards_show_the_margin_unless_asked_for_another_map():
    model, data = make_model(), make_set(torch.tensor([0, 1, 2, 0]))
    with torch.no_grad():
        model.head.classifier.bias[:] = torch.tensor([0.0, 50.0, 0.0])
    for asked, shows, signed in (
        (None, "margin", False),
        ("contrast", "contrast", True),
        ("evidence", "evidence", True),
    ):
        picture = make_cards(model, data, [0], map=asked)[0].pictures[1]
        assert f", {shows} for " in picture.alt
        assert picture.signed is signed
        values = model.explain(data.images[:1], map=asked).heat_maps.abs().max()
        assert float(picture.limit) == pytest.approx(float(values), rel=0.01)
        assert "no patch" not in picture.facts
    several = make_cards(make_model(multi_label=True), make_set(torch.eye(4, 3).byte()), [0])
    assert ", evidence for " in several[0].pictures[1].alt


def test_a_card_whose_margin_is_empty_says_so_and_shows_contrast(monkeypatch):
    disputed = torch.zeros(1, 4, 3)
    disputed[0, :, 0] = 5.0
    disputed[0, :2, 1], disputed[0, :2, 2] = 10.0, -30.0
    disputed[0, 2:, 1], disputed[0, 2:, 2] = -30.0, 10.0
    grid = PatchGrid(2, 2, window=12, stride=12, height=24, width=24)
    one = PatchPrediction(disputed.mean(dim=1), disputed, torch.full((1, 4), 0.25), grid, 0.0)
    monkeypatch.setattr(gallery, "_predict", lambda *_: one)
    (card,) = make_cards(make_model(), make_set(torch.tensor([0])), [0])
    assert card.target == NAMES[0]
    picture = card.pictures[1]
    assert picture.facts == "4 of 4 patches; no patch puts this class first: contrast"
    assert ", contrast for " in picture.alt
    assert picture.signed
    assert picture.limit == "2.5"  # (5 + 15 / 3) / 4


def test_bars_are_the_logits_the_highest_first_and_the_label_always():
    data = make_set(torch.tensor([7] * 20), names=tuple("abcdefghijkl"))
    model = make_model(classes=12)
    logits = model.explain(data.images).logits
    outside = 0
    for card, row in zip(make_cards(model, data, range(20)), logits, strict=True):
        order = row.argsort(descending=True)[:BARS].tolist()
        outside += 7 not in order
        names = [data.class_names[k] for k in order + [7] * (7 not in order)]
        assert [bar.name for bar in card.bars] == names
        assert [bar.name for bar in card.bars if bar.is_label] == ["h"]
        evidence = np.array([bar.logit for bar in card.bars])
        np.testing.assert_allclose(evidence[:BARS], row[order], atol=1e-4)
        percent = np.array([bar.percent for bar in card.bars])
        np.testing.assert_allclose(percent, 100 * evidence / np.abs(evidence).max())
    assert outside  # or the last line of `names` was never put to use


def test_true_boxes_of_the_labels_count_and_no_others():
    grid_box, other = [0.0, 0.0, 24.0, 24.0], [20.0, 20.0, 24.0, 24.0]
    boxes = torch.tensor([[other, grid_box, [float("nan")] * 4]])
    data = make_set(torch.tensor([1]))
    boxed = ImageSet(data.images, data.labels, NAMES, boxes, torch.tensor([[0, 1, -1]]))
    model = make_model(head="mean")  # all patches: the box covers 21 x 21 of 24 x 24 pixels
    assert make_cards(model, boxed, [0])[0].pictures[1].facts == (
        f"25 of 25 patches, IoU of the boxes {21 * 21 / (24 * 24):.2f}"
    )
    unrelated = ImageSet(data.images, data.labels, NAMES, boxes, torch.tensor([[0, 2, -1]]))
    assert make_cards(model, unrelated, [0])[0].pictures[1].facts == "25 of 25 patches"


def test_the_square_of_r90_is_outlined_around_the_heaviest_patch():
    data = make_set(torch.tensor([0, 1, 2]))
    model = make_model()
    explanation = model.explain(data.images)
    heaviest = explanation.patch_weights.argmax(dim=1).tolist()
    plain, drawn = (
        make_cards(model, data, [0, 1, 2], seen=x) for x in (None, {model.spec.head: 9})
    )
    for i, (before, after) in enumerate(zip(plain, drawn, strict=True)):
        # A window of 5 every 4 pixels, and a square of 9 around the same middle.
        y, x = (4 * cell - 2 for cell in divmod(heaviest[i], 5))
        square = [max(0, x), max(0, y), min(24, x + 9), min(24, y + 9)]
        assert gallery._seen(explanation, i, 9).tolist() == [square]
        changed = np.abs(
            np.asarray(decoded(after.pictures[1].uri)).astype(int)
            - np.asarray(decoded(before.pictures[1].uri))
        ).max(axis=2)
        rows, columns = np.nonzero(changed > 40)
        edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 10
        np.testing.assert_allclose(edges, square, atol=0.5)  # in pixels of the model's input
    mean = make_model(head="mean").explain(data.images)
    assert gallery._seen(mean, 0, 9).shape == (0, 4)  # no patch is heavier than the others
    assert gallery._seen(explanation, 0, None).shape == (0, 4)


def test_a_counterpart_is_asked_about_the_same_class():
    model, counterpart = make_model(), make_model(head="mean")
    data = make_set(torch.tensor([0, 1, 2, 0, 1, 2]))
    with torch.no_grad():  # a counterpart that always says something else
        counterpart.head.classifier.bias += torch.tensor([0.0, 0.0, 1e5])
    assert (counterpart.explain(data.images).target == 2).all()
    cards = make_cards(model, data, range(6), {"counterpart": counterpart})
    targets = model.explain(data.images).target
    limits = counterpart.explain(data.images, targets).heat_maps.abs().amax(dim=(1, 2))
    assert (targets != 2).any()
    for card, target, limit in zip(cards, targets, limits, strict=True):
        assert [picture.caption for picture in card.pictures[:3]] == [
            "image",
            "loss-attention",
            "counterpart",
        ]
        assert NAMES[target] in card.pictures[2].alt
        assert float(card.pictures[2].limit) == pytest.approx(float(limit), rel=0.01)


def test_a_baseline_has_pictures_and_probabilities_alone():
    cards = make_cards(make_model(head="baseline"), make_set(torch.tensor([0, 1])), [0, 1])
    for card in cards:
        assert len(card.pictures) == 1
        assert 0 < card.probability < 1
        assert len(card.bars) == 3


def test_multi_label_answers_name_every_class_and_explain_the_most_wrong():
    model = make_model(multi_label=True)
    data = make_set(torch.randint(0, 2, (12, 3), dtype=torch.uint8))
    logits = model.explain(data.images).logits
    cards = make_cards(model, data, range(12))
    assert {card.correct for card in cards} == {True, False}
    for card, row, has in zip(cards, logits, data.labels, strict=True):
        assert card.answer == (
            ", ".join(n for n, v in zip(NAMES, row, strict=True) if v > 0) or "none"
        )
        assert card.labels == (", ".join(n for n, v in zip(NAMES, has, strict=True) if v) or "none")
        assert card.correct == (card.answer == card.labels)
        distance = (row.sigmoid() - has).abs()
        k = int(row.argmax() if card.correct else distance.argmax())
        assert card.target == NAMES[k]
        assert card.probability == pytest.approx(float(row[k].sigmoid()), abs=1e-5)


def test_models_in_training_are_explained_as_they_answer():
    model, data = make_model(), make_set(torch.tensor([0, 1, 2]))
    expected = make_cards(model, data, [0, 1, 2])
    model.train()
    assert make_cards(model, data, [0, 1, 2]) == expected
    assert model.training


@pytest.mark.parametrize("size", [(1, 1), (300, 200), (512, 512)])
def test_pictures_keep_to_their_room(size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for room in (100_000, 20_000, 1000):
        length = len(base64.b64decode(data_uri(Image.fromarray(noise), room).split(",")[1]))
        assert length <= room


def test_a_picture_with_room_enough_is_as_it_was():
    image = Image.new("RGB", (60, 40), (200, 30, 60))
    found = decoded(data_uri(image, 100_000))
    assert found.size == (60, 40)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(image)).max() <= 4


def test_all_pictures_together_keep_to_their_room():
    data = make_set(torch.tensor([0, 1, 2]), size=96)
    cards: list[Card] = make_cards(make_model(), data, [0, 1, 2], most_bytes=60_000)
    total = sum(len(picture.uri) for card in cards for picture in card.pictures)
    assert total * 3 / 4 <= 60_000 + 100 * 6


def test_no_images_no_cards():
    assert make_cards(make_model(), make_set(torch.tensor([0])), []) == []
