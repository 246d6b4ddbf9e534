"""The configurations of detection and segmentation hold the published recipes."""

from importlib import resources
from pathlib import Path

import pytest

from acmix import config

FOLDER = Path(str(resources.files("acmix"))) / "configs"
SHIPPED = sorted(path for folder in ("coco", "ade20k") for path in (FOLDER / folder).glob("*.yaml"))
# what the repositories say of the plain networks
COCO = {
    "retinanet_pvt_tiny": "36.7 box AP",
    "retinanet_pvt_small": "40.4 box AP",
    "retinanet_swin_tiny": "41.5 box AP",
    "retinanet_resnet50": "36.5 box AP",
    "mask_rcnn_pvt_tiny": "36.7 box AP, 35.1 mask AP",
    "mask_rcnn_pvt_small": "40.4 box AP, 37.8 mask AP",
    "mask_rcnn_swin_tiny": "43.7 box AP, 39.8 mask AP",
    "mask_rcnn_swin_tiny_3x": "46.0 box AP, 41.6 mask AP",
    "mask_rcnn_swin_small": "unknown with this schedule",
    "mask_rcnn_swin_small_3x": "48.5 box AP, 43.3 mask AP",
    "mask_rcnn_resnet50": "38.2 box AP, 34.7 mask AP",
    "cascade_mask_rcnn_swin_tiny": "48.1 box AP, 41.7 mask AP",
    "cascade_mask_rcnn_swin_tiny_3x": "50.4 box AP, 43.7 mask AP",
    "cascade_mask_rcnn_swin_small": "unknown with this schedule",
    "cascade_mask_rcnn_swin_small_3x": "51.9 box AP, 45.0 mask AP",
    "cascade_mask_rcnn_resnet50": "41.2 box AP, 35.9 mask AP",
}
ADE20K = {
    "semantic_fpn_pvt_tiny": "36.6 mIoU",
    "semantic_fpn_pvt_small": "41.9 mIoU",
    "semantic_fpn_resnet50": "37.49 mIoU",
    "upernet_swin_tiny": "44.51 mIoU",
    "upernet_swin_small": "47.64 mIoU",
    "upernet_resnet50": "42.05 mIoU",
}


def with_path(name: str) -> str:
    """The name of a plain configuration's other arm."""
    return next(name.replace(family, f"acmix_{family}") for family in ("pvt", "swin", "resnet") if family in name)


def test_each_published_figure_has_both_arms_and_nothing_else_is_shipped():
    expected = {
        Path(folder, f"{name}.yaml") for folder, names in (("coco", COCO), ("ade20k", ADE20K)) for name in names
    }
    expected |= {path.with_name(with_path(path.name)) for path in expected}
    assert {path.relative_to(FOLDER) for path in SHIPPED} == expected


@pytest.mark.parametrize("name", [f"coco/{name}" for name in COCO] + [f"ade20k/{name}" for name in ADE20K])
def test_both_arms_differ_by_the_convolution_path_alone(name):
    plain, ours = config.load(f"{name}.yaml"), config.load(f"{with_path(name)}.yaml")
    assert not plain.model.conv_path
    assert ours == plain.model_copy(update={"model": plain.model.model_copy(update={"conv_path": True})})
    figure = (COCO | ADE20K)[Path(name).stem]
    headers = [
        (FOLDER / f"{each}.yaml").read_text(encoding="utf-8").partition("task:")[0] for each in (name, with_path(name))
    ]
    assert f"# published: {figure}" in headers[0]
    assert "# published: unknown; " in headers[1]
    assert figure.replace("unknown ", "") in headers[1]
    for header, own, other in zip(headers, (name, with_path(name)), (with_path(name), name), strict=True):
        assert f"bash run.sh 8 {own}.yaml <DATA_DIR>" in header
        assert f": {Path(other).name}.yaml" in header
        assert "# ours: not trained" in header


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_holds_for_all(path):
    settings = config.load(path)
    train, schedule, task = settings.train, settings.schedule, settings.task
    assert path.stem.startswith(f"{task.head}_")
    assert (train.ema_decay, train.clip_grad, settings.augment.hflip) == (None, None, 0.5)
    if path.parent.name == "coco":
        threefold = path.stem.endswith("_3x")
        assert (task.name, task.num_classes, task.max_size) == ("detect", 80, 1333)
        assert (settings.data.train_split, settings.data.val_split) == ("train2017", "val2017")
        assert (train.epochs, train.batch_size, settings.optimizer.base_batch_size) == (36 if threefold else 12, 2, 16)
        assert (schedule.name, schedule.milestones) == ("multistep", (27, 33) if threefold else (8, 11))
        assert (schedule.warmup_steps, schedule.warmup_lr) == (500, pytest.approx(settings.optimizer.lr / 1000))
    else:
        assert (task.name, task.num_classes, task.crop, task.ignore_zero) == ("segment", 150, (512,), True)
        assert (task.scale, task.crop_class_share, task.photometric) == ((0.5, 2.0), 0.75, True)
        assert (settings.data.train_split, settings.data.val_split) == ("training", "validation")
        assert schedule.name == "poly"


