"""Trains every head of detection and segmentation on a shrunken backbone of every family, on scenes drawn of digits.

python benchmarks/downstream.py [--jobs N] [--only HEAD …]

Swin and ResNet are trained with the convolution path and without it, the others with it: 49 runs, N at a time, one
thread each. There is one recipe for detection and one for segmentation. As everywhere, a backbone learns to classify
first: here the objects of the training scenes, cut out, again with one recipe. Its 7 runs are no rows of the table.

Runs are kept in runs/downstream; a finished run is not repeated, so the same command goes on where it was stopped.
Writes downstream.csv and downstream.png into benchmarks/results/: metrics are percent, of 100 scenes of digits that
were not trained on, and `minutes` are of a run with its evaluation, `cpu_minutes` those that its thread worked.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from PIL import Image

from acmix.benchmark.record import counted
from acmix.config import Config, validate
from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes
from acmix.errors import UsageError
from acmix.tasks.evaluation import LABELS
from acmix.train.device import device_name
from acmix.train.log import duration
from acmix.train.loop import train

COLUMNS = (
    *("head", "backbone", "conv_path", "parameters", "steps"),
    *("box_ap", "box_ap50", "mask_ap", "miou", "pixel_accuracy", "minutes", "cpu_minutes", "machine"),
)
METRICS = COLUMNS[5:10]
SEGMENTERS = ("semantic_fpn", "upernet")
DETECTORS = ("retinanet", "fcos", "faster_rcnn", "mask_rcnn", "cascade_mask_rcnn")
HEADS = (*DETECTORS, *SEGMENTERS)
# what a backbone learns before it has one of these heads
FIRST = "classifier"
# family: the network and what shrinks it
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "swin": (
        "acmix_swin_tiny_patch4_window7_224",
        {"embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 4},
    ),
    "resnet": ("acmix_resnet26", {"width": 16}),
    "pvt": ("acmix_pvt_tiny", {"embed_dims": [32, 64, 96, 128], "num_heads": [1, 2, 3, 4], "depths": [1, 1, 2, 1]}),
    "san": ("acmix_san10", {"width": 32, "zero_init_residual": True}),
    "deit": ("acmix_deit_tiny_patch16_224", {"embed_dim": 96, "depth": 4}),
}
# mirrored digits are others; what segmentation and detection do not read is classification's
AUGMENT = {
    **{"hflip": 0.0, "scale": [0.6, 1.0], "ratio": [0.8, 1.25], "color_jitter": None, "auto_augment": None},
    **{"random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0},
}
# half the usual anchors, for objects of 18 pixels (the median)
REGIONS = {"hidden": 128, "proposals": 100, "samples": 32, "anchor_scale": 4}
OF_HEAD: dict[str, dict[str, Any]] = {"retinanet": {"anchor_scale": 2}, "fcos": {}}
BOTH_FORMS = ("swin", "resnet")
IMAGES, SIZE = (600, 100), 96
STEPS = {"classify": 1500, "segment": 1000, "detect": 1000}
BATCH = {"classify": 32, "segment": 8, "detect": 4}
LR = {"classify": 1e-3, "segment": 3e-3, "detect": 1e-3}
SPLITS = {
    "classify": ("train", "val"),
    "segment": ("training", "validation"),
    "detect": ("train2017", "val2017"),
}
# of an object that is cut out of a scene: its side in pixels, and what is left around it, by its larger side
CROP, MARGIN = 32, 0.1


class Cell(NamedTuple):
    """One run.

    Args:
        head: one of `HEADS`, or `FIRST`.
        family: one of `BACKBONES`.
        conv_path: False is the plain form.
    """

    head: str
    family: str
    conv_path: bool

    @property
    def task(self) -> str:
        """What is learned."""
        return "classify" if self.head == FIRST else "segment" if self.head in SEGMENTERS else "detect"

    @property
    def body(self) -> Cell:
        """The run whose backbone this one begins with."""
        return self._replace(head=FIRST)

    @property
    def folder(self) -> str:
        """Of the run."""
        return f"{self.head}_{self.family}{'' if self.conv_path else '_plain'}"

    def __str__(self) -> str:
        return f"{self.head} on {self.family}, path {'on' if self.conv_path else 'off'}"


class Length(NamedTuple):
    """How much is trained; the tests' is tiny.

    Args:
        images: to train and to validate.
        size: of an image's longer side in pixels.
        steps: by task.
    """

    images: tuple[int, int] = IMAGES
    size: int = SIZE
    steps: dict[str, int] = STEPS


def cells(heads: Iterable[str] = HEADS) -> list[Cell]:
    """The runs, form by form of each backbone, so that those of the first backbones are complete first."""
    forms = [(family, path) for family in BACKBONES for path in ((True, False) if family in BOTH_FORMS else (True,))]
    return [Cell(head, family, path) for family, path in forms for head in HEADS if head in heads]


def settings(cell: Cell, root: Path, length: Length) -> Config:
    """The configuration of a run: one recipe for each task, and the sizes of the networks.

    Args:
        cell: the run.
        root: of all runs and their data.
        length: how much is trained.
    """
    name, arguments = BACKBONES[cell.family]
    train_split, val_split = SPLITS[cell.task]
    model = {"name": name, "conv_path": cell.conv_path, "in_chans": 1, "args": arguments}
    if cell.head == FIRST:
        model["num_classes"] = 10
    else:
        model["checkpoint"] = str(root / cell.body.folder / "checkpoints" / "best.pt")
    return validate(
        {
            "task": task_of(cell, length.size),
            "model": model,
            "data": {
                "dir": str(root / f"scenes_{cell.task}"),
                # PVT and DeiT hold positions for it
                "img_size": CROP if cell.head == FIRST else length.size,
                "crop_pct": 1.0,
                # grey images: an object differs from its ground in brightness
                "mean": [0.45],
                "std": [0.25],
                "train_split": train_split,
                "val_split": val_split,
                "workers": 0,
            },
            "augment": AUGMENT,
            "optimizer": {"name": "adamw", "lr": LR[cell.task], "base_batch_size": None},
            "schedule": {"name": "poly", "warmup_steps": min(60, length.steps[cell.task] // 10)},
            "train": {
                "device": "cpu",
                "precision": "fp32",
                "steps": length.steps[cell.task],
                "batch_size": BATCH[cell.task],
                "log_every_steps": 10,
                # at the end alone
                "evaluate_every_epochs": 10_000,
                "checkpoint_every_epochs": 10_000,
                "tensorboard": False,
            },
        }
    )


def task_of(cell: Cell, size: int) -> dict[str, Any]:
    """Sizes of a head, and how its images are prepared: in segmentation, crops at random scales."""
    if cell.task == "classify":
        return {"name": "classify"}
    own = {"name": cell.task, "head": cell.head, "max_size": size}
    if cell.task == "detect":
        arguments = {"channels": 64, **OF_HEAD.get(cell.head, REGIONS)}
        return {**own, "num_classes": 10, "min_size": [size], "args": arguments}
    narrow = {"pyramid_channels": 64} if cell.head == "semantic_fpn" else {"auxiliary_channels": 32}
    return {
        **own,
        # the ground and ten digits
        "num_classes": 11,
        "min_size": [size],
        "scale": [0.9, 1.1],
        "crop": [size],
        # most of every crop is ground
        "crop_class_share": 1.0,
        "args": {"channels": 64, **narrow},
    }


def write_data(root: Path, length: Length) -> None:
    """Scenes for both tasks, and what is cut out of those for detection: a folder for each class."""
    for task, write in (("segment", write_segmentation_scenes), ("detect", write_detection_scenes)):
        write(root / f"scenes_{task}", images=length.images, size=length.size)
    for split, scenes in zip(SPLITS["classify"], SPLITS["detect"], strict=True):
        cut_out(root / "scenes_detect", scenes, root / "scenes_classify" / split)


def cut_out(scenes: Path, split: str, target: Path) -> None:
    """Writes every object of a split as a square image, into a folder of its class."""
    if target.is_dir():
        return
    document = json.loads((scenes / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
    images = {each["id"]: each["file_name"] for each in document["images"]}
    names = {each["id"]: each["name"] for each in document["categories"]}
    partial = target.with_name(f"{target.name}.partial")
    for each in document["annotations"]:
        if each["iscrowd"]:
            continue
        left, top, width, height = each["bbox"]
        side = max(width, height) * (1 + 2 * MARGIN)
        x, y = left + (width - side) / 2, top + (height - side) / 2
        folder = partial / names[each["category_id"]]
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(scenes / split / images[each["image_id"]]) as image:
            square = image.resize((CROP, CROP), Image.Resampling.BICUBIC, box=inside(x, y, side, image.size))
        square.save(folder / f"{each['id']:06d}.png")
    partial.rename(target)


def inside(x: float, y: float, side: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A square, moved into the image as far as it fits: left, top, right, bottom."""
    side = min(side, *size)
    x, y = (min(max(at, 0), whole - side) for at, whole in zip((x, y), size, strict=True))
    return x, y, x + side, y + side


