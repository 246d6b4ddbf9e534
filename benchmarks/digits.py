"""Puts finished runs side by side: a table and the curves of their top-1.

python benchmarks/digits.py NAME=RUN_DIR ...   ->  benchmarks/results/digits.csv and digits.png
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from acmix.train.plots import read_log

RESULTS = Path(__file__).parent / "results"
COLUMNS = ["run", "top1", "last_top1", "best_epoch", "epochs", "parameters", "images_per_second", "device"]


def main(runs: dict[str, Path]) -> None:
    """Writes the table and the picture."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    with open(RESULTS / "digits.csv", "w", newline="", encoding="utf-8") as file:
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
    figure.savefig(RESULTS / "digits.png", dpi=120)
    print((RESULTS / "digits.csv").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main({name: Path(folder) for name, _, folder in (argument.partition("=") for argument in sys.argv[1:])})
