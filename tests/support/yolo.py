"""What tests of ultralytics share: a small data set, and fresh processes, whose seeds and threads it sets."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.paths import ROOT

needs_ultralytics = pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is not installed")
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxruntime")), reason="the extra `export` is not installed"
)
# on top of what a test trains: the smallest that ultralytics takes
SMALL = 'imgsz=64, batch=4, device="cpu", workers=0, plots=False, amp=False, mosaic=0.0, verbose=False'


def run(*command: object, folder: Path = ROOT, status: int = 0) -> str:
    """What a Python command prints in a fresh process."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    printed = done.stdout + done.stderr
    assert done.returncode == status, printed[-6000:]
    return printed


def result(printed: str) -> str:
    """The line that a script marked as its result."""
    return next(line.removeprefix("RESULT ") for line in printed.splitlines() if line.startswith("RESULT "))


def draw_squares(root: Path) -> Path:
    """Eight pictures of one bright square each, in YOLO's format; half to train on. Returns the data set's file."""
    drawn = np.random.default_rng(0)
    for index in range(8):
        part = "train" if index < 4 else "val"
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        pixels = drawn.integers(0, 80, (64, 64, 3), dtype=np.uint8)
        x, y, side = (int(each) for each in drawn.integers([0, 0, 16], [32, 32, 32]))
        pixels[y : y + side, x : x + side] = 255
        Image.fromarray(pixels).save(root / "images" / part / f"{index}.png")
        box = [(x + side / 2) / 64, (y + side / 2) / 64, side / 64, side / 64]
        label = " ".join(["0", *(f"{each:.6f}" for each in box)])
        (root / "labels" / part / f"{index}.txt").write_text(label, encoding="utf-8")
    file = root / "squares.yaml"
    file.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames:\n  0: square\n", encoding="utf-8")
    return file
