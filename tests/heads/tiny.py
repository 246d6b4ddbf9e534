"""Backbones of every family, as small as they go."""

from __future__ import annotations

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "acmix_swin_tiny_patch4_window7_224": dict(
        embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 2), window_size=4, img_size=64
    ),
    "acmix_pvt_tiny": dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), img_size=64),
    "acmix_resnet26": dict(layers=(1, 1, 1, 1), width=8, heads=2, attention_size=3),
    "acmix_san10": dict(layers=(1, 1, 1, 1, 1), width=32, sizes=(3, 3, 3, 3, 3)),
    "acmix_deit_tiny_patch16_224": dict(embed_dim=16, depth=2, num_heads=2, img_size=64),
}
