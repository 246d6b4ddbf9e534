"""Modules with a second form, for inference: what `acmix.fold` asks each of them for."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from acmix.layers.graphs import refuse_script
from acmix.layers.plain import is_untouched

M = TypeVar("M", bound=nn.Module)


class Foldable(nn.Module):
    """A module that can be folded. A subclass that computes something else is left alone, unless it says how."""

    __prepare_scriptable__ = refuse_script

    def folded(self) -> nn.Module:
        """What gives the same in fewer operations; this module stays as it is, and what need not change is shared."""
        raise NotImplementedError

    def can_fold(self) -> bool:
        """Whether `folded` gives what this module gives, and loses no hook, wrapper or parametrisation."""
        parts = [each for each in self.modules() if isinstance(each, Foldable)]
        kinds = [type(each) for each in parts]
        known = all(issubclass(definer(kind, "folded"), definer(kind, "forward")) for kind in kinds)
        return known and all(map(is_untouched, parts))


def definer(kind: type, method: str) -> type:
    """The class that a method comes from."""
    return next(each for each in kind.__mro__ if method in vars(each))


def copied(module: M) -> M:
    """A deep copy, also where pruning or an old spectral norm left a weight that PyTorch does not copy: no leaf."""
    tensors = [value for each in module.modules() for value in vars(each).values() if isinstance(value, Tensor)]
    return copy.deepcopy(module, {id(each): each.detach().clone() for each in tensors if not each.is_leaf})


def twin(module: M) -> M:
    """A module of the same tensors and parts, each of which can be replaced there alone."""
    new = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        new.__dict__[name] = dict(module.__dict__[name])
    return new


def exact(tensor: Tensor) -> Tensor:
    """A copy in float64, where every device has it."""
    return tensor.detach().to("cpu", torch.float64, copy=True)


def rounded(value: Tensor, like: Tensor) -> nn.Parameter:
    """A parameter of the dtype and on the device of another, trained where that one is."""
    return nn.Parameter(value.to(like.device, like.dtype), requires_grad=like.requires_grad)


def take_row(old: nn.Module, new: nn.Module) -> None:
    """Gives a layer what YOLO notes on the layers of its rows: index and sources of the old, type and size its own."""
    noted = {name: getattr(old, name) for name in ("i", "f") if hasattr(old, name)}
    if hasattr(old, "type"):
        noted["type"] = f"{type(new).__module__}.{type(new).__qualname__}"
    if hasattr(old, "np"):
        noted["np"] = sum(each.numel() for each in new.parameters())
    new.__dict__.update(noted)
