"""What tells a training split from others: a digest of which images it has, in which order, and of their labels.

The images' bytes are not read: that would take as long as an epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from acmix.names import composed


def fingerprint(names: Iterable[bytes | str], arrays: Sequence[Any] = ()) -> str:
    """The digest of a split.

    Args:
        names: of its images, relative to its folder, in their order.
        arrays: numbers that belong to them, such as labels and boxes.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
        # file systems spell ü in two ways
        digest.update(composed(text).encode("utf-8", "surrogatepass"))
        # no name holds it
        digest.update(b"\0")
    for each in arrays:
        numbers = np.ascontiguousarray(each)
        digest.update(f"{numbers.shape}{numbers.dtype.kind}".encode())
        digest.update(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
