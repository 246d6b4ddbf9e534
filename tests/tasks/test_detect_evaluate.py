"""A detector is measured on every image that could be read, once, on any number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from acmix.config import validate
from acmix.data import ValLoader
from acmix.data.detection import detection_val_loader
from acmix.data.detection_dataset import DetectionDataset
from acmix.errors import UsageError
from acmix.tasks.detect.evaluate import evaluate
from tests.support.batches import batches_of
from tests.support.coco import make_split, oracle_mask
from tests.support.processes import Forked

CPU = torch.device("cpu")
SIDE = 24


class Reader(nn.Module):
    """Finds a square where the first channel says: (left, top, side, score, label) in its first row."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not self.training
        found = []
        for image in images:
            left, top, side, score, label = image[0, 0, :5].tolist()
            masks = torch.zeros(1, 1, *image.shape[-2:])
            masks[0, 0, int(top) : int(top + side), int(left) : int(left + side)] = 0.9
            box = torch.tensor([[left, top, left + side, top + side]])
            found.append(dict(boxes=box, scores=torch.tensor([score]), labels=torch.tensor([int(label)]), masks=masks))
        return found


class Scenes:
    """Five images with a square of 8 pixels each, of two classes."""

    def __init__(self, count: int = 5) -> None:
        self.images, self.annotations = [], []
        for number in range(count):
            left, top = 2.0 + number, 5.0
            image = torch.zeros(3, SIDE, SIDE)
            # the fourth is said to be of the wrong class
            label = 1 + (number % 2) if number != 3 else 1
            image[0, 0, :5] = torch.tensor([left, top, 8, 0.9 - 0.1 * number, label])
            self.images.append(image)
            right, bottom = left + 8, top + 8
            self.annotations.append(
                dict(
                    id=number + 1,
                    image_id=10 * number,
                    category_id=(4, 6)[number % 2],
                    iscrowd=0,
                    bbox=[left, top, 8.0, 8.0],
                    area=64.0,
                    segmentation=[[left, top, right, top, right, bottom, left, bottom]],
                )
            )

    def ground_truth(self) -> dict[str, Any]:
        """In COCO's form."""
        return {
            "images": [dict(id=10 * number, height=SIDE, width=SIDE) for number in range(len(self.images))],
            "categories": [dict(id=6, name="six"), dict(id=4, name="four")],
            "annotations": self.annotations,
        }

    def loader(self, **settings: Any) -> ValLoader:
        """Batches of two."""
        return batches_of(self.images, [{}] * len(self.images), ground_truth=self.ground_truth, **settings)


@pytest.mark.parametrize("training", [False, True])
def test_every_image_counts_once_and_the_model_s_mode_is_put_back(training: bool) -> None:
    model, told = Reader().train(training), []
    result = evaluate(model, Scenes().loader(), CPU, with_masks=True, on_batch=told.append)
    assert (result.images, len(told), model.training) == (5, 3, training)
    # five squares are found, one of them under the wrong name: of class 6 one of two, at a precision of 1
    half = 100 * 51 / 101
    for kind in ("box", "mask"):
        assert result.by_class["six"][f"{kind}_ap"] == pytest.approx(half)
        assert result.metrics[f"{kind}_ar100"] == pytest.approx(75)
    assert result.by_class["four"]["objects"] == 3


def test_boxes_alone_are_measured_where_the_head_has_no_masks() -> None:
    result = evaluate(Reader(), Scenes().loader(), CPU, with_masks=False)
    assert len(result.lines) == 13
    assert not any(name.startswith("mask") for name in result.metrics)


class Knowing(nn.Module):
    """Answers with the ground truth of an image that it recognises."""

    def __init__(self, dataset: DetectionDataset) -> None:
        super().__init__()
        truth = dataset.ground_truth()
        self.answers = {}
        for index, picture in enumerate(truth["images"]):
            row = dataset[index]
            rows = [each for each in truth["annotations"] if each["image_id"] == picture["id"]]
            boxes = torch.tensor([each["bbox"] for each in rows]).view(-1, 4)
            drawn = [oracle_mask(each["segmentation"], picture["height"], picture["width"]) for each in rows]
            self.answers[row.image.numpy().tobytes()] = {
                "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
                "labels": row.target["labels"],
                "scores": torch.ones(len(rows)),
                "masks": torch.from_numpy(np.stack(drawn)[:, None]).float(),
            }

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self.answers[image.numpy().tobytes()] for image in images]


def test_the_ground_truth_of_real_files_is_an_ap_of_a_hundred_and_a_torn_file_is_not_counted(tmp_path: Path) -> None:
    ids = (9, 4, 70)
    make_split(tmp_path, "val", 7, ids=ids)
    settings = {
        "task": {"name": "detect", "head": "mask_rcnn", "num_classes": 3, "min_size": 24, "max_size": 64},
        "data": {"dir": str(tmp_path), "workers": 0},
        "train": {"batch_size": 2},
    }
    loader = detection_val_loader(validate(settings))
    model = Knowing(loader.dataset)
    (tmp_path / "val" / "0003.jpg").write_bytes(b"torn")
    failed: list[int] = []
    result = evaluate(model, loader, CPU, with_masks=True, on_batch=lambda batch: failed.extend(batch.failed.tolist()))
    assert (result.images, max(failed)) == (6, 3)
    assert result.metrics["box_ap"] == pytest.approx(100)
    assert result.metrics["mask_ap"] == pytest.approx(100)
    assert [*result.by_class] == ["dog", "cat", "bird"]
    assert sum(row["objects"] or 0 for row in result.by_class.values()) == 7 + 3 - 2


def test_nothing_readable_is_an_error_and_the_mode_is_put_back() -> None:
    model = Reader().train()
    with pytest.raises(UsageError, match="none of the validation images could be read"):
        evaluate(model, Scenes(1).loader(rank=1, world=2), CPU, with_masks=False)
    assert model.training


def of_a_process(folder: str) -> None:
    """A process's share of five images; then a class that the data has not, met by one process alone."""
    dist.init_process_group("gloo")
    rank, scenes, said = dist.get_rank(), Scenes(), ""
    result = evaluate(Reader(), scenes.loader(rank=rank, world=2), CPU, with_masks=True)
    scenes.images[1][0, 0, 4] = 3
    try:
        evaluate(Reader(), scenes.loader(rank=rank, world=2), CPU, with_masks=True)
    except UsageError as error:
        said = str(error)
    told: list[Any] = [result.metrics, result.by_class, result.lines, result.images, said]
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one_and_fail_together(tmp_path: Path) -> None:
    ends = Forked(of_a_process, str(tmp_path), processes=2).finish()
    assert [(end.status, end.errors) for end in ends] == [(0, "")] * 2
    alone = evaluate(Reader(), Scenes().loader(), CPU, with_masks=True)
    for rank in range(2):
        *told, said = json.loads((tmp_path / f"{rank}.json").read_text())
        assert told == [alone.metrics, alone.by_class, list(alone.lines), alone.images]
        assert said.startswith("the model found class 3, and the data has 2 categories")
