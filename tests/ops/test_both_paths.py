"""An attention and the path of the same q, k and v: the outputs and gradients are those of the two apart."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from acmix import ops
from acmix.ops.both_paths import BothPaths, both_paths
from acmix.ops.conv_path.spec import Arguments
from acmix.ops.local_attention.spec import Arguments as LocalArguments
from acmix.ops.window_attention.spec import Arguments as WindowArguments

N, D = 3, 16


def tensors(dtype, seed=0):
    """qkv, a parameter of each attention, and the path's."""
    draw = torch.Generator().manual_seed(seed)

    def made(*shape):
        return torch.randn(*shape, generator=draw).to(dtype).requires_grad_()

    return dict(
        qkv=made(2, 6, 7, 3, N, D),
        window_attention=made(25, N),
        local_attention=made(6, 7, D),
        fc_weight=made(9, 3 * N),
        fc_bias=made(9),
        kernels=made(N * D, 9, 3, 3),
        plus=made(2, 6, 7, N * D),
        plus_bias=made(N * D),
    )


def arguments(attention, made, **without):
    """Those of both operators."""
    made = {**made, **without}
    if attention == "window_attention":
        attend = WindowArguments(made["qkv"], made[attention], (3, 3), (1, 2), D**-0.5)
    else:
        attend = LocalArguments(made["qkv"], made[attention], (3, 3), 1, 1, D**-0.5)
    shift = (1, 2) if attention == "window_attention" else (0, 0)
    pieces = made["qkv"].flatten(3, 4)
    path = (pieces, made["fc_weight"], made["fc_bias"], made["kernels"], 1, 1, shift)
    return attend, Arguments(*path, made["plus"], made["plus_bias"])


def apart(attention, attend, path):
    """Two calls of the public functions."""
    if attention == "window_attention":
        first = ops.window_attention(attend.qkv, attend.bias_table, window=attend.window, shift=attend.shift)
    else:
        first = ops.local_attention(attend.qkv, attend.position, size=attend.size)
    added = dict(plus=path.plus, plus_bias=path.plus_bias)
    return first, ops.conv_path(*path[:4], shift=path.shift, **added)


def gradients(outputs, made):
    upstream = [torch.randn(each.shape, generator=torch.Generator().manual_seed(3)).to(each) for each in outputs]
    return torch.autograd.grad(outputs, list(made.values()), upstream, allow_unused=True)


WITHOUT = [{}, dict(fc_bias=None, plus=None), dict(plus_bias=None, window_attention=None, local_attention=None)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("without", WITHOUT, ids=lambda each: " ".join(each) or "all")
@pytest.mark.parametrize("attention", ["window_attention", "local_attention"])
def test_outputs_and_gradients_are_those_of_the_two_apart(attention, without, dtype):
    made = tensors(dtype)
    together = both_paths(attention, *arguments(attention, made, **without))
    assert isinstance(together[0].grad_fn, BothPaths._backward_cls)
    two = apart(attention, *arguments(attention, made, **without))
    for ours, theirs in zip(together, two, strict=True):
        assert torch.equal(ours, theirs)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for name, ours, theirs in zip(made, gradients(together, made), gradients(two, made), strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert ours.dtype == theirs.dtype
            assert float((ours - theirs).abs().max()) <= bound * float(theirs.abs().max()), name


@pytest.mark.parametrize("attention", ["window_attention", "local_attention"])
def test_one_output_alone_has_its_gradient(attention):
    made = tensors(torch.float32)
    for i in range(2):
        together = gradients([both_paths(attention, *arguments(attention, made))[i]], made)
        alone = gradients([apart(attention, *arguments(attention, made))[i]], made)
        torch.testing.assert_close(together[0], alone[0], atol=1e-5, rtol=1e-5)


def test_a_gradient_of_a_gradient_is_that_of_the_two_apart():
    made = tensors(torch.float64)

    def second(call):
        outputs = call("window_attention", *arguments("window_attention", made))
        first = torch.autograd.grad(
            torch.stack([each.square().sum() for each in outputs]).sum(), made["qkv"], create_graph=True
        )[0]
        return torch.autograd.grad(first.square().sum(), [made["qkv"], made["kernels"]])

    for ours, theirs in zip(second(both_paths), second(apart), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_multiply_adds_are_those_of_the_two_apart():
    made = tensors(torch.float32)

    def counted(call):
        with FlopCounterMode(display=False) as counter:
            gradients(call("window_attention", *arguments("window_attention", made)), made)
        return counter.get_total_flops()

    assert counted(both_paths) == counted(apart) > 0


def test_without_a_gradient_the_two_are_called_apart():
    made = tensors(torch.float32)
    with torch.no_grad():
        outputs = both_paths("window_attention", *arguments("window_attention", made))
    assert all(each.grad_fn is None for each in outputs)


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
def test_what_is_added_to_is_the_gradient_that_was_handed_over(implementation):
    made = tensors(torch.float32)
    _, path = arguments("window_attention", made)
    path = [each.detach() if isinstance(each, torch.Tensor) else each for each in path[:7]]
    grad, onto = torch.randn(2, 6, 7, N * D), torch.randn(2, 6, 7, 3 * N, D)
    with ops.use(implementation):
        expected = torch.ops.acmix.conv_path_backward(grad, *path)
        found = onto.clone()
        others = torch.ops.acmix.conv_path_backward_onto_(found, grad, *path)
    torch.testing.assert_close(found, onto + expected[0], atol=1e-4, rtol=1e-5)
    for ours, theirs in zip(others, expected[1:], strict=True):
        assert torch.equal(ours, theirs)
