"""Scenes of real small pictures, in COCO's format and in ADE20K's."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes
from acmix.data.sprites import CLOTHES, DIGITS, open_digits, open_sources
from acmix.errors import UsageError

SETTINGS = {"images": (40, 12), "size": 64, "seed": 3}


@pytest.fixture(scope="module")
def detection(tmp_path_factory):
    return write_detection_scenes(tmp_path_factory.mktemp("scenes") / "coco", **SETTINGS)


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory):
    return write_segmentation_scenes(tmp_path_factory.mktemp("scenes") / "ade20k", **SETTINGS)


@pytest.fixture
def fashion_mnist(tmp_path, monkeypatch):
    """A folder with files of Fashion-MNIST's format, with a rectangle in each picture."""
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        pictures = np.zeros((count, 28, 28), np.uint8)
        pictures[:, 4:24, 6:22] = 200
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, content in (("images", pictures), ("labels", labels)):
            head = np.array([0x800 + content.ndim, *content.shape], dtype=">u4").tobytes()
            file = tmp_path / f"{part}-{kind}-idx{content.ndim}-ubyte.gz"
            file.write_bytes(gzip.compress(head + content.tobytes(), 1))
    return tmp_path


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("split", "count"), [("train2017", 40), ("val2017", 12)])
def test_pycocotools_reads_the_scenes_and_every_box_and_area_is_its_masks(detection, split, count):
    coco = COCO(str(detection / "annotations" / f"instances_{split}.json"))
    assert len(coco.imgs) == count
    assert [category["name"] for category in coco.cats.values()] == list(DIGITS)
    for image in coco.imgs.values():
        assert Image.open(detection / split / image["file_name"]).size == (image["width"], image["height"])
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert annotation["area"] == mask.sum()
        left, top, width, height = annotation["bbox"]
        assert (left, left + width - 1, top, top + height - 1) == (columns[0], columns[-1], rows[0], rows[-1])


def test_scenes_hold_polygons_run_lengths_crowds_overlaps_and_images_without_objects(tmp_path):
    root = write_detection_scenes(tmp_path / "many", images=(120, 1), size=64)
    document = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    annotations = document["annotations"]
    assert {type(each["segmentation"]) for each in annotations if not each["iscrowd"]} == {list, dict}
    assert any(each["iscrowd"] for each in annotations)
    assert {each["image_id"] for each in annotations} < {each["id"] for each in document["images"]}
    assert len({(each["width"], each["height"]) for each in document["images"]}) == 3
    boxes = {}
    for each in annotations:
        boxes.setdefault(each["image_id"], []).append(each["bbox"])
    assert any(
        abs(a[0] - b[0]) < min(a[2], b[2]) / 2 and abs(a[1] - b[1]) < min(a[3], b[3]) / 2
        for there in boxes.values()
        for number, a in enumerate(there)
        for b in there[:number]
    )


def test_what_is_validated_on_is_of_no_training_picture(detection):
    digits = open_digits()
    assert set(digits.train).isdisjoint(digits.val)
    for split, part in (("train2017", digits.train), ("val2017", digits.val)):
        document = json.loads((detection / "annotations" / f"instances_{split}.json").read_text())
        used = {index for each in document["annotations"] for source, index in each["pictures"] if source == 0}
        assert used
        assert used <= set(part.tolist())


@pytest.mark.parametrize(("split", "count"), [("training", 40), ("validation", 12)])
def test_label_maps_have_the_size_of_their_images_and_the_classes_named(segmentation, split, count):
    names = (segmentation / "classes.txt").read_text().splitlines()
    assert names == ["ground", *DIGITS]
    images = sorted((segmentation / "images" / split).glob("*.jpg"))
    assert len(images) == count
    seen = set()
    for image in images:
        labels = Image.open(segmentation / "annotations" / split / f"{image.stem}.png")
        assert (labels.mode, labels.size) == ("L", Image.open(image).size)
        seen |= set(np.unique(np.asarray(labels)).tolist())
    assert seen <= set(range(len(names) + 1))
    assert {0, 1} < seen


@pytest.mark.parametrize("write", [write_detection_scenes, write_segmentation_scenes])
def test_scenes_depend_on_the_seed_alone(write, tmp_path):
    first, again, other = (
        write(tmp_path / name, images=(3, 2), size=48, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert content(first) == content(again)
    assert content(first) != content(other)


def test_a_complete_set_is_kept_and_nothing_else_is_overwritten(tmp_path):
    root = write_detection_scenes(tmp_path / "scenes", images=(2, 1), size=48)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_detection_scenes(root, images=(2, 1), size=48)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]
    with pytest.raises(UsageError, match="other files than these scenes"):
        write_detection_scenes(root, images=(2, 1), size=48, seed=1)
    with pytest.raises(UsageError, match="other files than these scenes"):
        write_segmentation_scenes(root, images=(2, 1), size=48)


def test_clothes_are_put_beside_digits(fashion_mnist, tmp_path):
    root = write_detection_scenes(
        tmp_path / "both", images=(20, 4), size=64, source="both", fashion_mnist=fashion_mnist
    )
    document = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    assert [each["name"] for each in document["categories"]] == [*DIGITS, *CLOTHES]
    used = {each["category_id"] for each in document["annotations"]}
    assert min(used) <= 10 < max(used)


def test_without_fashion_mnist_clothes_name_the_package(tmp_path):
    with pytest.raises(UsageError, match=r"there is no .*train-images-idx3-ubyte.gz; install Debian's package"):
        write_detection_scenes(tmp_path / "scenes", source="clothes", fashion_mnist=tmp_path)
    assert list(tmp_path.iterdir()) == []


# named, as gzip writes the time, and every process of pytest has to find the same names
@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"short"), gzip.compress(b"\0" * 100)[:-12]],
    ids=["no gzip", "short", "torn"],
)
def test_another_file_in_fashion_mnists_place_is_refused(content, tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UsageError, match=r"idx3-ubyte.gz.*; install dataset-fashion-mnist anew"):
        open_sources("clothes", tmp_path)


def test_without_scikit_learn_scenes_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UsageError, match=r"run pip install -e .*\[demo\]"):
        write_segmentation_scenes(tmp_path / "scenes")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"images": (0, 1)}, "expected a number to train and one to validate"),
        ({"size": 8}, "size=8; expected 48 to 2048 pixels"),
        ({"source": "cats"}, "no pictures are called 'cats'; expected one of digits, clothes, both"),
        ({"seed": -1}, "seed=-1; expected 0 or more"),
    ],
)
def test_scenes_that_cannot_be_drawn_are_refused(argument, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        write_detection_scenes(tmp_path / "scenes", **argument)
