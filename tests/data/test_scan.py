"""Which files are images, and what is left out by name."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from acmix.config import Augment, Data, validate
from acmix.data import open_dataset, train_loader
from acmix.errors import UsageError


def put(path: Path, kind: str = "JPEG") -> Path:
    """A small picture, of a format that its name need not tell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path, format=kind)
    return path


def read(root: Path, split: str = "train") -> tuple[list[str], list[str]]:
    """The images' names below the root, and the notes; every image is read."""
    dataset = open_dataset(Data(dir=str(root), img_size=8), None, split)
    assert [dataset[i].failed for i in range(len(dataset))] == [-1] * len(dataset)
    return [os.path.relpath(dataset.name(i), root / split) for i in range(len(dataset))], list(dataset.notes)


def fill(folder: Path) -> list[str]:
    """A class of every kind of file; returns the images' names, sorted."""
    kinds = {"a.jfif": "JPEG", "b.JPG": "JPEG", "bare": "PNG", "c.odd": "WEBP", "d.ico": "ICO", "e.tga": "TGA"}
    for name, kind in kinds.items():
        put(folder / name, kind)
    # what nobody needs to hear of
    for name in (".hidden.jpg", ".ipynb_checkpoints/b.jpg", "__MACOSX/._b.jpg", "._b.jpg"):
        put(folder / name)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"\0\0\0\1Bud1")
    # what is no image
    for name, content in (("notes.txt", b"none"), ("label.json", b"{}"), ("some.bin", bytes(range(100)))):
        (folder / name).write_bytes(content)
    return sorted(kinds)


def test_whatever_pillow_opens_is_an_image_and_the_rest_is_named_once(tmp_path):
    images = fill(tmp_path / "train" / "cat")
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.jpg")
    put(tmp_path / "train" / "__MACOSX" / "x.jpg")
    found, notes = read(tmp_path)
    assert found == [f"cat/{name}" for name in images]
    assert notes == [
        "4 files are no images and are left out: cat/label.json, cat/notes.txt, cat/pipe.jpg, …",
    ]


def test_a_tar_is_read_as_the_folder_is(tmp_path):
    images = fill(tmp_path / "cat")
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    os.symlink("b.JPG", tmp_path / "cat" / "link.jpg")
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(tmp_path / "cat", arcname="./cat")
        hard = tarfile.TarInfo("cat/hard.jpg")
        hard.type, hard.linkname = tarfile.LNKTYPE, "./cat/b.JPG"
        tar.addfile(hard)
    dataset = open_dataset(Data(dir=str(tmp_path), img_size=8), None, "train")
    assert [dataset[i].failed for i in range(len(dataset))] == [-1] * len(dataset)
    names = sorted(os.path.basename(dataset.name(i)) for i in range(len(dataset)))
    assert names == sorted([*images, "hard.jpg", "link.jpg"])
    [note] = dataset.notes
    assert note == "4 files are no images and are left out: ./cat/label.json, ./cat/notes.txt, ./cat/pipe.jpg, …"


def test_a_tar_in_a_tar_is_a_class(tmp_path):
    put(tmp_path / "one.jpg")
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name in ("dog", "cat"):
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as inner:
                inner.add(tmp_path / "one.jpg", arcname=f"{name}_1.jpg")
            entry = tarfile.TarInfo(f"{name}.tar")
            entry.size = len(content.getvalue())
            tar.addfile(entry, io.BytesIO(content.getvalue()))
    dataset = open_dataset(Data(dir=str(tmp_path), img_size=8), None, "train")
    assert dataset.classes == ["cat", "dog"]
    assert [(dataset[i].target, dataset[i].failed) for i in range(2)] == [(0, -1), (1, -1)]


