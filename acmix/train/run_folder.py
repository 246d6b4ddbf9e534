"""Which folder a run takes where `--output` names none: runs/NAME, or runs/NAME-2, -3, ... beside other runs.

If CONFIG is a run's folder or its config.yaml, that run resumes in its folder.

| what is there | the run takes |
|---|---|
| nothing | runs/NAME |
| a run with the same settings | that folder, to go on; of several, the one of the largest number |
| runs with other settings, or anything else | the first that is free of runs/NAME, runs/NAME-2, ...; a line says so |

Settings are the same where all are but those of `WITHOUT_EFFECT`, paths that lead to the same place, and what the
weights decide that the run starts from.

No two runs take one folder. It is made aside, with the settings in its config.yaml, and moved to its place in one step,
which only one of several can do; the others then find it taken. Of the processes of one run, the first chooses and
tells the rest. A run that fails before its first step gives a folder that it made back.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch.distributed as dist

from acmix import config as configuration
from acmix.config import WEIGHTS_DECIDE, Config
from acmix.errors import UsageError
from acmix.train import checkpoint
from acmix.train.distributed import World, together
from acmix.train.files import versions
from acmix.train.lock import held
from acmix.train.resume import NETWORK, changed_keys, only_drops, refuse_another_run, shown
from acmix.train.terminal import new_console, say
from acmix.train.words import LAUNCHER, output_option

# settings that change no result but its rounding
WITHOUT_EFFECT = (
    "data.workers",
    "data.cache_gib",
    "train.device",
    "train.compile",
    "train.fsdp",
    "train.bucket_mib",
    "train.static_graph",
    "train.channels_last",
    "train.gradient_checkpointing",
    "train.log_every_steps",
    "train.checkpoint_every_epochs",
    "train.checkpoint_every_steps",
    "train.checkpoint_every_minutes",
    "train.keep_checkpoints",
    "train.restarts",
    "train.timeout_minutes",
    "train.tensorboard",
)
PATHS = ("data.dir", "model.checkpoint", "model.pretrained")
IMAGES = "images a step"
# with one of these changed, a run may be unable to go on
UNSURE = (
    *("data.dir", "data.format", "data.train_split", "data.img_size", IMAGES),
    *("train.batch_size", "train.accumulation", "optimizer.weight_decay", "optimizer.layer_decay"),
)
# differences that a line names
NAMED = 3


@dataclass
class DefaultFolder:
    """The folder of a run for which the user has named none; `path` is set by `take`."""

    name: str
    root: Path = Path("runs")
    path: Path = field(default=Path(), init=False)

    def take(self, config: Config, world: World, held_open: ExitStack) -> Path:
        """Chooses the folder, the same on every process; every process calls it.

        Args:
            config: the run, as read.
            world: this process's place.
            held_open: where it ends, a folder that was made for a run that never began is removed.

        Returns:
            The folder, made if it is new.

        Raises:
            UsageError: it cannot be made.
        """
        with together(world):
            if world.is_first:
                self.path, is_new, line = choose(self.root, self.name, config, world.size)
                if is_new:
                    held_open.callback(forget, self.path)
                if line:
                    say(new_console(), line)
        if world.size > 1:
            paths: list[Any] = [self.path]
            dist.broadcast_object_list(paths, src=0, group=world.control)
            [self.path] = paths
        return self.path


def named_by(source: str) -> Path | None:
    """The run that a CONFIG argument names: its folder, or the config.yaml in it; None for another configuration."""
    path = Path(source)
    folder = path.parent if path.name == "config.yaml" else path
    return folder if (folder / "config.yaml").is_file() and (folder / "log.jsonl").is_file() else None


@dataclass(frozen=True)
class Found:
    """What lies in a folder: the settings of a run, None where they cannot be read, and its images a step, if known."""

    folder: Path
    settings: Config | None
    images: int | None


def choose(root: Path, name: str, config: Config, processes: int) -> tuple[Path, bool, str]:
    """The folder for a run, whether it was made now, and what to tell the user, if anything."""
    while True:
        there = numbered(root, name)
        runs = {number: found for number in there if (found := look_into(folder_of(root, name, number))) is not None}
        others = {number: differences(found, config, processes) for number, found in runs.items() if found.settings}
        if same := [number for number, different in others.items() if not different]:
            return folder_of(root, name, max(same)), False, ""
        number = next(number for number in count(1) if number not in there)
        folder = folder_of(root, name, number)
        if make(folder, config):
            break
        # another run has taken it since: see whose it is
    if number == 1:
        return folder, True, ""
    if others:
        nearest = min(others, key=lambda number: (len(others[number]), -number))
        return folder, True, explain(runs[nearest], others[nearest], config, folder)
    first = folder_of(root, name, min(there))
    what = "holds a run whose settings cannot be read" if runs else "is not the folder of a run"
    return folder, True, f"{first} {what}: writing to {folder}"


def folder_of(root: Path, name: str, number: int) -> Path:
    return root / (name if number == 1 else f"{name}-{number}")


def numbered(root: Path, name: str) -> list[int]:
    """The numbers that are taken, 1 for the name alone; an empty folder takes none."""
    pattern = re.compile(re.escape(name) + "(?:-([1-9][0-9]{0,8}))?")
    try:
        with os.scandir(root) as entries:
            matches = [(match, entry) for entry in entries if (match := pattern.fullmatch(entry.name))]
            numbers = [int(match[1] or 1) for match, entry in matches if match[1] != "1" and not is_empty(entry)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"cannot list the folder {root}: {error.strerror}; choose another {output_option()}") from None
    return sorted(numbers)


def is_empty(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder without anything in it."""
    try:
        return entry.is_dir() and not os.listdir(entry.path)
    except OSError:
        return False


