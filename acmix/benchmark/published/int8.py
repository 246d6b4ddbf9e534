"""What 8 bits cost trained classifiers: of each group of nodes alone, of all, and of what `--int8 auto` chooses.

python benchmarks/int8.py --run NAME RUN_DIR DATA_DIR [--run …]   ->  benchmarks/results/int8.csv and int8.png

Ranges are those of 128 training images, groups are chosen by 512 others, and every figure is measured on the whole
validation split. Times are those of onnxruntime on a batch of 32, 8 bits beside float, in turn.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from acmix.benchmark.pairs import SETTLE_SECONDS, quartiles, time_in_turn
from acmix.benchmark.record import check_table, measured_with, read_table, write_table
from acmix.data import Trained
from acmix.export import export
from acmix.export.int8 import CALIBRATION, classes, images_of, percent, quantise
from acmix.export.qdq import BATCH, groups_of, write_quantised
from acmix.tools.exports import Session
from acmix.tools.load import load

COLUMNS = (
    "run", "model", "images", "in_int8", "nodes", "top1", "drop", "changed", "mib", "ratio", "ratio_low", "ratio_high",
    "date", "commit", "machine", "torch", "timm",
)  # fmt: skip
FLOAT, ALL, AUTO = "nothing", "everything", "auto"


def main(root: Path) -> int:
    """Reads the command line.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=3, action="append", required=True, metavar=("NAME", "RUN_DIR", "DATA_DIR"))
    parser.add_argument("--seconds", type=float, default=10.0, help="of the rounds of each timed pair")
    chosen = parser.parse_args()
    results = root / "benchmarks" / "results"
    check_table(results / "int8.csv", COLUMNS)
    for name, folder, data in chosen.run:
        write_table(results / "int8.csv", COLUMNS, rows_of(name, folder, data, chosen.seconds), key=("run", "in_int8"))
    draw(read_table(results / "int8.csv", COLUMNS), results / "int8.png")
    return 0


def rows_of(name: str, run: str, data: str, seconds: float) -> list[dict[str, Any]]:
    """The rows of one run."""
    import onnx

    model, info = load(run)
    del model
    assert info.config is not None
    trained = Trained(info.classes, info.are_named, run)
    ranges, _ = images_of(info.config, trained, data, CALIBRATION)
    images, labels = images_of(info.config, trained, data, 2**31, "val")
    common = {"run": name, "model": info.model, "images": len(images), **measured_with(torch.device("cpu"))}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source, cache = Path(folder) / "float.onnx", Path(folder) / "ranges"
        export(run, source, tell=print)
        float_classes = classes(source, images)
        top1 = percent(float_classes == labels)

        def row(what: str, nodes: int, file: Path, is_timed: bool) -> dict[str, Any]:
            found = classes(file, images)
            own = percent(found == labels)
            made = {**dict.fromkeys(COLUMNS, ""), **common, "in_int8": what, "nodes": nodes}
            made |= {"top1": f"{own:.2f}", "drop": f"{top1 - own:+.2f}"}
            made |= {"changed": f"{percent(found != float_classes):.2f}", "mib": f"{file.stat().st_size / 2**20:.2f}"}
            if is_timed:
                low, middle, high = ratio(source, file, images[:BATCH], seconds)
                made |= {"ratio": f"{middle:.2f}", "ratio_low": f"{low:.2f}", "ratio_high": f"{high:.2f}"}
            print("  ".join(f"{made[column]}" for column in COLUMNS), flush=True)
            return made

        groups = groups_of(onnx.load(source))
        rows.append(row(FLOAT, 0, source, False))
        file = Path(folder) / "int8.onnx"
        for group, nodes in groups.items():
            write_quantised(source, file, nodes, ranges, cache)
            rows.append(row(group, len(nodes), file, False))
        write_quantised(source, file, [node for nodes in groups.values() for node in nodes], ranges, cache)
        rows.append(row(ALL, sum(map(len, groups.values())), file, True))
        done = quantise(source, file, info.config, trained, data, tell=print)
        kept = [each for each in done.drops if not each.left_in_float]
        rows.append(row(AUTO, sum(each.nodes for each in kept), file, True))
    return rows


def ratio(source: Path, file: Path, images: torch.Tensor, seconds: float) -> tuple[float, float, float]:
    """Time of a file ÷ that of another, timed in turn: quartiles over the rounds."""
    runs = [partial(Session(each), images) for each in (source, file)]
    rounds = time_in_turn(runs, device=torch.device("cpu"), seconds=seconds, settle_seconds=SETTLE_SECONDS)
    return quartiles([theirs / own for own, theirs in rounds])


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """A bar for each group and run: points of top-1 lost."""
    names = list(dict.fromkeys(row["run"] for row in rows))
    groups = list(dict.fromkeys(row["in_int8"] for row in rows if row["in_int8"] != FLOAT))
    figure = Figure(figsize=(7, 0.45 * len(groups) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        lost = {row["in_int8"]: float(row["drop"]) for row in rows if row["run"] == name}
        at = np.arange(len(groups)) + (place - (len(names) - 1) / 2) * 0.8 / len(names)
        axes.barh(at, [lost.get(group, np.nan) for group in groups], height=0.8 / len(names), label=name)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set(xlabel="points of top-1 lost, in int8 alone", ylabel="")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
