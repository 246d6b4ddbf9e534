"""A training step of Mask R-CNN with ACmix-Swin-T beside what one would take instead, and the memory it takes.

python benchmarks/detection_step.py                    one image 800x1216 with 20 boxes; under ten minutes
python benchmarks/detection_step.py --only resnet      pairs of another network
python benchmarks/detection_step.py --quick            a small image, for a look; written only where --output is given

A step is forward, the five losses, backward, AdamW (fused) and gradients to None, in fp32. All sides run in turn, A B C
D A B C D …, and each round gives a ratio for each pair. The learning rate is 0 and each step draws the same regions, so
all steps of a side do the same. How many regions a mask head reads depends on proposals, and they on weights drawn at
random; a line tells the number of each side.

First the results are found right. Of our networks: maps and gradients beside the reference operators in float64, the
folded form, and with rates of 1 and 0 the plain form. Of every side: a gradient of each parameter, and a finite loss,
the same in each step. A pair with a wrong side gets no speed, and the command ends with status 1.

->  benchmarks/results/detection_step.csv
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

import acmix
from acmix import ops
from acmix.benchmark.budget import Budget
from acmix.benchmark.checks import smoothed
from acmix.benchmark.machine import default_device, peak_mib
from acmix.benchmark.pairs import LEAST_ROUNDS, WARMUP_RUNS, Measurement, Speed, Subject, add, quartiles, sample
from acmix.benchmark.record import lines, rows, write_rows
from acmix.testing.judge import Results, errors, truth_of

# n objects of an image; h, w its sides

HEAD, CLASSES = "mask_rcnn", 80
SWIN, RESNET = "acmix_swin_tiny_patch4_window7_224", "acmix_resnet50"
SIZE, BOXES, SECONDS = (800, 1216), 20, 540.0
QUICK_SIZE, QUICK_SECONDS = (160, 224), 30.0
# no multiple of a window or a stride
CHECK_SIZE, CHECK_BOXES = (72, 104), 6
# how far two ways to compute the same maps may be apart in float32, and two sums of the same losses
SAME = 1e-4


def ours(backbone: str, **arguments: Any) -> nn.Module:
    """Mask R-CNN of ours over a backbone of ours or timm's."""
    return acmix.create_detector(HEAD, backbone, num_classes=CLASSES, **arguments)


def torchvisions() -> nn.Module:
    """torchvision's Mask R-CNN, all of which trains as its weights are drawn at random."""
    return maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    SWIN: lambda: ours(SWIN),
    f"{SWIN} plain": lambda: ours(SWIN, conv_path=False),
    "torchvision maskrcnn_resnet50_fpn": torchvisions,
    "timm swin_tiny_patch4_window7_224": lambda: ours(SWIN.removeprefix("acmix_")),
    RESNET: lambda: ours(RESNET),
    f"{RESNET} plain": lambda: ours(RESNET, conv_path=False),
}
# by line of the results what is measured in turn: ours, and its peers
LINES = {
    "swin": (SWIN, f"{SWIN} plain", "torchvision maskrcnn_resnet50_fpn", "timm swin_tiny_patch4_window7_224"),
    "resnet": (RESNET, f"{RESNET} plain", "torchvision maskrcnn_resnet50_fpn"),
}


@dataclass
class Side:
    """A detector, and what became of its steps.

    Args:
        name: one of `MODELS`.
        model: in training mode.
        faults: what is wrong with it.
        losses: the sum of each step's.
        regions: that its mask head read in the last step.
    """

    name: str
    model: nn.Module
    faults: list[str] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    regions: int = 0

    def forward_backward(self, image: Tensor, target: dict[str, Tensor]) -> None:
        """Gradients of the sum of all losses of one image, with the same draws each time."""
        transform: Any = self.model.transform
        # every side reads the image at its own size
        transform.min_size, transform.max_size = (min(image.shape[1:]),), max(image.shape[1:])
        torch.manual_seed(0)
        parts = self.model([image], [target])
        loss = torch.stack([*parts.values()]).sum()
        loss.backward()
        self.losses.append(loss.detach())

    def check_losses(self) -> None:
        """Notes a loss that is not finite, or not the same in each step; reading them waits for a GPU."""
        values = torch.stack(self.losses)
        if not bool(values.isfinite().all()):
            self.faults.append("a loss is not finite")
        elif bool((values - values[0]).abs().max() > SAME * values[0].abs()):
            self.faults.append(f"its loss changes from step to step: {values.min():.5g} to {values.max():.5g}")


def build(name: str, device: torch.device) -> Side:
    """A side with weights drawn from seed 0."""
    torch.manual_seed(0)
    side = Side(name, MODELS[name]().to(device).train())

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        side.regions = len(inputs[0])

    heads: Any = side.model.roi_heads
    heads.mask_head.register_forward_pre_hook(note)
    return side


