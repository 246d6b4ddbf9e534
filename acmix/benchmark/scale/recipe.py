"""The recipe's published point, what its efficiency implies, and what two assumed networks would give to 512 cards.

Published: Swin-S + ACmix on ImageNet, BI-V100, 128 images a card: 63.59 images/s on one card, 502.22 on eight. Nothing
else of that run is known. Assumed here, each from a figure that somebody else published (`SOURCES`):

    forward : backward   1 : 2, as their multiply-adds; nothing apart from them
    in a machine         cards on PCIe 4.0 x16 over two sockets: 10 GB/s; 3 µs a message
    InfiniBand           four adapters of 200 Gb/s a machine: 91 GB/s; 5 µs a message
    Ethernet             10 Gb/s a machine over TCP: 1 GB/s; 500 µs a message
    deviation            what remains of the published loss at eight cards is waiting for the slowest
"""

from __future__ import annotations

from dataclasses import dataclass

from acmix.benchmark.scale.parts import Parts, changed, parts_of
from acmix.benchmark.scale.step import MIB, bucket_sizes, expected_largest, simulate

BATCH, SINGLE, CARDS, TOGETHER = 128, 63.59, 8, 502.22
# of ACmix-Swin-S: benchmarks/results/models.csv
PARAMETERS = 50_345_080
INSIDE = {"gb_per_second": 10.0, "latency_us": 3.0}
NETWORKS = {
    "InfiniBand": {"gb_per_second": 91.0, "latency_us": 5.0},
    "Ethernet": {"gb_per_second": 1.0, "latency_us": 500.0},
}
# what each assumed figure is taken from
SOURCES = {
    "card": "https://geektopia.es/es/technology/2021/04/05/noticias/amp/la-empresa-china-tianshu-zhixin-empieza-la-"
    "produccion-de-su-gpgpu-a-7-nm-alcanza-los-37-tflops.html",
    "inside": "https://github.com/NVIDIA/nccl-tests/issues/307",
    "inside latency": "https://github.com/NVIDIA/nccl/issues/1530",
    "InfiniBand": "https://github.com/NVIDIA/nccl-tests/issues/100",
    "InfiniBand latency": "https://gist.github.com/jacobkahn/3150a1a38abba40f58d8263d9c55969f",
    "Ethernet": "https://gist.github.com/cswinter/3bc2cbcc7c947e4a2736188dd6e74240",
}
# of a card that does not exist here, by which the table shows what a faster one asks of the network
FASTER = 20


@dataclass(frozen=True)
class Implied:
    """What the published efficiency leaves room for.

    Args:
        efficiency: on eight cards.
        extra_ms: by which a step on eight cards is longer than on one.
        deviation: of a card's step, if all of it is waiting for the slowest.
        without_overlap_gb: GB/s at which all gradients travel in that time, latency left out.
        last_bucket_gb: GB/s at which the last bucket alone does, where the others are hidden.
    """

    efficiency: float
    extra_ms: float
    deviation: float
    without_overlap_gb: float
    last_bucket_gb: float


def implied() -> Implied:
    """From the published figures, and the size of the gradients."""
    single, together = BATCH / SINGLE, CARDS * BATCH / TOGETHER
    extra = together - single
    parts = recipe_parts("InfiniBand", deviation=0.0)
    share = 2 * (CARDS - 1) / CARDS
    return Implied(
        efficiency=single / together,
        extra_ms=1000 * extra,
        deviation=extra / (single * expected_largest(CARDS)),
        without_overlap_gb=share * 4 * PARAMETERS / extra / 1e9,
        last_bucket_gb=share * bucket_sizes(parts.gradients)[-1] / extra / 1e9,
    )


def recipe_parts(network: str, *, deviation: float | None = None, faster: float = 1.0) -> Parts:
    """The recipe's step on an assumed network.

    Args:
        network: one of `NETWORKS`.
        deviation: of a card's step; None: what the published efficiency leaves, beside the assumed communication.
        faster: how many times as fast the card is.
    """
    pass_ms = 1000 * BATCH / SINGLE / faster
    card = "" if faster == 1 else f", a card {faster:g} times as fast"
    parts = parts_of(
        {
            "title": f"Swin-S + ACmix, {network} (assumed){card}",
            "source": "63.59 images/s on one card: published; all else is assumed, see docs/scaling.md",
            "compute": {
                "batch_size": BATCH,
                "forward_ms": pass_ms / 3,
                "backward_ms": 2 * pass_ms / 3,
                "deviation": fitted_deviation() if deviation is None else deviation,
            },
            "gradients": {"mib": 4 * PARAMETERS / MIB},
            "network": {"algorithm": "fastest", "inside": INSIDE, "between": NETWORKS[network]},
        },
        "recipe",
    )
    return parts


def fitted_deviation() -> float:
    """The deviation at which eight cards give the published images/s, by bisection."""
    parts = recipe_parts("InfiniBand", deviation=0.0)
    low, high = 0.0, 0.1
    for _ in range(50):
        middle = (low + high) / 2
        fast = simulate(changed(parts, [f"compute.deviation={middle!r}"]), CARDS).images_per_second > TOGETHER
        low, high = (middle, high) if fast else (low, middle)
    return round(high, 6)


def recipe_sets() -> list[Parts]:
    """The sets of parts of the published table: both networks, with the recipe's card and with a faster one."""
    return [recipe_parts(network, faster=faster) for faster in (1, FASTER) for network in NETWORKS]


def implied_lines() -> list[str]:
    """What the published efficiency implies, in words."""
    found, parts = implied(), recipe_parts("InfiniBand")
    step = simulate(parts, CARDS)
    return [
        f"published: {SINGLE} images/s on one card, {TOGETHER} on {CARDS}: efficiency {found.efficiency:.1%}, a step "
        f"{found.extra_ms:.1f} ms longer",
        f"if all of it is waiting for the slowest: a deviation of {found.deviation:.2%} a step",
        f"if all of it is communication: {found.without_overlap_gb:.1f} GB/s without overlap, "
        f"{found.last_bucket_gb:.1f} GB/s where all but the last bucket is hidden",
        f"with {INSIDE['gb_per_second']:g} GB/s in the machine (assumed): {1000 * step.exposed:.1f} ms communication, "
        f"{1000 * step.waiting:.1f} ms waiting, a deviation of {parts.compute.deviation:.2%}",
    ]
