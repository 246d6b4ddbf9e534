"""Weights are found wherever they lie in a file: behind prefixes, in entries, as averages, in other precisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from acmix.released.start import start_from
from tests.support.starts import DEIT, RESNET, kept, logits, ours, printed, refused, theirs


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "student.backbone."]
)
@pytest.mark.parametrize("entry", ["", "state_dict", "model"])
def test_prefixes_and_entries_are_taken_off(prefix: str, entry: str, file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    weights: Any = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    if entry:
        weights = {entry: weights, "epoch": 3, "optimizer": {"state": {0: torch.ones(3)}}}
    started = start_from(mine, kept(weights, file))
    assert torch.equal(logits(mine, 32), logits(model, 32))
    assert not started.drawn
    assert entry in started.source


def test_a_compiled_part_and_what_lies_beside_the_model_are_seen_through(file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    weights = {
        f"model.backbone.{key}".replace("blocks.1.", "blocks.1._orig_mod."): value
        for key, value in model.state_dict().items()
    }
    extra = {"model.neck.weight": torch.ones(2), "hyper": 3}
    started = start_from(mine, kept({"state_dict": {**weights, **extra}}, file))
    assert torch.equal(logits(mine, 32), logits(model, 32))
    assert started.left_out == ["model.neck.weight", "hyper"]
    assert "names behind 'model.backbone.'" in printed(started)


@pytest.mark.parametrize("entry", ["state_dict_ema", "model_ema", "ema"])
def test_an_average_goes_before_the_weights_it_is_of(entry: str, file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    other = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    average = {f"module.{key}": value for key, value in model.state_dict().items()}
    started = start_from(mine, kept({"state_dict": other, "model": other, entry: average}, file))
    assert torch.equal(logits(mine, 32), logits(model, 32))
    assert f"entry '{entry}', an average of weights, names behind 'module.'" in printed(started)
    started = start_from(mine, kept({"state_dict": other, entry: None}, file))
    assert not logits(mine, 32).any()
    assert started.source.endswith("(entry 'state_dict')")


@pytest.mark.parametrize("entry", ["params", "encoder", "model_state", "checkpoint.model.weights"])
def test_an_entry_of_any_name_is_found_where_no_usual_one_fits(entry: str, file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    weights: Any = model.state_dict()
    for name in reversed(entry.split(".")):
        weights = {name: weights}
    moments = {"state": {"first": model.state_dict()}}
    started = start_from(mine, kept({**weights, "optimizer": moments, "ema": {"decay": torch.ones(1)}}, file))
    assert torch.equal(logits(mine, 32), logits(model, 32))
    assert started.source.endswith(f"(entry '{entry}')")


def test_of_several_entries_the_one_that_fits_is_taken(file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    own, other = model.state_dict(), theirs(RESNET).state_dict()
    zero = {key: torch.zeros_like(value) for key, value in own.items()}
    for content, entry in (
        ({"teacher": other, "student": own}, "student"),
        ({"params": zero, "params_ema": own}, "params_ema"),
        ({"generator": own, "critic": other}, "generator"),
    ):
        assert f"entry '{entry}'" in start_from(mine, kept(content, file)).source
        assert torch.equal(logits(mine, 32), logits(model, 32))
    assert "fit in the entries 'first' and 'second'" in refused(mine, {"first": own, "second": zero}, file)


def test_weights_of_8_bits_are_read(file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    small = {key: value.to(torch.float8_e4m3fn) for key, value in model.state_dict().items()}
    assert len(start_from(mine, kept(small, file)).taken) == len(small)
    model.load_state_dict({key: value.float() for key, value in small.items()})
    assert torch.equal(logits(mine, 32), logits(model, 32))


def test_safetensors_and_half_precision_are_read(tmp_path: Path) -> None:
    model, mine = theirs(DEIT).half(), ours(DEIT)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    start_from(mine, tmp_path / "weights.safetensors")
    assert all(value.dtype == torch.float32 for value in mine.state_dict().values())
    assert torch.equal(logits(mine, 32), logits(model.float(), 32))
