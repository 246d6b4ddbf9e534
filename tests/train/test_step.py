"""One step on several processes: in a fixed order the same bits, by messages of any size and rounding."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes
from acmix.errors import UsageError
from acmix.released.digest import digest_of
from acmix.tools.evaluate import evaluate_checkpoint
from acmix.train.distributed import World
from acmix.train.fsdp import check_fsdp, gathered, whole
from acmix.train.loop import train
from acmix.train.optim import create_optimizer
from acmix.train.signals import Stopped
from acmix.train.step import Step, in_buckets
from tests.support.checks import largest_difference, one_error
from tests.support.dense import write_dense_config
from tests.support.images import make_image_folder
from tests.support.processes import command
from tests.support.tiny import CLASSES, last, tiny_config, write_config
from tests.support.within import signal_within_step

pytestmark = pytest.mark.usefixtures("undrawn")
# three steps of 8 images, however they are shared out; every source of chance is on, and an average is kept
EXACT = ("train.epochs=1", "train.reduction=exact", "train.batch_size=2")
SWIN = ()
RESNET = ("model.name=acmix_resnet26", "model.args={layers: [1, 1, 1, 1]}", "model.drop_path_rate=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training images."""
    root = tmp_path_factory.mktemp("step") / "images"
    return make_image_folder(root, CLASSES, train_per_class=6, val_per_class=1, size=40)


def content(folder: Path) -> dict[str, str]:
    """Digests of what training moved."""
    saved = last(folder)
    return {key: digest_of(saved[key]) for key in ("model", "average", "optimizer", "best")}


@pytest.fixture
def one_thread() -> object:
    """A sum that several threads share is rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("model", [SWIN, RESNET], ids=["swin", "resnet"])
def test_exact_is_the_same_to_the_bit_on_any_number_of_processes(
    data: Path, tmp_path: Path, model: tuple[str, ...]
) -> None:
    train(tiny_config(data, *EXACT, *model, "train.accumulation=4"), tmp_path / "1")
    for processes, accumulation in ((2, 2), (4, 1)):
        config = write_config(
            tmp_path / "tiny.yaml", data, *EXACT, *model, f"train.accumulation={accumulation}", "train.bucket_mib=0.01"
        )
        output = tmp_path / str(processes)
        ends = command("train", config, "--output", output, processes=processes, OMP_NUM_THREADS="1").finish()
        assert [(status, errors) for status, _, errors in ends] == [(0, "")] * processes
        assert content(output) == content(tmp_path / "1"), processes


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_exact_goes_on_on_another_number_of_processes_without_a_difference(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole", tmp_path / "parts"
    alone = tiny_config(data, *EXACT, "train.epochs=2", "train.accumulation=4")
    train(alone, whole)
    with signal_within_step(2, signal.SIGTERM), pytest.raises(Stopped):
        train(alone, output)
    config = write_config(tmp_path / "tiny.yaml", data, *EXACT, "train.epochs=2", "train.accumulation=2")
    ends = command("train", config, "--output", output, processes=2, OMP_NUM_THREADS="1").finish()
    assert [(status, errors) for status, _, errors in ends] == [(0, "")] * 2
    assert "processes 1 → 2: the same sums by train.reduction=exact, with as many threads in each" in ends[0].output
    assert "draw other numbers" not in ends[0].output
    assert content(output) == content(whole)


@pytest.mark.slow
def test_exact_follows_the_mean_but_for_rounding(data: Path, tmp_path: Path) -> None:
    plain = (
        *("train.epochs=1", "train.batch_size=2", "train.accumulation=4", "model.drop_path_rate=0"),
        *("augment.mixup=0", "augment.cutmix=0", "optimizer.name=sgd", "optimizer.lr=0.1", *RESNET),
    )
    train(tiny_config(data, *plain), tmp_path / "mean")
    train(tiny_config(data, *plain, "train.reduction=exact"), tmp_path / "exact")
    assert largest_difference(last(tmp_path / "mean")["model"], last(tmp_path / "exact")["model"]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "bound"),
    [
        (("train.bucket_mib=0.01",), 1e-6),
        (("train.static_graph=true", "train.accumulation=1", "train.batch_size=4"), 1e-6),
        # 8 bits of a gradient are left, and 11
        (("train.gradient_compression=bf16",), 1e-2),
        (("train.gradient_compression=fp16",), 1e-3),
    ],
    ids=lambda value: value[0].split(".")[1] if isinstance(value, tuple) else "",
)
def test_messages_of_another_size_or_rounding_take_the_same_steps(
    data: Path, tmp_path: Path, options: tuple[str, ...], bound: float
) -> None:
    plain = (
        *("train.epochs=1", "train.batch_size=2", "model.drop_path_rate=0", "train.ema_decay=null"),
        *("augment.mixup=0", "augment.cutmix=0", "optimizer.name=sgd", "optimizer.lr=0.1"),
    )
    train(tiny_config(data, *plain, "train.accumulation=4"), tmp_path / "one")
    config = write_config(tmp_path / "tiny.yaml", data, *plain, "train.accumulation=2", *options)
    ends = command("train", config, "--output", tmp_path / "two", processes=2).finish()
    assert [(status, errors) for status, _, errors in ends] == [(0, "")] * 2
    difference = largest_difference(last(tmp_path / "one")["model"], last(tmp_path / "two")["model"])
    print(f"{options[0]}: largest difference of weights {difference:.2e}")
    assert 0 < difference < bound


def test_a_static_graph_is_refused_with_passes_whose_gradients_do_not_travel(data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "tiny.yaml", data, "train.static_graph=true", "train.accumulation=2")
    ends = command("train", config, "--output", tmp_path / "run", processes=2).finish()
    assert [status for status, _, _ in ends] == [2, 2]
    one_error(ends[0].errors, "train.static_graph=true does not go with train.accumulation=2")


def test_exact_refuses_norms_over_all_processes(data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "tiny.yaml", data, *EXACT, *RESNET, "train.sync_batchnorm=true")
    ends = command("train", config, "--output", tmp_path / "run", processes=2).finish()
    assert [status for status, _, _ in ends] == [2, 2]
    one_error(ends[0].errors, "add train.sync_batchnorm=false")


def test_buckets_hold_what_fits_of_one_format() -> None:
    sizes = [(10, torch.float32), (10, torch.float32), (100, torch.float32), (1, torch.float32), (1, torch.bfloat16)]
    parameters = [torch.nn.Parameter(torch.zeros(size, dtype=dtype)) for size, dtype in sizes]
    assert in_buckets(parameters, 80) == [[0, 1], [2], [3], [4]]
    assert in_buckets(parameters, 1e9) == [[0, 1, 2, 3], [4]]
    assert in_buckets([], 80) == []


@pytest.mark.parametrize(
    ("overrides", "asked"), [([], None), (["train.bucket_mib=25"], None), (["train.bucket_mib=5"], 5)]
)
def test_the_usual_buckets_keep_pytorch_s_small_first_one(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], asked: float | None
) -> None:
    """Told 25 MiB, it would make the first one as large, and small networks' gradients would wait for the last one."""
    told: dict[str, Any] = {}

    def parallel(module: nn.Module, **options: Any) -> nn.Module:
        told.update(options)
        return module

    monkeypatch.setattr("acmix.train.step.DistributedDataParallel", parallel)
    state: Any = SimpleNamespace(model=nn.Linear(2, 2))
    Step(tiny_config("photos", *overrides), state, World(0, 2, torch.device("cpu")))
    assert told["bucket_cap_mb"] == asked


