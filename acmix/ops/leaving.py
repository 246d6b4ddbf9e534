"""What operators need in a graph that leaves PyTorch: sizes that may be open, and pixels found by index.

There a size is a number, PyTorch's symbol for one, or, in a trace, a tensor. Code here neither compares nor caches what
may be open, so that the graph holds for every size.

Shapes: H, W map · Ky, Kx sides of a neighbourhood · O = Ky·Kx offsets
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from acmix.ops.neighbours import mirrored, roll, roll_back


def leaves_pytorch() -> bool:
    """Whether a graph is being made that must run where our operators are not known: traced, ONNX, or exported."""
    if torch.compiler.is_dynamo_compiling():
        # what `is_exporting` reads; in PyTorch 2.9 the function itself is True to every compiled graph
        return getattr(torch.compiler, "_is_exporting_flag", False)
    return torch.compiler.is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def surely(condition: Any) -> bool:
    """Whether a condition holds for every size that the graph is open for; False where that is not known."""
    if isinstance(condition, Tensor):
        return False
    # to dynamo, which traces this for `torch.export(strict=True)`, a symbol is a bool too
    if isinstance(condition, bool) and not torch.compiler.is_dynamo_compiling():
        return condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def is_known(size: Any) -> bool:
    """Whether a size is a number, and no symbol or tensor that stands for one."""
    # to dynamo, which traces this for `torch.export(strict=True)`, a symbol is an int too
    return isinstance(size, int) and not torch.compiler.is_dynamo_compiling()


def as_number(size: Any, device: torch.device) -> Any:
    """A size to compute with: a tensor where it is open."""
    # PyTorch's ONNX exporters divide by tensors, not by symbols
    return size if is_known(size) or isinstance(size, Tensor) else torch.full((1,), size, device=device)


def unflatten(x: Tensor, dim: int, sizes: Sequence[Any]) -> Tensor:
    """`x.unflatten(dim, sizes)`, with every other size left open in a trace."""
    if not torch.jit.is_tracing():
        return x.unflatten(dim, sizes)  # type: ignore[arg-type]
    # PyTorch's older ONNX exporter takes the sizes that it saw behind `unflatten` for the only ones
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def fresh(x: Tensor) -> Tensor:
    """The same numbers one after the other in memory, in a graph that leaves PyTorch; elsewhere x itself."""
    # torch.export asks of other tensors in which order they lie, and fixes sizes by the answer
    return x.clone(memory_format=torch.contiguous_format) if leaves_pytorch() else x


def compact(x: Tensor) -> Tensor:
    """The same numbers one after the other in memory: `x.contiguous()`, which asks no size of an open graph."""
    return fresh(x) if leaves_pytorch() else x.contiguous()


@contextmanager
def any_size() -> Iterator[None]:
    """Lets `torch.export` note no condition on sizes inside: none is special to what is computed there."""
    # torch.export takes a size of 1 for another case (does it broadcast? in which order does it lie?), and would refuse
    # the maps of one window that its example did not have. PyTorch's own ONNX exporter sets the same.
    if not torch.compiler.is_exporting() or torch.compiler.is_dynamo_compiling():
        yield
        return
    import torch.fx.experimental._config as config

    with config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        yield


def rolled(x: Tensor, shift: tuple[Any, Any], back: bool = False) -> Tensor:
    """Rolls dimensions 1 and 2 by −shift, or back; by index where a shift follows from an open size."""
    if all(map(is_known, shift)):
        return (roll_back if back else roll)(x, shift)
    for dim, step in enumerate(shift, 1):
        if not surely(step == 0):
            side = x.shape[dim]
            place = torch.arange(side, device=x.device) + (side - step if back else step)
            x = x.index_select(dim, place % as_number(side, x.device))
    return x


def centres(side: Any, stride: int, device: torch.device) -> Tensor:
    """Every stride-th pixel of a line: ceil(side/stride)."""
    # counted as a convolution counts its outputs: to torch.export, another way to count is another size
    return torch.arange((side - 1) // stride + 1, device=device) * stride


def around(size: tuple[Any, Any], reach: tuple[int, int], stride: int, dilation: int, device: torch.device) -> Tensor:
    """The pixel y·W + x that stands at each offset from every stride-th pixel of an H×W map, mirrored at the border.

    Args:
        size: (H, W).
        reach: (Ky, Kx).

    Returns:
        (ceil(H/stride), ceil(W/stride), O), offsets row by row.
    """
    lines = []
    for dim, side in enumerate(size):
        steps = [dilation * ((o // reach[1], o % reach[1])[dim] - reach[dim] // 2) for o in range(reach[0] * reach[1])]
        place = centres(side, stride, device)[:, None] + torch.tensor(steps, device=device)  # (Ho, O) or (Wo, O)
        lines.append(mirrored(place, as_number(side, device)))
    return lines[0][:, None] * size[1] + lines[1]


def gathered(x: Tensor, pixel: Tensor) -> Tensor:
    """Those pixels of a map: (B, H, W, …) and an index (…) of y·W + x -> (B, …, …)."""
    return fresh(x).flatten(1, 2)[:, pixel]
