"""What heat maps show, for people; no torch, so that a process that only draws is there at once."""

from __future__ import annotations

from typing import NamedTuple


class Quantity(NamedTuple):
    """What a heat map shows, for people.

    Attributes:
        name: it reads on as "NAME for CLASS".
        unit: of its values.
        signed: values below 0 speak against the class; without a sign there are none.
    """

    name: str
    unit: str
    signed: bool


EVIDENCE = Quantity("evidence", "logit units", signed=True)
MARGIN = Quantity("margin", "logit units", signed=False)
CONTRAST = Quantity("contrast", "logit units", signed=True)
DIFFERENCE = Quantity("difference", "logit units", signed=True)
ROUTING_WEIGHT = Quantity("routing weight", "fraction of 1", signed=False)
WEIGHT = Quantity("weight", "fraction of 1", signed=False)
NO_MARGIN = "no patch puts this class first"
