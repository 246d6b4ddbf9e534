"""The demos of detection and segmentation: a small ACmix model learns to find digits, or clothes, in drawn scenes.

Run as `acmix demo detect` and `acmix demo segment`.
"""

from __future__ import annotations

from pathlib import Path

from acmix import config
from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes
from acmix.data.sprites import SOURCES, open_sources
from acmix.errors import UsageError
from acmix.tasks.evaluation import LABELS
from acmix.tools.evaluate import evaluate_checkpoint
from acmix.tools.predict_command import run as predict_and_draw
from acmix.tools.report import report
from acmix.train.loop import train
from acmix.train.terminal import new_console, say

DETECT, SEGMENT = "detect_digits.yaml", "segment_digits.yaml"
# scenes to train on and to validate
DETECT_IMAGES, SEGMENT_IMAGES = (600, 150), (1200, 150)
# pixels of the longer side of a scene whose pixels are labelled
SEGMENT_SIZE = 96
# held-out scenes that predictions are drawn on
DRAWN = 16


def demo_detect(
    data: Path,
    output: Path,
    overrides: tuple[str, ...] = (),
    *,
    source: str = "digits",
    images: tuple[int, int] = DETECT_IMAGES,
) -> None:
    """Writes scenes in COCO's format, trains a Mask R-CNN to the end, evaluates, draws predictions and reports.

    Args:
        data: where the scenes go.
        output: the run's folder; a finished run in it is not trained again.
        overrides: `key=value` changes to the configuration.
        source: what is in the scenes: "digits", "clothes" or "both".
        images: scenes to train on, and to validate.
    """
    classes = number_of_classes(source)
    folder = write_detection_scenes(data, source=source, images=images)
    show(DETECT, folder, output, (f"task.num_classes={classes}", *overrides))


def demo_segment(
    data: Path,
    output: Path,
    overrides: tuple[str, ...] = (),
    *,
    source: str = "digits",
    images: tuple[int, int] = SEGMENT_IMAGES,
) -> None:
    """The same with scenes in ADE20K's format, and UPerNet, which labels each pixel; the ground is a class too."""
    classes = number_of_classes(source) + 1
    folder = write_segmentation_scenes(data, source=source, images=images, size=SEGMENT_SIZE)
    show(SEGMENT, folder, output, (f"task.num_classes={classes}", *overrides))


def number_of_classes(source: str) -> int:
    """How many classes a source has."""
    if source not in SOURCES:
        raise UsageError(f"--source {source}: expected {', '.join(SOURCES)}")
    return sum(len(each.names) for each in open_sources(source))


def show(configuration: str, folder: Path, output: Path, overrides: tuple[str, ...]) -> None:
    """What both demos do with the scenes in a folder."""
    console = new_console()
    images = sorted(folder.rglob("*.jpg"))
    say(console, f"{len(images)} scenes in {folder}")
    settings = config.load(configuration, [f"data.dir={folder}", *overrides])
    train(settings, output)

    best = output / "checkpoints" / "best.pt"
    evaluated = evaluate_checkpoint(best, str(folder))
    measured = ", ".join(f"{LABELS[name]} {evaluated.result.metrics[name]:.2f} %" for name in evaluated.shown)
    say(console, f"best.pt read back: {measured} on {evaluated.result.images} held-out scenes")
    drawn = output / "predictions"
    held_out = [image for image in images if image.parent.name == settings.data.val_split]
    predict_and_draw(
        str(best), [str(image) for image in held_out[:DRAWN]], as_json=False, output=drawn,
        batch_size=None, workers=0, img_size=None, device="auto",
    )  # fmt: skip
    places = {
        "summary": output / "summary.json",
        "curves": output / "curves.png",
        "path rates": output / "paths.png",
        "checkpoint": best,
        "predictions": drawn,
        "report": report(output),
    }
    for what, place in places.items():
        say(console, f"{what:>11}: {place}")
    say(console, f"To train again, delete {output}. To predict: acmix predict {best} IMAGE --output DIR")
