"""Which images a run sees, in which order and how changed: the same on any number of processes and workers."""

import multiprocessing
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acmix.config import Augment, Config, validate
from acmix.data import UnreadableFiles, open_dataset, readers, train_loader, val_loader
from acmix.data.batch import Batch, collate
from acmix.data.dataset import seeded
from acmix.data.loader import worker_count
from acmix.data.worker import READER_LOST
from acmix.errors import UsageError
from tests.support.images import make_image_folder

CLASSES = 5
# the fields of a batch that are one tensor each
TENSORS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    return make_image_folder(root, classes=CLASSES, train_per_class=7, val_per_class=3, size=32)


def config(root: Path, *, batch_size: int = 4, accumulation: int = 1, workers: int | None = 0, seed: int = 3) -> Config:
    return validate(
        {
            "model": {"num_classes": CLASSES},
            "data": {"dir": str(root), "img_size": 24, "workers": workers},
            "train": {"batch_size": batch_size, "accumulation": accumulation, "seed": seed},
        }
    )


def steps(settings: Config, world_size: int = 1, epoch: int = 0, start_step: int = 0) -> list[Batch]:
    """One batch an optimizer step: the micro-batches of all processes put together."""
    loaders = [train_loader(settings, rank=rank, world_size=world_size) for rank in range(world_size)]
    streams = [list(loader.epoch(epoch, start_step)) for loader in loaders]
    count = loaders[0].steps_per_epoch - start_step
    accumulation = settings.train.accumulation
    assert all(len(stream) == count * accumulation for stream in streams)
    together = []
    for step in range(count):
        passes = range(step * accumulation, (step + 1) * accumulation)
        parts: list[Any] = [stream[number].to("cpu")[:TENSORS] for number in passes for stream in streams]
        images, targets, weights, failed, index = (torch.cat(field) for field in zip(*parts, strict=True))
        together.append(Batch(images, targets, weights, failed, index))
    return together


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:TENSORS], b[:TENSORS], strict=True))


def test_one_process_two_processes_and_accumulation_see_the_same_images(folder):
    one = steps(config(folder, batch_size=8))
    assert len(one) == 35 // 8
    assert_same(one, steps(config(folder, batch_size=4), world_size=2))
    assert_same(one, steps(config(folder, batch_size=4, accumulation=2)))
    assert_same(one, steps(config(folder, batch_size=2, accumulation=2), world_size=2))


def test_workers_do_not_change_the_batches(folder):
    assert_same(steps(config(folder)), steps(config(folder, workers=2)))


def test_an_epoch_continues_where_it_was_left(folder):
    settings = config(folder, accumulation=2, workers=1)
    whole = steps(settings, epoch=1)
    assert_same(whole[2:], steps(settings, epoch=1, start_step=2))
    # also with workers that were stopped in the middle of another epoch
    loader = train_loader(settings)
    next(loader.epoch(0))
    assert_same([Batch(*batch) for batch in steps(settings, epoch=1)], whole)
    left = [batch.to("cpu") for batch in loader.epoch(1, start_step=2)]
    assert torch.equal(torch.cat([batch.images for batch in left]), torch.cat([batch.images for batch in whole[2:]]))


def test_epochs_and_seeds_differ_in_order_and_in_augmentation(folder):
    first, second, other = (
        steps(config(folder)),
        steps(config(folder), epoch=1),
        steps(config(folder, seed=4)),
    )
    for batches in (second, other):
        assert not torch.equal(torch.cat([b.index for b in first]), torch.cat([b.index for b in batches]))
        ours = {int(i): image for b in first for i, image in zip(b.index, b.images, strict=True)}
        theirs = {int(i): image for b in batches for i, image in zip(b.index, b.images, strict=True)}
        common = ours.keys() & theirs.keys()
        assert len(common) > 20
        assert not any(torch.equal(ours[i], theirs[i]) for i in common)


