"""What the families of tokens share: the bridge from images to tokens and back, and their head.

Shapes: B batch · T tokens without a place, as a class token · H, W grid · L = T + H·W · C channels · h, w image
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.models.backbone import Backbone
from acmix.ops.leaving import as_number, compact, fresh, leaves_pytorch, surely, unflatten


class Tokens(NamedTuple):
    """Tokens (B, L, C), and the grid (H, W) that the last of them form."""

    x: Tensor
    grid: tuple[int, int]


class TokenBackbone(Backbone):
    """A backbone whose state is tokens, with a norm behind the last and a linear head."""

    classifier = "head"
    output_fmt = "NLC"
    last_stride = None
    not_decayed = ("pos_embed", "cls_token")
    # tokens at the start that a mean leaves out
    outside_mean = 0

    def make_head(self, global_pool: str, drop_rate: float) -> None:
        """Makes the dropout and the classifier, and notes how tokens are pooled."""
        self.head_drop = nn.Dropout(drop_rate)
        self.global_pool = global_pool
        self.head = nn.Linear(self.num_features, self.num_classes) if self.num_classes else nn.Identity()

    def normed(self, state: Tokens) -> Tokens:
        return Tokens(self.norm(state.x), state.grid)

    def features(self, state: Tokens) -> Tensor:
        return state.x

    def as_map(self, state: Tokens, output_fmt: str = "NCHW") -> Tensor:
        """(B, C, H, W), or (B, H·W, C) as "NLC"; without the first T."""
        return patches_of(state) if output_fmt == "NLC" else map_of(state)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, C); the same where nothing is pooled."""
        if self.global_pool == "token":
            return x[:, 0]
        return x[:, self.outside_mean :].mean(1) if self.global_pool else x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, L, C) -> (B, num_classes), or the pooled features (B, C)."""
        x = self.head_drop(self.pooled(x))
        return x if pre_logits else self.head(x)

    def check_pool(self, global_pool: str) -> None:
        """Refuses a way of pooling that this model was not made for."""

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        if global_pool is not None:
            check_pool(global_pool)
            self.check_pool(global_pool)
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.fitted(self.head)


def patches_of(state: Tokens) -> Tensor:
    """(B, H·W, C): without the first T."""
    return state.x[:, state.x.shape[1] - state.grid[0] * state.grid[1] :]


def map_of(state: Tokens) -> Tensor:
    """(B, C, H, W)."""
    patches = unflatten(patches_of(state), 1, state.grid)  # (B, H, W, C)
    return compact(patches.permute(0, 3, 1, 2))


def positions(learned: Tensor, grid: tuple[int, int], learned_grid: tuple[int, int], first: int) -> Tensor:
    """Learned positions (1, T + …, C) for a grid: as they are, or interpolated behind the first T."""
    if not leaves_pytorch():
        return resample_abs_pos_embed(learned, list(grid), list(learned_grid), num_prefix_tokens=first)
    if all(surely(side == known) for side, known in zip(grid, learned_grid, strict=True)):
        return learned
    rows, columns = (cubic_weights(side, known, learned) for side, known in zip(grid, learned_grid, strict=True))
    patches = rows @ learned[0, first:].to(rows.dtype).view(learned_grid[0], -1)  # (H, w·C)
    patches = patches.view(-1, learned_grid[1], int(learned.shape[2]))  # (H, w, C)
    patches = F.linear(fresh(patches.transpose(1, 2)), columns).transpose(1, 2)  # (H, W, C)
    patches = fresh(patches).flatten(0, 1)  # (H·W, C)
    return torch.cat([learned[:, :first], patches[None].to(learned.dtype)], 1)


def cubic_weights(side: int, known: int, like: Tensor) -> Tensor:
    """What each learned position of a line counts in each interpolated one, (side, known).

    As timm interpolates, cubic with antialiasing, but for any side: a graph with open sizes can hold it, and ONNX.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    # learned positions from one to the next
    step = known / torch.as_tensor(as_number(side, like.device), dtype=dtype, device=like.device)
    centre = (torch.arange(side, device=like.device) + 0.5) * step  # (side,)
    place = torch.arange(known, device=like.device) + 0.5  # (known,)
    d = ((place - centre[:, None]) / step.clamp(min=1)).abs().clamp(max=2)  # (side, known)
    weights = torch.where(d < 1, (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2)
    return weights / weights.sum(1, keepdim=True)


def check_pool(global_pool: str) -> None:
    """Refuses a way of pooling that tokens do not have."""
    if global_pool not in ("token", "avg", ""):
        raise UsageError(f"global_pool={global_pool!r}; expected 'token', 'avg' or ''")
