"""Checkpoint files that are damaged or hostile as files: pickles, archives, headers of safetensors."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sound:
    """A sound checkpoint.

    Args:
        content: its dictionary.
        archive: its bytes, as `torch.save` wrote them.
        safetensors: the same as `acmix convert` writes it.
        canary: what executed code would write.
    """

    content: dict[str, Any]
    archive: bytes
    safetensors: bytes
    canary: Path


class Runs:
    """An object whose pickle calls something."""

    def __init__(self, function: str, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def pickled(self) -> bytes:
        """The opcodes, without the end."""
        module, _, name = self.function.rpartition(".")
        arguments = pickle.dumps(self.arguments, 2)[2:-1]
        return f"c{module}\n{name}\n".encode() + arguments + b"R"


def payloads(canary: Path) -> list[Runs]:
    """What hostile files are known to call."""
    code = f"open({str(canary)!r}, 'w').write('x')"
    return [
        Runs("os.system", f"touch {canary}"),
        Runs("posix.system", f"touch {canary}"),
        Runs("subprocess.Popen", ["touch", str(canary)]),
        Runs("subprocess.check_output", ["touch", str(canary)]),
        Runs("builtins.exec", code),
        Runs("builtins.eval", code),
        Runs("__builtin__.eval", code),
        Runs("builtins.open", str(canary), "w"),
        Runs("builtins.getattr", {}, "x"),
        Runs("builtins.bytearray", 3_000_000_000),
        Runs("builtins.bytes", 3_000_000_000),
        Runs("pathlib.Path", str(canary)),
        Runs("runpy.run_path", str(canary)),
        Runs("webbrowser.open", "http://127.0.0.1:9/"),
        Runs("urllib.request.urlopen", "http://127.0.0.1:9/"),
        Runs("torch.hub.load", "x/y", "z"),
        Runs("torch.load", str(canary)),
        Runs("torch.serialization.load", str(canary)),
        Runs("torch.jit.load", str(canary)),
        Runs("torch.storage._load_from_bytes", b"x"),
        Runs("torch._utils._rebuild_tensor_v2", None, 0, (10**6, 10**6), (1, 1), False, OrderedDict()),
        Runs("torch._utils._rebuild_parameter", None, False, OrderedDict()),
        Runs("torch._utils._rebuild_meta_tensor_no_storage", torch.float32, (10**12,), (1,), False),
        Runs("torch._utils._rebuild_wrapper_subclass", Tensor, torch.float32, (10**12,), (1,), 0, None, "cpu", False),
        Runs("torch._tensor._rebuild_from_type_v2", None, Tensor, (), {}),
        Runs("torch.Size", (10**12, -1)),
        Runs("torch.device", "nonsense:99"),
        Runs("collections.OrderedDict", [[["a", 1]]]),
        Runs("collections.Counter", "a" * 1000),
        Runs("numpy.core.multiarray._reconstruct", None, (10**12,), b"b"),
        Runs("numpy.core.multiarray.scalar", None, b"x"),
        Runs("timeit.timeit", code),
        Runs("importlib.import_module", "this"),
        Runs("acmix.tools.convert.convert", "a", "b"),
        Runs("yacs.config.CfgNode", {}),
        Runs("types.CodeType", 0),
    ]


def opcodes(sound: Sound, draw: random.Random) -> tuple[bytes, str]:
    """Pickles of other opcodes, within an archive or alone."""
    kind = draw.choice(
        ("call", "call", "call", "shared", "deep", "long", "flip", "flip", "raw", "memo", "build", "huge")
    )
    what, begin, end = kind, b"\x80\x02", b"."
    whole = data_of(sound.archive)
    if kind == "call":
        runs = draw.choice(payloads(sound.canary))
        what, value = f"calls {runs.function}", runs.pickled()
        # alone, as a value, or as what builds an object
        wrapped = draw.choice((value, b"}X\x05\0\0\0model" + value + b"s", value + b"}b", b"(" + value + b"l"))
        pickled = begin + wrapped + end
    elif kind == "shared":
        depth = draw.choice((30, 60, 500))
        pickled = begin + b"]q\0" + b"".join(b"h" + bytes([0]) + b"h\0\x86q\0" for _ in range(depth)) + end
    elif kind == "deep":
        opening, closing = draw.choice(((b"(", b"t"), (b"](", b"e"), (b"}X\1\0\0\0a", b"s")))
        depth = draw.choice((900, 5000, 1_000_000))
        pickled = begin + opening * depth + b"N" + closing * depth + end
        what = f"deep {depth}"
    elif kind == "long":
        many = draw.choice((10**5, 10**7))
        text = draw.choice(
            (
                b"\x8b" + struct.pack("<i", many) + b"\x7f" * many,
                b"I" + b"9" * many + b"\n",
                b"L" + b"9" * many + b"L\n",
                b"X" + struct.pack("<I", many) + b"a" * many,
                b"F" + b"9" * many + b"\n",
            )
        )
        pickled = begin + b"}X\x06\0\0\0format" + text + b"s" + end
        what = f"a long {text[:1]!r}"
    elif kind == "flip":
        changed = bytearray(whole)
        for _ in range(draw.choice((1, 2, 8, 40))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        pickled = bytes(changed)
    elif kind == "memo":
        pickled = begin + b"}" + b"r\xff\xff\xff\xff" + b"j\xff\xff\xff\xff" * 3 + end
    elif kind == "build":
        pickled = whole[:-1] + b"}X\x08\0\0\0__dict__X\1\0\0\0xsb" + end
    elif kind == "huge":
        # a length that is not there
        pickled = begin + draw.choice(
            (b"X\xff\xff\xff\xff", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x96" + b"\xff" * 7 + b"\x7f")
        )
    else:
        return draw.choice(
            (pickle.dumps(sound.content["config"]), draw.randbytes(5000), b"\x80\x05", whole)
        ), "raw pickle"
    if draw.random() < 0.25:
        return pickled, f"opcodes alone: {what}"
    return with_record(sound.archive, "data.pkl", pickled), f"opcodes: {what}"


def data_of(archive: bytes) -> bytes:
    """The pickle of an archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(next(name for name in opened.namelist() if name.endswith("/data.pkl")))


