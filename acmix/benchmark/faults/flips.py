"""Damaged checkpoints of a real run through every command that reads one: seen, or used as if whole."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from acmix.benchmark.faults.forked import Forked, command, run
from acmix.benchmark.faults.record import Case, Kept, by_kind, row
from acmix.benchmark.small_runs import Setting, data_of
from acmix.errors import UsageError
from acmix.released.digest import digest_of
from acmix.released.safe_load import safe_load
from acmix.train.checkpoint import check

CONVERTED = "best.safetensors"
FILES = ("last.pt", "best.pt", CONVERTED)
WANTED = ("seen", "same content")


def flips(setting: Setting, folder: Path, kept: Kept, cases: int) -> list[dict[str, Any]]:
    """Damages copies of the undisturbed run's checkpoints, half by one bit and half by their end.

    Returns:
        A row for each kind of damage to each file, and one for each command.
    """
    whole = folder / "flips" / "whole"
    if not (whole / CONVERTED).is_file():
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(setting.whole, whole)
        for older in (whole / "checkpoints").glob("*-1.pt"):
            older.unlink()
        best = whole / "checkpoints" / "best.pt"
        ended = run(["convert", best, whole / CONVERTED], folder / "flips" / "said")
        if ended.status:
            raise UsageError(f"the checkpoint cannot be converted: {ended.line}")
    found = kept.each("flips", cases, partial(one, setting, folder, whole))
    rows = by_kind("flips", found, WANTED)
    for name in dict.fromkeys(name for case in found for name in case.by):
        with_it = [case for case in found if name in case.by]
        of_it = [Case(name, case.by[name][:1], case.by[name][1]) for case in with_it]
        # the line of a damage, not what a command says of a file whose content is the same
        line = next((case.line for case in of_it if case.outcomes == ["seen"]), "")
        rows.append(row("flips", f"acmix {name}", of_it, WANTED, line=line.replace(str(folder), "DIR")))
        print(f"  {name}: {line}")
    return rows


def one(setting: Setting, folder: Path, whole: Path, number: int) -> Case:
    """Damages one copy and sends it through the commands."""
    draw = random.Random(f"flips {number}")
    name, place = FILES[number // 2 % len(FILES)], folder / "flips" / "case"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place / "run")
    file = place / "run" / name if name == CONVERTED else place / "run" / "checkpoints" / name
    original = safe_load(file)
    how = damage(file, draw, "flipped" if number % 2 == 0 else "truncated")
    is_same = content_is(file, original)
    case = Case(f"{name} {how.split()[0]}", [], how)
    for tried, call in commands_on(file, setting, folder, place).items():
        ended = Forked(call, place / "said").finish()
        if ended.is_traceback:
            outcome = "traceback"
        elif ended.status or says_so(ended.said):
            outcome = "seen"
        else:
            outcome = "same content" if is_same else "not seen"
        line = telling(ended.said) if outcome == "seen" else ended.line
        case.outcomes.append(outcome)
        case.by[tried] = [outcome, line]
    return case


def damage(file: Path, draw: random.Random, how: str) -> str:
    """Flips one bit, cuts a file's end off or empties it; says what it did."""
    content = bytearray(file.read_bytes())
    if how == "flipped":
        at, bit = draw.randrange(len(content)), draw.randrange(8)
        content[at] ^= 1 << bit
        said = f"flipped bit {bit} of byte {at} of {len(content)}"
    elif how == "truncated":
        left = draw.randrange(1, len(content))
        said, content = f"truncated to {left} of {len(content)} bytes", content[:left]
    else:
        said, content = "emptied", bytearray()
    file.write_bytes(content)
    return said


def content_is(file: Path, original: dict[str, Any]) -> bool:
    """Whether a damaged file still holds what it held: some bytes of an archive mean nothing."""
    try:
        content = safe_load(file)
        check(content, file)
    except UsageError:
        return False
    return digest_of(content) == digest_of(original)


def says_so(said: str) -> bool:
    """Whether a command that went on told of the damage."""
    return any(word in said for word in ("is damaged", "is truncated", "is empty", "not a checkpoint", "not as acmix"))


def telling(said: str) -> str:
    """The line that tells of the damage, else the last."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    return next((line for line in lines if says_so(line)), lines[-1] if lines else "")


def commands_on(file: Path, setting: Setting, folder: Path, place: Path) -> dict[str, Callable[[], object]]:
    """The calls that read a file, by name."""
    data = data_of(setting.kind, folder)
    image = sorted((data / "val").glob("*/*"))[0]
    again = ["train", setting.config, "--data", data, *setting.overrides]
    # in a run's folder it would stand for the run, whose log tells all that is compared
    whole, alone = folder / "flips" / "whole", Path(shutil.copy(file, place))
    calls: dict[str, Callable[[], object]] = {
        "predict": command(["predict", file, image]),
        "evaluate": command(["evaluate", file, "--data", data, "--workers", "0"]),
        "convert": command(["convert", file, place / "converted.pt"]),
        "rates": command(["rates", file, "--plot", place / "rates.png"]),
        "compare": command(["compare", whole, alone, "--output", place / "compared.html"]),
        "load": partial(load, file),
        "train model.checkpoint": command([*again, "--output", place / "new", f"model.checkpoint={file}"]),
    }
    if file.name == CONVERTED:
        return calls
    here = place / "run"
    calls["train"] = command([*again, "--output", here, "train.epochs=4", "train.keep_checkpoints=1"])
    if file.name == "best.pt":
        # of a run, the page is on best.pt; the loops before may have written another one
        calls = {"report": command(["report", here, "--data", data]), **calls}
    return calls


def load(file: Path) -> None:
    """`acmix.load`, as a command's body."""
    import acmix

    acmix.load(file)
