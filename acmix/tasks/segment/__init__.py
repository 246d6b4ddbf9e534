"""Semantic segmentation: a class for each pixel."""

from acmix.tasks.segment.segmentation import Segmentation

__all__ = ["Segmentation"]
