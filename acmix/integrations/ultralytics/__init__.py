"""ACmix in ultralytics: ACmix2d in the place of convolutions of a YOLO, and in rows of model files.

    from ultralytics import YOLO
    from acmix.integrations.ultralytics import replace_conv

    model = replace_conv(YOLO("yolo11n.pt"), "model.22.m.0.*.cv2.conv", identity=True)
    model.train(data="coco8.yaml", epochs=3)

On the command line, `python -m acmix.integrations.ultralytics` takes what `yolo` takes.
"""

from __future__ import annotations

from pathlib import Path

from acmix.errors import UsageError
from acmix.integrations.ultralytics.hooks import register
from acmix.integrations.ultralytics.replacing import replace_conv

__all__ = ["EXAMPLES", "example", "register", "replace_conv"]

EXAMPLES = Path(__file__).parents[1] / "yolo"


def example(name: str) -> str:
    """Finds a model file that comes with acmix.

    Args:
        name: yolo11n-acmix-neck (ACmix2d on P5, before the head) or yolo11n-acmix-backbone (before SPPF), or with s, m,
            l or x in the place of n.

    Returns:
        A path for `ultralytics.YOLO`, with the scale's letter in it: ultralytics reads the scale from there.

    Raises:
        UsageError: there is no such file.
    """
    names = [file.stem for file in sorted(EXAMPLES.glob("*.yaml"))]
    scaled = [each.replace("yolo11", f"yolo11{scale}") for each in names for scale in "nsmlx"]
    if name.removesuffix(".yaml") not in scaled:
        raise UsageError(f"no example {name!r}; there are {', '.join(scaled)}")
    return str(EXAMPLES / f"{name.removesuffix('.yaml')}.yaml")