def test_an_epoch_visits_an_image_at_most_once_and_labels_it_rightly(folder):
    batches = steps(config(folder))
    index = torch.cat([batch.index for batch in batches])
    assert len(set(index.tolist())) == len(index) == 32
    assert torch.equal(torch.cat([batch.targets for batch in batches]), index // 7)
    assert all((batch.weights == 1).all() and (batch.failed == -1).all() for batch in batches)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_evaluation_counts_every_image_once_on_any_number_of_processes(folder, world_size, batch_size):
    loaders = [
        val_loader(config(folder), rank=rank, world_size=world_size, batch_size=batch_size)
        for rank in range(world_size)
    ]
    batches = [batch for loader in loaders for batch in loader]
    assert len({len(loader) for loader in loaders}) == 1
    assert len(batches) == sum(len(loader) for loader in loaders)
    counted = torch.cat([batch.index[batch.weights == 1] for batch in batches])
    assert sorted(counted.tolist()) == list(range(15))
    assert sum(float(batch.weights.sum()) for batch in batches) == 15
    padding = torch.cat([batch.images[batch.weights == 0] for batch in batches])
    assert len(padding) == (-15) % world_size
    assert (padding == 0).all()


def test_reading_leaves_the_callers_generators_alone(folder):
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seed_all(seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    loader = train_loader(config(folder))
    seed_all(1)
    expected = draws()
    seed_all(1)
    assert len(list(loader.epoch(0))) == 8
    assert draws() == expected


@pytest.fixture
def damaged(folder, tmp_path) -> Path:
    """The folder with an empty, a truncated and a foreign file in train, and an empty one in val."""
    make_image_folder(tmp_path, classes=CLASSES, train_per_class=7, val_per_class=3, size=32)
    (tmp_path / "train/class_00/0000.JPEG").write_bytes(b"")
    whole = (tmp_path / "train/class_00/0001.JPEG").read_bytes()
    (tmp_path / "train/class_00/0001.JPEG").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train/class_04/0006.JPEG").write_bytes(b"<html>404</html>")
    (tmp_path / "val/class_01/0001.JPEG").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_training_replaces_an_unreadable_image_by_the_next_one_and_says_so(damaged, workers):
    loader = train_loader(config(damaged, batch_size=35 - 1, workers=workers))
    unreadable = UnreadableFiles()
    seen = set()
    for epoch in range(2):
        (batch,) = loader.epoch(epoch)
        unreadable.add(batch, loader.dataset)
        seen |= set(batch.index[batch.failed >= 0].tolist())
        assert torch.equal(batch.failed >= 0, torch.isin(batch.index, torch.tensor([0, 1, 34])))
        assert (batch.weights == 1).all()
        # the last file's successor is the first readable one, of class 0
        assert torch.equal(batch.targets, torch.where(batch.index == 34, 0, batch.index // 7))
    assert seen == {0, 1, 34}
    ends = [name.split("/train/")[1] for name in unreadable.names]
    assert ends == ["class_00/0000.JPEG", "class_00/0001.JPEG", "class_04/0006.JPEG"]
    with pytest.raises(UsageError, match=r"3 of the 35 train images are unreadable, over 1%: .*class_00/0000.JPEG"):
        unreadable.check()


def test_evaluation_leaves_an_unreadable_image_out_of_the_count(damaged):
    loader = val_loader(config(damaged))
    batches = list(loader)
    failed = torch.cat([batch.failed for batch in batches])
    weights = torch.cat([batch.weights for batch in batches])
    assert failed.tolist() == [-1] * 4 + [4] + [-1] * 10
    assert torch.equal(weights, (failed < 0).float())


def test_one_unreadable_file_in_a_hundred_is_borne_and_two_are_not(folder):
    class Hundred:
        split = "val"

        def __len__(self) -> int:
            return 100

        def name(self, index: int) -> str:
            return f"image {index}"

    def batch_with(failed: int) -> Batch:
        return Batch(torch.zeros(1, 3, 2, 2), torch.zeros(1), torch.ones(1), torch.tensor([failed]), torch.zeros(1))

    unreadable = UnreadableFiles()
    for failed in (-1, 7, 7):
        unreadable.add(batch_with(failed), Hundred())
    unreadable.check()
    assert unreadable.names == ["image 7"]
    unreadable.add(batch_with(8), Hundred())
    with pytest.raises(UsageError, match="2 of the 100 val images are unreadable, over 1%: image 7, image 8;"):
        unreadable.check()


def test_a_split_without_one_readable_image_gives_rows_without_weight(tmp_path):
    for number in range(30):
        (tmp_path / "train" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "a" / f"{number}.jpg").write_bytes(b"")
    row = open_dataset(config(tmp_path).data, Augment(), "train")[3]
    assert (row.weight, row.failed, float(row.image.abs().sum())) == (0.0, 3, 0.0)


def test_a_batch_moves_what_a_model_needs(folder):
    for batches in (val_loader(config(folder)), train_loader(config(folder)).epoch(0)):
        batch = next(iter(batches)).to("meta")
        assert [each.device.type for each in batch[:TENSORS]] == ["meta", "meta", "meta", "cpu", "cpu"]
        assert (batch.images.dtype, batch.finish) == (torch.float32, None)


@pytest.mark.parametrize(("processes", "workers"), [(1, 8), (2, 8), (4, 5), (20, 1), (40, 0)])
def test_workers_default_to_this_process_share_of_the_cores(folder, monkeypatch, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(20)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert worker_count(config(folder, workers=None)) == workers


def test_readers_survive_ctrl_c(folder):
    others = {*multiprocessing.active_children()}
    batches = train_loader(config(folder, workers=2)).epoch(0)
    # the readers take turns: after two batches both have begun
    for _ in range(2):
        next(batches)
    readers = {*multiprocessing.active_children()} - others
    assert len(readers) == 2
    for reader in readers:
        assert reader.pid is not None
        os.kill(reader.pid, signal.SIGINT)
    assert sum(1 for _ in batches) == 6


class Squares:
    """Rows that are read in a process of their own."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        return index * index


@pytest.mark.parametrize("is_at_the_start", [False, True], ids=["within an epoch", "at the start of the next"])
def test_a_reader_whose_end_no_signal_told_is_missed_soon(
    monkeypatch: pytest.MonkeyPatch, is_at_the_start: bool
) -> None:
    """The signal's error is lost where it comes while an object is taken down."""
    monkeypatch.setattr(readers, "LOOK", 0.1)
    loader = readers.Loader(Squares(), num_workers=1, persistent_workers=True, timeout=60, prefetch_factor=1)
    batches = iter(loader)
    assert int(next(batches)) == 0
    if is_at_the_start:
        assert len([*batches]) == 7
    [reader] = batches._workers
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.kill(reader.pid, signal.SIGKILL)
        # or its pipe ends before it is a process that has ended
        with pytest.raises(
            (RuntimeError, EOFError, ConnectionError), match=rf"^$|reset|{re.escape(READER_LOST)}.*exited"
        ):
            [*(iter(loader) if is_at_the_start else batches)]
    finally:
        signal.signal(signal.SIGCHLD, handler)


def test_what_an_image_draws_leaves_the_generators_alone():
    def draw() -> list[float]:
        return [random.random(), np.random.random(), float(torch.rand(()))]

    with seeded(3):
        expected = draw()
    for seed in (5, 6):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        alone = [draw(), draw()]
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        first = draw()
        with seeded(3):
            assert draw() == expected
        # one in the other too
        with seeded(4):
            inner = draw()
            with seeded(3):
                assert draw() == expected
            assert draw() != inner
        assert [first, draw()] == alone


@pytest.mark.parametrize("in_order", [True, False])
def test_numpy_s_own_generator_is_back_however_contexts_end(in_order: bool) -> None:
    own = np.random.mtrand.get_bit_generator()
    one, other = seeded(1), seeded(2)
    one.__enter__()
    first = np.random.rand()
    other.__enter__()
    assert np.random.rand() != first
    for context in (other, one) if in_order else (one, other):
        context.__exit__(None, None, None)
    assert np.random.mtrand.get_bit_generator() is own
    with seeded(1):
        assert np.random.rand() == first
        assert np.random.mtrand.get_bit_generator() is not own
    assert np.random.mtrand.get_bit_generator() is own


def test_images_of_bytes_are_not_stacked_as_they_are(folder: Path) -> None:
    rows = [open_dataset(config(folder).data, Augment(), "train")[0]]
    with pytest.raises(UsageError, match="images of bytes without a scale"):
        collate(rows)
