"""Where a training step of a detector reads from its device, so that a GPU is waited for: in our code once, and where a
cascade chooses regions.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import acmix
from tests.heads.targets import pictures
from tests.heads.tiny import detector

OURS = str(Path(acmix.__file__).parent)
TORCHVISION = "torchvision"
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")


class Waits(TorchDispatchMode):
    """Counts what reads from the device, by the file of ours that asks for it; what torchvision asks for is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(func)
        by_mask = name.startswith(("aten.index.", "aten.index_put")) and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1]
        )
        if by_mask or any(read in name for read in READS):
            files = [each.filename for each in traceback.extract_stack()]
            last = next((each for each in reversed(files) if each.startswith(OURS) or TORCHVISION in each), "")
            if last.startswith(OURS):
                self.found[Path(last).name] += 1
        return func(*args, **(kwargs or {}))


def waits(head: str) -> Counter[str]:
    model = detector(head)
    images, targets = pictures((50, 70), (64, 40))
    with Waits() as seen:
        torch.stack([*model(images, targets).values()]).sum().backward()
    return seen.found


@pytest.mark.parametrize("head", ["mask_rcnn", "retinanet", "fcos"])
def test_our_code_waits_once_a_step_for_the_check_of_its_targets(head: str) -> None:
    assert waits(head) == {"inputs.py": 1}


def test_a_cascade_waits_for_each_image_of_a_stage_once_and_once_to_drop_objects_own_boxes() -> None:
    # three stages, two of which hand boxes on; two images
    assert waits("cascade_mask_rcnn") == {"inputs.py": 1, "cascade.py": 3 * 2 + 2 * 2}
