"""Reads settings from YAML and from `key=value` overrides, and refuses what no run reads.

A configuration is refused as a whole when it holds an unknown key or a value of the wrong type; the message names the
key, and the nearest known one. Our layout alone is read here: `acmix.released.load_config` also reads the released
code's files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from acmix.config.kinds import Section
from acmix.config.presets import augment_preset
from acmix.config.schema import Config
from acmix.errors import UsageError
from acmix.near import did_you_mean
from acmix.yaml_text import Dumper, TooLarge, in_words, parse, read

# endings of files that hold weights, and never settings
CHECKPOINTS = (".pt", ".pth", ".safetensors")
# pydantic's names for what YAML calls otherwise
KINDS = {"tuple_type": "list", "dict_type": "mapping"}


def load(source: str | os.PathLike[str], overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads a configuration in our layout: a file, or a bare name that lies under `acmix/configs/`.

    Args:
        source: path of a YAML file, or a shipped name with or without `.yaml`.
        overrides: `section.key=value` strings; the value is read as YAML.

    Returns:
        The configuration, checked.

    Raises:
        UsageError: no such file, not YAML, an unknown key, a value of the wrong type.
    """
    path = find(source)
    return complete(read_tree(path), overrides, where=str(path))


def read_tree(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping, or nothing.

    Raises:
        UsageError: the file cannot be read, is not YAML, or holds something else.
    """
    try:
        tree = read(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        if path.suffix in CHECKPOINTS:
            raise UsageError(
                f"{path} is a checkpoint, no configuration; to go on with a run, give its folder; to begin with these "
                f"weights, add model.checkpoint={path} after a configuration"
            ) from None
        is_large = isinstance(error, TooLarge)
        raise UsageError(f"{path}{'' if is_large else ' is not YAML'}: {in_words(error, path)}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UsageError(f"{path} holds a {type(tree).__name__}; expected a mapping of sections")
    return tree


def complete(tree: dict[str, Any], overrides: list[str] | tuple[str, ...], where: str) -> Config:
    """Applies overrides to a tree of plain dictionaries, checks it and returns it typed.

    `section=value`, as `augment=light`, replaces a whole section of the tree; then come single keys, so that
    `augment.mixup=0.2` holds on either side of `augment=light`.
    """
    completed = applied(tree, overrides)
    try:
        return Config.model_validate(completed)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(describe(problem, where, blamed(problem, tree, overrides))) from None


def applied(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of the tree with overrides: whole sections before single keys."""
    tree = deepcopy(tree)
    for override in sorted(overrides, key=lambda override: "." in override.partition("=")[0]):
        apply_override(tree, override)
    return tree


def blamed(problem: Any, tree: dict[str, Any], overrides: Sequence[str]) -> str:
    """The overrides that a problem comes from, as they were typed; "" where it lies in the tree itself."""
    place = f"{key_of(problem)}."
    of_it = [override for override in overrides if f"{override.partition('=')[0].strip()}.".startswith(place)]
    if len(place.split(".")) > 2 and of_it:
        return of_it[-1]
    # a problem of several settings: those without which there is none, or all where the tree is sound
    each = [one for one in overrides if is_sound(applied(tree, [other for other in overrides if other is not one]))]
    return ", ".join(each or of_it or (overrides if is_sound(tree) else []))


def is_sound(tree: dict[str, Any]) -> bool:
    """Whether the schema takes a tree."""
    try:
        Config.model_validate(tree)
    except ValidationError:
        return False
    return True


def find(source: str | os.PathLike[str]) -> Path:
    """The file a CONFIG argument means: the path itself, a run's config.yaml, or a shipped configuration's."""
    path = Path(source)
    # not path.is_file(), which raises where a name is too long
    for file in (path, path / "config.yaml"):
        if os.path.isfile(file):
            return file
    name = path.name if path.suffix in (".yaml", ".yml") else f"{path.name}.yaml"
    folder = shipped_folder()
    entries = sorted(folder.rglob("*.yaml"))
    for entry in entries:
        # by its bare name, or with its folder as finetune/NAME
        if path.parent / name in (Path(entry.name), entry.relative_to(folder)):
            return entry
    hint = did_you_mean(
        Path(name).stem,
        [entry.stem for entry in entries],
        otherwise=f"shipped: {', '.join(shown_of(shipped(), path.parent.as_posix()))}",
    )
    raise UsageError(f"no configuration '{source}': neither a file, a run folder nor a shipped name; {hint}")


def shown_of(names: list[str], folder: str) -> list[str]:
    """Of the shipped names those in a folder, where there is one of that name; else those in none, and the folders."""
    inside = [name for name in names if name.rpartition("/")[0] == folder]
    folders = sorted({name.rpartition("/")[0] for name in names} - {""})
    return inside or [*(name for name in names if "/" not in name), *(f"{each}/…" for each in folders)]


def shipped() -> list[str]:
    """Names of the configurations that come with the package, as `find` takes them."""
    folder = shipped_folder()
    return [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]


def shipped_folder() -> Path:
    """Where they lie."""
    return Path(str(resources.files("acmix"))) / "configs"


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one `section.key=value` or `section=value` in a tree of plain dictionaries."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"override {override!r} is not of the form section.key=value, e.g. train.epochs=2")
    value = read_value(parts, text, override)
    node = tree
    for part in parts[:-1]:
        child = node[part] = {} if node.get(part) is None else node[part]
        if node is tree and part == "augment" and not isinstance(child, dict):
            child = node[part] = named_preset(child)
        if not isinstance(child, dict):
            raise UsageError(f"override {override!r}: {part!r} is a value, not a section")
        node = child
    node[parts[-1]] = value


def named_preset(name: Any) -> dict[str, Any]:
    """The values that `augment: NAME` stands for, to change some of them."""
    try:
        return augment_preset(name)
    except ValueError as error:
        raise UsageError(f"augment={in_yaml(name)}: {error}") from None


def read_value(key: Sequence[str], text: str, override: str) -> Any:
    """The value in `section.key=value`: YAML; but a setting that is text takes text as it was typed.

    A path may hold what YAML takes for a comment (`a #b`), and characters that YAML has not.
    """
    typed = text.strip()
    try:
        value = parse(text)
    except yaml.YAMLError as error:
        if is_text(key):
            return typed
        if isinstance(error, yaml.constructor.ConstructorError):
            raise UsageError(f"override {override!r}: {error.problem}") from None
        raise UsageError(f"the value in override {override!r} is not YAML; put it in quotes") from None
    if value is None and typed[:1] == "#":
        # no comment, but a colour: "#rrggbb"
        return typed
    return typed if isinstance(value, str) and typed[:1] not in ("'", '"') and is_text(key) else value


def is_text(key: Sequence[str]) -> bool:
    """Whether a setting is text, and no list."""
    if len(key) != 2 or (section := Config.model_fields.get(key[0])) is None:
        return False
    kind = getattr(getattr(section.annotation, "model_fields", {}).get(key[1]), "annotation", None)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return str in kinds and not any(get_origin(each) is tuple for each in kinds)


def validate(tree: dict[str, Any], where: str = "configuration") -> Config:
    """Checks a tree of plain dictionaries and returns it typed.

    Args:
        tree: sections of settings.
        where: what holds them, for messages.

    Raises:
        UsageError: an unknown key, a value of the wrong type.
    """
    return complete(tree, [], where)


def key_of(problem: Any) -> str:
    """The section, or the key in it, that one of pydantic's problems is about."""
    # behind them stand places in lists, and pydantic's names of types
    return ".".join(str(part) for part in problem["loc"][:2])


def describe(problem: Any, where: str, override: str = "") -> str:
    """One line for one of pydantic's problems, led by what holds it: an override as it was typed, else a file."""
    key = key_of(problem)
    lead = override or where
    # YAML also has keys that are no text
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        section = key.partition(".")[0] + "."
        there = [known for known in known_keys() if known.startswith(section)] or list(Config.model_fields)
        return f"{lead}: unknown key {key!r}; {did_you_mean_key(key) or 'there are: ' + ', '.join(there)}"
    said = problem["msg"].removeprefix("Value error, ")
    if said.startswith(f"{key}."):
        # it names the key itself
        return said if said.startswith(override.partition("=")[0] or " ") else f"{lead}: {said}"
    if problem["type"] == "missing":
        said = "expected one value more"
    if problem["type"] in ("tuple_type", "dict_type"):
        said = f"expected a {KINDS[problem['type']]}, such as {example(key)}"
    if problem["type"] == "model_type":
        said = f"expected single settings, such as {next(each for each in known_keys() if each.startswith(key))}=VALUE"
    if isinstance(problem["input"], (int, float)) and problem["type"] == "string_type":
        said += "; put text in quotes"
    is_item = len(problem["loc"]) > 2 and isinstance(problem["loc"][-1], int)
    place = f"{key}[{problem['loc'][2]}]" if is_item else key
    said = f"{said[:1].lower()}{said[1:]}"
    if override.partition("=")[0].strip() == place:
        return f"{override}: {said}"
    return f"{lead}: {place}={in_yaml(problem['input'])}: {said}"


def example(key: str) -> str:
    """A setting of lists or mappings as one types it in a shell, with a value that it takes."""
    section, _, name = key.partition(".")
    [value, *_] = section_of(section).model_fields[name].examples or [None]
    if isinstance(value, dict):
        [(each, value), *_] = value.items()
        return f"{key}.{each}={json.dumps(value)}"
    return f"'{key}={json.dumps(value)}'"


def in_yaml(value: Any) -> str:
    """A value of a file as its author wrote it, where Python's name for it is another."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


# what others call a setting
ALIASES = {
    **dict.fromkeys(("learning_rate", "learningrate", "base_lr"), "optimizer.lr"),
    **dict.fromkeys(("bs", "batch", "batchsize"), "train.batch_size"),
    **dict.fromkeys(("wd", "decay"), "optimizer.weight_decay"),
    **dict.fromkeys(("imgsz", "image_size", "input_size", "resolution"), "data.img_size"),
    **dict.fromkeys(("classes", "nc", "n_classes", "nb_classes"), "model.num_classes"),
    **dict.fromkeys(("num_workers", "nworkers"), "data.workers"),
    **dict.fromkeys(("gpu", "gpus"), "train.device"),
    **dict.fromkeys(("amp", "half", "fp16"), "train.precision"),
    **dict.fromkeys(("scheduler", "lr_scheduler"), "schedule.name"),
    "early_stopping": "train.patience",
}


def did_you_mean_key(key: str) -> str:
    """The known keys that an unknown one was probably meant to be: of the same name, or near; "" where none is."""
    name = key.split(".")[-1]
    if name in ALIASES:
        return did_you_mean(ALIASES[name], [ALIASES[name]])
    if "." not in key:
        return did_you_mean(key, Config.model_fields) or did_you_mean(key, known_keys())
    same = [known for known in known_keys() if known.split(".")[-1] == name]
    return did_you_mean(name, same) or did_you_mean(key, known_keys()) or did_you_mean(name, known_keys())


def known_keys() -> list[str]:
    """Every `section.key` there is."""
    return [f"{name}.{key}" for name in Config.model_fields for key in section_of(name).model_fields]


def section_of(name: str) -> type[Section]:
    """The class of a section of the settings."""
    section = Config.model_fields[name].annotation
    assert isinstance(section, type)
    assert issubclass(section, Section)
    return section


def dump(config: Config) -> str:
    """The configuration as YAML that `load` reads back to an equal one."""
    return as_yaml(config.model_dump(mode="json"))


def as_yaml(tree: dict[str, Any]) -> str:
    """Sections of settings as YAML, in their order."""
    return yaml.dump(tree, Dumper=Dumper, sort_keys=False)
