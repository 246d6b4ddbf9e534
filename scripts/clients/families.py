"""Small models of every family: ours, and the same model without a convolution path.

Shapes: B batch · h, w image
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

import acmix

CLASSES, SIDE, BATCH = 5, 64, 2
SWIN = dict(img_size=SIDE, embed_dim=16, depths=(2, 2, 1, 1), num_heads=(2, 2, 4, 4), window_size=4)
PVT = dict(img_size=SIDE, embed_dims=(16, 32, 48, 64), depths=(1, 1, 1, 2), num_heads=(1, 2, 3, 4))
VIT = dict(img_size=SIDE, embed_dim=48, depth=4, num_heads=3)
# a last norm of zeros would keep a bottleneck's layers without effect
TIMM_RESNET = dict(layers=(1, 1, 1, 1), channels=(16, 32, 64, 64), zero_init_last=False)


@dataclass(frozen=True)
class Family:
    """One row of models.

    Args:
        title: as the table names it.
        name: timm's name of the model.
        arguments: of its constructor, which make it small.
        change: what turns timm's own model into ours, where ours has no name of its own.
        pyramid: whether its maps halve from stage to stage.
    """

    title: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    change: Callable[[nn.Module], nn.Module] | None = None
    pyramid: bool = True

    def keywords(self, ours: bool) -> dict[str, Any]:
        """The arguments of timm's `create_model`."""
        return self.arguments if self.change else {**self.arguments, "conv_path": ours}

    def fresh(self, ours: bool, **more: Any) -> nn.Module:
        """A model with weights drawn from one seed; `features_only=True` among `more` gives the backbone."""
        torch.manual_seed(0)
        given = {"num_classes": CLASSES, **self.keywords(ours), **more}
        if self.change and ours and more.get("features_only") and self.name.startswith("vit"):
            return acmix.add_conv_path(self.name, pretrained=False, rates=(0.5, 0.5), **given)
        model = timm.create_model(self.name, **given)
        return self.change(model) if self.change and ours else model

    def model(self, ours: bool) -> nn.Module:
        """A model in evaluation mode; ours and the plain one have the weights that they share."""
        model, plain = self.fresh(ours), self.fresh(False)
        with torch.no_grad():
            shared = plain.state_dict()
            for name, tensor in model.state_dict().items():
                if name in shared and shared[name].shape == tensor.shape:
                    tensor.copy_(shared[name])
        return model.eval()


def upgraded(model: nn.Module) -> nn.Module:
    """timm's model with convolution paths that count."""
    return acmix.add_conv_path(model, rates=(0.5, 0.5))


def replaced(model: nn.Module) -> nn.Module:
    """timm's ResNet with ACmix2d in its last two stages."""
    return acmix.replace_conv(model, lambda name, conv: "layer3" in name or "layer4" in name)


FAMILIES = (
    Family("Swin", "acmix_swin_tiny_patch4_window7_224", SWIN),
    Family("ResNet", "acmix_resnet26", dict(layers=(1, 1, 1, 1), width=16)),
    Family("SAN", "acmix_san10", dict(layers=(1, 1, 1, 1, 1), width=64)),
    Family("PVT", "acmix_pvt_tiny", PVT),
    Family("DeiT", "acmix_deit_tiny_patch16_224", VIT, pyramid=False),
    Family("timm ViT, upgraded", "vit_tiny_patch16_224", VIT, upgraded, pyramid=False),
    Family("timm ResNet, replaced", "resnet18", TIMM_RESNET, replaced),
)


def images(seed: int = 0, batch: int = BATCH, side: int = SIDE) -> Tensor:
    """(B, 3, h, w)."""
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def loss(model: nn.Module, x: Tensor) -> Tensor:
    """Cross-entropy with classes that only depend on the place in the batch."""
    return nn.functional.cross_entropy(model(x), torch.arange(len(x)) % CLASSES)


@torch.no_grad()
def output(model: nn.Module, x: Tensor | None = None) -> Tensor:
    """Logits of a model."""
    return model(images() if x is None else x)


def change(after: Tensor, before: Tensor) -> float:
    """‖after − before‖ ÷ ‖before‖."""
    return ((after - before).norm() / before.norm()).item()


def learned(tensor: Tensor | None) -> bool:
    """Whether a gradient came, and says something."""
    return tensor is not None and bool(tensor.isfinite().all()) and bool(tensor.any())


def projections(model: nn.Module) -> list[str]:
    """Names of the linear layers and of the 1×1 and k×k convolutions, which tools change."""
    return [name for name, module in model.named_modules() if type(module) in (nn.Linear, nn.Conv2d)]
