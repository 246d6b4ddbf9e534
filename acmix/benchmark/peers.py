"""The operators by PyTorch's and timm's own fast means: what one would write without this library.

They compute what `acmix.ops` computes, from the same arguments, and leave gradients to autograd.

Shapes
    B batch · H, W map · Ho, Wo of the output · N heads · D channels a head · C = N·D · P pieces · T = k² maps
    M output channels for each of the D channels · K side of a neighbourhood · G windows, or groups of channels
    L pixels of a window
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import get_relative_position_index, window_partition, window_reverse
from torch import Tensor


def rolled(x: Tensor, shift: tuple[int, int], direction: int) -> Tensor:
    """A map (B, H, W, …), rolled by −shift (direction −1) or back (1); itself where nothing moves."""
    return torch.roll(x, (direction * shift[0], direction * shift[1]), (1, 2)) if any(shift) else x


def output_sides(height: int, width: int, stride: int) -> tuple[int, int]:
    """(Ho, Wo): how many pixels there are from the first, every stride-th."""
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def mirrored_margins(images: Tensor, size: tuple[int, int], dilation: int = 1) -> Tensor:
    """Images (n, D, H, W) with half a neighbourhood more on each side, mirrored at the border."""
    rows, columns = (dilation * (side // 2) for side in size)
    return F.pad(images, [columns, columns, rows, rows], mode="reflect")


def neighbourhoods(images: Tensor, size: tuple[int, int], stride: int = 1, dilation: int = 1) -> Tensor:
    """Every pixel's neighbourhood laid out in memory: (n, D, H, W) -> (n, D, K², Ho·Wo)."""
    columns = F.unfold(mirrored_margins(images, size, dilation), size, stride=stride, dilation=dilation)
    return columns.unflatten(1, (images.shape[1], -1))


