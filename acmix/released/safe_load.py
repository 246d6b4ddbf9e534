"""Reads a checkpoint from any source: nothing in the file is executed, no class of the file is imported.

A `.pth` file is a pickle, and unpickling may run any code. torch's `weights_only` unpickler builds tensors and plain
containers and refuses everything else by name. The released training code also pickles its configuration, a
`yacs.config.CfgNode`; that one name is read as a plain dictionary, so yacs need not be installed.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from acmix.errors import UsageError

# What reading a broken or hostile file was seen to raise: torch has no single exception for it.
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    OverflowError,
    MemoryError,
    struct.error,
)


# bytes that any archive may unpack to, and beyond them so many times its own size; code of TorchScript is compressed
LEAST_UNPACKED, MOST_TIMES = 2**26, 4

# how files begin that a download leaves in the place of a checkpoint
NOT_CHECKPOINTS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
    b"<!doctype html": "is a web page, not a checkpoint; download the file itself",
    b"<html": "is a web page, not a checkpoint; download the file itself",
}


def safe_load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint without executing anything from it.

    Args:
        path: a `.safetensors` file, or a file that `torch.save` wrote (`.pt`, `.pth`).

    Returns:
        The dictionary in the file, on the CPU, made of tensors, numbers, strings and plain containers alone. A
        safetensors file gives `{"model": tensors}` beside what its metadata key `acmix` holds.

    Raises:
        UsageError: there is no such file, it is truncated or no checkpoint, or it asks for code to be run.
    """
    # a shell leaves the ~ of model.checkpoint=~/FILE as it is
    path = Path(os.path.expanduser(path))
    # not path.is_dir(), which raises where a name is too long
    if os.path.isdir(path):
        best = path / "checkpoints" / "best.pt"
        mend = f"give {best}" if best.is_file() else "expected a checkpoint file (.pt, .pth or .safetensors)"
        raise UsageError(f"{path} is a folder; {mend}")
    if not os.path.isfile(path):
        raise UsageError(f"there is no checkpoint {path}; check the path")
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty (0 bytes); copy or download it again")
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    for sign, told in NOT_CHECKPOINTS.items():
        if start.startswith(sign):
            raise UsageError(f"{path} {told}")
    check_archive(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a checkpoint's dictionary; give another file")
    return content


def check_archive(path: Path) -> None:
    """Refuses an archive that unpacks to far more than the file's bytes; torch stores tensors uncompressed.

    Raises:
        UsageError: it does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (*UNREADABLE, zipfile.BadZipFile):
        # no archive, or a damaged one: whoever reads it tells
        return
    if unpacked > LEAST_UNPACKED + MOST_TIMES * path.stat().st_size:
        raise UsageError(
            f"{path} would unpack to {unpacked / 2**30:,.1f} GiB, far more than its own size: refused; "
            "download it again, from a source that you trust"
        )


def _read_pickle(path: Path) -> Any:
    # The unpickler fills exactly a dict or an OrderedDict, no subclass of one; an OrderedDict also takes the attributes
    # that CfgNode pickles, and does nothing with them.
    stand_in = (OrderedDict, "yacs.config.CfgNode")
    try:
        with torch.serialization.safe_globals([stand_in]), warnings.catch_warnings():
            # a pickle of another protocol is refused below where it holds what cannot be read
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except UNREADABLE as error:
        raise UsageError(f"{path} {_reason(str(error))}") from None


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError

    try:
        metadata, tensors = _safetensors(path)
        ours = json.loads(metadata.get("acmix", "{}"))
    except (SafetensorError, *UNREADABLE) as error:
        raise UsageError(f"{path} {_reason(str(error))}") from None
    if not isinstance(ours, dict):
        raise UsageError(f"{path}: its metadata key 'acmix' is not a JSON object; give another file")
    return {**ours, "model": tensors}


def _safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensors of a file."""
    from safetensors import safe_open
    from safetensors.torch import load

    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        # safetensors opens names of UTF-8 alone; its header is a length of 8 bytes and JSON
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return header.get("__metadata__") or {}, load(content)
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        return file.metadata() or {}, {key: file.get_tensor(key) for key in names}


def _plain(value: Any) -> Any:
    """The same content in plain dictionaries, without the attributes a pickle may have hung on them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value) if type(value) in (list, tuple) else value
    return value


def _reason(message: str) -> str:
    """One clause for one of torch's many-line messages."""
    if refused := re.search(r"GLOBAL `?([\w.]+)|unrecognized function (\S+)", message):
        name = refused.group(1) or refused.group(2)
        return (
            f"asks to run {name!r}, which a checkpoint of weights has no need of: refused, nothing was executed; "
            "only tensors and plain values are read: save the weights alone"
        )
    said = message.partition("WeightsUnpickler error:")[2] or message
    first = re.split(r"[.:]\s| Check the documentation", " ".join(said.split()))[0][:100] or "no message"
    return f"is truncated or not a checkpoint ({first}); copy or download it again"
