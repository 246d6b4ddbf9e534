"""A trained model in one call, with all that is needed to use it: `model, info = acmix.load("runs/x")`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.data import create_transform, resolve_data_config
from torch import nn

from acmix.config import Config
from acmix.data.image import evaluation_transform, with_channels
from acmix.data.pictures import Transform
from acmix.data.resized import bounded
from acmix.errors import UsageError
from acmix.models.build import build_model
from acmix.released import from_official
from acmix.released.checkpoint import configuration_of
from acmix.released.safe_load import safe_load
from acmix.tools.description import Description, read_description, sides_of
from acmix.tools.exported_detector import ExportedDetector
from acmix.tools.exports import Export, input_size, kind_of, number_of_classes, read_export
from acmix.tools.hub import FOLDER, REPOSITORY, hub_name, load_hub, local, near_names
from acmix.tools.hub_folder import our_contents
from acmix.tools.preparation import preparation, preparation_said_twice, preparation_told
from acmix.train.checkpoint import FORMAT, check_build, checkpoint_of, load_weights, restored
from acmix.train.device import this_device

# where a model carries its `Info`: it stays through copies, pickles and `acmix.fold`
ATTRIBUTE = "acmix_info"
# what a checkpoint keeps among its metrics that is no share of 100
OTHER = ("val_loss", "images_per_second")


@dataclass(frozen=True)
class Info:
    """What goes with a model.

    Args:
        source: what was given to `load`.
        path: the file that was read; None for published weights.
        kind: "checkpoint", "released checkpoint", "published weights", "torch.export program", "TorchScript", "ONNX".
        model: the network's name; an export's file name.
        task: "classify", "detect" or "segment".
        head: of a detector or segmenter, such as "mask_rcnn"; None of a classifier.
        classes: a name for each output, in order; label k of a detector is the k-th, from 1 on.
        are_named: whether these are names; False where they are the outputs' numbers.
        img_size: pixels a side of the images that the model reads; (height, width) where these differ; in detection and
            segmentation pixels of the shorter side.
        in_chans: their channels.
        mean, std: of their channels, in values from 0 to 1.
        interpolation: how pictures are resized.
        crop_pct: the share of the resized side that is kept.
        transform: prepares a picture as evaluation does: a path, bytes, a PIL image or a uint8 array (H, W, 3) ->
            float32 (in_chans, h, w); for a detector values from 0 to 1, in the picture's own size.
        metrics: what evaluation gave, in percent, if the file tells: `top1` and `top5`, `box_ap` and `mask_ap`, `miou`.
        top1: accuracy of a classifier on the validation images in percent, if the file tells.
        epoch: how many epochs the weights were trained, if the file tells.
        config: the run's whole configuration; None where there is none.
        notes: what had to be assumed, a line each.
        crop_mode: "center", "squash" or "border": what of a classifier's picture is resized; see timm.
    """

    source: str
    path: Path | None
    kind: str
    model: str
    classes: list[str]
    are_named: bool
    img_size: int | tuple[int, int]
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    transform: Transform
    task: str = "classify"
    head: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    top1: float | None = None
    epoch: int | None = None
    config: Config | None = None
    notes: tuple[str, ...] = ()
    crop_mode: str = "center"


def load(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "auto",
    img_size: int | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[nn.Module, Info]:
    """Loads a model as it was trained: its arguments, image size, windows and channels, and its averaged weights.

    No code from a file is executed; TorchScript runs in PyTorch's interpreter, without access to files.

    Args:
        source: a run folder (best.pt, else last.pt), a checkpoint, a file of `acmix convert`, a released `.pth`; an
            export (`torch.export` .pt2, TorchScript, ONNX); a model of timm's with published weights
            ("resnet18.a1_in1k"), "hf-hub:USER/REPOSITORY", or a folder with a copy of such a repository, as
            `acmix.save_pretrained` writes one.
        device: "auto", the accelerator or else the CPU; "cpu", "cuda:1", …. TorchScript and ONNX run on the CPU.
        img_size: pixels a side, for an export that takes any; 224 by default.
        classes: names for an export's outputs; their numbers by default.

    Returns:
        The model in evaluation mode, and what goes with it. A classifier: images (B, in_chans, h, w) -> logits (B, K);
        a detector: a list of images (3, h, w) from 0 to 1 -> a list of {"boxes", "labels", "scores", "masks"}; a
        segmenter: (B, 3, h, w) -> logits (B, K, h, w).

    Raises:
        UsageError: no such source, one that cannot be used, or one that asks for code to be run.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(f"load got a {type(source).__name__}; expected a path, or the name of a model of timm's")
    text = os.fspath(source)
    if not text:
        raise UsageError("no checkpoint is given; give a file, a run folder, or the name of a model of timm's")
    where = device if isinstance(device, torch.device) else this_device(device)
    path = Path(os.path.expanduser(text))
    # a folder may be a copy of a repository
    is_known = os.path.lexists(path) and not os.path.isdir(path)
    name = "" if is_known else hub_name(text)
    if not name:
        path = checkpoint_of(existing(path, text))
        if kind := kind_of(path):
            return with_info(*load_export(path, text, kind, where, img_size, classes))
    if img_size is not None or classes is not None:
        raise UsageError(f"img_size and classes are for exports; {text} brings its own; leave them out")
    found = of_hub(name, text) if name else of_checkpoint(path, text)
    return with_info(found[0].to(where), found[1])


