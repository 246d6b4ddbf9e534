"""Weights of other sizes of images, windows and patches, and of other channels, are resized as timm does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from timm.models import adapt_input_conv

from acmix.released.start import start_from
from tests.support.starts import DEIT, PVT, RESNET, SWIN, kept, ours, theirs


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_another_window_is_resized_as_timm_does(file: Path) -> None:
    weights = theirs(SWIN).state_dict()
    mine = ours(SWIN, window_size=8, img_size=128)
    started = start_from(mine, kept(weights, file))
    now = mine.state_dict()
    assert len(started.resized) == 4
    for key in started.resized:
        expected = resize_rel_pos_bias_table(weights[key], new_window_size=(8, 8), new_bias_shape=now[key].shape)
        assert torch.equal(now[key], expected)
        assert started.resized[key] == "×".join(map(str, weights[key].shape)) + " to " + "×".join(
            map(str, now[key].shape)
        )
    assert torch.equal(now["norm.weight"], weights["norm.weight"])


def test_another_size_of_images_is_resized_as_timm_does(file: Path) -> None:
    weights = theirs(DEIT).state_dict()
    mine = ours(DEIT, img_size=48)
    started = start_from(mine, kept(weights, file))
    expected = resample_abs_pos_embed(weights["pos_embed"], new_size=[6, 6], num_prefix_tokens=1)
    assert torch.equal(mine.pos_embed, expected)  # type: ignore[arg-type]
    assert started.resized == {"pos_embed": "1×17×24 to 1×37×24"}
    wide = ours(DEIT, img_size=(16, 64))
    # as many patches, in other places
    assert [*start_from(wide, file).resized] == ["pos_embed"]
    assert not torch.equal(wide.pos_embed, weights["pos_embed"])  # type: ignore[arg-type]


def test_positions_without_a_class_token_meet_a_model_that_has_one(file: Path) -> None:
    weights = ours(PVT, global_pool="avg").state_dict()
    mine = ours(PVT, img_size=32)
    drawn = mine.state_dict()["stages.1.pos_embed"][:, :1].clone()
    started = start_from(mine, kept(weights, file))
    now = mine.state_dict()["stages.1.pos_embed"]
    assert torch.equal(now[:, :1], drawn)
    expected = resample_abs_pos_embed(weights["stages.1.pos_embed"], new_size=[4, 4], num_prefix_tokens=0)
    assert torch.equal(now[:, 1:], expected)
    assert started.drawn == {"stages.1.cls_token": ""}


@pytest.mark.parametrize(("there", "here"), [(3, 1), (3, 4), (3, 6), (1, 3), (2, 1)])
@pytest.mark.parametrize("name", [SWIN, PVT, RESNET])
def test_other_channels_are_summed_or_repeated_as_timm_does(name: str, there: int, here: int, file: Path) -> None:
    model = ours(name, in_chans=there)
    mine = ours(name, in_chans=here)
    started = start_from(mine, kept(model.state_dict(), file))
    [key] = started.resized
    was, now = model.state_dict()[key], mine.state_dict()[key]
    expected = was.repeat(1, 3, 1, 1) / 3 if there == 1 else adapt_input_conv(here, was)
    assert torch.allclose(now, expected, rtol=1e-6)


def test_other_patches_are_resized_where_patches_lie_side_by_side(file: Path) -> None:
    mine = ours(DEIT, patch_size=16, img_size=64)
    assert [*start_from(mine, kept(theirs(DEIT).state_dict(), file)).resized] == ["patch_embed.proj.weight"]
