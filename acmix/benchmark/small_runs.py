"""Small real runs of each task, by the command line, to be disturbed and then compared with undisturbed ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from acmix.benchmark.kills import FAULT, LONGEST, LONGEST_END, Kill, stayed
from acmix.benchmark.record import counted
from acmix.data.digits import write_digits
from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes
from acmix.errors import UsageError
from acmix.released.digest import digest_of
from acmix.train.checkpoint import read

# entries of last.pt that tell of time alone, or of what else a run has met
OF_TIME = ("metrics", "meter", "digest")
SWIN = {
    "name": "acmix_swin_tiny_patch4_window7_224",
    "drop_path_rate": 0.1,
    "args": {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4},
}
TRAIN = {"epochs": 3, "batch_size": 4, "checkpoint_every_steps": 3, "log_every_steps": 1, "ema_decay": 0.9}
TASKS: dict[str, dict[str, Any]] = {
    "classify": {
        "model": {**SWIN, "num_classes": 10, "args": {**SWIN["args"], "depths": [1, 1], "num_heads": [1, 2]}},
        "data": {"img_size": 32, "workers": 1},
    },
    "detect": {
        "task": {
            **{"name": "detect", "head": "mask_rcnn", "num_classes": 10, "min_size": [48, 64], "max_size": 96},
            "args": {"channels": 16, "hidden": 32, "samples": 32, "proposals": 50},
        },
        "model": SWIN,
        "data": {"train_split": "train2017", "val_split": "val2017", "workers": 1},
    },
    "segment": {
        "task": {
            **{"name": "segment", "head": "upernet", "num_classes": 11, "min_size": [64], "max_size": 128},
            **{"crop": [48], "args": {"channels": 16, "auxiliary_channels": 16}},
        },
        "model": SWIN,
        "data": {"train_split": "training", "val_split": "validation", "workers": 1},
    },
}
PROCESSES = (1, 2)
# a task, and what its images come from
KINDS = {"classify": "folder", "detect": "folder", "segment": "folder", "shards": "shards"}


@dataclass
class Setting:
    """What is run.

    Args:
        kind: one of `KINDS`.
        processes: 1 or 2.
        config: the file of its configuration.
        whole: the folder of the undisturbed run.
        seconds: that it took.
        stepping: seconds of it from the first step on.
        overrides: settings beside the file's.
    """

    kind: str
    processes: int
    config: Path
    whole: Path
    seconds: float = 0.0
    stepping: float = 0.0
    overrides: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """One of `TASKS`."""
        return self.kind if self.kind in TASKS else "classify"

    @property
    def name(self) -> str:
        """In files."""
        return f"{self.kind}_{self.processes}"

    def command(self, data: Path) -> list[str]:
        """The command line; the folder is told by OUTPUT."""
        if self.processes == 1:
            return [sys.executable, "-m", "acmix", "train", str(self.config), "--data", str(data), *self.overrides]
        launcher = [sys.executable, "-m", "acmix.train.launch", str(self.processes)]
        return [*launcher, str(self.config), str(data), *self.overrides]


def data_of(kind: str, folder: Path) -> Path:
    """The images of a kind of run."""
    return folder / f"images_{kind}"


def undisturbed(folder: Path, kinds: Sequence[str]) -> list[Setting]:
    """Writes images and configurations, and runs each setting once to its end, where it has not been yet."""
    settings = []
    for kind in kinds:
        for processes in PROCESSES:
            setting = Setting(kind, processes, folder / f"{kind}.yaml", folder / f"whole_{kind}_{processes}")
            run_whole(setting, folder)
            settings.append(setting)
    return settings


def run_whole(setting: Setting, folder: Path) -> None:
    """Runs a setting once to its end, undisturbed, where it has not been yet; notes how long that took."""
    kind = setting.kind
    write_images(kind, folder)
    tree = {**TASKS[setting.task], "train": TRAIN, "schedule": {"warmup_epochs": 1}}
    setting.config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    took = setting.whole.with_suffix(".seconds")
    if not took.is_file():
        shutil.rmtree(setting.whole, ignore_errors=True)
        began = time.monotonic()
        status, said = call(setting, folder, setting.whole)
        if status != 0:
            raise UsageError(f"the undisturbed run of {kind} ended with status {status}: {said}")
        took.write_text(f"{time.monotonic() - began:.1f}", encoding="utf-8")
    setting.seconds = float(took.read_text(encoding="utf-8"))
    records = [json.loads(line) for line in (setting.whole / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    setting.stepping = records[-1]["time"] - next(each["time"] for each in records if each["event"] == "step")
    print(f"undisturbed: {kind}, {counted(setting.processes, 'process', 'es')}, {setting.seconds:.1f} s", flush=True)


def write_images(kind: str, folder: Path) -> None:
    """Writes the images of a kind, where they are not there yet."""
    place = data_of(kind, folder)
    if place.is_dir():
        return
    unfinished = place.with_name(f"{place.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    if kind == "detect":
        write_detection_scenes(unfinished, images=(24, 8), size=64)
    elif kind == "segment":
        write_segmentation_scenes(unfinished, images=(24, 8), size=64)
    elif kind == "classify":
        write_few_digits(unfinished)
    else:
        write_images("classify", folder)
        command = [sys.executable, "-m", "acmix", "data", "shard", str(data_of("classify", folder)), str(unfinished)]
        subprocess.run([*command, "--samples", "8"], check=True)
    unfinished.rename(place)


def write_few_digits(root: Path) -> None:
    """A few digits of each class."""
    whole = root.with_name(f"{root.name}_all")
    shutil.rmtree(whole, ignore_errors=True)
    write_digits(whole)
    for split, many in (("train", 4), ("val", 1)):
        for place in sorted((whole / split).iterdir()):
            (root / split / place.name).mkdir(parents=True)
            for file in sorted(place.iterdir())[:many]:
                shutil.copy(file, root / split / place.name)


def call(setting: Setting, folder: Path, output: Path, kill: Kill | None = None) -> tuple[int, str]:
    """Runs the command once.

    Args:
        setting: what.
        folder: of the images.
        output: of the run.
        kill: what kills it, if anything does.

    Returns:
        Its status, and the last line that it said.
    """
    environment = {**os.environ, "OUTPUT": str(output), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}
    command = setting.command(data_of(setting.kind, folder))
    if setting.processes == 1:
        command += ["--output", str(output)]
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output.with_suffix(".printed"), "ab") as printed:
        began = printed.tell()
        process = subprocess.Popen(command, env=environment, stdout=printed, stderr=printed, start_new_session=True)
        try:
            if kill:
                kill.wait(process, output)
            else:
                process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            if kill:
                kill.strike(process, output)
            else:
                os.killpg(process.pid, signal.SIGKILL)
        try:
            process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return FAULT, f"hung for {LONGEST} s"
    if left := stayed(output, LONGEST_END):
        for each in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGKILL)
        return FAULT, f"left {counted(len(left), 'process', 'es')} behind"
    said = output.with_suffix(".printed").read_bytes()[began:].decode(errors="replace").strip().splitlines()
    return process.returncode, said[-1] if said else ""


def same(one: Path, other: Path) -> bool:
    """Whether two runs' newest and best checkpoints hold the same, but for times."""
    return all(content_of(one, name) == content_of(other, name) for name in ("last.pt", "best.pt"))


def content_of(folder: Path, name: str) -> str:
    """The digest of a checkpoint without what depends on time."""
    contents = {key: value for key, value in read(folder / "checkpoints" / name).items() if key not in OF_TIME}
    return digest_of(contents)
