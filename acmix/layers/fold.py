"""Layers in the form for inference: rates inside weights, one projection, and fc inside kernels where that saves work.

Shapes: B batch · H, W map · Ho, Wo of the output · N heads · D channels a head · C = N·D · I input channels
    P pieces of D channels · T maps made by fc · ky, kx sides of the kernels
"""

from __future__ import annotations

import copy
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from acmix import ops
from acmix.errors import UsageError
from acmix.layers.acmix1d import ACmix1d
from acmix.layers.acmix2d import ACmix2d, evenly_spaced, memory_format_of
from acmix.layers.conv_path import ConvPath
from acmix.layers.global_attention import GlobalAttention
from acmix.layers.mixing import Mixed
from acmix.layers.patchwise_attention import PairwiseAttention, PatchwiseAttention, VectorAttention
from acmix.layers.reduction_attention import ReductionAttention
from acmix.layers.replace import GatedACmix2d, take_row
from acmix.layers.upgraded import UpgradedAttention, UpgradedReductionAttention
from acmix.layers.window_attention import WindowAttention

M = TypeVar("M", bound=nn.Module)
X = TypeVar("X", bound=Mixed)
# Values are multiplied by an α between 1/WIDEST_RATE and WIDEST_RATE, at which half precision still holds them in full.
WIDEST_RATE = 2.0**10
# attentions with a projection behind them, which takes α
WITH_PROJECTION = (
    WindowAttention,
    GlobalAttention,
    ReductionAttention,
    UpgradedAttention,
    UpgradedReductionAttention,
)


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
    so fold after loading, not before. Compile or export the result, not what goes in. Hooks on ACmix layers are lost.

    Args:
        model: any module; it stays as it is. One without ACmix layers gives a plain copy, a folded one the same again.

    Returns:
        The copy, in eval mode and without gradients.

    Raises:
        UsageError: no module, one that `torch.compile` has wrapped, or one whose parameters have no values yet.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"fold got a {type(model).__name__}; expected a module, such as create_model gives")
    if any("_orig_mod" in module._modules for module in model.modules()):
        raise UsageError("fold got a compiled model; fold the model first, then call torch.compile on the result")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UsageError("fold got a model on the device 'meta'; load its weights first")
    folded = folded_form(copy.deepcopy(model), {})
    folded.zero_grad(set_to_none=True)
    return folded.eval()


