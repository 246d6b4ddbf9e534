"""Runs that take seconds: a network of a few thousand parameters on small real JPEG files."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from acmix.config import Config, validate
from acmix.train.checkpoint import read
from tests.support.paths import ROOT

CLASSES = 4

# every source of chance is on: mixup, cutmix, drop path, erasing, flips, crops; and an average is kept
SETTINGS: dict[str, Any] = {
    "model": {
        "num_classes": CLASSES,
        "drop_path_rate": 0.2,
        "args": {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    },
    "data": {"img_size": 32, "crop_pct": 1.0, "workers": 0},
    "augment": {"auto_augment": None, "random_erasing": 0.5},
    "optimizer": {"lr": 2e-3, "base_batch_size": None},
    "schedule": {"warmup_epochs": 0.5},
    "train": {
        "epochs": 2,
        "batch_size": 4,
        "accumulation": 2,
        "ema_decay": 0.9,
        "log_every_steps": 1,
        "tensorboard": False,
    },
}
# no chance but the order of the images: what a step does is the same however the batch is divided
PLAIN = (
    "model.drop_path_rate=0",
    "augment.mixup=0",
    "augment.cutmix=0",
    "augment.random_erasing=0",
    "train.ema_decay=null",
    "train.accumulation=1",
)


def tree(data: Path | str, *overrides: str) -> dict[str, Any]:
    """The settings as plain dictionaries, with `section.key=value` changes."""
    settings = yaml.safe_load(yaml.safe_dump(SETTINGS))
    settings["data"]["dir"] = str(data)
    for override in overrides:
        key, _, value = override.partition("=")
        section, name = key.split(".")
        settings[section][name] = yaml.safe_load(value)
    return settings


def tiny_config(data: Path | str, *overrides: str) -> Config:
    """The settings, checked."""
    return validate(tree(data, *overrides))


def write_config(path: Path, data: Path | str = "", *overrides: str) -> Path:
    """The settings as a file."""
    path.write_text(yaml.safe_dump(tree(data, *overrides)), encoding="utf-8")
    return path


class Command:
    """`acmix ...` in one or several processes that have already imported everything: they start at once.

    Several find each other as torchrun's would; each is the first of a process group of its own.
    """

    def __init__(self, *arguments: str | Path, processes: int = 1) -> None:
        fork = multiprocessing.get_context("forkserver")
        fork.set_forkserver_preload(["acmix.cli", "acmix.train.loop", "acmix.tools.evaluate", "acmix.tools.predict"])
        self.folder = Path(tempfile.mkdtemp(prefix="acmix_test_"))
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        world = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
        self.processes = []
        for rank in range(processes):
            environment = {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            target = (list(map(str, arguments)), environment, str(self.folder / str(rank)))
            self.processes.append(fork.Process(target=call, args=target, daemon=False))
        for process in self.processes:
            process.start()

    def is_alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def signal(self, number: int, *, group: bool = False) -> None:
        """Sends a signal to every process, or to their groups, as a terminal does with Ctrl-C."""
        for process in self.processes:
            assert process.pid is not None
            (os.killpg if group else os.kill)(process.pid, number)

    def finish(self) -> list[tuple[int, str, str]]:
        """Exit status, standard output and standard error of every process, once all have ended."""
        ends = []
        for rank, process in enumerate(self.processes):
            process.join(timeout=60)
            assert process.exitcode is not None, f"process {rank} still runs"
            texts = [Path(f"{self.folder / str(rank)}.{kind}").read_text() for kind in ("out", "err")]
            ends.append((process.exitcode, texts[0], texts[1]))
        shutil.rmtree(self.folder)
        return ends


def call(arguments: list[str], environment: dict[str, str], place: str) -> None:
    """A process's body: the entry point of `acmix`, its output in files."""
    os.setsid()
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{place}.{kind}", os.O_CREAT | os.O_WRONLY), number)
    os.environ.update(environment)
    torch.set_num_threads(1)
    # as in a process that a user starts; this one's own way would be handed down
    multiprocessing.set_start_method(None, force=True)
    sys.argv = ["acmix", *arguments]
    from acmix.cli import main

    main()


def start(*arguments: str | Path, module: str = "acmix", **environment: str) -> subprocess.Popen[str]:
    """Starts `python -m MODULE ...` in a process group of its own: seconds pass before it has imported everything."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def last(folder: Path) -> dict[str, Any]:
    """What last.pt of a run holds."""
    return read(folder / "checkpoints" / "last.pt")


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor and number in nested containers, by its path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {name: torch.tensor(value, dtype=torch.float64)}
    items: Sequence[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    return {path: tensor for key, item in items for path, tensor in tensors(item, f"{name}.{key}").items()}


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Over all tensors of two state dicts."""
    assert left.keys() == right.keys()
    return max((left[key].double() - right[key].double()).abs().max().item() for key in left)


def assert_same_bits(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Model, average and optimizer of two checkpoints are equal to the last bit."""
    for part in ("model", "average", "optimizer"):
        ours, theirs = tensors(left[part]), tensors(right[part])
        assert ours.keys() == theirs.keys()
        assert ours or left[part] is None
        different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
        assert not different, f"{part}: {len(different)} of {len(ours)} differ, first {different[0]}"


def one_error(errors: str, *parts: str) -> None:
    """Standard error is one line of ours that says what is expected."""
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("acmix: error: "), errors
    for part in parts:
        assert part in lines[0], errors
