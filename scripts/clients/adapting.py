"""Tools that change the layers inside a model: adapters, pruning, norms of weights, hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from families import Family, change, images, learned, loss, output, projections
from figures import Count, Effect, Error, Figures
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

Wrap = Callable[[nn.Module], Any]


def lora(family: Family, ours: bool) -> Figures:
    """peft's LoRA on every linear layer and convolution: gradients, the output's change, merging."""
    from peft import LoraConfig, get_peft_model  # pyright: ignore[reportMissingImports]

    model = family.model(ours)
    before = output(model)
    targets = [name for name in projections(model) if name != "conv1"]
    torch.manual_seed(1)
    adapted = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=0.2, target_modules=targets, init_lora_weights=False)
    ).eval()
    after = output(adapted)
    loss(adapted, images()).backward()
    pairs = [parameter.grad for name, parameter in adapted.named_parameters() if "lora_" in name]
    merged = output(adapted.merge_and_unload())
    return {
        "adapters with a gradient": Count(sum(map(learned, pairs)), len(pairs)),
        "change": Effect(change(after, before)),
        "merged": Error(change(merged, after), 1e-4),
    }


def pruning(family: Family, ours: bool) -> Figures:
    """Half of every layer's weights pruned, then five steps: the zeros stay, and the model reads the newest weights."""
    model = family.model(ours)
    before = output(model)
    layers: list[Any] = [model.get_submodule(name) for name in projections(model)]
    for layer in layers:
        prune.l1_unstructured(layer, "weight", 0.5)
    effect = change(output(model), before)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in range(5):
        optimizer.zero_grad()
        loss(model, images(step)).backward()
        optimizer.step()
    pruned = output(model)
    sparse = sum(half_is_zero(layer.weight) for layer in layers)
    moved = sum(learned(layer.weight_orig.grad) for layer in layers)
    for layer in layers:
        prune.remove(layer, "weight")  # leaves the newest weights, masked
    return {
        "layers half zeros after 5 steps": Count(sparse, len(layers)),
        "with a gradient": Count(moved, len(layers)),
        "change": Effect(effect),
        "removed": Error(change(output(model), pruned), 1e-5),
    }


def half_is_zero(weight: Tensor) -> bool:
    """Whether half of the weights are 0, as far as their number has a half."""
    return abs((weight == 0).sum().item() - weight.numel() / 2) <= 0.5


def wrapped_weights(family: Family, ours: bool, wrap: Wrap, of_weight: Callable[[Tensor], float] | None) -> Figures:
    """A weight that is computed at each call: the model's output is that of the same weights, written out."""
    model = family.model(ours)
    before = output(model)
    layers: list[Any] = [model.get_submodule(name) for name in projections(model)]
    for layer in layers:
        wrap(layer)
        perturb(layer)
    model.train()
    for layer in norms(model):
        layer.eval()
    with torch.no_grad():
        for _ in range(60 if of_weight else 1):  # power iterations
            model(images())
    model.eval()
    after = output(model)
    loss(model, images()).backward()
    gradients = sum(
        any(learned(each.grad) for name, each in layer.named_parameters() if "bias" not in name) for layer in layers
    )
    weights = [layer.weight.detach().clone() for layer in layers]
    plain = family.model(ours)
    with torch.no_grad():
        for name, weight in zip(projections(plain), weights, strict=True):
            plain.get_parameter(f"{name}.weight").copy_(weight)
    figures: Figures = {
        "layers with a gradient": Count(gradients, len(layers)),
        "change": Effect(change(after, before)),
        "against the weights written out": Error(change(after, output(plain)), 1e-4),
    }
    if of_weight:
        figures["largest singular value − 1"] = Error(max(abs(of_weight(weight) - 1) for weight in weights), 0.02)
    return figures


def norms(model: nn.Module) -> list[nn.Module]:
    """Layers that compute otherwise in training mode, whatever a tool does."""
    return [module for module in model.modules() if isinstance(module, (nn.BatchNorm2d, nn.Dropout))]


def perturb(layer: nn.Module) -> None:
    """Lengthens the vectors of weight_norm, so that there is an effect to see."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name in ("weight_g", "parametrizations.weight.original0"):
                parameter.mul_(1.1)


def largest(weight: Tensor) -> float:
    """The largest singular value of a layer's matrix."""
    return torch.linalg.matrix_norm(weight.flatten(1), 2).item()


def spectral_norm(family: Family, ours: bool) -> Figures:
    return wrapped_weights(
        family, ours, lambda layer: parametrizations.spectral_norm(layer, n_power_iterations=5), largest
    )


def spectral_norm_old(family: Family, ours: bool) -> Figures:
    return wrapped_weights(family, ours, lambda layer: old_spectral_norm(layer, n_power_iterations=5), largest)


def weight_norm(family: Family, ours: bool) -> Figures:
    return wrapped_weights(family, ours, parametrizations.weight_norm, None)


def weight_norm_old(family: Family, ours: bool) -> Figures:
    return wrapped_weights(family, ours, old_weight_norm, None)


def forward_hooks(family: Family, ours: bool) -> Figures:
    """A hook on every module fires, and what it gives back is what the model goes on with."""
    model = family.model(ours)
    before = output(model)
    fired: set[str] = set()
    callable_ones = {
        name: each for name, each in model.named_modules() if not isinstance(each, (nn.ModuleList, nn.ModuleDict))
    }
    for name, module in callable_ones.items():
        module.register_forward_hook(lambda *_, name=name: fired.add(name))
    same = output(model)
    changing = family.model(ours)
    heard = 0
    names = projections(changing)
    for name in names:
        handle = changing.get_submodule(name).register_forward_hook(larger)
        heard += bool(change(output(changing), before) > 0)
        handle.remove()
    return {
        "modules fired": Count(len(fired), len(callable_ones)),
        "output changed from a layer": Count(heard, len(names)),
        "same": Error(change(same, before), 1e-5),
    }


def larger(_: nn.Module, __: Any, y: Tensor) -> Tensor:
    """What a hook gives back in the place of an output."""
    return 1.5 * y


def backward_hooks(family: Family, ours: bool) -> Figures:
    """A backward hook on every linear layer and convolution, one pass each: it fires with a gradient."""
    model = family.model(ours)
    names = [
        name
        for name, module in model.named_modules()
        if name and not isinstance(module, (nn.ModuleList, nn.ModuleDict))
    ]
    fired = 0
    x = images()
    for name in names:
        one = copy.deepcopy(model)
        got: list[bool] = []
        one.get_submodule(name).register_full_backward_hook(lambda _, __, out, got=got: got.append(learned(out[0])))
        try:
            loss(one, x).backward()
        except RuntimeError as error:
            # PyTorch refuses a hook on a module whose output is changed in place
            if "modified inplace" not in str(error):
                raise
        fired += any(got)
    return {"modules fired": Count(fired, len(names))}
