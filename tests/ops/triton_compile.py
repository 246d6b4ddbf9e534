"""Compiles an operator's GPU kernels for one kind of GPU, on a machine that needs none; in a process of its own.

python -m tests.ops.triton_compile window_attention float16     ->  a line a kernel, status 1 where one does not compile

The interpreter runs Python, so it takes what the compiler refuses: a name that changes its type in a loop, a number
that is no constant. Compiling ends with PTX; nothing is launched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource, CompilationError, compile
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from acmix.ops.conv_path.cases import Case as ConvCase
from acmix.ops.local_attention.cases import Case as LocalCase
from acmix.ops.patchwise_attention.cases import Case as PatchwiseCase
from acmix.ops.window_attention.cases import Case as WindowCase

# compute capability 9.0, warps of 32 threads
TARGET = GPUTarget("cuda", 90, 32)
POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32"}
# the paths that kernels have: with and without what is optional, and windows below and beyond one block
CASES = {
    "conv_path": (
        ConvCase("as Swin has it", map_size=(2, 14, 14), heads=3, head_dim=32, shift=(3, 3)),
        ConvCase("as a ResNet has it", map_size=(1, 8, 8), heads=4, head_dim=16, bias=False, stride=2),
    ),
    "window_attention": (
        WindowCase(
            "as Swin has it", map_size=(2, 14, 14), heads=3, head_dim=32, window=(7, 7), shift=(3, 3), scale=0.25
        ),
        WindowCase("144 pixels", map_size=(1, 24, 24), head_dim=32, window=(12, 12), scale=0.25),
        WindowCase("no bias", map_size=(1, 10, 7), head_dim=8, window=(10, 7), table=False, scale=0.25),
    ),
    "local_attention": (
        LocalCase("as a ResNet has it", map_size=(1, 14, 14), heads=4, head_dim=16, size=(7, 7), scale=0.25),
        LocalCase(
            "stride and dilation",
            map_size=(1, 9, 9),
            heads=2,
            head_dim=16,
            stride=2,
            dilation=2,
            position=False,
            scale=0.25,
        ),
    ),
    "patchwise_attention": (PatchwiseCase("as SAN has it", map_size=(1, 8, 8), channels=64, groups=8, size=(7, 7)),),
}


def main(operator: str, dtype: str) -> int:
    """Compiles every kernel that an operator's cases launch; how many do not compile."""
    wrong: list[str] = []
    done: set[Any] = set()

    def launcher(kernel: Any, grid: Any) -> Callable[..., None]:
        return lambda *values, **named: compile_kernel(kernel, values, named, done, wrong)

    # a launch compiles
    for kind in (JITFunction, Autotuner):
        kind.__getitem__ = launcher  # type: ignore[method-assign]
    CUDABackend.make_cubin = lambda *arguments, **named: b""  # type: ignore[method-assign]
    spec, kernels = (import_module(f"acmix.ops.{operator}.{part}") for part in ("spec", "triton"))
    for case in CASES[operator]:
        tensors = case.tensors(getattr(torch, dtype))
        given = {name: each.detach() for name, each in tensors.items()}
        arguments = spec.Arguments(**{**dict.fromkeys(spec.Arguments._fields), **case.settings, **given})
        with torch.no_grad():
            kernels.backward(torch.zeros_like(kernels.forward(arguments)), arguments)
    print(f"{len(done)} kernels, {len(wrong)} wrong")
    return len(wrong)


def compile_kernel(
    kernel: Any, values: tuple[Any, ...], named: dict[str, Any], done: set[Any], wrong: list[str]
) -> None:
    """Compiles one launch of one kernel, unless the same was compiled before."""
    function = kernel
    while not isinstance(function, JITFunction):
        function = function.fn
    given = {**dict(zip(function.arg_names[: len(values)], values, strict=True)), **named}
    signature, constants = {}, {}
    for parameter in function.params:
        signature[parameter.name] = "constexpr" if parameter.is_constexpr else kind_of(given[parameter.name])
        if parameter.is_constexpr:
            constants[(parameter.num,)] = given[parameter.name]
    key = (function.__name__, tuple(signature.items()), tuple(constants.items()))
    if key in done:
        return
    done.add(key)
    try:
        compile(ASTSource(function, signature, constants), target=TARGET, options={"num_warps": 4})
    except CompilationError as error:
        wrong.append(function.__name__)
        print(f"wrong: {function.__name__}: {error}", flush=True)
    else:
        print(f"right: {function.__name__}", flush=True)


def kind_of(value: Any) -> str:
    """Triton's name for the type of an argument."""
    if isinstance(value, Tensor):
        return POINTERS[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
