"""Whole models beside their peers: inference, or a training step with AdamW.

Shapes: B batch · h, w image
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

import acmix
from acmix import ops
from acmix.benchmark import where
from acmix.benchmark.machine import DTYPES, Ceilings, measure_ceilings
from acmix.benchmark.pairs import Candidate, Measurement, Subject, compare
from acmix.benchmark.record import lines
from acmix.errors import UsageError
from acmix.models.registry import takes_img_size
from acmix.testing.judge import Results, truth_of

OURS = "acmix"
PEERS = ("timm", "plain", "reference")
BATCH_SIZES = {"cpu": 8, "cuda": 128}
# Two images show what is wrong with a kernel, and float64 on more takes longer than the measurement.
CHECKED_IMAGES = 2
# An optimizer works as hard for it, and weights stay as they are: what was checked is what is timed.
LEARNING_RATE = 0.0


@dataclass(frozen=True)
class Contestant:
    """A model and how it is run.

    Args:
        name: what tables call it.
        model: with its weights.
        implementation: what `ops.use` is told; None for what this library picks by itself.
        original: what it must equal: the model computed by the reference operators. None for a model that is taken as
            it comes, such as timm's.
        compiled: under `torch.compile`.
    """

    name: str
    model: nn.Module
    implementation: str | None = None
    original: nn.Module | None = None
    compiled: bool = False


@dataclass(frozen=True)
class Setting:
    """How models are run: phase "infer" or "train", "fp32" or "bf16" under autocast, a batch of square images."""

    phase: str
    dtype: str
    batch_size: int
    img_size: int
    device: torch.device

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return nullcontext() if self.dtype == "fp32" else torch.autocast(self.device.type, DTYPES[self.dtype])

    def batch(self, images: int) -> tuple[Tensor, Tensor]:
        """Random images (B, 3, h, w) and labels (B,)."""
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(images, 3, self.img_size, self.img_size, generator=draw)
        return x.to(self.device), torch.randint(1000, (images,), generator=draw).to(self.device)


def benchmark_networks(
    names: Sequence[str],
    *,
    phase: str,
    against: Sequence[str] = PEERS,
    dtypes: Sequence[str] = ("fp32",),
    batch_size: int | None = None,
    img_size: int = 224,
    seconds: float = 10.0,
    compiled: bool = False,
    plot: Path | None = None,
    device: torch.device | None = None,
    ceilings: Ceilings | None = None,
    say: Callable[[str], object] = print,
) -> list[Measurement]:
    """Measures models of this library beside their peers, in turn.

    Args:
        names: of models with a convolution path.
        phase: "infer", or "train": forward, loss, backward, AdamW (fused), gradients to None.
        against: "timm", its plain model of the same name; "plain", ours without the convolution path; "reference", the
            same model with the reference operators; none for a profile alone.
        dtypes: "fp32", and "bf16" under autocast.
        batch_size: 8 on a CPU and 128 on a GPU by default.
        img_size: side of the square images in pixels.
        seconds: how long a pair's rounds last.
        compiled: also measure both sides under `torch.compile`.
        plot: also profile, print where the time goes, and draw it into this file.
        device: the GPU where there is one, by default.
        ceilings: of this machine; measured first by default.
        say: prints a line.

    Returns:
        The measurements. Where a result is wrong, its measurement has no speed.

    Raises:
        UsageError: a name or peer that does not exist.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch_size = BATCH_SIZES[device.type] if batch_size is None else batch_size
    check_arguments(names, against, batch_size)
    if ceilings is None and against:
        ceilings = measure_ceilings(device, dtypes)
        say(f"ceilings here: {ceilings}")
    measured: list[Measurement] = []
    for name in names:
        spent: dict[str, dict[str, float]] = {}
        for dtype in dtypes:
            setting = Setting(phase, dtype, batch_size, img_size, device)
            ours = contestants(name, setting)
            peers = [peer for each in against if (peer := peer_of(ours[0], name, each, setting, say))]
            if ceilings is not None:
                measured += compare_networks(
                    name, ours, peers, setting, ceilings=ceilings, seconds=seconds, compiled=compiled, say=say
                )
            if plot is not None:
                spent |= {f"{each.name} {dtype}": profile(each, setting) for each in [*ours[:1], *peers]}
        if plot is not None:
            for line in where.table(spent):
                say(line)
            file = plot if len(names) == 1 else plot.with_stem(f"{plot.stem}_{name}")
            where.save_plot(spent, f"{name}, {phase}, batch {batch_size}", file)
            say(f"drawn: {file}")
    return measured


