"""Puts finished runs side by side: a table and the curves of their top-1.

python benchmarks/digits.py NAME=RUN_DIR ...   ->  benchmarks/results/digits.csv and digits.png
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from matplotlib.figure import Figure

from acmix.train.plots import read_log

COLUMNS = ["run", "top1", "last_top1", "best_epoch", "epochs", "parameters", "images_per_second", "device"]


def main(root: Path) -> int:
    """Reads the command line: NAME=RUN_DIR.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_DIR")
    pairs = [argument.partition("=") for argument in parser.parse_args().runs]
    compare({name: Path(folder) for name, _, folder in pairs}, root / "benchmarks" / "results")
    return 0


def compare(runs: dict[str, Path], results: Path) -> None:
    """Writes the table and the picture of runs into a folder."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    with open(results / "digits.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for name, folder in runs.items():
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            rounded = {key: round(value, 2) for key, value in summary.items() if isinstance(value, float)}
            writer.writerow({**summary, **rounded, "run": name})
            measured = [record for record in read_log(folder).epochs if record["top1"] is not None]
            axes.plot([record["epoch"] for record in measured], [record["top1"] for record in measured], label=name)
    axes.set(xlabel="epoch", ylabel="top-1 on 355 held-out digits, %", ylim=(80, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(results / "digits.png", dpi=120)
    print((results / "digits.csv").read_text(encoding="utf-8"))
