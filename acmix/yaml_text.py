"""YAML in which numbers are numbers, each key stands once, and nothing is executed.

YAML 1.1, which PyYAML reads, takes 1e-3 and 1e5 for text, 010 for 8, 1:30 for 90 and 2026-01-31 for a date; here the
first three are 0.001, 100000.0 and 10, and the others text.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but for numbers, each key once in a mapping, and no {key:value}."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag == "tag:yaml.org,2002:str"]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        if node.flow_style and (key := next((key.value for key, value in node.value if is_unspaced(key, value)), None)):
            said = f"{{{key}}} is a key without a value; put a space after the colon: {key.replace(':', ': ', 1)}"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
        return super().construct_mapping(node, deep=deep)


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


def quoted(text: str) -> str:
    """Text as a YAML scalar in quotes, for an override."""
    return yaml.safe_dump(text, default_style='"', width=math.inf).strip()
