"""What a decoded picture shows: upright, on a background, between black and white."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from acmix.config import Data, validate
from acmix.data import open_dataset, read_image
from acmix.data.image import reader
from acmix.data.pixels import to_rgb
from acmix.errors import UsageError

ORIENTATION = 0x0112
WHITE_IS_ZERO = 262
GROUND = (10, 20, 30)
SLOPE = np.linspace(0, 1, 64).reshape(8, 8)  # (8, 8), from black to white


def corner() -> Image.Image:
    """A wide picture, red in its upper left quarter alone."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10, :15, 0] = 250
    return Image.fromarray(pixels)


def ends(image: Image.Image) -> tuple[int, int]:
    """The first and the last grey of a picture that is grey."""
    pixels = np.asarray(image)
    assert (pixels == pixels[..., :1]).all()
    return int(pixels[0, 0, 0]), int(pixels[-1, -1, 0])


# orientation to the quarter (row, column) in which the upper left one is seen
QUARTERS = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}


@pytest.mark.parametrize("orientation", QUARTERS)
@pytest.mark.parametrize(
    ("extension", "options"),
    [
        ("jpg", {"quality": 95}),
        ("png", {}),
        ("webp", {"lossless": True}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("avif", {"quality": 100}),
    ],
)
def test_a_photograph_is_read_upright(tmp_path, extension, options, orientation):
    if extension == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"photograph.{extension}"
    corner().save(path, exif=exif, **options)
    for source in (path, io.BytesIO(path.read_bytes())):
        pixels = np.asarray(read_image(source))[..., 0]
        height, width = (20, 30) if orientation < 5 else (30, 20)
        assert pixels.shape == (height, width)
        red = pixels.reshape(2, height // 2, 2, width // 2).mean((1, 3)) > 125
        assert [tuple(each) for each in np.argwhere(red).tolist()] == [QUARTERS[orientation]]


def test_damaged_exif_leaves_the_picture_as_it_is(tmp_path):
    damaged = (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\xff\xff\0\6\0\0")
    for exif in damaged:
        corner().save(tmp_path / "photograph.jpg", exif=exif)
        assert read_image(tmp_path / "photograph.jpg").size == (30, 20)


def clear(mode: str) -> Image.Image:
    """A red picture, transparent in its upper half."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[4:, :, 3] = 255
    image = Image.fromarray(pixels)
    return image.convert("LA").convert("La") if mode == "La" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La"])
def test_what_is_transparent_shows_the_background(mode):
    pixels = np.asarray(to_rgb(clear(mode), GROUND))
    assert (pixels[:4] == GROUND).all()
    assert (pixels[4:] == ((200, 0, 0) if mode.startswith("RGB") else (60, 60, 60))).all()
    assert (np.asarray(to_rgb(clear(mode)))[:4] == 255).all()


def png(depth: int, colours: int, row: bytes, key: bytes, width: int) -> io.BytesIO:
    """A PNG of two equal rows with one transparent colour, in depths that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, 2, depth, colours, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(2 * (b"\0" + row)))
    transparent = chunk(b"tRNS", key) if key else b""
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + transparent + pixels + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("depth", "colours", "row", "key", "first"),
    [
        (1, 0, b"\x40", struct.pack(">H", 1), 0),
        (2, 0, b"\x30", struct.pack(">H", 3), 0),
        (4, 0, b"\x0f", struct.pack(">H", 15), 0),
        (8, 0, b"\x07\xc8", struct.pack(">H", 200), 7),
        (16, 0, struct.pack(">HH", 700 * 64, 60000), struct.pack(">H", 60000), 175),
        (8, 2, b"\x07\x07\x07\1\2\3", struct.pack(">3H", 1, 2, 3), 7),
        (16, 2, struct.pack(">6H", *3 * [175 * 256], 60000, 1, 2), struct.pack(">3H", 60000, 1, 2), 175),
    ],
)
def test_one_transparent_colour_of_a_png_shows_the_background_in_every_depth(depth, colours, row, key, first):
    pixels = np.asarray(read_image(png(depth, colours, row, key, 2), background=GROUND))
    assert (pixels[:, 0] == first).all()
    assert (pixels[:, 1] == GROUND).all()


def test_a_palette_of_transparent_colours_is_laid_on_the_background(tmp_path):
    image = Image.new("P", (4, 4))
    image.putpalette([200, 0, 0])
    for transparency, expected in ((0, GROUND), (bytes([128]), (105, 10, 15))):
        image.save(tmp_path / "palette.png", transparency=transparency)
        assert (np.asarray(read_image(tmp_path / "palette.png", background=GROUND)) == expected).all()


def test_the_configured_background_reaches_every_reader(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "only").mkdir(parents=True)
        Image.new("RGBA", (16, 16)).save(tmp_path / split / "only" / "clear.png")
    plain = {"img_size": 16, "crop_pct": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1], "dir": str(tmp_path)}
    for background, expected in (("white", 1.0), ("navy", 0.0), ([51, 51, 51], 0.2), ("#333333", 0.2)):
        data = validate({"data": {**plain, "background": background}}).data
        shown: Any = open_dataset(data, None, "val")[0].image
        assert float(shown[0].min()) == float(shown[0].max()) == pytest.approx(expected)
        pixel: Any = reader(data)(tmp_path / "val" / "only" / "clear.png").getpixel((0, 0))
        assert pixel[0] == round(255 * expected)
    grey = open_dataset(Data(**{**plain, "mean": (0,), "std": (1,)}), None, "val", in_chans=1)[0].image
    assert (grey == 1).all()


