"""The table of docs/clients.md, from the rows of benchmarks/results/clients.csv."""

from __future__ import annotations

# what a cell says in the place of figures
WORDS = {
    "no": "**no**",
    "neither": "neither",
    "does not apply": "–",
    "not installed": "not installed",
}


def table(rows: list[dict[str, str]]) -> str:
    """A line a tool, a column a family: what the tool reached, and its effect on ours and on the plain model."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    lines = [f"| tool | {' | '.join(families)} |", "|---" * (1 + len(families)) + "|"]
    for tool in dict.fromkeys(row["tool"] for row in rows):
        cells = [cell([row for row in rows if (row["tool"], row["family"]) == (tool, family)]) for family in families]
        lines.append(f"| {tool} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(rows: list[dict[str, str]]) -> str:
    """The first figure, and by how much the tool changes ours and, in brackets, the plain model."""
    if not rows:
        return ""
    if rows[0]["verdict"] != "yes":
        return WORDS[rows[0]["verdict"]]
    first = rows[0]
    shown = [f"difference {first['ours']}" if first["figure"] == "outputs" else first["ours"]]
    shown = [] if first["figure"] == "change" else shown
    shown += [f"{row['ours']} ({row['plain']})" for row in rows if row["figure"] == "change"]
    return " · ".join(shown)
