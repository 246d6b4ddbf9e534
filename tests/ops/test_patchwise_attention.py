"""Patchwise attention: loops over pixels, gradients, compile, and the two attentions of SAN made of it."""

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from acmix import ops
from acmix.errors import UsageError
from acmix.layers import Mixing, PairwiseAttention, PatchwiseAttention
from acmix.testing.check import relative_error
from acmix.testing.oracle_local import mirrored

# map (B, H, W), channels, groups, size
CASES = {
    "as SAN has it": ((2, 8, 8), 16, 2, 7),
    "prime sides": ((1, 5, 7), 6, 3, 3),
    "a map smaller than the neighbourhood": ((1, 2, 3), 4, 1, 7),
    "mirrored more than once": ((1, 2, 1), 4, 2, 9),
    "one pixel": ((1, 1, 1), 8, 4, 5),
    "a rectangle": ((2, 4, 6), 6, 2, (3, 5)),
    "one neighbour": ((1, 3, 3), 5, 5, 1),
    "no image": ((0, 3, 3), 4, 2, 3),
}


def drawn(case, dtype=torch.float64):
    (batch, height, width), channels, groups, size = CASES[case]
    rows, columns = size if isinstance(size, tuple) else (size, size)
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(batch, height, width, channels, generator=draw, dtype=torch.float64).to(dtype)
    weights = torch.randn(batch, height, width, rows * columns, groups, generator=draw, dtype=torch.float64).to(dtype)
    return values.requires_grad_(), weights.requires_grad_(), (rows, columns)


