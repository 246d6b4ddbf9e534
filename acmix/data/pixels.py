"""What a decoded picture shows, as 8-bit RGB: the right way up, on a background, between black and white.

| picture | white is |
|---|---|
| 8 bits a channel, or fewer | 255, scaled by Pillow |
| colour of 16 bits a channel | 65535; Pillow keeps the upper 8 bits |
| grey of 16 bits, integers of 32 bits | what the file says (TIFF: 12 bits a sample), else 65535 |
| floats | 1 where no value is larger, else 255 |

`data.white` sets it for the last two rows. Without it a picture that this scale would turn almost black or white is
refused by name: one with no value above 4095, which may be 12 bits in a 16-bit file, and one with values below 0 or
above the scale.
"""

# H, W height and width of the picture

from __future__ import annotations

import struct
import tarfile
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
# the orientations of EXIF, and what puts each upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# tags of TIFF
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
# formats that Pillow hands to Ghostscript, or to a program that has told it to
BY_OTHER_PROGRAMS = ("EPS", "BUFR", "GRIB", "HDF5", "WMF")
# formats of most pictures, which their first bytes tell from all others
USUAL = ("JPEG", "PNG")
# formats whose deep pictures Pillow always stretches to 16 bits
STRETCHED = ("PPM", "JPEG2000")
# no value above: 12 bits in a 16-bit file, or a picture that shows nothing
TWELVE_BITS = 4095


# everything Pillow's decoders are known to raise on damaged bytes
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    tarfile.TarError,
    Image.DecompressionBombError,
    # Pillow's own, of sizes that a damaged header names
    MemoryError,
)


class UnknownScaleError(ValueError):
    """The picture does not say which of its values is white."""


@cache
def formats() -> tuple[str, ...]:
    """The formats that are looked for in a file, whatever its name: Pillow's, but for those that other programs read.

    Of PostScript, Pillow would have Ghostscript run what is written in the file. The usual formats come first: Pillow
    tries one after the other.
    """
    Image.init()
    known = [name for name in Image.ID if name not in BY_OTHER_PROGRAMS]
    return (*(name for name in USUAL if name in known), *(name for name in known if name not in USUAL))


def raw_mode(image: Image.Image) -> str:
    """How the file of an opened picture stores its pixels, in Pillow's words; loading forgets it."""
    tile: Any = getattr(image, "tile", None)
    stored = tile[0][3] if tile else ""
    stored = stored[0] if isinstance(stored, tuple) and stored else stored
    return stored if isinstance(stored, str) else ""


