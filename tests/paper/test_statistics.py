"""Means, deviations and paired tests against SciPy's own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from acmix.paper.statistics import Interval, paired, signed, spread


def test_mean_and_deviation() -> None:
    values = [91.2, 90.1, 92.4]
    found = spread(values)
    assert (found.count, found.mean) == (3, pytest.approx(np.mean(values)))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert str(found) == "91.23 ± 1.15 (3)"


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_a_paired_comparison_is_scipy_s(count: int) -> None:
    # not above: every process that collects tests would pay for it
    from scipy import stats

    draw = np.random.default_rng(count)
    baseline = draw.normal(90, 1, count)
    arm = baseline + draw.normal(0.5, 0.3, count)
    found = paired([*arm], [*baseline])
    whole = stats.ttest_rel(arm, baseline)
    interval = whole.confidence_interval(0.95)
    assert found.count == count
    assert found.p == pytest.approx(whole.pvalue)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.effect == pytest.approx(np.mean(arm - baseline) / np.std(arm - baseline, ddof=1))
    assert found.is_told_apart == (whole.pvalue < 0.05)


def test_too_few_and_equal_differences() -> None:
    assert math.isnan(paired([], []).mean)
    one = paired([2.0], [1.0])
    assert (one.mean, one.is_told_apart) == (1.0, False)
    assert math.isnan(one.p)
    same = paired([1.0, 2.0], [1.0, 2.0])
    assert (same.mean, same.p, same.effect, same.is_told_apart) == (0.0, 1.0, 0.0, False)
    shifted = paired([2.0, 3.0], [1.0, 2.0])
    assert (shifted.low, shifted.high, shifted.is_told_apart) == (1.0, 1.0, True)


def test_no_number_is_hidden_by_its_decimals() -> None:
    assert [signed(each) for each in (1.234, -0.005, 0.0, -0.0)] == ["+1.23", "-0.01", "+0.00", "+0.00"]
    assert [signed(each) for each in (-0.0007123, 0.0049, -1e-17)] == ["-0.000712", "+0.0049", "+0.00"]
    assert signed(-0.0049, 3) == "-0.005"
    assert signed(math.inf) == "+inf"
    assert str(Interval(-0.0007, -0.0012, -0.0002)) == "-0.0007 (-0.0012 to -0.0002)"
    assert str(spread([90.0, 90.0001])) == "90.00 ± 7.07e-05 (2)"
