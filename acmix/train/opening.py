"""What a run is about to do, before its first step: as data for log.jsonl, and in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acmix.config import Config
from acmix.models import build
from acmix.models.freezing import classifiers, is_new
from acmix.released.start import grouped
from acmix.train.files import write_atomically
from acmix.train.length import length_in_epochs, total_steps
from acmix.train.log import RunLog, in_words, provenance
from acmix.train.optim import DECAY_FACTOR, DECAY_PARTS, POWER, lr_scale
from acmix.train.resume import learning_rate
from acmix.train.state import State

# how many names a line gives
SHOWN = 4


def announce(
    log: RunLog, config: Config, state: State, datasets: tuple[Any, Any], *, notes: Sequence[str], odd: Sequence[str]
) -> None:
    """Writes the first record of a run or of its continuation, and prints its first lines.

    Args:
        log: where to.
        config: the run.
        state: of the run, with its weights.
        datasets: of training and of validation.
        notes: lines on what was chosen for the user.
        odd: lines on settings that are probably not meant.
    """
    made_by, choices, facts = provenance(state.world.device), state.choices(), effective(config, state)
    log.write(
        "start",
        **made_by,
        processes=state.world.size,
        **choices,
        config=config.model_dump(mode="json"),
        parameters=state.parameters,
        steps_per_epoch=state.steps_per_epoch,
        first_step=state.step,
        metric=state.task.metric,
        shown=state.task.shown,
        **facts,
        **({} if state.started is None else {"weights": state.started.record()}),
        notes=[*notes, *odd],
        changes=state.changes,
    )
    model_lines, step_lines = in_lines(config, state, facts, made_by["device"])
    trained, held_out = datasets
    data_lines = [
        f"{len(trained)} training images and {len(held_out)} to validate on, in {len(trained.classes)} classes",
        *(f"{dataset.split}: {note}" for dataset in datasets for note in dataset.notes),
    ]
    for line in (in_words(choices), *model_lines):
        log.say(line)
    if state.started is not None:
        log.show(state.started.table())
    for line in (*data_lines, *notes, *step_lines, *odd):
        log.say(line)


def keep_settings(folder: Path, settings: str, step: int) -> None:
    """Writes config.yaml; where it was another one, that is kept under the step that it held until."""
    file, content = folder / "config.yaml", settings.encode()
    if file.is_file() and step and (before := file.read_bytes()) != content:
        write_atomically(folder / f"config.until-step-{step}.yaml", before)
    write_atomically(file, content)


def effective(config: Config, state: State) -> dict[str, Any]:
    """The batch, the schedule and the trained parameters as they are for a run.

    Args:
        config: the run.
        state: of the run, with its weights.

    Returns:
        `batch` in images; `schedule`, with learning rates after scaling, and steps; counts of parameters.
    """
    settings, images, steps_per_epoch = config.train, state.global_batch_size, state.steps_per_epoch
    total = total_steps(config, steps_per_epoch)
    first, warmup = learning_rate(config, 0, steps_per_epoch, images)
    trained = sum(parameter.numel() for parameter in state.model.parameters() if parameter.requires_grad)
    return dict(
        batch=dict(
            images=images,
            batch_size=settings.batch_size,
            accumulation=settings.accumulation,
            processes=state.world.size,
        ),
        schedule=dict(
            name=config.schedule.name,
            learning_rate=config.optimizer.lr * lr_scale(config, images),
            first_learning_rate=first,
            last_learning_rate=learning_rate(config, total - 1, steps_per_epoch, images)[0],
            warmup_steps=warmup,
            total_steps=total,
        ),
        trained_parameters=trained,
        frozen_parameters=state.parameters - trained,
    )


def in_lines(config: Config, state: State, facts: dict[str, Any], device: str) -> tuple[list[str], list[str]]:
    """What `effective` says, for people: on model and device, and on batch, steps and learning rate."""
    batch, schedule = facts["batch"], facts["schedule"]
    counts = f"{state.parameters:,} parameters"
    if facts["frozen_parameters"]:
        counts += f": {facts['trained_parameters']:,} trained, {facts['frozen_parameters']:,} frozen"
    else:
        counts += ", all trained"
    warmup = f"warm-up {counted(schedule['warmup_steps'], 'step')} from {schedule['first_learning_rate']:.3g}"
    head = "" if config.task.head is None else f"{config.task.head} on "
    network = f"{head}{build.in_words(config.model)} · {counts} · {batch['processes']} × {device}"
    steps = length(config, state.steps_per_epoch, schedule["total_steps"])
    course = shape(config, state.steps_per_epoch)
    return [network, *frozen(config, state)], [
        f"{counted(batch['images'], 'image')} a step = {batch['batch_size']} × {batch['accumulation']} accumulation × "
        f"{counted(batch['processes'], 'process')} · {steps}",
        f"{peak(config, batch['images'])} · {course} · {warmup if schedule['warmup_steps'] else 'no warm-up'} · "
        f"last step {schedule['last_learning_rate']:.3g}",
    ]


def length(config: Config, steps_per_epoch: int, total: int) -> str:
    """The run's steps, with the arithmetic."""
    if config.train.steps is None:
        epochs = counted(config.train.epochs, "epoch")
        return f"{counted(steps_per_epoch, 'step')} × {epochs} = {counted(total, 'step')}"
    return f"{counted(total, 'step')} (train.steps) = {total / steps_per_epoch:.4g} epochs of {steps_per_epoch}"


