"""Where images may lie, and what is refused."""

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acmix.config import Augment, Config, validate
from acmix.data import open_dataset, train_loader, val_loader
from acmix.errors import UsageError
from tests.support.images import lay_down, make_image_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    make_image_folder(root, classes=4, train_per_class=3, val_per_class=2, size=24)
    for split in ("train", "val"):
        lay_down(root / split / "class_00" / "0001.JPEG")
    return root


def config(root: Path | str, *, classes: int = 4, batch_size: int = 2, **data) -> Config:
    return validate(
        {
            "model": {"num_classes": classes},
            "data": {"dir": str(root), "img_size": 16, "workers": 0, **data},
            "train": {"batch_size": batch_size},
        }
    )


def labels(root: Path, split: str, **data) -> dict[str, int]:
    """File name below the split to label."""
    dataset = open_dataset(config(root, **data).data, None, split)
    return {"/".join(Path(dataset.name(i)).parts[-2:]): dataset[i].target for i in range(len(dataset))}


def write_lists(source: Path, root: Path) -> Path:
    """The same images, moved into flat folders and named by list files."""
    for split in ("train", "val"):
        lines = []
        for label, folder in enumerate(sorted((source / split).iterdir())):
            for file in sorted(folder.iterdir()):
                name = f"{folder.name}/{file.stem} copy.JPEG"
                (root / split / folder.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, root / split / name)
                # of train, paths start at the root; of val, at its own folder
                lines.append(f"{f'train/{name}' if split == 'train' else name} {label}\n")
        (root / f"{split}_list.txt").write_text("".join(lines))
    return root


def write_tar(source: Path, file: Path) -> None:
    with tarfile.open(file, "w") as tar:
        tar.add(source, arcname="", recursive=True)


def test_a_folder_gives_its_classes_in_natural_order_and_every_image(tmp_path):
    picture = Image.new("RGB", (20, 20))
    for name in ("cat2/a.JPEG", "cat10/b.Png", "cat10/deep/c.jpg", "cat2/.hidden.jpg", "cat2/notes.txt", "empty/x.txt"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "train" / name, format="PNG")
    dataset = open_dataset(config(tmp_path).data, Augment(), "train")
    assert dataset.classes == ["cat2", "cat10"]
    assert [Path(dataset.name(i)).name for i in range(len(dataset))] == ["a.JPEG", "b.Png", "c.jpg"]
    assert [dataset[i].target for i in range(3)] == [0, 1, 1]


def test_val_takes_the_labels_of_train_and_may_lack_classes(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "val" / "class_01")
    assert set(labels(tmp_path, "val").values()) == {0, 2, 3}
    assert labels(tmp_path, "val")["class_03/0001.JPEG"] == 3


def test_a_class_without_images_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for file in (tmp_path / "train" / "class_03").iterdir():
        file.unlink()
    shutil.rmtree(tmp_path / "val" / "class_03")
    note = "1 folder of a class holds no images and is left out: class_03"
    assert open_dataset(config(tmp_path).data, None, "train").notes == [note]
    with pytest.raises(UsageError, match=r"data has 3 classes, .*; add model.num_classes=3 \(1 folder of a class"):
        train_loader(config(tmp_path))


def test_a_folder_with_val_alone_can_be_evaluated(folder, tmp_path):
    shutil.copytree(folder / "val", tmp_path / "val")
    assert labels(tmp_path, "val") == labels(folder, "val")
    with pytest.raises(UsageError, match="has no train/ folder"):
        open_dataset(config(tmp_path).data, Augment(), "train")


def test_list_files_give_the_same_labels_and_class_names_as_the_folder(folder, tmp_path):
    write_lists(folder, tmp_path)
    for split in ("train", "val"):
        expected = {name.replace(".JPEG", " copy.JPEG"): label for name, label in labels(folder, split).items()}
        assert labels(tmp_path, split) == expected
        assert open_dataset(config(tmp_path).data, None, split).classes == [f"class_{n:02d}" for n in range(4)]


