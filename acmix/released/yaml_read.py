"""Reads the released code's YAML (`MODEL.SWIN.DEPTHS`, `TRAIN.BASE_LR`, ...) as a configuration of ours.

`yaml_keys` says what becomes of every key. Unknown keys are refused, and the closest valid key is suggested. Values
that this library cannot honour are refused too. A key that the file leaves out takes the released default, except for
the sizes of a network whose name is one of ours: there the name decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from acmix.errors import UsageError
from acmix.near import did_you_mean
from acmix.released.yaml_keys import ARGUMENTS, BASE_BATCH_SIZE, KEYS, NETWORKS, OTHER_NETWORKS, SUPPORTED, checked, put


def read_official(tree: dict[str, Any], base: Path | None = None) -> dict[str, Any]:
    """Rewrites a tree of the released layout as one of ours.

    `TEST.CROP: false` becomes `data.crop_pct: 1.0`: the released code then squeezes the whole image into a square, ours
    keeps its shape and takes the middle.

    Args:
        tree: the file's content.
        base: the folder that the files under its key `BASE` lie in.

    Returns:
        Plain dictionaries for `config.validate`, with every setting that the released layout has.

    Raises:
        UsageError: an unknown key, a value of the wrong type, or one that is not supported here.
    """
    given = _given(tree, base)
    values = {key: entry.default for key, entry in KEYS.items()} | given
    for key, (supported, says) in SUPPORTED.items():
        if not supported(values[key]):
            raise UsageError(f"{key}={values[key]!r} is not supported; expected {says}")
    result: dict[str, Any] = {"model": _model(values, given)}
    for key, entry in KEYS.items():
        if entry.ours:
            put(result, entry.ours, entry.read(values[key]))
    if "DATA.IMG_SIZE" not in given and (name := _own_name(values)) in NETWORKS:
        result["data"]["img_size"] = NETWORKS[name]["img_size"]
    if not values["AMP_ENABLE"]:
        result["train"]["precision"] = "fp32"
    result["optimizer"]["base_batch_size"] = BASE_BATCH_SIZE
    return result


def _model(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The model's name, and the arguments in which it differs from what the name stands for."""
    name = _own_name(values)
    # the type of an ACmix network may be swin too: only a name of plain Swin says that one is meant
    conv_path = not values["MODEL.NAME"].startswith("swin") or "acmix" in values["MODEL.TYPE"].lower()
    sizes = {argument: values[f"MODEL.SWIN.{argument.upper()}"] for argument in ARGUMENTS}
    if name in NETWORKS:
        sizes |= {key: NETWORKS[name][key] for key in ARGUMENTS if f"MODEL.SWIN.{key.upper()}" not in given}
    else:
        name = _nearest(sizes)
    if len(sizes["depths"]) != len(sizes["num_heads"]):
        raise UsageError(
            f"MODEL.SWIN.DEPTHS={sizes['depths']} and MODEL.SWIN.NUM_HEADS={sizes['num_heads']} differ in length; "
            "expected one entry a stage in each"
        )
    return {
        "name": name,
        "conv_path": conv_path,
        "checkpoint": values["MODEL.PRETRAINED"] or values["MODEL.RESUME"] or None,
        "args": {key: size for key, size in sizes.items() if size != NETWORKS[name][key]},
    }


def _own_name(values: dict[str, Any]) -> str:
    """The name here of what MODEL.NAME says, whether or not there is such a model."""
    return "acmix_" + values["MODEL.NAME"].removeprefix("acmix_")


def _nearest(sizes: dict[str, Any]) -> str:
    """The name that has most of the sizes, of the smallest network where several have."""
    keys = ("window_size", "depths", "embed_dim", "num_heads")
    return max(NETWORKS, key=lambda name: sum(NETWORKS[name][key] == sizes[key] for key in keys))


def _given(tree: dict[str, Any], base: Path | None, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values in a file and in those it builds on, by dotted key, each of the right kind."""
    result: dict[str, Any] = {}
    names = tree.get("BASE") or []
    for name in [names] if isinstance(names, str) else names:
        if name:
            result |= _given_by(name, base, above)
    for key, value in tree.items():
        if key != "BASE":
            _flatten(str(key), value, result)
    return result


def _given_by(name: Any, base: Path | None, above: tuple[Path, ...]) -> dict[str, Any]:
    """The values in one file that BASE names."""
    if base is None or not isinstance(name, str):
        raise UsageError(f"BASE={name!r} cannot be followed here; put the settings into one file")
    path = (base / name).resolve()
    if path in above:
        raise UsageError(f"BASE={name!r} refers back to {path}; remove one of the two references")
    from acmix.yaml_text import in_words, read

    try:
        tree = read(path) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"BASE={name!r}: {path} cannot be read as YAML: {in_words(error, path)}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"BASE={name!r}: {path} holds a {type(tree).__name__}; expected a mapping of sections")
    return _given(tree, path.parent, (*above, path))


def _flatten(key: str, value: Any, result: dict[str, Any]) -> None:
    """Adds what stands under a key to `result`, and refuses unknown keys."""
    if key in KEYS:
        result[key] = checked(key, value)
    elif any(known.startswith(f"{key}.") for known in KEYS):
        if not isinstance(value, dict | None):
            raise UsageError(f"{key}={value!r} is a value; expected a section")
        for name, inner in (value or {}).items():
            _flatten(f"{key}.{name}", inner, result)
    elif key not in OTHER_NETWORKS:
        raise UsageError(f"unknown key {key!r} in the released layout; {_hint(key)}")


def _hint(key: str) -> str:
    sections = {known.rpartition(".")[0] for known in KEYS} - {""}
    last = key.upper().rpartition(".")[2]
    same = [known for known in KEYS if known.rpartition(".")[2] == last]
    hint = did_you_mean(key, same) or did_you_mean(key, [*KEYS, *sections])
    return hint or f"sections: {', '.join(sorted(sections))}"
