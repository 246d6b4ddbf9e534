"""What the shell offers for an argument that is being typed."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin


def configurations(incomplete: str) -> list[str]:
    """Names of the configurations that come with the package; the shell itself adds files."""
    from acmix.config import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """`section.key=`; after the equals sign the values, where the setting has a few."""
    from acmix.config import Config, known_keys

    key, equals, _ = incomplete.partition("=")
    keys = known_keys()
    if not equals:
        return [f"{each}=" for each in keys if each.startswith(key)]
    if key not in keys:
        return []
    section, _, name = key.partition(".")
    fields: Any = Config.model_fields[section].annotation
    offered = [f"{key}={value}" for value in values(fields.model_fields[name].annotation)]
    return [each for each in offered if each.startswith(incomplete)]


def values(annotation: Any) -> list[str]:
    """The values of a type that has a few."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for each in get_args(annotation) for value in values(each)]
