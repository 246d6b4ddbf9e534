"""`data.split` holds out the same images of every class, everywhere and every time, and none of them is trained on."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acmix.config import Config, load, validate
from acmix.data import Trained, open_dataset, train_loader, val_loader
from acmix.data.split import held_out, number
from acmix.errors import UsageError
from acmix.tools.evaluate import evaluate_checkpoint
from acmix.tools.report import validation_sections
from acmix.train.loop import train
from tests.data.test_sources import write_lists, write_tar
from tests.support.checks import one_error
from tests.support.images import make_image_folder
from tests.support.processes import command
from tests.support.tiny import PLAIN, tiny_config, write_config

COUNTS = (10, 7, 4, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ alone, with classes of 10, 7, 4 and 2 images."""
    root = make_image_folder(
        tmp_path_factory.mktemp("split") / "photos", 4, train_per_class=10, val_per_class=0, size=24
    )
    shutil.rmtree(root / "val")
    for label, count in enumerate(COUNTS):
        for file in sorted((root / "train" / f"class_{label:02d}").iterdir())[count:]:
            file.unlink()
    return root


def config(root: Path | str, **data: Any) -> Config:
    data = {"dir": str(root), "img_size": 16, "workers": 0, "split": 0.2, **data}
    return validate({"model": {"num_classes": 4}, "data": data, "train": {"batch_size": 2}})


def below(name: str) -> str:
    """An image's CLASS/FILE."""
    return "/".join(name.replace(":", "/").split("/")[-2:])


def parts(root: Path | str, **data: Any) -> tuple[set[str], set[str]]:
    """The images, as CLASS/FILE, that are trained on and validated on."""
    settings = config(root, **data).data
    train, val = (open_dataset(settings, None, split) for split in ("train", "val"))
    assert train.classes == val.classes
    names = [[below(each.name(i)) for i in range(len(each))] for each in (train, val)]
    for each, found in zip((train, val), names, strict=True):
        assert [each.classes[each.source.target(i)] for i in range(len(each))] == [name.split("/")[0] for name in found]
    assert len({*names[0], *names[1]}) == len(names[0]) + len(names[1])
    return set(names[0]), set(names[1])


def test_every_class_gives_its_share_and_no_image_is_in_both(folder: Path) -> None:
    everything = {f"{file.parent.name}/{file.name}" for file in (folder / "train").rglob("*.JPEG")}
    for split, counts in ((0.2, [2, 1, 1, 1]), (0.5, [5, 4, 2, 1]), (0.01, [1, 1, 1, 1]), (0.99, [9, 6, 3, 1])):
        train, val = parts(folder, split=split)
        assert train & val == set()
        assert train | val == everything
        assert sorted(Counter(name.split("/")[0] for name in val).items()) == [
            (f"class_{label:02d}", count) for label, count in enumerate(counts)
        ]
    # a larger share holds out the same images and more
    assert parts(folder, split=0.2)[1] < parts(folder, split=0.5)[1]


def test_a_folder_of_class_folders_is_split_as_train_would_be(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "train", tmp_path / "photos")
    (tmp_path / "photos" / ".git").mkdir()
    assert parts(tmp_path / "photos") == parts(folder)
    # one of the classes may be called like a split
    (tmp_path / "photos" / "class_03").rename(tmp_path / "photos" / "train")
    assert {name.split("/")[0] for name in parts(tmp_path / "photos")[1]} == {
        "class_00",
        "class_01",
        "class_02",
        "train",
    }


def test_the_choice_depends_on_its_own_seed_alone(folder: Path) -> None:
    settings = config(folder)
    reseeded = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": 7})})
    names = [[each.dataset.name(i) for i in range(len(each.dataset))] for each in map(val_loader, (settings, reseeded))]
    assert names[0] == names[1]
    assert parts(folder, split_seed=1) != parts(folder)


