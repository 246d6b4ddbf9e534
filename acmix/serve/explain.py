"""What a model of ours tells of itself: where a pixel looks, α and β by block, the kernels of its convolution path."""

from __future__ import annotations

import base64
from typing import Any

import torch
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers import ConvPath, path_rates
from acmix.serve.answers import encoded
from acmix.serve.attention import Watch, as_picture, attentions
from acmix.serve.refused import Refused
from acmix.tools.load import Info
from acmix.tools.predict import Predictor
from acmix.tools.rates import leaning, short_name

# of patchwise attention: pieces of q, k and v
SIX = {"q": 1, "k": 1, "v": 4}


def why_not(model: nn.Module, info: Info) -> str:
    """Why a model tells nothing of its attention or paths; "" where it does."""
    if attentions(model) or paths(model):
        return ""
    if info.kind in ("checkpoint", "released checkpoint", "published weights"):
        return f"{info.model} has no attention and no convolution path that acmix knows"
    return f"the model is an export ({info.kind}), whose blocks cannot be told apart; serve the checkpoint"


def attention_of(predictor: Predictor, info: Info, name: str, ready: Any, place: tuple[float, float]) -> dict[str, Any]:
    """Where a pixel looks, by block.

    Args:
        predictor: of a model that has attention.
        info: of it.
        name: of the image.
        ready: the prepared image.
        place: (x, y) of the pixel, from 0 to 1, in the image as the network sees it.

    Returns:
        `view`, a PNG in base64: the image as the network sees it; `blocks`, each with `name`, `kind`, `grid` (height
        and width of its map), `pixel` (row and column on it), `shape` of the map that it looks at, `largest`, the
        largest weight, and `weights`, a byte a pixel in base64: 255 for the largest.

    Raises:
        UsageError: the image did not reach the network.
    """
    with Watch(predictor.model, place) as watch:
        [found] = predictor.found([(name, ready)])
    if found.error is not None or watch.seen is None:
        raise UsageError(found.error or f"{name}: the network was not reached")
    blocks = []
    for one in watch.found.values():
        largest = float(one.weights.max())
        scaled = (255 * one.weights / max(largest, 1e-12)).round().to(torch.uint8)
        blocks.append(
            {
                "name": short_name(one.block) or "(the layer)",
                "kind": one.kind,
                "grid": one.grid,
                "pixel": one.pixel,
                "shape": [*one.weights.shape],
                "largest": largest,
                "weights": base64.b64encode(scaled.numpy().tobytes()).decode("ascii"),
            }
        )
    view = as_picture(watch.seen, info.mean, info.std)
    return {"image": name, "view": encoded(view, "PNG"), "size": [view.height, view.width], "blocks": blocks}


def paths(model: nn.Module) -> dict[str, ConvPath]:
    """The convolution paths of a model, by the names of their blocks."""
    return {
        name.removesuffix("conv_path").removesuffix("."): layer
        for name, layer in model.named_modules()
        if isinstance(layer, ConvPath)
    }


@torch.inference_mode()
def paths_of(model: nn.Module, info: Info) -> dict[str, Any]:
    """α, β and the effective kernels of every block that has a convolution path.

    Returns:
        `finding`, a sentence on which path leads where; `blocks`, each with `name`, `attention` (α), `conv` (β) and
        `share` (of β), None where one path stands alone; `channels` and `kernels`: for q, k and v, the k×k root mean
        squares of the effective kernel over channels and heads.

    Raises:
        Refused: the model has no such path.
    """
    found = paths(model)
    if not found:
        raise Refused(404, why_not(model, info) or f"{info.model} has no convolution path")
    rates = path_rates(model)
    blocks = []
    for name, path in found.items():
        rate = rates.get(name)
        kernels = path.kernels_of_pieces().float()  # (C, P, ky, kx)
        groups = {
            group: [[round(value, 6) for value in row] for row in part.square().mean((0, 1)).sqrt().tolist()]
            for group, part in parts(path, kernels).items()
        }
        block: dict[str, Any] = {"name": short_name(name) or "(the layer)", "attention": None, "conv": None}
        if rate is not None:
            block |= {"attention": rate.attention, "conv": rate.conv}
        block["share"] = None if rate is None else rate.share
        blocks.append(block | {"channels": kernels.shape[0], "kernels": groups})
    return {"finding": leaning(rates.values()) if rates else "", "blocks": blocks}


@torch.inference_mode()
def kernels_of(model: nn.Module, info: Info, block: str, channel: int) -> dict[str, Any]:
    """The effective kernels of one output channel of a block: one for each head of q, k and v.

    Raises:
        Refused: no such block or channel.
    """
    found = {short_name(name) or "(the layer)": path for name, path in paths(model).items()}
    if block not in found:
        raise Refused(404, f"there is no block {block!r} with a convolution path; GET /paths lists them")
    path = found[block]
    channels = path.heads * path.head_dim
    if not 0 <= channel < channels:
        raise Refused(404, f"channel {channel}: {block} has 0 to {channels - 1}")
    kernels = path.kernels_of_pieces()[channel : channel + 1].float()  # (1, P, ky, kx)
    told = {group: part[0].tolist() for group, part in parts(path, kernels).items()}
    return {"block": block, "channel": channel, "head": channel % path.heads, "kernels": told}


def parts(path: ConvPath, kernels: Tensor) -> dict[str, Tensor]:
    """Kernels (C, P, ky, kx) of the pieces of q, of k and of v."""
    counts = SIX if path.pieces == sum(SIX.values()) and path.heads == SIX["v"] else dict.fromkeys("qkv", path.heads)
    if sum(counts.values()) != path.pieces:
        return {"qkv": kernels}
    return dict(zip(counts, kernels.split([*counts.values()], 1), strict=True))
