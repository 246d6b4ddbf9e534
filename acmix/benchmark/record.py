"""What was measured, as lines on the terminal and as rows of a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from acmix.benchmark.pairs import Measurement, Speed
from acmix.errors import UsageError
from acmix.train.files import make_place, write_atomically

COLUMNS: tuple[str, ...] = (
    "date",
    "commit",
    "machine",
    "torch",
    "timm",
    "line",
    "subject",
    "shape",
    "dtype",
    "phase",
    "images",
    "candidate",
    "peer",
    "rounds",
    "speed_up",
    "speed_up_low",
    "speed_up_high",
    "time_ms",
    "peer_time_ms",
    "images_per_second",
    "peak_mib",
    "peer_peak_mib",
    "flops_share",
    "bytes_share",
)
WRONG = "WRONG"


def lines(measured: Measurement) -> list[str]:
    """A measurement on the terminal; of a wrong one, what is wrong and no speed."""
    subject, speed = measured.subject, measured.speed
    beside = "" if measured.peer is None else f" beside {measured.peer}"
    head = (
        f"{subject.name} {subject.shape} {subject.dtype} batch {subject.images} {subject.phase}: "
        f"{measured.candidate}{beside}"
    )
    if speed is None:
        return [f"{head}  {WRONG}", *[f"    {fault}" for fault in measured.wrong]]
    compared = [] if speed.speed_up is None else [f"    {speed_up_of(measured, speed)}"]
    cells = [beside_peer(f"{speed.time_ms:.2f} ms", speed.peer_time_ms, ".2f")]
    cells.append(f"{speed.images_per_second:.1f} images/s")
    if speed.peak_mib is not None:
        cells.append(beside_peer(f"peak {speed.peak_mib:.3g} MiB", speed.peer_peak_mib, ".3g"))
    if speed.flops_share is not None:
        cells.append(f"{speed.flops_share:.0%} of FLOP/s")
    if speed.bytes_share is not None:
        cells.append(f"{speed.bytes_share:.0%} of bytes/s")
    return [head, *compared, "    " + " · ".join(cells)]


def speed_up_of(measured: Measurement, speed: Speed) -> str:
    """A speed-up, and in words what is divided by what; above 1, the candidate is faster."""
    spread = (
        f"quartiles {speed.speed_up_low:.2f} to {speed.speed_up_high:.2f}, "
        if speed.speed_up_low and speed.rounds > 1
        else ""
    )
    divided = f"time for an image, {measured.peer} ÷ {measured.candidate}"
    return f"speed-up over {measured.peer}: {speed.speed_up:.2f} ({divided}; {spread}{counted(speed.rounds, 'round')})"


def counted(number: int, what: str, plural: str = "s") -> str:
    """A number of things, `1 round` or `5 rounds`."""
    return f"{number} {what}{plural if number != 1 else ''}"


def beside_peer(ours: str, theirs: float | None, form: str) -> str:
    """A figure, and the peer's where there is one."""
    return ours if theirs is None else f"{ours} against {theirs:{form}}"


def rows(measured: Iterable[Measurement], *, line: str, device: torch.device) -> list[dict[str, Any]]:
    """Measurements with what it takes to read them later, one dictionary of `COLUMNS` each.

    Args:
        measured: what the engine gave.
        line: which part of a larger benchmark they belong to.
        device: where they were measured.
    """
    common = {**measured_with(device), "line": line}
    return [{**common, **row_of(each)} for each in measured]


def measured_with(device: torch.device) -> dict[str, str]:
    """When, of which commit, on what and with which versions a figure is measured: columns of every results file."""
    from acmix.train.log import provenance

    made = provenance(device)
    return dict(
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
        commit=made["commit"],
        machine=made["device"],
        torch=made["versions"]["torch"],
        timm=made["versions"]["timm"],
    )


def row_of(measured: Measurement) -> dict[str, Any]:
    """The cells of one measurement; the speed-up of a wrong one reads WRONG, and its other figures are empty."""
    subject = asdict(measured.subject)
    row: dict[str, Any] = {
        "subject": subject.pop("name"),
        **subject,
        "candidate": measured.candidate,
        "peer": measured.peer,
        **({} if measured.machine is None else {"machine": measured.machine}),
    }
    if measured.speed is None:
        return {**row, "speed_up": WRONG}
    return {**row, **{key: rounded(value) for key, value in asdict(measured.speed).items()}}


def rounded(value: float | None) -> float | None:
    """Four significant digits."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write_rows(rows: Sequence[dict[str, Any]], path: Path, *, replace_lines: Sequence[str] | None = None) -> None:
    """Writes rows under a line of names.

    Args:
        rows: dictionaries of `COLUMNS`.
        path: the file.
        replace_lines: leave the rows of other lines in the file as they are; by default the file is made anew.

    Raises:
        UsageError: the file cannot be written, or holds something else.
    """
    kept: list[dict[str, Any]] = []
    try:
        if replace_lines is not None and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if tuple(reader.fieldnames or COLUMNS) != COLUMNS:
                    raise UsageError(f"{path} is no table of speed; choose another file")
                kept = [row for row in reader if row["line"] not in replace_lines]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows([*kept, *rows])
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose another file") from error


def write_table(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]], key: Sequence[str] = ()) -> None:
    """Writes a table of columns of its own.

    Args:
        path: the file.
        columns: their names.
        rows: dictionaries of them.
        key: columns by which rows are told apart: others in the file stay as they are. Without, it is made anew.

    Raises:
        UsageError: the file cannot be written, or, with a key, holds something else.
    """
    there = read_table(path, columns) if key else []
    now = {tuple(str(row[each]) for each in key) for row in rows}
    kept = [row for row in there if tuple(row[each] for each in key) not in now]
    text = io.StringIO(newline="")
    writer: csv.DictWriter[str] = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows([*kept, *rows])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.getvalue().encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose another file") from error


def check_table(path: Path | None, columns: Sequence[str]) -> None:
    """Makes the folder of a table that is to be written later; None is no table.

    Raises:
        UsageError: something else is there already, or no file can be written there.
    """
    if path is None:
        return
    make_place(path)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no regular file; choose another name")
    read_table(path, columns)


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table of columns of its own; none where it is missing or empty.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    if not path.is_file() or not path.stat().st_size:
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            names = tuple(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path} cannot be read as a table ({why}); choose another file, or move it away") from None
    if names != tuple(columns) or any(None in row or None in row.values() for row in rows):
        raise UsageError(f"{path} is another table, or a damaged one; choose another file, or move it away")
    return rows
