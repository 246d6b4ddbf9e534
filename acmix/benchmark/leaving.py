"""Every family in every format that leaves PyTorch, loaded where acmix cannot be imported, and compared.

python benchmarks/leaving.py [--models NAME …] [--formats FORMAT …] [--sizes fixed batch any] [--toy]
    ->  benchmarks/results/leaving.csv

A cell is written by this process and read by another, in which `import acmix` fails. The largest difference is that
from the model's own output, over images that have other batches, and sides smaller than a window and no multiple of 7
or 32.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import acmix
from acmix.errors import UsageError

COLUMNS = ("model", "format", "sizes", "images", "nodes", "seconds", "mib", "largest_difference", "torch", "note")
# one network a family, and how small it becomes with --toy
MODELS: dict[str, dict[str, Any]] = {
    "acmix_swin_tiny_patch4_window7_224": dict(
        img_size=64, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, mlp_ratio=1.0
    ),
    "acmix_resnet26": dict(layers=(1, 1), width=8, heads=2, attention_size=3),
    "acmix_san10": dict(layers=(1, 1), width=32, sizes=(3, 3)),
    "acmix_pvt_tiny": dict(
        img_size=64, embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(2, 2), reductions=(2, 1)
    ),
    "acmix_deit_tiny_patch16_224": dict(img_size=64, embed_dim=12, depth=2, num_heads=2),
}
FORMATS = ("trace", "onnx_traced", "onnx_exported", "exported_program", "aot_inductor")
OPEN: dict[str, dict[int, str]] = {"fixed": {}, "batch": {0: "batch"}, "any": {0: "batch", 2: "rows", 3: "columns"}}
# of the example is the first; (batch, rows, columns)
TRIED: dict[str, Callable[[int], list[tuple[int, int, int]]]] = {
    "fixed": lambda side: [(2, side, side)],
    "batch": lambda side: [(2, side, side), (1, side, side), (3, side, side)],
    "any": lambda side: [(2, side, side), (1, 55, 71), (3, 33, 70), (2, 5, 9)],
}
READER = """
import json, sys
sys.modules["acmix"] = None
import torch
kind, file, images, answers = sys.argv[1:]
if kind == "trace":
    run = torch.jit.load(file)
elif kind == "exported_program":
    run = torch.export.load(file).module()
elif kind == "aot_inductor":
    run = torch._inductor.aoti_load_package(file)
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(file)
    run = lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
with torch.no_grad():
    found = [run(x) for x in torch.load(images) for _ in range(3)][::3]
print(json.dumps([float((a - b).abs().max()) for a, b in zip(found, torch.load(answers))]))
"""


def main(root: Path) -> int:
    """Reads the command line.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--sizes", nargs="+", default=list(OPEN), choices=list(OPEN))
    parser.add_argument("--toy", action="store_true", help="small networks of the same families, in seconds each")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.models if name not in MODELS]
    if unknown:
        raise UsageError(f"--models {unknown[0]}: expected of {', '.join(MODELS)}")
    file = root / "benchmarks" / "results" / ("leaving_toy.csv" if chosen.toy else "leaving.csv")
    kept = []
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as old:
            kept = list(csv.DictReader(old))
    for row in cells(chosen.models, chosen.formats, chosen.sizes, toy=chosen.toy):
        print("  ".join(f"{value}" for value in row.values()), flush=True)
        key = ("model", "format", "sizes")
        kept = [each for each in kept if any(each[name] != row[name] for name in key)] + [row]
        with file.open("w", newline="", encoding="utf-8") as new:
            writer = csv.DictWriter(new, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)
    return 0


def cells(
    models: Sequence[str], formats: Sequence[str], sizes: Sequence[str], *, toy: bool
) -> Iterator[dict[str, Any]]:
    """One row of `COLUMNS` for each combination."""
    for name in models:
        torch.manual_seed(0)
        model = settled(acmix.create_model(name, **(MODELS[name] if toy else {})))
        for kind in formats:
            for size in sizes:
                shapes = TRIED[size](64 if toy else 224)
                row = {
                    "model": name,
                    "format": kind,
                    "sizes": size,
                    "images": " ".join("x".join(map(str, s)) for s in shapes),
                }
                with tempfile.TemporaryDirectory() as folder:
                    yield {**row, **cell(model, kind, OPEN[size], shapes, Path(folder)), "torch": torch.__version__}


