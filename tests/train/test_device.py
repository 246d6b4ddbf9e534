"""A process computes where torch finds an accelerator, and asks nothing of it that only CUDA's can answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acmix.errors import UsageError
from acmix.train import device
from acmix.train.distributed import own_device
from acmix.train.launch import check_processors
from acmix.train.loop import train
from acmix.train.meter import Meter
from tests.support.images import make_image_folder
from tests.support.tiny import CLASSES, tiny_config


class NoFloat64(TorchDispatchMode):
    """Refuses what Apple's accelerator refuses: a tensor of float64."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                raise TypeError(f"{function} made a tensor of float64")
        return result


def found(monkeypatch: pytest.MonkeyPatch, kind: str | None, count: int = 1) -> None:
    """Lets torch find so many accelerators of a kind."""
    chosen = None if kind is None else torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: chosen)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0 if kind is None else count)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_a_process_computes_on_the_accelerator_that_torch_finds(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    found(monkeypatch, kind, count=2)
    assert device.this_device() == torch.device(kind)
    assert check_processors(2) == ""


def test_without_an_accelerator_it_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, None)
    assert device.accelerator() is None
    assert device.this_device() == torch.device("cpu")
    assert "on the CPU" in check_processors(1)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (None, "cuda", "no device cuda: torch finds no accelerator on this machine; use the device auto or cpu"),
        (None, "mps", "no device mps: torch finds no accelerator"),
        ("cuda", "mps", "no device mps: this machine has cuda; use the device auto, cuda or cpu"),
        ("cuda", "cuda:2", "no device cuda:2: this machine has cuda:0 to cuda:1; use another number"),
        *((None, name, f"device {name!r} is unknown") for name in ("cpu:0", "gpu", "0", "", "cuda:", "meta", "CUDA")),
    ],
)
def test_a_device_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: str | None, name: str, said: str
) -> None:
    found(monkeypatch, kind, count=2)
    with pytest.raises(UsageError, match=f"^{said}"):
        device.this_device(name)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1"])
def test_a_device_may_be_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found(monkeypatch, "cuda", count=2)
    assert device.this_device(name) == torch.device(name)


def test_each_of_several_processes_has_a_gpu_of_its_own_unless_they_share_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found(monkeypatch, "cuda", count=2)
    assert [own_device("auto", 2, rank) for rank in (0, 1)] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert own_device("cuda", 2, 1) == torch.device("cuda", 1)
    assert own_device("cpu", 3, 2) == torch.device("cpu")
    assert own_device("cuda:1", 1, 0) == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="process 2 has no GPU: this machine has 2; start 2 processes"):
        own_device("cuda", 3, 2)
    with pytest.raises(UsageError, match=r"^the device cuda:1 is a single one, and 2 processes each need their own"):
        own_device("cuda:1", 2, 0)
    assert "device cpu: 3 processes on the CPU" in check_processors(3, "cpu")
    with pytest.raises(UsageError, match="3 processes need 3 GPUs"):
        check_processors(3, "cuda")


def test_each_device_gets_the_format_it_is_known_to_compute_in(monkeypatch: pytest.MonkeyPatch) -> None:
    formats = {}
    for has_bf16 in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda answer=has_bf16: answer)
        formats[has_bf16] = device.half_precision(torch.device("cuda"))
    assert formats == {True: "bf16", False: "fp16"}
    # torch cannot say what Apple's takes
    assert device.half_precision(torch.device("mps")) == device.half_precision(torch.device("cpu")) == "fp32"


def test_a_processor_held_to_narrower_vectors_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured that way is not taken for what the machine can do."""
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    whole = device.device_name(torch.device("cpu"))
    assert torch.backends.cpu.get_cpu_capability() not in whole
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert device.device_name(torch.device("cpu")) == f"{whole[:-1]}, {torch.backends.cpu.get_cpu_capability()})"


def test_what_a_device_cannot_tell_is_left_open() -> None:
    assert device.peak_memory_mib(torch.device("cpu")) is None
    assert device.device_name(torch.device("mps")) == "mps"
    pins = {kind: device.pins_memory(torch.device(kind)) for kind in ("cuda", "xpu", "mps", "cpu")}
    assert pins == {"cuda": True, "xpu": True, "mps": False, "cpu": False}


@pytest.mark.usefixtures("undrawn")
def test_training_and_evaluation_make_no_tensor_of_float64(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path / "images", CLASSES, train_per_class=2, val_per_class=1, size=40)
    config = tiny_config(data, "train.epochs=1", "train.ema_decay=0.9", "train.clip_grad=1.0")
    with NoFloat64():
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(1).double()
        summary = train(config, tmp_path / "run")
    assert summary["top1"] is not None


def test_the_epoch_s_loss_is_summed_in_float64() -> None:
    meter, exact = Meter(torch.device("cpu")), 0.0
    torch.manual_seed(0)
    for step in range(1, 301):
        loss = torch.rand(()) * 10 ** (step % 5)
        meter.add({"loss": loss}, loss, torch.tensor(True), step=step, images=1)
        exact += loss.item()
        if step % 7 == 0:
            meter.read()
        if step % 100 == 0:
            kept = meter.state()
            meter = Meter(torch.device("cpu"))
            meter.load_state(kept)
    assert meter.whole_epoch(1)[0] == exact / 300
