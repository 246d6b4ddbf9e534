"""What each entry of a checkpoint of ours has to be, checked before anything is taken from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from acmix.errors import UsageError
from acmix.train.optim import FUSED

Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1, le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
HINT = "give a checkpoint that acmix wrote"


class Entries(BaseModel):
    """A dictionary whose entries are of these types; others are left alone, as a later acmix may write them."""

    model_config = ConfigDict(strict=True, extra="ignore", arbitrary_types_allowed=True)


class Every(Entries):
    """What every checkpoint holds; best.pt of an early acmix may lack what has a default here."""

    config: dict[str, Any]
    classes: list[str]
    model: dict[str, Any]
    average: dict[str, Any] | None = None
    processes: Positive = 1
    device: str = ""
    step: Count = 0
    epoch: Count = 0
    metrics: dict[str, float | None] = {}
    trained: list[str] | None = None
    named: bool = True


class EpochSoFar(Entries):
    """What `Meter` keeps."""

    loss_sum: Finite
    steps: Count
    seconds: Finite
    run_steps: Count = 0
    run_seconds: Finite = 0.0


class Group(Entries):
    """Of an optimizer's parameters, by their numbers."""

    params: list[Count]
    lr: Finite | Tensor


class Moments(Entries):
    """An optimizer's state dict."""

    state: dict[int, dict[str, Any]]
    param_groups: list[Group]


class ToGoOn(Every):
    """What last.pt holds beside that."""

    optimizer: Moments
    scaler: dict[str, Finite]
    epochs_ended: Count
    best: dict[str, float]
    meter: EpochSoFar
    unreadable: dict[str, list[str]]
    unreadable_of: dict[str, Count]
    steps_per_epoch: Positive
    global_batch_size: Positive
    images: str = ""


def check_fields(contents: Mapping[str, Any], kind: type[Entries], where: str | os.PathLike[str]) -> None:
    """Refuses a checkpoint with an entry of another type.

    Raises:
        UsageError: names the first entry, and what it should be.
    """
    try:
        kind.model_validate(dict(contents))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        entry = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UsageError(f"{where} lacks {entry}; {HINT}") from None
        raise UsageError(f"{where}: {entry} is not as acmix writes it ({first['msg'].lower()}); {HINT}") from None


def check_moments(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], where: str) -> None:
    """Refuses an optimizer's state that is not of its parameters: a fused kernel would read beyond its end.

    Args:
        optimizer: of the run, new.
        saved: a state dict whose groups have as many parameters.
        where: the checkpoint, for messages.

    Raises:
        UsageError: names the first tensor that does not fit.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    if numbers != [*range(len(parameters))]:
        raise UsageError(f"{where}: the optimizer's parameters are not numbered from 0 on; {HINT}")
    is_torchs = isinstance(optimizer, FUSED)
    for number, state in saved["state"].items():
        if number not in range(len(parameters)):
            raise UsageError(f"{where}: the optimizer has no parameter {number}; {HINT}")
        parameter = parameters[number]
        for name, value in state.items():
            if isinstance(value, Tensor) and not fits(value, parameter, exactly=is_torchs):
                raise UsageError(
                    f"{where}: the optimizer's {name} of parameter {number} is {said(value)}, and the parameter "
                    f"{said(parameter)}; {HINT}"
                )
            if is_torchs and not isinstance(value, Tensor) and value is not None:
                kind = type(value).__name__
                raise UsageError(
                    f"{where}: the optimizer's {name} of parameter {number} is no tensor, but {kind}; {HINT}"
                )
        if is_torchs and (lacking := sorted(names_of(optimizer) - state.keys())):
            raise UsageError(f"{where}: the optimizer's {lacking[0]} of parameter {number} is missing; {HINT}")


def names_of(optimizer: torch.optim.Optimizer) -> set[str]:
    """What torch's own optimizers cannot do without, of a parameter that has moved; SGD begins its momentum anew."""
    return set() if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}


def fits(value: Tensor, parameter: Tensor, *, exactly: bool) -> bool:
    """Whether a tensor may be state of a parameter: a number, of its shape, or, of other optimizers, a factor of it."""
    if value.numel() == 1:
        return not exactly or value.is_floating_point()
    if exactly:
        return value.shape == parameter.shape and value.is_floating_point()
    return {*value.shape} <= {*parameter.shape, 1}


def said(tensor: Tensor) -> str:
    """A tensor in a few words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
