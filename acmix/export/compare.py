"""What a file says where acmix cannot be imported, beside what the model itself says."""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from acmix.errors import UsageError
from acmix.export.forms import answers, prepared
from acmix.tools import slow_convolutions

# ONNX is read without PyTorch as well; before it stands the text of `slow_convolutions`
READER = """
import sys
sys.modules["acmix"] = None
import numpy as np
format, file, given, found = sys.argv[1:]
inputs = np.load(given)
batches = sorted({name.split(".")[0] for name in inputs.files}, key=int)
if format == "onnx":
    sys.modules["torch"] = None
    import onnxruntime
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    run = lambda *each: session.run(None, {a.name: b for a, b in zip(session.get_inputs(), each)})
else:
    import torch, torchvision
    program = torch.export.load(open(file, "rb")).module()
    def run(*each):
        with torch.no_grad(), InSingle():
            outputs = program(*map(torch.from_numpy, each))
        return [x.numpy() for x in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]
answers = {}
for number in batches:
    each = [inputs[name] for name in sorted(inputs.files) if name.split(".")[0] == number]
    answers.update({f"{number}.{place}": x for place, x in enumerate(run(*each))})
np.savez(found, **answers)
"""
# of the largest number of the answer, in which formats differ by rounding
BOUND = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 2e-1, "int8": math.inf}
# of a detector's objects, as many may have none like them: near a threshold, rounding decides; of many, one more
MOST_LOST, MANY = 0.05, 20


@dataclass(frozen=True)
class Difference:
    """Of one batch.

    Args:
        shape: (images, height, width).
        largest: difference over the largest number of the answer; of a detector's boxes over the image's longer side,
            and of its scores and masks as it is.
        objects: of a detector: how many the model finds.
        lost: of these: how many have none like them in the file's answer.
        extra: how many objects of the file's answer have none like them among the model's.
    """

    shape: tuple[int, int, int]
    largest: float
    objects: int = 0
    lost: int = 0
    extra: int = 0

    @property
    def agrees(self) -> bool:
        """Whether as good as the same objects are found."""
        most = int(MOST_LOST * self.objects) + (self.objects >= MANY)
        return max(self.lost, self.extra) <= most


def compare(
    file: Path,
    format: str,
    model: nn.Module,
    task: str,
    in_chans: int,
    shapes: Sequence[tuple[int, int, int]],
    folder: Path,
    *,
    precision: str = "fp32",
    suppress: bool = True,
    name: str = "",
) -> list[Difference]:
    """Runs a file in a fresh process that has no acmix, and compares.

    Args:
        file: an export.
        format: "onnx" or "pt2".
        model: as it was trained.
        task: of the model.
        in_chans: channels of its images.
        shapes: (images, height, width) to try.
        folder: for files that the processes exchange.
        precision: the file's.
        suppress: of a detector, whether the file ends with non-maximum suppression.
        name: what messages call the file, where it has its name later.

    Raises:
        UsageError: the file cannot be read there, or says something else.
    """
    batches = prepared(shapes, in_chans, task)
    name = name or file.name
    found = run_elsewhere(file, format, batches, folder, name)
    differences = []
    for shape, inputs, outputs in zip(shapes, batches, found, strict=True):
        if task != "detect":
            wanted = answers(model, task, inputs)
            differences.append(Difference(shape, relative(outputs[0], wanted)))
        elif suppress:
            differences.append(of_detections(shape, answers(model, task, inputs), outputs, inputs[1], BOUND[precision]))
        else:
            differences.append(Difference(shape, of_places(model, inputs, outputs)))
    for each in differences:
        check(each, name, precision)
    return differences


