"""Ground truth, predictions and label maps with everything odd that data hold, to compare evaluators on.

Shapes: n detections of an image · H W a label map's height and width
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from acmix.data.label_maps import IGNORED
from acmix.tasks.detect.results import Detections

Array = np.ndarray[Any, Any]
# ids with gaps, not in order
CATEGORY_IDS = (7, 1, 2, 90, 3, 5, 11, 13)
# by id: in no annotation, in no prediction, in crowds alone
NEVER_SEEN, NEVER_FOUND, CROWDS_ALONE = 11, 13, 5
# height and width; objects of every size, and images of one pixel's height or width
SIZES = ((120, 160), (240, 320), (100, 60), (1, 500), (40, 1), (200, 200))
SEGMENT_CLASSES, SEGMENT_ABSENT, SEGMENT_UNLABELLED = 9, 4, 6


@dataclass(frozen=True)
class Stored:
    """Ground truth in COCO's form, and a prediction for each image, in the images' order."""

    truth: dict[str, Any]
    detections: list[Detections]


def odd_detections(images: int, seed: int = 0) -> Stored:
    """Makes images with crowds, without objects, with crowds alone, without predictions; ties in scores, more than 100
    detections of a category, areas from one pixel to the whole image and on the borders between sizes, boxes beyond the
    image and without area, duplicates, polygons in parts, masks as run lengths of both forms, holes in the ids.

    Args:
        images: how many; ten and more have every oddity.
        seed: of all chance.
    """
    random = np.random.default_rng(seed)
    ids = random.permutation(3 * images)[:images] + 1
    truth: dict[str, Any] = {
        "images": [],
        "categories": [{"id": each, "name": f"class {each}"} for each in CATEGORY_IDS],
        "annotations": [],
    }
    detections = []
    for index, image_id in enumerate(ids.tolist()):
        height, width = SIZES[index % len(SIZES)]
        truth["images"].append({"id": image_id, "height": height, "width": width, "file_name": f"{image_id}.jpg"})
        objects = odd_objects(random, index, height, width)
        truth["annotations"] += [{**each, "image_id": image_id} for each in objects]
        detections.append(odd_guesses(random, index, objects, height, width))
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
    return Stored(truth, detections)


def odd_objects(random: np.random.Generator, index: int, height: int, width: int) -> list[dict[str, Any]]:
    """The annotations of an image, without ids."""
    if index % 10 == 3:
        return []
    objects = []
    for number in range(int(random.integers(1, 9))):
        categories = [each for each in CATEGORY_IDS if each not in (NEVER_SEEN, CROWDS_ALONE)]
        category = int(random.choice(categories))
        is_crowd = index % 10 == 5 or random.random() < 0.15
        if is_crowd and random.random() < 0.5:
            category = CROWDS_ALONE
        objects.append(odd_object(random, number, category, bool(is_crowd), height, width))
    if index % 4 == 0:
        objects.append(dict(objects[0]))
    return objects


def odd_object(
    random: np.random.Generator, number: int, category: int, is_crowd: bool, height: int, width: int
) -> dict[str, Any]:
    """One annotation: of a side drawn, or of 32 or 96 pixels, the borders of small and of large."""
    from faster_coco_eval.core import mask

    side = (1.0, 32.0, 96.0, float(random.uniform(1, 300)))[int(random.integers(4))]
    box_width, box_height = min(side, float(width)), min(side, float(height))
    left, top = float(random.uniform(0, width - box_width)), float(random.uniform(0, height - box_height))
    if number % 2:
        left, top = float(round(left)), float(round(top))
    polygons = [outline(random, left, top, box_width, box_height)]
    if number % 3 == 0:
        polygons.append(outline(random, left, top, box_width / 2, box_height / 2))
    segmentation: Any = polygons
    parts: Any = mask.frPyObjects(polygons, height, width)
    code = mask.merge(parts)
    if is_crowd:
        segmentation = {"size": [height, width], "counts": run_lengths(mask.decode(code))}
    elif number % 5 == 4:
        segmentation = {"size": [height, width], "counts": code["counts"].decode()}
    area = box_width * box_height if number % 4 == 0 else float(mask.area(code))
    box = [left, top, box_width, box_height]
    return {"category_id": category, "iscrowd": int(is_crowd), "bbox": box, "area": area, "segmentation": segmentation}


def outline(random: np.random.Generator, left: float, top: float, width: float, height: float) -> list[float]:
    """A polygon [x0, y0, x1, y1, …] in a box: the box itself, or an ellipse."""
    if random.random() < 0.3:
        corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
        return [value for x, y in corners for value in (left + x * width, top + y * height)]
    angles = np.linspace(0, 2 * np.pi, int(random.integers(8, 24)), endpoint=False)
    x, y = left + width * (1 + np.cos(angles)) / 2, top + height * (1 + np.sin(angles)) / 2
    return np.stack([x, y], axis=1).ravel().tolist()


def run_lengths(mask: Array) -> list[int]:
    """Uncompressed run lengths of a mask (H, W), column by column, from zeros on."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def odd_guesses(
    random: np.random.Generator, index: int, objects: list[dict[str, Any]], height: int, width: int
) -> Detections:
    """What a detector might say of an image: objects moved a little, invented ones, and doubles."""
    labels_of = {category: number for number, category in enumerate(sorted(CATEGORY_IDS), start=1)}
    guesses: list[tuple[list[float], float, int]] = []
    if index % 10 != 7:
        for each in objects:
            for _ in range(int(random.integers(0, 4))):
                category = each["category_id"] if random.random() < 0.8 else int(random.choice(CATEGORY_IDS))
                guesses.append((moved(random, each["bbox"]), score(random), category))
        for _ in range(int(random.integers(0, 6)) if index % 10 else 250):
            # 250 of two categories: more than 100 of each
            category = int(random.choice(CATEGORY_IDS if index % 10 else CATEGORY_IDS[:2]))
            size = random.uniform(0, 1.2, 2) * (width, height)
            place = random.uniform(-0.2, 1, 2) * (width, height)
            guesses.append(([*place.tolist(), *size.tolist()], score(random), category))
        if guesses and index % 3 == 0:
            guesses += [guesses[0], ([*guesses[0][0][:2], 0.0, 0.0], 0.5, guesses[0][2])]
    guesses = [each for each in guesses if each[2] != NEVER_FOUND]
    boxes = np.array([[x, y, x + w, y + h] for (x, y, w, h), _, _ in guesses], np.float32).reshape(-1, 4)
    return Detections(
        image=index,
        boxes=boxes,
        scores=np.array([each[1] for each in guesses], np.float32),
        labels=np.array([labels_of[each[2]] for each in guesses], np.int64),
        size=(height, width),
        masks=drawn(random, boxes, height, width),
    )


