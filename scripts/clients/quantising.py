"""Tools that compute in 8 bits."""

from __future__ import annotations

import io
import warnings

import torch
from families import Family, change, images, output
from figures import Count, Effect, Figures
from torch import nn

import acmix


def bytes_of(model: nn.Module) -> int:
    """What a model's state takes in a file."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def compared(before: nn.Module, after: nn.Module, done: int, of: int) -> Figures:
    """What 8 bits change."""
    return {
        "layers": Count(done, of),
        "change": Effect(change(output(after), output(before))),
        "size": Effect(bytes_of(after) / bytes_of(before)),
    }


def called(model: nn.Module, kinds: tuple[type, ...]) -> int:
    """How many of a model's modules of some kinds a forward pass calls."""
    fired: set[nn.Module] = set()
    handles = [
        each.register_forward_hook(lambda module, *_: fired.add(module))
        for each in model.modules()
        if isinstance(each, kinds)
    ]
    output(model)
    for handle in handles:
        handle.remove()
    return len(fired)


def dynamic(family: Family, ours: bool) -> Figures:
    """quantize_dynamic of every linear layer."""
    from torch.ao.nn.quantized.dynamic import Linear

    model = family.model(ours)
    linear = sum(type(each) is nn.Linear for each in model.modules())
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return compared(model, quantised, called(quantised, (Linear,)), linear)


def static_fx(family: Family, ours: bool) -> Figures:
    """PyTorch's static quantisation by symbolic tracing of the folded model, calibrated on two batches."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    model = acmix.fold(family.model(ours))
    layers = sum(type(each) in (nn.Linear, nn.Conv2d) for each in model.modules())
    prepared = prepare_fx(model, get_default_qconfig_mapping("x86"), (images(),))
    for seed in range(2):
        output(prepared, images(seed))
    quantised = convert_fx(prepared)
    done = sum(
        type(each).__module__.startswith("torch.ao.nn") for each in quantised.modules() if not list(each.children())
    )
    return compared(model, quantised, min(done, layers), layers)


def static_pt2e(family: Family, ours: bool) -> Figures:
    """torchao's static quantisation of an exported graph of the folded model, calibrated on two batches."""
    from torchao.quantization.pt2e.quantize_pt2e import (  # pyright: ignore[reportMissingImports]
        convert_pt2e,
        prepare_pt2e,
    )
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (  # pyright: ignore[reportMissingImports]
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    model = acmix.fold(family.model(ours))
    layers = sum(type(each) in (nn.Linear, nn.Conv2d) for each in model.modules())
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(model, (images(),)).module(), quantizer)
    for seed in range(2):
        output(prepared, images(seed))
    quantised = convert_pt2e(prepared)
    # a weight that is kept in 8 bits stands behind one of these
    of_weights = [
        node for node in quantised.graph.nodes if "dequantize" in str(node.target) and node.args[0].op == "get_attr"
    ]
    return {"layers": Count(len(of_weights), layers), "change": Effect(change(output(quantised), output(model)))}


def weight_only(family: Family, ours: bool) -> Figures:
    """torchao's int8 weights in every linear layer."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_  # pyright: ignore[reportMissingImports]

    model, quantised = family.model(ours), family.model(ours)
    plain = {id(each) for each in quantised.modules() if type(each) is nn.Linear}
    quantize_(quantised, Int8WeightOnlyConfig())
    done = sum(type(each.weight.data) is not torch.Tensor for each in quantised.modules() if id(each) in plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compared(model, quantised, done, len(plain))
