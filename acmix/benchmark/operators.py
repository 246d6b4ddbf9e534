"""The operators at the shapes of the networks: every implementation beside the reference and PyTorch's own means.

Shapes: B batch · H, W map · N heads, or groups of channels · D channels of each · C = N·D · P = 3·N pieces · T = 9 maps
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from acmix import ops
from acmix.benchmark.machine import DTYPES, Ceilings, check_batch_size, default_device, measured_ceilings
from acmix.benchmark.pairs import Candidate, Measurement, Subject, compare
from acmix.benchmark.peers import PEERS, flex_attention_in_neighbourhoods, flex_why_not
from acmix.benchmark.record import WRONG, lines
from acmix.errors import UsageError
from acmix.ops import dispatch
from acmix.testing.judge import PEER_SLACK, Results, Truth, truth_of

WINDOW, NEIGHBOURHOOD, TAPS = 7, 7, 9
PHASES = ("forward", "forward+backward")
# what stays in float32 while data is in another format, as under autocast
PARAMETERS = ("fc_weight", "fc_bias", "kernels", "bias_table")


@dataclass(frozen=True)
class Shape:
    """One call of an operator on a square map.

    Args:
        operator: its name in `acmix.ops`.
        side: of the map in pixels.
        channels, heads: C and N; for patchwise attention those of the values, and their groups.
        stride, shift: of the call.
        bias: whether fc has one, as in the transformer families.
        size: side of a neighbourhood.
    """

    operator: str
    side: int
    channels: int
    heads: int
    stride: int = 1
    shift: int = 0
    bias: bool = True
    size: int = NEIGHBOURHOOD

    def __str__(self) -> str:
        more = [f"stride {self.stride}"] * (self.stride > 1) + [f"shift {self.shift}"] * (self.shift > 0)
        more += [f"size {self.size}"] * (self.size != NEIGHBOURHOOD)
        return " ".join([f"{self.side}x{self.side}", f"C {self.channels}", f"N {self.heads}", *more])

    @property
    def settings(self) -> dict[str, Any]:
        """What is no tensor."""
        shift = (self.shift, self.shift)
        if self.operator == "conv_path":
            return dict(stride=self.stride, shift=shift, **({} if self.bias else {"fc_bias": None}))
        if self.operator == "window_attention":
            return dict(window=WINDOW, shift=shift)
        if self.operator == "patchwise_attention":
            return dict(size=self.size)
        return dict(size=self.size, stride=self.stride)

    def tensors(self, batch_size: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
        """Random arguments by name, that ask for gradients."""
        draw = torch.Generator().manual_seed(0)
        width = self.channels // self.heads
        sizes: dict[str, tuple[int, ...]] = {}
        if self.operator == "conv_path":
            sizes["pieces"] = (batch_size, self.side, self.side, 3 * self.heads, width)
            sizes["fc_weight"] = (TAPS, 3 * self.heads)
            if self.bias:
                sizes["fc_bias"] = (TAPS,)
            sizes["kernels"] = (self.channels, TAPS, 3, 3)
        elif self.operator == "patchwise_attention":
            sizes["values"] = (batch_size, self.side, self.side, self.channels)
            sizes["weights"] = (batch_size, self.side, self.side, self.size**2, self.heads)
        else:
            sizes["qkv"] = (batch_size, self.side, self.side, 3, self.heads, width)
            if self.operator == "window_attention":
                sizes["bias_table"] = ((2 * WINDOW - 1) ** 2, self.heads)
            else:
                sizes["position"] = (self.side, self.side, width)
        scale = {"fc_weight": (3 * self.heads) ** -0.5, "kernels": 1 / TAPS, "weights": 1 / self.size}
        return {
            name: (torch.randn(*size, generator=draw) * scale.get(name, 1.0))
            .to(device, torch.float32 if name in PARAMETERS else dtype)
            .requires_grad_()
            for name, size in sizes.items()
        }


SWIN = [(56, 96, 3), (28, 192, 6), (14, 384, 12), (7, 768, 24)]
RESNET = [(56, 64), (28, 128), (14, 256), (7, 512)]
SAN = [(112, 16, 2, 3), (56, 64, 8, 7), (28, 128, 16, 7), (14, 256, 32, 7), (7, 512, 64, 7)]


def shapes(operator: str) -> list[Shape]:
    """What an operator is measured at: Swin-T's stages, shifted and not, ResNet's, SAN's, and a map of 80×80."""
    # a map of one window is never shifted
    swin = [Shape(operator, *each, shift=shift) for each in SWIN for shift in (0, 3) if each[0] > WINDOW or not shift]
    resnet = [Shape(operator, side, channels, 4, bias=False) for side, channels in RESNET]
    # the first bottleneck of a stage halves the map of the stage before
    resnet += [Shape(operator, 2 * side, channels, 4, stride=2, bias=False) for side, channels in RESNET[1:]]
    resnet += [Shape(operator, 80, 64, 4, bias=False)]
    san = [Shape(operator, side, channels, groups, size=size) for side, channels, groups, size in SAN]
    return {
        "conv_path": swin + resnet,
        "window_attention": swin,
        "local_attention": resnet,
        "patchwise_attention": san,
    }[operator]


