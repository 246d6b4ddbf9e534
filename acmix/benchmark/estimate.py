"""How long a measurement of models will take, before any is built: their operations over this machine's rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import acmix
from acmix.benchmark.machine import Ceilings
from acmix.benchmark.pairs import LEAST_ROUNDS
from acmix.benchmark.record import counted
from acmix.benchmark.steps import CHECKED_IMAGES, CLASSES
from acmix.errors import UsageError
from acmix.models.count import cost_of
from acmix.models.registry import takes_img_size
from acmix.train.log import duration

# The share of a large product's rate at which models ran where we measured them: 0.33 to 0.87, slowest in training.
SHARE = 0.5
# a training step is a forward pass and two like it
STEPS = {"infer": 1, "train": 3}
WHAT = {"infer": "forward pass", "train": "training step"}
# a check takes the reference operators in float64, at half the rate, once more in its own format, and what is checked
CHECKS = 5
# warm-up, and the run whose memory is measured
BESIDE_ROUNDS = 3
# a process that measures begins with importing PyTorch and timm
START = 10.0
# torch.compile of a model, once to check it and once to time it: one or two minutes on the two cores where we saw it
COMPILE = 90.0
# without --seconds: for what comes before the pairs, for each of them, and the most
BEFORE, EACH, MOST = 20.0, 10.0, 600.0


@dataclass(frozen=True)
class Estimate:
    """What measuring takes, about.

    Args:
        name: the slowest model.
        step_seconds: of its training step or forward pass.
        units: how many pairs, or models alone, there are.
        least_seconds: of everything with one round a pair.
        full_seconds: of everything with five.
        start_seconds: of processes, a part of both.
        compile_seconds: of `torch.compile`, a part of both.
    """

    name: str
    step_seconds: float
    units: int
    least_seconds: float
    full_seconds: float
    start_seconds: float = 0.0
    compile_seconds: float = 0.0

    def seconds(self) -> float:
        """How long to measure by default."""
        return min(MOST, max(BEFORE + EACH * self.units, 1.2 * self.full_seconds))

    def line(self, phase: str, seconds: float) -> str:
        """What is expected, in a line."""
        slowest = f"about {seconds_of(self.step_seconds)} a {WHAT[phase]} of {self.name}, " * (self.step_seconds > 0)
        return f"{counted(self.units, 'measurement')}, {slowest}{duration(seconds)} at most; --seconds changes that"

    def check(self, seconds: float, phase: str, batch_size: int) -> None:
        """Refuses a time in which not even one round of every pair fits.

        Raises:
            UsageError: with the time that would do.
        """
        if self.least_seconds > seconds:
            wanted = 5 * math.ceil(1.2 * self.full_seconds / 5)
            step = f"a {WHAT[phase]} of {batch_size} images takes about {seconds_of(self.step_seconds)} here"
            beside = {"starting processes": self.start_seconds, "compiling": self.compile_seconds}
            start = "".join(f", {what} about {duration(taken)}" for what, taken in beside.items() if taken)
            raise UsageError(
                f"{self.name}: {step}{start}, too long for --seconds {seconds:g}; give --seconds {wanted}, or a "
                "smaller --batch-size"
            )


def seconds_of(seconds: float) -> str:
    """A step's time for a person to read."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)


def estimate(
    names: Sequence[str],
    *,
    phase: str,
    dtypes: Sequence[str],
    peers: int,
    batch_size: int,
    img_size: int,
    ceilings: Ceilings,
    compiled: bool = False,
    processes: int = 1,
) -> Estimate:
    """Counts what models compute and divides it by what this machine reaches.

    Args:
        names, phase, dtypes, batch_size, img_size, compiled, processes: as in `networks.benchmark_networks`.
        peers: how many there are of each model; each is taken to be as slow.
        ceilings: of this machine.
    """
    slowest, units, least, full, compiling = ("", 0.0), 0, 0.0, 0.0, 0.0
    for name in names:
        image_flops = STEPS[phase] * forward_flops(name, img_size)
        ours = name in acmix.list_models()
        # for inference also the folded form
        forms = 2 if ours and phase == "infer" and processes == 1 else 1
        for dtype in dtypes:
            image = image_flops / (SHARE * ceilings.flops_per_second[dtype] / processes)
            step = batch_size * image
            pairs = (forms * max(1, peers) if processes == 1 else 2) * (1 + compiled)
            sides = 2 if peers else 1
            compiling += (forms + peers) * COMPILE * compiled
            checks = (forms + peers) * (1 + compiled) * CHECKS * CHECKED_IMAGES * image * ours
            slowest, units = max(slowest, (name, step), key=lambda each: each[1]), units + pairs
            least += checks + pairs * sides * step * (BESIDE_ROUNDS + 1)
            full += checks + pairs * sides * step * (BESIDE_ROUNDS + LEAST_ROUNDS)
    start = 2 * START * len(names) * len(dtypes) if processes > 1 else 0.0
    beside = start + compiling
    return Estimate(*slowest, units, least + beside, full + beside, start, compiling)


def forward_flops(name: str, img_size: int) -> float:
    """Floating point operations of a forward pass of one image; 0 where a model cannot be counted without weights."""
    arguments: dict[str, Any] = {"img_size": img_size} if takes_img_size(name) else {}
    try:
        with torch.device("meta"):
            model = acmix.create_model(name, num_classes=CLASSES, **arguments)
        return 2e9 * cost_of(model, img_size).gmacs
    except (AssertionError, RuntimeError, ValueError, TypeError, NotImplementedError):
        # what is wrong with it is said where it is built
        return 0.0