def check_arguments(names: Sequence[str], against: Sequence[str], batch_size: int) -> None:
    """Refuses what cannot be measured before anything is built."""
    for name in names:
        if name not in acmix.list_models():
            raise UsageError(f"no model {name!r} in this library; `acmix models` lists them")
    for peer in against:
        if peer not in PEERS:
            raise UsageError(f"no peer {peer!r}; there are {', '.join(PEERS)}")
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}; expected at least one image")


def build(name: str, setting: Setting, **arguments: Any) -> nn.Module:
    """A model with weights drawn from seed 0, for the images of a setting."""
    if takes_img_size(name):
        arguments["img_size"] = setting.img_size
    torch.manual_seed(0)
    model = acmix.create_model(name, **arguments).to(setting.device)
    fit_norms(model, setting)
    return model


def fit_norms(model: nn.Module, setting: Setting) -> None:
    """Gives batch norms the statistics of a batch, as training would, so that values keep their size in inference."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(setting.batch(CHECKED_IMAGES)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def contestants(name: str, setting: Setting) -> list[Contestant]:
    """Our model, and for inference its folded form where this version has one."""
    model = build(name, setting)
    ours = [Contestant(OURS, model, original=model)]
    fold = getattr(acmix, "fold", None)
    if setting.phase == "infer" and fold is not None:
        ours.append(Contestant(f"{OURS} folded", fold(copy.deepcopy(model).eval()), original=model))
    return ours


def peer_of(
    ours: Contestant, name: str, peer: str, setting: Setting, say: Callable[[str], object] = print
) -> Contestant | None:
    """What a model is measured beside; None, and a line that says so, where timm has no such model."""
    import timm

    if peer == "reference":
        return Contestant(peer, ours.model, implementation="reference")
    if peer == "plain":
        model = build(name, setting, conv_path=False)
        return Contestant(peer, model, original=model)
    theirs = name.removeprefix("acmix_")
    if theirs not in timm.list_models():
        say(f"timm has no {theirs}; {name} is not measured beside it")
        return None
    return Contestant(peer, build(theirs, setting))


def compare_networks(
    name: str,
    ours: Sequence[Contestant],
    peers: Sequence[Contestant],
    setting: Setting,
    *,
    ceilings: Ceilings,
    seconds: float,
    compiled: bool = False,
    say: Callable[[str], object] = print,
) -> list[Measurement]:
    """Checks models, each once, and only then times each of ours in turn with each of its peers.

    Args:
        name: of the model.
        ours, peers: A and B.
        setting: how they are run.
        ceilings: of this machine.
        seconds: how long the rounds of a pair last.
        compiled: also measure them under `torch.compile`, both sides.
        say: prints a line.
    """
    measured = []
    for both in (False, True)[: 1 + compiled]:
        shape = f"{setting.img_size}x{setting.img_size}" + " compiled" * both
        subject = Subject(name, shape, setting.dtype, setting.phase, setting.batch_size)
        sides = [[replace(each, compiled=both) for each in side] for side in (ours, peers)]
        # all checks come first: a training step moves the statistics of batch norms
        found = {id(each): faults(each, setting) for side in sides for each in side}
        first = [candidate(each, setting, found[id(each)], counted=True) for each in sides[0]]
        second = [candidate(each, setting, found[id(each)]) for each in sides[1]]
        for a, b in product(first, second):
            measured.append(compare(subject, a, b, ceilings=ceilings, device=setting.device, seconds=seconds))
            for line in lines(measured[-1]):
                say(line)
    return measured


def profile(contestant: Contestant, setting: Setting) -> dict[str, float]:
    """Milliseconds in each group of operators; see `where`."""
    run, _ = runner(contestant, setting)
    return where.time_by_group(run, setting.device)


def candidate(contestant: Contestant, setting: Setting, wrong: Sequence[str], *, counted: bool = False) -> Candidate:
    """A model as the engine takes it, its operations counted where that is asked; one that is wrong is not run."""
    if wrong:
        return Candidate(contestant.name, lambda: None, lambda: wrong)
    run, resident = runner(contestant, setting)
    flops = None
    if counted:
        with FlopCounterMode(display=False) as counter:
            runner(replace(contestant, compiled=False), setting)[0]()
        flops = counter.get_total_flops() or None
    return Candidate(contestant.name, run, lambda: wrong, flops=flops, resident_mib=resident)


def runner(contestant: Contestant, setting: Setting) -> tuple[Callable[[], object], float]:
    """What is timed of a model, and the MiB of its parameters, buffers and optimizer's state."""
    model = contestant.model.train(setting.phase == "train")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    called: Callable[[Tensor], Tensor] = torch.compile(model) if contestant.compiled else model
    images, targets = setting.batch(setting.batch_size)

    def infer() -> object:
        with using(contestant), torch.no_grad(), setting.autocast():
            return called(images)

    if setting.phase == "infer":
        return infer, held / 2**20
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True)

    def train() -> None:
        with using(contestant):
            with setting.autocast():
                logits = called(images)  # (B, classes)
            F.cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    # AdamW keeps two numbers a parameter
    return train, (held + 2 * sum(parameter.nbytes for parameter in parameters)) / 2**20


