"""Which path the blocks of a run or a checkpoint lean on: the rates by block, a sentence, a picture."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acmix.config import Model
from acmix.errors import UsageError
from acmix.layers import PathRates, path_rates
from acmix.tools.exports import kind_of
from acmix.train import plots
from acmix.train.checkpoint import restore_model
from acmix.train.plots import Log, read_log

# Rates that lie nearer than this share of the larger one, and of 0.5, may change places with another seed: over three
# seeds of the digits, β − α of a block moved by up to 0.024 (docs/LOG.md).
NOISE = 0.05
START = 0.5
# characters of a bar
WIDTH = 20


@dataclass(frozen=True)
class BlockRates:
    """One block.

    Args:
        name: of the block in the network.
        now: its rates.
        first: those after the first epoch, where a log tells them.
    """

    name: str
    now: PathRates
    first: PathRates | None = None


@dataclass(frozen=True)
class Rates:
    """The rates of a run or a checkpoint.

    Args:
        place: the run folder or the checkpoint.
        log: the rates over the epochs; of a checkpoint one epoch.
        blocks: in the network's order; none where no block mixes two paths.
        epochs: that had passed.
        absent: why there are no rates, or "".
    """

    place: Path
    log: Log
    blocks: list[BlockRates]
    epochs: float
    absent: str = ""

    @property
    def has_history(self) -> bool:
        """Whether there are first rates that the last ones can be compared with."""
        return len(self.log.epochs) > 1

    @property
    def title(self) -> str:
        """Whose rates, and of when."""
        when = f" after epoch {self.epochs:g}" if self.epochs else ""
        said = f"{self.place}: α of the attention and β of the convolution{when}"
        if not self.has_history:
            return said
        return f"{said}; change since epoch {self.log.progress(self.log.epochs[0]):g}"

    @property
    def finding(self) -> str:
        """What the rates say, and what they do not."""
        return leaning(block.now for block in self.blocks)

    @property
    def picture(self) -> Path:
        """Where the drawing goes by default: into the run folder, or beside the checkpoint."""
        return self.place / "paths.png" if self.place.is_dir() else self.place.with_name(f"{self.place.name}.rates.png")

    def draw(self, file: Path) -> Path:
        """Draws the rates as PNG: by block, and of a run over the epochs too.

        Raises:
            UsageError: no PNG is asked for, something else lies there, or no file can be written there.
        """
        plots.check_picture(file)
        return plots.save_paths(self.log, file)

    def draw_where(self, file: Path | None, *, by_default: bool) -> str:
        """Draws into the file, or where a drawing goes `by_default`; says where it lies, or why there is none.

        Raises:
            UsageError: as `draw`, for a file that was asked for.
        """
        if self.absent or (file is None and not by_default):
            return ""
        try:
            return f"drawn: {self.draw(file or self.picture)}"
        except UsageError as error:
            if file is not None:
                raise
            return f"not drawn: {error} with --plot FILE.png"

    def table(self, encoding: str) -> tuple[list[str], list[list[str]]]:
        """A heading, and a row a block: its rates, a bar of the convolution's share, and the change since the start.

        Args:
            encoding: of the terminal; one that has no blocks gets a bar of ordinary characters.
        """
        head = ["block", "α", "β", "share of β", "", *(["change of α", "of β"] if self.has_history else [])]
        rows = []
        for block in self.blocks:
            now, first = block.now, block.first or block.now
            row = [short_name(block.name) or "(the layer)", f"{now.attention:.4f}", f"{now.conv:.4f}"]
            row += [bar(now.share, encoding), f"{100 * now.share:.1f} %"]
            if self.has_history:
                row += [f"{now.attention - first.attention:+.4f}", f"{now.conv - first.conv:+.4f}"]
            rows.append(row)
        return head, rows

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        blocks = {}
        for block in self.blocks:
            blocks[block.name] = {**block.now._asdict(), "share": block.now.share}
            if block.first is not None:
                blocks[block.name]["first"] = block.first._asdict()
        said = {"place": str(self.place), "epochs": self.epochs, "blocks": blocks}
        return said | ({"absent": self.absent} if self.absent else {})


def short_name(block: str) -> str:
    """A block's name in its backbone, without what says that a detector or segmenter has it there."""
    return re.sub(r"^(?:backbone\.)?features\.body\.(?:model\.)?", "", block)


