"""A checkpoint's digest: a number that follows from every value in it, by which damage is seen.

A flipped bit in a tensor is no error to torch, which does not compare the checksums that its archives hold, and
safetensors have none. So a checkpoint of ours holds the SHA-256 of its own content, under `DIGEST`. It does not depend
on the order of keys or on the kind of file.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

DIGEST = "digest"


def digest_of(content: Mapping[str, Any]) -> str:
    """The digest of what a checkpoint holds, but for the digest itself.

    Args:
        content: tensors and plain values, nested in dictionaries, lists and tuples, as `safe_load` gives them.

    Raises:
        TypeError: a value that no checkpoint holds.
    """
    hasher = hashlib.sha256()
    feed(hasher, {key: value for key, value in content.items() if key != DIGEST})
    return hasher.hexdigest()


def feed(hasher: Any, value: Any) -> None:
    """Adds a value, its type and its length, so that no two contents have the same bytes."""
    if isinstance(value, Tensor):
        if not is_plain(value):
            raise TypeError(
                "a sparse, quantised, nested, empty, negated or repeated tensor is nothing that a checkpoint holds"
            )
        hasher.update(f"T{value.dtype}{tuple(value.shape)}".encode())
        # views of one byte a number work for every dtype
        flat = value.detach().to("cpu").contiguous().reshape(-1)
        numbers: Any = flat.view(torch.uint8).numpy()
        hasher.update(numbers)
    elif isinstance(value, Mapping):
        hasher.update(b"D" + struct.pack("<q", len(value)))
        for key, item in sorted(((encoded(key), item) for key, item in value.items()), key=lambda pair: pair[0]):
            hasher.update(key)
            feed(hasher, item)
    elif isinstance(value, (list, tuple)):
        hasher.update((b"L" if isinstance(value, list) else b"U") + struct.pack("<q", len(value)))
        for item in value:
            feed(hasher, item)
    else:
        hasher.update(encoded(value))


def encoded(value: Any) -> bytes:
    """The bytes of a plain value, with its type and length."""
    if isinstance(value, float):
        return b"F" + struct.pack("<d", value)
    if isinstance(value, bool) or value is None:
        return f"B{value};".encode()
    if isinstance(value, int):
        content, kind = str(value).encode(), b"I"
    elif isinstance(value, str):
        content, kind = value.encode("utf-8", "surrogatepass"), b"S"
    elif isinstance(value, bytes):
        content, kind = value, b"Y"
    elif isinstance(value, (set, frozenset)):
        content, kind = b"".join(sorted(map(encoded, value))), b"E"
    elif isinstance(value, (complex, torch.device, torch.dtype)):
        content, kind = repr(value).encode(), b"O"
    else:
        raise TypeError(f"a {type(value).__name__} is nothing that a checkpoint holds")
    return kind + struct.pack("<q", len(content)) + content


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are all there, each in its place."""
    is_dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested
    # a view may stand for the conjugate or the negative of what the file holds
    is_there = tensor.device.type != "meta" and not tensor.is_conj() and not tensor.is_neg()
    return is_dense and is_there and not is_repeated(tensor)


def is_repeated(tensor: Tensor) -> bool:
    """Whether a tensor has more numbers than its file: one number that stands for many."""
    return tensor.device.type == "cpu" and tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()
