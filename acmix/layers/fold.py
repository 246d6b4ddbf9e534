"""Layers in the form for inference: rates inside weights, one projection, and fc inside kernels where that saves work.

Shapes: B batch · H, W map, of one row where the input is a sequence · Ho, Wo of the output
    N heads · D channels a head · C = N·D · I input channels
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix import ops
from acmix.errors import UsageError
from acmix.layers.foldable import Foldable, copied, exact, rounded, take_row
from acmix.layers.graphs import refuse_script, whole
from acmix.layers.leaving import acmix_map
from acmix.layers.maps import arranged_as, check_shape, evenly_spaced, projected_pixels, sides_of
from acmix.layers.mixing import fits_into_values, is_own_path, mixed
from acmix.layers.plain import is_plain
from acmix.ops.leaving import any_size, fresh, leaves_pytorch


def fold(model: nn.Module) -> nn.Module:
    """Copies a model for inference, with ACmix layers that give the same in fewer operations.

        α·(W·x + b) = (α·W)·x + α·b                     in `proj` behind window attention
        α·Σ_j a_j·v_j = Σ_j a_j·(α·v_j)                 elsewhere: fc's columns for v are divided by α
        β·Σ_t S[:, t] ⋆ f_t = Σ_t (β·S[:, t]) ⋆ f_t
        Σ_t S[:, t] ⋆ (Σ_p fc[t, p]·F_p + b_t) = Σ_p (Σ_t S[:, t]·fc[t, p]) ⋆ F_p + (Σ_t S[:, t]·b_t) ⋆ 1

    The last line is used where it leaves fewer maps: P, and one of ones for the bias, instead of T. With k = 3 that is
    one head or two, with k = 5 up to seven, or eight without a bias. A gate of `replace_conv` goes the way of the
    rates. Weights are computed in float64 and rounded once to their own dtype. An α of 0, or outside 2^-10 … 2^10,
    stays a factor at run time if there is no `proj`.

    It is meant for inference: gradients flow, but they are those of the folded weights. The state dict is another one,
    so fold after loading, not before. Compile or export the result, not what goes in.

    A layer stays as it is if folding would lose something on it: hooks, pruning or a parametrisation
    on the layer, its `conv_path` or a module whose weights are to hold the rates, or another module in such a place, as
    an adapter or a quantised layer. Its parts are still folded each for itself.

    Args:
        model: any module; it stays as it is. One without ACmix layers gives a plain copy, a folded one the same again.

    Returns:
        The copy, in eval mode and without gradients.

    Raises:
        UsageError: no module, one that `torch.compile` has wrapped, or one whose parameters have no values yet.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"fold got a {type(model).__name__}; expected a module, e.g. from acmix.create_model")
    if any("_orig_mod" in module._modules for module in model.modules()):
        raise UsageError("fold got a compiled model; fold the model first, then call torch.compile on the result")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UsageError("fold got a model on the device 'meta'; load its weights first")
    folded = folded_form(copied(model), {})
    folded.zero_grad(set_to_none=True)
    return folded.eval()


