"""The report of a detector tells AP, curves and mistakes, that of a segmenter IoU and confusions; with pictures."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from acmix.tools import report_objects, report_pixels
from acmix.tools.report import report
from acmix.tools.worst import Worst
from tests.support.downstream import (
    DIGITS,
    detection_config,
    detection_data,
    segmentation_config,
    segmentation_data,
    write_downstream_run,
)
from tests.support.found import NAMES, StillDetector, Thirds, with_names
from tests.support.page import Page, browse, browser, layout

AP = {"box_ap": 41.25, "box_ap50": 62.5, "mask_ap": 33.5}
IOU = {"miou": 37.25, "mean_accuracy": 48.5, "pixel_accuracy": 90.75}


class Loader:
    """Batches of one image each; of the second the file cannot be read."""

    def __init__(self, images: list[Any], targets: list[Any], truth: dict[str, Any] | None = None) -> None:
        self.images, self.targets = images, targets
        self.dataset: Any = SimpleNamespace(
            classes=NAMES, name=lambda index: f"val/{index}.jpg", ground_truth=lambda: truth
        )

    def __iter__(self) -> Any:
        for index, (image, target) in enumerate(zip(self.images, self.targets, strict=True)):
            weight = float(image is not None)
            image = torch.zeros(3, 32, 32) if image is None else image
            yield SimpleNamespace(
                images=[image], targets=[target], weights=torch.tensor([weight]), index=torch.tensor([index])
            )


def target(*objects: tuple[list[float], int, int]) -> dict[str, torch.Tensor]:
    boxes, labels, crowd = zip(*objects, strict=True) if objects else ((), (), ())
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "iscrowd": torch.tensor(crowd, dtype=torch.int64),
    }


def test_a_detector_s_mistakes_are_told_and_the_worst_image_comes_first() -> None:
    pytest.importorskip("faster_coco_eval")
    # it finds a dog in the middle and, at the left, a cat
    both = target(([20.0, 10.0, 60.0, 30.0], 2, 0), ([0.0, 0.0, 40.0, 40.0], 1, 0))
    owls = target(([20.0, 10.0, 60.0, 30.0], 3, 0), ([0.0, 0.0, 9.0, 9.0], 3, 0))
    targets = [both, target(), owls]
    annotations = [
        {"id": 1, "image_id": image, "category_id": int(label), "bbox": [left, top, right - left, bottom - top],
         "area": (right - left) * (bottom - top), "iscrowd": 0}
        for image, each in enumerate(targets)
        for (left, top, right, bottom), label in zip(each["boxes"].tolist(), each["labels"], strict=True)
    ]  # fmt: skip
    truth = {
        "images": [{"id": image, "height": 40, "width": 80} for image in range(3)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)],
        "annotations": annotations,
    }
    loader = Loader([torch.full((3, 40, 80), 0.5), None, torch.full((3, 40, 80), 0.5)], targets, truth)
    model = StillDetector(has_masks=False).eval()
    looked = report_objects.look(model, loader, torch.device("cpu"), with_masks=False, limit=5)
    assert (looked.images, looked.perfect) == (2, 1)
    [worst] = looked.worst
    assert worst.file == "val/2.jpg"
    assert worst.told.why == ["is owl", "nothing there"]
    shown = report_objects.sections(looked, Path("data"))
    assert shown["worst"][0].title == "val/2.jpg"
    assert report_objects.sections(looked, Path("val"))["worst"][0].title == "2.jpg"
    assert shown["worst"][0].lines == (
        "0 right, 2 missed, 2 wrong",
        "Missed: 2 owl",
        "Wrong: dog 0.90: is owl, cat 0.60: nothing there",
    )
    rows = {row.name: row for row in shown["classes"]}
    assert {name: row.objects for name, row in rows.items()} == {"cat": 1, "dog": 1, "owl": 2}
    assert rows["owl"].measures["box_ap50"] == 0
    assert rows["dog"].measures["box_ap50"] == 100
    assert shown["classes"][0].name == "owl"
    # a dog is found at once, an owl never
    assert looked.precision["box"][0, :, 1].tolist() == [1.0] * 101
    assert looked.precision["box"][0, :, 2].tolist() == [0.0] * 101
    assert len(shown["by_class"]) == 3
    assert all(chart.drawing for _, chart in shown["by_class"])
    assert [row[0] for row in shown["twelve"]][:2] == ["AP", "AP at IoU 0.50"]


def test_a_segmenter_s_worst_image_comes_with_what_it_shows_and_what_was_said() -> None:
    _, info = with_names(Thirds(), "segment", min_size=32, max_size=64, crop=32)
    config: Any = info.config
    right = torch.arange(48) * 3 // 48
    image, said = torch.zeros(3, 32, 48), right.expand(32, 48)
    wrong = said.clone()
    wrong[:, :16] = 1
    wrong[0] = 255
    nothing = torch.full((32, 48), 255)
    loader = Loader([image, None, image, image], [said, said, wrong, nothing])
    looked = report_pixels.look(Thirds().eval(), loader, torch.device("cpu"), config, 2)
    assert looked.result.images == 3
    assert [each.file for each in looked.worst] == ["val/2.jpg", "val/0.jpg"]
    # of the dogs half are right, and the owls all
    assert looked.worst[0].miou == pytest.approx(75)
    assert looked.predicted.confusion.tolist() == [[512, 0, 0], [496, 512 + 496, 0], [0, 0, 512 + 496]]
    shown = report_pixels.sections(looked)
    assert [row.name for row in shown["classes"]][-1] == "owl"
    assert {each.name for each in shown["worst"][0].legend} == set(NAMES)
    assert all(uri.startswith("data:image/jpeg;base64,") for each in shown["worst"] for uri in (each.image, each.true))
    # a normalised 0 is the mean colour
    assert np.allclose(looked.worst[0].image[:, 0, 0].numpy(), config.data.mean)


def test_the_worst_are_kept_without_the_others() -> None:
    worst: Worst[str] = Worst(2)
    for badness, name in ((1, "a"), (3, "b"), (1, "c"), (2, "d"), (3, "e")):
        if worst.would_take(badness):
            worst.offer(badness, name)
    assert worst.chosen() == ["b", "e"]
    assert not Worst(0).would_take(9)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's run, one class of which has an ill-meant name."""
    folder = tmp_path_factory.mktemp("detect")
    data = detection_data(folder / "coco")
    for file in (data / "annotations").iterdir():
        file.write_text(file.read_text().replace('"zero"', '"<script>alert(1)</script>"'))
    names = ["<script>alert(1)</script>", *DIGITS[1:]]
    return write_downstream_run(folder / "run", detection_config(data), names, AP)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segment")
    data = segmentation_data(folder / "ade")
    return write_downstream_run(folder / "run", segmentation_config(data), ["ground", *DIGITS], IOU)