def test_the_choice_is_the_same_in_any_order_and_on_any_system(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"class/é{n}.jpg".encode() for n in range(100)]
    targets = np.zeros(100, dtype=np.int64)
    held = held_out(paths, targets, 0.2, 0, where="x")
    chosen = {path for path, is_held in zip(paths, held, strict=True) if is_held}
    # written down once: this must never change, as checkpoints of old runs are measured on these images
    assert sorted(path.decode()[7:-4] for path in chosen)[:5] == ["1", "10", "26", "37", "4"]
    shuffled = random.Random(0).sample(paths, 100)
    held = held_out(shuffled, targets, 0.2, 0, where="x")
    assert chosen == {path for path, is_held in zip(shuffled, held, strict=True) if is_held}
    there = number("a/é.jpg".encode(), 0)
    assert there == number("a/e\u0301.jpg".encode(), 0) == number(b"./a/" + "é.jpg".encode(), 0)
    monkeypatch.setattr(os, "sep", "\\")
    assert there == number("a\\é.jpg".encode(), 0)


def test_an_image_that_is_added_moves_at_most_one_other() -> None:
    paths = [f"{n}.jpg".encode() for n in range(200)]
    before: set[bytes] = set()
    for count in range(2, 200):
        held = held_out(paths[:count], np.zeros(count, dtype=np.int64), 0.2, 0, where="x")
        now = {path for path, is_held in zip(paths[:count], held, strict=True) if is_held}
        moved = (before ^ now) - {paths[count - 1]}
        assert len(moved) <= 1
        before = now


def test_lists_and_tar_files_are_split_too(folder: Path, tmp_path: Path) -> None:
    both = make_image_folder(tmp_path / "both", 4, train_per_class=5, val_per_class=1, size=24)
    lists = write_lists(both, tmp_path / "lists")
    (lists / "val_list.txt").unlink()
    train, val = parts(lists)
    assert (len(train), len(val)) == (16, 4)
    (tmp_path / "tars").mkdir()
    write_tar(folder / "train", tmp_path / "tars" / "train.tar")
    train, val = parts(tmp_path / "tars")
    assert (len(train), len(val)) == (18, 5)
    dataset = open_dataset(config(tmp_path / "tars").data, None, "val")
    plain = open_dataset(config(folder, split=None, val_split="train").data, None, "val")
    by_name = {below(plain.name(i)): plain[i].image for i in range(len(plain))}
    for i in range(len(dataset)):
        assert (dataset[i].image == by_name[below(dataset.name(i))]).all()


def test_a_trained_model_is_measured_on_the_same_images_of_every_kind_of_data(folder: Path, tmp_path: Path) -> None:
    both = make_image_folder(tmp_path / "both", 4, train_per_class=5, val_per_class=1, size=24)
    lists = write_lists(both, tmp_path / "lists")
    (lists / "val_list.txt").unlink()
    (tmp_path / "tars").mkdir()
    write_tar(folder / "train", tmp_path / "tars" / "train.tar")
    names = [f"class_{label:02d}" for label in range(4)]
    for root in (folder, folder / "train", lists, tmp_path / "tars"):
        plain = open_dataset(config(root).data, None, "val")
        for order in (names, names[::-1]):
            # lists give numbers, which another order of names means other classes by
            if root == lists and order != names:
                continue
            found = open_dataset(config(root).data, None, "val", trained=Trained(order, True, "best.pt"))
            rows = range(len(plain))
            assert [found.name(i) for i in rows] == [plain.name(i) for i in rows]
            assert [order[found.source.target(i)] for i in rows] == [names[plain.source.target(i)] for i in rows]
            assert len(found) == len(plain)


def test_an_image_that_is_listed_twice_is_on_one_side(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "train", tmp_path, dirs_exist_ok=True)
    lines = [f"{file.parent.name}/{file.name} {file.parent.name[-1]}" for file in sorted(tmp_path.rglob("*.JPEG"))]
    (tmp_path / "train_list.txt").write_text("\n".join([*lines, *(f"./{line}" for line in lines), *lines]))
    settings = config(tmp_path).data
    train, val = (open_dataset(settings, None, split) for split in ("train", "val"))
    names = [{os.path.normpath(each.name(i)) for i in range(len(each))} for each in (train, val)]
    assert names[0] & names[1] == set()
    assert len(val) == 3 * 5
    (tmp_path / "train_list.txt").write_text("\n".join([*lines, f"{lines[0][:-1]}3"]))
    with pytest.raises(
        UsageError, match=r"has class_00/0000.JPEG under the labels 0 and 3; data.split needs one label"
    ):
        open_dataset(settings, None, "train")