def folded_form(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """What takes a module's place; a module that stands in two places stays one."""
    if module not in made:
        made[module] = module
        if isinstance(module, Foldable) and module.can_fold():
            made[module] = module.folded()
            take_row(module, made[module])
        else:
            for name, child in module._modules.items():
                if child is not None and (form := folded_form(child, made)) is not child:
                    setattr(module, name, form)
    return made[module]


class FoldedACmix(nn.Module):
    """ACmix2d or ACmix1d with a single projection and both rates in the weights.

    Args:
        layer: the ACmix2d or ACmix1d that it computes the same as; those modules know this one.
        gate: a factor of all it gives.
    """

    __prepare_scriptable__ = refuse_script

    def __init__(self, layer: Any, gate: float = 1.0) -> None:
        super().__init__()
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.heads, self.head_dim, self.sides = layer.heads, layer.head_dim, layer.sides
        self.attention_size = ops.pair(layer.on_a_map(layer.attention_size))
        self.stride, self.dilation = layer.stride, layer.dilation

        of_attention, of_conv = layer.rate_numbers()
        assert layer.conv_path is not None
        rate, like = gate * of_attention, layer.value.weight
        is_in_values = fits_into_values(rate)
        of_values = rate if is_in_values else 1.0
        self.rate_attention = None if is_in_values else rounded(torch.tensor([rate], dtype=torch.float64), like)
        weight, bias = (exact(each) for each in layer.weight_and_bias())  # (3·C, I, 1, …), (3·C,)
        weight[-self.out_channels :] *= of_values
        bias[-self.out_channels :] *= of_values
        self.qkv = nn.Linear(self.in_channels, 3 * self.out_channels, device="meta")
        self.qkv.weight, self.qkv.bias = rounded(weight.flatten(1), like), rounded(bias, like)
        self.conv_path = layer.conv_path.folded(gate * of_conv, of_values)
        # of p along x, and along y where there is one; a constant in p is nothing that softmax sees
        self.slope = rounded(exact(layer.position.weight).flatten(1).T, layer.position.weight)  # (2, D) or (1, D)

    @whole
    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, C, Ho, Wo), or (B, I, L) -> (B, C, Lo); see `ACmix2d` and `ACmix1d`."""
        check_shape(x, self.in_channels, self.sides)
        if leaves_pytorch() and len(self.sides) == 2:
            with any_size():
                return self.leaving(x)
        if is_plain(self.qkv, nn.Linear):
            qkv = projected_pixels(x, self.qkv.weight, self.qkv.bias)  # (B, H·W, 3·C)
        else:
            qkv = self.qkv(fresh(x.flatten(2).transpose(1, 2)))
        qkv = qkv.view(-1, *sides_of(x), 3, self.heads, self.head_dim)  # (B, H, W, 3, N, D)
        positions = self.positions(*sides_of(x))
        attention = ops.local_attention(
            qkv, positions, size=self.attention_size, stride=self.stride, dilation=self.dilation
        )  # (B, Ho, Wo, C)
        if self.rate_attention is None and is_own_path(self.conv_path) and not leaves_pytorch():
            return arranged_as(x, self.conv_path(qkv.flatten(3, 4), plus=attention))
        return arranged_as(x, mixed(attention, self.conv_path(qkv.flatten(3, 4)), self.rate_attention))

    def leaving(self, x: Tensor) -> Tensor:
        """`forward` in few nodes of PyTorch's own."""
        # called as it is, so that a quantiser of graphs knows it for a linear layer
        qkv = self.qkv(fresh(x.permute(0, 2, 3, 1)))  # (B, H, W, 3·C)
        q, k, v = fresh(qkv.permute(0, 3, 1, 2)).chunk(3, 1)  # (B, C, H, W) each
        slope = self.slope.T[:, :, None, None]  # (D, 2, 1, 1)
        return acmix_map(
            *(q, k, v, lambda place: F.conv2d(place, slope), self.conv_path.kernels_of_pieces()),
            heads=self.heads,
            head_dim=self.head_dim,
            size=self.attention_size[0],
            stride=self.stride,
            dilation=self.dilation,
            rate=self.rate_attention,
        )

    def positions(self, height: int, width: int) -> Tensor:
        """p of every pixel but for a constant, (H, W, D)."""
        p = evenly_spaced(width, self.slope)[:, None] * self.slope[0]  # (W, D)
        if len(self.slope) == 1:
            return p[None]
        return p + (evenly_spaced(height, self.slope)[:, None] * self.slope[1])[:, None]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, heads={self.heads}, attention_size={self.attention_size}, "
            f"stride={self.stride}, dilation={self.dilation}"
        )


class FoldedGatedACmix(nn.Module):
    """A convolution and the ACmix that `replace_conv` added to it, where the gate is in ACmix's weights."""

    def __init__(self, conv: nn.Conv2d, acmix: FoldedACmix) -> None:
        super().__init__()
        self.conv, self.acmix = conv, acmix

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, C, Ho, Wo)."""
        return self.conv(x) + self.acmix(x)