def moved(random: np.random.Generator, box: list[float]) -> list[float]:
    """A box [x, y, width, height] as found: exactly, or off by up to a third of its size, perhaps beyond the image."""
    if random.random() < 0.25:
        return list(box)
    x, y, width, height = box
    shift, stretch = random.normal(0, 0.1, 2), random.uniform(0.7, 1.3, 2)
    return [x + shift[0] * width, y + shift[1] * height, width * stretch[0], height * stretch[1]]


def score(random: np.random.Generator) -> float:
    """A score; in most cases one of twenty, so that there are ties."""
    value = float(random.random())
    return round(20 * value) / 20 if random.random() < 0.7 else value


def drawn(random: np.random.Generator, boxes: Array, height: int, width: int) -> tuple[bytes, ...]:
    """A mask in each box (n, 4), encoded: the ellipse in it, now and then nothing at all."""
    from faster_coco_eval.core import mask

    codes = []
    for left, top, right, bottom in boxes.tolist():
        polygon = outline(random, left, top, right - left, bottom - top)
        # rasterised beyond the image a polygon is not defined: its points are moved to the border
        x, y = np.clip(polygon[::2], 0, width), np.clip(polygon[1::2], 0, height)
        code = mask.frPyObjects([np.stack([x, y], axis=1).ravel().tolist()], height, width)[0]["counts"]
        codes.append(mask.encode(np.zeros((height, width), np.uint8))["counts"] if random.random() < 0.02 else code)
    return tuple(codes)


def odd_label_maps(images: int, seed: int = 0) -> list[tuple[Array, Array]]:
    """Makes predictions and labels (H, W), both uint8, with ignored pixels, maps ignored throughout, of one pixel, and
    of many sizes, classes that occur nowhere, only in labels or only in predictions.

    Args:
        images: how many.
        seed: of all chance.
    """
    random = np.random.default_rng(seed)
    maps = []
    for index in range(images):
        size = ((17, 23), (1, 1), (1, 50), (31, 8))[index % 4]
        labels = random.integers(0, SEGMENT_CLASSES, size).astype(np.uint8)
        guesses = np.where(random.random(size) < 0.6, labels, random.integers(0, SEGMENT_CLASSES, size)).astype(
            np.uint8
        )
        labels[(labels == SEGMENT_ABSENT) | (labels == SEGMENT_UNLABELLED)] = 0
        guesses[guesses == SEGMENT_ABSENT] = 1
        labels[random.random(size) < (1.0 if index % 10 == 9 else 0.1)] = IGNORED
        maps.append((guesses, labels))
    return maps


def coco_like(images: int, seed: int = 0, *, objects: float = 7.2, guesses: int = 100, classes: int = 80) -> Stored:
    """Makes data of COCO's counts: 80 categories, 36,000 objects in 5,000 images, 100 detections an image.

    Args:
        images: how many, each 480 × 640.
        seed: of all chance.
        objects: in an image, on average.
        guesses: in an image.
        classes: categories.
    """
    random = np.random.default_rng(seed)
    height, width = 480, 640
    truth: dict[str, Any] = {
        "images": [{"id": number + 1, "height": height, "width": width} for number in range(images)],
        "categories": [{"id": number + 1, "name": f"class {number + 1}"} for number in range(classes)],
        "annotations": [],
    }
    detections = []
    for index in range(images):
        found: list[tuple[list[float], int]] = []
        for _ in range(int(random.poisson(objects))):
            size = np.exp(random.uniform(np.log(8), np.log(400), 2)).clip(max=(width, height))
            place = random.uniform(0, 1, 2) * ((width, height) - size)
            box, category = [*place.tolist(), *size.tolist()], int(random.integers(classes)) + 1
            found.append((box, category))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": index + 1,
                    "category_id": category,
                    "iscrowd": 0,
                    "bbox": box,
                    "area": box[2] * box[3] * 0.7,
                    "segmentation": [outline(random, *box)],
                }
            )
        rows = [
            found[int(random.integers(len(found)))] if found else ([9.0, 9.0, 50.0, 50.0], 1) for _ in range(guesses)
        ]
        moves = [moved(random, box) for box, _ in rows]
        boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in moves], np.float32)
        near = random.random(guesses) < 0.5
        detections.append(
            Detections(
                image=index,
                boxes=boxes,
                scores=random.random(guesses).astype(np.float32),
                labels=np.where(near, [each for _, each in rows], random.integers(1, classes + 1, guesses)),
                size=(height, width),
                masks=drawn(random, boxes, height, width),
            )
        )
    return Stored(truth, detections)
