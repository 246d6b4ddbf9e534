"""Our evaluators beside pycocotools and a plain loop: the largest difference, and the seconds of each.

python benchmarks/evaluators.py                  200 odd images, on one process and on two
python benchmarks/evaluators.py --images 5000    and the seconds for 5,000 images of COCO's counts, in turn

->  benchmarks/results/evaluators.csv
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from acmix.benchmark.machine import Ceilings
from acmix.benchmark.oddities import SEGMENT_CLASSES, Array, Stored, coco_like, odd_detections, odd_label_maps
from acmix.benchmark.pairs import Candidate, Subject, compare
from acmix.benchmark.record import counted, lines, measured_with, rounded
from acmix.data.label_maps import IGNORED
from acmix.tasks.detect.average_precision import KINDS, NUMBERS, average_precision, unique_names
from acmix.tasks.detect.results import check_installed, coco_results
from acmix.tasks.evaluation import Evaluation
from acmix.tasks.measuring import told_to_all
from acmix.tasks.segment.confusion import count_pixels, measures

ODD_IMAGES = 200
PROCESSES = (1, 2)
COLUMNS = (
    *("date", "commit", "machine", "torch", "timm", "line", "images", "processes", "peer", "numbers"),
    *("largest_difference", "rounds", "speed_up", "speed_up_low", "speed_up_high", "time_ms", "peer_time_ms"),
)
CPU = torch.device("cpu")


def main(root: Path) -> int:
    """Reads the command line.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=0, help="time as many images of COCO's counts, too")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long the rounds last; at least five are done")
    parser.add_argument("--output", type=Path, default=root / "benchmarks" / "results" / "evaluators.csv")
    asked = parser.parse_args()
    check_installed()
    rows = differences(ODD_IMAGES)
    if asked.images:
        rows.append(seconds(asked.images, asked.seconds))
    common = measured_with(CPU)
    with asked.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**common, **row} for row in rows)
    print(f"written: {asked.output}")
    return 0 if all(row.get("largest_difference", 0.0) < 1e-9 for row in rows) else 1


def differences(images: int) -> list[dict[str, Any]]:
    """Compares every number with its oracle's on as many odd images, on one process and on several; a row for each."""
    stored, maps = odd_detections(images), odd_label_maps(images)
    theirs, plain = by_pycocotools(stored), by_plain_loop(maps)
    rows = []
    for processes in PROCESSES:
        detected, segmented = on_processes(processes, images)
        found = {
            "detect: 24 numbers": ("pycocotools", detected.metrics, theirs.metrics),
            "detect: by class": ("pycocotools", flat(detected.by_class), flat(theirs.by_class)),
            "segment: 3 numbers": ("a plain loop", segmented.metrics, plain.metrics),
            "segment: by class": ("a plain loop", flat(segmented.by_class), flat(plain.by_class)),
        }
        for what, (peer, ours, other) in found.items():
            difference = largest_difference(ours, other)
            place = f"{counted(images, 'image')}, {counted(processes, 'process', 'es')}"
            print(f"{what}, {place}: {difference:.3g} from {peer} at most, of {counted(len(ours), 'number')}")
            row = {"line": what, "images": images, "processes": processes, "peer": peer, "numbers": len(ours)}
            rows.append({**row, "largest_difference": difference})
    return rows


def flat(by_class: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """The numbers of all classes, each by class and name."""
    return {f"{name} {key}": value for name, row in by_class.items() for key, value in row.items()}


def largest_difference(ours: Mapping[str, float | None], theirs: Mapping[str, float | None]) -> float:
    """In percentage points or in counts; infinite where one side has a number that the other has not."""
    known = [{name: value for name, value in side.items() if value is not None} for side in (ours, theirs)]
    if known[0].keys() != known[1].keys():
        return math.inf
    return max((abs(known[0][name] - known[1][name]) for name in known[0]), default=0.0)


def on_processes(processes: int, images: int) -> tuple[Evaluation, Evaluation]:
    """What the evaluators give on as many gloo processes, each with its share of the odd images: the same on all."""
    if processes == 1:
        return evaluated(odd_detections(images), odd_label_maps(images), 0, 1)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="acmix_evaluators_") as folder, context.Pool(processes) as pool:
        shares = [(rank, processes, images, f"{Path(folder, 'store').as_uri()}") for rank in range(processes)]
        results = pool.starmap(of_one_process, shares, chunksize=1)
    assert all(result == results[0] for result in results)
    return results[0]


def of_one_process(rank: int, processes: int, images: int, store: str) -> tuple[Evaluation, Evaluation]:
    """What one of several processes is given."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    try:
        return evaluated(odd_detections(images), odd_label_maps(images), rank, processes)
    finally:
        dist.destroy_process_group()


def evaluated(
    stored: Stored, maps: Sequence[tuple[Array, Array]], rank: int, processes: int
) -> tuple[Evaluation, Evaluation]:
    """Evaluates a process's share of stored predictions together with the other processes."""
    detected = average_precision(stored.truth, stored.detections[rank::processes], with_masks=True)
    share = [
        count_pixels(torch.from_numpy(predicted), torch.from_numpy(labels), SEGMENT_CLASSES)
        for predicted, labels in maps[rank::processes]
    ]
    matrix = torch.stack(told_to_all(torch.stack(share).sum(dim=0))).sum(dim=0)
    return detected, measures(matrix, segment_names(), images=len(maps))


