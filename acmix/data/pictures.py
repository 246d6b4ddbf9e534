"""What a user gives as pictures: files, folders, patterns, or pictures in memory."""

from __future__ import annotations

import glob
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from acmix.data.image import decoded
from acmix.data.pixels import DECODE_ERRORS, WHITE, Colour, UnknownScaleError, to_rgb
from acmix.data.scan import is_image_file, natural_key, walk_images
from acmix.errors import UsageError

IN_MEMORY = "a path, bytes, a PIL image, a uint8 array (H, W, 3), or a float tensor (in_chans, h, w) already prepared"


@dataclass(frozen=True)
class NotThere:
    """An argument that stands for no picture: what it was, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Transform:
    """From a picture to what a model reads, as at evaluation.

    Args:
        in_chans: channels that the model reads: 3, or 1 for grey; other numbers take prepared tensors alone.
        steps: from a PIL image, mode RGB, to float32 (in_chans, h, w); None where that is unknown.
        background: what transparent pixels are laid on.
        white: the value that is white in grey of more than 8 bits; None: as `acmix.data.pixels` says.
    """

    in_chans: int
    steps: Callable[[Image.Image], Any] | None
    background: Colour = WHITE
    white: float | None = None

    def __call__(self, picture: Any) -> torch.Tensor:
        """Prepares one picture.

        Args:
            picture: a path, an open binary file, bytes, a PIL image of any mode, or a uint8 array: (H, W),
                (H, W, 1), (H, W, 3) or (H, W, 4) of numpy, (C, H, W) of torch.

        Returns:
            float32 (in_chans, h, w).

        Raises:
            UsageError: it cannot be read, or is no picture.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.prepared(picture)

    def prepared(self, picture: Any) -> torch.Tensor:
        """The same where several threads prepare pictures; warnings are the caller's."""
        return self.with_size(picture)[0]

    def with_size(self, picture: Any) -> tuple[torch.Tensor, tuple[int, int]]:
        """The same, and the picture's own height and width."""
        if self.steps is None:
            raise UsageError(
                f"the model does not tell how pictures are prepared for it ({self.why_not()}); "
                "give float tensors (in_chans, h, w) that are prepared"
            )
        upright = self.rgb(picture)
        return self.steps(upright), (upright.height, upright.width)

    def why_not(self) -> str:
        """Why there are no steps."""
        return f"it reads {self.in_chans} channels" if self.in_chans not in (0, 1, 3) else "it has no pretrained_cfg"

    def rgb(self, picture: Any) -> Image.Image:
        """A picture as 8-bit RGB, upright."""
        if isinstance(picture, (bytes, bytearray, memoryview)):
            picture = io.BytesIO(picture)
        if isinstance(picture, (str, os.PathLike)) or hasattr(picture, "read"):
            return decoded(picture, background=self.background, white=self.white)
        if isinstance(picture, torch.Tensor):
            picture = picture.detach().cpu().permute(1, 2, 0).numpy() if picture.dim() == 3 else picture.cpu().numpy()
        if isinstance(picture, np.ndarray):
            picture = from_array(picture)
        if not isinstance(picture, Image.Image):
            raise UsageError(f"a picture is a {type(picture).__name__}; expected {IN_MEMORY}")
        try:
            picture.load()
            return to_rgb(picture, self.background, self.white)
        except (UnknownScaleError, *DECODE_ERRORS) as error:
            raise UsageError(f"cannot read the picture: {' '.join(str(error).split())}") from None


def from_array(array: np.ndarray) -> Image.Image:
    """An array as a picture."""
    shape = list(array.shape)
    if array.dtype != np.uint8:
        raise UsageError(f"a picture is an array of {array.dtype}; expected uint8 from 0 to 255, or a prepared tensor")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or 0 in array.shape:
        raise UsageError(f"a picture is an array {shape}; expected (H, W), (H, W, 3) or (H, W, 4)")
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def each_picture(given: Any) -> Iterator[Any]:
    """The single pictures that an argument stands for, one after the other.

    Args:
        given: a path, which may be a folder or a pattern with `*`, `?`, `[…]` or `**`; a picture in memory; or an
            iterable of these.

    Yields:
        Paths of files, pictures in memory as they are, and `NotThere` for what stands for no picture.
    """
    if isinstance(given, (str, os.PathLike)):
        yield from files_of(os.fspath(given))
    elif isinstance(given, (torch.Tensor, np.ndarray)) and given.ndim == 4:
        yield from given
    elif (
        isinstance(given, (bytes, bytearray, memoryview, Image.Image, np.ndarray, torch.Tensor))
        or not isinstance(given, Iterable)
        or hasattr(given, "read")
    ):
        yield given
    else:
        for each in given:
            yield from each_picture(each)


def files_of(path: str) -> Iterator[str | NotThere]:
    """The image files that a path stands for: itself, those below a folder in order, or those that a pattern meets."""
    if not os.path.lexists(path) and path.startswith("~"):
        path = os.path.expanduser(path)
    if os.path.isdir(path):
        yield from files_below(path)
    elif os.path.lexists(path) or not glob.has_magic(path):
        # a missing file is reported where it is read
        yield path
    else:
        found: dict[str, None] = {}
        for each in sorted(glob.iglob(path, recursive=True), key=natural_key):
            if not os.path.isdir(each):
                found.update({each: None} if is_image_file(each) else {})
                continue
            found.update((below, None) for below in files_below(each) if isinstance(below, str))
        yield from found or [
            NotThere(path, f"cannot read image {path}: no such file, and no image fits it as a pattern")
        ]


def files_below(folder: str) -> Iterator[str | NotThere]:
    """The images of a folder and of those in it."""
    try:
        found = sorted(walk_images(Path(folder)), key=natural_key)
    except UsageError as error:
        yield NotThere(folder, str(error))
        return
    for each in found:
        yield os.path.join(folder, each)
    if not found:
        yield NotThere(folder, f"the folder {folder} holds no images; give one that does, or files")
