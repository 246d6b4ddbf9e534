"""`benchmarks/detection_step.py` on detectors of a few thousand weights: right first, then timed in turn."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from acmix.benchmark import detection_step
from acmix.benchmark.detection_step import HEAD, SWIN, Side, build, check, example, main
from acmix.benchmark.record import COLUMNS, WRONG
from tests.heads.tiny import TINY, detector

CPU = torch.device("cpu")
PLAIN = f"{SWIN} plain"
SMALL: dict[str, Any] = {
    SWIN: lambda: detector(HEAD, num_classes=80),
    PLAIN: lambda: detector(HEAD, num_classes=80, conv_path=False),
    "a peer": lambda: detector(HEAD, "acmix_resnet26", num_classes=80),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SWIN in TINY
    monkeypatch.setattr(detection_step, "MODELS", SMALL)
    monkeypatch.setattr(detection_step, "LINES", {"swin": (SWIN, PLAIN, "a peer")})
    monkeypatch.setattr(detection_step, "QUICK_SIZE", (64, 96))


def run(monkeypatch: pytest.MonkeyPatch, output: Path) -> tuple[int, list[dict[str, str]]]:
    monkeypatch.setattr(sys, "argv", ["detection_step", "--quick", "--seconds", "0.1", "--output", str(output)])
    status = main(output.parent)
    with output.open(newline="", encoding="utf-8") as file:
        return status, list(csv.DictReader(file))


def test_the_example_s_masks_fill_their_boxes() -> None:
    image, target = example((60, 90), 4, CPU)
    assert image.shape == (3, 60, 90)
    for (x0, y0, x1, y1), mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        assert x0 - 1 <= columns.min() <= columns.max() <= x1 + 1
        assert y0 - 1 <= rows.min() <= rows.max() <= y1 + 1
        assert abs(int(mask.sum()) / ((x1 - x0) * (y1 - y0)) - torch.pi / 4) < 0.25


@pytest.mark.slow
def test_pairs_are_checked_timed_in_turn_and_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, rows = run(monkeypatch, tmp_path / "found.csv")
    assert status == 0
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["line"], row["candidate"], row["peer"]) for row in rows] == [
        ("swin", SWIN, PLAIN),
        ("swin", SWIN, "a peer"),
    ]
    for row in rows:
        assert (row["shape"], row["phase"], row["images"]) == ("64x96, 20 boxes", "train", "1")
        assert float(row["speed_up"]) > 0
        assert float(row["peer_time_ms"]) > 0
        assert float(row["peak_mib"]) > 0


@pytest.mark.slow
def test_a_wrong_side_has_no_speed_and_ends_the_command_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> nn.Module:
        model = detector(HEAD, num_classes=80)
        torch.nn.init.constant_(model.backbone.pyramid.norms[0].bias, float("nan"))  # type: ignore[arg-type]
        return model

    monkeypatch.setattr(detection_step, "MODELS", {**SMALL, "a peer": broken})
    status, rows = run(monkeypatch, tmp_path / "found.csv")
    assert status == 1
    assert [row["speed_up"] == WRONG for row in rows] == [False, True]
    assert "a peer: a loss is not finite" in capsys.readouterr().out


@pytest.mark.slow
def test_a_path_that_rates_do_not_weigh_is_found() -> None:
    side = build(SWIN, CPU)
    attention: Any = side.model.backbone.features.network.layers[0].blocks[0].attn  # type: ignore[union-attr]
    attention.register_forward_hook(lambda _, __, out: 1.1 * out)
    check(side, CPU)
    assert any("beside the plain form" in fault for fault in side.faults)


def test_a_loss_that_changes_from_step_to_step_is_a_fault() -> None:
    side = Side("any", nn.Identity(), losses=[torch.tensor(2.0), torch.tensor(2.1)])
    side.check_losses()
    assert side.faults == ["its loss changes from step to step: 2 to 2.1"]
