"""Parameters and multiply-adds of detectors and segmenters, plain and with paths, beside the published plain ones.

python benchmarks/downstream_costs.py     ->  benchmarks/results/downstream_costs.csv

Everything is counted by shapes alone, without weights: products of matrices and convolutions, attention's products
among them, no additions, norms or activations.

How the published figures were made was found by counting, to within 0.3 %: an R-CNN's box heads read 1000 regions,
each stage of a cascade all of them, and its mask heads 100; proposals, cutting regions out, and what follows cost
nothing. Swin's linear layers read windows that are filled up to their full size, which ours do not: `gmacs` is what
ours computes, and `gmacs_filled` what it would with filled windows, as the published figure has it. RetinaNet's alone
(mmdetection's own count, in another repository's table) leaves attention's products out, 3 of its 245 G, and so lies
1.2 % below `gmacs_filled`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import acmix
from acmix.heads.detectors import DENSE, Detector
from acmix.layers import WindowAttention

COLUMNS = [
    *("head", "backbone", "conv_path", "height", "width", "parameters", "gmacs", "gmacs_filled"),
    *("published_parameters_m", "published_gmacs", "source"),
]
UNKNOWN = "unknown"
# regions that an R-CNN's box heads and mask heads are counted with
BOX_REGIONS, MASK_REGIONS = 1000, 100


class Published(NamedTuple):
    """What is known of a plain form.

    Args:
        head: of the detector or segmenter.
        backbone: our name of it.
        parameters_m: millions of parameters; None where unknown.
        gmacs: 10⁹ multiply-adds; None where unknown.
        source: the repository.
    """

    head: str
    backbone: str
    parameters_m: float | None = None
    gmacs: float | None = None
    source: str = UNKNOWN


SWIN_TINY, SWIN_SMALL = "acmix_swin_tiny_patch4_window7_224", "acmix_swin_small_patch4_window7_224"
SWINS = "SwinTransformer/Swin-Transformer-Object-Detection"
DETECTORS = (
    Published("retinanet", SWIN_TINY, 38.5, 245, "huawei-noah/VanillaNet"),
    Published("mask_rcnn", SWIN_TINY, 48, 267, SWINS),
    Published("mask_rcnn", SWIN_SMALL, 69, 359, SWINS),
    Published("cascade_mask_rcnn", SWIN_TINY, 86, 745, SWINS),
    Published("cascade_mask_rcnn", SWIN_SMALL, 107, 838, SWINS),
    *(
        Published(head, backbone)
        for head in ("retinanet", "mask_rcnn")
        for backbone in ("acmix_pvt_tiny", "acmix_pvt_small", "acmix_resnet50")
    ),
    Published("cascade_mask_rcnn", "acmix_resnet50"),
)
SWINS_OF_ADE20K = "SwinTransformer/Swin-Transformer-Semantic-Segmentation"
UPERNETS = (
    Published("upernet", SWIN_TINY, 60, 945, SWINS_OF_ADE20K),
    Published("upernet", SWIN_SMALL, 81, 1038, SWINS_OF_ADE20K),
    *(Published("upernet", f"acmix_{each}") for each in ("pvt_small", "resnet50", "san10", "deit_small_patch16_224")),
)
SEMANTIC_FPNS = (
    *(Published("semantic_fpn", f"acmix_{each}") for each in ("pvt_tiny", "pvt_small", "resnet50", "san10")),
    *(Published("semantic_fpn", each) for each in (SWIN_TINY, "acmix_deit_small_patch16_224")),
)
# (height, width)
DETECTION_SIZE, UPERNET_SIZE, SEMANTIC_FPN_SIZE = (800, 1280), (512, 2048), (512, 512)


class Cost(NamedTuple):
    """What a whole model costs for one image: see `COLUMNS`."""

    parameters: int
    gmacs: float
    gmacs_filled: float


def gmacs_of(call: Callable[..., Any], *inputs: Any) -> tuple[float, Any]:
    """10⁹ multiply-adds of a call, and what it gives."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found = call(*inputs)
    return counter.get_total_flops() / 2e9, found


