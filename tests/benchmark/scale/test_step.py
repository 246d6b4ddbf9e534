"""The simulated step against closed forms and against steps that were worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from acmix.benchmark.scale.parts import Parts, parts_of
from acmix.benchmark.scale.step import MIB, bucket_sizes, expected_largest, overlapped, ready_shares, simulate
from acmix.errors import UsageError

FAST = {"gb_per_second": 1e9, "latency_us": 0.0}


def made(**sections: dict[str, Any]) -> Parts:
    """Parts with a few values changed: 30 ms of passes, 64 MiB in one bucket that is ready at the end."""
    tree: dict[str, dict[str, Any]] = {
        "compute": {"batch_size": 4, "forward_ms": 10.0, "backward_ms": 20.0},
        "gradients": {"mib": 64.0, "bucket_mib": 64.0, "first_bucket_mib": 64.0},
        "network": {"cards_per_node": 8, "inside": {"gb_per_second": 10.0, "latency_us": 5.0}, "between": FAST},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    return parts_of(tree, "parts")


def test_one_bucket_without_overlap_is_the_ring_s_formula() -> None:
    step = simulate(made(), 4)
    assert step.exposed == pytest.approx(2 * 3 / 4 * 64 * MIB / 10e9 + 2 * 3 * 5e-6)
    assert step.seconds == pytest.approx(0.030 + step.exposed)
    assert step.images_per_second == pytest.approx(16 / step.seconds)
    assert step.efficiency(simulate(made(), 1)) == pytest.approx(0.030 / step.seconds)


@pytest.mark.parametrize("cards", [1, 2, 8, 64, 512])
def test_an_infinitely_fast_network_scales_perfectly(cards: int) -> None:
    parts = made(network={"inside": FAST}, gradients={"bucket_mib": 5.0})
    assert simulate(parts, cards).efficiency(simulate(parts, 1)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("algorithm", ["ring", "tree", "hierarchical", "fastest"])
@pytest.mark.parametrize("bucket_mib", [1.0, 25.0, 64.0])
def test_more_bandwidth_is_never_slower(algorithm: str, bucket_mib: float) -> None:
    speeds = []
    for rate in (0.1, 0.3, 1, 3, 10, 30):
        link = {"gb_per_second": rate, "latency_us": 5.0}
        network = {"algorithm": algorithm, "inside": link, "between": link}
        parts = made(network=network, gradients={"bucket_mib": bucket_mib, "first_bucket_mib": 1.0})
        speeds.append(simulate(parts, 32).images_per_second)
    assert speeds == sorted(speeds)
    assert speeds[0] < speeds[-1]


@pytest.mark.parametrize(
    ("ready", "travels", "rates", "through"),
    [
        # 2 to 6, 6 to 10, 10 to 13
        ([2, 5, 10], [4, 4, 3], (1.0, 1.0), 13),
        # 2 to 8, 8 to 14, 14 to 17: the second and third wait for the one before
        ([2, 5, 10], [6, 6, 3], (1.0, 1.0), 17),
        # hidden but for the last
        ([2, 5, 10], [1, 1, 3], (1.0, 1.0), 13),
        # compute at half its rate: full at 2, 7 (4 of 6 done at 6) and 14; 14 to 17
        ([2, 5, 10], [4, 4, 3], (0.5, 1.0), 17),
        # half of the second hidden at half rate: 9 to 10 moves 0.5, then 0.5 at the whole
        ([9], [1], (1.0, 0.5), 10.5),
        # it arrives before the pass is through
        ([1], [2], (0.5, 0.5), 12),
    ],
)
def test_buckets_overlap_as_worked_out_by_hand(
    ready: list[float], travels: list[float], rates: tuple[float, float], through: float
) -> None:
    assert overlapped(10, ready, travels, *rates) == pytest.approx(through)


def test_buckets_are_a_small_one_whole_ones_and_the_rest() -> None:
    gradients = made(gradients={"mib": 60.0, "bucket_mib": 25.0, "first_bucket_mib": 1.0}).gradients
    assert [size / MIB for size in bucket_sizes(gradients)] == pytest.approx([1, 25, 25, 9])
    small = made(gradients={"mib": 0.5, "first_bucket_mib": 1.0}).gradients
    assert [size / MIB for size in bucket_sizes(small)] == pytest.approx([0.5])
    with pytest.raises(UsageError, match="expected at most 100000"):
        bucket_sizes(made(gradients={"mib": 1e9, "bucket_mib": 1.0}).gradients)


def test_the_curve_of_ready_gradients_says_when_a_bucket_is_full() -> None:
    curve = [[0, 0.1], [0.5, 0.2], [1, 1]]
    gradients = made(gradients={"mib": 4.0, "bucket_mib": 1.0, "first_bucket_mib": 1.0, "ready": curve}).gradients
    assert ready_shares(gradients, bucket_sizes(gradients)) == pytest.approx([0.15, 0.2, 0.6, 1.0])


def test_the_largest_of_draws_is_the_known_mean() -> None:
    assert [expected_largest(draws) for draws in (1, 2, 3)] == pytest.approx(
        [0, 1 / math.sqrt(math.pi), 1.5 / math.sqrt(math.pi)], abs=1e-6
    )
    # order statistics of the normal distribution, as tables have them
    assert expected_largest(8) == pytest.approx(1.42360, abs=1e-4)
    assert expected_largest(100) == pytest.approx(2.50759, abs=1e-4)


def test_waiting_for_the_slowest_is_its_deviation() -> None:
    parts = made(compute={"deviation": 0.1}, network={"inside": FAST})
    assert simulate(parts, 2).waiting == pytest.approx(0.030 * 0.1 / math.sqrt(math.pi), rel=1e-4)
    assert simulate(parts, 1).waiting == 0


def test_images_are_waited_for_only_where_reading_is_slower_than_the_step() -> None:
    # 4 images in 40 ms, a step of 30
    assert simulate(made(loader={"images_per_second": 100.0}), 1).seconds == pytest.approx(0.040)
    assert simulate(made(loader={"images_per_second": 200.0}), 1).seconds == pytest.approx(0.030)
    # without reading processes nothing is hidden
    alone = made(loader={"images_per_second": 100.0, "in_background": False})
    assert simulate(alone, 1).seconds == pytest.approx(0.070)
    # the storage is shared: 2 cards read 100 images/s each, 8 read 25
    shared = made(loader={"all_images_per_second": 200.0}, network={"inside": FAST})
    assert simulate(shared, 2).seconds == pytest.approx(0.040)
    assert simulate(shared, 8).seconds == pytest.approx(0.160)


def test_gradients_travel_once_a_step_and_half_as_large_in_bf16() -> None:
    whole = simulate(made(), 8)
    accumulated = simulate(made(compute={"accumulation": 4}), 8)
    assert accumulated.exposed == pytest.approx(whole.exposed)
    assert accumulated.compute == pytest.approx(4 * whole.compute)
    assert accumulated.images == 4 * whole.images
    half = simulate(made(gradients={"compression": 0.5}), 8)
    assert half.exposed - 14 * 5e-6 == pytest.approx((whole.exposed - 14 * 5e-6) / 2)


def test_a_checkpoint_is_shared_by_the_steps_between_two() -> None:
    parts = made(checkpoint={"stall_ms": 50.0, "every_steps": 100}, compute={"other_ms": 3.0})
    assert simulate(parts, 1).seconds == pytest.approx(0.030 + 0.003 + 0.0005)