def example(size: tuple[int, int], boxes: int, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """An image (3, h, w) of noise and its target: boxes of up to a quarter of the sides, ellipses as masks."""
    height, width = size
    draw = torch.Generator().manual_seed(0)
    sides = torch.tensor([width, height], dtype=torch.float32)
    spans = sides * (0.03 + 0.22 * torch.rand(boxes, 2, generator=draw))  # (n, 2)
    corners = (sides - spans) * torch.rand(boxes, 2, generator=draw)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    from_middle = torch.stack([x, y]) - (corners + spans / 2)[:, :, None, None]  # (n, 2, h, w)
    distance = (2 * from_middle / spans[:, :, None, None]).square().sum(1)  # (n, h, w)
    target = {
        "boxes": torch.cat([corners, corners + spans], 1),
        "labels": torch.randint(1, CLASSES + 1, (boxes,), generator=draw),
        "masks": (distance <= 1).to(torch.uint8),
    }
    image = torch.rand(3, height, width, generator=draw)
    return image.to(device), {key: value.to(device) for key, value in target.items()}


# --- right first ----------------------------------------------------------------------------------------------------


def check(side: Side, device: torch.device) -> None:
    """Notes what is wrong with a detector, on a small image."""
    image, target = example(CHECK_SIZE, CHECK_BOXES, device)
    side.forward_backward(image, target)
    for name, parameter in side.model.named_parameters():
        if parameter.requires_grad and (parameter.grad is None or not bool(parameter.grad.isfinite().all())):
            side.faults.append(f"{name} has no finite gradient")
    side.model.zero_grad(set_to_none=True)
    side.check_losses()
    side.losses.clear()
    if side.name.startswith("acmix_"):
        side.faults += faults_of_maps(side, image[None])


def faults_of_maps(side: Side, image: Tensor) -> list[str]:
    """What is wrong with the pyramid's maps of our networks, (1, 3, h, w) -> maps."""
    detector: Any = side.model
    body = smoothed(copy.deepcopy(detector.backbone))
    with ops.use("reference"):
        exact = maps_of(body.double(), image.double())
        own = maps_of(body.float(), image)
    truth = truth_of(exact, own, image.dtype, together=True)
    found = maps_of(body, image)
    faults = truth.faults(found)
    outputs = without_gradients(found)
    faults += differences("folded", outputs, without_gradients(maps_of(acmix.fold(body), image, backward=False)))
    if not side.name.endswith("plain"):
        plain: Any = MODELS[f"{side.name} plain"]()
        alone = smoothed(plain.backbone.to(image.device))
        given = body.state_dict()
        alone.load_state_dict({name: given[name] for name in alone.state_dict()})
        with torch.no_grad():
            for name, parameter in body.named_parameters():
                if name.endswith(("rate_attention", "rate_conv")):
                    parameter.fill_(float(name.endswith("rate_attention")))
        outputs = maps_of(alone, image, backward=False)
        faults += differences("at rates 1 and 0 beside the plain form", outputs, maps_of(body, image, backward=False))
    return faults


def maps_of(body: nn.Module, image: Tensor, *, backward: bool = True) -> Results:
    """The maps of a backbone with its pyramid, and the gradient of each of its parameters."""
    with torch.set_grad_enabled(backward):
        found = body(image)
    results = {f"map {name}": each.detach() for name, each in found.items()}
    if backward:
        body.zero_grad(set_to_none=True)
        draw = torch.Generator().manual_seed(1)
        upstream = [torch.randn(each.shape, generator=draw).to(each) for each in found.values()]
        torch.autograd.backward([*found.values()], upstream)
        results |= {f"grad {name}": each.grad for name, each in body.named_parameters() if each.grad is not None}
    return results


def without_gradients(results: Results) -> Results:
    """The maps alone."""
    return {name: each for name, each in results.items() if name.startswith("map")}


def differences(what: str, expected: Results, found: Results) -> list[str]:
    """A line for each map that is not the same."""
    wrong = {name: error for name, error in errors(found, expected).items() if not error <= SAME}
    return [f"{what}: {name} is off by {error:.1e}; at most {SAME:.0e} is right" for name, error in wrong.items()]


# --- then fast ------------------------------------------------------------------------------------------------------


def step_of(side: Side, image: Tensor, target: dict[str, Tensor]) -> Callable[[], None]:
    """What is timed: a whole training step."""
    trained = [parameter for parameter in side.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.05, fused=True)

    def step() -> None:
        side.forward_backward(image, target)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def resident_mib(model: nn.Module) -> float:
    """What a model and its AdamW hold between steps."""
    trained = sum(each.nbytes for each in model.parameters() if each.requires_grad)
    return (sum(each.nbytes for each in [*model.parameters(), *model.buffers()]) + 2 * trained) / 2**20


def measure(
    names: Sequence[str], size: tuple[int, int], boxes: int, device: torch.device, budget: Budget
) -> list[Measurement]:
    """Checks several detectors, and times the right ones in turn: the first beside each of the others.

    Args:
        names: of `MODELS`, ours first.
        size: (h, w) of the image.
        boxes: n.
        device: where they run.
        budget: of the whole; at least one round is done.
    """
    until = time.perf_counter() + budget.share()
    sides = []
    for name in names:
        budget.doing("checking", name)
        sides.append(build(name, device))
        check(sides[-1], device)
    right = [side for side in sides if not side.faults]
    image, target = example(size, boxes, device)
    steps = [step_of(side, image, target) for side in right]
    # the first step makes the optimizer's state
    warm_up(steps, 1, device, budget)
    budget.doing("memory")
    memory = [add(peak_mib(step, device), resident_mib(side.model)) for step, side in zip(steps, right, strict=True)]
    warm_up(steps, WARMUP_RUNS.get(device.type, 2) - 1, device, budget)
    times = rounds_of(steps, device, until, budget)
    for side in right:
        side.check_losses()
    budget.finish(missing_seconds=(LEAST_ROUNDS - len(times)) * sum(times[-1]))
    subject = Subject(f"{HEAD} {names[0]}", f"{size[0]}x{size[1]}, {boxes} boxes", "fp32", "train", 1)
    of_side = {
        side.name: ([each[place] for each in times], memory[place])
        for place, side in enumerate(right)
        if not side.faults
    }
    for side in right:
        print(f"{side.name}: loss {side.losses[-1]:.4g}, masks of {side.regions} regions")
    return [measurement(subject, sides[0], side, of_side) for side in sides[1:]]


def warm_up(steps: Sequence[Callable[[], None]], times: int, device: torch.device, budget: Budget) -> None:
    """Runs all steps a few times."""
    for number in range(times):
        for place, step in enumerate(steps):
            budget.doing("warming up", f"{number + 1} of {times}, side {place + 1} of {len(steps)}")
            sample(step, 1, device)


def rounds_of(
    steps: Sequence[Callable[[], None]], device: torch.device, until: float, budget: Budget
) -> list[tuple[float, ...]]:
    """Seconds of each step, round by round, as long as another round fits; one at least."""
    rounds: list[tuple[float, ...]] = []
    while not rounds or time.perf_counter() + sum(rounds[-1]) <= until:
        budget.doing("timing", f"round {len(rounds) + 1}")
        rounds.append(tuple(sample(step, 1, device) for step in steps))
    return rounds


def measurement(
    subject: Subject, first: Side, peer: Side, of_side: dict[str, tuple[list[float], float | None]]
) -> Measurement:
    """A pair's speed, or what is wrong with it."""
    wrong = tuple(f"{side.name}: {fault}" for side in (first, peer) for fault in side.faults)
    if wrong:
        return Measurement(subject, first.name, peer.name, None, wrong)
    (own, own_memory), (theirs, peer_memory) = of_side[first.name], of_side[peer.name]
    low, middle, high = quartiles([other / each for each, other in zip(own, theirs, strict=True)])
    speed = Speed(
        rounds=len(own),
        time_ms=1000 * statistics.median(own),
        images_per_second=1 / statistics.median(own),
        speed_up=middle,
        speed_up_low=low,
        speed_up_high=high,
        peer_time_ms=1000 * statistics.median(theirs),
        peak_mib=own_memory,
        peer_peak_mib=peer_memory,
    )
    return Measurement(subject, first.name, peer.name, speed)


def main(root: Path) -> int:
    """Measures what the command line asks for; the exit status: 1 where a result is wrong.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*LINES], default="swin", help="whose pairs (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small image, half a minute")
    parser.add_argument("--seconds", type=float, help=f"bound on the whole (default: {SECONDS:g})")
    parser.add_argument("--output", type=Path, help="file (default: benchmarks/results/detection_step.csv)")
    told = parser.parse_args()
    device, size = default_device(), QUICK_SIZE if told.quick else SIZE
    usual = None if told.quick else root / "benchmarks" / "results" / "detection_step.csv"
    file: Path | None = told.output or usual
    with Budget(told.seconds or (QUICK_SECONDS if told.quick else SECONDS)) as budget:
        measured = measure(LINES[told.only], size, BOXES, device, budget)
    for each in measured:
        print("\n".join(lines(each)))
    for remark in budget.remarks(LEAST_ROUNDS):
        print(remark)
    if file is not None:
        write_rows(rows(measured, line=told.only, device=device), file, replace_lines=[told.only])
        print(f"written: {file}")
    return 1 if any(each.speed is None for each in measured) else 0
