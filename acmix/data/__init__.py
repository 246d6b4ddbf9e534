"""Bytes to batches; knows no model."""

from acmix.data.batch import Batch, UnreadableFiles
from acmix.data.classes import Trained
from acmix.data.dataset import ImageDataset, open_dataset
from acmix.data.image import evaluation_transform, read_image
from acmix.data.loader import TrainLoader, ValLoader, train_loader, val_loader
from acmix.data.stream import StreamDataset

__all__ = [
    "Batch",
    "ImageDataset",
    "StreamDataset",
    "TrainLoader",
    "Trained",
    "UnreadableFiles",
    "ValLoader",
    "evaluation_transform",
    "open_dataset",
    "read_image",
    "train_loader",
    "val_loader",
]
