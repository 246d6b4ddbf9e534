"""What changes between two calls of one run is said, and what makes it another run is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from acmix.config import Config
from acmix.data.dataset import OtherClasses
from acmix.errors import UsageError
from acmix.tasks import task_of
from acmix.train import checkpoint
from acmix.train.loop import train
from acmix.train.resume import changed_keys, describe_changes, learning_rate, of_a_run, settings_then
from tests.support.dense import dense_config, write_scenes
from tests.support.images import make_image_folder
from tests.support.tiny import CLASSES, PLAIN, last, tiny_config

pytestmark = pytest.mark.usefixtures("undrawn")
ARGS = "{embed_dim: 12, depths: [1, 1], num_heads: [1, 2], window_size: 4%s}"
RATE, ON, APART = "the learning rate at epoch 2 is now", "from step 11 on", "before and after are not comparable"
WARMUP, STAYS = "warm-up 2 → 5 steps", "the learning rate at epoch 2 stays"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A run of two epochs of 5 steps, to go on with."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def lines(then: Config, now: Config, step: int = 10) -> list[str]:
    return describe_changes(then, now, step, steps_per_epoch=5, global_batch_size=8)


@pytest.mark.slow
def test_a_run_that_has_ended_goes_on_and_says_what_changed(
    forty: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("train.epochs=3", "optimizer.lr=1e-3", "data.mean=[0.5, 0.5, 0.5]", "data.workers=1")
    assert train(tiny_config(forty, *changes), copy)["epochs"] == 3
    said = [line.strip() for line in capsys.readouterr().out.splitlines() if " → " in line]
    assert [line.split(":")[0] for line in said] == [
        "train.epochs 2 → 3",
        "data.mean [0.485, 0.456, 0.406] → [0.5, 0.5, 0.5]",
        "data.workers 0 → 1",
        "optimizer.lr 0.002 → 0.001",
    ]
    assert said[1].endswith("applies from step 11 on; accuracies before and after are not comparable")
    log = [json.loads(line) for line in (copy / "log.jsonl").read_text().splitlines()]
    assert [entry["changes"] for entry in log if entry["event"] == "start"] == [[], said]
    # the rate that was announced is the one that was taken
    taken = next(entry["lr"] for entry in log if entry["event"] == "step" and entry["step"] == 11)
    assert f"the learning rate at epoch 2 is now {taken:.4g} instead of " in said[-1]


@pytest.mark.slow
def test_a_run_that_goes_on_on_another_device_says_so(
    forty: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = last(copy)
    assert contents["device"] == "cpu"
    # as a GPU would have written it
    checkpoint.save(copy / "checkpoints" / "last.pt", {**contents, "device": "cuda"})
    train(tiny_config(forty, "train.epochs=3", "train.device=cpu"), copy)
    said = capsys.readouterr().out
    assert "train.device auto → cpu: the run goes on there" in said
    assert "device cuda → cpu: sums round differently" in said
    # and a run that is older than the key goes on in silence
    older = {key: value for key, value in last(copy).items() if key != "device"}
    checkpoint.save(copy / "checkpoints" / "last.pt", older)
    train(tiny_config(forty, "train.epochs=4", "train.device=cpu"), copy)
    assert " → cpu" not in capsys.readouterr().out


def test_a_run_that_goes_on_as_it_was_says_nothing(
    forty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(forty, "train.epochs=1"), tmp_path)
    capsys.readouterr()
    train(tiny_config(forty, "train.epochs=1"), tmp_path)
    assert " → " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "effect"),
    [
        ("train.epochs=4", f"train.epochs 2 → 4: {RATE} 0.001003 instead of 5e-06, warm-up unchanged"),
        ("schedule.warmup_epochs=1", f"schedule.warmup_epochs 0.5 → 1.0: {STAYS} 5e-06, {WARMUP}"),
        ("data.dir=moved", "data.dir data → moved: the images are read from there, in the same classes"),
        ("data.img_size=64", f"data.img_size 32 → 64: applies {ON}; accuracies {APART}"),
        ("augment.mixup=0", f"augment.mixup 0.8 → 0.0: applies {ON}; training losses {APART}"),
        ("augment.hflip=0", f"augment.hflip 0.5 → 0.0: applies {ON}"),
        ("optimizer.weight_decay=0.1", f"optimizer.weight_decay 0.05 → 0.1: {ON}; the optimizer keeps its averages"),
        ("train.ema_decay=0.5", f"train.ema_decay 0.9 → 0.5: {ON}"),
        ("train.precision=bf16", f"train.precision auto → bf16: {ON}"),
        ("train.device=cpu", "train.device auto → cpu: the run goes on there"),
        ("model.checkpoint=a.pt", "model.checkpoint null → a.pt: not read again; the weights are those of last.pt"),
        (f"model.args={ARGS % ', drop_rate: 0.1'}", f"model.args.drop_rate unset → 0.1: {ON}"),
    ],
)  # fmt: skip
def test_a_line_says_what_a_change_does(change: str, effect: str) -> None:
    then = tiny_config("data")
    assert lines(then, tiny_config("data", change)) == [effect]


def test_the_effects_of_changes_together_are_told_one_after_the_other() -> None:
    then, now = tiny_config(""), tiny_config("", "train.epochs=4", "optimizer.lr=1e-3")
    first, second = lines(then, now)
    reached = learning_rate(now, 10, 5, 8)[0]
    middle = learning_rate(tiny_config("", "train.epochs=4"), 10, 5, 8)[0]
    assert f"is now {middle:.4g} instead of 5e-06" in first
    assert f"is now {reached:.4g} instead of {middle:.4g}" in second


@pytest.mark.parametrize(
    ("change", "effect"),
    [
        ("schedule.warmup_share=0.2", "schedule.warmup_share 1.0 → 0.2: the learning rate at epoch 0.6 is now"),
        ("schedule.warmup_steps=4", "schedule.warmup_steps null → 4: the learning rate at epoch 0.6 is now"),
        ("schedule.name=constant", "schedule.name cosine → constant: the learning rate at epoch 0.6 stays 0.0012, "),
        ("train.patience=3", "train.patience null → 3: counted from the epoch that was best so far"),
    ],
)
def test_a_line_says_what_another_schedule_does(change: str, effect: str) -> None:
    [line] = lines(tiny_config("", "schedule.warmup_epochs=1"), tiny_config("", "schedule.warmup_epochs=1", change), 3)
    assert line.startswith(effect)


def test_a_run_without_patience_trains_to_its_end() -> None:
    assert lines(tiny_config("", "train.patience=2"), tiny_config("")) == [
        "train.patience 2 → null: the run trains all epochs"
    ]


def test_other_settings_of_a_schedule_are_told_with_its_name() -> None:
    now = tiny_config("", "schedule.name=multistep", "schedule.milestones=[1]", "schedule.decay_factor=0.5")
    assert [line.partition(":")[0] for line in lines(tiny_config(""), now)] == [
        "schedule.name cosine → multistep",
        "schedule.milestones null → [1.0]",
        "schedule.decay_factor null → 0.5",
    ]


def test_a_longer_run_says_that_its_warm_up_is_no_longer_shortened() -> None:
    short = ("schedule.warmup_epochs=1", "schedule.warmup_share=0.2")
    [line] = lines(tiny_config("", *short), tiny_config("", *short, "train.epochs=5"))
    assert line.endswith("warm-up 2 → 5 steps")


def test_a_checkpoint_that_knows_no_share_of_warm_up_had_all_of_it() -> None:
    def changed(*told: str) -> dict[str, tuple[object, object]]:
        now = tiny_config("", *told, "schedule.warmup_share=0.2")
        saved = now.model_dump(mode="json")
        del saved["schedule"]["warmup_share"]
        return changed_keys(settings_then(saved, now, 5, "last.pt"), now)

    assert changed("schedule.warmup_epochs=1") == {"schedule.warmup_share": (1.0, 0.2)}
    assert changed("schedule.warmup_epochs=1", "train.epochs=5") == {}


def test_settings_that_say_the_same_are_no_change() -> None:
    assert changed_keys(tiny_config(""), tiny_config("", "data.mean=[0.485, 0.456, 0.406]", "optimizer.lr=0.002")) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.name=acmix_swin_small_patch4_window7_224", "set model.name=acmix_swin_tiny_patch4_window7_224 again"),
        ("model.in_chans=1", "with model.in_chans 3, now it would be 1; set model.in_chans=3 again, or choose"),
        ("model.conv_path=false", "with model.conv_path true, now it would be false; set model.conv_path=true again"),
        (f"model.args={ARGS % ', rates: softmax'}", "with model.args.rates unset, now it would be softmax; leave"),
        # the weights would fit
        (f"model.args={ARGS % ', qkv_bias: true'}", "with model.args.qkv_bias unset, now it would be true"),
        (f"model.args={ARGS.replace('2]', '3]') % ''}", "with model.args.num_heads [1, 2], now it would be [1, 3]"),
        ("optimizer.name=lion", "with optimizer.name adamw, now it would be lion; set optimizer.name=adamw again"),
        ("train.ema_decay=null", "set train.ema_decay=0.9 again"),
        ("train.seed=5", "set train.seed=0 again"),
        ("train.batch_size=8", "set train.batch_size x train.accumulation x processes to 8 again"),
    ],
)  # fmt: skip
def test_another_run_is_refused_with_key_both_values_and_what_to_do(
    forty: Path, whole: Path, change: str, said: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    with pytest.raises(UsageError) as error:
        train(tiny_config(forty, "train.epochs=3", change), whole)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).count("another --output") == 1
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_size_that_the_weights_do_not_fit_is_refused_by_its_name(data: Path, tmp_path: Path) -> None:
    deit = (
        "model.name=acmix_deit_tiny_patch16_224",
        "model.args={embed_dim: 12, depth: 1, num_heads: 2, patch_size: 8}",
    )
    train(tiny_config(data, *deit, *PLAIN, "train.epochs=1"), tmp_path)
    with pytest.raises(
        UsageError, match=r"of another shape.*data\.img_size 32, now it would be 64; set data\.img_size=32"
    ):
        train(tiny_config(data, *deit, *PLAIN, "train.epochs=2", "data.img_size=64"), tmp_path)


def test_a_folder_that_moved_and_other_micro_batches_go_on(forty: Path, copy: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(forty, tmp_path / "moved"))
    changes = ("train.epochs=3", "train.batch_size=8", "train.accumulation=1")
    assert train(tiny_config(moved, *changes), copy)["steps"] == 15
    assert last(copy)["config"]["data"]["dir"] == str(moved)


def other_images(folder: Path) -> None:
    """As many of each class, one of them under another name."""
    file = sorted(folder.glob("train/*/*"))[3]
    file.rename(file.with_stem("another"))


def other_labels(folder: Path) -> None:
    """Two images in each other's class."""
    one, *_, two = sorted(folder.glob("train/*/*"))
    one.rename(aside := folder / "aside")
    two.rename(one)
    aside.rename(two.with_stem("z"))


