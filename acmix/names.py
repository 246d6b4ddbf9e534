"""How names of files, folders and classes are shown: unchanged, and always on one line.

File, folder and class names may hold line breaks, escape sequences of terminals, characters that turn the direction of
writing, and bytes that are no UTF-8 (which Python keeps as lone surrogates). This module imports nothing of ours; every
other may import it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

# control characters, line and paragraph separators, direction marks and overrides, the byte order mark, surrogates
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
SURROGATE = re.compile("[\ud800-\udfff]")
SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def shown(text: object) -> str:
    r"""The text for one line of a terminal or a page: `a\nb` for a line break, `\xff` for a byte that is no UTF-8.

    Everything else stays as it is. Text that was shown once does not change when it is shown again.
    """
    return UNSHOWABLE.sub(escaped, str(text))


def shortened(text: str, most: int) -> str:
    """Text of at most so many characters: of a longer one the beginning and the end, where the advice stands."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end - 3]} … {text[-end:]}"


def escaped(found: re.Match[str]) -> str:
    """One character as Python writes it; a byte that is no UTF-8 as that byte."""
    character = found[0]
    number = ord(character)
    # os.fsdecode keeps the byte 0xNN as U+DCNN
    number = number - 0xDC00 if 0xDC80 <= number <= 0xDCFF else number
    return SHORT.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")


def composed(name: str) -> str:
    """A name in the form in which é is one character: some systems keep it as two, which look the same."""
    return unicodedata.normalize("NFC", name)


def places(names: Sequence[str]) -> Callable[[str], int | None]:
    """What finds a name's place among others: the same name, else the first that is the same when composed."""
    exact: dict[str, int] = {}
    alike: dict[str, int] = {}
    for place, name in enumerate(names):
        exact.setdefault(name, place)
        alike.setdefault(composed(name), place)
    return lambda name: exact.get(name, alike.get(composed(name)))


def is_url(place: str) -> bool:
    """Whether a data folder is an address."""
    return "://" in place


def without_secrets(url: str) -> str:
    """A URL for messages and files: without a user and a password, and without what follows a question mark."""
    return re.sub(r"://[^/?#]*@", "://", re.split(r"[?#]", url, maxsplit=1)[0])


def to_json(value: Any, **options: Any) -> str:
    """JSON that every reader takes: strings without lone surrogates, which are bytes that are no UTF-8."""
    return json.dumps(whole(value), **options)


def whole(value: Any) -> Any:
    """The same value with every surrogate in its strings shown; JSON itself escapes what else is odd."""
    if isinstance(value, str):
        return SURROGATE.sub(escaped, value)
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [whole(item) for item in value]
    return value
