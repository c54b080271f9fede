"""What the figures' captions say of data, scale, seeds, and what the networks score."""

from __future__ import annotations

from collections.abc import Sequence

from loss_attention.paper.ledger import Record
from loss_attention.paper.scales import Scale

_WORDS = {
    "mean_average_precision": "mean average precision",
    "accuracy": "accuracy",
    "patch_precision": "patch precision",
    "patch_recall": "patch recall",
    "patch_f": "patch F",
    "box_ap": "box AP",
}


def facts(scale: Scale, data: str, seeds: str) -> str:
    """Return what every caption says of where its numbers come from."""
    return f"Data: {data}. Scale {scale.name}: {scale.summary}; {seeds}."


def data_words(record: Record) -> str:
    """Return what the data was, by its name rather than by the folder that it lay in."""
    if record.source.startswith("data folder "):
        return f"{record.recipe['data']}, {record.source.partition(': ')[2]}"
    return record.source


def seed_words(counts: Sequence[int]) -> str:
    """Say of how many seeds the means are.

    Example:
        >>> seed_words([4, 3, 4]), seed_words([1]), seed_words([])
        ('3 to 4 seeds', '1 seed', 'no seed')
    """
    if not counts:
        return "no seed"
    if min(counts) < max(counts):
        return f"{min(counts)} to {max(counts)} seeds"
    return "1 seed" if counts[0] == 1 else f"{counts[0]} seeds"


def scores(record: Record, measures: Sequence[str]) -> str:
    """Say what a network scores on the test split, each figure with its floors."""
    parts = []
    for name in measures:
        value = record.measures.get(name)
        if value is None:
            continue
        floors = [
            f"{floor} {100 * score:.1f}%"
            for floor, score in record.floors.get(name, {}).items()
            if score is not None
        ]
        beside = f" ({', '.join(floors)})" if floors else ""
        parts.append(f"{_WORDS[name]} {100 * value:.1f}%{beside}")
    return ", ".join(parts) or "not defined there"
