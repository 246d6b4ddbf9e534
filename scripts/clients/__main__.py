"""Measures what tools from elsewhere do to our models, beside the same without a convolution path.

`python scripts/clients [--only TOOL …] [--families NAME …] [--csv FILE] [--publish]`. acmix itself needs none of the
tools; one that is not installed is named, with the command that installs it.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import adapting
import quantising
import torch
import training
import using
from cells import apart
from families import FAMILIES, Family
from figures import Cell, Fault, Figures
from table import table

ROOT = Path(__file__).resolve().parent.parent.parent
MARKS = ("<!-- clients: benchmarks/results/clients.csv -->", "<!-- end of clients -->")
COLUMNS = (
    "date",
    "commit",
    "machine",
    "torch",
    "timm",
    "tool",
    "version",
    "family",
    "figure",
    "ours",
    "plain",
    "verdict",
)


class Tool(NamedTuple):
    """A row of the table.

    Args:
        name: as the table shows it.
        measure: takes a family, and whether the model has convolution paths.
        package: what pip calls it.
        module: what Python calls it.
    """

    name: str
    measure: Callable[[Family, bool], Figures]
    package: str = "torch"
    module: str = "torch"


TOOLS = (
    Tool("LoRA (peft)", adapting.lora, "peft", "peft"),
    Tool("prune, 5 steps", adapting.pruning),
    Tool("spectral_norm", adapting.spectral_norm),
    Tool("spectral_norm, old", adapting.spectral_norm_old),
    Tool("weight_norm", adapting.weight_norm),
    Tool("weight_norm, old", adapting.weight_norm_old),
    Tool("forward hooks", adapting.forward_hooks),
    Tool("backward hooks", adapting.backward_hooks),
    Tool("quantize_dynamic", quantising.dynamic),
    Tool("static int8, FX", quantising.static_fx),
    Tool("static int8, pt2e", quantising.static_pt2e, "torchao", "torchao.quantization.pt2e.quantize_pt2e"),
    Tool("int8 weights (torchao)", quantising.weight_only, "torchao", "torchao.quantization"),
    Tool("FSDP2 per Linear", training.fsdp_linear),
    Tool("FSDP2 per block", training.fsdp_block),
    Tool("accelerate", training.accelerated, "accelerate", "accelerate"),
    Tool("Lightning", training.lightning, "lightning", "lightning.pytorch"),
    Tool("ModelEmaV3", training.ema_timm, "timm", "timm"),
    Tool("AveragedModel", training.ema_torch),
    *(
        Tool(
            f"smp {name}",
            partial(using.decoder, name=name),
            "segmentation-models-pytorch",
            "segmentation_models_pytorch",
        )
        for name in using.DECODERS
    ),
    *(
        Tool(name, partial(using.detector, name=name), "torchvision", "torchvision.models.detection")
        for name in using.DETECTORS
    ),
    Tool("timm local-dir", using.local_dir, "timm", "timm"),
    Tool("PyTorchModelHubMixin", using.hub_mixin, "huggingface-hub", "huggingface_hub"),
    Tool("save, pickle, deepcopy", using.copies),
    Tool("GradCAM", using.grad_cam, "grad-cam", "pytorch_grad_cam"),
    Tool("IntegratedGradients", using.attributions, "captum", "captum.attr"),
)


def measured(tool: Tool, family: Family) -> Cell:
    """A tool on our model and on the plain one."""
    missing = absent(tool)
    sides = [missing or apart(partial(tool.measure, family, ours)) for ours in (True, False)]
    return Cell(tool.name, family.title, *sides)


def absent(tool: Tool) -> Fault | None:
    """Says how to install a tool that is not there; one that is there is imported, once for all its families."""
    try:
        import_module(tool.module)
    except ImportError:
        return Fault(f"not installed: pip install {tool.package}")
    return None


def version_of(tool: Tool) -> str:
    """The version of a tool's package."""
    try:
        return version(tool.package)
    except PackageNotFoundError:
        return ""


def rows(cells: list[Cell]) -> list[dict[str, str]]:
    """One dictionary of `COLUMNS` a figure."""
    from acmix.benchmark.record import measured_with

    common = measured_with(torch.device("cpu"))
    versions = {tool.name: version_of(tool) for tool in TOOLS}
    found = []
    for cell in cells:
        ours = {"": str(cell.ours)} if isinstance(cell.ours, Fault) else cell.ours
        plain = {"": str(cell.plain)} if isinstance(cell.plain, Fault) else cell.plain
        for name, figure in ours.items():
            beside = str(plain.get(name, plain.get("", "")))
            row = dict(tool=cell.tool, version=versions[cell.tool], family=cell.family, figure=name)
            found.append({**common, **row, "ours": str(figure), "plain": beside, "verdict": cell.verdict})
    return found


def write(found: list[dict[str, str]], path: Path) -> list[dict[str, str]]:
    """Puts rows into a file, in the order of `TOOLS`; rows of other cells in it stay."""
    measured_now = {(row["tool"], row["family"]) for row in found}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            found = found + [row for row in csv.DictReader(file) if (row["tool"], row["family"]) not in measured_now]
    names, titles = [tool.name for tool in TOOLS], [family.title for family in FAMILIES]
    found = sorted(found, key=lambda row: (names.index(row["tool"]), titles.index(row["family"])))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *([row[column] for column in COLUMNS] for row in found)])
    return found


def fill(page: Path, text: str) -> None:
    """Puts a table between a page's two marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")


def chosen(given: Sequence[str], title: str) -> bool:
    """Whether a title contains one of the words that were given, if any were."""
    return not given or any(word.lower() in title.lower() for word in given)


def main() -> int:
    """Measures, prints each cell and a table, and fails where a tool works on the plain model alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="tools whose names contain one of these")
    parser.add_argument("--families", nargs="+", default=[], help="families whose names contain one of these")
    parser.add_argument("--csv", type=Path, help="write the figures into this file")
    parser.add_argument(
        "--publish", action="store_true", help="write benchmarks/results/clients.csv and docs/clients.md"
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cells = []
    for tool in (tool for tool in TOOLS if chosen(given.only, tool.name)):
        for family in (family for family in FAMILIES if chosen(given.families, family.title)):
            cells.append(measured(tool, family))
            print(f"{cells[-1].verdict:>14}  {tool.name} · {family.title}: {cells[-1].text()}", flush=True)
    found = rows(cells)
    print("", table(found), sep="\n")
    if given.csv:
        write(found, given.csv)
    if given.publish:
        fill(ROOT / "docs" / "clients.md", table(write(found, ROOT / "benchmarks" / "results" / "clients.csv")))
    return int(any(cell.verdict == "no" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
