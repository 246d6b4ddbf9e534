"""What is different since a run's last call: said in a line a setting, or refused where it would be another run.

| change | what happens |
|---|---|
| `ANOTHER_RUN`, EMA on or off, images a step, steps an epoch, class names, the training images | refused |
| `NETWORK`, and `data.img_size` where the weights are of one size | refused |
| `SCHEDULE` | the line says what becomes of the learning rate |
| everything else | holds from the next step on |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from acmix.config import Config, known_keys, validate
from acmix.data.dataset import OtherClasses
from acmix.data.shards.source import shuffled_together
from acmix.errors import UsageError
from acmix.train.optim import Schedule, lr_scale, warmup_steps
from acmix.train.words import output_option

ANOTHER_RUN = (
    *("task.name", "task.head", "task.num_classes"),
    *("model.name", "optimizer.name", "train.ema_decay", "train.seed", "model.num_classes"),
    # images that were trained on would be validated on
    *("data.split", "data.split_seed"),
    # the order of an epoch would be another
    "data.shuffle_shards",
)
NETWORK = ("model.in_chans", "model.conv_path", "model.add_conv_path", "model.freeze", "model.args.", "task.args.")
SCHEDULE = ("train.epochs", "train.steps", "optimizer.lr", "optimizer.base_batch_size", "schedule.")
# settings that hold further ones
ARGUMENTS = ("model.args", "task.args")
# an argument that the constructor of the network was not given
UNSET = "unset"
# the longest prefix of a key that stands here says what a change of it does
EFFECTS = {
    "": "from step {step} on",
    "model.checkpoint": "not read again; the weights are those of last.pt",
    "model.head": "not read again; the weights are those of last.pt",
    "model.pretrained": "not read again; the weights are those of last.pt",
    "data.": "the images are read from there, in the same classes",
    "data.workers": "the same images in the same order",
    **dict.fromkeys(("data.cache_gib", "data.shuffle_shards"), "the same images in the same order"),
    **dict.fromkeys(
        ("data.img_size", "data.interpolation", "data.crop_pct", "data.mean", "data.std", "data.background"),
        "applies from step {step} on; accuracies before and after are not comparable",
    ),
    **dict.fromkeys(("augment.", "task.", "data.draft"), "applies from step {step} on"),
    **dict.fromkeys(
        ("augment.mixup", "augment.cutmix", "augment.label_smoothing"),
        "applies from step {step} on; training losses before and after are not comparable",
    ),
    "optimizer.": "from step {step} on; the optimizer keeps its averages",
    "train.device": "the run goes on there",
    "train.patience": "counted from the epoch that was best so far",
    "train.batch_size": "the same {images} images a step",
    "train.accumulation": "the same {images} images a step",
}

Settings = dict[str, Any]


def settings_then(saved: Settings, now: Config, steps_per_epoch: int, where: str) -> Config:
    """The settings of a checkpoint; of one that knows no `schedule.warmup_share`, as its warm-up was then.

    Args:
        saved: as the checkpoint holds them.
        now: the settings of this call.
        steps_per_epoch: optimizer steps.
        where: the checkpoint, for messages.

    Raises:
        UsageError: they are no settings.
    """
    then = validate(saved, where=where)
    if "warmup_share" in then.schedule.model_fields_set:
        return then
    # it lasted as long as it was asked to; a share of today's that leaves it so is no change
    whole = then.model_copy(update={"schedule": then.schedule.model_copy(update={"warmup_share": 1.0})})
    today = whole.model_copy(
        update={"schedule": whole.schedule.model_copy(update={"warmup_share": now.schedule.warmup_share})}
    )
    same = warmup_steps(whole, steps_per_epoch)[1] == warmup_steps(today, steps_per_epoch)[1]
    return today if same else whole


def flat(config: Config) -> Settings:
    """Every setting by its key, as a checkpoint holds it; what `ARGUMENTS` hold as settings of their own."""
    tree = config.model_dump(mode="json")
    settings = {key: tree[key.split(".")[0]][key.split(".")[1]] for key in known_keys()}
    for key in ARGUMENTS:
        arguments = settings.pop(key) or {}
        settings |= {f"{key}.{name}": value for name, value in arguments.items()}
    return settings


def changed_keys(then: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, in the schema's order: what each was, and is now."""
    before, after = flat(then), flat(now)
    pairs = {key: (before.get(key, UNSET), after.get(key, UNSET)) for key in before | after}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def refuse_another_run(then: Config, now: Config, where: str) -> None:
    """Refuses settings of another run, without a look at its weights.

    Args:
        then, now: the settings of the last call and of this one.
        where: the checkpoint, for the message.

    Raises:
        UsageError: names the key, both values, and what to do.
    """
    changed = changed_keys(then, now)
    # its default is another one for a URL
    windows = shuffled_together(then.data), shuffled_together(now.data)
    changed.pop("data.shuffle_shards", None)
    if windows[0] != windows[1]:
        changed["data.shuffle_shards"] = windows
    for key in ANOTHER_RUN:
        if key in changed and (key != "train.ema_decay" or None in changed[key]):
            raise refusal(where, key, *changed[key])


