"""Turns what the released code wrote into ours, and ours into what it reads: weights and configurations."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError

from acmix import config
from acmix.config.architecture import check_architecture
from acmix.errors import UsageError
from acmix.released import from_official, is_official, load_config, write_official
from acmix.released.checkpoint import configuration_of, write_checkpoint
from acmix.released.digest import DIGEST, digest_of
from acmix.released.safe_load import safe_load
from acmix.released.start_head import text_order
from acmix.train.checkpoint import FORMAT, VERSION, check, check_build
from acmix.train.files import replaced_whole

YAML = (".yaml", ".yml")
PICKLE = (".pt", ".pth")
TENSORS = ".safetensors"
# the classifiers of the families that the released code has
CLASSIFIERS = ("head.fc.weight", "head.fc.bias", "fc.weight", "fc.bias")
# what a batch norm saves beside its parameters
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True)
class Converted:
    """What a conversion did."""

    source: Path
    destination: Path
    # one line for people
    summary: str


def convert(source: Path, destination: Path, *, name: str | None = None) -> Converted:
    """Converts a checkpoint or a configuration; what is in the file decides the direction.

    | from | to |
    |---|---|
    | released `.pth` or its tensors as `.safetensors` | our `.pt` or `.safetensors` |
    | our checkpoint | released `.pth`, or with a destination `.safetensors` our weights in that format |
    | released `.yaml` | our `.yaml` |
    | our `.yaml` | released `.yaml` |

    Args:
        source: the file to read; nothing in it is executed.
        destination: the file to write, whole or not at all.
        name: the model that released weights are meant for; None: read off the configuration in the file, or off the
            weights' sizes.

    Returns:
        What was read and written, with a line that says it.

    Raises:
        UsageError: a file that cannot be read, does not fit, or cannot be written.
    """
    source, destination = Path(source), Path(destination)
    _check_places(source, destination)
    if source.suffix.lower() in YAML:
        summary = _convert_config(source, destination)
    else:
        content = safe_load(source)
        turn = _convert_ours if content.get("format") == FORMAT else _convert_official
        summary = turn(content, destination, source, name)
    return Converted(source, destination, f"{source} -> {destination}: {summary}")


def _check_places(source: Path, destination: Path) -> None:
    if not source.is_file():
        raise UsageError(f"there is no file {source} to convert; check the path")
    if os.path.isdir(destination):
        raise UsageError(
            f"{destination} is a folder; give the name of the file to write, e.g. {destination / 'model.pt'}"
        )
    if os.path.exists(destination) and destination.samefile(source):
        raise UsageError(f"{destination} is the source itself; give another destination")
    if not destination.parent.is_dir():
        raise UsageError(f"there is no folder {destination.parent} to write {destination.name} into; create it first")
    kinds = YAML if source.suffix.lower() in YAML else (*PICKLE, TENSORS)
    if destination.suffix.lower() not in kinds:
        raise UsageError(
            f"{destination} cannot hold what {source} is converted to; end its name in {' or '.join(kinds)}"
        )


def _convert_config(source: Path, destination: Path) -> str:
    settings = load_config(source)
    if is_official(config.read_tree(source)):
        text, summary = config.dump(settings), f"released configuration to ours, model {settings.model.name}"
    else:
        text = yaml.safe_dump(write_official(settings), sort_keys=False)
        summary = f"our configuration to the released layout, model {settings.model.name}"
    _write(destination, lambda path: path.write_text(text, encoding="utf-8"))
    return summary


def _convert_official(content: dict[str, Any], destination: Path, source: Path, name: str | None) -> str:
    """Released weights to a checkpoint of ours."""
    settings, note = configuration_of(content, name, source)
    weights = from_official(content, name or settings.model.name)
    ours = {
        "format": FORMAT,
        "version": VERSION,
        "config": settings.model_dump(mode="json"),
        # the released code sorts the names of folders as text, and keeps none of them
        "classes": [str(number) for number in range(settings.model.num_classes)],
        "named": False,
        "step": 0,
        "epoch": 0,
        "metrics": {},
        "model": weights,
    }
    _write_ours(ours, destination)
    return f"released weights to ours, {_described(settings, weights)}{note}"


def _convert_ours(content: dict[str, Any], destination: Path, source: Path, name: str | None) -> str:
    """A checkpoint of ours to released weights, or to the same weights as safetensors."""
    check(content, source)
    settings = config.validate(content["config"], where=f"the configuration in {source}")
    check_architecture(settings, str(source))
    if name not in (None, settings.model.name):
        raise UsageError(f"{source} holds {settings.model.name}, not {name}; leave the name out")
    # as evaluation does: the average of the weights where one was kept
    weights = content.get("average") or content["model"]
    check_build(settings, weights, str(source))
    if destination.suffix.lower() == TENSORS:
        keys = ("format", "version", "config", "classes", "named", "step", "epoch", "metrics")
        _write_ours({key: content[key] for key in keys if key in content} | {"model": weights}, destination)
        return f"our weights as safetensors, {_described(settings, weights)}"
    if settings.task.name != "classify":
        raise UsageError(
            f"{source} holds {settings.task.head} on {settings.model.name}, but the released code has classifiers; "
            f"convert it to a file that ends in {TENSORS}"
        )
    note = "the names of the classes are left out"
    if order := text_order(content):
        # there, whoever loads them sorts the names of folders as text
        weights = {key: value[order] if key in CLASSIFIERS else value for key, value in weights.items()}
        note += ", and the classifier's rows are in the order of the names sorted as text"
    released = write_checkpoint(weights, settings)
    note += _preparation_lost(settings.data)
    _write(destination, lambda path: torch.save(released, path))
    return f"our weights to the released layout, {_described(settings, weights)}; {note}"


def _preparation_lost(data: config.Data) -> str:
    """A clause that names how images were prepared where the released code prepares them otherwise; else nothing."""
    here, other = data.model_dump(mode="json"), config.Data().model_dump(mode="json")
    lost = [key for key in ("mean", "std", "interpolation", "crop_pct") if here[key] != other[key]]
    if not lost:
        return ""
    parts = (f"data.{key}={here[key]} (there {other[key]})" for key in lost)
    return "; the released layout does not hold " + ", ".join(parts) + ": prepare images so where it is used"


def _described(settings: config.Config, weights: dict[str, Any]) -> str:
    parameters = sum(tensor.numel() for key, tensor in weights.items() if not key.endswith(STATISTICS))
    model, task = settings.model, settings.task
    if task.head:
        return f"{task.head} on {model.name}, {task.num_classes} classes, {parameters:,} parameters"
    return f"{model.name}, {model.num_classes} classes, {settings.data.img_size} pixels, {parameters:,} parameters"


def _write_ours(content: dict[str, Any], destination: Path) -> None:
    if destination.suffix.lower() != TENSORS:
        return _write(destination, lambda path: torch.save({**content, DIGEST: digest_of(content)}, path))
    from safetensors.torch import save

    tensors = {key: tensor.contiguous() for key, tensor in content["model"].items()}
    # as it will be read: JSON has no tuples, and keys of text alone
    others = json.loads(json.dumps({key: value for key, value in content.items() if key != "model"}))
    digest = digest_of({**others, "model": tensors})
    metadata = {"acmix": json.dumps({**others, DIGEST: digest})}
    # not save_file, which writes into a file of another name where the name is no UTF-8
    return _write(destination, lambda path: path.write_bytes(save(tensors, metadata)))


def _write(destination: Path, write: Callable[[Path], Any]) -> None:
    """Writes beside the destination and moves the whole file there in one go."""
    try:
        with replaced_whole(destination) as unfinished:
            # touched first: torch and safetensors have errors of their own for a folder that cannot be written to
            unfinished.touch()
            write(unfinished)
    except (OSError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"cannot write {destination}: {said}; free some space or choose another place") from None
