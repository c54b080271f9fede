import itertools

import pytest
import torch

from loss_attention.training.batches import (
    epoch_batches,
    process_part,
    steps_per_epoch,
    stream_seed,
)


@pytest.mark.parametrize(("images", "size"), [(1, 1), (7, 3), (46, 8), (100, 128), (1000, 64)])
def test_an_epoch_shows_every_image_once_in_even_batches(images, size):
    batches = epoch_batches(images, size, seed=3, epoch=5)
    assert len(batches) == steps_per_epoch(images, size)
    assert sorted(torch.cat(batches).tolist()) == list(range(images))
    lengths = {len(batch) for batch in batches}
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return torch.cat(epoch_batches(50, 8, seed, epoch)).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 8, 9])
def test_processes_share_a_batch_without_repeat_or_miss(world, size):
    batch = torch.arange(size) * 10
    parts = [batch[process_part(batch, rank, world)] for rank in range(world)]
    assert torch.equal(torch.cat(parts), batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_places_of_a_run_differ_in_the_bits_that_torch_takes_in():
    places = list(itertools.product(range(4), range(50), range(50)))
    assert len({stream_seed(*place) & 0xFFFFFFFF for place in places}) >= len(places) - 3
