"""The one exception a user's own input can cause. This module imports nothing of ours; every other may import it."""


class UsageError(ValueError):
    """Says in one line what was wrong, what was expected and what to do next.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """
