"""ACmix2d: what it costs, and what it refuses. `# row N` is the row of `docs/pain_points.md` that a test holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import acmix
from acmix.layers import ACmix2d


# row 5
def test_what_is_saved_for_backward_is_at_most_6_times_a_convolution_s() -> None:
    x = torch.randn(1, 64, 80, 80)
    assert saved_bytes(ACmix2d(64, 64), x) <= 6 * saved_bytes(nn.Conv2d(64, 64, 3, padding=1), x)


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes of memory that autograd keeps between forward and backward, besides the parameters."""
    x = x.clone().requires_grad_()
    own = {each.untyped_storage().data_ptr() for each in module.parameters()}
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(x)
    assert out.requires_grad
    return sum(kept.values())


# row 11
@pytest.mark.parametrize("size", [(9, 7), (1, 1), (14, 20)], ids=str)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"attention_size": 5, "conv_size": 5, "dilation": 2}], ids=str)
def test_gmacs_is_what_torch_s_counter_sees(size: tuple[int, int], options: dict) -> None:
    module = ACmix2d(8, 12, **options)
    with FlopCounterMode(display=False) as counter:
        module(torch.randn(1, 8, *size))
    assert counter.get_total_flops() == round(2e9 * module.gmacs(*size))


# row 11
def test_the_counter_sees_the_operators_forward_and_backward() -> None:
    module = ACmix2d(8, 8)
    with FlopCounterMode(display=False) as counter:
        module(torch.randn(1, 8, 6, 6)).sum().backward()
    seen = {str(operator) for operator in counter.get_flop_counts()["Global"]}
    for name in ("conv_path", "conv_path_backward", "local_attention", "local_attention_backward"):
        assert f"acmix.{name}" in seen


# --- what it refuses ------------------------------------------------------------------------------------------------


# rows 2, 16, 18
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_size": 1024}, "attention_size=1024 looks like a channel count; it is a side in pixels, usually 7"),
        ({"conv_size": 256}, "conv_size=256 looks like a channel count; it is a side in pixels, usually 3"),
        ({"attention_size": 6}, "attention_size=6 is even; expected an odd side: 5 or 7"),
        ({"conv_size": 2}, "conv_size=2 is even; expected an odd side: 1 or 3"),
        ({"heads": 5}, r"heads=5 does not divide 12 channels; use one of \[1, 2, 3, 4, 6, 12\], or 'auto'"),
        ({"heads": 0}, r"heads=0 does not divide 12 channels; use one of \[1, 2, 3, 4, 6, 12\]"),
        ({"heads": "all"}, "heads='all' does not divide 12 channels"),
        ({"stride": 0}, "stride=0; expected a whole number, at least 1"),
        ({"dilation": -1}, "dilation=-1; expected a whole number, at least 1"),
        ({"stride": 1.5}, "stride=1.5; expected a whole number, at least 1"),
    ],
    ids=str,
)
def test_numbers_that_cannot_work_are_named_with_those_that_can(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ACmix2d(8, 12, **options)


# row 2
def test_options_have_names() -> None:
    with pytest.raises(TypeError, match="positional"):
        ACmix2d(8, 8, 7, 4)  # type: ignore[misc]


# row 2
@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (8, 6, 6), (2, 8, 6)], ids=str)
def test_an_input_that_does_not_fit_is_named(shape: tuple) -> None:
    with pytest.raises(ValueError, match=r"the input has shape \(.*\); expected \(B, 8, H, W\)"):
        ACmix2d(8, 8)(torch.zeros(shape))


# row 18
@pytest.mark.parametrize(("channels", "heads"), [(64, 8), (48, 6), (20, 2), (7, 1), (13, 1), (1024, 8)])
def test_auto_heads_divide_the_channels(channels: int, heads: int) -> None:
    module = acmix.ACmix2d(4, channels, heads="auto")
    assert (module.heads, module.head_dim) == (heads, channels // heads)