def with_record(archive: bytes, ending: str, content: bytes | None, *, deflated: bool = False) -> bytes:
    """An archive with another record, or without one."""
    file = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(file, "w", kind) as new:
        for record in old.infolist():
            if not record.filename.endswith(f"/{ending}"):
                new.writestr(record.filename, old.read(record))
            elif content is not None:
                new.writestr(record.filename, content)
    return file.getvalue()


def archive(sound: Sound, draw: random.Random) -> tuple[bytes, str]:
    """Damaged and hostile archives."""
    kind = draw.choice(
        (
            "flip",
            "cut",
            "deflated",
            "bomb",
            "lacks",
            "short",
            "byteorder",
            "version",
            "many",
            "outside",
            "twice",
            "claims",
        )
    )
    whole = sound.archive
    with zipfile.ZipFile(io.BytesIO(whole)) as opened:
        names = opened.namelist()
    storage = draw.choice([name.rpartition("/")[2] for name in names if "/data/" in name])
    if kind == "flip":
        changed = bytearray(whole)
        for _ in range(draw.choice((1, 5))):
            place = draw.randrange(len(changed))
            # the directory stands at the end
            changed[draw.choice((place, -1 - place % 2000))] ^= 1 << draw.randrange(8)
        return bytes(changed), "archive: flip"
    if kind == "cut":
        return whole[: draw.randrange(len(whole))], "archive: cut"
    if kind == "deflated":
        return with_record(whole, "version", b"3\n", deflated=True), "archive: deflated"
    if kind == "bomb":
        name = draw.choice((storage, "data.pkl"))
        return with_record(whole, name, bytes(400_000_000), deflated=True), f"archive: {name} unpacks to 400 MB"
    if kind == "lacks":
        name = draw.choice((storage, "data.pkl", "version", "byteorder"))
        return with_record(whole, name, None), f"archive: lacks {name}"
    if kind == "short":
        return with_record(whole, storage, b"1234"), "archive: a short storage"
    if kind == "byteorder":
        return with_record(whole, "byteorder", draw.choice((b"big", b"x", b""))), "archive: byte order"
    if kind == "version":
        return with_record(whole, "version", draw.choice((b"99999", b"-1", b"x", b""))), "archive: version"
    file = io.BytesIO(whole)
    if kind == "claims":
        # the directory says another size
        changed = bytearray(whole)
        place = whole.rfind(b"PK\x01\x02")
        changed[place + 20 : place + 28] = b"\xff\xff\xff\x7f" * 2
        return bytes(changed), "archive: claims 2 GB"
    with zipfile.ZipFile(file, "a") as opened:
        top = names[0].partition("/")[0]
        if kind == "many":
            for number in range(20_000):
                opened.writestr(f"{top}/extra/{number}", b"")
        elif kind == "outside":
            opened.writestr(f"../../{sound.canary}", b"x")
            opened.writestr(str(sound.canary), b"x")
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opened.writestr(f"{top}/data.pkl", pickle.dumps({}, 2))
    return file.getvalue(), f"archive: {kind}"


