"""ACmix2d where people put it; a comment names the row of the users' pain points (docs/pain_points.md) a test holds.

Shapes: B batch · H, W map · C channels
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from acmix.layers import ACmix1d, ACmix2d
from acmix.testing import oracle_local
from tests.support.processes import python

SIZES = [(1, 1), (1, 20), (20, 1), (2, 5), (7, 7)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def layer(in_channels: int = 8, out_channels: int = 8, **options: object) -> ACmix2d:
    """A layer whose kernels are no longer shifts and whose rates differ, as after training."""
    made = ACmix2d(in_channels, out_channels, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        made.conv_path.kernels.add_(0.3 * torch.randn(made.conv_path.kernels.shape))
        made.rate_attention.fill_(0.7)
        made.rate_conv.fill_(0.4)
    return made


def exact(module: ACmix2d, x: Tensor) -> Tensor:
    """The same from loops over pixels, in float64."""
    state = {name: value.double().numpy() for name, value in module.state_dict().items()}
    return torch.from_numpy(
        oracle_local.acmix2d(
            state,
            x.detach().double().numpy(),
            heads=module.heads,
            attention_size=module.attention_size,
            stride=module.stride,
            dilation=module.dilation,
        )
    )


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The input's and every parameter's."""
    module.zero_grad()
    x = x.detach().requires_grad_()
    module(x).square().sum().backward()
    grads = {"input": x.grad, **{name: each.grad for name, each in module.named_parameters()}}
    assert all(each is not None for each in grads.values()), [name for name, each in grads.items() if each is None]
    return grads  # type: ignore[return-value]


# --- the mathematics ------------------------------------------------------------------------------------------------


# rows 6, 9, 16, 18, 20
@settings(max_examples=500, deadline=None, database=None, derandomize=True)
@given(
    batch=st.integers(0, 2),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    in_channels=st.integers(1, 5),
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 3),
    attention_size=st.sampled_from([1, 3, 5, 7]),
    conv_size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
@pytest.mark.slow
def test_500_random_layers_are_their_equations(
    batch: int,
    height: int,
    width: int,
    in_channels: int,
    heads: int,
    head_dim: int,
    attention_size: int,
    conv_size: int,
    stride: int,
    dilation: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    options = dict(attention_size=attention_size, conv_size=conv_size, stride=stride, dilation=dilation)
    module = layer(in_channels, heads * head_dim, heads=heads, **options).double()
    x = torch.randn(batch, in_channels, height, width, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), exact(module, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"dilation": 2, "attention_size": 5}, {"stride": 2, "conv_size": 5}], ids=str
)
def test_every_gradient_is_true(options: dict) -> None:
    module = layer(3, 4, **{"heads": 2, "attention_size": 3, **options}).double()
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, *module.parameters()), fast_mode=True)


# row 6
@pytest.mark.parametrize("dilation", [1, 2])
def test_where_reflection_padding_is_legal_the_attention_is_the_one_with_it(dilation: int) -> None:
    module = layer(6, 8, dilation=dilation).double()
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        module.rate_conv.zero_()
        q, k, v = (each(x) for each in (module.query, module.key, module.value))  # (B, C, H, W)
        places = [torch.linspace(-1, 1, side, dtype=torch.float64) for side in (9, 8)]
        rows, columns = torch.meshgrid(*places, indexing="ij")
        p = module.position(torch.stack([columns, rows])[None])  # (1, D, H, W)
        reach = 3 * dilation

        def neighbours(each: Tensor) -> Tensor:
            """(B, C', H, W) -> (B, C', 49, H·W)."""
            padded = F.pad(each, (reach,) * 4, mode="reflect")
            return F.unfold(padded, 7, dilation=dilation).unflatten(1, (-1, 49))

        relative = p.flatten(2)[:, :, None] - neighbours(p)  # (1, D, 49, H·W)
        keys = neighbours(k).unflatten(1, (4, 2)) + relative[:, None]  # (B, N, D, 49, H·W)
        logits = (q.view(2, 4, 2, 1, 72) * keys).sum(2) * 2**-0.5  # (B, N, 49, H·W)
        values = neighbours(v).unflatten(1, (4, 2))  # (B, N, D, 49, H·W)
        expected = module.rate_attention * (logits.softmax(2)[:, :, None] * values).sum(3).view(2, 8, 9, 8)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


