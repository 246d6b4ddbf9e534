"""Shards read as the folder they were written from: the same images, on any number of processes and workers."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from acmix.config import Config, validate
from acmix.data import Trained, open_dataset, train_loader, val_loader
from acmix.data.batch import UnreadableFiles
from acmix.data.shards.source import Shards
from acmix.errors import UsageError
from tests.support.images import make_image_folder
from tests.support.shards import write_shards

CLASSES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    return make_image_folder(root, classes=CLASSES, train_per_class=9, val_per_class=4, size=24)


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory) -> Path:
    return write_shards(folder, tmp_path_factory.mktemp("shards"), samples=4)


def config(root: Path | str, *, batch_size: int = 4, accumulation: int = 1, workers: int = 0, **data) -> Config:
    return validate(
        {
            "model": {"num_classes": CLASSES},
            "data": {"dir": str(root), "img_size": 16, "workers": workers, "shuffle_shards": 2, **data},
            "augment": {"mixup": 0, "cutmix": 0},
            "train": {"batch_size": batch_size, "accumulation": accumulation, "seed": 5},
        }
    )


def steps(settings: Config, processes: int = 1, epoch: int = 0, start_step: int = 0) -> list[torch.Tensor]:
    """The images of each optimizer step, over all processes, in the order of the rows."""
    accumulation = settings.train.accumulation
    loaders = [train_loader(settings, rank=rank, world_size=processes) for rank in range(processes)]
    shares = [list(loader.epoch(epoch, start_step)) for loader in loaders]
    micro = [torch.cat([share[i].images for share in shares]) for i in range(len(shares[0]))]
    return [torch.cat(micro[i : i + accumulation]) for i in range(0, len(micro), accumulation)]


def test_shards_are_recognised_and_hold_the_folders_images(folder, shards):
    for split in ("train", "val"):
        plain, ours = (open_dataset(config(root).data, None, split) for root in (folder, shards))
        assert isinstance(ours.source, Shards)
        assert ours.classes == plain.classes
        rows = {Path(plain.name(i)).relative_to(folder / split).as_posix(): plain[i] for i in range(len(plain))}
        found = {ours.name(i).rpartition(":")[2]: ours[i] for i in range(len(ours))}
        assert rows.keys() == found.keys()
        for name, row in rows.items():
            assert torch.equal(found[name].image, row.image)
            assert found[name].target == row.target


@pytest.mark.parametrize("workers", [0, 1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (1, 2)])
def test_processes_and_workers_change_no_step(shards, processes, accumulation, workers):
    whole = steps(config(shards, batch_size=8))
    batch_size = 8 // processes // accumulation
    settings = config(shards, batch_size=batch_size, accumulation=accumulation, workers=workers)
    found = steps(settings, processes)
    assert len(found) == len(whole) == 3
    for one, other in zip(whole, found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("workers", [0, 3])
def test_an_epoch_goes_on_in_the_middle(shards, processes, workers):
    settings = config(shards, batch_size=8 // processes, workers=workers)
    whole = steps(settings, processes, epoch=2)
    rest = steps(settings, processes, epoch=2, start_step=2)
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(one, other) for one, other in zip(whole[2:], rest, strict=True))


def test_an_epoch_holds_every_image_once_in_an_order_of_its_own(shards):
    settings = config(shards, batch_size=1)
    loader = train_loader(settings)
    epochs = [[int(i) for batch in loader.epoch(epoch) for i in batch.index] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(27))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_counts_every_image_once(shards, processes):
    loaders = [val_loader(config(shards), rank=rank, world_size=processes) for rank in range(processes)]
    counted = [
        int(i) for loader in loaders for batch in loader for i, w in zip(batch.index, batch.weights, strict=True) if w
    ]
    assert sorted(counted) == list(range(12))


def test_a_part_is_held_out_as_of_the_folder(folder, tmp_path):
    shutil.copytree(folder / "train", tmp_path / "images" / "train")
    write_shards(tmp_path / "images", tmp_path / "shards")
    held = []
    for root in (tmp_path / "images", tmp_path / "shards"):
        dataset = open_dataset(config(root, split=0.3).data, None, "val")
        held.append({dataset.name(i).replace(":", "/").split("/train/")[-1].split(".tar/")[-1] for i in range(9)})
    assert len(held[0]) == 9
    assert held[0] == held[1]
    with pytest.raises(UsageError, match="has validation images"):
        open_dataset(config(write_shards(folder, tmp_path / "both"), split=0.3).data, None, "val")


def test_a_models_names_decide_about_labels(shards):
    names = ["class_02", "class_00", "other", "class_01"]
    settings = config(shards)
    loader = val_loader(
        settings.model_copy(update={"model": settings.model.model_copy(update={"num_classes": 4})}),
        trained=Trained(names, True, "a model"),
    )
    source = loader.dataset.source
    for index in range(len(source)):
        assert names[source.target(index)] == source.name(index).split(":")[1].split("/")[0]


def test_a_bad_member_is_an_unreadable_file(folder, tmp_path):
    root = write_shards(folder, tmp_path / "shards", samples=9)
    plain = open_dataset(config(root).data, None, "train")
    source = plain.source
    assert isinstance(source, Shards)
    shard = root / source.files.split.filenames[0]
    content = bytearray(shard.read_bytes())
    start, size = int(source.starts[3]), int(source.sizes[3])
    content[start : start + size] = bytes(size)
    shard.write_bytes(content)
    unreadable = UnreadableFiles()
    loader = train_loader(config(root, batch_size=9))
    for batch in loader.epoch(0):
        unreadable.add(batch, loader.dataset)
    assert unreadable.names == [source.name(3)]
    assert "not an image" in open_dataset(config(root).data, None, "train").why(3)


@pytest.mark.parametrize("damage", ["gone", "shorter", "longer", "a folder", "a pipe"])
def test_a_shard_that_is_not_there_whole_is_named(shards, tmp_path, damage):
    root = tmp_path / "shards"
    shutil.copytree(shards, root)
    shard = root / "train-000002.tar"
    if damage == "shorter":
        os.truncate(shard, 1000)
    elif damage == "longer":
        with shard.open("ab") as file:
            file.write(b"more")
    else:
        shard.unlink()
    if damage == "a folder":
        shard.mkdir()
    if damage == "a pipe":
        os.mkfifo(shard)
    with pytest.raises(UsageError, match=r"train-000002\.tar.*copy it"):
        train_loader(config(root))


def test_a_shard_that_is_cut_while_it_is_read_is_unreadable(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "shards")
    dataset = open_dataset(config(tmp_path / "shards").data, None, "train")
    os.truncate(tmp_path / "shards" / "train-000000.tar", 600)
    assert dataset[0].failed == 0
    assert "truncated" in dataset.why(0)


def test_a_split_that_is_not_there_is_named(shards):
    with pytest.raises(UsageError, match=r"no shards of a split 'test'; there are: train, val"):
        open_dataset(config(shards, val_split="test").data, None, "val")


def test_shards_of_a_list_number_their_classes(folder, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(folder / split, tmp_path / "list" / split)
        files = sorted((tmp_path / "list" / split).rglob("*.JPEG"))
        (tmp_path / "list" / f"{split}_list.txt").write_text(
            "".join(f"{file.relative_to(tmp_path / 'list')} {int(file.parent.name[-1])}\n" for file in files)
        )
    root = write_shards(tmp_path / "list", tmp_path / "shards")
    numbered = Trained(["0", "1", "2"], False, "weights")
    for place in (tmp_path / "list", root):
        loader = val_loader(config(place), trained=numbered)
        assert sorted(loader.dataset.source.targets.tolist()) == [0] * 4 + [1] * 4 + [2] * 4


def test_a_file_in_the_way_is_no_shards(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "data")
    (tmp_path / "data" / "_info.json").write_text('{"splits": {}}')
    assert not isinstance(open_dataset(config(tmp_path / "data").data, None, "val").source, Shards)
