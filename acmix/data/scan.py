"""Which files of a folder are images, and what is left out.

A file of a usual extension counts as an image and is not opened; one of a usual other kind (text, tables, archives) is
none. Every other file is shown to Pillow, which reads its header. Hidden files and folders, and what operating systems
leave behind (`Thumbs.db`, `__MACOSX`), are passed over.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageFile

from acmix.data.pixels import DECODE_ERRORS, formats
from acmix.errors import UsageError

# fmt: off
EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga",
})
NO_IMAGES = frozenset({
    ".txt", ".md", ".rst", ".html", ".htm", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".ini",
    ".cfg", ".log", ".pdf", ".py", ".ipynb", ".mat", ".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle", ".h5", ".hdf5",
    ".parquet", ".db", ".lnk", ".url", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".mp4", ".avi",
    ".mov", ".mkv", ".mp3", ".wav",
})
# fmt: on
LEFT_BEHIND = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"})
# read by Pillow, but no pictures without another program; and one that any bytes may look like
NO_PICTURES = frozenset({"MPEG", "EPS", "WMF", "EMF", "TGA"})
# names that a message gives
SOME = 3


class LeftOut:
    """What a scan passed over and a user should hear of, named once."""

    def __init__(self) -> None:
        self.no_images: list[str] = []
        self.loops: list[str] = []
        self.empty: list[str] = []

    def notes(self) -> list[str]:
        """A line for each kind."""
        return [
            line(names, one, many)
            for names, one, many in (
                (self.no_images, "file is no image", "files are no images"),
                (self.empty, "folder of a class holds no images", "folders of classes hold no images"),
                (self.loops, "link leads back to a folder above it", "links lead back to folders above them"),
            )
            if names
        ]


def line(names: list[str], one: str, many: str) -> str:
    """`3 files are no images and are left out: a, b, c`, with the first names in order."""
    some = ", ".join(sorted(names)[:SOME]) + (", …" if len(names) > SOME else "")
    alone = len(names) == 1
    return f"{len(names)} {one if alone else many} and {'is' if alone else 'are'} left out: {some}"


def is_passed_over(name: str) -> bool:
    """Whether a file or folder is hidden, or an operating system's own."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in LEFT_BEHIND


def natural_key(name: str) -> list[Any]:
    """Sorts as timm does, class10 after class9; also where a name holds digits like ², which are no numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def kind_of(name: str) -> bool | None:
    """Whether a name is that of an image: yes, no, or only the file can tell."""
    extension = os.path.splitext(name)[1].lower()
    return True if extension in EXTENSIONS else False if extension in NO_IMAGES else None


def is_image(source: str | IO[bytes]) -> bool:
    """Whether Pillow knows a file as an image, by its header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=formats()) as image:
                return image.format not in NO_PICTURES and not isinstance(image, ImageFile.StubImageFile)
    except DECODE_ERRORS as error:
        # too large is an image all the same: reading says why it cannot be used
        return isinstance(error, Image.DecompressionBombError)


def walk_images(folder: Path, left_out: LeftOut | None = None) -> Iterator[str]:
    """Image files below a folder, relative to it; links are followed, but for those to a folder above.

    Args:
        folder: where to look.
        left_out: takes down what is no image; its names start with the folder's.

    Raises:
        UsageError: a folder cannot be listed.
    """
    left_out = LeftOut() if left_out is None else left_out
    yield from walk(str(folder), "", lineage(str(folder)), folder.name, left_out)


def walk(folder: str, below: str, above: frozenset[tuple[int, int]], top: str, left_out: LeftOut) -> Iterator[str]:
    """`walk_images` of one folder; `above` are the identities of the folders it lies in, by every link on the way."""
    folders = []
    for entry in entries(folder):
        if is_passed_over(entry.name):
            continue
        path = os.path.join(below, entry.name)
        if is_folder(entry):
            folders.append((entry.path, path))
        elif is_image_entry(entry):
            yield path
        else:
            left_out.no_images.append(os.path.join(top, path))
    for place, path in sorted(folders):
        here = identity(place)
        if here in above:
            left_out.loops.append(os.path.join(top, path))
        else:
            yield from walk(place, path, above | (lineage(place) if os.path.islink(place) else {here}), top, left_out)


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise UsageError(f"cannot list the folder {folder}: {error.strerror}; check its permissions") from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        # a link that leads round in a circle
        return False


def is_image_entry(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is an image; a link to nothing counts by its name, so that reading tells of it."""
    try:
        is_file = entry.is_file()
    except OSError:
        is_file = False
    kind = kind_of(entry.name)
    if is_file:
        return is_image(entry.path) if kind is None else kind
    return bool(kind) and entry.is_symlink() and not os.path.exists(entry.path)


def is_image_file(path: str) -> bool:
    """Whether a file that a pattern has met is an image, and none that is passed over."""
    kind = kind_of(path)
    return not is_passed_over(os.path.basename(path)) and (is_image(path) if kind is None else kind)


def lineage(folder: str) -> frozenset[tuple[int, int]]:
    """A folder and those that it really lies in."""
    real = Path(os.path.realpath(folder))
    return frozenset(identity(str(each)) for each in (real, *real.parents))


def identity(folder: str) -> tuple[int, int]:
    """Identifies a folder, independently of the path that leads to it."""
    try:
        found = os.stat(folder)
    except OSError as error:
        raise UsageError(f"cannot list the folder {folder}: {error.strerror}; check its permissions") from None
    return found.st_dev, found.st_ino
