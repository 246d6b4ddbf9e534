"""Every setting is checked before the first step: what cannot be meant ends in one line, and numbers are numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from acmix import config
from acmix.data.policy import check_policy
from acmix.errors import UsageError

EXTREMES = (
    *("-1", "0", "1", "1.5", "1e-300", "1e30", "1e308", "1e400", ".nan", ".inf", "foo", '""', "null", "true", "[]"),
    *(
        "[0, 0]",
        "[1.0, 0.1]",
        "[-1, 1]",
        "[1, 2, 3]",
        "[.nan, 1]",
        "[true, 1]",
        "{a: 1}",
        '"a\\0b"',
        "auto",
        "2026-01-31",
    ),
)
# what of these may be said, for every kind of setting; a run refuses the rest later, or it is what a user may want
SWITCH = {"0", "1", "true"}
POSITIVE = {"1", "1.5", "1e-300"}
SHARE = {"0", "1", "1e-300"}
RATE = {"0", "1e-300"}
TEXT = {"foo", "auto", "2026-01-31"}
MINE = {
    "model.name": TEXT,
    "model.num_classes": {"1"},
    "model.in_chans": {"1"},
    "model.drop_path_rate": RATE,
    "model.conv_path": SWITCH,
    "model.checkpoint": {*TEXT, '""', "null"},
    "model.pretrained": {*TEXT, *SWITCH, '""'},
    "model.add_conv_path": SWITCH,
    "model.freeze": SWITCH,
    "model.args": {"{a: 1}"},
    "data.dir": {*TEXT, '""'},
    "data.format": {*TEXT, '""'},
    "data.train_split": TEXT,
    "data.val_split": TEXT,
    "data.split": {"1e-300", "null"},
    "data.split_seed": {"0", "1"},
    "data.img_size": {"1", "auto"},
    "data.interpolation": {"auto"},
    "data.crop_pct": {"1", "auto"},
    # a run refuses another number of values than channels
    "data.mean": {"[0, 0]", "[1.0, 0.1]", "auto"},
    "data.std": {"[1.0, 0.1]", "[1, 2, 3]", "auto"},
    "data.workers": {"0", "1", "null"},
    "augment.scale": {"null"},
    "augment.ratio": set(),
    **dict.fromkeys(("augment.hflip", "augment.vflip", "augment.random_erasing"), SHARE),
    **dict.fromkeys(("augment.mixup_prob", "augment.mixup_switch_prob"), SHARE),
    "augment.color_jitter": {*SHARE, "1.5", "null"},
    # timm's policies are checked by `check_policy`
    "augment.auto_augment": {*TEXT, '""', "null"},
    "augment.random_erasing_mode": set(),
    "augment.random_erasing_count": {"1"},
    **{key: {"0", *POSITIVE} for key in ("augment.mixup", "augment.cutmix")},
    "augment.cutmix_minmax": {"[0, 0]", "null"},
    "augment.mixup_mode": set(),
    "augment.label_smoothing": RATE,
    "optimizer.name": TEXT,
    # one that is too large ends a run at its second step, in one line
    "optimizer.lr": {*POSITIVE, "1e30", "1e308"},
    "optimizer.eps": {"1", "1e-300"},
    "optimizer.base_batch_size": {"1", "null"},
    "optimizer.weight_decay": {"0", *POSITIVE},
    "optimizer.momentum": RATE,
    "optimizer.betas": {"[0, 0]"},
    "optimizer.layer_decay": {"1", "null"},
    "schedule.name": set(),
    **{key: {"0", *POSITIVE} for key in ("schedule.warmup_epochs", "schedule.warmup_lr", "schedule.min_lr")},
    **{key: {"1"} for key in ("train.epochs", "train.batch_size", "train.accumulation", "train.log_every_steps")},
    **{key: {"1"} for key in ("train.checkpoint_every_epochs", "train.evaluate_every_epochs")},
    "train.checkpoint_every_steps": {"1", "null"},
    "train.precision": {"auto"},
    "train.device": {"auto"},
    "train.clip_grad": {"1", "1.5", "null"},
    "train.ema_decay": {"1e-300", "null"},
    "train.channels_last": {*SWITCH, "null"},
    **dict.fromkeys(("train.gradient_checkpointing", "train.compile", "train.deterministic"), SWITCH),
    "train.tensorboard": SWITCH,
    "train.seed": {"0", "1"},
}


def refusal(override: str) -> str:
    """What the schema says to a setting, or nothing."""
    try:
        config.complete({}, [override], where="x.yaml")
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", sorted(MINE))
def test_of_the_extremes_a_key_takes_those_that_can_be_meant(key: str) -> None:
    said = {value: refusal(f"{key}={value}") for value in EXTREMES}
    assert {value for value, line in said.items() if not line} == MINE[key]
    assert [line for line in said.values() if line and (key not in line or "\n" in line)] == []


def test_every_key_that_is_older_than_this_table_stands_in_it() -> None:
    # a newer key is checked where it is made
    assert set(MINE) <= set(config.known_keys())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("augment.scale=[1.0, 0.1]", "augment.scale=[1.0, 0.1]: expected the smaller value first"),
        ("augment.ratio=[0, 1]", "augment.ratio[0]=0: input should be greater than or equal to 0.01"),
        ("augment.scale=[0.5]", "augment.scale[1]=[0.5]: expected one value more"),
        ("optimizer.betas=[0.9, 1]", "optimizer.betas[1]=1: input should be less than 1"),
        ("optimizer.lr=.nan", "optimizer.lr=.nan: input should be a finite number"),
        ("data.split=20", "data.split=20: input should be less than 1"),
        ("data.split=1", "data.split=1: input should be less than 1"),
        ("data.split=yes", "data.split=yes: expected no yes or no"),
        ("train.device=1", "train.device=1: expected auto, cpu, cuda, cuda:1 or mps"),
        ("train.device=cuda1", "train.device=cuda1: expected auto, cpu, cuda, cuda:1 or mps"),
        ("train.epochs=yes", "train.epochs=yes: expected no yes or no"),
        ("data.train_split=2012", "data.train_split=2012: input should be a valid string; put text in quotes"),
        ("data.crop_pct=1e-9", "data.crop_pct=1e-9: input should be greater than or equal to 0.05"),
        ("data.crop_pct=1.5", "data.crop_pct=1.5: input should be less than or equal to 1"),
        (
            "model.args.num_classes=7",
            "model.args.num_classes=7: num_classes is no further argument of a model; use model.",
        ),
        ("model.args.in_chans=1", "use model.in_chans"),
        ("model.args.img_size=64", "use data.img_size"),
        ("model.args.features_only=true", "a run decides that itself"),
        ("model.args.drop_rate=1", "model.args.drop_rate=1: expected a share from 0 to below 1"),
        ("model.args.depths=[1, 1, 1000000, 1]", "expected at most 2000 blocks"),
        ("model.args.depth=1000000", "model.args.depth=1000000: expected at most 2000 blocks"),
        ("model.args.depths=[0, 0]", "model.args.depths=[0, 0]: expected at least one block in each stage"),
        ("model.args.embed_dim=1000000000", "expected numbers of at most 1,000,000"),
        ("optimizer.eps=.inf", "optimizer.eps=.inf: input should be a finite number"),
        ("data.std=[.inf]", "data.std[0]=inf: input should be a finite number"),
        ("data.mean=[123, 117, 104]", "data.mean[0]=123: input should be less than or equal to 1"),
        ("augment.scale=[5, 9]", "augment.scale[0]=5: input should be less than or equal to 1"),
        ("train.epochs=true", "train.epochs=true: expected no yes or no"),
        ("train.clip_grad=1:30", "train.clip_grad=1:30: input should be a valid number"),
        ("train.batch_size=1000000000", "input should be less than or equal to 65536"),
        ("data.workers=100000", "data.workers=100000: input should be less than or equal to 256"),
        ("data.img_size=100000", "data.img_size=100000: input should be less than or equal to 16384"),
        ("model.args.rates=[0.5, .inf]", "model.args.rates=[0.5, inf]: expected finite numbers"),
    ],
)
def test_a_value_that_cannot_be_meant_is_one_line(override: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        config.load("acmix_swin_digits", [override])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("1e-3", 1e-3),
            ("1E5", 1e5),
            ("1.e-3", 1e-3),
            ("-.5", -0.5),
            ("1.", 1.0),
            ("5e+4", 5e4),
            ("1_000.5", 1000.5),
        ),
        *(("1_000", 1000), ("010", 10), ("+7", 7), ("0x1F", 31), ("0o17", 15), ("0b11", 3), ("-3", -3)),
        *(("yes", True), ("off", False), ("null", None), ("~", None), ("[1e-3, 2]", [1e-3, 2])),
        *(
            ("1:30", "1:30"),
            ("2026-01-31", "2026-01-31"),
            ("2026-13-45", "2026-13-45"),
            ("1.2.3", "1.2.3"),
            ("e5", "e5"),
        ),
        *(('"1e-3"', "1e-3"), ("'010'", "010"), ("1_", "1_"), ("nan", "nan"), ("0x", "0x"), ("5e", "5e")),
    ],
)
def test_numbers_are_numbers_and_text_is_text(text: str, value: Any) -> None:
    found = config.load("acmix_swin_digits", [f"model.args.x={text}"]).model.args["x"]
    assert (found, type(found)) == (value, type(value))


def test_numbers_in_a_file_are_numbers_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optimizer: {betas: [9e-1, 1e-3]}\nmodel: {args: {a: {b: [1e-1]}}}\ntrain:\n", encoding="utf-8")
    found = config.load(file, ["train.epochs=3"])
    assert found.optimizer.betas == (0.9, 0.001)
    assert found.model.args == {"a": {"b": [0.1]}}


@pytest.mark.parametrize("text", ["1: 2", "train: {1: 2}", "train: {true: 2}", "? [1]\n: 2"])
def test_keys_that_are_no_text_are_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"unknown key|is not YAML"):
        config.load(tmp_path / "a.yaml")


def test_a_colour_typed_with_a_hash_is_no_comment() -> None:
    assert config.load("acmix_swin_digits", ["data.background=#ff0080"]).data.background_rgb == (255, 0, 128)


@pytest.mark.parametrize("text", ["train: {epochs: 1, epochs: 2}", "train: {epochs: !!int 1e3}", "train: [" * 5000])
def test_a_file_that_says_nothing_certain_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="is not YAML") as error:
        config.load(file)
    assert "\n" not in str(error.value)


def test_a_missing_space_after_a_colon_is_no_setting_left_at_its_default(tmp_path: Path) -> None:
    for text in ("{channels:64}", "{pools: [1], channels:64}"):
        with pytest.raises(UsageError, match="put a space after the colon: channels: 64"):
            config.load("segment_digits", [f"task.args={text}"])
        (tmp_path / "a.yaml").write_text(f"task: {{args: {text}}}", encoding="utf-8")
        with pytest.raises(UsageError, match="put a space after the colon: channels: 64"):
            config.load(tmp_path / "a.yaml")
    assert config.load("segment_digits", ["task.args={channels: 64, 'a:b': }"]).task.args["a:b"] is None
    with pytest.raises(UsageError, match="the key 'a' stands twice"):
        config.load("segment_digits", ["task.args={a: 1, a: 2}"])


def test_text_that_looks_like_a_number_is_written_so_that_it_stays_text() -> None:
    looks = ["1e-3", "010", "0x1F", ".5", "1.", "1_000", "1:30", "yes", "null", ".nan", "2026-01-31", "2026-13-45"]
    settings = config.validate({"model": {"args": {"x": looks, "y": [1e-3, 10, True, None]}}})
    assert config.validate(config.parse(config.dump(settings))) == settings
    # and others read it alike
    assert yaml.safe_load(config.dump(settings))["model"]["args"]["x"] == looks


@pytest.mark.parametrize(
    "text", ["rand-m9-mstd0.5-inc1", "rand", "rand-n3-p0.5-t3a", "augmix-m5-w4-d2", "original", "3a"]
)
def test_a_policy_of_timm_is_one(text: str) -> None:
    check_policy(text)


@pytest.mark.parametrize(
    "text",
    ["foo", "rand-", "rand-mfoo", "rand-n0", "rand-n1000", "rand-p2", "rand-tfoo", "augmix-a0", "v0-x1", "rand-m-9"],
)
def test_a_policy_that_timm_refuses_or_reads_in_part_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"augment\.auto_augment='.*expected") as error:
        check_policy(text)
    assert "\n" not in str(error.value)


def test_a_head_is_of_a_checkpoint():
    with pytest.raises(UsageError, match=r"model\.head=new is for model\.checkpoint, which is not set"):
        config.validate({"model": {"head": "new"}})
    assert config.validate({"model": {"head": "new", "checkpoint": "a.pth"}}).model.head == "new"
