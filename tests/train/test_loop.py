"""A run in one process: what it leaves in its folder, what it can do, and how it ends where it cannot go on."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from acmix import config as configuration
from acmix.data import Batch
from acmix.errors import UsageError
from acmix.layers import Mixed
from acmix.train import step
from acmix.train.checkpoint import read
from acmix.train.distributed import join
from acmix.train.loop import Run, train
from acmix.train.signals import StopRequest
from acmix.train.step import Step
from tests.support.checks import assert_same_bits
from tests.support.tiny import PLAIN, last, tiny_config

pytestmark = pytest.mark.usefixtures("undrawn")
SGD = ("optimizer.name=sgd", "optimizer.lr=0.05", "schedule.warmup_epochs=0")
# what makes a program wait until a device has computed a value
READS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::equal"}


def test_the_folder_holds_what_was_promised(finished: Path, data: Path) -> None:
    places = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    events = {place for place in places if place.startswith("tensorboard/")}
    promised = {"config.yaml", "log.jsonl", "summary.json", "curves.png", "paths.png"}
    assert places - events == promised | {f"checkpoints/{name}.pt" for name in ("last", "last-1", "best")}
    assert len(events) == 1
    assert all((finished / name).read_bytes().startswith(b"\x89PNG") for name in ("curves.png", "paths.png"))
    assert configuration.load(finished / "config.yaml").data.dir == str(data)
    text = (finished / "config.yaml").read_text()
    assert configuration.dump(configuration.load(finished / "config.yaml")) == text


def test_the_summary_is_that_of_the_best_checkpoint(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert {"top1", "top5", "images_per_second", "epochs", "parameters", "device"} <= summary.keys()
    best = read(finished / "checkpoints" / "best.pt")
    assert (summary["top1"], summary["best_epoch"]) == (best["metrics"]["top1"], best["epoch"])
    assert summary["parameters"] == sum(tensor.numel() for tensor in best["model"].values()) == 14_282
    assert (summary["epochs"], summary["steps"]) == (3, 6)


def test_the_average_is_the_recurrence_over_the_steps(data: Path, tmp_path: Path) -> None:
    weights, averages = [], []
    # one step an epoch; the average begins with the weights after the second
    for epochs in (2, 3):
        train(tiny_config(data, f"train.epochs={epochs}", "train.accumulation=4", "train.ema_decay=0.75"), tmp_path)
        weights.append(last(tmp_path)["model"]["head.fc.weight"])
        averages.append(last(tmp_path)["average"]["head.fc.weight"])
    assert torch.equal(averages[0], weights[0])
    torch.testing.assert_close(averages[1], 0.75 * averages[0] + 0.25 * weights[1])
    assert (weights[1] - weights[0]).abs().max() > 1e-4


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_does_not(data: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        random.seed(name)
        train(tiny_config(data, "train.epochs=1", f"train.seed={seed}"), tmp_path / name)
    assert_same_bits(last(tmp_path / "one"), last(tmp_path / "same"))
    with pytest.raises(AssertionError, match="differ"):
        assert_same_bits(last(tmp_path / "one"), last(tmp_path / "other"))


def test_chance_is_drawn_anew_at_every_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, drawn = step.seed_everything, list[tuple[float, float, float]]()

    def seed_everything(*parts: int) -> None:
        plain(*parts)
        drawn.append((torch.rand(()).item(), float(np.random.rand()), random.random()))

    monkeypatch.setattr(step, "seed_everything", seed_everything)
    train(tiny_config(data, "train.epochs=2"), tmp_path)
    assert [len(set(values)) for values in zip(*drawn, strict=True)] == [4, 4, 4]


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One epoch of SGD without chance, for forms of the same computation to be compared with."""
    output = tmp_path_factory.mktemp("train") / "plain"
    train(tiny_config(data, "train.epochs=1", *PLAIN, *SGD), output)
    return last(output)["model"]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """How each forward pass of a run's steps was computed."""
    plain, passes = Step.take, list[dict[str, Any]]()
    others = {*multiprocessing.active_children()}

    def take(run: Step, batches: list[Batch]) -> object:
        def look(module: nn.Module, arguments: tuple[torch.Tensor]) -> None:
            passes.append(
                dict(
                    blocks=0,
                    channels_last=arguments[0].is_contiguous(memory_format=torch.channels_last),
                    deterministic=torch.are_deterministic_algorithms_enabled(),
                    readers=len({*multiprocessing.active_children()} - others),
                    autocast=torch.is_autocast_enabled("cpu"),
                )
            )

        def count(module: nn.Module, arguments: object) -> None:
            passes[-1]["blocks"] += 1

        # its projection, since a hook on the block itself would have it add in separate passes
        mixed = next(module for module in run.state.model.modules() if isinstance(module, Mixed))
        block = mixed.get_submodule("qkv")
        with run.state.model.register_forward_pre_hook(look), block.register_forward_pre_hook(count):
            return plain(run, batches)

    monkeypatch.setattr(Step, "take", take)
    yield passes
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("override", "bound", "form"),
    [
        # a block is computed again in the backward pass
        ("train.gradient_checkpointing=true", 0.0, dict(blocks=2)),
        ("train.channels_last=true", 1e-6, dict(channels_last=True)),
        ("train.deterministic=true", 0.0, dict(deterministic=True)),
        ("data.workers=1", 0.0, dict(readers=1)),
        ("train.precision=bf16", 2e-2, dict(autocast=True)),
    ],
)
def test_another_form_of_the_computation_gives_the_same_weights(
    data: Path,
    plain: dict[str, Any],
    tmp_path: Path,
    seen: list[dict[str, Any]],
    override: str,
    bound: float,
    form: dict[str, Any],
) -> None:
    train(tiny_config(data, "train.epochs=1", *PLAIN, *SGD, override), tmp_path)
    usual = dict(blocks=1, channels_last=False, deterministic=False, readers=0, autocast=False)
    assert seen == [{**usual, **form}] * 4
    ours = last(tmp_path)["model"]
    assert ours.keys() == plain.keys()
    difference = max((ours[key] - plain[key]).abs().max().item() for key in plain)
    print(f"{override}: largest difference of weights {difference:.1e}")
    assert difference <= bound
    assert all(tensor.dtype == torch.float32 for tensor in ours.values())


