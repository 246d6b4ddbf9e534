"""Models with published weights: timm's names, repositories of the Hugging Face hub, folders with copies of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.models import PretrainedCfg
from torch import nn

from acmix.errors import UsageError
from acmix.models.download import quick_if_offline, server_of
from acmix.names import without_secrets
from acmix.near import near
from acmix.released.safe_load import UNREADABLE
from acmix.tools.hub_fetch import fetched
from acmix.tools.hub_folder import CONFIG, WEIGHTS, check_timm, is_snapshot
from acmix.train.checkpoint import check_tables

REPOSITORY, FOLDER = "hf-hub:", "local-dir:"


def hub_name(source: str) -> str:
    """What timm builds for a source: a repository, a folder that holds a copy of one, or a model's name; "" for none.

    Raises:
        UsageError: one of our own names, which have no published weights; or a folder of weights that says nothing.
    """
    if source.startswith((REPOSITORY, "hf_hub:")):
        return REPOSITORY + source[len(REPOSITORY) :]
    folder = os.path.expanduser(source)
    if os.path.isdir(folder):
        if is_snapshot(Path(folder)):
            return FOLDER + folder
        if all(os.path.isfile(os.path.join(folder, name)) for name in (CONFIG, WEIGHTS)):
            raise UsageError(f"{source}: {CONFIG} says of no model (is it damaged?); get the folder again")
        return ""
    architecture = source.partition(".")[0]
    if architecture.startswith("acmix_") and timm.is_model(architecture):
        raise UsageError(f"{source} has no published weights; give a checkpoint, or a run folder of `acmix train`")
    return source if timm.is_model(architecture) else ""


def near_names(source: str) -> list[str]:
    """The model of timm's that a source may have been meant to be."""
    is_path = "/" in source or Path(source).suffix in (".pt", ".pth", ".safetensors", ".onnx")
    # names of weights hold words that are no model's, such as "data" in "datacomp"
    known = timm.list_models(pretrained=True) if "." in source else timm.list_models()
    return [] if is_path else near(source, known, most=1)


def local(name: str, source: str) -> str:
    """The same with the files of a repository at hand: they are fetched, or taken from those fetched before.

    Raises:
        UsageError: as `fetched`.
    """
    return FOLDER + str(fetched(name[len(REPOSITORY) :], source)) if name.startswith(REPOSITORY) else name


def load_hub(name: str, source: str) -> tuple[nn.Module, list[str], bool]:
    """Builds a model and loads its published weights.

    Args:
        name: what `local` gave.
        source: what the user gave, for messages.

    Returns:
        The model in evaluation mode, its names of classes, and whether they are names.

    Raises:
        UsageError: no such weights, or they cannot be had.
    """
    cfg = None if ":" in name else configuration(name)
    if ":" not in name and not (cfg and cfg.has_weights):
        tagged = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise UsageError(f"timm has no weights {source!r}; there are: {', '.join(tagged[:8]) or 'none of this model'}")
    with quick_if_offline(server_of(cfg) if not name.startswith(FOLDER) else "") as reached:
        try:
            if name.startswith(FOLDER):
                check_snapshot(Path(name[len(FOLDER) :]), source)
            model = timm.create_model(name, pretrained=True).eval()
        except UsageError:
            raise
        except (*UNREADABLE, SafetensorError) as error:
            server = server_of(cfg)
            said = " ".join(str(error).split()).replace(server, without_secrets(server))[:200] or type(error).__name__
            if not reached:
                raise UsageError(
                    f"cannot reach {without_secrets(server)} for the weights of {source!r}, which were not downloaded "
                    "before; check the connection, or give a folder with the repository's config.json and "
                    "model.safetensors"
                ) from None
            raise UsageError(f"cannot load the published weights of {source!r}: {said}; check the name") from None
    names = class_names(model)
    return model, names or [str(number) for number in range(getattr(model, "num_classes", 0))], bool(names)


def check_snapshot(folder: Path, source: str) -> None:
    """Refuses a folder whose configuration asks for more numbers than its files hold, before a network takes memory.

    Raises:
        UsageError: of its weights, or of tables that follow from sizes.
    """
    check_timm(folder, source)
    with torch.device("meta"):
        model = timm.create_model(f"{FOLDER}{folder}", pretrained=False)
    hint = f"get the folder again, or mend the model_args in its {CONFIG}"
    needed = sum(value.numel() for value in model.state_dict().values())
    # a number takes a byte at least
    held = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if needed > held:
        raise UsageError(f"{source} asks for a model of {needed:,} numbers, and its files hold {held:,} bytes; {hint}")
    check_tables(model, f"{source} asks for", hint)


def configuration(name: str) -> PretrainedCfg | None:
    """What timm knows of a name's weights; None for a tag that it does not know."""
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:
        return None


def class_names(model: Any) -> list[str]:
    """The names that go with published weights: those that they bring along, or ImageNet's, as timm ships them.

    ImageNet has several classes of one name, such as two kinds of crane: these carry their number in WordNet.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    outputs = getattr(model, "num_classes", 0)
    labels = cfg.get("label_names")
    described = cfg.get("label_descriptions")
    if isinstance(labels, (list, tuple)) and len(labels) == outputs:
        if isinstance(described, dict):
            return [str(described.get(label, label)) for label in labels]
        return [str(label) for label in labels]
    subset = infer_imagenet_subset(model)
    if subset is None or outputs != cfg.get("num_classes"):
        return []
    imagenet = ImageNetInfo(subset)
    if imagenet.num_classes() != outputs:
        return []
    labels, found = imagenet.label_names(), imagenet.label_descriptions()
    assert isinstance(found, list)
    seen: dict[str, int] = {}
    for name in found:
        seen[name] = seen.get(name, 0) + 1
    return [name if seen[name] == 1 else f"{name} ({label})" for name, label in zip(found, labels, strict=True)]
