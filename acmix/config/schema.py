"""What a run is: a typed tree of settings, with the default of each and what it may be.

A new key stands in the class of its section. This module imports nothing of ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

if TYPE_CHECKING:
    from typing_extensions import Self

# pixels a side: what memory holds of one resized image
LARGEST_IMG_SIZE, LARGEST_RESIZED = 16_384, 32_768
# what the weights that a run starts from decide, unless the user does
WEIGHTS_DECIDE = ("mean", "std", "img_size", "interpolation", "crop_pct")
# arguments of a model's constructor that are not for `model.args`, and the setting to use; "" where there is none
NOT_ARGUMENTS = {
    "model_name": "model.name",
    "num_classes": "model.num_classes",
    "in_chans": "model.in_chans",
    "drop_path_rate": "model.drop_path_rate",
    "conv_path": "model.conv_path",
    "checkpoint_path": "model.checkpoint",
    "pretrained": "model.pretrained",
    "freeze": "model.freeze",
    "img_size": "data.img_size",
    **dict.fromkeys(("device", "dtype", "features_only", "out_indices", "pretrained_cfg"), ""),
}


def ascending(pair: tuple[float, float]) -> tuple[float, float]:
    """A pair as it is, unless its second value is the smaller one."""
    if pair[0] > pair[1]:
        raise ValueError("expected the smaller value first")
    return pair


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Name = Annotated[str, Field(min_length=1)]
NO_COLOUR = 'expected a colour\'s name, "#rrggbb" in quotes or [red, green, blue] from 0 to 255'


class Section(BaseModel):
    """A group of settings: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def is_of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses yes and no where a number is meant, which Python counts as 1 and 0, and text that no file has."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        values = value if isinstance(value, (list, tuple)) else [value]
        if annotation is not bool and bool not in get_args(annotation) and any(isinstance(v, bool) for v in values):
            raise ValueError("expected no yes or no (true, false, on, off) here; put text in quotes")
        if any(isinstance(v, str) and "\0" in v for v in values):
            raise ValueError("expected text without null characters")
        return value


class Model(Section):
    """Which network."""

    name: Name = "acmix_swin_tiny_patch4_window7_224"
    num_classes: PositiveInt = 1000
    in_chans: PositiveInt = 3
    drop_path_rate: Rate = 0.0
    # False builds the baseline: the same network without the convolution path
    conv_path: bool = True
    # weights to start from, whatever fits of them: ours, released, timm's, torchvision's; goes before `pretrained`
    checkpoint: str | None = None
    # its classifier. auto: taken where it is for the data's classes, else new; keep: its rows as they are; new
    head: Literal["auto", "keep", "new"] = "auto"
    # a timm model's own weights to start from: true downloads them, a path reads a file of them
    pretrained: bool | str = False
    # gives a timm Swin, ViT or PVT v2 convolution paths that change nothing at first
    add_conv_path: bool = False
    # with them, train the new parameters alone
    freeze: bool = False
    # further arguments of the model's constructor: embed_dim, depths, num_heads, window_size, ...; none that has a
    # setting of its own
    args: dict[str, Any] = Field(default_factory=dict)

    @field_validator("args")
    @classmethod
    def are_further_arguments(cls, args: dict[str, Any]) -> dict[str, Any]:
        """Refuses arguments that a setting decides, and numbers that cannot be meant."""
        for key, value in args.items():
            where = f"model.args.{key}={value!r}"
            if key in NOT_ARGUMENTS:
                use = f"use {NOT_ARGUMENTS[key]}" if NOT_ARGUMENTS[key] else "a run decides that itself"
                raise ValueError(f"{where}: {key} is no further argument of a model; {use}")
            if not all(math.isfinite(number) for number in numbers_in(value)):
                raise ValueError(f"{where}: expected finite numbers")
            if "drop" in key and isinstance(value, (int, float)) and not 0 <= value < 1:
                raise ValueError(f"{where}: expected a share from 0 to below 1")
        return args

    @model_validator(mode="after")
    def has_what_its_head_is_of(self) -> Self:
        """Refuses what would be done to the classifier of a file, where there is no file."""
        if self.head != "auto" and self.checkpoint is None:
            raise ValueError(f"model.head={self.head} is of model.checkpoint, which is not set; set both or neither")
        return self


