"""The operators' definition in plain PyTorch: any dtype, any device, forward and gradient.

Every other implementation must equal this one. Only the inputs are kept between forward and gradient; what lies
between is made again.

Shapes
    B batch · H, W height and width of the map · N heads · D channels a head · C = N·D
    P pieces of D channels (3·N where q, k and v have N heads) · T maps made by fc (k²)
    ky, kx sides of the kernels, both k where they are square
    M output channels for each of the D channels (N) · wh, ww sides of a window · L = wh·ww · G windows in a map
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# --- the convolution path -------------------------------------------------------------------------------------------


def conv_path(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    stride: int,
    dilation: int,
    shift: tuple[int, int],
) -> Tensor:
    """f_t = Σ_p fc[t, p]·F_p + b_t, then out[d·M+m] = Σ_t S[d·M+m, t] ⋆ f_t[d]; see `acmix.ops.conv_path`."""
    maps = conv_path_maps(planes_of(roll(pieces, shift)), fc_weight, fc_bias)  # (B, D, T, H·W)
    image = as_image(maps, *pieces.shape[1:3])  # (B, D·T, H, W)
    out = F.conv2d(image, kernels.to(maps.dtype), groups=pieces.shape[4], **geometry(kernels, stride, dilation))
    return roll_back(out.permute(0, 2, 3, 1), shift).contiguous()  # (B, Ho, Wo, D·M)


def conv_path_backward(
    grad: Tensor,
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    stride: int,
    dilation: int,
    shift: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of pieces, fc_weight, fc_bias (empty where there is none) and kernels."""
    planes = planes_of(roll(pieces, shift))  # (B, D, P, H·W)
    height, width = pieces.shape[1:3]
    maps = conv_path_maps(planes, fc_weight, fc_bias)  # (B, D, T, H·W)
    place = geometry(kernels, stride, dilation)
    grad_maps, grad_kernels, _ = torch.ops.aten.convolution_backward(
        roll(grad, shift).permute(0, 3, 1, 2).contiguous(),
        as_image(maps, height, width),
        kernels.to(maps.dtype),
        None,
        [place["stride"]] * 2,
        place["padding"],
        [place["dilation"]] * 2,
        False,
        [0, 0],
        pieces.shape[4],
        [True, True, False],
    )
    grad_maps = grad_maps.flatten(2).view_as(maps)  # (B, D, T, H·W)
    grad_planes = fc_weight.to(maps.dtype).T @ grad_maps  # (B, D, P, H·W)
    grad_rolled = grad_planes.unflatten(3, (height, width)).permute(0, 3, 4, 2, 1)  # (B, H, W, P, D)
    grad_fc = torch.einsum("bdtx,bdpx->tp", grad_maps, planes)  # (T, P)
    grad_bias = grad_maps.sum((0, 1, 3)) if fc_bias is not None else grad_fc.new_empty(0)  # (T,)
    return (
        roll_back(grad_rolled, shift).contiguous(),
        grad_fc.to(fc_weight.dtype),
        grad_bias.to(fc_weight.dtype if fc_bias is None else fc_bias.dtype),
        grad_kernels.to(kernels.dtype),
    )


def planes_of(pieces: Tensor) -> Tensor:
    """Each channel's pieces side by side: (B, H, W, P, D) -> (B, D, P, H·W)."""
    return pieces.permute(0, 4, 3, 1, 2).flatten(3)


def conv_path_maps(planes: Tensor, fc_weight: Tensor, fc_bias: Tensor | None) -> Tensor:
    """The T maps f_t of each channel: (B, D, P, H·W) -> (B, D, T, H·W)."""
    maps = fc_weight.to(planes.dtype) @ planes
    return maps if fc_bias is None else maps + fc_bias.to(maps.dtype)[:, None]


def as_image(maps: Tensor, height: int, width: int) -> Tensor:
    """(B, D, T, H·W) -> (B, D·T, H, W), with the strides of a fresh tensor."""
    # Sides of 1 may carry any stride, and PyTorch's convolution of one pixel in float64 fails at some of them.
    batch, channels, count, _ = maps.shape
    return maps.flatten().view(batch, channels * count, height, width)


def geometry(kernels: Tensor, stride: int, dilation: int) -> dict[str, Any]:
    """Stride, dilation, and the zero padding that makes the output ceil(H/stride) × ceil(W/stride)."""
    return {"stride": stride, "dilation": dilation, "padding": [dilation * (side // 2) for side in kernels.shape[2:]]}


# --- window attention -----------------------------------------------------------------------------------------------


def window_attention(
    qkv: Tensor, bias_table: Tensor | None, window: tuple[int, int], shift: tuple[int, int], scale: float
) -> Tensor:
    """softmax(scale·q·kᵀ + bias + mask)·v in every window of the rolled map; see `acmix.ops.window_attention`."""
    height, width = qkv.shape[1:3]
    q, k, v = split_windows(roll(qkv, shift), window)  # (B, G, N, L, D) each
    weights = attention_weights(q, k, bias_table, (height, width), window, shift, scale)  # (B, G, N, L, L)
    out = (weights.to(v.dtype) @ v).transpose(2, 3)  # (B, G, L, N, D)
    return roll_back(merge_windows(out, (height, width), window), shift).flatten(3).contiguous()  # (B, H, W, C)


def window_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    bias_table: Tensor | None,
    window: tuple[int, int],
    shift: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and of the bias table (empty where there is none)."""
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
    grad_table = qkv.new_empty(0)
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


@lru_cache(maxsize=64)
def relative_position_index(window: tuple[int, int], device: str) -> Tensor:
    """Which row of the bias table belongs to (query, key): (Δy + wh − 1)·(2·ww − 1) + Δx + ww − 1, shape (L, L)."""
    y, x = torch.meshgrid(torch.arange(window[0]), torch.arange(window[1]), indexing="ij")
    y, x = y.flatten(), x.flatten()
    row = y[:, None] - y[None, :] + window[0] - 1
    column = x[:, None] - x[None, :] + window[1] - 1
    return (row * (2 * window[1] - 1) + column).to(device)


@lru_cache(maxsize=256)
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


# --- moving between the map and its windows -------------------------------------------------------------------------


def roll(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Rolls dimensions 1 and 2 by −shift."""
    return x.roll((-shift[0], -shift[1]), (1, 2)) if any(shift) else x


def roll_back(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Undoes `roll`."""
    return x.roll(tuple(shift), (1, 2)) if any(shift) else x


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
