"""Reads what a CONFIG argument names, in either layout; without torch, where the layout is ours."""

from __future__ import annotations

import os
from typing import Any

from acmix import config


def load_config(source: str | os.PathLike[str], overrides: list[str] | tuple[str, ...] = ()) -> config.Config:
    """Reads what a CONFIG argument names: a file in our layout or in the released one, or a shipped configuration.

    Args:
        source: path of a YAML file, or a shipped name with or without `.yaml`.
        overrides: `section.key=value` strings in our layout; the value is read as YAML.

    Returns:
        The configuration, checked.

    Raises:
        UsageError: no such file, not YAML, an unknown key, a value of the wrong type, or a released setting that is not
            supported here.
    """
    path = config.find(source)
    tree = config.read_tree(path)
    if is_official(tree):
        from acmix.released.yaml_read import read_official

        tree = read_official(tree, base=path.parent)
    return config.complete(tree, overrides, where=str(path))


def is_official(tree: dict[str, Any]) -> bool:
    """Tells whether a tree is in the released layout: its sections are written in capitals."""
    return any(isinstance(key, str) and key.isupper() for key in tree)