def to_rgb(
    image: Image.Image,
    background: Colour = WHITE,
    white: float | None = None,
    *,
    stored: str = "",
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """A loaded picture as 8-bit RGB, upright as its EXIF says, on a background where it is transparent.

    Args:
        image: of any mode.
        background: red, green and blue, 0 to 255.
        white: the value of integers above 8 bits or of floats that is white; None: as the table above says.
        stored: what `raw_mode` said before the picture was loaded, if known.
        size: a picture of this width and height is not turned.

    Raises:
        UnknownScaleError: no scale from black to white fits.
    """
    turn = None if image.size == size else turn_of(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        picture = from_deep(image, background, white)
    else:
        if white is None or white < 65535:
            check_depth(image, stored)
        if is_transparent(image):
            picture = on_background(image, background, stored)
        else:
            picture = image if image.mode == "RGB" else image.convert("RGB")
    if turn is not None:
        return picture.transpose(turn)
    return picture.copy() if picture is image else picture


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What puts a loaded picture upright; None where it is, or where its EXIF is damaged: the pixels are good."""
    if image.format == "TIFF":
        # Pillow turns these while it loads them
        return None
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (*DECODE_ERRORS, AttributeError, AssertionError):
        return None


def is_transparent(image: Image.Image) -> bool:
    """Whether pixels may be transparent: an alpha channel, an entry of the palette or one colour."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return True
    if image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A"):
        return True
    return "transparency" in image.info and image.mode in ("1", "L", "RGB", "P")


def on_background(image: Image.Image, background: Colour, stored: str) -> Image.Image:
    """A picture with transparency, laid on a colour."""
    key = image.info.get("transparency")
    if image.mode in ("L", "RGB") and isinstance(key, (int, tuple)):
        # PNG gives the transparent colour in the file's own depth, and Pillow's pixels have 8 bits
        values = [to_8_bits(value, stored) for value in (key if isinstance(key, tuple) else (key,))]
        image = image.copy()
        image.info["transparency"] = values[0] if image.mode == "L" else tuple(values)
    if image.mode == "La":
        image = image.convert("LA")
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, (*background, 255))
    return Image.alpha_composite(ground, layer).convert("RGB")


def to_8_bits(value: int, stored: str) -> int:
    """A sample of a file as Pillow's pixel has it."""
    if ";16" in stored or value > 255:
        return value >> 8
    return value * {"L;2": 85, "L;4": 17}.get(stored, 1)


def check_depth(image: Image.Image, stored: str) -> None:
    """Refuses colour of 12 bits in a file of 16: of its 4096 steps Pillow keeps 16, all of them nearly black."""
    if ";16" not in stored:
        return
    colours: Any = image.split()[: 1 if image.mode in ("L", "LA") else 3]
    largest = max(band.getextrema()[1] for band in colours)
    if 0 < largest <= TWELVE_BITS >> 8:
        raise UnknownScaleError(
            "no value of its 16-bit channels is above 4095, so it may hold 12 bits; save it with the full range of 16"
        )


def from_deep(image: Image.Image, background: Colour, white: float | None) -> Image.Image:
    """Grey of more than 8 bits as RGB."""
    values = np.asarray(image)  # (H, W)
    grey = np.repeat(scaled(values, image, white)[..., None], 3, axis=2)  # (H, W, 3)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = background
    return Image.fromarray(grey)


def scaled(values: np.ndarray, image: Image.Image, white: float | None) -> np.ndarray:
    """Values (H, W) as 8 bits (H, W)."""
    tags: Any = getattr(image, "tag_v2", {})
    is_float = image.mode == "F"
    if is_float and not np.isfinite(values).all():
        raise UnknownScaleError("it holds values that are no numbers; save it with numbers from 0 to 1")
    if white is None:
        white = white_of(image.format, float(values.min()), float(values.max()), tags, is_float=is_float)
    if is_float or white != int(white):
        values = np.rint(values.clip(0, white) * (255 / white))
    else:
        # as many values for each of the 256 steps
        values = values.astype(np.int64).clip(0, int(white)) * 256 // (int(white) + 1)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = 255 - values
    return values.astype(np.uint8)


def white_of(kind: str | None, smallest: float, largest: float, tags: Any, *, is_float: bool) -> float:
    """The value that is white by default, by the rule in the table above.

    Raises:
        UnknownScaleError: values outside the scale, or so small that the scale is unlikely.
    """
    # also where no settings are taken, as in `acmix predict`
    hint = "save it with 8 bits, or train with data.white set to the value that is white"
    if smallest < 0:
        raise UnknownScaleError(f"it holds values below 0, the smallest is {smallest:g}; {hint}")
    if is_float:
        if largest > 255:
            raise UnknownScaleError(f"it holds floats up to {largest:g}, expected 0 to 1, or 0 to 255; {hint}")
        return 1.0 if largest <= 1 else 255.0
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    if bits < 16:
        return float(2**bits - 1)
    if largest > 65535:
        raise UnknownScaleError(f"it holds integers up to {largest:.0f}, expected at most 65535; {hint}")
    if 0 < largest <= TWELVE_BITS and kind not in STRETCHED:
        raise UnknownScaleError(
            f"its largest value is {largest:.0f} of 65535, so it may hold fewer bits than its file; {hint}, such as"
            " data.white=4095 for 12 bits"
        )
    return 65535.0
