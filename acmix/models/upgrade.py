"""timm's pretrained models with convolution paths that change nothing at first."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.layers.attention import Attention
from timm.models import load_state_dict, pvt_v2, swin_transformer, vision_transformer
from timm.models._features import FeatureGetterNet
from torch import nn

from acmix.errors import UsageError
from acmix.layers import GlobalAttention, Mixed, Mixing, ReductionAttention
from acmix.layers.foldable import copied
from acmix.layers.plain import is_untouched
from acmix.models.download import quick_if_offline, server_of_name
from acmix.models.freezing import Copies, freeze_old, is_new, untrained_classifier
from acmix.models.swin import SwinTransformer
from acmix.near import did_you_mean

FAMILIES = "timm's Swin (version 1), ViT or DeiT, and PVT v2"


def add_conv_path(
    name_or_model: str | nn.Module,
    pretrained: bool | str | os.PathLike[str] = True,
    rates: str | float | tuple[float, float] = (1.0, 0.0),
    freeze: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Gives one of timm's models a convolution path beside its attention, and its own weights.

    With the default rates, α = 1 and β = 0, the logits are the model's own at first. All parameters of the model keep
    their names; `attn.rate_attention`, `attn.rate_conv` and `attn.conv_path.*` come to each block. A Swin becomes
    `acmix.models.swin.SwinTransformer`, which takes any size of image; a size at which timm's pads its windows gives
    other logits there, since padding is not attended to. Others stay timm's, with other attention; a ViT that reads its
    class token keeps plain attention in the last block, whose patches reach no class.

    Args:
        name_or_model: one of timm's names, or such a model, which stays as it is.
        pretrained: for a name, True downloads timm's weights, a path reads a local file of them, False draws them. The
            classifier is theirs where it has as many classes, else it is drawn.
        rates: what α and β start as, or another way to mix: see `acmix.layers.Mixing`.
        freeze: train the new parameters alone: the paths, and all that the weights did not give, such as a classifier
            of other classes. Of a given model, a classifier that looks as timm draws it is new too.
        kwargs: for a name, timm's arguments: num_classes, in_chans, img_size, drop_path_rate, features_only, …

    Returns:
        The model, in training mode if made by name, else in the mode of the given one.

    Raises:
        UsageError: no such model, one of another family, or weights that cannot be had.
    """
    mixing = Mixing(rates=rates)
    features, out_indices = False, None
    if isinstance(name_or_model, str):
        features, out_indices = kwargs.pop("features_only", False), kwargs.pop("out_indices", None)
        if kwargs.pop("feature_cls", "getter") != "getter":
            raise UsageError("feature_cls: an upgraded model gives its maps by timm's 'getter' alone; leave it out")
        with Copies() as copies:
            model = timm_model(name_or_model, pretrained, **kwargs)
        drawn = copies.not_loaded(model)
        if freeze and not pretrained:
            warnings.warn(
                f"{name_or_model}: pretrained=False and freeze=True freeze a body drawn at random; load its weights "
                "before you train, or pass pretrained=True or a file",
                stacklevel=2,
            )
    else:
        if kwargs:
            raise UsageError(
                f"{', '.join(kwargs)} apply to a model's name, but you passed a model; set them when you build it"
            )
        model = name_or_model
        check_plain(model)
        model = copied(model)
        drawn = untrained_classifier(model)
    upgraded = upgrade(model, mixing)
    if freeze:
        freeze_old(upgraded, drawn)
    if not features:
        return upgraded
    # timm's own defaults: a ViT's last three blocks, all stages of a pyramid
    count: int = len(upgraded.feature_info)  # type: ignore[arg-type]
    usual = tuple(range(count))[-3 if isinstance(upgraded, vision_transformer.VisionTransformer) else 0 :]
    return FeatureGetterNet(upgraded, out_indices=usual if out_indices is None else out_indices)


