"""From the settings of a run to its network: ours, timm's, or timm's with convolution paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import timm
from torch import nn

from acmix.errors import UsageError
from acmix.models import create_model, list_models
from acmix.models.arguments import check_switches, unexpected
from acmix.models.freezing import classifier_keys, freeze_old
from acmix.models.registry import takes_img_size
from acmix.models.upgrade import add_conv_path, check_name, is_timm_s, timm_model
from acmix.near import did_you_mean

# arguments of constructors that are not for `model.args`
OTHERS = ("drop_path_rate", "device", "dtype")


class ModelSettings(Protocol):
    """What has to be known of a network; `acmix.config.Model` is such."""

    name: str
    num_classes: int
    in_chans: int
    drop_path_rate: float
    conv_path: bool
    pretrained: bool | str
    add_conv_path: bool
    freeze: bool
    args: dict[str, Any]


class ImageSettings(Protocol):
    """What has to be known of the images; `acmix.config.Data` is such."""

    img_size: int


class Settings(Protocol):
    """What has to be known of a run; `acmix.config.Config` is such."""

    @property
    def model(self) -> ModelSettings: ...
    @property
    def data(self) -> ImageSettings: ...


def check_model(settings: ModelSettings) -> None:
    """Refuses a network that cannot be meant, before images are looked for and anything is built.

    Raises:
        UsageError: no such model, or settings that are not for it.
    """
    ours = settings.name.startswith("acmix_")
    if ours and settings.name not in list_models():
        hint = did_you_mean(settings.name, list_models(), otherwise="`acmix models` lists them")
        raise UsageError(f"model.name={settings.name!r}: no such model; {hint}")
    if settings.pretrained and ours:
        raise UsageError(
            f"model.pretrained: {settings.name!r} has no weights to download; use model.checkpoint=FILE, or "
            "timm's model with model.add_conv_path=true"
        )
    if ours and (settings.add_conv_path or settings.freeze):
        key = "model.add_conv_path" if settings.add_conv_path else "model.freeze"
        raise UsageError(
            f"{key} is for timm's models, and {settings.name!r} has its paths already; leave it out, or set "
            "model.name to a timm model, such as swin_tiny_patch4_window7_224"
        )
    if settings.freeze and not settings.add_conv_path:
        raise UsageError("model.freeze trains only the paths that model.add_conv_path=true adds; set both or neither")
    if settings.add_conv_path:
        check_name(settings.name)
    elif not ours and not is_timm_s(settings.name):
        others = "`acmix models` lists ours, timm.list_models() timm's"
        hint = did_you_mean(settings.name, [*list_models(), *timm.list_models()], otherwise=others)
        raise UsageError(f"model.name={settings.name!r}: no such model; {hint}")


def build_model(config: Settings, *, download: bool = False, **overrides: Any) -> nn.Module:
    """Builds the network a configuration names.

    Args:
        config: its `model` section, and the image size where the network means something by it.
        download: fetch or read the weights that `model.pretrained` asks for; a checkpoint's model needs none. With
            `model.freeze`, what they do not give is trained beside the paths; without them, the classifier is.
        overrides: further arguments of the constructor.

    Raises:
        UsageError: as `check_model`; arguments it does not take, or weights that cannot be had.
    """
    settings = config.model
    check_model(settings)
    check_switches(settings.name, settings.args)
    ours = settings.name.startswith("acmix_")
    builder = create_model if ours else timm_model
    kwargs: dict[str, Any] = dict(
        num_classes=settings.num_classes, in_chans=settings.in_chans, drop_path_rate=settings.drop_path_rate
    )
    if takes_img_size(settings.name):
        kwargs["img_size"] = config.data.img_size
    if ours:
        kwargs["conv_path"] = settings.conv_path
    else:
        kwargs["pretrained"] = settings.pretrained if download else False
    if settings.add_conv_path:
        builder = add_conv_path
        # without weights, only the caller knows what it loads later: see below
        kwargs["freeze"] = settings.freeze and bool(kwargs.get("pretrained"))
    kwargs.update(settings.args, **overrides)
    try:
        try:
            model = builder(settings.name, **kwargs)
        except TypeError as error:
            # many of timm's models know no drop path: a rate of 0 asks for nothing
            if "'drop_path_rate'" not in str(error) or kwargs.pop("drop_path_rate"):
                raise
            model = builder(settings.name, **kwargs)
    except (TypeError, ValueError, AssertionError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
        # what a setting of its own decides is no argument here
        besides = [*(key for key in kwargs if key not in settings.args), *OTHERS]
        argument, takes = unexpected(settings.name, error.__cause__ or error, besides)
        if argument in settings.args:
            raise UsageError(f"model.args.{argument}={settings.args[argument]!r}: {takes}") from error
        said = f"cannot build model {settings.name!r}: {' '.join(str(error).split())}"
        raise UsageError(said + to_check(settings.args)) from error
    if settings.freeze and not kwargs.get("pretrained"):
        freeze_old(model, classifier_keys(model, (name for name, _ in model.named_parameters())))
    return model


def in_words(settings: ModelSettings) -> str:
    """What a network is: its name, and the arguments that make it another one than the name says."""
    own = [f"{key} {value}" for key, value in settings.args.items()]
    own += ["added convolution paths"] if settings.add_conv_path else []
    said = f"{settings.name} with {', '.join(own)}" if own else settings.name
    is_baseline = settings.name.startswith("acmix_") and not settings.conv_path
    return f"{said}{',' * bool(own)} without convolution paths" if is_baseline else said


def to_check(args: Mapping[str, Any]) -> str:
    """What may be wrong with the arguments of a model that cannot be built: numbers such as 12.0 and "12", or any."""
    for key, value in args.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if (isinstance(each, float) and each.is_integer()) or (isinstance(each, str) and each.isdecimal()):
                return f"; model.args.{key}={value!r}: if whole numbers are meant, write {each!r} as {int(each)}"
    return f"; check {', '.join(f'model.args.{key}={value!r}' for key, value in args.items())}" if args else ""
