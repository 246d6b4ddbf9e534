"""What every kind of prediction does with a picture: names it, and prepares it for the model or says why it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from acmix.data.pictures import NotThere, Transform
from acmix.errors import UsageError

Item = TypeVar("Item")


def name_of(picture: Any, number: int) -> str:
    """A picture's file, or its number."""
    if isinstance(picture, str):
        return picture
    # of what is no picture, of an open file, of a PIL image
    file = getattr(picture, "name", None) or getattr(picture, "filename", None)
    return file if isinstance(file, str) else f"image {number}"


def is_prepared(picture: Any) -> bool:
    """Whether a picture is a tensor that the model reads as it is."""
    if not isinstance(picture, Tensor) or not picture.is_floating_point():
        return False
    if picture.dim() != 3:
        raise UsageError(f"a prepared image is a tensor {list(picture.shape)}; expected (in_chans, h, w)")
    return True


def read_or_why(picture: Any, transform: Transform, read: Callable[[Any], Item]) -> Item | str:
    """What `read` makes of a picture, or why it cannot: of a file and its like in words, of wrong use by an error."""
    if isinstance(picture, NotThere):
        return picture.why
    try:
        return read(picture)
    except UsageError as error:
        if isinstance(picture, (str, os.PathLike, bytes, bytearray, memoryview)) and transform.steps is not None:
            return str(error)
        raise