def frozen(config: Config, state: State) -> list[str]:
    """If parts of the model are frozen, a line that names the trained parts."""
    trained = set(state.trained)
    old = [name for name, _ in state.model.named_parameters() if name not in trained]
    if not config.model.freeze:
        return [f"frozen: {named(grouped(dict.fromkeys(old, '')))}"] if old else []
    paths = sum(parameter.numel() for name, parameter in state.model.named_parameters() if is_new(name))
    places = list(dict.fromkeys(name.rpartition(".")[0] or name for name in trained if not is_new(name)))
    heads = [*classifiers(state.model)]
    new_heads, lacking = [each for each in heads if each in places], [each for each in places if each not in heads]
    parts = [f"{paths:,} path parameters"]
    if new_heads:
        parts.append(f"the new classifier{'s' * (len(new_heads) > 1)} {' and '.join(new_heads)}")
    if lacking:
        parts.append(f"what the weights lack ({named(sorted(lacking))})")
    line = f"model.freeze: {' and '.join(parts)} are trained"
    if not (config.model.pretrained or config.model.checkpoint):
        line += "; the body is drawn at random and stays so: set model.pretrained=true or model.checkpoint=FILE"
    elif heads and not new_heads:
        line += f"; the classifier {' and '.join(heads)} stays that of the weights"
    return [line]


def odd_statistics(config: Config) -> list[str]:
    """A line where statistics are kept that no weights came with."""
    if not config.train.freeze_statistics or config.model.checkpoint or config.model.pretrained:
        return []
    return ["train.freeze_statistics keeps those of weights drawn at random: set model.checkpoint, or leave it out"]


def peak(config: Config, images: int) -> str:
    """The learning rate with its arithmetic."""
    settings = config.optimizer
    layers = "" if settings.layer_decay is None else f", × {settings.layer_decay:g} a layer towards the image"
    if settings.base_batch_size is None:
        return f"learning rate {settings.lr:g}, not scaled to the batch{layers}"
    scaled = settings.lr * lr_scale(config, images)
    return f"learning rate {settings.lr:g} × {images}/{settings.base_batch_size} = {scaled:.3g}{layers}"


def shape(config: Config, steps_per_epoch: int) -> str:
    """What a learning rate does after its warm-up."""
    settings = config.schedule
    factor = settings.decay_factor or DECAY_FACTOR
    if settings.name == "step":
        distance = settings.decay_epochs or length_in_epochs(config, steps_per_epoch) / DECAY_PARTS
        return f"step, × {factor:g} every {'epoch' if distance == 1 else f'{distance:.3g} epochs'}"
    if settings.name == "multistep":
        after = [f"{each:g}" for each in settings.milestones or ()]
        return f"multistep, × {factor:g} after epoch{'s' * (len(after) > 1)} {', '.join(after)}"
    return f"poly, power {settings.power or POWER:g}" if settings.name == "poly" else settings.name


def counted(count: int, thing: str) -> str:
    """A count with its noun: 1 step, 2 steps, 2 processes."""
    ending = "es" if thing.endswith("s") else "s"
    return f"{count} {thing}{ending if count != 1 else ''}"


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
