"""What a network's constructor takes, for who mistyped an argument of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from inspect import Parameter, signature
from typing import Any

import timm

from acmix.errors import UsageError
from acmix.layers import Mixing
from acmix.models.registry import MODEL_CLASSES
from acmix.near import did_you_mean


class UnknownArgument(UsageError, TypeError):
    """A model does not take an argument; a TypeError too, as Python's own."""


UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def unexpected(name: str, error: BaseException, besides: Iterable[str] = ()) -> tuple[str, str]:
    """The argument that a model does not take, and what it takes instead; two empty strings for other errors.

    Args:
        name: of the model, ours or timm's.
        error: what building it raised.
        besides: arguments that are not to be named, as they are given elsewhere.
    """
    found = UNEXPECTED.search(str(error))
    takes = [each for each in parameters(name, found[1]) if each not in [*besides]] if found else []
    if not found or not takes:
        return "", ""
    hint = did_you_mean(found[2], takes)
    return found[2], f"{name} takes no such argument; {hint}{' ' * bool(hint)}there are: {', '.join(takes)}"


def check_switches(name: str, args: Mapping[str, Any]) -> None:
    """Refuses text and numbers where one of our models has a switch, which would be on for any of them.

    Args:
        name: of a model.
        args: of its constructor.

    Raises:
        UsageError: names the argument.
    """
    ours = MODEL_CLASSES.get(name)
    if ours is None:
        return
    defaults: dict[str, Any] = {each.name: each.default for each in signature(ours).parameters.values()}
    defaults |= {each.name: each.default for each in fields(Mixing)}
    for key, value in args.items():
        if isinstance(defaults.get(key), bool) and not isinstance(value, bool):
            raise UsageError(f"model.args.{key}={value!r}: expected true or false")
        # Python counts with them
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if key in defaults and not isinstance(defaults[key], bool) and any(isinstance(each, bool) for each in numbers):
            raise UsageError(f"model.args.{key}={value!r}: expected no yes or no (true, false, on, off)")


def parameters(name: str, class_name: str) -> list[str]:
    """The names of the arguments of a model's class, of its constructor's in `mixing` too; none if it is not found."""
    ours = MODEL_CLASSES.get(name)
    if ours is None and timm.is_model(name):
        module = sys.modules[timm.model_entrypoint(name).__module__]
        model_class = getattr(module, class_name, None)
    else:
        model_class = ours if ours is not None and ours.__name__ == class_name else None
    if model_class is None:
        return []
    names = [each.name for each in signature(model_class).parameters.values() if each.kind in NAMED]
    # the ablations are plain arguments of ours
    return [*(each for each in names if each != "mixing"), *(each.name for each in fields(Mixing) if "mixing" in names)]
