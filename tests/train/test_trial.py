"""What one forward pass tells before the first step, on one process and on several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from acmix.errors import UsageError
from acmix.tasks import Classification, task_of
from acmix.train.distributed import World
from acmix.train.loop import train
from acmix.train.optim import Precision
from acmix.train.trial import try_forward
from tests.support.checks import one_error
from tests.support.dense import dense_config
from tests.support.processes import command
from tests.support.tiny import CLASSES, tiny_config, write_config

pytestmark = pytest.mark.usefixtures("undrawn")
CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
UNMIXED = ("train.batch_size=1", "train.accumulation=1", "augment.mixup=0", "augment.cutmix=0")
RESNET = ("model.name=acmix_resnet26", "model.args={layers: [1, 1, 1, 1]}", "model.drop_path_rate=0")
SAID = (
    "batch norm on one value per channel: layer4.0.downsample.1 and 2 other batch norms of 'acmix_resnet26' would see "
    "a 1x1 map of one image (train.batch_size=1, data.img_size=32); raise train.batch_size or data.img_size"
)


class Norms(nn.Module):
    """A network of one batch norm on a map of 1x1, and a head."""

    def __init__(self, norm: nn.Module, outputs: int = CLASSES) -> None:
        super().__init__()
        self.norm, self.head = norm, nn.Linear(3, outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(images.mean((2, 3), keepdim=True)).flatten(1))


def tried(model: nn.Module, batch_size: int, world: World, precision: Precision) -> None:
    """Tries a network as a run with such a batch would."""
    config = tiny_config("", f"train.batch_size={batch_size}")
    try_forward(model, Classification(config), config, world, precision)


def test_batch_norm_on_one_value_per_channel_is_one_line_and_nothing_is_written(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        train(tiny_config(data, *RESNET, *UNMIXED), tmp_path / "run")
    assert str(error.value) == SAID
    assert not (tmp_path / "run").exists()


def test_a_larger_crop_is_no_advice_where_a_head_averages_to_one_pixel() -> None:
    config = dense_config("segment", "", "train.batch_size=1")
    task = task_of(config)
    with pytest.raises(UsageError, match=r"head.pooling.convs.0.1 .*, task.crop=48\); raise train.batch_size$"):
        try_forward(task.build(), task, config, ALONE, Precision("fp32", CPU))


def test_every_process_ends_over_it_with_one_line(data: Path, tmp_path: Path) -> None:
    told = write_config(tmp_path / "tiny.yaml", data, *RESNET, *UNMIXED)
    ends = command("train", told, "--output", tmp_path / "run", processes=2).finish()
    assert [end.status for end in ends] == [2, 2]
    for end in ends:
        one_error(end.errors, SAID)


@pytest.mark.parametrize(
    ("norm", "batch_size", "processes", "refused"),
    [
        (nn.BatchNorm2d(3), 1, 1, True),
        (nn.BatchNorm2d(3), 1, 2, True),
        (nn.BatchNorm2d(3), 2, 1, False),
        (nn.BatchNorm2d(3, track_running_stats=False), 1, 1, True),
        (nn.BatchNorm2d(3, track_running_stats=False), 3, 1, False),
        (nn.SyncBatchNorm(3), 1, 1, True),
        # every process gives a value
        (nn.SyncBatchNorm(3), 1, 2, False),
        (nn.GroupNorm(1, 3), 1, 1, False),
    ],
)
def test_values_are_counted_as_the_norm_counts_them(
    norm: nn.Module, batch_size: int, processes: int, refused: bool
) -> None:
    world, precision = World(0, processes, CPU), Precision("fp32", CPU)
    if not refused:
        tried(Norms(norm), batch_size, world, precision)
        return
    with pytest.raises(UsageError, match="batch norm on one value per channel: norm of"):
        tried(Norms(norm), batch_size, world, precision)


def test_a_model_stays_as_it_was() -> None:
    model = Norms(nn.BatchNorm2d(3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    tried(model, 4, ALONE, Precision("bf16", CPU))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_another_answer_than_a_number_an_image_and_class_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"answers 2 images with \[2, 7\]; expected \[2, 4\]"):
        tried(Norms(nn.BatchNorm2d(3), outputs=7), 4, ALONE, Precision("fp32", CPU))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.name=convnext_atto", "model.args={}", "data.img_size=16"], "cannot read 3x16x16 images: "),
        (["augment.auto_augment=foo"], "augment.auto_augment='foo' is none of timm's policies"),
        (["augment.cutmix_minmax=[0.3, 0.31]"], "augment.cutmix_minmax=[0.3, 0.31] leaves no side to draw from"),
        (["data.mean=[0.5]"], "data.mean has 1 values and model.in_chans=3"),
        (["data.format=foo/bar"], "data.format='foo/bar' is unknown; expected auto, wds/"),
        (["optimizer.name=sgd", "optimizer.momentum=0"], "optimizer.name='sgd' cannot be used here: "),
    ],
)
def test_what_a_run_cannot_do_is_one_line_before_anything_is_written(
    data: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(UsageError) as error:
        train(tiny_config(data, *overrides), tmp_path / "run")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
