"""One split of a detection data set: rows that can be read in any order, and what a batch of them holds.

A target is a dictionary of tensors, for n objects in an image of h × w pixels:

    boxes     float32 (n, 4)       x and y of the upper left and lower right corner, in pixels
    labels    int64 (n,)           1 to the number of classes: label k is `classes[k - 1]`
    masks     uint8 (n, h, w)      0 and 1; in training, for heads with masks
    area      float32 (n,)         in evaluation as annotated; in training that of the box
    iscrowd   int64 (n,)           1 for a region of many objects; training leaves them out
    image_id  int64 ()             as annotated, -1 for padding
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors

from acmix.data.coco import Coco
from acmix.data.dataset import PADDING, SUBSTITUTES, seed_of, seeded
from acmix.data.detection_transforms import TrainingTransform
from acmix.data.fingerprint import fingerprint
from acmix.data.image import read_image
from acmix.data.joint import as_image, to_float
from acmix.errors import UsageError
from acmix.names import shown

Target = dict[str, torch.Tensor]
# bytes of the masks of one image
MOST_MASKS = 2**31
# pixels of an image: Pillow reads none that is larger
MOST_PIXELS = 2**28
# side of the image of a row that has none
BLANK = 32


class DetectionRow(NamedTuple):
    """One row of a batch; see `DetectionBatch` for the meaning of the fields."""

    image: torch.Tensor  # (in_chans, h, w)
    target: Target
    weight: float
    failed: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


class DetectionBatch(NamedTuple):
    """Images of any sizes with their targets; the other fields are as in `acmix.data.Batch`."""

    images: list[torch.Tensor]  # float32 (in_chans, h, w) each, 0 to 1
    targets: list[Target]
    weights: torch.Tensor  # (b,) float32
    failed: torch.Tensor  # (b,) int64
    index: torch.Tensor  # (b,) int64  # pyright: ignore[reportIncompatibleMethodOverride]

    def to(
        self, device: torch.device | str, memory_format: torch.memory_format = torch.contiguous_format
    ) -> DetectionBatch:
        """Copies what a model needs to a device, without waiting; `memory_format` is for the batch the model makes."""
        return self._replace(
            images=[image.to(device, non_blocking=True) for image in self.images],
            targets=[
                {key: value.to(device, non_blocking=True) for key, value in target.items()} for target in self.targets
            ],
            weights=self.weights.to(device, non_blocking=True),
        )


def collate_detection(rows: list[DetectionRow]) -> DetectionBatch:
    """Puts rows into a batch."""
    images, targets, weights, failed, index = zip(*rows, strict=True)
    return DetectionBatch(
        images=list(images),
        targets=list(targets),
        weights=torch.tensor(weights, dtype=torch.float32),
        failed=torch.tensor(failed, dtype=torch.int64),
        index=torch.tensor(index, dtype=torch.int64),
    )


@dataclass(kw_only=True, eq=False)
class DetectionDataset(Dataset[DetectionRow]):
    """A split, readable in any order; `dataset[index]` or, as the sampler does it, `dataset[index, sample_seed]`.

    `label_of` gives the place in `classes` of each of the file's categories. Without `transform`, for evaluation,
    images keep their size, boxes are as annotated, and masks are left to `ground_truth`.
    """

    coco: Coco
    folder: Path
    classes: list[str]
    label_of: np.ndarray
    split: str
    transform: TrainingTransform | None
    in_chans: int = 3
    seed: int = 0
    read: Callable[..., Image.Image] = read_image

    @property
    def training(self) -> bool:
        """Whether images are changed at random."""
        return self.transform is not None

    @property
    def notes(self) -> Sequence[str]:
        """Lines on what was left out, and on images and classes that nothing can be learned of."""
        notes = list(self.coco.notes)
        if not self.training:
            return notes
        learned = ~self.coco.crowd
        before = np.concatenate([[0], np.cumsum(learned)])
        empty = int((np.diff(before[self.coco.starts]) == 0).sum())
        if empty:
            has, are = ("has", "is") if empty == 1 else ("have", "are")
            notes.append(f"{empty} of {len(self)} images {has} no object to learn and {are} learned as background")
        seen = np.bincount(self.label_of[self.coco.labels[learned]], minlength=len(self.classes))
        without = [self.classes[label] for label in np.flatnonzero(seen == 0)]
        if without:
            names = ", ".join([shown(name) for name in without[:3]] + ["…"] * (len(without) > 3))
            notes.append(f"{len(without)} of {len(self.classes)} classes without objects: {names}")
        return notes

    @property
    def groups(self) -> list[int]:
        """The group of each image by its shape: 0 where it is higher than wide, else 1."""
        return (self.coco.sizes[:, 1] >= self.coco.sizes[:, 0]).astype(int).tolist()

    @property
    def category_ids(self) -> list[int]:
        """The id that each class has in `ground_truth` and in results: the file's where it has these classes."""
        if self.classes == self.coco.classes:
            return self.coco.category_ids
        return list(range(1, len(self.classes) + 1))

    def __len__(self) -> int:
        return len(self.coco.names)

    def name(self, index: int) -> str:
        """The name of a row's file."""
        return str(self.folder / self.coco.names[index])

    def fingerprint(self) -> str:
        """What tells the split from others."""
        coco = self.coco
        return fingerprint(coco.names, [coco.starts, coco.boxes, self.label_of[coco.labels], coco.crowd])

    def __getitem__(self, key: int | tuple[int, int]) -> DetectionRow:
        index, sample_seed = key if isinstance(key, tuple) else (key, seed_of(self.seed, 0, key))
        if index == PADDING:
            return self.blank(-1, PADDING)
        if not 0 <= index < len(self):
            raise IndexError(index)
        for step in range(SUBSTITUTES if self.training else 1):
            chosen = (index + step) % len(self)
            try:
                picture, target = self.picture(chosen), self.target(chosen)
            except (UsageError, OSError):
                continue
            with seeded(sample_seed):
                image, target = self.changed(picture, target)
            return DetectionRow(image, target, 1.0, index if step else -1, index)
        return self.blank(index, index)

    def blank(self, failed: int, index: int) -> DetectionRow:
        """A row without an image, of weight 0."""
        target = {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "area": torch.zeros(0),
            "iscrowd": torch.zeros(0, dtype=torch.int64),
            "image_id": torch.tensor(-1),
        }
        if self.training and self.coco.segmentations is not None:
            target["masks"] = torch.zeros(0, BLANK, BLANK, dtype=torch.uint8)
        return DetectionRow(torch.zeros(self.in_chans, BLANK, BLANK), target, 0.0, failed, index)

    def changed(self, picture: Image.Image, target: Target) -> tuple[torch.Tensor, Target]:
        """An image and its target as a model gets them."""
        image = as_image(picture if self.in_chans == 3 else picture.convert("L"))
        if self.transform is None:
            return to_float(image), target
        size = (picture.height, picture.width)
        target["boxes"] = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        if "masks" in target:
            target["masks"] = tv_tensors.Mask(target["masks"])
        return self.transform(image, target)

    def picture(self, index: int) -> Image.Image:
        """A row's picture, in the size that its annotations speak of: as stored, or turned as its EXIF says.

        Raises:
            UsageError, OSError: the file is unreadable, or has another size.
        """
        height, width = self.coco.sizes[index].tolist()
        picture = self.read(self.name(index), size=(width, height))
        if picture.size != (width, height):
            raise UsageError(
                f"image {self.name(index)} is {picture.width}×{picture.height}, but the annotations say"
                f" {width}×{height}; give the image they were made for"
            )
        return picture

    def target(self, index: int, *, masks: bool | None = None) -> Target:
        """A row's target, as its annotations say.

        Args:
            index: of the image.
            masks: whether it has masks; None: in training, where the head needs them.

        Raises:
            UsageError: masks of more than 2 GiB.
        """
        coco = self.coco
        rows = coco.objects(index)
        if self.training:
            rows = rows[~coco.crowd[rows]]
        corners = coco.boxes[rows]
        corners = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)  # (n, 4)
        target = {
            "boxes": torch.tensor(corners, dtype=torch.float32),
            "labels": torch.tensor(self.label_of[coco.labels[rows]] + 1),
            "area": torch.tensor(coco.areas[rows], dtype=torch.float32),
            "iscrowd": torch.tensor(coco.crowd[rows], dtype=torch.int64),
            "image_id": torch.tensor(int(coco.image_ids[index])),
        }
        if self.training if masks is None else masks:
            target |= self.masks(index, rows)
        return target

    def masks(self, index: int, rows: np.ndarray) -> Target:
        """The masks of some of an image's objects; nothing where the head needs none."""
        if self.coco.segmentations is None:
            return {}
        height, width = self.coco.sizes[index].tolist()
        size = len(rows) * height * width
        if size > MOST_MASKS:
            raise UsageError(
                f"image {self.name(index)}: {len(rows)} masks of {width}×{height} pixels take {size / 2**30:.1f} GiB,"
                f" at most {MOST_MASKS / 2**30:.0f} are taken; make it smaller"
            )
        masks = np.zeros((len(rows), height, width), dtype=np.uint8)
        for place, row in enumerate(self.coco.outlines[rows].tolist()):
            masks[place] = self.coco.segmentations.mask(row, height, width)
        return {"masks": torch.from_numpy(masks)}

    def why(self, index: int) -> str:
        """Why a row cannot be read; "" where it can."""
        try:
            self.picture(index)
            self.target(index)
        except (UsageError, OSError) as error:
            return str(error)
        return ""

    def ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """What an evaluator compares with, in COCO's format: what could be read of the file, boxes as annotated.

        Returns:
            `images` in the order of the rows; `categories`, of which class k has the k-th smallest id; `annotations`,
            with `segmentation` where the head has masks.
        """
        coco = self.coco
        ids = self.category_ids
        annotations = []
        for index, (height, width) in enumerate(coco.sizes.tolist()):
            if height * width > MOST_PIXELS:
                # no image has that many
                continue
            for row in coco.objects(index).tolist():
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": int(coco.image_ids[index]),
                    "category_id": ids[self.label_of[coco.labels[row]]],
                    "bbox": coco.boxes[row].tolist(),
                    "area": float(coco.areas[row]),
                    "iscrowd": int(coco.crowd[row]),
                }
                if coco.segmentations is not None:
                    annotation["segmentation"] = coco.segmentations.written(int(coco.outlines[row]), height, width)
                annotations.append(annotation)
        images = [
            {"id": identity, "file_name": name, "height": height, "width": width}
            for identity, name, (height, width) in zip(
                coco.image_ids.tolist(), coco.names, coco.sizes.tolist(), strict=True
            )
        ]
        categories = [{"id": identity, "name": name} for identity, name in zip(ids, self.classes, strict=True)]
        return {"images": images, "categories": categories, "annotations": annotations}
