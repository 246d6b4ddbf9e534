"""Counts parameters and multiply-adds of every model, and writes them beside the published top-1.

python benchmarks/models.py     ->  benchmarks/results/models.csv, and the table of README.md on the terminal
"""

from __future__ import annotations

import csv
from pathlib import Path

from acmix import list_models
from acmix.models.count import cost

RESULTS = Path(__file__).parent / "results" / "models.csv"
# ImageNet-1k top-1 in percent, from the paper's table 2 by way of the released repository; all others are unknown.
PUBLISHED = {
    "acmix_resnet26": "76.1",
    "acmix_resnet38": "77.4",
    "acmix_resnet50": "77.8",
    "acmix_swin_tiny_patch4_window7_224": "81.9",
    "acmix_swin_small_patch4_window7_224": "83.5",
}
COLUMNS = ["model", "parameters", "gmacs", "plain_parameters", "plain_gmacs", "published_top1", "our_top1"]


def rows() -> list[dict[str, str]]:
    """One row a model, at the image size it is named for."""
    table = []
    for name in list_models():
        ours, plain = cost(name), cost(name, conv_path=False)
        figures = [ours.parameters, f"{ours.gmacs:.3f}", plain.parameters, f"{plain.gmacs:.3f}"]
        values = [name, *map(str, figures), PUBLISHED.get(name, "unknown"), "not trained"]
        table.append(dict(zip(COLUMNS, values, strict=True)))
    return table


def markdown(table: list[dict[str, str]]) -> str:
    """README's table of models."""
    lines = [
        "| model | parameters | gmacs | plain | published top-1 | ours |",
        "|---|---:|---:|---:|---|---|",
    ]
    for row in table:
        millions = [f"{int(row[key]) / 1e6:.2f} M" for key in ("parameters", "plain_parameters")]
        gmacs = [f"{float(row[key]):.2f}" for key in ("gmacs", "plain_gmacs")]
        published = row["published_top1"] + (" %" if row["published_top1"] != "unknown" else "")
        cells = [f"`{row['model']}`", millions[0], gmacs[0], f"{millions[1]}, {gmacs[1]}", published, row["our_top1"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    found = rows()
    with open(RESULTS, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(found)
    print(markdown(found))
    print(f"written: {RESULTS}")
