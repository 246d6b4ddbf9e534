"""Compiles every launch of an operator's GPU kernels at the networks' shapes for one target, and says what each takes.

python -m acmix.benchmark.ahead.compiled OPERATOR TARGET DTYPE [--every N] [--batch N]   ->  a line of JSON a kernel

A process of its own, since Triton's driver is replaced by one that only says what to compile for. Each launch is
compiled with each of its choices of settings; registers and spills are what `ptxas -v` says, or AMD's assembler.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.errors import TritonError
from triton.runtime.autotuner import Autotuner
from triton.runtime.driver import driver

from acmix.benchmark.ahead.launches import Launch, described, of_call
from acmix.benchmark.ahead.targets import TARGETS, Target
from acmix.ops.dispatch import OPERATORS

BATCH = 128
DTYPES = ("bfloat16", "float16", "float32")


class NoDevice:
    """What stands in for Triton's driver."""

    def __init__(self, target: Target) -> None:
        self.target = GPUTarget(target.backend, target.arch, target.lanes)

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        return self.target

    def get_current_device(self) -> int:
        """The only device."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The only stream."""
        return 0


def compiled(
    operator: str, target: Target, dtype: str, *, every: int = 1, batch: int = BATCH
) -> Iterator[dict[str, Any]]:
    """Every launch of an operator, forward and backward, at the networks' shapes, with each choice of its settings.

    Args:
        operator: its name.
        target: what to compile for.
        dtype: of the data; parameters are float32.
        every: of the networks' shapes, takes each so many-th.
        batch: images.

    Yields:
        operator, kernel, shape, dtype, target, warps, stages, registers, spill_bytes, shared_bytes,
        programs_per_multiprocessor; a choice that does not compile has an `error` in place of figures.
    """
    with compiling_for(target):
        known: dict[int, tuple[Any, tuple[int, int]]] = {}
        for case in OPERATORS[operator].parts["cases"].NETWORKS[::every]:
            for launches in of_call(operator, described(case, getattr(torch, dtype), batch)):
                for launch in launches:
                    for row in rows_of(launch, target, known):
                        yield {"operator": operator, "shape": case.name, "dtype": dtype, "target": target.name, **row}


@contextmanager
def compiling_for(target: Target) -> Iterator[None]:
    """Inside, Triton compiles for a target, anew whatever lies in its cache, and prints what `ptxas` says."""
    knobs.nvidia.dump_ptxas_log = True
    knobs.compilation.always_compile = True
    driver.set_active(NoDevice(target))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        knobs.cache.dir = folder
        yield


def rows_of(launch: Launch, target: Target, known: dict[int, tuple[Any, tuple[int, int]]]) -> Iterator[dict[str, Any]]:
    """Compiles one launch with each choice of its settings.

    Args:
        launch: what is launched.
        target: what to compile for.
        known: what was compiled before, with its registers and spills; Triton keeps it for the like of the arguments.
    """
    for choice in choices_of(launch):
        row: dict[str, Any] = {
            "kernel": launch.function.__name__,
            "warps": choice.num_warps,
            "stages": choice.num_stages,
        }
        told = io.StringIO()
        try:
            with redirect_stdout(told):
                made = launch.function.warmup(
                    *launch.values, grid=launch.grid, **{**launch.named, **choice.all_kwargs()}
                )
        except (TritonError, RuntimeError) as error:
            yield {**row, "error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
            continue
        if id(made) not in known:
            known[id(made)] = made, figures_of(told.getvalue(), made, target)
        registers, spilled = known[id(made)][1]
        shared = int(made.metadata.shared)
        yield {
            **row,
            "registers": registers,
            "spill_bytes": spilled,
            "shared_bytes": shared,
            "programs_per_multiprocessor": target.programs_per_multiprocessor(choice.num_warps, registers, shared),
        }


def choices_of(launch: Launch) -> list[triton.Config]:
    """The choices of settings that are timed on a GPU."""
    kernel = launch.kernel
    if not isinstance(kernel, Autotuner):
        return [triton.Config({})]
    if not kernel.early_config_prune:
        return kernel.configs
    named = dict(zip(kernel.arg_names[: len(launch.values)], launch.values, strict=True))
    return kernel.early_config_prune(kernel.configs, {**named, **launch.named})


def figures_of(told: str, made: Any, target: Target) -> tuple[int, int]:
    """Registers of a thread, and the bytes that it writes to memory for want of them."""
    if target.backend == "cuda":
        registers, spilled = (
            re.findall(words, told) for words in (r"Used (\d+) registers", r"(\d+) bytes spill stores")
        )
        return int(registers[0]), int(spilled[0])
    text = made.asm["amdgcn"]
    registers, spilled = (re.findall(rf"\.{name}:\s+(\d+)", text) for name in ("vgpr_count", "vgpr_spill_count"))
    return int(registers[0]), 4 * int(spilled[0])


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected 1 or more")
    return int(text)


def main() -> int:
    """Reads the command line, and prints a line of JSON a row; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operator", choices=list(OPERATORS))
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("dtype", choices=DTYPES)
    parser.add_argument("--every", type=positive, default=1, help="each so many-th of the networks' shapes")
    parser.add_argument("--batch", type=positive, default=BATCH, help="images (default: %(default)s)")
    told = parser.parse_args()
    for row in compiled(told.operator, TARGETS[told.target], told.dtype, every=told.every, batch=told.batch):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
