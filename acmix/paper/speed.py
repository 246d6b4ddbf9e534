"""How fast each way to shift and sum is, and what ACmix costs beside plain networks and beside its released form.

The paper's claim is that a grouped convolution, whose kernels start as shifts and may learn, is faster than moving
maps. Every way below is given kernels that are shifts, so that all compute the same.

Shapes: B batch · H, W map · D channels a head · N heads · P = 3·N pieces · T = 9 maps
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix import ops
from acmix.benchmark.contestants import compare_networks, contestants, peer_of
from acmix.benchmark.machine import Ceilings, default_device, measure_ceilings
from acmix.benchmark.operators import PHASES, shapes
from acmix.benchmark.pairs import Candidate, Measurement, Subject, compare
from acmix.benchmark.peers import grouped_convolution, output_sides, rolled
from acmix.benchmark.record import WRONG, rows, write_rows
from acmix.benchmark.released_form import released
from acmix.benchmark.steps import Contestant, Setting
from acmix.ops import pair
from acmix.ops.conv_path.cases import Case
from acmix.paper.limits import check, few_of
from acmix.testing.judge import Truth, doubled, truth_of

RESNET, SWIN = "acmix_resnet26", "acmix_swin_tiny_patch4_window7_224"
NETWORKS = (RESNET, SWIN)
# what a way may be worse by than the reference: it rounds in other places
SLACK = 4.0

Tensors = dict[str, Tensor]


def explicit_shifts(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    *,
    sides: tuple[int, int],
    outputs: int,
    stride: int,
    dilation: int,
    shift: tuple[int, int],
) -> Tensor:
    """The path of kernels that are shifts, by moving every map by its tap: (B, H, W, P, D) -> (B, Ho, Wo, D·M)."""
    maps = F.linear(rolled(pieces, shift, -1).transpose(3, 4), fc_weight, fc_bias)  # (B, H, W, D, T)
    height, width = maps.shape[1:3]
    up, left = (dilation * (side // 2) for side in sides)
    maps = F.pad(maps, (0, 0, 0, 0, left, left, up, up))
    total: Any = 0
    for tap in range(maps.shape[4]):
        y, x = (dilation * step for step in divmod(tap, sides[1]))
        total = total + maps[:, y : y + height : stride, x : x + width : stride, :, tap]  # (B, Ho, Wo, D)
    assert total.shape[1:3] == output_sides(height, width, stride)
    return rolled(total.repeat_interleave(outputs, 3), shift, 1)


@dataclass(frozen=True)
class Way:
    """A way to shift and sum.

    Args:
        name: what tables call it.
        call: takes the tensors by name.
        learns: whether the kernels get a gradient.
    """

    name: str
    call: Callable[[Tensors], Tensor]
    learns: bool


def ways(case: Case) -> list[Way]:
    """What is compared: moved maps, and a convolution in groups and our kernel, each with fixed and learned kernels."""
    settings: dict[str, Any] = case.settings
    shape: dict[str, Any] = dict(sides=pair(case.conv_size), outputs=case.heads)

    def moved(tensors: Tensors) -> Tensor:
        given = {"fc_bias": None, **tensors, **settings}
        return explicit_shifts(**{name: each for name, each in given.items() if name != "kernels"}, **shape)

    def grouped(tensors: Tensors) -> Tensor:
        return grouped_convolution(**{"fc_bias": None, **tensors, **settings})

    forms = [("grouped convolution", grouped), ("our kernel", case.call)]
    return [
        Way("explicit shifts", moved, False),
        *(Way(f"{name}, fixed", call, False) for name, call in forms),
        *(Way(f"{name}, learned", call, True) for name, call in forms),
    ]


def with_shifts(case: Case, device: torch.device) -> Tensors:
    """A case's tensors, with kernels that are shifts."""
    tensors = case.tensors(torch.float32, device)
    count, taps, rows, columns = tensors["kernels"].shape
    one_hot = torch.eye(taps, device=device).view(taps, rows, columns)
    tensors["kernels"] = one_hot.repeat(count, 1, 1, 1).requires_grad_()
    return tensors


def results(call: Callable[[Tensors], Tensor], tensors: Tensors, learns: bool) -> Tensors:
    """The output and the gradients, of the kernels only where they learn."""
    wanted = {name: tensor for name, tensor in tensors.items() if learns or name != "kernels"}
    out = call(tensors)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    grads = torch.autograd.grad(out, list(wanted.values()), upstream)
    return {"output": out.detach(), **{f"grad {name}": grad for name, grad in zip(wanted, grads, strict=True)}}


def candidate(way: Way, tensors: Tensors, truth: Truth, phase: str) -> Candidate:
    """A way as the engine takes it."""
    fixed = tensors if way.learns else {**tensors, "kernels": tensors["kernels"].detach()}
    leaves = [tensor for tensor in fixed.values() if tensor.requires_grad]
    with torch.no_grad():
        upstream = torch.ones_like(way.call(fixed))

    def forward() -> object:
        with torch.no_grad():
            return way.call(fixed)

    def both() -> object:
        return torch.autograd.grad(way.call(fixed), leaves, upstream)

    @cache
    def faults() -> list[str]:
        wanted = {name for name in truth.exact if way.learns or name != "grad kernels"}
        own = Truth(*({name: each[name] for name in wanted} for each in (truth.exact, truth.bounds)))  # type: ignore[arg-type]
        return own.faults(results(way.call, fixed, way.learns), SLACK)

    return Candidate(way.name, forward if phase == PHASES[0] else both, faults)


