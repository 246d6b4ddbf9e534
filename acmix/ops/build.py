"""Builds the CPU kernels with the machine's own compiler, once, and loads them.

A library lies in a cache folder under a name made from all that decides what is in it: sources, flags, limits, CPU,
compiler. It is loaded from there only if no other user could have written it and its checksum holds; otherwise it is
built. Of many processes one builds, and the others wait for it. Importing this module builds nothing.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from acmix.ops.compiler import FLAGS, CannotBuild, Compiler, call, cpu, find_compiler, loaded_openmp, openmp_flags

FOLDER = Path(__file__).parent
# C++ in each operator's folder, and headers in include/
KERNELS = FOLDER
# flags of the compiler and the linker after ours: scripts/sanitize.py sets them before anything is built
extra: tuple[str, ...] = ()
# said before a build
EXPECTED = "under a minute"

_found: dict[Path, ctypes.CDLL | str] = {}
_guard = threading.Lock()


@dataclass(frozen=True)
class Built:
    """A library that is loaded.

    Args:
        library: its functions, by name.
        path: where it lies.
        seconds: how long it took to build; 0 where it was there.
    """

    library: ctypes.CDLL
    path: Path
    seconds: float


def library(sources: Path | None = None) -> ctypes.CDLL:
    """Returns the loaded kernels; builds them where they are not built, and remembers what came of it.

    Args:
        sources: folder with *.cpp and *.h, in it and below; ours by default.

    Raises:
        CannotBuild: the reason, also at every later call in this process.
    """
    sources = sources or KERNELS
    with _guard:
        if sources not in _found:
            try:
                _found[sources] = build(sources=sources).library
            except CannotBuild as error:
                _found[sources] = str(error)
    found = _found[sources]
    if isinstance(found, str):
        raise CannotBuild(found)
    return found


@cache
def why_not() -> str | None:
    """Tells why the kernels cannot run on this machine, or None where they can; the first call may build them."""
    try:
        library()
    except CannotBuild as error:
        if not is_off() and os.environ.get("LOCAL_RANK", "0") == "0":
            say(f"acmix: no CPU kernels, the slower reference runs: {error}\n")
        return str(error)
    return None


def build(*, force: bool = False, sources: Path | None = None) -> Built:
    """Builds the kernels, or finds them built, and loads them.

    Args:
        force: build although they are built.
        sources: folder with *.cpp and *.h, in it and below; ours by default.

    Raises:
        CannotBuild: they are switched off, no compiler or one that fails, no folder to write to.
    """
    if is_off():
        raise CannotBuild("switched off by ACMIX_CPU_KERNELS=0 in the environment; unset it to use them")
    if os.name != "posix":
        raise CannotBuild(f"built on Linux and macOS only, and this is {platform.system()}")
    sources = sources or KERNELS
    folders = cache_folders()
    what = f"acmix-{key(contents(sources), FLAGS, extra, limits(), cpu(), loaded_openmp())}"
    try:
        compiler = find_compiler()
    except CannotBuild:
        # built ahead, where there was a compiler
        built = None if force else find_built(folders, f"{what}-*.so")
        if built is None:
            raise
        return built
    name = f"{what}-{key(compiler)}.so"
    built = None if force else find_built(folders, name)
    if built is not None:
        return built
    try:
        return build_once(make_folder(folders) / name, sources, compiler, force)
    except OSError as error:
        raise CannotBuild(f"{error}; free some space, or set ACMIX_CACHE to another folder") from error


def is_off() -> bool:
    """Whether the user wants none."""
    return os.environ.get("ACMIX_CPU_KERNELS") == "0"


def say(text: str) -> None:
    """Writes to the user at once, past any pipe that output goes into."""
    sys.stderr.write(text)
    sys.stderr.flush()


# The folder


def cache_folders() -> list[Path]:
    """Where a library may lie: the user's cache, and a private folder where that cannot be had."""
    named = os.environ.get("ACMIX_CACHE")
    if not named:
        base = os.environ.get("XDG_CACHE_HOME", "")
        named = os.path.join(base if os.path.isabs(base) else "~/.cache", "acmix")
    named = os.path.expanduser(named)
    # the private one keeps its last link: one that lies in a folder for all could be turned elsewhere
    private = Path(tempfile.gettempdir()).resolve() / f"acmix-{os.getuid()}"
    return [*([] if named.startswith("~") else [Path(named).resolve()]), private]


