"""One training step on n cards, simulated.

Each card does a passes of forward f and backward b. The gradients of the last one travel in buckets: a bucket starts
when it is ready and the one before has arrived. Then comes o: clipping, the optimizer, the loop's own work.

    compute    a (f + b) + o
    waiting    a (f + b) d E(n): the slowest of n cards; d is the deviation of a card's step from its mean, E(n) the
               expected largest of n draws from a normal distribution: 0.56 for 2, 1.42 for 8, 2.34 for 64, 3.04 for 512
    exposed    from when the slowest card would be through with a (f + b) to when the last bucket has arrived
    loader     in the background max(0, k - compute - waiting - exposed), else k: the seconds to read a step's images
    checkpoint the stall of one checkpoint ÷ the steps between two

    step time = their sum;  images/s = n · a · batch ÷ step time;  efficiency = images/s on n ÷ (n · images/s on one)

While a bucket travels, compute goes on at the rate `compute_rate` of its own, and the bucket at `communication_rate`
of its own: on a CPU they share cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from statistics import NormalDist

import numpy as np

from acmix.benchmark.scale.all_reduce import all_reduce_seconds
from acmix.benchmark.scale.parts import Gradients, Parts
from acmix.errors import UsageError

MIB = 2**20
# buckets of one step: more cannot be meant, and would take long
MOST_BUCKETS = 100_000
MOST_CARDS = 1_000_000


@dataclass(frozen=True)
class Step:
    """A step on some cards, its parts in seconds.

    Args:
        cards: n.
        images: of all cards.
        compute, waiting, exposed, loader, checkpoint: see above.
        travel: what all buckets take, hidden or not.
    """

    cards: int
    images: int
    compute: float
    waiting: float
    exposed: float
    loader: float
    checkpoint: float
    travel: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.compute + self.waiting + self.exposed + self.loader + self.checkpoint

    @property
    def images_per_second(self) -> float:
        """Of all cards."""
        return self.images / self.seconds

    def efficiency(self, single: Step) -> float:
        """Images/s over those of as many single cards."""
        return self.images_per_second / (self.cards * single.images_per_second)


def simulate(parts: Parts, cards: int) -> Step:
    """One step.

    Args:
        parts: what one card does, and the network.
        cards: n.

    Raises:
        UsageError: no way between machines, or numbers out of bounds.
    """
    if not 1 <= cards <= MOST_CARDS:
        raise UsageError(f"{cards} cards; expected 1 to {MOST_CARDS}")
    compute = parts.compute
    forward, backward = compute.forward_ms / 1000, compute.backward_ms / 1000
    passes = compute.accumulation * (forward + backward)
    longer = 1 + compute.deviation * expected_largest(cards)
    sizes = bucket_sizes(parts.gradients)
    travels = [all_reduce_seconds(size * parts.gradients.compression, cards, parts.network) for size in sizes]
    # the slowest card's last backward pass
    last = longer * backward
    ready = [share * last for share in ready_shares(parts.gradients, sizes)]
    rates = parts.network.compute_rate, parts.network.communication_rate
    exposed = max(0.0, overlapped(last, ready, travels, *rates) - last) if cards > 1 else 0.0
    working = compute.other_ms / 1000 + longer * passes + exposed
    images = compute.batch_size * compute.accumulation
    return Step(
        cards=cards,
        images=cards * images,
        compute=passes + compute.other_ms / 1000,
        waiting=(longer - 1) * passes,
        exposed=exposed,
        loader=loading(parts, cards, images, working),
        checkpoint=parts.checkpoint.stall_ms / 1000 / parts.checkpoint.every_steps,
        travel=sum(travels),
    )


def loading(parts: Parts, cards: int, images: int, working: float) -> float:
    """Seconds that a step of `working` seconds waits for a card's images."""
    loader, rates = parts.loader, []
    if loader.images_per_second is not None:
        rates.append(loader.images_per_second)
    if loader.all_images_per_second is not None:
        rates.append(loader.all_images_per_second / cards)
    reading = images / min(rates) if rates else 0.0
    return max(0.0, reading - working) if loader.in_background else reading


def bucket_sizes(gradients: Gradients) -> list[float]:
    """Bytes of each bucket, in the order in which they fill: a small one, whole ones, and what is left."""
    total, whole = gradients.mib * MIB, gradients.bucket_mib * MIB
    sizes = [min(total, min(gradients.first_bucket_mib, gradients.bucket_mib) * MIB)]
    left = total - sizes[0]
    if left / whole > MOST_BUCKETS:
        raise UsageError(
            f"gradients.bucket_mib={gradients.bucket_mib:g} makes {left / whole:.0f} buckets of gradients.mib="
            f"{gradients.mib:g}; expected at most {MOST_BUCKETS}"
        )
    while left > 0:
        sizes.append(min(whole, left))
        left -= sizes[-1]
    return sizes


def ready_shares(gradients: Gradients, sizes: Sequence[float]) -> list[float]:
    """After which share of the backward pass each bucket is full."""
    shares = np.array([*accumulate(sizes)]) / sum(sizes)
    there, passed = zip(*gradients.ready, strict=True)
    return np.interp(shares, there, passed).tolist()


def overlapped(
    backward: float,
    ready: Sequence[float],
    travels: Sequence[float],
    compute_rate: float = 1.0,
    communication_rate: float = 1.0,
) -> float:
    """Seconds from the start of a backward pass to when it is through and its last bucket has arrived.

    Args:
        backward: seconds of the pass alone.
        ready: for each bucket, after how many seconds of the pass alone it is full; rising.
        travels: seconds of each bucket alone.
        compute_rate: what compute goes on at while a bucket travels, of its own rate.
        communication_rate: the same of a bucket while compute goes on.
    """
    clock = done = 0.0
    for full, left in zip(ready, travels, strict=True):
        if done < full:
            clock, done = clock + full - done, full
        both = min(left / communication_rate, (backward - done) / compute_rate)
        clock, done = clock + both, done + both * compute_rate
        # the pass is through, or the bucket has arrived
        clock += max(0.0, left - both * communication_rate)
    return clock + max(0.0, backward - done)


@lru_cache(maxsize=1024)
def expected_largest(draws: int) -> float:
    """The mean of the largest of so many draws from a normal distribution of mean 0 and deviation 1.

    E = ∫ (1 - Φ(x)ⁿ) dx over x > 0 - ∫ Φ(x)ⁿ dx over x < 0, by the trapezoidal rule.
    """
    if draws == 1:
        return 0.0
    width, reach = 0.01, 10.0
    normal = NormalDist()
    places = np.arange(0.0, reach + width / 2, width)
    below = np.array([normal.cdf(-place) for place in places]) ** draws
    above = 1 - np.array([normal.cdf(place) for place in places]) ** draws
    values = above - below
    return float(width * (values.sum() - (values[0] + values[-1]) / 2))
