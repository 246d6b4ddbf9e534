"""Which convolutions of a YOLO are ACmix2d, kept in the dictionary that ultralytics builds its networks from.

Every network of ultralytics carries that dictionary as `model.yaml`, into checkpoints too. Training, resuming and each
process of several build the network anew from it, so what stands there is built there.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from acmix.layers.replace import put_in

KEY = "acmix"


def add_entry(model: Any, **entry: Any) -> None:
    """Writes into a network's dictionary what was replaced.

    Args:
        model: a network of ultralytics.
        entry: `convolutions`, a list of names such as "model.22.cv2.conv", and the options of `replace_conv`.
    """
    model.yaml[KEY] = [*model.yaml.get(KEY, ()), entry]


def replaced_names(model: Any) -> list[str]:
    """The names of the convolutions that were replaced."""
    return [name for entry in model.yaml.get(KEY, ()) for name in entry["convolutions"]]


def follow(model: nn.Module, entries: list[dict[str, Any]]) -> int:
    """Replaces those convolutions of a dictionary's entries that are still there.

    Args:
        model: a network, whose layers are `model.model`.
        entries: of `model.yaml`.

    Returns:
        How many were replaced.
    """
    count = 0
    for entry in entries:
        found = {name: model.get_submodule(name) for name in entry["convolutions"]}
        chosen = {name: each for name, each in found.items() if isinstance(each, nn.Conv2d)}
        options = {name: value for name, value in entry.items() if name != "convolutions"}
        put_in(model, chosen, **options, transfers=False)
        count += len(chosen)
    return count
