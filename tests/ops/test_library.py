"""The operators inside PyTorch's machinery: opcheck, compile, export, autocast, dtypes, meta tensors, user errors."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from acmix.ops import dispatch
from acmix.testing.judge import results
from tests.support.cases import CASES, case_named, first_of_each, label

# an ordinary call of each operator; a map whose sides are no other size, which a compiler would take for the same
USUAL = [
    replace(each, map_size=(3, 7, 6), **({"shift": (2, 1)} if hasattr(each, "shift") else {}))
    for each in first_of_each()
]
every_operator = pytest.mark.parametrize("case", USUAL, ids=[case.operator for case in USUAL])


def detached(case, dtype=torch.float32):
    return {name: tensor.detach() for name, tensor in case.tensors(dtype).items()}


CHECKED = [
    *USUAL,
    case_named("conv_path", "stride 2, even and odd side"),
    case_named("conv_path", "part of something larger"),
    case_named("conv_path", "SAN's pieces"),
    case_named("window_attention", "no bias"),
    case_named("window_attention", "channels first in memory"),
    case_named("local_attention", "stride 2, even and odd side"),
    case_named("local_attention", "dilation 2"),
    case_named("local_attention", "no position"),
    case_named("local_attention", "no image"),
    case_named("patchwise_attention", "prime sides"),
    case_named("patchwise_attention", "one pixel"),
]


# opcheck takes a third of a second a case
@pytest.mark.parametrize(
    "case",
    [*USUAL, *(pytest.param(case, marks=pytest.mark.slow) for case in CHECKED[len(USUAL) :])],
    ids=label,
)
def test_opcheck_passes_for_the_operator_and_its_gradient(case):
    operator = case.operator
    arguments = tuple(dispatch.arguments_of(operator, **case.tensors(), **case.settings))
    torch.library.opcheck(getattr(torch.ops.acmix, operator).default, arguments)
    plain = [value.detach() if isinstance(value, torch.Tensor) else value for value in arguments]
    grad = torch.randn_like(getattr(torch.ops.acmix, operator)(*plain))
    backward = getattr(torch.ops.acmix, f"{operator}_backward").default
    torch.library.opcheck(backward, (grad, *plain))


@every_operator
@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.slow), True])
def test_one_compiled_graph_gives_the_same_output_and_gradients(case, dynamic):
    torch._dynamo.reset()
    tensors = case.tensors(torch.float64)

    def call(tensors):
        return case.call(tensors).sin()

    compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    assert torch.equal(compiled(tensors), call(tensors))
    found, expected = (torch.autograd.grad(run(tensors).sum(), list(tensors.values())) for run in (compiled, call))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@every_operator
def test_another_batch_or_size_does_not_compile_again(case):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(case.call, fullgraph=True, dynamic=True, backend=counter)
    # the first size shares no number with any other dimension, which the compiler would take for the same thing
    for size in ((5, 7, 11), (2, 7, 11), (3, 9, 10)):
        tensors = detached(replace(case, map_size=size))
        assert torch.equal(compiled(tensors), case.call(tensors))
        assert counter.frame_count == 1


@pytest.mark.slow
@every_operator
def test_an_exported_operator_takes_any_batch_and_size(case):
    class Module(torch.nn.Module):
        def forward(self, tensors):
            return case.call(tensors)

    tensors = detached(case)
    # images and rows; a position has rows alone
    images, rows = {0: torch.export.Dim.DYNAMIC}, {1: torch.export.Dim.DYNAMIC}
    sizes = {name: None if name in case.parameters else images | rows for name in tensors}
    if "position" in sizes:
        sizes["position"] = images
    exported = torch.export.export(Module(), (tensors,), dynamic_shapes=(sizes,))
    # it holds PyTorch's own operators, so that it loads where acmix is not installed
    assert not [node for node in exported.graph.nodes if "acmix" in str(node.target)]
    for size in ((3, 7, 6), (1, 4, 6), (2, 9, 6)):
        other = detached(replace(case, map_size=size))
        torch.testing.assert_close(exported.module()(other), case.call(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_meta_tensors_give_the_shape_dtype_and_layout_of_the_result(case):
    real = detached(case, torch.float16)
    out = case.call(real)
    meta = {name: tensor.to("meta").requires_grad_() for name, tensor in real.items()}
    shape = case.call(meta)
    assert (shape.shape, shape.dtype) == (out.shape, out.dtype)
    assert shape.is_contiguous()
    assert out.is_contiguous()
    grads = torch.autograd.grad(shape.sum(), list(meta.values()))
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in real.values()]


@every_operator
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_output_has_the_dtype_of_the_data(case, dtype):
    assert case.call(case.tensors(dtype)).dtype == dtype


@every_operator
def test_autocast_computes_in_bfloat16_and_gives_float32_gradients(case):
    tensors = case.tensors()
    with torch.autocast("cpu", torch.bfloat16):
        out = case.call(tensors)
    assert out.dtype == torch.bfloat16
    exact = case.call(detached(case, torch.float64))
    assert (out.double() - exact).abs().max() < 0.03 * exact.abs().max()
    for grad in torch.autograd.grad(out.float().square().sum(), list(tensors.values())):
        assert grad.dtype == torch.float32
        assert grad.isfinite().all()


@every_operator
def test_autocast_leaves_float64_alone(case):
    tensors = case.tensors(torch.float64)
    plain = results(case.call, tensors)
    with torch.autocast("cpu", torch.bfloat16):
        cast = results(case.call, tensors)
    for name, value in plain.items():
        assert cast[name].dtype == torch.float64, name
        assert torch.equal(cast[name], value), name


@every_operator
def test_half_precision_data_works_with_float32_parameters(case):
    mixed = case.tensors(torch.bfloat16, parameters=torch.float32)
    out = case.call(mixed)
    grads = torch.autograd.grad(out.sum(), list(mixed.values()))
    assert out.dtype == torch.bfloat16
    assert [grad.dtype for grad in grads] == [tensor.dtype for tensor in mixed.values()]


@every_operator
def test_inference_mode_first_and_training_after_work(case):
    case = replace(case, map_size=(2, 11, 10))
    with torch.inference_mode():
        case.call(detached(case))
    tensors = case.tensors()
    case.call(tensors).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in tensors.values())


@every_operator
def test_only_the_gradients_asked_for_are_given(case):
    tensors = detached(case)
    last = list(tensors)[-1]
    tensors[last].requires_grad_()
    case.call(tensors).sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is not None] == [last]