def compare_ways(
    at: Sequence[Case], batch_size: int, seconds: float, device: torch.device, ceilings: Ceilings
) -> Iterator[Measurement]:
    """Every two ways at every shape, forward and with backward, in turn.

    Args:
        at: shapes.
        batch_size: B.
        seconds: how long a pair's rounds last.
        device: where.
        ceilings: of this machine.
    """
    for shape in at:
        case = replace(shape, map_size=(batch_size, *shape.map_size[1:]))
        tensors = with_shifts(case, device)
        with ops.use("reference"):
            exact = results(case.call, {name: doubled(tensor) for name, tensor in tensors.items()}, True)
            truth = truth_of(exact, results(case.call, tensors, True), torch.float32)
        for phase in PHASES:
            subject = Subject("conv_path", case.name, "fp32", phase, batch_size)
            sides = [candidate(way, tensors, truth, phase) for way in ways(case)]
            for peer, ours in pairs_of(sides, phase):
                yield compare(subject, ours, peer, ceilings=ceilings, device=device, seconds=seconds)


def pairs_of(sides: Sequence[Candidate], phase: str) -> list[tuple[Candidate, Candidate]]:
    """(peer, candidate): all that the claim is about; forward, kernels that learn take the time of fixed ones."""
    chosen = [each for each in sides if phase != PHASES[0] or not each.name.endswith("fixed")]
    pairs = [*combinations(chosen, 2)]
    # fixed beside fixed, learned beside learned, and moved maps beside all
    return [
        (peer, ours)
        for peer, ours in pairs
        if peer.name == "explicit shifts" or peer.name.rpartition(", ")[2] == ours.name.rpartition(", ")[2]
    ]


def compare_forms(
    batch_size: int,
    img_size: int,
    seconds: float,
    device: torch.device,
    ceilings: Ceilings,
    say: Callable[[str], object],
) -> Iterator[Measurement]:
    """ACmix-ResNet-26 beside plain ResNet-26 and its own released form, ACmix-Swin-T beside plain Swin-T."""
    for name in NETWORKS:
        for phase in ("infer", "train"):
            setting = Setting(phase, "fp32", batch_size, img_size, device)
            ours = contestants(name, setting)[:1]
            peers = [each for each in (peer_of(ours[0], name, "plain", setting),) if each is not None]
            if name == RESNET:
                peers.append(Contestant("released form", released(ours[0].model)))
            yield from compare_networks(name, ours, peers, setting, ceilings=ceilings, seconds=seconds, say=say)


def measure(
    *,
    batch_size: int = 8,
    img_size: int = 224,
    seconds: float = 10.0,
    say: Callable[[str], object] = print,
) -> Iterator[tuple[str, Measurement]]:
    """Measures both, on the GPU where there is one.

    Args:
        batch_size: images, of the operator; a quarter of them in networks, at least 2.
        img_size: side of the images of networks.
        seconds: of a pair of networks; a pair of ways takes a tenth.
        say: prints a line.

    Returns:
        (part, measurement): "shifts" or "networks".

    Raises:
        UsageError: a batch or time that cannot be.
    """
    check(batch_size, img_size, seconds)
    device = default_device()
    ceilings = measure_ceilings(device, ("fp32",))
    swin = [
        shape
        for shape in shapes("conv_path")
        if isinstance(shape, Case) and shape.stride == 1 and not any(pair(shape.shift)) and shape.bias
    ]
    yield from (("shifts", each) for each in compare_ways(swin, batch_size, seconds / 10, device, ceilings))
    few = few_of(batch_size)
    yield from (("networks", each) for each in compare_forms(few, img_size, seconds, device, ceilings, say))


def ratio(measured: Measurement) -> str:
    """How many times as long the peer takes, with quartiles."""
    speed = measured.speed
    if speed is None or speed.speed_up is None:
        return WRONG
    return f"{speed.speed_up:.2f} ({speed.speed_up_low:.2f} to {speed.speed_up_high:.2f})"


HEAD = ("what", "shape", "", "A", "B", "ms of A", "ms of B", "A ÷ B (quartiles)")


def table(measured: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """A row a pair, of the columns of `HEAD`; A is the peer."""
    made = []
    for each in measured:
        speed = each.speed
        times = (
            ("", "")
            if speed is None or speed.peer_time_ms is None
            else (f"{speed.peer_time_ms:.2f}", f"{speed.time_ms:.2f}")
        )
        subject = each.subject
        made.append((subject.name, subject.shape, subject.phase, each.peer or "", each.candidate, *times, ratio(each)))
    return made


def verdict(measured: Sequence[Measurement]) -> list[str]:
    """The paper's claim on this machine: whether moving maps takes longer than a grouped convolution, and than ours."""
    said = []
    for phase in PHASES:
        for way in ("grouped convolution", "our kernel"):
            name = f"{way}, learned"
            found = [
                each.speed.speed_up
                for each in measured
                if each.peer == "explicit shifts" and each.candidate == name and each.subject.phase == phase
                and each.speed is not None and each.speed.speed_up is not None
            ]  # fmt: skip
            if found:
                slower = sum(each > 1 for each in found)
                said.append(
                    f"{phase}: explicit shifts take {min(found):.2f} to {max(found):.2f} times as long as {name}; "
                    f"longer at {slower} of {len(found)} shapes."
                )
    return said


def write(measured: Sequence[tuple[str, Measurement]], file: Path) -> None:
    """Writes the measurements as rows of `acmix.benchmark.record.COLUMNS`; those of other parts in the file stay.

    Raises:
        UsageError: the file cannot be written.
    """
    device = default_device()
    for part in dict.fromkeys(part for part, _ in measured):
        name = f"paper_{part}"
        of_part = [each for other, each in measured if other == part]
        write_rows(rows(of_part, line=name, device=device), file, replace_lines=[name])
