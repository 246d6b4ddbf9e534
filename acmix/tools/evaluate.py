"""Measures a checkpoint on validation images, exactly, on any number of processes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from acmix.config import Config
from acmix.data import Trained, UnreadableFiles
from acmix.errors import UsageError
from acmix.tasks import Evaluation, Task, task_of
from acmix.tasks.evaluation import LABELS
from acmix.tasks.measuring import told_to_all
from acmix.tools.exports import kind_of
from acmix.tools.finite import DAMAGED, watched
from acmix.tools.hub import REPOSITORY
from acmix.tools.hub_folder import is_snapshot
from acmix.tools.load import load
from acmix.train.checkpoint import checkpoint_of, restore_model
from acmix.train.distributed import join
from acmix.train.optim import Precision

# an image of so many times its size still fits in memory
LARGEST_SCALE = 8


@dataclass(frozen=True)
class Evaluated:
    """What came out.

    Args:
        result: the measures.
        model: name of the network, and before it that of a head on it.
        unreadable: files that could not be read; they are not counted.
        notes: lines on what was left out of the split.
        is_first: whether this process is the one to print.
        metric: the one that the task goes by.
        shown: the metrics that a line tells.
    """

    result: Evaluation
    model: str
    unreadable: list[str]
    notes: list[str]
    is_first: bool
    metric: str
    shown: tuple[str, ...]


def evaluate_checkpoint(
    checkpoint: Path,
    data: str,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    scales: Sequence[float] = (),
    flip: bool = False,
    sliding: bool = False,
    split: str | None = None,
    format: str | None = None,
) -> Evaluated:
    """Evaluates a checkpoint on a data folder's validation split; under torchrun the processes share it.

    Args:
        checkpoint: a run folder, best.pt, last.pt, or what `acmix convert` or `acmix export` wrote.
        data: as for training. The checkpoint's names of classes decide: the split may lack some of them, and `train/`
            may be missing.
        batch_size: images a process and forward pass; the run's own by default.
        workers: reading processes; the run's own by default.
        precision: "auto", "fp32", "bf16" or "fp16".
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        scales: of a segmenter: factors of the image's size whose probabilities are averaged.
        flip: of a segmenter: also the mirrored image's.
        sliding: of a segmenter: in windows of `task.crop`, also where the run was evaluated on whole images.
        split: its name in the data folder; None: the run's `data.val_split`, or what `data.split` held out.
        format: as `data.format`; None: the run's, where that reads files alone.

    Raises:
        UsageError: an option is for another task, or the checkpoint, the data or the device cannot be used.
    """
    with join(device) as world:
        if not is_published(checkpoint):
            checkpoint = checkpoint_of(checkpoint)
        model, settings, trained = trained_model(checkpoint, world.device)
        updates: dict[str, object] = {"dir": data}
        if format is not None:
            updates["format"] = format
        else:
            check_local(settings, str(checkpoint), "say that you want it, with --format {}")
        if workers is not None:
            updates["workers"] = workers
        if split is not None:
            updates |= {"val_split": split, "split": None}
        config = settings.model_copy(update={"data": settings.data.model_copy(update=updates)})
        if sliding and config.task.name == "segment":
            config = config.model_copy(update={"task": config.task.model_copy(update={"sliding": True})})
        task = task_with(config, tuple(scales), flip, sliding)
        loader = task.val_loader(rank=world.rank, world_size=world.size, batch_size=batch_size, trained=trained)
        unreadable = UnreadableFiles()
        try:
            with watched(model) as watch:
                result = task.evaluate(
                    model,
                    loader,
                    world.device,
                    autocast=Precision(precision, world.device).autocast,
                    on_batch=lambda batch: unreadable.add(batch, loader.dataset),
                )
        except UsageError:
            # where no image could be read, the files' own trouble says more
            unreadable.gather()
            unreadable.check()
            raise
        unreadable.gather()
        unreadable.check()
        # a classifier may be shown blank images, whose numbers do not count; its loss tells of the others
        is_broken = watch.is_broken if result.loss is None else not math.isfinite(result.loss)
        if any(told_to_all(is_broken)):
            raise UsageError(f"{checkpoint}: the model gives no finite numbers for these images; {DAMAGED}")
        return Evaluated(
            result=result,
            model=f"{config.task.head} on {config.model.name}" if config.task.head else config.model.name,
            unreadable=unreadable.names,
            notes=list(loader.dataset.notes),
            is_first=world.is_first,
            metric=task.metric,
            shown=task.shown,
        )


def is_published(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a repository of the hub, or a folder with a copy of one."""
    text = os.fspath(source)
    return text.startswith(REPOSITORY) or (os.path.isdir(text) and is_snapshot(Path(text)))


