"""Attention between tokens, in one fused operator, or step by step where a hook watches its weights.

Shapes: B batch · N heads · L queries · S keys · D channels a head
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.layers.plain import is_own
from acmix.ops.leaving import fresh, leaves_pytorch


def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, drop: nn.Module, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """drop(softmax(D^-½·q·kᵀ + mask))·v, (B, N, L, D) of (B, N, L, D), (B, N, S, D) and (B, N, S, D).

    Args:
        drop: acts on the weights (B, N, L, S). A plain `nn.Dropout` becomes an argument of the fused operator; any
            other module, and one with hooks, as those that draw attention maps, is called.
        mask: (…, L, S), added to the logits, or True where a key is seen.
        is_causal: whether query i sees the first i keys alone.
    """
    if leaves_pytorch():
        # exported, the fused operator multiplies by kᵀ, and asks in which order that lies
        q, k, v = fresh(q), fresh(k.transpose(2, 3)).transpose(2, 3), fresh(v)
    if isinstance(drop, nn.Dropout) and is_own(drop, nn.Dropout):
        dropped = drop.p if drop.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropped, is_causal=is_causal)
    logits = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)  # (B, N, L, S)
    if is_causal:
        mask = torch.ones(logits.shape[2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask
    return drop(logits.softmax(3)) @ v
