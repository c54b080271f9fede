"""Whether what instances say points at what is there: FROC, as pure functions on coordinates.

The free-response ROC of CAMELYON16 (Ehteshami Bejnordi et al., "Diagnostic Assessment of Deep
Learning Algorithms for Detection of Lymph Node Metastases in Women With Breast Cancer", JAMA 2017):
a slide's detections are points with a score, its lesions are regions. A lesion is found by a
detection inside it, however many there are; a detection outside all of them is a false positive.
Its score is the mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives a slide. Precision at k
is in `measures.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num

FALSE_POSITIVES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""A slide, where CAMELYON16 reads sensitivity off."""
TOUCHING = 1.5
"""Tiles at most so many sides apart are of one lesion: neighbours, diagonal ones too."""


@dataclass(frozen=True)
class SlideHits:
    """What the detections of one slide came to.

    Attributes:
        lesions: for each lesion the highest score of a detection inside it; -inf: there is none.
        false_positives: scores of the detections outside all lesions.
    """

    lesions: Float[np.ndarray, " L"]
    false_positives: Float[np.ndarray, " F"]


@dataclass(frozen=True)
class FROC:
    """Sensitivity at so many false positives a slide.

    Attributes:
        false_positives: a slide, on average.
        sensitivity: the part of all lesions that is found at the lowest threshold with at most so
            many.
        score: the mean of those.
    """

    false_positives: tuple[float, ...]
    sensitivity: tuple[float, ...]
    score: float


def detections(
    coordinates: Num[np.ndarray, "M 2"], scores: Float[np.ndarray, " M"], radius: float
) -> Int[np.ndarray, " N"]:
    """Return the instances that no stronger one within a radius suppresses, strongest first.

    Args:
        coordinates: of the instances.
        scores: of them; of equal ones the first is the stronger.
        radius: within which an instance suppresses weaker ones, in the units of the coordinates.

    Example:
        >>> places = np.array([[0, 0], [1, 0], [2, 0], [9, 0]])
        >>> detections(places, np.array([0.5, 0.9, 0.8, 0.1]), radius=1)
        array([1, 3])
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(coordinates)
    free = np.ones(len(scores), dtype=bool)
    kept = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if free[index]:
            kept.append(index)
            free[tree.query_ball_point(coordinates[index], radius)] = False
    return np.array(kept, dtype=np.int64)


def lesions(
    coordinates: Num[np.ndarray, "M 2"], positive: Bool[np.ndarray, " M"], tile: float
) -> Int[np.ndarray, " M"]:
    """Return which lesion each instance is of, from 0; -1: of none.

    A lesion is a group of positive instances whose tiles touch.

    Args:
        coordinates: of the instances.
        positive: those that are of a lesion.
        tile: the side of a tile, in the units of the coordinates.
    """
    from scipy.spatial import cKDTree

    found = np.full(len(positive), -1, dtype=np.int64)
    places, member = np.unique(coordinates[positive], axis=0, return_inverse=True)
    of_place = np.full(len(places), -1, dtype=np.int64)
    tree, number = cKDTree(places), 0
    for start in range(len(places)):  # all pairs that touch at once may not fit in memory
        if of_place[start] >= 0:
            continue
        waiting, of_place[start] = [start], number
        while waiting:
            near = np.array(tree.query_ball_point(places[waiting.pop()], TOUCHING * tile))
            near = near[of_place[near] < 0]
            of_place[near] = number
            waiting += near.tolist()
        number += 1
    found[positive] = of_place[member.ravel()]
    return found


def slide_hits(
    coordinates: Num[np.ndarray, "M 2"],
    scores: Float[np.ndarray, " M"],
    positive: Bool[np.ndarray, " M"],
    tile: float,
    radius: float,
) -> SlideHits:
    """Return what the detections of a slide came to; see `detections` and `lesions`."""
    group = lesions(coordinates, positive, tile)
    found = detections(coordinates, scores, radius)
    best = np.full(int(group.max(initial=-1)) + 1, -np.inf)
    inside = found[group[found] >= 0]
    np.maximum.at(best, group[inside], scores[inside])
    return SlideHits(best, scores[found[group[found] < 0]])


def froc(slides: Sequence[SlideHits], false_positives: Sequence[float] = FALSE_POSITIVES) -> FROC:
    """Return sensitivity at so many false positives a slide, and its mean.

    Between thresholds nothing is interpolated: the sensitivity at 2 is that of a threshold that
    gives at most 2.

    Args:
        slides: all of them, also those without a lesion.
        false_positives: a slide, on average.

    Raises:
        ValueError: no slide, or no lesion on any.
    """
    if not slides or not sum(len(slide.lesions) for slide in slides):
        raise ValueError("FROC needs slides, and a lesion on one at least")
    wrong = np.sort(np.concatenate([slide.false_positives for slide in slides]))[::-1]
    best = np.concatenate([slide.lesions for slide in slides])
    sensitivity = []
    for allowed in false_positives:
        most = int(np.floor(allowed * len(slides)))
        # The next false positive must stay below the threshold, and what ties with it too.
        above = wrong[most] if most < len(wrong) else -np.inf
        sensitivity.append(float((best > above).mean()))
    return FROC(tuple(false_positives), tuple(sensitivity), float(np.mean(sensitivity)))
