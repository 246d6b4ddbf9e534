"""The CPU kernels' way from source to process: built once, never from hands that are not ours, and never in the way."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from acmix import cli, ops
from acmix.ops import build as cpu_build
from acmix.ops.build import CannotBuild, build, library
from acmix.ops.conv_path.cases import CASES as CONV_CASES
from tests.support.paths import ROOT
from tests.support.processes import PATIENCE

RUNTIME = r"/lib(?:gomp|iomp5|omp)\b[^/]*$"
# only what says so is seen outside of the library
EXPORTED = 'extern "C" __attribute__((visibility("default"))) int'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, a folder for temporary files, and nothing remembered from other tests."""
    for name in ("CXX", "ACMIX_CPU_KERNELS", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cpu_build, "_found", {})
    cpu_build.why_not.cache_clear()
    yield tmp_path / "cache"
    cpu_build.why_not.cache_clear()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kernels that compile in no time, in the place of ours."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "value.h").write_text("int value();\n")
    (folder / "value.cpp").write_text('#include "value.h"\nint value() { return 42; }\n')
    (folder / "answer.cpp").write_text(f'#include "value.h"\n{EXPORTED} answer() {{ return value(); }}\n')
    monkeypatch.setattr(cpu_build, "KERNELS", folder)
    return folder


def ask(start, answers) -> None:
    """Builds and loads, or says why not."""
    start.wait()
    try:
        answers.put(build().library.answer())
    except CannotBuild as error:
        answers.put(str(error))


def processes(count: int = 1) -> list[int | str]:
    """What as many processes at once got from the kernels."""
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(count), context.SimpleQueue()
    children = [context.Process(target=ask, args=(start, answers)) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE)
    assert [child.exitcode for child in children] == [0] * count
    return [answers.get() for _ in children]


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def logging_compiler(folder: Path, before: str = "") -> str:
    """A compiler that notes how it is called in `calls`."""
    path = folder / "compiler"
    path.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/calls"\n{before}\nexec c++ "$@"\n')
    path.chmod(0o755)
    return str(path)


def compiled(folder: Path) -> list[str]:
    """The sources that it was called for."""
    return sorted(Path(name).name for name in re.findall(r" -c (\S+)", (folder / "calls").read_text()))


@pytest.mark.slow
def test_four_processes_at_once_build_once_and_all_load(sources, cache, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CXX", logging_compiler(tmp_path))
    assert processes(4) == [42] * 4
    assert compiled(tmp_path) == ["answer.cpp", "value.cpp"]
    (made,) = libraries(cache)
    said = capfd.readouterr().err
    assert re.fullmatch(rf"acmix: building CPU kernels \(once; .+\) … done in [\d.]+ s: {made}\n", said)
    assert list(cache.glob("build-*")) == []


def test_what_is_built_is_found_and_changed_sources_are_built(sources, cache):
    assert build().seconds > 0
    assert build().seconds == 0
    (sources / "value.cpp").write_text("int value() { return 43; }\n")
    assert processes() == [43]
    (sources / "value.h").write_text("// a header alone\nint value();\n")
    assert processes() == [43]
    assert len(libraries(cache)) == 3


def test_another_compiler_is_another_library(sources, cache, tmp_path, monkeypatch):
    assert processes() == [42]
    monkeypatch.setenv("CXX", logging_compiler(tmp_path))
    assert processes() == [42]
    assert len(libraries(cache)) == 2


def test_files_of_one_name_in_several_folders_are_built_together(sources, cache):
    for folder in ("one", "two"):
        (sources / folder).mkdir()
        (sources / folder / "forward.cpp").write_text(f"{EXPORTED} {folder}() {{ return 1; }}\n")
    loaded = library()
    assert loaded.one() == loaded.two() == loaded.answer() - 41


@pytest.mark.slow
def test_a_limit_in_a_spec_is_a_macro_and_another_limit_another_library(sources, cache, monkeypatch):
    from acmix.ops.conv_path import spec

    (sources / "limit.cpp").write_text(f"{EXPORTED} limit() {{ return ACMIX_MOST_TAPS; }}\n")
    assert build().library.limit() == spec.MOST_TAPS
    monkeypatch.setattr(spec, "MOST_TAPS", 81)
    assert build().library.limit() == 81
    assert len(libraries(cache)) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param("cut short", marks=pytest.mark.slow),
        pytest.param("empty", marks=pytest.mark.slow),
        "other bytes",
        pytest.param("no checksum", marks=pytest.mark.slow),
        pytest.param("writable by others", marks=pytest.mark.slow),
    ],
)
def test_a_library_that_cannot_be_trusted_is_built_again(spoil, sources, cache, capfd):
    assert processes() == [42]
    (made,) = libraries(cache)
    content = made.read_bytes()
    if spoil == "no checksum":
        made.with_suffix(".sha256").unlink()
    elif spoil == "writable by others":
        made.chmod(0o777)
    else:
        made.write_bytes({"cut short": content[:5000], "empty": b"", "other bytes": b"x" * len(content)}[spoil])
    assert processes() == [42]
    assert processes() == [42]
    assert capfd.readouterr().err.count("acmix: building CPU kernels") == 2
    assert libraries(cache) == [made]


