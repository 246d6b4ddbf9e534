"""ultralytics' own way of training on several GPUs, on the CPU: its launcher, script and loop, with gloo.

ultralytics takes several processes only for GPUs. What differs here: the process group, that DistributedDataParallel is
given no GPU's number, and the device on which the best weights are validated. For processes that tests start; importing
this changes PyTorch and ultralytics.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import distributed, nn
from ultralytics.engine import validator  # pyright: ignore[reportMissingImports]
from ultralytics.models.yolo.detect import DetectionTrainer  # pyright: ignore[reportMissingImports]
from ultralytics.nn.autobackend import AutoBackend  # pyright: ignore[reportMissingImports]
from ultralytics.utils import LOCAL_RANK, RANK  # pyright: ignore[reportMissingImports]

PROCESSES = 2


class OnProcessors(nn.parallel.DistributedDataParallel):
    """DistributedDataParallel without a number of a GPU."""

    def __init__(self, module: nn.Module, device_ids: Any = None, **options: Any) -> None:
        super().__init__(module, **options)


def on_processor(*, device: object, **options: Any) -> Any:
    """ultralytics' AutoBackend, on the CPU."""
    return AutoBackend(device=torch.device("cpu"), **options)


nn.parallel.DistributedDataParallel = OnProcessors  # type: ignore[misc]
validator.AutoBackend = on_processor
validator.get_torch_device_backend = lambda _: SimpleNamespace(current_device=lambda: 0)


class GlooTrainer(DetectionTrainer):
    """ultralytics' trainer as on two GPUs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.world_size = PROCESSES
        self.ddp = LOCAL_RANK == -1

    def _setup_ddp(self) -> None:
        distributed.init_process_group("gloo", rank=RANK, world_size=PROCESSES)