def upgrade(model: nn.Module, mixing: Mixing) -> nn.Module:
    """A model of timm's with mixed attention; what is given is used up."""
    if isinstance(model, swin_transformer.SwinTransformer):
        return swin(model, mixing)
    if isinstance(model, vision_transformer.VisionTransformer):
        return vit(model, mixing)
    if isinstance(model, pvt_v2.PyramidVisionTransformerV2):
        for block in (block for stage in model.stages for block in stage.blocks):  # type: ignore[union-attr]
            parts = block.attn
            mixed = ReductionAttention(parts.dim, parts.num_heads, mixing=mixing, parts=parts)
            block.attn = instead_of(parts, mixed)
        return model
    raise UsageError(f"{type(model).__name__} cannot be upgraded; expected one of {FAMILIES}")


def swin(model: swin_transformer.SwinTransformer, mixing: Mixing) -> SwinTransformer:
    """Our Swin with the sizes and weights of timm's."""
    for name, module in model.named_modules():
        check_untouched(name, module)
        if name and type(module).__module__.partition(".")[0] not in ("timm", "torch"):
            kind = type(module).__name__
            raise UsageError(f"{name!r} is a {kind}, which would be lost; add the convolution paths first, then wrap")
    stages: Any = list(model.layers)
    embed: Any = model.patch_embed
    first = stages[0].blocks[0]
    like = first.attn.qkv.weight
    ours = SwinTransformer(
        img_size=embed.img_size or 224,
        patch_size=embed.patch_size[0],
        in_chans=embed.proj.in_channels,
        num_classes=model.num_classes,
        global_pool=model.head.global_pool.pool_type,
        embed_dim=model.embed_dim,
        depths=[len(stage.blocks) for stage in stages],
        num_heads=[stage.blocks[0].attn.num_heads for stage in stages],
        window_size=[tuple(stage.blocks[0].window_size) for stage in stages],
        always_partition=first.always_partition,
        mlp_ratio=first.mlp.fc1.out_features / first.mlp.fc1.in_features,
        qkv_bias=first.attn.qkv.bias is not None,
        drop_rate=model.head.drop.p if isinstance(model.head.drop, nn.Dropout) else 0.0,
        proj_drop_rate=first.attn.proj_drop.p,
        attn_drop_rate=first.attn.attn_drop.p,
        drop_path_rate=getattr(stages[-1].blocks[-1].drop_path1, "drop_prob", 0.0),
        mixing=mixing,
    ).to(like)
    state, fresh = model.state_dict(), ours.state_dict()
    wrong = [key for key in state if key not in fresh or fresh[key].shape != state[key].shape]
    missing = [key for key in fresh if key not in state and not is_new(key)]
    norms = {each.eps for each in model.modules() if isinstance(each, nn.LayerNorm)}
    if wrong or missing or norms != {1e-5}:
        reason = f"{(wrong + missing)[0]} does not fit" if wrong + missing else "norms differ"
        raise UsageError(f"this Swin cannot be upgraded ({reason}); build it with timm's default settings")
    ours.load_state_dict({**fresh, **state})
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in ours.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    for name in ("pretrained_cfg", "default_cfg"):
        setattr(ours, name, getattr(model, name, None))
    return ours.train(model.training)


def vit(model: vision_transformer.VisionTransformer, mixing: Mixing) -> nn.Module:
    """timm's ViT with mixed attention in every block."""
    embed: Any = model.patch_embed
    if model.dynamic_img_size or embed.grid_size is None or not isinstance(model.patch_drop, nn.Identity):
        raise UsageError(
            "a ViT with dynamic_img_size or patch_drop_rate has no fixed grid for the convolution path; "
            "build it with img_size=… instead"
        )
    blocks: Any = list(model.blocks)
    for block in blocks:
        attention = getattr(block, "attn", None)
        if type(attention) is not Attention or attention.gate is not None:
            raise UsageError(
                f"attention of type {type(attention).__name__} cannot be upgraded; expected one of {FAMILIES}"
            )
    # of the last block only the class token is read, to which a path on the patches adds nothing
    for block in blocks[:-1] if model.global_pool == "token" else blocks:
        parts = block.attn
        mixed = GlobalAttention(
            parts.attn_dim, parts.num_heads, mixing=mixing, parts=parts, grid=tuple(embed.grid_size)
        )
        block.attn = instead_of(parts, mixed)
    return model


