"""Which implementation runs: forced, restored, explained."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from acmix import ops
from acmix.errors import UsageError
from acmix.ops import dispatch, triton_launch
from tests.support.cases import case_named, first_of_each
from tests.support.processes import python

every_operator = pytest.mark.parametrize("case", first_of_each(), ids=dispatch.OPERATORS)


@pytest.fixture
def recorded(monkeypatch):
    """A fastest implementation, `noting`, that computes what the reference does and notes what it was asked for."""
    asked = []

    def noting(operator):
        reference = operator.parts["reference"]

        def forward(arguments):
            asked.append(operator.name)
            return reference.forward(arguments)

        def backward(grad, arguments):
            asked.append(f"{operator.name}_backward")
            return reference.backward(grad, arguments)

        return SimpleNamespace(forward=forward, backward=backward, why_not=why_not)

    def why_not(arguments):
        return None if arguments[0].device.type == "cpu" else "knows the cpu only"

    ours = dispatch.Implementation("noting", {name: noting(each) for name, each in dispatch.OPERATORS.items()})
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", [ours, *dispatch.IMPLEMENTATIONS])
    return asked


@every_operator
def test_the_first_implementation_that_can_is_taken_forward_and_backward(case, recorded):
    case.call(case.tensors()).sum().backward()
    assert recorded == [case.operator, f"{case.operator}_backward"]


@every_operator
def test_the_reference_can_be_forced_forward_and_backward(case, recorded):
    with ops.use("reference"):
        case.call(case.tensors()).sum().backward()
    assert recorded == []


@every_operator
def test_force_reaches_a_gradient_asked_for_inside(case, recorded):
    out = case.call(case.tensors()).sum()
    recorded.clear()
    with ops.use("reference"):
        out.backward()
    assert recorded == []


def test_the_choice_is_restored_after_nesting_and_after_an_error(recorded):
    case = first_of_each()[0]
    tensors = case.tensors()
    with ops.use("reference"):
        with ops.use("noting"):
            case.call(tensors)
        assert len(recorded) == 1
        case.call(tensors)
        assert len(recorded) == 1
    with pytest.raises(KeyError), ops.use("reference"):
        raise KeyError
    case.call(tensors)
    assert len(recorded) == 2


def test_an_unknown_name_lists_those_there_are():
    names = "'triton', 'cpu', 'reference'"
    with pytest.raises(ValueError, match=f"no implementation 'cuda'; expected one of .*{names}"), ops.use("cuda"):
        pass


def test_a_forced_implementation_that_cannot_run_this_case_says_why(recorded):
    arguments = dispatch.usual("conv_path", "cuda", torch.float32)
    message = "'noting' cannot run conv_path on cuda: knows the cpu only"
    with ops.use("noting"), pytest.raises(ValueError, match=message):
        dispatch.choose("conv_path", arguments)


def test_explain_has_a_line_for_every_operator_and_implementation():
    text = ops.explain("cpu", torch.float32)
    assert repr(text) == str(text)
    heading, *lines, hint = text.splitlines()
    assert heading.split()[:2] == ["operator", "implementation"]
    assert "on cpu, float32" in heading
    assert [tuple(line.split()[:2]) for line in lines] == [
        (operator, each.name) for operator in dispatch.OPERATORS for each in dispatch.IMPLEMENTATIONS
    ]
    assert "acmix.ops.use" in hint
    for operator in dispatch.OPERATORS:
        assert sum(line.startswith(operator) and bool(re.search(r"  runs(;|$)", line)) for line in lines) == 1
    assert all(len(line.split()) > 2 for line in lines)


def test_explain_tells_the_reason_and_the_force(recorded):
    assert "knows the cpu only" in ops.explain("cuda")
    with ops.use("reference"):
        lines = ops.explain("cpu").splitlines()
    assert sum(line.split()[1:] == ["reference", "runs"] for line in lines) == len(dispatch.OPERATORS)


def test_explain_says_which_kernels_no_gpu_had_run(recorded, monkeypatch):
    # this machine need not have a GPU: what is first runs here, with Triton's remark
    (triton,) = (each for each in dispatch.IMPLEMENTATIONS if each.name == "triton")
    assert triton_launch.INTERPRETED or "no GPU had run it" in triton.remark
    first = replace(dispatch.IMPLEMENTATIONS[0], remark=triton.remark)
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", [first, *dispatch.IMPLEMENTATIONS[1:]])
    found = told(ops.explain("cpu"), "conv_path")
    assert found[first.name] == f"runs{triton.remark}"
    assert found["reference"] == "can run; a faster one does"


def told(text, operator):
    """Each implementation of an operator and what is said of it."""
    rows = (line.split(maxsplit=2) for line in text.splitlines())
    return {row[1]: row[2] for row in rows if row[0] == operator}


def test_explain_tells_of_one_operator_and_of_one_call():
    assert set(told(ops.explain("local_attention"), "local_attention")) == {"triton", "cpu", "reference"}
    assert not told(ops.explain("local_attention"), "conv_path")
    case = case_named("window_attention", "window of 1,089 pixels")
    found = told(ops.explain("window_attention", *case.tensors().values(), **case.settings), "window_attention")
    assert found["cpu"] == "takes windows of at most 1024 pixels, and this one has 33×33"
    assert found["reference"] == "runs"


def test_explain_tells_of_a_call_under_autocast_and_of_tensors_without_numbers():
    case = first_of_each()[0]
    with torch.autocast("cpu", torch.float16):
        text = ops.explain(case.operator, **case.tensors(), **case.settings)
    assert "on cpu, float16" in text
    assert told(text, case.operator)["cpu"] == "takes float32 and bfloat16, and the data is float16"
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {name: mode.from_tensor(tensor) for name, tensor in case.tensors().items()}
        assert told(ops.explain(case.operator, **fake, **case.settings), case.operator)["reference"] == (
            "can run; a faster one does"
        )
    meta = {name: tensor.to("meta") for name, tensor in case.tensors().items()}
    found = told(ops.explain(case.operator, **meta, **case.settings), case.operator)
    assert set(found.values()) == {"the data is on meta, where only the shape of the result is made"}


def test_explain_under_a_force_tells_what_the_call_would():
    case = case_named("local_attention", "neighbourhood of 257 in a row")
    with ops.use("cpu"):
        found = told(ops.explain(case.operator, **case.tensors(), **case.settings), case.operator)
    assert found["cpu"].startswith("takes neighbourhoods of at most 255 pixels")
    assert found["reference"] == "can run; 'cpu' is forced"


def test_explain_tells_of_the_data_it_names_whatever_is_the_default():
    plain = ops.explain("cpu")
    with torch.autocast("cpu", torch.float16):
        assert ops.explain("cpu") == plain
    with torch.device("meta"):
        assert ops.explain("cpu") == plain
    assert "on cpu, int8" in ops.explain("cpu", torch.int8)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("patchwise",), {}, "'patchwise' is no operator (conv_path, local_attention, patchwise_attention, window_att"),
        (("window_attention", torch.zeros(2, 3)), dict(window=3), "qkv has shape (2, 3); expected"),
        ((torch.zeros(2, 3),), {}, "a Tensor is no operator"),
        (([],), {}, "a list is no operator"),
        ((), dict(device="gpu"), "'gpu' is no operator"),
        (("conv_path",), dict(device="gpu"), "'gpu' is no operator"),
        ((), dict(dtype="float32"), "a str is no dtype; expected one of torch's"),
        (("cpu", "float32"), {}, "a str is no dtype; expected one of torch's"),
        ((), dict(window=3), "the arguments of a call follow an operator's name"),
        (("cpu", torch.float32, 3), {}, "the arguments of a call follow an operator's name"),
    ],
)
def test_explain_refuses_what_it_cannot_tell_of(arguments, settings: dict[str, Any], message):
    with pytest.raises(UsageError) as caught:
        ops.explain(*arguments, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_parameter_on_another_device_is_no_case_for_the_cpu_kernels():
    cpu = dispatch.OPERATORS["conv_path"].parts["cpu"]
    case = first_of_each()[0]
    arguments = dispatch.arguments_of(case.operator, **case.tensors(), **case.settings)
    moved = arguments._replace(kernels=arguments.kernels.to("meta"))
    assert cpu.why_not(moved) == "runs on a CPU only, and kernels is on meta"


# --- the folders ----------------------------------------------------------------------------------------------------


COMPUTES = "def forward(a): ...\ndef backward(g, a): ...\ndef why_not(a): ..."
SPEC = """
from typing import NamedTuple
class Arguments(NamedTuple): ...
MAPS = ()
def output(arguments): ...
def multiply_adds(arguments, out): ...
def backward_multiply_adds(arguments, out): ...
"""
TOY = {
    "__init__": "def doubled(x): ...",
    "spec": SPEC,
    "cases": "CASES = ()\nNETWORKS = ()\nPROOF = ()",
    "reference": COMPUTES,
    "cpu": COMPUTES,
    "triton": COMPUTES,
}


@pytest.fixture
def toy(tmp_path, monkeypatch, request):
    """A package with one operator's folder, `doubled`; its name, and the folder."""
    package = f"toys_{request.node.name.replace('[', '_').replace(']', '').replace(' ', '_')}"
    folder = tmp_path / package / "doubled"
    folder.mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("")
    for part, text in TOY.items():
        (folder / f"{part}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package, folder


def test_a_folder_is_found_by_itself(toy):
    package, _ = toy
    found = dispatch.find_operators(package)
    assert list(found) == ["doubled"]
    assert found["doubled"].function.__name__ == "doubled"
    assert set(found["doubled"].parts) == set(dispatch.PARTS)


@pytest.mark.parametrize("part", dispatch.PARTS)
def test_a_folder_without_a_part_fails_with_a_line_that_names_it(part, toy):
    package, folder = toy
    (folder / f"{part}.py").unlink()
    with pytest.raises(ImportError, match=rf"^operator 'doubled' lacks a part: {package}\.doubled\.{part}$"):
        dispatch.find_operators(package)


@pytest.mark.parametrize(("part", "name"), [(part, name) for part in dispatch.PARTS for name in dispatch.PARTS[part]])
def test_a_part_without_a_function_fails_with_a_line_that_names_both(part, name, toy):
    package, folder = toy
    path = folder / f"{part}.py"
    path.write_text(re.sub(rf"\b{name}\b", "other", path.read_text()))
    with pytest.raises(ImportError, match=rf"^operator 'doubled' lacks '{name}' in {package}\.doubled\.{part}$"):
        dispatch.find_operators(package)


def test_a_folder_without_its_public_function_fails(toy):
    package, folder = toy
    (folder / "__init__.py").write_text("")
    with pytest.raises(ImportError, match=r"^operator 'doubled' lacks its public function: "):
        dispatch.find_operators(package)


@pytest.mark.slow
def test_a_name_stays_the_function_after_all_of_its_folder_has_been_imported():
    code = """
import pkgutil, importlib, inspect, acmix.ops
names = [each.name for each in pkgutil.walk_packages(acmix.ops.__path__, "acmix.ops.")]
for name in names:
    importlib.import_module(name)
for name in acmix.ops.dispatch.OPERATORS:
    assert f"acmix.ops.{name}.triton_kernels" in names
    assert inspect.isfunction(getattr(acmix.ops, name)), name
"""
    done = python(code)
    assert done.status == 0, done.errors
