"""Where commands print: lines as they are, without markup, emoji codes or colours of their own.

`[/cat]` and `:smile:` are good names of folders; rich would read them as markup and as an emoji.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console

from acmix.names import shown


def new_console(**options: Any) -> Console:
    """A console that prints what it is given, and leaves line breaks to the terminal."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)


def say(console: Console, text: str) -> None:
    """Prints text as one line; line breaks and control characters in names are escaped."""
    console.print(shown(text))
