"""What several tests assert."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor and number in nested containers, by its path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {name: torch.tensor(value, dtype=torch.float64)}
    items: Sequence[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    return {path: tensor for key, item in items for path, tensor in tensors(item, f"{name}.{key}").items()}


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Over all tensors of two state dicts."""
    assert left.keys() == right.keys()
    return max((left[key].double() - right[key].double()).abs().max().item() for key in left)


def assert_same_bits(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Model, average and optimizer of two checkpoints are equal to the last bit."""
    for part in ("model", "average", "optimizer"):
        ours, theirs = tensors(left[part]), tensors(right[part])
        assert ours.keys() == theirs.keys()
        assert ours or left[part] is None
        different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
        assert not different, f"{part}: {len(different)} of {len(ours)} differ, first {different[0]}"


def one_error(errors: str, *parts: str) -> None:
    """Standard error is one line of ours that says what is expected."""
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("acmix: error: "), errors
    for part in parts:
        assert part in lines[0], errors


class Hostile:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, Any]:
        return os.mkdir, (str(self.path),)
