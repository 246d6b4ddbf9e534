"""ACmix2d in the model files of YOLO: a function of ultralytics and of YOLOv5 and v7 reads them, `parse_model`.

It has no registry, and gives only the modules it knows the number of channels that comes in. So a row of ACmix2d is
built as a row of YOLO's own 1×1 convolution, which has all the numbers right at every scale, and then changed.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import wraps
from typing import Any

from torch import nn

from acmix.errors import UsageError
from acmix.layers import ACmix2d
from acmix.layers.foldable import take_row
from acmix.near import did_you_mean

ParseModel = Callable[..., tuple[nn.Sequential, list[int]]]
OPTIONS = ("heads", "attention_size", "conv_size", "stride", "dilation")
FORM = "expected [channels] or [channels, {heads: 4, attention_size: 7, …}]"
FEWEST_CHANNELS = 32  # a whole number this big in the place of an option was meant as channels


def reads_rows(original: ParseModel) -> ParseModel:
    """A `parse_model` that also reads rows of ACmix2d, from one that does not."""

    @wraps(original)
    def parse_model(d: dict[str, Any], *arguments: Any, **options: Any) -> tuple[nn.Sequential, list[int]]:
        plain, rows = without_acmix(d)
        layers, saved = original(plain, *arguments, **options)
        for index, settings in rows.items():
            layers[index] = with_acmix(layers[index], index, settings)
        return layers, saved

    return parse_model


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
            hint = did_you_mean(str(name), OPTIONS, otherwise=f"there are {OPTIONS}")
            raise UsageError(f"{where} has no option {name!r}; {hint}")
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
