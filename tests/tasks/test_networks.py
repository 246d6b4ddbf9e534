"""From the settings of a detection or segmentation run to its network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from acmix.errors import UsageError
from acmix.tasks import task_of
from tests.support.dense import dense_config


@pytest.mark.parametrize(
    ("task", "override", "said"),
    [
        ("detect", "task.args.channels=-1", "task.args.channels=-1; expected a whole number from 1 on"),
        ("detect", "task.args.image_mean=3", "task.args.image_mean: torchvision's name; here it is mean"),
        ("detect", "task.args.widths=3", "task.args.widths=3: neither create_detector nor acmix_swin_tiny"),
        ("detect", "task.args.embed_dim=8", "task.args.embed_dim=8: model.args has it too; leave one out"),
        ("detect", "task.args.score_threshold=abc", "task.args.score_threshold='abc'; expected a number from 0 to"),
        ("detect", "task.args.score_threshold=2", "task.args.score_threshold=2; expected a number from 0 to below 1"),
        ("detect", "task.args.out_norms=5", "task.args.out_norms=5; expected true, false"),
        ("segment", "task.args.out_norms=5", "task.args.out_norms=5; expected true, false"),
        ("segment", "task.args.channel=1", "patch4_window7_224 takes it; did you mean 'channels'"),
        ("segment", "model.args.depth=1", "model.args.depth=1: acmix_swin_tiny_patch4_window7_224 takes no such"),
        ("detect", f"task.args.channels={10**30}", "expected numbers of at most 1,000,000"),
        # more memory than there is
        (
            "detect",
            "task.args.channels=1000000000000",
            "expected numbers of at most 1,000,000",
        ),
        (
            "segment",
            "task.args.channels=1000000000000",
            "expected numbers of at most 1,000,000",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named_as_settings(task: str, override: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        task_of(dense_config(task, "", override)).build()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "backbone_args" not in str(error.value)


@pytest.mark.parametrize("task", ["detect", "segment"])
@pytest.mark.parametrize(
    ("key", "value", "use"),
    [
        ("num_classes", "3", "use task.num_classes"),
        ("conv_path", "false", "use model.conv_path"),
        ("in_chans", "1", "use model.in_chans"),
        ("mean", "[0.5]", "use data.mean"),
        ("min_size", "8", "use task.min_size"),
        ("backbone_args", "5", "use model.args"),
        ("channels", ".nan", "expected finite numbers"),
    ],
)
def test_a_head_s_arguments_are_not_those_of_a_setting(task: str, key: str, value: str, use: str) -> None:
    with pytest.raises(UsageError, match=rf"task\.args\.{key}=.*; {use}|: {use}"):
        dense_config(task, "", f"task.args.{key}={value}")


def test_a_detector_of_one_channel_takes_the_mean_of_three() -> None:
    model: Any = task_of(dense_config("detect", "", "model.in_chans=1")).build().eval()
    [found] = model([torch.rand(1, 40, 50)])
    assert {*found} == {"boxes", "labels", "scores", "masks"}
    assert model.transform.image_mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
