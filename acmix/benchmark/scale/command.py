"""What `acmix benchmark scale` does with its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from acmix.benchmark.scale.parts import Parts, changed, load_parts, written
from acmix.benchmark.scale.step import MOST_CARDS
from acmix.benchmark.scale.table import CARDS, draw, lines, rows, write_csv
from acmix.config import Config
from acmix.errors import UsageError
from acmix.train.files import make_place, write_atomically
from acmix.yaml_text import quoted

# of a measurement
MOST_SECONDS = 3600.0


def scale(
    overrides: Sequence[str] = (),
    *,
    parts: Path | None = None,
    cards: str = "",
    csv: Path | None = None,
    plot: Path | None = None,
    say: Callable[[str], object] = print,
) -> list[Parts]:
    """Predicts steps from parts, or those of the published recipe on assumed networks.

    Args:
        overrides: `section.key=value`, each in place of what the parts say.
        parts: a file of them; None: the recipe's.
        cards: numbers with commas between.
        csv, plot: files for the figures and the picture.
        say: prints a line.

    Returns:
        The sets of parts that were shown.

    Raises:
        UsageError: an unreadable file, a wrong value, no network for so many cards.
    """
    numbers = read_cards(cards)
    check_files(csv, plot)
    if parts is not None:
        sets = [load_parts(parts, overrides)]
    else:
        from acmix.benchmark.scale.recipe import implied_lines, recipe_sets

        sets = [changed(each, overrides) for each in recipe_sets()]
        if not overrides:
            for line in implied_lines():
                say(line)
            say("")
    show(sets, numbers, csv, plot, say)
    return sets


def measure(
    source: str,
    overrides: Sequence[str] = (),
    *,
    data: str = "",
    processes: int | None = None,
    seconds: float = 10.0,
    output: Path = Path("parts.yaml"),
    cards: str = "",
    csv: Path | None = None,
    plot: Path | None = None,
    say: Callable[[str], object] = print,
) -> Parts:
    """Measures the parts of a run on this machine, writes them, and predicts as far as they reach.

    Args:
        source: of the configuration, as for `acmix train`.
        overrides: of its settings.
        data: folder of images; "": of the configuration, else photographs are drawn.
        processes: how many; None: the GPUs, or 2 on a CPU.
        seconds: how long each of four parts is measured.
        output: the file.
        cards, csv, plot, say: as for `scale`.

    Raises:
        UsageError: what `acmix train` refuses, or values that do not fit.
    """
    from acmix.released import load_config

    if not 0 < seconds <= MOST_SECONDS:
        raise UsageError(f"--seconds {seconds:g}; expected a number of seconds above 0 and up to {MOST_SECONDS:g}")
    asked = read_cards(cards) if cards else []
    make_place(output)
    check_files(csv, plot)
    # in quotes, so that no character of the path means anything
    config = load_config(source, [*overrides, *([f"data.dir={quoted(data)}"] if data else [])])
    check_known(config)
    # now that the settings are read: this loads torch
    from acmix.benchmark.scaling import check_processes

    count = usual_processes() if processes is None else processes
    check_processes(count)
    among = "1 process" if count == 1 else f"{count} processes"
    if asked and max(asked) > count:
        raise UsageError(
            f"--cards {cards} with {among}: more cards need the network between machines, which "
            f"is not measured here; leave --cards out, and predict with --parts {output} and network.between"
        )
    from acmix.benchmark.scale.measure import measure_parts

    say(f"measuring {config.model.name} in {among}, about {4 * seconds + 20:.0f} seconds")
    found = measure_parts(config, count, seconds=seconds)
    write_atomically(output, written(found).encode())
    say(f"written: {output}")
    show([found], asked or sorted({1, count}), csv, plot, say)
    if not cards:
        say(f"for more machines, set network.between.gb_per_second and network.between.latency_us in {output}")
    return found


def check_known(config: Config) -> None:
    """Refuses settings whose messages are others than those of the model of scale.

    Raises:
        UsageError: names the setting.
    """
    for is_set, key in (
        (config.train.reduction != "mean", f"train.reduction={config.train.reduction}"),
        (config.train.fsdp, "train.fsdp=true"),
    ):
        if is_set:
            raise UsageError(f"{key} sends other messages than the model of scale knows; leave it out")


def check_files(csv: Path | None, plot: Path | None) -> None:
    """Makes the folders of the files to write, and refuses a picture in a format that is none, before any work."""
    for file in (csv, plot):
        make_place(file)
    if plot is not None:
        from matplotlib.backend_bases import FigureCanvasBase

        known = FigureCanvasBase.get_supported_filetypes()
        if plot.suffix[1:].lower() not in known:
            raise UsageError(f"--plot {plot}: no format of that ending; expected one of {', '.join(sorted(known))}")


def usual_processes() -> int:
    """A process a GPU; without one, two."""
    import torch

    from acmix.benchmark.machine import default_device

    return 2 if default_device().type == "cpu" else torch.accelerator.device_count()


def show(
    sets: Sequence[Parts],
    numbers: Sequence[int],
    csv: Path | None,
    plot: Path | None,
    say: Callable[[str], object],
) -> None:
    """Prints the tables, and writes what is asked for."""
    found: list[dict[str, Any]] = []
    for number, parts in enumerate(sets):
        if number:
            say("")
        for line in lines(parts, numbers):
            say(line)
        found += rows(parts, numbers)
    if csv is not None:
        write_csv(found, csv)
        say(f"written: {csv}")
    if plot is not None:
        draw(sets, plot, max(numbers))
        say(f"written: {plot}")


def read_cards(text: str) -> list[int]:
    """Numbers of cards with commas between; "" for the usual ones."""
    if not text:
        return [*CARDS]
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdecimal()) or not 1 <= int(word[:10]) <= MOST_CARDS:
            raise UsageError(f"--cards {text}: {word!r} is no number from 1 to {MOST_CARDS}; expected such as 1,8,64")
    return [int(word) for word in words]