def test_a_cache_that_cannot_be_written_to_gives_way_to_a_private_folder(sources, cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ACMIX_CACHE", str(tmp_path / "file" / "cache"))
    private = tmp_path / f"acmix-{os.getuid()}"
    assert build().path.parent == private
    assert private.stat().st_mode & 0o777 == 0o700


def test_nothing_is_loaded_from_a_folder_that_others_can_write_to(sources, cache, tmp_path):
    assert build().path.parent == cache
    cache.chmod(0o777)
    private = tmp_path / f"acmix-{os.getuid()}"
    built = build()
    assert built.path.parent == private
    assert built.seconds > 0
    private.chmod(0o770)
    with pytest.raises(
        CannotBuild, match=rf"^no folder for the compiled kernels: .*{private} \(others can write to it\)"
    ) as told:
        build()
    assert "\n" not in str(told.value)


def test_a_link_does_not_pass_for_the_private_folder(sources, cache, tmp_path):
    cache.write_text("no folder")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / f"acmix-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(CannotBuild, match="no folder for the compiled kernels"):
        build()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
def test_a_library_built_ahead_needs_no_compiler(sources, cache, monkeypatch):
    assert processes() == [42]
    monkeypatch.setenv("PATH", "")
    assert processes() == [42]
    (sources / "value.cpp").write_text("int value() { return 43; }\n")
    (reason,) = processes()
    assert re.match(r"no C\+\+ compiler on the PATH", str(reason))


def test_the_kernels_share_torch_s_openmp(sources, cache):
    body = """ team() {
            int members = 0;
            #pragma omp parallel num_threads(2)
            #pragma omp atomic
            members++;
            return members;
        }
    """
    (sources / "team.cpp").write_text(EXPORTED + body)
    before = runtimes()
    assert library().team() == 2
    assert runtimes() == before
    assert len(before) == 1 or not sys.platform.startswith("linux")


def runtimes() -> set[str]:
    """The files of OpenMP that torch's part of the process runs on."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    files = {line.split(maxsplit=5)[5] for line in lines if re.search(RUNTIME, line)}
    # scikit-learn, which other tests import, brings one for itself
    return {file for file in files if "/scikit_learn.libs/" not in file}


REASONS = [
    ("PATH", "", r"no C\+\+ compiler on the PATH \(g\+\+, c\+\+, clang\+\+\); install one"),
    ("CXX", "no-such-compiler", "CXX='no-such-compiler' is not a program on the PATH; unset it"),
    ("CXX", "false", r"\S*false ended with status 1: it said nothing; set CXX to another compiler"),
    ("ACMIX_CPU_KERNELS", "0", "switched off by ACMIX_CPU_KERNELS=0 in the environment; unset it"),
]


@pytest.mark.parametrize(("name", "value", "reason"), REASONS, ids=[f"{one[0]}={one[1]}" for one in REASONS])
def test_without_kernels_the_reference_runs_and_the_reason_is_told(name, value, reason, cache, monkeypatch, capfd):
    monkeypatch.setenv(name, value)
    case = CONV_CASES[0]
    out = case.call(case.tensors())
    out.sum().backward()
    with ops.use("reference"):
        assert torch.equal(out, case.call(case.tensors()))
    told = ops.explain("cpu")
    assert re.search(rf"^conv_path +cpu +{reason}", told, re.MULTILINE)
    assert re.search(r"^conv_path +reference +runs$", told, re.MULTILINE)
    with pytest.raises(ValueError, match=f"implementation 'cpu' cannot run: {reason}") as refused, ops.use("cpu"):
        pass
    assert "\n" not in str(refused.value)
    said = capfd.readouterr().err
    expected = "" if name == "ACMIX_CPU_KERNELS" else f"acmix: no CPU kernels, the slower reference runs: {reason}.*\n"
    assert re.fullmatch(expected, said)
    assert not cache.exists()


def test_a_compiler_that_finds_an_error_is_quoted_and_not_asked_again(sources, cache, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CXX", logging_compiler(tmp_path))
    (sources / "value.cpp").write_text("int value() { return nothing; }\n")
    told = []
    for _ in range(2):
        with pytest.raises(
            CannotBuild, match=r"value\.cpp:1:.*error: .*nothing.*; set CXX to another compiler$"
        ) as error:
            library()
        told.append(str(error.value))
    assert told[0] == told[1]
    assert "\n" not in told[0]
    assert compiled(tmp_path).count("value.cpp") == 1
    assert capfd.readouterr().err.endswith(" … failed\n")
    assert libraries(cache) == []


@pytest.mark.slow
def test_who_waited_for_a_build_that_failed_does_not_repeat_it(sources, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", logging_compiler(tmp_path, before="sleep 1"))
    (sources / "value.cpp").write_text("int value() { return nothing; }\n")
    first, second = processes(2)
    assert first == second
    assert compiled(tmp_path).count("value.cpp") == 1
    # a later one tries again
    assert processes() == [first]
    assert compiled(tmp_path).count("value.cpp") == 2


@pytest.fixture
def acmix(monkeypatch, capfd):
    """Calls the entry point: status, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["acmix", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capfd.readouterr()

    return call


def test_the_command_builds_says_where_and_builds_again_if_forced(sources, cache, acmix):
    results = [acmix("build"), acmix("build"), acmix("build", "--force")]
    (made,) = libraries(cache)
    built = rf"CPU kernels: {made} \(built in [\d.]+ s\)\n"
    there = rf"CPU kernels: {made} \(already built; --force compiles again\)\n"
    for (status, said, progress), expected in zip(results, (built, there, built), strict=True):
        assert status == 0
        assert re.fullmatch(expected, said)
        assert progress.count("building CPU kernels") == (expected == built)


def test_the_command_without_a_compiler_ends_with_one_line(cache, acmix, monkeypatch):
    monkeypatch.setenv("PATH", "")
    status, said, errors = acmix("build")
    assert (status, said) == (2, "")
    assert re.fullmatch(r"acmix: error: no C\+\+ compiler on the PATH .*\n", errors)


def test_the_help_of_the_command_fits_one_screen(acmix):
    status, said, errors = acmix("build", "--help")
    assert (status, errors) == (0, "")
    assert 5 < len(said.splitlines()) <= 40


@pytest.mark.slow
def test_importing_builds_nothing_and_a_forked_reader_may_use_the_kernels():
    """One that was forked after its parent had computed with two threads computes too, and does not wait for ever."""
    code = """
import torch
from torch.utils.data import DataLoader, Dataset
import acmix
from acmix.ops import build as cpu_build
assert cpu_build.why_not.cache_info().currsize == 0 and not cpu_build._found

draw = torch.Generator().manual_seed(0)
pieces = torch.randn(8, 14, 14, 6, 16, generator=draw)
weights = torch.randn(9, 6, generator=draw), None, torch.randn(32, 9, 3, 3, generator=draw)

class Images(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return acmix.ops.conv_path(pieces[index : index + 1], *weights)[0]

torch.set_num_threads(2)
expected = acmix.ops.conv_path(pieces, *weights)
for readers in (dict(num_workers=0), dict(num_workers=2, multiprocessing_context="fork")):
    loader = DataLoader(Images(), batch_size=4, **readers)
    torch.testing.assert_close(torch.cat(list(loader)), expected)
torch.testing.assert_close(acmix.ops.conv_path(pieces, *weights), expected)
print(acmix.ops.explain("cpu"))
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^conv_path +cpu +runs$", done.stdout, re.MULTILINE)


def test_every_source_is_part_of_what_is_installed():
    patterns = re.findall(r'"(ops/[^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = {path for pattern in patterns for path in (ROOT / "acmix").glob(pattern)}
    kernels = {path for path in cpu_build.KERNELS.rglob("*") if path.suffix in (".cpp", ".h")}
    assert kernels
    assert kernels <= shipped
