"""How long an exported file takes for a batch, beside the model in PyTorch: in turn, after both were found equal."""

from __future__ import annotations

import math
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acmix.benchmark.pairs import SETTLE_SECONDS, quartiles, time_in_turn
from acmix.errors import UsageError
from acmix.export import Exported
from acmix.export.compare import BOUND, of_detections, of_places, relative
from acmix.export.forms import PRECISIONS, answers, form_of, prepared
from acmix.export.write import exported as program_of
from acmix.export.write import quiet
from acmix.layers.fold import fold
from acmix.tools.description import sides_of
from acmix.tools.exports import CANNOT_RUN, Session
from acmix.tools.load import Info, load
from acmix.tools.slow_convolutions import InSingle, has_kernels

EAGER = "PyTorch"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Time:
    """One way to run a model.

    Args:
        way: its name.
        images: in the batch.
        side: height and width of the images.
        time_ms: median of a batch.
        ratio: median over the rounds of its time ÷ the model's in PyTorch, timed in turn; None of the model itself.
        low, high: quartiles of the ratio.
        note: why there is no time.
    """

    way: str
    images: int
    side: tuple[int, int]
    time_ms: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


def times(
    source: Any,
    done: Exported,
    *,
    batch_size: int = 1,
    seconds: float = 5.0,
    compiled: bool = False,
    tell: Callable[[str], object] = lambda line: None,
) -> Iterator[Time]:
    """Times a file beside the model that it was made from, and with `compiled` also torch.compile and AOTInductor.

    Args:
        source: what was exported.
        done: what came of it.
        batch_size: images of the batch.
        seconds: of the rounds of each pair.
        compiled: takes minutes.
        tell: called with a line for each pair.
    """
    model, info = load(source, device="cpu")
    side = sides_of(info.img_size)
    [inputs] = prepared([(batch_size, *side)], info.in_chans, info.task)
    eager = partial(answers, model, info.task, inputs)
    wanted = eager()
    ways: list[tuple[str, Callable[[], Callable[[], Any]]]] = [(name_of(done), partial(of_file, done, inputs))]
    if compiled:
        if info.task != "detect":
            ways.append(("torch.compile, folded", partial(of_compiled, model, inputs)))
        ways.append(("AOTInductor", partial(of_aoti, model, info, done, inputs)))
    is_told = False
    for name, make in ways:
        tell(f"timing {name}")
        try:
            run = make()
            apart = difference(model, info.task, wanted, run(), inputs, done)
        except (*CANNOT_RUN, UsageError, OSError) as error:
            yield Time(name, batch_size, side, None, note=" ".join(str(error).split())[:200] or type(error).__name__)
            continue
        # 8 bits lose what was measured already
        if not apart <= BOUND[done.precision]:
            yield Time(name, batch_size, side, None, note=f"wrong by {apart:.1e}")
            continue
        rounds = time_in_turn([eager, run], device=CPU, seconds=seconds, settle_seconds=SETTLE_SECONDS)
        if not is_told:
            yield Time(EAGER, batch_size, side, 1000 * statistics.median(own for own, _ in rounds))
            is_told = True
        low, middle, high = quartiles([theirs / own for own, theirs in rounds])
        yield Time(name, batch_size, side, 1000 * statistics.median(theirs for _, theirs in rounds), middle, low, high)


def name_of(done: Exported) -> str:
    """What runs a file."""
    if done.format == "onnx":
        return "onnxruntime" if done.precision != "int8" else "onnxruntime, 8 bits"
    return "torch.export program"


def difference(
    model: nn.Module, task: str, wanted: Any, found: Any, inputs: tuple[Tensor, ...], done: Exported
) -> float:
    """The largest difference; infinity where objects are lost."""
    outputs = found if isinstance(found, (tuple, list)) else [found]
    outputs = [torch.from_numpy(each) if isinstance(each, np.ndarray) else each for each in outputs]
    if task != "detect":
        return relative(outputs[0], wanted)
    if not done.description.suppression:
        return of_places(model, inputs, outputs)
    shape = (len(inputs[0]), inputs[0].shape[2], inputs[0].shape[3])
    told = of_detections(shape, wanted, outputs, inputs[1], BOUND[done.precision])
    return told.largest if told.agrees else math.inf


def of_file(done: Exported, inputs: Sequence[Tensor]) -> Callable[[], Any]:
    """The file, as somebody without acmix runs it; convolutions that a processor has no kernels for as acmix does."""
    if done.format == "onnx":
        session = Session(done.path)
        given = {each.name: tensor.numpy() for each, tensor in zip(session.inputs, inputs, strict=True)}
        return partial(session.session.run, None, given)
    with done.path.open("rb") as file:
        program = torch.export.load(file).module()  # type: ignore[arg-type]
    run = without_gradient(program, inputs)
    return run if has_kernels(PRECISIONS[done.precision]) else computed_in_single(run)


def computed_in_single(run: Callable[[], Any]) -> Callable[[], Any]:
    """A call whose slow convolutions are computed in fp32."""

    def call() -> Any:
        with InSingle():
            return run()

    return call


def of_compiled(model: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], Any]:
    """The folded model under torch.compile."""
    return without_gradient(torch.compile(fold(model)), inputs)


def of_aoti(model: nn.Module, info: Info, done: Exported, inputs: Sequence[Tensor]) -> Callable[[], Any]:
    """The program, compiled ahead of time to machine code."""
    if not has_kernels(PRECISIONS.get(done.precision, torch.float32)):
        # hundreds of times as long; nothing can be put in their place in machine code
        raise UsageError(f"PyTorch has no kernels for convolutions in {done.precision} on this processor")
    form = form_of(
        model,
        info.task,
        img_size=info.img_size,
        in_chans=info.in_chans,
        dtype=PRECISIONS.get(done.precision, torch.float32),
        suppress=done.description.suppression,
        fixed_size=done.description.fixed_size,
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        package = torch._inductor.aoti_compile_and_package(
            program_of(form), package_path=str(Path(folder) / "model.pt2")
        )
        run = torch._inductor.aoti_load_package(package)
    return without_gradient(run, inputs)


def without_gradient(run: Callable[..., Any], inputs: Sequence[Tensor]) -> Callable[[], Any]:
    """A call of it, as inference makes it."""

    def once() -> Any:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(*inputs)

    return once
