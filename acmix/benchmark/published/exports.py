"""Every family, a detector and a segmenter, as `acmix export` writes them: differences, sizes and times.

python benchmarks/exports.py [--models NAME …] [--forms FORMAT:DTYPE …] [--seconds S] [--toy]
    ->  benchmarks/results/exports.csv
python benchmarks/exports.py --table      puts what was measured into docs/export.md

Weights are drawn, not trained. A file is compared over five sizes and three batches with the model itself, by a process
without acmix, and timed beside it, in turn, on one image.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from acmix.benchmark.exported import times
from acmix.benchmark.leaving import MODELS, settled
from acmix.benchmark.published.cells import put_between
from acmix.benchmark.published.measured import Row, rows_of
from acmix.benchmark.record import check_table, measured_with, write_table
from acmix.config import Config, validate
from acmix.errors import UsageError
from acmix.export import Exported, export
from acmix.near import did_you_mean
from acmix.tasks import task_of
from acmix.train import checkpoint
from acmix.train.log import duration

SWIN = "acmix_swin_tiny_patch4_window7_224"
# head, task and what keeps a head that has learned nothing from finding nothing
HEADS: dict[str, dict[str, Any]] = {
    "mask_rcnn": {"name": "detect", "num_classes": 10, "args": {"score_threshold": 0.01}},
    "upernet": {"name": "segment", "num_classes": 10},
}
FORMS = ("onnx:fp32", "onnx:fp16", "pt2:fp32", "pt2:fp16", "pt2:bf16")
BATCHES = (1, 2, 5)
# parts of the model's own side; none but the first is square, none but the first two a multiple of 32
SIZES = ((1.0, 1.0), (0.5, 1.5), (0.43, 0.72), (1.13, 0.6), (0.29, 0.8))
PAGE = "docs/export.md"
START, END = "<!-- exports: python benchmarks/exports.py --table -->", "<!-- end of exports -->"
COLUMNS = (
    "model", "format", "dtype", "images", "largest_difference", "objects", "objects_lost", "mib", "operators",
    "export_seconds", "eager_ms", "file_ms", "ratio", "ratio_low", "ratio_high", "note", "date", "commit", "machine",
    "torch", "timm",
)  # fmt: skip


def main(root: Path) -> int:
    """Reads the command line.

    Args:
        root: of the repository.
    """
    known = known_models()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=known, metavar="NAME")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the rounds of each pair")
    parser.add_argument("--toy", action="store_true", help="small networks of the same families")
    parser.add_argument("--table", action="store_true", help=f"measure nothing; put the table into {PAGE}")
    chosen = parser.parse_args()
    if chosen.table:
        put_between(root / PAGE, START, END, table(rows_of(root / "benchmarks" / "results" / "exports.csv")))
        return 0
    for name in chosen.models:
        if name not in known:
            raise UsageError(f"--models {name}: {did_you_mean(name, known, otherwise='expected ' + ', '.join(known))}")
    file = root / "benchmarks" / "results" / ("exports_toy.csv" if chosen.toy else "exports.csv")
    check_table(file, COLUMNS)
    began, done, wanted = time.monotonic(), 0, len(chosen.models) * len(chosen.forms)
    for name in chosen.models:
        with tempfile.TemporaryDirectory() as folder:
            config = config_of(name, toy=chosen.toy)
            source = write_checkpoint(config, Path(folder))
            for form in chosen.forms:
                row = measured(source, config, form, Path(folder), chosen.seconds) | {"model": name}
                print("  ".join(f"{row[column]}" for column in COLUMNS), flush=True)
                write_table(file, COLUMNS, [row], key=("model", "format", "dtype"))
                done, taken = done + 1, time.monotonic() - began
                left = taken / done * (wanted - done)
                print(f"    {done} of {wanted}, {duration(taken)} passed, about {duration(left)} left", flush=True)
    return 0


def known_models() -> list[str]:
    """All that is measured, in the order of the table."""
    return [*MODELS, *(f"{head} on {SWIN}" for head in HEADS)]


def table(found: list[Row]) -> str:
    """What was measured, for a document, a line a file."""
    models = known_models()
    found = sorted(found, key=lambda row: (models.index(row["model"]), FORMS.index(f"{row['format']}:{row['dtype']}")))
    lines = [
        "| model | file | largest difference | MiB | operators | time ÷ PyTorch in fp32 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in found:
        apart = row["largest_difference"]
        if row["objects"]:
            apart += f", {row['objects_lost']} of {row['objects']} objects lost"
        ratio = f"{row['ratio']} ({row['ratio_low']} – {row['ratio_high']})" if row["ratio"] else row["note"]
        form = f"{row['format']}, {row['dtype']}"
        lines.append(f"| {row['model']} | {form} | {apart} | {row['mib']} | {row['operators']} | {ratio} |")
    machines = ", ".join(dict.fromkeys(row["machine"] for row in found))
    commits = ", ".join(dict.fromkeys(row["commit"][:7] for row in found))
    return "\n".join([*lines, "", f"{machines}, drawn weights, one image, commits {commits}."])


def config_of(name: str, *, toy: bool) -> Config:
    """The configuration of a network, or of a head on one, of ten classes."""
    head, _, network = name.rpartition(" on ")
    args = dict(MODELS[network]) if toy else {}
    side = args.pop("img_size", 64) if toy else 224
    settings: dict[str, Any] = {"model": {"name": network, "num_classes": 10, "args": args}}
    if head:
        task = HEADS[head]
        side = 256
        settings["task"] = {**task, "head": head, "min_size": side, "max_size": 2 * side}
        if task["name"] == "segment":
            settings["task"]["crop"] = side
        if toy:
            settings["model"]["args"] = {**args, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
    else:
        settings["data"] = {"img_size": side}
    return validate(settings, where=name)


def write_checkpoint(config: Config, folder: Path) -> Path:
    """A checkpoint with drawn weights, and running statistics as after some training."""
    torch.manual_seed(0)
    task = task_of(config)
    classes = [f"class {number}" for number in range(10)]
    contents = {"config": config.model_dump(mode="json"), "classes": classes, "step": 1, "epoch": 1, "metrics": {}}
    contents["model"] = settled(task.build()).state_dict()
    file = folder / "drawn.pt"
    checkpoint.save(file, contents)
    return file


def measured(source: Path, config: Config, form: str, folder: Path, seconds: float) -> dict[str, Any]:
    """What came of one form; a file that differs is none, and the note says why."""
    format, _, dtype = form.partition(":")
    side = config.data.img_size if config.task.name == "classify" else 256
    sides = [(max(1, round(side * high)), max(1, round(side * wide))) for high, wide in SIZES]
    shapes = [(batch, *each) for each in sides for batch in BATCHES]
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"format": format, "dtype": dtype}
    row |= {"images": f"{len(BATCHES)} x {len(SIZES)}", **measured_with(torch.device("cpu"))}
    begun = time.perf_counter()
    try:
        made = export(source, folder / f"model.{format}", precision=dtype, shapes=shapes)
    except UsageError as error:
        return row | {"note": str(error)[:200]}
    row |= {"export_seconds": f"{time.perf_counter() - begun:.0f}", "mib": f"{made.mib:.2f}"}
    row |= {"operators": made.operators, **compared(made)}
    # without a time of the model where the file has none
    *eager, file = times(source, made, seconds=seconds)
    if not eager:
        return row | {"note": file.note}
    return row | {
        "eager_ms": f"{eager[0].time_ms:.1f}", "file_ms": f"{file.time_ms:.1f}", "ratio": f"{file.ratio:.2f}",
        "ratio_low": f"{file.low:.2f}", "ratio_high": f"{file.high:.2f}",
    }  # fmt: skip


def compared(made: Exported) -> dict[str, Any]:
    """The largest difference of all batches, and of a detector its objects."""
    told = {"largest_difference": f"{max(each.largest for each in made.differences):.1e}"}
    if made.description.task != "detect":
        return told
    return {
        **told,
        "objects": sum(each.objects for each in made.differences),
        "objects_lost": sum(each.lost for each in made.differences),
    }
