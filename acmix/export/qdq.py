"""ONNX with 8 bits in it: which nodes belong together, and a file in which some of them compute with int8.

QDQ form: QuantizeLinear and DequantizeLinear around each node; a scale a channel for weights, one a tensor for
activations. The logits of a softmax stay in float: masked ones are −∞, which no range of 8 bits holds.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

# images of a batch that goes through the network
BATCH = 32
# what of the graph a group is, in the order in which it is looked for: operators, and the modules they lie in
SCOPES: dict[str, tuple[frozenset[str], str]] = {
    "conv path": (frozenset({"Conv", "MatMul", "Gemm", "Add", "Mul", "Concat"}), r"conv_path|FoldedConvPath"),
    "LayerNorm": (frozenset({"LayerNormalization"}), ""),
    "softmax": (frozenset({"Softmax"}), ""),
    "GELU": (frozenset({"Gelu", "Erf"}), ""),
    "fc2": (frozenset({"MatMul", "Gemm", "Add", "Conv"}), r"\.fc2\b"),
    # of ACmix-ResNet, where the map gets smaller or wider
    "shortcuts": (frozenset({"Conv", "Add"}), r"\blayer\d+\.\d+\.downsample\b"),
    "patch merging": (frozenset({"MatMul", "Gemm", "Conv", "Add"}), r"\.(downsample|patch_embed\w*|reduction)\b"),
    "attention products": (frozenset({"MatMul", "Einsum"}), r"\.attn\b"),
    "residuals": (frozenset({"Add"}), r"blocks?\.\d+$|layer\d\.\d+$|layers\.\d+\.\d+$"),
    "other products": (frozenset({"MatMul", "Gemm", "Conv"}), ""),
}


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
        # the modules from the outside in; the last entry names the operator
        scope, kind = (".".join(parts_of(node, key)[-2:-1]) for key in ("name_scopes", "class_hierarchy"))
        if node.op_type == "Conv" and kind.endswith(".FoldedACmix") and side_of(node) > 1:
            # a folded ACmix2d computes its path itself; a kernel of one pixel is that of its positions
            groups["conv path"].append(node.name)
            continue
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


def parts_of(node: Any, key: str) -> list[str]:
    """What PyTorch's exporter notes of a node, as a list of strings."""
    told = next((each.value for each in node.metadata_props if each.key == f"pkg.torch.onnx.{key}"), "")
    return re.findall(r"'([^']*)'", told)


def side_of(node: Any) -> int:
    """The longest side of a convolution's kernel; 1 where it is not told."""
    return max((side for each in node.attribute if each.name == "kernel_shape" for side in each.ints), default=1)


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

        def get_next(self) -> Any:
            part = next(self.parts, None)
            return None if part is None else {"images": part.numpy()}

    # onnxruntime before 1.24, the newest on Python 3.10, takes the ranges again each time
    remembered = known_options(quantize_static, calibration_cache_path=str(cache))
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            # of the ranges of logits, which are not used
            warnings.simplefilter("ignore", RuntimeWarning)
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
                **remembered,
            )
    finally:
        logging.disable(disabled)
    leave_logits(destination)


def known_options(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Those of the options that a function takes by name."""
    return {name: value for name, value in options.items() if name in inspect.signature(function).parameters}


def leave_logits(file: Path) -> None:
    """Gives each softmax of a quantised file its logits as they are."""
    import onnx

    model = onnx.load(file)
    makers = {name: node for node in model.graph.node for name in node.output}
    is_changed = False
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "Softmax" else None
        if maker is None or maker.op_type != "DequantizeLinear":
            continue
        node.input[0] = makers[maker.input[0]].input[0]
        is_changed = True
    if not is_changed:
        return
    # what nobody reads any more; consumers come after what they consume
    read = {name for node in model.graph.node for name in node.input} | {each.name for each in model.graph.output}
    for node in reversed([*model.graph.node]):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not read & {*node.output}:
            model.graph.node.remove(node)
            read = {name for each in model.graph.node for name in each.input} | {
                each.name for each in model.graph.output
            }
    kept = [each for each in model.graph.initializer if each.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, file)