def make_folder(folders: Iterable[Path]) -> Path:
    """The first folder that this user can create and write to, and no other user can."""
    refused = []
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            refused.append(f"{folder} ({error.strerror})")
            continue
        if not is_ours(folder):
            refused.append(f"{folder} (others can write to it)")
        elif not os.access(folder, os.W_OK):
            refused.append(f"{folder} (read only)")
        else:
            return folder
    raise CannotBuild(
        f"no folder for the compiled kernels: {', '.join(refused)}; set ACMIX_CACHE to a folder of your own"
    )


def is_ours(path: Path) -> bool:
    """Whether only this user or root could have written the path."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return not path.is_symlink() and status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022


def find_built(folders: Iterable[Path], pattern: str) -> Built | None:
    """The newest library of that name that is whole and loads."""
    for folder in filter(is_ours, folders):
        for path in sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True):
            found = load(path)
            if found is not None:
                return Built(found, path, 0.0)
    return None


def load(path: Path) -> ctypes.CDLL | None:
    """Loads a library, or returns None where that would not be safe.

    A file cut short ends the process when it is loaded; hence the checksum, which is written last.
    """
    try:
        if not is_ours(path) or path.with_suffix(".sha256").read_text() != checksum(path):
            return None
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process at the latest."""
    import fcntl  # not on Windows

    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # a process that was forked meanwhile holds the file open too
            fcntl.flock(file, fcntl.LOCK_UN)


# The name


def key(*parts: object) -> str:
    """A short name for what has these parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def contents(sources: Path) -> list[tuple[str, str]]:
    """Names and checksums of the sources."""
    paths = sorted([*sources.rglob("*.cpp"), *sources.rglob("*.h")])
    return [(path.relative_to(sources).as_posix(), checksum(path)) for path in paths]


def limits() -> tuple[str, ...]:
    """The limits in the operators' specs, which stand nowhere else, as macros: MOST_TAPS is ACMIX_MOST_TAPS in C++."""
    found = []
    for path in sorted(FOLDER.glob("*/spec.py")):
        # now, because the operators import this module
        spec = importlib.import_module(f"acmix.ops.{path.parent.name}.spec")
        found += [f"-DACMIX_{name}={value}" for name, value in vars(spec).items() if name.startswith("MOST_")]
    return tuple(found)


# The build


def build_once(target: Path, sources: Path, compiler: Compiler, force: bool) -> Built:
    """Builds in one process, and waits for it in the others."""
    asked = time.time()
    failure = target.with_suffix(".failed")
    with locked(target.with_suffix(".lock")):
        built = None if force else find_built([target.parent], target.name)
        if built is not None:
            return built
        if failure.exists() and failure.stat().st_mtime > asked:
            # while this process waited
            raise CannotBuild(failure.read_text(encoding="utf-8"))
        say(f"acmix: building CPU kernels (once; {EXPECTED}) …")
        started = time.perf_counter()
        try:
            loaded, has_threads = compile_and_load(target, sources, compiler)
        except CannotBuild as error:
            say(" failed\n")
            failure.write_text(str(error), encoding="utf-8")
            raise
        seconds = time.perf_counter() - started
        threads = "" if has_threads else f" (for one thread: no OpenMP in {compiler.command[0]} that torch shares)"
        say(f" done in {seconds:.1f} s{threads}: {target}\n")
        return Built(loaded, target, seconds)


def compile_and_load(target: Path, sources: Path, compiler: Compiler) -> tuple[ctypes.CDLL, bool]:
    """Compiles all sources at the same time, links, and gives the library its name once it has been loaded."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as name:
        folder = Path(name)
        openmp = openmp_flags(compiler, folder)
        compiling, linking = openmp or ([], [])
        compiling = [*FLAGS, *extra, *limits(), f"-I{sources / 'include'}", *compiling]
        # numbered: every operator has a forward.cpp
        objects = {path: folder / f"{i}.o" for i, path in enumerate(sorted(sources.rglob("*.cpp")))}
        commands = [
            [*compiler.command, *compiling, "-c", str(source), "-o", str(made)] for source, made in objects.items()
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(call, commands))
        made = folder / target.name
        call([*compiler.command, *extra, "-shared", *map(str, objects.values()), "-o", str(made), *linking])
        made.chmod(0o755)
        try:
            loaded = ctypes.CDLL(str(made))
        except OSError as error:
            raise CannotBuild(f"the library that {compiler.command[0]} built does not load: {error}") from error
        done = checksum(made)
        made.replace(target)
        target.with_suffix(".sha256").write_text(done, encoding="utf-8")
    return loaded, openmp is not None
