"""Every setting with its type, default, meaning and an example, as the schema states them.

`acmix config` prints it, and docs/settings.md holds it. Nothing here is written by hand but the words for types.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from acmix.config.presets import AUGMENT_PRESETS
from acmix.config.reading import did_you_mean_key, section_of
from acmix.config.schema import Config
from acmix.errors import UsageError
from acmix.yaml_text import Dumper

# columns a default takes in the list of all keys
WIDEST_DEFAULT = 14


@dataclass(frozen=True)
class Setting:
    """One key: `train.epochs`, what it takes, its default as YAML, its meaning, and an example to type."""

    key: str
    kind: str
    default: str
    meaning: str
    example: str

    @property
    def summary(self) -> str:
        """The first sentence of the meaning, without its full stop."""
        return self.meaning.partition(". ")[0].removesuffix(".")


def sections() -> dict[str, str]:
    """Each section of the settings and what it is about."""
    return {name: " ".join((section_of(name).__doc__ or "").split()) for name in Config.model_fields}


def settings(section: str | None = None) -> list[Setting]:
    """Every setting, or those of one section, in the schema's order."""
    return [
        setting(f"{name}.{key}", field)
        for name in ([section] if section else Config.model_fields)
        for key, field in section_of(name).model_fields.items()
    ]


def setting(key: str, field: FieldInfo) -> Setting:
    """What the schema says of one key."""
    meaning = " ".join((field.description or "").split())
    example = typed(key, field.examples[0] if field.examples else None)
    if isinstance(field.json_schema_extra, dict) and "with" in field.json_schema_extra:
        example = f"{field.json_schema_extra['with']} {example}"
    kind = kind_of(field.annotation, field.metadata)
    return Setting(key, kind, one_line(field.get_default(call_default_factory=True)), meaning, example)


def typed(key: str, value: Any) -> str:
    """`section.key=value` as one types it in a shell; of a mapping its first entry."""
    if isinstance(value, dict):
        (name, value), *_ = value.items()
        key = f"{key}.{name}"
    return shlex.quote(f"{key}={value if isinstance(value, str) else one_line(value)}")


def one_line(value: Any) -> str:
    """A value on one line of YAML: `[0.08, 1.0]`, `null`, `5e-07`."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(one_line(each) for each in value)}]"
    return yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


def kind_of(annotation: Any, limits: Sequence[Any] = ()) -> str:
    """A type of the schema in words, with the limits that the schema gives it: "whole number above 0, or null"."""
    while get_origin(annotation) is Annotated:
        annotation, *said = get_args(annotation)
        limits = [*limits, *(limit for each in said for limit in getattr(each, "metadata", [each]))]
    kinds = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        named = [kind_of(each, limits) for each in kinds if each is not NoneType]
        return ", or ".join([*named, *["null"] * (NoneType in kinds)])
    if get_origin(annotation) is Literal:
        *rest, last = kinds
        return f"{', '.join(rest)}{' or ' * bool(rest)}{last}"
    if get_origin(annotation) is tuple:
        count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
        return f"list of {count}{kind_of(kinds[0]).replace('number', 'numbers', 1)}"
    if annotation in (int, float):
        return ("whole number" if annotation is int else "number") + span(limits)
    return {bool: "true or false", str: "text"}.get(annotation, "mapping")


def span(limits: Sequence[Any]) -> str:
    """The range of a number in words, from pydantic's limits: " from 0 to below 1"."""
    said = {name: getattr(each, name) for each in limits for name in ("gt", "ge", "lt", "le") if hasattr(each, name)}
    low = f" above {said['gt']:g}" if "gt" in said else f" from {said['ge']:g}" if "ge" in said else ""
    if "le" in said:
        return f"{low}{' to' if 'ge' in said else ', at most'} {in_digits(said['le'])}"
    if "lt" in said:
        return f"{low}{' to' if 'ge' in said else ' and'} below {said['lt']:g}"
    return f" of {said['ge']:g} or more" if "ge" in said else low


