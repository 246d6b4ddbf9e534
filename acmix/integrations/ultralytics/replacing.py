"""`replace_conv` for a YOLO of ultralytics."""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any

from torch import nn

from acmix.errors import UsageError
from acmix.integrations.ultralytics.hooks import mark, register
from acmix.integrations.ultralytics.recipe import add_entry, replaced_names
from acmix.layers.replace import Select, put_in, selected

# blocks that ultralytics merges by the weights of their convolutions
MERGED = ("RepConv", "RepVGGDW", "Conv2")


def replace_conv(
    model: Any, select: Select = None, *, identity: bool = False, heads: int | str = "auto", attention_size: int = 7
) -> Any:
    """Puts ACmix2d in the place of convolutions of a YOLO, wherever ultralytics builds it from then on.

    Training, resuming, several GPUs, checkpoints and exports all have the layers. A checkpoint knows of them, so the
    `yolo` command and a fresh process take it as it is, where acmix is installed.

        model = replace_conv(YOLO("yolo11n.pt"), "model.22.m.0.*.cv2.conv", identity=True)
        model.train(data="coco8.yaml", epochs=3)

    Args:
        model: a YOLO, changed in place, or its `.model`.
        select: which convolutions: a name or pattern such as "model.22.*.cv2.conv", a list of them, a function of name
            and convolution, or None for all. Names are those of `YOLO(...).model.named_modules()`.
        identity: keep each convolution with its weights, and add ACmix2d to it through a gate that starts at 0. The
            model's output is unchanged at first, and weights from before, as `yolo11n.pt`, still load.
        heads: of each ACmix2d.
        attention_size: of each ACmix2d.

    Returns:
        The model.

    Raises:
        UsageError: ultralytics is not installed; the model is none of ultralytics' or fused for inference; nothing is
            selected; or a selected convolution is one that ACmix2d cannot stand in for.
    """
    register()
    network = network_of(model)
    before = replaced_names(network)
    if isinstance(select, (str, list, tuple)):
        patterns = [select] if isinstance(select, str) else list(select)
        select = [each for each in patterns if not any(fnmatchcase(name, each) for name in before)]
        if patterns and not select:
            return model
    chosen = mergeable_left_out(network, selected(network, select), everything=select is None)
    options = dict(identity=identity, heads=heads, attention_size=attention_size)
    put_in(network, chosen, **options, transfers=False)  # type: ignore[arg-type]
    add_entry(network, convolutions=list(chosen), **options)
    mark(network.model)
    for wrapper in {model, network} - {network}:
        wrapper.predictor = None  # it holds a copy of the network from before
    return model


def network_of(model: Any) -> Any:
    """The network of a YOLO, or the network itself."""
    tasks = import_module("ultralytics.nn.tasks")
    network: Any = model if isinstance(model, tasks.BaseModel) else getattr(model, "model", None)
    if not isinstance(network, tasks.BaseModel):
        raise UsageError(
            f"expected a YOLO of ultralytics or its network, not {type(model).__name__}; for other models use "
            "acmix.replace_conv"
        )
    if network.is_fused():
        raise UsageError("this YOLO is fused for inference; load it anew and call replace_conv before predict or val")
    return network


def mergeable_left_out(network: nn.Module, chosen: dict[str, nn.Conv2d], *, everything: bool) -> dict[str, nn.Conv2d]:
    """Leaves out convolutions that ultralytics merges by their weights; one that was asked for is refused."""
    inside = tuple(f"{name}." for name, each in network.named_modules() if type(each).__name__ in MERGED)
    refused = [name for name in chosen if name.startswith(inside)] if inside else []
    if refused and not everything:
        raise UsageError(
            f"convolution {refused[0]!r} is part of a block whose convolutions ultralytics merges; select the others"
        )
    return {name: conv for name, conv in chosen.items() if name not in refused}
