"""How the transformer families draw their weights."""

from __future__ import annotations

from torch import nn


def init_weights(module: nn.Module) -> None:
    """Draws linear weights from a normal of width 0.02, cut at ±2, and zeroes their biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