def looped(values, weights, size):
    """The equation, pixel by pixel and channel by channel."""
    _, H, W, C = values.shape
    per_group = C // weights.shape[4]
    out = np.zeros_like(values)
    for y in range(H):
        for x in range(W):
            for row in range(size[0]):
                for column in range(size[1]):
                    at = mirrored(y + row - size[0] // 2, H), mirrored(x + column - size[1] // 2, W)
                    for c in range(C):
                        weight = weights[:, y, x, row * size[1] + column, c // per_group]
                        out[:, y, x, c] += weight * values[:, at[0], at[1], c]
    return out


@pytest.mark.parametrize("case", CASES)
def test_the_operator_is_its_equation(case):
    values, weights, size = drawn(case)
    out = ops.patchwise_attention(values, weights, size=size)
    expected = looped(values.detach().numpy(), weights.detach().numpy(), size)
    torch.testing.assert_close(out.detach(), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_cpu_kernel_is_as_right_as_the_reference_in_output_and_every_gradient(case, dtype, empty_is_nan):
    exact = results(case, "reference", dtype, torch.float64)
    own = results(case, "reference", dtype, dtype)
    for name, found in results(case, "cpu", dtype, dtype).items():
        bound = max(relative_error(own[name], exact[name]), torch.finfo(dtype).eps)
        assert relative_error(found, exact[name]) <= (2 if name == "output" else 3) * bound, name


def results(case, implementation, drawn_in, dtype):
    """The output and both gradients, of inputs that are rounded to one format and computed in another."""
    *tensors, size = drawn(case, drawn_in)
    values, weights = (each.detach().to(dtype).requires_grad_() for each in tensors)
    with ops.use(implementation):
        out = ops.patchwise_attention(values, weights, size=size)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(drawn_in).to(dtype)
        grads = torch.autograd.grad(out, (values, weights), upstream)
    return dict(zip(("output", "values", "weights"), (out.detach(), *grads), strict=True))


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("as SAN has it", "no image")])
def test_gradients_are_those_of_finite_differences(case):
    values, weights, size = drawn(case)
    assert torch.autograd.gradcheck(lambda v, w: ops.patchwise_attention(v, w, size=size), (values, weights))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_sums_in_float32(dtype):
    values, weights, size = drawn("as SAN has it", dtype)
    out = ops.patchwise_attention(values, weights, size=size)
    exact = ops.patchwise_attention(values.detach().double(), weights.detach().double(), size=size)
    assert out.dtype == dtype
    assert ((out - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 1e-4).all()
    assert [grad.dtype for grad in torch.autograd.grad(out.sum(), (values, weights))] == [dtype, dtype]


def test_any_strides_give_the_same():
    values, weights, size = drawn("prime sides")
    turned = values.detach().permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    expected = ops.patchwise_attention(values, weights, size=size)
    assert torch.equal(
        ops.patchwise_attention(turned, weights.detach().transpose(1, 2).contiguous().transpose(1, 2), size=size),
        expected,
    )


def test_pytorch_finds_the_operator_well_formed():
    for case in ("prime sides", "one pixel"):
        torch.library.opcheck(torch.ops.acmix.patchwise_attention, drawn(case))


def test_it_compiles_into_one_graph():
    torch._dynamo.reset()
    counter = CompileCounter()
    values, weights, size = drawn("prime sides")
    compiled = torch.compile(lambda v, w: ops.patchwise_attention(v, w, size=size), backend=counter, fullgraph=True)
    assert torch.equal(compiled(values, weights), ops.patchwise_attention(values, weights, size=size))
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(size=2), "expected odd sides"),
        (dict(size=5), "weights has shape"),
        (dict(weights=torch.zeros(1, 5, 7, 9, 4)), "a G that divides the channels"),
        (dict(values=torch.zeros(5, 7, 6)), "expected (B, H, W, C)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_in_one_line(change, said):
    values, weights, size = drawn("prime sides")
    arguments = {**dict(values=values, weights=weights, size=size), **change}
    with pytest.raises(UsageError) as caught:
        ops.patchwise_attention(arguments.pop("values"), arguments.pop("weights"), **arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def attention(kind, **kwargs):
    """A layer in float64 and evaluation mode whose parameters and statistics have all moved."""
    torch.manual_seed(0)
    layer = kind(32, 3, **kwargs).double().eval()
    for name, tensor in layer.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor)) if "running_var" in name else tensor.add_(
                0.1 * torch.randn_like(tensor)
            )
    return layer


def batch_norm(norm, x):
    """Over the last dimension, by the running statistics."""
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("mixing", [None, Mixing()], ids=["plain", "mixed"])
@pytest.mark.parametrize("kind", [PatchwiseAttention, PairwiseAttention])
def test_san_s_attentions_are_their_equations_pixel_by_pixel(kind, mixing):
    layer = attention(kind, mixing=mixing)
    B, H, W = 2, 4, 3
    x = torch.randn(B, 32, H, W, dtype=torch.float64)
    qkv = layer.qkv(x.permute(0, 2, 3, 1))
    q, k, v = qkv[..., :2], qkv[..., 2:4], qkv[..., 4:]  # R = 2, V = 8, one group of 8
    expected = torch.zeros(B, H, W, 8, dtype=torch.float64)
    for y in range(H):
        for x_ in range(W):
            near = [(mirrored(y + r, H), mirrored(x_ + c, W)) for r in (-1, 0, 1) for c in (-1, 0, 1)]
            if kind is PatchwiseAttention:
                inner = torch.cat([q[:, y, x_], *[k[:, i, j] for i, j in near]], 1)
                hidden = layer.reduce(batch_norm(layer.norm1, inner).relu())
                weights = layer.expand(batch_norm(layer.norm2, hidden).relu())  # (B, O)
            else:
                place = lambda i, j: torch.tensor([2 * j / (W - 1) - 1, 2 * i / (H - 1) - 1], dtype=torch.float64)  # noqa: E731
                pairs = []
                for i, j in near:
                    apart = layer.position(place(y, x_)) - layer.position(place(i, j))
                    pairs.append(torch.cat([q[:, y, x_] - k[:, i, j], apart.expand(B, 2)], 1))
                hidden = layer.reduce(batch_norm(layer.norm1, torch.stack(pairs, 1)).relu())
                weights = layer.expand(batch_norm(layer.norm2, hidden).relu())[..., 0].softmax(1)  # (B, O)
            for o, (i, j) in enumerate(near):
                expected[:, y, x_] += weights[:, o, None] * v[:, i, j]
    if mixing is not None:
        path = layer.conv_path(qkv.unflatten(3, (6, 2)))
        expected = layer.rate_attention * expected + layer.rate_conv * path
    torch.testing.assert_close(layer(x).permute(0, 2, 3, 1), expected, rtol=1e-10, atol=1e-12)
