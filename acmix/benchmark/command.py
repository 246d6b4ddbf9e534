"""What `acmix benchmark` does with its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from acmix.benchmark.machine import DTYPES
from acmix.benchmark.networks import PEERS, benchmark_networks
from acmix.benchmark.operators import benchmark_operators
from acmix.benchmark.pairs import Measurement
from acmix.benchmark.record import rows, write_rows
from acmix.benchmark.scaling import benchmark_train
from acmix.errors import UsageError

DEFAULT_MODEL = "acmix_swin_tiny_patch4_window7_224"


def models(
    phase: str,
    names: Sequence[str],
    *,
    processes: int = 1,
    batch_size: int | None = None,
    img_size: int = 224,
    against: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    seconds: float = 10.0,
    compiled: bool = False,
    plot: Path | None = None,
    csv: Path | None = None,
    say: Callable[[str], object] = print,
) -> bool:
    """Measures models: on one card and on N, or in turn with peers where there are any, or a plot is wanted.

    Args:
        phase: "train" or "infer".
        names: of models; ACmix-Swin-T by default.
        processes: N.
        batch_size, img_size: of a step.
        against: peers, "all" for all of them.
        dtypes: "fp32", "bf16"; by default what the device is best at, and fp32 beside peers.
        seconds, compiled, plot: as in `networks.benchmark_networks`.
        csv: a file for the figures.
        say: prints a line.

    Returns:
        Whether every result was right.

    Raises:
        UsageError: options that do not go together, or values that do not exist.
    """
    names = names or [DEFAULT_MODEL]
    check_dtypes(dtypes)
    if not against and plot is None:
        if compiled:
            raise UsageError("--compile measures pairs; add --against timm")
        if len(dtypes) > 1:
            raise UsageError("without --against one --dtype is measured at a time; leave the others out")
        benchmark_train(
            names,
            phase=phase,
            processes=processes,
            batch_size=batch_size,
            img_size=img_size,
            precision=dtypes[0] if dtypes else "auto",
            csv=csv,
            say=say,
        )
        return True
    if processes != 1:
        raise UsageError(
            f"--gpus {processes} with --against or --profile; pairs are measured on one card, leave it out"
        )
    measured = benchmark_networks(
        names,
        phase=phase,
        against=PEERS if "all" in against else against,
        dtypes=dtypes or ["fp32"],
        batch_size=batch_size,
        img_size=img_size,
        seconds=seconds,
        compiled=compiled,
        plot=plot,
        say=say,
    )
    return settled(measured, line=phase, csv=csv, say=say)


def operators(
    names: Sequence[str] = (),
    *,
    dtypes: Sequence[str] = (),
    batch_size: int = 8,
    seconds: float = 1.0,
    csv: Path | None = None,
    say: Callable[[str], object] = print,
) -> bool:
    """Measures operators in turn with the reference and PyTorch's own means.

    Args:
        names: of operators; all by default.
        dtypes: "fp32", "bf16"; fp32 by default.
        batch_size: images.
        seconds: how long a pair's rounds last.
        csv: a file for the figures.
        say: prints a line.

    Returns:
        Whether every result was right.

    Raises:
        UsageError: no such operator or format.
    """
    check_dtypes(dtypes)
    measured = benchmark_operators(names, dtypes=dtypes or ["fp32"], batch_size=batch_size, seconds=seconds, say=say)
    return settled(measured, line="ops", csv=csv, say=say)


def check_dtypes(dtypes: Sequence[str]) -> None:
    """Refuses formats that do not exist."""
    unknown = [dtype for dtype in dtypes if dtype not in DTYPES]
    if unknown:
        raise UsageError(f"--dtype {unknown[0]}; there are {', '.join(DTYPES)}")


def settled(
    measured: Sequence[Measurement], *, line: str, csv: Path | None, say: Callable[[str], object] = print
) -> bool:
    """Writes the figures where they are wanted; tells whether every result was right."""
    if csv is not None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        write_rows(rows(measured, line=line, device=device), csv)
        say(f"written to {csv}")
    wrong = sum(each.speed is None for each in measured)
    if wrong:
        say(f"{wrong} of {len(measured)} results are wrong; no speed was measured of those")
    return not wrong
