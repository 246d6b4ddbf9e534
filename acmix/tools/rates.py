"""Which path the blocks of a run or a checkpoint lean on: the rates by block, a sentence, a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acmix.config import Model
from acmix.errors import UsageError
from acmix.layers import PathRates, path_rates
from acmix.train import plots
from acmix.train.checkpoint import restore_model
from acmix.train.files import make_place
from acmix.train.plots import Log, read_log

# Rates that lie nearer than this share of the larger one, and of 0.5, may change places with another seed: over three
# seeds of the digits, β − α of a block moved by up to 0.024 (docs/LOG.md).
NOISE = 0.05
START = 0.5


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
    def finding(self) -> str:
        """What the rates say, and what they do not."""
        return leaning(block.now for block in self.blocks)

    @property
    def picture(self) -> Path:
        """Where the drawing goes if nobody says where: into the run folder, or beside the checkpoint."""
        return self.place / "paths.png" if self.place.is_dir() else self.place.with_name(f"{self.place.name}.rates.png")

    def draw(self, file: Path) -> Path:
        """Draws the rates as PNG: by block, and of a run over the epochs too.

        Raises:
            UsageError: no PNG is asked for, or no file can be written there.
        """
        if file.suffix.lower() != ".png":
            raise UsageError(f"{file}: expected a name that ends in .png")
        make_place(file)
        return plots.save_paths(self.log, file)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        blocks = {}
        for block in self.blocks:
            blocks[block.name] = {**block.now._asdict(), "share": block.now.share}
            if block.first is not None:
                blocks[block.name]["first"] = block.first._asdict()
        return {"place": str(self.place), "epochs": self.epochs, "blocks": blocks}


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
        blocks = f"all {len(every)} blocks" if len(every) > 1 else "the only block"
        return f"Neither path leads: in {blocks} α and β are {why}."
    half = len(every) // 2
    parts = {"first half": every[:half], "second half": every[half:]} if half else {"network": every}
    told = " ".join(f"{name.capitalize()}: {count_leads(part)}." for name, part in parts.items())
    return f"{told} Too close means {why}." if close else told


def count_leads(part: list[PathRates]) -> str:
    """How many blocks each path leads in, the path of most blocks first."""
    decided = [each for each in part if not is_too_close(each)]
    conv = sum(abs(each.conv) > abs(each.attention) for each in decided)
    counts = {"convolution leads in": conv, "attention leads in": len(decided) - conv}
    said = [f"{what} {count}" for what, count in sorted(counts.items(), key=lambda item: -item[1]) if count]
    close = len(part) - len(decided)
    said += [f"{close} {'is' if close == 1 else 'are'} too close to call"] if close else []
    return f"{', '.join(said)} of {len(part)} block{'s' if len(part) > 1 else ''}"
