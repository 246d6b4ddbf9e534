"""Checks that the wheel and the source distribution in a folder hold every file of the package, and the wheel no other.

`python scripts/check_distributions.py DIST` names what is missing or too much, and fails if anything is.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def package_files(root: Path) -> set[str]:
    """Every file of the package, as a path below the repository."""
    paths = (path for path in (root / "acmix").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix() for path in paths}


def contents(distribution: Path) -> set[str]:
    """The files in a distribution; those of a source distribution without its own folder's name."""
    if distribution.suffix == ".whl":
        with zipfile.ZipFile(distribution) as archive:
            return set(archive.namelist())
    with tarfile.open(distribution) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def wrong(folder: Path) -> Iterator[str]:
    """One line for each distribution that is not there, each file that one lacks, and each that a wheel has besides."""
    for pattern in ("acmix-*.whl", "acmix-*.tar.gz"):
        found = sorted(folder.glob(pattern))
        if len(found) != 1:
            yield f"{folder} holds {len(found)} files {pattern}; expected one"
        for distribution in found:
            needed, there = package_files(ROOT), contents(distribution)
            for file in sorted(needed - there):
                yield f"{distribution.name} lacks {file}"
            if distribution.suffix == ".whl":
                about = {file for file in there if file.partition("/")[0].endswith(".dist-info")}
                for file in sorted(there - needed - about):
                    yield f"{distribution.name} holds {file}, which is no file of the package"


def main() -> int:
    """Prints what is wrong and returns whether anything is."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    lines = list(wrong(Path(sys.argv[1])))
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
