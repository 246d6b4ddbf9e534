"""What became of each case, kept as it comes, and the rows that are made of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acmix.benchmark.record import write_table

COLUMNS = ("machine", "name", "what", "cases", "as_wanted", "outcomes", "line")


@dataclass
class Case:
    """What became of one.

    Args:
        what: the kind of case, of which there is a row.
        outcomes: what came of it, a word for each thing that was tried.
        line: what was said, if anything.
        seconds: what was measured; 0 where nothing was.
        by: outcomes by what was tried, and lines by it.
    """

    what: str
    outcomes: list[str]
    line: str = ""
    seconds: float = 0.0
    by: dict[str, list[str]] = field(default_factory=dict)


class Kept:
    """Cases in a file, a line each.

    Args:
        file: the same for all names.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def of(self, name: str) -> dict[int, Case]:
        """The cases of a name that are done, by number."""
        found: dict[int, Case] = {}
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else ():
            record = json.loads(line)
            number = record.pop("number")
            if record.pop("name") == name:
                found[number] = Case(**record)
        return found

    def each(self, name: str, cases: int, do: Callable[[int], Case]) -> list[Case]:
        """Does those of so many cases that are not done, keeps each, and gives all."""
        done = self.of(name)
        for number in range(cases):
            if number in done:
                continue
            done[number] = case = do(number)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, "number": number, **vars(case)}) + "\n")
            print(f"{name} {number + 1}/{cases} · {case.what} · {told(case.outcomes)} {case.line}".rstrip(), flush=True)
        return [done[number] for number in range(cases)]


def told(outcomes: Iterable[str]) -> str:
    """Words and how often each came, the most frequent first."""
    return "; ".join(f"{word} {count}" for word, count in Counter(outcomes).most_common())


def row(
    name: str, what: str, cases: Sequence[Case], wanted: Sequence[str], *, note: str = "", line: str = ""
) -> dict[str, Any]:
    """A row of the table.

    Args:
        name: which fault.
        what: which kind of it.
        cases: of this kind.
        wanted: the outcomes that are as they should be.
        note: what else was found, behind the outcomes.
        line: that was said; by default, of the first case that has one.
    """
    outcomes = [outcome for case in cases for outcome in case.outcomes]
    return {
        "name": name,
        "what": what,
        "cases": len(cases),
        "as_wanted": sum(all(outcome in wanted for outcome in case.outcomes) for case in cases),
        "outcomes": "; ".join(part for part in (told(outcomes), note) if part),
        "line": line or next((case.line for case in cases if case.line), ""),
    }


def by_kind(
    name: str, cases: Sequence[Case], wanted: Sequence[str], note: Callable[[list[Case]], str] = lambda cases: ""
) -> list[dict[str, Any]]:
    """A row for each kind of case."""
    kinds = dict.fromkeys(case.what for case in cases)
    of_kind = {kind: [case for case in cases if case.what == kind] for kind in kinds}
    return [row(name, kind, found, wanted, note=note(found)) for kind, found in of_kind.items()]


def write_rows(file: Path, rows: Sequence[dict[str, Any]], machine: str) -> None:
    """Writes a table, in which rows of other names stay as they are."""
    write_table(file, COLUMNS, [{"machine": machine, **each} for each in rows], key=("name",))
