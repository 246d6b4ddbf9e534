"""What to do with weights that do not fit: timm's fit timm's own model, which can be given convolution paths."""

from __future__ import annotations

import re
from collections.abc import Iterable

from acmix.models.freezing import is_new

# a weight that a family of timm's has and others have not, and one of its models
TIMM: dict[str, tuple[str, str]] = {
    r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table": ("Swin", "swin_tiny_patch4_window7_224"),
    r"stages\.\d+\.blocks\.\d+\.mlp\.dwconv\.weight": ("PVT v2", "pvt_v2_b1"),
    r"(^|module\.|model\.)blocks\.\d+\.attn\.qkv\.weight": ("ViT", "deit_small_patch16_224"),
}


def as_timm_s(names: Iterable[str]) -> str:
    """The advice for weights of these names; "" where they are of no family that can be upgraded, or have paths."""
    known = [*names]
    if any(is_new(name) for name in known):
        return ""
    for pattern, (family, example) in TIMM.items():
        if any(re.search(pattern, name) for name in known):
            return (
                f"; if they are timm's {family} weights, set model.name to their name in timm, such as {example}, "
                "and model.add_conv_path=true"
            )
    return ""
