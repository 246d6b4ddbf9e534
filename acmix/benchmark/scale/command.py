"""What `acmix benchmark scale` does with its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from acmix.benchmark.scale.parts import Parts, changed, load_parts, written
from acmix.benchmark.scale.step import MOST_CARDS
from acmix.benchmark.scale.table import CARDS, draw, lines, rows, write_csv
from acmix.errors import UsageError
from acmix.train.files import make_place, write_atomically

# processes and seconds of a measurement
MOST_PROCESSES, MOST_SECONDS = 1024, 3600.0


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
    for file in (csv, plot):
        make_place(file)
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
    from acmix.benchmark.scaling import check_processes
    from acmix.released import load_config

    if not 0 < seconds <= MOST_SECONDS:
        raise UsageError(f"--seconds {seconds:g}; expected a number of seconds above 0 and up to {MOST_SECONDS:g}")
    for file in (output, csv, plot):
        make_place(file)
    config = load_config(source, [*overrides, *([f"data.dir={data}"] if data else [])])
    count = usual_processes() if processes is None else processes
    if count > MOST_PROCESSES:
        raise UsageError(f"--processes {count}; expected at most {MOST_PROCESSES}")
    check_processes(count)
    from acmix.benchmark.scale.measure import measure_parts

    each = "process" if count == 1 else "processes"
    say(f"measuring {config.model.name} in {count} {each}, about {4 * seconds + 20:.0f} seconds")
    found = measure_parts(config, count, seconds=seconds)
    write_atomically(output, written(found).encode())
    say(f"written: {output}")
    numbers = read_cards(cards) if cards else sorted({1, count})
    show([found], numbers, csv, plot, say)
    if not cards:
        say(f"for more machines, set network.between.gb_per_second and network.between.latency_us in {output}")
    return found


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