def with_info(model: nn.Module, info: Info) -> tuple[nn.Module, Info]:
    """The model, which carries its info from now on."""
    setattr(model, ATTRIBUTE, info)
    return model, info


def info_of(model: nn.Module) -> Info | None:
    """The info of a model that `load` gave, or of a copy of one, also where DataParallel or torch.compile wraps it."""
    inner = model._modules.get("module") or model._modules.get("_orig_mod")
    found = getattr(model, ATTRIBUTE, None)
    return found if isinstance(found, Info) or inner is None else info_of(inner)


def existing(path: Path, text: str) -> Path:
    """The path of a file or folder.

    Raises:
        UsageError: nothing is there; says what a name may have been meant to be.
    """
    if os.path.isfile(path) or os.path.isdir(path):
        return path
    if os.path.exists(path):
        raise UsageError(f"{text} is a pipe, a socket or a device; expected a checkpoint file or a run folder")
    looks_like_file = path.suffix.lower() in (".pt", ".pth", ".pt2", ".onnx", ".safetensors", ".bin")
    if looks_like_file:
        raise UsageError(f"there is no checkpoint {text}; check the path")
    near = near_names(text)
    hint = f"did you mean {near[0]!r}?" if near else "check the path"
    if text.count("/") == 1 and not text.startswith((".", "/")):
        hint = f"check the path, or write {REPOSITORY}{text} for a repository of the hub"
    raise UsageError(f"no checkpoint, run folder or model of timm's is called {text!r}; {hint}")


def of_checkpoint(path: Path, source: str) -> tuple[nn.Module, Info]:
    """One of our checkpoints, or one of the released code."""
    contents = safe_load(path)
    kind, notes = "checkpoint", ()
    if contents.get("format") == FORMAT:
        found = restored(contents, path)
        model, config, classes, are_named = found.model, found.config, found.classes, found.are_named
    else:
        kind = "released checkpoint"
        model, config, note = released(contents, path)
        classes, are_named = [str(number) for number in range(config.model.num_classes)], False
        notes = (note.removeprefix("; "),) if note else ()
    about = dict(classes=classes, are_named=are_named, kind=kind, notes=notes)
    return model, info_about(contents, config, source, path, **about)


def info_about(contents: dict[str, Any], config: Config, source: str, path: Path | None, **about: Any) -> Info:
    """What goes with the model of a checkpoint's contents.

    Args:
        contents: as `safe_load` gives them.
        config: of its run.
        source: what was given to `load`.
        path: where the contents lie.
        about: classes, are_named, kind and notes of the `Info`.
    """
    metrics = contents.get("metrics") or {}
    return Info(
        source=source,
        path=path,
        model=config.model.name,
        **preparation(config),
        task=config.task.name,
        head=config.task.head,
        metrics={name: value for name, value in metrics.items() if name not in OTHER and is_number(value)},
        top1=metrics.get("top1"),
        epoch=contents.get("epoch") if metrics else None,
        config=config,
        **about,
    )


def is_number(value: Any) -> bool:
    """Whether a value is a number; a file may hold anything."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def released(contents: dict[str, Any], path: Path) -> tuple[nn.Module, Config, str]:
    """The model of a released checkpoint, as `acmix convert` would write it."""
    try:
        config, note = configuration_of(contents, None, path)
        weights = from_official(contents, config.model.name)
    except UsageError:
        raise UsageError(
            f"{path} is no checkpoint of acmix and none of the released code; `acmix convert {path} NEW.pt` says why; "
            "to train from weights of another kind, use model.checkpoint=FILE"
        ) from None
    check_build(config, weights, str(path))
    model = build_model(config).eval()
    load_weights(model, weights, str(path))
    return model, config, note


def of_hub(name: str, source: str) -> tuple[nn.Module, Info]:
    """A model with published weights: of timm's, of a repository, or of a folder with a copy of one."""
    name = local(name, source)
    folder = Path(name[len(FOLDER) :]) if name.startswith(FOLDER) else None
    if folder is not None and (contents := our_contents(folder, source)) is not None:
        found = restored(contents, source)
        about = dict(classes=found.classes, are_named=found.are_named, kind="published weights")
        return found.model, info_about(contents, found.config, source, folder, **about)
    model, classes, are_named = load_hub(name, source)
    settings = preparation_of(model)
    info = Info(
        source=source,
        path=folder,
        kind="published weights",
        model=getattr(model, "pretrained_cfg", {}).get("architecture") or name,
        classes=classes,
        are_named=are_named,
        **settings,
    )
    return model, info


