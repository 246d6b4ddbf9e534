"""Trains YOLO11 with and without ACmix2d on generated pictures, and looks for the layers wherever a network is built.

    python benchmarks/yolo.py [--scales nsm] [--epochs 20] [--imgsz 96] [--folder DIR]

Needs ultralytics and the extra `export`, and no network. Each training is stopped half way and resumed by a fresh
process; another one reads its best weights and exports them. A training that is in the results already is left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from acmix.benchmark.record import measured_with
from acmix.layers import ACmix2d

RESULTS = Path(__file__).resolve().parent / "results" / "yolo.csv"
# of YOLO11's last C3k2, the second convolution of each bottleneck
SELECT = "model.22.m.0.m.*.cv2.conv"
FORMS = ("plain", "row", "replace_conv")
SHAPES = ("square", "disc", "triangle")
COLUMNS = (
    "date", "commit", "machine", "torch", "timm", "ultralytics", "model", "form", "parameters", "layers_trainer",
    "layers_ema", "layers_best", "layers_resumed", "layers_onnx", "layers_torchscript", "map50", "map50_95", "images",
    "epochs", "imgsz", "minutes",
)  # fmt: skip
TRAINING = dict(
    batch=8, nbs=8, optimizer="AdamW", lr0=1e-3, warmup_epochs=1, mosaic=0.0, pretrained=False, device="cpu", workers=0,
    amp=False, plots=False, exist_ok=True, seed=0,
)  # fmt: skip


def draw_pictures(root: Path, *, train: int = 160, val: int = 40, side: int = 128) -> Path:
    """Writes pictures of one to three coloured shapes on noise, in YOLO's format.

    Returns:
        The data set's YAML file.
    """
    drawn = np.random.default_rng(0)
    for index in range(train + val):
        part = "train" if index < train else "val"
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(drawn.integers(0, 110, (side, side, 3), dtype=np.uint8))
        labels = [draw_shape(picture, drawn) for _ in range(drawn.integers(1, 4))]
        picture.save(root / "images" / part / f"{index}.png")
        (root / "labels" / part / f"{index}.txt").write_text("\n".join(labels), encoding="utf-8")
    file = root / "shapes.yaml"
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(SHAPES))
    file.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames:\n{names}", encoding="utf-8")
    return file


def draw_shape(picture: Image.Image, drawn: np.random.Generator) -> str:
    """Draws one shape anywhere, and returns its line of labels."""
    side = picture.width
    size = int(drawn.integers(side // 6, side // 3))
    x, y = (int(each) for each in drawn.integers(0, side - size, 2))
    kind = int(drawn.integers(len(SHAPES)))
    color = tuple(int(each) for each in drawn.integers(120, 256, 3))
    pen = ImageDraw.Draw(picture)
    if kind == 0:
        pen.rectangle([x, y, x + size, y + size], fill=color)
    elif kind == 1:
        pen.ellipse([x, y, x + size, y + size], fill=color)
    else:
        pen.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=color)
    numbers = [(x + size / 2) / side, (y + size / 2) / side, size / side, size / side]
    return " ".join([str(kind), *(f"{each:.6f}" for each in numbers)])


def count(model: Any) -> int:
    """How many ACmix2d a network has."""
    return sum(isinstance(each, ACmix2d) for each in model.modules())


def train_half(*, scale: str, form: str, data: str, folder: str, epochs: int, imgsz: int) -> dict[str, Any]:
    """Trains until half of the epochs are saved."""
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports]

    from acmix.integrations.ultralytics import example, register, replace_conv

    register()
    model = YOLO(example(f"yolo11{scale}-acmix-neck") if form == "row" else f"yolo11{scale}.yaml")
    if form == "replace_conv":
        replace_conv(model, SELECT)
    found = {}

    def stop(trainer: Any) -> None:
        if trainer.epoch + 1 >= max(1, epochs // 2):
            found.update(layers_trainer=count(trainer.model), layers_ema=count(trainer.ema.ema))
            raise KeyboardInterrupt

    model.add_callback("on_model_save", stop)
    try:
        model.train(data=data, epochs=epochs, imgsz=imgsz, project=folder, name="run", **TRAINING)
    except KeyboardInterrupt:
        return found
    raise RuntimeError("the training was not stopped")


def resume(*, folder: str, **_: Any) -> dict[str, Any]:
    """Trains on to the end, from the file of weights alone."""
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports]

    model = YOLO(Path(folder) / "run" / "weights" / "last.pt")
    model.train(resume=True)
    return {"layers_resumed": count(model.trainer.model)}


def read_best(*, folder: str, data: str, imgsz: int, **_: Any) -> dict[str, Any]:
    """Validates the best weights and looks into their exports."""
    import onnx  # pyright: ignore[reportMissingImports]
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports]

    file = Path(folder) / "run" / "weights" / "best.pt"
    model = YOLO(file)
    found = {"layers_best": count(model.model), "parameters": sum(each.numel() for each in model.model.parameters())}
    metrics = model.val(data=data, imgsz=imgsz, device="cpu", workers=0, plots=False)
    found |= {"map50": round(100 * metrics.box.map50, 2), "map50_95": round(100 * metrics.box.map, 2)}
    weights = onnx.load(YOLO(file).export(format="onnx", imgsz=imgsz, simplify=False)).graph.initializer
    found["layers_onnx"] = sum(each.name.endswith("query.weight") for each in weights)
    traced = torch.jit.load(YOLO(file).export(format="torchscript", imgsz=imgsz))
    names = [each.original_name for each in traced.modules() if hasattr(each, "original_name")]
    return {**found, "layers_torchscript": names.count("ACmix2d")}


STEPS = (train_half, resume, read_best)


def in_a_fresh_process(step: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a step finds."""
    answer = Path(settings["folder"]) / f"{step}.json"
    answer.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, __file__, "--step", step, json.dumps(settings), str(answer)], check=True)
    return json.loads(answer.read_text(encoding="utf-8"))