def trained_model(path: str | os.PathLike[str], device: torch.device) -> tuple[nn.Module, Config, Trained]:
    """The model of a checkpoint or of an export of ours, the configuration of its run, and the classes it knows.

    Raises:
        UsageError: it cannot be used, or it is an export that does not say how its model is evaluated.
    """
    is_file = not is_published(path)
    if not is_file or kind_of(Path(path)):
        model, info = load(path, device=device)
        if info.config is None:
            by = "exports of runs by `acmix export`" if is_file else "runs that `acmix hub` saved"
            raise UsageError(
                f"{path} does not say how its images are prepared and its classes are called, as {by} do; give the "
                "checkpoint that it was made from"
            )
        return model, info.config, Trained(info.classes, info.are_named, str(path))
    restored = restore_model(path, device)
    return restored.model, restored.config, Trained(restored.classes, restored.are_named, str(path))


def task_with(config: Config, scales: tuple[float, ...], flip: bool, sliding: bool) -> Task:
    """The task of a configuration, with the options of segmentation.

    Raises:
        UsageError: the task is another, or a scale is not above 0.
    """
    given = [name for name, value in (("--scales", scales), ("--flip", flip), ("--sliding", sliding)) if value]
    if not given:
        return task_of(config)
    if config.task.name != "segment":
        kind = "a detector" if config.task.name == "detect" else "a classifier"
        raise UsageError(f"{given[0]} is for segmentation, and this model is {kind}; leave it out")
    if wrong := [scale for scale in scales if not 0 < scale <= LARGEST_SCALE]:
        raise UsageError(f"--scales {wrong[0]:g}: expected factors above 0, at most {LARGEST_SCALE}, such as 0.5,1,1.5")
    from acmix.tasks.segment import Segmentation

    return Segmentation(config, scales=scales or (1.0,), flip=flip)


def check_local(config: Config, where: str, hint: str) -> None:
    """Refuses to read by a reader that a checkpoint names: one may ask a hub, or follow addresses in a split's name.

    Args:
        config: as the checkpoint holds it.
        where: the checkpoint.
        hint: what to do, with a place for the reader.

    Raises:
        UsageError: it names one.
    """
    reader = config.data.format
    if reader != "auto":
        raise UsageError(
            f"{where} was trained on data.format={reader}, which may read from a network; {hint.format(reader)}"
        )


def parsed_scales(text: str | None) -> tuple[float, ...]:
    """`0.5,1,1.5` as numbers.

    Raises:
        UsageError: one is none.
    """
    try:
        return tuple(float(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--scales {text}: expected numbers with commas between them, such as 0.5,1,1.5") from None


def in_one_line(done: Evaluated) -> str:
    """The model and its main measures."""
    measures = [f"{LABELS[name]} {in_percent(done.result.metrics.get(name))}" for name in done.shown]
    loss = [] if done.result.loss is None else [f"loss {done.result.loss:.4f}"]
    return f"{done.model}: {', '.join([*measures, *loss])}, {done.result.images} images"


def in_percent(value: float | None) -> str:
    """A measure; there may have been nothing to measure it on."""
    return "not defined" if value is None else f"{value:.3f} %"


# columns of the table of classes: the measure, its heading and the form of its values
CLASS_COLUMNS = (
    ("objects", "objects", ",.0f"),
    ("pixels", "pixels", ",.0f"),
    ("box_ap", "box AP", ".2f"),
    ("box_ap50", "box AP50", ".2f"),
    ("mask_ap", "mask AP", ".2f"),
    ("mask_ap50", "mask AP50", ".2f"),
    ("iou", "IoU %", ".2f"),
    ("accuracy", "accuracy %", ".2f"),
)


def class_table(by_class: Mapping[str, Mapping[str, float | None]]) -> tuple[list[str], list[list[str]]]:
    """The measures of each class as a heading and rows; a dash where nothing can be said."""
    columns = [column for column in CLASS_COLUMNS if any(column[0] in measures for measures in by_class.values())]
    rows = [
        [name, *("–" if (value := measures.get(key)) is None else format(value, form) for key, _, form in columns)]
        for name, measures in by_class.items()
    ]
    return ["class", *(heading for _, heading, _ in columns)], rows