@pytest.mark.parametrize("change", [other_images, other_labels])
def test_other_images_are_another_run(forty: Path, copy: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = Path(shutil.copytree(forty, tmp_path / "other"))
    change(folder)
    before = (copy / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(UsageError, match=r"last\.pt was trained on other images than those of .*, or in another order"):
        train(tiny_config(folder, "train.epochs=3"), copy)
    assert (copy / "checkpoints" / "last.pt").read_bytes() == before


@pytest.mark.slow
def test_a_run_from_before_fingerprints_goes_on(forty: Path, copy: Path) -> None:
    checkpoint.save(copy / "checkpoints" / "last.pt", {k: v for k, v in last(copy).items() if k != "images"})
    assert train(tiny_config(forty, "train.epochs=3"), copy)["epochs"] == 3


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_other_annotations_are_another_run(tmp_path: Path, task: str) -> None:
    folder = write_scenes(task, tmp_path / "scenes")
    (before,) = {task_of(dense_config(task, folder)).train_loader().dataset.fingerprint() for _ in range(2)}
    if task == "detect":
        file = folder / "annotations" / "instances_train2017.json"
        content = json.loads(file.read_text())
        content["annotations"][0]["bbox"][2] -= 1
        file.write_text(json.dumps(content))
    else:
        first, *_ = sorted(folder.glob("images/training/*"))
        labels = folder / "annotations" / "training" / f"{first.stem}.png"
        labels.rename(labels.with_stem("another"))
        first.rename(first.with_stem("another"))
    assert task_of(dense_config(task, folder)).train_loader().dataset.fingerprint() != before


def test_settings_that_held_before_are_kept(forty: Path, copy: Path) -> None:
    then = (copy / "config.yaml").read_text()
    train(tiny_config(forty, "train.epochs=3"), copy)
    train(tiny_config(forty, "train.epochs=3"), copy)
    train(tiny_config(forty, "train.epochs=4", "optimizer.lr=1e-3"), copy)
    kept = sorted(path.name for path in copy.glob("config*.yaml"))
    assert kept == ["config.until-step-10.yaml", "config.until-step-15.yaml", "config.yaml"]
    assert (copy / "config.until-step-10.yaml").read_text() == then


def test_another_number_of_processes_is_said(forty: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = {key: value for key, value in last(copy).items() if key not in ("format", "version")}
    checkpoint.save(copy / "checkpoints" / "last.pt", {**saved, "processes": 2})
    train(tiny_config(forty, "train.epochs=3"), copy)
    assert "processes 2 → 1: dropout, drop path and mixup draw other numbers" in capsys.readouterr().out


def test_a_class_more_is_told_what_works(data: Path, tmp_path: Path) -> None:
    then = tmp_path / "then"
    train(tiny_config(data, "train.epochs=1"), then)
    more = make_image_folder(tmp_path / "more", CLASSES + 1, train_per_class=4, val_per_class=1, size=40)
    said = []
    for told in ((), (f"model.num_classes={CLASSES + 1}",)):
        with pytest.raises(UsageError) as error:
            train(tiny_config(more, "train.epochs=2", *told), then)
        said.append(str(error.value))
        assert "\n" not in said[-1]
    advice = f"model.checkpoint={then / 'checkpoints' / 'last.pt'}"
    assert said[0].endswith(f"choose another --output and add model.num_classes={CLASSES + 1} {advice}")
    assert said[1].endswith(f"choose another --output and add {advice}")
    # and it does work
    told = said[0].partition("and add ")[2].split()
    assert train(tiny_config(more, "train.epochs=1", *told), tmp_path / "now")["epochs"] == 1


def test_other_classes_for_a_detector_name_its_own_setting(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    error = OtherClasses("the data has 10 classes, but task.num_classes is 11; add task.num_classes=10", 10)
    assert of_a_run(error, dense_config("detect", ""), file) is error
    file.touch()
    assert str(of_a_run(error, dense_config("detect", ""), file)) == (
        f"the data has 10 classes, but task.num_classes is 11, and {file} goes on with the classes that it was trained "
        "on alone; to begin with its weights and a new classifier, choose another --output and add "
        f"task.num_classes=10 model.checkpoint={file}"
    )