# rows 6, 16
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"stride": 3, "dilation": 2, "conv_size": 5}], ids=str)
def test_any_map_works_and_both_paths_give_as_many_pixels_as_a_convolution(size: tuple, options: dict) -> None:
    module = layer(8, 12, **options)
    stride = options.get("stride", 1)
    x = torch.randn(2, 8, *size)
    assert module(x).shape == (2, 12, -(-size[0] // stride), -(-size[1] // stride))
    assert module(x).shape == nn.Conv2d(8, 12, 3, stride, padding=1)(x).shape
    for name, grad in gradients(module, x).items():
        assert grad.isfinite().all(), name


# row 16
def test_dilation_widens_both_paths() -> None:
    for rates in ((1.0, 0.0), (0.0, 1.0)):
        module = layer(4, 4, heads=2, attention_size=3, dilation=3)
        with torch.no_grad():
            module.rate_attention.fill_(rates[0])
            module.rate_conv.fill_(rates[1])
        x = torch.randn(1, 4, 13, 13, requires_grad=True)
        (grad,) = torch.autograd.grad(module(x)[0, :, 6, 6].sum(), x)
        seen = grad[0].abs().sum(0).nonzero().tolist()
        assert seen == [[y, x] for y in (3, 6, 9) for x in (3, 6, 9)]


# row 16
@pytest.mark.parametrize("in_channels", [3, 16])
def test_channels_may_change(in_channels: int) -> None:
    module = layer(in_channels, 8)
    x = torch.randn(2, in_channels, 5, 6)
    torch.testing.assert_close(module(x).double(), exact(module, x), rtol=0, atol=1e-5)


# --- dtypes, memory formats, sizes of a batch -----------------------------------------------------------------------


# row 1
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2), (torch.float32, 2e-6), (torch.float64, 1e-12)]
)
@pytest.mark.parametrize("options", [{}, {"stride": 2}], ids=str)
def test_every_dtype_runs_and_keeps_itself(dtype: torch.dtype, bound: float, options: dict) -> None:
    module = layer(**options).to(dtype)
    x = torch.randn(2, 8, 9, 11).to(dtype)
    found, expected = module(x), exact(module, x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound * expected.abs().max().item())
    true = gradients(copy.deepcopy(module).double(), x.double())
    for name, grad in gradients(module, x).items():
        assert grad.dtype == dtype, name
        allowed = 8 * bound * max(true[name].abs().max().item(), 1e-3 * true["value.weight"].abs().max().item())
        torch.testing.assert_close(grad.double(), true[name], rtol=0, atol=allowed, msg=name)


# row 1
def test_half_bfloat16_and_double_convert_the_whole_layer() -> None:
    for convert, dtype in ((nn.Module.half, torch.float16), (nn.Module.bfloat16, torch.bfloat16)):
        module = convert(ACmix2d(8, 8))
        assert module(torch.randn(1, 8, 4, 4, dtype=dtype)).dtype == dtype
        assert module.double()(torch.randn(1, 8, 4, 4).double()).dtype == torch.float64


# row 1
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_runs_in_its_dtype_and_leaves_float32_gradients(dtype: torch.dtype) -> None:
    module = layer()
    x = torch.randn(2, 8, 9, 11, requires_grad=True)
    with torch.autocast("cpu", dtype):
        out = module(x)
    assert out.dtype in (dtype, torch.float32)
    torch.testing.assert_close(out.double(), exact(module, x), rtol=0, atol=0.05)
    out.float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert {each.grad.dtype for each in module.parameters() if each.grad is not None} == {torch.float32}


# row 1
def test_meta_tensors_give_shapes_without_numbers() -> None:
    with torch.device("meta"):
        module = ACmix2d(8, 16, stride=2)
    out = module(torch.empty(3, 8, 9, 11, device="meta"))
    assert (out.shape, out.device.type, out.dtype) == ((3, 16, 5, 6), "meta", torch.float32)
    out.sum().backward()


# row 17
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_memory_format_of_the_input_is_kept(memory_format: torch.memory_format, batch: int, stride: int) -> None:
    module = layer(8, 12, stride=stride).to(memory_format=memory_format)
    x = torch.randn(batch, 8, 9, 7)
    plain = module(x)
    out = module(x.to(memory_format=memory_format))
    assert out.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-5)
    grads, expected = gradients(module, x.to(memory_format=memory_format)), gradients(module, x)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-4, msg=name)


# row 17
def test_views_with_any_strides_are_read_rightly() -> None:
    module = layer()
    x = torch.randn(2, 16, 12, 10)[:, ::2, 1::2, :7]
    torch.testing.assert_close(module(x), module(x.contiguous()), rtol=0, atol=1e-5)


