"""Models that leave PyTorch: `acmix export`, in one file that needs no acmix to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acmix.lazy import on_first_use

if TYPE_CHECKING:
    from acmix.export.command import Exported, export

__all__ = ["Exported", "export"]

__getattr__, __dir__ = on_first_use(__name__, {"Exported": "acmix.export.command", "export": "acmix.export.command"})
