"""Where layers add in place: residual, bias and projection on the path's map, unless somebody would see it."""

from typing import Any

import pytest
import torch
from timm.layers.attention import Attention
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import acmix
from acmix.errors import UsageError
from acmix.layers import GlobalAttention
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


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mixing", [{}, dict(path="attention"), dict(path="convolution")], ids=str)
def test_a_residual_is_never_lost(name, mixing, monkeypatch):
    made = network(name, **mixing).eval()
    layer: Any = next(each for each in made.modules() if isinstance(each, Mixed))
    channels = layer.heads * layer.head_dim
    more = () if "swin" in name else ((4, 4),)
    x = torch.randn(2, 16 + ("deit" in name), channels) if more else torch.randn(2, 4, 4, channels)
    expected = x + layer(x, *more)
    torch.testing.assert_close(layer(x, *more, residual=x), expected)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x, *more, residual=x), x + layer(x, *more))
    layer.register_forward_hook(see)
    torch.testing.assert_close(layer(x, *more, residual=x), expected)
    apart(monkeypatch)
    torch.testing.assert_close(layer(x, *more, residual=x), expected)


@pytest.mark.parametrize(
    "residual", [torch.zeros(1, 8, 8, 12), torch.zeros(2, 4, 8, 12), torch.zeros(2, 8, 8, 12).double()]
)
@pytest.mark.parametrize("with_gradient", [True, False])
def test_a_residual_of_another_shape_or_dtype_is_refused(residual, with_gradient):
    layer = network("acmix_swin_tiny_patch4_window7_224").layers[0].blocks[0].attn
    with torch.set_grad_enabled(with_gradient), pytest.raises(UsageError, match="plus "):
        layer(torch.randn(2, 8, 8, 12), residual=residual)


def test_own_ways_to_attend_and_to_project_are_called():
    layer = network("acmix_swin_tiny_patch4_window7_224").layers[0].blocks[0].attn
    x = torch.randn(1, 8, 8, 12)

    class Attends(type(layer)):
        def attend(self, qkv, shift):
            return 0 * super().attend(qkv, shift)

    class Projects(type(layer)):
        def project(self, attention, rate):
            return 0 * super().project(attention, rate)

    layer.__class__ = Projects
    alone = layer(x)
    layer.__class__ = Attends
    torch.testing.assert_close(layer(x), alone + layer.rate_attention * layer.proj.bias)


def test_a_forward_that_is_replaced_later_gets_no_residual(monkeypatch):
    block = network("acmix_swin_tiny_patch4_window7_224").layers[0].blocks[0]
    own = type(block.attn).forward
    monkeypatch.setattr(type(block.attn), "forward", lambda self, x, shift=(0, 0): own(self, x, shift))
    x = torch.randn(1, 8, 8, 12)
    assert not block.attention_adds(x)
    assert block(x).shape == x.shape


def test_one_number_is_a_shift():
    layer = network("acmix_swin_tiny_patch4_window7_224").layers[0].blocks[0].attn
    x = torch.randn(1, 8, 8, 12)
    assert torch.equal(layer(x, 2), layer(x, (2, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_recorded_graph_of_operators_has_gradients(name):
    made, x = network(name), torch.randn(2, 3, 32, 32)
    graph = make_fx(made)(x)
    torch.testing.assert_close(graph(x), made(x))


def test_folded_layers_show_a_hook_the_path_alone():
    torch.manual_seed(0)
    layer = acmix.ACmix2d(16, 16, heads=2).eval()
    folded: Any = acmix.fold(layer)
    x, seen = torch.randn(1, 16, 6, 6), []
    with torch.no_grad():
        expected = folded(x)
        folded.conv_path.register_forward_hook(lambda module, given, out: seen.append(out))
        torch.testing.assert_close(folded(x), expected)
        assert not torch.allclose(seen[0].permute(0, 3, 1, 2), expected)
        folded.conv_path = nn.Sequential(folded.conv_path)
        torch.testing.assert_close(folded(x), expected)


def test_a_frozen_bias_costs_no_sum(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "sum_to_size", lambda self, *shape: pytest.fail("a sum"))
    made = network("acmix_swin_tiny_patch4_window7_224")
    block = made.layers[0].blocks[0]
    block.attn.proj.bias.requires_grad_(False)
    block.attn.rate_attention.requires_grad_(False)
    # nor does a residual that asks for no gradient
    block.attn(torch.randn(1, 8, 8, 12), residual=torch.randn(1, 8, 8, 12)).sum().backward()
    assert block.attn.proj.bias.grad is None
    assert block.attn.proj.weight.grad is not None


def test_a_residual_is_not_dropped():
    layer = GlobalAttention(12, 3, parts=Attention(12, 3, qkv_bias=True, proj_drop=0.999)).train()
    x, far = torch.randn(1, 17, 12), torch.full((1, 17, 12), 1e3)
    assert float((layer(x, (4, 4), residual=far) - far).abs().median()) == 0.0


def test_a_window_that_does_not_fit_its_table_is_refused():
    layer = network("acmix_swin_tiny_patch4_window7_224").layers[0].blocks[0].attn
    layer.window = (8, 8)
    with pytest.raises(UsageError, match="bias_table has shape"):
        layer(torch.randn(1, 8, 8, 12))
