"""Which device a process computes on, and what it asks of it: through torch's one interface to every accelerator.

Kernels of ours exist for CUDA and for the CPU; on another device the operators' references run.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def accelerator() -> torch.device | None:
    """The kind of accelerator that torch finds on this machine, without an index; None where there is none."""
    return torch.accelerator.current_accelerator(check_available=True)


def this_device() -> torch.device:
    """Where a process that runs alone computes: the machine's accelerator, else the CPU."""
    return accelerator() or torch.device("cpu")


def pins_memory(device: torch.device) -> bool:
    """Whether batches are copied to the device from pinned memory; torch does not pin for Apple's."""
    return device.type not in ("cpu", "mps")


def half_precision(device: torch.device) -> str:
    """The number format that `train.precision=auto` takes: bf16 where the device has it, else fp16; fp32 on a CPU.

    A device that torch cannot ask computes in fp32.
    """
    if device.type == "cpu":
        return "fp32"
    supported = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    if supported is None:
        return "fp32"
    return "bf16" if supported() else "fp16"


def peak_memory_mib(device: torch.device) -> float | None:
    """The most memory that tensors have taken on the device so far, in MiB; None where nobody counts."""
    if device.type == "cpu":
        return None
    try:
        return torch.accelerator.max_memory_allocated(device) / 2**20
    except RuntimeError:
        # not every kind of accelerator has an allocator that counts; Apple's has none
        return None


def device_name(device: torch.device) -> str:
    """The card's name, or the processor's."""
    if device.type != "cpu":
        named = getattr(torch.get_device_module(device), "get_device_name", None)
        return named(device) if named is not None else device.type
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({threads} thread{'s' if threads > 1 else ''})"
