"""What a run is: a typed tree of settings, each with its default, its meaning and an example.

The docstring below a key is its meaning: the first sentence for a list of all keys, the rest for who asks. After a
change, `python scripts/settings_page.py` writes docs/settings.md anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from acmix.config.images import Augment, Data
from acmix.config.kinds import Name, Rate, Section, further_arguments
from acmix.config.schedule import Schedule
from acmix.config.task import Task
from acmix.config.train import Optimizer, Train

if TYPE_CHECKING:
    from typing_extensions import Self

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
    # what timm's factory fetches and opens by
    **dict.fromkeys(("pretrained_cfg_overlay", "pretrained_strict", "cache_dir", "model_cfg", "feature_cfg"), ""),
}


class Model(Section):
    """Which network, and the weights it starts from."""

    name: Name = Field(default="acmix_swin_tiny_patch4_window7_224", examples=["acmix_resnet50"])
    """The network: one of `acmix models`, or a timm model."""

    num_classes: int = Field(default=1000, ge=1, le=1_000_000, examples=[10])
    """Classes of the data in classification. Detection and segmentation have `task.num_classes`."""

    in_chans: int = Field(default=3, ge=1, le=1024, examples=[1])
    """Channels of an image: 3, or 1 for grey."""

    drop_path_rate: Rate = Field(default=0.0, examples=[0.2])
    """Stochastic depth of the last block. It rises from 0 at the first."""

    conv_path: bool = Field(default=True, examples=[False])
    """Gives attention its convolution path. false builds the baseline: the same network without it."""

    checkpoint: str | None = Field(default=None, examples=["runs/digits/checkpoints/best.pt"])
    """A file of weights to start from. Ours, the released code's, timm's or torchvision's; every tensor that fits is
    loaded. It takes precedence over `model.pretrained`."""

    head: Literal["auto", "keep", "new"] = Field(
        default="auto", examples=["new"], json_schema_extra={"with": "model.checkpoint=best.pt"}
    )
    """What happens to the checkpoint's classifier. auto keeps it if its classes are those of the data, else starts a
    new one; keep leaves its rows as they are; new always starts a new one."""

    pretrained: bool | str = Field(default=False, examples=[True])
    """A timm model's own weights. true downloads them; a path reads a file of them."""

    add_conv_path: bool = Field(default=False, examples=[True])
    """Adds convolution paths to a timm Swin, ViT or PVT v2. They change nothing at first."""

    freeze: bool = Field(default=False, examples=[True])
    """Trains only what is new. That is the added paths, and what the weights did not give, such as a classifier of
    other classes. Needs `model.add_conv_path`."""

    args: dict[str, Any] = Field(default_factory=dict, examples=[{"window_size": 8}])
    """Further arguments of the network's constructor. Examples are embed_dim, depths, num_heads and window_size; none
    may have a setting of its own. `model.args.window_size=8` sets one."""

    @field_validator("args")
    @classmethod
    def are_further_arguments(cls, args: dict[str, Any]) -> dict[str, Any]:
        """Refuses arguments that a setting decides, and numbers that cannot be meant."""
        return further_arguments(args, "model.args", NOT_ARGUMENTS, "a model")

    @model_validator(mode="after")
    def has_what_its_head_is_of(self) -> Self:
        """Refuses what would be done to the classifier of a file, where there is no file."""
        if self.head != "auto" and self.checkpoint is None:
            raise ValueError(f"model.head={self.head} is for model.checkpoint, which is not set; set both or neither")
        return self


class Config(Section):
    """One run."""

    task: Task = Field(default_factory=Task)
    model: Model = Field(default_factory=Model)
    data: Data = Field(default_factory=Data)
    augment: Augment = Field(default_factory=Augment)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    train: Train = Field(default_factory=Train)
