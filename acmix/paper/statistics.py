"""Mean and deviation over seeds, and the paired comparison of two arms.

The runs of one seed share the order of the data and, where they can, the first weights, so an arm is compared with
another seed by seed. Student's t; intervals of 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from acmix.errors import UsageError
from acmix.extras import install

CONFIDENCE = 0.95
# what sums of figures differ by where they are the same
ROUNDING = 1e-9


def signed(value: float, decimals: int = 2) -> str:
    """A number with its sign: of one that so few decimals would hide, three significant digits, as of -0.00071."""
    if abs(value) < ROUNDING:
        value = 0.0
    return f"{value:+.{decimals}f}" if value == 0 or abs(value) >= 0.5 * 10**-decimals else f"{value:+.3g}"


@dataclass(frozen=True)
class Spread:
    """Figures of one arm.

    Args:
        count: how many.
        mean: of them.
        deviation: the sample's standard deviation; NaN of one.
    """

    count: int
    mean: float
    deviation: float

    def __str__(self) -> str:
        around = "" if math.isnan(self.deviation) else f" ± {signed(self.deviation)[1:]}"
        return f"{self.mean:.2f}{around} ({self.count})"


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; NaN where too few figures give none."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        reach = "" if math.isnan(self.low) else f" ({signed(self.low)} to {signed(self.high)})"
        return f"{signed(self.mean)}{reach}"


@dataclass(frozen=True)
class Paired:
    """An arm beside the baseline.

    Args:
        count: seeds that both have.
        mean: of the differences, arm less baseline.
        low, high: the 95 % interval of that mean.
        effect: Cohen's d of paired samples: the mean over the differences' deviation.
        p: of the paired t-test, two sides; NaN where it cannot be taken.
    """

    count: int
    mean: float
    low: float
    high: float
    effect: float
    p: float

    @property
    def is_told_apart(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    @property
    def is_same(self) -> bool:
        """Whether both gave the same figures, seed by seed."""
        return self.low == self.high == 0.0


def spread(values: Sequence[float]) -> Spread:
    """Mean and deviation; NaN where there is nothing."""
    if not values:
        return Spread(0, math.nan, math.nan)
    mean = math.fsum(values) / len(values)
    return Spread(len(values), mean, deviation(values))


def deviation(values: Sequence[float]) -> float:
    """The sample's standard deviation; NaN of fewer than two."""
    if len(values) < 2:
        return math.nan
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((each - mean) ** 2 for each in values) / (len(values) - 1))


def interval(values: Sequence[float]) -> Interval:
    """The mean of figures and its 95 % interval, by Student's t.

    Raises:
        UsageError: SciPy is missing.
    """
    found = spread(values)
    if found.count < 2:
        return Interval(found.mean, math.nan, math.nan)
    try:
        from scipy import stats
    except ImportError:
        raise UsageError(f"intervals need SciPy; run {install('demo')}") from None
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, found.count - 1))
    reach = t * found.deviation / math.sqrt(found.count)
    return Interval(found.mean, found.mean - reach, found.mean + reach)


def paired(arm: Sequence[float], baseline: Sequence[float]) -> Paired:
    """Compares two arms seed by seed.

    Args:
        arm, baseline: figures of the same seeds, in the same order.

    Raises:
        UsageError: SciPy is missing.
    """
    differences = [one - other for one, other in zip(arm, baseline, strict=True)]
    found, width = interval(differences), deviation(differences)
    if math.isnan(found.low):
        return Paired(len(differences), found.mean, math.nan, math.nan, math.nan, math.nan)
    if width == 0.0:
        # the same difference at every seed
        effect, p = (math.copysign(math.inf, found.mean), 0.0) if found.mean else (0.0, 1.0)
    else:
        from scipy import stats

        effect, p = found.mean / width, float(stats.ttest_rel(arm, baseline).pvalue)
    return Paired(len(differences), found.mean, found.low, found.high, effect, p)
