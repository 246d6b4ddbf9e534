"""The step of a training run: what it waits for, and what a run chooses for its machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from acmix.models import create_model
from acmix.train.distributed import join
from acmix.train.loop import Run, train
from acmix.train.optim import create_optimizer
from acmix.train.signals import StopRequest
from acmix.train.state import memory_format
from tests.support.images import make_image_folder
from tests.support.tiny import CLASSES, tiny_config

# what makes a program wait until a device has computed a value
READS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::equal"}


def in_fused_kernel(event: Any) -> bool:
    """Whether the optimizer's CPU kernel made it, which reads its step counts; the one for a GPU leaves them there."""
    while event is not None and event.name != "aten::_fused_adamw_":
        event = event.cpu_parent
    return event is not None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 training images: two steps of 8."""
    root = tmp_path_factory.mktemp("step")
    return make_image_folder(root / "images", CLASSES, train_per_class=4, val_per_class=1, size=40)


@pytest.mark.parametrize("changes", [(), ("train.precision=bf16", "train.clip_grad=null")], ids=["fp32", "bf16"])
def test_a_step_reads_nothing_that_it_computes(data: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    with StopRequest() as stop, join() as world:
        run = Run(tiny_config(data, *changes), tmp_path, world, stop)
        run.in_step.train()
        micro_batches = list(run.train_batches.epoch(0))
        assert len(micro_batches) == 4
        # what is made once is made
        run.take_step(micro_batches[:2])
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            run.take_step(micro_batches[2:])
        run.log.close()
    events = list(seen.events() or [])
    assert "aten::_fused_adamw_" in {event.name for event in events}
    assert [event.name for event in events if event.name in READS and not in_fused_kernel(event)] == []
    assert run.state.meter.steps == 2


def test_the_first_line_says_what_was_chosen(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_config(data, "train.epochs=1", "train.precision=bf16", "train.channels_last=true"), tmp_path)
    said = capsys.readouterr().out.splitlines()[0]
    begins = "chosen: bf16 · fused adamw · channels last · not compiled · 0 reading processes · operators: "
    assert said.startswith(begins)
    first = json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["event"] == "start"
    assert (first["precision"], first["fused"], first["channels_last"], first["compile"]) == ("bf16", True, True, False)
    assert first["workers"] == 0
    assert first["operators"].keys() == {"conv_path", "window_attention", "local_attention", "patchwise_attention"}
    assert all(name in said for name in first["operators"].values())


@pytest.mark.parametrize(("name", "fused"), [("adamw", True), ("adam", True), ("sgd", True), ("lamb", False)])
def test_torchs_optimizers_are_fused(name: str, fused: bool) -> None:
    optimizer = create_optimizer(nn.Linear(2, 2), tiny_config("", f"optimizer.name={name}"), 8)
    assert bool(optimizer.defaults.get("fused")) is fused


def test_channels_last_is_chosen_for_networks_of_convolutions_on_a_gpu() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    with torch.device("meta"):
        swin = create_model("acmix_swin_tiny_patch4_window7_224")
        resnet = create_model("acmix_resnet26")
    assert memory_format(resnet, None, cuda) == torch.channels_last
    assert memory_format(swin, None, cuda) == memory_format(resnet, None, cpu) == torch.contiguous_format
    assert memory_format(resnet, False, cuda) == torch.contiguous_format
    assert memory_format(swin, True, cpu) == torch.channels_last
