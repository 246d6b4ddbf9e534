"""The operators inside PyTorch's machinery: opcheck, compile, export, autocast, dtypes, meta tensors, user errors."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from acmix import ops
from acmix.errors import UsageError
from acmix.testing.cases import CASES, CONV_CASES, WINDOW_CASES, ConvCase, WindowCase

CONV = ConvCase("", size=(3, 5, 6), shift=(2, 1))
WINDOW = WindowCase("", size=(3, 7, 6), shift=(2, 1))
BOTH = pytest.mark.parametrize("case", [CONV, WINDOW], ids=["conv", "window"])


def detached(case, dtype=torch.float32):
    return {name: tensor.detach() for name, tensor in case.tensors(dtype).items()}


def raw_arguments(case):
    """What the registered operator takes."""
    tensors = case.tensors()
    if isinstance(case, ConvCase):
        pieces, fc_weight, kernels = (tensors[name] for name in ("pieces", "fc_weight", "kernels"))
        return pieces, fc_weight, tensors.get("fc_bias"), kernels, case.stride, case.dilation, list(case.shift)
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    return tensors["qkv"], tensors.get("bias_table"), list(case.window), list(case.shift), scale


CHECKED = [
    ("conv_path", CONV),
    ("conv_path", next(case for case in CONV_CASES if case.name == "stride 2, even and odd side")),
    ("conv_path", next(case for case in CONV_CASES if case.name == "part of something larger" and not case.shift[0])),
    ("conv_path", next(case for case in CONV_CASES if case.name == "SAN's pieces")),
    ("window_attention", WINDOW),
    ("window_attention", next(case for case in WINDOW_CASES if case.name == "no bias")),
    ("window_attention", next(case for case in WINDOW_CASES if case.name == "channels first in memory")),
]


@pytest.mark.parametrize(("operator", "case"), CHECKED, ids=lambda value: getattr(value, "name", value))
def test_opcheck_passes_for_the_operator_and_its_gradient(operator, case):
    arguments = raw_arguments(case)
    torch.library.opcheck(getattr(torch.ops.acmix, operator).default, arguments)
    plain = [value.detach() if isinstance(value, torch.Tensor) else value for value in arguments]
    grad = torch.randn_like(getattr(torch.ops.acmix, operator)(*plain))
    backward = getattr(torch.ops.acmix, f"{operator}_backward").default
    torch.library.opcheck(backward, (grad, *plain))


@BOTH
@pytest.mark.parametrize("dynamic", [False, True])
def test_one_compiled_graph_gives_the_same_output_and_gradients(case, dynamic):
    torch._dynamo.reset()
    tensors = case.tensors(torch.float64)

    def call(tensors):
        return case.call(tensors).sin()

    compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    assert torch.equal(compiled(tensors), call(tensors))
    found, expected = (torch.autograd.grad(run(tensors).sum(), list(tensors.values())) for run in (compiled, call))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@BOTH
def test_another_batch_or_size_does_not_compile_again(case):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(case.call, fullgraph=True, dynamic=True, backend=counter)
    # the first size shares no number with any other dimension, which the compiler would take for the same thing
    for size in ((5, 7, 11), (2, 7, 11), (3, 9, 10)):
        tensors = detached(type(case)(**{**vars(case), "size": size}))
        assert torch.equal(compiled(tensors), case.call(tensors))
        assert counter.frame_count == 1


@BOTH
def test_an_exported_operator_takes_any_batch_and_size(case):
    class Module(torch.nn.Module):
        def forward(self, tensors):
            return case.call(tensors)

    tensors = detached(case)
    data = "pieces" if isinstance(case, ConvCase) else "qkv"
    sizes = {name: None for name in tensors} | {data: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    exported = torch.export.export(Module(), (tensors,), dynamic_shapes=(sizes,))
    operators = [str(node.target) for node in exported.graph.nodes if "acmix" in str(node.target)]
    assert len(operators) == 1
    for size in ((3, 7, 6), (1, 4, 6), (2, 9, 6)):
        other = detached(type(case)(**{**vars(case), "size": size}))
        assert torch.equal(exported.module()(other), case.call(other))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
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


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_output_has_the_dtype_of_the_data(case, dtype):
    assert case.call(case.tensors(dtype)).dtype == dtype


@BOTH
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


@BOTH
def test_autocast_leaves_float64_alone(case):
    tensors = detached(case, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(case.call(tensors), case.call(tensors))
        assert case.call(tensors).dtype == torch.float64


@BOTH
def test_half_precision_data_works_with_float32_parameters(case):
    tensors = case.tensors()
    data = "pieces" if isinstance(case, ConvCase) else "qkv"
    mixed = {**tensors, data: tensors[data].detach().bfloat16().requires_grad_()}
    out = case.call(mixed)
    grads = torch.autograd.grad(out.sum(), list(mixed.values()))
    assert out.dtype == torch.bfloat16
    assert [grad.dtype for grad in grads] == [tensor.dtype for tensor in mixed.values()]


@BOTH
def test_inference_mode_first_and_training_after_work(case):
    case = type(case)(**{**vars(case), "size": (2, 11, 10)})
    with torch.inference_mode():
        case.call(detached(case))
    tensors = case.tensors()
    case.call(tensors).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in tensors.values())


@BOTH
def test_only_the_gradients_asked_for_are_given(case):
    tensors = detached(case)
    last = list(tensors)[-1]
    tensors[last].requires_grad_()
    case.call(tensors).sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is not None] == [last]


WRONG_CONV = {
    r"pieces has shape \(2, 6, 7, 24\); expected \(B, H, W, P, D\)": dict(pieces=torch.zeros(2, 6, 7, 24)),
    r"fc_weight has shape \(9, 5\); expected \(9, 6\)": dict(fc_weight=torch.zeros(9, 5)),
    r"fc_bias has shape \(8,\); expected \(9,\)": dict(fc_bias=torch.zeros(8)),
    r"kernels has shape \(8, 9, 3\); expected \(M\*D, T, ky, kx\)": dict(kernels=torch.zeros(8, 9, 3)),
    r"kernels are 2×2; expected odd sides": dict(kernels=torch.zeros(8, 9, 2, 2)),
    r"kernels are 3×4; expected odd sides": dict(kernels=torch.zeros(8, 9, 3, 4)),
    r"7 output channels are no multiple of the pieces' 4 channels": dict(kernels=torch.zeros(7, 9, 3, 3)),
    r"stride=0, dilation=1; both must be at least 1": dict(stride=0),
    r"stride=1, dilation=-1; both must be at least 1": dict(dilation=-1),
    r"shift=\(1, 1\) with stride=2; a shift goes with stride=1 only": dict(stride=2, shift=(1, 1)),
    r"shift=\(1, 1, 1\); expected a number or two": dict(shift=(1, 1, 1)),
}


@pytest.mark.parametrize("message", WRONG_CONV)
def test_conv_path_names_what_does_not_fit(message):
    good = detached(CONV_CASES[0])
    with pytest.raises(UsageError, match=message) as caught:
        ops.conv_path(**{**good, **WRONG_CONV[message]})
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


WRONG_WINDOW = {
    r"qkv has shape \(2, 8, 8, 24\); expected \(B, H, W, 3, N, D\)": dict(qkv=torch.zeros(2, 8, 8, 24)),
    r"qkv has shape \(2, 8, 8, 2, 2, 4\); expected": dict(qkv=torch.zeros(2, 8, 8, 2, 2, 4)),
    r"bias_table has shape \(48, 2\); expected \(49, 2\)": dict(bias_table=torch.zeros(48, 2)),
    r"window=\(0, 4\); both sides must be at least 1": dict(window=(0, 4)),
    r"window=\(4, 4, 4\); expected a number or two": dict(window=(4, 4, 4)),
}


@pytest.mark.parametrize("message", WRONG_WINDOW)
def test_window_attention_names_what_does_not_fit(message):
    good = detached(WINDOW_CASES[0])
    with pytest.raises(UsageError, match=message) as caught:
        ops.window_attention(**{**good, "window": 4, **WRONG_WINDOW[message]})
    assert "\n" not in str(caught.value)
