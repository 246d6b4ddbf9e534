"""Installs a distribution into an empty environment without a compiler, and uses it as its first user would.

`python scripts/check_wheel.py DIST [--kind wheel|sdist] [--torch VERSION]`; DIST is what `python -m build` wrote.
The environment is new, lies outside of the checkout, and takes about 6 GB for a while; nothing but its own commands is
on the PATH. It runs the README's five lines, `acmix --help`, `models`, a short `demo digits` and `predict`, and prints
the times of `import acmix` and `acmix --help`. It fails where one of them does, where the lack of a compiler is not
said once in a line, or where the help takes longer than a second.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# seconds that `acmix --help` may take
MOST_HELP = 1.0
WITHOUT_COMPILER = "acmix: no CPU kernels, the slower reference runs:"


class Place:
    """An empty environment, and a folder to work in.

    Args:
        folder: where both are made.
    """

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        subprocess.run([sys.executable, "-m", "venv", folder / "empty"], check=True)
        self.commands = folder / "empty" / ("Scripts" if os.name == "nt" else "bin")
        kept = {"HOME", "USERPROFILE", "TEMP", "TMP", "TMPDIR", "SYSTEMROOT", "SYSTEMDRIVE", "COMSPEC", "PATHEXT"}
        # no PYTHONPATH, no CXX, no other cache of compiled kernels
        self.environment = {name: value for name, value in os.environ.items() if name.upper() in kept}
        self.environment |= {"PATH": str(self.commands), "ACMIX_CACHE": str(folder / "cache"), "PYTHONUTF8": "1"}

    def install(self, *what: str) -> None:
        """Installs by pip, with the environment of whoever runs this: it may name an index or a proxy."""
        command = [self.commands / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
        subprocess.run(command, check=True, cwd=self.work)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs a command of the environment, and shows what it says where it fails."""
        found = [str(self.commands / command[0]), *map(str, command[1:])]
        done = subprocess.run(
            found, cwd=self.work, env=self.environment, capture_output=True, text=True, encoding="utf-8", check=False
        )
        if done.returncode:
            sys.exit(f"{' '.join(found)} ended with status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def median_seconds(self, *command: str | Path) -> float:
        """The median of five runs, after one that fills the disk's cache."""
        times = []
        for _ in range(6):
            began = time.perf_counter()
            self.run(*command)
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])


def five_lines() -> str:
    """The README's first code in Python."""
    found = re.search(r"```python\n(.+?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def distribution(folder: Path, kind: str) -> Path:
    """The one distribution of that kind in a folder."""
    found = [*folder.glob("acmix-*.whl" if kind == "wheel" else "acmix-*.tar.gz")]
    if len(found) != 1:
        sys.exit(f"{folder} holds {len(found)} distributions of the kind {kind}; expected one: python -m build")
    return found[0].resolve()


def check_that_it_is_said_once(what: str, done: subprocess.CompletedProcess[str]) -> None:
    """Fails unless a command says in one line, once, that the reference runs."""
    said = [line for line in done.stderr.splitlines() if WITHOUT_COMPILER in line]
    if len(said) != 1:
        sys.exit(f"{what} says {len(said)} times that no kernels are there; expected once:\n{done.stderr}")
    print(f"  {said[0]}")


def check(place: Place) -> None:
    """Uses the package, a step after the other."""
    print("README:")
    done = place.run("python", "-c", five_lines() + "print(tuple(logits.shape), layer)")
    print(f"  {done.stdout.strip()}")
    check_that_it_is_said_once("README", done)
    print("acmix models swin_tiny:")
    print(place.run("acmix", "models", "swin_tiny").stdout.rstrip())
    # without reading processes: what differs most between systems
    done = place.run("acmix", "demo", "digits", "train.epochs=1", "data.workers=0")
    print("acmix demo digits train.epochs=1:")
    check_that_it_is_said_once("acmix demo", done)
    image = next(iter(sorted((place.work / "data" / "digits" / "val").rglob("*.png"))))
    done = place.run("acmix", "predict", place.work / "runs" / "digits", image)
    print(f"acmix predict:\n{done.stdout.rstrip()}")
    importing = place.median_seconds("python", "-c", "import acmix")
    helping = place.median_seconds("acmix", "--help")
    print(f"medians of five: import acmix {importing:.2f} s, acmix --help {helping:.2f} s")
    if helping > MOST_HELP:
        sys.exit(f"acmix --help takes {helping:.2f} s; expected at most {MOST_HELP} s")


def main() -> None:
    """Reads the arguments, installs and checks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIST")
    parser.add_argument("--kind", choices=("wheel", "sdist"), default="wheel")
    parser.add_argument("--torch", metavar="VERSION", help="the newest by default")
    wanted = parser.parse_args()
    file = distribution(wanted.folder, wanted.kind)
    with tempfile.TemporaryDirectory(prefix="acmix-check-", ignore_cleanup_errors=True) as name:
        place = Place(Path(name).resolve())
        place.install(f"acmix[demo] @ {file.as_uri()}", *([f"torch=={wanted.torch}"] if wanted.torch else []))
        versions = "import sys, torch, timm; print(sys.version.split()[0], torch.__version__, timm.__version__)"
        print(f"{file.name}: Python, torch, timm {place.run('python', '-c', versions).stdout.strip()}")
        check(place)


if __name__ == "__main__":
    main()
