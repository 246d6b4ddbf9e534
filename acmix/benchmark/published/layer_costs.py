"""What ACmix2d takes beside the 3×3 convolution it stands in for: memory and multiply-adds.

python benchmarks/acmix2d.py     ->  benchmarks/results/acmix2d.csv

Both sides in MiB or in 10⁶ multiply-adds: what is kept for the backward pass, and the peak memory of one training step
of ACmix-ResNet-50 and of timm's resnet50, each in a process of its own. Nothing is counted unless the layer's output is
as exact as that of the reference operators. `speed.py --only layer` times both; `speed.py --tables` makes the table.
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import acmix
from acmix.benchmark.checks import truth_of_output
from acmix.benchmark.record import measured_with
from acmix.errors import UsageError

LAYERS = ((64, 80), (256, 20))  # channels, side of the map
BATCH, IMAGE = 8, 224


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass, parameters apart."""
    kept = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept:
            kept.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor

    held = []  # what is kept must live on, so that no address is counted for two tensors
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: held.append(tensor) or pack(tensor), lambda t: t):
        layer(x)
    return total


@torch.no_grad()
def check(layer: acmix.ACmix2d, x: Tensor) -> None:
    """Refuses to measure a layer that is wrong."""
    faults = truth_of_output(layer, x).faults({"output": layer(x)})
    if faults:
        raise UsageError(f"{layer}: {faults[0]}; nothing is measured")


def step_memory_mib(name: str) -> float:
    """Peak memory of one training step, over what the process held before, in a process of its own."""
    command = [sys.executable, "-m", "acmix.benchmark.published.layer_costs", name]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(told.stdout.split()[-1])


def one_step(name: str) -> None:
    """Builds a model, trains it for one step and prints the growth of the process' peak memory in MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = timm.create_model(name)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    loss = model(torch.randn(BATCH, 3, IMAGE, IMAGE)).square().mean()
    loss.backward()
    optimizer.step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main(root: Path) -> int:
    """Counts everything and writes it.

    Args:
        root: of the repository.
    """
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results, rows = root / "benchmarks" / "results" / "acmix2d.csv", []
    for channels, side in LAYERS:
        ours, theirs = acmix.ACmix2d(channels, channels), nn.Conv2d(channels, channels, 3, padding=1)
        x = torch.randn(1, channels, side, side)
        check(ours, x)
        kept = [saved_bytes(layer, x.requires_grad_()) / 2**20 for layer in (ours, theirs)]
        macs = [1000 * ours.gmacs(side, side), channels * channels * 9 * side * side / 1e6]
        case = f"{channels} channels, {side}x{side}"
        rows += [(case, "kept for the backward pass, MiB", *kept), (case, "10⁶ multiply-adds", *macs)]
    peaks = [step_memory_mib(name) for name in ("acmix_resnet50", "resnet50")]
    rows.append((f"ResNet-50, {BATCH} images of {IMAGE} px", "peak memory of a training step, MiB", *peaks))
    known = measured_with(torch.device("cpu"))
    with open(results, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*known, "layer", "figure", "acmix", "convolution"])
        for layer, figure, ours, theirs in rows:
            print(f"{layer}: {figure}: ACmix {ours:.4g}, convolution {theirs:.4g}")
            writer.writerow([*known.values(), layer, figure, f"{ours:.4g}", f"{theirs:.4g}"])
    print(f"written: {results}")
    return 0


if __name__ == "__main__":
    # a process of `step_memory_mib`
    one_step(sys.argv[1])