@pytest.mark.slow
@pytest.mark.parametrize("model", [SWIN, RESNET], ids=["swin", "resnet"])
def test_shared_out_weights_take_the_same_steps_and_leave_whole_checkpoints(
    data: Path, tmp_path: Path, model: tuple[str, ...]
) -> None:
    # SGD, as AdamW makes a whole step of a gradient that is all rounding; two steps, as norms over two images make
    # much of rounding within six
    plain = (*model, "train.epochs=2", "train.batch_size=2", "optimizer.name=sgd", "optimizer.lr=0.001")
    config, mixed = write_config(tmp_path / "tiny.yaml", data, *plain), tmp_path / "mixed"
    for arguments in (
        (config, "train.steps=2", "--output", tmp_path / "ddp"),
        (config, "train.steps=2", "train.fsdp=true", "--output", tmp_path / "fsdp"),
        # either kind goes on from what the other has left
        (config, "train.steps=1", "train.fsdp=true", "--output", mixed),
        (mixed, "train.steps=2", "train.fsdp=false"),
        (mixed, "train.steps=3", "train.fsdp=true"),
    ):
        ends = command("train", *arguments, processes=2).finish()
        assert [(status, errors) for status, _, errors in ends] == [(0, "")] * 2
    for key in ("model", "average"):
        difference = largest_difference(last(tmp_path / "ddp")[key], last(tmp_path / "fsdp")[key])
        print(f"weights shared out or not: largest difference of the {key} {difference:.2e}")
        assert difference < 1e-6
    assert last(mixed)["step"] == 3


def test_an_optimizer_that_was_not_tried_on_shared_weights_is_refused(data: Path) -> None:
    config = tiny_config(data, "optimizer.name=lamb", "train.fsdp=true")
    with pytest.raises(UsageError, match=r"'lamb' does not go with train\.fsdp=true"):
        create_optimizer(torch.nn.Linear(2, 2), config, 4)


