"""What the training loop asks of a task: its network, its batches, their loss, and an exact measure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from acmix.data import Trained, TrainLoader, ValLoader
from acmix.tasks.evaluation import Evaluation


class Task(Protocol):
    """One task, made for one configuration.

    A batch has `images`, `weights`, `failed`, `index` and `to(device, memory_format=…)`; see `acmix.data.Batch`.
    """

    @property
    def metric(self) -> str:
        """The metric that chooses best.pt: the higher, the better."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that records and the summary hold."""
        ...

    @property
    def shown(self) -> tuple[str, ...]:
        """Those of `metrics` that lines and curves tell."""
        ...

    def check(self) -> None:
        """Refuses settings that cannot be meant, before data are looked for."""
        ...

    def blank(self, rows: int) -> tuple[Any, tuple[int, ...] | None]:
        """Images as the network reads them, and the shape of its answer; None where it is no tensor."""
        ...

    def build(self, *, download: bool = False) -> nn.Module:
        """The network, with weights drawn at random; `download` fetches what `model.pretrained` asks for."""
        ...

    def train_loader(self, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> TrainLoader:
        """The training split of one process."""
        ...

    def val_loader(
        self,
        *,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        batch_size: int | None = None,
        trained: Trained | None = None,
    ) -> ValLoader:
        """The validation split of one process; `trained` are the classes that a model knows."""
        ...

    def remarks(self, model: nn.Module, batches: TrainLoader) -> list[str]:
        """Lines on a network that does not suit the data it is to learn from, though nothing fails."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The parts of a batch's mean loss, by name: scalars, whose sum is what training lowers."""
        ...

    def evaluate(
        self,
        model: nn.Module,
        batches: ValLoader,
        device: torch.device,
        *,
        autocast: Callable[[], AbstractContextManager[Any]],
        memory_format: torch.memory_format = torch.contiguous_format,
        on_batch: Callable[[Any], None] | None = None,
    ) -> Evaluation:
        """Measures a model on this process's share; every process calls it, and gets the same."""
        ...
