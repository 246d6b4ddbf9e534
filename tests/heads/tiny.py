"""Detectors over backbones of every family, as small as they go."""

from __future__ import annotations

from typing import Any

from acmix.heads.detectors import DENSE, Detector, create_detector

SWIN = "acmix_swin_tiny_patch4_window7_224"
RESNET = "acmix_resnet26"
DEIT = "acmix_deit_tiny_patch16_224"
TINY: dict[str, dict[str, Any]] = {
    SWIN: dict(embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 2), window_size=4, img_size=64),
    "acmix_pvt_tiny": dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), img_size=64),
    RESNET: dict(layers=(1, 1, 1, 1), width=8, heads=2, attention_size=3),
    "acmix_san10": dict(layers=(1, 1, 1, 1, 1), width=32, sizes=(3, 3, 3, 3, 3)),
    DEIT: dict(embed_dim=16, depth=2, num_heads=2, img_size=64),
}


def detector(head: str, backbone: str = SWIN, **kwargs: Any) -> Detector:
    """A detector of two classes for pictures of about 64 pixels."""
    of_regions = {} if head in DENSE else dict(hidden=16, proposals=20, samples=32)
    channels = 64 if head == "fcos" else 32
    arguments = dict(num_classes=2, min_size=64, max_size=96, channels=channels, detections=10, score_threshold=0.01)
    return create_detector(head, backbone, backbone_args=TINY[backbone], **{**arguments, **of_regions, **kwargs})
