"""An export as a module, of a graph that stands here instead of in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from acmix.errors import UsageError
from acmix.tools.description import Description, Preprocessing
from acmix.tools.exported_detector import NAMES, ExportedDetector
from acmix.tools.exports import Export, Sizes

DESCRIPTION = Description(
    model="x",
    task="detect",
    head="fcos",
    classes=("one", "two"),
    named=True,
    preprocessing=Preprocessing(
        in_chans=3, img_size=32, max_size=64, multiple=32, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear",
        antialias=False, crop_pct=1,
    ),
    inputs=("images", "sizes"),
    outputs=NAMES[:3],
)  # fmt: skip


def whole_image(images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
    """One object in each image, as large as it."""
    boxes = torch.cat([torch.zeros_like(sizes), sizes.flip(1)], 1)[:, None]
    return boxes, torch.ones(len(images), 1), torch.full((len(images), 1), 2)


def test_a_detector_answers_in_pixels_of_each_picture() -> None:
    detector = ExportedDetector(Export(Path("model.pt2"), "ONNX", whole_image, Sizes()), DESCRIPTION).eval()
    found = detector([torch.rand(3, 20, 30), torch.rand(3, 50, 40)])
    assert [each["boxes"].tolist() for each in found] == [[[0, 0, 30, 20]], [[0, 0, 40, 50]]]
    assert [each["labels"].tolist() for each in found] == [[2], [2]]


def test_no_images_are_refused_in_one_line() -> None:
    detector = ExportedDetector(Export(Path("model.pt2"), "ONNX", whole_image, Sizes()), DESCRIPTION).eval()
    with pytest.raises(UsageError, match=r"model.pt2 got no images; give one at least"):
        detector([])


def test_a_segmenter_names_as_many_classes_as_it_has_outputs() -> None:
    export = Export(Path("model.pt2"), "ONNX", lambda images: images[:, :2], Sizes(), of_pixels=True)
    images = torch.rand(1, 3, 8, 8)
    assert export(images).shape == (1, 2, 8, 8)
    export.classes = 99
    with pytest.raises(UsageError, match="names 99 classes for 2 outputs"):
        export(images)
