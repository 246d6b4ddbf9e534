"""Every key of the released code's YAML: its default there, the kind of its value, and which key of ours it sets.

To support one more key, add it to `KEYS`, and to `SUPPORTED` or `EXPRESSIBLE` where only some values are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from acmix.errors import UsageError
from acmix.models.swin import VARIANTS


@dataclass(frozen=True)
class Key:
    """One key of the released layout."""

    default: Any
    # turns what YAML gave into a value, or raises ValueError
    kind: Callable[[Any], Any]
    # the key of ours that it sets; empty: `why` says what becomes of it
    ours: str = ""
    why: str = ""
    read: Callable[[Any], Any] = lambda value: value
    write: Callable[[Any], Any] = lambda value: value


def whole(value: Any) -> int:
    """A whole number, also where YAML reads it as text."""
    read = number(value)
    if read != int(read):
        raise ValueError("expected a whole number")
    return int(read)


def number(value: Any) -> float:
    """A number, also where YAML reads it as text, as it does `5e-4`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("expected a number")
    try:
        read = float(value)
    except ValueError:
        raise ValueError("expected a number") from None
    if not math.isfinite(read):
        raise ValueError("expected a finite number")
    return read


def switch(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def text(value: Any) -> str:
    """A piece of text; nothing is an empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("expected text")
    return value


def anything(value: Any) -> Any:
    """A value that is not used."""
    return value


def several(kind: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    """A list of values of one kind."""

    def read(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError("expected a list")
        return [kind(item) for item in value]

    return read


def optional(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A value that may be left empty."""
    return lambda value: None if value is None else kind(value)


def positive_or_none(value: float) -> float | None:
    """In the released code, 0 turns the setting off."""
    return value if value and value > 0 else None


def none_to_zero(value: float | None) -> float:
    """The other way."""
    return 0.0 if value is None else value


ELSEWHERE = "a run's folder is given on the command line, and a run resumes from it by itself"
MACHINE = "has no influence on the result here"
OTHER_SCHEDULE = "belongs to schedules that are not supported"
START = "sets model.checkpoint, the weights to start from"
BUILT = "chooses the model's name and arguments"

# whole sections that belong to networks other than Swin: ignored where they stand
OTHER_NETWORKS = ("MODEL.SWIN_MLP", "MODEL.SWINV2", "MODEL.SWIN_MOE", "TRAIN.MOE")

KEYS: dict[str, Key] = {
    "DATA.BATCH_SIZE": Key(128, whole, "train.batch_size"),
    "DATA.DATA_PATH": Key("", text, "data.dir"),
    "DATA.DATASET": Key("imagenet", text, why="only folders of classes are read"),
    "DATA.IMG_SIZE": Key(224, whole, "data.img_size"),
    "DATA.INTERPOLATION": Key("bicubic", text, "data.interpolation"),
    "DATA.ZIP_MODE": Key(False, switch, why="only false is supported"),
    "DATA.CACHE_MODE": Key("part", anything, why="belongs to ZIP_MODE"),
    "DATA.PIN_MEMORY": Key(True, switch, why=MACHINE),
    # 8 in the released code; left out, it follows the machine here
    "DATA.NUM_WORKERS": Key(None, optional(whole), "data.workers"),
    "MODEL.TYPE": Key("swin_acmix", text, why=BUILT),
    "MODEL.NAME": Key("", text, why=BUILT),
    "MODEL.PRETRAINED": Key("", text, why=START),
    "MODEL.RESUME": Key("", text, why=START),
    "MODEL.NUM_CLASSES": Key(1000, whole, "model.num_classes"),
    "MODEL.DROP_RATE": Key(0.0, number, why="only 0 is supported"),
    "MODEL.DROP_PATH_RATE": Key(0.1, number, "model.drop_path_rate"),
    "MODEL.LABEL_SMOOTHING": Key(0.1, number, "augment.label_smoothing"),
    "MODEL.SWIN.PATCH_SIZE": Key(4, whole, why=BUILT),
    "MODEL.SWIN.IN_CHANS": Key(3, whole, "model.in_chans"),
    "MODEL.SWIN.EMBED_DIM": Key(96, whole, why=BUILT),
    "MODEL.SWIN.DEPTHS": Key([2, 2, 6, 2], several(whole), why=BUILT),
    "MODEL.SWIN.NUM_HEADS": Key([3, 6, 12, 24], several(whole), why=BUILT),
    "MODEL.SWIN.WINDOW_SIZE": Key(7, whole, why=BUILT),
    "MODEL.SWIN.MLP_RATIO": Key(4.0, number, why=BUILT),
    "MODEL.SWIN.QKV_BIAS": Key(True, switch, why=BUILT),
    "MODEL.SWIN.QK_SCALE": Key(None, optional(number), why="only empty is supported"),
    "MODEL.SWIN.APE": Key(False, switch, why="only false is supported"),
    "MODEL.SWIN.PATCH_NORM": Key(True, switch, why="only true is supported"),
    "TRAIN.START_EPOCH": Key(0, whole, why=ELSEWHERE),
    "TRAIN.EPOCHS": Key(300, whole, "train.epochs"),
    "TRAIN.WARMUP_EPOCHS": Key(20, whole, "schedule.warmup_epochs"),
    "TRAIN.WEIGHT_DECAY": Key(0.05, number, "optimizer.weight_decay"),
    "TRAIN.BASE_LR": Key(5e-4, number, "optimizer.lr"),
    "TRAIN.WARMUP_LR": Key(5e-7, number, "schedule.warmup_lr"),
    "TRAIN.MIN_LR": Key(5e-6, number, "schedule.min_lr"),
    "TRAIN.CLIP_GRAD": Key(5.0, optional(number), "train.clip_grad", read=positive_or_none, write=none_to_zero),
    "TRAIN.AUTO_RESUME": Key(True, switch, why=ELSEWHERE),
    "TRAIN.ACCUMULATION_STEPS": Key(1, whole, "train.accumulation", read=lambda value: max(1, value)),
    "TRAIN.USE_CHECKPOINT": Key(False, switch, "train.gradient_checkpointing"),
    "TRAIN.LR_SCHEDULER.NAME": Key("cosine", text, "schedule.name"),
    "TRAIN.LR_SCHEDULER.DECAY_EPOCHS": Key(30, anything, why=OTHER_SCHEDULE),
    "TRAIN.LR_SCHEDULER.DECAY_RATE": Key(0.1, anything, why=OTHER_SCHEDULE),
    "TRAIN.OPTIMIZER.NAME": Key("adamw", text, "optimizer.name", read=str.lower),
    "TRAIN.OPTIMIZER.EPS": Key(1e-8, number, "optimizer.eps"),
    "TRAIN.OPTIMIZER.BETAS": Key([0.9, 0.999], several(number), "optimizer.betas"),
    "TRAIN.OPTIMIZER.MOMENTUM": Key(0.9, number, "optimizer.momentum"),
    "AUG.COLOR_JITTER": Key(0.4, number, "augment.color_jitter", read=positive_or_none, write=none_to_zero),
    "AUG.AUTO_AUGMENT": Key(
        "rand-m9-mstd0.5-inc1",
        optional(text),
        "augment.auto_augment",
        read=lambda value: None if value in (None, "", "none") else value,
        write=lambda value: value or "none",
    ),
    "AUG.REPROB": Key(0.25, number, "augment.random_erasing"),
    "AUG.REMODE": Key("pixel", text, "augment.random_erasing_mode"),
    "AUG.RECOUNT": Key(1, whole, "augment.random_erasing_count"),
    "AUG.MIXUP": Key(0.8, number, "augment.mixup"),
    "AUG.CUTMIX": Key(1.0, number, "augment.cutmix"),
    "AUG.CUTMIX_MINMAX": Key(None, optional(several(number)), "augment.cutmix_minmax"),
    "AUG.MIXUP_PROB": Key(1.0, number, "augment.mixup_prob"),
    "AUG.MIXUP_SWITCH_PROB": Key(0.5, number, "augment.mixup_switch_prob"),
    "AUG.MIXUP_MODE": Key("batch", text, "augment.mixup_mode"),
    "TEST.CROP": Key(
        True,
        switch,
        "data.crop_pct",
        read=lambda crop: 224 / 256 if crop else 1.0,
        write=lambda share: share == 224 / 256,
    ),
    "TEST.SEQUENTIAL": Key(False, switch, why="every image is counted once in any order"),
    "TEST.SHUFFLE": Key(False, switch, why="every image is counted once in any order"),
    "AMP_ENABLE": Key(True, switch, why="false sets train.precision to fp32"),
    "AMP_OPT_LEVEL": Key(
        "O1",
        text,
        "train.precision",
        read=lambda level: "fp32" if level == "O0" else "auto",
        write=lambda precision: "O0" if precision == "fp32" else "O1",
    ),
    "OUTPUT": Key("", anything, why=ELSEWHERE),
    "TAG": Key("default", anything, why=ELSEWHERE),
    "SAVE_FREQ": Key(1, whole, "train.checkpoint_every_epochs"),
    "PRINT_FREQ": Key(10, whole, "train.log_every_steps"),
    "SEED": Key(0, whole, "train.seed"),
    "EVAL_MODE": Key(False, switch, why="evaluation is a command of its own"),
    "THROUGHPUT_MODE": Key(False, switch, why="the benchmark is a command of its own"),
    "LOCAL_RANK": Key(0, anything, why=MACHINE),
    "FUSED_WINDOW_PROCESS": Key(False, switch, why=MACHINE),
    "FUSED_LAYERNORM": Key(False, switch, why=MACHINE),
}

# what this library can honour: a test of the value, and what to say where it fails
SUPPORTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "MODEL.TYPE": (
        lambda value: "swin" in value.lower() and not any(other in value.lower() for other in ("v2", "mlp", "moe")),
        "'swin' or 'swin_acmix': only Swin is read from the released layout",
    ),
    "MODEL.DROP_RATE": (lambda value: value == 0, "0: use MODEL.DROP_PATH_RATE"),
    "MODEL.SWIN.QK_SCALE": (
        lambda value: value is None,
        "null: the scale is always one over the root of a head's width",
    ),
    "MODEL.SWIN.APE": (lambda value: not value, "false: positions are relative"),
    "MODEL.SWIN.PATCH_NORM": (lambda value: value, "true"),
    "DATA.ZIP_MODE": (lambda value: not value, "false: unpack the archive, or use a tar"),
    "DATA.DATASET": (lambda value: "22k" not in value.lower(), "'imagenet', or any folder with one folder a class"),
    "TRAIN.LR_SCHEDULER.NAME": (lambda value: value == "cosine", "'cosine'"),
    "TRAIN.OPTIMIZER.NAME": (lambda value: value.lower() in ("adamw", "sgd"), "'adamw' or 'sgd'"),
    "AMP_OPT_LEVEL": (lambda value: value in ("", "O0", "O1", "O2"), "'O0', 'O1' or 'O2'"),
}

