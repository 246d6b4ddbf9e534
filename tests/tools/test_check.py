"""`acmix data check` finds what is wrong with a data set, and says whether anything is."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from acmix.config import Data
from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes
from acmix.errors import UsageError
from acmix.tools.check import check, copies
from acmix.tools.check_report import as_json, is_sound, lines
from tests.support.images import make_image_folder
from tests.support.shards import write_shards


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_image_folder(tmp_path / "images", classes=2, train_per_class=3, val_per_class=2, size=24)


def told(root: Path | str, workers: int = 0, **data) -> tuple[str, dict]:
    """What is said, and what is written."""
    splits = check(Data(dir=str(root), **data), workers=workers)
    found = copies(splits)
    return "\n".join(lines(splits, found)), as_json(str(root), splits, found)


def test_a_sound_folder_is_counted(folder):
    said, written = told(folder)
    assert said.splitlines()[0].startswith("train: 6 images in 2 classes, 0.0 MB, median ")
    assert "train: 3 images per class" in said
    assert said.endswith("every image can be read")
    assert written["sound"]
    assert written["splits"]["val"]["classes"] == {"class_00": 2, "class_01": 2}
    assert written["duplicates"] == []


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_odd_is_found_and_named(folder, workers):
    train = folder / "train" / "class_00"
    (train / "broken.jpg").write_bytes((train / "0000.JPEG").read_bytes()[:300])
    (train / "empty.png").write_bytes(b"")
    (train / "gone.jpg").symlink_to("nowhere")
    shutil.copy(train / "0001.JPEG", folder / "train" / "class_01" / "again.jpg")
    shutil.copy(train / "0002.JPEG", folder / "val" / "class_00" / "again.jpg")
    Image.new("L", (5, 60)).save(train / "small.png")
    Image.new("CMYK", (20, 20)).save(train / "printed.jpg")
    Image.new("I;16", (20, 20), 5000).save(train / "deep.png")
    white = Image.new("RGB", (20, 20), "white")
    Image.new("RGB", (20, 20)).save(train / "film.gif", save_all=True, append_images=[white])
    shutil.copytree(folder / "train" / "class_01", folder / "train" / "class_02")
    said, written = told(folder, workers)
    train_said = written["splits"]["train"]
    assert not written["sound"]
    assert {Path(each["name"]).name: each["reason"] for each in train_said["unreadable"]} == {
        "broken.jpg": train_said["unreadable"][0]["reason"],
        "empty.png": "the file is empty",
        "gone.jpg": "no such file",
    }
    assert "runcated" in train_said["unreadable"][0]["reason"]
    for kind, name in (
        *(("tiny", "small.png"), ("narrow", "small.png"), ("cmyk", "printed.jpg")),
        *(("deep", "deep.png"), ("animated", "film.gif")),
    ):
        assert [Path(each).name for each in train_said[kind]] == [name], kind
    assert "train: 1 of more than 8 bits a channel, 1 CMYK, 1 animated" in said
    assert "train: 3 unreadable: " in said
    assert "duplicates: of them in several splits: 1: " in said
    # class_02 is a copy of class_01, in which one image is of class_00
    assert "duplicates: images that are in several files: 5: " in said
    assert "duplicates: of them under several labels: 4: " in said


def test_classes_without_images_and_of_very_different_sizes_are_told(folder):
    shutil.rmtree(folder / "val" / "class_01")
    for number in range(40):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / "train" / "class_00" / f"more{number}.png")
    said, _ = told(folder)
    assert "train: 3 (class_01) to 43 (class_00) images per class, median 23; unbalanced" in said
    assert "val: 1 classes without images: class_01" in said


def test_shards_are_compared_with_their_checksums(folder, tmp_path):
    root = write_shards(folder, tmp_path / "shards", samples=3)
    assert told(root)[1]["sound"]
    shard = root / "train-000001.tar"
    content = bytearray(shard.read_bytes())
    # of the zeros at the end: no image has them
    content[-1] = 1
    shard.write_bytes(content)
    said, written = told(root, workers=2)
    assert f"train: broken: {shard}: its SHA-256 is not the one in _info.json" in said
    assert not written["sound"]
    shard.unlink()
    said, written = told(root)
    assert "train: broken: there is no shard" in said
    assert written["splits"]["val"]["images"] == 4


def test_lists_tars_and_classes_alone_are_looked_at(folder, tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(folder / "train", arcname="")
    (tmp_path / "tars").mkdir()
    shutil.move(tmp_path / "train.tar", tmp_path / "tars")
    assert told(tmp_path / "tars")[1]["splits"].keys() == {"train"}
    assert told(folder / "val")[1]["splits"]["train"]["images"] == 4
    files = sorted((folder / "train").rglob("*.JPEG"))
    (folder / "train_list.txt").write_text("".join(f"{file.relative_to(folder)} 0\n" for file in files))
    assert (
        told(folder)[1]["splits"]["train"]["classes"] == {"0": 6} or told(folder)[1]["splits"]["train"]["images"] == 6
    )


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_detection_scenes, write_segmentation_scenes])
def test_images_of_coco_and_ade20k_are_looked_at(tmp_path, write):
    write(tmp_path, images=(3, 2), size=48)
    said, written = told(tmp_path)
    assert [each["images"] for each in written["splits"].values()] == [3, 2]
    assert "classes" not in said
    damaged = sorted(tmp_path.rglob("*.jpg"))[0]
    damaged.write_bytes(b"")
    splits = check(Data(dir=str(tmp_path)), workers=0)
    assert not is_sound(splits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--split", "test"], "--split test: expected train or val; --train-split and --val-split name the source's"),
        (
            ["--format", "wds/"],
            "data.format=wds/ is a stream, which `acmix train` and `acmix evaluate` read; expected auto",
        ),
        (["--train-split", ""], "acmix data: data.train_split='': string should have at least 1 character"),
    ],
)
@pytest.mark.parametrize("what", ["check", "shard"])
def test_a_mistaken_option_is_one_line(folder, tmp_path, acmix, what, options, said):
    place = [] if what == "check" else [tmp_path / "shards"]
    status, _, errors = acmix("data", what, folder, *place, *options)
    assert status == 2
    assert errors.startswith(f"acmix: error: {said}")
    assert errors.count("\n") == 1
    assert not (tmp_path / "shards").exists()


def test_a_split_of_coco_is_chosen_by_its_name(tmp_path):
    write_detection_scenes(tmp_path, images=(3, 2), size=48)
    assert [each.name for each in check(Data(dir=str(tmp_path)), ["val2017"], workers=0)] == ["val2017"]
    with pytest.raises(UsageError, match=r"--split val: .* has train2017, val2017; choose one of them"):
        check(Data(dir=str(tmp_path)), ["val"], workers=0)


def test_the_command_ends_with_1_where_something_is_unreadable(folder, tmp_path, acmix):
    status, output, _ = acmix("data", "check", folder, "--workers", "0")
    assert status == 0
    assert "every image can be read" in output
    (folder / "val" / "class_00" / "0000.JPEG").write_bytes(b"no image")
    status, output, _ = acmix("data", "check", folder, "--workers", "0", "--json", tmp_path / "found.json")
    assert status == 1
    assert "val: 1 unreadable: " in output
    assert not json.loads((tmp_path / "found.json").read_text())["sound"]
    status, _, errors = acmix("data", "check", tmp_path / "nothing")
    assert status == 2
    assert errors.startswith("acmix: error: no data folder")


def test_hugging_face_folders_are_looked_at_and_written_as_shards(folder, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    for split in ("train", "val"):
        files = sorted((folder / split).rglob("*.JPEG"))
        rows = {"image": [str(file) for file in files], "label": [int(file.parent.name[-1]) for file in files]}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(tmp_path / "parquet" / f"{split}.parquet")
    where: dict = {"format": f"hfds/{tmp_path / 'parquet'}", "val_split": "validation"}
    said, written = told(tmp_path / "cache", **where)
    assert written["splits"]["train"]["classes"] == {"a": 3, "b": 3}
    assert "val: 4 images" in said
    from acmix.tools.shard import shard

    out = list(shard(Data(dir=str(tmp_path / "cache"), **where), tmp_path / "shards", workers=0))
    assert len(out) == 2
    assert told(tmp_path / "shards")[1]["splits"]["val"]["classes"] == {"a": 2, "b": 2}


def test_rows_of_parquet_without_an_image_are_unreadable(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    content = io.BytesIO()
    Image.new("RGB", (20, 20)).save(content, "PNG")
    os.mkfifo(tmp_path / "pipe.png")
    rows = [
        {"bytes": content.getvalue(), "path": None},
        None,
        {"bytes": None, "path": None},
        {"bytes": b"", "path": None},
        {"bytes": None, "path": str(tmp_path / "none.png")},
        {"bytes": None, "path": str(tmp_path / "pipe.png")},
        {"bytes": b"no image", "path": None},
    ]
    labels = datasets.ClassLabel(names=["a", "b"])
    for name in ("image", "photo"):
        schema = datasets.Features({name: datasets.Image(), "label": labels}).arrow_schema
        (tmp_path / name).mkdir()
        table = pyarrow.Table.from_pydict({name: rows, "label": [0, 1] * 3 + [0]}, schema=schema)
        pyarrow.parquet.write_table(table, tmp_path / name / "train.parquet")
    [split] = check(Data(dir=str(tmp_path / "cache"), format=f"hfds/{tmp_path / 'image'}"), ["train"], workers=0)
    assert split.images is not None
    assert split.images.reasons == {
        1: "the row holds no image",
        2: "the row holds no image",
        3: "the row holds no image",
        4: "no such file",
        5: "a pipe, a socket, a device or a folder; an image file was expected",
        6: "not an image in a known format",
    }
    with pytest.raises(UsageError, match="expected rows with the columns image and label, there are: photo, label"):
        check(Data(dir=str(tmp_path / "cache"), format=f"hfds/{tmp_path / 'photo'}"), ["train"], workers=0)
