"""The shipped configurations hold the published recipe and say where their figures come from."""

from importlib import resources
from pathlib import Path

import pytest
import timm
import yaml

from acmix import config, list_models
from acmix.errors import UsageError

CONFIGS = sorted(Path(str(resources.files("acmix"))).glob("configs/**/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_by_its_bare_name_and_says_what_it_is(path):
    settings = config.load(path.name)
    assert settings.model.name in (timm.list_models() if path.parent.name == "finetune" else list_models())
    assert settings.model.add_conv_path == (path.parent.name == "finetune")
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("# bash run.sh", "# hardware:", "# published:", "# ours:"):
        assert any(line.startswith(word) for line in header), f"{path.name} has no line {word!r}"


def test_every_model_has_a_configuration():
    assert set(list_models()) <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize(("size", "drop_path"), [("tiny", 0.2), ("small", 0.3)])
def test_swin_is_trained_as_published(size, drop_path):
    settings = config.load(f"acmix_swin_{size}_patch4_window7_224")
    assert settings.model.drop_path_rate == drop_path
    assert (settings.train.epochs, settings.train.batch_size, settings.train.clip_grad) == (300, 128, 5.0)
    assert (settings.optimizer.lr, settings.optimizer.base_batch_size, settings.optimizer.weight_decay) == (
        5e-4,
        512,
        0.05,
    )
    assert (settings.schedule.warmup_epochs, settings.schedule.warmup_lr, settings.schedule.min_lr) == (20, 5e-7, 5e-6)
    assert (settings.augment.mixup, settings.augment.cutmix, settings.augment.label_smoothing) == (0.8, 1.0, 0.1)
    assert (settings.augment.auto_augment, settings.augment.random_erasing) == ("rand-m9-mstd0.5-inc1", 0.25)


@pytest.mark.parametrize(("depth", "top1"), [(26, "76.1"), (38, "77.4"), (50, "77.8")])
def test_resnet_is_trained_as_published(depth, top1):
    settings = config.load(f"acmix_resnet{depth}")
    optimizer, schedule, augment = settings.optimizer, settings.schedule, settings.augment
    assert (settings.train.epochs, schedule.name, schedule.warmup_epochs) == (90, "cosine", 5)
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("momentum", 0.9, 1e-4)
    assert (optimizer.lr, optimizer.base_batch_size) == (0.1, 256)
    assert (augment.label_smoothing, augment.hflip, augment.scale) == (0.1, 0.5, (0.08, 1.0))
    assert (augment.mixup, augment.cutmix, augment.random_erasing) == (0.0, 0.0, 0.0)
    assert (augment.color_jitter, augment.auto_augment) == (None, None)
    assert f"# published: {top1} % top-1" in config.find(f"acmix_resnet{depth}").read_text(encoding="utf-8")


def test_a_dumped_configuration_loads_equal(tmp_path):
    settings = config.load("acmix_swin_digits", ["train.epochs=3", "train.ema_decay=0.99"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(config.dump(settings), encoding="utf-8")
    assert config.load(copy) == settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=2", "did you mean 'train.epochs'?"),
        ("optimiser.lr=1", "did you mean 'optimizer'?"),
        ("train.lr=1", "did you mean 'optimizer.lr'?"),
        ("train.epochs=many", "train.epochs=many: input should be a valid integer"),
        ("train.epochs=0", "train.epochs=0: input should be greater than or equal to 1"),
        ("train.epochs", "is not of the form section.key=value"),
        ("data.interpolation=cubic", "data.interpolation=cubic: input"),
    ],
)
def test_an_override_nobody_reads_is_refused_in_one_line(override, message):
    with pytest.raises(ValueError) as caught:
        config.load("acmix_swin_digits", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_in_powers_of_ten_are_numbers(tmp_path):
    path = tmp_path / "lr.yaml"
    path.write_text(yaml.safe_dump({"optimizer": {"lr": "5e-4"}}), encoding="utf-8")
    assert config.load(path, ["schedule.min_lr=1e-6"]).optimizer.lr == 5e-4


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'acmix_swin_digits'"):
        config.load("acmix_swin_digit")


@pytest.mark.parametrize(("layers", "top1"), [(10, "77.6"), (15, "78.4"), (19, "78.7")])
def test_san_is_trained_as_upstream(layers, top1):
    settings = config.load(f"acmix_san{layers}")
    optimizer = settings.optimizer
    assert (settings.train.epochs, optimizer.name, optimizer.lr, optimizer.base_batch_size) == (
        100,
        "momentum",
        0.1,
        256,
    )
    assert (optimizer.momentum, optimizer.weight_decay, settings.augment.label_smoothing) == (0.9, 1e-4, 0.1)
    assert f"# published: {top1} % top-1" in config.find(f"acmix_san{layers}").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("size", "published"), [("tiny", "78.0 % top-1"), ("small", "81.7 % top-1"), ("large", "unknown")]
)
def test_pvt_is_trained_as_upstream(size, published):
    settings = config.load(f"acmix_pvt_{size}")
    optimizer = settings.optimizer
    assert (settings.train.epochs, settings.schedule.warmup_epochs, settings.model.drop_path_rate) == (300, 5, 0.1)
    assert (optimizer.name, optimizer.lr, optimizer.base_batch_size, optimizer.weight_decay) == (
        "adamw",
        5e-4,
        512,
        0.05,
    )
    assert f"# published: {published}" in config.find(f"acmix_pvt_{size}").read_text(encoding="utf-8")


def test_fine_tuning_is_found_with_and_without_its_folder_and_is_short_and_gentle():
    for name in ("swin_tiny_patch4_window7_224", "deit_small_patch16_224", "pvt_v2_b1"):
        settings = config.load(f"finetune/{name}.yaml")
        assert settings == config.load(name)
        assert settings.model.pretrained is True
        assert settings.train.epochs == 30
        assert settings.optimizer.layer_decay < 1


def test_a_name_like_no_other_is_answered_with_those_of_its_folder():
    with pytest.raises(UsageError, match=r"; shipped: acmix_\S+, .*, ade20k/…, coco/…, finetune/…$") as error:
        config.load("zzz")
    assert "mask_rcnn" not in str(error.value)
    with pytest.raises(UsageError, match=r"; shipped: coco/cascade_mask_rcnn_\S+, (coco/\S+, )+coco/\S+$"):
        config.load("coco/zzz")


@pytest.mark.parametrize("name", ["", ".", "finetune", "finetune/", "elsewhere/acmix_resnet50"])
def test_what_is_no_configuration_is_refused(name):
    with pytest.raises(UsageError, match="no configuration"):
        config.find(name)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epocs=1", "train.epocs=1: unknown key 'train.epocs'; did you mean 'train.epochs'?"),
        ("trane.epochs=1", "trane.epochs=1: unknown key 'trane'; did you mean 'train'?"),
        ("train.epochs=abc", "train.epochs=abc: input should be a valid integer"),
        ("optimizer.lr=fast", "optimizer.lr=fast: input should be a valid number"),
        (
            "augment.ratio=[0, 1]",
            "augment.ratio=[0, 1]: augment.ratio[0]=0: input should be greater than or equal to 0.01",
        ),
        ("augment=ligth", "augment=ligth: no such preset; did you mean 'light'?"),
        ("model.args=3", "model.args=3: expected a mapping, such as model.args.window_size=8"),
        ("data.mean=0.5", "data.mean=0.5: expected a list, such as 'data.mean=[0.5, 0.5, 0.5]'"),
        ("augment=off", "augment=off: no such preset; expected none, light"),
        ("train=false", "train=false: expected single settings, such as"),
        ("model=3", "model=3: expected single settings, such as model.name=VALUE"),
        # two settings that do not fit each other, one of them in the file
        ("data.img_size=2000", "data.img_size=2000: data.crop_pct=0.05: evaluation would resize images to 40000 px"),
        ("model.checkpoint=null", "model.checkpoint=null: model.head=new is for model.checkpoint, which is not set"),
        ("train.batch_size=3", "digits.yaml: unknown key 'data.sise'; did you mean"),
    ],
)
def test_a_wrong_setting_is_laid_to_where_it_was_written(override, said, tmp_path):
    file = tmp_path / "digits.yaml"
    sound = "data: {img_size: 1000, crop_pct: 0.05}\nmodel: {checkpoint: a.pt, head: new}\n"
    file.write_text("data: {sise: 3}" if "data.sise" in said else sound, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        config.load(file, [override])
    assert said in str(error.value)


def test_a_checkpoint_as_configuration_is_told_what_works(tmp_path):
    file = tmp_path / "best.pt"
    file.write_bytes(b"PK\x80")
    with pytest.raises(UsageError, match=r"is a checkpoint, no configuration; to go on with a run, give its folder"):
        config.load(file)