def test_classes_without_a_folder_of_their_own_are_named_by_number(folder, tmp_path):
    for number in range(2):
        shutil.copy(folder / f"train/class_0{number}/0000.JPEG", tmp_path / f"{number}.JPEG")
    (tmp_path / "train_list.txt").write_text("0.JPEG\t0\n\n1.JPEG 2\n")
    assert open_dataset(config(tmp_path).data, None, "train").classes == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("a.JPEG\n", "a.JPEG 0\n", r"train_list.txt line 1: 'a.JPEG' is not of the form"),
        ("a.JPEG 0\na.JPEG cat\n", "a.JPEG 0\n", r"line 2: 'a.JPEG cat' is not of the form"),
        ("a.JPEG -1\n", "a.JPEG 0\n", r"'a.JPEG -1' is not of the form"),
        ("a.JPEG 0\nb.JPEG 0\n", "a.JPEG 0\n", r"train_list.txt line 2: no file b.JPEG"),
        ("a.JPEG 0\n", "a.JPEG 1\n", r"val_list.txt: label 1 of a.JPEG is out of range; train_list.txt has 1 classes"),
        ("a.JPEG 99999999999\n", "a.JPEG 0\n", r"line 1: the label 99999999999 is too large"),
        ("\n", "a.JPEG 0\n", r"train_list.txt lists no images"),
        ("a.JPEG 0\n", None, r"has no val_list.txt"),
    ],
)
def test_a_bad_list_file_is_refused_by_line(folder, tmp_path, train, val, message):
    shutil.copy(folder / "train/class_00/0000.JPEG", tmp_path / "a.JPEG")
    (tmp_path / "train_list.txt").write_text(train)
    if val is not None:
        (tmp_path / "val_list.txt").write_text(val)
    with pytest.raises(UsageError, match=message) as caught:
        open_dataset(config(tmp_path).data, None, "val")
    assert "\n" not in str(caught.value)


def test_a_list_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "train_list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        open_dataset(config(tmp_path).data, None, "train")


def test_tar_files_give_the_same_images_and_labels_as_the_folder(folder, tmp_path):
    for split in ("train", "val"):
        write_tar(folder / split, tmp_path / f"{split}.tar")
    found = {name.split(":")[-1]: label for name, label in labels(tmp_path, "val").items()}
    assert found == labels(folder, "val")
    from_tar = open_dataset(config(tmp_path).data, None, "train")
    from_folder = open_dataset(config(folder).data, None, "train")
    assert from_tar.classes == from_folder.classes
    assert all((from_tar[i].image == from_folder[i].image).all() for i in range(len(from_folder)))


def test_a_tar_opened_before_the_readers_fork_is_read_whole(folder, tmp_path):
    for split in ("train", "val"):
        write_tar(folder / split, tmp_path / f"{split}.tar")
    loader = val_loader(config(tmp_path, workers=2, batch_size=1))
    expected = [loader.dataset[i].image for i in range(8)]
    for _ in range(3):
        assert all((batch.images[0] == expected[int(batch.index)]).all() for batch in loader)


def test_tars_in_tars_in_tars_are_refused(tmp_path):
    content = b"no matter"
    for _ in range(1200):
        header = tarfile.TarInfo("inner.tar")
        header.size = len(content)
        content = header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512 + 1024)
    (tmp_path / "train.tar").write_bytes(content)
    with pytest.raises(UsageError, match=r"train.tar is not a tar file: tars lie more than 16 deep in each other"):
        open_dataset(config(tmp_path).data, None, "train")


def test_a_member_of_a_tar_is_not_read_to_see_that_it_is_no_image(folder, tmp_path, monkeypatch):
    write_tar(folder / "train", tmp_path / "train.tar")
    with tarfile.open(tmp_path / "train.tar", "a") as tar:
        large = tarfile.TarInfo("class_00/large.unknown")
        large.size = 2**24
        tar.addfile(large, io.BytesIO(bytes(large.size)))
    read, sizes = tarfile.ExFileObject.read, []
    monkeypatch.setattr(
        tarfile.ExFileObject, "read", lambda self, *size: sizes.append(len(found := read(self, *size))) or found
    )
    assert "class_00/large.unknown" in open_dataset(config(tmp_path).data, None, "train").notes[0]
    assert 0 < sum(sizes) < 2**20


def test_bad_tar_files_are_refused(folder, tmp_path):
    write_tar(folder / "val", tmp_path / "val.tar")
    (tmp_path / "train.tar").write_bytes(b"not a tar")
    with pytest.raises(UsageError, match=r"train.tar is not a tar file"):
        open_dataset(config(tmp_path).data, None, "train")
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    with pytest.raises(UsageError, match=r"train.tar holds no images"):
        open_dataset(config(tmp_path).data, None, "train")
    write_tar(folder / "train" / "class_00", tmp_path / "train.tar")
    with pytest.raises(UsageError, match=r"train.tar holds images outside of any folder"):
        open_dataset(config(tmp_path).data, None, "train")
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(folder / "train" / "class_00", arcname="class_00")
    with pytest.raises(UsageError, match=r"val.tar has 3 classes that train.tar lacks, e.g. 'class_01'"):
        open_dataset(config(tmp_path).data, None, "val")


