"""Bytes to batches; knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acmix.lazy import on_first_use

if TYPE_CHECKING:
    from acmix.data.batch import Batch, UnreadableFiles
    from acmix.data.classes import Trained
    from acmix.data.dataset import ImageDataset, open_dataset
    from acmix.data.detection import detection_train_loader, detection_val_loader
    from acmix.data.detection_dataset import DetectionBatch, DetectionDataset
    from acmix.data.image import evaluation_transform, read_image
    from acmix.data.loader import TrainLoader, ValLoader, train_loader, val_loader
    from acmix.data.segmentation import (
        SegmentationBatch,
        SegmentationDataset,
        segmentation_train_loader,
        segmentation_val_loader,
    )
    from acmix.data.stream import StreamDataset

__all__ = [
    "Batch",
    "DetectionBatch",
    "DetectionDataset",
    "ImageDataset",
    "SegmentationBatch",
    "SegmentationDataset",
    "StreamDataset",
    "TrainLoader",
    "Trained",
    "UnreadableFiles",
    "ValLoader",
    "detection_train_loader",
    "detection_val_loader",
    "evaluation_transform",
    "open_dataset",
    "read_image",
    "segmentation_train_loader",
    "segmentation_val_loader",
    "train_loader",
    "val_loader",
]

# a launcher counts cores without torch
__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "Batch": "acmix.data.batch",
        "DetectionBatch": "acmix.data.detection_dataset",
        "DetectionDataset": "acmix.data.detection_dataset",
        "ImageDataset": "acmix.data.dataset",
        "SegmentationBatch": "acmix.data.segmentation",
        "SegmentationDataset": "acmix.data.segmentation",
        "StreamDataset": "acmix.data.stream",
        "TrainLoader": "acmix.data.loader",
        "Trained": "acmix.data.classes",
        "UnreadableFiles": "acmix.data.batch",
        "ValLoader": "acmix.data.loader",
        "detection_train_loader": "acmix.data.detection",
        "detection_val_loader": "acmix.data.detection",
        "evaluation_transform": "acmix.data.image",
        "open_dataset": "acmix.data.dataset",
        "read_image": "acmix.data.image",
        "segmentation_train_loader": "acmix.data.segmentation",
        "segmentation_val_loader": "acmix.data.segmentation",
        "train_loader": "acmix.data.loader",
        "val_loader": "acmix.data.loader",
    },
)
