"""A convolution and self-attention taken apart into the two stages that ACmix shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from acmix.errors import UsageError
from acmix.paper.decompose import (
    BOUNDS,
    counted,
    difference_of_attention,
    difference_of_convolution,
    share_of_stage_one,
    shifted,
    stages,
)
from acmix.paper.sizes import LARGEST, Sizes

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("conv_size", [1, 3, 5, 7])
def test_a_convolution_is_the_sum_of_moved_maps(conv_size: int, stride: int, dilation: int) -> None:
    sizes = Sizes(channels=8, side=9, heads=2, conv_size=conv_size, stride=stride, dilation=dilation)
    for dtype, bound in BOUNDS.items():
        assert difference_of_convolution(sizes, dtype) <= bound


@pytest.mark.parametrize(("channels", "heads", "side"), [(8, 1, 1), (8, 2, 5), (32, 8, 7)])
def test_attention_is_three_1x1_convolutions_and_a_second_stage(channels: int, heads: int, side: int) -> None:
    sizes = Sizes(channels=channels, heads=heads, side=side)
    for dtype, bound in BOUNDS.items():
        assert difference_of_attention(sizes, dtype) <= bound


def test_a_wrong_tap_would_be_seen() -> None:
    """The proof is no tautology: maps moved the other way do not add up."""
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert torch.equal(shifted(x, 1, 0)[0, 0], torch.tensor([[3.0, 4, 5], [6, 7, 8], [0, 0, 0]]))
    assert torch.equal(shifted(x, -1, 2)[0, 0], torch.tensor([[0.0, 0, 0], [2, 0, 0], [5, 0, 0]]))
    assert not shifted(x, 3, 0).any()
    assert not shifted(x, 0, -7).any()


@pytest.mark.parametrize("channels", [16, 64, 96])
@pytest.mark.parametrize(("conv_size", "attention_size", "heads"), [(3, 7, 4), (5, 3, 2)])
def test_what_pytorch_counts_is_what_the_formulas_say(
    channels: int, conv_size: int, attention_size: int, heads: int
) -> None:
    sizes = Sizes(channels, 10, conv_size, attention_size, heads)
    for each in counted(sizes):
        assert each.parameters == each.formula_parameters
        assert each.gmacs == pytest.approx(each.formula_gmacs, rel=1e-9)


def test_stage_one_grows_with_the_square_of_the_width() -> None:
    """The paper's claim 2."""
    small, large = ({(each.what, each.stage): each.gmacs for each in stages(Sizes(c, 14))} for c in (64, 128))
    for what in ("convolution", "self-attention", "ACmix"):
        assert large[what, "I"] == pytest.approx(4 * small[what, "I"])
        # heads stay four, so that the kernels of fc grow as the rest
        assert large[what, "II"] == pytest.approx(2 * small[what, "II"])
    shares = [share_of_stage_one(c, 3, 7)["ACmix"] for c in (16, 64, 256, 1024)]
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"conv_size": 4}, {"attention_size": 0}, {"channels": 10}, {"stride": 0}, {"side": 0}, {"heads": 0}),
        *({"stride": 15}, {"dilation": 15}, {"stride": 10**22}, {"dilation": 2**63 - 1}),
        *({"conv_size": 13, "channels": 4}, {"attention_size": 67, "channels": 4, "side": 1}),
    ],
)
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"expected|no multiple"):
        Sizes(**wrong)


@pytest.mark.parametrize(
    "large", [{"channels": 4_000_000}, {"side": 100_000}, {"conv_size": 9999}, {"channels": 10**30}, {"heads": 10**400}]
)
def test_sizes_beyond_memory_are_refused_at_once(large: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="numbers at once"):
        Sizes(**large)


def test_the_command_proves_counts_and_draws(acmix: Call, tmp_path: Path) -> None:
    file = tmp_path / "new" / "stages.png"
    status, said, errors = acmix("paper", "decompose", "--channels", 32, "--side", 8, "--picture", file)
    assert (status, errors) == (0, "")
    for told in (
        "3×3 convolution in two stages",
        "self-attention in two stages",
        "k²·C²",
        "counted by PyTorch",
        "1024",
    ):
        assert told in said
    assert file.read_bytes().startswith(b"\x89PNG")
    table = tmp_path / "stages.csv"
    assert acmix("paper", "decompose", "--conv-size", 5, "--csv", table)[0] == 0
    assert 'difference,"5×5 convolution, float64",' in table.read_text(encoding="utf-8")
    status, said, errors = acmix("paper", "decompose", "--conv-size", 4)
    assert (status, said) == (2, "")
    assert "conv_size=4; expected an odd number" in errors


def test_the_largest_sizes_are_counted_to_the_end(acmix: Call, tmp_path: Path) -> None:
    sizes = ["--channels", 4, "--heads", 2, "--side", 3, "--stride", 3, "--dilation", 3]
    status, said, errors = acmix(
        *("paper", "decompose", *sizes, "--conv-size", LARGEST["conv_size"], "--attention-size", 31),
        *("--picture", tmp_path / "large.png"),
    )
    assert (status, errors) == (0, "")
    assert "counted at stride 1" in said
    assert "1024" in said