def refuse_another_network(then: Config, now: Config, where: str, misfit: UsageError | None) -> None:
    """Refuses settings of another network, whether or not its weights have the same names and shapes.

    Args:
        then, now: the settings of the last call and of this one.
        where: the checkpoint, for the message.
        misfit: what was wrong with the weights, if anything.

    Raises:
        UsageError: names the key, both values, and what to do; or is `misfit`, where no setting explains it.
    """
    changed = changed_keys(then, now)
    # the images' size last: it explains a misfit only where nothing else does
    for key in sorted(changed, key=lambda key: key == "data.img_size"):
        was, asked = changed[key]
        another = key.startswith(NETWORK) and (misfit is not None or not only_drops(key))
        if another or (misfit is not None and key == "data.img_size"):
            raise refusal(where, key, was, asked, misfit)
    if misfit is not None:
        raise misfit


def only_drops(key: str) -> bool:
    """Whether an argument is a rate at which training drops values, as `drop_rate` and `attn_drop_rate` are."""
    return key.startswith(ARGUMENTS) and "drop" in key


def refusal(where: str, key: str, was: Any, asked: Any, misfit: UsageError | None = None) -> UsageError:
    """One line for a setting that makes another run."""
    said = misfit or f"{where} is of another run"
    if key in ("model.num_classes", "task.num_classes"):
        return UsageError(f"{said}: it was trained on {was} classes, now it would be {asked}; {begin_anew(where)}")
    mend = f"leave {key} out" if was == UNSET else f"set {key}={shown(was)}"
    return UsageError(
        f"{said}: it was trained with {key} {shown(was)}, now it would be {shown(asked)}; {mend} again, "
        f"or choose another {output_option()}"
    )


def begin_anew(where: str, *settings: str) -> str:
    """What to do to train a checkpoint's network on other classes."""
    told = " ".join([*settings, f"model.checkpoint={where}"])
    return f"to begin with its weights and a new classifier, choose another {output_option()} and add {told}"


def of_a_run(error: OtherClasses, config: Config, last: Path) -> UsageError:
    """What to say of data with other classes: where a run is to go on from `last`, not that its model takes them."""
    if not last.is_file():
        return error
    key = "model.num_classes" if config.task.name == "classify" else "task.num_classes"
    said, how = str(error).partition(";")[0], begin_anew(str(last), f"{key}={error.found}")
    return UsageError(f"{said}, and {last} goes on with the classes that it was trained on alone; {how}")


def describe_changes(then: Config, now: Config, step: int, steps_per_epoch: int, global_batch_size: int) -> list[str]:
    """A line for each setting that differs: what it was and is, and what that does.

    Args:
        then, now: the settings of the last call and of this one.
        step: optimizer steps that are done.
        steps_per_epoch: optimizer steps.
        global_batch_size: images a step.

    Returns:
        Lines such as "train.epochs 30 → 40: the learning rate at epoch 30 is now 2e-05 instead of 1e-06, warm-up
        unchanged". A line on the learning rate counts the changes in the lines before it.
    """
    lines, config, changed = [], then, changed_keys(then, now)
    # the length of the run first, since the rest of the schedule stands on it
    for key in sorted(changed, key=lambda key: key != "train.epochs"):
        was, asked = changed[key]
        if key.startswith(SCHEDULE):
            before, warmup_before = learning_rate(config, step, steps_per_epoch, global_batch_size)
            section, name = key.split(".")
            part = getattr(config, section).model_copy(update={name: getattr(getattr(now, section), name)})
            config = config.model_copy(update={section: part})
            after, warmup_after = learning_rate(config, step, steps_per_epoch, global_batch_size)
            same = warmup_before == warmup_after
            now_it_is = "stays" if f"{after:.4g}" == f"{before:.4g}" else "is now"
            was_it = "" if now_it_is == "stays" else f" instead of {before:.4g}"
            effect = (
                f"the learning rate at epoch {step / steps_per_epoch:.4g} {now_it_is} {after:.4g}{was_it}, "
                f"warm-up {'unchanged' if same else f'{warmup_before} → {warmup_after} steps'}"
            )
        else:
            best = max((prefix for prefix in EFFECTS if key.startswith(prefix)), key=len)
            effect = EFFECTS[best].format(step=step + 1, images=global_batch_size)
            if key == "train.patience" and asked is None:
                effect = "the run trains all epochs"
        lines.append(f"{key} {shown(was)} → {shown(asked)}: {effect}")
    return lines


def learning_rate(config: Config, step: int, steps_per_epoch: int, global_batch_size: int) -> tuple[float, int]:
    """The learning rate of a step, counted from 0, as a configuration has it; and its steps of warm-up."""
    peak = config.optimizer.lr * lr_scale(config, global_batch_size)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = Schedule(optimizer, config, steps_per_epoch, global_batch_size)
    return schedule.apply(step), schedule.warmup_steps


def shown(value: Any) -> str:
    """A setting as one types it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
