"""Sound data, runs and files; each mutant in a folder, and the commands that it goes through."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from acmix.benchmark.hostile import checkpoints, configurations, images
from acmix.benchmark.hostile.archives import Sound
from acmix.benchmark.hostile.child import command, emptied, forked
from acmix.benchmark.small_runs import TASKS, write_few_digits
from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes
from acmix.errors import UsageError
from acmix.released.safe_load import safe_load

KINDS = ("configurations", "images", "checkpoints")
# of the base configurations; classification most often
SHARES = {"classify": 3, "detect": 1, "segment": 1}
# pictures that training and evaluation read together
GROUP = 8
# seconds for what is sound
PATIENCE = 120


@dataclass(frozen=True)
class Case:
    """One command on one mutant.

    Args:
        kind: one of `KINDS`.
        command: its name.
        what: is wrong with the mutant.
        call: runs it.
        arguments: of the command line; None: a call of Python.
        many: mutants in it.
    """

    kind: str
    command: str
    what: str
    call: Callable[[], Any]
    arguments: tuple[str, ...] | None
    many: int = 1


@dataclass(frozen=True)
class Ground:
    """What the mutants are made of.

    Args:
        folder: that holds all.
        sound: the sound checkpoint of each task.
    """

    folder: Path
    sound: dict[str, Sound]

    def data(self, task: str) -> Path:
        """The images of a task."""
        return self.folder / f"images_{task}"

    def run(self, task: str) -> Path:
        """The sound run of a task."""
        return self.folder / f"run_{task}"

    @property
    def canary(self) -> Path:
        """What executed code of a mutant of this process would write."""
        return self.folder / f"canary_{os.getpid()}"


def tree_of(task: str, **train: Any) -> dict[str, Any]:
    """A sound configuration."""
    usual = {"epochs": 1, "steps": 2, "batch_size": 4, "log_every_steps": 1}
    tree = {**TASKS[task], "train": {**usual, **train}, "schedule": {"warmup_epochs": 0}}
    tree["data"] = {**tree["data"], "workers": 0}
    return yaml.safe_load(yaml.safe_dump(tree))


def prepared(folder: Path, *, again: bool = False) -> Ground:
    """Writes data, runs and files; nothing in it is hostile.

    Args:
        folder: that holds all, and is emptied.
        again: what is there is taken as it is.
    """
    ground = Ground(folder if again else emptied(folder), {})
    if not again:
        write(ground)
    for task in TASKS:
        last, file = ground.run(task) / "checkpoints" / "last.pt", folder / f"{task}.safetensors"
        # the canary of each process is set where it works
        ground.sound[task] = Sound(safe_load(last), last.read_bytes(), file.read_bytes(), folder / "canary")
    return ground


def write(ground: Ground) -> None:
    """Writes images, configurations, runs and checkpoints."""
    folder = ground.folder
    write_few_digits(ground.data("classify"))
    write_detection_scenes(ground.data("detect"), images=(8, 4), size=64)
    write_segmentation_scenes(ground.data("segment"), images=(8, 4), size=64)
    for task in TASKS:
        # ended in its second epoch, by the hook that counts steps
        config = folder / f"{task}.yaml"
        config.write_text(yaml.safe_dump(tree_of(task, epochs=5, steps=None, batch_size=4, ema_decay=0.9)), "utf-8")
        arguments = ["train", str(config), "--data", str(ground.data(task)), "--output", str(ground.run(task))]
        check(forked(command(arguments), folder / "said", longest=PATIENCE), arguments)
        last = ground.run(task) / "checkpoints" / "last.pt"
        shutil.copy(last, last.with_name("best.pt"))
        file = folder / f"{task}.safetensors"
        arguments = ["convert", str(last), str(file)]
        check(forked(command(arguments), folder / "said", longest=PATIENCE), arguments)


def check(result: Any, arguments: Sequence[str]) -> None:
    """Ends all where a sound command fails."""
    if result.outcome != "accepted":
        raise UsageError(f"acmix {' '.join(arguments)}: {result.outcome}: {result.said.strip()[-2000:]}")


def drawn_task(draw: random.Random) -> str:
    """One of the tasks."""
    return draw.choices([*SHARES], [*SHARES.values()])[0]


def cases(kind: str, number: int, ground: Ground, folder: Path, seed: int) -> Iterator[Case]:
    """The cases of one mutant, whose files are written into an empty folder."""
    draw = random.Random(f"{seed} {kind} {number}")
    makers = {"configurations": of_configuration, "images": of_images, "checkpoints": of_checkpoint}
    yield from makers[kind](number, ground, folder, draw)


def case(kind: str, name: str, what: str, arguments: Sequence[str], many: int = 1) -> Case:
    """A case of the command line."""
    return Case(kind, name, what, command(arguments), tuple(arguments), many)


def of_configuration(_: int, ground: Ground, folder: Path, draw: random.Random) -> Iterator[Case]:
    """config show, train, convert."""
    task = drawn_task(draw)
    mutant = configurations.mutated(tree_of(task), draw)
    file = folder / "config.yaml"
    file.write_bytes(mutant.text)
    what = f"{task}: {mutant.what}"
    yield case("configurations", "config show", what, ["config", "show", str(file), *mutant.overrides])
    data = ["--data", str(ground.data(task))]
    if "data.dir" in mutant.what:
        data = []
    yield case(
        "configurations", "train", what, ["train", str(file), *mutant.overrides, *data, "--output", str(folder / "run")]
    )
    if not mutant.overrides:
        yield case("configurations", "convert", what, ["convert", str(file), str(folder / "out.yaml")])


def of_images(number: int, ground: Ground, folder: Path, draw: random.Random) -> Iterator[Case]:
    """predict of one; evaluate and train of the last few, together."""
    # a run refuses data of which more than a few files are unreadable
    readable = bool(number // GROUP % 2)
    made = [
        images.mutated(number + each, random.Random(f"{draw.random()} {each}"), readable=readable)
        for each in range(GROUP)
    ]
    for place, picture in enumerate(made):
        task = (*TASKS, "classify")[(number + place) % 4]
        path = os.fsdecode(os.path.join(os.fsencode(folder), picture.name))
        Path(path).write_bytes(picture.content)
        options = draw.choice(
            ([], ["--json"], ["--output", str(folder / "out.jsonl")], ["--output", str(folder / "out.csv")])
        )
        if task != "classify":
            options = draw.choice((options, ["--output", str(folder / "drawn")], ["--score", "0"] * (task == "detect")))
        yield case("images", "predict", f"{task}: {picture.what}", ["predict", str(ground.run(task)), path, *options])
    task = [*TASKS][number // GROUP // 2 % 3]
    what = f"{task}: {'; '.join(picture.what for picture in made)}"
    data = with_pictures(made, task, ground, folder / "data")
    yield case("images", "evaluate", what, ["evaluate", str(ground.run(task)), "--data", str(data)], GROUP)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree_of(task)), "utf-8")
    output = ["--output", str(folder / "run")]
    yield case("images", "train", what, ["train", str(config), "--data", str(data), *output], GROUP)


def with_pictures(made: Sequence[images.Picture], task: str, ground: Ground, folder: Path) -> Path:
    """Data of a task in which pictures are replaced, or to which they are added."""
    shutil.copytree(ground.data(task), folder)
    if task == "classify":
        for split in ("train", "val"):
            for picture in made:
                place = os.path.join(os.fsencode(folder), split.encode(), b"0", picture.name)
                Path(os.fsdecode(place)).write_bytes(picture.content)
        return folder
    below = {"detect": "{}2017", "segment": "images/{}"}[task]
    for split in ("train", "val") if task == "detect" else ("training", "validation"):
        files = sorted((folder / below.format(split)).iterdir())[: len(made)]
        for file, picture in zip(files, made[: len(files)], strict=True):
            file.write_bytes(picture.content)
    return folder


def of_checkpoint(number: int, ground: Ground, folder: Path, draw: random.Random) -> Iterator[Case]:
    """Everything that reads a checkpoint or a run folder."""
    task = drawn_task(draw)
    sound = ground.sound[task]
    mutant = checkpoints.mutated(Sound(sound.content, sound.archive, sound.safetensors, ground.canary), draw)
    run = folder / "run"
    shutil.copytree(ground.run(task), run)
    file = folder / f"mutant{mutant.suffix}"
    file.write_bytes(mutant.content)
    if mutant.suffix == ".pt":
        for name in ("last.pt", "best.pt"):
            (run / "checkpoints" / name).write_bytes(mutant.content)
    for name, content in mutant.beside.items():
        (run / name).write_bytes(content)
    what = f"{task}: {mutant.what}"
    data = ["--data", str(ground.data(task))]
    yield from [
        case("checkpoints", name, what, arguments)
        for name, arguments in calls(file, run, task, number, ground, data, is_beside=bool(mutant.beside)).items()
    ]
    if not mutant.beside:
        yield Case("checkpoints", "acmix.load", what, lambda: loaded(file), None)


def calls(
    file: Path, run: Path, task: str, number: int, ground: Ground, data: list[str], *, is_beside: bool
) -> dict[str, list[str]]:
    """The command lines for a checkpoint and its run, by the commands' names."""
    folder = file.parent
    of_run = {
        "report": ["report", str(run), *data],
        "compare": ["compare", str(ground.run(task)), str(run), "--output", str(folder / "compare.html")],
        "rates": ["rates", str(run), *(["--json"] if number % 2 else [])],
        "config show": ["config", "show", str(run)],
        "train RUN": ["train", str(run)],
    }
    if is_beside:
        return of_run
    picture = next(path for path in sorted(ground.data(task).rglob("*")) if path.suffix in (".png", ".jpg"))
    ending = (".safetensors", ".pth", ".pt")[number % 3]
    start = ["train", str(ground.folder / f"{task}.yaml"), *data, f"model.checkpoint={file}", "--output"]
    of_file = {
        "predict": ["predict", str(file), str(picture), *(["--json"] if number % 2 else [])],
        "evaluate": ["evaluate", str(file), *data],
        "convert": ["convert", str(file), str(folder / f"converted{ending}")],
        "train model.checkpoint": [*start, str(folder / "new")],
    }
    if file.suffix == ".pt":
        return of_file | of_run
    return of_file | {"rates": ["rates", str(file)], "config show": ["config", "show", str(file)]}


def loaded(file: Path) -> None:
    """acmix.load and acmix.predict, as a program calls them; what a user can cause ends as on the command line."""
    import sys

    from acmix.tools.load import load

    try:
        load(file, device="cpu")
    except UsageError as error:
        print(f"acmix: error: {error}", file=sys.stderr)
        sys.exit(2)