# what the released layout can express of ours: the same
EXPRESSIBLE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "data.split": (lambda value: value is None, "it validates on a folder of its own"),
    "data.crop_pct": (lambda value: value in (224 / 256, 1.0), "it knows 0.875 and 1.0"),
    "data.mean": (lambda value: list(value) == [0.485, 0.456, 0.406], "it always takes ImageNet's mean"),
    "data.std": (lambda value: list(value) == [0.229, 0.224, 0.225], "it always takes ImageNet's deviation"),
    "augment.scale": (lambda value: value == [0.08, 1.0], "it always takes 0.08 to 1"),
    "augment.ratio": (lambda value: list(value) == [3 / 4, 4 / 3], "it always takes 3/4 to 4/3"),
    "augment.hflip": (lambda value: value == 0.5, "it always flips one image in two"),
    "augment.vflip": (lambda value: value == 0, "it never turns images upside down"),
    "optimizer.name": (lambda value: value in ("adamw", "sgd"), "it knows 'adamw' and 'sgd'"),
    "optimizer.base_batch_size": (lambda value: value is not None, "it always scales the learning rate; set a number"),
    "schedule.name": (lambda value: value == "cosine", "it knows 'cosine'"),
    "schedule.warmup_epochs": (lambda value: value == int(value), "it takes whole epochs"),
    "schedule.warmup_steps": (lambda value: value is None, "it takes whole epochs; set schedule.warmup_epochs"),
    "schedule.warmup_share": (lambda value: value == 0.2, "it has no such key, and 0.2 is what we read it with"),
    "train.ema_decay": (lambda value: value is None, "it keeps no average of the weights; set null"),
    "train.patience": (lambda value: value is None, "it trains all epochs; set null"),
}

# the batch that the learning rates in a released file are meant for
BASE_BATCH_SIZE = 512
RATES = ("TRAIN.BASE_LR", "TRAIN.WARMUP_LR", "TRAIN.MIN_LR")

# a key MODEL.SWIN.X of the released layout is the argument x of the model
ARGUMENTS = ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "patch_size", "qkv_bias")
# the networks that the released layout can name, with these arguments as YAML holds them, and the size of their images
NETWORKS: dict[str, dict[str, Any]] = {
    name: {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in {"mlp_ratio": 4.0, "patch_size": 4, "qkv_bias": True, **arguments}.items()
    }
    for name, arguments in VARIANTS.items()
}


def checked(key: str, value: Any) -> Any:
    """A value for a key, of the key's kind.

    Raises:
        UsageError: it is of another kind.
    """
    try:
        return KEYS[key].kind(value)
    except ValueError as error:
        raise UsageError(f"{key}={value!r}: {error}") from None


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in a tree of plain dictionaries."""
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value