def filling_gmacs(network: nn.Module, image: Tensor) -> float:
    """10⁹ multiply-adds more of the projections in window attention, if windows were filled up to their full size."""
    more = []

    def note(attention: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(attention, WindowAttention)
        _, height, width, channels = inputs[0].shape
        rows, columns = attention.window
        filled = -(-height // rows) * rows * -(-width // columns) * columns
        # q, k, v and the projection behind
        more.append(4 * channels**2 * (filled - height * width))

    hooks = [each.register_forward_pre_hook(note) for each in network.modules() if isinstance(each, WindowAttention)]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return sum(more) / 1e9


def detector_cost(head: str, backbone: str, conv_path: bool, height: int, width: int) -> Cost:
    """Counts a detector of 80 classes on one image (3, height, width)."""
    with torch.device("meta"):
        model = acmix.create_detector(head, backbone, conv_path=conv_path).eval()
        image = torch.empty(1, 3, height, width)
    assert isinstance(model, Detector)
    total, maps = gmacs_of(model.backbone, image)
    total += sum(gmacs_of(part, given)[0] for part, given in parts_of(model, [*maps.values()]))
    parameters = sum(each.numel() for each in model.parameters())
    return Cost(parameters, total, total + filling_gmacs(model.features, image))


def segmenter_cost(head: str, backbone: str, conv_path: bool, height: int, width: int) -> Cost:
    """Counts a segmenter of 150 classes on one image (3, height, width); of an auxiliary head the parameters alone."""
    with torch.device("meta"):
        model = acmix.create_segmenter(head, backbone, conv_path=conv_path).eval()
        image = torch.empty(1, 3, height, width)
    total, _ = gmacs_of(model, image)
    parameters = sum(each.numel() for each in model.parameters())
    return Cost(parameters, total, total + filling_gmacs(model.features, image))


def parts_of(model: Detector, maps: list[Tensor]) -> Iterable[tuple[Callable[..., Any], Any]]:
    """The parts behind the pyramid, each with what it reads."""
    several: Any = model
    if model.head_name in DENSE:
        yield several.head, maps
        return
    yield several.rpn.head, maps
    channels = model.backbone.out_channels
    for stage in getattr(several.roi_heads, "stages", [several.roi_heads]):
        for count, pool, parts in (
            (BOX_REGIONS, stage.box_roi_pool, [stage.box_head, stage.box_predictor]),
            (MASK_REGIONS, stage.mask_roi_pool, [stage.mask_head, stage.mask_predictor]),
        ):
            if pool is not None:
                yield nn.Sequential(*parts), torch.empty(count, channels, *pool.output_size, device="meta")


def rows(known: Iterable[Published], size: tuple[int, int], cost: Callable[..., Cost]) -> list[dict[str, str]]:
    """Two rows for each model: its plain form and ours."""
    found = []
    for each in known:
        for conv_path in (False, True):
            counted = cost(each.head, each.backbone, conv_path, *size)
            published = [each.parameters_m, each.gmacs, each.source]
            values = [
                *(each.head, each.backbone, conv_path, *size, counted.parameters),
                *(f"{counted.gmacs:.1f}", "" if conv_path else f"{counted.gmacs_filled:.1f}"),
                # nobody published a figure of a form with paths
                *(UNKNOWN if conv_path or value is None else value for value in published),
            ]
            found.append(dict(zip(COLUMNS, map(str, values), strict=True)))
            print(found[-1], flush=True)
    return found


def main(root: Path) -> int:
    """Counts, and writes the file.

    Args:
        root: of the repository.
    """
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    counted = rows(DETECTORS, DETECTION_SIZE, detector_cost)
    counted += rows(UPERNETS, UPERNET_SIZE, segmenter_cost)
    counted += rows(SEMANTIC_FPNS, SEMANTIC_FPN_SIZE, segmenter_cost)
    with (root / "benchmarks" / "results" / "downstream_costs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(counted)
    return 0
