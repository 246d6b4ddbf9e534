"""Which path every block leans on: α and β by block, read from a model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers.fold import FoldedACmix
from acmix.layers.mixing import Mixed
from acmix.layers.replace import GatedACmix2d

# under these names wrappers keep the one module that they wrap
WRAPPED = ("module", "_orig_mod", "_checkpoint_wrapped_module")


class PathRates(NamedTuple):
    """What a block's two paths are multiplied by: α of the attention and β of the convolution."""

    attention: float
    conv: float

    @property
    def share(self) -> float:
        """The convolution's share of both, |β| / (|α| + |β|); 0.5 where both are 0."""
        attention, conv = abs(self.attention), abs(self.conv)
        return conv / (attention + conv) if attention + conv else 0.5


@torch.no_grad()
def path_rates(model: nn.Module) -> dict[str, PathRates]:
    """Reads α and β of every block that mixes attention and convolution.

    Args:
        model: a network or a single layer, on any device; also one that `torch.compile`, DistributedDataParallel or
            another wrapper holds. Where its parameters are sharded, every process has to call.

    Returns:
        The rates by the block's name, in the network's order. Names are those of the model without its wrappers; that
        of a single layer is "". A convolution that `replace_conv(identity=True)` kept stands under its own name, with
        gate·α and gate·β, by which its output changes. Blocks with one path alone have no rates: a baseline gives {}.

    Raises:
        UsageError: no module; one that `acmix.fold` has made, whose weights hold the rates; or one on the device
            "meta".
    """
    if not isinstance(model, nn.Module):
        hint = "; load it first: model, info = acmix.load(…)" if isinstance(model, (str, os.PathLike)) else ""
        raise UsageError(f"path_rates got a {type(model).__name__}; expected a module{hint}")
    return dict(blocks(model, "", set()))


def blocks(module: nn.Module, name: str, seen: set[nn.Module]) -> Iterator[tuple[str, PathRates]]:
    """The names and rates of a module, and of the modules in it, that were not seen yet."""
    if module in seen:
        return
    seen.add(module)
    if isinstance(module, FoldedACmix) or (isinstance(module, Mixed) and module.is_folded):
        raise UsageError("path_rates got a folded model, whose weights hold the rates; ask before acmix.fold")
    gate = known(module.gate) if isinstance(module, GatedACmix2d) else 1.0
    mixed = module.acmix if isinstance(module, GatedACmix2d) else module
    if isinstance(mixed, Mixed):
        rates = mixed.rates()
        if rates[0] is not None and rates[1] is not None:
            yield name, PathRates(*(gate * known(rate) for rate in rates))
        return
    for child_name, child in module.named_children():
        is_wrapper = child_name in WRAPPED and len(module._modules) == 1
        inner = name if is_wrapper else f"{name}.{child_name}".removeprefix(".")
        yield from blocks(child, inner, seen)


def known(rate: Tensor | None) -> float:
    """A rate, (1,), as a number."""
    assert rate is not None
    if rate.is_meta:
        raise UsageError("path_rates got a model on the device 'meta'; load its weights first")
    # of a sharded model one process holds it: all ask together
    together = getattr(rate, "full_tensor", lambda: rate)
    return together().item()
