"""The section `task`: what a run learns of an image, and how images are prepared in detection and segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from acmix.config.kinds import Name, Section, Share, ascending, further_arguments
from acmix.near import did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Self

# pixels a side: what memory holds of a batch of such images
Pixels = Annotated[int, Field(ge=1, le=8192)]
# a factor of an image's size
Factor = Annotated[float, Field(ge=0.01, le=4.0)]
# windows that see a pixel, along one side
MOST_WINDOWS = 16
HEADS = {
    "classify": (),
    "detect": ("retinanet", "fcos", "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn"),
    "segment": ("semantic_fpn", "upernet"),
}
# heads that draw each object's outline
MASK_HEADS = ("mask_rcnn", "cascade_mask_rcnn")
# arguments of `create_detector` and `create_segmenter` that are not for `task.args`, and the setting to use
NOT_ARGUMENTS = {
    "head": "task.head",
    "backbone": "model.name",
    "backbone_args": "model.args",
    "conv_path": "model.conv_path",
    "in_chans": "model.in_chans",
    "mean": "data.mean",
    "std": "data.std",
    **{key: f"task.{key}" for key in ("num_classes", "min_size", "max_size")},
}
# what holds where a setting is not given, by task; a setting that is none of these is of another task
DEFAULTS: dict[str, dict[str, Any]] = {
    "classify": {},
    "detect": {
        "head": "mask_rcnn",
        "num_classes": 80,
        "min_size": (800,),
        "max_size": 1333,
        "crop": None,
        "photometric": False,
        "classes": None,
        "args": {},
    },
    "segment": {
        "head": "upernet",
        "num_classes": 150,
        "min_size": (512,),
        "max_size": 2048,
        "crop": (512,),
        "scale": (0.5, 2.0),
        "crop_class_share": 0.75,
        "photometric": True,
        "ignore_zero": True,
        "classes": None,
        "align": 1,
        "sliding": False,
        "stride": None,
        "args": {},
    },
}


class Task(Section):
    """What a run learns: classes of images, boxes and masks of objects, or a class for each pixel."""

    name: Literal["classify", "detect", "segment"] = Field(default="classify", examples=["detect"])
    """What the run learns. detect reads COCO's format, segment reads ADE20K's, classify reads folders of images."""

    head: str | None = Field(default=None, examples=["retinanet"], json_schema_extra={"with": "task.name=detect"})
    """What stands on the network. detect: retinanet, fcos, faster_rcnn, mask_rcnn (default), cascade_rcnn,
    cascade_mask_rcnn; segment: semantic_fpn, upernet (default)."""

    num_classes: int | None = Field(
        default=None, ge=1, le=65_535, examples=[10], json_schema_extra={"with": "task.name=detect"}
    )
    """Classes of detection (default 80) or segmentation (default 150). Without background, and without what is ignored.
    Classification has `model.num_classes`."""

    classes: tuple[Name, ...] | None = Field(
        default=None, examples=[["cat", "dog"]], json_schema_extra={"with": "task.name=segment task.num_classes=2"}
    )
    """Names of the classes, in the order of their labels. null: as the data names them."""

    min_size: tuple[Pixels, ...] | None = Field(
        default=None, examples=[[480, 640, 800]], json_schema_extra={"with": "task.name=detect"}
    )
    """Pixels of the shorter side. One of them is drawn for each training image; the largest holds at evaluation.
    Default: 800 in detection, 512 in segmentation."""

    max_size: Pixels | None = Field(default=None, examples=[1333], json_schema_extra={"with": "task.name=detect"})
    """Most pixels of the longer side. Default: 1333 in detection, 2048 in segmentation."""

    crop: tuple[Pixels, ...] | None = Field(
        default=None, examples=[[384, 600]], json_schema_extra={"with": "task.name=detect"}
    )
    """Random crops in training. segment: sides of the crop (default 512); detect: smallest and largest side of a crop
    that half of the images get first (default none)."""

    scale: Annotated[tuple[Factor, Factor], AfterValidator(ascending)] | None = Field(
        default=None, examples=[(0.5, 2.0)], json_schema_extra={"with": "task.name=segment"}
    )
    """Range of the random size of a training image in segmentation. As a factor. Default: 0.5 to 2."""

    crop_class_share: Share | None = Field(
        default=None, examples=[0.75], json_schema_extra={"with": "task.name=segment"}
    )
    """Largest share of one class in a crop of segmentation. A crop with more is drawn again, up to 10 times. Default:
    0.75; 1 takes every crop."""

    photometric: bool | None = Field(default=None, examples=[True], json_schema_extra={"with": "task.name=detect"})
    """Random brightness, contrast, saturation and hue in training. Default: on in segmentation, off in detection."""

    ignore_zero: bool | None = Field(default=None, examples=[False], json_schema_extra={"with": "task.name=segment"})
    """Label 0 of a label map means "other" and is ignored, as in ADE20K. false: 0 is the first class. Default: true."""

    align: int | None = Field(
        default=None, ge=1, le=1024, examples=[32], json_schema_extra={"with": "task.name=segment"}
    )
    """Sides of an image in evaluation are multiples of it. For segmentation; default: 1."""

    sliding: bool | None = Field(default=None, examples=[True], json_schema_extra={"with": "task.name=segment"})
    """Evaluates segmentation in windows of `task.crop`. false: the whole image at once. Default: false."""

    stride: Pixels | None = Field(
        default=None, examples=[341], json_schema_extra={"with": "task.name=segment task.sliding=true"}
    )
    """Pixels from one window to the next, with `task.sliding`. null: two thirds of a window."""

    args: dict[str, Any] | None = Field(
        default=None, examples=[{"channels": 128}], json_schema_extra={"with": "task.name=detect"}
    )
    """Further arguments of the head. Those of `acmix.create_detector` and `acmix.create_segmenter`;
    `task.args.channels=128` sets one."""

    @field_validator("min_size", "crop", mode="before")
    @classmethod
    def are_several(cls, given: Any) -> Any:
        """Takes a number for a list of one."""
        return [given] if isinstance(given, int) and not isinstance(given, bool) else given

    @field_validator("args")
    @classmethod
    def are_further_arguments(cls, args: dict[str, Any] | None) -> dict[str, Any] | None:
        """Refuses arguments that a setting decides, and numbers that cannot be meant."""
        return None if args is None else further_arguments(args, "task.args", NOT_ARGUMENTS, "a head")

    @model_validator(mode="before")
    @classmethod
    def has_its_task_s_defaults(cls, values: Any) -> Any:
        """Fills in what is not given."""
        if not isinstance(values, dict):
            return values
        name = values.get("name", "classify")
        own = DEFAULTS.get(name, {}) if isinstance(name, str) else {}
        return values | {key: value for key, value in own.items() if values.get(key) is None}

    @model_validator(mode="after")
    def is_of_one_task(self) -> Self:
        """Refuses settings of another task, and such as do not go together."""
        own = DEFAULTS[self.name]
        for key in type(self).model_fields:
            if key != "name" and key not in own and getattr(self, key) is not None:
                others = [name for name, known in DEFAULTS.items() if key in known]
                raise ValueError(f"task.{key} is for task.name={' or '.join(others)}, not {self.name}; leave it out")
        if self.name == "classify":
            return self
        if self.head not in HEADS[self.name]:
            task = next((name for name, heads in HEADS.items() if self.head in heads), None)
            heads = HEADS[self.name]
            near = did_you_mean(str(self.head), heads, f"expected {', '.join(heads)}")
            hint = f"it is for task.name={task}" if task else near
            raise ValueError(f"task.head={self.head!r} is no head of task.name={self.name}; {hint}")
        for key in ("num_classes", "min_size", "max_size"):
            if not getattr(self, key):
                raise ValueError(f"task.{key} is not set; expected a value such as {own[key]}, or leave the key out")
        assert self.min_size
        assert self.max_size
        if max(self.min_size) > self.max_size:
            raise ValueError(f"task.min_size {max(self.min_size)} is above task.max_size {self.max_size}")
        self.check_crop()
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise ValueError(
                f"task.classes names {len(self.classes)} classes, but task.num_classes is {self.num_classes}"
            )
        if self.classes is not None and len({*self.classes}) < len(self.classes):
            raise ValueError("task.classes names a class twice")
        return self

    def check_crop(self) -> None:
        """Refuses crops that cannot be drawn."""
        if self.name == "segment":
            if not self.crop or len(self.crop) > 2:
                raise ValueError("task.crop is one side or [height, width] in segmentation, such as 512")
            if self.stride is not None and self.stride > min(self.crop):
                raise ValueError(f"task.stride {self.stride} is above the window task.crop {min(self.crop)}")
            if self.stride is not None and self.stride * MOST_WINDOWS < max(self.crop):
                least = -(-max(self.crop) // MOST_WINDOWS)
                raise ValueError(f"task.stride {self.stride} looks at each pixel very often; expected at least {least}")
        elif self.crop is not None and (len(self.crop) != 2 or self.crop[0] > self.crop[1]):
            raise ValueError("task.crop is the smallest and largest side in detection, such as [384, 600]")

    @property
    def has_masks(self) -> bool:
        """Whether objects have outlines."""
        return self.head in MASK_HEADS

    @property
    def crop_sides(self) -> tuple[int, int]:
        """Height and width of a crop of segmentation."""
        assert self.crop
        return self.crop[0], self.crop[-1]
