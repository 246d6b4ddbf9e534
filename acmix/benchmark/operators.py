"""The operators at the shapes of the networks: every implementation beside the reference and PyTorch's own means.

Shapes: B batch · H, W map · N heads, or groups of channels · D channels of each · C = N·D · P = 3·N pieces · T = 9 maps
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from acmix import ops
from acmix.benchmark.machine import DTYPES, Ceilings, check_batch_size, default_device, measured_ceilings
from acmix.benchmark.pairs import Candidate, Measurement, Subject, compare, sample
from acmix.benchmark.peers import PEERS, flex_attention_in_neighbourhoods, flex_why_not
from acmix.benchmark.record import WRONG, counted, lines
from acmix.errors import UsageError
from acmix.ops import dispatch
from acmix.ops.cases import Case
from acmix.testing.judge import PEER_SLACK, Truth, doubled, results, truth_of

if TYPE_CHECKING:
    from acmix.benchmark.budget import Budget

PHASES = ("forward", "forward+backward")


def shapes(operator: str) -> Sequence[Case]:
    """What an operator is measured at: the calls of the networks, from its own folder."""
    return dispatch.OPERATORS[operator].parts["cases"].NETWORKS


def benchmark_operators(
    operators: Sequence[str] = (),
    *,
    dtypes: Sequence[str] = ("fp32",),
    batch_size: int = 8,
    seconds: float = 1.0,
    at: Sequence[Case] | None = None,
    device: torch.device | None = None,
    ceilings: Ceilings | None = None,
    budget: Budget | None = None,
    say: Callable[[str], object] = print,
) -> list[Measurement]:
    """Measures every implementation that can run beside the reference and beside PyTorch's own means.

    Where the reference alone can run, it is what stands beside PyTorch's.

    Args:
        operators: names in `acmix.ops`; all by default.
        dtypes: "fp32", "bf16".
        batch_size: B.
        seconds: how long a pair's rounds last.
        at: shapes; those of `shapes` by default.
        device: the GPU where there is one, by default.
        ceilings: of this machine; measured first by default.
        budget: instead of `seconds`: every pair gets its share of it.
        say: prints a line.

    Returns:
        The measurements. Where a result is wrong, its measurement has no speed.

    Raises:
        UsageError: no such operator.
    """
    device = device or default_device()
    check_operators(operators, batch_size)
    ceilings = ceilings or measured_ceilings(device, dtypes, say)
    chosen = at if at is not None else [shape for name in operators or dispatch.OPERATORS for shape in shapes(name)]
    measured = []
    for shape in chosen:
        for dtype in dtypes:
            at_shape = f"{shape.operator} {shape.name} {dtype}"
            if budget is not None and not budget.begin(f"{at_shape}, checking"):
                budget.leave_out(pairs_at(shape.operator) - 1)
                continue
            for ours, peer, subject in pairs(shape, batch_size, dtype, device, say):
                if budget is not None and not budget.begin(
                    f"{at_shape} {subject.phase}, {ours.name} beside {peer.name}"
                ):
                    continue
                found = compare(subject, ours, peer, ceilings=ceilings, device=device, seconds=seconds, budget=budget)
                measured.append(found)
                for line in lines(found):
                    say(line)
    for line in tables(measured):
        say(line)
    return measured


def check_operators(operators: Sequence[str], batch_size: int) -> None:
    """Refuses what cannot be measured."""
    unknown = [name for name in operators if name not in dispatch.OPERATORS]
    if unknown:
        raise UsageError(f"no operator {unknown[0]!r}; there are {', '.join(dispatch.OPERATORS)}")
    check_batch_size(batch_size)


def least_seconds(case: Case, batch_size: int, device: torch.device) -> float:
    """How long the check of a shape and one round take at least, about: from the reference on one image."""
    one = replace(case, map_size=(1, *case.map_size[1:]))
    tensors = one.tensors(torch.float32, device)
    with ops.use("reference"):
        took = sample(lambda: results(one.call, tensors), 1, device)
    # the reference in float64 and in the tensors' format, and both sides of a pair forward and with backward
    return 4 * batch_size * took


def pairs_at(operator: str) -> int:
    """How many pairs there are at a shape where one implementation of ours runs, about."""
    return len(PHASES) * (1 + len(PEERS.get(operator, {})))


def tables(measured: Sequence[Measurement]) -> list[str]:
    """For each operator and format a table: milliseconds, and the speed-up over each peer."""
    made: list[str] = []
    for name, dtype in dict.fromkeys((each.subject.name, each.subject.dtype) for each in measured):
        found = [each for each in measured if (each.subject.name, each.subject.dtype) == (name, dtype)]
        ours, images = found[0].candidate, found[0].subject.images
        peers = list(dict.fromkeys(each.peer or "" for each in found))
        rows = [("shape", f"ms of {ours}", *[f"over {peer}" for peer in peers])]
        for shape in dict.fromkeys(each.subject.shape for each in found):
            of_shape = [each for each in found if each.subject.shape == shape]
            cells = [in_phases([each for each in of_shape if each.peer == peer], "speed_up") for peer in peers]
            rows.append((shape, in_phases(of_shape, "time_ms"), *cells))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        divided = f"speed-up over X = time of X ÷ time of {ours}"
        made += ["", f"{name}, {dtype}, {counted(images, 'image')}: forward / forward with backward; {divided}"]
        made += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return made


def in_phases(measured: Sequence[Measurement], figure: str) -> str:
    """A figure of the first measurement of each phase."""
    cells = []
    for phase in PHASES:
        speed = [each.speed for each in measured if each.subject.phase == phase][:1]
        cells += [WRONG if each is None else f"{getattr(each, figure):.3g}" for each in speed] or ["–"]
    return " / ".join(cells)


def pairs(
    case: Case, batch_size: int, dtype: str, device: torch.device, say: Callable[[str], object] = print
) -> Iterator[tuple[Candidate, Candidate, Subject]]:
    """Everything that is measured at a shape."""
    case = replace(case, map_size=(batch_size, *case.map_size[1:]))
    # as under autocast
    tensors = case.tensors(DTYPES[dtype], device, parameters=torch.float32)
    with ops.use("reference"):
        exact = results(case.call, {name: doubled(tensor) for name, tensor in tensors.items()})
        truth = truth_of(exact, results(case.call, tensors), DTYPES[dtype])
    by_hand = dict(PEERS.get(case.operator, {}))
    if case.operator == "local_attention":
        reason = flex_why_not(tensors, case.settings)
        if reason is None:
            by_hand["FlexAttention"] = flex_attention_in_neighbourhoods
        else:
            say(f"{case.name}: FlexAttention is no peer here: {reason}")
    names = implementations(case, tensors)
    for phase in PHASES:
        subject = Subject(case.operator, case.name, dtype, phase, batch_size)
        make = partial(candidate, tensors=tensors, parameters=case.parameters, truth=truth, phase=phase)
        ours = [make(name, case.call, implementation=name) for name in names]
        peers = [make(name, partial(by_name, call, case.settings)) for name, call in by_hand.items()]
        fast = [each for each in ours if each.name != "reference"]
        for one in fast or ours:
            for peer in [*(ours[-1:] if fast else []), *peers]:
                yield one, peer, subject


def by_name(call: Callable[..., Tensor], settings: dict[str, Any], tensors: dict[str, Tensor]) -> Tensor:
    """Calls a function that takes tensors by name."""
    return call(**tensors, **settings)


def implementations(case: Case, tensors: dict[str, Tensor]) -> list[str]:
    """Those that can run a call, the reference last."""
    arguments = dispatch.arguments_of(case.operator, **tensors, **case.settings)
    able = []
    for each in dispatch.IMPLEMENTATIONS:
        try:
            with ops.use(each.name):
                dispatch.choose(case.operator, arguments)
        except UsageError:
            continue
        able.append(each.name)
    return able


def candidate(
    name: str,
    call: Callable[[dict[str, Tensor]], Tensor],
    *,
    tensors: dict[str, Tensor],
    parameters: Sequence[str],
    truth: Truth,
    phase: str,
    implementation: str | None = None,
) -> Candidate:
    """A way to compute an operator, as the engine takes it.

    Args:
        name: what tables call it.
        call: takes the tensors by name.
        tensors: the arguments.
        parameters: which of them are small beside the data, and do not count as bytes moved.
        truth: what it is judged by.
        phase: one of `PHASES`.
        implementation: what `ops.use` is told; None for what does not go through `acmix.ops`.
    """

    def using() -> AbstractContextManager[None]:
        return nullcontext() if implementation is None else ops.use(implementation)

    with torch.no_grad(), using():
        upstream = torch.ones_like(call(tensors))

    def forward() -> object:
        with torch.no_grad(), using():
            return call(tensors)

    def both() -> object:
        with using():
            return torch.autograd.grad(call(tensors), list(tensors.values()), upstream)

    @cache
    def faults() -> list[str]:
        with using():
            return truth.faults(results(call, tensors), 1.0 if implementation else PEER_SLACK)

    run = forward if phase == "forward" else both
    with FlopCounterMode(display=False) as counter:
        run()
    data = [tensor for key, tensor in tensors.items() if key not in parameters]
    moved = sum(tensor.nbytes for tensor in [*data, upstream])
    if phase != "forward":
        # backward reads the inputs and the upstream gradient, and writes a gradient of each input
        moved += sum(tensor.nbytes for tensor in [*data, *data, upstream])
    return Candidate(name, run, faults, flops=counter.get_total_flops() or None, moved_bytes=moved)
