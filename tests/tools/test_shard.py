"""`acmix data shard`: what it writes, and that a killed call goes on to the same bytes."""

import hashlib
import io
import json
import os
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acmix.config import Data
from acmix.data.sources import open_source
from acmix.errors import UsageError
from acmix.tools import shard as shard_module
from acmix.tools import shard_file
from acmix.tools.in_parallel import done
from acmix.tools.shard import byte_sizes, cut_by_size, shard
from acmix.tools.shard_file import ShardWriter
from acmix.train.lock import NAME, held
from acmix.train.worker_error import Failed
from tests.support.images import make_image_folder
from tests.support.processes import Forked, command
from tests.support.shards import write_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = make_image_folder(tmp_path_factory.mktemp("f"), classes=2, train_per_class=8, val_per_class=3, size=24)
    Image.new("RGBA", (9, 9)).save(root / "train" / "class_00" / "picture.jpg", format="PNG")
    return root


def contents(root: Path) -> dict[str, str]:
    """The digest of every file."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in root.rglob("*") if file.is_file()}


def test_bytes_stay_as_they_are_and_extensions_tell_the_format(folder, tmp_path):
    root = write_shards(folder, tmp_path)
    originals = {file.read_bytes(): file for file in (folder / "train").rglob("*") if file.is_file()}
    keys = []
    for number in range(4):
        with tarfile.open(root / f"train-{number:06d}.tar") as tar:
            members = {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}
            assert all((member.mtime, member.uid, member.uname) == (0, 0, "") for member in tar)
        for name in [name for name in members if not name.endswith(".cls")]:
            key, extension = name.split(".")
            file = originals.pop(members[name])
            assert members[f"{key}.cls"] == file.parent.name[-1].encode()
            assert extension == ("png" if file.name == "picture.jpg" else "jpg")
            keys.append(key)
    assert not originals
    assert len(set(keys)) == 17
    info = json.loads((root / "_info.json").read_text())
    assert info["splits"]["train"]["shard_lengths"] == [5, 5, 5, 2]
    assert not (root / ".unfinished").exists()


def test_webdataset_and_timm_read_them(folder, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    from timm.data.readers.reader_factory import create_reader

    root = write_shards(folder, tmp_path)
    files = [str(file) for file in sorted(root.glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(files, shardshuffle=False))
    assert len(samples) == 17
    assert {sample["cls"] for sample in samples} == {b"0", b"1"}
    reader: Any = create_reader("wds/", root=str(root), split="train", is_training=False, batch_size=4)
    assert reader.num_samples == 17
    assert sorted(target for _, target in reader) == [0] * 9 + [1] * 8


def test_the_same_command_gives_the_same_bytes_with_any_number_of_processes(folder, tmp_path):
    one, two = (write_shards(folder, tmp_path / name, workers=n) for name, n in (("one", 0), ("two", 3)))
    assert contents(one) == contents(two)
    other = write_shards(folder, tmp_path / "other", seed=1)
    assert contents(one) != contents(other)


def test_a_shard_that_is_there_whole_is_kept_and_others_are_written(folder, tmp_path, monkeypatch):
    whole = contents(write_shards(folder, tmp_path / "whole"))
    written = []

    def write(self: ShardWriter, number: int, file: Path):
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(file))
        written.append(number)
        return original(self, number, file)

    original = ShardWriter.write
    monkeypatch.setattr(ShardWriter, "write", write)
    with pytest.raises(UsageError, match=r"cannot write .*train-000003\.tar: No space left on device; once there is"):
        write_shards(folder, tmp_path / "cut")
    # one of three is damaged meanwhile, and of another nothing is known
    with (tmp_path / "cut" / "train-000001.tar").open("r+b") as file:
        file.write(b"x")
    (tmp_path / "cut" / ".unfinished" / "train-000002.json").write_text("{")
    (tmp_path / "cut" / ".unfinished" / f"train-000003.tar.{2**22 + 1}.tmp").write_text("left")
    monkeypatch.setattr(ShardWriter, "write", original)
    before = (tmp_path / "cut" / "train-000000.tar").stat().st_ino
    assert contents(write_shards(folder, tmp_path / "cut")) == whole
    assert (tmp_path / "cut" / "train-000000.tar").stat().st_ino == before


@pytest.mark.slow
def test_a_killed_call_goes_on_to_the_same_bytes(tmp_path):
    folder = make_image_folder(tmp_path / "images", classes=2, train_per_class=150, val_per_class=2, size=200)
    whole = contents(write_shards(folder, tmp_path / "whole", samples=10))
    cut = tmp_path / "cut"
    for kept in (1, 8, 20):
        call = command("data", "shard", folder, cut, "--samples", "10", "--workers", "1")
        call.wait_for(lambda kept=kept: len(list(cut.glob("train-*.tar"))) >= kept)
        call.signal(signal.SIGKILL, group=True)
        call.finish()
    time.sleep(0.1)
    [end] = command("data", "shard", folder, cut, "--samples", "10").finish()
    assert end.status == 0, end.errors
    assert contents(cut) == whole


def test_unreadable_images_are_left_out_and_named(folder, tmp_path):
    images = make_image_folder(tmp_path / "images", classes=2, train_per_class=3, val_per_class=1, size=16)
    (images / "train" / "class_00" / "0000.JPEG").write_bytes(b"no image")
    (images / "train" / "class_01" / "0001.JPEG").write_bytes(b"")
    (images / "train" / "class_01" / "0002.JPEG").unlink()
    (images / "train" / "class_01" / "0002.JPEG").symlink_to("nowhere.JPEG")
    [train, val] = shard(Data(dir=str(images)), tmp_path / "shards", workers=0)
    assert train.startswith("train: 3 images in 1 shard,")
    assert "3 unreadable left out" in train
    for reason in ("(not an image in a known format)", "(the file is empty)", "(no such file)"):
        assert reason in train
    assert "unreadable" not in val


def test_a_split_without_a_readable_image_is_refused(folder, tmp_path):
    images = tmp_path / "images" / "train" / "a"
    images.mkdir(parents=True)
    (images / "0.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"none of the 1 images of train can be read: .*0.jpg: the file is empty"):
        write_shards(tmp_path / "images", tmp_path / "shards")


def test_shards_are_cut_by_size(folder, tmp_path):
    assert cut_by_size(np.array([1000, 1000, 5000, 10, 10, 10]), 0.006) == [0, 2, 3, 5, 6]
    list(shard(Data(dir=str(folder)), tmp_path, size=0.02, workers=0))
    sizes = [file.stat().st_size for file in tmp_path.glob("train-*.tar")]
    assert len(sizes) > 1
    # a tar ends with blocks of its own
    assert max(sizes) <= 20_000 + 10_240
    with pytest.raises(UsageError, match="--samples and --size"):
        list(shard(Data(dir=str(folder)), tmp_path, size=1, samples=2))


def test_splits_are_written_one_by_one_into_one_folder(folder, tmp_path):
    whole = write_shards(folder, tmp_path / "whole")
    for split in ("val", "train"):
        write_shards(folder, tmp_path / "single", splits=[split])
    ours, theirs = contents(tmp_path / "single"), contents(whole)
    assert ours.pop("_info.json") != theirs.pop("_info.json")
    assert ours == theirs
    with pytest.raises(UsageError, match="--split test: expected train or val"):
        write_shards(folder, tmp_path / "other", splits=["test"])


def test_tars_shards_and_folders_of_classes_are_sources_too(folder, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "tars").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "tars" / f"{split}.tar", "w") as tar:
            tar.add(folder / split, arcname="")
    again = write_shards(write_shards(tmp_path / "tars", tmp_path / "one"), tmp_path / "two", seed=3)
    assert json.loads((again / "_info.json").read_text())["splits"]["train"]["num_samples"] == 17
    alone = write_shards(folder / "val", tmp_path / "three")
    assert json.loads((alone / "_info.json").read_text())["splits"].keys() == {"train"}


def test_what_is_there_is_not_mixed_with_what_is_not_the_same(folder, tmp_path):
    root = write_shards(folder, tmp_path / "shards")
    assert "is there already" in next(iter(shard(Data(dir=str(folder)), root, samples=5, workers=0)))
    with pytest.raises(UsageError, match="of another --seed, --samples or --size"):
        write_shards(folder, root, seed=1)
    other = make_image_folder(tmp_path / "other", classes=3, train_per_class=1, val_per_class=1, size=16)
    with pytest.raises(UsageError, match="holds shards of other classes"):
        write_shards(other, root)
    with pytest.raises(UsageError, match="holds other files; choose an empty folder"):
        write_shards(folder, other)
    assert shard_module.SPLITS == ("train", "val")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_one_line(folder, tmp_path, acmix):
    (tmp_path / "locked").mkdir(mode=0o500)
    status, _, errors = acmix("data", "shard", folder, tmp_path / "locked" / "shards")
    assert status == 2
    assert errors.count("\n") == 1


def test_a_place_that_cannot_be_made_is_one_line(folder, tmp_path, acmix):
    (tmp_path / "file").write_text("")
    status, _, errors = acmix("data", "shard", folder, tmp_path / "file" / "shards")
    assert status == 2
    assert errors.startswith("acmix: error: cannot write into ")
    assert errors.count("\n") == 1


def hold(folder: Path, told: Path) -> None:
    with held(folder, doing="writing shards into"):
        told.touch()
        time.sleep(300)


@pytest.mark.skipif(os.name != "posix", reason="no such locks")
def test_two_calls_into_one_folder_do_not_mix(folder, tmp_path):
    (tmp_path / "shards").mkdir()
    other = Forked(hold, tmp_path / "shards", tmp_path / "told")
    other.wait_for((tmp_path / "told").exists)
    try:
        with pytest.raises(
            UsageError, match=r"another process is writing shards into .*shards: process \d+ on "
        ) as said:
            write_shards(folder, tmp_path / "shards")
        assert str(said.value).endswith("; wait until it ends, or choose another folder")
        assert os.listdir(tmp_path / "shards") == [NAME]
    finally:
        other.signal(signal.SIGKILL)
        other.finish()
    # the file of a killed holder is no file of somebody else
    assert contents(write_shards(folder, tmp_path / "shards")) == contents(write_shards(folder, tmp_path / "again"))


def test_a_cut_call_goes_on_with_other_settings_and_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    root = tmp_path / "shards"
    with monkeypatch.context() as patched:
        patched.setattr(shard_module, "finish", lambda *arguments: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(UsageError, match="No space left"):
            write_shards(folder, root, samples=1)
    assert len(list(root.glob("train-*.tar"))) == 17
    for torn in ("._info.json.1.tmp", ".unfinished/.train-000000.json.1.tmp", f".unfinished/a.tar.{os.getpid()}.tmp"):
        (root / torn).write_text("torn")
    assert contents(write_shards(folder, root, samples=6, seed=3)) == contents(
        write_shards(folder, tmp_path / "whole", samples=6, seed=3)
    )
    assert not (root / ".unfinished").exists()


def test_names_that_are_no_utf_8_are_written_and_left_out(tmp_path):
    images = make_image_folder(tmp_path / "images", classes=2, train_per_class=2, val_per_class=1, size=16)
    for split in ("train", "val"):
        os.rename(images / split / "class_00", os.fsencode(images / split) + b"/c\xff")
    Path(os.fsdecode(os.fsencode(images) + b"/train/c\xff/b\xee.png")).write_bytes(b"no image")
    [train, _] = shard(Data(dir=str(images)), tmp_path / "shards", workers=0)
    assert "1 unreadable left out" in train
    assert r"c\xff/b\xee.png (not an image in a known format)" in train
    found = open_source(Data(dir=str(tmp_path / "shards")), "train")
    assert found.classes == ["class_01", "c\udcff"] or found.classes == ["c\udcff", "class_01"]
    assert len(found) == 4


def test_the_sizes_of_shards_are_in_their_index(folder, tmp_path, monkeypatch):
    root = write_shards(folder, tmp_path / "shards")
    source = open_source(Data(dir=str(root)), "train")
    with monkeypatch.context() as patched:
        patched.setattr(shard_module, "row_bytes", None)
        sizes = byte_sizes(source).tolist()
    assert sizes == [len(shard_file.row_bytes(source, row)[0]) for row in range(len(source))]


def test_a_process_whose_command_was_killed_writes_no_more(folder, tmp_path, monkeypatch):
    gone: Any = type("Gone", (), {"is_alive": lambda self: False})()
    monkeypatch.setattr(shard_file.multiprocessing, "parent_process", lambda: gone)
    with pytest.raises(UsageError, match="the command was killed"):
        write_shards(folder, tmp_path / "shards")
    assert not list((tmp_path / "shards").rglob("*.tar*"))


class Dying:
    """Work whose second piece is killed."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> int:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number


class Failing:
    """Work that meets an error of its own."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> int:
        raise RuntimeError("of its own")


@pytest.mark.slow
def test_an_error_of_the_work_is_no_killed_process():
    with pytest.raises(RuntimeError, match="of its own"):
        list(done(Failing(), "writing train", [1, 1], 1))


@pytest.mark.slow
def test_a_killed_process_is_one_line():
    with pytest.raises(Failed, match="writing train: a process was killed, perhaps for want of memory"):
        list(done(Dying(), "writing train", [1, 1, 1], 1))