def using(contestant: Contestant) -> AbstractContextManager[None]:
    """The implementation that a model is run with."""
    return nullcontext() if contestant.implementation is None else ops.use(contestant.implementation)


def faults(contestant: Contestant, setting: Setting) -> list[str]:
    """What is wrong with a model's logits and gradients, beside the reference operators in float64."""
    if contestant.original is None:
        return []
    images, targets = setting.batch(CHECKED_IMAGES)
    with ops.use("reference"):
        double = replace(setting, dtype="fp32")
        exact = results(contestant.original, False, double, images.double(), targets)
        own = results(contestant.original, False, setting, images, targets)
    truth = truth_of(exact, own, DTYPES[setting.dtype], together=True)
    with using(contestant):
        return truth.faults(results(contestant.model, contestant.compiled, setting, images, targets))


def smoothed(model: nn.Module) -> nn.Module:
    """A model whose gradients have digits to compare, changed in place.

    Rounding turns a ReLU on or off here and there, and blows up through the statistics of a batch this small, so that
    the reference's own gradients in float32 miss float64's by several percent. Neither is ours: batch norms use the
    statistics they have, and ReLUs become SiLUs.
    """
    for module in list(model.modules()):
        if isinstance(module, _BatchNorm):
            module.eval()
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())
    return model


def results(model: nn.Module, compiled: bool, setting: Setting, images: Tensor, targets: Tensor) -> Results:
    """The logits, and in training every parameter's gradient, of a copy of a model in the images' format."""
    training = setting.phase == "train"
    model = smoothed(copy.deepcopy(model).to(images.dtype).train(training))
    called: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model
    with torch.set_grad_enabled(training), setting.autocast():
        logits = called(images)  # (B, classes)
    found = {"output": logits.detach()}
    if training:
        F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets).backward()
        found |= {f"grad {name}": value.grad for name, value in model.named_parameters() if value.grad is not None}
    return found
