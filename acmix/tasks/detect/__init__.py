"""Detection: boxes of objects, and their outlines where the head draws them."""

from acmix.tasks.detect.detection import Detection

__all__ = ["Detection"]
