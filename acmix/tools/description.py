"""What `acmix export` writes into its files beside the network: what it is, how images are prepared, class names.

Every field is a text of its own, as JSON, under its name: in ONNX among the model's metadata, in a `.pt2` file among
the extra files. Readers that are not ours need `classes` and `preprocessing` alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from acmix.config import Config, validate
from acmix.config.architecture import check_architecture
from acmix.config.task import Pixels
from acmix.errors import UsageError

# of the text of one field; 20,000 classes with long names are a tenth of it
MOST_CHARACTERS = 2**24
VERSION = 1
# sides of a detector's batch
MULTIPLE = 32
# sections of a configuration that say how a model is evaluated, and what in them is of one machine
SECTIONS = ("task", "model", "data")
OF_A_MACHINE = {"data": ("dir", "cache_gib", "train_split"), "model": ("checkpoint", "pretrained", "head", "freeze")}


# how pictures are resized, by name
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
# red, green or blue
Colour = Annotated[int, Field(ge=0, le=255)]


def sides_of(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width, of a side alone or of both."""
    return (img_size, img_size) if isinstance(img_size, int) else img_size


class Preprocessing(BaseModel):
    """How pictures become the images that the network reads.

    Attributes:
        in_chans: their channels.
        img_size: pixels a side, or height and width, of a classifier's images; of others the shorter side.
        max_size: the most that the longer side gets, of detectors and segmenters: the shorter one is then shorter than
            img_size; None where there is no bound, as of classifiers, whose images all have img_size.
        align: the sides that a picture is resized to are rounded up to multiples of it.
        multiple: sides are filled up with zeros, to the right and below, to multiples of it.
        mean, std: of the channels, in values from 0 to 1: they are subtracted and divided by.
        interpolation: how pictures are resized.
        antialias: whether the filter gets wider where pictures get smaller.
        crop_pct: the share of the resized side that is kept from the middle.
        crop_mode: of a classifier: "center" resizes the shorter side to img_size / crop_pct, "squash" both sides, and
            "border" the longer one; what is missing then is filled up with the mean colour.
        background: what transparent pixels are laid on: red, green and blue, 0 to 255.
        white: the value that is white in grey of more than 8 bits; None: 65535, or what the picture says.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    in_chans: int = Field(ge=1, le=1024)
    img_size: Pixels | tuple[Pixels, Pixels]
    max_size: Pixels | None = None
    align: int = Field(default=1, ge=1, le=1024)
    multiple: int = Field(default=1, ge=1, le=1024)
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(max_length=1024)
    std: tuple[Annotated[float, Field(ge=1e-6, allow_inf_nan=False)], ...] = Field(max_length=1024)
    interpolation: Interpolation
    antialias: bool = True
    crop_pct: float = Field(ge=0.01, le=10)
    crop_mode: Literal["center", "squash", "border"] = "center"
    background: tuple[Colour, Colour, Colour] = (255, 255, 255)
    white: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def has_numbers_for_each_channel(self) -> Self:
        """Refuses other numbers than one a channel where pictures have the channels."""
        if self.in_chans in (1, 3) and not len(self.mean) == len(self.std) == self.in_chans:
            raise ValueError(f"{len(self.mean)} mean and {len(self.std)} std for {self.in_chans} channels")
        return self


class Description(BaseModel):
    """An exported file.

    Attributes:
        acmix_export: version of this description.
        model: the network's name.
        task: what it does.
        head: of a detector or segmenter.
        classes: a name for each output; label k of a detector is the k-th, from 1 on.
        named: False where they are numbers.
        preprocessing: of pictures.
        fixed_size: whether it takes images of preprocessing.img_size alone; else of any size.
        suppression: of a detector, whether it ends with non-maximum suppression.
        precision: the number format of its weights.
        versions: of acmix and torch that wrote it.
        metrics: in percent, as the checkpoint tells.
        epoch: how many epochs it was trained, as the checkpoint tells.
        config: sections of the run's configuration that evaluation needs; None where there was none.
        inputs, outputs: names of the network's, in order.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    acmix_export: Literal[1] = VERSION
    model: str = Field(max_length=1000)
    task: Literal["classify", "detect", "segment"]
    head: str | None = Field(default=None, max_length=100)
    classes: tuple[str, ...] = Field(max_length=1_000_000)
    named: bool
    preprocessing: Preprocessing
    fixed_size: bool = False
    suppression: bool = True
    precision: str = Field(default="fp32", max_length=16)
    versions: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    epoch: int | None = None
    config: dict[str, Any] | None = None
    inputs: tuple[str, ...] = ("images",)
    outputs: tuple[str, ...] = ("logits",)

    def texts(self) -> dict[str, str]:
        """The fields as they stand in a file: ASCII, so that names whose bytes are no UTF-8 come back as they were."""
        return {name: json.dumps(value) for name, value in self.model_dump().items()}

    def settings(self, path: Path) -> Config | None:
        """The configuration, checked.

        Raises:
            UsageError: it is none.
        """
        if self.config is None:
            return None
        config = validate(self.config, where=f"the configuration in {path}")
        check_architecture(config, str(path))
        if config.task.name != self.task:
            raise UsageError(
                f"{path} is for {self.task}, and its configuration for {config.task.name}; export it again"
            )
        return config


def config_of(config: Config | None) -> dict[str, Any] | None:
    """What of a configuration goes into a file: nothing that tells of the machine of its run."""
    if config is None:
        return None
    whole = config.model_dump(mode="json")
    return {
        name: {key: value for key, value in whole[name].items() if key not in OF_A_MACHINE.get(name, ())}
        for name in SECTIONS
    }


def read_description(texts: Mapping[str, str], path: Path) -> Description | None:
    """The description among a file's texts; None where it has none.

    Args:
        texts: by name, as the file holds them.
        path: the file, for messages.

    Raises:
        UsageError: there is one, which cannot be read.
    """
    if "acmix_export" not in texts:
        return None
    try:
        fields = {}
        for name in Description.model_fields:
            if name in texts:
                if len(texts[name]) > MOST_CHARACTERS:
                    raise ValueError(f"{name} is too long")
                fields[name] = json.loads(texts[name])
        return Description.model_validate(fields)
    except (ValidationError, ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        else:
            said = str(error)
        raise UsageError(f"{path} has a damaged description ({said[:160]}); export it again") from None
