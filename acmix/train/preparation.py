"""How images are prepared for weights that were trained before: as these want it, unless the user says otherwise.

"Says" means: the key stands in the configuration file or on the command line, with another value than `auto`. The
fine-tuning recipes that this package ships write none of these keys.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import timm
from timm.data import resolve_data_config

from acmix import config as configuration
from acmix.config import WEIGHTS_DECIDE, Config, Data
from acmix.errors import UsageError
from acmix.released.safe_load import safe_load
from acmix.train import checkpoint
from acmix.train.files import versions


def settle(config: Config, output: Path) -> tuple[Config, list[str]]:
    """Takes the settings of `WEIGHTS_DECIDE` that are not set from the weights that a run starts from.

    Args:
        config: as read.
        output: the run's folder; a resumed run keeps its values.

    Returns:
        The settings to run with, and a line for each thing the user should know.
    """
    data = config.data
    wanted, whose = wanted_by_weights(config, output)
    if config.task.name != "classify":
        # sizes are the task's own
        wanted = {key: value for key, value in wanted.items() if key in ("mean", "std")}
    wanted = {key: for_channels(value, config.model.in_chans) for key, value in wanted.items()}
    free = [key for key in wanted if key not in data.model_fields_set]
    taken = {key: wanted[key] for key in free if not same(wanted[key], getattr(data, key))}
    settled = config.model_copy(update={"data": data.model_copy(update={key: wanted[key] for key in free})})
    if not whose:
        return settled, []
    lines = []
    if taken:
        values = ", ".join(f"{key} {shown(value)}" for key, value in taken.items())
        lines.append(f"{', '.join(f'data.{key}' for key in taken)}: those of {whose}: {values}")
    for key in ("mean", "std"):
        if key in wanted and key not in free and not same(wanted[key], getattr(data, key)):
            lines.append(f"data.{key} {shown(getattr(data, key))}, as set; that of {whose} is {shown(wanted[key])}")
    return settled, lines


def wanted_by_weights(config: Config, output: Path) -> tuple[dict[str, Any], str]:
    """What the weights that a run starts from were trained with, and whose they are; nothing where there are none."""
    model = config.model
    if not (model.checkpoint or model.pretrained):
        return {}, ""
    if versions(output / "checkpoints" / "last.pt"):
        return as_before(output / "config.yaml"), ""
    if model.checkpoint:
        try:
            contents = safe_load(model.checkpoint)
        except UsageError:
            # whoever loads the weights says what is wrong with the file, or reads one of another kind
            contents = {}
        saved = contents.get("config")
        if contents.get("format") == checkpoint.FORMAT and isinstance(saved, dict):
            return of_data(configuration.validate(saved, where=model.checkpoint).data), f"{model.checkpoint}'s weights"
    return of_name(model.name)


def for_channels(value: Any, in_chans: int) -> Any:
    """The mean or std of weights that read grey, repeated for more channels, as the first kernels are."""
    return value * in_chans if isinstance(value, tuple) and len(value) == 1 else value


def as_before(file: Path) -> dict[str, Any]:
    """The values of a run that resumes, from its config.yaml."""
    try:
        return of_data(configuration.load(file).data)
    except UsageError:
        # missing or unreadable; it is written anew
        return {}


def of_data(data: Data) -> dict[str, Any]:
    """The settings that weights decide, of a run that is known."""
    return {key: getattr(data, key) for key in WEIGHTS_DECIDE}


def of_name(name: str) -> tuple[dict[str, Any], str]:
    """timm's data configuration of a name, with or without a tag such as `.augreg_in21k`, and whose it is."""
    try:
        known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:
        # no such tag; building the model says so
        known = None
    if known is None:
        return {}, ""
    found = resolve_data_config({}, pretrained_cfg=known.to_dict())
    wanted = dict(
        mean=tuple(map(float, found["mean"])),
        std=tuple(map(float, found["std"])),
        # a few are trained on upright images; ours are square
        img_size=max(found["input_size"][1:]),
        interpolation=found["interpolation"],
        crop_pct=float(found["crop_pct"]),
    )
    if wanted["interpolation"] not in get_args(Data.model_fields["interpolation"].annotation):
        del wanted["interpolation"]
    return wanted, f"{known.architecture or name}{f'.{known.tag}' if known.tag else ''}'s weights"


def same(one: Any, other: Any) -> bool:
    """Whether two settings are equal, but for rounding."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return (
        math.isclose(one, other, rel_tol=1e-6) if isinstance(one, float) and isinstance(other, float) else one == other
    )


def shown(value: Any) -> str:
    """A setting as YAML writes it, with numbers of at most six digits."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
