"""ACmix2d in graphs that leave PyTorch: they hold PyTorch's own operators, few of them, and sizes stay free."""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx.experimental._config as config

import acmix
from acmix.layers import ACmix1d, ACmix2d, Mixing
from acmix.layers.leaving import known_around, open_around, places
from acmix.ops.leaving import around

SIZES = [(2, 6, 9, 11), (3, 6, 9, 11), (1, 6, 20, 5), (1, 6, 1, 1), (1, 6, 2, 15)]
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra `export` is not installed",
)


def layer_and_input() -> tuple[ACmix2d, torch.Tensor]:
    torch.manual_seed(0)
    return ACmix2d(6, 8, heads=2, attention_size=3, stride=2, dilation=2).eval(), torch.randn(SIZES[0])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_trace_needs_nothing_of_ours_and_takes_any_size() -> None:
    layer, x = layer_and_input()
    file = io.BytesIO()
    traced: Any = torch.jit.trace(layer, x)
    assert "acmix::" not in str(traced.inlined_graph)
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for size in SIZES:
        x = torch.randn(size)
        torch.testing.assert_close(loaded(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_exported_program_needs_nothing_of_ours_and_takes_any_size() -> None:
    layer, x = layer_and_input()
    rows, columns = torch.export.Dim("rows", min=3), torch.export.Dim("columns", min=3)
    program = torch.export.export(
        layer, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch"), 2: rows, 3: columns}}
    )
    assert not [node for node in program.graph.nodes if "acmix" in str(node.target)]
    for size in SIZES[:3]:
        x = torch.randn(size)
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("form", ["plain", "folded"])
def test_an_exported_program_takes_sequences_of_one_position(form: str, strict: bool) -> None:
    torch.manual_seed(0)
    layer: Any = ACmix1d(6, 8, heads=2, attention_size=3, stride=2, dilation=2).eval()
    if form == "folded":
        layer = acmix.fold(layer)
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    with config.patch(backed_size_oblivious=True):  # pyright: ignore[reportAttributeAccessIssue]
        program = torch.export.export(layer, (torch.randn(2, 6, 9),), dynamic_shapes=(free,), strict=strict)
    for size in ((3, 6, 20), (1, 6, 2), (1, 6, 1)):
        x = torch.randn(size)
        torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-6)


@needs_onnx
@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["traced", "exported"])
def test_onnx_takes_any_size(dynamo: bool, tmp_path: Path) -> None:
    import onnxruntime

    layer, x = layer_and_input()
    names = {0: "batch", 2: "rows", 3: "columns"}
    free: dict[str, Any] = (
        {"dynamic_shapes": {"x": {dim: torch.export.Dim(name) for dim, name in names.items()}}}
        if dynamo
        else {"dynamic_axes": {"x": names}}
    )
    file = str(tmp_path / "layer.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            layer, (x,), file, input_names=["x"], output_names=["y"], dynamo=dynamo, verbose=False, **free
        )
    session = onnxruntime.InferenceSession(file)
    for size in SIZES:
        x = torch.randn(size)
        (y,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), layer(x), rtol=1e-5, atol=1e-6)


@needs_onnx
@pytest.mark.parametrize("folded", [False, True], ids=["layer", "folded"])
@pytest.mark.parametrize("free", [None, "any size"])
@pytest.mark.slow
def test_a_layer_of_7_by_7_is_at_most_60_nodes(folded: bool, free: str | None, tmp_path: Path) -> None:
    import onnx

    layer = ACmix2d(16, 16).eval()
    names = {dim: torch.export.Dim(name) for dim, name in {0: "batch", 2: "rows", 3: "columns"}.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            acmix.fold(layer) if folded else layer,
            (torch.randn(1, 16, 14, 14),),
            str(tmp_path / "layer.onnx"),
            dynamo=True,
            verbose=False,
            dynamic_shapes=(names,) if free else None,
        )
    assert len(onnx.load(tmp_path / "layer.onnx").graph.node) <= (60 if free else 30)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("folded", [False, True], ids=["layer", "folded"])
def test_an_empty_batch_is_one_in_graphs_too(folded: bool) -> None:
    layer: Any = ACmix2d(6, 8, stride=2).eval()
    if folded:
        layer = acmix.fold(layer)
    x = torch.randn(2, 6, 9, 7)
    traced: Any = torch.jit.trace(layer, x, check_trace=False)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    assert traced(x[:0]).shape == program(x[:0]).shape == layer(x[:0]).shape == (0, 8, 5, 4)


def test_neighbours_are_counted_alike_at_known_and_at_open_sizes() -> None:
    for height, width, size, stride, dilation in ((9, 11, 7, 1, 1), (1, 5, 5, 2, 1), (4, 1, 3, 1, 3), (3, 2, 9, 2, 2)):
        place, period = places(torch.zeros(1, 1, height, width))
        place = place[:, :, ::stride, ::stride].reshape(1, 2, -1, 1)
        found = open_around(place, period, width, size, dilation)
        expected = known_around(height, width, size, stride, dilation, torch.device("cpu"))
        pixels = torch.arange(height * width).view(1, height, width, 1)
        line = around((height, width), (size, size), stride, dilation, torch.device("cpu"))
        torch.testing.assert_close(expected, pixels.flatten()[line.flatten()])
        torch.testing.assert_close(found, expected)


OPTIONS: list[dict[str, Any]] = [
    dict(),
    dict(stride=2),
    dict(stride=3, dilation=2),
    dict(attention_size=9, conv_size=5),
    dict(heads=1, attention_size=1, conv_size=1),
    dict(mixing=Mixing(path="attention")),
    dict(mixing=Mixing(path="convolution")),
    dict(mixing=Mixing(rates="softmax", conv_kernels="channel")),
    dict(mixing=Mixing(rates=2.0, conv_kernels="shifts")),
    dict(mixing=Mixing(rates=(0.0, 1.0), conv_kernels="frozen")),
]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "options", OPTIONS[:3] + [pytest.param(each, marks=pytest.mark.slow) for each in OPTIONS[3:]], ids=str
)
def test_every_layer_leaves_as_it_is(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = ACmix2d(6, 8, **{"heads": 2, **options}).double().eval()
    x = torch.randn(2, 6, 9, 11, dtype=torch.float64, requires_grad=True)
    for form in (layer, acmix.fold(layer)):
        traced: Any = torch.jit.trace(form, x)
        for size in ((9, 11), (1, 1), (1, 6), (4, 2), (30, 3)):
            x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
            want, got = form(x), traced(x)
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
            (wanted,) = torch.autograd.grad(want.square().sum(), x)
            torch.testing.assert_close(torch.autograd.grad(got.square().sum(), x)[0], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_wrapped_projection_leaves_with_its_wrapper() -> None:
    layer, x = layer_and_input()
    for part in (layer.query, layer.value, layer.position):
        part.register_forward_hook(lambda module, given, out: out * 1.5 + 0.1)
    traced: Any = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(x[:1]), layer(x[:1]), rtol=1e-5, atol=1e-6)
