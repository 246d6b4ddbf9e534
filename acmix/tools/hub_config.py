"""config.json of a saved model: timm's fields, by which timm builds a classifier, and those of acmix."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from timm.models._hub import save_config_for_hf
from torch import nn

from acmix.config import Config
from acmix.errors import UsageError
from acmix.tools.description import config_of
from acmix.tools.hub_folder import CONFIG, WEIGHTS, Section, sha256_of
from acmix.tools.load import Info, preparation_of
from acmix.tools.runs import RunRecord

# a split that is a file, a pattern or an address is of one machine; so is another reader than that of folders
PLACES = "/\\:{}*"
# fields of `Info`
PREPARATION = ("img_size", "in_chans", "mean", "std", "interpolation", "crop_pct", "crop_mode")
# what in timm's configuration is of where weights came from
OF_SOURCE = (
    "architecture",
    "tag",
    "url",
    "file",
    "state_dict",
    "hf_hub_id",
    "hf_hub_filename",
    "source",
    "license",
    "label_names",
    "label_descriptions",
    "test_input_size",
    "test_crop_pct",
    "custom_load",
)
REBUILT = "only a model that its name and arguments build can be saved, before acmix.fold or replace_conv changed it"


@dataclass(frozen=True)
class Saved:
    """What is saved.

    Args:
        model: its network.
        info: what goes with it; None of a model that was built, but not loaded.
        run: the run that made it, where that was given.
        classes: names of the outputs; None where they are not known.
    """

    model: nn.Module
    info: Info | None
    run: RunRecord | None
    classes: list[str] | None

    @property
    def config(self) -> Config | None:
        """The configuration of its run."""
        return None if self.info is None else self.info.config

    @property
    def is_timm_s(self) -> bool:
        """Whether timm can build it: a classifier under a name of its registry."""
        config = self.config
        return config is None or (config.task.name == "classify" and not config.model.add_conv_path)


def configuration(saved: Saved, made: Path, license: str | None) -> dict[str, Any]:
    """What config.json holds: timm's fields where timm can build the model, and ours where there is a configuration."""
    content: dict[str, Any] = {}
    if saved.is_timm_s:
        content = timm_fields(saved, made / CONFIG)
        cfg = content["pretrained_cfg"]
        # ours is of the code; what holds for these weights is not known unless somebody says it
        for key in ("license", "url", "tag"):
            cfg.pop(key, None)
        if license is not None:
            cfg["license"] = license
    config, info = saved.config, saved.info
    if config is None or info is None:
        return content
    versions = {name: version(name) for name in ("torch", "timm")}
    section = Section(
        config=without_places(config),
        classes=info.classes,
        named=info.are_named,
        metrics=info.metrics,
        epoch=info.epoch or 0,
        sha256=sha256_of(made / WEIGHTS),
        versions=versions,
    )
    return {**content, "acmix": section.model_dump(mode="json")}


def without_places(config: Config) -> dict[str, Any]:
    """What of a configuration evaluation needs, without where its data lay."""
    sections = config_of(config)
    assert sections is not None
    data = sections["data"]
    data["format"] = "auto"
    data.pop("workers", None)
    for key in ("train_split", "val_split"):
        if any(character in str(data.get(key, "")) for character in PLACES):
            del data[key]
    return sections


def timm_fields(saved: Saved, file: Path) -> dict[str, Any]:
    """What timm writes of a model: its architecture and arguments, names of classes, and how images are prepared.

    Args:
        saved: the model.
        file: where timm writes it.

    Raises:
        UsageError: an argument cannot be written, or timm refuses the model.
    """
    model: Any = saved.model
    info = saved.info
    how = preparation_of(model) if info is None else {name: getattr(info, name) for name in PREPARATION}
    size = how["img_size"]
    cfg = {key: value for key, value in model.pretrained_cfg.items() if key not in OF_SOURCE and value is not None}
    cfg |= {
        "input_size": (how["in_chans"], *((size, size) if isinstance(size, int) else size)),
        "mean": how["mean"],
        "std": how["std"],
        "interpolation": how["interpolation"],
        "crop_pct": how["crop_pct"],
        "crop_mode": how["crop_mode"],
        "num_classes": model.num_classes,
    }
    more: dict[str, Any] = {"pretrained_cfg": cfg}
    if saved.classes is not None:
        more["label_names"] = saved.classes
    try:
        save_config_for_hf(model, str(file), model_config=more, model_args=arguments_of(saved))
        return json.loads(file.read_text(encoding="utf-8"))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UsageError(f"timm cannot describe this model: {' '.join(str(error).split())}; {REBUILT}") from None


def arguments_of(saved: Saved) -> dict[str, Any]:
    """The arguments that build the model; timm adds those that it noted when it built it."""
    config = saved.config
    if config is None:
        return {}
    settings = config.model
    arguments = {"num_classes": settings.num_classes, "in_chans": settings.in_chans, **settings.args}
    if settings.name.startswith("acmix_"):
        arguments["conv_path"] = settings.conv_path
    return arguments
