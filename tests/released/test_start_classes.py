"""Whose classes the rows of a classifier are: what is kept of them, put in order and drawn new."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import acmix
from acmix.errors import UsageError
from acmix.released.start import start_from
from tests.support.starts import DEIT, SIZES, SWIN, kept, logits, ours, printed, theirs


def test_another_number_of_classes_has_a_new_classifier_and_the_rest_of_the_file(file: Path) -> None:
    mine = ours(SWIN, num_classes=7)
    before = copy.deepcopy(mine.head.state_dict())  # type: ignore[union-attr]
    started = start_from(mine, kept(theirs(SWIN).state_dict(), file))
    assert started.drawn == dict.fromkeys(["head.fc.weight", "head.fc.bias"], "the file's has 5 classes, this one 7")
    assert all(torch.equal(value, before[key]) for key, value in mine.head.state_dict().items())  # type: ignore[union-attr]
    told = printed(started)
    assert "head.fc.weight: the file's has 5 classes, this one 7" in told
    with pytest.raises(UsageError, match=r"model.head=keep: .* the file's has 5 classes, this one 7"):
        start_from(mine, file, head="keep")


def checkpoint(classes: list[str], file: Path, **more: Any) -> dict[str, Tensor]:
    """A checkpoint of ours whose classifier says in its bias which row is which."""
    weights = theirs(DEIT).state_dict()
    weights["head.bias"] = torch.arange(5.0)
    kept({"format": "acmix", "version": 1, "classes": classes, "step": 9, **more, "model": weights}, file)
    return weights


@pytest.mark.parametrize(
    ("there", "here", "more", "rows", "said"),
    [
        ("abcde", "abcde", {}, [0, 1, 2, 3, 4], None),
        (["caf\u00e9", *"bcde"], ["cafe\u0301", *"bcde"], {}, [0, 1, 2, 3, 4], None),
        ("abcde", "ebcda", {}, [4, 1, 2, 3, 0], "rows in the order of the data's classes, by name"),
        ("abcde", "abcdf", {}, None, "'f' is none of them; model.head=keep keeps its rows"),
        ("01234", "abcde", {}, None, "'a' is none of them"),
        ("01234", ["2", "9", "10", "11", "30"], {"named": False}, [2, 4, 0, 1, 3], "names sorted as text"),
        ("01234", ["2", "9", "10", "11", "30"], {"step": 0}, [2, 4, 0, 1, 3], "names sorted as text"),
        ("01234", "abcde", {"named": False}, [0, 1, 2, 3, 4], "names sorted as text; model.head=new draws new ones"),
    ],
)
def test_the_names_of_classes_decide_about_rows(
    there: str, here: str, more: dict[str, Any], rows: list[int] | None, said: str | None, file: Path
) -> None:
    weights = checkpoint([*there], file, **more)
    mine = ours(DEIT)
    before = mine.state_dict()["head.weight"].clone()
    started = start_from(mine, file, classes=[*here])
    now = mine.state_dict()
    if rows is None:
        assert torch.equal(now["head.weight"], before)
        assert not torch.equal(now["head.weight"], weights["head.weight"])
    else:
        assert now["head.bias"].tolist() == rows
        assert torch.equal(now["head.weight"], weights["head.weight"][rows])
    assert (said or "taken") in printed(started)
    assert ("head.weight" in started.drawn) == (rows is None)


def test_a_setting_keeps_or_draws_the_classifier(file: Path) -> None:
    checkpoint([*"abcde"], file)
    mine = ours(DEIT)
    started = start_from(mine, file, classes=[*"vwxyz"], head="keep")
    assert mine.state_dict()["head.bias"].tolist() == [0, 1, 2, 3, 4]
    assert "as model.head=keep says" in printed(started)
    assert start_from(mine, file, classes=[*"abcde"], head="new").drawn["head.bias"] == "model.head=new"


@pytest.mark.parametrize("head", ["auto", "keep", "new"])
def test_a_body_without_a_classifier_starts_from_a_checkpoint_that_has_one(head: str, file: Path) -> None:
    weights = checkpoint([*"abcde"], file)
    body: Any = acmix.create_model(DEIT, features_only=True, conv_path=False, **SIZES[DEIT]).model
    started = start_from(body, file, head=head)
    assert {"head.weight", "head.bias"} <= {*started.left_out}
    assert torch.equal(body.state_dict()["blocks.0.attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"])


def test_weights_without_names_keep_their_rows_where_the_data_numbers_its_classes(file: Path) -> None:
    kept(theirs(DEIT).state_dict(), file)
    mine = ours(DEIT)
    start_from(mine, file, classes=["2", "9", "10", "11", "30"], sorted_names=False)
    assert torch.equal(logits(mine, 32), logits(theirs(DEIT), 32))


def test_too_few_names_are_refused(file: Path) -> None:
    checkpoint([*"abc"], file)
    with pytest.raises(UsageError, match="names 3 classes for 5 outputs"):
        start_from(ours(DEIT), file, classes=[*"abcde"])