# row 15
@pytest.mark.parametrize("stride", [1, 2])
def test_a_batch_of_none_gives_none_and_zero_gradients(stride: int) -> None:
    module = layer(8, 12, stride=stride)
    x = torch.zeros(0, 8, 6, 5)
    assert module(x).shape == (0, 12, -(-6 // stride), -(-5 // stride))
    assert all((grad == 0).all() for grad in gradients(module, x).values())


# --- copies, graphs, determinism ------------------------------------------------------------------------------------


# row 10
def test_deepcopy_works_after_forward_and_backward() -> None:
    module = layer()
    x = torch.randn(2, 8, 6, 5)
    out = module(x)
    torch.testing.assert_close(copy.deepcopy(module)(x), out, rtol=0, atol=0)
    out.sum().backward()
    copied = copy.deepcopy(module)
    torch.testing.assert_close(copied(x), out, rtol=0, atol=0)
    assert not any(a is b for a, b in zip(module.parameters(), copied.parameters(), strict=True))


# row 10
def test_pickles_open_in_a_fresh_process_with_the_same_output(tmp_path: Path) -> None:
    module = layer(8, 12, stride=2)
    x = torch.randn(2, 8, 6, 5)
    out = module(x)
    out.sum().backward()
    (tmp_path / "layer.pkl").write_bytes(pickle.dumps(module))
    torch.save({"layer": module, "x": x, "out": out.detach()}, tmp_path / "layer.pt")
    code = """
import pickle, sys, torch
saved = torch.load(sys.argv[1] + "/layer.pt", weights_only=False)
for module in (saved["layer"], pickle.load(open(sys.argv[1] + "/layer.pkl", "rb"))):
    assert type(module).__module__ == "acmix.layers.acmix2d", type(module)
    assert torch.equal(module(saved["x"]), saved["out"])
"""
    assert python(code, tmp_path) == (0, "", "")


# row 15
@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"stride": 2, "dilation": 2}], ids=str)
def test_one_compiled_graph_takes_the_whole_layer_at_any_size(options: dict) -> None:
    torch._dynamo.reset()
    module = layer(8, 12, **options)
    graphs = CompileCounterWithBackend("aot_eager")
    compiled: Any = torch.compile(module, backend=graphs, fullgraph=True, dynamic=True)
    for shape in ((2, 8, 9, 7), (3, 8, 6, 5), (2, 8, 3, 12), (5, 8, 20, 21)):
        x = torch.randn(shape)
        expected = gradients(module, x)
        found = {name.removeprefix("_orig_mod."): grad for name, grad in gradients(compiled, x).items()}
        for name, grad in found.items():
            torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-4, msg=name)
    assert graphs.frame_count == 1


# row 15
@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
def test_export_holds_for_any_batch_and_size(stride: int, tmp_path: Path) -> None:
    module = layer(8, 12, stride=stride).eval()
    # PyTorch's rule for exported graphs: a side that may be 1 in the output is 1, or never is
    least = {"batch": 1, "height": stride + 1, "width": stride + 1}
    free = {axis: torch.export.Dim(name, min=least[name]) for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    program = torch.export.export(module, (torch.randn(2, 8, 9, 7),), dynamic_shapes={"x": free})
    torch.export.save(program, tmp_path / "layer.pt2")
    exported = torch.export.load(tmp_path / "layer.pt2").module()
    for shape in ((2, 8, 9, 7), (1, 8, 20, 5), (3, 8, 3, 40)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported(x), module(x), rtol=0, atol=1e-5)


# row 13
@pytest.mark.parametrize("options", [{}, {"stride": 2, "dilation": 3}], ids=str)
@pytest.mark.usefixtures("empty_is_nan")
def test_gradients_are_bit_equal_twice_under_deterministic_algorithms(options: dict) -> None:
    assert torch.are_deterministic_algorithms_enabled()
    module = layer(**options)
    x = torch.randn(2, 8, 9, 7)
    first, second = gradients(module, x), gradients(module, x)
    for name, grad in first.items():
        assert torch.equal(grad, second[name]), name


# --- in a host model ------------------------------------------------------------------------------------------------


# row 4
def test_a_host_s_initialisation_of_convolutions_leaves_the_shift_kernels_alone() -> None:
    host = nn.Sequential(nn.Conv2d(3, 8, 3), ACmix2d(8, 8, conv_size=5), nn.BatchNorm2d(8), ACmix2d(8, 12))
    before = {name: value.clone() for name, value in host.state_dict().items() if "conv_path" in name}
    for module in host.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    after = host.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    for place in ("1", "3"):
        kernels = after[f"{place}.conv_path.kernels"]
        taps = kernels.shape[1]
        assert torch.equal(kernels.flatten(2), torch.eye(taps).expand(len(kernels), taps, taps))


# row 4
def test_the_layer_trains() -> None:
    module = ACmix2d(4, 4, heads=2)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    x = torch.randn(4, 4, 8, 8)
    target = F.conv2d(x, torch.randn(4, 4, 3, 3) / 6, padding=1)
    losses = []
    for _ in range(40):
        loss = F.mse_loss(module(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_multiply_adds_take_the_sides_of_the_layer_by_name() -> None:
    assert ACmix2d(8, 8).gmacs(height=6, width=5) == ACmix2d(8, 8).gmacs(6, 5)
    assert ACmix1d(8, 8).gmacs(length=6) == ACmix1d(8, 8).gmacs(6)
    with pytest.raises(TypeError):
        ACmix2d(8, 8).gmacs(6)  # type: ignore[call-arg]
