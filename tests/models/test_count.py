"""Counts agree with the published ones, and with counting by hand."""

from typing import Any

import pytest
import torch

import acmix
from acmix.models.count import cost, cost_of

SWIN = "acmix_swin_{}_patch4_window7_224"


# the paper's table 1 and the released weights
@pytest.mark.parametrize(
    ("size", "parameters", "gmacs"),
    [("tiny", 28_649_908, 4.649), pytest.param("small", 50_345_080, 8.999, marks=pytest.mark.slow)],
)
def test_swin_costs_what_is_published(size, parameters, gmacs):
    found = cost(SWIN.format(size))
    print(f"{size}: {found}")
    assert found.parameters == parameters
    assert found.gmacs == pytest.approx(gmacs, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_plain_swin_costs_less(size):
    plain, mixed = cost(SWIN.format(size), conv_path=False), cost(SWIN.format(size))
    assert plain.parameters < mixed.parameters
    assert plain.gmacs < mixed.gmacs


def test_products_are_counted_as_by_hand():
    arguments: dict[str, Any] = dict(
        embed_dim=8, depths=(1,), num_heads=(2,), window_size=4, mlp_ratio=2.0, num_classes=3
    )
    model = acmix.create_model(SWIN.format("tiny"), img_size=32, **arguments)
    pixels, dim, heads, head_dim = 64, 8, 2, 4
    patches = pixels * dim * 3 * 16
    linear = pixels * dim * (3 * dim + dim + 2 * 2 * dim)
    attention = 2 * (pixels // 16) * 16 * 16 * dim
    path = pixels * head_dim * 9 * 3 * heads + pixels * dim * 9 * 9
    assert cost_of(model, 32).gmacs * 1e9 == pytest.approx(patches + linear + attention + path + 3 * dim, abs=0.1)


def test_counting_leaves_the_model_as_it_was():
    model = acmix.create_model(SWIN.format("tiny"), img_size=32, embed_dim=8, depths=(1,), num_heads=(2,))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost_of(model, 32)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_a_larger_image_costs_in_proportion():
    small, large = (cost(SWIN.format("tiny"), img_size=side).gmacs for side in (224, 448))
    assert large == pytest.approx(4 * small, rel=0.01)
