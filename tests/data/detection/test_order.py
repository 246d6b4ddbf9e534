"""Which images a detector sees and in which order: the same on any number of processes and workers."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from acmix.data.dataset import PADDING
from acmix.data.detection import detection_train_loader, detection_val_loader
from acmix.data.detection_dataset import DetectionBatch
from tests.support.detection import config, flat, opened, steps


def assert_same(left: list[DetectionBatch], right: list[DetectionBatch]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


def test_one_process_two_processes_and_accumulation_see_the_same_images(folder):
    one = steps(config(folder, batch_size=8))
    assert len(one) == 23 // 8
    assert_same(one, steps(config(folder, batch_size=4), world_size=2))
    assert_same(one, steps(config(folder, batch_size=4, accumulation=2)))
    assert_same(one, steps(config(folder, batch_size=2, accumulation=2), world_size=2))


def test_workers_do_not_change_the_batches_and_an_epoch_continues_where_it_was_left(folder):
    whole = steps(config(folder), epoch=1)
    assert_same(whole[2:], steps(config(folder, workers=2), epoch=1, start_step=2))


def test_another_epoch_has_another_order_and_other_changes(folder):
    first, second = (steps(config(folder), epoch=epoch) for epoch in range(2))
    assert any(not torch.equal(a.index, b.index) for a, b in zip(first, second, strict=True))
    dataset = opened(folder, "train")
    assert not torch.equal(dataset[0, 1].image, dataset[0, 2].image)


def test_the_images_of_a_step_have_one_shape_as_far_as_they_go(folder):
    dataset = opened(folder, "train")
    high = np.array(dataset.groups) == 0
    assert high.sum() == 7
    # 7 high and 16 wide images: 1 + 4 steps of 4, or 1 + 3 and one of what is left of both
    for epoch in range(3):
        batches = steps(config(folder), epoch=epoch)
        shapes = [{dataset.groups[index] for index in batch.index.tolist()} for batch in batches]
        assert [len(each) for each in shapes] == [1] * 5
        assert shapes.count({0}) == 1
    mixed = [
        {dataset.groups[index] for index in batch.index.tolist()} for batch in steps(config(folder, batch_size=10))
    ]
    assert mixed == [{1}, {0, 1}]


def test_evaluation_covers_every_image_once_and_pads(folder):
    settings = config(folder, batch_size=2)
    loaders = [detection_val_loader(settings, rank=rank, world_size=2) for rank in range(2)]
    batches = [list(loader) for loader in loaders]
    assert len(loaders[0]) == len(loaders[1]) == len(batches[0]) == len(batches[1]) == 2
    rows = [
        (index, weight, int(target["image_id"]))
        for each in batches
        for batch in each
        for index, weight, target in zip(batch.index.tolist(), batch.weights.tolist(), batch.targets, strict=True)
    ]
    assert sorted(rows) == [(PADDING, 0.0, -1), *((index, 1.0, 10 + index) for index in range(5))]


def test_a_batch_goes_to_a_device_and_through_a_pipe(folder):
    batch = next(detection_train_loader(config(folder)).epoch(0))
    moved = batch.to("meta", memory_format=torch.channels_last)
    assert {tensor.device.type for tensor in flat((moved.images, moved.targets, moved.weights))} == {"meta"}
    assert moved.index.device.type == "cpu"
    dataset = opened(folder, "train")
    again = pickle.loads(pickle.dumps(dataset))
    assert all(torch.equal(a, b) for a, b in zip(flat(dataset[1].target), flat(again[1].target), strict=True))