def run(cell: Cell, root: Path, length: Length) -> dict[str, str]:
    """Trains one cell, or reads what it came to; what training prints goes to printed.txt.

    Returns:
        A row of `COLUMNS`, and `top1`.
    """
    folder = root / cell.folder
    if not is_finished(cell, root):
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        began, worked = time.monotonic(), time.process_time()
        with (
            (folder / "printed.txt").open("w", encoding="utf-8") as printed,
            redirect_stdout(printed),
            redirect_stderr(printed),
        ):
            train(settings(cell, root, length), folder)
        took = {
            "minutes": f"{(time.monotonic() - began) / 60:.2f}",
            "cpu_minutes": f"{(time.process_time() - worked) / 60:.2f}",
            "machine": device_name(torch.device("cpu")),
        }
        (folder / "took.json").write_text(json.dumps(took), encoding="utf-8")
    return row_of(cell, folder)


def row_of(cell: Cell, folder: Path) -> dict[str, str]:
    """What a finished run came to."""
    summary, took = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("summary.json", "took.json"))
    metrics = {name: "" if summary.get(name) is None else f"{summary[name]:.2f}" for name in ("top1", *METRICS)}
    return {
        **{"head": cell.head, "backbone": cell.family, "conv_path": str(cell.conv_path)},
        **{name: str(summary[name]) for name in ("parameters", "steps")},
        **metrics,
        **took,
    }


