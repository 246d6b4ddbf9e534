"""What a run keeps on disk, written so that a crash at any moment leaves a whole file.

A checkpoint is a dictionary of tensors and plain values alone:

    format "acmix" · version · config · classes · model · step · epoch · metrics       in every one
    optimizer · scaler · average · epochs_ended · best · meter · unreadable(_of) ·
    steps_per_epoch · global_batch_size                                                 in last.pt, to go on from
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acmix.config import Config, validate
from acmix.errors import UsageError
from acmix.models.build import build_model
from acmix.released import from_official
from acmix.released.safe_load import safe_load
from acmix.train.files import replaced_whole

FORMAT, VERSION = "acmix", 1


@dataclass(frozen=True)
class Restored:
    """A trained model.

    Args:
        model: in evaluation mode.
        config: of the run that made it.
        classes: names, in the order of the model's outputs.
        contents: the whole checkpoint.
    """

    model: nn.Module
    config: Config
    classes: list[str]
    contents: dict[str, Any]


def save(path: Path, contents: dict[str, Any]) -> None:
    """Writes a checkpoint beside its place and moves it there in one go.

    Raises:
        UsageError: the folder cannot be written to, or the disk is full.
    """
    try:
        with replaced_whole(path) as unfinished, open(unfinished, "wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **contents}, file)
    except (OSError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"cannot write {path}: {said}; the previous checkpoint is intact") from error


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads one of our checkpoints without executing anything from it.

    Raises:
        UsageError: no such file, truncated, hostile, or not one of ours.
    """
    contents = safe_load(path)
    if contents.get("format") != FORMAT:
        raise UsageError(
            f"{path} is not a checkpoint of acmix; if it is an official one, run `acmix convert {path} NEW.pt` first"
        )
    if contents.get("version") != VERSION:
        raise UsageError(f"{path} has version {contents.get('version')}; this acmix reads version {VERSION}")
    kinds = {"config": dict, "classes": list, "model": dict}
    if wrong := [key for key, kind in kinds.items() if not isinstance(contents.get(key), kind)]:
        raise UsageError(f"{path} lacks {', '.join(wrong)}; give a checkpoint that acmix wrote")
    return contents


def restore_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Restored:
    """Builds the model of a checkpoint and loads its weights.

    Args:
        path: best.pt, last.pt, or what `acmix convert` wrote.
        device: where to put the model.

    Raises:
        UsageError: as `read`, or the weights do not fit the model that the file names.
    """
    contents = read(path)
    config = validate(contents["config"], where=str(path))
    model = build_model(config)
    load_weights(model, contents.get("average") or contents["model"], str(path))
    return Restored(model.to(device).eval(), config, contents["classes"], contents)


def load_weights(model: nn.Module, state: dict[str, Any], where: str) -> None:
    """Loads a state dict that must fit exactly.

    Raises:
        UsageError: names or shapes differ; says how many and which first.
    """
    ours = model.state_dict()
    missing, unknown = sorted(ours.keys() - state.keys()), sorted(state.keys() - ours.keys())
    others = sorted(key for key, value in state.items() if not isinstance(value, Tensor))
    shared = (ours.keys() & state.keys()) - set(others)
    shapes = sorted(key for key in shared if ours[key].shape != state[key].shape)
    problems = [
        f"{len(keys)} {what} (first: {keys[0]})"
        for keys, what in (
            (missing, "missing"),
            (unknown, "unknown"),
            (shapes, "of another shape"),
            (others, "no tensors"),
        )
        if keys
    ]
    if problems:
        raise UsageError(f"{where} holds the weights of another model: {', '.join(problems)}")
    model.load_state_dict(state)


def load_start(model: nn.Module, path: str, name: str) -> None:
    """Loads the weights a run starts from: one of our checkpoints, or an official one.

    Raises:
        UsageError: the file cannot be read or does not fit.
    """
    contents = safe_load(path)
    state = contents.get("average") or contents.get("model", contents)
    if not isinstance(state, dict):
        raise UsageError(f"{path} holds no weights; give another model.checkpoint")
    if contents.get("format") != FORMAT:
        state = from_official(state, name)
    load_weights(model, state, path)
