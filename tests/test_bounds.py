"""Small files that would cost without bound are refused in one short line, at once."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from acmix import config, yaml_text
from acmix.config import Config
from acmix.data import loader
from acmix.errors import LONGEST, UsageError
from acmix.heads.transform import pasted_masks
from acmix.models.build import build_model
from acmix.near import near
from acmix.released.safe_load import MOST_OPCODES, safe_load
from acmix.tools.finite import watched
from acmix.train.size import check_size

ALIASES = "[&a0 [x, x], " + ", ".join(f"&a{level} [*a{level - 1}, *a{level - 1}]" for level in range(1, 60)) + "]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ALIASES, "more than 70,000 values"),
        ("&a [*a]", "a value holds itself"),
        ("[" * 5000 + "]" * 5000, "values more than 50 deep"),
        ("[" * 5000, "values more than 50 deep"),
        ("{a: " * 3000 + "1" + "}" * 3000, "values more than 50 deep"),
        ("9" * 300_000, "digits"),
        ("!!bool x", "not of the type"),
        ("!!timestamp x", "not of the type"),
    ],
    ids=lambda value: value[:12],
)
def test_yaml_without_bound_is_refused_at_once(text: str, said: str, tmp_path: Path) -> None:
    began = time.process_time()
    with pytest.raises(yaml.YAMLError, match=said):
        yaml_text.parse(text)
    file = tmp_path / "x.yaml"
    file.write_text(f"optimizer: {{lr: {text}}}", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        config.load(file)
    assert len(str(caught.value)) <= LONGEST
    assert time.process_time() - began < 2


def test_a_file_larger_than_settings_are_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"#" * (yaml_text.MOST_BYTES + 1))
    with pytest.raises(UsageError, match=r"x\.yaml: it is larger than 1 MiB, more than a file of settings may be"):
        config.load(tmp_path / "x.yaml")


def test_many_keys_take_time_by_their_number_alone() -> None:
    began = time.process_time()
    yaml_text.parse("\n".join(f"k{number}: 1" for number in range(5000)))
    with pytest.raises(yaml.YAMLError, match="'a' stands twice"):
        yaml_text.parse("a: 1\n" * 5000)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "override", ["optimizer.lr=" + "a" * 100_000, "model.name=" + "b" * 100_000, "c" * 100_000 + "=1"]
)
def test_a_line_about_a_long_value_keeps_its_beginning_and_its_end(override: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.load("acmix_swin_digits", [override])
    said = str(caught.value)
    assert len(said) <= LONGEST
    assert " … " in said
    assert "expected" in said or "input should" in said or "e.g." in said or "there are" in said


def test_a_long_name_is_compared_with_none() -> None:
    assert near("x" * 1000, ["x"]) == []


@pytest.mark.slow
def test_a_pickle_of_endless_instructions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pickle.dumps([], 2)[:-1] + b"(" * MOST_OPCODES + b".")
    with pytest.raises(UsageError, match="more than 1,000,000 instructions"):
        safe_load(tmp_path / "x.pt")


def test_reading_processes_are_bounded_by_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "cores", lambda: 4)
    settings = Config.model_validate({"data": {"workers": 33}})
    with pytest.raises(UsageError, match="33 on 4 cores; expected at most 32"):
        loader.worker_count(settings)
    monkeypatch.setattr(loader, "cores", lambda: 8)
    assert loader.worker_count(settings) == 33


def test_a_network_that_does_not_fit_is_refused_before_it_is_made() -> None:
    sizes = {"embed_dim": 100_000, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    with pytest.raises(UsageError, match=r"GiB to train, and this machine has"):
        check_size(Config.model_validate({"model": {"args": sizes}}))
    check_size(Config.model_validate({"model": {"args": sizes | {"embed_dim": 12}}, "data": {"img_size": 32}}))
    check_size(Config())


def test_a_switch_is_no_text_and_a_number_no_switch() -> None:
    for args, said in (
        ({"qkv_bias": "x"}, "model.args.qkv_bias='x': expected true or false"),
        ({"embed_dim": True}, "model.args.embed_dim=True: expected no yes or no"),
    ):
        with pytest.raises(UsageError, match=said):
            build_model(Config.model_validate({"model": {"args": args}}))


def test_what_is_not_finite_is_seen_in_maps_and_heads() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, data: torch.Tensor) -> list[int]:
            self.head(self.backbone(data).nan_to_num())
            return []

    for name in ("backbone", "head", None):
        model = Plain()
        if name:
            nn.init.constant_(getattr(model, name).bias, torch.nan)
        with watched(model) as watch:
            model(torch.ones(1, 2))
        assert watch.is_broken == bool(name)
        assert not model.backbone._forward_hooks


def test_masks_that_would_fill_memory_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"masks of 100 objects in a picture of 12000 × 12000 pixels would take 54 GiB"
    ):
        pasted_masks(torch.zeros(1).expand(100, 1, 28, 28), torch.zeros(100, 4), (12_000, 12_000))
