"""Window attention in plain PyTorch: any dtype, any device, forward and gradient.

Every other implementation must equal this one. Only the inputs are kept between forward and gradient; what lies
between is made again.

Shapes
    B batch · H, W height and width of the map · N heads · D channels a head · C = N·D
    wh, ww sides of a window · L = wh·ww pixels in it · G windows in a map
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.derivatives import remembered
from acmix.ops.neighbours import roll, roll_back
from acmix.ops.window_attention.spec import Arguments


def why_not(arguments: Arguments) -> str | None:
    """Nothing is out of its reach."""


def forward(arguments: Arguments, dropout: float = 0.0) -> Tensor:
    """softmax(scale·q·kᵀ + bias + mask)·v in every window of the rolled map; see `acmix.ops.window_attention`.

    Args:
        arguments: the operator's.
        dropout: chance to leave out a weight, which no other implementation has.
    """
    qkv, bias_table, window, shift, scale = arguments
    height, width = qkv.shape[1:3]
    q, k, v = split_windows(roll(qkv, shift), window)  # (B, G, N, L, D) each
    weights = attention_weights(q, k, bias_table, (height, width), window, shift, scale)  # (B, G, N, L, L)
    weights = F.dropout(weights, dropout) if dropout else weights
    out = (weights.to(v.dtype) @ v).transpose(2, 3)  # (B, G, L, N, D)
    return roll_back(merge_windows(out, (height, width), window), shift).flatten(3).contiguous()  # (B, H, W, C)


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor | None]:
    """The gradients of qkv and of the bias table (None where there is none)."""
    qkv, bias_table, window, shift, scale = arguments
    height, width, _, heads, channels = qkv.shape[1:]
    q, k, v = split_windows(roll(qkv, shift), window)  # (B, G, N, L, D) each
    weights = attention_weights(q, k, bias_table, (height, width), window, shift, scale)  # (B, G, N, L, L)
    per_head = roll(grad, shift).unflatten(3, (1, heads, channels))  # (B, H, W, 1, N, D)
    (grad_out,) = split_windows(per_head, window)  # (B, G, N, L, D)

    grad_v = weights.to(v.dtype).transpose(-1, -2) @ grad_out
    grad_weights = (grad_out @ v.transpose(-1, -2)).to(weights.dtype)
    grad_logits = weights * (grad_weights - (grad_weights * weights).sum(-1, keepdim=True))  # (B, G, N, L, L)
    scaled = (grad_logits * scale).to(q.dtype)
    grad_q, grad_k = scaled @ k, scaled.transpose(-1, -2) @ q

    pieces = torch.stack([grad_q, grad_k, grad_v], dim=4)  # (B, G, N, L, 3, D)
    grad_qkv = merge_windows(pieces.permute(0, 1, 3, 4, 2, 5), (height, width), window)  # (B, H, W, 3, N, D)
    grad_table = None
    if bias_table is not None:
        per_pair = grad_logits.sum((0, 1)).flatten(1).T  # (L·L, N)
        index = relative_position_index(window, str(qkv.device)).flatten()
        grad_table = per_pair.new_zeros(bias_table.shape).index_add_(0, index, per_pair).to(bias_table.dtype)
    return roll_back(grad_qkv, shift).contiguous(), grad_table


def attention_weights(
    q: Tensor,
    k: Tensor,
    bias_table: Tensor | None,
    size: tuple[int, int],
    window: tuple[int, int],
    shift: tuple[int, int],
    scale: float,
) -> Tensor:
    """The softmax, in float32 at least, of every query over the keys it may see: (B, G, N, L, L)."""
    logits = (q * scale) @ k.transpose(-1, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if bias_table is not None:
        index = relative_position_index(window, str(q.device))
        logits = logits + bias_table.to(logits.dtype)[index].permute(2, 0, 1)  # (N, L, L)
    hidden = hidden_pairs(size, window, shift, str(q.device))
    if hidden is not None:
        logits = logits.masked_fill(hidden[:, None], float("-inf"))  # (G, 1, L, L)
    return logits.softmax(-1)


@remembered(most=64)
def relative_position_index(window: tuple[int, int], device: str) -> Tensor:
    """Which row of the bias table belongs to (query, key): (Δy + wh − 1)·(2·ww − 1) + Δx + ww − 1, shape (L, L)."""
    y, x = torch.meshgrid(torch.arange(window[0]), torch.arange(window[1]), indexing="ij")
    y, x = y.flatten(), x.flatten()
    row = y[:, None] - y[None, :] + window[0] - 1
    column = x[:, None] - x[None, :] + window[1] - 1
    return (row * (2 * window[1] - 1) + column).to(device)


@remembered(most=256)
def hidden_pairs(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], device: str) -> Tensor | None:
    """The (query, key) pairs of each window that must not see each other, (G, L, L); None where all may.

    A window of the rolled map can hold three kinds of rows: those that were neighbours before the roll, those that
    came over the seam, and padding. A pair sees each other where both rows and both columns are of one kind.
    """
    if shift == (0, 0) and size[0] % window[0] == 0 and size[1] % window[1] == 0:
        return None
    kinds = []
    for side, length, step in zip(size, window, shift, strict=True):
        position = torch.arange(-(-side // length) * length)
        kinds.append((position >= side - step % side).long() + (position >= side).long())
    region = (kinds[0][:, None] * 3 + kinds[1][None, :])[None, :, :, None, None, None]
    (labels,) = split_windows(region, window)  # (1, G, 1, L, 1)
    labels = labels.flatten(2).squeeze(0)  # (G, L)
    return (labels[:, :, None] != labels[:, None, :]).to(device)


def split_windows(x: Tensor, window: tuple[int, int]) -> tuple[Tensor, ...]:
    """Pads below and right, cuts into windows, unbinds the pieces: (B, H, W, S, N, D) -> S × (B, G, N, L, D)."""
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, -width % window[1], 0, -height % window[0]))
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))  # (B, Gh, wh, Gw, ww, S, N, D)
    return x.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(2, 3).unbind(0)


def merge_windows(x: Tensor, size: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """Puts windows back into a map and cuts the padding off: (B, G, L, …) -> (B, H, W, …)."""
    rows = -(-size[0] // window[0])
    x = x.unflatten(2, window).unflatten(1, (rows, -1))  # (B, Gh, Gw, wh, ww, …)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, : size[0], : size[1]]
