"""The table of what keeps boxes from framing objects, against cases worked by hand."""

from __future__ import annotations

import torch
from boxes import limits, made


def test_boxes_are_made_of_middles_and_sizes() -> None:
    middles, sizes = torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([[10.0, 10.0, 12.0, 20.0]])
    assert made(middles, sizes).tolist() == [[1.0, -4.0, 3.0, 6.0]]


def test_what_is_framed_as_it_is_moved_and_resized() -> None:
    truth = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [2.0, 2.0, 6.0, 6.0], [1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0]]
    )
    here = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],  # right
            [6.0, 6.0, 10.0, 10.0],  # elsewhere, of the right size
            [4.0, 4.0, 6.0, 6.0],  # at the right place, too small
            [1.0, 1.0, 9.0, 9.0],  # right
        ]
    )
    nowhere = torch.zeros(4, 4)
    lines = limits(torch.stack([nowhere, here], dim=1), truth, (10, 10))
    # In the middle: 8 x 8 at (1, 1) frames the first (IoU 0.64) and both of 64; of the second 0.25.
    assert lines[2:] == [
        "| 0.0 to 1.0 | 4 | 0.750 | 0.500 | 0.750 | 0.750 |",
        "| 0.0 to 0.2 | 1 | 0.000 | 0.000 | 1.000 | 0.000 |",
        "| 0.2 to 0.4 | 0 | nan | nan | nan | nan |",
        "| 0.4 to 0.6 | 0 | nan | nan | nan | nan |",
        "| 0.6 to 0.8 | 2 | 1.000 | 0.500 | 0.500 | 1.000 |",
        "| 0.8 to 1.0 | 1 | 1.000 | 1.000 | 1.000 | 1.000 |",
    ]
