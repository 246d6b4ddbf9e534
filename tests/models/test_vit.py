"""DeiT and its ACmix form: timm's network under timm's names, and the path on the grid of patches alone."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

import acmix
from acmix.errors import UsageError
from acmix.layers import GlobalAttention

TINY = "acmix_deit_tiny_patch16_224"
TOY: dict[str, Any] = dict(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=3, num_classes=5)


@pytest.mark.parametrize("size", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_without_the_path_it_is_timms_deit_under_timms_names(size):
    torch.manual_seed(0)
    theirs: Any = timm.create_model(f"deit_{size}_patch16_224").double().eval()
    ours: Any = acmix.create_model(f"acmix_deit_{size}_patch16_224", conv_path=False).double().eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        difference = (ours(x) - theirs(x)).abs().max().item()
    print(f"largest difference of logits: {difference:.1e}")
    assert difference < 1e-12


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_gradients_without_the_path_are_timms(pool):
    ours: Any = acmix.create_model(TINY, conv_path=False, global_pool=pool, **TOY).double()
    theirs: Any = timm.create_model("deit_tiny_patch16_224", global_pool=pool, **TOY).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        # a mean of patches takes the class token out of the last block, and so some gradients are left out
        if (grad := expected[name].grad) is not None:
            torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=1e-12)


def test_the_path_runs_on_the_grid_and_leaves_the_class_token_to_the_attention():
    torch.manual_seed(0)
    layer = GlobalAttention(12, 3).double()
    nn.init.normal_(layer.rate_attention)
    nn.init.normal_(layer.rate_conv)
    x = torch.randn(2, 1 + 4 * 5, 12, dtype=torch.float64)
    qkv = layer.qkv(x)
    q, k, v = (each.view(2, 21, 3, 4) for each in qkv.split(12, 2))
    logits = torch.einsum("binc,bjnc->bnij", q, k) / 2.0
    attention = torch.einsum("bnij,bjnc->binc", logits.softmax(-1), v).flatten(2)
    expected = layer.rate_attention * layer.proj(attention)
    pieces = torch.stack([each[:, 1:, n] for each in (q, k, v) for n in range(3)], 2).view(2, 4, 5, 9, 4)
    expected[:, 1:] += layer.rate_conv * layer.conv_path(pieces).flatten(1, 2)
    torch.testing.assert_close(layer(x, (4, 5)), expected)


def test_positions_of_another_size_are_timms():
    ours: Any = acmix.create_model(TINY, conv_path=False, **TOY).eval()
    theirs: Any = timm.create_model("deit_tiny_patch16_224", dynamic_img_size=True, **TOY).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))
        filled = nn.functional.pad(x[..., :75], (0, 5))
        assert torch.equal(ours(x[..., :75]), ours(filled))


def test_the_last_block_has_a_path_only_where_its_patches_are_read():
    for pool, expected in (("token", [True, False]), ("avg", [True, True])):
        model: Any = acmix.create_model(TINY, global_pool=pool, **TOY)
        assert [block.attn.conv_path is not None for block in model.blocks] == expected
    model: Any = acmix.create_model(TINY, path="convolution", **TOY)
    assert [block.attn.has_attention for block in model.blocks] == [False, True]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(global_pool="map"), "expected 'token', 'avg' or ''"),
        (dict(num_heads=5), "5 heads do not divide 12 channels"),
        (dict(conv_stages=(2,)), "names stage 2; there are 0 to 1"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused_in_one_line(wrong, said):
    with pytest.raises(UsageError) as caught:
        acmix.create_model(TINY, **{**TOY, **wrong})
    assert said in str(caught.value)
