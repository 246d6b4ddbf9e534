"""Seconds of a reduction by their formulas, and published ones."""

from __future__ import annotations

import pytest

from acmix.benchmark.scale.all_reduce import all_reduce_seconds
from acmix.benchmark.scale.parts import Network
from acmix.errors import UsageError

SIZE = 25 * 2**20


def network(algorithm: str, **values: object) -> Network:
    """Four cards in a machine at 100 GB/s and 2 µs; machines at 10 GB/s and 20 µs."""
    tree = {
        "algorithm": algorithm,
        "cards_per_node": 4,
        "inside": {"gb_per_second": 100, "latency_us": 2},
        "between": {"gb_per_second": 10, "latency_us": 20},
    }
    return Network.model_validate({**tree, **values})


@pytest.mark.parametrize(
    ("algorithm", "cards", "seconds"),
    [
        ("ring", 1, 0),
        ("ring", 4, 2 * 3 / 4 * SIZE / 100e9 + 6 * 2e-6),
        ("hierarchical", 4, 2 * 3 / 4 * SIZE / 100e9 + 6 * 2e-6),
        # the slowest link bounds one ring through all cards
        ("ring", 16, 2 * 15 / 16 * SIZE / 10e9 + 30 * 20e-6),
        ("tree", 16, 2 * SIZE / 10e9 + 2 * (2 * 2e-6 + 2 * 20e-6)),
        ("tree", 3, 2 * SIZE / 100e9 + 2 * 2 * 2e-6),
        ("hierarchical", 16, 2 * 3 / 4 * SIZE / 100e9 + 6 * 2e-6 + 2 * 3 / 4 * SIZE / 10e9 + 6 * 20e-6),
    ],
)
def test_a_reduction_takes_what_its_formula_says(algorithm: str, cards: int, seconds: float) -> None:
    assert all_reduce_seconds(SIZE, cards, network(algorithm)) == pytest.approx(seconds)


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
def test_the_fastest_is_the_least_of_the_three(size: float) -> None:
    three = [all_reduce_seconds(size, 64, network(name)) for name in ("ring", "tree", "hierarchical")]
    assert all_reduce_seconds(size, 64, network("fastest")) == min(three)


@pytest.mark.parametrize(("cards", "microseconds"), [(16, 163.4), (32, 319.4), (64, 631.3)])
def test_one_latency_gives_the_published_times_of_small_messages(cards: int, microseconds: float) -> None:
    """nccl-tests, 8 bytes, 2, 4 and 8 machines of eight V100 over EFA: gist.github.com/jacobkahn, July 2019."""
    link = {"gb_per_second": 10, "latency_us": 5.1}
    found = all_reduce_seconds(8, cards, network("ring", cards_per_node=8, inside=link, between=link))
    assert 1e6 * found == pytest.approx(microseconds, rel=0.08)


@pytest.mark.parametrize(
    ("cards", "missing", "said"),
    [
        (8, "between", "8 cards are 2 machines of network.cards_per_node=4, and network.between is not set; set"),
        (2, "inside", "2 cards are 1 machine of network.cards_per_node=4, and network.inside is not set; set"),
    ],
)
def test_a_way_that_is_not_known_is_asked_for(cards: int, missing: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        all_reduce_seconds(SIZE, cards, network("ring", **{missing: None}))
    assert all_reduce_seconds(SIZE, 1, network("ring", **{missing: None})) == 0
