"""`scripts/sanitize.py` reads every kind of finding, and never takes silence for success."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "scripts" / "sanitize.py"
CASE = "acmix case: as SAN has it, float32, threads 1\n"
# as the sanitizers of g++ print them
OVERFLOW = """\
=================================================================
==4711==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x621000017100 at pc 0x7f51 bp 0x7ffc sp 0x7ffd
READ of size 4 at 0x621000017100 thread T0
    #0 0x7f51a4 in forward_row<8> /src/acmix/ops/patchwise_attention/forward.cpp:27
    #1 0x7f51a5 in forward /src/acmix/ops/patchwise_attention/forward.cpp:44
"""
UNDEFINED = "/src/acmix/ops/local_attention/backward.cpp:43:19: runtime error: signed integer overflow: 9 + 1\n"


@pytest.fixture(scope="module")
def sanitize():
    spec = importlib.util.spec_from_file_location("sanitize", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules["sanitize"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["sanitize"]


@pytest.mark.parametrize(
    ("output", "status", "calls", "findings"),
    [
        (CASE + CASE, 0, 2, []),
        (
            CASE + OVERFLOW + CASE,
            0,
            2,
            ["as SAN has it, float32, threads 1: heap-buffer-overflow at ops/patchwise_attention/forward.cpp:27"],
        ),
        (
            CASE + UNDEFINED,
            0,
            1,
            [
                "as SAN has it, float32, threads 1: local_attention/backward.cpp:43:19: "
                "runtime error: signed integer overflow: 9 + 1"
            ],
        ),
        (CASE, -11, 1, ["as SAN has it, float32, threads 1: the process ended with status -11: " + CASE.strip()]),
        ("no kernels\n", 1, 0, ["before the first case: the process ended with status 1: no kernels"]),
        ("", 0, 0, ["no case ran"]),
        (CASE + "acmix case refused\n", 0, 0, ["no case ran"]),
    ],
    ids=["clean", "address", "undefined", "crash", "no build", "silence", "all refused"],
)
def test_a_finding_is_told_with_its_case_and_its_place(output, status, calls, findings, sanitize):
    outcome = sanitize.outcome_of(output, status)
    assert (outcome.calls, outcome.findings) == (calls, findings)
    assert str(outcome).endswith(f"findings: {len(findings)}")


@pytest.mark.slow
def test_an_unknown_operator_and_a_compiler_without_sanitizers_are_one_line(tmp_path):
    bare = tmp_path / "compiler"
    bare.write_text("#!/bin/sh\necho libasan.so\n")
    bare.chmod(0o755)
    for arguments, compiler, said in (
        (["no_such"], "c++", "acmix: error: no operator 'no_such'; there are conv_path, "),
        ([], str(bare), f"acmix: error: {bare} has no libasan.so; install g++ with its sanitizers, or set CXX\n"),
    ):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *arguments],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "CXX": compiler, "ACMIX_CACHE": str(tmp_path)},
            timeout=120,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(said)
        assert done.stderr.count("\n") == 1
