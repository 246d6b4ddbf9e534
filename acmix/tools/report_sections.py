"""The parts of the report page as plain values: text, numbers, charts. The template makes HTML of them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from acmix.layers import PathRates
from acmix.models.build import in_words
from acmix.tasks.evaluation import LABELS
from acmix.tools.charts import Chart, chart
from acmix.tools.rates import is_too_close, leaning, short_name
from acmix.train import plots
from acmix.train.log import why_early
from acmix.train.plots import Log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from acmix.config import Config
    from acmix.tools.predictions import Predictions, Sample

# a matrix of more classes is a wall: the pairs most often confused say more
LARGEST_MATRIX = 30
SHOWN_PAIRS = SHOWN_CLASSES = 30
# pixels a side up to which a picture is kept exactly and shown with hard edges
SMALL = 64


def title(config: Config) -> str:
    """The network's name, and that of the head on it."""
    name, head = config.model.name, config.task.head
    return f"{head} on {name}" if head else name


def network(config: Config) -> str:
    """What makes the network another one than its name says, or ""."""
    return in_words(config.model).removeprefix(config.model.name).lstrip(" ,")


def status(log: Log, summary: dict[str, Any], config: Config) -> str:
    """One sentence: how far the run came."""
    last = log.epochs[-1] if log.epochs else None
    done = round(log.progress(last)) if last else 0
    wanted, unit, length = config.train.epochs, "epoch", done
    if config.train.steps is not None:
        wanted, unit, length = config.train.steps, "step", int(last["step"]) if last else 0
    # a finished run may have been resumed for more epochs
    if summary and length >= wanted:
        sentence = f"Finished after {length:,} {unit}s"
    elif summary.get("ended") not in (None, "epochs", "steps") and done == summary.get("epochs"):
        sentence = f"Stopped early at {unit} {length:,} of {wanted:,}: {why_early(summary)}"
    else:
        sentence = f"Not finished: {length:,} of {wanted:,} {unit}s so far"
    again = f", resumed {'once' if log.resumed == 1 else f'{log.resumed} times'}" if log.resumed else ""
    paths = "attention and convolution paths" if log.rates() else "the baseline, without convolution paths"
    return f"{sentence}{again}; {paths}."


def figures(log: Log, summary: dict[str, Any], config: Config) -> list[tuple[str, str, str]]:
    """The headline figures: name, value, unit."""
    metric = log.metric
    evaluated = [record for record in log.epochs if record.get(metric) is not None]
    best = max(evaluated, key=lambda record: record[metric], default={})
    measured = [
        (capital(LABELS.get(name, name)), figure(summary.get(name, best.get(name)), "{:.2f}"), "%")
        for name in log.shown
    ]
    speed = summary.get("images_per_second", log.epochs[-1].get("images_per_second") if log.epochs else None)
    parameters = summary.get("parameters", log.start.get("parameters"))
    return [
        *measured,
        ("Epochs", figure(summary.get("epochs", len(log.epochs)), "{:,}"), ""),
        ("Training speed", figure(speed, "{:,.0f}"), "images/s"),
        ("Parameters", figure(parameters, "{:,}"), ""),
    ]


def capital(name: str) -> str:
    """A measure's name at the beginning of a line; `mIoU` stays as it is."""
    return name if name[:2] == "mI" else name[:1].upper() + name[1:]


def figure(value: Any, form: str) -> str:
    """The figure in its form; nothing where it is not known."""
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return form.format(value) if known else ""


