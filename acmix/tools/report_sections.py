"""The parts of the report page, each a function from what is known to HTML. What came from outside passes `text`."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from html import escape
from typing import TYPE_CHECKING, Any

from acmix.tools.charts import Series, legend, line_chart
from acmix.train.plots import Log, stage_starts

if TYPE_CHECKING:
    from torch import Tensor

    from acmix.config import Config
    from acmix.tools.predictions import Predictions, Sample

# a matrix of more classes is a wall: the pairs most often confused say more
LARGEST_MATRIX = 30
SHOWN_PAIRS = SHOWN_CLASSES = 30


def text(value: object) -> str:
    """Text that cannot become markup."""
    return escape(str(value))


def absent(reason: str) -> str:
    """The paragraph that stands where a section has nothing to show."""
    return f'<p class="absent">{text(reason)}</p>'


def status(log: Log, summary: dict[str, Any], config: Config) -> str:
    """One sentence: how far the run came."""
    last = log.epochs[-1] if log.epochs else None
    done = round(log.progress(last)) if last else 0
    # a finished run may have been taken up again for more epochs
    finished = bool(summary) and done >= config.train.epochs
    sentence = (
        f"Finished after {done} epochs" if finished else f"Not finished: {done} of {config.train.epochs} epochs so far"
    )
    again = f", taken up again {log.resumed} time{'s' if log.resumed > 1 else ''}" if log.resumed else ""
    paths = "attention and convolution paths" if log.rates() else "the baseline, without convolution paths"
    return text(f"{sentence}{again}; {paths}.")


def figures(log: Log, summary: dict[str, Any]) -> str:
    """The headline figures."""
    evaluated = [record for record in log.epochs if record.get("top1") is not None]
    best = max(evaluated, key=lambda record: record["top1"], default={})
    top1, top5 = (summary.get(key, best.get(key)) for key in ("top1", "top5"))
    speed = summary.get("images_per_second", log.epochs[-1].get("images_per_second") if log.epochs else None)
    parameters = summary.get("parameters", log.start.get("parameters"))
    tiles = [
        ("Top-1", figure(top1, "{:.2f}", "%")),
        ("Top-5", figure(top5, "{:.2f}", "%")),
        ("Epochs", figure(summary.get("epochs", len(log.epochs)), "{:,}")),
        ("Training speed", figure(speed, "{:,.0f}", "images/s")),
        ("Parameters", figure(parameters, "{:,}")),
    ]
    return "".join(f'<div class="tile"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in tiles)


def figure(value: Any, form: str, unit: str = "") -> str:
    """One figure and its unit; a dash where it is not known."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return '<span aria-label="not known">–</span>'
    return form.format(value) + (f" <small>{unit}</small>" if unit else "")


