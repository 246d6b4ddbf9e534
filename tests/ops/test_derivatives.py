"""Every operator has every derivative that PyTorch can ask for: the definition's where a kernel has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.utils.checkpoint import checkpoint

from acmix import ops
from acmix.errors import UsageError
from acmix.ops import dispatch
from acmix.ops.cases import Case
from acmix.testing.judge import relative_error
from tests.support.cases import case_named, first_of_each, label

# small enough for every entry of a Hessian
SMALL = (
    replace(case_named("conv_path", "shifted"), map_size=(1, 2, 3), head_dim=2, heads=1),
    replace(case_named("local_attention", "rectangular neighbourhood, upright"), map_size=(1, 2, 3), head_dim=2),
    replace(case_named("patchwise_attention", "rectangular neighbourhood"), map_size=(1, 2, 3)),
    replace(case_named("window_attention", "no multiple of the window, shifted"), map_size=(1, 3, 5), heads=1),
)
ODD = (
    replace(case_named("conv_path", "stride 2, even and odd side"), map_size=(2, 2, 3), head_dim=2, heads=1),
    replace(case_named("window_attention", "no bias"), map_size=(2, 3, 3), heads=1, head_dim=2, window=(2, 2)),
    replace(case_named("local_attention", "stride 2, even and odd side"), map_size=(2, 3, 2), heads=1, head_dim=2),
    replace(case_named("local_attention", "no position"), map_size=(1, 2, 2), heads=1, head_dim=2),
    case_named("patchwise_attention", "one pixel"),
)
# dynamo and AOTAutograd take seconds for each
two_operators = pytest.mark.parametrize("case", [SMALL[0], SMALL[3]], ids=["conv_path", "window_attention"])
every_operator = pytest.mark.parametrize("case", SMALL, ids=[case.operator for case in SMALL])
NEAR = 1e-12


class Call:
    """A case's call as a function of its tensors alone, and the same call of the definition."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float64) -> None:
        self.case = case
        tensors = {name: each.detach().contiguous() for name, each in case.tensors(dtype).items()}
        self.names, self.tensors = list(tensors), tuple(tensors.values())
        self.arguments = dispatch.arguments_of(case.operator, **tensors, **case.settings)
        draw = torch.Generator().manual_seed(1)
        self.tangents = tuple(torch.randn(each.shape, generator=draw, dtype=dtype) for each in self.tensors)
        self.all = tuple(range(len(self.tensors)))

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self.case.call(dict(zip(self.names, tensors, strict=True)))

    def filled(self, tensors: tuple[Tensor, ...]) -> Any:
        rest = iter(tensors)
        return self.arguments._make(next(rest) if isinstance(each, Tensor) else each for each in self.arguments)

    def operator(self, *tensors: Tensor) -> Tensor:
        """Without the public function."""
        return getattr(torch.ops.acmix, self.case.operator)(*self.filled(tensors))

    def definition(self, *tensors: Tensor) -> Tensor:
        return dispatch.OPERATORS[self.case.operator].parts["reference"].forward(self.filled(tensors))

    def asking(self) -> list[Tensor]:
        return [each.clone().requires_grad_() for each in self.tensors]

    def differences(self) -> Tensor:
        """The tangent, by central differences."""
        step = 1e-6
        sides = [
            self.definition(*(each + sign * step * by for each, by in zip(self.tensors, self.tangents, strict=True)))
            for sign in (1, -1)
        ]
        return (sides[0] - sides[1]) / (2 * step)


