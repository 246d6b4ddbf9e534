"""What lies in a downloaded folder is not believed: one line, nothing large in memory, nothing read elsewhere."""

import hashlib
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from acmix.config import Data
from acmix.data import open_dataset
from acmix.errors import UsageError
from tests.support.images import make_image_folder
from tests.support.shards import write_shards


@pytest.fixture
def root(tmp_path) -> Path:
    images = make_image_folder(tmp_path / "images", classes=2, train_per_class=3, val_per_class=1, size=16)
    return write_shards(images, tmp_path / "shards", samples=2)


def opened(root: Path) -> Any:
    return open_dataset(Data(dir=str(root), img_size=16), None, "train")


def refused(root: Path) -> str:
    """The one line that ends it, and what it cost is little."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError) as raised:
        opened(root)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
    assert "\n" not in str(raised.value)
    return str(raised.value)


def change(root: Path, **changes: Any) -> None:
    """Changes the split in `_info.json`."""
    info = json.loads((root / "_info.json").read_text())
    info["splits"]["train"].update(changes)
    (root / "_info.json").write_text(json.dumps(info))


def rewrite(root: Path, **changes: Callable[[Any], Any]) -> None:
    """Changes arrays of the index, with the checksum to match."""
    file = root / "train-index.safetensors"
    arrays = load(file.read_bytes())
    for name, value in changes.items():
        arrays[name] = value(arrays[name].copy())
    content = save(arrays)
    file.write_bytes(content)
    change(root, index={"file": file.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})


def first(value: int):
    """Sets the first entry."""

    def put(array: np.ndarray) -> np.ndarray:
        array[0] = value
        return array

    return put


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"starts": first(-512)}, "images outside of their shards"),
        ({"starts": first(2**62)}, "images outside of their shards"),
        ({"sizes": first(2**62)}, "images outside of their shards"),
        ({"sizes": first(-1)}, "images outside of their shards"),
        ({"shards": first(3)}, "shards outside of the 3"),
        ({"shards": first(-1)}, "shards outside of the 3"),
        ({"shards": lambda array: array[::-1] * 0}, "other numbers of images"),
        ({"labels": first(2)}, "labels outside of the 2 classes"),
        ({"labels": first(-1)}, "labels outside of the 2 classes"),
        ({"labels": lambda array: array.astype(np.float32)}, "labels is not 6 entries"),
        ({"labels": lambda array: array[:3]}, "labels is not 6 entries"),
        ({"names": lambda array: array[:, 0]}, "names is not 6 entries"),
        ({"classes": lambda array: array[[0, 0]]}, "names a class twice"),
        ({"classes": lambda array: array[:1]}, "classes is not 2 entries"),
    ],
)
def test_an_index_is_checked_entry_by_entry(root, changes, said):
    rewrite(root, **changes)
    assert said in refused(root)


@pytest.mark.parametrize(
    "name", ["../x.tar", "/etc/passwd", "a/b.tar", "..", ".hidden.tar", "a\\b", "x\0.tar", "é.tar", ""]
)
def test_shards_are_plain_names_in_the_same_folder(root, name):
    change(root, filenames=[name, "train-000001.tar", "train-000002.tar"])
    assert "splits.train.filenames.0" in refused(root)
    change(root, filenames=["train-000000.tar", "train-000001.tar", "train-000002.tar"])
    change(root, index={"file": name, "bytes": 1, "sha256": 64 * "0"})
    assert "splits.train.index.file" in refused(root)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_samples": 10**12}, "splits.train.num_samples"),
        ({"num_samples": -1}, "splits.train.num_samples"),
        ({"num_samples": 10**400}, "splits.train.num_samples"),
        ({"num_samples": "6"}, "splits.train.num_samples"),
        ({"num_samples": 7}, "the shards of split 'train' hold 6 images"),
        ({"shard_lengths": [2, 2]}, "differ in length"),
        ({"shard_lengths": [2, 2, 10**30]}, "splits.train.shard_lengths.2"),
        ({"shard_bytes": [2, 2, -2]}, "splits.train.shard_bytes.2"),
        ({"shard_bytes": [10**12, 2, 2]}, "copy it again"),
        ({"filenames": ["train-000000.tar"] * 3}, "names a shard twice"),
        (
            {"index": {"file": "train-index.safetensors", "bytes": 10**15, "sha256": 64 * "0"}},
            "splits.train.index.bytes",
        ),
        ({"index": {"file": "train-index.safetensors", "bytes": 5, "sha256": 64 * "0"}}, "copy both again"),
        ({"index": {"file": "train-index.safetensors", "bytes": 5, "sha256": "0"}}, "splits.train.index.sha256"),
        ({"index": None}, "splits.train.index"),
        ({"left_out": [{"name": 5}]}, "splits.train.left_out.0"),
    ],
)
def test_numbers_of_the_info_are_checked(root, changes, said):
    change(root, **changes)
    assert said in refused(root)


HEAD = '{"format": "acmix-shards-1", '


@pytest.mark.parametrize(
    "content",
    [
        HEAD.encode() + b'"classes": ' + 200_000 * b"[",
        HEAD.encode() + b'"classes": ' + 200_000 * b'{"a":',
        HEAD.encode() + b'"classes": ["\xff\xfe"]}',
        HEAD.encode(),
        HEAD.encode() + b'"classes": [], "labels": "by name", "splits": []}',
        HEAD.encode() + b'"x": "' + 20 * 2**20 * b"x",
    ],
    ids=["brackets", "braces", "no UTF-8", "cut", "a list", "long"],
)
def test_an_info_that_is_no_such_is_one_line(root, content):
    (root / "_info.json").write_bytes(content)
    assert "_info.json" in refused(root)


def test_an_index_of_another_make_is_one_line(root):
    for content in (b"", b"\xff" * 100, (2**40).to_bytes(8, "little") + b"{}", b"\x80\x04."):
        (root / "train-index.safetensors").write_bytes(content or b"x")
        content = content or b"x"
        told = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        change(root, index={"file": "train-index.safetensors", **told})
        assert "is no index of shards" in refused(root)


def test_pipes_and_folders_are_not_waited_for(root):
    (root / "_info.json").rename(root / "kept")
    os.mkfifo(root / "_info.json")
    assert "has no train/ folder" in refused(root)
    (root / "_info.json").unlink()
    (root / "kept").rename(root / "_info.json")
    (root / "train-index.safetensors").unlink()
    os.mkfifo(root / "train-index.safetensors")
    assert "there is no" in refused(root)


def test_a_sparse_shard_costs_no_memory(root):
    # an image of 1 GiB of nothing: within what an image may have
    shard = root / "train-000000.tar"
    os.truncate(shard, 2**40)
    info = json.loads((root / "_info.json").read_text())["splits"]["train"]
    change(root, shard_bytes=[2**40, *info["shard_bytes"][1:]])
    rewrite(root, sizes=first(2**39))
    assert "images outside of their shards" in refused(root)


def test_class_names_that_are_no_utf_8_stay_what_they_are(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/images/train/caf\xe9\n"))
    make_image_folder(tmp_path / "source", classes=1, train_per_class=2, val_per_class=1, size=16)
    folder.parent.mkdir(parents=True)
    (tmp_path / "source" / "train" / "class_00").rename(folder)
    root = write_shards(tmp_path / "images", tmp_path / "shards")
    assert opened(root).classes == [folder.name]
    json.loads((root / "_info.json").read_text(encoding="utf-8"))
