"""Writes one self-contained HTML page about a run: how it went, what the two paths do, what is right and what wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from acmix import config as configuration
from acmix.config import Config
from acmix.data import Trained, val_loader
from acmix.errors import UsageError
from acmix.names import shown
from acmix.tools import report_sections as sections
from acmix.tools.charts import COLOURS
from acmix.tools.predictions import Predictions, collect_predictions
from acmix.train.checkpoint import checkpoint_of, restore_model
from acmix.train.device import this_device
from acmix.train.files import write_atomically
from acmix.train.log import read_summary
from acmix.train.plots import read_log

__all__ = ["report"]


def report(
    run_dir: str | os.PathLike[str], *, data: str | None = None, samples: int = 24, device: str = "auto"
) -> Path:
    """Writes `report.html` into a run folder; the page needs no other file and makes no request.

    Args:
        run_dir: the folder `acmix train` wrote, finished or not.
        data: where the images lie now; None: where the run's configuration says.
        samples: how many predictions to show.
        device: where the predictions are made: "auto", "cpu", "cuda", "cuda:1" or "mps".

    Returns:
        The page's path.

    Raises:
        UsageError: the folder is not a run folder, or there is no such device. Data or weights that are gone are no
            error: the page says so.
    """
    run_dir, place = Path(run_dir), this_device(device)
    missing = [name for name in ("config.yaml", "log.jsonl") if not (run_dir / name).is_file()]
    if missing:
        raise UsageError(
            f"{run_dir} is not a run folder: no {' and no '.join(missing)}; give the output folder of `acmix train`"
        )
    config = configuration.load(run_dir / "config.yaml")
    log = read_log(run_dir)
    summary = read_summary(run_dir / "summary.json")
    page = (
        environment()
        .get_template("report.html")
        .render(
            colours=COLOURS,
            model=config.model.name,
            network=sections.network(config),
            run=run_dir.resolve().name,
            status=sections.status(log, summary, config),
            figures=sections.figures(log, summary, config),
            origin=sections.origin(log, summary),
            curves=sections.curves(log),
            paths=sections.paths(log),
            unreadable=sections.unreadable(log),
            config=escape(configuration.dump(config)),
            **predicted_sections(predict_validation(run_dir, config, data, samples, place), config),
        )
    )
    return write_atomically(run_dir / "report.html", page.encode())


def environment() -> Environment:
    """Where the templates lie; values are inserted as text on one line, unless they are Markup."""
    return Environment(
        loader=PackageLoader("acmix.tools"),
        autoescape=True,
        finalize=lambda value: shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def predicted_sections(predicted: Predictions | str, config: Config) -> dict[str, Any]:
    """What the page says of predictions, or of why there are none."""
    if isinstance(predicted, str):
        return {"problem": predicted, "matrix": None}
    matrix = sections.matrix(predicted)
    return {
        "problem": "",
        "names": predicted.classes,
        "matrix": matrix,
        "pairs": None if matrix else sections.confused_pairs(predicted),
        "classes": sections.classes(predicted),
        "shown_classes": sections.SHOWN_CLASSES,
        "samples": sections.samples(predicted, config.data.mean, config.data.std),
    }


def predict_validation(
    run_dir: Path, config: Config, data: str | None, samples: int, device: torch.device
) -> Predictions | str:
    """The best checkpoint's predictions on the validation images, or the reason why there are none."""
    try:
        checkpoint = checkpoint_of(run_dir)
    except UsageError:
        return "The run folder holds no checkpoint, so no predictions could be made."
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"dir": data})})
    try:
        restored = restore_model(checkpoint, device=device)
        loader = val_loader(config, trained=Trained(restored.classes, restored.are_named, str(checkpoint)))
        return collect_predictions(restored.model, loader, restored.classes, samples)
    except UsageError as error:
        return f"No predictions could be made: {error}"
