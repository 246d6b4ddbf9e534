"""The convolution path: the parameters that let q, k and v be read as a convolution.

Shapes: B batch · H, W map · N heads · D channels a head · C = N·D · P pieces of D channels, 3·N by default
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from acmix import ops
from acmix.errors import UsageError


class ConvPath(nn.Module):
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

    Source: ACmix, "Improved shift and summation".
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
    ) -> None:
        super().__init__()
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
        taps = sides[0] * sides[1]
        self.fc_weight = nn.Parameter(torch.empty(taps, self.pieces))
        self.fc_bias = nn.Parameter(torch.empty(taps)) if bias else None
        self.kernels = nn.Parameter(torch.empty(heads * head_dim, taps, *sides))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws fc as a linear layer's weights are drawn, and makes each kernel the shift of its tap."""
        bound = self.pieces**-0.5
        nn.init.uniform_(self.fc_weight, -bound, bound)
        if self.fc_bias is not None:
            nn.init.uniform_(self.fc_bias, -bound, bound)
        with torch.no_grad():
            # S[:, t] is one-hot at (t // kx, t % kx)
            self.kernels.copy_(torch.eye(self.kernels.shape[1]).view(self.kernels.shape[1:]).expand_as(self.kernels))

    def forward(self, pieces: Tensor, shift: int | Sequence[int] = 0, rate: Tensor | None = None) -> Tensor:
        """(B, H, W, P, D) -> (B, ceil(H/stride), ceil(W/stride), N·D), channels d-major.

        Args:
            pieces: q's, k's and v's heads.
            shift: as in `acmix.ops.conv_path`.
            rate: (1,), a factor of the result; it goes into the kernels.
        """
        return ops.conv_path(
            pieces,
            self.fc_weight,
            self.fc_bias,
            self.kernels if rate is None else rate * self.kernels,
            stride=self.stride,
            dilation=self.dilation,
            shift=shift,
        )

    def extra_repr(self) -> str:
        return f"heads={self.heads}, head_dim={self.head_dim}, pieces={self.pieces}, conv_size={self.conv_size}"
