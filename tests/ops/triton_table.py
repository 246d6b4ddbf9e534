"""Checks an operator's GPU kernels in Triton's interpreter, in a process of its own.

python -m tests.ops.triton_table conv_path float32 float16     ->  a line a case, status 1 where one is wrong

float32 takes the whole table of cases. float16 has the same index arithmetic and differs in casts and products, whose
shapes follow the block of a head's channels, the pieces and the kernel: it takes a case of each of these shapes.

The slowest cases are smaller here; see `FEWER`.

A process of its own, because Triton asks for TRITON_INTERPRET when it is first imported, and other tests import it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
os.environ["ACMIX_CPU_KERNELS"] = "0"

import dataclasses

import torch
from triton.runtime import interpreter

from acmix.ops import dispatch
from acmix.ops.cases import Case
from acmix.ops.triton_launch import power_of_two
from acmix.testing.judge import errors_of, results_of
from tests.support.cases import refused_by

# The interpreter runs one program after another, so these cases have fewer images and heads here, or a smaller map or
# neighbourhood. Each keeps its masks, its rests of tiles and its ways to mirror; how programs are counted over images
# and heads is shown by those that are left as they are, with a stride ("stride 2, even and odd side"), with a dilation
# ("dilation 2"), with heads of another number ("odd channels") and for every layout.
FEWER: dict[str, dict[str, dict[str, Any]]] = {
    "local_attention": {
        # two tiles of queries and of keys both ways, each with a rest
        "as ResNet has it": dict(map_size=(1, 9, 10), heads=1),
        "stride beyond the map": dict(map_size=(1, 2, 3)),
        "dilation beyond the map": dict(heads=1),
        "24 heads": dict(heads=5),
        "5×3 on 3×2, dilation 2": dict(map_size=(1, 3, 2), heads=1),
        "3×5 on 5×1, stride 3": dict(map_size=(1, 5, 1), heads=1),
    },
    "window_attention": {
        "24 heads": dict(heads=5),
        # several windows of several blocks; "70 pixels, no bias" has two heads of several blocks
        "81 pixels, shifted and padded": dict(heads=1),
    },
    # one side of one pixel and one of two, still mirrored more than once
    "patchwise_attention": {"mirrored more than once": dict(size=(5, 5))},
}


def fewer(case: Case) -> Any:
    """A case as the interpreter takes it."""
    return dataclasses.replace(case, **FEWER.get(case.operator, {}).get(case.name, {}))


# windows and neighbourhoods beyond the CPU kernels' limits take minutes here
TABLES = {
    name: [fewer(case) for case in operator.parts["cases"].CASES if refused_by(case, "cpu") is None]
    for name, operator in dispatch.OPERATORS.items()
}


def main(operator: str, *dtypes: str) -> int:
    """Runs one operator's table in each dtype; how many are wrong, or differ when run again."""
    torch.set_num_threads(1)
    # unwritten elements are NaN, and fail
    torch.use_deterministic_algorithms(True)
    make_quick()
    wrong = sum(wrong_cases(operator, getattr(torch, name)) for name in dtypes)
    return wrong + (wrong_where_wide() if operator == "conv_path" else 0)


def make_quick() -> None:
    """Spares the interpreter what takes more than half of its time and proves nothing here."""
    builder = interpreter.interpreter_builder
    # a second computation of every integer sum, to see whether it overflows
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    # patching the language anew for every function of ours that a kernel calls, though the kernel's patch still holds
    patching = interpreter.InterpretedFunction.__call__

    def call(self: interpreter.InterpretedFunction, *values: Any, **named: Any) -> Any:
        ours = self.fn.__module__.startswith("acmix.")
        return self.rewrite()(*values, **named) if ours else patching(self, *values, **named)

    interpreter.InterpretedFunction.__call__ = call


def wrong_cases(operator: str, dtype: torch.dtype) -> int:
    """Runs one operator's table in one dtype; how many cases are wrong, or differ when run again."""
    cases = cases_in(operator, dtype)
    wrong = sum(is_wrong(case, dtype) for case in cases)
    print(f"{len(cases)} cases in {dtype}, {wrong} wrong")
    return wrong + repeats_differ(operator, dtype)


def is_wrong(case: Any, dtype: torch.dtype) -> bool:
    """Runs one case."""
    bad = [str(error) for error in errors_of(case, "triton", dtype) if error.is_wrong]
    print(f"{'wrong' if bad else 'right'}: {case.name}: {'; '.join(bad)}", flush=True)
    return bool(bad)


def wrong_where_wide() -> int:
    """The convolution path with the 64-bit offsets that images beyond 2³¹ numbers take; how many cases are wrong."""
    kernels = dispatch.OPERATORS["conv_path"].parts["triton"]
    narrow, kernels.is_wide = kernels.is_wide, lambda _: True
    wrong = sum(is_wrong(case, torch.float32) for case in TABLES["conv_path"][:8])
    kernels.is_wide = narrow
    print(f"8 cases with wide offsets, {wrong} wrong")
    return wrong


def cases_in(operator: str, dtype: torch.dtype) -> list[Any]:
    """The cases that a dtype takes."""
    if dtype == torch.float32:
        return list(TABLES[operator])
    shapes: dict[tuple[Any, ...], Any] = {}
    for case in TABLES[operator]:
        shape = tuple(getattr(case, name, None) for name in ("pieces", "conv_size", "channels", "groups"))
        # conv_path's products take a number of channels, those of attention a block of at least 16
        channels = case.head_dim if operator == "conv_path" else power_of_two(getattr(case, "head_dim", 1), least=16)
        shapes.setdefault((channels, *shape), case)
    return list(shapes.values())


def repeats_differ(operator: str, dtype: torch.dtype) -> int:
    """Whether a second run of one case gives other bits."""
    case = TABLES[operator][1]
    first, second = (results_of(case, "triton", case.tensors(dtype)) for _ in range(2))
    differ = [name for name, value in first.items() if not torch.equal(value, second[name])]
    print(f"a second run differs in {differ}" if differ else "a second run gives the same bits")
    return len(differ)


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
