"""A folder with a model, as a repository of the Hugging Face hub holds one: what is read of it, and what is refused.

    config.json          timm's fields of a classifier: architecture, model_args, label_names, pretrained_cfg;
                         of any model that acmix wrote, also `acmix`: `Section`, below
    model.safetensors    the weights
    README.md            the model card, which nothing reads

The names of the files are fixed: no file says where another lies. What `acmix` holds goes through the checks of a
checkpoint, and timm's fields through those of `check_timm`, before a network is built.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from acmix.config.architecture import NETWORKS, is_plain
from acmix.config.kinds import further_arguments
from acmix.errors import UsageError
from acmix.names import shown
from acmix.near import did_you_mean
from acmix.released.safe_load import UNREADABLE, check_archive, check_opcodes
from acmix.tools.description import Interpolation
from acmix.train.checkpoint import FORMAT, VERSION

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
# what is fetched of a repository with weights: the first that it has
WEIGHT_FILES = (WEIGHTS, "pytorch_model.bin")
# of config.json; 22,000 classes with names and descriptions take a tenth of it
MOST_BYTES = 2**24
# arguments that config.json may hold besides those of an architecture
TIMM_ARGUMENTS = {*NETWORKS, "img_size", "in_chans", "num_classes", "conv_path", "drop_path_rate"}


# channels, height and width: an image of the largest has 192 MiB
ImageSize = Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=3, max_length=3)]
CropShare = Annotated[float, Field(gt=0, le=4)]


class Section(BaseModel):
    """What acmix keeps in config.json beside timm's fields.

    Attributes:
        version: of this section.
        config: the sections `task`, `model` and `data` of the run's configuration, without what is of one machine.
        classes: a name for each output.
        named: False where they are numbers.
        metrics: in percent, of the validation images.
        epoch: how many epochs the weights were trained.
        sha256: of model.safetensors.
        versions: of the packages that wrote it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    version: Literal[1] = 1
    config: dict[str, Any]
    classes: list[str] = Field(max_length=1_000_000)
    named: bool = True
    metrics: dict[str, float] = Field(default_factory=dict)
    epoch: int = Field(default=0, ge=0, le=2**53)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    versions: dict[str, str] = Field(default_factory=dict)


class Preparation(BaseModel):
    """The fields of timm's `pretrained_cfg` that say how images are prepared; every one may be left out.

    Attributes:
        input_size: channels, height and width.
        test_input_size: the same, for evaluation.
        crop_pct: the part of the side that is cut out; above 1 for a margin.
        test_crop_pct: the same, for evaluation.
        interpolation: by name.
        mean: of a channel each.
        std: of a channel each.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    input_size: ImageSize | None = None
    test_input_size: ImageSize | None = None
    crop_pct: CropShare | None = None
    test_crop_pct: CropShare | None = None
    interpolation: Literal[Interpolation, "random"] | None = None
    mean: list[Annotated[float, Field(ge=-1e6, le=1e6)]] | None = Field(default=None, min_length=1, max_length=64)
    std: list[Annotated[float, Field(ge=1e-6, le=1e6)]] | None = Field(default=None, min_length=1, max_length=64)


def read_config(folder: Path) -> dict[str, Any] | None:
    """What config.json of a folder holds; None where it is none of a model.

    Raises:
        UsageError: it is far larger than any.
    """
    file = folder / CONFIG
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UsageError(f"{file} has more than {MOST_BYTES:,} bytes, which no model's has: refused")
        content = json.loads(file.read_text(encoding="utf-8"))
    except UsageError:
        raise
    except (OSError, ValueError, RecursionError):
        return None
    is_model = isinstance(content, dict) and ("architecture" in content or "acmix" in content)
    return content if is_model else None


def is_snapshot(folder: Path) -> bool:
    """Whether a folder is a copy of a repository: its configuration names an architecture, or is one of acmix."""
    return read_config(folder) is not None


def our_contents(folder: Path, source: str) -> dict[str, Any] | None:
    """What a folder that acmix wrote holds, as a checkpoint would; None where config.json has no section of ours.

    Args:
        folder: where its files lie.
        source: what the user gave, for messages.

    Raises:
        UsageError: it is damaged, or its weights are not those that go with it.
    """
    given = (read_config(folder) or {}).get("acmix")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise UsageError(f"{source}: {CONFIG} holds {str(given)[:80]!r} as acmix, not fields; get the folder again")
    try:
        section = Section.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(['acmix', *map(str, first['loc'])])}: {first['msg']}"
        raise UsageError(f"{source}: {CONFIG} has a damaged section ({said[:160]}); get the folder again") from None
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise UsageError(f"{source} has no {WEIGHTS}; get the folder again")
    if sha256_of(weights) != section.sha256:
        raise UsageError(f"{source}: {WEIGHTS} is not the file that {CONFIG} was written with; get the folder again")
    try:
        with safe_open(weights, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no dictionary
    except (SafetensorError, *UNREADABLE) as error:
        said = " ".join(str(error).split())[:160]
        raise UsageError(f"{source}: {WEIGHTS} cannot be read ({said}); get the folder again") from None
    told = section.model_dump(include={"config", "classes", "named", "metrics", "epoch"})
    return {"format": FORMAT, "version": VERSION, **told, "model": tensors}


def check_timm(folder: Path, source: str) -> None:
    """Refuses a folder of timm's layout that names what timm does not know, or that asks for more than weights.

    An address in it is not followed: timm reads the weights of a folder from that folder alone.

    Raises:
        UsageError: of its architecture, an argument of it, how images are prepared, or a pickle.
    """
    config = read_config(folder) or {}
    hint = f"get the folder again, or mend its {CONFIG}"
    name, arguments = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(name, str) or not name.isidentifier() or not timm.is_model(name):
        raise UsageError(
            f"cannot load the published weights of {source!r}: architecture {str(name)[:80]!r} is no model of "
            f"timm's or of acmix; {hint}"
        )
    for field in (arguments, config.get("pretrained_cfg", {})):
        if not isinstance(field, dict):
            raise UsageError(f"{source}: {CONFIG} holds {str(field)[:80]!r} where fields are expected; {hint}")
    try:
        # a configuration without this section has its fields beside the architecture
        Preparation.model_validate(config.get("pretrained_cfg", config))
    except ValidationError as error:
        first = error.errors()[0]
        said = f"pretrained_cfg.{'.'.join(map(str, first['loc']))} is {str(first['input'])[:60]}: {first['msg']}"
        raise UsageError(f"{source}: {shown(said)}; {hint}") from None
    for key, value in arguments.items():
        if key not in TIMM_ARGUMENTS:
            near = did_you_mean(key, sorted(TIMM_ARGUMENTS)) or "only sizes and kinds of layers are"
            raise UsageError(f"{source}: model_args.{key} is not taken from a file; {near}")
        if not is_plain(value):
            raise UsageError(f"{source}: model_args.{key} is a {type(value).__name__}; expected plain values")
    numbers = {key: value for key, value in arguments.items() if key != "num_classes"}
    try:
        further_arguments(numbers, "model_args", {}, "a model")
    except ValueError as error:
        raise UsageError(f"{source}: {error}; {hint}") from None
    # timm takes any of these where there is no safetensors file
    for pickled in folder.iterdir() if not (folder / WEIGHTS).exists() else ():
        if pickled.suffix in (".bin", ".pth", ".tar") and pickled.is_file():
            check_archive(pickled)
            check_opcodes(pickled)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes."""
    hasher = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(2**20):
            hasher.update(block)
    return hasher.hexdigest()