@pytest.mark.slow
def test_a_compiled_run_keeps_plain_names_and_gives_the_same_weights(
    data: Path, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, compile = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or compile(model))
    # compiling takes a minute, and that compiled operators compute the same is for their own tests: here the wrapping
    with torch.compiler.set_stance("force_eager"):
        train(tiny_config(data, "train.epochs=1", *PLAIN, *SGD, "train.compile=true"), tmp_path)
    assert len(compiled) == 1
    ours = last(tmp_path)["model"]
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[key], plain[key]) for key in plain)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint_before(data: Path, tmp_path: Path) -> None:
    train(tiny_config(data, "train.epochs=1"), tmp_path)
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    diverging = ("train.epochs=3", "optimizer.lr=1e30", "schedule.warmup_epochs=0")
    with pytest.raises(UsageError) as error:
        train(tiny_config(data, *diverging), tmp_path)
    assert "of step 4 (epoch 2) is not finite" in str(error.value)
    assert str(error.value).endswith(
        "last.pt is from before it; try a lower optimizer.lr or more schedule.warmup_epochs"
    )
    assert "\n" not in str(error.value)
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before
    assert train(tiny_config(data, "train.epochs=2"), tmp_path)["epochs"] == 2


def test_weights_that_the_last_step_of_an_epoch_ruined_are_not_saved(data: Path, tmp_path: Path) -> None:
    one_step = ("train.accumulation=4", "train.epochs=1", "train.ema_decay=null", "train.precision=bf16")
    with pytest.raises(
        UsageError, match=r"the validation loss after step 1 \(epoch 1\) is not finite; nothing was"
    ) as error:
        train(tiny_config(data, *one_step, "optimizer.lr=1e30", "schedule.warmup_steps=0"), tmp_path)
    assert str(error.value).endswith("or more schedule.warmup_steps or train.precision=fp32")
    assert not list((tmp_path / "checkpoints").iterdir())


def test_an_output_folder_that_cannot_be_written_to_is_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"cannot write to the output folder .*; choose another"):
            train(tiny_config(data), place)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.num_classes=7"], "add model.num_classes=4"),
        (["train.batch_size=64"], "is larger than the 16 training images; lower train.batch_size"),
        (["train.accumulation=32", "train.batch_size=2"], "lower train.batch_size or train.accumulation"),
        (["train.precision=fp16"], "needs a GPU"),
        (["model.args={embed: 12}"], "did you mean 'embed_dim'?"),
        (["model.name=resnet10t", "model.args={}", "train.batch_size=3"], "is odd, but mixup and cutmix need pairs"),
        (
            ["model.name=dla46_c", "model.args={}", "model.drop_path_rate=0", "train.gradient_checkpointing=true"],
            "has no gradient checkpointing",
        ),
        (["model.checkpoint=nowhere.pt"], "there is no checkpoint nowhere.pt"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    data: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(UsageError) as error:
        train(tiny_config(data, *overrides), tmp_path / "run")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def in_fused_kernel(event: Any) -> bool:
    """Whether the optimizer's CPU kernel made it, which reads its step counts; the one for a GPU leaves them there."""
    while event is not None and event.name != "aten::_fused_adamw_":
        event = event.cpu_parent
    return event is not None


@pytest.mark.parametrize("changes", [(), ("train.precision=bf16", "train.clip_grad=null")], ids=["fp32", "bf16"])
def test_a_step_reads_nothing_that_it_computes(data: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    with StopRequest() as stop, join() as world, ExitStack() as held_open:
        run = Run(tiny_config(data, *changes), tmp_path, world, stop, held_open)
        run.in_step.module.train()
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
