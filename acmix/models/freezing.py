"""Which parameters a model with added convolution paths trains where its old ones are frozen: all that is new.

New are the paths with their rates, and all that the weights did not give, such as a classifier of other classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode


def is_new(name: str) -> bool:
    """Whether a parameter belongs to a convolution path, or weighs one."""
    return ".conv_path." in name or name.rpartition(".")[2].startswith("rate_")


def freeze_old(model: nn.Module, drawn: Iterable[str]) -> None:
    """Leaves the convolution paths alone to be trained, and the parameters that were drawn instead of loaded.

    Args:
        model: with convolution paths.
        drawn: names of parameters that no weights gave.
    """
    drawn = {*drawn}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_new(name) or name in drawn)


class Copies(TorchDispatchMode):
    """Within it, tensors that others are copied into are noted: loading weights does so, drawing them does not."""

    def __init__(self) -> None:
        super().__init__()
        # kept as well as known, so that no other tensor takes an identity over
        self.filled: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            self.filled[id(args[0])] = args[0]
        return func(*args, **(kwargs or {}))

    def not_loaded(self, model: nn.Module) -> set[str]:
        """Names of a model's parameters that weights did not give; of the classifier's alone where they gave none."""
        drawn = {name for name, parameter in model.named_parameters() if id(parameter) not in self.filled}
        given_none = len(drawn) == sum(1 for _ in model.parameters())
        return classifier_keys(model, drawn) if given_none else drawn


def classifier_keys(model: Any, names: Iterable[str]) -> set[str]:
    """Those of some names that are of a model's classifier, or of its classifiers."""
    places = tuple(f"{place}." for place in classifiers(model))
    return {name for name in names if name.startswith(places)} if places else set()


def classifiers(model: Any) -> dict[str, nn.Module]:
    """A model's classifier by its place, or its classifiers: a distilled DeiT has two."""
    if not hasattr(model, "get_classifier"):
        return {}
    found = model.get_classifier()
    heads = [each for each in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(each, nn.Module)]
    return {name: module for name, module in model.named_modules() if name and any(module is each for each in heads)}


def untrained_classifier(model: Any) -> set[str]:
    """Names of the parameters of a built model's classifiers that look as they were drawn.

    timm draws a classifier with a bias of zeros, which no training leaves. One without bias was drawn where its
    classes are not as many as those of the model's weights.
    """
    known = (getattr(model, "pretrained_cfg", None) or {}).get("num_classes")
    names: set[str] = set()
    for place, head in classifiers(model).items():
        bias = getattr(head, "bias", None)
        if bool((bias == 0).all()) if isinstance(bias, Tensor) else known != getattr(model, "num_classes", known):
            names |= {f"{place}.{name}" for name, _ in head.named_parameters()}
    return names


def keep_statistics(model: nn.Module) -> None:
    """Lets batch norms use their running statistics and leave them as they are, until `train()` is called."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