class Data(Section):
    """Where the images lie and how they are read."""

    # a folder that holds the splits, as folders, lists or .tar files, or what timm's reader opens; `--data` sets it
    dir: str = ""
    # auto: train_list.txt if there is one, else a folder a class; otherwise a timm reader: wds/, hfds/NAME, hfids/NAME
    format: str = "auto"
    # names of the splits; hfids/ and wds/ take "name|SAMPLES" where the number of samples is not written beside them
    train_split: Name = "train"
    val_split: Name = "val"
    # this and the next four keys: where they are not set, or set to auto, the weights that the run starts from decide
    # (model.pretrained, model.checkpoint); without such weights the values here hold
    img_size: int = Field(default=224, ge=1, le=LARGEST_IMG_SIZE)
    interpolation: Literal["bicubic", "bilinear", "nearest", "random"] = "bicubic"
    # the share of the resized image's side that evaluation keeps: 224 of 256
    crop_pct: Share = 0.875
    # one value a channel, of images from 0 to 1
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    # what transparent pixels are laid on: a colour's name, "#rrggbb", or [red, green, blue] from 0 to 255
    background: str | tuple[int, int, int] = "white"
    # the value that is white in grey of more than 8 bits, such as 4095; None: by the rule in acmix/data/pixels.py
    white: PositiveFloat | None = None
    # reading processes for each training process; None: the cores at hand shared out, at most 8
    workers: int | None = Field(default=None, ge=0, le=1024)

    @model_validator(mode="before")
    @classmethod
    def auto_is_unset(cls, values: Any) -> Any:
        """Takes out what the weights are to decide: `model_fields_set` then says so."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if key not in WEIGHTS_DECIDE or value != "auto"}

    @field_validator("crop_pct")
    @classmethod
    def resized_image_is_small_enough(cls, crop_pct: float, info: ValidationInfo) -> float:
        """Refuses a share of which the whole would not fit into memory."""
        img_size = info.data.get("img_size", 1)
        if img_size / crop_pct > LARGEST_RESIZED:
            raise ValueError(f"evaluation would resize images to {img_size / crop_pct:.0f} px; expected a larger share")
        return crop_pct

    @field_validator("background", mode="plain")
    @classmethod
    def is_a_colour(cls, given: Any) -> Any:
        """Refuses what is no colour."""
        if isinstance(given, str):
            rgb_of(given)
            return given
        if isinstance(given, (list, tuple)) and len(given) == 3 and all(type(v) is int and 0 <= v < 256 for v in given):
            return tuple(given)
        raise ValueError(NO_COLOUR)

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """The background as red, green and blue, 0 to 255."""
        return rgb_of(self.background) if isinstance(self.background, str) else self.background


def rgb_of(colour: str) -> tuple[int, int, int]:
    """A colour's name or "#rrggbb" as red, green and blue; ValueError where it is neither."""
    from PIL import ImageColor

    try:
        red, green, blue, *alpha = ImageColor.getrgb(colour)
    except ValueError:
        raise ValueError(NO_COLOUR) from None
    if alpha:
        raise ValueError(NO_COLOUR)
    return red, green, blue


class Augment(Section):
    """What happens to a training image, in timm's terms."""

    # of a crop: the smallest and the largest share of the area, and of width / height
    scale: Annotated[tuple[Share, Share], AfterValidator(ascending)] = (0.08, 1.0)
    ratio: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(ascending)] = (3 / 4, 4 / 3)
    hflip: Fraction = 0.5
    vflip: Fraction = 0.0
    color_jitter: float | None = Field(default=0.4, ge=0.0, le=100.0)
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    random_erasing: Fraction = 0.25
    random_erasing_mode: Literal["const", "rand", "pixel"] = "pixel"
    random_erasing_count: int = Field(default=1, ge=1, le=1024)
    mixup: NonNegativeFloat = 0.8
    cutmix: NonNegativeFloat = 1.0
    # the smallest and the largest share of a side that cutmix replaces; in place of `cutmix`
    cutmix_minmax: Annotated[tuple[Fraction, Fraction], AfterValidator(ascending)] | None = None
    mixup_prob: Fraction = 1.0
    mixup_switch_prob: Fraction = 0.5
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    label_smoothing: Rate = 0.1


class Optimizer(Section):
    """What moves the weights; `name` is one of timm's."""

    name: Name = "adamw"
    lr: PositiveFloat = 5e-4
    # the batch that `lr`, `warmup_lr` and `min_lr` are meant for; they scale linearly from it. None: no scaling
    base_batch_size: PositiveInt | None = 512
    weight_decay: NonNegativeFloat = 0.05
    momentum: Rate = 0.9
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Share = 1e-8
    # the learning rate of each layer over that of the layer behind it; None: the same for all
    layer_decay: float | None = Field(default=None, gt=0.0, le=1.0)


class Schedule(Section):
    """How the learning rate moves, step by step."""

    name: Literal["cosine"] = "cosine"
    warmup_epochs: NonNegativeFloat = 20.0
    warmup_lr: NonNegativeFloat = 5e-7
    min_lr: NonNegativeFloat = 5e-6


class Train(Section):
    """The loop."""

    epochs: PositiveInt = 300
    # images a process in one forward pass; the global batch is batch_size * accumulation * processes
    batch_size: PositiveInt = 128
    accumulation: PositiveInt = 1
    # auto: bf16 on a GPU that has it, fp16 on another, fp32 on a CPU
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    clip_grad: PositiveFloat | None = 5.0
    # decay of the exponential moving average of the weights; None: no average is kept
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    gradient_checkpointing: bool = False
    # None: on a GPU, for networks of convolutions
    channels_last: bool | None = None
    compile: bool = False
    seed: NonNegativeInt = 0
    deterministic: bool = False
    log_every_steps: PositiveInt = 10
    checkpoint_every_epochs: PositiveInt = 1
    # also write last.pt every so many steps, for epochs of hours; None: only at the end of an epoch
    checkpoint_every_steps: PositiveInt | None = None
    evaluate_every_epochs: PositiveInt = 1
    tensorboard: bool = True


class Config(Section):
    """One run."""

    model: Model = Field(default_factory=Model)
    data: Data = Field(default_factory=Data)
    augment: Augment = Field(default_factory=Augment)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    train: Train = Field(default_factory=Train)


def numbers_in(value: Any) -> Iterator[float]:
    """The floating-point numbers in nested lists and dictionaries."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(each)
