"""What the shell offers for an argument that is being typed."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any, Literal, get_args, get_origin

import typer


def configurations(incomplete: str) -> list[str]:
    """Names of the configurations that come with the package; the shell itself adds files."""
    from acmix.config import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Names of the models, each of which has a configuration of its name."""
    from acmix.config import shipped

    # the other configurations are for a head, for fine-tuning, or for the demos' data
    pattern = re.compile(r"acmix_(?!.*_(digits|fashion_mnist)$)\w+")
    return [name for name in shipped() if name.startswith(incomplete) and pattern.fullmatch(name)]


def grids(incomplete: str) -> list[str]:
    """Names of the ablations that come with the package; the shell itself adds files."""
    found = sorted((resources.files("acmix") / "paper" / "grids").iterdir(), key=lambda each: each.name)
    return [name for each in found if (name := each.name.removesuffix(".yaml")).startswith(incomplete)]


def demos(incomplete: str) -> list[str]:
    """What `acmix demo` learns."""
    return [name for name in ("digits", "detect", "segment") if name.startswith(incomplete)]


def settings(ctx: typer.Context, incomplete: str) -> list[str]:
    """`section.key=`; after the equals sign the values, where the setting has a few.

    Bash takes `key=value` for three words, and what is offered for the last; other shells for one. Where one key is
    left, what it could be follows it: a lone word would end in a space.
    """
    from acmix.config import known_keys

    keys = known_keys()
    *_, key, equals, begun = ["", "", *typed(ctx), incomplete]
    if not incomplete and equals in keys:
        # the parser takes a lone equals sign for nothing
        key, equals = equals, "="
    if equals == "=" and key in keys:
        return [value for value in values_of(key) if value.startswith(begun)]
    key, equals, begun = incomplete.partition("=")
    if equals:
        return [f"{key}={value}" for value in values_of(key) if value.startswith(begun)] if key in keys else []
    found = [each for each in keys if each.startswith(key)]
    if len(found) == 1:
        return [f"{found[0]}={value}" for value in ["", *values_of(found[0])]]
    return [f"{each}=" for each in found]


def words_of_config(ctx: typer.Context, incomplete: str) -> list[str]:
    """What `acmix config` takes: a section or a key, or `show`, a configuration and settings."""
    args = typed(ctx)
    if "show" not in args:
        from acmix.config import Config, known_keys

        return [each for each in ("show", *Config.model_fields, *known_keys()) if each.startswith(incomplete)]
    return configurations(incomplete) if args[-1] == "show" else settings(ctx, incomplete)


def typed(ctx: typer.Context) -> list[str]:
    """The words before the one that is being typed, but for options: of an argument that takes several."""
    return [word for words in ctx.params.values() if isinstance(words, (list, tuple)) for word in words]


def values_of(key: str) -> list[str]:
    """The values of a setting that has a few, else its example."""
    from acmix.config import Config
    from acmix.config.reference import setting

    section, _, name = key.partition(".")
    fields: Any = Config.model_fields[section].annotation
    field = fields.model_fields[name]
    example = setting(key, field).example.rpartition("=")[2]
    return values(field.annotation) or [example]


def values(annotation: Any) -> list[str]:
    """The values of a type that has a few."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for each in get_args(annotation) for value in values(each)]