def origin(log: Log, summary: dict[str, Any]) -> list[tuple[str, object, bool]]:
    """What made the run: name, value, whether it is code."""
    started = log.start.get("time")
    if started is not None:
        started = datetime.fromtimestamp(started, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    versions = ", ".join(f"{name} {version}" for name, version in log.start.get("versions", {}).items())
    rows = [
        ("Device", summary.get("device", log.start.get("device")), False),
        ("Processes", log.start.get("processes"), False),
        ("Command", log.start.get("command"), True),
        ("Commit", log.start.get("commit"), True),
        ("Started", started, False),
        ("Versions", versions, False),
    ]
    return [row for row in rows if row[1] not in (None, "")]


@dataclass(frozen=True)
class Curves:
    """How the training went: charts, and a row an epoch."""

    charts: list[Chart]
    head: list[str]
    rows: list[list[str]]


# columns of the table of epochs, around the metrics: the key in the log, its heading, the form of its values
BEFORE = (("train_loss", "Training loss", "{:.4f}"), ("val_loss", "Validation loss", "{:.4f}"))
BEHIND = (("images_per_second", "Images/s", "{:,.0f}"), ("seconds", "Seconds", "{:.1f}"))


def curves(log: Log) -> Curves | None:
    """Loss, accuracy and learning rate; None where the log holds no step."""
    if not log.epochs and not log.steps:
        return None
    metrics = [(name, f"{capital(LABELS.get(name, name))} %", "{:.2f}") for name in log.shown]
    # only classification has a loss of the validation images
    before = [each for each in BEFORE if each[0] == "train_loss" or any(each[0] in record for record in log.epochs)]
    columns = [*before, *metrics, *BEHIND]
    title = "Validation accuracy" if log.metric == "top1" else "Validation"
    return Curves(
        charts=[
            chart("Loss", lambda axes: plots.draw_loss(axes, log)),
            chart(f"{title}, %", lambda axes: plots.draw_metrics(axes, log)),
            chart("Learning rate", lambda axes: plots.draw_learning_rate(axes, log)),
        ],
        head=["Epochs passed", *(heading for _, heading, _ in columns)],
        rows=[
            [f"{log.progress(record):g}", *(figure(record.get(key), form) for key, _, form in columns)]
            for record in log.epochs
        ],
    )


@dataclass(frozen=True)
class DrawnBlock:
    """One block's rates: over the epochs, and after the last one."""

    name: str
    chart: Chart
    rates: PathRates

    @property
    def is_too_close(self) -> bool:
        """Whether neither rate can be called the larger one."""
        return is_too_close(self.rates)


@dataclass(frozen=True)
class Paths:
    """What the two paths do: a sentence, the rates against depth, and block by block."""

    finding: str
    depth: Chart
    blocks: list[DrawnBlock]


def paths(log: Log) -> Paths | None:
    """The rates of both paths; None where no block has any."""
    rates = log.rates()
    if not rates:
        return None
    every = [rate for history in rates.values() for _, *both in history for rate in both]
    margin = 0.05 * (max(every) - min(every)) or 0.01
    bounds = min(every) - margin, max(every) + margin
    blocks = []
    for name, history in rates.items():

        def draw(axes: Axes, history: Any = history) -> None:
            plots.draw_block(axes, history)
            axes.set_ylim(bounds)

        drawn = chart(f"Rates of {name}", draw, width=200, height=135)
        blocks.append(DrawnBlock(short_name(name), drawn, PathRates(*history[-1][1:])))
    depth = chart(
        "After the last epoch, against depth", lambda axes: plots.draw_depth(axes, log), width=420, height=220
    )
    return Paths(leaning(block.rates for block in blocks), depth, blocks)


@dataclass(frozen=True)
class ClassRow:
    """How one class was told; `share` is None where the class has no images."""

    name: str
    images: int
    right: int

    @property
    def share(self) -> float | None:
        return self.right / self.images if self.images else None


def classes(predicted: Predictions) -> list[ClassRow]:
    """Every class; of many the worst first."""
    total, right = predicted.confusion.sum(1).tolist(), predicted.confusion.diagonal().tolist()
    rows = [ClassRow(*row) for row in zip(predicted.classes, total, right, strict=True)]
    if len(rows) > LARGEST_MATRIX:
        rows.sort(key=lambda row: math.inf if row.share is None else row.share)
    return rows


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix; `heat` from 0 to 1 is its shade."""

    count: int
    heat: float
    is_right: bool


def matrix(predicted: Predictions) -> list[list[Cell]] | None:
    """The confusion matrix, rows true and columns predicted; None where it would have too many classes to be seen."""
    if len(predicted.classes) > LARGEST_MATRIX:
        return None
    # the root of the share lets single mistakes be seen
    return [
        [Cell(count, math.sqrt(count / (sum(counts) or 1)), row == column) for column, count in enumerate(counts)]
        for row, counts in enumerate(predicted.confusion.tolist())
    ]


@dataclass(frozen=True)
class Pair:
    """One class taken for another, and in which share of its images."""

    true: str
    said: str
    images: int
    share: float


def confused_pairs(predicted: Predictions) -> list[Pair]:
    """The pairs most often confused."""
    names, totals = predicted.classes, predicted.confusion.sum(1).tolist()
    off = predicted.confusion.clone()
    off.fill_diagonal_(0)
    counts, places = off.flatten().topk(min(SHOWN_PAIRS, off.numel()))
    cells = [(count, *divmod(place, len(names))) for count, place in zip(counts.tolist(), places.tolist(), strict=True)]
    return [Pair(names[true], names[said], count, count / totals[true]) for count, true, said in cells if count]


@dataclass(frozen=True)
class Shown:
    """A picture that was predicted; `picture` is a data URI."""

    file: str
    picture: str
    true: str
    said: str
    confidence: float
    is_right: bool
    is_small: bool


def samples(predicted: Predictions, mean: Sequence[float], std: Sequence[float]) -> list[Shown]:
    """The chosen predictions, in their order."""
    return [show(one, predicted.classes, mean, std) for one in predicted.samples]


def show(one: Sample, names: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> Shown:
    """One picture with its verdict."""
    return Shown(
        file=one.name,
        picture=data_uri(one.image, mean, std),
        true=names[one.target],
        said=names[one.predicted],
        confidence=one.confidence,
        is_right=one.target == one.predicted,
        is_small=one.image.shape[-1] <= SMALL,
    )


def data_uri(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> str:
    """A normalised image (C, H, W) as the picture it was; small ones as PNG, others as JPEG to keep the page light."""
    import torch
    from PIL import Image

    channels = image.shape[0]
    scale, offset = (torch.tensor(list(stats)).expand(channels).view(-1, 1, 1) for stats in (std, mean))  # (C, 1, 1)
    pixels = ((image.float() * scale + offset).clamp(0, 1) * 255).round().to(torch.uint8)  # (C, H, W)
    # a picture has one channel or three; of other counts the first is shown
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy() if channels == 3 else pixels[0].numpy())
    buffer = io.BytesIO()
    kind = "png" if picture.width <= SMALL else "jpeg"
    picture.save(buffer, format=kind, **({} if kind == "png" else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def unreadable(log: Log) -> list[str]:
    """The files that could not be read, named once each."""
    return sorted({str(name) for record in log.epochs for name in record.get("unreadable") or []})
