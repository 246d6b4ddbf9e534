"""Writes a form as ONNX or as a `torch.export` program, with its description inside."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from acmix.errors import UsageError
from acmix.export.forms import Form
from acmix.tools.exports import CANNOT_RUN

# of protobuf, in which ONNX is written
MOST_ONNX_BYTES = 2**31


def write(form: Form, format: str, path: Path, texts: Mapping[str, str], opset: int | None = None) -> int:
    """Writes a file.

    Args:
        form: what to write.
        format: "onnx" or "pt2".
        path: where to.
        texts: its description.
        opset: of ONNX; None: the exporter's own.

    Returns:
        How many operators the graph has.

    Raises:
        UsageError: the network is too large for a file of ONNX, or PyTorch's exporter refuses it.
    """
    try:
        return write_onnx(form, path, texts, opset) if format == "onnx" else write_program(form, path, texts)
    except UsageError:
        raise
    except CANNOT_RUN as error:
        raise UsageError(f"PyTorch {torch.__version__} cannot write this model as {format}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an exporter's error says first: that of its first cause, for the others tell how to report it."""
    seen = [error]
    while (cause := seen[-1].__cause__ or seen[-1].__context__) is not None and cause not in seen:
        seen.append(cause)
    first = next((each for each in reversed(seen) if str(each).strip()), error)
    return next((line.strip() for line in str(first).splitlines() if line.strip()), type(first).__name__)[:200]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks, of which none is for a user."""
    talkative = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [each.level for each in talkative]
    for each in talkative:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(talkative, levels, strict=True):
            each.setLevel(level)


def write_onnx(form: Form, path: Path, texts: Mapping[str, str], opset: int | None) -> int:
    """Writes ONNX, all in one file."""
    needed = sum(each.numel() * each.element_size() for each in form.module.state_dict().values())
    if needed >= MOST_ONNX_BYTES:
        raise UsageError(
            f"the network has {needed / 2**30:.1f} GiB of weights, and a file of ONNX holds less than 2; "
            "export it as pt2, or with --dtype fp16"
        )
    with quiet():
        made: Any = torch.onnx.export(
            form.module,
            form.examples,
            dynamo=True,
            dynamic_shapes=form.open_sizes,
            input_names=[*form.inputs],
            output_names=[*form.outputs],
            opset_version=opset,
            verbose=False,
        )
    for part in made.model.graph.all_nodes():
        # where in whose files a line of code stands
        for key in ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node"):
            part.metadata_props.pop(key, None)
    made.model.metadata_props.clear()
    made.model.metadata_props.update(texts)
    made.model.producer_name = "acmix"
    made.save(path, external_data=False)
    return sum(node.op_type != "Constant" for node in made.model.graph)


def set_texts(path: Path, texts: Mapping[str, str]) -> None:
    """Replaces the description in a file of ONNX."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(texts))
    model.producer_name = "acmix"
    onnx.save(model, path)


def write_program(form: Form, path: Path, texts: Mapping[str, str]) -> int:
    """Writes a `torch.export` program."""
    program = exported(form)
    # images that nobody needs, and that would have to be unpickled
    program.example_inputs = None
    for node in program.graph.nodes:
        # where in whose files a line of code stands
        node.meta.pop("stack_trace", None)
    # of a file in memory: torch wants a name that ends in .pt2
    file = io.BytesIO()
    with quiet():
        torch.export.save(program, file, extra_files=dict(texts))
    path.write_bytes(file.getbuffer())
    return sum(node.op == "call_function" for node in program.graph.nodes)


def exported(form: Form) -> torch.export.ExportedProgram:
    """The form as a program."""
    import torch.fx.experimental._config as config

    # PyTorch's export takes a size of 1 for another case, and refuses maps so small that some stage has one pixel;
    # its ONNX exporter sets the same
    with quiet(), config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(form.module, form.examples, dynamic_shapes=form.open_sizes)
