"""The order of an epoch over shards is a permutation, the same for any number of processes, and local."""

import numpy as np
import pytest
import torch

from acmix.data.shards.order import lane_count, shard_order

SHARDS = np.repeat(np.arange(40), 25)


@pytest.mark.parametrize("step", [1, 7, 32, 1000])
@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize("lanes", [1, 5, 64])
def test_every_image_comes_once(step, window, lanes):
    order = shard_order(SHARDS, seed=3, step=step, window=window, lanes=lanes)
    assert sorted(order.tolist()) == list(range(len(SHARDS)))


def test_seeds_give_other_orders_and_the_same_seed_the_same():
    orders = [shard_order(SHARDS, seed=seed, step=20, window=2) for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_shards_may_differ_in_length_and_rows_come_in_any_order():
    shards = np.random.default_rng(0).permutation(np.repeat(np.arange(9), np.arange(1, 10)))
    order = shard_order(shards, seed=0, step=4, window=2)
    assert sorted(order.tolist()) == list(range(45))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_process_reads_from_few_shards_at_a_time(processes):
    step, window = 80, 2
    order = shard_order(SHARDS, seed=0, step=step, window=window, lanes=4)
    steps = len(order) // step
    own = order[: steps * step].view(steps, processes, -1)[:, 0]
    # of four lanes, its own; three steps in a row meet at most two windows of each
    for first in range(steps - 2):
        met = {int(SHARDS[index]) for index in own[first : first + 3].flatten().tolist()}
        assert len(met) <= 4 // processes * 2 * window
    # and in the end it has read no shard twice but for those where lanes meet
    assert len({int(SHARDS[index]) for index in own.flatten().tolist()}) <= 40 / processes + 2 * window


def test_a_step_mixes_all_lanes():
    order = shard_order(SHARDS, seed=0, step=80, window=1)
    first = {int(SHARDS[index]) for index in order[:80].tolist()}
    assert lane_count(40, 80, 1) == 40
    # lanes are of equal length and may begin within a shard
    assert len(first) >= 38


def test_lanes_are_no_more_than_windows_and_images_of_a_step():
    assert lane_count(1000, 512, 4) == 64
    assert lane_count(1000, 8, 4) == 8
    assert lane_count(8, 512, 4) == 2
    assert lane_count(1, 512, 4) == 1