def bar(share: float, encoding: str) -> str:
    """A share from 0 to 1 as a bar of twenty characters."""
    filled = round(WIDTH * share)
    full, empty = ("█", "░") if encoding.lower().startswith("utf") else ("#", "-")
    return full * filled + empty * (WIDTH - filled)


def rates_of(place: str | os.PathLike[str]) -> Rates:
    """Reads the rates of a run from its log, or of a checkpoint from its weights.

    Args:
        place: a run folder, finished or not, or a checkpoint of ours.

    Raises:
        UsageError: it is neither, or cannot be read.
    """
    place = Path(place)
    if not os.path.isdir(place):
        return of_checkpoint(place, place)
    if (place / "log.jsonl").is_file() and (log := read_log(place)).epochs:
        return of_run(place, log)
    for name in ("last.pt", "best.pt"):
        if (checkpoint := place / "checkpoints" / name).is_file():
            return of_checkpoint(checkpoint, place)
    if (place / "log.jsonl").is_file():
        return Rates(place, Log({}, [], []), [], 0.0, "no epoch has ended yet, so there are no rates to show")
    raise UsageError(
        f"{place} is not a run folder: no log.jsonl; give the output folder of `acmix train`, or a checkpoint"
    )


def of_run(place: Path, log: Log) -> Rates:
    """The rates that a log tells: after its first epoch and its last."""
    blocks = [
        BlockRates(name, PathRates(*history[-1][1:]), PathRates(*history[0][1:]))
        for name, history in log.rates().items()
    ]
    settings = (log.start.get("config") or {}).get("model") or {}
    return Rates(place, log, blocks, log.progress(log.epochs[-1]), "" if blocks else why_absent(settings))


def of_checkpoint(checkpoint: Path, place: Path) -> Rates:
    """The rates that the weights of a checkpoint hold."""
    if os.path.isfile(checkpoint) and (kind := kind_of(checkpoint)):
        raise UsageError(f"{checkpoint} is an export ({kind}): its rates are part of its weights; give the checkpoint")
    restored = restore_model(checkpoint)
    rates = path_rates(restored.model)
    epochs = float(restored.contents.get("epoch") or 0)
    record = {"epoch": epochs, "step": 0, "rates": rates}
    absent = "" if rates else why_absent(restored.config.model.model_dump())
    return Rates(place, Log({}, [], [record]), [BlockRates(*each) for each in rates.items()], epochs, absent)


def why_absent(model: dict[str, Any]) -> str:
    """Why a network has no rates, by its settings."""
    settings = Model.model_construct(**model)
    if settings.name.startswith("acmix_"):
        reason = "" if settings.conv_path else "a baseline (model.conv_path=false): "
    else:
        reason = "" if settings.add_conv_path else "timm's own model (model.add_conv_path=false): "
    return f"{reason}no block of {settings.name} mixes attention and convolution, so there are no rates"


def is_too_close(rates: PathRates) -> bool:
    """Whether the two rates differ by less than their noise, so that neither can be called the larger one."""
    attention, conv = abs(rates.attention), abs(rates.conv)
    return abs(attention - conv) < NOISE * max(START, attention, conv)


def leaning(rates: Iterable[PathRates]) -> str:
    """One or two sentences on which path is the stronger one where; nothing is said of differences below their noise.

    The paper's claim is that convolution dominates early blocks and attention late ones.
    """
    every = list(rates)
    close = sum(map(is_too_close, every))
    why = f"less than {100 * NOISE:g} % apart, which another seed can turn round"
    if close == len(every):
        return f"Neither path leads: α and β are {why}, in {of_blocks(len(every))} of {len(every)}."
    half = len(every) // 2
    parts = {"First half": every[:half], "Second half": every[half:]} if half else {"Network": every}
    told = " ".join(f"{name} ({of_blocks(len(part))}): {count_leads(part)}." for name, part in parts.items())
    return f"{told} Too close means {why}." if close else told


def count_leads(part: list[PathRates]) -> str:
    """How many blocks each path leads in, the path of most blocks first."""
    decided = [each for each in part if not is_too_close(each)]
    conv = sum(abs(each.conv) > abs(each.attention) for each in decided)
    counts = {"convolution leads in": conv, "attention leads in": len(decided) - conv}
    said = [f"{what} {count}" for what, count in sorted(counts.items(), key=lambda item: -item[1]) if count]
    close = len(part) - len(decided)
    return ", ".join([*said, f"{close} too close to call"] if close else said)


def of_blocks(count: int) -> str:
    """A number of blocks."""
    return "1 block" if count == 1 else f"{count} blocks"
