"""What the kernels were built to reach, beside what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from acmix.benchmark.published.cells import ratio_of, table, three
from acmix.benchmark.published.measured import FULL, RESNET, SHORT, STEP, SWIN, Found, Row, is_right


@dataclass(frozen=True)
class Target:
    """What the kernels were built to reach.

    Args:
        what: the measurement in words.
        cells: those of its row.
        wanted: the ratio to reach at least; for memory the one to stay below.
        memory: whether it is our peak memory over the peer's.
    """

    what: str
    cells: Row
    wanted: float
    memory: bool = False


def targets(found: Found) -> list[str]:
    """What was aimed at, what was measured, and whether that is enough; how many were not measured."""
    lines = [(each.what, *outcome(each, row)) for each in TARGETS if (row := found.one(**each.cells)) is not None]
    if not lines:
        return []
    left = len(TARGETS) - len(lines)
    return [
        *table(("target", "wanted", "measured", "met"), lines),
        *(["", f"Not measured: {left} of {len(TARGETS)} targets."] if left else []),
    ]


def outcome(target: Target, row: Row) -> tuple[str, str, str]:
    """What was wanted, what was measured, and whether it is enough; a wrong result is not."""
    wanted = f"{'at most' if target.memory else 'at least'} {target.wanted:g}"
    if not is_right(row):
        return wanted, ratio_of(row), "**no**"
    if target.memory:
        known = row["peak_mib"] and row["peer_peak_mib"]
        value = float(row["peak_mib"]) / float(row["peer_peak_mib"]) if known else math.nan
        return wanted, three(value), "yes" if value <= target.wanted else "**no**"
    met = float(row["speed_up"]) >= target.wanted
    return wanted, ratio_of(row, spread=True), "yes" if met else "**no**"


OF = {"plain": "our plain", "timm": "timm's"}
STAGES = (("56x56 C 96 N 3", 12, 10), ("28x28 C 192 N 6", 7, 7), ("14x14 C 384 N 12", 5, 5), ("7x7 C 768 N 24", 4, 4))
TARGETS = (
    *(
        Target(
            f"`conv_path` {phase}, {shape}, over the reference",
            dict(line="conv_path", shape=shape, images="8", dtype="fp32", phase=phase, peer="reference"),
            wanted,
        )
        for phase, column in (("forward", 1), ("forward+backward", 2))
        for shape, wanted in ((stage[0], float(stage[column])) for stage in STAGES)
    ),
    *(
        Target(
            f"{SHORT[SWIN]}, {STEP[phase]}, {dtype}, over {OF[peer]} Swin-T",
            dict(subject=SWIN, phase=phase, dtype=dtype, peer=peer, candidate="acmix", **FULL),
            wanted,
        )
        for dtype in ("fp32", "bf16")
        for phase, peer, wanted in (
            ("infer", "plain", 0.96),
            ("train", "plain", 0.94),
            # of a processor with AVX-512; 1.2 and 1.15 of one with AVX2
            ("infer", "timm", 1.4),
            ("train", "timm", 1.3),
        )
    ),
    Target(
        f"{SHORT[SWIN]}, folded, inference, fp32, over timm's Swin-T compiled with its weights frozen",
        dict(line="swin_infer_compiled", subject=SWIN, peer="timm compiled", candidate="acmix folded", **FULL),
        1.05,
    ),
    Target(
        f"{SHORT[SWIN]}, folded and compiled, inference, fp32, over the same",
        dict(line="swin_infer_compiled", subject=SWIN, peer="timm compiled", candidate="acmix folded compiled", **FULL),
        1.05,
    ),
    Target(
        f"{SHORT[RESNET]}, training step, over the released form of its layers",
        dict(line="resnet_unfold", subject=RESNET, peer="released form", **FULL),
        8.0,
    ),
    *(
        Target(
            f"{SHORT[RESNET]}, training step, {dtype}, over {OF[peer]} ResNet-50",
            dict(subject=RESNET, phase="train", dtype=dtype, peer=peer, candidate="acmix", **FULL),
            wanted,
        )
        for dtype in ("fp32", "bf16")
        for peer, wanted in (("plain", 0.9), ("timm", 1.05))
    ),
    Target(
        f"{SHORT[RESNET]}, training step, peak memory in multiples of timm's ResNet-50's (less is better)",
        dict(subject=RESNET, phase="train", dtype="fp32", peer="timm", **FULL),
        1.5,
        memory=True,
    ),
    Target(
        "`ACmix2d(64, 64)` at 80×80, one image, over a 3×3 convolution: at most 1.6 times its time",
        dict(line="layer", subject="ACmix2d(64, 64)", peer="3x3 convolution"),
        0.625,
    ),
)
