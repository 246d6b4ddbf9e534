"""What a path stands for: a file, all images below a folder, or those that a pattern meets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from acmix.data.pictures import NotThere, each_picture


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders with pictures, other files, and links that lead round."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "a/10.png", "a/2.png", "b/1.png", "b/c/no_extension", "[x].png", ".hidden/1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(name, format="PNG")
    for name in ("a/notes.txt", "a/.DS_Store", "b/Thumbs.db"):
        Path(name).write_text("no picture")
    os.symlink(tmp_path, "b/loop")
    os.symlink("nowhere", "b/lost.png")
    Path("empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", ["a/1.png", "a/2.png", "a/10.png"]),
        ("a/", ["a/1.png", "a/2.png", "a/10.png"]),
        (["b", "a/1.png"], ["b/1.png", "b/c/no_extension", "b/lost.png", "a/1.png"]),
        ("a/*", ["a/1.png", "a/2.png", "a/10.png"]),
        ("?/1.png", ["a/1.png", "b/1.png"]),
        ("[x].png", ["[x].png"]),
        ("*/1.png", ["a/1.png", "b/1.png"]),
        ("b/c/*", ["b/c/no_extension"]),
        # each once, though the pattern meets the folder, the folder in it and the file
        ("b/c**", ["b/c/no_extension"]),
        ("absent.png", ["absent.png"]),
        ("a/notes.txt", ["a/notes.txt"]),
        (Path("a/1.png"), ["a/1.png"]),
        ([["a/1.png"], ("a/2.png",)], ["a/1.png", "a/2.png"]),
    ],
)
def test_paths_stand_for_files(place: Path, given: object, expected: list[str]) -> None:
    assert list(each_picture(given)) == expected


def test_what_stands_for_no_picture_says_why(place: Path) -> None:
    found = list(each_picture(["empty", "no/such/*.png", "a/*.gif"]))
    assert [type(each) for each in found] == [NotThere] * 3
    assert [each.name for each in found] == ["empty", "no/such/*.png", "a/*.gif"]
    assert "holds no images" in found[0].why
    assert "no such file" in found[1].why


def test_a_home_folder_in_quotes_is_understood(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    assert list(each_picture("~/a/1*.png")) == [f"{place}/a/1.png", f"{place}/a/10.png"]
