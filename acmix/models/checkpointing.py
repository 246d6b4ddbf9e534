"""Gradient checkpointing for blocks with batch norms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(block: nn.Module, *inputs: Any) -> Tensor:
    """What the block gives, computed a second time in the backward pass without counting the batch twice."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), statistics_kept(block)

    # torch.compile plans the second pass itself and takes no context of ours
    more: dict[str, Any] = {} if torch.compiler.is_compiling() else dict(context_fn=contexts)
    return checkpoint(block, *inputs, use_reentrant=False, **more)  # type: ignore[return-value]


@contextmanager
def statistics_kept(block: nn.Module) -> Iterator[None]:
    """Lets the block's batch norms normalise by their batch and leave their running statistics as they are."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.training and norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1


@contextmanager
def counted_once(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Leaves the running statistics of batch norms as they are in a backward pass, which may compute blocks again.

    For networks whose blocks are computed again by others' code, which would count the batch twice.
    """
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    counts = [None if count is None else count.clone() for _, count in before]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, tracked), count in zip(norms, before, counts, strict=True):
            norm.momentum = momentum
            if tracked is not None and count is not None:
                tracked.copy_(count)
