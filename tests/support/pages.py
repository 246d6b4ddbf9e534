"""The blocks of code in a document, and the commands in a block of shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.paths import ROOT

PAGES = ["README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "acmix/ops/README.md"]
PAGES += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the document that it begins at."""

    language: str
    text: str
    line: int


def blocks(document: str) -> Iterator[Block]:
    """The fenced blocks of a document in Markdown, in order."""
    for match in FENCE.finditer(document):
        yield Block(match[1], match[2], document.count("\n", 0, match.start()) + 1)


def commands(shell: str) -> Iterator[str]:
    """The commands of a block of shell: lines, joined where a quotation or a backslash goes over the end of one."""
    begun = ""
    for line in shell.splitlines():
        begun = f"{begun}\n{line}" if begun else line
        if not begun.strip() or begun.lstrip().startswith("#"):
            begun = ""
        elif is_whole(begun):
            yield begun.replace("\\\n", " ")
            begun = ""
    assert not begun, f"a quotation is not closed: {begun}"


def is_whole(text: str) -> bool:
    """Whether every quotation is closed and no backslash ends the text."""
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return not text.endswith("\\")
