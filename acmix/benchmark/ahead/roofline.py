"""What operators and a training step take on an H200 at best: bytes over its bandwidth, multiply-adds over its rate.

An operator is taken three ways: by the least bytes that any form moves, by those that the launches of this form move,
and by its multiply-adds. Every other node of a step counts with the bytes it reads and writes, or its multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import acmix
from acmix.benchmark.ahead.launches import bytes_of, described, of_call
from acmix.benchmark.record import write_table
from acmix.ops.dispatch import OPERATORS

# an H200: what large copies and bf16 products are reported to reach of 4.8 TB/s and 989 TFLOP/s
BYTES_PER_SECOND, FLOPS_PER_SECOND = 4.3e12, 790e12
BATCH = 128
MODELS = ("acmix_swin_small_patch4_window7_224", "acmix_resnet50")
COLUMNS = ("what", "shape", "phase", "least_mib", "moved_mib", "gmacs", "least_ms", "ms")


def milliseconds(bytes_moved: float, multiply_adds: float) -> float:
    """The longer of both: the bytes' time and the products'."""
    return 1e3 * max(bytes_moved / BYTES_PER_SECOND, 2 * multiply_adds / FLOPS_PER_SECOND)


def write(path: Path) -> None:
    """Writes and prints the table.

    Args:
        path: of the file.
    """
    rows = [*operator_rows(), *step_rows()]
    write_table(path, COLUMNS, rows)
    for row in rows:
        print(" · ".join(f"{name} {row[name]}" if name in COLUMNS[3:] else row[name] for name in COLUMNS))
    print(f"written: {path}")


def operator_rows() -> Iterator[dict[str, Any]]:
    """A row for every operator at the networks' shapes, forward and backward, in bf16 at the batch of 128."""
    for name, operator in OPERATORS.items():
        for case in operator.parts["cases"].NETWORKS:
            arguments = described(case, torch.bfloat16, BATCH)
            for phase, (least, moved, work) in costs_of(name, arguments).items():
                yield row_of(name, case.name, phase, least, moved, work)


def row_of(what: str, shape: str, phase: str, least: float, moved: float, work: float) -> dict[str, Any]:
    """A row; figures with four digits."""
    figures = least / 2**20, moved / 2**20, work / 1e9, milliseconds(least, work), milliseconds(moved, work)
    rounded = (float(f"{each:.4g}") for each in figures)
    return dict(zip(COLUMNS, (what, shape, phase, *rounded), strict=True))


def costs_of(operator: str, arguments: Any) -> dict[str, tuple[int, int, int]]:
    """By phase: the least bytes, those of this form's launches, and multiply-adds."""
    spec = OPERATORS[operator].parts["spec"]
    out = spec.output(arguments)
    tensors = sum(bytes_of(each) for each in arguments if isinstance(each, Tensor))
    forward, backward = (sum(launch.bytes for launch in each) for each in of_call(operator, arguments))
    return {
        "forward": (tensors + bytes_of(out), forward, spec.multiply_adds(arguments, out)),
        "backward": (2 * tensors + bytes_of(out), backward, spec.backward_multiply_adds(arguments, out)),
    }


class Ledger(TorchDispatchMode):
    """Adds up, over everything that runs inside, the time that each node takes at best.

    `seconds` by what a node is: the operators by their names, `products`, and `passes` over memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[float]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, values: Any = (), named: Any = None) -> Any:
        result = function(*values, **(named or {}))
        packet = function.overloadpacket
        name = str(packet).removeprefix("acmix.")
        operator, phase, skipped = part_of(name)
        if operator in OPERATORS:
            self.add_operator(operator, phase, values[skipped:])
        elif not is_view(function):
            tensors = [each for each in tree_leaves((values, named, result)) if isinstance(each, Tensor)]
            moved = sum(bytes_of(each) for each in {id(each): each for each in tensors}.values())
            count = flop_registry.get(packet)
            work = count(*values, **(named or {}), out_val=result) // 2 if count else 0
            self.add("products" if count else "passes over memory", moved, moved, work)
        return result

    def add_operator(self, operator: str, phase: str, given: Any) -> None:
        """One of ours, by its arguments."""
        # PyTorch leaves out what is given as the operator's default
        Arguments = OPERATORS[operator].parts["spec"].Arguments
        arguments = Arguments(*(tuple(each) if isinstance(each, list) else each for each in given))
        with torch._C._DisableTorchDispatch():
            costs = costs_of(operator, arguments)
        self.add(operator, *costs[phase])

    def add(self, what: str, least: float, moved: float, work: float) -> None:
        """A node."""
        row = self.rows.setdefault(what, [0.0] * 5)
        for i, each in enumerate((least, moved, work, milliseconds(least, work), milliseconds(moved, work))):
            row[i] += each


def part_of(node: str) -> tuple[str, str, int]:
    """The operator that a node belongs to, its phase, and how many values stand before the operator's arguments."""
    for suffix, before in (("_backward_onto_", 2), ("_backward", 1)):
        if node.endswith(suffix):
            return node.removesuffix(suffix), "backward", before
    return node, "forward", 0


def is_view(function: Any) -> bool:
    """Whether a node only looks at what is there."""
    returned = [each.alias_info for each in function._schema.returns]
    return bool(returned) and all(each is not None and not each.is_write for each in returned)


def step_rows(models: tuple[str, ...] = MODELS) -> Iterator[dict[str, Any]]:
    """Rows for one training step of each model, bf16 throughout, batch 128: by kind of node, and in all."""
    for name in models:
        model = acmix.create_model(name, device="meta", dtype=torch.bfloat16, num_classes=1000).train()
        images = torch.empty(BATCH, 3, 224, 224, dtype=torch.bfloat16, device="meta")
        labels = torch.empty(BATCH, dtype=torch.long, device="meta")
        with Ledger() as ledger:
            torch.nn.functional.cross_entropy(model(images).float(), labels).backward()
        for what, (least, moved, work, least_ms, ms) in sorted(ledger.rows.items()):
            yield step_row(name, what, least, moved, work, least_ms, ms)
        yield step_row(name, "in all", *(sum(row[i] for row in ledger.rows.values()) for i in range(5)))


def step_row(
    model: str, what: str, least: float, moved: float, work: float, least_ms: float, ms: float
) -> dict[str, Any]:
    """A row of a step, whose times are sums over its nodes."""
    figures = (float(f"{each:.4g}") for each in (least / 2**20, moved / 2**20, work / 1e9, least_ms, ms))
    return dict(zip(COLUMNS, (model, what, "training step", *figures), strict=True))
