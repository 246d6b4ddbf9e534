"""Runs that are killed at random moments and started again until they are done, beside undisturbed ones.

python benchmarks/survive.py [--runs N] [--jobs N] [--only KIND,...]

Each run is a real `acmix train` in one process, or in two by the launcher of run.sh: of classification, detection or
segmentation, on small images. SIGKILL goes to the launcher's whole group, or to one process of two, at a moment that is
drawn from the length of an undisturbed run; the same command follows, is killed again or not, and so on until a call
ends by itself. The last checkpoint is then compared with the undisturbed run's, bit by bit. What was done is kept in
the folder of the runs: the same command, killed itself, goes on.

->  benchmarks/results/survive.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
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
    *("machine", "task", "images", "processes", "runs", "kills", "starting", "training", "evaluating", "writing"),
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
        overrides: settings beside the file's.
    """

    kind: str
    processes: int
    config: Path
    whole: Path
    seconds: float = 0.0
    overrides: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """One of `TASKS`."""
        return self.kind if self.kind in TASKS else "classify"

    def command(self, data: Path) -> list[str]:
        """The command line; the folder is told by OUTPUT."""
        if self.processes == 1:
            return [sys.executable, "-m", "acmix", "train", str(self.config), "--data", str(data), *self.overrides]
        launcher = [sys.executable, "-m", "acmix.train.launch", str(self.processes)]
        return [*launcher, str(self.config), str(data), *self.overrides]


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
    parser.add_argument("--only", default=",".join(KINDS), help="of these kinds, by commas (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=root / "runs" / "survive", help="of the runs")
    parser.add_argument("--anew", action="store_true", help="do not go on from what the folder holds")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the table")
    asked = parser.parse_args()
    if os.name != "posix":
        raise UsageError("this machine has no SIGKILL; run it on Linux or macOS")
    kinds = asked.only.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UsageError(f"--only {unknown[0]}: no such kind; expected some of {', '.join(KINDS)}")
    if asked.anew:
        shutil.rmtree(asked.folder, ignore_errors=True)
    settings = undisturbed(asked.folder, kinds)
    results = kill_all(settings, asked.folder, each=asked.runs // len(settings), jobs=asked.jobs, seed=asked.seed)
    rows = [row_of(setting, results[name_of(setting)]) for setting in settings]
    file = asked.results / "survive.csv"
    write_rows(file, rows)
    print(f"written: {file}")
    return 1 if any(row["different"] or row["failed"] for row in rows) else 0


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a table, in which rows of other kinds stay as they are."""
    there: list[dict[str, Any]] = []
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as opened:
            there = [*csv.DictReader(opened)]
    names = {(row["task"], row["images"], str(row["processes"])) for row in rows}
    kept = [row for row in there if (row["task"], row["images"], row["processes"]) not in names]
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, COLUMNS)
        writer.writeheader()
        writer.writerows([*kept, *rows])


def data_of(kind: str, folder: Path) -> Path:
    """The images of a kind of run."""
    return folder / f"images_{kind}"


def name_of(setting: Setting) -> str:
    """Of a setting, in files."""
    return f"{setting.kind}_{setting.processes}"


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

    def wait(self, process: subprocess.Popen[bytes], output: Path) -> None:
        """Waits for its moment.

        Raises:
            TimeoutExpired: it has come, and the process still runs.
        """
        process.wait(self.after)

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


def kill_all(
    settings: Sequence[Setting], folder: Path, *, each: int, jobs: int, seed: int
) -> dict[str, list[Survived]]:
    """Kills as many runs of each setting, in turn; what became of them, by the setting's name."""
    results: dict[str, list[Survived]] = {name_of(setting): [] for setting in settings}
    done, file = set[tuple[str, int]](), folder / "results.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        record = json.loads(line)
        key = record.pop("setting"), record.pop("number")
        if key[0] in results and key[1] < each and key not in done:
            results[key[0]].append(Survived(**record))
            done.add(key)
    plan = [(setting, number) for number in range(each) for setting in settings]
    plan = [(setting, number) for setting, number in plan if (name_of(setting), number) not in done]
    began, here = time.monotonic(), 0
    with ThreadPoolExecutor(jobs) as pool, file.open("a", encoding="utf-8") as kept:
        for (setting, number), result in zip(
            plan, pool.map(lambda one: survive(one[0], one[1], folder, seed), plan), strict=True
        ):
            name, here = name_of(setting), here + 1
            results[name].append(result)
            kept.write(json.dumps({"setting": name, "number": number, **asdict(result)}) + "\n")
            kept.flush()
            left = (time.monotonic() - began) / here * (len(plan) - here)
            kills = counted(len(result.moments), "kill")
            say = (
                f"{here}/{len(plan)} · {setting.kind} × {setting.processes} · {kills} · {result.outcome} {result.said}"
            )
            print(f"{say.rstrip()} · about {duration(left)} left", flush=True)
    return results


def survive(setting: Setting, number: int, folder: Path, seed: int) -> Survived:
    """Kills one run until a call ends by itself, and compares."""
    draw = random.Random(f"{seed} {name_of(setting)} {number}")
    output, result = folder / f"run_{name_of(setting)}_{number}", Survived()
    shutil.rmtree(output, ignore_errors=True)
    output.with_suffix(".printed").unlink(missing_ok=True)
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
        "images": KINDS[setting.kind],
        "processes": setting.processes,
        "runs": len(results),
        "kills": len(moments),
        **{moment: moments.count(moment) for moment in MOMENTS},
        **{outcome: sum(each.outcome == outcome for each in results) for outcome in ("equal", "different", "failed")},
        "gone_on_from_the_one_before": sum(each.from_before for each in results),
    }