def test_a_class_of_one_image_is_trained_on_and_said(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "train/class_03/0001.JPEG").unlink()
    train = parts(tmp_path)[0]
    assert "class_03/0000.JPEG" in train
    notes = open_dataset(config(tmp_path).data, None, "val").notes
    assert notes == [
        "4 of 22 images are held out by data.split=0.2, data.split_seed=0",
        "1 of 4 classes have a single image, which is trained on: class_03",
    ]
    for label in range(3):
        for file in sorted((tmp_path / f"train/class_0{label}").iterdir())[1:]:
            file.unlink()
    with pytest.raises(UsageError, match=r"data.split=0.2 holds nothing out: no class of .* has two images"):
        open_dataset(config(tmp_path).data, None, "val")


def test_validation_images_and_a_split_are_refused_together(folder: Path, tmp_path: Path) -> None:
    both = make_image_folder(tmp_path / "both", 4, train_per_class=2, val_per_class=1, size=24)
    for split in ("train", "val"):
        with pytest.raises(
            UsageError, match=r"has validation images \(val\), and data.split=0.2 would hold out others"
        ):
            open_dataset(config(both).data, None, split)
    # a model is measured on what the data has
    trained = Trained([f"class_{n:02d}" for n in range(4)], True, "best.pt")
    found = open_dataset(config(both).data, None, "val", trained=trained)
    assert len(found) == 4
    assert found.notes == [f"measured on val, which {both} has; the run held out images by data.split=0.2"]


def test_data_without_validation_images_is_told_of_the_split(folder: Path, tmp_path: Path) -> None:
    settings = config(folder, split=None)
    with pytest.raises(UsageError, match=r"has no val/ folder; .*, or data.split=0.2 to hold out a part of train"):
        val_loader(settings)
    with pytest.raises(
        UsageError, match=r"has no train/ folder; .*; if its own folders are the classes, add data.split"
    ):
        train_loader(config(folder / "train", split=None))
    # an evaluation has no such setting
    with pytest.raises(UsageError, match=r"has no val/ folder; expected val/<class>/<image files> in it$"):
        val_loader(settings, trained=Trained(["a"], True, "best.pt"))
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UsageError, match=r"has no train/ folder; expected train/<class>/<image files> in it$"):
        train_loader(config(tmp_path, split=None))
    with pytest.raises(UsageError, match=r"holds no images; expected <class>/ folders with image files in them"):
        train_loader(config(tmp_path))


@pytest.mark.parametrize("name", ["wds/", "hfds/cats", "hfids/cats"])
def test_what_only_a_reader_can_list_is_not_split(name: str) -> None:
    with pytest.raises(
        UsageError, match=rf"data.split=0.2 is for folders, lists and tar files; with data.format={name}"
    ):
        config(".", format=name)


@pytest.mark.slow
def test_every_process_every_resume_and_evaluation_measure_the_same_images(folder: Path, tmp_path: Path) -> None:
    told = write_config(tmp_path / "tiny.yaml", folder, *PLAIN, "data.split=0.4", "train.batch_size=2")
    ends = command("train", told, "--output", tmp_path / "run", processes=2).finish()
    assert [(end.status, end.errors) for end in ends] == [(0, ""), (0, "")]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    done = evaluate_checkpoint(best, str(folder), workers=0)
    assert done.result.images == 4 + 3 + 2 + 1
    assert done.result.metrics["top1"] == summary["top1"]
    assert done.notes == ["10 of 23 images are held out by data.split=0.4, data.split_seed=0"]
    run_config = load(tmp_path / "run" / "config.yaml")
    seen = validation_sections(tmp_path / "run", run_config, None, 4, torch.device("cpu"))
    assert seen["problem"] == ""
    assert sum(cell.count for row in seen["matrix"] for cell in row) == 10
    with pytest.raises(UsageError, match=r"trained with data.split 0.4, now it would be 0.2; set data.split=0.4 again"):
        train(tiny_config(folder, *PLAIN, "data.split=0.2", "train.batch_size=4"), tmp_path / "run")
    [end] = command("train", told, "data.split=1.5").finish()
    one_error(end.errors, "data.split=1.5: input should be less than 1")
