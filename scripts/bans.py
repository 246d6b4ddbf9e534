"""Prints every line of the repository that holds something we never write, and fails if there is one.

`python scripts/bans.py [FOLDER]`. Each ban says what to write instead.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# what runs leave at the top, and what is not ours anywhere
SKIPPED_AT_TOP = {"data", "runs", "site"}
SKIPPED = {".git", ".venv", ".venv-site", "__pycache__", ".hypothesis", ".pytest_cache", ".ruff_cache"}
SUFFIXES = {".py", ".sh", ".toml", ".yaml", ".yml", ".md", ".txt", ".html", ".cpp"}
CODE = (".py",)
SETTINGS = (".py", ".sh", ".toml", ".yaml", ".yml")


@dataclass(frozen=True)
class Ban:
    """A pattern, the files it is banned from, and what to do instead."""

    pattern: str
    instead: str
    suffixes: tuple[str, ...] = tuple(SUFFIXES)
    folders: tuple[str, ...] = ("",)


# what runs on any accelerator; kernels, and the benchmarks of CUDA's, know theirs by name
PARTS_OF_ANY_DEVICE = ("models", "layers", "heads", "data", "tasks", "train", "tools", "cli", "benchmark/machine.py")

BANS = (
    Ban(
        r"load_state_dict\([^()]*(\([^()]*\)[^()]*)*strict\s*=\s*False", "rename or drop keys by name, then load", CODE
    ),
    Ban(r"^\s*except\s*:", "catch the exceptions that are expected", CODE),
    # to tidy up after whatever it was and let it go on is fine
    Ban(
        r"^\s*except\s.*\b(Base)?Exception\b(?!.*:\n(.*\n){1,3}?\s+raise$)",
        "catch what is expected, or raise again",
        CODE,
    ),
    Ban(r"\.cuda\(", "use .to(device): the same code runs on a CPU", CODE),
    Ban(
        r"torch\.cuda\.(is_available|device_count|set_device|synchronize|max_memory_allocated|get_device_name)\("
        r"|\bdevice\(\s*[\"']cuda\b",
        "ask torch.accelerator, as acmix/train/device.py does: there are other accelerators",
        CODE,
        tuple(f"acmix/{part}" for part in PARTS_OF_ANY_DEVICE),
    ),
    Ban(r"\bxfail\b|\bflaky\b|\breruns\b", "fix the test or the code", SETTINGS),
    Ban(r"\b(TODO|FIXME|XXX)\b(?!\(when )", "name a condition one can check: TODO" + "(when torch >= 3)"),
    Ban(r"(?<![\w./:\"'~-])/(home|Users|root|tmp|work|mnt)/\w", "take the path as an argument"),
    Ban(r"[\"'](/home|/Users|/root|/tmp|/work|/mnt)\b", "take the path as an argument", CODE),
    Ban(r"index[-]url|find[-]links", "leave the package index to the user's pip"),
    Ban(
        r"(?<![\w.])print\(",
        "return it, or raise; tools print",
        CODE,
        tuple(f"acmix/{layer}/" for layer in ("ops", "layers", "models", "data", "tasks")),
    ),
)


def violations(root: Path) -> Iterator[str]:
    """One line for each violation: where it stands and what to do instead."""
    for path in written_files(root):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8")
        for ban in BANS:
            if path.suffix not in ban.suffixes or not name.startswith(ban.folders):
                continue
            # a library that can also be run may print in that part
            searched = text.partition("\nif __name__ ==")[0] if ban.folders != ("",) else text
            for match in re.finditer(ban.pattern, searched, re.MULTILINE):
                start = match.start() + len(match[0]) - len(match[0].lstrip())
                line = text.count("\n", 0, start) + 1
                yield f"{name}:{line}: {' '.join(match[0].split())!r}: {ban.instead}"


def written_files(root: Path) -> Iterator[Path]:
    """The text files of a tree, but for this one and its test, which name what is banned."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if parts[0] in SKIPPED_AT_TOP or SKIPPED.intersection(parts):
            continue
        if path.is_file() and path.suffix in SUFFIXES and path.name not in ("bans.py", "test_house.py"):
            yield path


def main() -> int:
    """Prints the violations and returns whether there are any."""
    found = list(violations(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