@pytest.mark.parametrize("background", ["whitish", "", [1, 2], [0, 0, 256], [0, 0, -1], "#ff", 7, "#ff000000"])
def test_a_background_that_is_no_colour_is_refused(background):
    with pytest.raises(UsageError, match=r"data\.background=.*expected a colour") as caught:
        validate({"data": {"background": background}})
    assert "\n" not in str(caught.value)


def tiff(values: np.ndarray, path: Path) -> Path:
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (SLOPE.astype(np.float32), None),
        ((SLOPE * 255).astype(np.float32), None),
        ((SLOPE * 4000).astype(np.float32), 4000),
        ((SLOPE * 65535).astype(np.uint16), None),
        ((SLOPE * 4095).astype(np.uint16), 4095),
        ((SLOPE * 255).astype(np.uint16), 255),
        ((SLOPE * 65535).astype(np.int32), None),
        ((SLOPE * (2**31 - 1)).astype(np.int32), 2**31 - 1),
    ],
)
def test_deep_grey_runs_from_black_to_white(tmp_path, values, white):
    assert ends(read_image(tiff(values, tmp_path / "deep.tif"), white=white)) == (0, 255)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((SLOPE * 4095).astype(np.uint16), "its largest value is 4095 of 65535"),
        ((SLOPE * 255).astype(np.int32), "its largest value is 255 of 65535"),
        ((SLOPE * 2**20).astype(np.int32), "it holds integers up to 1048576, expected at most 65535"),
        ((SLOPE - 0.5).astype(np.float32), "it holds values below 0, the smallest is -0.5"),
        ((SLOPE * 1000).astype(np.float32), "it holds floats up to 1000, expected 0 to 1, or 0 to 255"),
        (np.where(SLOPE > 0.5, np.nan, SLOPE).astype(np.float32), "it holds values that are no numbers"),
    ],
)
def test_grey_of_an_unknown_scale_is_refused_by_name(tmp_path, values, said):
    with pytest.raises(UsageError, match=rf"deep\.tif: {said}") as caught:
        read_image(tiff(values, tmp_path / "deep.tif"))
    assert "\n" not in str(caught.value)


def test_a_black_picture_is_black_and_a_dark_one_may_be_read_as_such(tmp_path):
    assert ends(read_image(tiff(np.zeros((8, 8), np.uint16), tmp_path / "black.png"))) == (0, 0)
    dark = tiff((SLOPE * 4095).astype(np.uint16), tmp_path / "dark.png")
    assert ends(read_image(dark, white=65535)) == (0, 15)


def test_colour_of_12_bits_in_16_is_refused():
    for colours, row in ((2, struct.pack(">6H", 0, 0, 0, 4095, 4095, 4095)), (4, struct.pack(">4H", 0, 9, 4095, 9))):
        with pytest.raises(UsageError, match="it may hold 12 bits"):
            read_image(png(16, colours, row, b"", 2))
    assert ends(read_image(png(16, 2, struct.pack(">6H", 0, 0, 0, *3 * [65535]), b"", 2))) == (0, 255)


def packed_12_bits() -> io.BytesIO:
    """A TIFF that says it has 12 bits a sample."""
    pairs = (SLOPE * 4095).astype(int).reshape(-1, 2).tolist()
    body = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    # width, height, bits, compression, photometric, strip, samples, rows of a strip, bytes of a strip
    tags = {256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", 8 + len(body))
    return io.BytesIO(header + body + struct.pack("<H", len(tags)) + entries + bytes(4))


def test_what_the_file_says_of_its_depth_counts(tmp_path):
    assert ends(read_image(packed_12_bits())) == (0, 255)
    dark = b"P5 8 8 4095\n" + (SLOPE * 200).astype(">u2").tobytes()
    assert ends(read_image(io.BytesIO(dark))) == (0, 12)
    tags = ImageFileDirectory_v2()
    tags[WHITE_IS_ZERO] = 0
    Image.fromarray((SLOPE * 65535).astype(np.uint16)).save(tmp_path / "negative.tif", tiffinfo=tags)
    assert ends(read_image(tmp_path / "negative.tif")) == (255, 0)
    big_endian = Image.frombytes("I;16B", (8, 8), (SLOPE * 65535).astype(">u2").tobytes())
    assert ends(to_rgb(big_endian)) == (0, 255)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV"])
def test_other_colour_spaces_become_rgb(mode):
    pixel: Any = to_rgb(Image.new("RGB", (4, 4), (200, 100, 50)).convert(mode)).getpixel((0, 0))
    assert pixel == pytest.approx((200, 100, 50), abs=2)


@pytest.mark.parametrize("extension", ["gif", "png", "webp"])
def test_a_film_is_its_first_picture(tmp_path, extension):
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue"))
    first.save(tmp_path / f"film.{extension}", save_all=True, append_images=others)
    assert read_image(tmp_path / f"film.{extension}").getpixel((0, 0)) == pytest.approx((255, 0, 0), abs=2)


def test_a_picture_above_pillow_s_limit_is_refused_in_one_line(tmp_path, monkeypatch):
    Image.new("L", (20, 11)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UsageError, match=r"bomb\.png: .*220 pixels.* limit of 200") as caught:
        read_image(tmp_path / "bomb.png")
    assert "\n" not in str(caught.value)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path(os.devnull)):
        with pytest.raises(UsageError, match="a pipe, a socket or a device"):
            read_image(path)
    with pytest.raises(UsageError, match="name too long"):
        read_image(300 * "a" + ".jpg")
