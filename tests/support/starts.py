"""Small models and their weights in files, for models that start from a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from rich.console import Console
from timm.models.resnet import Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn

import acmix
from acmix.errors import UsageError
from acmix.released.start import Started, start_from

SWIN, DEIT, PVT, RESNET = (
    "acmix_swin_tiny_patch4_window7_224",
    "acmix_deit_tiny_patch16_224",
    "acmix_pvt_tiny",
    "acmix_resnet26",
)
SIZES: dict[str, dict[str, Any]] = {
    SWIN: dict(img_size=64, embed_dim=24, depths=(2, 2), num_heads=(3, 6), window_size=4, num_classes=5),
    DEIT: dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5),
    PVT: dict(
        img_size=64, embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(2, 2), reductions=(2, 1),
        num_classes=5,
    ),
    RESNET: dict(layers=(1, 1), width=16, num_classes=5),
}  # fmt: skip


def ours(name: str, **changes: Any) -> nn.Module:
    """A small model, without a convolution path unless asked for."""
    torch.manual_seed(1)
    return acmix.create_model(name, **{"conv_path": False, **SIZES[name], **changes}).eval()


def theirs(name: str, **changes: Any) -> nn.Module:
    """timm's model of the same sizes, with weights that are none of ours."""
    torch.manual_seed(2)
    sizes = {**SIZES[name], **changes}
    if name == RESNET:
        kind: Any = Bottleneck
        return TimmResNet(kind, (1, 1, 1, 1), num_classes=5, **changes).eval()
    model = timm.create_model({SWIN: "swin_tiny_patch4_window7_224", DEIT: "deit_tiny_patch16_224"}[name], **sizes)
    return model.eval()


def logits(model: nn.Module, size: int = 64, in_chans: int = 3) -> Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        return model(torch.randn(2, in_chans, size, size))


def kept(weights: Any, path: Path) -> Path:
    """The weights in a file."""
    torch.save(weights, path)
    return path


def printed(started: Started) -> str:
    """The table as text."""
    console = Console(width=400)
    with console.capture() as capture:
        console.print(started.table())
    return capture.get()


def refused(model: nn.Module, weights: Any, file: Path) -> str:
    """The one line that refuses a file, which leaves the model as it was."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError) as caught:
        start_from(model, kept(weights, file))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)
