"""The settings that a configuration, a run or a checkpoint stands for, as YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acmix import config
from acmix.config import WEIGHTS_DECIDE, Config
from acmix.config.reading import CHECKPOINTS
from acmix.errors import UsageError
from acmix.released import load_config


def resolved(source: str, overrides: Sequence[str] = ()) -> str:
    """All settings of a source with overrides applied: YAML that trains the same when it is given as CONFIG.

    Args:
        source: a YAML file in either layout, a shipped name, a run folder, or a checkpoint.
        overrides: `section.key=value` strings.

    Raises:
        UsageError: there is no such source, or what it says cannot be meant.
    """
    path = Path(source)
    if path.is_dir() and not (path / "config.yaml").is_file():
        raise UsageError(f"{path} holds no config.yaml; give the folder of a run, a YAML file or a shipped name")
    if path.suffix in CHECKPOINTS:
        return text(of_checkpoint(path, overrides))
    return text(load_config(source, [*overrides]))


def of_checkpoint(path: Path, overrides: Sequence[str]) -> Config:
    """The settings that a checkpoint of ours holds, or those that released weights belong to."""
    from acmix.released.checkpoint import configuration_of
    from acmix.released.safe_load import FORMAT, safe_load

    contents = safe_load(path)
    tree = contents.get("config")
    if contents.get("format") != FORMAT or not isinstance(tree, dict):
        tree = configuration_of(contents, None, path)[0].model_dump(mode="json")
    return config.complete(tree, [*overrides], where=str(path))


def text(settings: Config) -> str:
    """YAML of the settings; what the weights that a run starts from decide is `auto`."""
    tree = settings.model_dump(mode="json")
    if settings.model.checkpoint or settings.model.pretrained:
        tree["data"] |= {key: "auto" for key in WEIGHTS_DECIDE if key not in settings.data.model_fields_set}
    return config.as_yaml(tree)
