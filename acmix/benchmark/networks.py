"""Whole models: inference, or a training step as the published recipe has it, alone or beside peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import timm
import torch

import acmix
from acmix.benchmark import scaling, where
from acmix.benchmark.contestants import compare_networks, contestants, memory_suffices, peer_of, profile
from acmix.benchmark.machine import Ceilings, best_dtype, check_batch_size, default_device, measured_ceilings
from acmix.benchmark.pairs import Measurement
from acmix.benchmark.steps import Contestant, Setting
from acmix.errors import UsageError
from acmix.near import did_you_mean

if TYPE_CHECKING:
    from acmix.benchmark.budget import Budget

PEERS = ("timm", "plain", "reference")
# on a GPU that of the published recipe
BATCH_SIZES = {"cpu": 8, "cuda": 128}


def benchmark_networks(
    names: Sequence[str],
    *,
    phase: str,
    processes: int = 1,
    against: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    batch_size: int | None = None,
    img_size: int = 224,
    seconds: float = 10.0,
    compiled: bool = False,
    plot: Path | None = None,
    device: torch.device | None = None,
    ceilings: Ceilings | None = None,
    budget: Budget | None = None,
    say: Callable[[str], object] = print,
) -> list[Measurement]:
    """Checks models, measures them, alone or in turn with peers, and prints the original recipe's table.

    Args:
        names: of this library's models; without peers, of timm's as well.
        phase: "infer", or "train"; see `steps.runner`.
        processes: N; where it is more than one, models are measured on one card and on N, without peers.
        against: "timm", its plain model of the same name; "plain", ours without the convolution path; "reference", the
            same model with the reference operators.
        dtypes: "fp32", and "bf16" under autocast; by default what training takes on the device.
        batch_size: images a card and step; 8 on a CPU and 128 on a GPU by default.
        img_size: side of the square images in pixels.
        seconds: how long the rounds of a pair, or of a model alone, last.
        compiled: also measure under `torch.compile`, both sides.
        plot: also profile, print where the time goes, and draw it into this file.
        device: the GPU where there is one, by default.
        ceilings: of this machine; measured first by default.
        budget: instead of `seconds`: every pair gets its share of it, and at least one round if it is the first.
        say: prints a line.

    Returns:
        The measurements. Where a result is wrong, its measurement has no speed.

    Raises:
        UsageError: a name or peer that does not exist, more processes than GPUs, a batch that does not fit into memory.
    """
    device = device or default_device()
    batch_size = default_batch_size(device) if batch_size is None else batch_size
    dtypes = dtypes or (best_dtype(device),)
    check_arguments(names, phase, against, batch_size)
    scaling.announce(processes, say)
    if processes == 1:
        ceilings = ceilings or measured_ceilings(device, dtypes, say)
    measured: list[Measurement] = []
    for name in names:
        spent: dict[str, dict[str, float]] = {}
        for dtype in dtypes:
            setting = Setting(phase, dtype, batch_size, img_size, device)
            if processes > 1:
                found = scaling.measure(name, setting, processes, seconds, say, budget)
            elif budget is not None and budget.done_units and not budget.left:
                budget.leave_out(len(against) or 1)
                continue
            else:
                assert ceilings is not None
                if budget is not None:
                    budget.doing(f"{name} {dtype}, building")
                with memory_suffices(name, batch_size):
                    ours = contestants(name, setting)
                    peers = [peer for each in against if (peer := peer_of(ours[0], name, each, setting, say))]
                    found = compare_networks(
                        name,
                        ours,
                        peers,
                        setting,
                        ceilings=ceilings,
                        seconds=seconds,
                        compiled=compiled,
                        budget=budget,
                        say=say,
                    )
                    if plot is not None:
                        spent |= profiles([*ours[:1], *peers], setting, budget)
            for line in scaling.recipe_table(found, processes):
                say(line)
            measured += found
        if plot is not None and spent:
            for line in where.table(spent):
                say(line)
            file = plot if len(names) == 1 else plot.with_stem(f"{plot.stem}_{name}")
            where.save_plot(spent, f"{name}, {phase}, batch {batch_size}", file)
            say(f"drawn: {file}")
    return measured


def profiles(
    each_side: Sequence[Contestant], setting: Setting, budget: Budget | None = None
) -> dict[str, dict[str, float]]:
    """Where the time of several models goes; over fewer runs where time is up."""
    spent = {}
    for each in each_side:
        if budget is not None:
            budget.doing(f"profile of {each.name} {setting.dtype}")
        runs = where.RUNS if budget is None or budget.left else 1
        spent[f"{each.name} {setting.dtype}"] = profile(each, setting, runs)
    return spent


def default_batch_size(device: torch.device) -> int:
    """Images a card and step."""
    return BATCH_SIZES.get(device.type, 8)


def check_arguments(names: Sequence[str], phase: str, against: Sequence[str], batch_size: int) -> None:
    """Refuses what cannot be measured before anything is built."""
    if not names:
        raise UsageError(f"no model to measure; name one, for example {acmix.list_models()[0]}")
    for name in names:
        if name not in acmix.list_models() and (against or not timm.is_model(name)):
            hint = did_you_mean(name, acmix.list_models(), otherwise="`acmix models` lists them")
            raise UsageError(f"no model {name!r} in this library; {hint}")
    for peer in against:
        if peer not in PEERS:
            hint = did_you_mean(peer, PEERS)
            raise UsageError(f"no peer {peer!r}; {hint}{' ' * bool(hint)}expected one of {', '.join(PEERS)}, or all")
    check_batch_size(batch_size)
    if phase == "train" and batch_size % 2:
        raise UsageError(f"batch size {batch_size}: mixup mixes images in pairs; choose an even number from 2 up")
