"""Static quantisation of an exported classifier to 8 bits, with the nodes that lose most left in float by measurement.

Weights and activations become int8, a scale a channel for weights and one a tensor for activations, in ONNX's QDQ form:
QuantizeLinear and DequantizeLinear around each node. Ranges of activations are the least and largest values over
images of the training split. Which nodes stay in float is decided on other images of it, and the result is measured on
the validation split, so that nothing is chosen by what it is measured with.

B batch, K classes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from acmix.config import Config
from acmix.data import Trained
from acmix.data.batch import collate
from acmix.errors import UsageError
from acmix.extras import install
from acmix.tasks import task_of
from acmix.tools.exports import Session

MODES = ("all", "auto")
CALIBRATION, CHOOSING, TOLERANCE = 128, 512, 0.5
# images of a batch that goes through the network
BATCH = 32
# what of the graph a group is, in the order in which it is looked for: operators, and the modules they lie in
SCOPES: dict[str, tuple[frozenset[str], str]] = {
    "conv path": (frozenset({"Conv", "MatMul", "Gemm", "Add", "Mul", "Concat"}), r"conv_path|FoldedConvPath"),
    "LayerNorm": (frozenset({"LayerNormalization"}), ""),
    "softmax": (frozenset({"Softmax"}), ""),
    "GELU": (frozenset({"Gelu", "Erf"}), ""),
    "fc2": (frozenset({"MatMul", "Gemm", "Add", "Conv"}), r"\.fc2\b"),
    "patch merging": (frozenset({"MatMul", "Gemm", "Conv", "Add"}), r"\.(downsample|patch_embed\w*|reduction)\b"),
    "attention products": (frozenset({"MatMul", "Einsum"}), r"\.attn\b"),
    "residuals": (frozenset({"Add"}), r"blocks?\.\d+$|layer\d\.\d+$|layers\.\d+\.\d+$"),
    "other products": (frozenset({"MatMul", "Gemm", "Conv"}), ""),
}


@dataclass(frozen=True)
class Drop:
    """What becomes of the accuracy where one group of nodes alone is quantised.

    Args:
        group: its name.
        nodes: how many.
        top1: in percent, on the images that groups are chosen by.
        drop: from the float network, in points.
        left_in_float: whether the group was.
    """

    group: str
    nodes: int
    top1: float
    drop: float
    left_in_float: bool = False


@dataclass(frozen=True)
class Quantised:
    """What came of it.

    Args:
        calibration, choosing: how many images ranges were taken from, and groups were chosen by.
        before, after: top-1 of the float network and of the result on the images that groups are chosen by; None where
            nothing was chosen.
        drops: of each group that the network has; empty where all was quantised.
        in_float: the groups left in float.
    """

    calibration: int
    choosing: int
    before: float | None = None
    after: float | None = None
    drops: list[Drop] = field(default_factory=list)
    in_float: tuple[str, ...] = ()


def quantise(
    source: Path,
    destination: Path,
    config: Config,
    trained: Trained,
    data: str,
    *,
    mode: str = "auto",
    calibration: int = CALIBRATION,
    choosing: int = CHOOSING,
    tolerance: float = TOLERANCE,
    tell: Callable[[str], object] = lambda line: None,
) -> Quantised:
    """Quantises a float ONNX file.

    Args:
        source: an ONNX file that `acmix.export` wrote, in float32.
        destination: the file to write.
        config: of the run.
        trained: the classes that the model knows.
        data: folder of the images.
        mode: "all" quantises every group, "auto" leaves in float what loses too much.
        calibration: images for ranges.
        choosing: images for the choice.
        tolerance: points of top-1 that may be lost on these.
        tell: called with a line for each step.

    Raises:
        UsageError: onnxruntime or onnx is missing, or there are no such images.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError(f"int8 needs onnx and onnxruntime; run {install('export')}") from None
    wanted = calibration + (choosing if mode == "auto" else 0)
    images, targets = images_of(config, trained, data, wanted)
    if len(images) < min(wanted, 2):
        raise UsageError(f"{data} has {len(images)} training images; quantisation needs 2 at least")
    used = min(calibration, max(1, len(images) // 2) if mode == "auto" else len(images))
    graph = onnx.load(source)
    groups = groups_of(graph)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "ranges"

        def written(names: Sequence[str], into: Path) -> Path:
            nodes = [node for name in names for node in groups[name]]
            write_quantised(source, into, nodes, images[:used], cache)
            return into

        if mode == "all":
            tell(f"ranges of {used} images; {sum(map(len, groups.values()))} nodes to int8")
            written([*groups], destination)
            return Quantised(used, 0)
        tried, labels = images[used:], targets[used:]
        before = accuracy(source, tried, labels)
        tell(f"ranges of {used} images, groups chosen by {len(tried)} others: float {before:.2f} %")
        drops = []
        for name, nodes in groups.items():
            top1 = accuracy(written([name], Path(folder) / "one.onnx"), tried, labels)
            drops.append(Drop(name, len(nodes), top1, before - top1))
            tell(f"  {name} alone in int8 ({len(nodes)} nodes): {top1:.2f} %, {before - top1:+.2f} points lost")
        left: list[str] = []
        by_loss = sorted(drops, key=lambda each: each.drop, reverse=True)
        while True:
            names = [name for name in groups if name not in left]
            after = accuracy(written(names, destination), tried, labels)
            tell(f"  {', '.join(left) or 'nothing'} in float: {after:.2f} %, {before - after:+.2f} points lost")
            if before - after <= tolerance or len(left) == len(groups) - 1:
                break
            left.append(by_loss[len(left)].group)
    told = [Drop(each.group, each.nodes, each.top1, each.drop, each.group in left) for each in drops]
    return Quantised(used, len(tried), before, after, told, tuple(left))


def images_of(config: Config, trained: Trained, data: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the training split as evaluation prepares them, drawn by a fixed seed, and their labels."""
    updates = {"dir": data, "val_split": config.data.train_split, "split": None, "workers": 0}
    config = config.model_copy(update={"data": config.data.model_copy(update=updates)})
    loader = task_of(config).val_loader(trained=trained)
    dataset = loader.dataset
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:count].tolist()
    parts = []
    for start in range(0, len(order), BATCH):
        batch = collate([dataset[place] for place in order[start : start + BATCH]]).to("cpu")
        seen = batch.weights > 0
        parts.append((batch.images[seen], batch.targets[seen]))
    if not parts:
        return torch.zeros(0), torch.zeros(0)
    return torch.cat([images for images, _ in parts]), torch.cat([targets for _, targets in parts])


def accuracy(file: Path, images: torch.Tensor, targets: torch.Tensor) -> float:
    """Top-1 of an ONNX file in percent."""
    session = Session(file)
    hits = sum(
        int((session(part).argmax(1) == labels).sum())
        for part, labels in zip(images.split(BATCH), targets.split(BATCH), strict=True)
    )
    return 100 * hits / max(1, len(images))


def groups_of(graph: Any) -> dict[str, list[str]]:
    """The names of the nodes of each group that a graph has; nodes that compute with sizes are in none."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(graph)
    floats = {each.name for each in inferred.graph.value_info if of_floats(each)}
    floats |= {each.name for each in graph.graph.output}
    constant = {each.name for each in graph.graph.initializer}
    groups: dict[str, list[str]] = {name: [] for name in SCOPES}
    for node in graph.graph.node:
        if not any(name in floats for name in node.output):
            continue
        told = next((each.value for each in node.metadata_props if each.key == "pkg.torch.onnx.name_scopes"), "")
        # the modules from the outside in; the last entry names the operator
        scope = ".".join(re.findall(r"'([^']*)'", told)[-2:-1])
        for name, (operators, place) in SCOPES.items():
            if node.op_type not in operators or not re.search(place, scope):
                continue
            if name == "attention products" and any(each in constant for each in node.input):
                continue
            if name == "residuals" and any(each in constant for each in node.input):
                continue
            groups[name].append(node.name)
            break
    return {name: nodes for name, nodes in groups.items() if nodes}


def of_floats(value: Any) -> bool:
    """Whether a value of a graph is a tensor of float32."""
    import onnx

    return value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def write_quantised(source: Path, destination: Path, nodes: list[str], images: torch.Tensor, cache: Path) -> None:
    """Writes a file in which these nodes compute with 8 bits."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        """The images, some at a time."""

        def __init__(self) -> None:
            self.parts: Iterator[torch.Tensor] = iter(images.split(BATCH))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": part.numpy()}

    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            quantize_static(
                str(source),
                str(destination),
                Images(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=nodes,
                op_types_to_quantize=sorted({kind for kinds, _ in SCOPES.values() for kind in kinds}),
                calibration_cache_path=str(cache),
            )
    finally:
        logging.disable(logging.NOTSET)
