"""Items are computed in batches, in order, and none harms another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from acmix.serve.batches import Batches, Budget
from acmix.serve.metrics import Metrics


class Doubling:
    """Doubles numbers, and refuses 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append([*items])
        self.threads.add(threading.get_ident())
        if 13 in items:
            raise RuntimeError("13")
        return [2 * item for item in items]


async def results(compute: Doubling, items: Sequence[int], size: int = 4, window: float = 0.05) -> list[object]:
    batches: Batches[int, int] = Batches(compute, size, window, Metrics())
    try:
        return list(await asyncio.gather(*map(batches.result, items), return_exceptions=True))
    finally:
        batches.close()


def test_what_arrives_together_is_computed_together() -> None:
    compute = Doubling()
    assert asyncio.run(results(compute, range(10))) == [2 * item for item in range(10)]
    assert compute.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(compute.threads) == 1


def test_an_item_that_fails_fails_alone() -> None:
    found = asyncio.run(results(Doubling(), [1, 13, 3]))
    assert (found[0], found[2]) == (2, 6)
    assert isinstance(found[1], RuntimeError)


def test_what_nobody_waits_for_is_not_computed() -> None:
    compute = Doubling()

    async def run() -> int:
        batches: Batches[int, int] = Batches(compute, 8, 0.1, Metrics())
        gone = asyncio.create_task(batches.result(1))
        kept = asyncio.create_task(batches.result(2))
        await asyncio.sleep(0)
        gone.cancel()
        found = await kept
        batches.close()
        return found

    assert asyncio.run(run()) == 4
    assert compute.batches == [[2]]


def test_a_budget_is_never_exceeded_but_by_one_that_is_larger() -> None:
    async def run() -> list[int]:
        budget, order = Budget(10), []

        async def work(part: int) -> None:
            await budget.take(part)
            assert budget.taken <= 10 or budget.taken == part
            order.append(part)
            await asyncio.sleep(0)
            budget.give_back(part)

        tasks = [asyncio.create_task(work(part)) for part in (6, 5, 40, 1)]
        waiting = asyncio.create_task(work(9))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(*tasks)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (budget.taken, len(budget.waiting)) == (0, 0)
        return order

    assert asyncio.run(run()) == [6, 5, 40, 1]
