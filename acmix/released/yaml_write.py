"""Writes a configuration of ours as the released code's YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from acmix.errors import UsageError
from acmix.released.yaml_keys import ARGUMENTS, BASE_BATCH_SIZE, EXPRESSIBLE, KEYS, NETWORKS, RATES, checked, put

if TYPE_CHECKING:
    from acmix.config import Config


def write_official(config: Config) -> dict[str, Any]:
    """Writes a configuration in the released layout; `read_official` gives back the same network and training.

    What only concerns how a run is carried out (precision, reading processes, logging, compilation, how often it
    evaluates) is written where that layout has a key for it, and left out elsewhere.

    Raises:
        UsageError: a setting that changes the result and that the released layout cannot express.
    """
    ours = config.model_dump(mode="json")
    for key, (expressible, says) in EXPRESSIBLE.items():
        if not expressible(_get(ours, key)):
            raise UsageError(f"{key}={_get(ours, key)!r} cannot be written in the released layout: {says}")
    # learning rates are meant for a batch of 512 there
    scale = BASE_BATCH_SIZE / ours["optimizer"]["base_batch_size"]
    result: dict[str, Any] = {}
    for key, value in _official_model(ours["model"]).items():
        put(result, key, value)
    for key, entry in KEYS.items():
        value = entry.write(_get(ours, entry.ours)) if entry.ours else None
        if value is not None:
            # yacs takes a whole number only where the default is one
            put(result, key, entry.kind(value * scale if key in RATES else value))
    return result


def _official_model(model: dict[str, Any]) -> dict[str, Any]:
    """The keys that tell which network it is."""
    name, args = model["name"], model["args"]
    if name not in NETWORKS:
        raise UsageError(
            f"model.name={name!r} cannot be written in the released layout: it knows {', '.join(NETWORKS)}"
        )
    if unknown := sorted(args.keys() - set(ARGUMENTS)):
        raise UsageError(f"model.args.{unknown[0]} cannot be written in the released layout: it has no key for it")
    result = {
        "MODEL.TYPE": "swin_acmix" if model["conv_path"] else "swin",
        "MODEL.NAME": name if model["conv_path"] else name.removeprefix("acmix_"),
        "MODEL.RESUME": model["checkpoint"] or "",
    }
    for argument in ARGUMENTS:
        key = f"MODEL.SWIN.{argument.upper()}"
        result[key] = checked(key, args.get(argument, NETWORKS[name][argument]))
    return result


def _get(tree: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
