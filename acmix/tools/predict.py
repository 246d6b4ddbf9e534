"""Names what images show.

B batch, K classes.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from acmix.data.pictures import NotThere, Transform, each_picture
from acmix.data.worker import cores
from acmix.errors import UsageError
from acmix.tools.load import Info, info_of, load, preparation_of

BATCH_SIZE = 32
# more threads than this wait for each other
MOST_WORKERS = 4


@dataclass(frozen=True)
class Prediction:
    """One image's best classes.

    Args:
        image: the file; "image 3" for the fourth picture, where it was given in memory.
        classes: (name, probability), the likeliest first; empty where the file could not be read.
        error: why it could not, in one line, or None.
    """

    image: str
    classes: list[tuple[str, float]]
    error: str | None = None


@dataclass(frozen=True)
class Classifier:
    """A model that is ready to predict.

    Args:
        model: images (B, in_chans, h, w) -> logits (B, K).
        transform: prepares a picture for it.
        classes: its K names; empty: their numbers.
    """

    model: nn.Module
    transform: Transform
    classes: list[str]


def predict(
    model: nn.Module | tuple[nn.Module, Info] | str | os.PathLike[str],
    images: Any,
    top: int = 5,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    device: str | torch.device = "auto",
) -> list[Prediction]:
    """Classifies images, as `acmix predict` does; an unreadable image gets an error, and the others are classified.

    Args:
        model: a model of `acmix.load`, or a copy or folded form of it; anything that `acmix.load` takes; or a model
            with timm's `pretrained_cfg`, whose classes are numbered. A model runs where it lies and in its own number
            format, and is left in the mode it was in.
        images: one image or an iterable of them: a file, a folder with all below it, or a pattern such as
            "photos/**/*.jpg"; bytes; a PIL image; a uint8 array (H, W, 3), or (C, H, W) of torch; a float tensor
            (in_chans, h, w) that `info.transform` or another has prepared already.
        top: how many classes to give for each, at most as many as there are.
        batch_size: images a forward pass.
        workers: threads that read and prepare images; None: the cores at hand, at most 4. 0: none beside this one.
        device: where to load a model that is given by its path or name.

    Returns:
        A prediction for each image, in order.

    Raises:
        UsageError: the model cannot be used, `top` or `batch_size` is less than 1, or an image is of no such kind.
    """
    return list(stream(model, images, top, batch_size=batch_size, workers=workers, device=device))


def stream(
    model: Any,
    images: Any,
    top: int = 5,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    device: str | torch.device = "auto",
) -> Iterator[Prediction]:
    """`predict`, one prediction after the other: it holds two batches of images, however many there are."""
    if top < 1:
        raise UsageError(f"--top {top}: expected at least 1")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: expected at least 1")
    if workers is not None and workers < 0:
        raise UsageError(f"--workers {workers}: expected at least 0")
    return predictions(usable(model, device), images, top, batch_size, workers)


def usable(model: Any, device: str | torch.device = "auto") -> Classifier:
    """What is needed to predict with a model, or with what `acmix.load` takes."""
    if isinstance(model, Classifier):
        return model
    if isinstance(model, (str, os.PathLike)):
        model, _ = load(model, device=device)
    if isinstance(model, tuple) and len(model) == 2:
        # what `acmix.load` gives
        model = model[0]
    if not isinstance(model, nn.Module):
        raise UsageError(f"predict got a {type(model).__name__}; expected a model of acmix.load, or a path or name")
    info = info_of(model)
    if info is not None:
        return Classifier(model, info.transform, info.classes)
    if getattr(model, "pretrained_cfg", None):
        return Classifier(model, preparation_of(model)["transform"], [])
    return Classifier(model, Transform(0, None), [])


def predictions(
    classifier: Classifier, images: Any, top: int, batch_size: int, workers: int | None
) -> Iterator[Prediction]:
    """Batch after batch: while the model computes one, threads read the next."""
    workers = min(MOST_WORKERS, cores()) if workers is None else workers
    named = ((name_of(picture, number), picture) for number, picture in enumerate(each_picture(images)))

    def prepared(entry: tuple[str, Any]) -> tuple[str, Tensor | str]:
        name, picture = entry
        return name, tensor_of(picture, classifier.transform)

    with ThreadPoolExecutor(max(1, workers)) as pool, as_for_inference(classifier.model):
        read: Callable[..., Iterable[Any]] = pool.map if workers else map
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = list(read(prepared, itertools.islice(named, batch_size)))
        while batch:
            # no filter of warnings is left changed while the caller has its turn
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                coming = read(prepared, list(itertools.islice(named, batch_size)))
                found = classified(classifier, batch, top)
                batch = list(coming)
            yield from found


def name_of(picture: Any, number: int) -> str:
    """A picture's file, or its number."""
    if isinstance(picture, str):
        return picture
    # of what is no picture, of an open file, of a PIL image
    file = getattr(picture, "name", None) or getattr(picture, "filename", None)
    return file if isinstance(file, str) else f"image {number}"


def tensor_of(picture: Any, transform: Transform) -> Tensor | str:
    """A picture as the model reads it, (in_chans, h, w), or why there is none."""
    if isinstance(picture, NotThere):
        return picture.why
    if isinstance(picture, Tensor) and picture.is_floating_point():
        if picture.dim() != 3:
            raise UsageError(f"a prepared image is a tensor {list(picture.shape)}; expected (in_chans, h, w)")
        return picture
    try:
        return transform.prepared(picture)
    except UsageError as error:
        if isinstance(picture, (str, os.PathLike, bytes, bytearray, memoryview)) and transform.steps is not None:
            return str(error)
        raise


def classified(classifier: Classifier, batch: Sequence[tuple[str, Tensor | str]], top: int) -> list[Prediction]:
    """The predictions of a batch; images of one size go through the model together."""
    found: dict[int, Prediction] = {}
    groups: dict[Any, list[int]] = {}
    for place, (name, image) in enumerate(batch):
        if isinstance(image, str):
            found[place] = Prediction(name, [], image)
        else:
            groups.setdefault(image.shape, []).append(place)
    for places in groups.values():
        images = torch.stack([batch[place][1].detach().cpu() for place in places])  # type: ignore[union-attr]
        for place, row in zip(places, probabilities(classifier, images), strict=True):
            found[place] = best_of(batch[place][0], row, classifier.classes, top)
    return [found[place] for place in range(len(batch))]


def probabilities(classifier: Classifier, images: Tensor) -> Tensor:
    """(B, in_chans, h, w) -> (B, K), in float32 on the CPU."""
    like = next((each for each in classifier.model.parameters() if each.is_floating_point()), None)
    if like is None:
        like = next((each for each in classifier.model.buffers() if each.is_floating_point()), torch.empty(0))
    with torch.inference_mode():
        logits = classifier.model(images.to(like.device, like.dtype))
    count = len(classifier.classes)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or (count and logits.shape[1] != count):
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"the model gives {given} for {len(images)} images; expected logits (B, {count or 'classes'})")
    return logits.float().softmax(1).cpu()


def best_of(name: str, row: Tensor, classes: Sequence[str], top: int) -> Prediction:
    """The likeliest classes of one image, from the probabilities (K,) of all."""
    if not torch.isfinite(row).all():
        return Prediction(name, [], f"the model gives no finite numbers for {name}; its weights may be damaged")
    best = row.topk(min(top, len(row)))
    names = [str(classes[place] if classes else place) for place in best.indices.tolist()]
    return Prediction(name, list(zip(names, best.values.tolist(), strict=True)))


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