def loss(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    return function(*tensors).sin().sum()


def agree(found: Any, expected: Any) -> None:
    """Nested tuples of tensors hold the same numbers."""
    if isinstance(expected, Tensor):
        assert relative_error(found, expected) < NEAR
        return
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        agree(one, other)


@pytest.mark.parametrize("case", [*SMALL, *ODD], ids=label)
def test_first_and_second_derivatives_in_both_modes_equal_differences(case: Case) -> None:
    call = Call(case)
    assert torch.autograd.gradcheck(call, call.asking(), check_forward_ad=True, fast_mode=True)
    modes = dict(check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, call.asking(), fast_mode=True, **modes)  # pyright: ignore[reportArgumentType]


@every_operator
@pytest.mark.parametrize("asks", [False, True])
def test_a_tangent_goes_through(case: Case, asks: bool) -> None:
    call = Call(case)
    expected = call.differences()
    for function in (call, call.operator):
        assert relative_error(jvp(function, call.tensors, call.tangents)[1], expected) < 1e-8
    with forward_ad.dual_level():
        tensors = [each.clone().requires_grad_(asks) for each in call.tensors]
        duals = [forward_ad.make_dual(each, by) for each, by in zip(tensors, call.tangents, strict=True)]
        tangent = forward_ad.unpack_dual(call(*duals)).tangent
        assert relative_error(tangent.detach(), expected) < 1e-8
        # no tangent: no definition
        assert forward_ad.unpack_dual(call(*tensors)).tangent is None


@pytest.mark.slow
@every_operator
def test_transforms_give_the_derivatives_of_the_definition(case: Case) -> None:
    call = Call(case)
    one = partial(loss, call)
    gradient = torch.autograd.grad(loss(call.definition, *(asking := call.asking())), asking)
    agree(grad(one, call.all)(*call.tensors), gradient)
    agree(linearize(call, *call.tensors)[1](*call.tangents), jvp(call, call.tensors, call.tangents)[1])
    agree(vjp(one, *call.tensors)[1](torch.ones((), dtype=torch.float64)), gradient)
    jacobian = torch.autograd.functional.jacobian(call.definition, call.tensors)
    agree(jacrev(call, call.all)(*call.tensors), jacobian)
    agree(jacfwd(call, call.all)(*call.tensors), jacobian)
    curvature = torch.autograd.functional.hessian(partial(loss, call.definition), call.tensors)
    agree(hessian(one, call.all)(*call.tensors), curvature)
    agree(jacrev(jacrev(one, call.all), call.all)(*call.tensors), curvature)
    agree(torch.autograd.functional.hessian(one, call.tensors), curvature)


def stacked(call: Call, batched: tuple[int, ...]) -> tuple[list[Tensor], tuple[int | None, ...]]:
    """Some of the tensors three times, along their last dimension; and which dimension that is."""
    tensors = [
        torch.stack([each, each / 2, each + 0.1], -1) if i in batched else each for i, each in enumerate(call.tensors)
    ]
    return tensors, tuple(each.dim() if i in batched else None for i, each in enumerate(call.tensors))


@every_operator
@pytest.mark.parametrize("which", ["all", "first", "last"])
def test_vmap_equals_a_loop_and_so_do_gradients_of_each_sample(case: Case, which: str) -> None:
    call = Call(replace(case, map_size=(2, *case.map_size[1:])))
    batched = {"all": call.all, "first": call.all[:1], "last": call.all[-1:]}[which]
    tensors, dims = stacked(call, batched)
    calls = [[each[..., i] if j in batched else each for j, each in enumerate(tensors)] for i in range(3)]
    agree(vmap(call, dims)(*tensors), torch.stack([call.definition(*each) for each in calls]))
    samples = vmap(grad(partial(loss, call), call.all), dims)(*tensors)
    expected = [grad(partial(loss, call.definition), call.all)(*each) for each in calls]
    agree(samples, tuple(torch.stack(each) for each in zip(*expected, strict=True)))


@every_operator
def test_vmap_runs_kernels_and_one_alone_where_only_maps_differ(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call(case)
    runs: list[str] = []
    monkeypatch.setattr(dispatch, "define", None)
    plain = dispatch.choose

    def counted(*values: Any) -> dispatch.Implementation:
        runs.append("")
        return plain(*values)

    monkeypatch.setattr(dispatch, "choose", counted)
    # maps alone
    batched = (0, 1) if case.operator == "patchwise_attention" else (0,)
    tensors, dims = stacked(call, batched)
    vmap(call, dims)(*tensors)
    assert len(runs) == 1
    several = torch.randn(4, *call(*call.tensors).shape, dtype=torch.float64)
    gradients = torch.autograd.grad(
        call(*(asking := call.asking())),
        asking,
        several,
        is_grads_batched=True,
    )
    assert [len(each) for each in gradients] == [4] * len(asking)


@every_operator
def test_a_forced_kernel_refuses_in_one_line_and_explain_says_so(case: Case) -> None:
    call = Call(case, torch.float32)
    message = f"implementation 'cpu' cannot run {case.operator}: torch.func, forward mode and create_graph=True take"
    asked: list[Callable[[], Any]] = [
        lambda: jvp(call, call.tensors, call.tangents),
        lambda: grad(partial(loss, call))(*call.tensors),
        lambda: torch.autograd.grad(loss(call, *(asking := call.asking())), asking, create_graph=True),
    ]
    for ask in asked:
        with ops.use("cpu"), pytest.raises(UsageError, match=message):
            ask()
        with ops.use("reference"):
            ask()
    told: list[str] = []

    def explained(*tensors: Tensor) -> Tensor:
        told.append(ops.explain(case.operator, **dict(zip(call.names, tensors, strict=True)), **case.settings))
        return tensors[0].sum()

    grad(explained)(*call.tensors)
    vmap(explained)(*(each[None] for each in call.tensors))
    assert told[0].count("take the derivatives of the definition") >= 1
    assert "reference       runs" in told[0]
    assert "derivatives" not in told[1]


@every_operator
def test_what_a_transform_or_inference_mode_made_is_not_kept(case: Case) -> None:
    sizes = [(1, 4, 5), (1, 5, 4), (1, 5, 3)]
    calls = [Call(replace(case, map_size=size)) for size in sizes]
    jvp(calls[0], calls[0].tensors, calls[0].tangents)
    with torch.inference_mode(), ops.use("reference"):
        calls[1](*calls[1].tensors)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(each) for each in calls[2].tensors]
        jvp(calls[2], tuple(fake), tuple(fake))
    for call in calls:
        assert torch.autograd.gradcheck(call, call.asking(), fast_mode=True)
        gradients = torch.autograd.grad(loss(call, *(asking := call.asking())), asking, create_graph=True)
        assert all(each.requires_grad for each in gradients)


@pytest.mark.slow
@two_operators
def test_a_compiled_transform_gives_the_same(case: Case) -> None:
    call = Call(case)
    tensors, dims = stacked(call, call.all)
    torch._dynamo.reset()
    compiled = torch.compile(fullgraph=True, backend="aot_eager")
    tangent = compiled(lambda *values: jvp(call, values, call.tangents)[1])
    agree(tangent(*call.tensors), jvp(call.definition, call.tensors, call.tangents)[1])
    samples = compiled(lambda *values: vmap(grad(partial(loss, call), call.all), dims)(*values))  # pyright: ignore[reportArgumentType]
    agree(samples(*tensors), vmap(grad(partial(loss, call.definition), call.all), dims)(*tensors))


@pytest.mark.slow
@every_operator
def test_derivatives_of_what_is_compiled_are_right_or_refused(case: Case) -> None:
    call = Call(case)
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    tangent = jvp(torch.compile(call, backend="aot_eager"), call.tensors, call.tangents)[1]
    agree(tangent, jvp(call.definition, call.tensors, call.tangents)[1])
    torch._dynamo.reset()
    backend = torch._dynamo.backends.common.aot_autograd(fw_compiler=keep, bw_compiler=keep)  # pyright: ignore[reportAttributeAccessIssue]
    compiled = torch.compile(call, backend=backend, fullgraph=True)
    asking = call.asking()
    gradients = torch.autograd.grad(compiled(*asking).sum(), asking, create_graph=True)
    # one node each: no definition in an ordinary graph
    nodes = [[str(node.target) for node in each.graph.nodes if "acmix" in str(node.target)] for each in graphs]
    assert nodes == [[f"acmix.{case.operator}.default"], [f"acmix.{case.operator}_backward.default"]]
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(sum(each.sin().sum() for each in gradients), asking)  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.slow
@two_operators
def test_compiled_autograd_gives_the_same(case: Case) -> None:
    call = Call(case)
    torch._dynamo.reset()
    asking = call.asking()
    out = loss(call, *asking)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):  # pyright: ignore[reportAttributeAccessIssue]
        out.backward()
    expected = torch.autograd.grad(loss(call.definition, *(others := call.asking())), others)
    agree([each.grad for each in asking], expected)


