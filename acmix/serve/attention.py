"""Where a pixel looks: the weights of every attention of a network, for one pixel of one image.

Shapes: H, W map of a block · h, w map of what it looks at · N heads · C channels · D channels a head
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from acmix.layers import (
    GlobalAttention,
    Mixed,
    PairwiseAttention,
    PatchwiseAttention,
    ReductionAttention,
    WindowAttention,
)
from acmix.layers.acmix2d import ACmix2d
from acmix.layers.patchwise_attention import OUTPUTS, VectorAttention
from acmix.ops.local_attention import reference as local
from acmix.ops.neighbours import reflected, roll
from acmix.ops.window_attention.reference import attention_weights, split_windows

Size = tuple[int, int]


@dataclass(frozen=True)
class Looked:
    """What one block's attention does with one pixel.

    Args:
        block: the block's name.
        kind: of attention: "window", "local", "global", "reduced", "patchwise" or "pairwise".
        grid: (H, W), the block's map.
        pixel: (row, column) on it.
        weights: (h, w), the mean over the heads; those of the pixel's own window or neighbourhood are above 0.
    """

    block: str
    kind: str
    grid: Size
    pixel: Size
    weights: Tensor


class Watch:
    """Looks into a model while it computes one image.

    Args:
        model: any of ours; detectors and segmenters by their backbone.
        place: (x, y) of the pixel, each from 0 to 1, in the image as the backbone sees it.
    """

    def __init__(self, model: nn.Module, place: tuple[float, float]) -> None:
        self.model, self.place = model, place
        self.found: dict[str, Looked] = {}
        self.seen: Tensor | None = None
        self.handles: list[Any] = []

    def __enter__(self) -> Watch:
        outer = getattr(self.model, "backbone", None) or self.model
        self.handles.append(outer.register_forward_pre_hook(self.note_image))
        for name, layer in attentions(self.model).items():

            def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], name: str = name) -> None:
                # of windows that slide, the first
                if name not in self.found and (one := looked(name, module, given, named, self.place)) is not None:
                    self.found[name] = one

            self.handles.append(layer.register_forward_pre_hook(note, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.handles:
            each.remove()

    def note_image(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        """Keeps what the backbone sees: (1, C, h, w)."""
        if self.seen is None and given and isinstance(given[0], Tensor):
            self.seen = given[0]


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model that have an attention whose weights can be told, by name."""
    known = (WindowAttention, GlobalAttention, ReductionAttention, ACmix2d, VectorAttention)
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, known) and isinstance(layer, Mixed) and layer.has_attention
    }


