"""How often images are classified rightly. Labels are indices `(B,)` or, multi-label, 0/1 `(B, K)`.

Whether labels have one axis or two says which task it is, here as in `ImageSet`. All metrics are
in [0, 1]; higher is better but for the calibration error.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def correct_images(
    logits: Float[Tensor, "B K"], labels: Shaped[Tensor, B * K]
) -> Bool[Tensor, " B"]:
    """Return which images are classified rightly.

    Single-label: the largest logit is the label's; the mean is the accuracy. Multi-label: every
    class is right at once, predicted where its sigmoid is above 0.5; the mean is the exact-match
    fraction (subset accuracy). Both means are in [0, 1], higher is better; the trivial baseline is
    `commonest_answer`.

    Example:
        >>> import torch
        >>> correct_images(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        tensor([ True, False])
    """
    if labels.ndim == 1:
        return logits.argmax(dim=1) == labels
    return ((logits > 0) == labels.bool()).all(dim=1)


def commonest_answer(
    train_labels: Shaped[Tensor, N * K], labels: Shaped[Tensor, B * K]
) -> Bool[Tensor, " B"]:
    """Return which images a constant answer gets right: the commonest one of the training set.

    Single-label: the majority class. Multi-label: the set of classes that most images have. Its
    mean is the trivial baseline of accuracy and exact match. Ties go to the lowest class.

    Example:
        >>> import torch
        >>> commonest_answer(torch.tensor([2, 1, 2]), torch.tensor([1, 2, 2, 0]))
        tensor([False,  True,  True, False])
    """
    answers, counts = torch.unique(train_labels, dim=0, return_counts=True)
    # Not argmax: which of several maxima it returns is left open.
    commonest = answers[int((counts == counts.max()).nonzero()[0])].to(labels.device)
    right: Tensor = labels == commonest
    return right if labels.ndim == 1 else right.all(dim=1)


def among_best(
    scores: Float[Tensor, "#B K"], labels: Int[Tensor, " B"], count: int = 5
) -> Bool[Tensor, " B"]:
    """Return whether the label is among the classes with the highest scores; the top-5 accuracy.

    The mean over images is in [0, 1], higher is better (Russakovsky et al., ImageNet, IJCV 2015).
    The trivial baseline names the commonest classes of the training set for every image: `scores`
    of one row, with the number of training images of each class.

    Example:
        >>> among_best(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([2, 0]), count=2)
        tensor([ True, False])
    """
    # Stable: of equal classes the first, whatever the device.
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return (best.to(labels.device) == labels.unsqueeze(1)).any(dim=1)


def class_accuracies(
    correct: Bool[Tensor, " N"], labels: Int[Tensor, " N"], classes: int
) -> Float[Tensor, " {classes}"]:
    """Return the fraction of each class's images that are right; its mean is balanced accuracy.

    In [0, 1], higher is better; NaN for a class without images. float64, on the CPU. Chance
    level is one class for every image, which is right for that class only.
    """
    labels = labels.cpu()
    total = torch.bincount(labels, minlength=classes)
    return torch.bincount(labels, correct.cpu().double(), minlength=classes) / total


def confusion_matrix(
    predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"]
) -> Int[Tensor, "P 3"]:
    """Return the cells of the confusion matrix that are not 0, on the CPU.

    A row each, by label and then by prediction: the label, the predicted class, and how many images
    of the one are called the other. Of thousands of classes, all cells would be millions.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 0])).tolist()
        [[0, 0, 2], [0, 1, 1], [1, 1, 1]]
    """
    pairs = torch.stack([labels.cpu(), predictions.cpu()], dim=1)
    cells, counts = torch.unique(pairs, dim=0, return_counts=True)
    return torch.cat([cells, counts.unsqueeze(1)], dim=1)


def expected_calibration_error(confidence: Float[Tensor, " N"], right: Bool[Tensor, " N"]) -> float:
    """Return how far confidence is from the fraction that is right: in [0, 1], lower is better.

    The expected calibration error over 15 equal bins, through torchmetrics: Guo et al., On
    Calibration of Modern Neural Networks, ICML 2017. Single-label: of the predicted class.
    Multi-label: of every class of every image. A constant answer, the training set's class
    frequencies, is well calibrated and useless: a low error says something beside accuracy only.
    """
    # Here, as it takes seconds to import.
    from torchmetrics.functional.classification import binary_calibration_error

    error = binary_calibration_error(
        confidence.cpu().double().contiguous(), right.cpu().long(), n_bins=15, validate_args=False
    )
    return float(error)


def average_precisions(
    scores: Float[Tensor, "N K"], labels: Shaped[Tensor, "N K"]
) -> Float[Tensor, " K"]:
    """Return the average precision of each class; their mean is the (macro) mAP.

    In [0, 1], higher is better. The mean over recall steps of precision, without interpolation
    (as in scikit-learn), through torchmetrics. Chance level is a constant score, whose
    average precision is the class's fraction of positives, `labels.mean(0)`.

    Args:
        scores: anything that rises with confidence, logits for example.
        labels: 0/1.

    Returns:
        Shape `(K,)`, float64, on the CPU; NaN for a class without positives, where it is undefined.
    """
    # Here, as it takes seconds to import.
    from torchmetrics.functional.classification import binary_average_precision

    labels = labels.cpu().long()
    # torchmetrics squashes what is not in [0, 1] through a sigmoid, which would tie large scores.
    ranks = torch.stack([column.unique(return_inverse=True)[1] for column in scores.cpu().T], dim=1)
    scaled = ranks.double() / len(ranks)
    result = torch.full((labels.shape[1],), torch.nan, dtype=torch.float64)
    for k in labels.any(dim=0).nonzero().squeeze(1).tolist():
        result[k] = binary_average_precision(scaled[:, k], labels[:, k], validate_args=False)
    return result


def eleven_point_precisions(
    scores: Float[Tensor, "N K"], labels: Shaped[Tensor, "N K"]
) -> Float[Tensor, " K"]:
    """Return the average precision of each class as the paper and VOC 2007 define it.

    The mean over the recalls 0, 0.1, ..., 1 of the highest precision at that recall or above:
    Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010. Images with equal
    scores are taken in together. In [0, 1], higher is better; chance level is that of
    `average_precisions`.

    Returns:
        Shape `(K,)`, float64, on the CPU; NaN for a class without positives, where it is undefined.

    Example:
        >>> scores = torch.tensor([[0.9], [0.8], [0.7]])
        >>> eleven_point_precisions(scores, torch.tensor([[1], [0], [1]]))
        tensor([0.8485], dtype=torch.float64)
    """
    labels, scores = labels.cpu().double(), scores.cpu()
    recalls = torch.arange(11, dtype=torch.float64) / 10
    result = torch.full((labels.shape[1],), torch.nan, dtype=torch.float64)
    for k in labels.any(dim=0).nonzero().squeeze(1).tolist():
        ranked, order = scores[:, k].sort(descending=True)
        last_of_equal = ranked.diff(append=ranked.new_tensor([torch.nan])) != 0
        taken = labels[order, k].cumsum(dim=0)[last_of_equal]
        precision = taken / (last_of_equal.nonzero().squeeze(1) + 1)
        # Of each recall and all above it, the highest.
        highest = precision.flip(0).cummax(dim=0).values.flip(0)
        reached = torch.searchsorted(taken / taken[-1], recalls)
        result[k] = highest[reached].mean()
    return result
