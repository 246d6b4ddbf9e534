"""What this machine can do at most, and how much memory a run takes at its highest."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from acmix import memory
from acmix.errors import UsageError
from acmix.train.device import half_precision, this_device

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# side of the matrices and bytes of the copy: beyond every cache
LARGE = {"cpu": (2048, 2**28), "gpu": (8192, 2**31)}
CEILING_SECONDS, LEAST_RUNS = 0.5, 3
# the smallest product that is tried, and how long the largest may take with all of its runs
FIRST_SIDE, PRODUCT_SECONDS = 256, 3.0
# a format whose products are slower than this share of fp32's is not worth a measurement
SLOW = 0.5
# what a processor that multiplies bf16 says of itself, on x86 and on Arm
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


@dataclass(frozen=True)
class Ceilings:
    """The fastest that a large matrix product and a large copy ran, in this process.

    Args:
        flops_per_second: by dtype; a multiply-add is two.
        bytes_per_second: read and written.
    """

    flops_per_second: dict[str, float]
    bytes_per_second: float

    def __str__(self) -> str:
        products = ", ".join(f"{gflops(value)} {dtype}" for dtype, value in self.flops_per_second.items())
        return f"{products} in a large product; {self.bytes_per_second / 1e9:.1f} GB/s in a large copy"


def gflops(rate: float) -> str:
    """Floating point operations a second, with two digits where they are few."""
    return f"{rate / 1e9:,.0f} GFLOP/s" if rate >= 1e10 else f"{rate / 1e9:.2g} GFLOP/s"


def measure_ceilings(
    device: torch.device, dtypes: Sequence[str] = ("fp32",), *, seconds: float = PRODUCT_SECONDS
) -> Ceilings:
    """Multiplies and copies something large, several times; the fastest counts.

    Args:
        device: where.
        dtypes: of the products, "fp32" or "bf16".
        seconds: a product that would take longer, with all of its runs, gives way to one of half its side.

    Returns:
        What was reached.
    """
    side, size = LARGE["cpu" if device.type == "cpu" else "gpu"]
    flops = {dtype: product_rate(device, dtype, side, seconds) for dtype in dtypes}
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Ceilings(flops, 2 * size / fastest(lambda: target.copy_(source), device, seconds))


def product_rate(device: torch.device, dtype: str, largest: int, seconds: float) -> float:
    """Floating point operations a second of a product of two square matrices, doubled in side while time allows."""
    side = min(FIRST_SIDE, largest)
    while True:
        a, b = (torch.randn(side, side, device=device).to(DTYPES[dtype]) for _ in range(2))
        out = torch.empty_like(a)

        def product(a: torch.Tensor = a, b: torch.Tensor = b, out: torch.Tensor = out) -> object:
            return torch.mm(a, b, out=out)

        once = fastest(product, device, 0.0) if side < largest else 0.0
        # eight times the work, once more than it is timed
        if side >= largest or 8 * (LEAST_RUNS + 1) * once > seconds:
            return 2 * side**3 / fastest(product, device, seconds)
        side *= 2


def measured_ceilings(
    device: torch.device, dtypes: Sequence[str], say: Callable[[str], object], *, seconds: float = PRODUCT_SECONDS
) -> Ceilings:
    """Measures the ceilings and says what they are."""
    ceilings = measure_ceilings(device, dtypes, seconds=seconds)
    say(f"ceilings here: {ceilings}")
    return ceilings


def why_slow(dtype: str, ceilings: Ceilings, device: torch.device) -> str | None:
    """Why a format is not worth a measurement here, with its figures; None where it is."""
    own, single = ceilings.flops_per_second[dtype], ceilings.flops_per_second["fp32"]
    if own >= SLOW * single:
        return None
    figures = f"its products reach {gflops(own)}, {single / own:.3g} times slower than fp32's {gflops(single)}"
    if device.type != "cpu":
        return f"this card is slow in {dtype}: {figures}"
    known = instructions()
    if known is None:
        return f"PyTorch is slow in {dtype} on this processor: {figures}"
    if any(name in known for name in BF16_INSTRUCTIONS):
        return f"PyTorch does not use this processor's instructions for {dtype}: {figures}"
    return f"this processor has no {dtype} products (avx512_bf16, amx_bf16), so PyTorch emulates them: {figures}"


def instructions() -> frozenset[str] | None:
    """What a processor can do, as Linux names it; None where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    named = [line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))]
    return frozenset(named[0]) if named else None


def default_device() -> torch.device:
    """The GPU where there is one."""
    return this_device()


def best_dtype(device: torch.device) -> str:
    """What training takes on a device: bf16 on a GPU that has it."""
    return "bf16" if half_precision(device) == "bf16" else "fp32"


def check_dtypes(dtypes: Sequence[str]) -> None:
    """Refuses formats that do not exist."""
    unknown = [dtype for dtype in dtypes if dtype not in DTYPES]
    if unknown:
        raise UsageError(f"--dtype {unknown[0]}; there are {', '.join(DTYPES)}")


def check_batch_size(batch_size: int) -> None:
    """Refuses a batch without images."""
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}; expected at least one image")


def check_seconds(seconds: float) -> None:
    """Refuses a time that is no number, too short or too long."""
    if not 1 <= seconds <= 86_400:
        raise UsageError(f"--seconds {seconds:g}; expected a number of seconds from 1 to 86400, a day")


def check_img_size(img_size: int) -> None:
    """Refuses images without pixels."""
    if img_size < 1:
        raise UsageError(f"--img-size {img_size}; expected at least one pixel")


def fastest(run: Callable[[], object], device: torch.device, seconds: float = CEILING_SECONDS) -> float:
    """Seconds of the fastest of several runs, for half a second at most or for less where less is given."""
    run()
    times: list[float] = []
    while len(times) < LEAST_RUNS or sum(times) < min(seconds, CEILING_SECONDS):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)


def synchronize(device: torch.device) -> None:
    """Waits for a GPU; a CPU is never ahead."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_mib(run: Callable[[], object], device: torch.device) -> float | None:
    """By how much memory grows at its highest during a run, in MiB; None where the system does not tell.

    On a CPU it is the process' resident memory, so that what kernels and libraries take for themselves counts too.
    """
    gc.collect()
    if device.type != "cpu":
        synchronize(device)
        its = torch.get_device_module(device)
        try:
            its.reset_peak_memory_stats(device)
        except (AttributeError, RuntimeError):
            # not every kind of accelerator counts
            return None
        before = its.memory_allocated(device)
        run()
        synchronize(device)
        return (its.max_memory_allocated(device) - before) / 2**20
    process = Path("/proc/self")
    with memory.given_back():
        try:
            before = resident_kib(process, "VmRSS")
            # 5: forget the highest so far; Linux alone knows this
            (process / "clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return None
        run()
        return (resident_kib(process, "VmHWM") - before) / 1024


def resident_kib(process: Path, key: str) -> int:
    """A figure of /proc/self/status."""
    lines = (process / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
