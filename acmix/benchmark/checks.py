"""Whether a model computes the right thing, before anyone asks how fast.

Shapes: B batch · h, w image
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acmix import ops
from acmix.benchmark.machine import DTYPES
from acmix.benchmark.steps import CHECKED_IMAGES, Contestant, Setting, compiled
from acmix.testing.judge import Results, Truth, errors, misses, truth_of


def faults(contestant: Contestant, setting: Setting) -> list[str]:
    """What is wrong with a model's logits and gradients, beside the reference operators in float64.

    How much rounding grows through a deep model differs from one batch to the next, and from one processor to another.
    Where a bound is missed, both sides are measured on more batches, and the largest errors compared.
    """
    if contestant.original is None:
        return []
    images, labels = setting.batch(CHECKED_IMAGES)
    errors_of, bounds = draw(contestant, setting, images, labels)
    for more in (images.flip(3), images.flip(2), images.flip(2, 3)):
        if all(error <= bounds[name] for name, error in errors_of.items()):
            return []
        again, bounds_again = draw(contestant, setting, more, labels)
        errors_of = {name: max(error, again[name]) for name, error in errors_of.items()}
        bounds = {name: max(bound, bounds_again[name]) for name, bound in bounds.items()}
    return misses(errors_of, bounds)


def draw(
    contestant: Contestant, setting: Setting, images: Tensor, labels: Tensor
) -> tuple[dict[str, float], Mapping[str, float]]:
    """A model's errors on one batch, and what is right for them."""
    assert contestant.original is not None
    with ops.use("reference"):
        double = replace(setting, dtype="fp32")
        exact = results(contestant.original, False, double, images.double(), labels)
        own = results(contestant.original, False, setting, images, labels)
    bounds = truth_of(exact, own, DTYPES[setting.dtype], together=True).bounds
    with contestant.operators():
        return errors(results(contestant.model, contestant.compiled, setting, images, labels), exact), bounds


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


def results(model: nn.Module, is_compiled: bool, setting: Setting, images: Tensor, labels: Tensor) -> Results:
    """The logits, and in training every parameter's gradient, of a copy of a model in the images' format."""
    training = setting.phase == "train"
    model = smoothed(copy.deepcopy(model).to(images.dtype).train(training))
    called = compiled(model) if is_compiled else model
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
