"""α, β and gates in the optimizers of other trainers: trained, and not decayed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from acmix.layers import ACmix2d, ConvPath
from acmix.layers.acmix1d import ACmix1d
from acmix.layers.replace import GatedACmix2d

LAYERS = (ACmix2d, ACmix1d, GatedACmix2d, ConvPath)
RATES = ("rate_attention", "rate_conv", "rate_logits", "gate")


def spare_rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Takes the rates and gates of ACmix layers out of weight decay, and adds what the optimizer does not train.

    Trainers sort parameters by their names and layers, and know neither. Some, as YOLOv7's, collect only what is called
    `weight` or `bias`: they leave out the rates, the shift kernels and what mixes them.

    To be called once the optimizer is made, before its schedule is.

    Args:
        model: with ACmix layers, or a wrapper of one.
        optimizer: changed in place. Rates join the group that holds the weights of normalisations and is not decayed,
            or a new one; the other parameters that are missing join the decayed group.

    Returns:
        How many rates and gates there are.
    """
    places = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    spared = {id(each.weight) for each in model.modules() if isinstance(each, nn.modules.batchnorm._NormBase)}
    decayed = next((group for group in optimizer.param_groups if group["weight_decay"]), optimizer.param_groups[-1])
    rates = 0
    for name, parameter in acmix_parameters(model):
        place = places.get(id(parameter))
        is_rate = name in RATES
        rates += is_rate
        if place is not None and not (is_rate and place["weight_decay"]):
            continue
        if place is not None:
            place["params"] = [each for each in place["params"] if each is not parameter]
        aim = place or decayed
        spared |= {id(parameter)} if is_rate else set()
        join(optimizer, parameter, undecayed(optimizer, aim, spared) if is_rate else aim)
    return rates


def acmix_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of every ACmix layer that are trained, each once, by the last part of its name."""
    layers = [each for each in model.modules() if isinstance(each, LAYERS)]
    named = {id(each): (name, each) for layer in layers for name, each in layer.named_parameters()}
    return [(name.rpartition(".")[2], each) for name, each in named.values() if each.requires_grad]


def undecayed(optimizer: torch.optim.Optimizer, like: dict[str, Any], spared: set[int]) -> dict[str, Any]:
    """The group of what is spared that has the learning rate of another group, or a new one."""
    for group in optimizer.param_groups:
        if not group["weight_decay"] and group["lr"] == like["lr"] and spared & set(map(id, group["params"])):
            return group
    return {**like, "params": [], "weight_decay": 0.0}


def join(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, group: dict[str, Any]) -> None:
    """Adds a parameter to a group, and the group to the optimizer if it is new."""
    group["params"].append(parameter)
    if not any(each is group for each in optimizer.param_groups):
        optimizer.add_param_group(group)
