"""Which files belong together, and what the values of a label map mean."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from acmix.config import Data
from acmix.data.image import read_image
from acmix.data.label_maps import IGNORED, find_pairs, open_pairs, read_label_map, read_pair
from acmix.errors import UsageError
from tests.support.images import lay_down
from tests.support.label_maps import blocks, chunk, classes_of, grey_png, make_pairs, write_image, write_labels

VALUES = np.array([[0, 1, 2, 3], [4, 255, 1, 0]], dtype=np.uint8)
# as ADE20K means them: 0 is ignored, 1 is the first class
ADE20K = [[255, 0, 1, 2], [3, 255, 0, 255]]


def read(path, classes: int = 4, *, ignore_zero: bool = True) -> list[list[int]]:
    found = read_label_map(str(path), classes=classes, ignore_zero=ignore_zero)
    assert found.dtype == np.uint8
    return found.tolist()


def refusal(path, classes: int = 4, *, ignore_zero: bool = True) -> str:
    with pytest.raises(UsageError) as error:
        read_label_map(str(path), classes=classes, ignore_zero=ignore_zero)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


# what values mean


def test_zero_is_ignored_and_one_is_the_first_class_as_in_ade20k(tmp_path):
    assert read(write_labels(tmp_path / "a.png", VALUES)) == ADE20K


def test_values_are_the_classes_where_zero_is_one(tmp_path):
    assert read(write_labels(tmp_path / "a.png", VALUES), 5, ignore_zero=False) == VALUES.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_any_depth_has_the_values_of_its_file(tmp_path, bits):
    values = (np.arange(4) % 2**bits).reshape(2, 2)
    (tmp_path / "a.png").write_bytes(grey_png(values, bits))
    assert read(tmp_path / "a.png", ignore_zero=False) == values.tolist()


def test_a_map_of_one_bit_holds_zero_and_one(tmp_path):
    Image.fromarray(VALUES > 1).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", 1) == [[255, 255, 0, 0], [0, 0, 255, 255]]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_palette_s_indices_count_and_not_its_colours(tmp_path, bits):
    values = np.where(VALUES == 255, 0, VALUES)
    palette = Image.frombytes("P", (4, 2), values.tobytes())
    palette.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 90, 90, 90, 7, 8, 9])
    # also where some colours are transparent
    palette.save(tmp_path / "a.png", bits=bits, transparency=b"\x00\x80")
    assert read(tmp_path / "a.png") == [[255, 0, 1, 2], [3, 255, 0, 255]]


def test_values_of_16_bits_are_not_cut_to_8(tmp_path):
    # 257 would be 1, a class
    path = write_labels(tmp_path / "a.png", np.array([[1, 257]], dtype=np.uint16))
    assert "has the value 257; expected 1 to 4 for the 4 classes" in refusal(path)


def test_a_value_above_the_classes_is_named(tmp_path):
    path = write_labels(tmp_path / "a.png", np.array([[1, 5, 7]], dtype=np.uint8))
    said = refusal(path)
    assert "has the value 7; expected 1 to 4 for the 4 classes, 0 or 255 for what is ignored" in said
    assert "ignore_zero" not in said
    assert read(path, 7) == [[0, 4, 6]]


def test_one_value_too_many_hints_at_ignore_zero(tmp_path):
    path = write_labels(tmp_path / "a.png", np.array([[0, 4]], dtype=np.uint8))
    assert "set task.ignore_zero=true" in refusal(path, ignore_zero=False)


def test_255_is_the_last_value_and_still_ignored(tmp_path):
    path = write_labels(tmp_path / "a.png", np.array([[254, 255]], dtype=np.uint8))
    assert read(path, 254) == [[253, IGNORED]]
    assert read(path, 255, ignore_zero=False) == [[254, IGNORED]]


# what is no label map


def test_a_jpeg_is_refused_whatever_its_name(tmp_path):
    Image.fromarray(VALUES).save(tmp_path / "a.png", format="JPEG")
    assert "a JPEG file, which alters values; expected a PNG file of one channel" in refusal(tmp_path / "a.png")


def test_another_format_is_refused(tmp_path):
    Image.fromarray(VALUES).save(tmp_path / "a.tif")
    assert "is a TIFF file; expected a PNG" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_refused_with_a_hint(tmp_path, mode):
    Image.fromarray(VALUES).convert(mode).save(tmp_path / "a.png")
    assert "holds colours; expected a PNG file of one channel, whose values are the classes (for ADE20K" in refusal(
        tmp_path / "a.png"
    )


def test_two_channels_are_refused(tmp_path):
    Image.fromarray(VALUES).convert("LA").save(tmp_path / "a.png")
    assert "has 2 channels (mode LA)" in refusal(tmp_path / "a.png")


def test_damaged_files_are_named_in_one_line(tmp_path):
    path = tmp_path / "a.png"
    write_labels(path, blocks(0, 64, 64, 1))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path).endswith("replace or remove it")
    path.write_bytes(b"")
    assert "the file is empty" in refusal(path)
    path.write_bytes(b"no picture")
    assert "not an image in a known format" in refusal(path)
    path.unlink()
    assert "no such file" in refusal(path)
    path.mkdir()
    assert refusal(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert "a pipe, a socket or a device" in refusal(tmp_path / "a.png")


# image and label map together


def pair(image, labels, classes: int = 4):
    return read_pair(str(image), str(labels), read=read_image, classes=classes, ignore_zero=True)


def test_another_size_than_the_image_is_refused(tmp_path):
    image = write_image(tmp_path / "a.jpg", blocks(0, 8, 12))
    labels = write_labels(tmp_path / "a.png", blocks(0, 12, 8) + np.uint8(1))
    with pytest.raises(UsageError, match="is 8x12 and its image 12x8; expected one size"):
        pair(image, labels)


def test_a_map_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    # its header says 12000 x 12000, below the limit on bombs, and its pixels are missing
    header = np.array([12000, 12000], dtype=">u4").tobytes() + bytes([8, 0, 0, 0, 0])
    huge = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(huge)
    image = write_image(tmp_path / "a.jpg", blocks(0, 8, 12))
    with pytest.raises(UsageError, match="is 12000x12000 and its image 12x8"):
        pair(image, tmp_path / "a.png")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    image = write_image(tmp_path / "a.jpg", blocks(0, 8, 12))
    labels = write_labels(tmp_path / "a.png", blocks(0, 8, 12) + np.uint8(1))
    with pytest.raises(UsageError, match="cannot read label map"):
        pair(image, labels)
    assert Image.MAX_IMAGE_PIXELS == 40


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1), (1, 5000)])
def test_an_image_of_one_pixel_a_side_reads(tmp_path, size):
    classes = blocks(1, *size)
    picture, found = pair(write_image(tmp_path / "a.png", classes), write_labels(tmp_path / "b.png", classes + 1))
    assert picture.size == size[::-1]
    assert np.array_equal(found, classes)


def test_a_map_drawn_on_the_turned_image_finds_it_turned(tmp_path):
    classes = blocks(2, 48, 32)
    image = write_image(tmp_path / "a.jpg", classes)
    lay_down(image)
    picture, found = pair(image, write_labels(tmp_path / "a.png", classes + np.uint8(1)))
    assert (classes_of(np.asarray(picture)) == found).mean() > 0.9


def test_a_map_drawn_on_the_stored_image_finds_it_as_stored(tmp_path):
    classes = blocks(2, 48, 32)
    image = write_image(tmp_path / "a.jpg", classes)
    lay_down(image)
    # pixels on their side, 32 high
    stored = np.rot90(classes)
    picture, found = pair(image, write_labels(tmp_path / "a.png", np.ascontiguousarray(stored) + np.uint8(1)))
    assert picture.size == (48, 32)
    assert (classes_of(np.asarray(picture)) == found).mean() > 0.9


# which files belong together


def test_images_and_label_maps_are_paired_by_name_in_natural_order(tmp_path):
    for number in (10, 9, 2):
        write_image(tmp_path / f"images/training/a{number}.jpg", blocks(0))
        write_labels(tmp_path / f"annotations/training/a{number}.png", blocks(0))
    pairs = find_pairs(tmp_path, "training")
    assert [os.path.basename(each) for each in pairs.images] == ["a2.jpg", "a9.jpg", "a10.jpg"]
    assert [os.path.basename(each) for each in pairs.labels] == ["a2.png", "a9.png", "a10.png"]
    assert pairs.notes == ()


def test_names_that_count_alike_have_one_order_in_every_process(tmp_path):
    names = ["1", "01", "001", "a", "A"]
    for name in names:
        write_image(tmp_path / f"images/training/{name}.jpg", blocks(0))
        write_labels(tmp_path / f"annotations/training/{name}.png", blocks(0))
    pairs = find_pairs(tmp_path, "training")
    assert [os.path.basename(each)[:-4] for each in pairs.images] == ["001", "01", "1", "A", "a"]


def test_names_that_look_the_same_are_the_same(tmp_path):
    write_image(tmp_path / "images/training/caf\u00e9.jpg", blocks(0))
    write_labels(tmp_path / "annotations/training/cafe\u0301.png", blocks(0))
    assert len(find_pairs(tmp_path, "training")) == 1


def test_folders_of_a_split_belong_to_the_name(tmp_path):
    for city in ("aachen", "bochum"):
        write_image(tmp_path / f"images/train/{city}/0.png", blocks(0))
        write_labels(tmp_path / f"annotations/train/{city}/0.png", blocks(0))
    write_labels(tmp_path / "annotations/train/0.png", blocks(0))
    pairs = find_pairs(tmp_path, "train")
    assert pairs.images == ("images/train/aachen/0.png", "images/train/bochum/0.png")
    assert pairs.labels == ("annotations/train/aachen/0.png", "annotations/train/bochum/0.png")
    assert pairs.notes == ("1 label map has no image and is left out: annotations/train/0.png",)


def test_what_has_no_partner_is_counted_and_left_out(tmp_path):
    make_pairs(tmp_path, training=5)
    for number in (0, 1):
        (tmp_path / f"images/training/training_00{number}.jpg").unlink()
    (tmp_path / "annotations/training/training_002.png").unlink()
    (tmp_path / "images/training/readme.txt").write_text("nothing")
    pairs = find_pairs(tmp_path, "training")
    assert len(pairs) == 2
    assert pairs.notes == (
        "1 file is no image and is left out: training/readme.txt",
        "1 image has no label map and is left out: images/training/training_002.jpg",
        "2 label maps have no image and are left out: "
        "annotations/training/training_000.png, annotations/training/training_001.png",
    )


def test_of_two_label_maps_of_one_name_the_png_counts(tmp_path):
    make_pairs(tmp_path, training=1)
    write_image(tmp_path / "annotations/training/training_000.jpg", blocks(0))
    pairs = find_pairs(tmp_path, "training")
    assert pairs.labels == ("annotations/training/training_000.png",)
    assert pairs.notes == (
        "1 file has the name of another image and is left out: annotations/training/training_000.jpg",
    )


def test_no_pair_at_all_is_an_error_with_an_example(tmp_path):
    write_image(tmp_path / "images/val/a.jpg", blocks(0))
    write_labels(tmp_path / "annotations/val/a_labelIds.png", blocks(0))
    with pytest.raises(UsageError) as error:
        find_pairs(tmp_path, "val")
    assert "1 images in images/val and 1 label maps in annotations/val, but no two of one name" in str(error.value)
    assert "(images/val/a.jpg, annotations/val/a_labelIds.png)" in str(error.value)


def open_train(root, **settings):
    return open_pairs(
        Data(dir=str(root), **{"train_split": "training", "val_split": "validation", **settings}), "train"
    )


def test_a_split_of_another_name_is_named(tmp_path):
    make_pairs(tmp_path)
    with pytest.raises(UsageError, match=r"no folder train/; it has training, validation: set data\.train_split"):
        open_train(tmp_path, train_split="train")


def test_a_folder_that_is_none_is_said_so(tmp_path):
    for root, said in (
        ("", "no data folder is given; add --data DIR, a folder with images/<split>/"),
        (tmp_path / "none", "is not there; expected a folder with images/<split>/"),
        (tmp_path, "has no folder images/; expected"),
    ):
        with pytest.raises(UsageError, match=said):
            open_train(root)
    (tmp_path / "images/training").mkdir(parents=True)
    with pytest.raises(UsageError, match="has no folder annotations/"):
        open_train(tmp_path)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(UsageError, match=f"images has no folder images/; {tmp_path} has: give that folder"):
        open_train(tmp_path / "images")
    with pytest.raises(UsageError, match="annotations has no folder training/"):
        open_train(tmp_path)
    (tmp_path / "annotations/training").mkdir()
    with pytest.raises(UsageError, match="has 0 images"):
        open_train(tmp_path)
    with pytest.raises(UsageError, match="segmentation reads a folder"):
        open_train(tmp_path, format="wds/")


@pytest.mark.parametrize("inner", ["training", ""])
def test_a_share_is_held_out_where_there_is_no_validation_split(tmp_path, inner):
    for number in range(10):
        write_image(tmp_path / "images" / inner / f"{number}.jpg", blocks(number))
        write_labels(tmp_path / "annotations" / inner / f"{number}.png", blocks(number))
    data = Data(dir=str(tmp_path), train_split="training", val_split="validation", split=0.3)
    train, val = open_pairs(data, "train"), open_pairs(data, "val")
    assert (len(train), len(val)) == (7, 3)
    assert not {*train.images} & {*val.images}
    assert all(image[7:-4] == labels[12:-4] for image, labels in zip(train.images, train.labels, strict=True))
    assert val.notes == ("3 of 10 images are held out by data.split=0.3, data.split_seed=0",)


def test_a_share_is_not_held_out_beside_a_validation_split(tmp_path):
    make_pairs(tmp_path)
    with pytest.raises(UsageError, match="would hold out others"):
        open_train(tmp_path, split=0.3)
    # but a model that was trained so is measured on what there is
    data = Data(dir=str(tmp_path), train_split="training", val_split="validation", split=0.3)
    pairs = open_pairs(data, "val", trained=True)
    assert len(pairs) == 3
    assert pairs.notes == (f"measured on validation, which {tmp_path} has; the run held out images by data.split=0.3",)


def test_an_odd_name_stays_on_one_line(tmp_path):
    write_image(tmp_path / "images/val/a\nb.jpg", blocks(0))
    write_labels(tmp_path / "annotations/val/c.png", blocks(0))
    with pytest.raises(UsageError) as error:
        find_pairs(tmp_path, "val")
    assert "\n" not in str(error.value)


def test_a_link_to_nothing_is_told_of_when_it_is_read(tmp_path):
    make_pairs(tmp_path, training=1)
    labels = tmp_path / "annotations/training/training_000.png"
    labels.unlink()
    labels.symlink_to(tmp_path / "gone.png")
    pairs = find_pairs(tmp_path, "training")
    assert len(pairs) == 1
    with pytest.raises(UsageError, match="no such file"):
        pair(tmp_path / pairs.images[0], tmp_path / pairs.labels[0])


def test_the_first_picture_of_an_animation_counts(tmp_path):
    memory = io.BytesIO()
    first, second = (Image.fromarray(np.full((2, 2), value, dtype=np.uint8)) for value in (1, 9))
    first.save(memory, format="PNG", save_all=True, append_images=[second])
    (tmp_path / "a.png").write_bytes(memory.getvalue())
    assert read(tmp_path / "a.png") == [[0, 0], [0, 0]]