class FoldedACmix(nn.Module):
    """ACmix2d, or ACmix1d on a map of one row, with a single projection and both rates in the weights.

    Args:
        layer: what it computes the same as.
        gate: a factor of all it gives.
    """

    def __init__(self, layer: ACmix2d | ACmix1d, gate: float = 1.0) -> None:
        super().__init__()
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.heads, self.head_dim = layer.heads, layer.head_dim
        self.is_sequence = isinstance(layer, ACmix1d)
        self.attention_size = (1 if self.is_sequence else layer.attention_size, layer.attention_size)
        self.stride, self.dilation = layer.stride, layer.dilation

        of_attention, of_conv = rates_of(layer)
        assert layer.conv_path is not None
        rate = gate * of_attention
        is_in_values = 1 / WIDEST_RATE <= abs(rate) <= WIDEST_RATE
        of_values = rate if is_in_values else 1.0
        self.rate_attention = (
            None if is_in_values else rounded(torch.tensor([rate], dtype=torch.float64), layer.value.weight)
        )
        weights = [exact(each.weight).flatten(1) for each in (layer.query, layer.key, layer.value)]  # (C, I) each
        biases = [exact(each.bias) for each in (layer.query, layer.key, layer.value) if each.bias is not None]
        weights[2], biases[2] = of_values * weights[2], of_values * biases[2]
        self.qkv = nn.Linear(self.in_channels, 3 * self.out_channels, device="meta")
        self.qkv.weight = rounded(torch.cat(weights), layer.value.weight)
        self.qkv.bias = rounded(torch.cat(biases), layer.value.weight)
        self.conv_path = folded_path(layer.conv_path, gate * of_conv, of_values)
        # of p along x, and along y where there is one; a constant in p is nothing that softmax sees
        self.slope = rounded(exact(layer.position.weight).flatten(1).T, layer.position.weight)  # (2, D) or (1, D)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, C, Ho, Wo), or (B, I, L) -> (B, C, Lo); see `ACmix2d` and `ACmix1d`."""
        sides = tuple(x.shape[2:])
        if len(sides) != len(self.slope) or x.shape[1] != self.in_channels:
            wanted = "L" if self.is_sequence else "H, W"
            raise UsageError(f"the input has shape {tuple(x.shape)}; expected (B, {self.in_channels}, {wanted})")
        sides = (1, *sides) if self.is_sequence else sides
        qkv = self.qkv(x.flatten(2).transpose(1, 2))  # (B, H·W, 3·C)
        qkv = qkv.view(-1, *sides, 3, self.heads, self.head_dim)  # (B, H, W, 3, N, D)
        attention = ops.local_attention(
            qkv, self.positions(*sides), size=self.attention_size, stride=self.stride, dilation=self.dilation
        )  # (B, Ho, Wo, C)
        out = self.conv_path(qkv.flatten(3, 4))  # (B, Ho, Wo, C)
        if self.rate_attention is None:
            out = out + attention
        else:
            out = torch.addcmul(out, attention, self.rate_attention)
        if self.is_sequence:
            return out[:, 0].transpose(1, 2).contiguous()  # (B, C, Lo)
        return out.permute(0, 3, 1, 2).contiguous(memory_format=memory_format_of(x))  # (B, C, Ho, Wo)

    def positions(self, height: int, width: int) -> Tensor:
        """p of every pixel but for a constant, (H, W, D)."""
        p = evenly_spaced(width, self.slope)[:, None] * self.slope[0]  # (W, D)
        if self.is_sequence:
            return p[None]
        return p + (evenly_spaced(height, self.slope)[:, None] * self.slope[1])[:, None]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, heads={self.heads}, attention_size={self.attention_size}, "
            f"stride={self.stride}, dilation={self.dilation}"
        )


