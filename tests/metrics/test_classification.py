from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    recall_score,
    top_k_accuracy_score,
)

from loss_attention.metrics.classification import (
    among_best,
    average_precisions,
    class_accuracies,
    commonest_answer,
    confusion_matrix,
    correct_images,
    eleven_point_precisions,
    expected_calibration_error,
)


def test_accuracy_is_scikit_learns() -> None:
    logits, labels = torch.randn(200, 7), torch.randint(7, (200,))
    logits[torch.arange(100), labels[:100]] += 2
    share = correct_images(logits, labels).double().mean().item()
    assert share == pytest.approx(accuracy_score(labels, logits.argmax(1)), abs=1e-12)
    assert 0.4 < share < 0.9


def test_exact_match_is_scikit_learns_subset_accuracy() -> None:
    labels = torch.randint(2, (300, 3), dtype=torch.uint8)
    logits = torch.randn(300, 3) + 2 * labels - 1
    share = correct_images(logits, labels).double().mean().item()
    predicted = (logits.double().sigmoid() > 0.5).numpy()
    assert share == pytest.approx(accuracy_score(labels.numpy(), predicted), abs=1e-12)
    assert 0.3 < share < 0.9


def test_the_confusion_matrix_is_scikit_learns() -> None:
    labels, predictions = torch.randint(6, (90,)), torch.randint(5, (90,))
    labels[labels == 2] = 3
    found = torch.zeros(6, 6, dtype=torch.int64)
    cells = confusion_matrix(predictions, labels)
    found[cells[:, 0], cells[:, 1]] = cells[:, 2]
    expected = sklearn.metrics.confusion_matrix(labels, predictions, labels=range(6))
    assert found.tolist() == expected.tolist()
    assert (cells[:, 2] > 0).all()


def test_a_sigmoid_of_one_half_is_a_no() -> None:
    labels = torch.tensor([[0, 1]], dtype=torch.uint8)
    assert correct_images(torch.tensor([[0.0, 1.0]]), labels).tolist() == [True]
    assert correct_images(torch.tensor([[1.0, 0.0]]), 1 - labels).tolist() == [True]
    assert correct_images(torch.tensor([[-1.0, 0.0]]), labels).tolist() == [False]


def test_commonest_answer_is_the_training_sets() -> None:
    test = torch.tensor([0, 0, 0, 2])
    assert commonest_answer(torch.tensor([2, 0, 2, 1]), test).tolist() == [False] * 3 + [True]
    tie = torch.tensor([3, 1, 3, 1])
    assert commonest_answer(tie, torch.tensor([1, 3])).tolist() == [True, False]


def test_commonest_answer_of_multi_label_sets_is_a_set_of_labels() -> None:
    # Class by class, the majority would be (1, 0); as a set, (0, 0) is the commonest.
    train = torch.tensor([[0, 0]] * 3 + [[1, 0]] * 2 + [[1, 1]] * 2, dtype=torch.uint8)
    test = torch.tensor([[1, 0], [0, 0], [0, 1], [0, 0]], dtype=torch.uint8)
    assert commonest_answer(train, test).tolist() == [False, True, False, True]


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("tied", [False, True])
def test_average_precision_is_scikit_learns(classes: int, tied: bool) -> None:
    labels = torch.randint(2, (80, classes), dtype=torch.uint8)
    scores = torch.randn(80, classes) + labels
    if tied:
        scores = scores.round()
    expected = average_precision_score(labels.numpy(), scores.numpy(), average=None)
    found = average_precisions(scores, labels)
    np.testing.assert_allclose(found.numpy(), np.atleast_1d(expected), atol=1e-6)


def test_large_scores_do_not_tie() -> None:
    scores = torch.tensor([[80.0], [81.0], [82.0], [83.0]])
    labels = torch.tensor([[0], [0], [0], [1]])
    assert average_precisions(scores, labels).tolist() == [1.0]


def test_a_class_without_positives_has_no_average_precision() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])
    found = average_precisions(torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), labels)
    assert found[0].item() == 1.0
    assert found[1].isnan().item()
    assert found[2].item() == 1.0


