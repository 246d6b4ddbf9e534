"""Begins a new run with the weights of `model.checkpoint`: a classifier's, or a whole detector's or segmenter's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from acmix.config import Config
from acmix.data.classes import labels_follow_names
from acmix.errors import UsageError
from acmix.models.freezing import freeze_old
from acmix.names import composed
from acmix.released.safe_load import FORMAT, safe_load
from acmix.released.start import LEAST_SHARE, Started, drawn_as, fresh_rates, sides, start_from, unfit
from acmix.released.start_head import are_names
from acmix.released.unwrap import Found, unwrap
from acmix.tasks import task_of


def start(model: nn.Module, config: Config, classes: list[str]) -> Started:
    """Loads what `model.checkpoint` has for a new run.

    Args:
        model: changed in place.
        config: of the run.
        classes: names, in the order of the labels.

    Returns:
        What was taken, drawn new and left out.

    Raises:
        UsageError: it does not fit.
    """
    settings = config.model
    assert settings.checkpoint
    if config.task.name != "classify":
        return start_with_head(model, config, settings.checkpoint, classes)
    started = start_from(
        model,
        settings.checkpoint,
        classes=classes,
        sorted_names=labels_follow_names(config.data),
        head=settings.head,
    )
    if settings.freeze:
        freeze_old(model, started.drawn)
    return started


def start_with_head(model: Any, config: Config, file: str, classes: list[str]) -> Started:
    """Loads a detector or segmenter of the same kind with its head, or else a classifier's body alone.

    The layers of classes are taken where the file names the same classes in the same order, or names none.

    Raises:
        UsageError: it does not fit.
    """
    if config.model.head != "auto":
        raise UsageError(
            f"model.head={config.model.head} is for classification, not for task.name={config.task.name}; leave it out"
        )
    content = safe_load(file)
    of_task = own_task(content)
    if of_task == (config.task.name, config.task.head):
        given = content.get("average") or content["model"]
        if others := other_classes(content, classes):
            return start_whole(model, given, file, dict.fromkeys(class_layers(config), others))
        return start_whole(model, given, file)
    other = f"; {file} is of {' '.join(of_task)}, whose head does not fit" if of_task else ""
    if content.get("format") != FORMAT:
        found = whole_state(model, content, file)
        if found is not None and fits_whole(model, found.weights):
            started = start_whole(model, found.weights, f"{file} ({origin})" if (origin := found.origin()) else file)
            started.left_out += found.left_out
            if class_layers(config) & {*started.taken}:
                started.notes.append("the file names no classes: the layers of classes are taken in its order")
            return started
        other = "" if found is None else f"; the pyramid and head in {file} are others and are left out"
    started = start_from(model.features.network, file)
    started.notes.append(f"{config.task.head}: pyramid and head are drawn at random{other}")
    return started


def other_classes(content: dict[str, Any], classes: list[str]) -> str:
    """Why layers of classes are of no use for the data's, in a few words; "" where they are, or names are unknown."""
    there, here = ([composed(str(each)) for each in names] for names in (content.get("classes") or [], classes))
    numbered = all(each.isdecimal() for each in here)
    if there == here or numbered or not are_names(content):
        return ""
    if sorted(there) == sorted(here):
        return "the file has the classes in another order"
    other = next((name for name in here if name not in there), "")
    return f"the file's classes are others: {other!r} is none of them" if other else "the file has more classes"


def class_layers(config: Config) -> set[str]:
    """The tensors of a detector or segmenter whose rows stand for classes: one class more makes them larger."""
    shapes = []
    for more in (0, 1):
        assert config.task.num_classes
        task = config.task.model_copy(update={"num_classes": config.task.num_classes + more})
        with torch.device("meta"):
            state = task_of(config.model_copy(update={"task": task})).build().state_dict()
        shapes.append({key: value.shape for key, value in state.items()})
    return {key for key, shape in shapes[0].items() if shape != shapes[1][key]}


def whole_state(model: Any, content: dict[str, Any], file: str) -> Found | None:
    """The weights of a whole detector or segmenter of this library, saved without its settings; None: no such."""
    own, body = model.state_dict(), body_of(model)
    found = unwrap(content, lambda weights: len(weights.keys() & own.keys()), file)
    inside = [key.startswith(body) for key in found.weights]
    return found if any(inside) and not all(inside) else None


def fits_whole(model: Any, given: dict[str, Tensor]) -> bool:
    """Whether weights are of the same network, and of the same kind of pyramid and head: by most names and shapes."""
    own, body = model.state_dict(), body_of(model)
    fitting = {key for key, mine in own.items() if key in given and given[key].shape == mine.shape}
    beside = {key for key in (own.keys() | given.keys()) if not key.startswith(body)}
    others = (own.keys() & given.keys()) - fitting - beside
    return not others and len(beside & fitting) >= LEAST_SHARE * len(beside)


def body_of(model: Any) -> str:
    """What the names of a detector's or segmenter's network begin with."""
    return next(f"{name}." for name, module in model.named_modules() if module is model.features)


def own_task(content: dict[str, Any]) -> tuple[str, str] | None:
    """Task and head of a detector's or segmenter's checkpoint; None of any other file."""
    config = content.get("config")
    task = config.get("task") if content.get("format") == FORMAT and isinstance(config, dict) else None
    if not isinstance(task, dict) or task.get("name", "classify") == "classify":
        return None
    return str(task.get("name")), str(task.get("head"))


def start_whole(
    model: Any, given: dict[str, Any], file: str, others: Mapping[str, str] = MappingProxyType({})
) -> Started:
    """Loads all tensors of the same name and shape; those outside the network may have other shapes, and are drawn new.

    Args:
        model: changed in place.
        given: the weights.
        file: they are from.
        others: tensors that are drawn new even so, and why.

    Raises:
        UsageError: the network's tensors differ, or the file holds less than half of the numbers.
    """
    own, body = model.state_dict(), body_of(model)
    rates, notes = fresh_rates(model, own, given, file)
    report = Started(file, notes=notes, sizes={key: value.numel() for key, value in own.items()})
    new = dict(rates)
    for key, mine in own.items():
        value = given.get(key)
        if not isinstance(value, Tensor):
            report.drawn[key] = drawn_as(key, rates)
        elif problem := unfit(value, mine):
            raise UsageError(f"{file} does not fit: {key} {problem}; give a file of plain finite numbers")
        elif value.shape == mine.shape and key in others:
            report.drawn[key] = others[key]
        elif value.shape == mine.shape:
            report.taken.append(key)
            new[key] = value
        elif key.startswith(body):
            raise UsageError(
                f"{file} does not fit: {key} is {sides(value)} there and {sides(mine)} here; set model.name and "
                "model.args as there"
            )
        else:
            report.drawn[key] = f"{sides(value)} there, {sides(mine)} here"
    share = sum(own[key].numel() for key in report.taken) / max(1, sum(each.numel() for each in own.values()))
    if share < LEAST_SHARE:
        raise UsageError(
            f"{file} holds the weights of another model: it has {share:.0%} of the numbers, at least {LEAST_SHARE:.0%} "
            "was expected; give the file of this model, or another model.name"
        )
    report.left_out = [key for key in given if key not in own]
    with torch.no_grad():
        model.load_state_dict({**own, **new})
    return report