class FoldedGatedACmix(nn.Module):
    """A convolution and the ACmix that `replace_conv` added to it, where the gate is in ACmix's weights."""

    def __init__(self, layer: GatedACmix2d) -> None:
        super().__init__()
        self.conv, self.acmix = layer.conv, FoldedACmix(layer.acmix, layer.gate.item())

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, C, Ho, Wo)."""
        return self.conv(x) + self.acmix(x)


def fold_rates(layer: Mixed) -> None:
    """Puts α into the projection behind an attention, and β into the kernels of its path."""
    of_attention, of_conv = rates_of(layer)
    assert layer.conv_path is not None
    proj = layer.proj
    layer.proj = nn.Linear(proj.in_features, proj.out_features, bias=proj.bias is not None, device="meta")
    layer.proj.weight = rounded(of_attention * exact(proj.weight), proj.weight)
    if proj.bias is not None:
        layer.proj.bias = rounded(of_attention * exact(proj.bias), proj.bias)
    layer.conv_path = folded_path(layer.conv_path, of_conv)
    drop_rates(layer)


def fold_values(layer: VectorAttention) -> None:
    """Puts α into the values, where it is neither 0 nor extreme, and β into the kernels of the path."""
    of_attention, of_conv = rates_of(layer)
    assert layer.conv_path is not None
    if not 1 / WIDEST_RATE <= abs(of_attention) <= WIDEST_RATE:
        layer.conv_path = folded_path(layer.conv_path)
        return
    weight, bias = exact(layer.qkv.weight), exact(layer.qkv.bias)  # (6·R, C), (6·R,); v has the last of the pieces
    of_values = slice(-layer.conv_path.heads * layer.width, None)
    weight[of_values] *= of_attention
    bias[of_values] *= of_attention
    layer.qkv.weight, layer.qkv.bias = rounded(weight, layer.qkv.weight), rounded(bias, layer.qkv.bias)
    layer.conv_path = folded_path(layer.conv_path, of_conv, of_attention)
    drop_rates(layer)


def drop_rates(layer: Mixed) -> None:
    """Leaves out the rates, which the weights hold now."""
    for name in [name for name in layer._parameters if name.startswith("rate_")]:
        delattr(layer, name)
    layer.is_folded = True


def folded_path(path: ConvPath, rate: float = 1.0, of_values: float = 1.0) -> ConvPath:
    """A path that gives `rate` times as much, of pieces whose last N have been multiplied by `of_values`."""
    fc, kernels = exact(path.fc_weight), rate * exact(path.full_kernels())  # (T, P), (C, T, ky, kx)
    bias = None if path.fc_bias is None else exact(path.fc_bias)  # (T,)
    fc[:, -path.heads :] /= of_values
    # The operator's work goes with the number of maps. Measured on one core (batch 8, 28² and 14²), the time went down
    # by 1.3 for 9 → 3 or 4 maps, 1.1 to 1.2 for 9 → 6 or 7, 1.04 to 1.07 for 25 → 24, 1.00 for 9 → 9, 0.9 for 9 → 10.
    maps = path.pieces + (bias is not None)
    if maps < len(fc):
        inner = [torch.einsum("cthw,tp->cphw", kernels, fc)]  # (C, P, ky, kx)
        if bias is not None:
            # of a map of ones, which is padded with zeros as the maps are that the bias was added to
            inner.append(torch.einsum("cthw,t->chw", kernels, bias)[:, None])  # (C, 1, ky, kx)
            bias = torch.eye(maps, dtype=fc.dtype)[-1]  # (P + 1,)
        kernels, fc = torch.cat(inner, 1), torch.eye(maps, path.pieces, dtype=fc.dtype)
    folded = copy.deepcopy(path)  # a path may stand in several layers
    folded.conv_kernels = "full"
    del folded.kernels  # which may be a buffer, or None
    folded.fc_weight, folded.kernels = rounded(fc, path.fc_weight), rounded(kernels, path.fc_weight)
    folded.fc_bias = None if bias is None or path.fc_bias is None else rounded(bias, path.fc_bias)
    return folded


def folded_form(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """What takes a module's place; a module that stands in two places stays one."""
    if module not in made:
        made[module] = module
        if mixes_as(module, ACmix2d) or mixes_as(module, ACmix1d):
            made[module] = FoldedACmix(module)
        elif computes_as(module, GatedACmix2d):
            made[module] = FoldedGatedACmix(module)
        elif any(mixes_as(module, kind) for kind in WITH_PROJECTION):
            fold_rates(module)  # type: ignore[arg-type]
        elif any(mixes_as(module, kind) for kind in (PatchwiseAttention, PairwiseAttention)):
            fold_values(module)  # type: ignore[arg-type]
        elif computes_as(module, ConvPath):
            made[module] = folded_path(module)
        else:
            for name, child in module._modules.items():
                if child is not None and (form := folded_form(child, made)) is not child:
                    setattr(module, name, form)
        if made[module] is not module:
            take_row(module, made[module])
    return made[module]


def rates_of(layer: Mixed) -> tuple[float, float]:
    """The numbers α and β."""
    attention, conv = layer.rates()
    assert attention is not None
    assert conv is not None
    return attention.item(), conv.item()


def mixes_as(module: nn.Module, kind: type[X]) -> TypeGuard[X]:
    """Whether a module is one of ours with both paths."""
    return computes_as(module, kind) and module.rates()[0] is not None


def computes_as(module: nn.Module, kind: type[M]) -> TypeGuard[M]:
    """Whether a module is one of ours, with no subclass that computes something else at it or inside."""
    inner = ((each, ours) for each in module.modules() for ours in (ACmix2d, ConvPath) if isinstance(each, ours))
    plain = all(type(each).forward is ours.forward for each, ours in ((module, kind), *inner))
    return isinstance(module, kind) and plain


def exact(tensor: Tensor) -> Tensor:
    """A copy in float64, where every device has it."""
    return tensor.detach().to("cpu", torch.float64, copy=True)


def rounded(value: Tensor, like: Tensor) -> nn.Parameter:
    """A parameter of the dtype and on the device of another, trained where that one is."""
    return nn.Parameter(value.to(like.device, like.dtype), requires_grad=like.requires_grad)
