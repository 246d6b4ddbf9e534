"""What settings are made of: kinds of numbers and text, colours, and the section that refuses what no run reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Name = Annotated[str, Field(min_length=1)]
# what can be counted in a run
Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
# characters of a text, values of a list, and the size of a number among the arguments of a constructor
LONGEST_TEXT, LONGEST_LIST, LARGEST_ARGUMENT = 4096, 65_535, 1_000_000
# a kind of device, and a number where there are several
DEVICE = re.compile(r"auto|cpu|(?P<kind>cuda|mps|xpu|npu|hpu|mtia)(?::(?P<index>[0-9]{1,4}))?")
NO_DEVICE = "expected auto, cpu, cuda, cuda:1 or mps"
# arguments that count blocks, and the most of a network: a file must not ask for one without end
BLOCKS, MOST_BLOCKS = ("depth", "depths", "layers"), 2000
NO_COLOUR = 'expected a colour\'s name, "#rrggbb" in quotes or [red, green, blue] from 0 to 255'


class Section(BaseModel):
    """A group of settings: immutable, and closed to keys it does not know.

    The docstring below a key is its meaning, and the first of its `examples` is shown with it, behind the setting that
    it needs (`json_schema_extra={"with": "section.key=value"}`): `acmix config` and docs/settings.md print them.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def is_of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses yes and no where a number is meant, which Python counts as 1 and 0, and text that no file has."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            # a whole section says itself what it takes
            return value
        values = value if isinstance(value, (list, tuple)) else [value]
        if annotation is not bool and bool not in get_args(annotation) and any(isinstance(v, bool) for v in values):
            raise ValueError("expected no yes or no (true, false, on, off) here; put text in quotes")
        check_extent(values)
        return value


def check_extent(values: Any) -> None:
    """Refuses text that no file has, and lists and text of a length that nobody means; nested values too.

    Raises:
        ValueError: says which.
    """
    if isinstance(values, str):
        if "\0" in values:
            raise ValueError("expected text without null characters")
        if len(values) > LONGEST_TEXT:
            raise ValueError(f"expected text of at most {LONGEST_TEXT} characters")
    elif isinstance(values, (list, tuple, dict)):
        if len(values) > LONGEST_LIST:
            raise ValueError(f"expected at most {LONGEST_LIST:,} values")
        for each in [*values, *values.values()] if isinstance(values, dict) else values:
            check_extent(each)


def ascending(pair: tuple[float, float]) -> tuple[float, float]:
    """A pair as it is, unless its second value is the smaller one."""
    if pair[0] > pair[1]:
        raise ValueError("expected the smaller value first")
    return pair


def rgb_of(colour: str) -> tuple[int, int, int]:
    """A colour's name or "#rrggbb" as red, green and blue; ValueError where it is neither."""
    from PIL import ImageColor

    try:
        red, green, blue, *alpha = ImageColor.getrgb(colour)
    except ValueError:
        raise ValueError(NO_COLOUR) from None
    if alpha:
        raise ValueError(NO_COLOUR)
    return red, green, blue


def numbers_in(value: Any) -> Iterator[float]:
    """The numbers in nested lists and dictionaries."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(each)


def further_arguments(args: dict[str, Any], key: str, others: Mapping[str, str], what: str) -> dict[str, Any]:
    """Arguments of a constructor as they are, unless a setting decides one of them or a number cannot be meant.

    Args:
        args: by name.
        key: of the setting that holds them.
        others: by the name of an argument, the setting to use; "" where there is none.
        what: the arguments are of.
    """
    for name, value in args.items():
        where = f"{key}.{name}={value!r}"
        if name in others:
            use = f"use {others[name]}" if others[name] else "a run decides that itself"
            raise ValueError(f"{where}: {name} is no further argument of {what}; {use}")
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers_in(value)):
            raise ValueError(f"{where}: expected finite numbers")
        if "drop" in name and isinstance(value, (int, float)) and not 0 <= value < 1:
            raise ValueError(f"{where}: expected a share from 0 to below 1")
        if any(abs(number) > LARGEST_ARGUMENT for number in numbers_in(value)):
            raise ValueError(f"{where}: expected numbers of at most {LARGEST_ARGUMENT:,}")
        if name in BLOCKS and any(each < 1 for each in whole_numbers(value)):
            raise ValueError(f"{where}: expected at least one block in each stage")
        if name in BLOCKS and sum(whole_numbers(value)) > MOST_BLOCKS:
            raise ValueError(f"{where}: expected at most {MOST_BLOCKS} blocks")
    return args


def whole_numbers(value: Any) -> list[int]:
    """A whole number alone, or those of a list."""
    return [each for each in (value if isinstance(value, (list, tuple)) else [value]) if type(each) is int]
