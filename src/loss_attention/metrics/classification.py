"""How often images are classified rightly. Labels are indices `(B,)` or, multi-label, 0/1 `(B, K)`.

Whether labels have one axis or two says which task it is, here as in `ImageSet`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def correct_images(
    logits: Float[Tensor, "B K"], labels: Shaped[Tensor, "B *K"]
) -> Bool[Tensor, " B"]:
    """Return which images are classified rightly.

    Single-label: the largest logit is the label's; the mean is the accuracy. Multi-label: every
    class is right at once, predicted where its sigmoid is above 0.5; the mean is the exact-match
    share (subset accuracy). Both means are in [0, 1], higher is better; the floor is
    `commonest_answer`'s.

    Example:
        >>> import torch
        >>> correct_images(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        tensor([ True, False])
    """
    if labels.ndim == 1:
        return logits.argmax(dim=1) == labels
    return ((logits > 0) == labels.bool()).all(dim=1)


def commonest_answer(
    train_labels: Shaped[Tensor, "N *K"], labels: Shaped[Tensor, "B *K"]
) -> Bool[Tensor, " B"]:
    """Return which images a constant answer gets right: the commonest one of the training set.

    Single-label: the majority class. Multi-label: the set of classes that most images have. Its
    mean is the floor of accuracy and exact match. Ties go to the lowest class.

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


def average_precisions(
    scores: Float[Tensor, "N K"], labels: Shaped[Tensor, "N K"]
) -> Float[Tensor, " K"]:
    """Return the average precision of each class; their mean is the (macro) mean AP.

    In [0, 1], higher is better. The mean over recall steps of precision, without interpolation
    (as in scikit-learn), through torchmetrics. The floor is a constant score, whose average
    precision is the class's share of positives, `labels.mean(0)`.

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
