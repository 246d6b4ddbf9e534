"""The number formats that a model computes in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Formats(TorchDispatchMode):
    """Notes the number formats of what convolutions are computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "conv" in call.__name__:
            given = [*args, *(kwargs or {}).values()]
            self.seen += [each.dtype for each in given if isinstance(each, Tensor)]
        return call(*args, **(kwargs or {}))
