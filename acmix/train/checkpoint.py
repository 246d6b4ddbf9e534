"""What a run keeps on disk, written so that a crash at any moment leaves a whole file.

A checkpoint is a dictionary of tensors and plain values alone:

    format "acmix" · version · digest · config · classes · processes · device · model · step · epoch ·
    metrics                                                                             in every one
    trained                     with model.freeze, the names of the parameters that are trained; else none
    named                       false where `classes` are numbers in place of unknown names
    optimizer · scaler · average · epochs_ended · best · meter · unreadable(_of) ·
    steps_per_epoch · global_batch_size · images (the fingerprint of the training split)   in last.pt, to go on from
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from acmix.config import Config, validate
from acmix.config.architecture import check_architecture
from acmix.errors import UsageError
from acmix.released.digest import DIGEST, digest_of, is_plain
from acmix.released.safe_load import FORMAT, safe_load
from acmix.released.start_head import are_names
from acmix.tasks import task_of
from acmix.train.fields import Every, check_fields
from acmix.train.files import replaced_whole, versions

VERSION = 1
# bytes that a network of a file may take beside its weights: index tables and masks of windows follow from sizes alone,
# and 2048 pixels in windows of 12 need a fifth of it
MOST_TABLES = 2**30


@dataclass(frozen=True)
class Restored:
    """A trained model.

    Args:
        model: in evaluation mode.
        config: of the run that made it.
        classes: names, in the order of the model's outputs.
        are_named: whether they are names; weights of the released code know their classes by number alone.
        contents: the whole checkpoint.
    """

    model: nn.Module
    config: Config
    classes: list[str]
    are_named: bool
    contents: dict[str, Any]


def save(path: Path, contents: Mapping[str, Any], *, keep: int | None = None) -> None:
    """Writes a checkpoint beside its place and moves it there in one go.

    Args:
        path: where to.
        contents: what it holds, but for format, version and digest.
        keep: how many of it are kept, this one counted; see `acmix.train.files.versions`. None: this one replaces it.

    Raises:
        UsageError: the folder cannot be written to, or the disk is full.
    """
    met = Met()
    try:
        with replaced_whole(path, keep=keep) as unfinished, open(unfinished, "wb") as opened:
            file: Any = Watched(opened, met)
            whole = {"format": FORMAT, "version": VERSION, **contents}
            torch.save({**whole, DIGEST: digest_of(whole)}, file)
    except (OSError, RuntimeError) as error:
        cause = met.error or error
        said = getattr(cause, "strerror", None) or " ".join(str(cause).split())
        kept = "; the checkpoints from before it are whole" if versions(path) else ""
        raise UsageError(f"cannot write {path}: {said}{kept}") from error


@dataclass
class Met:
    """What the system said when a write failed: torch says something else."""

    error: OSError | None = None


class Watched:
    """A file that notes why it could not be written."""

    def __init__(self, file: IO[bytes], met: Met) -> None:
        self.file, self.met = file, met

    def write(self, content: Any) -> int:
        """As the file's."""
        return self.noting(self.file.write, content)

    def flush(self) -> None:
        """As the file's."""
        self.noting(self.file.flush)

    def noting(self, do: Any, *arguments: Any) -> Any:
        """What a call gives; an error of the system is noted."""
        try:
            return do(*arguments)
        except OSError as error:
            self.met.error = error
            raise


def newest(path: Path, lines: list[str]) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole one of a checkpoint and those from before it, and what it holds.

    Args:
        path: of the newest.
        lines: gets one for each that is damaged.

    Returns:
        None where there is none at all.

    Raises:
        UsageError: there are some, and all are damaged: what is wrong with the newest.
    """
    first: UsageError | None = None
    for each in versions(path):
        try:
            return each, read(each)
        except UsageError as error:
            first = first or error
            lines.append(str(error))
    if first is not None:
        raise first
    return None


def fault_of(path: Path) -> str:
    """Why a checkpoint that should be there cannot be used; "" where it can."""
    if not path.is_file():
        return f"{path} is gone"
    try:
        read(path)
    except UsageError as error:
        return str(error).partition(";")[0]
    return ""


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads one of our checkpoints without executing anything from it.

    Raises:
        UsageError: no such file, truncated, hostile, or not one of ours.
    """
    contents = safe_load(path)
    check(contents, path)
    return contents