def cell(
    model: nn.Module, kind: str, names: dict[int, str], shapes: list[tuple[int, int, int]], folder: Path
) -> dict[str, Any]:
    """Writes a model, reads it where acmix cannot be imported, and compares."""
    images = [torch.randn(b, 3, h, w, generator=torch.Generator().manual_seed(1)) for b, h, w in shapes]
    begun = time.perf_counter()
    try:
        file, nodes = write(model, images[0], kind, names, folder)
        seconds = time.perf_counter() - begun
        with torch.no_grad():
            torch.save(images, folder / "images.pt")
            torch.save([model(x) for x in images], folder / "answers.pt")
        found = differences(kind, file, folder)
        size = sum(each.stat().st_size for each in folder.glob(f"{file.name}*")) / 2**20
        return dict(
            nodes=nodes, seconds=f"{seconds:.1f}", mib=f"{size:.2f}", largest_difference=f"{max(found):.1e}", note=""
        )
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AssertionError,
        OSError,
    ) as error:  # a row says so; the other cells are tried
        return dict(nodes="", seconds="", mib="", largest_difference="", note=" ".join(f"{error}".split())[:200])


def write(model: nn.Module, example: Tensor, kind: str, names: dict[int, str], folder: Path) -> tuple[Path, int]:
    """Writes a model in one format, open in the dimensions named.

    Returns:
        The file, and how many nodes its graph has: operators, without constants and placeholders.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if kind == "trace":
            traced: Any = torch.jit.trace(model, example)
            torch.jit.save(traced, folder / "model.pt")
            made = [each for each in traced.inlined_graph.nodes() if each.kind().startswith("aten::")]
            return folder / "model.pt", len(made)
        if kind.startswith("onnx"):
            import onnx

            file, dynamo = folder / "model.onnx", kind == "onnx_exported"
            free: dict[str, Any] = dict(dynamic_axes={"x": names})
            if dynamo:
                free = dict(dynamic_shapes=({dim: torch.export.Dim.DYNAMIC for dim in names},), verbose=False)
            torch.onnx.export(model, (example,), file, input_names=["x"], dynamo=dynamo, **(free if names else {}))
            graph = onnx.load(file, load_external_data=False).graph
            return file, sum(each.op_type != "Constant" for each in graph.node)
        program = exported(model, example, names)
        nodes = sum(each.op == "call_function" for each in program.graph.nodes)
        file = folder / "model.pt2"
        if kind == "exported_program":
            torch.export.save(program, file)
        else:
            torch._inductor.aoti_compile_and_package(program, package_path=str(file))
        return file, nodes


def exported(model: nn.Module, example: Tensor, names: dict[int, str]) -> torch.export.ExportedProgram:
    """The program of a model, open in the dimensions named, a side of one pixel among the sizes it takes."""
    free = ({dim: torch.export.Dim.DYNAMIC for dim in names},) if names else None
    import torch.fx.experimental._config as config

    # PyTorch's export takes a size of 1 for another case, and refuses maps so small that some stage has one pixel;
    # its ONNX exporter sets the same
    with config.patch(backed_size_oblivious=True) if names else nullcontext():  # type: ignore[attr-defined]
        return torch.export.export(model, (example,), dynamic_shapes=free)


def differences(kind: str, file: Path, folder: Path) -> list[float]:
    """The largest difference for each input, from the answers that lie in a folder beside the inputs."""
    arguments = [kind, str(file), str(folder / "images.pt"), str(folder / "answers.pt")]
    end = subprocess.run([sys.executable, "-c", READER, *arguments], capture_output=True, text=True, check=False)
    if end.returncode:
        raise RuntimeError(end.stderr.strip().splitlines()[-1] if end.stderr.strip() else "the reader ended")
    found = json.loads(end.stdout.splitlines()[-1])
    assert isinstance(found, list)
    return found


def settled(model: nn.Module) -> nn.Module:
    """In evaluation mode, with running statistics as after some training."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    return model.eval()
