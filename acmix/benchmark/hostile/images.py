"""Mutated images: damaged, odd and oversized files in the formats that people have."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif", "BMP": ".bmp"}
SIDE = 48


@dataclass(frozen=True)
class Picture:
    """An image file.

    Args:
        content: its bytes.
        name: of the file, as bytes: it may be no UTF-8.
        what: is odd about it.
    """

    content: bytes
    name: bytes
    what: str


def mutated(number: int, draw: random.Random, *, readable: bool = False) -> Picture:
    """One odd picture; `readable` leaves out what no program can read."""
    make = draw.choice(READABLE if readable else MAKERS)
    content, suffix, what = make(draw)
    name = f"{number}{suffix}".encode()
    odd = draw.random()
    if odd < 0.1:
        # Latin-1, a cut UTF-8 sequence, a surrogate, a line break, an escape sequence, spaces, a long name
        begins = (b"\xff\xe4", b"\xc3", b"\xed\xa0\x80", b"a\nb", b"\x1b[31m", b" ", b"a" * 200, "\u202e".encode())
        return Picture(content, draw.choice(begins) + name, f"{what}, an odd name")
    if odd < 0.15:
        other = draw.choice([*FORMATS.values(), ".JPG", ".jpeg"])
        return Picture(content, f"{number}{other}".encode(), f"{what}, another ending")
    return Picture(content, name, what)


def drawn(draw: random.Random, mode: str = "RGB", size: tuple[int, int] | None = None) -> Image.Image:
    """A picture of random blocks."""
    coarse = np.frombuffer(draw.randbytes(6 * 6 * 3), np.uint8).reshape(6, 6, 3)
    return Image.fromarray(coarse).resize(size or (SIDE, SIDE), Image.Resampling.NEAREST).convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sound(draw: random.Random) -> tuple[bytes, str, str]:
    """A file without fault, in any format."""
    kind = draw.choice([*FORMATS])
    return saved(drawn(draw), kind), FORMATS[kind], kind


def truncated(draw: random.Random) -> tuple[bytes, str, str]:
    content, suffix, kind = sound(draw)
    return content[: draw.randrange(len(content))], suffix, f"truncated {kind}"


def flipped(draw: random.Random) -> tuple[bytes, str, str]:
    content, suffix, kind = sound(draw)
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 30))):
        # the beginning holds sizes and kinds
        place = draw.randrange(min(64, len(changed))) if draw.random() < 0.5 else draw.randrange(len(changed))
        changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed), suffix, f"flipped {kind}"


def no_image(draw: random.Random) -> tuple[bytes, str, str]:
    kinds = {
        "zero bytes": b"",
        "random bytes": draw.randbytes(3000),
        "a web page": b"<!doctype html><html></html>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/x.png"/></svg>',
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n(x) (w) file\nshowpage\n",
        "nulls": bytes(10_000),
        "a zip file": b"PK\x03\x04" + draw.randbytes(100),
        "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }
    what = draw.choice([*kinds])
    return kinds[what], draw.choice([*FORMATS.values()]), what


def mode(draw: random.Random) -> tuple[bytes, str, str]:
    """Other modes than 8-bit RGB."""
    kind, mode = draw.choice(
        (
            ("PNG", "1"),
            ("PNG", "L"),
            ("PNG", "LA"),
            ("PNG", "P"),
            ("PNG", "RGBA"),
            ("JPEG", "CMYK"),
            ("JPEG", "YCbCr"),
            ("TIFF", "CMYK"),
            ("TIFF", "LAB"),
            ("TIFF", "F"),
            ("TIFF", "I"),
            ("TIFF", "I;16"),
            ("PNG", "I;16"),
            ("GIF", "P"),
            ("TIFF", "YCbCr"),
            ("WEBP", "RGBA"),
            ("BMP", "1"),
            ("BMP", "P"),
            ("TIFF", "RGBA"),
            ("PNG", "I"),
        )
    )
    if mode in ("I;16", "I", "F"):
        many = np.array([draw.choice((0, 1, 255, 4095, 65535, 70000)) for _ in range(64)])
        kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        values = np.resize(many, (SIDE, SIDE)).clip(0, 65535 if mode == "I;16" else None)
        if mode == "F" and draw.random() < 0.5:
            values = values * draw.choice((np.nan, np.inf, -1.0, 1e30, 1e-30))
        image = Image.fromarray(values.astype(kinds[mode]))
    else:
        image = drawn(draw).convert("RGB" if mode == "LAB" else mode)
    options: dict[str, Any] = {}
    if mode == "P" and draw.random() < 0.6:
        options["transparency"] = draw.choice((0, 3, bytes(draw.randbytes(16))) if kind == "PNG" else (0, 3))
    return saved(image, kind, **options), FORMATS[kind], f"{kind} of mode {mode}"


def animated(draw: random.Random) -> tuple[bytes, str, str]:
    kind = draw.choice(("GIF", "WEBP", "PNG", "TIFF"))
    frames = [drawn(draw, size=(SIDE, SIDE)) for _ in range(draw.choice((2, 5, 40)))]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:]), FORMATS[kind], f"animated {kind}"


def turned(draw: random.Random) -> tuple[bytes, str, str]:
    """EXIF with a sound or nonsensical orientation, or none that can be read."""
    kind = draw.choice(("JPEG", "PNG", "WEBP"))
    exif = Image.Exif()
    exif[274] = draw.choice((1, 3, 6, 8, 0, 9, 99, 65535))
    block = exif.tobytes()
    how = draw.choice(("whole", "cut", "junk", "text", "own"))
    if how == "cut":
        block = block[: draw.randrange(6, len(block))]
    elif how == "junk":
        block = b"Exif\0\0" + draw.randbytes(60)
    elif how == "text":
        block = block.replace(b"\x12\x01\x03", b"\x12\x01\x02").replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x02")
    elif how == "own":
        # an offset that points back at itself
        block = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"
    return saved(drawn(draw), kind, exif=block), FORMATS[kind], f"{kind} with EXIF ({how})"


def profile(draw: random.Random) -> tuple[bytes, str, str]:
    kind = draw.choice(("JPEG", "PNG", "WEBP", "TIFF"))
    junk = draw.choice((draw.randbytes(300), b"", bytes(100_000), b"acsp" * 40))
    return saved(drawn(draw), kind, icc_profile=junk), FORMATS[kind], f"{kind} with a colour profile of junk"


def thin(draw: random.Random) -> tuple[bytes, str, str]:
    long, short = draw.choice((100, 2000, 20_000, 60_000)), draw.choice((1, 1, 2, 5))
    size = draw.choice(((long, short), (short, long)))
    kind = draw.choice(("PNG", "BMP", "TIFF") if long > 16_000 else [*FORMATS])
    return saved(drawn(draw, size=size), kind), FORMATS[kind], f"{kind} of {size[0]} × {size[1]}"


def tiny(draw: random.Random) -> tuple[bytes, str, str]:
    kind = draw.choice([*FORMATS])
    size = draw.choice(((1, 1), (1, 2), (2, 1), (3, 3)))
    return saved(drawn(draw, size=size), kind), FORMATS[kind], f"{kind} of {size[0]} × {size[1]}"


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(draw: random.Random) -> tuple[bytes, str, str]:
    """Small files that unpack to much, or that say so."""
    what = draw.choice(("pixels", "claimed", "text", "profile", "gif", "bmp", "tiff", "jpeg", "webp", "large"))
    sign = b"\x89PNG\r\n\x1a\n"
    side = draw.choice((12_000, 20_000, 50_000, 2**31 - 1))
    if what in ("pixels", "claimed"):
        side = min(side, 50_000) if what == "pixels" else side
        many = min(side, 20_000)
        rows = zlib.compress(bytes((side // 8 + 1) * many if what == "pixels" else 1000), 9)
        head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        return sign + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""), ".png", f"bomb PNG {side}"
    if what in ("text", "profile"):
        name = b"zTXt" if what == "text" else b"iCCP"
        packed = chunk(name, b"a\0\0" + zlib.compress(bytes(80_000_000), 9))
        content = saved(drawn(draw), "PNG")
        return content[:33] + packed + content[33:], ".png", f"bomb PNG {what}"
    if what == "large":
        return saved(Image.new("1", (12_000, 12_000)), "PNG"), ".png", "PNG of 12000 × 12000"
    # others only claim to be large
    content = bytearray(
        saved(drawn(draw), {"gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "jpeg": "JPEG", "webp": "WEBP"}[what])
    )
    places = {"gif": 6, "bmp": 18, "webp": 26, "jpeg": content.find(b"\xff\xc0") + 5, "tiff": 18}
    place, width = places[what], 4 if what == "bmp" else 2
    content[place : place + width] = draw.choice((b"\xff\xff\xff\x7f", b"\x60\xea\0\0", b"\xff\xff\xff\xff"))[:width]
    return bytes(content), f".{'tif' if what == 'tiff' else what}", f"bomb {what}"


MAKERS: tuple[Callable[[random.Random], tuple[bytes, str, str]], ...] = (
    *(sound, truncated, truncated, flipped, flipped, flipped, no_image, mode, mode, mode, animated, turned, turned),
    *(profile, thin, thin, tiny, bomb, bomb),
)
READABLE = (sound, animated, turned, profile, thin, thin, tiny)