def header(sound: Sound, draw: random.Random) -> tuple[bytes, str]:
    """safetensors with another header."""
    length = int.from_bytes(sound.safetensors[:8], "little")
    said: dict[str, Any] = json.loads(sound.safetensors[8 : 8 + length])
    data = sound.safetensors[8 + length :]
    first = next(name for name in said if name != "__metadata__")
    kind = draw.choice(
        (
            "length",
            "cut",
            "flip",
            "offsets",
            "overlap",
            "dtype",
            "shape",
            "deep",
            "metadata",
            "none",
            "ours",
            "twice",
            "spaces",
            "bytes",
            "more",
            "nan",
        )
    )
    if kind == "length":
        number = draw.choice((0, 1, 2**63, 2**64 - 1, 100_000_000, length + 1, length - 1))
        return struct.pack("<Q", number) + sound.safetensors[8:], f"header: length {number}"
    if kind == "cut":
        return sound.safetensors[: draw.randrange(len(sound.safetensors))], "header: cut"
    if kind == "flip":
        changed = bytearray(sound.safetensors)
        changed[draw.randrange(8 + length)] ^= 1 << draw.randrange(8)
        return bytes(changed), "header: flip"
    if kind == "offsets":
        said[first]["data_offsets"] = draw.choice(([0, 2**62], [-1, 4], [4, 0], [0], "x", None, [0, len(data) + 4]))
    elif kind == "overlap":
        names = [name for name in said if name != "__metadata__"]
        said[names[0]]["data_offsets"] = said[names[-1]]["data_offsets"]
    elif kind == "dtype":
        said[first]["dtype"] = draw.choice(("F64", "I8", "X", "", None, "F4", "BOOL", 5))
    elif kind == "shape":
        said[first]["shape"] = draw.choice(([-1], [2**40, 2**40], [], [0], "x", [1.5], [[1]], [1] * 1000))
    elif kind == "deep":
        return framed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}") + data, "header: deep"
    elif kind == "metadata":
        said["__metadata__"] = draw.choice(
            ({}, None, [], {"acmix": 5}, {"acmix": "5"}, {"acmix": "["}, {"x": "y" * 10**6})
        )
    elif kind == "none":
        del said["__metadata__"]
    elif kind == "ours":
        # deep, without end, twice, or of another kind
        texts = (
            "[" * 50_000 + "]" * 50_000,
            '{"a": ' * 5000 + "1" + "}" * 5000,
            '{"format": "acmix", "format": 1}',
            "null",
            '{"config": NaN}',
            "9" * 10_000,
            '{"model": {}}',
            '{"classes": ["\\ud800"]}',
        )
        said["__metadata__"]["acmix"] = draw.choice(texts)
    elif kind == "twice":
        text = json.dumps(said)
        return framed(f'{{"{first}": {json.dumps(said[first])}, {text[1:]}'.encode()) + data, "header: twice"
    elif kind == "spaces":
        return framed(json.dumps(said).encode() + b" " * 50_000_000) + data, "header: spaces"
    elif kind == "bytes":
        return framed(json.dumps(said).encode().replace(b"acmix", b"\xff\xfe", 1)) + data, "header: no UTF-8"
    elif kind == "more":
        said |= {f"x{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(50_000)}
    else:
        ours = json.loads(said["__metadata__"]["acmix"])
        place = draw.choice([place for place in places_in(ours) if place])
        put(ours, place, draw.choice((float("nan"), None, -1, "x", [], {}, 1e999, 10**400, True)))
        said["__metadata__"]["acmix"] = json.dumps(ours)
        return framed(json.dumps(said).encode()) + data, f"header: acmix.{'.'.join(map(str, place))}"
    return framed(json.dumps(said).encode()) + data, f"header: {kind}"


def framed(text: bytes) -> bytes:
    """A header with its length in front."""
    return struct.pack("<Q", len(text)) + text


def places_in(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where entries lie in nested dictionaries and lists; those of long ones are few."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = [*value.items()][:40]
    elif isinstance(value, list):
        pairs = [*enumerate(value)][:3]
    return [found for key, each in pairs for found in ((*place, key), *places_in(each, (*place, key)))]


def put(content: Any, place: tuple[Any, ...], value: Any) -> None:
    """Sets what lies at a place."""
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = value