def preparation_of(model: Any) -> dict[str, Any]:
    """How timm prepares images for a model, as fields of `Info`; from its `pretrained_cfg`, and its own size."""
    cfg = resolve_data_config({}, pretrained_cfg=getattr(model, "pretrained_cfg", None) or {}, model=model)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if isinstance(size, (list, tuple)) and len(size) == 2:
        # what it was built for; the configuration knows what its weights were trained with
        cfg["input_size"] = (cfg["input_size"][0], *map(int, size))
    in_chans, height, width = cfg["input_size"]
    in_chans = getattr(model, "in_chans", in_chans)
    transform = None
    mean, std = tuple(map(float, cfg["mean"])), tuple(map(float, cfg["std"]))
    if in_chans in (1, 3):
        if in_chans == 1 and len(mean) == 3:
            mean, std = (sum(mean) / 3,), (sum(std) / 3,)
        steps = create_transform(**{**cfg, "mean": mean, "std": std}, is_training=False)
        transform = with_channels(bounded(steps), in_chans)
    return dict(
        img_size=height if height == width else (height, width),
        in_chans=in_chans,
        mean=mean,
        std=std,
        interpolation=cfg["interpolation"],
        crop_pct=float(cfg["crop_pct"]),
        # as timm takes any other word
        crop_mode=cfg["crop_mode"] if cfg["crop_mode"] in ("squash", "border") else "center",
        transform=Transform(in_chans, transform),
    )


def load_export(
    path: Path, source: str, kind: str, device: torch.device, img_size: int | None, classes: Sequence[str] | None
) -> tuple[nn.Module, Info]:
    """An export, prepared for as its file says; as by default where it does not say how."""
    export = read_export(path, kind)
    if kind == "torch.export program":
        export = export.to(device)
    else:
        device = torch.device("cpu")
    description = read_description(export.texts, path)
    if description is not None:
        if img_size is not None or classes is not None:
            raise UsageError(f"img_size and classes are for exports of others; {path} brings its own; leave them out")
        return described(export, description, source, device)
    size, is_fixed = input_size(export.sizes, img_size, path)
    in_chans = export.sizes.in_chans or 3
    outputs = number_of_classes(export, in_chans, size, device)
    if classes is not None and len(classes) != outputs:
        raise UsageError(f"{len(classes)} classes are given for the {outputs} outputs of {path}; give a name for each")
    config = Config.model_validate({"data": {"img_size": size}})
    data = config.data
    steps = evaluation_transform(data, in_chans) if in_chans in (1, 3) else None
    notes = [] if is_fixed or img_size else [f"the export takes any size of images: {size} pixels, the default"]
    notes.append("the export does not tell mean, std and crop: those of ImageNet, as `acmix train` takes by default")
    if classes is None:
        notes.append("the export does not name its classes: they are numbered")
    info = Info(
        source=source,
        path=path,
        kind=kind,
        model=path.stem,
        classes=[str(number) for number in range(outputs)] if classes is None else list(classes),
        are_named=classes is not None,
        img_size=size,
        in_chans=in_chans,
        mean=data.mean,
        std=data.std,
        interpolation=data.interpolation,
        crop_pct=data.crop_pct,
        transform=Transform(in_chans, steps),
        notes=tuple(notes),
    )
    return export, info


def described(export: Export, description: Description, source: str, device: torch.device) -> tuple[nn.Module, Info]:
    """An export that `acmix export` wrote, as its file describes it.

    Raises:
        UsageError: the description is not the file's.
    """
    path, config = export.path, description.settings(export.path)
    if config is None and description.task != "classify":
        raise UsageError(
            f"{path} does not say how its images are evaluated; export it again from the checkpoint of a run"
        )
    if export.sizes.in_chans not in (None, description.preprocessing.in_chans):
        raise UsageError(
            f"{path} takes {export.sizes.in_chans} channels, and describes {description.preprocessing.in_chans}; "
            "export it again"
        )
    how = description.preprocessing
    prepared = preparation_told(how) if config is None else preparation_said_twice(how, config, path)
    model: nn.Module = export
    if description.task == "detect":
        model = ExportedDetector(export, description).eval()
    elif description.task == "segment":
        export.of_pixels, export.classes = True, len(description.classes)
    else:
        height, width = sides_of(how.img_size)
        export.classes = len(description.classes)
        with torch.inference_mode():
            export(torch.zeros(1, how.in_chans, height, width, device=device))
    return model, Info(
        source=source,
        path=path,
        kind=export.kind,
        model=description.model,
        classes=[*description.classes],
        are_named=description.named,
        **prepared,
        task=description.task,
        head=description.head,
        metrics=dict(description.metrics),
        top1=description.metrics.get("top1"),
        epoch=description.epoch,
        config=config,
    )
