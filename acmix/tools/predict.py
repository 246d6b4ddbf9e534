"""Predicts with any model: what images show, which objects are in them, or what each of their pixels belongs to."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from acmix.config.task import HEADS
from acmix.data.pictures import Transform, each_picture
from acmix.data.worker import cores
from acmix.errors import UsageError
from acmix.tools.found import Detected, Segmented
from acmix.tools.load import Info, info_of, load, preparation_of
from acmix.tools.predict_classes import Classifier, Prediction
from acmix.tools.predict_input import name_of
from acmix.tools.predict_objects import Detector
from acmix.tools.predict_pixels import Segmenter
from acmix.tools.preparation import from_zero_to_one

Found = Prediction | Detected | Segmented
# classes of an image that are told; how sure a detector has to be of an object
TOP, SCORE = 5, 0.5
# of classification; images of other tasks go through their model one at a time
BATCH_SIZE = 32
# more threads than this wait for each other
MOST_WORKERS = 4


class Predictor(Protocol):
    """A model that is ready to predict."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def transform(self) -> Transform: ...

    def prepared(self, picture: Any) -> Any:
        """A picture as the model reads it; text that says why it cannot be read."""
        ...

    def found(self, batch: Sequence[tuple[str, Any]]) -> Sequence[Found]:
        """A prediction for each name and prepared picture."""
        ...


def predict(
    model: nn.Module | tuple[nn.Module, Info] | str | os.PathLike[str],
    images: Any,
    top: int | None = None,
    *,
    score: float | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | torch.device = "auto",
) -> list[Any]:
    """Predicts, as `acmix predict` does; an unreadable image gets an error, and the others are predicted.

    Args:
        model: a model of `acmix.load`, or a copy or folded form of it; anything that `acmix.load` takes; a model with
            timm's `pretrained_cfg`, or one of `acmix.create_detector`, whose classes are numbered. A model runs where
            it lies and in its own number format, and is left in the mode it was in.
        images: one image or an iterable of them: a file, a folder with all below it, or a pattern such as
            "photos/**/*.jpg"; bytes; a PIL image; a uint8 array (H, W, 3), or (C, H, W) of torch; a float tensor
            (in_chans, h, w) that `info.transform` or another has prepared already.
        top: of a classifier: how many classes to give for each, at most as many as there are; 5 by default.
        score: of a detector: objects of which it is less sure are left out, from 0 to 1; 0.5 by default.
        batch_size: images that are read ahead, and that go through a classifier together: 32 by default, 1 in
            detection and segmentation.
        workers: threads that read and prepare images; None: the cores at hand, at most 4. 0: none beside this one.
        device: where to load a model that is given by its path or name.

    Returns:
        For each image, in order: a `Prediction` of a classifier, with `classes`; a `Detected` of a detector, with
        `objects`, `boxes`, `names`, `scores` and `masks`; a `Segmented` of a segmenter, with `labels` and `regions`.

    Raises:
        UsageError: the model cannot be used, an option is not for it or out of its range, or an image is of no such
            kind.
    """
    return list(stream(model, images, top, score=score, batch_size=batch_size, workers=workers, device=device))


def stream(
    model: Any,
    images: Any,
    top: int | None = None,
    *,
    score: float | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | torch.device = "auto",
) -> Iterator[Any]:
    """`predict`, one prediction after the other: it holds two batches of images, however many there are."""
    if top is not None and top < 1:
        raise UsageError(f"--top {top}: expected at least 1")
    if score is not None and not 0 <= score <= 1:
        raise UsageError(f"--score {score:g}: expected 0 to 1")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: expected at least 1")
    if workers is not None and workers < 0:
        raise UsageError(f"--workers {workers}: expected at least 0")
    predictor = usable(model, device, top=top, score=score)
    if batch_size is None:
        batch_size = BATCH_SIZE if isinstance(predictor, Classifier) else 1
    return predictions(predictor, images, batch_size, workers)


def usable(
    model: Any, device: str | torch.device = "auto", *, top: int | None = None, score: float | None = None
) -> Predictor:
    """What is needed to predict with a model, or with what `acmix.load` takes."""
    if isinstance(model, (str, os.PathLike)):
        model, _ = load(model, device=device)
    if isinstance(model, tuple) and len(model) == 2:
        # what `acmix.load` gives
        model = model[0]
    if not isinstance(model, nn.Module):
        raise UsageError(f"predict got a {type(model).__name__}; expected a model of acmix.load, or a path or name")
    info = info_of(model)
    task = task_of_model(model) if info is None else info.task
    check_options(task, top, score)
    if task == "detect":
        transform = Transform(3, from_zero_to_one) if info is None else info.transform
        return Detector(model, transform, info.classes if info else [], SCORE if score is None else score)
    if task == "segment":
        return segmenter(model, info)
    top = TOP if top is None else top
    if info is not None:
        return Classifier(model, info.transform, info.classes, top)
    if getattr(model, "pretrained_cfg", None):
        return Classifier(model, preparation_of(model)["transform"], [], top)
    return Classifier(model, Transform(0, None), [], top)


def segmenter(model: nn.Module, info: Info | None) -> Segmenter:
    """A segmenter that looks at images as its evaluation did."""
    if info is None:
        return Segmenter(model, Transform(0, None), [])
    task = info.config.task if info.config is not None else None
    windows = (task.crop_sides, task.stride) if task is not None and task.sliding else None
    return Segmenter(model, info.transform, info.classes, windows)


def task_of_model(model: nn.Module) -> str:
    """The task of a model that carries no `Info`, by its head."""
    inner = model._modules.get("module") or model._modules.get("_orig_mod") or model
    head = getattr(inner, "head_name", None)
    return next((task for task, heads in HEADS.items() if head in heads), "classify")


def check_options(task: str, top: int | None, score: float | None) -> None:
    """Refuses an option of another task.

    Raises:
        UsageError: says which task the model has.
    """
    has = {"classify": "names whole images", "detect": "detects objects", "segment": "names every pixel"}[task]
    if top is not None and task != "classify":
        hint = "; use --score" if task == "detect" else ""
        raise UsageError(f"--top {top} is for classifiers, and this model {has}: leave it out{hint}")
    if score is not None and task != "detect":
        hint = "; use --top" if task == "classify" else ""
        raise UsageError(f"--score {score:g} is for detectors, and this model {has}: leave it out{hint}")


def predictions(predictor: Predictor, images: Any, batch_size: int, workers: int | None) -> Iterator[Found]:
    """Batch after batch: while the model computes one, threads read the next."""
    workers = min(MOST_WORKERS, cores()) if workers is None else workers
    named = ((name_of(picture, number), picture) for number, picture in enumerate(each_picture(images)))

    def prepared(entry: tuple[str, Any]) -> tuple[str, Any]:
        name, picture = entry
        return name, predictor.prepared(picture)

    with ThreadPoolExecutor(max(1, workers)) as pool, as_for_inference(predictor.model):
        read: Callable[..., Iterable[Any]] = pool.map if workers else map
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = list(read(prepared, itertools.islice(named, batch_size)))
        while batch:
            # no filter of warnings is left changed while the caller has its turn
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                coming = read(prepared, list(itertools.islice(named, batch_size)))
                found = predictor.found(batch)
                batch = list(coming)
            yield from found


@contextmanager
def as_for_inference(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode for a while, and then each of its modules as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
