"""Where layers add in place: residual, bias and projection on the path's map, unless somebody would see it."""

from typing import Any

import pytest
import torch
from torch import nn

import acmix
from acmix.layers.mixing import Mixed
from acmix.layers.products import add_product
from acmix.models.blocks import TransformerBlock

FAMILIES = {
    "acmix_swin_tiny_patch4_window7_224": dict(
        img_size=32, embed_dim=12, depths=(1, 2), num_heads=(2, 3), window_size=4, mlp_ratio=1.0, num_classes=4
    ),
    "acmix_deit_tiny_patch16_224": dict(img_size=32, patch_size=8, embed_dim=12, depth=3, num_heads=3, num_classes=4),
    "acmix_pvt_tiny": dict(
        img_size=32, embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1, 1), reductions=(2, 1),
        num_classes=4,
    ),
}  # fmt: skip


def network(name, **more) -> Any:
    torch.manual_seed(0)
    made = acmix.create_model(name, **FAMILIES[name], **more)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def apart(monkeypatch):
    monkeypatch.setattr(Mixed, "adds_in_path", lambda self, x: False)


def blocks_of(made):
    return [each for each in made.modules() if isinstance(each, TransformerBlock) and each.attn.conv_path is not None]


def results(made, x):
    made.zero_grad()
    out = made(x)
    out.square().sum().backward()
    return [out.detach(), *(each.grad for each in made.parameters() if each.grad is not None)]


@pytest.mark.parametrize("mixing", [{}, dict(rates="softmax"), dict(conv_kernels="channel"), dict(rates=0.5)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_output_and_gradients_are_those_of_separate_passes(name, mixing, monkeypatch):
    made = network(name, **mixing).double()
    x = torch.randn(2, 3, 40, 32, dtype=torch.float64)
    adds = all(block.attention_adds(torch.randn(1, 2, 2, 12).double()) for block in blocks_of(made))
    assert adds == ("conv_kernels" not in mixing)
    together = results(made, x)
    apart(monkeypatch)
    for ours, theirs in zip(together, results(made, x), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_folded_networks_add_too(name, monkeypatch):
    made = acmix.fold(network(name).double())
    x = torch.randn(2, 3, 40, 32, dtype=torch.float64)
    assert all(block.attention_adds(torch.randn(1, 2, 2, 12).double()) for block in blocks_of(made))
    with torch.no_grad():
        together = made(x)
        apart(monkeypatch)
        torch.testing.assert_close(together, made(x))


def see(*_):
    """A hook that watches."""


WATCHED = {
    "a hook on the attention": lambda block: block.attn.register_forward_hook(see),
    "a hook on the path": lambda block: block.attn.conv_path.register_forward_hook(see),
    "a hook on the projection": lambda block: block.attn.proj.register_forward_hook(see),
    "a hook on the dropout": lambda block: block.drop.register_forward_hook(see),
    "a hook on what skips": lambda block: block.drop_path.register_forward_hook(see),
    "dropout": lambda block: setattr(block, "drop", nn.Dropout(0.1)),
    "an adapter": lambda block: setattr(block.attn, "proj", nn.Sequential(block.attn.proj)),
    "another path": lambda block: setattr(block.attn, "conv_path", nn.Sequential()),
    "a narrower projection": lambda block: block.attn.proj.half(),
}


@pytest.mark.parametrize("watch", WATCHED)
def test_a_residual_is_added_outside_where_somebody_watches(watch):
    block = network("acmix_swin_tiny_patch4_window7_224").layers[0].blocks[0]
    x = torch.randn(1, 8, 8, 12)
    assert block.attention_adds(x)
    WATCHED[watch](block)
    assert not block.attention_adds(x)


def test_hooks_see_the_attention_s_own_output():
    made = network("acmix_swin_tiny_patch4_window7_224").eval()
    block, seen = made.layers[0].blocks[0], []
    x = torch.randn(1, 8, 8, 12)
    without = block(x)
    block.attn.register_forward_hook(lambda module, given, out: seen.append(out))
    torch.testing.assert_close(block(x), without)
    torch.testing.assert_close(seen[0], block.attn(block.norm1(x)))


def test_drop_path_keeps_the_residual_apart_in_training():
    block = network("acmix_swin_tiny_patch4_window7_224", drop_path_rate=0.5).layers[1].blocks[1]
    x = torch.randn(1, 4, 4, 24)
    assert not block.attention_adds(x)
    assert block.eval().attention_adds(x)


def test_autocast_keeps_the_residual_in_float32():
    made = network("acmix_swin_tiny_patch4_window7_224").eval()
    block, x = made.layers[0].blocks[0], torch.randn(1, 8, 8, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not block.attention_adds(x)
        found = block(x)
    assert found.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(found, block(x), atol=0.1, rtol=0.1)


def test_a_subclass_that_takes_no_residual_gets_none():
    block = network("acmix_swin_tiny_patch4_window7_224").layers[0].blocks[0]

    class Own(type(block.attn)):
        def forward(self, x, shift=(0, 0)):
            return super().forward(x, shift)

    block.attn.__class__ = Own
    x = torch.randn(1, 8, 8, 12)
    assert not block.attention_adds(x)
    assert block(x).shape == x.shape


def test_a_product_is_added_in_place_with_its_gradients():
    out, x, weight = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 4), (2, 3, 5), (4, 5)))
    leaves = [each.requires_grad_() for each in (out, x, weight)]

    def call(out, x, weight):
        return add_product(out * 1, x, weight)

    torch.testing.assert_close(call(*leaves), out + x @ weight.T)
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)
    own = torch.zeros(2, 3, 4, dtype=torch.float64)
    assert add_product(own, x.detach(), weight.detach()) is own
