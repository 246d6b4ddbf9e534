"""How a block mixes its two paths: the paper's form, and each of its ablations.

Shapes: B batch · H, W map · N heads · D channels a head
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers.conv_path import INITS, KERNELS, ConvPath
from acmix.layers.foldable import Foldable, exact, rounded, twin
from acmix.layers.plain import all_are_watched, has_plain_weights, is_plain, is_untouched
from acmix.layers.products import add_product
from acmix.ops.leaving import leaves_pytorch

if TYPE_CHECKING:
    from typing_extensions import Self

PATHS = ("both", "attention", "convolution")
RATES = ("rate_attention", "rate_conv", "rate_logits")
# Values are multiplied by an α between 1/WIDEST_RATE and WIDEST_RATE, at which half precision still holds them in full.
WIDEST_RATE = 2.0**10


@dataclass(frozen=True)
class Mixing:
    """What is mixed, with which rates, and by which kernels. The defaults are the paper's ACmix.

    Args:
        path: "both", "attention" or "convolution". With one alone there is nothing to weigh, so there are no rates.
        rates: α of the attention and β of the convolution: "learned" from 0.5 each; a pair, learned from there; one
            number, at which both are fixed; or "softmax", learned so that they add up to 1.
        conv_kernels: "full", "channel", "frozen" or "shifts"; see `ConvPath`.
        conv_init: "shift" or "random"; what those kernels start as.
        conv_stages: stages, counted from 0, that are mixed; the others are those of the plain network. All by default.

    Raises:
        UsageError: a value that is none of these.

    Source: ACmix, sections 4.2 and 5.4.
    """

    path: str = "both"
    rates: str | float | tuple[float, float] = "learned"
    conv_kernels: str = "full"
    conv_init: str = "shift"
    conv_stages: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("path", self.path, PATHS),
            ("conv_kernels", self.conv_kernels, KERNELS),
            ("conv_init", self.conv_init, INITS),
        ):
            if value not in known:
                raise UsageError(f"{name}={value!r}; expected one of {', '.join(map(repr, known))}")
        if not (self.rates in ("learned", "softmax") or is_number(self.rates) or is_pair(self.rates)):
            raise UsageError(f"rates={self.rates!r}; expected 'learned', 'softmax', a number, or a pair of numbers")
        stages = self.conv_stages
        if stages is not None and not (
            isinstance(stages, (tuple, list)) and all(isinstance(i, int) and i >= 0 for i in stages)
        ):
            raise UsageError(f"conv_stages={stages!r}; expected the numbers of stages from 0, e.g. (2, 3), or None")

    def at(self, stage: int) -> Mixing | None:
        """The mixing of a stage; None where it is the plain network's."""
        return self if self.conv_stages is None or stage in self.conv_stages else None

    def check_stages(self, count: int) -> None:
        """Refuses stages that a network of `count` stages does not have."""
        beyond = [stage for stage in self.conv_stages or () if stage >= count]
        if beyond:
            raise UsageError(f"conv_stages={self.conv_stages} names stage {beyond[0]}; there are 0 to {count - 1}")


