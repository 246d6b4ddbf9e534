"""The one exception a user's own input can cause. Every module may import it."""

from __future__ import annotations

from acmix.names import shortened, shown

# characters of a line; a value in it may be as long as its file
LONGEST = 2000


class UsageError(ValueError):
    """Says in one line what was wrong, what was expected and what to do next.

    The command line prints the message alone, without a traceback, and exits with status 2. Names in the message may
    hold anything; the line is safe to print, and its middle is left out where it would be longer than `LONGEST`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(shown(shortened(message, LONGEST)), LONGEST))