def placed(kernels: Tensor, stride: int, dilation: int) -> dict[str, Any]:
    """Where PyTorch's convolution puts kernels (…, ky, kx), so that a pixel's middle tap lies on it."""
    return dict(stride=stride, dilation=dilation, padding=[dilation * (side // 2) for side in kernels.shape[2:]])


def grouped_convolution(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    *,
    stride: int,
    dilation: int,
    shift: tuple[int, int],
) -> Tensor:
    """The convolution path as fc by a matrix product, then PyTorch's convolution in D groups."""
    dtype, channels = pieces.dtype, pieces.shape[4]
    bias = None if fc_bias is None else fc_bias.to(dtype)
    maps = F.linear(rolled(pieces, shift, -1).transpose(3, 4), fc_weight.to(dtype), bias)  # (B, H, W, D, T)
    image = maps.flatten(3).permute(0, 3, 1, 2)  # (B, D·T, H, W)
    place = placed(kernels, stride, dilation)
    out = F.conv2d(image, kernels.to(dtype), groups=channels, **place)  # (B, M·D, Ho, Wo)
    return rolled(out.permute(0, 2, 3, 1), shift, 1)  # (B, Ho, Wo, M·D)


def folded_convolution(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    *,
    stride: int,
    dilation: int,
    shift: tuple[int, int],
) -> Tensor:
    """The convolution path with fc folded into the kernels: one convolution in D groups, from P to M channels each.

    fc's bias reaches the output through the taps that lie on the map: a convolution of ones.
    """
    dtype, channels = pieces.dtype, pieces.shape[4]
    place = placed(kernels, stride, dilation)
    folded = torch.einsum("otyx,tp->opyx", kernels, fc_weight).to(dtype)  # (M·D, P, k, k)
    image = rolled(pieces, shift, -1).permute(0, 4, 3, 1, 2).flatten(1, 2)  # (B, D·P, H, W)
    out = F.conv2d(image, folded, groups=channels, **place)  # (B, M·D, Ho, Wo)
    if fc_bias is not None:
        of_ones = torch.einsum("otyx,t->oyx", kernels, fc_bias)[:, None].to(dtype)  # (M·D, 1, k, k)
        out = out + F.conv2d(image.new_ones(1, 1, *image.shape[2:]), of_ones, **place)
    return rolled(out.permute(0, 2, 3, 1), shift, 1)  # (B, Ho, Wo, M·D)


def sdpa_in_windows(
    qkv: Tensor, bias_table: Tensor, *, window: tuple[int, int], shift: tuple[int, int], scale: float | None
) -> Tensor:
    """Window attention as timm's Swin does it: roll, cut into windows, scaled_dot_product_attention, put together."""
    batch, height, width, _, heads, channels = qkv.shape
    windows = window_partition(rolled(qkv, shift, -1).flatten(3), window)  # (B·G, w, w, 3·C)
    q, k, v = windows.flatten(1, 2).unflatten(2, (3, heads, channels)).permute(2, 0, 3, 1, 4)  # (B·G, N, L, D) each
    index = relative_positions(window, str(qkv.device))
    mask = bias_table[index].permute(2, 0, 1)[None]  # (1, N, L, L)
    if any(shift):
        mask = (mask + hidden_pairs((height, width), window, shift, str(qkv.device))).repeat(batch, 1, 1, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), scale=scale)  # (B·G, N, L, D)
    merged = window_reverse(out.transpose(1, 2).reshape(-1, *window, heads * channels), window, height, width)
    return rolled(merged, shift, 1)  # (B, H, W, C)


@lru_cache(maxsize=4)
def relative_positions(window: tuple[int, int], device: str) -> Tensor:
    """timm's index into the table of biases, kept as its models keep it: (L, L)."""
    return get_relative_position_index(*window).to(device)


@lru_cache(maxsize=16)
def hidden_pairs(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], device: str) -> Tensor:
    """−100 where only the roll made two pixels neighbours and 0 elsewhere, as timm keeps it: (G, 1, L, L)."""
    regions = torch.zeros(1, *size, 1, device=device)
    # rows that the roll brought from the other side are strangers to those above them; so with columns
    regions[:, size[0] - shift[0] :] += 1
    regions[:, :, size[1] - shift[1] :] += 2
    region = window_partition(regions, window).flatten(1)  # (G, L)
    return (region[:, None, :, None] != region[:, None, None, :]) * -100.0


def unfolded_attention(
    qkv: Tensor, position: Tensor, *, size: tuple[int, int], stride: int, dilation: int, scale: float | None
) -> Tensor:
    """Local attention with every pixel's neighbourhood laid out in memory: K²·C numbers a pixel for k, and for v."""
    batch, height, width, _, heads, channels = qkv.shape
    q, k, v = qkv.permute(3, 0, 4, 5, 1, 2).flatten(1, 2)  # (B·N, D, H, W) each
    k = k - position.permute(2, 0, 1)
    queries = q[:, :, ::stride, ::stride].flatten(2)[:, :, None]  # (B·N, D, 1, Ho·Wo)
    logits = (queries * neighbourhoods(k, size, stride, dilation)).sum(1)  # (B·N, K², Ho·Wo)
    weights = (logits * (channels**-0.5 if scale is None else scale)).softmax(1)
    out = (weights[:, None] * neighbourhoods(v, size, stride, dilation)).sum(2)  # (B·N, D, Ho·Wo)
    sides = output_sides(height, width, stride)
    return out.view(batch, heads * channels, *sides).permute(0, 2, 3, 1)  # (B, Ho, Wo, C)


@lru_cache(maxsize=1)
def flex_for(
    size: tuple[int, int], neighbourhood: tuple[int, int], stride: int, dilation: int, device: str
) -> tuple[Callable[..., Any], Any]:
    """FlexAttention compiled for one shape, and the mask of its neighbourhoods on a map that is padded already."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    out_height, out_width = output_sides(*size, stride)
    rows, columns = (dilation * (side - 1) for side in neighbourhood)
    padded_height, padded_width = size[0] + rows, size[1] + columns

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        down = key // padded_width - query // out_width * stride
        right = key % padded_width - query % out_width * stride
        inside = (down >= 0) & (down <= rows) & (right >= 0) & (right <= columns)
        return inside & (down % dilation == 0) & (right % dilation == 0)

    mask = create_block_mask(near, None, None, out_height * out_width, padded_height * padded_width, device=device)
    # a shape more than torch.compile keeps would run without a kernel, unsaid
    torch.compiler.reset()
    return torch.compile(flex_attention, dynamic=False) if device != "cpu" else flex_attention, mask


def flex_attention_in_neighbourhoods(
    qkv: Tensor, position: Tensor, *, size: tuple[int, int], stride: int, dilation: int, scale: float | None
) -> Tensor:
    """Local attention by FlexAttention: mirrored margins as further keys, a mask of neighbourhoods."""
    height, width = qkv.shape[1:3]
    q, k, v = qkv.permute(3, 0, 4, 5, 1, 2)  # (B, N, D, H, W) each
    k, v = (
        mirrored_margins(x.flatten(0, 1), size, dilation).unflatten(0, x.shape[:2]).flatten(3).transpose(2, 3)
        for x in (k - position.permute(2, 0, 1), v)
    )  # (B, N, pixels with margins, D)
    queries = q[..., ::stride, ::stride].flatten(3).transpose(2, 3)  # (B, N, Ho·Wo, D)
    attend, mask = flex_for((height, width), size, stride, dilation, qkv.device.type)
    out = attend(queries.contiguous(), k.contiguous(), v.contiguous(), block_mask=mask, scale=scale)  # (B, N, Ho·Wo, D)
    sides = output_sides(height, width, stride)
    return out.transpose(1, 2).reshape(qkv.shape[0], *sides, -1)  # (B, Ho, Wo, C)


def flex_why_not(tensors: dict[str, Tensor], settings: dict[str, Any]) -> str | None:
    """The reason why FlexAttention is no peer of local attention, or None: tried forward and backward."""
    if tensors["qkv"].device.type == "cpu":
        return "its kernels are for a GPU"
    try:
        flex_attention_in_neighbourhoods(**tensors, **settings).sum().backward()
    except (ImportError, RuntimeError, ValueError, NotImplementedError) as error:
        return f"it fails: {' '.join(str(error).split())[:200]}"
    finally:
        for tensor in tensors.values():
            tensor.grad = None
    return None


def unfolded_sum(values: Tensor, weights: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Patchwise attention with every neighbourhood of values laid out in memory, and an einsum over it."""
    batch, height, width, _ = values.shape
    groups = weights.shape[4]
    near = neighbourhoods(values.permute(0, 3, 1, 2), size).view(batch, groups, -1, weights.shape[3], height, width)
    out = torch.einsum("bgcoyx,byxog->byxgc", near, weights)  # (B, H, W, G, C/G)
    return out.flatten(3)  # (B, H, W, C)


PEERS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "conv_path": {"grouped convolution": grouped_convolution, "folded convolution": folded_convolution},
    "window_attention": {"SDPA": sdpa_in_windows},
    "local_attention": {"unfold": unfolded_attention},
    "patchwise_attention": {"unfold and einsum": unfolded_sum},
}
