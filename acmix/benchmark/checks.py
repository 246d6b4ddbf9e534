"""Whether a model computes the right thing, before anyone asks how fast.

Shapes: B batch · h, w image
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acmix import ops
from acmix.benchmark.machine import DTYPES
from acmix.benchmark.steps import CHECKED_IMAGES, Contestant, Setting
from acmix.testing.judge import Results, Truth, truth_of


def faults(contestant: Contestant, setting: Setting) -> list[str]:
    """What is wrong with a model's logits and gradients, beside the reference operators in float64."""
    if contestant.original is None:
        return []
    images, labels = setting.batch(CHECKED_IMAGES)
    with ops.use("reference"):
        double = replace(setting, dtype="fp32")
        exact = results(contestant.original, False, double, images.double(), labels)
        own = results(contestant.original, False, setting, images, labels)
    truth = truth_of(exact, own, DTYPES[setting.dtype], together=True)
    with contestant.operators():
        return truth.faults(results(contestant.model, contestant.compiled, setting, images, labels))


def smoothed(model: nn.Module) -> nn.Module:
    """A model whose gradients have digits to compare, changed in place.

    Rounding turns a ReLU on or off here and there, and blows up through the statistics of a batch this small, so that
    the reference's own gradients in float32 miss float64's by several percent. Neither is ours: batch norms use the
    statistics they have, and ReLUs become SiLUs.
    """
    for module in list(model.modules()):
        if isinstance(module, _BatchNorm):
            module.eval()
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())
    return model


def results(model: nn.Module, compiled: bool, setting: Setting, images: Tensor, labels: Tensor) -> Results:
    """The logits, and in training every parameter's gradient, of a copy of a model in the images' format."""
    training = setting.phase == "train"
    model = smoothed(copy.deepcopy(model).to(images.dtype).train(training))
    called: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model
    with torch.set_grad_enabled(training), setting.autocast():
        logits = called(images)  # (B, classes)
    found = {"output": logits.detach()}
    if training:
        setting.loss()(logits, labels).backward()
        found |= {f"grad {name}": value.grad for name, value in model.named_parameters() if value.grad is not None}
    return found


def truth_of_output(module: nn.Module, x: Tensor) -> Truth:
    """What is right for a module's output: the reference operators in float64, and their own error in x's format."""
    with torch.no_grad(), ops.use("reference"):
        exact = {"output": copy.deepcopy(module).double()(x.double())}
        return truth_of(exact, {"output": module(x)}, x.dtype)
