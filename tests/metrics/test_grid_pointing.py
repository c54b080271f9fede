"""The grid pointing game with maps and models made by hand."""

from __future__ import annotations

import torch

from loss_attention.metrics.localisation import assemble, choose_mosaics, grid_pointing


def test_mosaics_are_in_reading_order() -> None:
    images = torch.rand(2, 9, 3, 4, 5)
    mosaics = assemble(images, 3)
    assert mosaics.shape == (2, 3, 12, 15)
    for cell in range(9):
        y, x = cell // 3 * 4, cell % 3 * 5
        assert mosaics[:, :, y : y + 4, x : x + 5].equal(images[:, cell])


def test_a_model_that_sees_its_class_finds_its_cell() -> None:
    """Images of class k are bright in channel k; the hand-made map for k is that channel."""
    images = torch.zeros(4, 4, 6, 6)
    for k in range(4):
        images[k, k] = 1 + k
    mosaic = assemble(images[None, [2, 0, 3, 1]], 2)
    for cell, k in enumerate((2, 0, 3, 1)):
        assert grid_pointing(mosaic[:, k], torch.tensor([cell]), 2).item() == 1
        assert grid_pointing(mosaic[:, k], torch.tensor([3 - cell]), 2).item() == 0


def test_only_what_speaks_for_the_class_counts() -> None:
    maps = torch.zeros(3, 4, 6)
    maps[0, 0, 0], maps[0, 3, 5], maps[0, 0, 5] = 3.0, 1.0, -50.0
    maps[1] = -1.0
    maps[2] = 0.5
    cells = torch.tensor([0, 1, 2])
    assert grid_pointing(maps, cells, 2).tolist() == [0.75, 0.0, 0.25]


def test_mosaics_take_the_most_confident_of_different_classes() -> None:
    #                           0    1    2     3    4     5    6    7
    confidence = torch.tensor([0.9, 0.8, 0.99, -1.0, 0.7, 0.95, 0.6, 0.5])
    classes = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    chosen = choose_mosaics(confidence, classes, cells=4, mosaics=2, seed=0)
    assert sorted(chosen[0].tolist()) == [0, 2, 5, 6]
    # The only usable image of class 1 comes again; the others have a second one.
    assert sorted(chosen[1].tolist()) == [1, 2, 4, 7]
    assert choose_mosaics(confidence, classes, cells=9, mosaics=2, seed=0) is None
    assert choose_mosaics(confidence.clamp(max=-1), classes, 4, 1, seed=0) is None


def test_classes_take_turns_and_cells_are_mixed() -> None:
    confidence, classes = torch.rand(60), torch.arange(60) % 12
    chosen = choose_mosaics(confidence, classes, cells=9, mosaics=40, seed=3)
    assert chosen.shape == (40, 9)
    of = classes[chosen]
    assert all(len(row.unique()) == 9 for row in of)
    counts = of.flatten().bincount()
    assert counts.max() - counts.min() <= 1
    assert len(of[:, 0].unique()) > 6
    assert chosen.equal(choose_mosaics(confidence, classes, 9, 40, seed=3))
    assert not chosen.equal(choose_mosaics(confidence, classes, 9, 40, seed=4))
