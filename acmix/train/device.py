"""Which device a process computes on, and what it asks of it: through torch's one interface to every accelerator.

Kernels of ours exist for CUDA and for the CPU; on another device the operators' references run.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from acmix.config.kinds import DEVICE, NO_DEVICE
from acmix.errors import UsageError


def accelerator() -> torch.device | None:
    """The kind of accelerator that torch finds on this machine, without an index; None where there is none."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def this_device(name: str = "auto") -> torch.device:
    """Where a process that runs alone computes.

    Args:
        name: "auto", the machine's accelerator or else its CPU; or a device by its kind and number: "cpu", "cuda",
            "cuda:1", "mps".

    Returns:
        The device; with an index where the name has one.

    Raises:
        UsageError: no name of a device, or this machine has none of that name.
    """
    if name == "auto":
        return accelerator() or torch.device("cpu")
    match = DEVICE.fullmatch(name)
    if match is None:
        raise UsageError(f"device {name!r} is unknown; {NO_DEVICE}")
    if name == "cpu":
        return torch.device(name)
    found, present = accelerator(), torch.accelerator.device_count()
    if found is None:
        raise UsageError(f"no device {name}: torch finds no accelerator on this machine; use the device auto or cpu")
    if found.type != match["kind"]:
        raise UsageError(f"no device {name}: this machine has {found.type}; use the device auto, {found.type} or cpu")
    if match["index"] is not None and int(match["index"]) >= present:
        there = f"{found.type}:0 to {found.type}:{present - 1}" if present > 1 else f"{found.type}:0 alone"
        raise UsageError(f"no device {name}: this machine has {there}; use another number, auto or cpu")
    return torch.device(name)


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
    """The most memory that tensors have taken on the device so far, in MiB; None where the device does not count."""
    if device.type == "cpu":
        return None
    try:
        return torch.get_device_module(device).max_memory_allocated(device) / 2**20
    except (AttributeError, RuntimeError):
        # not every kind of accelerator has an allocator that counts; Apple's has none
        return None


def device_name(device: torch.device) -> str:
    """The card's name, or the processor's with its threads; the vectors too where PyTorch is held to narrower ones."""
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
    vectors = f", {torch.backends.cpu.get_cpu_capability()}" * bool(os.environ.get("ATEN_CPU_CAPABILITY"))
    return f"{name} ({threads} thread{'s' if threads > 1 else ''}{vectors})"
