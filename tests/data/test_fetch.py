"""Small public data sets as image folders: whole, in parts, and refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acmix.data import fetch as module
from acmix.data.fetch import FILES, fetch
from acmix.data.sprites import CLOTHES, FASHION_MNIST
from acmix.errors import UsageError


def names(root: Path, split: str) -> set[str]:
    """Pictures of a split, below its folder."""
    return {each.relative_to(root / split).as_posix() for each in (root / split).glob("*/*.png")}


def drawn_files(folder: Path) -> Path:
    """Files as Fashion-MNIST's, of drawn pictures."""
    draw = np.random.RandomState(0)
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        labels = np.arange(count) % 10
        for kind, values in (("images-idx3", draw.randint(0, 256, (count, 28, 28))), ("labels-idx1", labels)):
            head = np.array([0x800 + values.ndim, *values.shape], dtype=">u4").tobytes()
            with gzip.open(folder / f"{name}-{kind}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(head + values.astype(np.uint8).tobytes())
    return folder


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Fashion-MNIST's files: the real ones where they lie."""
    if all((FASHION_MNIST / each).is_file() for each in FILES):
        return FASHION_MNIST
    return drawn_files(tmp_path_factory.mktemp("fashion-mnist"))


def test_all_digits(tmp_path: Path) -> None:
    said = list(fetch("digits", tmp_path / "digits"))
    assert said == [f"digits: 1,442 training and 355 validation pictures in {tmp_path / 'digits'}"]
    assert len(names(tmp_path / "digits", "train")) == 1442
    again = list(fetch("digits", tmp_path / "digits"))
    assert again == [f"digits: 1,442 training and 355 validation pictures are in {tmp_path / 'digits'}"]


def test_parts_are_balanced_fixed_and_nested(tmp_path: Path) -> None:
    for folder, train in (("a", 40), ("b", 40), ("c", 95)):
        list(fetch("digits", tmp_path / folder, train=train, val=10))
    a, b, c = (names(tmp_path / folder, "train") for folder in "abc")
    assert a == b < c
    assert {sum(each.startswith(f"{digit}/") for each in a) for digit in range(10)} == {4}
    assert sorted(sum(each.startswith(f"{digit}/") for each in c) for digit in range(10)) == [9] * 5 + [10] * 5
    assert len(names(tmp_path / "a", "val")) == 10


def test_clothes_are_the_published_bytes(tmp_path: Path, clothes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FASHION_MNIST", clothes)
    list(fetch("fashion-mnist", tmp_path / "few", train=30, val=20))
    found = names(tmp_path / "few", "train")
    assert {each.partition("/")[0] for each in found} == set(CLOTHES)
    with gzip.open(clothes / "train-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(clothes / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    for each in found:
        name, place = each.split("/")
        index = int(place.removesuffix(".png"))
        assert CLOTHES[labels[index]] == name
        assert np.array_equal(np.asarray(Image.open(tmp_path / "few" / "train" / each)), pictures[index])


def test_other_files_and_other_parts_are_kept(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        list(fetch("digits", other))
    list(fetch("digits", tmp_path / "part", train=20, val=10))
    with pytest.raises(UsageError, match="holds another part"):
        list(fetch("digits", tmp_path / "part", train=30, val=10))
    next((tmp_path / "part").glob("train/*/*.png")).unlink()
    with pytest.raises(UsageError, match="holds another part"):
        list(fetch("digits", tmp_path / "part", train=20, val=10))
    assert (other / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("count", [-1, 0, 9, 100_000])
def test_parts_that_cannot_be_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no balanced part"):
        list(fetch("digits", tmp_path / "digits", train=count))
    assert not (tmp_path / "digits").exists()


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        list(fetch("digit", tmp_path / "x"))


def test_a_broken_record_is_no_complete_folder(tmp_path: Path) -> None:
    (tmp_path / "fetched.json").write_text("{")
    with pytest.raises(UsageError, match="holds another part"):
        list(fetch("digits", tmp_path))
    assert (tmp_path / "fetched.json").read_text() == "{"


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import FashionMNIST

    def fail(self: FashionMNIST) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(module, "FASHION_MNIST", tmp_path / "nowhere")
    monkeypatch.setattr(FashionMNIST, "download", fail)
    with pytest.raises(UsageError, match="cannot download Fashion-MNIST"):
        list(fetch("fashion-mnist", tmp_path / "clothes"))
    assert not list(tmp_path.iterdir())


def test_the_folder_one_is_in_and_a_link_to_one_are_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    list(fetch("digits", ".", train=20, val=10))
    assert len(names(tmp_path / "here", "train")) == 20
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    list(fetch("digits", tmp_path / "link", train=20, val=10))
    assert len(names(tmp_path / "empty", "train")) == 20
    with pytest.raises(UsageError, match="/ holds other files"):
        list(fetch("digits", "/"))
    (tmp_path / "here" / "fetched.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="holds another part"):
        list(fetch("digits", ".", train=20, val=10))
