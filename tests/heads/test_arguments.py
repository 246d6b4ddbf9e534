"""Whose an argument of a detector or a segmenter is."""

from __future__ import annotations

from typing import Any

import pytest

import acmix
from acmix.errors import UsageError
from tests.heads.tiny import SWIN, TINY

MAKERS = {"fcos": acmix.create_detector, "semantic_fpn": acmix.create_segmenter}


@pytest.mark.parametrize("head", MAKERS)
def test_arguments_of_the_backbone_need_no_dictionary(head: str) -> None:
    make: Any = MAKERS[head]
    one = make(head, SWIN, num_classes=3, channels=64, drop_path_rate=0.3, **TINY[SWIN])
    other = make(head, SWIN, num_classes=3, channels=64, backbone_args={"drop_path_rate": 0.3, **TINY[SWIN]})
    assert str(one) == str(other)
    assert "drop_prob=0.3" in str(one)


@pytest.mark.parametrize("head", MAKERS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"depth": 3}, f"depth=3: neither [a-z_]+ nor {SWIN} takes it; "),
        ({"backbone_args": {"depth": 3}}, f"depth=3: {SWIN} takes no such argument; did you mean 'depths'"),
        ({"depths": (1, 1, 1, 1), "backbone_args": {"depths": (1, 1, 1, 1)}}, "backbone_args has it too; leave"),
        ({"levels": (0, 1)}, r"levels=\(0, 1\): [a-z_]+ settles that itself; leave it out"),
        ({"out_channels": 64}, "out_channels: torchvision's name; here it is channels"),
    ],
)
def test_what_nobody_takes_is_one_line(head: str, given: dict[str, Any], said: str) -> None:
    make: Any = MAKERS[head]
    with pytest.raises(UsageError, match=said) as error:
        make(head, SWIN, **given)
    assert "\n" not in str(error.value)