def check(contents: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Refuses what is no checkpoint of ours, by what `safe_load` gave.

    Raises:
        UsageError: another format or version, or a part is missing.
    """
    if contents.get("format") != FORMAT:
        raise UsageError(
            f"{path} is not a checkpoint of acmix; if it is an official one, run `acmix convert {path} NEW.pt` first"
        )
    if contents.get("version") != VERSION:
        raise UsageError(f"{path} has version {contents.get('version')}; this acmix reads version {VERSION}")
    check_fields(contents, Every, path)


def checkpoint_of(source: str | os.PathLike[str]) -> Path:
    """The file that a CHECKPOINT argument means: itself, or a run folder's best.pt, else its last.pt.

    Raises:
        UsageError: a folder without either.
    """
    path = Path(os.path.expanduser(source))
    if not os.path.isdir(path):
        return path
    files = [path / place / name for name in ("best.pt", "last.pt") for place in ("checkpoints", "")]
    found = next((file for each in files for file in versions(each)), None)
    if found is None:
        begun = "a run that has saved nothing yet" if (path / "config.yaml").is_file() else "no run folder"
        raise UsageError(f"{path} is {begun}: it holds no checkpoints/best.pt or last.pt; give a checkpoint")
    return found


def restore_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Restored:
    """Builds the model of a checkpoint and loads its weights.

    Args:
        path: best.pt, last.pt, or what `acmix convert` wrote.
        device: where to put the model.

    Raises:
        UsageError: as `read`, or the weights or the names of the classes do not fit the model that the file names.
    """
    return restored(safe_load(path), path, device)


def restored(contents: dict[str, Any], path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Restored:
    """`restore_model` of what `safe_load` gave."""
    check(contents, path)
    config = validate(contents["config"], where=str(path))
    check_architecture(config, str(path))
    weights = contents.get("average") or contents["model"]
    check_build(config, weights, str(path))
    model = task_of(config).build()
    load_weights(model, weights, str(path))
    classes = contents["classes"]
    check_names(classes, config.task.num_classes or getattr(model, "num_classes", config.model.num_classes), path)
    return Restored(model.to(device).eval(), config, classes, are_names(contents), contents)


def check_build(config: Config, weights: dict[str, Any], where: str) -> None:
    """Refuses settings whose network has other weights, or asks for much memory beside them, before it takes any.

    Raises:
        UsageError: as `load_weights`, or its tables and masks, which follow from sizes, are too large.
    """
    model, task = config.model, task_of(config)
    with torch.device("meta"):
        built = [task.build()]
        check_weights(built[0], weights, where)
        if model.add_conv_path:
            # timm's model is built first, with all its tables
            plain = model.model_copy(update={"add_conv_path": False, "freeze": False})
            built.append(task_of(config.model_copy(update={"model": plain})).build())
    for each in built:
        check_tables(
            each,
            f"{where} asks {model.name} for",
            f"data.img_size={config.data.img_size} or model.args={model.args} cannot be meant: give a checkpoint that "
            "acmix wrote",
        )


def check_tables(model: nn.Module, asks: str, hint: str) -> None:
    """Refuses a network, on any device, with large tables and masks that are in no file.

    Args:
        model: the network, as on the meta device, where it takes no memory.
        asks: which file asks whom for them.
        hint: what to do.
    """
    kept = model.state_dict().keys()
    tables = [table for name, table in model.named_buffers() if name not in kept]
    needed = sum(table.numel() * table.element_size() for table in tables)
    if needed > MOST_TABLES:
        most = f"{MOST_TABLES / 2**30:g} GiB"
        raise UsageError(f"{asks} {needed / 2**30:,.1f} GiB of tables beside its weights, more than {most}; {hint}")


def check_names(classes: list[str], outputs: int, path: str | os.PathLike[str]) -> None:
    """Refuses a checkpoint whose names of classes are not one for each output.

    Raises:
        UsageError: there are more or fewer of them, or one stands twice.
    """
    hint = "give a checkpoint that acmix wrote"
    if len(classes) != outputs:
        raise UsageError(f"{path} names {len(classes)} classes for {outputs} outputs; {hint}")
    if len({*classes}) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise UsageError(f"{path} names two classes {twice!r}; {hint}")


def load_weights(model: nn.Module, state: dict[str, Any], where: str) -> None:
    """Loads a state dict that must fit exactly.

    Raises:
        UsageError: names or shapes differ; says how many and which first.
    """
    check_weights(model, state, where)
    model.load_state_dict(state)


def check_weights(model: nn.Module, state: dict[str, Any], where: str) -> None:
    """Refuses a state dict that does not fit a model exactly, by names, shapes and the numbers that are really there.

    Raises:
        UsageError: as `load_weights`.
    """
    ours = model.state_dict()
    missing, unknown = sorted(ours.keys() - state.keys()), sorted(state.keys() - ours.keys())
    others = sorted(key for key, value in state.items() if not isinstance(value, Tensor) or not is_plain(value))
    shared = (ours.keys() & state.keys()) - set(others)
    shapes = sorted(key for key in shared if ours[key].shape != state[key].shape)
    problems = [
        f"{len(keys)} {what} (first: {keys[0]})"
        for keys, what in (
            (missing, "missing"),
            (unknown, "unknown"),
            (shapes, "of another shape"),
            (others, "no plain tensors"),
        )
        if keys
    ]
    if problems:
        raise UsageError(f"{where} holds the weights of another model: {', '.join(problems)}")
