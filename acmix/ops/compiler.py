"""The machine's C++ compiler: which one, what it is called with, and what it says of itself.

The kernels have to run on the OpenMP that torch runs on: a second one would be a second team of threads that spin for
the same cores.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch  # before any kernel: its OpenMP runtime has to be the one in the process

from acmix.errors import UsageError

# g++ first: on Linux torch runs on GNU's OpenMP, which clang's code cannot call
COMPILERS = ("g++", "c++", "clang++")
NATIVE = "-march=native" if platform.machine().lower() in ("x86_64", "amd64", "i686") else "-mcpu=native"
FLAGS = (
    *("-O3", NATIVE, "-std=c++17", "-fPIC", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)


class CannotBuild(UsageError):
    """Says in one line why there are no CPU kernels here."""


@dataclass(frozen=True)
class Compiler:
    """How to call it, and what it says of itself."""

    command: tuple[str, ...]
    version: str


def find_compiler() -> Compiler:
    """The compiler that CXX names, or the first on the PATH."""
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        path = shutil.which(named[0])
        if path is None:
            raise CannotBuild(f"CXX={named[0]!r} is not a program on the PATH; unset it or name a C++ compiler")
        command = (path, *named[1:])
    else:
        path = next(filter(None, map(shutil.which, COMPILERS)), None)
        if path is None:
            names = ", ".join(COMPILERS)
            raise CannotBuild(f"no C++ compiler on the PATH ({names}); install one (`apt install g++`), or set CXX")
        command = (path,)
    return Compiler(command, call([*command, "--version"]))


def call(command: list[str]) -> str:
    """Runs a compiler; what it complains of first is the reason why there are no kernels."""
    english = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, env=english
        )
    except OSError as error:
        raise CannotBuild(f"{command[0]} does not run ({error.strerror}); set CXX to a C++ compiler") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        first = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it said nothing")
        raise CannotBuild(f"{command[0]} ended with status {done.returncode}: {first}; set CXX to another compiler")
    return done.stdout


def cpu() -> list[str]:
    """What `native` means here."""
    about = [sys.platform, platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return about
    told = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant")
    return about + sorted({line for line in lines if line.startswith(told)})


def loaded_openmp() -> str | None:
    """The OpenMP runtime that torch brought into this process, as a path."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    paths = {fields[5] for fields in (line.split(maxsplit=5) for line in lines) if len(fields) == 6}
    found = sorted(path for path in paths if re.match(r"lib(gomp|iomp5|omp)\b.*\.so", Path(path).name))
    # other packages bring runtimes of their own
    home = str(Path(torch.__file__).resolve().parent)
    return next((path for path in found if path.startswith(home)), found[0] if found else None)


def openmp_flags(compiler: Compiler, folder: Path) -> tuple[list[str], list[str]] | None:
    """Flags to compile and to link with threads; None where the compiler has none that go with torch's."""
    runtime = loaded_openmp()
    if runtime and "gomp" in Path(runtime).name and "clang" in compiler.version:
        return None
    # the very file, since its name may be torch's own
    link = [runtime] if runtime else ["-fopenmp"]
    source, made = folder / "openmp.cc", folder / "openmp.so"
    source.write_text('#include <omp.h>\nextern "C" int f() { return omp_get_max_threads(); }\n', encoding="utf-8")
    try:
        call([*compiler.command, "-fopenmp", "-fPIC", "-shared", str(source), "-o", str(made), *link])
    except CannotBuild:
        return None
    return ["-fopenmp"], link