def benchmark_operators(
    operators: Sequence[str] = (),
    *,
    dtypes: Sequence[str] = ("fp32",),
    batch_size: int = 8,
    seconds: float = 1.0,
    at: Sequence[Shape] | None = None,
    device: torch.device | None = None,
    ceilings: Ceilings | None = None,
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
        say: prints a line.

    Returns:
        The measurements. Where a result is wrong, its measurement has no speed.

    Raises:
        UsageError: no such operator.
    """
    device = device or default_device()
    unknown = [name for name in operators if name not in dispatch.OPERATORS]
    if unknown:
        raise UsageError(f"no operator {unknown[0]!r}; there are {', '.join(dispatch.OPERATORS)}")
    check_batch_size(batch_size)
    ceilings = ceilings or measured_ceilings(device, dtypes, say)
    chosen = at if at is not None else [shape for name in operators or dispatch.OPERATORS for shape in shapes(name)]
    measured = []
    for shape in chosen:
        for dtype in dtypes:
            for ours, peer, subject in pairs(shape, batch_size, dtype, device, say):
                found = compare(subject, ours, peer, ceilings=ceilings, device=device, seconds=seconds)
                measured.append(found)
                for line in lines(found):
                    say(line)
    for line in tables(measured):
        say(line)
    return measured


def tables(measured: Sequence[Measurement]) -> list[str]:
    """For each operator and format a table: milliseconds, and how many times as fast as each peer."""
    made: list[str] = []
    for name, dtype in dict.fromkeys((each.subject.name, each.subject.dtype) for each in measured):
        found = [each for each in measured if (each.subject.name, each.subject.dtype) == (name, dtype)]
        ours, images = found[0].candidate, found[0].subject.images
        peers = list(dict.fromkeys(each.peer or "" for each in found))
        rows = [("shape", f"ms of {ours}", *[f"x {peer}" for peer in peers])]
        for shape in dict.fromkeys(each.subject.shape for each in found):
            of_shape = [each for each in found if each.subject.shape == shape]
            cells = [in_phases([each for each in of_shape if each.peer == peer], "ratio") for peer in peers]
            rows.append((shape, in_phases(of_shape, "time_ms"), *cells))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        made += ["", f"{name}, {dtype}, {images} images: forward / forward with backward"]
        made += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return made


def in_phases(measured: Sequence[Measurement], figure: str) -> str:
    """A figure of the first measurement of each phase."""
    cells = []
    for phase in PHASES:
        speed = [each.speed for each in measured if each.subject.phase == phase][:1]
        cells += [WRONG if each is None else f"{getattr(each, figure):.3g}" for each in speed]
    return " / ".join(cells)


def pairs(
    shape: Shape, batch_size: int, dtype: str, device: torch.device, say: Callable[[str], object] = print
) -> Iterator[tuple[Candidate, Candidate, Subject]]:
    """Everything that is measured at a shape."""
    tensors = shape.tensors(batch_size, DTYPES[dtype], device)
    whole = partial(getattr(ops, shape.operator), **shape.settings)
    with ops.use("reference"):
        exact = results(whole, {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()})
        truth = truth_of(exact, results(whole, tensors), DTYPES[dtype])
    by_hand = dict(PEERS[shape.operator])
    if shape.operator == "local_attention":
        reason = flex_why_not(tensors, shape.settings)
        if reason is None:
            by_hand["FlexAttention"] = flex_attention_in_neighbourhoods
        else:
            say(f"{shape}: FlexAttention is no peer here: {reason}")
    names = implementations(whole, shape.tensors(1, DTYPES[dtype], device))
    for phase in PHASES:
        subject = Subject(shape.operator, str(shape), dtype, phase, batch_size)
        make = partial(candidate, tensors=tensors, truth=truth, phase=phase)
        ours = [make(name, whole, implementation=name) for name in names]
        peers = [make(name, partial(call, **shape.settings)) for name, call in by_hand.items()]
        fast = [each for each in ours if each.name != "reference"]
        for one in fast or ours:
            for peer in [*(ours[-1:] if fast else []), *peers]:
                yield one, peer, subject


def implementations(call: Callable[..., Tensor], tensors: dict[str, Tensor]) -> list[str]:
    """Those that can run a call, the reference last."""
    able = []
    for each in dispatch.IMPLEMENTATIONS:
        try:
            with ops.use(each.name):
                call(**tensors)
        except UsageError:
            continue
        able.append(each.name)
    return able


def candidate(
    name: str,
    call: Callable[..., Tensor],
    *,
    tensors: dict[str, Tensor],
    truth: Truth,
    phase: str,
    implementation: str | None = None,
) -> Candidate:
    """A way to compute an operator, as the engine takes it.

    Args:
        name: what tables call it.
        call: takes the tensors by name.
        tensors: the arguments.
        truth: what it is judged by.
        phase: one of `PHASES`.
        implementation: what `ops.use` is told; None for what does not go through `acmix.ops`.
    """

    def using() -> AbstractContextManager[None]:
        return nullcontext() if implementation is None else ops.use(implementation)

    with torch.no_grad(), using():
        upstream = torch.ones_like(call(**tensors))

    def forward() -> object:
        with torch.no_grad(), using():
            return call(**tensors)

    def both() -> object:
        with using():
            return torch.autograd.grad(call(**tensors), list(tensors.values()), upstream)

    @cache
    def faults() -> list[str]:
        with using():
            return truth.faults(results(call, tensors), 1.0 if implementation else PEER_SLACK)

    run = forward if phase == "forward" else both
    with FlopCounterMode(display=False) as counter:
        run()
    data = [tensor for key, tensor in tensors.items() if key not in PARAMETERS]
    moved = sum(tensor.nbytes for tensor in [*data, upstream])
    if phase != "forward":
        # backward reads the inputs and the upstream gradient, and writes a gradient of each input
        moved += sum(tensor.nbytes for tensor in [*data, *data, upstream])
    return Candidate(name, run, faults, flops=counter.get_total_flops() or None, moved_bytes=moved)


def results(call: Callable[..., Tensor], tensors: dict[str, Tensor]) -> Results:
    """The output and every gradient, for an upstream gradient that is the same in every format."""
    out = call(**tensors)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    grads = torch.autograd.grad(out, list(tensors.values()), upstream)
    return {"output": out.detach(), **{f"grad {name}": grad for name, grad in zip(tensors, grads, strict=True)}}
