"""Which images a segmentation run sees, in which order and how changed, and what becomes of those it cannot read."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acmix.config import Config, validate
from acmix.data.batch import UnreadableFiles
from acmix.data.classes import Trained
from acmix.data.dataset import PADDING, OtherClasses
from acmix.data.label_maps import IGNORED
from acmix.data.segmentation import (
    SegmentationBatch,
    open_segmentation,
    segmentation_train_loader,
    segmentation_val_loader,
)
from acmix.errors import UsageError
from tests.support.label_maps import CLASSES, blocks, make_pairs, write_image, write_labels

TRAINING, VALIDATION = 13, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pairs(tmp_path_factory.mktemp("pairs"), TRAINING, VALIDATION)


def config(
    root: Path, *, batch_size: int = 2, accumulation: int = 1, workers: int = 0, seed: int = 3, **task: Any
) -> Config:
    return validate(
        {
            "task": {"name": "segment", "num_classes": CLASSES, "min_size": 32, "max_size": 64, "crop": 32} | task,
            "data": {"dir": str(root), "train_split": "training", "val_split": "validation", "workers": workers},
            "train": {"batch_size": batch_size, "accumulation": accumulation, "seed": seed},
        }
    )


def steps(settings: Config, world_size: int = 1, epoch: int = 0, start_step: int = 0) -> list[dict[str, torch.Tensor]]:
    """One batch an optimizer step: the micro-batches of all processes put together."""
    loaders = [segmentation_train_loader(settings, rank=rank, world_size=world_size) for rank in range(world_size)]
    streams = [list(loader.epoch(epoch, start_step)) for loader in loaders]
    accumulation = settings.train.accumulation
    together = []
    for step in range(loaders[0].steps_per_epoch - start_step):
        passes = range(step * accumulation, (step + 1) * accumulation)
        parts = [stream[number]._asdict() for number in passes for stream in streams]
        together.append({key: torch.cat([part[key] for part in parts]) for key in parts[0]})
    return together


def assert_same(left: list[dict[str, torch.Tensor]], right: list[dict[str, torch.Tensor]]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


# training


def test_a_batch_of_training_is_stacked_crops(folder):
    batches: list[Any] = list(segmentation_train_loader(config(folder)).epoch(0))
    assert len(batches) == TRAINING // 2
    assert {type(batch) for batch in batches} == {SegmentationBatch}
    for batch in batches:
        assert (batch.images.dtype, batch.images.shape) == (torch.float32, (2, 3, 32, 32))
        assert (batch.targets.dtype, batch.targets.shape) == (torch.int64, (2, 32, 32))
        assert set(batch.targets.unique().tolist()) <= {*range(CLASSES), IGNORED}
        assert batch.weights.tolist() == [1, 1]
        assert batch.failed.tolist() == [-1, -1]
    index = torch.cat([batch.index for batch in batches]).tolist()
    assert len(set(index)) == len(index) == TRAINING // 2 * 2


def test_one_process_two_processes_and_accumulation_see_the_same_images(folder):
    one = steps(config(folder, batch_size=4))
    assert_same(one, steps(config(folder, batch_size=2), world_size=2))
    assert_same(one, steps(config(folder, batch_size=2, accumulation=2)))
    assert_same(one, steps(config(folder, batch_size=1, accumulation=2), world_size=2))


def test_workers_do_not_change_the_batches(folder):
    assert_same(steps(config(folder)), steps(config(folder, workers=2)))


def test_an_epoch_continues_where_it_was_left(folder):
    settings = config(folder, accumulation=2)
    whole = steps(settings, epoch=1)
    assert_same(whole[1:], steps(settings, epoch=1, start_step=1))
    # also after another epoch was begun
    loader = segmentation_train_loader(settings)
    next(loader.epoch(0))
    left = [batch.images for batch in loader.epoch(1, start_step=1)]
    assert torch.equal(torch.cat(left), torch.cat([batch["images"] for batch in whole[1:]]))


def test_epochs_and_seeds_differ(folder):
    first = steps(config(folder))
    for batches in (steps(config(folder), epoch=1), steps(config(folder, seed=4))):
        assert [batch["index"].tolist() for batch in first] != [batch["index"].tolist() for batch in batches]
        ours = {int(i): image for batch in first for i, image in zip(batch["index"], batch["images"], strict=True)}
        theirs = {int(i): image for batch in batches for i, image in zip(batch["index"], batch["images"], strict=True)}
        common = ours.keys() & theirs.keys()
        assert len(common) > 8
        assert not any(torch.equal(ours[i], theirs[i]) for i in common)


def test_the_callers_generators_are_left_alone(folder):
    dataset = open_segmentation(config(folder), "train", training=True)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = dataset[3, 17]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.image, dataset[3, 17].image)
    assert not torch.equal(first.image, dataset[3, 18].image)
    assert torch.equal(dataset[3].target, dataset[3].target)


def test_more_images_in_a_step_than_there_are_is_refused(folder):
    with pytest.raises(UsageError, match=r"the global batch 26 .* is larger than the 13 training images"):
        segmentation_train_loader(config(folder, batch_size=13), world_size=2)


# evaluation


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluation_counts_every_image_once_in_its_own_size(folder, world_size, batch_size):
    counted = []
    lengths = set()
    for rank in range(world_size):
        loader = segmentation_val_loader(config(folder), rank=rank, world_size=world_size, batch_size=batch_size)
        lengths.add(len(loader))
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            for image, target, weight, index in zip(*batch[:3], batch.index.tolist(), strict=True):
                assert image.dtype == torch.float32
                assert target.dtype == torch.int64
                if index == PADDING:
                    assert weight == 0
                    assert (target == IGNORED).all()
                    continue
                counted.append(index)
                classes = blocks(100 + index, height=40 + 7 * (index % 3), width=64 - 9 * (index % 2))
                assert np.array_equal(target.numpy(), classes)
                factor = 32 / min(classes.shape)
                assert image.shape == (3, *(round(side * factor) for side in classes.shape))
    assert len(lengths) == 1
    assert sorted(counted) == list(range(VALIDATION))


def test_evaluation_aligns_sides(folder):
    for batch in segmentation_val_loader(config(folder, align=32)):
        assert all(side % 32 == 0 for image in batch.images for side in image.shape[1:])


def test_a_batch_goes_to_a_device_with_all_that_a_model_needs(folder):
    (training, *_), (evaluation, *_) = (
        segmentation_train_loader(config(folder)).epoch(0),
        segmentation_val_loader(config(folder)),
    )
    moved = training.to("meta", memory_format=torch.channels_last)
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert [each.device.type for each in moved] == ["meta", "meta", "meta", "cpu", "cpu"]
    moved = evaluation.to("meta", memory_format=torch.channels_last)
    assert all(each.device.type == "meta" for each in (*moved.images, *moved.targets, moved.weights))


# classes


def test_classes_and_their_names(folder):
    dataset = open_segmentation(config(folder, classes=["a", "b", "c", "d"]), "val", training=False)
    assert (dataset.classes, dataset.split, len(dataset)) == (["a", "b", "c", "d"], "val", VALIDATION)
    assert dataset.name(0) == "images/validation/validation_000.jpg"
    assert dataset.notes == ()


def test_a_list_beside_the_data_decides_about_the_number_of_classes(tmp_path):
    make_pairs(tmp_path, 2, 1)
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\nyellow\n")
    assert open_segmentation(config(tmp_path), "train", training=True).classes == ["red", "green", "blue", "yellow"]
    with pytest.raises(OtherClasses, match=r"set task\.num_classes=4"):
        segmentation_train_loader(config(tmp_path, num_classes=150))
    with pytest.raises(OtherClasses, match=r"set task\.num_classes=4"):
        segmentation_val_loader(config(tmp_path, num_classes=150))


def test_a_model_s_classes_decide_about_labels(tmp_path):
    make_pairs(tmp_path, 2, 1)
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\nyellow\n")
    trained = Trained(["sky", "yellow", "blue", "green", "red"], True, "the model")
    (batch,) = segmentation_val_loader(config(tmp_path, num_classes=5), trained=trained)
    classes = blocks(100, height=40)
    assert np.array_equal(batch.targets[0].numpy(), 4 - classes)


# what cannot be read


def spoil(root: Path, number: int, split: str = "training") -> None:
    """Gives an image a label map of another size."""
    write_labels(root / f"annotations/{split}/{split}_{number:03d}.png", np.ones((3, 3), dtype=np.uint8))


def test_an_unreadable_pair_gives_way_to_the_next_in_training(tmp_path):
    make_pairs(tmp_path, 4, 1)
    spoil(tmp_path, 2)
    dataset = open_segmentation(config(tmp_path), "train", training=True)
    row, following = dataset[2, 5], dataset[3, 5]
    assert (row.failed, row.index, row.weight) == (2, 2, 1.0)
    assert torch.equal(row.image, following.image)
    assert torch.equal(row.target, following.target)
    assert "annotations/training/training_002.png is 3x3 and its image 64x54" in dataset.why(2)
    assert dataset.why(3) == ""


def test_an_unreadable_pair_has_no_weight_in_evaluation(tmp_path):
    make_pairs(tmp_path, 1, 3)
    spoil(tmp_path, 1, "validation")
    (batch,) = segmentation_val_loader(config(tmp_path), batch_size=3)
    assert batch.weights.tolist() == [1, 0, 1]
    assert batch.failed.tolist() == [-1, 1, -1]
    assert (batch.targets[1] == IGNORED).all()


def test_training_without_a_readable_pair_gives_blank_rows(tmp_path):
    make_pairs(tmp_path, 2, 1)
    for number in range(2):
        spoil(tmp_path, number)
    (batch,) = segmentation_train_loader(config(tmp_path)).epoch(0)
    assert batch.weights.tolist() == [0, 0]
    assert (batch.targets == IGNORED).all()
    assert batch.images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("training", [True, False])
def test_more_than_one_percent_of_unreadable_pairs_end_a_run(tmp_path, training):
    make_pairs(tmp_path, 4, 4)
    for split in ("training", "validation"):
        spoil(tmp_path, 1, split)
    loader: Any = segmentation_train_loader(config(tmp_path)) if training else segmentation_val_loader(config(tmp_path))
    unreadable = UnreadableFiles()
    for batch in loader.epoch(0) if training else loader:
        unreadable.add(batch, loader.dataset)
    with pytest.raises(UsageError, match=r"1 of the 4 (train|val) images are unreadable, over 1%") as error:
        unreadable.check()
    assert "_001.png is 3x3 and its image" in str(error.value)
    assert "\n" not in str(error.value)


def truncated(root: Path) -> None:
    file = root / "annotations/training/training_001.png"
    file.write_bytes(file.read_bytes()[:-30])


def jpeg(root: Path) -> None:
    file = root / "annotations/training/training_001.png"
    write_image(file.with_suffix(".jpg"), blocks(1))
    file.unlink()


def truncated_image(root: Path) -> None:
    file = root / "images/training/training_001.jpg"
    file.write_bytes(file.read_bytes()[:300])


def another_value(root: Path) -> None:
    write_labels(root / "annotations/training/training_001.png", np.full((47, 55), 77, dtype=np.uint16))


def colours(root: Path) -> None:
    write_image(root / "annotations/training/training_001.png", blocks(1, 47, 55))


@pytest.mark.parametrize("spoiled", [truncated, jpeg, truncated_image, another_value, colours])
def test_what_is_wrong_with_a_pair_is_noted_and_the_rest_is_trained_on(tmp_path, spoiled):
    make_pairs(tmp_path, 4, 1)
    spoiled(tmp_path)
    loader = segmentation_train_loader(config(tmp_path))
    assert len(loader.dataset) == 4
    batches = list(loader.epoch(0))
    assert sorted(torch.cat([batch.failed for batch in batches]).tolist()) == [-1, -1, -1, 1]
    assert all((batch.weights == 1).all() for batch in batches)
    assert loader.dataset.why(1).count("\n") == 0
    assert "training_001" in loader.dataset.why(1)


def test_pairs_of_very_different_sizes_make_one_batch(tmp_path):
    for number, size in enumerate([(1, 5000), (60, 1), (1, 1), (200, 300)]):
        for split in ("training", "validation"):
            write_image(tmp_path / f"images/{split}/{number}.png", blocks(number, *size))
            write_labels(tmp_path / f"annotations/{split}/{number}.png", blocks(number, *size) + np.uint8(1))
    (batch,) = segmentation_train_loader(config(tmp_path, batch_size=4)).epoch(0)
    assert batch.weights.tolist() == [1] * 4
    assert batch.images.isfinite().all()
    (batch,) = segmentation_val_loader(config(tmp_path, batch_size=4))
    assert batch.weights.tolist() == [1] * 4
    assert [tuple(target.shape) for target in batch.targets] == [(1, 5000), (60, 1), (1, 1), (200, 300)]
    assert max(max(image.shape) for image in batch.images) <= 64


def test_a_dataset_goes_to_other_processes(folder):
    for training in (True, False):
        dataset = open_segmentation(config(folder, photometric=True), "train", training=training)
        again = pickle.loads(pickle.dumps(dataset))
        assert all(torch.equal(a, b) for a, b in zip(dataset[2, 9][:2], again[2, 9][:2], strict=True))


def test_a_grey_network_gets_rows_of_one_channel_blank_ones_too(folder):
    settings = validate({**config(folder).model_dump(), "model": {"in_chans": 1}})
    batches = [*segmentation_train_loader(settings).epoch(0), *segmentation_val_loader(settings, world_size=2, rank=1)]
    assert {image.shape[0] for batch in batches for image in batch.images} == {1}


def test_rows_beyond_the_end_are_refused(folder):
    dataset = open_segmentation(config(folder), "val", training=False)
    with pytest.raises(IndexError):
        dataset[VALIDATION]
