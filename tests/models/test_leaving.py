"""Graphs of every family that leave PyTorch take other batches and sizes, and need nothing of ours."""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.fx.experimental._config as config
from timm.layers import resample_abs_pos_embed

import acmix
from acmix.benchmark.leaving import MODELS, cells, settled
from acmix.models import tokens

# the example; smaller than a window, no multiple of 7 or 32, one pixel behind the last stage
SHAPES = [(2, 3, 64, 64), (1, 3, 55, 71), (3, 3, 5, 9), (1, 3, 33, 1), (1, 3, 1, 1)]
FORMS: dict[str, dict[str, Any]] = {
    "mixed": {},
    "plain": {"conv_path": False},
    "softmax rates": {"rates": "softmax"},
    "shifted maps": {"conv_kernels": "shifts"},
    "shared kernels": {"conv_kernels": "channel"},
}
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra `export` is not installed",
)
every_family = pytest.mark.parametrize("name", MODELS)


def toy(name: str, **kwargs: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return settled(acmix.create_model(name, **{**MODELS[name], "num_classes": 5, **kwargs}))


@torch.no_grad()
def expect_equal(run: Any, model: torch.nn.Module, shapes: Any = SHAPES) -> None:
    for shape in shapes:
        x = torch.randn(shape)
        # a trace is optimised after its first calls
        for _ in range(3):
            torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def traced(model: torch.nn.Module) -> Any:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace: Any = torch.jit.trace(model, torch.randn(SHAPES[0]))
        assert "acmix::" not in str(trace.inlined_graph)
        torch.jit.save(trace, file)
        file.seek(0)
        return torch.jit.load(file)


@every_family
@pytest.mark.slow
def test_a_trace_takes_any_batch_and_size(name):
    model = toy(name)
    expect_equal(traced(model), model)


@pytest.mark.slow
@pytest.mark.parametrize("form", list(FORMS)[1:])
def test_the_trace_of_a_swin_of_another_form_takes_any_batch_and_size(form):
    model = toy("acmix_swin_tiny_patch4_window7_224", **FORMS[form])
    expect_equal(traced(model), model)


@pytest.mark.slow
@every_family
def test_the_trace_of_a_folded_model_takes_any_batch_and_size(name):
    model = acmix.fold(toy(name))
    expect_equal(traced(model), model)


@pytest.mark.slow
@needs_onnx
@every_family
def test_onnx_by_a_trace_takes_any_batch_and_size(name, tmp_path):
    import onnxruntime

    model, file = toy(name), str(tmp_path / "model.onnx")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        axes = {"x": {0: "batch", 2: "rows", 3: "columns"}}
        example = torch.randn(SHAPES[0])
        torch.onnx.export(model, (example,), file, input_names=["x"], dynamo=False, dynamic_axes=axes)
    session = onnxruntime.InferenceSession(file)
    expect_equal(lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strict"),
    # two of them traced by Dynamo as well, which takes twice as long
    [*((name, False) for name in MODELS), ("acmix_deit_tiny_patch16_224", True), ("acmix_resnet26", True)],
)
def test_an_exported_program_takes_any_batch_and_size(name, strict):
    model = toy(name)
    free = {dim: torch.export.Dim.DYNAMIC for dim in (0, 2, 3)}
    with config.patch(backed_size_oblivious=True), torch.no_grad():  # pyright: ignore[reportAttributeAccessIssue]
        program = torch.export.export(model, (torch.randn(SHAPES[0]),), dynamic_shapes=(free,), strict=strict)
    assert "acmix" not in str(program.graph)
    # an ACmix2d in an exported program does not take a map one pixel wide
    expect_equal(program.module(), model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trace", "exported_program"])
def test_what_was_written_is_read_where_acmix_is_not(kind):
    [row] = cells(["acmix_deit_tiny_patch16_224"], [kind], ["any"], toy=True)
    assert not row["note"], row
    assert float(row["largest_difference"]) < 1e-4


@pytest.mark.parametrize("grid", [(14, 14), (3, 4), (1, 1), (20, 9)])
def test_positions_in_a_graph_that_leaves_are_those_that_timm_interpolates(grid, monkeypatch):
    learned = torch.randn(1, 1 + 14 * 14, 7)
    expected = resample_abs_pos_embed(learned, list(grid), [14, 14], num_prefix_tokens=1)
    assert torch.equal(tokens.positions(learned, grid, (14, 14), 1), expected)
    monkeypatch.setattr(tokens, "leaves_pytorch", lambda: True)
    torch.testing.assert_close(tokens.positions(learned, grid, (14, 14), 1), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_exported_stage_of_one_pixel_may_have_more_heads_than_one():
    model = toy("acmix_pvt_tiny", num_heads=(2, 2))
    free = {dim: torch.export.Dim.DYNAMIC for dim in (0, 2, 3)}
    with config.patch(backed_size_oblivious=True), torch.no_grad():  # pyright: ignore[reportAttributeAccessIssue]
        program = torch.export.export(model, (torch.randn(SHAPES[0]),), dynamic_shapes=(free,))
    expect_equal(program.module(), model)