@pytest.mark.slow
def test_what_several_processes_measure_is_what_they_save(data: Path, tmp_path: Path) -> None:
    """Batch norms of each process have seen other images."""
    config = write_config(tmp_path / "tiny.yaml", data, *RESNET, "train.ema_decay=null", "train.batch_size=2")
    ends = command("train", config, "--output", tmp_path / "run", processes=2).finish()
    assert [(status, errors) for status, _, errors in ends] == [(0, "")] * 2
    measured = last(tmp_path / "run")["metrics"]["val_loss"]
    again = evaluate_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt", str(data), workers=0)
    assert again.result.loss == pytest.approx(measured, rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "precision", "said"),
    [
        ("train.precision=fp16", "fp16", r"train\.precision=fp16 does not go"),
        ("train.precision=auto", "fp16", r"train\.precision=auto, here fp16, does not go"),
        ("train.reduction=exact", "fp32", r"train\.reduction=exact does not go"),
        ("train.static_graph=true", "fp32", r"train\.static_graph=true does not go"),
        ("train.channels_last=true", "fp32", r"train\.channels_last=true does not go"),
        ("train.gradient_compression=bf16", "fp32", r"train\.gradient_compression does not go"),
    ],
)
def test_settings_that_need_whole_weights_are_refused_with_fsdp(
    data: Path, setting: str, precision: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said + r" with train\.fsdp=true"):
        check_fsdp(tiny_config(data, setting, "train.fsdp=true"), precision)


@pytest.mark.parametrize("setting", ["train.static_graph=true", "train.gradient_compression=bf16"])
def test_settings_of_messages_are_refused_with_exact(data: Path, setting: str) -> None:
    config = tiny_config(data, "train.reduction=exact", setting)
    with pytest.raises(UsageError, match=rf"{setting} does not go with train\.reduction=exact"):
        Step(config, SimpleNamespace(model=nn.Linear(2, 2)), World(0, 1, torch.device("cpu")))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_processes_of_other_numbers_of_images_measure_shared_out_weights(tmp_path: Path, task: str) -> None:
    """Three images on two processes: one calls the model once more, for which the other gives no weights."""
    write = write_detection_scenes if task == "detect" else write_segmentation_scenes
    scenes = write(tmp_path / "scenes", images=(8, 3), size=64)
    plain = ("train.epochs=1", "optimizer.name=sgd", "optimizer.lr=0.001", "model.drop_path_rate=0")
    config = write_dense_config(tmp_path / "tiny.yaml", task, scenes, *plain)
    for name in ("true", "false"):
        ends = command("train", config, f"train.fsdp={name}", "--output", tmp_path / name, processes=2).finish()
        assert [(status, errors) for status, _, errors in ends] == [(0, "")] * 2
    shared, whole = (last(tmp_path / name) for name in ("true", "false"))
    difference = largest_difference(shared["model"], whole["model"])
    print(f"{task}, weights shared out or not: largest difference {difference:.2e}")
    assert difference < 1e-5
    assert shared["metrics"].keys() == whole["metrics"].keys()


def test_shared_out_weights_come_to_the_cpu_of_who_keeps_them_and_are_shared_again() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model: nn.Module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        fully_shard(model[0], mesh=mesh)  # type: ignore[index]
        fully_shard(model, mesh=mesh)
        state = {"model": model.state_dict(), "step": 3}
        assert whole(state, is_kept=False) == {"model": dict.fromkeys(model.state_dict()), "step": 3}
        kept = whole(state)["model"]["0.weight"]
        assert (type(kept), kept.device.type, kept.shape) == (torch.Tensor, "cpu", (3, 2))
        before = model(torch.ones(1, 2))
        with gathered(model), torch.no_grad():
            for _ in range(2):
                assert torch.equal(model(torch.ones(1, 2)), before)
                assert not any(isinstance(each, DTensor) for each in model.parameters())
        assert all(isinstance(each, DTensor) for each in model.parameters())
        assert torch.equal(model(torch.ones(1, 2)), before)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_a_classifier_keeps_the_statistics_of_its_batch_norms(data: Path, tmp_path: Path) -> None:
    """Ours have a method where detectors have their network: `features`."""
    plain = (*RESNET, "train.epochs=1", "train.ema_decay=null")
    train(tiny_config(data, *plain, "train.freeze_statistics=true"), tmp_path / "run")
    kept = {key: value for key, value in last(tmp_path / "run")["model"].items() if key.endswith("running_mean")}
    assert kept
    assert all((value == 0).all() for value in kept.values())


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "exact"])
def test_gradient_checkpointing_of_timm_s_networks_counts_a_batch_once(
    data: Path, tmp_path: Path, reduction: str
) -> None:
    plain = ("model.name=resnet10t", "model.args={}", "train.steps=2", f"train.reduction={reduction}")
    for name in ("false", "true"):
        train(tiny_config(data, *plain, f"train.gradient_checkpointing={name}"), tmp_path / name)
    assert content(tmp_path / "true") == content(tmp_path / "false")
