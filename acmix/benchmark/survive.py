"""Runs that are killed at random moments and started again until they are done, beside undisturbed ones.

python benchmarks/survive.py [--runs N] [--jobs N]

Each run is a real `acmix train` in one process, or in two by the launcher of run.sh: of classification, detection or
segmentation, on small images. SIGKILL goes to the launcher's whole group, or to one process of two, at a moment that is
drawn from the length of an undisturbed run; the same command follows, is killed again or not, and so on until a call
ends by itself. The last checkpoint is then compared with the undisturbed run's, bit by bit.

->  benchmarks/results/survive.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from acmix.benchmark.record import counted
from acmix.data.digits import write_digits
from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes
from acmix.errors import UsageError
from acmix.released.digest import digest_of
from acmix.train.checkpoint import read
from acmix.train.device import device_name
from acmix.train.log import duration

COLUMNS = (
    *("machine", "task", "processes", "runs", "kills", "starting", "training", "evaluating", "writing"),
    *("equal", "different", "failed", "gone_on_from_the_one_before"),
)
MOMENTS = ("starting", "training", "evaluating", "writing")
# what one call may take before it counts as hanging, in seconds
LONGEST = 300
# of the runs, those that are killed again after the first time, each time
AGAIN = 0.5
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


@dataclass
class Setting:
    """What is run.

    Args:
        task: one of `TASKS`.
        processes: 1 or 2.
        config: the file of its configuration.
        whole: the folder of the undisturbed run.
        seconds: that it took.
    """

    task: str
    processes: int
    config: Path
    whole: Path
    seconds: float = 0.0

    def command(self, data: Path) -> list[str]:
        """The command line; the folder is told by OUTPUT."""
        if self.processes == 1:
            return [sys.executable, "-m", "acmix", "train", str(self.config), "--data", str(data)]
        return [sys.executable, "-m", "acmix.train.launch", str(self.processes), str(self.config), str(data)]


@dataclass
class Survived:
    """What became of a run.

    Args:
        moments: of each kill, one of `MOMENTS`.
        outcome: "equal", "different" or "failed".
        said: of a failed one, the last line.
        from_before: how often it went on from the checkpoint before the newest.
    """

    moments: list[str] = field(default_factory=list)
    outcome: str = ""
    said: str = ""
    from_before: int = 0


def main(root: Path) -> int:
    """Reads the command line; the exit status: 1 where a run ended otherwise.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="how many are killed (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=root / "runs" / "survive", help="of the runs; emptied first")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the table")
    asked = parser.parse_args()
    if os.name != "posix":
        raise UsageError("this machine has no SIGKILL; run it on Linux or macOS")
    shutil.rmtree(asked.folder, ignore_errors=True)
    settings = undisturbed(asked.folder)
    rows = kill_all(settings, asked.folder, runs=asked.runs, jobs=asked.jobs, seed=asked.seed)
    file = asked.results / "survive.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: {file}")
    return 1 if any(row["different"] or row["failed"] for row in rows) else 0


def data_of(task: str, folder: Path) -> Path:
    """The images of a task."""
    return folder / f"images_{task}"


def undisturbed(folder: Path) -> list[Setting]:
    """Writes images and configurations, and runs each setting once to its end."""
    write_few_digits(data_of("classify", folder))
    write_detection_scenes(data_of("detect", folder), images=(24, 8), size=64)
    write_segmentation_scenes(data_of("segment", folder), images=(24, 8), size=64)
    settings = []
    for task in TASKS:
        config = folder / f"{task}.yaml"
        tree = {**TASKS[task], "train": TRAIN, "schedule": {"warmup_epochs": 1}}
        config.write_text(yaml.safe_dump(tree), encoding="utf-8")
        for processes in PROCESSES:
            setting = Setting(task, processes, config, folder / f"whole_{task}_{processes}")
            began = time.monotonic()
            status, said = call(setting, folder, setting.whole)
            setting.seconds = time.monotonic() - began
            if status != 0:
                raise UsageError(f"the undisturbed run of {task} ended with status {status}: {said}")
            print(f"undisturbed: {task}, {counted(processes, 'process', 'es')}, {setting.seconds:.1f} s", flush=True)
            settings.append(setting)
    return settings


def write_few_digits(root: Path) -> None:
    """A few digits of each class."""
    whole = write_digits(root.with_name(f"{root.name}_all"))
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
    command = setting.command(data_of(setting.task, folder))
    if setting.processes == 1:
        command += ["--output", str(output)]
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output.with_suffix(".printed"), "ab") as printed:
        began = printed.tell()
        process = subprocess.Popen(command, env=environment, stdout=printed, stderr=printed, start_new_session=True)
        try:
            process.wait(kill.after if kill else LONGEST)
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
            return -1, f"hung for {LONGEST} s"
    wait_for_others(output)
    said = output.with_suffix(".printed").read_bytes()[began:].decode(errors="replace").strip().splitlines()
    return process.returncode, said[-1] if said else ""