@pytest.mark.parametrize(
    ("name", "drop_path"),
    [
        ("mask_rcnn_acmix_swin_tiny", 0.1),
        ("mask_rcnn_acmix_swin_tiny_3x", 0.2),
        ("mask_rcnn_acmix_swin_small_3x", 0.2),
        ("cascade_mask_rcnn_acmix_swin_tiny", 0.0),
        ("cascade_mask_rcnn_acmix_swin_tiny_3x", 0.2),
        ("cascade_mask_rcnn_acmix_swin_small_3x", 0.2),
    ],
)
def test_swin_detects_as_published(name, drop_path):
    settings = config.load(name)
    optimizer = settings.optimizer
    assert settings.model.drop_path_rate == drop_path
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay, optimizer.no_decay) == ("adamw", 1e-4, 0.05, "norms")
    assert settings.task.min_size == tuple(range(480, 801, 32))
    assert settings.task.crop == (384, 600)


@pytest.mark.parametrize(
    ("name", "optimizer", "lr", "drop_path"),
    [
        ("retinanet_acmix_pvt_small", "adamw", 1e-4, 0.1),
        ("mask_rcnn_acmix_pvt_small", "adamw", 2e-4, 0.1),
        ("retinanet_acmix_swin_tiny", "momentum", 0.01, 0.2),
        ("retinanet_acmix_resnet50", "momentum", 0.01, 0.0),
        ("mask_rcnn_acmix_resnet50", "momentum", 0.02, 0.0),
        ("cascade_mask_rcnn_acmix_resnet50", "momentum", 0.02, 0.0),
    ],
)
def test_the_others_detect_as_published(name, optimizer, lr, drop_path):
    settings = config.load(name)
    assert (settings.optimizer.name, settings.optimizer.lr, settings.model.drop_path_rate) == (optimizer, lr, drop_path)
    assert (settings.optimizer.weight_decay, settings.optimizer.no_decay) == (1e-4, "nothing")
    assert (settings.task.min_size, settings.task.crop) == ((800,), None)


def test_swin_segments_as_published():
    settings = config.load("ade20k/upernet_acmix_swin_tiny.yaml")
    optimizer, schedule, train = settings.optimizer, settings.schedule, settings.train
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay, optimizer.no_decay) == ("adamw", 6e-5, 0.01, "norms")
    assert (optimizer.base_batch_size, train.batch_size, train.steps) == (16, 2, 160_000)
    assert (schedule.power, schedule.warmup_steps, schedule.min_lr) == (1.0, 1500, 0.0)
    assert (schedule.warmup_lr, settings.model.drop_path_rate) == (pytest.approx(1e-6 * optimizer.lr), 0.3)


def test_pvt_segments_as_published():
    settings = config.load("ade20k/semantic_fpn_acmix_pvt_small.yaml")
    optimizer, schedule, train = settings.optimizer, settings.schedule, settings.train
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay, optimizer.no_decay) == (
        "adamw",
        2e-4,
        1e-4,
        "nothing",
    )
    assert (optimizer.base_batch_size, train.batch_size, train.steps) == (32, 4, 40_000)
    assert (schedule.power, schedule.warmup_steps, schedule.min_lr) == (0.9, 0, 0.0)
    assert (settings.task.align, settings.model.drop_path_rate) == (32, 0.1)


@pytest.mark.parametrize("head", ["semantic_fpn", "upernet"])
def test_resnet_segments_as_published(head):
    settings = config.load(f"ade20k/{head}_acmix_resnet50.yaml")
    optimizer, schedule, train = settings.optimizer, settings.schedule, settings.train
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay, optimizer.no_decay) == (
        "momentum",
        0.01,
        5e-4,
        "nothing",
    )
    assert (optimizer.base_batch_size, train.batch_size, train.steps) == (16, 2, 160_000)
    assert (schedule.power, schedule.warmup_steps, schedule.min_lr) == (0.9, 0, 1e-4)
