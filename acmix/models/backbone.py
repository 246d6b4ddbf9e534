"""What timm's tools ask of a network, once for every family."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import create_classifier
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers import rate_names
from acmix.layers.graphs import refuse_script
from acmix.models.blocks import Blocks


class LayerPatterns(NamedTuple):
    """How timm finds the layer that a parameter belongs to: by patterns of names, some with their place among them.

    Args:
        stem: ahead of the stages.
        stages: one layer a stage.
        blocks: one layer a block.
    """

    stem: str
    stages: str | list[tuple[str, tuple[int] | None]]
    blocks: str | list[tuple[str, tuple[int] | None]]


class Backbone(nn.Module):
    """Classifies images, or gives a pyramid of features.

        state = embed(image);    state = step(name, state) for each name of `steps`
        features = features(normed(state));    logits = forward_head(features)

    A family makes its modules, tells where maps can be taken by `add_step`, and fills in the attributes and methods
    below where hers are not the usual ones: a state that is a map (B, C, H, W), without a norm behind the last stage,
    and a head of `global_pool` and `fc`.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 leaves the pooled features.
    """

    # names of the layer that reads the image, and of the last one
    first_conv: str
    classifier: str = "fc"
    # what `forward_features` gives, and what `forward_intermediates` can give
    output_fmt: str = "NCHW"
    output_formats: tuple[str, ...] = ("NCHW",)
    # stride of the last map in the images, at the usual depth; None where tokens follow
    last_stride: int | None = 32
    # whether the network is its children one after the other, as timm's FeatureListNet and FeatureDictNet take it
    is_sequence: bool = True
    # how the names end of parameters that are not decayed, besides the rates
    not_decayed: tuple[str, ...] = ()
    layer_patterns: LayerPatterns
    # channels of the last features, and those that the classifier reads, which pooling may multiply
    num_features: int
    head_hidden_size: int
    drop_rate: float
    __prepare_scriptable__ = refuse_script

    def __init__(self, in_chans: int, num_classes: int) -> None:
        super().__init__()
        self.in_chans, self.num_classes = in_chans, num_classes
        self.feature_info: list[dict[str, Any]] = []
        # names of the modules behind which maps can be taken, as far as they are not cut off
        self.steps: list[str] = []

    def add_step(self, name: str, channels: int, reduction: int) -> None:
        """Notes a module behind which a map can be taken: its name, the map's channels, and its stride in the image."""
        self.steps.append(name)
        self.feature_info.append(dict(num_chs=channels, reduction=reduction, module=name))

    def embed(self, x: Tensor) -> Any:
        """(B, in_chans, h, w) -> what the first step takes."""
        raise NotImplementedError

    def step(self, name: str, state: Any) -> Any:
        """What the module of that name makes of what the one before it gave."""
        return self.get_submodule(name)(state)

    def all_steps(self, state: Any) -> Any:
        """What the last step makes of what `embed` gave; one module that holds all steps is called."""
        for name in self.steps:
            state = self.behind(name, self.step(name, state))
        return state

    def behind(self, name: str, state: Any) -> Any:
        """What follows a module behind which a map is taken, before the next step."""
        return state

    def normed(self, state: Any) -> Any:
        """The state with the last norm applied."""
        return state

    def features(self, state: Any) -> Tensor:
        """The part of a state that the head reads."""
        return state

    def as_map(self, state: Any, output_fmt: str) -> Tensor:
        """The map of a state, in one of `output_formats`."""
        return state

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> the last features, normalised, as the head reads them."""
        return self.features(self.normed(self.all_steps(self.embed(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last features -> (B, num_classes), or the pooled features (B, C)."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Gives the maps of `feature_info`, as timm's models do.

        Args:
            x: (B, in_chans, h, w).
            indices: which maps; the last n where one number n; all where None.
            norm: apply the last norm, if there is one, to the maps of its width.
            stop_early: leave out the layers after the last requested map.
            output_fmt: one of `output_formats`.
            intermediates_only: give the list alone.

        Returns:
            The maps, and unless `intermediates_only` the last features before them.
        """
        self.check_output_fmt(output_fmt)
        last, states = self.states(x, indices, norm=norm, stop_early=stop_early)
        maps = [self.as_map(state, output_fmt) for state in states]
        return maps if intermediates_only else (self.features(last), maps)

    def states(
        self, x: Tensor, indices: int | list[int] | None, *, norm: bool, stop_early: bool
    ) -> tuple[Any, list[Any]]:
        """The last state, and those that maps are wanted of; the arguments are those of `forward_intermediates`."""
        wanted, last = feature_take_indices(len(self.steps), indices)
        steps = self.steps[: last + 1] if stop_early else self.steps
        # the last norm is for features of its own width, the last ones that nothing was cut off of among them
        fits = [info["num_chs"] == self.num_features for info in self.feature_info]
        found: list[Any] = []
        state = self.embed(x)
        for i, name in enumerate(steps):
            state = self.step(name, state)
            if i in wanted:
                found.append(self.normed(state) if norm and fits[i] else state)
            state = self.behind(name, state)
        return (self.normed(state) if fits[len(steps) - 1] else state), found

    def check_output_fmt(self, output_fmt: str) -> None:
        """Refuses a format that maps do not come in."""
        if output_fmt not in self.output_formats:
            raise UsageError(f"output_fmt={output_fmt!r}; expected {' or '.join(map(repr, self.output_formats))}")

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Cuts off what stands behind the last map wanted, and the norm and head that go with it."""
        wanted, last = feature_take_indices(len(self.steps), indices)
        for name in self.steps[last + 1 :]:
            parent, _, child = name.rpartition(".")
            delattr(self.get_submodule(parent), child)
        del self.steps[last + 1 :]
        width = self.feature_info[last]["num_chs"]
        # a norm and a head of another width do not fit what is left
        fits = width == self.num_features
        if (prune_norm or not fits) and hasattr(self, "norm"):
            self.norm = nn.Identity()
        self.num_features = self.head_hidden_size = width
        if prune_head or not fits:
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.classifier)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Puts a new classifier in place, where the network is and in its dtype.

        Args:
            num_classes: classes; 0 leaves the pooled features.
            global_pool: how the map is pooled; as before where None.
        """
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, self.fc, *_ = create_classifier(self.num_features, num_classes, pool_type=pool or "")
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.fitted(self.global_pool, self.fc)

    def fitted(self, *modules: nn.Module) -> None:
        """Takes new modules to the network's device, dtype and mode."""
        like = next((each for each in self.parameters() if each.is_floating_point()), torch.empty(0))
        for module in modules:
            module.to(like.device, like.dtype).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps only each block's input for the backward pass and computes the rest again."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are never decayed."""
        names = (name for name, _ in self.named_parameters())
        return rate_names(self) | {name for name in names if name.endswith(self.not_decayed)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tells timm which parameters form a layer, for layer-wise learning rates."""
        patterns = self.layer_patterns
        return dict(stem=patterns.stem, blocks=patterns.stages if coarse else patterns.blocks)