def look_into(folder: Path) -> Found | None:
    """The run in a folder; None where there is none."""
    last, log = folder / "checkpoints" / "last.pt", folder / "log.jsonl"
    settings = None
    with suppress(UsageError):
        settings = configuration.load(folder / "config.yaml") if (folder / "config.yaml").is_file() else None
    if settings is None:
        with suppress(UsageError):
            found = checkpoint.newest(last, [])
            settings = None if found is None else configuration.validate(found[1]["config"])
    if settings is None and not versions(last) and not log.is_file():
        return None
    return Found(folder, settings, images_a_step(log))


def images_a_step(log: Path) -> int | None:
    """How many images a run takes a step, by the first line of its log."""
    try:
        with open(log, encoding="utf-8") as file:
            start = json.loads(file.readline())
        return start["config"]["train"]["batch_size"] * start["config"]["train"]["accumulation"] * start["processes"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def differences(found: Found, config: Config, processes: int) -> dict[str, tuple[Any, Any]]:
    """The settings in which a run differs from one that is to start: what each was, and is now."""
    assert found.settings is not None
    changed = changed_keys(found.settings, config)
    free = [f"data.{key}" for key in WEIGHTS_DECIDE if key not in config.data.model_fields_set]
    left_out = [*WITHOUT_EFFECT, *(free if config.model.checkpoint or config.model.pretrained else ())]
    different = {
        key: pair for key, pair in changed.items() if key not in left_out and not (key in PATHS and same_place(*pair))
    }
    now = config.train.batch_size * config.train.accumulation * processes
    if found.images not in (None, now) and not {"train.batch_size", "train.accumulation"} & different.keys():
        different[IMAGES] = (found.images, now)
    return different


def same_place(one: Any, other: Any) -> bool:
    """Whether two settings are paths that lead to one place."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    one, other = (os.path.realpath(os.path.expanduser(path)) for path in (one, other))
    return one == other


def explain(found: Found, different: dict[str, tuple[Any, Any]], config: Config, folder: Path) -> str:
    """Why a run goes to a folder of its own, and how it could go on with the one that is there instead."""
    named = [f"{key} {shown(was)} (now {shown(now)})" for key, (was, now) in different.items()]
    more = f" and {len(named) - NAMED} more settings" if len(named) > NAMED else ""
    said = f"{found.folder} holds a run with {', '.join(named[:NAMED])}{more}: writing to {folder}"
    if can_go_on(found, different, config):
        said += f"; to go on with that one, {ask_for(found.folder)}"
    return said


def ask_for(folder: Path) -> str:
    """How a user names a run's folder."""
    place = shlex.quote(str(folder))
    return f"set OUTPUT={place}" if os.environ.get(LAUNCHER) else f"add --output {place}"


def can_go_on(found: Found, different: dict[str, tuple[Any, Any]], config: Config) -> bool:
    """Whether a run can surely go on with other settings."""
    assert found.settings is not None
    try:
        refuse_another_run(found.settings, config, where=str(found.folder))
    except UsageError:
        return False
    return not any(key in UNSURE or (key.startswith(NETWORK) and not only_drops(key)) for key in different)


def make(folder: Path, config: Config) -> bool:
    """Makes a run's folder with its settings in it; False where another run was quicker."""
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        aside.mkdir(parents=True)
        (aside / "config.yaml").write_text(configuration.dump(config), encoding="utf-8")
        try:
            # not onto a folder that holds something
            os.rename(aside, folder)
        except OSError:
            if not os.path.lexists(folder):
                raise
            return False
    except OSError as error:
        raise UsageError(
            f"cannot write to the output folder {folder}: {error.strerror}; choose another {output_option()}"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def forget(folder: Path) -> None:
    """Removes a folder that was made for a run that never began, unless another process is at work in it."""
    log = folder / "log.jsonl"
    with suppress(OSError, UsageError):
        if versions(folder / "checkpoints" / "last.pt") or (log.is_file() and log.stat().st_size):
            return
        with held(folder):
            for file in (folder / "config.yaml", log):
                file.unlink(missing_ok=True)
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            with suppress(OSError):
                (folder / "checkpoints").rmdir()
        folder.rmdir()