def run_elsewhere(
    file: Path, format: str, batches: Sequence[tuple[Tensor, ...]], folder: Path, name: str
) -> list[list[Tensor]]:
    """The outputs of each batch, computed by a process that has no acmix."""
    given, found = folder / "inputs.npz", folder / "outputs.npz"
    np.savez(given, **{f"{i}.{j}": each.numpy() for i, batch in enumerate(batches) for j, each in enumerate(batch)})  # type: ignore[arg-type]
    # the folder that a command is called in need not be one to import from
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    reader = READER if format == "onnx" else inspect.getsource(slow_convolutions) + READER
    end = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", reader, format, os.path.abspath(file), str(given), str(found)],
        capture_output=True, text=True, check=False, env=environment, cwd=folder,
    )  # fmt: skip
    if end.returncode:
        said = [line for line in end.stderr.strip().splitlines() if line.strip()]
        raise UsageError(f"a process without acmix cannot run {name}: {said[-1][:300] if said else 'it ended'}")
    with np.load(found) as answer:
        return [
            [torch.from_numpy(answer[f"{i}.{j}"]) for j in range(sum(k.startswith(f"{i}.") for k in answer.files))]
            for i in range(len(batches))
        ]


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest number."""
    if found.shape != wanted.shape:
        return float("inf")
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))


def of_detections(
    shape: tuple[int, int, int],
    wanted: Sequence[dict[str, Tensor]],
    found: Sequence[Tensor],
    sizes: Tensor,
    bound: float,
) -> Difference:
    """The objects of each image, each beside the one of its class that is most like it; both ways."""
    largest, objects, lost, extra = 0.0, 0, 0, 0
    for number, image in enumerate(wanted):
        boxes, scores, labels = (each[number] for each in found[:3])
        masks = found[3][number] if len(found) > 3 else None
        real = labels > 0
        scale = float(sizes[number].max())
        extra += sum(
            not is_among(image, box, score, label, scale, bound)
            for box, score, label in zip(boxes[real], scores[real], labels[real], strict=True)
        )
        for place in range(len(image["boxes"])):
            objects += 1
            apart = (boxes - image["boxes"][place]).abs().amax(1) / scale
            apart = torch.maximum(apart, (scores - image["scores"][place]).abs())
            apart = torch.where(real & (labels == image["labels"][place]), apart, float("inf"))
            best = int(apart.argmin())
            distance = float(apart[best])
            if masks is not None and distance <= bound:
                distance = max(distance, float((masks[best] - image["masks"][place, 0]).abs().max()) / 10)
            if distance > bound:
                lost += 1
            else:
                largest = max(largest, distance)
    return Difference(shape, largest, objects, lost, extra)


def is_among(image: dict[str, Tensor], box: Tensor, score: Tensor, label: Tensor, scale: float, bound: float) -> bool:
    """Whether an object is like one of its class among the model's."""
    apart = (image["boxes"] - box).abs().amax(1) / scale
    apart = torch.maximum(apart, (image["scores"] - score).abs())
    return bool(((apart <= bound) & (image["labels"] == label)).any())


def seeing_all(model: nn.Module) -> nn.Module:
    """A copy of a detector that leaves out no object for its score."""
    model = deepcopy(model)
    for each in model.modules():
        if hasattr(each, "score_thresh"):
            each.score_thresh = 0.0  # type: ignore[assignment]
    return model


@torch.no_grad()
def of_places(model: Any, inputs: tuple[Tensor, ...], found: Sequence[Tensor]) -> float:
    """Of a detector without suppression: scores and boxes of every place, as torchvision decodes the model's head."""
    images, sizes = inputs[0], [(int(h), int(w)) for h, w in inputs[1].tolist()]
    maps = list(model.backbone(images).values())
    outputs = model.head(maps)
    scores = outputs["cls_logits"].sigmoid()[..., 1:]
    is_centred = "bbox_ctrness" in outputs
    if is_centred:
        scores = (scores * outputs["bbox_ctrness"].sigmoid()).sqrt()
    decode = model.box_coder.decode if is_centred else model.box_coder.decode_single
    anchors = model.anchor_generator(ImageList(images, sizes), maps)
    boxes = torch.stack(
        [
            clip_boxes_to_image(decode(own, places), size)
            for own, places, size in zip(outputs["bbox_regression"], anchors, sizes, strict=True)
        ]
    )
    if found[0].shape != boxes.shape or found[1].shape != scores.shape:
        return math.inf
    apart = (found[0] - boxes).abs().max() / inputs[1].max()
    return float(torch.maximum(apart, (found[1] - scores).abs().max()))


def check(difference: Difference, name: str, precision: str) -> None:
    """Refuses a file that computes something else."""
    bound = BOUND[precision]
    shape = " × ".join(map(str, difference.shape))
    if not (difference.largest <= bound and math.isfinite(difference.largest)):
        raise UsageError(
            f"{name} differs from the model by {difference.largest:.1e} on images of {shape}; expected at most "
            f"{bound:g} in {precision}: it is not kept"
        )
    if not difference.agrees:
        raise UsageError(
            f"{name} finds {difference.objects - difference.lost} of the {difference.objects} objects that the "
            f"model finds in images of {shape}, and {difference.extra} others: it is not kept"
        )
