"""What a run measures of its steps: each record covers the steps since the last, an epoch's covers all of its."""

from __future__ import annotations

import pytest
import torch

from acmix.train import meter as measured
from acmix.train.meter import Meter

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that a meter sees; it moves when told."""
    now = [100.0]
    monkeypatch.setattr(measured.time, "monotonic", lambda: now[0])
    return now


def take_steps(meter: Meter, clock: list[float], *losses: float, begin: int = 1) -> None:
    """Steps of 8 images that take two seconds each."""
    for step, loss in enumerate(losses, begin):
        clock[0] += 2.0
        value = torch.tensor(loss)
        meter.add({"loss": value}, 10 * value, value.isfinite(), step=step, images=8)


def test_a_record_is_the_mean_of_the_steps_since_the_last_with_the_last_norm(clock: list[float]) -> None:
    meter = Meter(CPU)
    take_steps(meter, clock, 1.0, 3.0)
    assert meter.read() == ({"loss": 2.0}, pytest.approx(30.0), pytest.approx(4.0))
    take_steps(meter, clock, 5.0)
    clock[0] += 2.0
    assert meter.read() == ({"loss": 5.0}, pytest.approx(50.0), pytest.approx(2.0))


def test_an_epoch_covers_all_of_its_steps_and_those_from_before_a_stop(clock: list[float]) -> None:
    meter, resumed = Meter(CPU), Meter(CPU)
    take_steps(meter, clock, 1.0, 3.0)
    meter.read()
    take_steps(meter, clock, 5.0)
    assert meter.whole_epoch(8) == pytest.approx((3.0, 6.0, 4.0))
    resumed.load_state(meter.state())
    resumed.start()
    take_steps(resumed, clock, 7.0)
    assert resumed.whole_epoch(8) == pytest.approx((4.0, 8.0, 4.0))
    resumed.start_epoch()
    take_steps(resumed, clock, 2.0)
    assert resumed.whole_epoch(8)[:2] == pytest.approx((2.0, 2.0))


def test_the_first_step_that_was_not_finite_is_kept(clock: list[float]) -> None:
    meter = Meter(CPU)
    take_steps(meter, clock, 1.0)
    assert meter.first_bad_step() == 0
    take_steps(meter, clock, float("nan"), 1.0, float("inf"), begin=2)
    assert meter.first_bad_step() == 2
