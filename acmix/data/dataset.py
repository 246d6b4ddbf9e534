"""Rows of a split that can be read in any order: a picture, its label, and what went wrong on the way.

What happens to a row depends on (seed, epoch, index) and on nothing else: not on the number of processes or of reading
workers, nor on where a run was resumed. The sampler hands over a key (index, sample_seed); `sample_seed` is a hash of
the three, and Python's, NumPy's and torch's generators are set from it before the transform and put back after it.
"""

# H, W are both data.img_size

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import mtrand
from PIL import Image
from torch.utils.data import Dataset

from acmix.config import Augment, Config, Data
from acmix.data.classes import Trained, open_trained
from acmix.data.fingerprint import fingerprint
from acmix.data.image import evaluation_transform, jpeg_pixels, read_image, reader
from acmix.data.shards.address import CannotFetch
from acmix.data.sources import Source, open_source
from acmix.data.training import DrawnBox, Erased, Prepared, TrainingTransform, training_transform
from acmix.errors import UsageError
from acmix.names import shown

# the index that asks for a row without an image, which fills a process's share of an evaluation
PADDING = -1
# unreadable neighbours that training skips over before it gives up on a row
SUBSTITUTES = 16
# generators that NumPy may draw from while an image is changed
SPARE: list[np.random.MT19937] = []
# NumPy's own meanwhile, as often as `seeded` is entered: contexts of several threads need not end in their order
OWN: list[Any] = []


class Row(NamedTuple):
    """One row of a batch; see `Batch` for the meaning of the fields."""

    image: torch.Tensor  # (in_chans, H, W); bytes in training
    target: int
    weight: float
    failed: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    erased: tuple[Erased, ...] = ()


def seed_of(*parts: int) -> int:
    """A number below 2**63 that any change of any part changes: the same on every machine."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Sets the generators that transforms draw from, and restores them at the end.

    But for a normal number that NumPy may have in store: it draws two at a time.
    """
    before, own = random.getstate(), mtrand.get_bit_generator()
    torch_before = torch.get_rng_state()
    # another generator in the place of NumPy's, whose state takes long to copy
    spare = SPARE.pop() if SPARE else np.random.MT19937()
    OWN.append(OWN[0] if OWN else own)
    try:
        mtrand.set_bit_generator(spare)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # not torch.manual_seed: that would reset the GPU's generators too
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(before)
        outermost = OWN.pop()
        mtrand.set_bit_generator(own if OWN else outermost)
        SPARE.append(spare)
        torch.set_rng_state(torch_before)


class OtherClasses(UsageError):
    """The data has another number of classes than the model: `found` of them."""

    def __init__(self, message: str, found: int) -> None:
        super().__init__(message)
        self.found = found


def check_classes(
    config: Config, classes: list[str], targets: np.ndarray | None = None, notes: Sequence[str] = ()
) -> None:
    """Refuses data with another number of classes than the model has; `targets` are the labels, where known.

    `notes` are the data's own, on what was left out.
    """
    if len(classes) != config.model.num_classes:
        if targets is not None and classes == [str(label) for label in range(len(classes))] and targets.min() > 0:
            first, last = targets.min(), targets.max()
            raise UsageError(
                f"the labels run from {first} to {last}, but the first class is 0; subtract {first} from each label and"
                f" set model.num_classes={last - first + 1}"
                f" (if there are classes without images below {first}: model.num_classes={len(classes)})"
            )
        raise OtherClasses(
            f"the data has {len(classes)} classes, but model.num_classes is {config.model.num_classes};"
            f" add model.num_classes={len(classes)}{''.join(f' ({note})' for note in notes)}",
            len(classes),
        )


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


