"""Static quantisation of an exported classifier to 8 bits, with the nodes that lose most left in float by measurement.

Weights and activations become int8; see `acmix.export.qdq`. Ranges of activations are the least and largest values over
images of the training split. Which nodes stay in float is decided on other images of it, and the result is measured on
the validation split, so that nothing is chosen by what it is measured with.

B batch, K classes.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from acmix.config import Config
from acmix.data import Trained
from acmix.data.batch import collate
from acmix.data.dataset import open_dataset
from acmix.errors import UsageError
from acmix.export.compare import Difference
from acmix.export.qdq import BATCH, groups_of, write_quantised
from acmix.export.write import set_texts
from acmix.extras import install
from acmix.tools.description import Description
from acmix.tools.evaluate import Evaluated, check_local, evaluate_checkpoint
from acmix.tools.exports import Session
from acmix.tools.load import Info

# most memory for images at a time; of large ones fewer are taken
MOST_BYTES = 2**32
CALIBRATION, CHOOSING, TOLERANCE = 128, 512, 0.5


@dataclass(frozen=True)
class Drop:
    """What becomes of the accuracy where one group of nodes alone is quantised.

    Args:
        group: its name.
        nodes: how many.
        top1: in percent, on the images that groups are chosen by.
        drop: from the float network, in points.
        changed: percent of these images that get another class than from the float network.
        left_in_float: whether the group was.
    """

    group: str
    nodes: int
    top1: float
    drop: float
    changed: float
    left_in_float: bool = False


@dataclass(frozen=True)
class Quantised:
    """What came of it.

    Args:
        calibration, choosing: how many images ranges were taken from, and groups were chosen by.
        before, after: top-1 of the float network and of the result on the images that groups are chosen by; None where
            nothing was chosen.
        drops: of each group that the network has; empty where all was quantised.
        in_float: the groups left in float.
    """

    calibration: int
    choosing: int
    before: float | None = None
    after: float | None = None
    drops: list[Drop] = field(default_factory=list)
    in_float: tuple[str, ...] = ()


@dataclass(frozen=True)
class Int8:
    """What 8 bits cost.

    Args:
        quantised: what was chosen, and by what.
        before, after: of the float file and of the one with 8 bits, measured on the validation split.
        float_mib: size of the float file.
        differences: of the file with 8 bits from the model, in a process without acmix, on the batches that the float
            file was tried on.
    """

    quantised: Quantised
    before: Evaluated
    after: Evaluated
    float_mib: float
    differences: list[Difference] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, float]:
        """What the file with 8 bits reaches on the validation split, in percent."""
        return {name: value for name, value in self.after.result.metrics.items() if value is not None}

    @property
    def lost(self) -> float:
        """Points of top-1 that 8 bits cost there."""
        return float(self.before.result.metrics["top1"] or 0) - float(self.after.result.metrics["top1"] or 0)


def check_source(source: object, info: Info, data: str) -> None:
    """Refuses a model that 8 bits are not for, and data without images, before anything is written."""
    if info.config is None:
        raise UsageError(f"{source} does not say how its images are evaluated; int8 needs the checkpoint of a run")
    if info.task != "classify":
        raise UsageError(f"{source} is for {info.task}; int8 is for classifiers, leave it out")
    check_local(info.config, str(source), "leave --int8 out")
    for split in ("train", "val"):
        images_of(info.config, Trained(info.classes, info.are_named, str(source)), data, 1, split)


def to_int8(
    file: Path, info: Info, described: Description, mode: str, data: str, folder: Path, tell: Callable[[str], object]
) -> Int8:
    """Replaces a float ONNX file by one that computes with 8 bits, and measures both.

    Args:
        file: is read and written.
        info: of the model.
        described: what the new file says of itself.
        mode: "all" or "auto".
        data: folder of the images.
        folder: for files on the way.
        tell: called with a line for each step.
    """
    assert info.config is not None
    before, after = folder / "float.onnx", folder / "int8.onnx"
    shutil.copyfile(file, before)
    trained = Trained(info.classes, info.are_named, info.model)
    quantised = quantise(before, after, info.config, trained, data, mode=mode, tell=tell)
    set_texts(after, described.texts())
    tell("measuring both on the validation split")
    float_found, found = (evaluate_checkpoint(each, data, device="cpu") for each in (before, after))
    made = Int8(quantised, float_found, found, before.stat().st_size / 2**20)
    set_texts(after, described.model_copy(update={"metrics": made.metrics}).texts())
    if made.lost > TOLERANCE:
        tell(f"8 bits cost {made.lost:.2f} points of top-1 on the validation split, more than {TOLERANCE}")
    shutil.copyfile(after, file)
    return made


def quantise(
    source: Path,
    destination: Path,
    config: Config,
    trained: Trained,
    data: str,
    *,
    mode: str = "auto",
    calibration: int = CALIBRATION,
    choosing: int = CHOOSING,
    tolerance: float = TOLERANCE,
    tell: Callable[[str], object] = lambda line: None,
) -> Quantised:
    """Quantises a float ONNX file.

    Args:
        source: an ONNX file that `acmix.export` wrote, in float32.
        destination: the file to write.
        config: of the run.
        trained: the classes that the model knows.
        data: folder of the images.
        mode: "all" quantises every group, "auto" leaves in float what loses too much.
        calibration: images for ranges.
        choosing: images for the choice.
        tolerance: points of top-1 that may be lost on these.
        tell: called with a line for each step.

    Raises:
        UsageError: onnxruntime or onnx is missing, or there are no such images.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError(f"int8 needs onnx and onnxruntime; run {install('export')}") from None
    wanted = calibration + (choosing if mode == "auto" else 0)
    images, targets = images_of(config, trained, data, wanted)
    if len(images) < min(wanted, 2):
        raise UsageError(f"{data} has {len(images)} training images; quantisation needs 2 at least")
    used = min(calibration, max(1, len(images) // 2) if mode == "auto" else len(images))
    groups = groups_of(onnx.load(source))
    if not groups:
        raise UsageError(f"{source} has no node that 8 bits are for; export it again")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "ranges"

        def written(names: Sequence[str], into: Path) -> Path:
            nodes = [node for name in names for node in groups[name]]
            write_quantised(source, into, nodes, images[:used], cache)
            return into

        if mode == "all":
            tell(f"ranges of {used} images; {sum(map(len, groups.values()))} nodes to int8")
            written([*groups], destination)
            return Quantised(used, 0)
        tried, labels = images[used:], targets[used:]
        float_classes = classes(source, tried)
        before = percent(float_classes == labels)
        tell(f"ranges of {used} images, groups chosen by {len(tried)} others: float {before:.2f} %")
        drops: list[Drop] = []
        started = time.monotonic()
        for name, nodes in groups.items():
            found = classes(written([name], Path(folder) / "one.onnx"), tried)
            top1 = percent(found == labels)
            drops.append(Drop(name, len(nodes), top1, before - top1, percent(found != float_classes)))
            left = (time.monotonic() - started) * (len(groups) / len(drops) - 1)
            tell(f"  {name} alone in int8: {top1:.2f} %, {before - top1:+.2f} points lost; {left:.0f} s left")
        in_float: list[str] = []
        by_loss = sorted(drops, key=lambda each: (each.drop, each.changed), reverse=True)
        while True:
            file = written([name for name in groups if name not in in_float], destination)
            after = percent(classes(file, tried) == labels)
            tell(f"  {', '.join(in_float) or 'nothing'} in float: {after:.2f} %, {before - after:+.2f} points lost")
            if before - after <= tolerance or len(in_float) == len(groups) - 1:
                break
            in_float.append(by_loss[len(in_float)].group)
        if before - after > tolerance:
            tell(f"  one group is left in int8, and still {before - after:.2f} points are lost, more than {tolerance}")
    told = [replace(each, left_in_float=each.group in in_float) for each in drops]
    return Quantised(used, len(tried), before, after, told, tuple(in_float))


def images_of(
    config: Config, trained: Trained, data: str, count: int, split: str = "train"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of a split as evaluation prepares them, drawn by a fixed seed, and their labels.

    Args:
        config: of the run.
        trained: the classes that the model knows.
        data: folder of the images.
        count: how many, where there are as many, and where they take no more than `MOST_BYTES`.
        split: "train" or "val".

    Raises:
        UsageError: there are no such images.
    """
    settings = config.data.model_copy(update={"dir": data})
    dataset = open_dataset(settings, None, split, in_chans=config.model.in_chans, trained=trained)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:count].tolist()
    images, targets, filled = torch.zeros(0), torch.zeros(0), 0
    for start in range(0, len(order), BATCH):
        batch = collate([dataset[place] for place in order[start : start + BATCH]]).to("cpu")
        if not start:
            one = batch.images[0]
            most = min(len(order), max(2, MOST_BYTES // (one.numel() * one.element_size())))
            images, targets = one.new_empty(most, *one.shape), batch.targets.new_empty(most)
        seen = (batch.weights > 0).nonzero()[: len(images) - filled, 0]
        images[filled : filled + len(seen)] = batch.images[seen]
        targets[filled : filled + len(seen)] = batch.targets[seen]
        filled += len(seen)
        if filled == len(images):
            break
    return images[:filled], targets[:filled]


def classes(file: Path, images: torch.Tensor) -> torch.Tensor:
    """The class that an ONNX file gives each image: (images,)."""
    session = Session(file)
    return torch.cat([session(part).argmax(1) for part in images.split(BATCH)])


def percent(hits: torch.Tensor) -> float:
    """The share that is true."""
    return 100 * float(hits.float().mean())
