"""Where the time of a model goes: by group of operators, from the profiler, as a table and as stacked bars."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

from acmix.benchmark.machine import synchronize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# An operator belongs to the first pattern that its name matches.
GROUPS = {
    "convolution path": r"acmix(::|_)conv_path",
    "attention": r"acmix(::|_)|scaled_dot_product|flash_attention|efficient_attention|^aten::_?softmax",
    "optimizer": r"^Optimizer\.|_fused_adam",
    "matrix products": r"^aten::(mm|addmm|bmm|baddbmm|matmul|linear|addmv|mv)$|mkldnn_linear|gemm",
    "convolutions": r"conv",
    "norms": r"(layer|batch|group)_norm|^aten::(var_mean|native_norm)",
    "activations": r"^aten::(gelu|relu|silu|threshold|sigmoid|clamp_min|dropout|native_dropout)",
    "copies": r"^aten::(copy_|_to_copy|to|clone|contiguous|roll|cat|stack|index|constant_pad|pad|fill_|zero_|empty)",
    "elementwise": r"^aten::(add|sub|mul|div|addcmul|sum|mean|neg|exp|pow|sqrt|where|masked_fill)",
}
# These count as a whole, with all their parts; of all others each part counts where it belongs.
WHOLE = ("convolution path", "attention", "optimizer", "norms")
OTHER = "other"
COLOURS = {
    "matrix products": "#2a6fdb",
    "convolutions": "#7fa8ea",
    "attention": "#0b8a7a",
    "convolution path": "#d9600c",
    "norms": "#7a56d0",
    "activations": "#b79be8",
    "elementwise": "#c9a227",
    "copies": "#e3cf8a",
    "optimizer": "#8d94a0",
    OTHER: "#d5d8dc",
}
RUNS = 3


def time_by_group(run: Callable[[], object], device: torch.device, runs: int = RUNS) -> dict[str, float]:
    """Milliseconds of a run in each group of operators, in the order of `COLOURS`.

    Args:
        run: what is profiled, after a warm-up.
        device: whose time counts: a GPU's own, where it runs there.
        runs: how many the mean is taken of.
    """
    for _ in range(min(2, runs)):
        run()
    synchronize(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(runs):
            run()
        synchronize(device)
    spent = dict.fromkeys(COLOURS, 0.0)
    for event in profiler.events() or ():
        if device.type == "cuda" and event.device_type != torch.autograd.DeviceType.CPU:
            # a kernel, whose time stands at the operator that started it as well
            continue
        time_us = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        spent[group_of(event)] += time_us / 1000 / runs
    return spent


def group_of(event: Any) -> str:
    """The group of an event: that of a whole it is part of, or else its own or its nearest caller's."""
    nearest = None
    while event is not None:
        group = group_of_name(event.name)
        if group in WHOLE:
            return group
        nearest = nearest or group
        event = event.cpu_parent
    return nearest or OTHER


def group_of_name(name: str) -> str | None:
    """The group of an operator; None for the frames that the profiler puts around operators."""
    if name.startswith(("autograd::engine", "Torch-Compiled", "ProfilerStep")):
        return None
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), None)


def table(spent: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Lines of milliseconds and shares: a row a group, a column a model."""
    names = list(spent)
    width = max(22, *(len(name) + 2 for name in names))
    lines = [f"{'ms of a run (share)':<20}" + "".join(f"{name:>{width}}" for name in names)]
    for group in COLOURS:
        if any(spent[name][group] for name in names):
            cells = [f"{spent[name][group]:.1f} ({share_of(spent[name], group):.0%})" for name in names]
            lines.append(f"{group:<20}" + "".join(f"{cell:>{width}}" for cell in cells))
    totals = [f"{sum(spent[name].values()):.1f}" for name in names]
    return [*lines, f"{'together':<20}" + "".join(f"{total:>{width}}" for total in totals)]


def share_of(spent: Mapping[str, float], group: str) -> float:
    """A group's part of the whole, 0 to 1."""
    return spent[group] / max(sum(spent.values()), 1e-12)


def draw(spent: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Models side by side, each a bar of its groups."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 0.6 * len(spent) + 1.8), layout="constrained")
    axes = figure.add_subplot()
    names = list(spent)
    left = [0.0] * len(names)
    for group, colour in COLOURS.items():
        widths = [spent[name][group] for name in names]
        if any(widths):
            axes.barh(names, widths, left=left, color=colour, label=group, height=0.6)
            left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="ms", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize="small")
    return figure


def save_plot(spent: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """Writes `draw`'s picture; the suffix says in which format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(spent, title).savefig(path, dpi=120)