def test_what_was_found_in_a_large_tar_is_kept_beside_it(tmp_path, monkeypatch):
    from acmix.data import tars

    monkeypatch.setattr(tars, "INDEX_FROM_BYTES", 0)
    put(tmp_path / "cat" / "a.jpg")
    (tmp_path / "cat" / "notes.txt").write_text("none")

    def write(*names: str) -> None:
        with tarfile.open(tmp_path / "train.tar", "w") as tar:
            for name in names:
                tar.add(tmp_path / "cat" / name, arcname=f"cat/{name}")

    write("a.jpg", "notes.txt")
    first = tars.read_tar(tmp_path / "train.tar")
    tars.indexed.cache_clear()
    monkeypatch.setattr(tars, "go_through", lambda file: pytest.fail("it is not gone through again"))
    again = tars.read_tar(tmp_path / "train.tar")
    assert (again.classes, again.notes) == (first.classes, first.notes) == (["cat"], again.notes)
    assert again.names.tolist() == first.names.tolist()
    monkeypatch.undo()
    monkeypatch.setattr(tars, "INDEX_FROM_BYTES", 0)
    put(tmp_path / "cat" / "b.jpg")
    write("a.jpg", "b.jpg")
    assert len(tars.read_tar(tmp_path / "train.tar").names) == 2


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    train = tmp_path / "train"
    put(train / "cat" / "a.jpg")
    put(train / "dog" / "deep" / "b.jpg")
    for link, target in {
        "cat/up": "..",
        "cat/top": "../..",
        "cat/itself": ".",
        "cat/root": "/",
        "cat/nowhere": "nowhere",
        "cat/guest": "../dog/deep",
        "cat/same.jpg": "a.jpg",
        "dog/deep/back": "..",
    }.items():
        os.symlink(target, train / link)
    found, notes = read(tmp_path)
    assert found == ["cat/a.jpg", "cat/guest/b.jpg", "cat/same.jpg", "dog/deep/b.jpg"]
    assert notes == [
        "1 file is no image and is left out: cat/nowhere",
        "6 links lead back to folders above them and are left out: cat/guest/back, cat/itself, cat/root, …",
    ]


def test_a_link_to_nothing_is_told_of_as_unreadable(tmp_path):
    put(tmp_path / "train" / "cat" / "a.jpg")
    os.symlink("gone.jpg", tmp_path / "train" / "cat" / "link.jpg")
    dataset = open_dataset(Data(dir=str(tmp_path), img_size=8), None, "train")
    assert len(dataset) == 2
    assert "no such file" in dataset.why(1)
    assert dataset.why(0) == ""


def test_classes_sort_by_number_whatever_counts_as_a_digit(tmp_path):
    for name in ("m10", "m9", "²", "m²"):
        put(tmp_path / "train" / name / "a.jpg")
    assert open_dataset(Data(dir=str(tmp_path)), None, "train").classes == ["m9", "m10", "m²", "²"]


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (b"\xef\xbb\xbfcat/a.jpg 0\r\ncat/b c.jpg 1\r\n", 2),
        ("cat/a.jpg 0\ncat/b c.jpg 1\n".encode("utf-16"), 2),
        ("cat/a.jpg 0\rcat/b c.jpg 1".encode("utf-16-le").join([b"\xff\xfe", b""]), 2),
        (b"  \"cat/a.jpg\"\t0 \t\n'cat/b c.jpg'   1\n\n", 2),
        (b"cat\\a.jpg 0\n./cat/a.jpg 0", 2),
        ("cat/tab\there.jpg 0\ncat/end .jpg 0\ncat/line\u2028x.jpg 0\ncat/a.jpg  0".encode(), 4),
        (b"cat/\xff.jpg 0\n", 1),
    ],
)
def test_a_list_file_of_any_system_names_its_files(tmp_path, content, count):
    for name in (b"a", b"b c", b"tab\there", b"end ", "line\u2028x".encode(), b"\xff"):
        put(tmp_path / "cat" / os.fsdecode(name + b".jpg"))
    (tmp_path / "train_list.txt").write_bytes(content)
    dataset = open_dataset(Data(dir=str(tmp_path), img_size=8), None, "train")
    assert [dataset[i].failed for i in range(len(dataset))] == [-1] * count


def test_labels_that_start_at_1_are_told_of(tmp_path):
    put(tmp_path / "a.jpg")
    (tmp_path / "train_list.txt").write_text("a.jpg 1\n" * 4 + "a.jpg 2\n" * 4)
    for classes in (2, 1000):
        with pytest.raises(
            UsageError, match="the labels run from 1 to 2, but the first class is 0; subtract 1 from each"
        ):
            train_loader(validate({"model": {"num_classes": classes}, "data": {"dir": str(tmp_path)}}))
    dataset = open_dataset(Data(dir=str(tmp_path), img_size=8), Augment(), "train")
    assert dataset.notes == ["1 of 3 classes without images: 0"]
    (tmp_path / "val_list.txt").write_text("a.jpg 1\na.jpg 3\n")
    with pytest.raises(UsageError, match=r"label 3 of a\.jpg is out of range; .*; labels count from 0"):
        open_dataset(Data(dir=str(tmp_path)), None, "val")


def test_a_pipe_in_the_place_of_a_list_or_a_tar_is_no_data(tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("train_list.txt", "train.tar"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="has no train/ folder"):
        open_dataset(Data(dir=str(tmp_path)), None, "train")
    with pytest.raises(UsageError, match="is a file"):
        open_dataset(Data(dir=str(tmp_path / "train.tar")), None, "train")
    with pytest.raises(UsageError, match="no data folder aaa"):
        open_dataset(Data(dir=300 * "a"), None, "train")
