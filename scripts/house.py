"""Prints the folders of the package, what each may import and its largest file; fails on a wrong arrow or a circle.

`python scripts/house.py [FOLDER]`, where FOLDER holds `acmix/` (the repository by default). Every import counts, also
one inside a function or for types alone.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "acmix"

# what every part may import
EVERYBODYS = {"errors", "extras", "lazy", "memory", "names", "near", "yaml_text"}
# Each part of the package, and the parts it may import besides itself and those:
# `ops <- layers <- models <- heads <- tasks <- train <- tools <- export, serve <- benchmark <- paper <- cli`;
# `released` above `models` and `config`.
ALLOWED: dict[str, set[str]] = {
    "extras": set(),
    "lazy": set(),
    "memory": set(),
    "names": set(),
    "near": set(),
    "yaml_text": set(),
    "errors": set(),
    "config": set(),
    "ops": set(),
    "testing": {"ops"},
    "layers": {"ops"},
    "integrations": {"layers"},
    "models": {"layers", "ops"},
    "heads": {"models", "layers", "ops"},
    "released": {"models", "layers", "config"},
    # readers and tasks take their own sections of the configuration
    "data": {"config"},
    "tasks": {"heads", "models", "layers", "ops", "data", "config"},
}
ALLOWED["train"] = {"tasks", "released", *ALLOWED["tasks"]}
ABOVE_TRAIN = {"train", *ALLOWED["train"]}
ALLOWED["tools"] = ABOVE_TRAIN
# what leaves PyTorch, or answers over HTTP, was loaded by the tools
ALLOWED |= {part: {"__init__", "tools", *ABOVE_TRAIN} for part in ("export", "serve")}
# what is measured is what the public names give, and is published beside the paper's figures
ALLOWED["benchmark"] = {"testing", "export", *ALLOWED["export"]}
# the paper's claims are tested by what trains and what measures
ALLOWED["paper"] = {"benchmark", *ALLOWED["benchmark"]}
ALLOWED["cli"] = {"__init__", "tools", "export", "serve", "benchmark", "paper", *ABOVE_TRAIN}
ALLOWED["__main__"] = {"cli"}
# the public names
ALLOWED["__init__"] = {"ops", "layers", "models", "heads", "released", "tasks", "train", "tools"}

SUFFIXES = (".py", ".cpp", ".h", ".html", ".yaml")


@dataclass(frozen=True)
class Folder:
    """One row of the table."""

    name: str
    files: int
    lines: int
    may_import: str
    largest: str
    largest_lines: int


def modules(root: Path) -> dict[str, Path]:
    """Every module's dotted name within the package, and its file; a folder's `__init__` is named as the folder."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def imports(root: Path, path: Path) -> Iterator[str]:
    """The dotted names, within the package, that a file imports anywhere."""
    package = [PACKAGE, *path.relative_to(root / PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}."))
        yield from ("__init__" for name in names if name == PACKAGE)


def arrows(root: Path) -> dict[str, set[str]]:
    """Which modules each module imports."""
    known = modules(root)
    return {name: {module_of(target, known) for target in imports(root, path)} for name, path in known.items()}


def module_of(target: str, known: Mapping[str, Path]) -> str:
    """The module that a dotted name lies in: itself, or the closest above it; a name of the package is `__init__`'s."""
    parts = target.split(".")
    above = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in above if name in known), "__init__")


def by_folder(graph: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """The same arrows between the parts of the package."""
    parts: dict[str, set[str]] = {}
    for name, targets in graph.items():
        part = name.split(".")[0]
        parts.setdefault(part, set()).update({target.split(".")[0] for target in targets} - {part})
    return parts


def circles(graph: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    """One circle, as the modules along it, for each group of modules that reach each other."""
    reached = {start: reachable(graph, start) for start in graph}
    seen: set[str] = set()
    for start in graph:
        if start in reached[start] and start not in seen:
            seen |= {name for name in reached[start] if start in reached.get(name, ())}
            yield shortest_circle(graph, start)


def reachable(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    """Everything that arrows lead to from a module; the module itself only along a circle."""
    found: set[str] = set()
    left = [*graph[start]]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += graph.get(name, ())
    return found


def shortest_circle(graph: Mapping[str, Iterable[str]], start: str) -> list[str]:
    """The modules along a shortest way from one back to itself."""
    ways = [[start]]
    seen: set[str] = set()
    for way in ways:
        for target in sorted(graph.get(way[-1], ())):
            if target == start:
                return [*way, start]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    raise ValueError(f"{start} lies on no circle")


def wrong_arrows(graph: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """One line for each import that points the wrong way, and for each part that has no place."""
    for part in sorted({name.split(".")[0] for name in graph} - ALLOWED.keys()):
        yield f"{part} has no place in the house; give it one in scripts/house.py"
    for name, targets in graph.items():
        part = name.split(".")[0]
        for target in sorted(targets):
            other = target.split(".")[0]
            if part in ALLOWED and other not in {part, *EVERYBODYS, *ALLOWED[part]}:
                yield f"{name} imports {target}: {part} may import {', '.join(sorted(ALLOWED[part])) or 'errors alone'}"


def acquainted_families(root: Path, graph: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """One line for each family of models that imports another; a family is a module that registers variants."""
    texts = {
        name: path.read_text(encoding="utf-8") for name, path in modules(root).items() if name.startswith("models.")
    }
    families = {name for name, text in texts.items() if "\nregister_variants(" in text}
    for family in sorted(families):
        for other in sorted(families.intersection(graph[family]) - {family}):
            yield f"{family} imports {other}: families do not know each other; share through a module of its own"


def wrong(root: Path) -> Iterator[str]:
    """One line for each wrong arrow, each pair of families that know each other and each circle."""
    graph = arrows(root)
    yield from wrong_arrows(graph)
    yield from acquainted_families(root, graph)
    for kind, level in (("modules", graph), ("folders", by_folder(graph))):
        for circle in circles(level):
            yield f"circle of {kind}: {' -> '.join(circle)}"


def table(root: Path) -> Iterator[Folder]:
    """A row for each folder of the package and each module beside them."""
    for part in [*ALLOWED, "configs"]:
        folder = root / PACKAGE / part
        files = sorted(folder.rglob("*")) if folder.is_dir() else [folder.with_suffix(".py")]
        lines = {path: count_lines(path) for path in files if path.is_file() and path.suffix in SUFFIXES}
        if lines:
            largest = max(lines, key=lambda path: lines[path])
            yield Folder(
                f"{part}/" if folder.is_dir() else f"{part}.py",
                len(lines),
                sum(lines.values()),
                "" if part == "configs" else may_import(part),
                largest.relative_to(folder if folder.is_dir() else folder.parent).as_posix(),
                lines[largest],
            )


def may_import(part: str) -> str:
    """What a part may import, in words, besides what is everybody's."""
    return ", ".join(sorted(ALLOWED[part])) or "-"


def count_lines(path: Path) -> int:
    """The lines of a text file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def main() -> int:
    """Prints the table and what is wrong, and returns whether anything is."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    rows = list(table(root))
    print("| part | files | lines | may import, besides what all may | largest file |")
    print("|---|---:|---:|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.files} | {row.lines} | {row.may_import} | {row.largest}, {row.largest_lines} |")
    print(f"| all | {sum(row.files for row in rows)} | {sum(row.lines for row in rows)} | | |\n")
    found = list(wrong(root))
    for line in found:
        print(line)
    print(f"circles: {sum(line.startswith('circle') for line in found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
