"""The end of commands that write aside: at the first signal, with its status, whatever libraries make of it."""

from __future__ import annotations

import signal

import pytest

from tests.support.processes import python

BEGIN = """
import os, signal, sys, time
from acmix.tools import guard
from acmix.tools.guard import clearing_up, guarded

def tell(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(0.01)

@clearing_up()
def command():
    try:
        work()
    finally:
        print("cleared", flush=True)
"""


@pytest.mark.parametrize(
    ("work", "said"),
    [
        # as it is
        ("tell(signal.SIGTERM)", "cleared"),
        # another error is made of it
        ("try: tell(signal.SIGTERM)\n    except BaseException: raise ValueError('no graph') from None", "cleared"),
        # it is dropped, and the command goes on to its end
        ("try: tell(signal.SIGTERM)\n    except BaseException: pass", "cleared"),
        # others follow while it clears up
        ("try: tell(signal.SIGTERM)\n    finally: tell(signal.SIGHUP, signal.SIGTERM, signal.SIGINT)", "cleared"),
        # asked again much later, where the first was dropped
        (
            "guard.SAME_REQUEST_SECONDS = 0\n    try: tell(signal.SIGTERM)\n    except BaseException: pass\n"
            "    tell(signal.SIGTERM); print('went on')",
            "",
        ),
    ],
)
def test_the_first_signal_ends_a_command(work: str, said: str) -> None:
    end = python(f"{BEGIN}\ndef work():\n    {work}\n\nguarded(command)")
    assert (end.status, end.output.strip(), end.errors) == (128 + signal.SIGTERM, said, "")


def test_without_a_signal_nothing_changes() -> None:
    end = python(
        f"{BEGIN}\nwork = int\ncommand()\nassert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\nprint('after')"
    )
    assert (end.status, end.output.split(), end.errors) == (0, ["cleared", "after"], "")
