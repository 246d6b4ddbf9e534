"""How long a benchmark may take in all, what it is doing and how long is left.

Progress goes to standard error, a bar on a terminal and plain lines elsewhere, so that standard output is the result.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn

from acmix.train.log import duration
from acmix.train.terminal import new_console

# how far apart plain lines are, at least
PLAIN_SECONDS = 5.0


class Budget:
    """The seconds that a benchmark may take in all; everything that it does passes some of them.

    The bound is kept within one unit of work: what has begun (a check, a round of a pair) is brought to its end.

    Args:
        seconds: from now on.
        units: how many pairs share what is left.
        shown: whether to tell anyone.
    """

    def __init__(self, seconds: float, *, units: int = 1, shown: bool = True) -> None:
        self.seconds, self.units, self.shown = seconds, units, shown
        self.began = time.monotonic()
        self.done_units = self.short_units = self.left_out_units = 0
        self.missing_seconds = 0.0
        self.work, self.last_line = "", -math.inf
        console = new_console(stderr=True)
        self.is_live = shown and console.is_terminal
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]}"))
        # nothing is drawn while something is timed: a bar that refreshes itself would take turns with it
        self.progress = Progress(
            *columns,
            console=console,
            auto_refresh=False,
            disable=not self.is_live,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self.bar = self.progress.add_task("", total=seconds, left="")

    def __enter__(self) -> Budget:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def plan(self, units: int, seconds: float) -> None:
        """Says how many units there are and how long all may take, from when it was made."""
        self.units, self.seconds = units, seconds

    @property
    def passed(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds that are left, 0 where they are used up."""
        return max(0.0, self.seconds - self.passed)

    def share(self) -> float:
        """The seconds of the next unit: an equal part of what is left."""
        return self.left / max(1, self.units - self.done_units - self.left_out_units)

    def doing(self, work: str, detail: str = "") -> None:
        """Tells what is being done now; plain lines come when the work changes, and no closer than some seconds."""
        is_new, self.work = work != self.work, work
        if not self.shown:
            return
        said = f"{work}{f', {detail}' if detail else ''}"
        left = f"at most {duration(self.left)} left" if self.left else "time is up"
        if self.is_live:
            self.progress.update(self.bar, completed=self.passed, total=self.seconds, description=said, left=left)
            self.progress.refresh()
        elif self.passed - self.last_line >= PLAIN_SECONDS or (is_new and self.last_line < 0):
            self.last_line = self.passed
            print(f"{said} · {duration(self.passed)} passed, {left}", file=sys.stderr, flush=True)

    def begin(self, unit: str) -> bool:
        """Whether a unit may begin: the first always may, a later one while time is left."""
        if self.done_units and not self.left:
            self.left_out_units += 1
            return False
        self.doing(unit)
        return True

    def leave_out(self, units: int) -> None:
        """Counts units that are not even begun."""
        self.left_out_units += units

    def finish(self, *, missing_seconds: float = 0.0) -> None:
        """A unit is over; `missing_seconds` is what it would have taken beyond its share to be measured in full."""
        self.done_units += 1
        self.short_units += missing_seconds > 0
        self.missing_seconds += missing_seconds

    def remarks(self, least_rounds: int) -> list[str]:
        """What the bound cost: units with fewer rounds, units left out, and how long the whole would take."""
        if not self.short_units and not self.left_out_units:
            return []
        each = (self.passed + self.missing_seconds) / max(1, self.done_units)
        whole = self.passed + self.missing_seconds + self.left_out_units * each
        # with a margin, so that this remark does not come again
        wanted = 5 * math.ceil(1.2 * whole / 5)
        cost = []
        if self.short_units:
            cost.append(f"{self.short_units} of {self.units} measurements had fewer than {least_rounds} rounds")
        if self.left_out_units:
            cost.append(f"{self.left_out_units} of {self.units} were left out")
        return [f"{self.seconds:g} s were too short: {', '.join(cost)}; give --seconds {wanted}"]

    @contextmanager
    def handed_over(self) -> Iterator[None]:
        """Takes the bar away while another process draws its own."""
        self.progress.stop()
        try:
            yield
        finally:
            self.progress.start()
