"""`acmix rates`: a run's rates are those of its log, a checkpoint's those of its weights; noise is not told as news."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from acmix.errors import UsageError
from acmix.layers import PathRates
from acmix.models.build import build_model
from acmix.tools.rates import leaning, rates_of
from acmix.train import checkpoint
from tests.support.runs import BLOCKS, log_lines, write_run
from tests.support.tiny import CLASSES, tiny_config


def write_checkpoint(file: Path, *overrides: str, average: bool = False) -> Path:
    """A checkpoint of a network of two blocks, whose first has rates of its own."""
    config = tiny_config("", *overrides)
    state = build_model(config).state_dict()
    for name in state:
        if name.startswith("layers.0") and name.endswith(("rate_attention", "rate_conv")):
            state[name] = torch.tensor([0.25 if name.endswith("attention") else -0.75])
    contents: dict[str, Any] = {"config": config.model_dump(mode="json"), "step": 6, "epoch": 3, "metrics": {}}
    contents |= {"classes": [f"class {number}" for number in range(CLASSES)], "model": state}
    if average:
        contents |= {"average": state, "model": build_model(config).state_dict()}
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(file, contents)
    return file


def test_a_run_tells_its_last_rates_and_how_they_moved(tmp_path: Path) -> None:
    found = rates_of(write_run(tmp_path / "run"))
    assert [block.name for block in found.blocks] == BLOCKS
    log = log_lines()
    epochs = [line["rates"] for line in log if line["event"] == "epoch"]
    for block in found.blocks:
        assert list(block.now) == epochs[-1][block.name]
        assert list(block.first or ()) == epochs[0][block.name]
    head, rows = found.table("utf-8")
    assert head == ["block", "α", "β", "share of β", "", "change of α", "of β"]
    # by 0.3 · (−0.7) · 5/6 from the first epoch of six to the last
    assert rows[0] == [BLOCKS[0], "0.2900", "0.7100", "█" * 14 + "░" * 6, "71.0 %", "-0.1750", "+0.1750"]
    assert found.table("ascii")[1][0][3] == "#" * 14 + "-" * 6
    assert found.title.endswith("after epoch 6; change since epoch 1")


@pytest.mark.slow
def test_a_run_draws_into_its_folder_and_a_checkpoint_beside_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert rates_of(run).draw_where(None, by_default=True) == f"drawn: {run / 'paths.png'}"
    file = write_checkpoint(tmp_path / "alone" / "best.pt")
    drawn = file.with_name("best.pt.rates.png")
    assert rates_of(file).draw_where(None, by_default=True) == f"drawn: {drawn}"
    assert rates_of(file).draw_where(tmp_path / "new" / "x.PNG", by_default=False).endswith("x.PNG")
    for picture in (run / "paths.png", drawn, tmp_path / "new" / "x.PNG"):
        with Image.open(picture) as image:
            assert image.format == "PNG"
    assert rates_of(file).draw_where(None, by_default=False) == ""


@pytest.mark.parametrize("average", [False, True])
def test_a_checkpoint_tells_the_rates_of_the_weights_that_would_be_used(tmp_path: Path, average: bool) -> None:
    found = rates_of(write_checkpoint(tmp_path / "best.pt", average=average))
    assert [(block.name, block.now) for block in found.blocks] == [
        ("layers.0.blocks.0.attn", (0.25, -0.75)),
        ("layers.1.blocks.0.attn", (0.5, 0.5)),
    ]
    assert found.title == f"{tmp_path / 'best.pt'}: α of the attention and β of the convolution after epoch 3"
    assert json.loads(json.dumps(found.as_json()))["blocks"]["layers.0.blocks.0.attn"] == {
        "attention": 0.25,
        "conv": -0.75,
        "share": 0.75,
    }
    # as of a run that no epoch of has ended yet
    run = tmp_path / "run"
    write_run(run, lines=log_lines(epochs=0))
    write_checkpoint(run / "checkpoints" / "last.pt")
    assert [block.now for block in rates_of(run).blocks] == [(0.25, -0.75), (0.5, 0.5)]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.conv_path=false"], "a baseline (model.conv_path=false): no block of acmix_swin_tiny"),
        (
            ["model.args={embed_dim: 12, depths: [1, 1], num_heads: [1, 2], window_size: 4, path: attention}"],
            "no block of acmix_swin_tiny_patch4_window7_224 mixes",
        ),
        (
            ["model.name=resnet18", "model.args={}", "model.drop_path_rate=0"],
            "timm's own model (model.add_conv_path=false): no block of resnet18",
        ),
    ],
)
def test_a_network_without_rates_says_why(tmp_path: Path, overrides: list[str], said: str) -> None:
    found = rates_of(write_checkpoint(tmp_path / "best.pt", *overrides))
    assert found.blocks == []
    assert found.absent.startswith(said)
    assert found.draw_where(None, by_default=True) == ""
    assert list(tmp_path.iterdir()) == [tmp_path / "best.pt"]


def test_what_is_no_run_and_no_png_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a run folder: no log\.jsonl"):
        rates_of(tmp_path)
    with pytest.raises(UsageError, match="there is no checkpoint"):
        rates_of(tmp_path / "nothing")
    run = write_run(tmp_path / "run")
    with pytest.raises(UsageError, match=r"ends in \.png"):
        rates_of(run).draw_where(tmp_path / "x.svg", by_default=True)
    assert "no epoch has ended yet" in rates_of(write_run(tmp_path / "new", lines=log_lines(epochs=0))).absent


def test_a_default_picture_that_cannot_be_written_is_a_line_and_one_asked_for_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "paths.png").mkdir()
    assert rates_of(run).draw_where(None, by_default=True).startswith("not drawn: ")
    with pytest.raises(UsageError, match="is a folder; expected a file"):
        rates_of(run).draw_where(run / "paths.png", by_default=True)


CLOSE = "less than 5 % apart, which another seed can turn round"


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ([(0.501, 0.499)] * 4, f"Neither path leads: α and β are {CLOSE}, in 4 blocks of 4."),
        (
            [(0.4, 0.6), (0.4, 0.6), (0.6, 0.4), (0.5, 0.51)],
            "First half (2 blocks): convolution leads in 2. Second half (2 blocks): attention leads in 1, "
            f"1 too close to call. Too close means {CLOSE}.",
        ),
        ([(0.1, 0.9)], "Network (1 block): convolution leads in 1."),
        (
            [(-2.0, 0.5), (0.5, -2.0)],
            "First half (1 block): attention leads in 1. Second half (1 block): convolution leads in 1.",
        ),
        # near zero, a factor of two is no lead
        ([(0.001, 0.002)], f"Neither path leads: α and β are {CLOSE}, in 1 block of 1."),
        ([(10.0, 10.4)], f"Neither path leads: α and β are {CLOSE}, in 1 block of 1."),
    ],
)
def test_only_what_another_seed_would_not_turn_round_is_called_a_lead(rates: list[Any], said: str) -> None:
    assert leaning(PathRates(*each) for each in rates) == said
