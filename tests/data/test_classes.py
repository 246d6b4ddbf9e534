"""A trained model's names of classes decide about the labels of any data it is measured on."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from acmix.config import Config, validate
from acmix.data import Trained, train_loader, val_loader
from acmix.errors import UsageError
from tests.support.images import make_image_folder

NAMES = ["2", "10", "9", "30"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders whose order as numbers, 2 9 10 30, is not that of their text, 10 2 30 9; val/ lacks 9."""
    made = make_image_folder(tmp_path / "images", 4, train_per_class=2, val_per_class=1, size=16)
    for split in ("train", "val"):
        for name, folder in zip(NAMES, sorted((made / split).iterdir()), strict=True):
            folder.rename(made / split / name)
    shutil.rmtree(made / "val" / "9")
    return made


def config(root: Path, classes: int = 4, **data: Any) -> Config:
    return validate(
        {
            "model": {"num_classes": classes},
            "data": {"dir": str(root), "img_size": 16, "workers": 0, **data},
            "train": {"batch_size": 4},
        }
    )


def labels(settings: Config, trained: Trained) -> dict[str, int]:
    """The label of each file by the folder it lies in, and that the loader hands over the same."""
    loader = val_loader(settings, trained=trained)
    dataset: Any = loader.dataset
    assert dataset.classes == trained.names
    for batch in loader:
        asked = [(int(i), int(label)) for i, label in zip(batch.index, batch.targets, strict=True)]
        assert all(dataset[i].target == label for i, label in asked)
    return {Path(dataset.name(i).rpartition(":")[2]).parent.name: dataset.source.target(i) for i in range(len(dataset))}


def named(names: str) -> Trained:
    return Trained(names.split(), True, "best.pt")


def numbered(count: int) -> Trained:
    return Trained([str(number) for number in range(count)], False, "ours.pt")


def as_tar(root: Path) -> None:
    """The splits as tar files."""
    for split in ("train", "val"):
        if (root / split).is_dir():
            with tarfile.open(root / f"{split}.tar", "w") as tar:
                for folder in sorted((root / split).iterdir()):
                    tar.add(folder, arcname=folder.name)
            shutil.rmtree(root / split)


def as_list(root: Path, split: str, order: list[str], folders: bool = True) -> None:
    """A split as a list whose labels are the places of folders in an order; or images in one folder."""
    lines = []
    for label, name in enumerate(order):
        for number, file in enumerate(
            sorted((root / split / name).glob("*")) if (root / split / name).is_dir() else []
        ):
            path = file.relative_to(root)
            if not folders:
                path = Path("flat", f"{split}-{name}-{number}.JPEG")
                (root / path).parent.mkdir(exist_ok=True)
                shutil.copy(file, root / path)
            lines.append(f"{path} {label}\n")
    (root / f"{split}_list.txt").write_text("".join(lines))


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize("train", [True, False])
def test_names_decide_whatever_val_and_train_have(root: Path, kind: str, train: bool) -> None:
    if not train:
        shutil.rmtree(root / "train")
    if kind == "tar":
        as_tar(root)
    # the order of a model that was trained on another source, with a class more
    assert labels(config(root, 5), named("30 2 9 10 more")) == {"30": 0, "2": 1, "10": 3}


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_name_is_the_same_with_its_accents_composed_or_not(root: Path, kind: str) -> None:
    # macOS writes é as e and an accent, others as one character
    (root / "train" / "10").rename(root / "train" / "caf\u00e9")
    (root / "val" / "10").rename(root / "val" / "cafe\u0301")
    if kind == "tar":
        as_tar(root)
    trained = Trained(["30", "caf\u00e9", "2", "9"], True, "the checkpoint")
    assert labels(config(root), trained) == {"30": 0, "cafe\u0301": 1, "2": 2}
    assert val_loader(config(root)).dataset.classes == ["2", "9", "30", "caf\u00e9"]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_class_that_the_model_does_not_know_is_named(root: Path, kind: str) -> None:
    (root / "train" / "unused").mkdir()
    if kind == "tar":
        as_tar(root)
    with pytest.raises(UsageError) as caught:
        val_loader(config(root, 3), trained=named("2 9 30"))
    said = "best.pt was trained on other classes than those of"
    assert said in str(caught.value)
    assert str(caught.value).endswith("it does not know '10', but '2', '9', '30'; give the data it was trained for")


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_numbered_classes_are_the_names_sorted_as_text(root: Path, kind: str) -> None:
    if kind == "tar":
        as_tar(root)
    assert labels(config(root), numbered(4)) == {"10": 0, "2": 1, "30": 2}
    # beside it, what training on the same folders means
    assert train_loader(config(root)).dataset.classes == ["2", "9", "10", "30"]


def test_numbered_classes_cannot_be_told_where_one_is_missing(root: Path) -> None:
    shutil.rmtree(root / "train")
    with pytest.raises(UsageError, match=r"ours.pt knows its 4 classes by number alone, and .* has 3 folders"):
        val_loader(config(root), trained=numbered(4))


@pytest.mark.parametrize("train", [True, False])
def test_a_list_goes_by_the_folders_of_its_images(root: Path, train: bool) -> None:
    order = ["30", "10", "9", "2"]
    as_list(root, "val", order)
    if train:
        as_list(root, "train", order)
    assert labels(config(root), named("2 9 10 30")) == {"2": 0, "10": 2, "30": 3}
    with pytest.raises(UsageError, match="it does not know '30', but '2', '9', '10', '31'"):
        val_loader(config(root), trained=named("2 9 10 31"))
    # numbers in place of names: those of the list
    assert labels(config(root), numbered(4)) == {"30": 0, "10": 1, "2": 3}


def test_a_list_without_folders_goes_by_its_numbers(root: Path) -> None:
    as_list(root, "val", ["30", "10", "9", "2"], folders=False)
    dataset: Any = val_loader(config(root), trained=named("a b c d")).dataset
    assert sorted(dataset.source.target(i) for i in range(3)) == [0, 1, 3]
    with pytest.raises(UsageError, match=r"has a label 3, but best.pt has 2 classes, from 0"):
        val_loader(config(root, 2), trained=named("a b"))


def test_a_list_goes_by_number_where_the_model_was_trained_on_one_without_names(root: Path) -> None:
    as_list(root, "val", ["30", "10", "9", "2"])
    assert labels(config(root), Trained(["0", "1", "2", "3"], True, "best.pt")) == {"30": 0, "10": 1, "2": 3}


@pytest.mark.parametrize("reader", ["hfds", "hfids"])
def test_a_hugging_face_data_set_goes_by_its_names(root: Path, tmp_path: Path, reader: str) -> None:
    pytest.importorskip("datasets", exc_type=ImportError)
    settings = config(tmp_path / "cache", format=f"{reader}/{root}", val_split="validation|3")
    if reader == "hfds":
        settings = config(tmp_path / "cache", format=f"{reader}/{root}", val_split="validation")
    loader = val_loader(settings, trained=named("30 2 9 10"))
    seen = sorted(
        int(label) for batch in loader for label, weight in zip(batch.targets, batch.weights, strict=True) if weight
    )
    assert seen == [0, 1, 3]
    # a data set numbers its own classes: as text here
    loader = val_loader(settings, trained=numbered(4))
    seen = sorted(
        int(label) for batch in loader for label, weight in zip(batch.targets, batch.weights, strict=True) if weight
    )
    assert seen == [0, 1, 2]
    with pytest.raises(UsageError, match="was trained on other classes"):
        val_loader(settings, trained=named("30 2 9 11"))
