"""What `acmix benchmark` does with its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from acmix.benchmark.machine import check_dtypes, check_img_size, check_seconds, default_device
from acmix.benchmark.networks import PEERS, benchmark_networks
from acmix.benchmark.operators import benchmark_operators
from acmix.benchmark.pairs import Measurement
from acmix.benchmark.record import rows, write_rows
from acmix.errors import UsageError
from acmix.names import shown
from acmix.train.files import make_place

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
    """Measures models, alone or in turn with peers, on one card or on N.

    Args:
        phase: "train" or "infer".
        names: of models; ACmix-Swin-T by default.
        processes: N.
        against: peers, "all" for all of them.
        batch_size, img_size, dtypes, seconds, compiled, plot: as in `networks.benchmark_networks`.
        csv: a file for the figures.
        say: prints a line.

    Returns:
        Whether every result was right.

    Raises:
        UsageError: options that do not go together, or values that do not exist.
    """
    check_dtypes(dtypes)
    check_seconds(seconds)
    check_img_size(img_size)
    for file in (csv, plot):
        make_place(file)
    if processes != 1 and (against or compiled or plot is not None):
        raise UsageError(
            f"--gpus {processes} goes with none of --against, --compile and --profile; pairs are measured on one card"
        )
    measured = benchmark_networks(
        names or [DEFAULT_MODEL],
        phase=phase,
        processes=processes,
        against=PEERS if "all" in against else against,
        dtypes=dtypes,
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
    check_seconds(seconds)
    make_place(csv)
    measured = benchmark_operators(names, dtypes=dtypes or ["fp32"], batch_size=batch_size, seconds=seconds, say=say)
    return settled(measured, line="ops", csv=csv, say=say)


def settled(
    measured: Sequence[Measurement], *, line: str, csv: Path | None, say: Callable[[str], object] = print
) -> bool:
    """Writes the figures where they are wanted; tells whether every result was right."""
    if csv is not None:
        write_rows(rows(measured, line=line, device=default_device()), csv)
        say(f"written to {shown(csv)}")
    wrong = sum(each.speed is None for each in measured)
    if wrong:
        say(f"{wrong} of {len(measured)} results are wrong; no speed was measured of those")
    return not wrong