def measure(scale: str, form: str, data: Path, folder: Path, *, epochs: int, imgsz: int) -> dict[str, Any]:
    """One row of the results."""
    settings = dict(
        scale=scale, form=form, data=str(data), folder=str(folder / f"{scale}-{form}"), epochs=epochs, imgsz=imgsz
    )
    row: dict[str, Any] = {**measured_with(torch.device("cpu")), "ultralytics": version("ultralytics")}
    row |= {"model": f"yolo11{scale}", "form": form, "images": 200, "epochs": epochs, "imgsz": imgsz}
    begun = time.monotonic()
    for step in STEPS:
        row |= in_a_fresh_process(step.__name__, settings)
    return {**row, "minutes": round((time.monotonic() - begun) / 60, 1)}


def finished(path: Path, epochs: int, imgsz: int) -> set[tuple[str, str]]:
    """The trainings that the results hold."""
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["epochs"], row["imgsz"]) == (str(epochs), str(imgsz))]
    return {(row["model"], row["form"]) for row in rows}


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Writes a row at the end of the results."""
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    """Runs what is asked for, the small networks first."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--scales", default="nsm", help="letters of YOLO11's scales (default: nsm)")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--imgsz", type=int, default=96, help="side of the images in pixels (default: 96)")
    parser.add_argument("--folder", type=Path, help="where pictures and runs go (default: a temporary folder)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the CSV file that rows are added to")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        name, settings, answer = given.step
        step = next(each for each in STEPS if each.__name__ == name)
        Path(answer).write_text(json.dumps(step(**json.loads(settings))), encoding="utf-8")
        return
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="acmix_yolo_"))).resolve()
    os.environ |= {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    folder.mkdir(parents=True, exist_ok=True)
    data = draw_pictures(folder / "pictures")
    done = finished(given.output, given.epochs, given.imgsz)
    for scale in given.scales:
        for form in FORMS:
            if (f"yolo11{scale}", form) not in done:
                row = measure(scale, form, data, folder, epochs=given.epochs, imgsz=given.imgsz)
                add_row(given.output, row)
                print({name: row[name] for name in COLUMNS[6:]}, flush=True)


if __name__ == "__main__":
    main()
