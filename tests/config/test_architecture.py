"""Of a file's arguments for networks and heads, those of an architecture alone are taken."""

from __future__ import annotations

import inspect
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.models import build_model_with_cfg

from acmix.config.architecture import HEADS, NETWORKS, check_architecture
from acmix.errors import UsageError
from acmix.heads import create_detector
from acmix.heads.segmenters import semantic_fpn, upernet
from acmix.models import create_model, list_models
from acmix.models.arguments import parameters
from acmix.models.registry import MODEL_CLASSES
from acmix.train.checkpoint import restore_model, save
from acmix.train.loop import train
from tests.support.images import make_image_folder
from tests.support.tiny import CLASSES, tiny_config

# what settings of their own decide
SET = {"num_classes", "in_chans", "img_size", "drop_path_rate", "conv_path", "backbone_args", "features_only"}
SIZES = {"min_size", "max_size", "mean", "std"}
FETCHING = {"pretrained_cfg_overlay": {"url": "http://localhost:9/weights.pth"}, "checkpoint_path": "/etc/passwd"}


@pytest.mark.parametrize("name", [name for name in list_models() if name.endswith(("_tiny", "26", "10", "_224"))])
def test_what_our_networks_take_is_on_the_list(name: str) -> None:
    assert {*parameters(name, MODEL_CLASSES[name].__name__)} - SET - {"device", "dtype"} <= NETWORKS


def test_what_heads_take_is_on_the_list() -> None:
    detectors = {*(create_detector.__kwdefaults__ or {})} - SET - SIZES
    segmenters = {*(semantic_fpn.__kwdefaults__ or {}), *(upernet.__kwdefaults__ or {}), "out_norms"}
    assert detectors | segmenters == HEADS


def test_nothing_that_timm_s_factory_takes_is_on_the_list() -> None:
    factory = {*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters}
    assert not factory & NETWORKS


@pytest.mark.parametrize("argument", FETCHING)
@pytest.mark.parametrize("model", ["acmix_resnet26", "resnet18"])
def test_a_checkpoint_that_would_fetch_or_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, argument: str
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    config = tiny_config("", f"model.name={model}", "model.args={}", "model.drop_path_rate=0").model_dump(mode="json")
    config["model"]["args"] = {argument: FETCHING[argument]}
    weights = create_model(model, num_classes=4).state_dict()
    save(tmp_path / "best.pt", dict(config=config, classes=list("abcd"), model=weights))
    with pytest.raises(UsageError, match=rf"model\.args\.{argument}"):
        restore_model(tmp_path / "best.pt")
    assert not asked


def test_a_run_whose_checkpoint_would_be_refused_does_not_begin(tmp_path: Path) -> None:
    images = make_image_folder(tmp_path / "images", CLASSES, train_per_class=2, val_per_class=1, size=40)
    args = "{embed_dim: 12, depths: [1, 1], num_heads: [1, 2], window_size: 4, cache_dir: here}"
    with pytest.raises(UsageError, match=r"model\.args\.cache_dir"):
        train(tiny_config(images, f"model.args={args}"), tmp_path / "run")


@pytest.mark.parametrize("value", [{"a": 1}, [[[[1]]]], torch.zeros(1), len])
def test_values_are_plain(value: Any) -> None:
    settings: Any = SimpleNamespace(model=SimpleNamespace(args={"depths": value}), task=SimpleNamespace(args=None))
    with pytest.raises(UsageError, match="expected plain values"):
        check_architecture(settings, "best.pt")