def test_constant_scores_reach_the_share_of_positives() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 1, 0], [0, 1, 1]])
    found = average_precisions(torch.zeros(4, 3), labels)
    assert found.tolist() == pytest.approx([0.25, 0.75, 0.75], abs=1e-6)


def test_top_5_is_scikit_learns() -> None:
    logits, labels = torch.randn(200, 9), torch.randint(9, (200,))
    share = among_best(logits, labels).double().mean().item()
    expected = top_k_accuracy_score(labels, logits, k=5, labels=range(9))
    assert share == pytest.approx(expected, abs=1e-12)
    assert 0.4 < share < 0.7


def test_the_floor_of_top_5_names_the_commonest_classes() -> None:
    counts = torch.tensor([[3.0, 9.0, 9.0, 1.0]])
    labels = torch.tensor([0, 1, 2, 3])
    assert among_best(counts, labels, count=2).tolist() == [False, True, True, False]
    assert among_best(counts, labels, count=1).tolist() == [False, True, False, False]


def test_accuracy_of_each_class_is_scikit_learns_recall() -> None:
    labels, predictions = torch.randint(4, (90,)), torch.randint(4, (90,))
    found = class_accuracies(predictions == labels, labels, classes=5)
    expected = recall_score(labels, predictions, labels=range(4), average=None)
    assert found[:4].tolist() == pytest.approx(expected.tolist())
    assert found[4].isnan()


def test_calibration_error_is_that_of_a_loop_over_bins() -> None:
    confidence = torch.rand(500) ** 0.5
    right = torch.rand(500) < confidence - 0.2
    expected = 0.0
    for low in range(15):
        inside = (confidence.double() > low / 15) & (confidence.double() <= (low + 1) / 15)
        if inside.any():
            gap = confidence[inside].double().mean() - right[inside].double().mean()
            expected += float(abs(gap) * inside.double().mean())
    assert expected_calibration_error(confidence, right) == pytest.approx(expected, abs=1e-6)
    assert 0.1 < expected < 0.3


def reference_eleven_points(scores: np.ndarray, labels: np.ndarray) -> float:
    """Write VOC 2007's definition out, threshold by threshold."""
    found = []
    for threshold in np.unique(scores):
        taken = scores >= threshold
        hits = (labels[taken] == 1).sum()
        found.append((hits / labels.sum(), hits / taken.sum()))
    highest = [
        max(precision for recall, precision in found if recall >= level / 10) for level in range(11)
    ]
    return float(np.mean(highest))


@pytest.mark.parametrize("tied", [False, True])
def test_eleven_points_are_those_of_a_loop_over_thresholds(tied: bool) -> None:
    labels = torch.randint(2, (70, 4), dtype=torch.uint8)
    scores = torch.randn(70, 4) + labels
    if tied:
        scores = scores.round()
    expected = [
        reference_eleven_points(scores[:, k].numpy(), labels[:, k].numpy()) for k in range(4)
    ]
    assert eleven_point_precisions(scores, labels).tolist() == pytest.approx(expected, abs=1e-12)


def test_eleven_points_by_hand() -> None:
    # Right at ranks 1, 3 and 6: precision 1 to recall 1/3, 2/3 to recall 2/3, 1/2 to the end.
    labels = torch.tensor([[1, 0], [0, 0], [1, 0], [0, 0], [0, 0], [1, 0]])
    scores = torch.arange(6, 0, -1).float().unsqueeze(1).expand(6, 2)
    found = eleven_point_precisions(scores, labels)
    assert found[0].item() == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11)
    assert found[1].isnan()
    constant = eleven_point_precisions(torch.zeros(6, 1), labels[:, :1])
    assert constant.item() == pytest.approx(3 / 6)


def test_torchmetrics_is_imported_only_when_needed() -> None:
    code = (
        "import sys, loss_attention.evaluation, loss_attention.report.tables; "
        "heavy = ('torchmetrics', 'sklearn', 'scipy', 'torchvision'); "
        "print([module for module in heavy if module in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