def is_finished(cell: Cell, root: Path) -> bool:
    """Whether a run is there, measured."""
    return (root / cell.folder / "took.json").is_file()


def train_all(chosen: Sequence[Cell], root: Path, results: Path, *, jobs: int, length: Length) -> list[str]:
    """Trains cells, some at a time, and writes the table after each; a backbone's classifier comes first.

    Args:
        chosen: the cells; their backbones' classifiers are trained as well.
        root: of the runs.
        results: folder of the table and the picture.
        jobs: processes at a time.
        length: how much is trained.

    Returns:
        What went wrong, a line each.
    """
    write_data(root, length)
    waiting = [*dict.fromkeys(each for cell in chosen for each in (cell.body, cell))]
    count, running, ended, wrong = len(waiting), {}, 0, []
    to_train, trained, began = sum(not is_finished(each, root) for each in waiting), 0, time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        while waiting or running:
            ready = [each for each in waiting if each.head == FIRST or is_finished(each.body, root)]
            for cell in ready[: jobs - len(running)]:
                waiting.remove(cell)
                running[pool.submit(run, cell, root, length)] = cell, is_finished(cell, root)
            if not running:
                return [*wrong, f"{counted(len(waiting), 'run')} without a trained backbone: left out"]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell, was_there = running.pop(future)
                ended, trained = ended + 1, trained + (not was_there)
                try:
                    row = future.result()
                except UsageError as error:
                    wrong.append(f"{cell}: {error}")
                    print(wrong[-1], flush=True)
                    continue
                left = (time.monotonic() - began) / max(trained, 1) * (to_train - trained)
                print(f"{ended}/{count} · {cell} · {told(row)} · about {duration(left)} left", flush=True)
                write(root, results)
    return wrong


def told(row: dict[str, str]) -> str:
    """The figures of a run on a line."""
    metrics = [f"{LABELS[name]} {row[name]} %" for name in LABELS if row.get(name)]
    return " · ".join([*metrics, f"{row['minutes']} min"])


def write(root: Path, results: Path) -> None:
    """The table and the picture of all runs that are finished."""
    rows = [row_of(cell, root / cell.folder) for cell in cells() if is_finished(cell, root)]
    with (results / "downstream.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, results / "downstream.png")


def draw(rows: Sequence[dict[str, str]], file: Path) -> None:
    """Bars by head: AP50 of detectors, mIoU of segmenters; plain forms are hatched."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=(len(DETECTORS), len(SEGMENTERS)), sharey=True)
    forms = [*dict.fromkeys((each.family, each.conv_path) for each in cells())]
    for panel, heads, metric in zip(panels, (DETECTORS, SEGMENTERS), ("box_ap50", "miou"), strict=True):
        for place, (family, path) in enumerate(forms):
            own = {row["head"]: row for row in rows if (row["backbone"], row["conv_path"]) == (family, str(path))}
            there = [i for i, head in enumerate(heads) if head in own]
            panel.bar(
                [i + (place - (len(forms) - 1) / 2) / (len(forms) + 1) for i in there],
                [float(own[heads[i]][metric]) for i in there],
                1 / (len(forms) + 1),
                label=family if path else f"{family}, path off",
                color=f"C{[*BACKBONES].index(family)}",
                hatch=None if path else "///",
                edgecolor="white",
            )
        panel.set(xticks=range(len(heads)), xticklabels=heads, ylabel=f"{LABELS[metric]}, %", ylim=(0, 100))
        panel.grid(axis="y", alpha=0.3)
    # beside the bars, not on them
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=110)


def main(root: Path) -> int:
    """Trains what the command line asks for; the exit status: 1 where a run failed.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=HEADS, default=HEADS, metavar="HEAD", help=", ".join(HEADS))
    parser.add_argument("--runs", type=Path, default=root / "runs" / "downstream", help="folder of the runs")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the table")
    asked = parser.parse_args()
    wrong = train_all(cells(asked.only), asked.runs, asked.results, jobs=asked.jobs, length=Length())
    print(f"written: {asked.results / 'downstream.csv'} and downstream.png")
    return 1 if wrong else 0
