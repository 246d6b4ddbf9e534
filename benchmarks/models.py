"""Counts parameters and multiply-adds of every model, and writes them beside what the paper publishes.

python benchmarks/models.py     ->  benchmarks/results/models.csv and paper_params.csv, and the tables of README.md
                                    and docs/models.md
"""

from __future__ import annotations

import csv
from pathlib import Path

from acmix import list_models
from acmix.models.count import cost
from acmix.tools import paper

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "models.csv"
COLUMNS = ["model", "parameters", "gmacs", "plain_parameters", "plain_gmacs", "published_top1", "our_top1"]


def rows() -> list[dict[str, str]]:
    """One row a model, at the image size it is named for."""
    table = []
    for name in list_models():
        ours, plain = cost(name), cost(name, conv_path=False)
        figures = [ours.parameters, f"{ours.gmacs:.3f}", plain.parameters, f"{plain.gmacs:.3f}"]
        values = [name, *map(str, figures), top1_of(name), "not trained"]
        table.append(dict(zip(COLUMNS, values, strict=True)))
    return table


def top1_of(name: str) -> str:
    """The published top-1 in percent."""
    known = paper.PUBLISHED.get(name, paper.Published()).top1
    return paper.UNKNOWN if known is None else f"{known:.1f}"


def put(page: str, marker: str, text: str) -> None:
    """Puts a table between its markers on a page."""
    file = ROOT / page
    head, start, rest = file.read_text(encoding="utf-8").partition(f"<!-- {marker}: python benchmarks/models.py -->")
    end = f"<!-- end of {marker} -->"
    assert start, f"{page} has no {marker}"
    file.write_text(f"{head}{start}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def markdown(table: list[dict[str, str]]) -> str:
    """README's table of models."""
    lines = [
        "| model | parameters | gmacs | plain: parameters, gmacs | published top-1 |",
        "|---|---:|---:|---:|---:|",
    ]
    rows_of = {row["model"]: row for row in table}
    for row in (rows_of[name] for name in paper.in_order(rows_of)):
        millions = [f"{int(row[key]) / 1e6:.2f} M" for key in ("parameters", "plain_parameters")]
        gmacs = [f"{float(row[key]):.2f}" for key in ("gmacs", "plain_gmacs")]
        published = "–" if row["published_top1"] == paper.UNKNOWN else f"{row['published_top1']} %"
        cells = [f"`{row['model']}`", millions[0], gmacs[0], f"{millions[1]}, {gmacs[1]}", published]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    found = rows()
    with open(RESULTS, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(found)
    counted = paper.params()
    paper.write(counted, RESULTS.with_name("paper_params.csv"))
    put("README.md", "models", markdown(found))
    put("docs/models.md", "paper", paper.markdown(counted))
    print(markdown(found))
    print(paper.markdown(counted))
