"""Streams: webdataset shards and Hugging Face streams made from a small image folder."""

import io
import json
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from acmix.config import Config, validate
from acmix.data import train_loader, val_loader
from acmix.data.dataset import open_dataset
from acmix.errors import UsageError
from tests.support.images import lay_down, make_image_folder

# not imported here: every process that collects tests would pay for it
missing = [name for name in ("webdataset", "datasets") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")
CLASSES = 3
SHARDS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    make_image_folder(root, classes=CLASSES, train_per_class=8, val_per_class=5, size=24)
    lay_down(root / "val" / "class_00" / "0001.JPEG")
    return root


def write_shards(folder: Path, root: Path, damage: bool = False) -> Path:
    """Shards `train-0.tar` ... with `NNNN.jpg` and `NNNN.cls`, and the `_info.json` that timm reads."""
    splits = {}
    for split in ("train", "val"):
        files = sorted((folder / split).rglob("*.JPEG"))
        lengths = []
        for shard in range(SHARDS):
            # shards of unequal length
            part = files[shard::SHARDS]
            lengths.append(len(part))
            with tarfile.open(root / f"{split}-{shard}.tar", "w") as tar:
                for number, file in enumerate(part):
                    picture = b"" if damage and number == 0 and shard == 1 else file.read_bytes()
                    add(tar, f"{shard}{number:03d}.jpg", picture)
                    add(tar, f"{shard}{number:03d}.cls", file.parent.name[-2:].encode())
        names = [f"{split}-{shard}.tar" for shard in range(SHARDS)]
        splits[split] = {"name": split, "num_samples": len(files), "filenames": names, "shard_lengths": lengths}
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    return root


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def config(root: Path | str, format: str, *, classes: int = CLASSES, workers: int = 0, batch_size: int = 4, **data):
    return validate(
        {
            "model": {"num_classes": classes},
            "data": {"dir": str(root), "format": format, "img_size": 16, "workers": workers, **data},
            "train": {"batch_size": batch_size},
        }
    )


def configs(folder: Path, root: Path, workers: int = 0, batch_size: int = 4) -> dict[str, Config]:
    """The same images as webdataset shards and as a Hugging Face stream."""
    return {
        "wds": config(write_shards(folder, root), "wds/", workers=workers, batch_size=batch_size),
        "hfids": config(
            root / "cache",
            f"hfids/{folder}",
            workers=workers,
            batch_size=batch_size,
            train_split="train|24",
            val_split="validation|15",
        ),
    }


@pytest.mark.parametrize("kind", ["wds", "hfids"])
@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 2), (3, 0)])
def test_a_stream_evaluates_every_image_once_on_any_number_of_processes(folder, tmp_path, kind, world_size, workers):
    settings = configs(folder, tmp_path, workers)[kind]
    loaders = [val_loader(settings, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [list(loader) for loader in loaders]
    assert {len(each) for each in batches} == {len(loaders[0])}
    counted = {
        int(index): (image, int(target))
        for each in batches
        for batch in each
        for image, target, weight, index in zip(batch.images, batch.targets, batch.weights, batch.index, strict=True)
        if weight
    }
    assert sorted(counted) == list(range(15))
    plain = open_dataset(config(folder, "auto").data, None, "val")
    rows = [plain[i] for i in range(15)]
    for image, target in counted.values():
        assert sum(torch.equal(image, row.image) and target == row.target for row in rows) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wds", "hfids"])
def test_a_stream_trains_for_as_many_steps_as_configured_and_resumes(folder, tmp_path, kind):
    settings = configs(folder, tmp_path, workers=1)[kind]
    loader = train_loader(settings)
    whole = list(loader.epoch(1))
    assert len(whole) == loader.steps_per_epoch == 6
    rest = list(train_loader(settings).epoch(1, start_step=4))
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[4:], rest, strict=True))
    other = list(loader.epoch(2))
    assert not any(torch.equal(a.images, b.images) for a, b in zip(whole, other, strict=True))


def test_two_processes_train_on_different_shards(folder, tmp_path):
    settings = configs(folder, tmp_path, workers=2)["wds"]
    for rank in range(2):
        loader = train_loader(settings, rank=rank, world_size=2)
        assert len(list(loader.epoch(0))) == loader.steps_per_epoch == 3
    with pytest.raises(UsageError, match="has 4 shards for 5 processes"):
        train_loader(config(tmp_path, "wds/", batch_size=2), world_size=5)


def test_an_unreadable_image_of_a_stream_is_reported_and_not_counted(folder, tmp_path):
    loader = val_loader(config(write_shards(folder, tmp_path, damage=True), "wds/"))
    batches = list(loader)
    assert sum(float(batch.weights.sum()) for batch in batches) == 14
    assert sum(int((batch.failed >= 0).sum()) for batch in batches) == 1
    assert loader.dataset.name(14) == "wds/ split 'val' row 14"


def test_bad_streams_are_refused_in_one_line(folder, tmp_path):
    write_shards(folder, tmp_path)
    cache = tmp_path / "cache"
    refused = {
        "cannot open wds/ split 'absent'": config(tmp_path, "wds/", val_split="absent"),
        "number of samples of wds/ split 'val-0.tar' is unknown": config(tmp_path, "wds/", val_split="val-0.tar"),
        "no data folder": config(tmp_path / "absent", "wds/"),
        "Dataset length is unknown": config(cache, f"hfids/{folder}", val_split="validation"),
        "label 2 is out of range; model.num_classes=2": config(tmp_path, "wds/", classes=2),
        "holds more than the declared 2 samples": config(tmp_path, "wds/", val_split="val-0.tar|2"),
    }
    for message, settings in refused.items():
        with pytest.raises(UsageError, match=message) as caught:
            list(val_loader(settings))
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"ended after .* of 250 batches"):
        # every shard is said to hold far more than there is of it to repeat
        list(train_loader(config(tmp_path, "wds/", train_split="absent-{0..3}.tar|1000")).epoch(0))