@pytest.mark.slow
def test_a_detector_s_page_has_its_metrics_tables_curves_and_pictures(detector: Path, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    file = report(detector)
    page = Page(file.read_text(encoding="utf-8"))
    words = " ".join(page.words.split())
    for said in ("mask_rcnn on acmix_swin_tiny_patch4_window7_224", "Box AP41.25", "Mask AP33.50", "Mask AP %"):
        assert said in words
    assert "Top-1" not in words
    assert "COCO's measures on 4 images, %" in words
    assert not page.all("script")
    assert "<script>alert(1)</script>" in page.words
    pictures = page.all("img")
    assert len(pictures) == 4 - int(re.findall(r"without a mistake: (\d) of 4", words)[0])
    assert all(str(each["src"]).startswith("data:image/") for each in pictures)
    is_shown_well(file, tmp_path)


@pytest.mark.slow
def test_a_segmenter_s_page_has_its_metrics_table_confusions_and_pictures(segmenter: Path, tmp_path: Path) -> None:
    file = report(segmenter)
    page = Page(file.read_text(encoding="utf-8"))
    words = " ".join(page.words.split())
    for said in ("semantic_fpn on acmix_swin_tiny_patch4_window7_224", "mIoU37.25", "Pairs most often confused"):
        assert said in words
    assert len(page.all("img")) == 3 * 4
    is_shown_well(file, tmp_path)


@pytest.mark.slow
def test_a_page_without_its_data_says_so(detector: Path, segmenter: Path, tmp_path: Path) -> None:
    for run in (detector, segmenter):
        page = Page(report(run, data=str(tmp_path / "gone")).read_text(encoding="utf-8"))
        assert "No predictions could be made: " in page.words
        assert not page.all("img")


def is_shown_well(file: Path, folder: Path) -> None:
    """A browser shows the page without complaint, also on a narrow screen."""
    if browser() is None:
        pytest.skip("no browser here")
    seen = browse(file, folder)
    assert "CONSOLE" not in seen.stderr
    for width in (360, 1200):
        found = layout(file, folder, width)
        assert (found["beyond"], found["out"]) == (0, [])
