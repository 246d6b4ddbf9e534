"""Settings of the loop hold for detection and segmentation, too: each run trains, evaluates, and resumes to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import acmix
from acmix.heads.detectors import DETECTORS
from acmix.train.loop import train
from tests.heads.targets import pictures
from tests.heads.tiny import DEIT, SWIN, TINY, detector
from tests.support.checks import assert_same_bits
from tests.support.dense import dense_config, write_scenes
from tests.support.tiny import last
from tests.train.test_dense_runs import stopped_at

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]
METRICS = {"detect": "mask_ap", "segment": "miou"}
SEGMENTERS = ("upernet", "semantic_fpn")
SETTINGS = {
    "fp32": ("train.channels_last=true", "train.ema_decay=0.9", "train.deterministic=true"),
    "bf16": ("train.precision=bf16", "train.gradient_checkpointing=true", "data.workers=2"),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("task", METRICS)
def test_a_run_with_several_settings_resumes_to_the_same_bits(task: str, name: str, tmp_path: Path) -> None:
    scenes, settings = write_scenes(task, tmp_path / "scenes"), (*SETTINGS[name], "train.epochs=2")
    summary = train(dense_config(task, scenes, *settings), tmp_path / "whole")
    assert summary[METRICS[task]] >= 0
    stopped_at(5, dense_config(task, scenes, *settings), tmp_path / "parts")
    assert last(tmp_path / "parts")["step"] == 5
    train(dense_config(task, scenes, *settings), tmp_path / "parts")
    assert last(tmp_path / "parts")["step"] == 8
    assert_same_bits(last(tmp_path / "parts"), last(tmp_path / "whole"))


@pytest.mark.parametrize("task", METRICS)
def test_a_compiled_run_gives_the_same_weights(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = write_scenes(task, tmp_path / "scenes")
    asked: list[str] = []
    plain = torch.compile

    def compile(model: Any, **how: Any) -> Any:
        asked.append(type(getattr(model, "__self__", model)).__name__)
        return plain(model, **how)

    monkeypatch.setattr(torch, "compile", compile)
    train(dense_config(task, scenes, "train.epochs=1"), tmp_path / "plain")
    # compiling takes minutes, and that it computes the same is for tests of heads: here the wrapping
    with torch.compiler.set_stance("force_eager"):
        train(dense_config(task, scenes, "train.epochs=1", "train.compile=true"), tmp_path / "compiled")
    # of a detector the part whose shapes depend on the images' sizes alone
    assert asked == [{"detect": "PyramidBackbone", "segment": "Segmenter"}[task]]
    assert_same_bits(last(tmp_path / "compiled"), last(tmp_path / "plain"))


def steps_of_all_heads(rank: int, folder: str) -> None:
    """Two steps of each head: in the first one process has no object, in the second both have none."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"{Path(folder, 'store').as_uri()}", rank=rank, world_size=2)
    without: dict[str, list[str]] = {}
    for backbone in (SWIN, DEIT):
        for head in (*DETECTORS, *SEGMENTERS):
            torch.manual_seed(0)
            arguments: dict[str, Any] = dict(num_classes=3, channels=8, backbone_args=TINY[backbone])
            if head == "upernet":
                arguments["auxiliary_channels"] = 8
            is_detector = head in DETECTORS
            model = detector(head, backbone) if is_detector else acmix.create_segmenter(head, backbone, **arguments)
            parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
            for step in range(2):
                if is_detector:
                    images, targets = pictures((64, 64), (64, 96), objects=0 if step or rank else 2)
                    parts = parallel(images, targets)
                else:
                    parts = parallel(torch.rand(2, 3, 64, 64))
                # of a parameter that has no gradient, the second forward pass would complain
                torch.stack(
                    [each.mean() for each in (parts.values() if isinstance(parts, dict) else [parts])]
                ).sum().backward()
            missing = [
                key for key, each in model.named_parameters() if each.grad is None or not each.grad.isfinite().all()
            ]
            without[f"{backbone} {head}"] = missing
    dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(without), encoding="utf-8")


def test_two_processes_train_every_head_and_leave_no_parameter_without_a_gradient(tmp_path: Path) -> None:
    mp.spawn(steps_of_all_heads, (str(tmp_path),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    for rank in range(2):
        without = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
        assert len(without) == 2 * (len(DETECTORS) + len(SEGMENTERS))
        assert not any(without.values()), without
