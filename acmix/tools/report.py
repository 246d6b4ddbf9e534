"""Writes one self-contained HTML page about a run: how it went, what the two paths do, what is right and what wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from acmix import config as configuration
from acmix.config import Config
from acmix.data import Trained
from acmix.errors import UsageError
from acmix.names import is_url, shown
from acmix.tasks import task_of
from acmix.tools import report_sections as sections
from acmix.tools.charts import COLOURS
from acmix.tools.evaluate import check_local
from acmix.tools.predictions import Predictions, collect_predictions
from acmix.train.checkpoint import checkpoint_of, restore_model
from acmix.train.device import this_device
from acmix.train.files import write_atomically
from acmix.train.log import read_summary
from acmix.train.plots import read_log

__all__ = ["report"]


def report(
    run_dir: str | os.PathLike[str],
    *,
    data: str | None = None,
    samples: int = 24,
    device: str = "auto",
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes `report.html` into a run folder; the page needs no other file and makes no request.

    Args:
        run_dir: the folder `acmix train` wrote, finished or not.
        data: where the images lie now; None: where the run's configuration says.
        samples: how many predictions to show.
        device: where the predictions are made: "auto", "cpu", "cuda", "cuda:1" or "mps".
        tell: gets the line that says why there are no predictions, where there are none.

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
    predicted = validation_sections(run_dir, config, data, samples, place)
    if predicted["problem"]:
        tell(predicted["problem"])
    page = (
        environment()
        .get_template("report.html")
        .render(
            colours=COLOURS,
            model=sections.title(config),
            network=sections.network(config),
            run=run_dir.resolve().name,
            status=sections.status(log, summary, config),
            figures=sections.figures(log, summary, config),
            origin=sections.origin(log, summary),
            curves=sections.curves(log),
            paths=sections.paths(log),
            unreadable=sections.unreadable(log),
            config=escape(configuration.dump(config)),
            **predicted,
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
        return {"task": config.task.name, "problem": predicted, "matrix": None}
    matrix = sections.matrix(predicted)
    return {
        "task": "classify",
        "problem": "",
        "names": predicted.classes,
        "matrix": matrix,
        "pairs": None if matrix else sections.confused_pairs(predicted),
        "classes": sections.classes(predicted),
        "shown_classes": sections.SHOWN_CLASSES,
        "samples": sections.samples(predicted, config.data.mean, config.data.std),
    }


def validation_sections(
    run_dir: Path, config: Config, data: str | None, samples: int, device: torch.device
) -> dict[str, Any]:
    """What the page says of the best checkpoint on the validation images, or of why it says nothing."""
    try:
        checkpoint = checkpoint_of(run_dir)
    except UsageError:
        return predicted_sections("The run folder holds no checkpoint, so no predictions could be made.", config)
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"dir": data})})
    try:
        restored = restore_model(checkpoint, device=device)
        check_local(config, str(run_dir / "config.yaml"), "`acmix evaluate --format {}` measures the model")
        if data is None and is_url(config.data.dir):
            # a run folder may come from anywhere
            raise UsageError(f"the images are at {config.data.shown_dir}; say that you want them, with --data")
        trained = Trained(restored.classes, restored.are_named, str(checkpoint))
        # images of one size are what only classification has
        alone = None if config.task.name == "classify" else 1
        loader = task_of(config).val_loader(trained=trained, batch_size=alone)
        if config.task.name == "classify":
            found = collect_predictions(restored.model, loader, restored.classes, samples)
            return predicted_sections(found, config)
        known = {"task": config.task.name, "problem": "", "shown_classes": sections.SHOWN_CLASSES}
        return known | looked_sections(restored.model, loader, config, samples // 2, device)
    except UsageError as error:
        return predicted_sections(f"No predictions could be made: {error}", config)


def looked_sections(model: Any, loader: Any, config: Config, limit: int, device: torch.device) -> dict[str, Any]:
    """What the page shows of a detector or a segmenter."""
    if config.task.name == "detect":
        from acmix.tools import report_objects

        objects = report_objects.look(model, loader, device, with_masks=config.task.has_masks, limit=limit)
        return report_objects.sections(objects, Path(config.data.dir).expanduser())
    from acmix.tools import report_pixels

    pixels = report_pixels.look(model, loader, device, config, limit)
    return report_pixels.sections(pixels) | {"pairs": sections.confused_pairs(pixels.predicted)}
