"""Runs every case of every operator over CPU kernels that watch themselves: `python scripts/sanitize.py [OPERATOR …]`.

The kernels are built with the address sanitizer, which sees what is read or written outside of what was allocated, and
with the one for undefined behaviour. Prints a line for each operator, and ends with status 1 if there was a finding.
Needs g++ and its libasan. The build, of a minute or two, goes into a folder of its own in the cache.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import product

import torch

from acmix.errors import UsageError
from acmix.ops import build, dispatch
from acmix.ops.compiler import CannotBuild, call, find_compiler
from acmix.testing.cases_cpu import FULL_CASES, WIDE_CASES
from acmix.testing.judge import results_of

# -O1, since checks in unrolled loops take minutes to optimise; a finding does not end the process, so all are told
FLAGS = ("-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fsanitize-recover=address")
# Python does not free all it has when it ends
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:halt_on_error=0"}
DTYPES = (torch.float32, torch.bfloat16)
THREADS = (1, 2)

# what the watched process says in between
CASE, REFUSED = "acmix case: ", "acmix case refused"
ADDRESS = re.compile(r"ERROR: AddressSanitizer: (\S+)")
UNDEFINED = re.compile(r"([^/\s]+/[^/\s]+: runtime error: .*)")
# a function of ours in a stack, with its place
FRAME = re.compile(r"#\d+ \S+ in .*/(ops/\S+:\d+)")


@dataclass(frozen=True)
class Outcome:
    """What came of an operator's cases: calls, calls that the kernels do not take, a line for each finding."""

    calls: int
    refused: int
    findings: list[str]

    def __str__(self) -> str:
        refused = f", {self.refused} more that the kernels do not take" if self.refused else ""
        return f"{self.calls} calls forward and backward{refused}; findings: {len(self.findings)}"


def main() -> int:
    """Returns 1 where there is a finding."""
    known = ", ".join(dispatch.OPERATORS)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help=f"of {known}; all by default")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.operators if name not in dispatch.OPERATORS]
    if unknown:
        parser.exit(2, f"acmix: error: no operator {unknown[0]!r}; there are {known}\n")
    names = arguments.operators or list(dispatch.OPERATORS)
    if arguments.inside:
        run_cases(arguments.operators)
        return 0
    try:
        environment = watched_environment()
    except CannotBuild as error:
        parser.exit(2, f"acmix: error: {error}\n")
    # in a process of its own, because a sanitizer finds no lines in a library that was renamed since it was loaded
    if subprocess.run(inside(), env=environment).returncode:
        parser.exit(2, "acmix: error: the kernels were not built with sanitizers, see above\n")
    found = False
    for name in names:
        outcome = watch(name, environment)
        say(f"{name}: {outcome}")
        for line in outcome.findings:
            say(f"  {line}")
        found = found or bool(outcome.findings)
    return int(found)


def watched_environment() -> dict[str, str]:
    """The environment of a process whose kernels are watched.

    Raises:
        CannotBuild: the compiler has no sanitizer that can be loaded into a process before all else.
    """
    compiler = find_compiler()
    # the second, because the first looks for what throws exceptions when the process starts
    names = ("libasan.so", "libstdc++.so.6")
    libraries = [call([*compiler.command, f"-print-file-name={name}"]).strip() for name in names]
    for name, path in zip(names, libraries, strict=True):
        if not os.path.isabs(path):
            raise CannotBuild(f"{compiler.command[0]} has no {name}; install g++ with its sanitizers, or set CXX")
    cache = build.cache_folders()[0] / "sanitized"
    return {**os.environ, **OPTIONS, "LD_PRELOAD": " ".join(libraries), "ACMIX_CACHE": str(cache)}


def inside(*operators: str) -> list[str]:
    """The command of a process that builds what it needs and runs the operators' cases."""
    return [sys.executable, __file__, "--inside", *operators]


def watch(operator: str, environment: dict[str, str]) -> Outcome:
    """Runs an operator's cases in a process of their own."""
    done = subprocess.run(
        inside(operator),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return outcome_of(done.stdout, done.returncode)


def outcome_of(output: str, status: int) -> Outcome:
    """Reads what the watched process and its sanitizers said."""
    case, calls, refused, findings, is_placed = "before the first case", 0, 0, [], True
    for line in output.splitlines():
        if line.startswith(CASE):
            case, calls, is_placed = line.removeprefix(CASE), calls + 1, True
        elif line == REFUSED:
            calls, refused = calls - 1, refused + 1
        elif found := ADDRESS.search(line):
            findings.append(f"{case}: {found[1]}")
            is_placed = False
        elif found := UNDEFINED.search(line):
            findings.append(f"{case}: {found[1]}")
        elif not is_placed and (found := FRAME.search(line)):
            findings[-1] += f" at {found[1]}"
            is_placed = True
    if status:
        last = (output.strip().splitlines() or ["it said nothing"])[-1]
        findings.append(f"{case}: the process ended with status {status}: {last}")
    elif not calls:
        findings.append("no case ran")
    return Outcome(calls, refused, findings)


def run_cases(operators: list[str]) -> None:
    """Runs operators' cases in this process, and says which one comes."""
    # the compiler need not be watched
    os.environ.pop("LD_PRELOAD", None)
    build.extra = FLAGS
    # where there are no kernels this raises, while every case would be refused
    build.library()
    for operator in operators:
        odd = dispatch.OPERATORS[operator].parts["cases"].CASES
        for case in (*odd, *WIDE_CASES.get(operator, ()), *FULL_CASES.get(operator, ())):
            for dtype, threads in product(DTYPES, THREADS):
                torch.set_num_threads(threads)
                say(f"{CASE}{case.name}, {str(dtype).removeprefix('torch.')}, threads {threads}")
                try:
                    results_of(case, "cpu", case.tensors(dtype))
                except UsageError:
                    say(REFUSED)


def say(text: str) -> None:
    """Writes a line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
