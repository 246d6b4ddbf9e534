"""Maps of features at strides 4, 8, 16 and 32, from any backbone: ours, or another one of timm's.

Shapes: B batch · h, w image · C channels of a map, s its stride
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.models import create_model
from acmix.models.download import quick_if_offline, server_of_name

# the first stride of a pyramid; larger maps, as a stem's, are left out
FIRST_STRIDE = 4
# ways to ask timm's networks for images of any size; the first that a network takes is used
ANY_SIZE: tuple[dict[str, Any], ...] = (
    dict(dynamic_img_size=True),
    dict(strict_img_size=False),
    {},
)
# what a constructor raises where its arguments do not fit each other
MISFITS = (TypeError, ValueError, AssertionError, RuntimeError, LookupError, AttributeError, ArithmeticError)


class Features(nn.Module):
    """Gives the maps that a pyramid is built on.

    One map for each stride from 4 on: the last that the network has at it. A ResNet's and a SAN's stem map of stride 2
    is left out, and of a DeiT's or another plain ViT's blocks the last one's map remains, at stride 16. Images of any
    size work: our networks fill up what does not divide; for timm's the image is padded with zeros at the right and
    at the bottom, and the maps are cut to what belongs to the image.

    The network is the one that classifies, without its head, so a classifier's weights fit. In PVT and DeiT the last
    block has no convolution path then, as none reaches the class token; global_pool="" gives it one.

    Args:
        name: one of `acmix.list_models()`, or a name of timm's that takes `features_only`.
        conv_path: False gives the plain form of our networks; timm's have one form.
        levels: which of the maps, by their places from 0 on; all where None.
        in_chans: channels of the images.
        kwargs: further arguments of the network: embed_dim, depths, drop_path_rate, img_size, window_size, …

    Attributes:
        channels: C of each map.
        strides: s of each map.
        name: as given.

    Raises:
        UsageError: no such network, arguments it does not take, or levels it does not have.
    """

    def __init__(
        self,
        name: str,
        *,
        conv_path: bool = True,
        levels: Sequence[int] | None = None,
        in_chans: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.name, self.in_chans = name, in_chans
        ours = name.startswith("acmix_")
        arguments = dict(features_only=True, in_chans=in_chans, **kwargs)
        self.body = built(name, {**arguments, "conv_path": conv_path}) if ours else timms(name, arguments)
        info = self.body.feature_info
        channels, strides = info.channels(), info.reduction()
        # the last map of each stride
        self.places = [i for i, each in enumerate(strides) if each >= FIRST_STRIDE and each not in strides[i + 1 :]]
        self.channels: list[int] = [channels[each] for each in self.places]
        self.strides: list[int] = [strides[each] for each in self.places]
        if levels is not None:
            self.keep(levels)
        self.multiple = 1 if ours else max(strides)

    def keep(self, levels: Sequence[int]) -> None:
        """Leaves out all maps but those at these places, counted from 0 among those there are."""
        count = len(self.strides)
        if not levels or not all(0 <= each < count for each in levels) or sorted(set(levels)) != [*levels]:
            raise UsageError(
                f"levels={tuple(levels)} of {self.name}, which has {count} maps, of strides "
                f"{', '.join(map(str, self.strides))}; expected rising places from 0 to {count - 1}"
            )
        self.places, self.channels, self.strides = (
            [of_all[each] for each in levels] for of_all in (self.places, self.channels, self.strides)
        )

    @property
    def network(self) -> nn.Module:
        """The network whose parameters are named as the classifier's; for a few of timm's, which takes them apart."""
        return getattr(self.body, "model", self.body)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_chans, h, w) -> a list of maps (B, C, ceil(h/s), ceil(w/s))."""
        height, width = x.shape[2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        maps = self.body(x)
        found = [maps[each] for each in self.places]
        if bottom or right:
            found = [
                each[:, :, : -(-height // stride), : -(-width // stride)]
                for each, stride in zip(found, self.strides, strict=True)
            ]
        return found

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps only each block's input for the backward pass and computes the rest again."""
        try:
            self.network.set_grad_checkpointing(enable)  # pyright: ignore[reportCallIssue]
        except (AssertionError, AttributeError) as error:
            raise UsageError(
                f"{self.name} knows no gradient checkpointing; leave out train.gradient_checkpointing"
            ) from error

    def no_weight_decay(self) -> set[str]:
        """Names of the network's parameters that are never decayed: rates, positions, tables of biases."""
        named = getattr(self.network, "no_weight_decay", set)()
        return {f"{self.prefix}{name}" for name in named}

    @property
    def prefix(self) -> str:
        """What a parameter's name of the network begins with here."""
        return "body." if self.network is self.body else "body.model."

    def group_matcher(self, coarse: bool = False, prefix: str = "") -> dict[str, Any]:
        """Tells timm which parameters form a layer, for layer-wise learning rates.

        Args:
            coarse: a layer is a stage, not a block.
            prefix: what this module's name begins with in the model that is trained, such as "features.".

        Raises:
            UsageError: the network does not tell.
        """
        matcher = getattr(self.network, "group_matcher", None)
        if matcher is None:
            raise UsageError(f"{self.name} does not say which parameters form a layer; leave out optimizer.layer_decay")
        start = re.escape(prefix + self.prefix)

        def moved(patterns: Any) -> Any:
            """The patterns for names that begin with the prefix."""
            if isinstance(patterns, str):
                return f"^{start}(?:{patterns.replace('^', '')})"
            if isinstance(patterns, (tuple, list)):
                return [(moved(pattern), place) for pattern, place in patterns]
            raise UsageError(f"{self.name} names its layers by no patterns; leave out optimizer.layer_decay")

        return {part: moved(patterns) for part, patterns in matcher(coarse=coarse).items()}


def timms(name: str, arguments: dict[str, Any]) -> Any:
    """One of timm's networks that takes images of any size where it can, with its own names of parameters."""
    for more in ANY_SIZE:
        for extractor in (dict(feature_cls="getter"), {}):
            try:
                body = built(name, {**arguments, **more, **extractor})
            except UsageError as error:
                if not any(key in str(error) for key in more):
                    raise
                # this network has no such argument
                break
            if hasattr(getattr(body, "model", body), "forward_intermediates") or not extractor:
                return body
    return built(name, arguments)


def built(name: str, arguments: dict[str, Any]) -> Any:
    """timm's wrapper around a network, which gives its maps.

    Raises:
        UsageError: no such network, or arguments that it does not take.
    """
    server = server_of_name(name) if arguments.get("pretrained") else ""
    try:
        with quick_if_offline(server):
            return create_model(name, **arguments)
    except UsageError:
        raise
    except (*MISFITS, OSError) as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, OSError):
            raise UsageError(
                f"cannot download the weights of {name!r}: {said}; download them elsewhere, and read that file "
                "(model.checkpoint=FILE; in Python pretrained_cfg_overlay=dict(file=FILE))"
            ) from error
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if key not in OWN)
        raise UsageError(
            f"cannot build the backbone {name!r}: {said}; check {given or 'that timm gives its features'}"
        ) from error


# arguments that are no caller's
OWN = ("features_only", "feature_cls", "conv_path", "in_chans", "dynamic_img_size", "strict_img_size")