def instead_of(parts: nn.Module, mixed: Mixed) -> Mixed:
    """Mixed attention made of timm's: on its device, in its dtype and mode."""
    check_untouched("attn", parts)
    like = next(parts.parameters(), None)  # of any module: adapters, or quantised layers without parameters
    return (mixed if like is None else mixed.to(like.device, like.dtype)).train(parts.training)


def check_untouched(name: str, module: nn.Module) -> None:
    """Refuses hooks and parametrisations on a module that another one takes the place of."""
    if not is_untouched(module):
        raise UsageError(
            f"{name!r} has hooks or a parametrisation, which would be lost; add the convolution paths first, then those"
        )


def check_plain(model: Any) -> None:
    """Refuses what is no plain model."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"expected a name or a model, not a {type(model).__name__}; {FAMILIES} can be upgraded")
    if any(isinstance(each, Mixed) for each in model.modules()):
        raise UsageError("this model has convolution paths already; pass timm's plain one")
    if "_orig_mod" in model._modules:
        raise UsageError("this model is compiled; add the convolution paths first, then call torch.compile")


def check_name(name: str) -> None:
    """Refuses what is no model of timm's.

    Raises:
        UsageError: with the nearest names.
    """
    if name.startswith("acmix_") or not is_timm_s(name):
        plain = [each for each in timm.list_models() if not each.startswith("acmix_")]
        hint = did_you_mean(name.removeprefix("acmix_"), plain, otherwise=f"{FAMILIES} can be upgraded")
        raise UsageError(f"timm has no model {name!r}; {hint}")


def is_timm_s(name: str) -> bool:
    """Whether timm has a model of this name, with or without a tag of its weights."""
    known = timm.list_models() + timm.list_models(pretrained=True)
    return name in known or name.split(".")[0] in known


def timm_model(name: str, pretrained: bool | str | os.PathLike[str] = False, **kwargs: Any) -> nn.Module:
    """One of timm's models, with weights downloaded, read from a file, or drawn.

    Raises:
        UsageError: no such model, no such weights, or they cannot be had.
    """
    check_name(name)
    if isinstance(pretrained, (str, os.PathLike)):
        file = Path(pretrained)
        if not file.is_file():
            raise UsageError(
                f"pretrained={str(pretrained)!r} is not a file; expected True, False or a file of timm's weights"
            )
        told = kwargs.get("pretrained_cfg_overlay") or {}
        kwargs["pretrained_cfg_overlay"] = {**classes_of(file, name), **told, "file": str(file)}
    # a file is read, wherever the server is
    server = server_of_name(name) if pretrained is True else ""
    try:
        with quick_if_offline(server):
            return timm.create_model(name, pretrained=bool(pretrained), **kwargs)
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        if not pretrained:
            raise UsageError(f"cannot build {name!r}: {said}") from error
        if isinstance(pretrained, (str, os.PathLike)):
            raise UsageError(
                f"{pretrained} does not hold the weights of {name!r} ({first_misfit(error)}); give one that does; "
                "model.checkpoint=FILE starts from whatever fits"
            ) from error
        raise UsageError(
            f"cannot download the weights of {name!r}: {said}; download them elsewhere and pass pretrained=FILE"
        ) from error


def first_misfit(error: Exception) -> str:
    """What PyTorch says first of weights that do not fit: it has a line a tensor, below a title."""
    lines = str(error).splitlines()
    return " ".join((lines[1] if len(lines) > 1 else f"{type(error).__name__}: {error}").split())[:160].rstrip(".")


def classes_of(file: Path, name: str) -> dict[str, int]:
    """How many classes the classifier in a file of timm's weights has, as timm is told it; nothing where none is found.

    timm draws a new classifier where a model has other classes than its own weights, even if a file has one that fits.
    """
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    places = getattr(known, "classifier", None) or ()
    # original weights call it head, where timm's Swin has head.fc
    places = [places] if isinstance(places, str) else [*places]
    try:
        weights = load_state_dict(str(file), device="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError):
        # whoever loads them says what is wrong
        return {}
    for key in (f"{place}.weight" for place in [*places, "head"]):
        if getattr(weights.get(key), "ndim", 0) == 2:
            return {"num_classes": len(weights[key])}
    return {}
