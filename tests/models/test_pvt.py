"""PVT version 1 and its ACmix form: timm's attention of version 2, published sizes, k and v at full resolution."""

from typing import Any

import pytest
import torch
from timm.models.pvt_v2 import Attention
from torch import nn

import acmix
from acmix.errors import UsageError
from acmix.layers import ReductionAttention
from acmix.layers.reduction_attention import joined
from acmix.models.count import cost

TINY = "acmix_pvt_tiny"
TOY: dict[str, Any] = dict(
    img_size=32, embed_dims=(8, 12), depths=(1, 1), num_heads=(1, 2), mlp_ratios=(2, 2), reductions=(2, 1)
)


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_without_the_path_its_attention_is_timms_in_output_and_every_gradient(reduction):
    torch.manual_seed(0)
    ours = ReductionAttention(12, 3, reduction, mixing=None).double()
    theirs = Attention(12, 3, sr_ratio=reduction).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8 * 4, 12, dtype=torch.float64)
    found, expected = ours(x, (8, 4)), theirs(x, [8, 4])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for out in (found, expected):
        out.square().sum().backward()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("grid", "reduction"), [((6, 4), 2), ((5, 7), 4), ((3, 3), 1)])
def test_each_pixel_takes_the_keys_and_values_of_its_patch(grid, reduction):
    torch.manual_seed(0)
    layer: Any = ReductionAttention(6, 2, reduction).double()
    nn.init.normal_(layer.rate_attention)
    nn.init.normal_(layer.rate_conv)
    height, width = grid
    x = torch.randn(1, height * width, 6, dtype=torch.float64)
    rows, columns = -(-height // reduction), -(-width // reduction)
    if reduction == 1:
        reduced = x
    else:
        image = torch.zeros(1, rows * reduction, columns * reduction, 6, dtype=torch.float64)
        image[:, :height, :width] = x.view(1, height, width, 6)
        patches = image.view(1, rows, reduction, columns, reduction, 6)
        weight = layer.sr.weight  # (C, C, r, r)
        reduced = torch.einsum("bhiwjc,ocij->bhwo", patches, weight) + layer.sr.bias
        reduced = layer.norm(reduced.flatten(1, 2))
    q, (k, v) = layer.q(x).view(1, -1, 2, 3), layer.kv(reduced).view(1, -1, 2, 2, 3).unbind(2)
    weights = (torch.einsum("binc,bjnc->bnij", q, k) / 3**0.5).softmax(-1)
    expected = layer.rate_attention * layer.proj(torch.einsum("bnij,bjnc->binc", weights, v).flatten(2))
    pieces = torch.empty(1, height, width, 6, 3, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            patch = (i // reduction) * columns + j // reduction
            pieces[:, i, j] = torch.cat([q[:, i * width + j], k[:, patch], v[:, patch]], 1)
    expected = expected + layer.rate_conv * layer.conv_path(pieces).flatten(1, 2)
    torch.testing.assert_close(layer(x, grid), expected)


# parameters in 10⁶ and gmacs, plain and with ACmix, as published
@pytest.mark.parametrize(
    ("size", "plain", "mixed"),
    [("tiny", (13.2, 1.9), (13, 2.0)), pytest.param("small", (24.5, 3.8), (25, 3.9), marks=pytest.mark.slow)],
)
def test_sizes_are_the_published_ones(size, plain, mixed):
    for published, kwargs in ((plain, dict(conv_path=False)), (mixed, {})):
        found = cost(f"acmix_pvt_{size}", **kwargs)
        assert found.parameters / 1e6 == pytest.approx(published[0], rel=0.035)
        assert found.gmacs == pytest.approx(published[1], rel=0.03)


def test_every_stage_has_its_share_of_the_image_and_the_last_a_class_token():
    model: Any = acmix.create_model(TINY, num_classes=5, **TOY)
    assert [stage.learned_grid for stage in model.stages] == [(8, 8), (4, 4)]
    assert [stage.cls_token is not None for stage in model.stages] == [False, True]
    assert model.stages[1].pos_embed.shape == (1, 17, 12)
    mean = acmix.create_model(TINY, num_classes=5, global_pool="avg", **TOY)
    assert not [name for name, _ in mean.named_parameters() if "cls_token" in name]
    assert mean(torch.randn(2, 3, 40, 24)).shape == (2, 5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(reductions=(2, 2)), "expected 1 in the last stage, which has a class token"),
        (dict(depths=(1, 1, 1)), "expected one entry a stage each"),
        (dict(num_heads=(1, 5)), "5 heads do not divide 12 channels"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused_in_one_line(wrong, said):
    with pytest.raises(UsageError) as caught:
        acmix.create_model(TINY, **{**TOY, **wrong})
    assert said in str(caught.value)


def test_without_a_class_token_there_is_none_to_put_back():
    model: Any = acmix.create_model(TINY, global_pool="avg", **TOY)
    with pytest.raises(UsageError, match="without a class token"):
        model.reset_classifier(3, "token")


@pytest.mark.parametrize("grid", [(4, 6), (5, 6)], ids=str)
@pytest.mark.parametrize("factor", [1, 2])
def test_pieces_are_q_and_what_each_pixel_s_patch_has(factor, grid):
    rows, columns = (-(-side // factor) for side in grid)
    q = torch.randn(2, *grid, 1, 2, dtype=torch.float64)
    patches = torch.randn(2, rows, columns, 2, 2, dtype=torch.float64)
    found = joined(q, patches, factor)
    for y in range(grid[0]):
        for x in range(grid[1]):
            expected = torch.cat([q[:, y, x], patches[:, y // factor, x // factor]], 1)
            assert torch.equal(found[:, y, x], expected)
    # one image and one channel tell as much of derivatives, in a fraction of the time
    few = tuple(each[:1, ..., :1].clone().requires_grad_() for each in (q, patches))
    assert torch.autograd.gradcheck(
        lambda q, patches: joined(q, patches, factor), few, check_batched_grad=True, check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(lambda q, patches: joined(q, patches, factor), few)


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gradient_of_joined_patches_is_their_sum(batch: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(batch, 6, 4, 3, 5, generator=draw).to(dtype).requires_grad_()
    patches = torch.randn(batch, 3, 2, 6, 5, generator=draw).to(dtype).requires_grad_()
    grad = torch.randn(batch, 6, 4, 9, 5, generator=draw).to(dtype)
    of_q, of_patches = torch.autograd.grad(joined(q, patches, 2), (q, patches), grad)
    assert torch.equal(of_q, grad[..., :3, :])
    expected = grad[..., 3:, :].double().unflatten(2, (2, 2)).unflatten(1, (3, 2)).sum((2, 4))
    assert of_patches.dtype == dtype
    torch.testing.assert_close(of_patches, expected.to(dtype))
