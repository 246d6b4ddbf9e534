"""Networks that label every pixel: a backbone, and the head of Semantic FPN or of UPerNet.

Shapes: B batch · h, w image · H_i, W_i map i with C_i channels · K classes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, NamedTuple

from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.heads.arguments import features_of
from acmix.heads.dense import MapNorm, enlarged
from acmix.heads.features import Features
from acmix.heads.inputs import check_norms
from acmix.heads.pyramid import Pyramid, SimplePyramid
from acmix.heads.semantic_fpn import SemanticFPN
from acmix.heads.upernet import FCN, POOLS, UPerNet
from acmix.near import did_you_mean

# of the map that an auxiliary head reads
AUXILIARY_STRIDE = 16
# the largest side of a map that UPerNet averages to: no weight tells it, so a file could ask for any
MOST_POOLED = 64


class Parts(NamedTuple):
    """What a segmenter has behind its backbone.

    Args:
        pyramid: from the backbone's maps to those that the head reads; None where it reads them as they are.
        head: from maps to logits on the finest.
        stride: of the finest map that the head reads.
        pools: whether the head averages a map to one pixel, which a batch norm then sees.
        auxiliary: from one map of the backbone to logits, or None.
        auxiliary_weight: of its loss; 0 where there is none.
    """

    pyramid: nn.Module | None
    head: nn.Module
    stride: int
    pools: bool = False
    auxiliary: nn.Module | None = None
    auxiliary_weight: float = 0.0


class Segmenter(nn.Module):
    """Labels every pixel.

        maps = pyramid(norms(features(x)));    logits = enlarged(head(maps))

    Args:
        features: the backbone.
        parts: what stands behind it.
        head_name: of the head.
        num_classes: K.
        out_norms: a LayerNorm on each map of the backbone.

    Attributes:
        auxiliary_weight: by which the auxiliary logits' loss counts; 0 where there are none.
    """

    def __init__(self, features: Features, parts: Parts, *, head_name: str, num_classes: int, out_norms: bool) -> None:
        super().__init__()
        self.features, self.head_name, self.num_classes = features, head_name, num_classes
        self.norms = nn.ModuleList(MapNorm(each) if out_norms else nn.Identity() for each in features.channels)
        self.pyramid = nn.Identity() if parts.pyramid is None else parts.pyramid
        self.head, self.stride, self.pools = parts.head, parts.stride, parts.pools
        self.auxiliary, self.auxiliary_weight = parts.auxiliary, parts.auxiliary_weight
        self.auxiliary_place = auxiliary_place(features.strides)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Labels normalised images of any size.

        Args:
            x: (B, in_chans, h, w).

        Returns:
            Logits (B, K, h, w); in training, where there is an auxiliary head, {"out": logits, "aux": its logits}.

        Raises:
            UsageError: in training, a batch that leaves a batch norm one value a channel; or no such images.
        """
        self.check(x)
        size = (x.shape[2], x.shape[3])
        maps = [norm(each) for norm, each in zip(self.norms, self.features(x), strict=True)]
        logits = enlarged(self.head(self.pyramid(maps)), self.stride, size)
        if self.auxiliary is None or not self.training:
            return logits
        place = self.auxiliary_place
        return {"out": logits, "aux": enlarged(self.auxiliary(maps[place]), self.features.strides[place], size)}

    def check(self, x: Tensor) -> None:
        """Refuses what is no batch of images, and in training one that a batch norm cannot take."""
        if x.dim() != 4 or x.shape[1] != self.features.in_chans:
            raise UsageError(
                f"images of shape {tuple(x.shape)}; expected (B, {self.features.in_chans}, h, w), normalised"
            )
        if not self.training or x.shape[0] != 1:
            return
        last = self.features.strides[-1]
        if (self.pools or max(x.shape[2:]) <= last) and any(map(is_alone, self.modules())):
            raise UsageError(
                f"one image of {x.shape[2]} × {x.shape[3]} in a training step of {self.head_name} leaves a batch norm "
                "one value a channel; give it 2 images or more, or synchronise the norms of several processes"
            )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps only the input of each of the backbone's blocks for the backward pass and computes the rest again."""
        self.features.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are never decayed: the backbone's rates, positions and tables of biases."""
        return {f"features.{name}" for name in self.features.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tells timm which of the backbone's parameters form a layer, for layer-wise learning rates."""
        return self.features.group_matcher(coarse, prefix="features.")


def semantic_fpn(
    features: Features, num_classes: int, *, channels: int = 128, pyramid_channels: int = 256, dropout: float = 0.1
) -> Parts:
    """Semantic FPN: a feature pyramid, and `SemanticFPN` on it; on a single map, ViTDet's pyramid.

    Args:
        features: the backbone.
        num_classes: K.
        channels: of the head.
        pyramid_channels: of each map of the pyramid.
        dropout: the chance of a channel to be left out before the last convolution.
    """
    if len(features.channels) == 1:
        pyramid = SimplePyramid(features.channels[0], out_channels=pyramid_channels)
    else:
        pyramid = Pyramid(features.channels, features.strides, out_channels=pyramid_channels)
    head = SemanticFPN(pyramid_channels, pyramid.strides, num_classes, channels=channels, dropout=dropout)
    return Parts(pyramid, head, pyramid.strides[0])


def upernet(
    features: Features,
    num_classes: int,
    *,
    channels: int = 512,
    pools: Sequence[int] = POOLS,
    dropout: float = 0.1,
    auxiliary_channels: int = 256,
    auxiliary_weight: float = 0.4,
) -> Parts:
    """UPerNet with the auxiliary head `FCN`; on a single map, behind ViTDet's pyramid.

    Args:
        features: the backbone.
        num_classes: K.
        channels: of the head.
        pools: sides of the maps that the last one is averaged to.
        dropout: the chance of a channel to be left out before a last convolution.
        auxiliary_channels: of the auxiliary head.
        auxiliary_weight: of its loss; 0 leaves the head out.
    """
    pyramid, widths, strides = None, features.channels, features.strides
    if len(widths) == 1:
        pyramid = SimplePyramid(widths[0], out_channels=channels)
        widths, strides = [channels] * len(pyramid.strides), pyramid.strides
    head = UPerNet(widths, strides, num_classes, channels=channels, pools=pools, dropout=dropout)
    auxiliary = None
    if auxiliary_weight > 0:
        read = features.channels[auxiliary_place(features.strides)]
        auxiliary = FCN(read, num_classes, channels=auxiliary_channels, dropout=dropout)
    return Parts(pyramid, head, strides[0], 1 in pools, auxiliary, auxiliary_weight)


HEADS: dict[str, Callable[..., Parts]] = {"semantic_fpn": semantic_fpn, "upernet": upernet}


def create_segmenter(
    head: str,
    backbone: str,
    *,
    num_classes: int = 150,
    conv_path: bool = True,
    in_chans: int = 3,
    out_norms: bool | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    **others: Any,
) -> Segmenter:
    """Builds a network that labels every pixel: normalised images (B, in_chans, h, w) -> logits (B, K, h, w).

    In training, a UPerNet gives {"out": logits, "aux": logits of its auxiliary head}; see `Segmenter`.

    Args:
        head: "semantic_fpn" or "upernet".
        backbone: one of `acmix.list_models()`, or a name of timm's that takes `features_only`.
        num_classes: K; no background is added.
        conv_path: False gives the plain form of our backbones.
        in_chans: channels of the images.
        out_norms: a LayerNorm on each map of the backbone; by default on for the Swins, as in their recipe.
        backbone_args: arguments of the backbone: drop_path_rate, img_size, embed_dim, depths, …; needed for names
            that are the head's too.
        others: of `semantic_fpn`: channels, pyramid_channels, dropout; of `upernet`: channels, pools, dropout,
            auxiliary_channels, auxiliary_weight; and further ones of the backbone.

    Returns:
        The network, in training mode, with weights drawn at random.

    Raises:
        UsageError: no such head or backbone, or an argument that it does not take.
    """
    if head not in HEADS:
        hint = did_you_mean(head, HEADS, otherwise=f"there are {' and '.join(HEADS)}")
        raise UsageError(f"no segmentation head {head!r}; {hint}")
    takes = [each.name for each in signature(HEADS[head]).parameters.values() if each.kind is Parameter.KEYWORD_ONLY]
    head_args = {name: value for name, value in others.items() if name in takes}
    check_arguments({"num_classes": num_classes, **head_args})
    check_norms(out_norms)
    body_args = {"conv_path": conv_path, "in_chans": in_chans, **(backbone_args or {})}
    rest = {name: value for name, value in others.items() if name not in takes}
    features = features_of(backbone, rest, body_args, owner=head, takes=takes)
    return Segmenter(
        features,
        HEADS[head](features, num_classes, **head_args),
        head_name=head,
        num_classes=num_classes,
        out_norms="swin" in backbone if out_norms is None else out_norms,
    )


def check_arguments(given: Mapping[str, Any]) -> None:
    """Refuses widths of a head that are no positive whole numbers, and the like."""
    for name, value in given.items():
        if name in ("dropout", "auxiliary_weight"):
            most = 1.0 if name == "dropout" else float("inf")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
                raise UsageError(f"{name}={value!r}; expected a number from 0{' to 1' if most == 1.0 else ' on'}")
            continue
        sides = value if name == "pools" and isinstance(value, (list, tuple)) else [value]
        most = MOST_POOLED if name == "pools" else float("inf")
        if not sides or any(
            isinstance(each, bool) or not isinstance(each, int) or not 1 <= each <= most for each in sides
        ):
            wanted = f"whole numbers from 1 to {MOST_POOLED}" if name == "pools" else "a whole number from 1 on"
            raise UsageError(f"{name}={value!r}; expected {wanted}")


def auxiliary_place(strides: Sequence[int]) -> int:
    """The map that an auxiliary head reads: that of stride 16, or where there is none the last but one."""
    return strides.index(AUXILIARY_STRIDE) if AUXILIARY_STRIDE in strides else max(len(strides) - 2, 0)


def is_alone(module: nn.Module) -> bool:
    """Whether a module is a batch norm that learns from this process's batch alone."""
    return type(module) is nn.BatchNorm2d and module.training