def segment_names() -> list[str]:
    """Names of the classes of the odd label maps."""
    return [f"class {number}" for number in range(SEGMENT_CLASSES)]


def by_pycocotools(stored: Stored) -> Evaluation:
    """The oracle's numbers, as ours are named: left out or None where it gives -1."""
    names = unique_names(sorted(stored.truth["categories"], key=lambda category: category["id"]))
    ids = sorted(category["id"] for category in stored.truth["categories"])
    metrics: dict[str, float] = {}
    by_class: dict[str, dict[str, float | None]] = {name: {} for name in names}
    for kind in KINDS:
        evaluator = run_pycocotools(stored.truth, oracle_results(stored, kind), kind)
        numbers = zip(NUMBERS, evaluator.stats.tolist(), strict=True)
        metrics |= {f"{kind}_{number.name}": 100 * value for number, value in numbers if value > -1}
        precision = evaluator.eval["precision"][:, :, :, 0, 2]  # (10, 101, categories)
        for row, name in enumerate(names):
            of_class = precision[:, :, row]
            has = of_class.max() > -1
            by_class[name][f"{kind}_ap"] = 100 * float(of_class.mean()) if has else None
            by_class[name][f"{kind}_ap50"] = 100 * float(of_class[0].mean()) if has else None
    for name, number in zip(names, ids, strict=True):
        rows = stored.truth["annotations"]
        by_class[name]["objects"] = sum(each["category_id"] == number and not each["iscrowd"] for each in rows)
    return Evaluation(metrics, images=len(stored.detections), by_class=by_class)


def oracle_results(stored: Stored, kind: str) -> list[dict[str, Any]]:
    """Detections in COCO's result format; with masks without the box, else pycocotools takes the box's area."""
    ids = sorted(category["id"] for category in stored.truth["categories"])
    kept = {"box": "bbox", "mask": "segmentation"}[kind]
    return [
        {key: row[key] for key in ("image_id", "category_id", "score", kept)}
        for each in stored.detections
        for row in coco_results(each, ids, image_id=stored.truth["images"][each.image]["id"])
    ]


def run_pycocotools(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str) -> Any:
    """pycocotools' evaluator after its work. It changes what it is given, so it is given copies."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        side: Any = COCO()
        side.dataset = {key: [dict(row) for row in truth[key]] for key in ("images", "categories", "annotations")}
        side.createIndex()
        evaluator: Any = COCOeval(side, side.loadRes([dict(row) for row in results]), KINDS[kind])
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def by_plain_loop(maps: Sequence[tuple[Array, Array]]) -> Evaluation:
    """mIoU and accuracies, one pixel after the other."""
    hits, labelled, guessed = ([0] * SEGMENT_CLASSES for _ in range(3))
    for predicted, labels in maps:
        for guess, label in zip(predicted.ravel().tolist(), labels.ravel().tolist(), strict=True):
            if label != IGNORED:
                hits[label] += guess == label
                labelled[label] += 1
                guessed[guess] += 1
    by_class: dict[str, dict[str, float | None]] = {}
    for number, name in enumerate(segment_names()):
        union = labelled[number] + guessed[number] - hits[number]
        by_class[name] = {
            "iou": 100 * hits[number] / union if union else None,
            "accuracy": 100 * hits[number] / labelled[number] if labelled[number] else None,
            "pixels": labelled[number],
        }
    ious, accuracies = (
        [value for row in by_class.values() if (value := row[key]) is not None] for key in ("iou", "accuracy")
    )
    metrics = {
        "miou": float(np.mean(ious)),
        "mean_accuracy": float(np.mean(accuracies)),
        "pixel_accuracy": 100 * sum(hits) / sum(labelled),
    }
    return Evaluation(metrics, images=len(maps), by_class=by_class)


def seconds(images: int, rounds_last: float) -> dict[str, Any]:
    """Times both evaluators in turn on stored predictions, boxes and masks: a row."""
    stored = coco_like(images)
    results = {kind: oracle_results(stored, kind) for kind in KINDS}
    subject = Subject("average precision", "boxes and masks", "fp32", "infer", images)

    def theirs() -> dict[str, float]:
        stats = {kind: run_pycocotools(stored.truth, results[kind], kind).stats for kind in KINDS}
        return {f"{kind}_{number.name}": 100 * stats[kind][row] for kind in KINDS for row, number in enumerate(NUMBERS)}

    def ours() -> dict[str, float]:
        return average_precision(stored.truth, stored.detections, with_masks=True).metrics

    def faults() -> list[str]:
        difference = largest_difference(ours(), theirs())
        return [] if difference < 1e-9 else [f"differs from pycocotools by {difference:.3g}"]

    measured = compare(
        subject,
        Candidate("acmix", ours, faults),
        Candidate("pycocotools", theirs, lambda: []),
        ceilings=Ceilings({}, math.inf),
        device=CPU,
        seconds=rounds_last,
    )
    print("\n".join(lines(measured)))
    row: dict[str, Any] = {"line": "seconds", "images": images, "processes": 1, "peer": "pycocotools", "numbers": 24}
    if measured.speed is None:
        return {**row, "largest_difference": math.inf}
    speed = measured.speed
    wanted = COLUMNS[COLUMNS.index("rounds") :]
    return {**row, **{name: rounded(getattr(speed, name)) for name in wanted}}