class Mixed(Foldable):
    """The part that every mixed attention has: the convolution path and the two rates.

        out = α · attention + β · conv path

    Args:
        mixing: None for an attention alone.
    """

    rate_attention: nn.Parameter
    rate_conv: nn.Parameter
    rate_logits: nn.Parameter
    # of an attention that has a projection behind it; it acts on the attention alone
    proj: nn.Linear
    conv_path: ConvPath | None

    def __init__(self, mixing: Mixing | None) -> None:
        super().__init__()
        self.has_attention = mixing is None or mixing.path != "convolution"
        self.fixed_rate: float | None = None
        # whether both rates lie in the weights already
        self.is_folded = False

    def add_path(self, mixing: Mixing | None, heads: int, head_dim: int, **geometry: Any) -> None:
        """Makes the convolution path and the rates, behind what the attention is made of.

        Args:
            mixing: as above.
            heads: N; also the outputs of the convolution path for each of the D channels.
            head_dim: D.
            geometry: further arguments of `ConvPath`: pieces, conv_size, bias, stride, dilation.
        """
        self.conv_path = None
        if mixing is None or mixing.path == "attention":
            return
        self.conv_path = ConvPath(
            heads, head_dim, conv_kernels=mixing.conv_kernels, conv_init=mixing.conv_init, **geometry
        )
        if mixing.path == "convolution":
            return
        if mixing.rates == "softmax":
            self.rate_logits = nn.Parameter(torch.zeros(2))
        elif is_number(mixing.rates):
            self.fixed_rate = float(mixing.rates)  # type: ignore[arg-type]
        else:
            attention, conv = mixing.rates if is_pair(mixing.rates) else (0.5, 0.5)  # type: ignore[misc]
            self.rate_attention = nn.Parameter(torch.full((1,), float(attention)))
            self.rate_conv = nn.Parameter(torch.full((1,), float(conv)))

    def rates(self) -> tuple[Tensor | None, Tensor | None]:
        """(α, β), each (1,); None each where one path stands alone, or the weights hold them."""
        if self.conv_path is None or not self.has_attention or self.is_folded:
            return None, None
        if hasattr(self, "rate_logits"):
            attention, conv = self.rate_logits.softmax(0).split(1)
            return attention, conv
        if self.fixed_rate is not None:
            # made on the device, in no state dict
            like = self.conv_path.fc_weight
            rate = torch.full((1,), self.fixed_rate, dtype=like.dtype, device=like.device)
            return rate, rate
        return self.rate_attention, self.rate_conv

    def adds_in_path(self, x: Tensor) -> bool:
        """Whether the path can write what is added to it, and the attention's projection be added there."""
        # a compiler fuses the plain form, and a graph that leaves PyTorch has it
        if not self.has_own_path() or torch.compiler.is_compiling() or leaves_pytorch():
            return False
        # a subclass may project in another way
        own = type(self).project is Mixed.project and has_plain_weights(self.proj, nn.Linear)
        return own and x.dtype == self.proj.weight.dtype

    def has_own_path(self) -> bool:
        """Whether there are two paths, and calling the convolution path is no more than its operator."""
        return self.has_attention and is_own_path(self.conv_path)

    def takes_residual(self, x: Tensor) -> bool:
        """Whether the layer can add its input's residual, in a map like x, where it writes the two paths."""
        device = x.device.type
        # under autocast the residual is wider than what the layer writes
        mixes_dtypes = device != "meta" and torch.is_autocast_enabled(device)
        behind = getattr(self, "proj_drop", None)
        if behind is not None and (type(behind) is not nn.Identity or not is_untouched(behind)):
            return False
        return knows_residual(type(self).forward) and not mixes_dtypes and self.adds_in_path(x) and is_untouched(self)

    def scaled_projection(self, rate: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """rate · (weight, bias) of `proj`; the weight, which is multiplied by a map, in that map's dtype."""
        weight, bias = self.proj.weight, self.proj.bias
        if rate is not None:
            weight, bias = rate * weight, None if bias is None else rate * bias
        return weight.to(dtype), bias

    def project(self, attention: Tensor, rate: Tensor | None) -> Tensor:
        """rate · proj(attention), (…, C) -> (…, C)."""
        if rate is not None and is_plain(self.proj, nn.Linear):
            # weights are smaller than the map
            bias = self.proj.bias
            return F.linear(attention, rate * self.proj.weight, None if bias is None else rate * bias)
        out = self.proj(attention)
        # autocast leaves the rate in float32, and so the sum that is its gradient
        return out if rate is None else (rate * out).to(out.dtype)

    def mixed_tokens(self, attention: Tensor, pieces: Tensor | None, residual: Tensor | None) -> Tensor:
        """residual + rate · proj(attention) + rate · path, (B, T + H·W, C) -> the same.

        Args:
            attention: of all tokens.
            pieces: (B, H, W, P, D), of those that have a place; None where there is no path.
            residual: None for none.
        """
        rate_attention, rate_conv = self.rates()
        if pieces is None or self.conv_path is None:
            out = self.project(attention, rate_attention)
            return out if residual is None else residual + out
        # a residual has come so far only where it is added there
        if residual is None and not self.adds_in_path(attention):
            return with_conv(self.project(attention, rate_attention), self.conv_path(pieces, rate=rate_conv))
        if residual is None:
            return self.conv_path(pieces, rate=rate_conv, plus=self.project(attention, rate_attention))
        weight, bias = self.scaled_projection(rate_attention, attention.dtype)
        return add_product(self.conv_path(pieces, rate=rate_conv, plus=residual, plus_bias=bias), attention, weight)

    def can_fold(self) -> bool:
        known = super().can_fold() and isinstance(self.conv_path, ConvPath)
        return known and self.rates()[0] is not None and self.rates_fit()

    def rates_fit(self) -> bool:
        """Whether the weights that are to hold the rates may be read: their modules are not wrapped."""
        return has_plain_weights(self.proj, nn.Linear)

    def rate_numbers(self) -> tuple[float, float]:
        """The numbers α and β, where there are two paths."""
        attention, conv = self.rates()
        assert attention is not None
        assert conv is not None
        return attention.item(), conv.item()

    def with_rates_in_weights(self) -> Self:
        """The same layer with α in its projection and β in the kernels of its path."""
        of_attention, of_conv = self.rate_numbers()
        assert self.conv_path is not None
        layer, proj = self.without_rates(), self.proj
        layer.proj = nn.Linear(proj.in_features, proj.out_features, bias=proj.bias is not None, device="meta")
        layer.proj.weight = rounded(of_attention * exact(proj.weight), proj.weight)
        if proj.bias is not None:
            layer.proj.bias = rounded(of_attention * exact(proj.bias), proj.bias)
        layer.conv_path = self.conv_path.folded(of_conv)
        return layer

    def without_rates(self) -> Self:
        """The same layer, whose weights are to hold the rates."""
        layer = twin(self)
        for name in [name for name in layer._parameters if name in RATES]:
            delattr(layer, name)
        layer.is_folded = True
        return layer


def is_own_path(path: Any) -> bool:
    """Whether calling a convolution path is no more than its operator, with kernels for each output channel."""
    if type(path) is not ConvPath or all_are_watched():
        return False
    return path.has_full_kernels() and is_untouched(path)


@cache
def knows_residual(forward: Any) -> bool:
    """Whether a layer's `forward` takes a residual; that of a subclass may not."""
    return "residual" in signature(forward).parameters


def mixed(attention: Tensor, conv: Tensor | None, rate: Tensor | None = None) -> Tensor:
    """rate · attention + conv; channels of the path are added to the attention's index by index.

    The path's are d-major and the attention's head-major: released weights were trained so.
    """
    if conv is None:
        return attention
    return attention + conv if rate is None else torch.addcmul(conv, attention, rate)


def fits_into_values(rate: float) -> bool:
    """Whether an α is neither 0 nor extreme, so that the path's columns for the values can be divided by it."""
    return 1 / WIDEST_RATE <= abs(rate) <= WIDEST_RATE


def with_conv(tokens: Tensor, conv: Tensor | None) -> Tensor:
    """Adds a map (B, H, W, C) to the tokens (B, T + H·W, C) behind the T that have no place on it, as a class token."""
    if conv is None:
        return tokens
    conv = conv.flatten(1, 2)  # (B, H·W, C)
    first = tokens.shape[1] - conv.shape[1]
    return tokens + (F.pad(conv, (0, 0, first, 0)) if first else conv)


def rate_names(model: nn.Module) -> set[str]:
    """Names of all rates, which no optimizer may decay."""
    return {name for name, _ in model.named_parameters() if name.rpartition(".")[2] in RATES}


def is_number(value: Any) -> bool:
    """Whether a value is a plain number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_pair(value: Any) -> bool:
    """Whether a value is two plain numbers; YAML makes lists of pairs."""
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(is_number, value))
