"""Heads that detect and segment: modules that read a pyramid of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acmix.lazy import on_first_use

if TYPE_CHECKING:
    from acmix.heads.detectors import create_detector
    from acmix.heads.segmenters import create_segmenter

__all__ = ["create_detector", "create_segmenter"]

__getattr__, __dir__ = on_first_use(
    __name__, {"create_detector": "acmix.heads.detectors", "create_segmenter": "acmix.heads.segmenters"}
)
