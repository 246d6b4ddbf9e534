"""The sides of a comparison of models: ours, its peers, and each as the engine of pairs takes it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import acmix
from acmix.benchmark import where
from acmix.benchmark.checks import faults
from acmix.benchmark.machine import Ceilings
from acmix.benchmark.pairs import Candidate, Measurement, Subject, compare
from acmix.benchmark.record import lines
from acmix.benchmark.steps import Contestant, Setting, build, runner
from acmix.errors import UsageError

if TYPE_CHECKING:
    from acmix.benchmark.budget import Budget

OURS = "acmix"


def contestants(name: str, setting: Setting) -> list[Contestant]:
    """Our model, and for inference its folded form; a model of timm's is taken as it comes."""
    model = build(name, setting)
    if name not in acmix.list_models():
        return [Contestant("timm", model)]
    ours = [Contestant(OURS, model, original=model)]
    if setting.phase == "infer":
        folded = acmix.fold(copy.deepcopy(model).eval())
        ours.append(Contestant(f"{OURS} folded", folded, original=model))
    return ours


def peer_of(
    ours: Contestant, name: str, peer: str, setting: Setting, say: Callable[[str], object] = print
) -> Contestant | None:
    """What a model is measured beside; None, and a line that says so, where timm has no such model."""
    if peer == "reference":
        return Contestant(peer, ours.model, implementation="reference")
    if peer == "plain":
        model = build(name, setting, conv_path=False)
        return Contestant(peer, model, original=model)
    theirs = name.removeprefix("acmix_")
    if theirs not in timm.list_models():
        say(f"timm has no {theirs}; {name} is not measured beside it")
        return None
    return Contestant(peer, build(theirs, setting))


def compare_networks(
    name: str,
    ours: Sequence[Contestant],
    peers: Sequence[Contestant],
    setting: Setting,
    *,
    ceilings: Ceilings,
    seconds: float,
    compiled: bool = False,
    budget: Budget | None = None,
    say: Callable[[str], object] = print,
) -> list[Measurement]:
    """Checks models, each once, and only then times each of ours, in turn with each of its peers or alone.

    Args:
        name: of the model.
        ours, peers: A and B.
        setting: how they are run.
        ceilings: of this machine.
        seconds: how long the rounds of a pair last.
        compiled: also measure them under `torch.compile`, both sides.
        budget: instead of `seconds`: every pair gets its share of it.
        say: prints a line.
    """
    measured = []
    for both in (False, True)[: 1 + compiled]:
        subject = subject_of(name, setting, compiled=both)
        work = f"{name} {setting.dtype}, {'compiling and ' * both}checking"
        if budget is not None and not budget.begin(work):
            budget.leave_out(max(1, len(ours) * max(1, len(peers))) - 1)
            continue
        sides = [[replace(each, compiled=both or each.compiled) for each in side] for side in (ours, peers)]
        # all checks come first: a training step moves the statistics of batch norms
        found = {id(each): faults(each, setting) for side in sides for each in side}
        first = [candidate(each, setting, found[id(each)], counted=True) for each in sides[0]]
        second = [candidate(each, setting, found[id(each)]) for each in sides[1]]
        for a, b in product(first, second or [None]):
            beside = "" if b is None else f" beside {b.name}"
            if budget is not None and not budget.begin(f"{name} {setting.dtype}, {a.name}{beside}"):
                continue
            measured.append(
                compare(subject, a, b, ceilings=ceilings, device=setting.device, seconds=seconds, budget=budget)
            )
            for line in lines(measured[-1]):
                say(line)
    return measured


def subject_of(name: str, setting: Setting, *, compiled: bool = False) -> Subject:
    """What a model's row says of it."""
    shape = f"{setting.img_size}x{setting.img_size}" + " compiled" * compiled
    return Subject(name, shape, setting.dtype, setting.phase, setting.batch_size)


def candidate(contestant: Contestant, setting: Setting, wrong: Sequence[str], *, counted: bool = False) -> Candidate:
    """A model as the engine takes it, its operations counted where that is asked; one that is wrong is not run."""
    if wrong:
        return Candidate(contestant.name, lambda: None, lambda: wrong)
    run, resident = runner(contestant, setting)
    flops = None
    if counted:
        with FlopCounterMode(display=False) as counter:
            runner(replace(contestant, compiled=False), setting)[0]()
        flops = counter.get_total_flops() or None
    return Candidate(contestant.name, run, lambda: wrong, flops=flops, resident_mib=resident)


def profile(contestant: Contestant, setting: Setting, runs: int = where.RUNS) -> dict[str, float]:
    """Milliseconds in each group of operators, over so many runs; see `where`."""
    run, _ = runner(contestant, setting)
    return where.time_by_group(run, setting.device, runs)


@contextmanager
def memory_suffices(name: str, batch_size: int) -> Iterator[None]:
    """Says in one line that a batch is too large for the card."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UsageError(f"{name}: a batch of {batch_size} does not fit into memory; take less") from None
