"""The paper's equations, one by one, in float64 NumPy and plain loops.

Written from the paper, not from the package: slow, and without the package's care for extremes.
An array named `p` holds class vectors, `alpha` weights, `z` the logits of images, `y` 0/1 labels.
Last stands what another library says of intervals.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def length(vector: Array) -> float:
    """One term of the l2,1 norm, Eq. 4."""
    return math.sqrt(sum(float(value) ** 2 for value in vector))


def patch_weights(p: Array, threshold: float) -> Array:
    """Eqs. 5a and 5b for one image, `p` of shape (M, K)."""
    count = len(p)
    norm = sum(length(row) for row in p)
    alpha = [length(row) / norm for row in p]
    kept = [max(share - threshold / count, 0.0) for share in alpha]
    return np.array([value / sum(kept) for value in kept])


def capsule_weights(p: Array, threshold: float) -> tuple[Array, Array]:
    """Eqs. 6a to 6c for one image, `p` of shape (C, M, K)."""
    channels, count, _ = p.shape
    norm = sum(length(p[c, m]) for c in range(channels) for m in range(count))
    share = np.array([[length(p[c, m]) / norm for m in range(count)] for c in range(channels)])
    kept = [
        max(sum(share[c, m] for c in range(channels)) - threshold / count, 0.0)
        for m in range(count)
    ]
    patches = np.array([value / sum(kept) for value in kept])
    sign = [1.0 if weight > 0 else 0.0 for weight in patches]
    total = sum(sign[m] * share[c, m] for c in range(channels) for m in range(count))
    capsules = [[sign[m] * share[c, m] / total for m in range(count)] for c in range(channels)]
    return patches, np.array(capsules)


def log_softmax(z: Array) -> Array:
    """The logarithm of s(z) for one vector."""
    largest = max(z)
    total = sum(math.exp(value - largest) for value in z)
    return np.array([value - largest - math.log(total) for value in z])


def log_sigmoid(value: float) -> float:
    """The logarithm of sigma(value)."""
    return -math.log1p(math.exp(-abs(value))) + min(value, 0.0)


def smoothed(y: Array, part: float) -> Array:
    """Label smoothing of Szegedy et al. (2016): (1 - part) y + part / K."""
    return (1 - part) * y + part / y.shape[-1]


def cross_entropy(z: Array, y: Array) -> float:
    """Eq. 1 for one image, `y` one-hot."""
    log_probability = log_softmax(z)
    return -sum(float(y[k] * log_probability[k]) for k in range(len(z)))


def binary_cross_entropy(z: Array, y: Array) -> float:
    """Eq. 3 for one image; log(1 - sigma(z)) is log sigma(-z)."""
    return -sum(
        float(y[k] * log_sigmoid(z[k]) + (1 - y[k]) * log_sigmoid(-z[k])) for k in range(len(z))
    )


def single_label_loss(z: Array, p: Array, alpha: Array, y: Array, gamma: float) -> float:
    """Eq. 9 for a batch: `z` (B, K), `p` (B, M, K), `alpha` (B, M), `y` one-hot (B, K)."""
    total = 0.0
    for i in range(len(z)):
        total += -cross_entropy(z[i], y[i])
        for m in range(p.shape[1]):
            log_probability = log_softmax(p[i, m])
            of_label = sum(log_probability[k] for k in range(p.shape[2]) if y[i, k] == 1)
            total += gamma * alpha[i, m] * of_label
    return -total / len(z)


def multi_label_loss(z: Array, p: Array, alpha: Array, y: Array, gamma: float) -> float:
    """Eq. 10 for a batch; an image without a positive label adds no regulariser."""
    total = 0.0
    for i in range(len(z)):
        total += -binary_cross_entropy(z[i], y[i])
        positive = [k for k in range(p.shape[2]) if y[i, k] == 1]
        for m in range(p.shape[1]):
            if positive:
                total += gamma * alpha[i, m] * max(log_sigmoid(p[i, m, k]) for k in positive)
    return -total / len(z)


def ramp_up(epoch: float, length: float, maximum: float) -> float:
    """gamma(T) = maximum * exp(-5 (1 - T)^2), and 0 before the first epoch is over."""
    if epoch == 0:
        return 0.0
    position = min(epoch / length, 1.0)
    return maximum * math.exp(-5 * (1 - position) * (1 - position))


def single_label_bound(p: Array, alpha: Array, label: int) -> float:
    """The right side of Eq. 7 for one image, as printed; q is the softmax of a patch."""
    q = np.exp(np.array([log_softmax(row) for row in p]))
    products = sum(
        math.prod(q[m, k] ** alpha[m] for m in range(len(p)))
        for k in range(p.shape[1])
        if k != label
    )
    return products / (1 + products)


def multi_label_bound(p: Array, alpha: Array, y: Array) -> float:
    """The right side of Eq. 8 for one image, as printed."""
    total = 0.0
    for k in range(p.shape[1]):
        product = math.prod(math.exp(-p[m, k]) ** alpha[m] for m in range(len(p)))
        total += product / (1 + product) if y[k] == 1 else 1 / (1 + product)
    return total


def painted(values: Array, windows: Array, height: int, width: int) -> Array:
    """Paint patch values pixel by pixel: the mean over the windows (x0, y0, x1, y1) on it."""
    picture = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            over = [
                value
                for value, (x0, y0, x1, y1) in zip(values, windows, strict=True)
                if x0 <= x < x1 and y0 <= y < y1
            ]
            picture[y, x] = sum(over) / len(over) if over else 0.0
    return picture


def convolution(image: Array, kernels: Array, stride: int) -> Array:
    """A convolution of `image` (C, h, w) without padding, `kernels` (D, C, k, k)."""
    side = kernels.shape[2]
    rows = (image.shape[1] - side) // stride + 1
    columns = (image.shape[2] - side) // stride + 1
    result = np.zeros((len(kernels), rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            region = image[:, top : top + side, left : left + side]
            for d in range(len(kernels)):
                result[d, i, j] = float((region * kernels[d]).sum())
    return result


def batch_norm(
    image: Array, mean: Array, variance: Array, scale: Array, shift: Array, epsilon: float
) -> Array:
    """Batch norm of `image` (C, h, w) with given statistics of each channel."""
    result = np.empty_like(image)
    for c in range(len(image)):
        result[c] = (image[c] - mean[c]) / math.sqrt(variance[c] + epsilon) * scale[c] + shift[c]
    return result


def attention_weights(h: Array, v: Array, w: Array, u: Array | None = None) -> Array:
    """Ilse et al. 2018, Eqs. 7 to 9, for one image: `h` (M, D), `v` and the gate `u` (L, D)."""
    scores = []
    for patch in h:
        hidden = np.array([math.tanh(float(row @ patch)) for row in v])
        if u is not None:
            gate = np.array([1 / (1 + math.exp(-float(row @ patch))) for row in u])
            hidden = hidden * gate
        scores.append(float(w @ hidden))
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return np.array([value / sum(exponentials) for value in exponentials])


def squash(s: Array) -> Array:
    """Sabour et al. 2017, Eq. 1, for one vector."""
    n = length(s)
    return n**2 / (1 + n**2) * s / n


def dynamic_routing(votes: Array, rounds: int) -> tuple[Array, Array]:
    """Sabour et al.'s Procedure 1 for one image, `votes` (I, K, D): coefficients and inputs s."""
    count, classes, _ = votes.shape
    b = np.zeros((count, classes))
    for _ in range(rounds):
        c = np.array([[math.exp(b[i, k]) for k in range(classes)] for i in range(count)])
        for i in range(count):
            c[i] = c[i] / c[i].sum()
        s = np.array([sum(c[i, k] * votes[i, k] for i in range(count)) for k in range(classes)])
        v = np.array([squash(s[k]) for k in range(classes)])
        for i in range(count):
            for k in range(classes):
                b[i, k] += float(votes[i, k] @ v[k])
    return c, s


def margin_loss(lengths: Array, y: Array) -> float:
    """Sabour et al.'s Eq. 4 for a batch: `lengths` and 0/1 labels `y` of shape (B, K)."""
    total = 0.0
    for i in range(len(lengths)):
        for k in range(lengths.shape[1]):
            if y[i, k] == 1:
                total += max(0.0, 0.9 - lengths[i, k]) ** 2
            else:
                total += 0.5 * max(0.0, lengths[i, k] - 0.1) ** 2
    return total / len(lengths)


def paired_bootstrap(one: Array, other: Array) -> Any:
    """What scipy says of the mean difference of two measurements of the same images."""
    return stats.bootstrap(
        (one, other),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20000,
        rng=np.random.default_rng(0),
    )
