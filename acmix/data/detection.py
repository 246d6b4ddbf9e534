"""Opens a detection data set in COCO's format, for training and for evaluation on any number of processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from acmix.config import Augment, Config, Data, Task
from acmix.data.classes import Trained, some
from acmix.data.coco import OUTLINE, Coco, read_coco
from acmix.data.coco_folder import annotations_of, find_split
from acmix.data.dataset import OtherClasses
from acmix.data.detection_dataset import DetectionBatch, DetectionDataset, collate_detection
from acmix.data.detection_transforms import training_transform
from acmix.data.image import normalisation, reader
from acmix.data.loader import TrainLoader, ValLoader, evaluation_batches, training_batches
from acmix.data.split import held_out
from acmix.errors import UsageError
from acmix.names import places

__all__ = ["DetectionBatch", "DetectionDataset", "detection_train_loader", "detection_val_loader", "open_coco"]


def detection_train_loader(
    config: Config, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False
) -> TrainLoader:
    """Opens the training split of a detection data set for one process.

    An epoch's order is a permutation, in which the images of a step are all wide or all high, as far as they go.
    Arguments, result and errors are as for `acmix.data.train_loader`; batches are `DetectionBatch`.
    """
    dataset = open_coco(config.data, "train", config.task, augment=config.augment, **common(config))
    return training_batches(
        config,
        dataset,
        collate=collate_detection,
        groups=dataset.groups,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def detection_val_loader(
    config: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    batch_size: int | None = None,
    trained: Trained | None = None,
) -> ValLoader:
    """Opens the validation split of a detection data set for one process.

    Arguments, result and errors are as for `acmix.data.val_loader`; batches are `DetectionBatch`. Without `trained`,
    the classes are `task.classes`, else the categories of the split itself.
    """
    dataset = open_coco(config.data, "val", config.task, trained=trained, **common(config))
    return evaluation_batches(
        config,
        dataset,
        collate=collate_detection,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
        batch_size=batch_size,
    )


def common(config: Config) -> dict[str, Any]:
    """What both splits of a run have in common; channels are 1 or 3, and data.mean and data.std fit them."""
    normalisation(config.data, config.model.in_chans)
    return dict(in_chans=config.model.in_chans, seed=config.train.seed)


def open_coco(
    data: Data,
    split: str,
    task: Task,
    *,
    augment: Augment | None = None,
    in_chans: int = 3,
    seed: int = 0,
    trained: Trained | None = None,
) -> DetectionDataset:
    """Opens a split of a data set in COCO's format: `annotations/instances_<split>.json` and `<split>/`.

    Args:
        data: where it lies, the names of the splits, and the share that is held out where there is no second one.
        split: "train" or "val".
        task: gives head, num_classes, classes and the sizes of training images.
        augment: gives the training transform, and an unreadable image gives way to the next one; None: evaluation,
            where an unreadable image has weight 0.
        in_chans: channels of the images, 3 or 1 (grey).
        seed: of the augmentation where rows are asked for by a bare index.
        trained: the classes of a model, whose labels the objects then have; None: `task.classes`, or else the
            categories of the split, by id.

    Raises:
        UsageError: a missing or damaged file, other classes than configured, no object to learn or to find.
    """
    coco, folder = read_split(data, split, with_outlines=bool(task.has_masks))
    if trained is None and task.classes is not None:
        trained = Trained(list(task.classes), True, "task.classes")
    check_objects(coco, task)
    classes, table = labels_of(coco, task, trained)
    return DetectionDataset(
        coco=coco,
        folder=folder,
        classes=classes,
        label_of=table,
        split=split,
        transform=None if augment is None else training_transform(task, augment),
        in_chans=in_chans,
        seed=seed,
        read=reader(data),
    )


def read_split(data: Data, split: str, *, with_outlines: bool) -> tuple[Coco, Path]:
    """The annotations of a split and the folder of its images; `data.split` makes two splits of the training images."""
    if data.split is None:
        file, folder = find_split(data, split)
        return read_coco(file, with_outlines=with_outlines), folder
    if annotations_of(Path(data.dir).expanduser(), data.val_split) is not None:
        if split == "train":
            raise UsageError(
                f"{data.dir} has validation images ({data.val_split}), and data.split={data.split:g} would hold out"
                " others; leave data.split out, or move them away"
            )
        own, folder = read_split(data.model_copy(update={"split": None}), split, with_outlines=with_outlines)
        note = (
            f"measured on {data.val_split}, which {data.dir} has; the run held out images by data.split={data.split:g}"
        )
        return replace(own, notes=[*own.notes, note]), folder
    file, folder = find_split(data, "train")
    whole = read_coco(file, with_outlines=with_outlines)
    if len(whole.names) < 2:
        raise UsageError(
            f"data.split={data.split:g} needs two images to hold one out, and {file} lists one; add images"
        )
    names = [os.fsencode(name) for name in whole.names]
    held = held_out(names, np.zeros(len(names), dtype=np.int64), data.split, data.split_seed, where=str(file))
    if split == "train":
        return whole.part(~held, whole.notes), folder
    note = f"{held.sum()} of {len(held)} images are held out by data.split={data.split:g}"
    return whole.part(held, [f"{note}, data.split_seed={data.split_seed}"]), folder


def check_objects(coco: Coco, task: Task) -> None:
    """Refuses a split without an object to learn or to find."""
    if not coco.crowd.all():
        return
    if task.has_masks and any(OUTLINE[1] in note or OUTLINE[0] in note for note in coco.notes) and not len(coco.crowd):
        advice = f"task.head={task.head} needs outlines (segmentation); set task.head=faster_rcnn for boxes alone"
    elif len(coco.crowd):
        advice = f"all that is left is crowds ({len(coco.crowd)}, iscrowd 1); expected some objects with iscrowd 0"
    else:
        advice = "expected boxes with an area, of the categories that the file lists"
    raise UsageError(f"{coco.file} has no object to learn or to find{of_notes(coco)}; {advice}")


def of_notes(coco: Coco) -> str:
    """What was left out, for a message."""
    return f" ({', '.join(coco.notes)})" if coco.notes else ""


def labels_of(coco: Coco, task: Task, trained: Trained | None) -> tuple[list[str], np.ndarray]:
    """The classes, and the place among them of each category: -1 for one without objects that a model does not know.

    Raises:
        UsageError: another number of classes than configured, or objects of a class that the model does not know.
    """
    found = coco.classes
    if trained is None:
        if len(found) != task.num_classes:
            raise OtherClasses(
                f"the data has {len(found)} classes, but task.num_classes is {task.num_classes};"
                f" add task.num_classes={len(found)}",
                len(found),
            )
        return found, np.arange(len(found))
    if not trained.are_named and not {*found} <= {*trained.names}:
        # by number, as far as that is clear
        if len(found) == len(trained.names):
            return list(trained.names), np.arange(len(found))
        raise UsageError(
            f"{trained.where} knows its {len(trained.names)} classes by number alone, and {coco.file} has {len(found)}"
            " categories, so it is unclear which is which; name the classes in task.classes"
        )
    place = places(trained.names)
    table = np.array([-1 if (label := place(name)) is None else label for name in found])
    if unknown := [found[label] for label in np.unique(coco.labels).tolist() if table[label] < 0]:
        raise UsageError(
            f"{trained.where} has other classes than {coco.file}: not {some(unknown)}, but {some(trained.names)};"
            " give the data that fits"
        )
    return list(trained.names), table
