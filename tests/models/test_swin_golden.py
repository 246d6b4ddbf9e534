"""Swin + ACmix computes what the released code computed, forward and in every gradient."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

import acmix
from acmix.layers import Mixing
from acmix.models.swin import Block
from tests.support.golden import Golden

TINY = "acmix_swin_tiny_patch4_window7_224"
# max|ours − golden| / max|golden|. Measured: float64 3.0e-15, float32 3.4e-6, but for the gradient of the shifted
# block's rate_conv, a sum of 4,608 terms that cancel to a 30,000th of their absolute sum: 3.2e-13 and 3.0e-4.
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4}
CANCELLING = {("window_block_shifted", "attn.rate_conv"): 20}
# released name of a block's tensor -> ours, where they differ
NAMES = {
    "attn.rate1": "attn.rate_attention",
    "attn.rate2": "attn.rate_conv",
    "attn.fc.weight": "attn.conv_path.fc_weight",
    "attn.fc.bias": "attn.conv_path.fc_bias",
    "attn.dep_conv.weight": "attn.conv_path.kernels",
}


def block_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {NAMES.get(name, name): tensor for name, tensor in tensors.items()}
    fc = "attn.conv_path.fc_weight"
    return renamed | {fc: renamed[fc].flatten(1)}


def toy_names(tensors):
    return acmix.from_official(tensors, TINY)


def show(file, dtype, errors):
    worst = max(errors, key=errors.__getitem__)
    print(f"{file}, {dtype}: output {errors['output']:.1e}, largest {errors[worst]:.1e} ({worst})")


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("file", ["window_block_plain", "window_block_shifted"])
def test_a_block_equals_the_released_one_in_output_and_every_gradient(file, dtype):
    golden = Golden(file)
    case = golden.case
    block = Block(
        case["dim"],
        case["heads"],
        (case["window"], case["window"]),
        shifted=case["shift"] > 0,
        mlp_ratio=case["mlp_ratio"],
        qkv_bias=True,
        proj_drop=0.0,
        drop_path=0.0,
        mixing=Mixing(),
    )
    assert block.shift == (case["shift"], case["shift"])
    errors = golden.errors(block, block_names, dtype, (-1, case["height"], case["width"], case["dim"]))
    show(file, dtype, errors)
    assert len(errors) == 2 + 18
    for name, error in errors.items():
        assert error < BOUNDS[dtype] * (CANCELLING.get((file, name), 1) if dtype == torch.float32 else 1), name


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_whole_model_equals_the_released_one_in_output_and_every_gradient(dtype):
    golden = Golden("swin_tiny_toy")
    kind, *settings = golden.case.items()
    assert kind == ("kind", "swin_acmix")
    errors = golden.errors(acmix.create_model(TINY, **dict(settings)), toy_names, dtype)
    show("swin_tiny_toy", dtype, errors)
    assert len(errors) == 2 + len(golden.group("weight"))
    assert max(errors.values()) < BOUNDS[dtype]
