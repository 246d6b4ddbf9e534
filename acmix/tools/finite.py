"""Whether a detector or segmenter computes with numbers: with others a detector finds nothing, and says no more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

DAMAGED = "its weights may be damaged"


class Watch:
    """Notes, without waiting for the device, whether everything that was seen is finite."""

    def __init__(self) -> None:
        self.all_finite: Tensor | None = None

    def see(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """A forward hook: looks at the tensors of an output."""
        for each in output.values() if isinstance(output, dict) else [output]:
            if isinstance(each, Tensor) and each.is_floating_point():
                finite = torch.isfinite(each).all()
                self.all_finite = finite if self.all_finite is None else self.all_finite & finite

    @property
    def is_broken(self) -> bool:
        """Whether something was not."""
        return self.all_finite is not None and not bool(self.all_finite)


@contextmanager
def watched(model: nn.Module) -> Iterator[Watch]:
    """Watches a model: a detector's maps and the layers of its heads, and the output of any other model."""
    watch, backbone = Watch(), getattr(model, "backbone", None)
    seen = [model]
    if isinstance(backbone, nn.Module):
        inner = {*backbone.modules()}
        seen = [backbone, *(each for each in model.modules() if each not in inner and not [*each.children()])]
    handles = [each.register_forward_hook(watch.see) for each in seen]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()
