"""What is predicted for several numbers of cards: lines on the terminal, rows of a CSV file, a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acmix.benchmark.scale.parts import Parts, changed
from acmix.benchmark.scale.step import Step, simulate
from acmix.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CARDS = (1, 8, 64, 512)
COLUMNS = (
    *("title", "cards", "step_ms", "compute_ms", "communication_ms", "waiting_ms", "loader_ms", "checkpoint_ms"),
    *("hidden_ms", "images_per_second", "efficiency"),
)
# what a step loses time to
LOSSES = {
    "exposed": "communication",
    "waiting": "waiting for the slowest card",
    "loader": "waiting for images",
    "checkpoint": "checkpoints",
}
# a loss below this share of a step is not worth a word
LITTLE = 0.005


def rows(parts: Parts, cards: Sequence[int] = CARDS) -> list[dict[str, Any]]:
    """A row for each number of cards, of `COLUMNS`."""
    single = simulate(parts, 1)
    return [row_of(parts.title, simulate(parts, number), single) for number in cards]


def row_of(title: str, step: Step, single: Step) -> dict[str, Any]:
    """The cells of one step."""
    milliseconds = {
        "step_ms": step.seconds,
        "compute_ms": step.compute,
        "communication_ms": step.exposed,
        "waiting_ms": step.waiting,
        "loader_ms": step.loader,
        "checkpoint_ms": step.checkpoint,
        # what travels while the backward pass goes on
        "hidden_ms": max(0.0, step.travel - step.exposed),
    }
    return {
        "title": title,
        "cards": step.cards,
        **{name: rounded(1000 * seconds) for name, seconds in milliseconds.items()},
        "images_per_second": rounded(step.images_per_second),
        "efficiency": rounded(step.efficiency(single)),
    }


def lines(parts: Parts, cards: Sequence[int] = CARDS) -> list[str]:
    """The table on the terminal, and what the largest number of cards loses most by."""
    titles = ("cards", "step", "compute", "communication", "waiting", "loader", "checkpoint", "images/s", "efficiency")
    cells = [titles, *(shown(row) for row in rows(parts, cards))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
    made = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    head = [parts.title] if parts.title else []
    return [*head, *made, *loss(parts, max(cards))]


def rounded(value: float) -> float:
    """Five significant digits."""
    return float(f"{value:.5g}")


def shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of a row as text."""
    names = ("step_ms", "compute_ms", "communication_ms", "waiting_ms", "loader_ms", "checkpoint_ms")
    times = [f"{row[name]:,.1f} ms" for name in names]
    return str(row["cards"]), *times, f"{row['images_per_second']:,.1f}", f"{100 * row['efficiency']:.1f} %"


def loss(parts: Parts, cards: int) -> list[str]:
    """What most of a step's time is lost to, and what would help; nothing where it is little."""
    step = simulate(parts, cards)
    lost = {name: getattr(step, name) / step.seconds for name in LOSSES}
    most = max(lost, key=lambda name: lost[name])
    if lost[most] < LITTLE:
        return []
    said = f"at {cards} card{'s'[: cards - 1]} {lost[most]:.1%} of a step goes to {LOSSES[most]}"
    if most == "loader" and not parts.loader.in_background:
        return [f"{said}; beside the step, with data.workers above 0, they cost less"]
    if most == "loader":
        needed = step.images / (step.seconds - step.loader) / cards
        return [f"{said}; enough for the step are {needed:,.0f} images/s a card"]
    others = " · ".join(f"{change} {efficiency:.1%}" for change, efficiency in remedies(parts, cards, most))
    return [f"{said}; efficiency with {others}"] if others else [said]


def remedies(parts: Parts, cards: int, lost_to: str) -> list[tuple[str, float]]:
    """Other parts and their efficiency, the best first; those that help."""
    compute, gradients = parts.compute, parts.gradients
    changes = [f"compute.accumulation={4 * compute.accumulation}"]
    if lost_to == "exposed":
        changes += [f"gradients.bucket_mib={factor * gradients.bucket_mib:g}" for factor in (0.25, 4)]
        changes += ["gradients.compression=0.5"] if gradients.compression > 0.5 else []
    if lost_to == "checkpoint":
        changes = [f"checkpoint.every_steps={10 * parts.checkpoint.every_steps}"]
    if lost_to == "waiting":
        changes = []
    found = []
    for change in changes:
        # a part can be at its bound already
        with suppress(UsageError):
            other = changed(parts, [change])
            found.append((change, simulate(other, cards).efficiency(simulate(other, 1))))
    own = simulate(parts, cards).efficiency(simulate(parts, 1))
    return sorted(((change, each) for change, each in found if each > own), key=lambda each: -each[1])


def write_csv(found: Sequence[Mapping[str, Any]], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Writes rows under a line of names.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(found)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose another file") from error


def draw(several: Sequence[Parts], path: Path, most: int = max(CARDS)) -> None:
    """Draws efficiency against cards, a line for each set of parts.

    Args:
        several: sets of parts.
        path: the picture, by its ending.
        most: cards.

    Raises:
        UsageError: no way between machines, or the file cannot be written.
    """
    from acmix.train.plots import new_figure

    figure = new_figure(7.0, 4.0)
    draw_curves(figure.subplots(), several, most)
    save(figure, path)


def draw_curves(axes: Axes, several: Sequence[Parts], most: int = max(CARDS)) -> None:
    """The same on axes that are there."""
    cards = [2**power for power in range(most.bit_length()) if 2**power <= most]
    for parts in several:
        found = rows(parts, cards)
        axes.plot(cards, [100 * row["efficiency"] for row in found], marker="o", markersize=4, label=parts.title)
    axes.set_xscale("log", base=2)
    axes.set_xticks(cards, [str(number) for number in cards])
    axes.set_xlabel("cards")
    axes.set_ylabel("efficiency, %, predicted")
    axes.set_ylim(0, 105)
    axes.grid(alpha=0.3)
    if any(parts.title for parts in several):
        axes.legend(fontsize=8, loc="best")


def save(figure: Figure, path: Path) -> None:
    """Writes a picture.

    Raises:
        UsageError: it cannot be written, or its ending names no format.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path}: {' '.join(str(error).split())}; choose another file") from error
