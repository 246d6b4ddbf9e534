"""YAML in which numbers are numbers, each key stands once, and nothing is executed.

YAML 1.1, which PyYAML reads, takes 1e-3 and 1e5 for text, 010 for 8, 1:30 for 90 and 2026-01-31 for a date; here the
first three are 0.001, 100000.0 and 10, and the others text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

# bytes of a file of settings, values in it, and how deep one lies in others; an alias stands for all that it names
MOST_BYTES, MOST_VALUES, MOST_DEPTH = 2**20, 70_000, 50


class TooLarge(yaml.YAMLError):
    """A file is no YAML of ours for its size alone."""


class Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but for numbers, each key once in a mapping, no {key:value}, and with bounds."""

    values = depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As PyYAML, which calls itself for each value in another."""
        self.values, self.depth = self.values + 1, self.depth + 1
        check_bounds(self.values, self.depth, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> Any:
        """As PyYAML; what aliases stand for is counted before it is built."""
        node = super().get_single_node()
        if node is not None:
            expanded(node, {}, 1)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if key.tag == "tag:yaml.org,2002:str")
        if twice := next((key for key, times in keys.items() if times > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        if node.flow_style and (key := next((key.value for key, value in node.value if is_unspaced(key, value)), None)):
            said = f"{{{key}}} is a key without a value; put a space after the colon: {key.replace(':', ': ', 1)}"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
        return super().construct_mapping(node, deep=deep)


def check_bounds(values: int, depth: int, where: Any) -> None:
    """Refuses what no file of settings has.

    Raises:
        yaml.YAMLError: there are too many values, or they lie too deep.
    """
    if values > MOST_VALUES or depth > MOST_DEPTH:
        what = f"more than {MOST_VALUES:,} values" if values > MOST_VALUES else f"values more than {MOST_DEPTH} deep"
        raise yaml.constructor.ConstructorError(None, None, f"it holds {what}", where)


def expanded(node: yaml.Node, known: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """How many values a node stands for, and how deep they lie, with all that its aliases name.

    Args:
        node: of a document.
        known: what was found of other nodes, which is added to.
        depth: where it lies.

    Raises:
        yaml.YAMLError: there are too many or too deep ones, or it holds itself.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1, 1
    if id(node) not in known:
        # until its own are counted
        known[id(node)] = (0, 0)
        pairs: Any = node.value
        parts = [each for pair in pairs for each in pair] if isinstance(node, yaml.MappingNode) else pairs
        check_bounds(0, depth, node.start_mark)
        values, height = 1, 1
        for part in parts:
            more, deep = expanded(part, known, depth + 1)
            values, height = values + more, max(height, deep + 1)
            check_bounds(values, depth + height - 1, node.start_mark)
        known[id(node)] = (values, height)
    elif known[id(node)] == (0, 0):
        raise yaml.constructor.ConstructorError(None, None, "a value holds itself", node.start_mark)
    check_bounds(known[id(node)][0], depth + known[id(node)][1] - 1, node.start_mark)
    return known[id(node)]


def is_unspaced(key: yaml.Node, value: yaml.Node) -> bool:
    """Whether {key:value} stands in a mapping, which YAML takes for a key of that name without a value."""
    is_plain = isinstance(key, yaml.ScalarNode) and key.style is None and ":" in key.value.strip(":")
    return is_plain and isinstance(value, yaml.ScalarNode) and value.style is None and not value.value


class Dumper(yaml.SafeDumper):
    """Writes what `Loader`, and any reader of YAML 1.1, reads back: text that looks like a number in quotes."""


INTEGER, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
DIGITS, EXPONENT = "[0-9](?:_?[0-9])*", "(?:[eE][-+]?[0-9]+)"
WHOLE = re.compile(f"[-+]?(?:{DIGITS}|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)$")
REAL = re.compile(
    rf"[-+]?(?:(?:{DIGITS}\.(?:{DIGITS})?|\.{DIGITS}){EXPONENT}?|{DIGITS}{EXPONENT}|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)
replaced = (INTEGER, FLOAT, "tag:yaml.org,2002:timestamp")
Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] not in replaced]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for kind in (Loader, Dumper):
    kind.add_implicit_resolver(INTEGER, WHOLE, list("-+0123456789"))
    kind.add_implicit_resolver(FLOAT, REAL, list("-+.0123456789"))


def whole_number(loader: Loader, node: Any) -> int:
    """10, 010 and 1_000 in tens; 0x1F, 0o17 and 0b11 as they say."""
    text = loader.construct_scalar(node)
    return int(text, 0) if re.match("[-+]?0[xob]", text) else int(text)


Loader.add_constructor(INTEGER, whole_number)


def parse(text: str) -> Any:
    """Reads YAML, without executing anything; numbers in any usual spelling are numbers.

    Raises:
        yaml.YAMLError: it is none, or nested too deep to read.
    """
    try:
        return yaml.load(text, Loader)
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from None
    except (KeyError, AttributeError, IndexError, TypeError):
        # what PyYAML's constructors raise of `!!bool x`, `!!timestamp x` and `!!int ""`
        raise yaml.YAMLError("a value is not of the type that its tag names") from None


def read(path: Path) -> Any:
    """`parse` of a file.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
        TooLarge: it is larger than any file of settings.
        yaml.YAMLError: it is no YAML.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise TooLarge(f"it is larger than {MOST_BYTES // 2**20} MiB, more than a file of settings may be")
    return parse(content.decode("utf-8"))


def in_words(error: Exception, path: Path) -> str:
    """An error of `read` on one line, with the file's name where PyYAML has none."""
    return " ".join(str(error).split()).replace('"<unicode string>"', f'"{path.name}"')


def quoted(text: str) -> str:
    """Text as a YAML scalar in quotes, for an override."""
    return yaml.safe_dump(text, default_style='"', width=math.inf).strip()
