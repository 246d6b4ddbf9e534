"""The released code's YAML layout (`MODEL.SWIN.DEPTHS`, `TRAIN.BASE_LR`, ...) read into ours, and ours written to it.

One table holds every key of that layout: its default there, what kind of value it takes, and which of our keys it sets
or why it is ignored. A key that the table lacks is refused with the nearest name, and a value that this library cannot
honour with what is supported. Keys the file leaves out take the released defaults, but for the sizes of a network whose
name is one of ours: there the name decides.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from acmix.errors import UsageError
from acmix.released.configuration_keys import EXPRESSIBLE, KEYS, OTHER_NETWORKS, SUPPORTED

if TYPE_CHECKING:
    from acmix.config import Config


def is_official(tree: dict[str, Any]) -> bool:
    """Tells whether a tree is in the released layout: its sections are written in capitals."""
    return any(isinstance(key, str) and key.isupper() for key in tree)


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
            _put(result, entry.ours, entry.read(values[key]))
    if "DATA.IMG_SIZE" not in given and (name := _own_name(values)) in NAMES:
        result["data"]["img_size"] = NAMES[name]["img_size"]
    if not values["AMP_ENABLE"]:
        result["train"]["precision"] = "fp32"
    result["optimizer"]["base_batch_size"] = BASE_BATCH_SIZE
    return result


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
        _put(result, key, value)
    for key, entry in KEYS.items():
        value = entry.write(_get(ours, entry.ours)) if entry.ours else None
        if value is not None:
            # yacs takes a whole number only where the default is one
            _put(result, key, entry.kind(value * scale if key in RATES else value))
    return result


BASE_BATCH_SIZE = 512
RATES = ("TRAIN.BASE_LR", "TRAIN.WARMUP_LR", "TRAIN.MIN_LR")

# What a Swin of ours is called and built with. A test holds this equal to the models' own table, which cannot be
# imported here.
NAMES: dict[str, dict[str, Any]] = {
    f"acmix_swin_{size}_patch4_window{window}_{img_size}": {
        "img_size": img_size,
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": num_heads,
        "window_size": window,
        "mlp_ratio": 4.0,
        "patch_size": 4,
        "qkv_bias": True,
    }
    for window, img_size in ((7, 224), (12, 384))
    for size, embed_dim, depths, num_heads in (
        ("tiny", 96, [2, 2, 6, 2], [3, 6, 12, 24]),
        ("small", 96, [2, 2, 18, 2], [3, 6, 12, 24]),
        ("base", 128, [2, 2, 18, 2], [4, 8, 16, 32]),
    )
}
# a key MODEL.SWIN.X of the released layout is the argument x of the model
ARGUMENTS = ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "patch_size", "qkv_bias")


def _model(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The model's name, and the arguments in which it differs from what the name stands for."""
    name = _own_name(values)
    # the type of an ACmix network may be swin too: only a name of plain Swin says that one is meant
    conv_path = not values["MODEL.NAME"].startswith("swin") or "acmix" in values["MODEL.TYPE"].lower()
    sizes = {argument: values[f"MODEL.SWIN.{argument.upper()}"] for argument in ARGUMENTS}
    if name in NAMES:
        sizes |= {key: NAMES[name][key] for key in ARGUMENTS if f"MODEL.SWIN.{key.upper()}" not in given}
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
        "args": {key: size for key, size in sizes.items() if size != NAMES[name][key]},
    }


def _own_name(values: dict[str, Any]) -> str:
    """The name here of what MODEL.NAME says, whether or not there is such a model."""
    return "acmix_" + values["MODEL.NAME"].removeprefix("acmix_")


def _nearest(sizes: dict[str, Any]) -> str:
    """The name that has most of the sizes, of the smallest network where several have."""
    keys = ("window_size", "depths", "embed_dim", "num_heads")
    return max(NAMES, key=lambda name: sum(NAMES[name][key] == sizes[key] for key in keys))


def _official_model(model: dict[str, Any]) -> dict[str, Any]:
    """The other way: the keys that tell which network it is."""
    name, args = model["name"], model["args"]
    if name not in NAMES:
        raise UsageError(f"model.name={name!r} cannot be written in the released layout: it knows {', '.join(NAMES)}")
    if unknown := sorted(args.keys() - set(ARGUMENTS)):
        raise UsageError(f"model.args.{unknown[0]} cannot be written in the released layout: it has no key for it")
    result = {
        "MODEL.TYPE": "swin_acmix" if model["conv_path"] else "swin",
        "MODEL.NAME": name if model["conv_path"] else name.removeprefix("acmix_"),
        "MODEL.RESUME": model["checkpoint"] or "",
    }
    for argument in ARGUMENTS:
        key = f"MODEL.SWIN.{argument.upper()}"
        result[key] = _checked(key, args.get(argument, NAMES[name][argument]))
    return result


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
        raise UsageError(f"BASE={name!r} cannot be followed here; write the settings into one file")
    path = (base / name).resolve()
    if path in above:
        raise UsageError(f"BASE={name!r} leads in a circle back to {path}; take one of the two references out")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"BASE={name!r}: {path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"BASE={name!r}: {path} holds {type(tree).__name__} where a mapping of sections was expected")
    return _given(tree, path.parent, (*above, path))


def _flatten(key: str, value: Any, result: dict[str, Any]) -> None:
    """Adds what stands under a key to `result`, and refuses keys that nobody knows."""
    if key in KEYS:
        result[key] = _checked(key, value)
    elif any(known.startswith(f"{key}.") for known in KEYS):
        if not isinstance(value, dict | None):
            raise UsageError(f"{key}={value!r} is a value where a section was expected")
        for name, inner in (value or {}).items():
            _flatten(f"{key}.{name}", inner, result)
    elif key not in OTHER_NETWORKS:
        raise UsageError(f"unknown key {key!r} in the released layout; {_hint(key)}")


def _hint(key: str) -> str:
    sections = {known.rpartition(".")[0] for known in KEYS} - {""}
    near = difflib.get_close_matches(key.upper(), [*KEYS, *sections], n=1, cutoff=0.5)
    last = key.upper().rpartition(".")[2]
    near = near or [known for known in KEYS if known.rpartition(".")[2] == last]
    return f"did you mean {near[0]!r}?" if near else f"sections: {', '.join(sorted(sections))}"


def _checked(key: str, value: Any) -> Any:
    try:
        return KEYS[key].kind(value)
    except ValueError as error:
        raise UsageError(f"{key}={value!r}: {error}") from None


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value


def _get(tree: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
