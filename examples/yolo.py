"""ACmix2d in a YOLO of ultralytics, trained for an epoch on drawn pictures; needs no network.

Install ultralytics first (the extra `yolo`; its licence is AGPL). This starts from a model file, so that nothing is
downloaded; `YOLO("yolo11n.pt")` starts from trained weights, which `identity=True` keeps as they are at first.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from acmix.integrations.ultralytics import replace_conv

SELECT = "model.22.m.0.*.cv2.conv"  # two 3×3 convolutions of the last block before the head


def draw(folder: Path) -> Path:
    """Eight pictures of one bright square each, in YOLO's format; returns the data set's file."""
    drawn = np.random.default_rng(0)
    for number in range(8):
        part = "train" if number < 4 else "val"
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        pixels = drawn.integers(0, 80, (64, 64, 3), dtype=np.uint8)
        x, y = drawn.integers(0, 32, 2)
        pixels[y : y + 32, x : x + 32] = 255
        Image.fromarray(pixels).save(folder / "images" / part / f"{number}.png")
        label = f"0 {(x + 16) / 64} {(y + 16) / 64} 0.5 0.5\n"
        (folder / "labels" / part / f"{number}.txt").write_text(label)
    file = folder / "squares.yaml"
    file.write_text(f"path: {folder.as_posix()}\ntrain: images/train\nval: images/val\nnames: [square]\n")
    return file


def main(folder: Path) -> None:
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports]

    model = YOLO("yolo11n.yaml")
    replace_conv(model, SELECT, identity=True)
    small: dict[str, Any] = dict(
        epochs=1, imgsz=64, batch=4, device="cpu", workers=0, plots=False, amp=False, verbose=False
    )
    model.train(data=draw(folder), project=folder, name="run", **small)
    best = YOLO(folder / "run" / "weights" / "best.pt")  # the layers are in the file
    print("ACmix2d:", [name for name, each in best.model.named_modules() if type(each).__name__ == "GatedACmix2d"])


if __name__ == "__main__":
    try:
        import ultralytics  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        sys.exit("this example needs ultralytics: pip install ultralytics")
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
