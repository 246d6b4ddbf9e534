"""Neighbourhoods and kernels whose two sides differ: equal to loops over scalars, with true gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from acmix import ops

CASES = [
    # map, neighbourhood or kernel, stride, dilation
    ((4, 5), (3, 1), 1, 1),
    ((4, 5), (1, 5), 2, 1),
    ((3, 2), (5, 3), 1, 2),
    ((1, 6), (1, 7), 2, 2),
    ((5, 1), (3, 5), 3, 1),
]


def mirrored(i: int, side: int) -> int:
    """A line's index, mirrored at both ends as often as it takes."""
    while not 0 <= i < side:
        i = 0 if side == 1 else (-i if i < 0 else 2 * (side - 1) - i)
    return i


def local_attention_in_loops(
    qkv: Tensor, position: Tensor, size: tuple[int, int], stride: int, dilation: int
) -> Tensor:
    batch, height, width, _, heads, channels = qkv.shape
    out = torch.zeros(batch, -(-height // stride), -(-width // stride), heads, channels, dtype=qkv.dtype)
    for b, y, x, n in torch.cartesian_prod(*(torch.arange(side) for side in out.shape[:4])).tolist():
        query = qkv[b, y * stride, x * stride, 0, n]
        logits, values = [], []
        for dy in range(-(size[0] // 2), size[0] // 2 + 1):
            for dx in range(-(size[1] // 2), size[1] // 2 + 1):
                i, j = mirrored(y * stride + dilation * dy, height), mirrored(x * stride + dilation * dx, width)
                logits.append(query @ (qkv[b, i, j, 1, n] - position[i, j]) / channels**0.5)
                values.append(qkv[b, i, j, 2, n])
        out[b, y, x, n] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return out.flatten(3)


def conv_path_in_loops(pieces: Tensor, fc: Tensor, kernels: Tensor, stride: int, dilation: int) -> Tensor:
    batch, height, width, _, channels = pieces.shape
    outputs, taps, rows, columns = kernels.shape
    out = torch.zeros(batch, -(-height // stride), -(-width // stride), outputs, dtype=pieces.dtype)
    for b, y, x, c in torch.cartesian_prod(*(torch.arange(side) for side in out.shape)).tolist():
        for ky, kx, t in torch.cartesian_prod(*(torch.arange(side) for side in (rows, columns, taps))).tolist():
            i, j = y * stride + dilation * (ky - rows // 2), x * stride + dilation * (kx - columns // 2)
            if 0 <= i < height and 0 <= j < width:
                out[b, y, x, c] += kernels[c, t, ky, kx] * (fc[t] @ pieces[b, i, j, :, c // (outputs // channels)])
    return out


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("sides", "size", "stride", "dilation"), CASES)
def test_local_attention_sees_a_rectangle(
    sides: tuple[int, int], size: tuple[int, int], stride: int, dilation: int
) -> None:
    torch.manual_seed(0)
    qkv, position = drawn(2, *sides, 3, 2, 3), drawn(*sides, 3)

    def attend(qkv: Tensor, position: Tensor) -> Tensor:
        return ops.local_attention(qkv, position, size=size, stride=stride, dilation=dilation)

    with torch.no_grad():
        expected = local_attention_in_loops(qkv, position, size, stride, dilation)
        torch.testing.assert_close(attend(qkv, position), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(attend, (qkv, position), fast_mode=True)


@pytest.mark.parametrize(("sides", "size", "stride", "dilation"), CASES)
def test_conv_path_has_rectangular_kernels(
    sides: tuple[int, int], size: tuple[int, int], stride: int, dilation: int
) -> None:
    torch.manual_seed(0)
    taps = size[0] * size[1]
    arguments = drawn(2, *sides, 4, 2), drawn(taps, 4), drawn(6, taps, *size)

    def convolve(pieces: Tensor, fc: Tensor, kernels: Tensor) -> Tensor:
        return ops.conv_path(pieces, fc, None, kernels, stride=stride, dilation=dilation)

    with torch.no_grad():
        expected = conv_path_in_loops(*arguments, stride, dilation)
        torch.testing.assert_close(convolve(*arguments), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(convolve, arguments, fast_mode=True)


def test_a_square_is_a_pair_of_equal_sides() -> None:
    torch.manual_seed(0)
    qkv = drawn(1, 5, 4, 3, 2, 3)
    assert torch.equal(ops.local_attention(qkv, size=3), ops.local_attention(qkv, size=(3, 3)))


@pytest.mark.parametrize("size", [2, (3, 2), (0, 3)])
def test_a_neighbourhood_without_a_middle_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match="odd sides"):
        ops.local_attention(drawn(1, 4, 4, 3, 1, 2), size=size)  # type: ignore[arg-type]
