"""What `acmix benchmark` does with its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from acmix.benchmark.budget import Budget
from acmix.benchmark.estimate import estimate
from acmix.benchmark.machine import (
    PRODUCT_SECONDS,
    Ceilings,
    best_dtype,
    check_dtypes,
    check_img_size,
    check_seconds,
    default_device,
    measured_ceilings,
    why_slow,
)
from acmix.benchmark.networks import PEERS, benchmark_networks, check_arguments, default_batch_size
from acmix.benchmark.operators import benchmark_operators, check_operators, least_seconds, pairs_at, shapes
from acmix.benchmark.pairs import LEAST_ROUNDS, Measurement
from acmix.benchmark.record import rows, write_rows
from acmix.benchmark.scaling import check_processes
from acmix.errors import UsageError
from acmix.names import shown
from acmix.ops.dispatch import OPERATORS
from acmix.train.files import make_place
from acmix.train.log import duration

DEFAULT_MODEL = "acmix_swin_tiny_patch4_window7_224"
# without --seconds: for what comes before the operators, and for each of their pairs
BEFORE_OPERATORS, EACH_OPERATOR = 10.0, 1.0


def models(
    phase: str,
    names: Sequence[str],
    *,
    processes: int = 1,
    batch_size: int | None = None,
    img_size: int = 224,
    against: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    seconds: float | None = None,
    compiled: bool = False,
    plot: Path | None = None,
    csv: Path | None = None,
    force: bool = False,
    say: Callable[[str], object] = print,
) -> bool:
    """Measures models, alone or in turn with peers, on one card or on N.

    Args:
        phase: "train" or "infer".
        names: of models; ACmix-Swin-T by default.
        processes: N.
        against: peers, "all" for all of them.
        batch_size, img_size, dtypes, compiled, plot: as in `networks.benchmark_networks`.
        seconds: how long in all, from here to the last figure; by default as `estimate.Estimate.seconds` says.
        csv: a file for the figures.
        force: also measure formats in which this machine is slow.
        say: prints a line.

    Returns:
        Whether every result was right.

    Raises:
        UsageError: options that do not go together, values that do not exist, or a time in which nothing fits.
    """
    check_dtypes(dtypes)
    check_time(seconds)
    check_img_size(img_size)
    check_processes(processes)
    for file in (csv, plot):
        make_place(file)
    if processes != 1 and (against or compiled or plot is not None):
        raise UsageError(
            f"--gpus {processes} goes with none of --against, --compile and --profile; pairs are measured on one card"
        )
    device, names = default_device(), names or [DEFAULT_MODEL]
    peers = PEERS if "all" in against else against
    batch_size = default_batch_size(device) if batch_size is None else batch_size
    check_arguments(names, phase, peers, batch_size)
    with Budget(seconds or PRODUCT_SECONDS) as budget:
        ceilings, dtypes = look_ahead(dtypes or [best_dtype(device)], device, seconds, force, budget, say)
        need = estimate(
            names,
            phase=phase,
            dtypes=dtypes,
            peers=len(peers),
            batch_size=batch_size,
            img_size=img_size,
            ceilings=ceilings,
            compiled=compiled,
            processes=processes,
        )
        budget.plan(need.units, need.seconds() if seconds is None else seconds)
        need.check(budget.seconds, phase, batch_size)
        say(need.line(phase, budget.seconds))
        measured = benchmark_networks(
            names,
            phase=phase,
            processes=processes,
            against=peers,
            dtypes=dtypes,
            batch_size=batch_size,
            img_size=img_size,
            compiled=compiled,
            plot=plot,
            device=device,
            ceilings=ceilings,
            budget=budget,
            say=say,
        )
    return settled(measured, line=phase, csv=csv, budget=budget, say=say)


def operators(
    names: Sequence[str] = (),
    *,
    dtypes: Sequence[str] = (),
    batch_size: int = 8,
    seconds: float | None = None,
    csv: Path | None = None,
    force: bool = False,
    say: Callable[[str], object] = print,
) -> bool:
    """Measures operators in turn with the reference and PyTorch's own means.

    Args:
        names: of operators; all by default.
        dtypes: "fp32", "bf16"; fp32 by default.
        batch_size: images.
        seconds: how long in all; by default 10, and 1 for each pair.
        csv: a file for the figures.
        force: also measure formats in which this machine is slow.
        say: prints a line.

    Returns:
        Whether every result was right.

    Raises:
        UsageError: no such operator or format, or a time in which nothing fits.
    """
    check_dtypes(dtypes)
    check_time(seconds)
    check_operators(names, batch_size)
    make_place(csv)
    device = default_device()
    with Budget(seconds or PRODUCT_SECONDS) as budget:
        ceilings, dtypes = look_ahead(dtypes or ["fp32"], device, seconds, force, budget, say)
        found = [shape for name in names or OPERATORS for shape in shapes(name)]
        units = len(dtypes) * sum(pairs_at(shape.operator) for shape in found)
        budget.plan(units, BEFORE_OPERATORS + EACH_OPERATOR * units if seconds is None else seconds)
        least = least_seconds(found[0], batch_size, device)
        if least > budget.seconds:
            raise UsageError(
                f"{found[0].operator} at {found[0].name}: checking {batch_size} images and one round take about "
                f"{duration(least)}, too long for --seconds {budget.seconds:g}; give more, or a smaller --batch-size"
            )
        say(f"{units} pairs at {len(found)} shapes, {duration(budget.seconds)} at most")
        measured = benchmark_operators(
            names,
            dtypes=dtypes,
            batch_size=batch_size,
            device=device,
            ceilings=ceilings,
            budget=budget,
            say=say,
        )
    return settled(measured, line="ops", csv=csv, budget=budget, say=say)


def look_ahead(
    dtypes: Sequence[str],
    device: torch.device,
    seconds: float | None,
    force: bool,
    budget: Budget,
    say: Callable[[str], object],
) -> tuple[Ceilings, list[str]]:
    """Measures the ceilings of this machine, shortly, and leaves out formats in which it is slow, with a line.

    Raises:
        UsageError: no format is left.
    """
    budget.doing("ceilings of this machine")
    limit = PRODUCT_SECONDS if seconds is None else min(PRODUCT_SECONDS, seconds / 20)
    ceilings = measured_ceilings(device, list(dict.fromkeys(["fp32", *dtypes])), say, seconds=limit)
    kept = []
    for dtype in dict.fromkeys(dtypes):
        reason = why_slow(dtype, ceilings, device)
        if reason is None or force:
            kept.append(dtype)
            continue
        said = f"{dtype} is left out: {reason}; --force measures it nevertheless"
        if len(set(dtypes)) == 1:
            raise UsageError(said)
        say(said)
    return ceilings, kept


def check_time(seconds: float | None) -> None:
    """Refuses a bound that no command can keep."""
    if seconds is not None:
        check_seconds(seconds)


def settled(
    measured: Sequence[Measurement],
    *,
    line: str,
    csv: Path | None,
    budget: Budget,
    say: Callable[[str], object] = print,
) -> bool:
    """Writes the figures where they are wanted and says what time was too short for; whether every result was right."""
    for remark in budget.remarks(LEAST_ROUNDS):
        say(remark)
    if csv is not None:
        write_rows(rows(measured, line=line, device=default_device()), csv)
        say(f"written to {shown(csv)}")
    wrong = sum(each.speed is None for each in measured)
    if wrong:
        say(f"{wrong} of {len(measured)} results are wrong; no speed was measured of those")
    return not wrong
