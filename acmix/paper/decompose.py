"""Convolution and self-attention in two stages: what they share, shown in numbers, counted and drawn.

    k×k convolution   I: k² 1×1 convolutions of the map        II: k² shifted maps, added
    self-attention    I: three 1×1 convolutions, q, k and v    II: softmax(D^-½·q·kᵀ)·v around each pixel
    ACmix             I: three 1×1 convolutions, of both       II: both of the above, of the same q, k, v

Shapes: B batch · I, C channels in and out · H, W map · Ho, Wo behind a stride · K side of a kernel · N heads · D = C/N

Source: ACmix, sections 3.1 and 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acmix.benchmark.record import write_table
from acmix.layers import ACmix2d
from acmix.paper.sizes import Sizes
from acmix.train.plots import ATTENTION, CONVOLUTION, INK, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("what", "of", "value")
WIDTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def stage_one(x: Tensor, kernel: Tensor) -> Tensor:
    """k² 1×1 convolutions: (B, I, H, W) and (C, I, K, K) -> (B, K², C, H, W)."""
    side = kernel.shape[2]
    every = kernel.permute(2, 3, 0, 1).reshape(-1, kernel.shape[1], 1, 1)  # (K²·C, I, 1, 1)
    return F.conv2d(x, every).unflatten(1, (side * side, -1))


def shifted(x: Tensor, down: int, right: int) -> Tensor:
    """The map whose pixel (y, x) is (y + down, x + right) of another, and 0 beyond it."""
    height, width = x.shape[-2:]
    out = x.new_zeros(x.shape)
    rows, columns = max(0, height - abs(down)), max(0, width - abs(right))
    y, x_ = max(0, down), max(0, right)
    to_y, to_x = max(0, -down), max(0, -right)
    out[..., to_y : to_y + rows, to_x : to_x + columns] = x[..., y : y + rows, x_ : x_ + columns]
    return out


def stage_two(maps: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Shift and sum: (B, K², C, H, W) -> (B, C, Ho, Wo)."""
    side = math.isqrt(maps.shape[1])
    total = torch.zeros_like(maps[:, 0])
    for tap in range(side * side):
        down, right = (dilation * (step - side // 2) for step in divmod(tap, side))
        total += shifted(maps[:, tap], down, right)
    return total[..., ::stride, ::stride]


def difference_of_convolution(sizes: Sizes, dtype: torch.dtype) -> float:
    """The largest difference between a convolution and its two stages, as a share of its largest number."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, sizes.channels, sizes.side, sizes.side, generator=draw, dtype=torch.float64).to(dtype)
    shape = (sizes.channels, sizes.channels, sizes.conv_size, sizes.conv_size)
    kernel = torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)
    padding = sizes.dilation * (sizes.conv_size // 2)
    expected = F.conv2d(x, kernel, stride=sizes.stride, padding=padding, dilation=sizes.dilation)
    found = stage_two(stage_one(x, kernel), sizes.stride, sizes.dilation)
    return float((found - expected).abs().max() / expected.abs().max())


def difference_of_attention(sizes: Sizes, dtype: torch.dtype) -> float:
    """The same between PyTorch's own attention over a whole map and its two stages."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(sizes.channels, sizes.heads, bias=False, batch_first=True).to(dtype).eval()
    x = torch.randn(2, sizes.channels, sizes.side, sizes.side, dtype=torch.float64).to(dtype)
    weight = attention.in_proj_weight.detach()
    tokens = x.flatten(2).permute(2, 0, 1)  # (H·W, B, C)
    # the projection behind it is no part of the two stages
    nothing = torch.eye(sizes.channels, dtype=dtype)
    with torch.no_grad():
        expected = F.multi_head_attention_forward(
            tokens, tokens, tokens, sizes.channels, sizes.heads, weight, None, None, None, False, 0.0, nothing, None,
            training=False, need_weights=False,
        )[0].transpose(0, 1)  # (B, H·W, C)  # fmt: skip
    maps = F.conv2d(x, weight[:, :, None, None])  # stage I: (B, 3·C, H, W)
    q, k, v = maps.flatten(2).unflatten(1, (3, sizes.heads, -1)).unbind(1)  # (B, N, D, H·W) each
    weights = (q.transpose(2, 3) @ k * q.shape[2] ** -0.5).softmax(-1)  # (B, N, H·W, H·W)
    found = (v @ weights.transpose(2, 3)).flatten(1, 2).transpose(1, 2)  # (B, H·W, C)
    return float((found - expected).abs().max() / expected.abs().max())


@dataclass(frozen=True)
class Stage:
    """One stage of one way to look around a pixel.

    Args:
        what: whose.
        stage: "I" or "II".
        parameters, multiply_adds: their formulas; the second's is for one pixel.
        parameter_count: of the sizes.
        gmacs: 10⁹ multiply-adds for the map; additions of shifted maps count as multiply-adds.
    """

    what: str
    stage: str
    parameters: str
    multiply_adds: str
    parameter_count: int
    gmacs: float


def stages(sizes: Sizes) -> list[Stage]:
    """Both stages of a convolution, of local attention, and of ACmix, at stride 1; biases are not counted."""
    c, k, a, n = sizes.channels, sizes.conv_size, sizes.attention_size, sizes.heads
    pixels = sizes.side**2
    rows = (
        ("convolution", "I", "k²·C²", "k²·C²", k**2 * c**2, k**2 * c**2),
        ("convolution", "II", "0", "k²·C", 0, k**2 * c),
        ("self-attention", "I", "3·C²", "3·C²", 3 * c**2, 3 * c**2),
        ("self-attention", "II", "0", "2·a²·C", 0, 2 * a**2 * c),
        ("ACmix", "I", "3·C²", "3·C²", 3 * c**2, 3 * c**2),
        (
            "ACmix", "II", "3·N·k² + k⁴·C", "2·a²·C + 3·k²·C + k⁴·C",
            3 * n * k**2 + k**4 * c, 2 * a**2 * c + 3 * k**2 * c + k**4 * c,
        ),
    )  # fmt: skip
    return [Stage(*row[:5], row[5] * pixels / 1e9) for row in rows]


@dataclass(frozen=True)
class Counted:
    """What PyTorch counts of a module, beside the formulas.

    Args:
        what: the module.
        parameters, gmacs: counted.
        formula_parameters, formula_gmacs: of both stages.
    """

    what: str
    parameters: int
    gmacs: float
    formula_parameters: int
    formula_gmacs: float


def counted(sizes: Sizes) -> list[Counted]:
    """Real modules, counted: a convolution, and an ACmix2d without what only the layer has (biases, p, α and β)."""
    x = torch.zeros(1, sizes.channels, sizes.side, sizes.side)
    conv = nn.Conv2d(sizes.channels, sizes.channels, sizes.conv_size, padding=sizes.conv_size // 2, bias=False)
    layer = ACmix2d(
        sizes.channels, sizes.channels, heads=sizes.heads, attention_size=sizes.attention_size,
        conv_size=sizes.conv_size,
    )  # fmt: skip
    found = []
    for what, module in (("convolution", conv), ("ACmix", layer)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
        of_both = [each for each in stages(sizes) if each.what == what]
        gmacs = counter.get_total_flops() / 2e9
        left_out = {"convolution": (0, 0.0), "ACmix": only_of_the_layer(layer, sizes)}[what]
        found.append(
            Counted(
                what,
                sum(each.numel() for each in module.parameters()) - left_out[0],
                gmacs - left_out[1],
                sum(each.parameter_count for each in of_both),
                # what shifts and adds is a convolution's own loop, and PyTorch counts no additions
                sum(each.gmacs for each in of_both if (what, each.stage) != ("convolution", "II")),
            )
        )
    return found


def only_of_the_layer(layer: ACmix2d, sizes: Sizes) -> tuple[int, float]:
    """Parameters and 10⁹ multiply-adds of an ACmix2d that the formulas leave out: biases, p, α and β."""
    biases = sum(each.bias.numel() for each in (layer.query, layer.key, layer.value) if each.bias is not None)
    place = sum(each.numel() for each in layer.position.parameters())
    # p is a 1×1 convolution of two numbers a pixel to the D of a head
    return biases + place + 2, 2 * (sizes.channels // sizes.heads) * sizes.side**2 / 1e9


# a share of the largest number that rounding may change
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-4}


@dataclass(frozen=True)
class Taken:
    """What came of taking both apart.

    Args:
        sizes: of what.
        differences: by what and format: the largest difference ÷ the largest number.
        counted: what PyTorch counts beside the formulas.
    """

    sizes: Sizes
    differences: dict[tuple[str, torch.dtype], float]
    counted: list[Counted]

    @property
    def holds(self) -> bool:
        """Whether the stages add up to the whole, and the formulas to what PyTorch counts."""
        adds_up = all(error <= BOUNDS[dtype] for (_, dtype), error in self.differences.items())
        return adds_up and all(
            each.parameters == each.formula_parameters and math.isclose(each.gmacs, each.formula_gmacs, rel_tol=1e-9)
            for each in self.counted
        )


def take_apart(sizes: Sizes) -> Taken:
    """Takes a convolution and self-attention apart, and counts."""
    ways = {
        f"{sizes.conv_size}×{sizes.conv_size} convolution": difference_of_convolution,
        "self-attention": difference_of_attention,
    }
    found = {(what, dtype): difference(sizes, dtype) for what, difference in ways.items() for dtype in BOUNDS}
    return Taken(sizes, found, counted(sizes))


def figures(taken: Taken) -> list[dict[str, str]]:
    """The same as rows of `COLUMNS`."""
    rows = [
        ("difference", f"{what}, {named(dtype)}", f"{error:.1e}") for (what, dtype), error in taken.differences.items()
    ]
    for each in taken.counted:
        rows.append(("parameters", each.what, str(each.parameters)))
        rows.append(("parameters by formula", each.what, str(each.formula_parameters)))
        rows.append(("10⁶ multiply-adds", each.what, f"{1000 * each.gmacs:.6g}"))
        rows.append(("10⁶ multiply-adds by formula", each.what, f"{1000 * each.formula_gmacs:.6g}"))
    for channels in WIDTHS:
        shares = share_of_stage_one(channels, taken.sizes.conv_size, taken.sizes.attention_size)
        rows += [("stage I, %", f"{what}, C {channels}", f"{100 * share:.1f}") for what, share in shares.items()]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def write(taken: Taken, file: Path) -> None:
    """Writes the figures.

    Raises:
        UsageError: the file cannot be written.
    """
    write_table(file, COLUMNS, figures(taken))


def named(dtype: torch.dtype) -> str:
    """A format without its module."""
    return str(dtype).removeprefix("torch.")


def report(taken: Taken) -> list[str]:
    """What a command prints: differences, both stages and what PyTorch counts."""
    sizes, lines = taken.sizes, []
    for what in dict.fromkeys(what for what, _ in taken.differences):
        told = ", ".join(f"{taken.differences[what, dtype]:.1e} in {named(dtype)}" for dtype in BOUNDS)
        lines.append(f"{what} in two stages, largest difference ÷ largest number: {told}")
    lines.append("")
    rows = [("counted at stride 1", "stage", "parameters", "", "multiply-adds a pixel", "10⁶ for the map")]
    rows += [
        (
            each.what,
            each.stage,
            each.parameters,
            f"{each.parameter_count:,}",
            each.multiply_adds,
            f"{1000 * each.gmacs:.3f}",
        )
        for each in stages(sizes)
    ]
    lines += aligned(rows)
    lines.append("")
    rows = [("", "parameters", "by formula", "10⁶ multiply-adds", "by formula")]
    for each in taken.counted:
        rows.append(
            (
                f"{each.what}, counted by PyTorch",
                *(f"{each.parameters:,}", f"{each.formula_parameters:,}"),
                *(f"{1000 * each.gmacs:.3f}", f"{1000 * each.formula_gmacs:.3f}"),
            )
        )
    lines += aligned(rows)
    lines += ["", f"stage I's share of the multiply-adds, k = {sizes.conv_size}, a = {sizes.attention_size}:"]
    kinds = tuple(share_of_stage_one(1, 1, 1))
    rows = [("C", *kinds)]
    for channels in WIDTHS:
        shares = share_of_stage_one(channels, sizes.conv_size, sizes.attention_size)
        rows.append((str(channels), *(f"{shares[kind]:.1%}" for kind in kinds)))
    return [*lines, *aligned(rows)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(each.ljust(width) for each, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def share_of_stage_one(channels: int, conv_size: int, attention_size: int) -> dict[str, float]:
    """Stage I's share of the multiply-adds, 0 to 1, by what is computed."""
    sizes = Sizes(channels, 1, conv_size, attention_size, heads=1)
    found = {}
    for what in ("convolution", "self-attention", "ACmix"):
        one, two = (each.gmacs for each in stages(sizes) if each.what == what)
        found[what] = one / (one + two)
    return found


def draw(sizes: Sizes, file: Path, widths: Sequence[int] = WIDTHS) -> Path:
    """Draws a kernel taken apart, and stage I's share by width."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    draw_taps(left, sizes.conv_size, sizes.dilation)
    draw_shares(right, sizes, widths)
    return save(figure, file)


def draw_taps(axes: Axes, side: int, dilation: int) -> None:
    """Each tap of a kernel, and how its map is moved."""
    reach = dilation * (side // 2)
    for tap in range(side * side):
        down, right = dilation * (tap // side - side // 2), dilation * (tap % side - side // 2)
        axes.annotate("", (0, 0), (right, down), arrowprops={"arrowstyle": "-|>", "color": CONVOLUTION, "shrinkB": 8})
        axes.text(right, down, f"{tap // side},{tap % side}", ha="center", va="center", color=INK, fontsize=9,
                  bbox={"boxstyle": "square,pad=0.5", "facecolor": "white", "edgecolor": CONVOLUTION})  # fmt: skip
    axes.set_xlim(-reach - 0.7, reach + 0.7)
    axes.set_ylim(reach + 0.7, -reach - 0.7)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(
        f"{side}×{side} convolution = {side * side} 1×1 convolutions,\neach map moved onto the middle, and a sum"
    )


def draw_shares(axes: Axes, sizes: Sizes, widths: Sequence[int]) -> None:
    """Stage I's share of the multiply-adds by width."""
    shares = [share_of_stage_one(each, sizes.conv_size, sizes.attention_size) for each in widths]
    for what, colour in (("convolution", CONVOLUTION), ("self-attention", ATTENTION), ("ACmix", INK)):
        axes.plot(widths, [100 * each[what] for each in shares], marker="o", color=colour, label=what)
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(each) for each in widths], rotation=45)
    axes.minorticks_off()
    axes.set_ylim(0, 102)
    axes.set_xlabel("channels C")
    axes.set_ylabel("stage I, % of the multiply-adds")
    axes.legend(loc="lower right")
    axes.set_title(f"k = {sizes.conv_size}, a = {sizes.attention_size}")
