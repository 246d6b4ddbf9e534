"""Signals that come within a step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from acmix.train.step import Step


@contextmanager
def signal_within_step(step: int, number: int) -> Iterator[None]:
    """Sends this very process a signal while a run computes a step, counted from 1."""

    def take(each: Step, batches: list[object]) -> object:
        if each.state.step + 1 == step:
            os.kill(os.getpid(), number)
        return plain(each, batches)

    plain = Step.take
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "take", take)
        yield
