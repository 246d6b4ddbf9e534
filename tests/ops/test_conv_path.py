"""The convolution path: what its kernels, its bias and its border mean, and what it refuses."""

from typing import Any

import pytest
import torch

from acmix import ops
from acmix.errors import UsageError
from acmix.ops.conv_path import triton
from acmix.ops.conv_path.cases import CASES


def test_kernels_that_shift_add_up_shifted_maps():
    pieces = torch.randn(1, 5, 6, 3, 2, dtype=torch.float64)
    fc = torch.randn(9, 3, dtype=torch.float64)
    shifts = torch.eye(9, dtype=torch.float64).view(1, 9, 3, 3).expand(2, 9, 3, 3)
    found = ops.conv_path(pieces, fc, None, shifts)
    mapped = torch.einsum("bhwpd,tp->tbhwd", pieces, fc)
    padded = torch.nn.functional.pad(mapped, (0, 0, 1, 1, 1, 1))
    expected = sum(padded[t, :, t // 3 : t // 3 + 5, t % 3 : t % 3 + 6] for t in range(9))
    torch.testing.assert_close(found, expected)


def test_the_bias_of_fc_stops_at_the_border():
    pieces = torch.zeros(1, 3, 3, 3, 1)
    found = ops.conv_path(pieces, torch.zeros(9, 3), torch.ones(9), torch.ones(1, 9, 3, 3))
    assert found[0, :, :, 0].tolist() == [[36.0, 54.0, 36.0], [54.0, 81.0, 54.0], [36.0, 54.0, 36.0]]


WRONG_CONV = {
    r"pieces has shape \(2, 6, 7, 24\); expected \(B, H, W, P, D\)": dict(pieces=torch.zeros(2, 6, 7, 24)),
    r"fc_weight has shape \(9, 5\); expected \(9, 6\)": dict(fc_weight=torch.zeros(9, 5)),
    r"fc_bias has shape \(8,\); expected \(9,\)": dict(fc_bias=torch.zeros(8)),
    r"kernels has shape \(8, 9, 3\); expected \(M\*D, T, ky, kx\)": dict(kernels=torch.zeros(8, 9, 3)),
    r"kernels are 2×2; expected odd sides": dict(kernels=torch.zeros(8, 9, 2, 2)),
    r"kernels are 3×4; expected odd sides": dict(kernels=torch.zeros(8, 9, 3, 4)),
    r"7 output channels are no multiple of the pieces' 4 channels": dict(kernels=torch.zeros(7, 9, 3, 3)),
    r"stride=0, dilation=1; both must be at least 1": dict(stride=0),
    r"stride=1, dilation=-1; both must be at least 1": dict(dilation=-1),
    r"shift=\(1, 1\) with stride=2; a shift goes with stride=1 only": dict(stride=2, shift=(1, 1)),
    r"shift=\(1, 1, 1\); expected a number or two": dict(shift=(1, 1, 1)),
    r"plus has shape \(2, 6, 6, 8\); expected \(2, 6, 7, 8\), or tokens \(2, at least 42, 8\)": dict(
        plus=torch.zeros(2, 6, 6, 8)
    ),
    r"plus has shape \(2, 41, 8\)": dict(plus=torch.zeros(2, 41, 8)),
    r"plus has shape \(1, 42, 8\)": dict(plus=torch.zeros(1, 42, 8)),
    r"plus is torch.float64 and pieces are torch.float32; expected the same": dict(
        plus=torch.zeros(2, 6, 7, 8, dtype=torch.float64)
    ),
    r"plus is meta and pieces are cpu; expected the same": dict(plus=torch.zeros(2, 6, 7, 8, device="meta")),
    r"plus_bias has shape \(7,\); expected \(8,\)": dict(plus_bias=torch.zeros(7)),
}


@pytest.mark.parametrize("message", WRONG_CONV)
def test_conv_path_names_what_does_not_fit(message):
    good = {name: tensor.detach() for name, tensor in CASES[0].tensors().items()}
    with pytest.raises(UsageError, match=message) as caught:
        ops.conv_path(**{**good, **WRONG_CONV[message]})
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("strides", "wide"), [((1, 2**30, 1, 1, 1), False), ((1, 2**31, 1, 1, 1), True), ((2**40, 4, 2, 1, 1), False)]
)
def test_offsets_have_64_bits_where_an_image_needs_them(strides: tuple[int, ...], wide: bool) -> None:
    # an image of 2 rows; what lies between images is counted with 64 bits anyway
    data = torch.empty(1, device="meta").as_strided((3, 2, 1, 1, 1), strides)
    assert triton.is_wide(data) is wide


@pytest.mark.parametrize("sides", [(0, 0), (0, 3), (3, 0)], ids=str)
def test_tokens_are_there_without_a_map(sides):
    good: dict[str, Any] = {name: tensor.detach() for name, tensor in CASES[0].tensors().items()}
    good["pieces"] = torch.zeros(2, *sides, 6, 4)
    plus, bias = torch.randn(2, 3, 8), torch.randn(8)
    torch.testing.assert_close(ops.conv_path(**good, plus=plus, plus_bias=bias), plus + bias)


def test_the_operator_itself_refuses_what_would_not_fit_in_memory():
    good = [tensor.detach() for tensor in CASES[0].tensors().values()]
    with pytest.raises(UsageError, match="plus has shape"):
        torch.ops.acmix.conv_path(*good, 1, 1, [0, 0], torch.zeros(1, 6, 7, 8), None)