@dataclass
class Kill:
    """One kill.

    Args:
        after: seconds from the start of a call.
        one: of two processes, whether one alone is killed.
        draw: of which.
        moment: is set to what the run was doing, "" where it had ended.
    """

    after: float
    one: bool
    draw: random.Random
    moment: str = ""

    def strike(self, process: subprocess.Popen[bytes], output: Path) -> None:
        """Sends SIGKILL."""
        self.moment = moment_of(output)
        workers = descendants(process.pid) if self.one else []
        workers = [each for each in workers if is_trainer(each)]
        try:
            if workers:
                os.kill(self.draw.choice(workers), signal.SIGKILL)
            else:
                os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.moment = ""


def moment_of(output: Path) -> str:
    """What a run is doing, by what is in its folder."""
    if list((output / "checkpoints").glob(".*.tmp")):
        return "writing"
    try:
        last = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    except (OSError, IndexError):
        return "starting"
    if '"event": "start"' in last or '"event":"start"' in last:
        return "starting"
    record = yaml.safe_load(last)
    step, steps = record.get("step", 0), record.get("steps_per_epoch") or steps_of(output)
    return "evaluating" if record["event"] == "step" and steps and step % steps == 0 else "training"


def steps_of(output: Path) -> int:
    """Steps an epoch, as the log's first line says them."""
    with (output / "log.jsonl").open(encoding="utf-8") as file:
        return int(yaml.safe_load(file.readline()).get("steps_per_epoch", 0))


def descendants(process: int) -> list[int]:
    """The processes below one."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(each) for each in task.read_text().split()]
        except OSError:
            continue
        for each in children:
            found += [each, *descendants(each)]
    return found


def is_trainer(process: int) -> bool:
    """Whether a process is one of `acmix train`, not a launcher and no reader, which it is the parent of."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        of_parent = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"train" in words and b"train" not in of_parent


def wait_for_others(output: Path) -> None:
    """Waits until no process trains into a folder: those of a killed launcher end by themselves."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        if not any(f"{output}".encode() in command_line(place) for place in Path("/proc").glob("[0-9]*")):
            return
        time.sleep(0.2)


def command_line(place: Path) -> bytes:
    """That of a process, with its OUTPUT."""
    try:
        return (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
    except OSError:
        return b""


def kill_all(settings: Sequence[Setting], folder: Path, *, runs: int, jobs: int, seed: int) -> list[dict[str, Any]]:
    """Kills as many runs, the settings in turn; a row for each setting."""
    plan = [(settings[number % len(settings)], number) for number in range(runs)]
    began, done, results = time.monotonic(), 0, dict[int, Survived]()
    with ThreadPoolExecutor(jobs) as pool:
        for number, result in pool.map(lambda each: (each[1], survive(each[0], each[1], folder, seed)), plan):
            results[number], done = result, done + 1
            left = (time.monotonic() - began) / done * (runs - done)
            setting = plan[number][0]
            kills = counted(len(result.moments), "kill")
            say = f"{done}/{runs} · {setting.task} × {setting.processes} · {kills} · {result.outcome} {result.said}"
            print(f"{say.rstrip()} · about {duration(left)} left", flush=True)
    return [row_of(setting, [results[number] for each, number in plan if each is setting]) for setting in settings]


def survive(setting: Setting, number: int, folder: Path, seed: int) -> Survived:
    """Kills one run until a call ends by itself, and compares."""
    draw = random.Random(f"{seed} {number}")
    output, result = folder / f"run_{number}", Survived()
    while True:
        kill = None
        if not result.moments or draw.random() < AGAIN:
            kill = Kill(draw.uniform(0.2, setting.seconds), setting.processes > 1 and draw.random() < 0.5, draw)
        status, said = call(setting, folder, output, kill)
        if kill and kill.moment:
            result.moments.append(kill.moment)
            continue
        if status != 0:
            result.outcome, result.said = "failed", f"(status {status}: {said})"
            return result
        break
    printed = output.with_suffix(".printed").read_text(encoding="utf-8", errors="replace")
    result.from_before = printed.count("going on from last-")
    result.outcome = "equal" if same(setting.whole, output) else "different"
    if result.outcome == "equal":
        shutil.rmtree(output, ignore_errors=True)
    return result


def same(one: Path, other: Path) -> bool:
    """Whether two runs' newest and best checkpoints hold the same, but for times."""
    return all(content_of(one, name) == content_of(other, name) for name in ("last.pt", "best.pt"))


def content_of(folder: Path, name: str) -> str:
    """The digest of a checkpoint without what depends on time."""
    contents = {key: value for key, value in read(folder / "checkpoints" / name).items() if key not in OF_TIME}
    return digest_of(contents)


def row_of(setting: Setting, results: Iterable[Survived]) -> dict[str, Any]:
    """A row of the table."""
    results = [*results]
    moments = [moment for each in results for moment in each.moments]
    return {
        "machine": device_name(torch.device("cpu")),
        "task": setting.task,
        "processes": setting.processes,
        "runs": len(results),
        "kills": len(moments),
        **{moment: moments.count(moment) for moment in MOMENTS},
        **{outcome: sum(each.outcome == outcome for each in results) for outcome in ("equal", "different", "failed")},
        "gone_on_from_the_one_before": sum(each.from_before for each in results),
    }
