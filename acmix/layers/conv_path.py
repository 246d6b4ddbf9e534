"""The convolution path: the parameters that let q, k and v be read as a convolution.

Shapes: B batch · H, W map · N heads · D channels a head · C = N·D · P pieces of D channels, 3·N by default
    T = k² maps made by fc · ky, kx sides of the kernels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix import ops
from acmix.errors import UsageError
from acmix.layers.foldable import Foldable, exact, rounded, twin
from acmix.layers.graphs import whole
from acmix.ops.conv_path import checked
from acmix.ops.conv_path.reference import with_added
from acmix.ops.conv_path.spec import Arguments

KERNELS = ("full", "channel", "frozen", "shifts")
INITS = ("shift", "random")


class ConvPath(Foldable):
    """Reads the q, k and v an attention has made as a k×k convolution.

        f_t          = Σ_p fc[t, p]·F_p + b_t            t = 1 … k²
        out[d·N + n] = Σ_t S[d·N + n, t] ⋆ f_t[d]        S starts as the k² shifts

    Its kernels are no `nn.Conv2d`, so that a host model's initialisation leaves them alone.

    Args:
        heads: N, heads of the attention; also the output channels for each of the D channels.
        head_dim: D, channels a head.
        pieces: P, pieces of D channels that q, k and v hold together; 3·N by default.
        conv_size: k, odd; or (ky, kx), as (1, k) on a map of one row. Where it stands k² it is then ky·kx.
        bias: whether fc has one: yes in the transformer families, no in the convolutional ones.
        stride: output pixels lie at every stride-th input pixel.
        dilation: pixels between two taps.
        conv_kernels: "full" learns a kernel for each output channel and tap; "channel" one for each of the D channels
            and tap, so that the N outputs of a channel are the same; "frozen" keeps the full kernels as they start;
            "shifts" has none and moves each map by its tap instead, as the paper's first form does.
        conv_init: "shift" or "random", which draws as a convolution's weights are drawn.

    Source: ACmix, "Improved shift and summation"; what "channel" shares is our reading of its ablation.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        pieces: int | None = None,
        conv_size: int | tuple[int, int] = 3,
        bias: bool = True,
        stride: int = 1,
        dilation: int = 1,
        conv_kernels: str = "full",
        conv_init: str = "shift",
    ) -> None:
        super().__init__()
        if conv_kernels == "shifts" and conv_init != "shift":
            raise UsageError(
                'conv_kernels="shifts" has no kernels to initialise; use conv_init="shift", or other kernels'
            )
        if heads < 1 or head_dim < 1:
            raise UsageError(f"heads={heads}, head_dim={head_dim}; both must be at least 1")
        sides = (conv_size, conv_size) if isinstance(conv_size, int) else conv_size
        for side in sides:
            if side < 1 or side % 2 == 0:
                raise UsageError(f"conv_size={conv_size}; the convolution path needs an odd kernel, e.g. {side + 1}")
        if stride < 1 or dilation < 1:
            raise UsageError(f"stride={stride}, dilation={dilation}; both must be at least 1")
        if pieces is not None and pieces < 1:
            raise UsageError(f"pieces={pieces}; the convolution path needs at least 1, or None for 3 a head")
        self.heads, self.head_dim, self.conv_size = heads, head_dim, conv_size
        self.pieces = 3 * heads if pieces is None else pieces
        self.stride, self.dilation = stride, dilation
        self.conv_kernels, self.conv_init = conv_kernels, conv_init
        self.sides = sides
        taps = sides[0] * sides[1]
        self.fc_weight = nn.Parameter(torch.empty(taps, self.pieces))
        self.fc_bias = nn.Parameter(torch.empty(taps)) if bias else None
        channels = head_dim if conv_kernels == "channel" else heads * head_dim
        kernels = torch.empty(channels, taps, *sides)
        if conv_kernels == "frozen":
            self.register_buffer("kernels", kernels)
        else:
            self.kernels = None if conv_kernels == "shifts" else nn.Parameter(kernels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws fc as a linear layer's weights are drawn, and makes each kernel the shift of its tap, or draws it."""
        bound = self.pieces**-0.5
        nn.init.uniform_(self.fc_weight, -bound, bound)
        if self.fc_bias is not None:
            nn.init.uniform_(self.fc_bias, -bound, bound)
        if self.kernels is None:
            return
        if self.conv_init == "random":
            bound = (self.kernels[0].numel()) ** -0.5
            nn.init.uniform_(self.kernels, -bound, bound)
            return
        with torch.no_grad():
            # S[:, t] is one-hot at (t // kx, t % kx)
            self.kernels.copy_(torch.eye(self.kernels.shape[1]).view(self.kernels.shape[1:]).expand_as(self.kernels))

    @whole
    def forward(
        self,
        pieces: Tensor,
        shift: int | Sequence[int] = 0,
        rate: Tensor | None = None,
        plus: Tensor | None = None,
        plus_bias: Tensor | None = None,
    ) -> Tensor:
        """(B, H, W, P, D) -> (B, ceil(H/stride), ceil(W/stride), N·D), channels d-major; or as `plus`.

        Args:
            pieces: q's, k's and v's heads.
            shift: as in `acmix.ops.conv_path`.
            rate: (1,), a factor of the result; it goes into the kernels.
            plus: added to the result, as in `acmix.ops.conv_path`.
            plus_bias: likewise.
        """
        if self.kernels is None:
            out = self.shift_and_sum(pieces, shift)  # (B, Ho, Wo, D)
            out = out if rate is None else rate * out
        else:
            kernels = self.kernels if rate is None else rate * self.kernels
            geometry: dict[str, Any] = dict(stride=self.stride, dilation=self.dilation, shift=shift)
            if self.has_full_kernels():
                geometry.update(plus=plus, plus_bias=plus_bias)
                return ops.conv_path(pieces, self.fc_weight, self.fc_bias, kernels, **geometry)
            out = ops.conv_path(pieces, self.fc_weight, self.fc_bias, kernels, **geometry)
        return with_added(out.repeat_interleave(self.heads, 3), plus, plus_bias)

    def has_full_kernels(self) -> bool:
        """Whether there is a kernel for each output channel and tap."""
        return self.conv_kernels in ("full", "frozen")

    def arguments(
        self,
        pieces: Tensor,
        shift: int | Sequence[int] = 0,
        rate: Tensor | None = None,
        plus: Tensor | None = None,
        plus_bias: Tensor | None = None,
    ) -> Arguments:
        """What `forward` hands to the operator, where the kernels are full ones."""
        assert self.kernels is not None
        kernels = self.kernels if rate is None else rate * self.kernels
        settings = (self.stride, self.dilation, shift, plus, plus_bias)
        return checked(pieces, self.fc_weight, self.fc_bias, kernels, *settings)

    def shift_and_sum(self, pieces: Tensor, shift: int | Sequence[int]) -> Tensor:
        """(B, H, W, P, D) -> (B, ceil(H/stride), ceil(W/stride), D): each map moved by its tap, then all added."""
        rows, columns = ops.pair(shift)
        maps = F.linear(pieces.transpose(3, 4), self.fc_weight, self.fc_bias)  # (B, H, W, D, T)
        height, width = maps.shape[1:3]
        up, left = (self.dilation * (side // 2) for side in self.sides)
        maps = F.pad(maps.roll((-rows, -columns), (1, 2)), (0, 0, 0, 0, left, left, up, up))
        out = 0
        for t in range(maps.shape[4]):
            y, x = (self.dilation * step for step in divmod(t, self.sides[1]))
            out = out + maps[:, y : y + height : self.stride, x : x + width : self.stride, :, t]  # (B, Ho, Wo, D)
        assert isinstance(out, Tensor)
        return out.roll((rows, columns), (1, 2))

    def full_kernels(self) -> Tensor:
        """S as the operator's equation has it, (N·D, T, ky, kx), also for shared, frozen or absent kernels."""
        if self.kernels is None:
            taps = self.fc_weight.shape[0]
            return (
                torch.eye(taps).to(self.fc_weight).view(taps, *self.sides).repeat(self.heads * self.head_dim, 1, 1, 1)
            )
        return self.kernels.repeat_interleave(self.heads, 0) if self.conv_kernels == "channel" else self.kernels

    def kernels_of_pieces(self, rate: Tensor | None = None) -> Tensor:
        """Kernels that do the work of fc too, (N·D, P, ky, kx), where fc has no bias; times `rate`."""
        kernels = torch.einsum("cthw,tp->cphw", self.full_kernels(), self.fc_weight)
        return kernels if rate is None else rate * kernels

    def folded(self, rate: float = 1.0, of_values: float = 1.0) -> ConvPath:
        """A path that gives `rate` times as much, of pieces whose last N have been multiplied by `of_values`."""
        fc, kernels = exact(self.fc_weight), rate * exact(self.full_kernels())  # (T, P), (C, T, ky, kx)
        bias = None if self.fc_bias is None else exact(self.fc_bias)  # (T,)
        fc[:, -self.heads :] /= of_values
        # The operator's work goes with the number of maps. Measured on one core (batch 8, 28² and 14²), the time went
        # down by 1.3 for 9 → 3 or 4 maps, 1.1 to 1.2 for 9 → 6 or 7, 1.04 to 1.07 for 25 → 24, 1.00 for 9 → 9, 0.9 for
        # 9 → 10.
        maps = self.pieces + (bias is not None)
        if maps < len(fc):
            inner = [torch.einsum("cthw,tp->cphw", kernels, fc)]  # (C, P, ky, kx)
            if bias is not None:
                # of a map of ones, which is padded with zeros as the maps are that the bias was added to
                inner.append(torch.einsum("cthw,t->chw", kernels, bias)[:, None])  # (C, 1, ky, kx)
                bias = torch.eye(maps, dtype=fc.dtype)[-1]  # (P + 1,)
            kernels, fc = torch.cat(inner, 1), torch.eye(maps, self.pieces, dtype=fc.dtype)
        path = twin(self)
        path.conv_kernels = "full"
        del path.kernels  # which may be a buffer, or None
        path.fc_weight, path.kernels = rounded(fc, self.fc_weight), rounded(kernels, self.fc_weight)
        path.fc_bias = None if bias is None or self.fc_bias is None else rounded(bias, self.fc_bias)
        return path

    def multiply_adds(self, pixels: int, out_pixels: int) -> int:
        """For a map of so many pixels, and so many behind the stride: what torch's FlopCounterMode counts, halved."""
        through_kernels = 0 if self.kernels is None else out_pixels * self.kernels.numel()
        return pixels * self.head_dim * self.fc_weight.numel() + through_kernels

    def extra_repr(self) -> str:
        return (
            f"heads={self.heads}, head_dim={self.head_dim}, pieces={self.pieces}, conv_size={self.conv_size}, "
            f"conv_kernels={self.conv_kernels!r}"
        )
