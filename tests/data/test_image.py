"""Reading one image, and the transforms."""

import io
import os
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acmix.config import Augment, Data
from acmix.data import evaluation_transform, read_image
from acmix.data import image as image_module
from acmix.data.dataset import seeded
from acmix.data.image import jpeg_pixels
from acmix.data.training import training_transform
from acmix.errors import UsageError
from tests.support.images import lay_down

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))  # (64, 64)


def check_is_ramp(image: Image.Image, tolerance: int = 3) -> None:
    assert image.mode == "RGB"
    assert image.size == (64, 64)
    difference = np.asarray(image).astype(int) - RAMP[:, :, None]
    assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize(
    ("mode", "extension"),
    [
        ("L", "png"),
        ("L", "JPEG"),
        ("RGB", "png"),
        ("RGB", "JPG"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("P", "gif"),
        ("CMYK", "jpg"),
        ("RGB", "webp"),
        ("L", "bmp"),
    ],
)
def test_every_mode_reads_as_the_same_rgb_picture(tmp_path, mode, extension):
    path = tmp_path / f"ramp.{extension}"
    grey = Image.fromarray(RAMP)
    # from RGB, Pillow would dither to a palette of few colours
    image = grey.convert("P") if mode == "P" else grey.convert("RGB").convert(mode)
    options: dict[str, Any] = {"lossless": True} if extension == "webp" else {}
    image.save(path, **options)
    check_is_ramp(read_image(path), tolerance=6)
    with open(path, "rb") as file:
        check_is_ramp(read_image(file), tolerance=6)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_clipped_to_white(tmp_path, extension):
    path = tmp_path / f"deep.{extension}"
    Image.fromarray(RAMP.astype(np.uint16) * 256 + 255).save(path)
    check_is_ramp(read_image(path), tolerance=0)


def test_32_bit_integer_and_float_grey_read():
    for array in (RAMP.astype(np.int32) * 256, RAMP.astype(np.float32)):
        memory = io.BytesIO()
        Image.fromarray(array).save(memory, format="TIFF")
        check_is_ramp(read_image(io.BytesIO(memory.getvalue())), tolerance=0)


def test_a_palette_with_transparency_reads_without_a_warning(tmp_path):
    image = Image.fromarray(RAMP).convert("P")
    image.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    # grey v of opacity v / 255, on white
    grey = RAMP / 255.0
    on_white = np.rint(255 * (grey * grey + 1 - grey)).astype(int)
    difference = np.asarray(read_image(tmp_path / "palette.png")).astype(int) - on_white[:, :, None]
    assert np.abs(difference).max() <= 1


def test_an_unreadable_file_is_named_in_one_line(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(RAMP).save(whole, format="JPEG")
    contents = {
        "empty.JPEG": b"",
        "text.JPEG": b"this is not a picture",
        "truncated.JPEG": whole.getvalue()[: len(whole.getvalue()) // 2],
        "header.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=name) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="empty"):
        read_image(tmp_path / "empty.JPEG")
    with pytest.raises(UsageError, match="no such file"):
        read_image(tmp_path / "absent.JPEG")
    with pytest.raises(UsageError, match="folder"):
        read_image(tmp_path)


def test_evaluation_keeps_the_centre_and_normalises():
    data = Data(img_size=224)
    pixels = np.zeros((256, 300, 3), dtype=np.uint8)
    pixels[16:240, 38:262] = 255
    out: Any = evaluation_transform(data)(Image.fromarray(pixels))
    assert out.shape == (3, 224, 224)
    for channel in range(3):
        assert torch.allclose(out[channel], torch.tensor((1 - data.mean[channel]) / data.std[channel]), atol=1e-5)


def test_one_channel_reads_grey_with_the_averaged_mean_and_std():
    data = Data(img_size=32, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    white: Any = Image.new("RGB", (40, 40), "white")
    assert torch.allclose(evaluation_transform(data, in_chans=1)(white), torch.full((1, 32, 32), (1 - 0.5) / 0.2))
    grey = Data(img_size=32, mean=(0.25,), std=(0.5,))
    assert torch.allclose(evaluation_transform(grey, in_chans=1)(white), torch.full((1, 32, 32), 1.5))
    for seed in range(20):
        torch.manual_seed(seed)
        assert training_transform(data, Augment(), in_chans=1)(white).image.shape == (1, 32, 32)


@pytest.mark.parametrize(
    ("data", "in_chans", "message"),
    [
        (Data(mean=(0.5,)), 3, "data.mean has 1 values and model.in_chans=3"),
        (Data(std=(0.5, 0.5)), 1, "data.std has 2 values and model.in_chans=1"),
        (Data().model_copy(update={"std": (0.5, 0.5, 0.0)}), 3, "data.std"),
        (Data(), 4, "model.in_chans=4"),
    ],
)
def test_mean_and_std_that_do_not_fit_the_channels_are_refused(data, in_chans, message):
    with pytest.raises(UsageError, match=message):
        evaluation_transform(data, in_chans)


def test_training_follows_the_crop_scale_also_for_small_images():
    still = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, auto_augment=None, color_jitter=None)
    still = still.model_copy(update={"random_erasing": 0.0})
    image = Image.fromarray(RAMP[:32, :32])
    out = training_transform(Data(img_size=32), still)(image.convert("RGB"))
    assert torch.equal(out.image, torch.from_numpy(RAMP[:32, :32]).expand(3, 32, 32))


def test_the_strongest_randaugment_never_fails_on_a_picture():
    transform = training_transform(Data(img_size=16), Augment(auto_augment="rand-m10-n8-inc1"))
    for seed in range(60):
        with seeded(seed):
            assert transform(Image.fromarray(RAMP).convert("RGB")).image.shape == (3, 16, 16)


def test_no_other_program_reads_a_picture(tmp_path, monkeypatch):
    # Pillow would have Ghostscript run it, whatever the file's name
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *words, **_: started.append(words))
    file = tmp_path / "a.jpg"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\nshowpage\n")
    with pytest.raises(UsageError, match="not an image in a known format"):
        read_image(file)
    assert started == []


@pytest.mark.parametrize("subsampling", [0, 1, 2, "4:1:1"])
@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_of_a_jpeg_file_are_those_of_the_picture(tmp_path, subsampling, progressive):
    file = tmp_path / "a.jpg"
    for width, height in ((64, 48), (65, 47), (3, 5), (17, 200)):
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, quality=80, subsampling=subsampling, progressive=progressive)
        expected = torch.from_numpy(np.array(read_image(file))).permute(2, 0, 1)
        for source in (file, str(file), io.BytesIO(file.read_bytes())):
            found = jpeg_pixels(source)
            assert found is not None
            assert torch.equal(found, expected)
            # an open file can be read again
            assert read_image(source).size == (width, height)


def test_pixels_of_other_files_are_left_to_pillow(tmp_path):
    colour = Image.fromarray(RAMP).convert("RGB")
    for name, image in (("grey.jpg", Image.fromarray(RAMP)), ("cmyk.jpg", colour.convert("CMYK")), ("a.png", colour)):
        image.save(tmp_path / name)
    colour.save(tmp_path / "turned.jpg")
    lay_down(tmp_path / "turned.jpg")
    whole = io.BytesIO()
    colour.save(whole, format="JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:-40])
    (tmp_path / "hole.jpg").write_bytes(whole.getvalue()[:200] + whole.getvalue()[-2:])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 9
    assert [jpeg_pixels(file) for file in [*files, tmp_path / "absent.jpg"]] == [None] * 10


def test_a_jpeg_file_that_is_too_long_is_not_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (8, 8), "red").save(path)
    assert jpeg_pixels(path) is not None
    size = path.stat().st_size
    monkeypatch.setattr(image_module, "MOST_JPEG_BYTES", size)
    assert jpeg_pixels(path) is None
    with open(path, "rb") as file:
        assert jpeg_pixels(file) is None
        # from its beginning again
        assert read_image(file).size == (8, 8)
    monkeypatch.setattr(image_module, "MOST_JPEG_BYTES", size + 1)
    assert jpeg_pixels(path) is not None
