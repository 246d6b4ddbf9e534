"""Counts parameters and multiply-adds of every model, and writes them beside what the paper publishes.

python benchmarks/models.py     ->  benchmarks/results/models.csv and paper_params.csv, and the tables of README.md and
                                    docs/models.md
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from acmix import list_models
from acmix.benchmark.published.cells import UNKNOWN, put_between, table
from acmix.benchmark.record import write_table
from acmix.models.count import cost
from acmix.tools import paper

COLUMNS = ["model", "parameters", "gmacs", "plain_parameters", "plain_gmacs", "published_top1", "our_top1"]


def rows() -> list[dict[str, str]]:
    """One row a model, at the image size it is named for."""
    counted = []
    for name in list_models():
        ours, plain = cost(name), cost(name, conv_path=False)
        figures = [ours.parameters, f"{ours.gmacs:.3f}", plain.parameters, f"{plain.gmacs:.3f}"]
        values = [name, *map(str, figures), top1_of(name), "not trained"]
        counted.append(dict(zip(COLUMNS, values, strict=True)))
    return counted


def top1_of(name: str) -> str:
    """The published top-1 in percent."""
    known = paper.PUBLISHED.get(name, paper.Published()).top1
    return paper.UNKNOWN if known is None else f"{known:.1f}"


def markdown(counted: list[dict[str, str]]) -> str:
    """README's table of models."""
    rows_of = {row["model"]: row for row in counted}
    lines = []
    for row in (rows_of[name] for name in paper.in_order(rows_of)):
        millions = [f"{int(row[key]) / 1e6:.2f} M" for key in ("parameters", "plain_parameters")]
        gmacs = [f"{float(row[key]):.2f}" for key in ("gmacs", "plain_gmacs")]
        published = UNKNOWN if row["published_top1"] == paper.UNKNOWN else f"{row['published_top1']} %"
        lines.append((f"`{row['model']}`", millions[0], gmacs[0], f"{millions[1]}, {gmacs[1]}", published))
    return "\n".join(table(("model", "parameters", "gmacs", "plain: parameters, gmacs", "published top-1"), lines))


def main(root: Path) -> int:
    """Counts, writes the files and the tables.

    Args:
        root: of the repository.
    """
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results, counted, params = root / "benchmarks" / "results", rows(), paper.params()
    write_table(results / "models.csv", COLUMNS, counted)
    write_table(results / "paper_params.csv", paper.COLUMNS, [asdict(each) for each in params])
    for page, marker, text in (
        ("README.md", "models", markdown(counted)),
        ("docs/models.md", "paper", paper.markdown(params)),
    ):
        put_between(root / page, f"<!-- {marker}: python benchmarks/models.py -->", f"<!-- end of {marker} -->", text)
        print(text)
    return 0
