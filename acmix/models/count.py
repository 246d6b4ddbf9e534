"""Parameters and multiply-adds of a model, counted by running its shapes through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula, sdpa_flop_count

from acmix.models import create_model
from acmix.ops import pair

ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
if ATTENTION not in flop_registry:
    # PyTorch before 2.9 counts attention on GPUs alone
    @register_flop_formula(ATTENTION)
    def _(query: Any, key: Any, value: Any, *others: Any, **named: Any) -> int:
        return sdpa_flop_count(query, key, value)


@dataclass(frozen=True)
class Cost:
    """What a model costs for one image.

    Args:
        parameters: trainable and other.
        gmacs: 10⁹ multiply-adds, which papers call FLOPs: products of matrices and convolutions, no additions,
            norms or activations.
    """

    parameters: int
    gmacs: float


def cost(name: str, img_size: int | None = None, **kwargs: Any) -> Cost:
    """Counts a model of that name without making its weights.

    Args:
        name: as for `acmix.create_model`.
        img_size: side of the image; the one the model is meant for by default.
        kwargs: arguments of the model.
    """
    with torch.device("meta"):
        model = create_model(name, **kwargs)
    known = timm.get_pretrained_cfg(name)
    assert known is not None
    return cost_of(model, img_size or known.input_size[1])


def cost_of(model: nn.Module, img_size: int | tuple[int, int], in_chans: int = 3) -> Cost:
    """Counts a model for one image of `img_size` pixels a side, or of (h, w)."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, in_chans, *pair(img_size), device=device))
    model.train(was_training)
    return Cost(parameters=parameters, gmacs=counter.get_total_flops() / 2e9)