@dataclass(kw_only=True, eq=False)
class ImageDataset(Dataset[Row]):
    """A split, readable in any order; `dataset[index]` or, as the sampler does it, `dataset[index, sample_seed]`."""

    source: Source
    split: str
    transform: Callable[..., Any]
    training: bool
    blank_shape: tuple[int, int, int]
    seed: int
    read: Callable[..., Image.Image] = read_image

    @property
    def classes(self) -> list[str]:
        """The names of the classes; a label is a position in it."""
        return self.source.classes

    @property
    def notes(self) -> Sequence[str]:
        """Lines on what was left out of the split, and on classes that nothing can be learned of, if any."""
        notes, targets = list(self.source.notes), self.source.targets
        if self.training and targets is not None:
            counts = np.bincount(targets, minlength=len(self.classes))
            without = [self.classes[label] for label in np.flatnonzero(counts == 0)]
            if without:
                names = ", ".join([shown(name) for name in without[:3]] + ["…"] * (len(without) > 3))
                notes.append(f"{len(without)} of {len(self.classes)} classes without images: {names}")
        return notes

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """The name of a row's file."""
        return self.source.name(index)

    def fingerprint(self) -> str:
        """What tells the split from others; "" for a source that does not list its images."""
        keys = getattr(self.source, "keys", None)
        return "" if keys is None else fingerprint(keys(), [self.source.targets])

    def __getitem__(self, key: int | tuple[int, int]) -> Row:
        index, sample_seed = key if isinstance(key, tuple) else (key, seed_of(self.seed, 0, key))
        if index == PADDING:
            return Row(torch.zeros(self.blank_shape), 0, 0.0, -1, PADDING)
        if not 0 <= index < len(self):
            raise IndexError(index)
        tries = SUBSTITUTES if self.training else 1
        for step in range(tries):
            chosen = (index + step) % len(self)
            found = self.image(chosen, sample_seed)
            if found is not None:
                failed = index if step else -1
                return Row(found.image, self.source.target(chosen), 1.0, failed, index, found.erased)
        blank = self.blank()
        return Row(blank.image, self.source.target(index), 0.0, index, index, blank.erased)

    def blank(self) -> Prepared:
        """An image of zeros once it is finished."""
        if not self.training:
            return Prepared(torch.zeros(self.blank_shape))
        channels, height, width = self.blank_shape
        zeros = Erased(0, 0, height, width, torch.zeros(channels, 1, 1))
        return Prepared(torch.zeros(self.blank_shape, dtype=torch.uint8), (zeros,))

    def image(self, index: int, sample_seed: int) -> Prepared | None:
        """A row's picture as (in_chans, H, W), or None where the file is unreadable."""
        with seeded(sample_seed):
            transform = self.transform
            box = transform.new_box() if isinstance(transform, TrainingTransform) else None
            try:
                picture = self.picture(index) if box is None else self.pixels(index, box)
            except CannotFetch:
                # the image is not to blame
                raise
            except (UsageError, OSError):
                return None
            done = transform(picture) if box is None else transform(picture, box)
        return done if isinstance(done, Prepared) else Prepared(done)

    def pixels(self, index: int, box: DrawnBox) -> Image.Image | torch.Tensor:
        """What training crops: as `picture`, or of an ordinary JPEG file its pixels, uint8 (3, h, w).

        Args:
            index: a row.
            box: of the transform; drawn before the file is decoded where it may be decoded at a part of its size.
        """
        opened = self.source.open(index)
        with nullcontext(opened) if isinstance(opened, str) else opened as file:
            found = jpeg_pixels(file, box.reduced) if box.takes_pixels else None
            return self.read(file, reduced=box.reduced) if found is None else found

    def picture(self, index: int) -> Image.Image:
        """A row's picture as it lies in its file; UsageError or OSError where that is unreadable."""
        opened = self.source.open(index)
        with nullcontext(opened) if isinstance(opened, str) else opened as file:
            return self.read(file)

    def why(self, index: int) -> str:
        """Why a row cannot be read; "" where it can."""
        try:
            self.picture(index)
        except (UsageError, OSError) as error:
            return str(error)
        return ""


def open_dataset(
    data: Data,
    augment: Augment | None,
    split: str,
    *,
    in_chans: int = 3,
    seed: int = 0,
    trained: Trained | None = None,
) -> ImageDataset:
    """Opens a split of a data set.

    Args:
        data: where the images lie and how they are prepared.
        augment: gives the training transform, and an unreadable image gives way to the next one; None gives the
            evaluation transform, and an unreadable image has weight 0.
        split: "train" or "val"; rows of training hold bytes, see `acmix.data.batch`.
        in_chans: channels of the pictures, 3 or 1 (grey).
        seed: of the augmentation where rows are asked for by a bare index.
        trained: the classes of a model, whose labels the rows then have; None: those of the training split.

    Returns:
        The split, with `classes`, `len()` and `name(index)`.

    Raises:
        UsageError: nothing to read, or something unfit; a stream (wds/, hfids/), which has no order to index.
    """
    transform = evaluation_transform(data, in_chans) if augment is None else training_transform(data, augment, in_chans)
    return ImageDataset(
        source=open_source(data, split) if trained is None else open_trained(data, split, trained),
        split=split,
        transform=transform,
        training=augment is not None,
        blank_shape=(in_chans, data.img_size, data.img_size),
        seed=seed,
        read=reader(data),
    )
