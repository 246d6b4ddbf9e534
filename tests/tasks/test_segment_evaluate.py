"""A segmenter is measured at the original size of every label map, whatever fills up the batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.config import validate
from acmix.data.segmentation import segmentation_val_loader
from acmix.errors import UsageError
from acmix.tasks.segment.confusion import count_pixels, measures
from acmix.tasks.segment.evaluate import evaluate
from tests.support.batches import batches_of
from tests.support.label_maps import CLASSES, COLOURS, make_pairs
from tests.support.processes import Forked

CPU = torch.device("cpu")
NAMES = ["sky", "sea", "sand"]


class Reader(nn.Module):
    """Takes the logits out of the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images


def pictures(count: int = 7) -> tuple[list[Tensor], list[Tensor]]:
    """Images (3, h, w), and label maps twice as large."""
    random = torch.Generator().manual_seed(0)
    sizes = [(4 + 3 * number % 5, 6) for number in range(count)]
    images = [torch.randn(3, *size, generator=random) for size in sizes]
    labels = [torch.randint(0, 3, (2 * h, 2 * w), generator=random) for h, w in sizes]
    for each in labels:
        each[0, :3] = 255
    return images, labels


def expected(images: list[Tensor], labels: list[Tensor]) -> dict[str, float]:
    """The measures of all, one image after the other."""
    matrix = torch.zeros(3, 3, dtype=torch.int64)
    for image, target in zip(images, labels, strict=True):
        size = (target.shape[0], target.shape[1])
        logits = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        matrix += count_pixels(logits.argmax(dim=0), target, 3)
    return measures(matrix, NAMES, images=len(images)).metrics


@pytest.mark.parametrize("training", [False, True])
def test_every_image_counts_once_and_the_model_s_mode_is_put_back(training: bool) -> None:
    images, labels = pictures()
    model, told = Reader().train(training), []
    result = evaluate(model, batches_of(images, labels, size=4, classes=NAMES), CPU, on_batch=told.append)
    assert (result.images, result.metrics) == (7, expected(images, labels))
    assert (model.training, len(told)) == (training, 2)


def test_windows_scales_and_mirrors_reach_the_model() -> None:
    images, labels = pictures(2)
    seen: list[tuple[int, ...]] = []

    class Log(Reader):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(tuple(images.shape))
            return images

    evaluate(Log(), batches_of(images, labels, classes=NAMES), CPU, crop=4, scales=(1.0, 2.0), flip=True)
    assert {*seen} == {(1, 3, 4, 4)}
    assert len(seen) > 8


class Nearest(nn.Module):
    """Gives each pixel the class whose colour is the nearest."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        colours = torch.tensor(COLOURS) / 255
        self.colours = (colours - torch.tensor(mean)) / torch.tensor(std)  # (K, 3)

    def forward(self, images: Tensor) -> Tensor:
        return -(images[:, None] - self.colours[None, :, :, None, None]).abs().sum(dim=2)  # (b, K, h, w)


@pytest.mark.parametrize("sliding", [False, True])
def test_real_files_are_measured_at_their_own_size_and_a_torn_file_is_not_counted(
    tmp_path: Path, sliding: bool
) -> None:
    make_pairs(tmp_path, 1, 5)
    (tmp_path / "annotations" / "validation" / "validation_001.png").write_bytes(b"torn")
    config = validate(
        {
            "task": {"name": "segment", "num_classes": CLASSES, "min_size": 32, "max_size": 64, "crop": 24},
            "data": {
                "dir": str(tmp_path),
                "train_split": "training",
                "val_split": "validation",
                "workers": 0,
            },
            "train": {"batch_size": 2},
        }
    )
    model = Nearest(tuple(config.data.mean), tuple(config.data.std))
    loader = segmentation_val_loader(config)
    failed: list[int] = []
    result = evaluate(
        model,
        loader,
        CPU,
        crop=config.task.crop_sides if sliding else None,
        on_batch=lambda batch: failed.extend(batch.failed.tolist()),
    )
    assert (result.images, max(failed)) == (4, 1)
    assert result.metrics["pixel_accuracy"] > 90
    # every pixel at the size of the label maps, 64 or 55 wide and 40, 47 or 54 high
    assert sum(row["pixels"] or 0 for row in result.by_class.values()) == 40 * 64 + 54 * 64 + 40 * 55 + 47 * 64


def test_nothing_readable_and_other_classes_are_errors_and_the_mode_is_put_back() -> None:
    images, labels = pictures(2)
    model = Reader().train()
    with pytest.raises(UsageError, match="none of the validation images could be read"):
        evaluate(model, batches_of(images, labels, rank=2, world=3, classes=NAMES), CPU)
    with pytest.raises(UsageError, match=r"the model has 3 classes and the data 2; set task.num_classes=2"):
        evaluate(model, batches_of(images, labels, classes=NAMES[:2]), CPU)
    assert model.training


def of_a_process(folder: str) -> None:
    """A process's share of seven images; then one that one process alone cannot count."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    images, labels = pictures()
    result = evaluate(Reader(), batches_of(images, labels, rank=rank, world=2, classes=NAMES), CPU)
    labels[1][0, 0] = 9
    said = ""
    try:
        evaluate(Reader(), batches_of(images, labels, rank=rank, world=2, classes=NAMES), CPU)
    except UsageError as error:
        said = str(error)
    told: list[Any] = [result.metrics, result.by_class, result.images, said]
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one_and_fail_together(tmp_path: Path) -> None:
    ends = Forked(of_a_process, str(tmp_path), processes=2).finish()
    assert [(end.status, end.errors) for end in ends] == [(0, "")] * 2
    images, labels = pictures()
    alone = evaluate(Reader(), batches_of(images, labels, classes=NAMES), CPU)
    for rank in range(2):
        metrics, by_class, counted, said = json.loads((tmp_path / f"{rank}.json").read_text())
        assert (metrics, by_class, counted) == (alone.metrics, alone.by_class, alone.images)
        assert said.startswith("a label map holds 9")