def origin(log: Log, summary: dict[str, Any]) -> str:
    """What made the run: device, command, commit, versions."""
    started = log.start.get("time")
    if isinstance(started, (int, float)):
        started = datetime.fromtimestamp(started, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    command = log.start.get("command")
    versions = log.start.get("versions")
    rows = [
        ("Device", summary.get("device", log.start.get("device")), ""),
        ("Processes", log.start.get("processes"), ""),
        ("Command", " ".join(map(str, command)) if isinstance(command, list) else command, "code"),
        ("Commit", log.start.get("commit"), "code"),
        ("Started", started, ""),
        (
            "Versions",
            ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else versions,
            "",
        ),
    ]
    return "".join(
        f"<dt>{name}</dt><dd>{f'<code>{text(value)}</code>' if kind else text(value)}</dd>"
        for name, value, kind in rows
        if value not in (None, "")
    )


def curves(log: Log) -> str:
    """Loss, accuracy and learning rate, and the same as a table."""
    if not log.epochs and not log.steps:
        return absent("The log holds no step yet.")
    every_step = [log.progress(record) for record in log.steps]
    passed = [log.progress(record) for record in log.epochs]

    def column(records: list[dict[str, Any]], key: str) -> list[float]:
        return [math.nan if record.get(key) is None else float(record[key]) for record in records]

    loss = [
        Series("every step", "training", every_step, column(log.steps, "loss"), quiet=True),
        Series("training", "training", passed, column(log.epochs, "train_loss")),
        Series("validation", "validation", passed, column(log.epochs, "val_loss")),
    ]
    accuracy = [
        Series("top-1", "validation", passed, column(log.epochs, "top1")),
        Series("top-5", "top5", passed, column(log.epochs, "top5")),
    ]
    rate = [Series("learning rate", "rate", every_step, column(log.steps, "lr"))]
    highest = max((value for value in rate[0].ys if math.isfinite(value)), default=1.0)
    charts = [
        card("Loss", legend(loss), line_chart(loss, title="Loss over epochs", x_label="epoch", x_from=0)),
        card(
            "Validation accuracy, %",
            legend(accuracy),
            line_chart(accuracy, title="Accuracy", x_label="epoch", x_from=0, unit=" %"),
        ),
        card(
            "Learning rate",
            "",
            line_chart(rate, title="Learning rate", x_label="epoch", x_from=0, y_range=(0.0, highest or 1.0)),
        ),
    ]
    head = ["Epochs passed", "Training loss", "Validation loss", "Top-1 %", "Top-5 %", "Images/s", "Seconds"]
    keys = ["train_loss", "val_loss", "top1", "top5", "images_per_second", "seconds"]
    forms = ["{:.4f}", "{:.4f}", "{:.2f}", "{:.2f}", "{:,.0f}", "{:.1f}"]
    rows = [
        [f"{at:g}", *(figure(record.get(key), form) for key, form in zip(keys, forms, strict=True))]
        for at, record in zip(passed, log.epochs, strict=True)
    ]
    return f'<div class="cards">{"".join(charts)}</div>{folded("Every epoch as a table", table("Epochs", head, rows))}'


def card(title: str, keys: str, chart: str) -> str:
    """A titled chart."""
    return f'<figure class="card"><figcaption><h3>{title}</h3>{keys}</figcaption>{chart}</figure>'


def folded(title: str, content: str) -> str:
    """Content that opens on demand."""
    return f"<details><summary>{title}</summary>{content}</details>"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    """A table whose first column names its rows; the cells are HTML already."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table class="{style}">'
        f"<caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def paths(log: Log) -> str:
    """The rates of both paths: against depth, over the epochs block by block, and as a table."""
    rates = log.rates()
    if not rates:
        return absent("This run has no path rates: a model without convolution paths, or no epoch has ended yet.")
    last = [history[-1] for history in rates.values()]
    order = list(range(1, len(rates) + 1))
    depth = [
        Series("attention α", "attention", order, [alpha for _, alpha, _ in last], markers=True),
        Series("convolution β", "convolution", order, [beta for _, _, beta in last], markers=True),
    ]
    starts = stage_starts(list(rates))
    chart = line_chart(
        depth,
        title="Rates of the last epoch against depth",
        x_label="block",
        width=480,
        height=250,
        rules=[start + 0.5 for start in starts],
    )
    every = [rate for history in rates.values() for _, *both in history for rate in both]
    bounds = (min(every), max(every))
    small = []
    for index, (block, history) in enumerate(rates.items(), start=1):
        passed = [at for at, _, _ in history]
        lines = [
            Series("α", "attention", passed, [alpha for _, alpha, _ in history]),
            Series("β", "convolution", passed, [beta for _, _, beta in history]),
        ]
        drawn = line_chart(
            lines, title=f"Rates of {block}", x_label="epoch", x_from=0, width=200, height=135, y_range=bounds
        )
        small.append(f'<figure class="small"><figcaption><b>{index}</b> {text(block)}</figcaption>{drawn}</figure>')
    rows = [
        [f"{index}", f"<code>{text(block)}</code>", f"{alpha:.4f}", f"{beta:.4f}", share_bar(alpha, beta)]
        for index, (block, (_, alpha, beta)) in enumerate(zip(rates, last, strict=True), start=1)
    ]
    head = ["#", "Block", "Attention α", "Convolution β", "Share of β"]
    dotted = " Dotted: a new stage." if starts else ""
    return (
        f'<p class="finding">{text(leaning(last))}</p>'
        f'<div class="cards wide">{card("After the last epoch, against depth", legend(depth), chart)}'
        f"{table('Rates of every block after the last epoch', head, rows, 'rates')}</div>"
        f'<p class="note">A new block starts with both rates at 0.5.{dotted} The charts below share one scale.</p>'
        f'<div class="smalls">{"".join(small)}</div>'
    )


def leaning(last: Sequence[tuple[float, float, float]]) -> str:
    """One sentence on the paper's claim that convolution dominates early and attention late."""
    half = len(last) // 2
    halves = [last[:half], last[half:]] if half else [last]
    ahead = [f"{sum(abs(beta) > abs(alpha) for _, alpha, beta in part)} of {len(part)}" for part in halves]
    if len(ahead) == 1:
        return f"The convolution's rate is the larger one in {ahead[0]} blocks."
    return (
        f"The convolution's rate is the larger one in {ahead[0]} blocks of the first half and {ahead[1]} of the second."
    )


def share_bar(alpha: float, beta: float) -> str:
    """The convolution's share as a bar of two colours and a figure."""
    share = abs(beta) / ((abs(alpha) + abs(beta)) or 1.0)
    return f'<span class="share" style="--share:{share:.4f}" aria-hidden="true"></span> {100 * share:.1f} %'


def layout(predicted: Predictions | str) -> str:
    """Whether matrix and classes fit side by side."""
    return "one" if isinstance(predicted, str) or 12 < len(predicted.classes) <= LARGEST_MATRIX else "two"


def classes(predicted: Predictions | str) -> str:
    """The accuracy of every class; of many classes the worst first."""
    if isinstance(predicted, str):
        return absent(predicted)
    total, right = predicted.confusion.sum(1).tolist(), predicted.confusion.diagonal().tolist()
    order = list(range(len(total)))
    if len(order) > LARGEST_MATRIX:
        order.sort(key=lambda index: (right[index] / total[index] if total[index] else math.inf, index))
    rows = [
        [
            text(predicted.classes[index]),
            f"{total[index]:,}",
            f"{right[index]:,}",
            f'<span class="bar" style="--share:{right[index] / total[index]:.4f}" aria-hidden="true"></span> '
            f"{100 * right[index] / total[index]:.1f} %"
            if total[index]
            else "no images",
        ]
        for index in order
    ]
    head = ["Class", "Images", "Right", "Accuracy"]
    images, hits = sum(total), sum(right)
    accuracy = f"{100 * hits / images:.2f} %" if images else "no accuracy"
    said = f'<p class="note">{hits:,} of {images:,} validation images right: {accuracy}.</p>'
    if len(rows) <= LARGEST_MATRIX:
        return said + table("Accuracy of every class", head, rows, "bars")
    worst = table(f"The {SHOWN_CLASSES} classes that are hardest", head, rows[:SHOWN_CLASSES], "bars")
    return said + worst + folded(f"All {len(rows)} classes", table("Accuracy of every class", head, rows, "bars"))


def confusion(predicted: Predictions | str) -> str:
    """The confusion matrix as a heat map; of many classes the pairs most often confused."""
    if isinstance(predicted, str):
        return absent(predicted)
    matrix, names = predicted.confusion, predicted.classes
    if len(names) > LARGEST_MATRIX:
        return confused_pairs(matrix, names)
    heads = "".join(f'<th scope="col" title="{text(name)}"><span>{text(name)}</span></th>' for name in names)
    upright = " upright" if max(map(len, names)) > 3 else ""
    body = []
    for row, counts in enumerate(matrix.tolist()):
        total = sum(counts) or 1
        cells = "".join(heat(count, total, row == column) for column, count in enumerate(counts))
        body.append(f'<tr><th scope="row" title="{text(names[row])}"><span>{text(names[row])}</span></th>{cells}</tr>')
    return (
        '<p class="note">Rows: what the image shows. Columns: what the model said. Shade: share of the row.</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix"><table class="matrix{upright}">'
        f'<caption>Confusion matrix, images</caption><thead><tr><th scope="col">true \\ said</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def heat(count: int, total: int, diagonal: bool) -> str:
    """One cell of the matrix; the root of the share lets single mistakes be seen."""
    if not count:
        return '<td class="none">0</td>'
    strength = math.sqrt(count / total)
    kind = f"{'hit' if diagonal else 'miss'}{' strong' if strength > 0.6 else ''}"
    return f'<td class="{kind}" style="--heat:{strength:.3f}">{count:,}</td>'


def confused_pairs(matrix: Tensor, names: Sequence[str]) -> str:
    """The largest cells off the diagonal."""
    off = matrix.clone()
    off.fill_diagonal_(0)
    totals = matrix.sum(1)
    counts, places = off.flatten().topk(min(SHOWN_PAIRS, off.numel()))
    rows = []
    for count, place in zip(counts.tolist(), places.tolist(), strict=True):
        true, said = divmod(place, len(names))
        if count:
            share = f"{100 * count / int(totals[true]):.1f} %"
            rows.append([text(names[true]), text(names[said]), f"{count:,}", share])
    if not rows:
        return '<p class="note">No image was confused with another class.</p>'
    head = ["It shows", "The model said", "Images", "Of that class"]
    note = f'<p class="note">{len(names):,} classes are too many for a matrix: the pairs most often confused.</p>'
    return note + table("Pairs most often confused", head, rows, "pairs")


def samples(predicted: Predictions | str, mean: Sequence[float], std: Sequence[float]) -> str:
    """The chosen predictions: what went wrong, then what went right."""
    if isinstance(predicted, str):
        return absent(predicted)
    if not predicted.samples:
        return absent("No validation image was shown to the model.")
    groups = [
        ("Wrong, the surest mistakes first", [one for one in predicted.samples if one.target != one.predicted]),
        ("Right, drawn at random", [one for one in predicted.samples if one.target == one.predicted]),
    ]
    return "".join(
        f'<h3>{title}</h3><ul class="samples">'
        + "".join(sample(one, predicted.classes, mean, std) for one in group)
        + "</ul>"
        for title, group in groups
        if group
    )


def sample(one: Sample, names: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> str:
    """One picture with its verdict."""
    right = one.target == one.predicted
    true, said = text(names[one.target]), text(names[one.predicted])
    alt = f"{text(one.name)}: shows {true}, predicted {said}"
    verdict = '<b class="verdict">✓ right</b>' if right else '<b class="verdict">✗ wrong</b>'
    pixelated = " pixelated" if one.image.shape[-1] <= 64 else ""
    return (
        f'<li class="{"right" if right else "wrong"}">'
        f'<img class="picture{pixelated}" alt="{alt}" title="{text(one.name)}" src="{data_uri(one.image, mean, std)}">'
        f'<p>{verdict} <span class="sure">{100 * one.confidence:.1f} %</span></p>'
        f"<p>said <b>{said}</b></p><p>true <b>{true}</b></p></li>"
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
    kind = "png" if picture.width <= 64 else "jpeg"
    picture.save(buffer, format=kind, **({} if kind == "png" else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def unreadable(log: Log) -> str:
    """The files that could not be read, named once each; nothing where all could."""
    names = sorted({str(name) for record in log.epochs for name in record.get("unreadable") or []})
    if not names:
        return ""
    listed = "".join(f"<li><code>{text(name)}</code></li>" for name in names)
    files = "file" if len(names) == 1 else "files"
    return (
        f'<section id="unreadable"><h2>Unreadable files</h2>'
        f'<p class="note">{len(names)} {files} could not be read and did not count.</p>'
        f'<ul class="files">{listed}</ul></section>'
    )
