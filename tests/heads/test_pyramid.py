"""Pyramids: widths, strides and where the extra maps come from."""

from __future__ import annotations

import pytest
import torch

from acmix.errors import UsageError
from acmix.heads.pyramid import Pyramid, SimplePyramid

CHANNELS, STRIDES = [8, 16, 24, 32], [4, 8, 16, 32]


def maps(height: int = 64, width: int = 96) -> list[torch.Tensor]:
    return [
        torch.randn(2, channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


@pytest.mark.parametrize(("extra", "strides"), [(None, []), ("pool", [64]), ("c5", [64, 128]), ("p5", [64, 128])])
def test_extra_maps_follow_the_last(extra, strides: list[int]) -> None:
    pyramid = Pyramid(CHANNELS, STRIDES, out_channels=12, extra=extra)
    assert pyramid.strides == STRIDES + strides
    for size in ((64, 96), (67, 101), (1, 33)):
        found = pyramid(maps(*size))
        assert [tuple(each.shape[1:]) for each in found] == [
            (12, -(-size[0] // stride), -(-size[1] // stride)) for stride in pyramid.strides
        ]


def test_extra_maps_stand_on_the_map_that_is_asked_for_though_widths_are_alike() -> None:
    given = maps()
    for extra in ("c5", "p5"):
        pyramid = Pyramid(CHANNELS, STRIDES, out_channels=32, extra=extra)
        found = pyramid(given)
        assert torch.equal(found[4], pyramid.extra.maps.p6(given[-1] if extra == "c5" else found[3]))


def test_pooled_map_is_every_second_pixel() -> None:
    found = Pyramid(CHANNELS, STRIDES, out_channels=8, extra="pool")(maps())
    assert torch.equal(found[4], found[3][:, :, ::2, ::2])


def test_out_norms_normalise_each_pixel_of_each_map() -> None:
    pyramid = Pyramid(CHANNELS, STRIDES, out_channels=8, extra="c5", out_norms=True)
    given = maps()
    torch.testing.assert_close(pyramid([each * 50 for each in given])[-1], pyramid(given)[-1], rtol=1e-3, atol=1e-4)
    assert sum(each.numel() for each in pyramid.norms.parameters()) == 2 * sum(CHANNELS)


@pytest.mark.parametrize("extra", [None, "pool", "p5"])
def test_simple_pyramid_makes_four_strides_of_one(extra) -> None:
    pyramid = SimplePyramid(16, out_channels=12, extra=extra)
    for side in ((4, 6), (1, 1), (5, 7)):
        found = pyramid([torch.randn(2, 16, *side)])
        assert [tuple(each.shape[2:]) for each in found] == [
            (-(-side[0] * 16 // stride), -(-side[1] * 16 // stride)) for stride in pyramid.strides
        ]
        torch.stack([each.sum() for each in found]).sum().backward()
    assert all(each.grad is not None for each in pyramid.parameters())


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="expected one of 'pool', 'c5', 'p5'"):
        Pyramid(CHANNELS, STRIDES, extra="p6")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="use 'p5'"):
        SimplePyramid(16, extra="c5")
    with pytest.raises(UsageError, match="multiple of 4"):
        SimplePyramid(18)