@every_operator
def test_checkpoints_and_saved_tensors_hooks_keep_second_derivatives(case: Case) -> None:
    call = Call(case)

    def second(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        asking = call.asking()
        first = torch.autograd.grad(loss(function, *asking), asking, create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), asking)  # pyright: ignore[reportArgumentType, reportCallIssue]

    expected = second(call.definition)
    agree(second(partial(checkpoint, call, use_reentrant=False)), expected)
    with torch.autograd.graph.saved_tensors_hooks(lambda each: each.clone(), lambda each: each):
        agree(second(call), expected)


@every_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_derivatives_in_other_dtypes_and_under_autocast_are_near(case: Case, dtype: torch.dtype) -> None:
    exact, call = Call(case), Call(case, dtype)
    expected = jvp(exact, exact.tensors, exact.tangents)[1]
    tangents = tuple(each.to(dtype) for each in exact.tangents)
    found = jvp(call, call.tensors, tangents)[1]
    assert found.dtype == dtype
    assert relative_error(found.double(), expected) < 16 * torch.finfo(dtype).eps
    if dtype == torch.float32:
        with torch.autocast("cpu", torch.bfloat16):
            cast = jvp(call, call.tensors, tangents)[1]
        assert cast.dtype == torch.bfloat16
        assert relative_error(cast.double(), expected) < 16 * torch.finfo(torch.bfloat16).eps


@every_operator
def test_meta_tensors_have_derivatives_too(case: Case) -> None:
    call = Call(case)
    meta = tuple(each.to("meta") for each in call.tensors)
    out, tangent = jvp(call, meta, meta)  # pyright: ignore[reportAssignmentType]
    assert tangent.shape == out.shape == call(*call.tensors).shape
    assert [each.shape for each in grad(partial(loss, call), call.all)(*meta)] == [each.shape for each in meta]


@every_operator
def test_an_exported_operator_has_a_tangent(case: Case) -> None:
    call = Call(case)

    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return call(*tensors)

    exported = torch.export.export(Module(), call.tensors).module()
    found = jvp(lambda *tensors: exported(*tensors), call.tensors, call.tangents)[1]
    assert relative_error(found, call.differences()) < 1e-8


def test_small_cases_cover_every_operator() -> None:
    assert {case.operator for case in SMALL} == {case.operator for case in first_of_each()}
