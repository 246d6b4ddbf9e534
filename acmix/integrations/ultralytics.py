"""ACmix2d in the model files of ultralytics.

ultralytics has no registry, and gives only the modules it knows the number of channels that comes in. So a row of
ACmix2d is built as a row of its own 1×1 convolution, which has all the numbers right at every scale, and then changed.
"""

from __future__ import annotations

from copy import deepcopy
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acmix.errors import UsageError
from acmix.layers import ACmix2d, ConvPath
from acmix.layers.acmix1d import ACmix1d
from acmix.layers.foldable import take_row
from acmix.layers.replace import GatedACmix2d

EXAMPLES = Path(__file__).parent / "yolo"
OPTIONS = ("heads", "attention_size", "conv_size", "stride", "dilation")
FORM = "expected [channels] or [channels, {heads: 4, attention_size: 7, …}]"
FEWEST_CHANNELS = 32  # a whole number this big in the place of an option was meant as channels


def register() -> None:
    """Lets ultralytics' model files have rows of ACmix2d, and its `.pt` files our layers.

        - [-1, 1, ACmix2d, [1024]]
        - [-1, 1, ACmix2d, [1024, {heads: 4, attention_size: 7}]]

    The number is of output channels, before the model's scale, as for ultralytics' own Conv; those that come in are
    found. To be called once in each process that builds, trains or loads such a model, before it does.

    Raises:
        UsageError: ultralytics is not installed.
    """
    if find_spec("ultralytics") is None:
        raise UsageError("ultralytics is not installed; run: pip install 'acmix[yolo]'")
    torch.serialization.add_safe_globals([ACmix2d, ACmix1d, ConvPath, GatedACmix2d])
    tasks = import_module("ultralytics.nn.tasks")
    if hasattr(tasks.parse_model, "without_acmix"):
        return
    original = tasks.parse_model

    def parse_model(d: dict[str, Any], ch: int, verbose: bool = True) -> tuple[nn.Sequential, list[int]]:
        plain, options = without_acmix(d)
        layers, saved = original(plain, ch, verbose)
        for index, settings in options.items():
            layers[index] = with_acmix(layers[index], index, settings)
        return layers, saved

    parse_model.__doc__ = original.__doc__
    parse_model.without_acmix = original  # type: ignore[attr-defined]
    for module in (tasks, import_module("ultralytics.nn")):
        setattr(module, "parse_model", parse_model)  # noqa: B010  a module has no such attribute to a type checker


def example(name: str) -> str:
    """Finds a model file that comes with acmix.

    Args:
        name: yolo11n-acmix-neck (ACmix2d on P5, before the head) or yolo11n-acmix-backbone (before SPPF), or with s, m,
            l or x in the place of n.

    Returns:
        A path for `ultralytics.YOLO`, with the scale's letter in it: ultralytics reads the scale from there.

    Raises:
        UsageError: there is no such file.
    """
    names = [file.stem for file in sorted(EXAMPLES.glob("*.yaml"))]
    scaled = [each.replace("yolo11", f"yolo11{scale}") for each in names for scale in "nsmlx"]
    if name.removesuffix(".yaml") not in scaled:
        raise UsageError(f"no example {name!r}; there are {', '.join(scaled)}")
    return str(EXAMPLES / f"{name.removesuffix('.yaml')}.yaml")


def without_acmix(model: dict[str, Any]) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """A copy of a model file in which 1×1 convolutions stand for ACmix2d, and the options of each such row."""
    plain = deepcopy(model)
    options = {}
    for index, row in enumerate(plain["backbone"] + plain["head"]):
        if row[2] == ACmix2d.__name__:
            options[index] = options_of(index, row[0], row[3])
            row[2], row[3] = "Conv", [row[3][0], 1, 1]
    return plain, options


def options_of(index: int, source: Any, arguments: list[Any]) -> dict[str, Any]:
    """ACmix2d's options in a row, or an error that says how the row should be."""
    where = f"row {index}: ACmix2d {arguments}"
    if not isinstance(source, int):
        raise UsageError(f"{where} has from={source}; expected the number of one row, e.g. -1")
    if not arguments or type(arguments[0]) is not int:
        raise UsageError(f"{where}; {FORM}, in numbers, before the model's scale; incoming channels are found")
    given = arguments[1] if len(arguments) == 2 else {}
    if len(arguments) > 2 or not isinstance(given, dict):
        second = arguments[1]
        meant = isinstance(second, int) and second >= FEWEST_CHANNELS
        hint = (
            f"{second} looks like a channel count, and incoming channels are found" if meant else "options have names"
        )
        raise UsageError(f"{where}: {hint}; {FORM}")
    for name in given:
        if name not in OPTIONS:
            near = get_close_matches(str(name), OPTIONS, 1)
            raise UsageError(
                f"{where} has no option {name!r}; " + (f"{near[0]!r}?" if near else f"there are {OPTIONS}")
            )
    return given


def with_acmix(placeholder: nn.Module, index: int, options: dict[str, Any]) -> nn.Module:
    """ACmix2d, or as many after each other as the row says, in the place of ultralytics' convolutions."""
    several = isinstance(placeholder, nn.Sequential)
    layers: list[nn.Module] = []
    for block in placeholder if several else [placeholder]:
        conv = block.conv
        assert isinstance(conv, nn.Conv2d)
        incoming = conv.out_channels if layers else conv.in_channels
        try:
            layers.append(ACmix2d(incoming, conv.out_channels, **options))
        except ValueError as error:
            raise UsageError(f"row {index}: {error}") from None
    layer = nn.Sequential(*layers) if several else layers[0]
    take_row(placeholder, layer)
    return layer
