"""What a network's constructor takes, for who mistyped an argument of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import fields
from inspect import Parameter, signature

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