def bad_folders(folder: Path, root: Path) -> dict[str, Path | str]:
    """Message to data folder."""
    for name in ("empty", "no_val", "hollow", "unknown"):
        (root / name).mkdir()
    (root / "file.tar").write_bytes(b"")
    shutil.copytree(folder / "train", root / "no_val" / "train")
    shutil.copytree(folder / "train", root / "hollow" / "train")
    (root / "hollow" / "val" / "class_00").mkdir(parents=True)
    shutil.copytree(folder, root / "unknown", dirs_exist_ok=True)
    (root / "unknown" / "val" / "class_00").rename(root / "unknown" / "val" / "dog")
    return {
        "no data folder is given": "",
        "no data folder .*absent": root / "absent",
        "empty is empty": root / "empty",
        "no_val has no val/ folder": root / "no_val",
        "hollow/val holds no images": root / "hollow",
        "unknown/val has 1 classes that train/ lacks, e.g. 'dog'": root / "unknown",
        "file.tar is a file": root / "file.tar",
    }


def test_bad_folders_are_refused_in_one_line(folder, tmp_path):
    for message, root in bad_folders(folder, tmp_path).items():
        with pytest.raises(UsageError, match=message) as caught:
            val_loader(config(root))
        assert "\n" not in str(caught.value)


def test_a_configuration_that_does_not_fit_the_data_is_refused(folder):
    message = "the data has 4 classes, but model.num_classes is 1000; add model.num_classes=4"
    for open_loader in (train_loader, val_loader):
        with pytest.raises(UsageError, match=message):
            open_loader(config(folder, classes=1000))
    with pytest.raises(UsageError, match=r"global batch 14 .* is larger than the 12 training images"):
        train_loader(config(folder, batch_size=14))
    assert train_loader(config(folder, batch_size=6), world_size=2).steps_per_epoch == 1
    with pytest.raises(UsageError, match="global batch 24"):
        train_loader(config(folder, batch_size=6), world_size=4)
    with pytest.raises(UsageError, match=r"train.batch_size=3 is odd"):
        train_loader(config(folder, batch_size=3))
    with pytest.raises(UsageError, match=r"data.format='zip' is unknown"):
        val_loader(config(folder, format="zip"))


def test_a_local_hugging_face_folder_gives_the_same_labels(folder, tmp_path):
    pytest.importorskip("datasets", exc_type=ImportError)
    settings = config(tmp_path / "cache", format=f"hfds/{folder}", val_split="validation")
    val = val_loader(settings)
    plain = open_dataset(config(folder).data, None, "val")
    assert val.dataset.classes == plain.classes
    by_name = {plain.name(i): plain[i] for i in range(len(plain))}
    seen = [int(index) for batch in val for index in batch.index]
    assert sorted(seen) == list(range(8))
    for batch in val:
        for image, target, index in zip(batch.images, batch.targets, batch.index, strict=True):
            expected = by_name[val.dataset.name(int(index))]
            assert (image == expected.image).all()
            assert int(target) == expected.target
    with pytest.raises(UsageError, match=r"cannot open hfds/.* split 'absent'"):
        val_loader(config(tmp_path / "cache", format=f"hfds/{folder}", val_split="absent"))


def test_a_million_paths_take_little_room(folder):
    source: Any = open_dataset(config(folder).data, None, "train").source
    assert source.paths.dtype == np.dtype(f"S{len('class_00/0000.JPEG')}")


def test_images_that_lie_in_no_folder_of_a_class_are_said(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(UsageError, match=r"holds 2 images outside any class folder; expected <class>/ folders"):
        train_loader(config(tmp_path, split=0.2))


def test_a_folder_of_parquet_files_trains_and_is_validated(folder, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcd"))})
    for split in ("train", "val"):
        files = sorted((folder / split).rglob("*.JPEG"))
        rows = {"image": [str(file) for file in files], "label": [int(file.parent.name[-1]) for file in files]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "parquet" / f"{split}.parquet")
    settings = config(tmp_path / "cache", format=f"hfds/{tmp_path / 'parquet'}", val_split="validation")
    batches = list(train_loader(settings).epoch(0))
    assert sum(len(batch.images) for batch in batches) == 12
    assert open_dataset(settings.data, None, "val").classes == list("abcd")
    assert sum(int(batch.weights.sum()) for batch in val_loader(settings)) == 8