def looked(
    name: str, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], place: tuple[float, float]
) -> Looked | None:
    """The weights of a layer that is about to be called with these arguments."""
    x = given[0]
    if isinstance(layer, WindowAttention):
        shift = given[1] if len(given) > 1 else named.get("shift", (0, 0))
        kind, grid = "window", (x.shape[1], x.shape[2])
        pixel = pixel_at(place, grid)
        weights = of_window(layer, x[:1], (int(shift[0]), int(shift[1])), pixel)
    elif isinstance(layer, (GlobalAttention, ReductionAttention)):
        grid = given[1] if len(given) > 1 else named.get("grid")
        grid = layer.known_grid(x) if grid is None and isinstance(layer, GlobalAttention) else grid
        assert grid is not None
        pixel = pixel_at(place, grid)
        is_global = isinstance(layer, GlobalAttention)
        kind = "global" if is_global else "reduced"
        weights = of_tokens(layer, x[:1], grid, pixel) if is_global else of_reduced(layer, x[:1], grid, pixel)
    elif isinstance(layer, ACmix2d):
        stride = layer.stride
        kind, grid = "local", (-(-x.shape[2] // stride), -(-x.shape[3] // stride))
        pixel = pixel_at(place, grid)
        weights = of_neighbourhood(layer, x[:1], pixel)
    elif isinstance(layer, VectorAttention):
        kind, grid = {PatchwiseAttention: "patchwise", PairwiseAttention: "pairwise"}[type(layer)], tuple(x.shape[2:])
        pixel = pixel_at(place, grid)
        weights = of_vectors(layer, x[:1], pixel)
    else:
        return None
    return Looked(name, kind, (grid[0], grid[1]), pixel, weights.float().cpu())


def pixel_at(place: tuple[float, float], grid: Size) -> Size:
    """The pixel of a map (row, column) that a place lies in."""
    x, y = (min(max(each, 0.0), 1.0) for each in place)
    return min(int(y * grid[0]), grid[0] - 1), min(int(x * grid[1]), grid[1] - 1)


def of_window(layer: WindowAttention, x: Tensor, shift: Size, pixel: Size) -> Tensor:
    """Of a window: (1, H, W, C) -> (H, W), above 0 in the pixel's window alone."""
    size, window = (x.shape[1], x.shape[2]), layer.window
    qkv = layer.qkv(x).unflatten(3, (3, layer.heads, layer.head_dim))  # (1, H, W, 3, N, D)
    q, k, _ = split_windows(roll(qkv, shift), window)  # (1, G, N, L, D) each
    # which pixel each key is, from 1 on; 0 is padding
    order = torch.arange(1, size[0] * size[1] + 1, device=x.device).view(1, *size, 1, 1, 1)
    (places,) = split_windows(roll(order, shift), window)  # (1, G, 1, L, 1)
    places = places.flatten(2)[0]  # (G, L)
    group, query = (places == 1 + pixel[0] * size[1] + pixel[1]).nonzero()[0].tolist()
    scale = layer.head_dim**-0.5
    table = layer.relative_position_bias_table
    weights = attention_weights(q, k, table, size, window, shift, scale)[0, group, :, query].mean(0)  # (L,)
    out = weights.new_zeros(size[0] * size[1] + 1)
    out[places[group]] = weights
    return out[1:].view(size)


def of_tokens(layer: GlobalAttention, x: Tensor, grid: Size, pixel: Size) -> Tensor:
    """Of all tokens: (1, T + H·W, C) -> (H, W)."""
    first = x.shape[1] - grid[0] * grid[1]
    qkv = layer.qkv(x).unflatten(2, (3, layer.heads, layer.head_dim))
    q, k, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (1, N, L, D) each
    q, k = layer.q_norm(q), layer.k_norm(k)
    return row_of(q[0, :, first + pixel[0] * grid[1] + pixel[1]], k[0])[first:].view(grid)


def of_reduced(layer: ReductionAttention, x: Tensor, grid: Size, pixel: Size) -> Tensor:
    """Of a reduced map: (1, T + H·W, C) -> (h, w)."""
    first = x.shape[1] - grid[0] * grid[1]
    query = x[:, first + pixel[0] * grid[1] + pixel[1]]
    q = layer.q(query).unflatten(1, (layer.heads, layer.head_dim))[0]  # (N, D)
    reduced, small = layer.reduce(x, grid)
    kv = layer.kv(reduced).unflatten(2, (2 * layer.heads, layer.head_dim))  # (1, T + h·w, 2·N, D)
    return row_of(q, kv[0, :, : layer.heads].transpose(0, 1))[-small[0] * small[1] :].view(small)


def row_of(q: Tensor, k: Tensor) -> Tensor:
    """One query's weights: (N, D) and (N, L, D) -> (L,), the mean over the heads."""
    logits = torch.einsum("nd,nld->nl", q, k).float() * q.shape[1] ** -0.5
    return logits.softmax(1).mean(0)


def of_neighbourhood(layer: ACmix2d, x: Tensor, pixel: Size) -> Tensor:
    """Of a neighbourhood: (1, I, H, W) -> (H, W); pixels beyond the border count as those that they mirror."""
    size = (x.shape[2], x.shape[3])
    qkv = layer.projected(x).view(1, *size, 3, layer.heads, layer.head_dim)
    weights = local.parts(layer.arguments(qkv))[0][:, 0, pixel[0], pixel[1]].mean(1)  # (K²,)
    return spread(weights, pixel, size, layer.attention_size, layer.stride, layer.dilation)


def of_vectors(layer: VectorAttention, x: Tensor, pixel: Size) -> Tensor:
    """Of vector attention: (1, C, H, W) -> (H, W); sizes of the weights, which may be below 0."""
    qkv = layer.qkv(x.permute(0, 2, 3, 1))
    query, key, _ = qkv.split([layer.width, layer.width, OUTPUTS * layer.width], 3)
    weights = layer.weigh(query, key)[0, pixel[0], pixel[1]].abs().mean(1)  # (O,)
    return spread(weights, pixel, (x.shape[2], x.shape[3]), layer.size, 1, 1)


def spread(weights: Tensor, pixel: Size, size: Size, side: int, stride: int, dilation: int) -> Tensor:
    """The weights (K²,) of a neighbourhood on its map (H, W)."""
    reach = dilation * (side // 2)
    steps = dilation * torch.arange(side, device=weights.device)
    rows, columns = (
        reflected(length, reach, weights.device)[stride * at + steps] for length, at in zip(size, pixel, strict=True)
    )
    out = weights.new_zeros(size)
    index = (rows[:, None].expand(side, side), columns.expand(side, side))
    return out.index_put_(index, weights.view(side, side), accumulate=True)


def as_picture(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Image.Image:
    """What the backbone sees, (1, C, h, w), as a picture; channels that are neither grey nor colours are averaged."""
    values = image[0].float().cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    values = values if values.shape[0] == 3 else values.mean(0, keepdim=True).expand(3, -1, -1)
    pixels = (255 * values.clamp(0, 1)).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
