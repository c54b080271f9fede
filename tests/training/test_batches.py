import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loss_attention.errors import InputError
from loss_attention.training.sampling import (
    FIRST_SIDES,
    HOLES,
    PAIRS,
    TURNS,
    balanced_epoch,
    check_batches,
    epoch_batches,
    noise_seed,
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


@settings(max_examples=40)
@given(st.lists(st.sampled_from([0, 0, 0, 0, 2, 3]), min_size=1, max_size=40), st.integers(0, 9))
def test_balanced_epochs_show_classes_and_the_images_of_each_equally_often(labels, seed):
    classes = torch.tensor(labels)
    shown = torch.zeros(len(labels), dtype=torch.int64)
    for epoch in range(7):
        found = balanced_epoch(classes, seed, epoch)
        assert len(found) == len(labels)
        of_classes = classes[found].bincount()[classes.unique()]
        assert of_classes.max() - of_classes.min() <= 1
        shown += found.bincount(minlength=len(labels))
        for value in set(labels):
            of_class = shown[classes == value]
            assert of_class.max() - of_class.min() <= 1
        every = torch.stack([shown[classes == value].sum() for value in set(labels)])
        assert every.max() - every.min() <= 1


def test_balanced_batches_are_of_a_balanced_epoch_and_follow_from_seed_and_epoch():
    classes = torch.tensor([0] * 30 + [1] * 4)
    batches = epoch_batches(34, 8, 1, 2, classes)
    assert {len(batch) for batch in batches} <= {6, 7}
    shown = torch.cat(batches)
    assert sorted(shown.tolist()) == sorted(balanced_epoch(classes, 1, 2).tolist())
    assert torch.equal(shown, torch.cat(epoch_batches(34, 8, 1, 2, classes)))
    assert not torch.equal(shown, torch.cat(epoch_batches(34, 8, 1, 3, classes)))
    assert not torch.equal(shown, torch.cat(epoch_batches(34, 8, 2, 2, classes)))


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


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_steps_that_leave_a_process_without_images_are_refused_and_no_others(world, size):
    for images in range(1, 24):
        batches = epoch_batches(images, size, seed=0, epoch=0)
        parts = [process_part(batch, rank, world) for batch in batches for rank in range(world)]
        if all(part.stop > part.start for part in parts):
            check_batches(images, size, world)
            continue
        with pytest.raises(InputError, match=f"^{world} processes: ") as caught:
            check_batches(images, size, world)
        assert "\n" not in str(caught.value)
        if images >= world:  # what it says would do
            check_batches(
                images, int(re.findall(r"take `batch_size` (\d+)", str(caught.value))[0]), world
            )


def test_noise_inside_the_network_is_another_for_each_seed_process_and_place():
    places = itertools.product(range(6), range(4), range(5), range(5))
    seeds = [noise_seed(*place) for place in places]
    assert len(set(seeds)) == len(seeds)
    large = [0, 1, 2**32, 2**32 + 1, 2**63 - 1]
    of_others = [
        noise_seed(*place) for place in itertools.product(large, (1, 2, 3), *[range(4)] * 2)
    ]
    assert len(set(of_others)) == len(of_others)
    steps = [0, 1, 2, HOLES, HOLES + 1, FIRST_SIDES, TURNS, TURNS + 1, PAIRS, PAIRS + 1]
    streams = {stream_seed(*place) for place in itertools.product(large, range(4), steps)}
    assert not streams & set(of_others)


def test_one_process_draws_what_it_drew_in_version_0_1():
    assert noise_seed(0, 0, 3, 7) == stream_seed(1, 3, 7) == 6740733380162919617