def in_digits(limit: float) -> str:
    """A limit as one types it: 65535, 1e+06 as 1000000, 9007199254740992 as 2^53."""
    if limit == 2**53:
        return "2^53"
    return str(int(limit)) if limit == int(limit) else f"{limit:g}"


def overview(width: int | None = None) -> Iterator[str]:
    """One line a key, grouped by section: key, default, first sentence; cut to `width` columns if that is given."""
    for section, about in sections().items():
        named = f"; {section}={'|'.join(presets(section))} sets all" if presets(section) else ""
        yield cut(f"{section}: {about[:1].lower()}{about[1:].removesuffix('.')}{named}", width)
        rows = [(each.key, cut(each.default, WIDEST_DEFAULT), each.summary) for each in settings(section)]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for key, default, summary in rows:
            yield cut(f"  {key:{widths[0]}}  {default:{widths[1]}}  {summary}", width)
        yield ""
    yield "`acmix config KEY` explains one. `acmix config show CONFIG` shows a file's."


def cut(text: str, width: int | None) -> str:
    """The text, or so much of it as fits."""
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


def describe(name: str, width: int = 100) -> Iterator[str]:
    """The settings that a name means, in full: a key, a section, or a key without its section.

    Raises:
        UsageError: no setting is called so.
    """
    key = name.partition("=")[0].strip().strip(".")
    found = find_settings(key)
    if key in sections():
        yield f"{key}: {sections()[key]}"
        for preset, values in presets(key).items():
            yield from textwrap.wrap(f"{key}={preset}: {values}", width, initial_indent="  ", subsequent_indent="    ")
        yield ""
    for index, each in enumerate(found):
        if index:
            yield ""
        yield each.key
        yield from textwrap.wrap(each.meaning, width, initial_indent="  ", subsequent_indent="  ")
        yield f"  type     {each.kind}"
        yield f"  default  {each.default}"
        yield f"  example  {each.example}"


def presets(section: str) -> dict[str, str]:
    """The presets of a section: a name, and the settings that it stands for."""
    named = AUGMENT_PRESETS if section == "augment" else {}
    return {
        name: ", ".join(f"{key}={one_line(value)}" for key, value in values.items()) or "the defaults"
        for name, values in named.items()
    }


def find_settings(key: str) -> list[Setting]:
    """The settings that a name means."""
    found = [each for each in settings() if key in (each.key, each.key.partition(".")[0], each.key.partition(".")[2])]
    # what lies in a mapping, as model.args.window_size
    found = found or [each for each in settings() if each.kind == "mapping" and key.startswith(f"{each.key}.")]
    if not found:
        raise UsageError(f"there is no setting {key!r}; {did_you_mean_key(key) or '`acmix config` lists all'}")
    return found


def page() -> str:
    """docs/settings.md: a table for each section."""
    lines = ["# Settings", "", PREFACE.strip(), ""]
    for section, about in sections().items():
        lines += [
            f"## {section}",
            "",
            about,
            "",
            "| key | type | default | meaning | example |",
            "|---|---|---|---|---|",
        ]
        for each in settings(section):
            cells = [f"`{each.key}`", each.kind, f"`{each.default}`", each.meaning, f"`{each.example}`"]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


PREFACE = """
Every setting of a run. `acmix config` prints this list, `acmix config KEY` one key or section, and
`acmix config show CONFIG` the settings of a configuration. Set them in a YAML file, under their section, or on the
command line after CONFIG:

```bash
acmix train acmix_swin_digits --data digits train.epochs=5 optimizer.lr=1e-3
```

Values are YAML: `null` for none, a list in quotes. Unknown keys and values of the wrong type are refused.

This page is generated from `acmix/config/schema.py`. After a change there, run `python scripts/settings_page.py`.
"""
