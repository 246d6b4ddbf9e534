"""A model as a folder that timm, `acmix.load` and the Hugging Face hub read: weights, configuration and model card."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.names import to_json
from acmix.tools.hub import FOLDER
from acmix.tools.hub_card import card
from acmix.tools.hub_config import REBUILT, Saved, configuration
from acmix.tools.hub_folder import CARD, CONFIG, WEIGHTS
from acmix.tools.load import info_of, load, preparation_of
from acmix.tools.runs import home_of, read_folder
from acmix.train.files import sync_folder

FILES = (CONFIG, WEIGHTS, CARD)


def save_pretrained(
    model_or_run: nn.Module | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    license: str | None = None,
    dataset: str | None = None,
) -> Path:
    """Writes a folder as the Hugging Face hub holds models: config.json, model.safetensors and a model card.

    A classifier can be built from it by `timm.create_model("local-dir:FOLDER", pretrained=True)` after `import acmix`;
    `acmix.load` takes the folder of any model. The folder is read back and has to give the same outputs, bit for bit;
    otherwise nothing is written.

    Args:
        model_or_run: a run folder, a checkpoint or what else `acmix.load` takes; or a model, from `acmix.load`,
            `acmix.create_model` or timm. A detector or segmenter has to come from `acmix.load`. Figures are taken from
            files alone: a model in memory may have been trained on.
        folder: the folder to write; it must not hold a model yet.
        classes: names of the outputs of a model that has none, in order.
        license: of the weights, as the hub names it, such as "apache-2.0"; the card says so if there is none.
        dataset: what the model was trained on, for the card.

    Returns:
        The folder.

    Raises:
        UsageError: the model cannot be rebuilt from its name and arguments, or the folder cannot be written.
    """
    folder = Path(os.path.expanduser(folder))
    check_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with written(
            model_or_run, folder.parent, classes=classes, license=license, dataset=dataset, name=folder.resolve().name
        ) as made:
            folder.mkdir(exist_ok=True)
            # a folder is one of a model from the moment that it has its configuration
            for name in (CARD, WEIGHTS, CONFIG):
                with open(made / name, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(made / name, folder / name)
            sync_folder(folder)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}; choose another place") from None
    return folder


def check_free(folder: Path) -> None:
    """Refuses a folder that holds a file of a model already.

    Raises:
        UsageError: names the file.
    """
    held = [name for name in FILES if os.path.lexists(folder / name)]
    if held:
        raise UsageError(f"{folder} holds a {held[0]} already; choose another folder, or move that away")


@contextmanager
def written(
    model_or_run: nn.Module | str | os.PathLike[str],
    beside: Path | None,
    *,
    classes: Sequence[str] | None,
    license: str | None,
    dataset: str | None,
    name: str,
    repo_id: str | None = None,
) -> Iterator[Path]:
    """A folder with the files of a model, which is gone after the block; the arguments are those of `save_pretrained`.

    Args:
        beside: where it is made; None: where the system keeps such folders.
        name: what the card calls the model.
        repo_id: the repository that the card shows how to load; None for a folder.
    """
    saved = what_is(model_or_run, classes)
    check_plain(saved)
    with tempfile.TemporaryDirectory(prefix=".acmix-", dir=beside) as place:
        made = Path(place)
        try:
            save_file(tensors_of(saved.model), made / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:
            said = " ".join(str(error).split())
            raise UsageError(f"cannot write the weights: {said}; free some space, or choose another place") from None
        content = configuration(saved, made, license)
        text = card(
            saved.info, saved.run, content.get("architecture", ""), saved.classes,
            license=license, dataset=dataset, name=name, repo_id=repo_id,
        )  # fmt: skip
        (made / CARD).write_text(text, encoding="utf-8")
        (made / CONFIG).write_text(to_json(content, indent=2), encoding="utf-8")
        check_rebuilt(saved, made)
        yield made


def what_is(model_or_run: nn.Module | str | os.PathLike[str], classes: Sequence[str] | None) -> Saved:
    """The model that is meant, and what goes with it.

    Raises:
        UsageError: it cannot be loaded, or the names of classes are not for it.
    """
    if isinstance(model_or_run, nn.Module):
        model, info, run = unwrapped(model_or_run), info_of(model_or_run), None
        info = None if info is None else replace(info, metrics={}, top1=None, epoch=None)
    else:
        model, info = load(model_or_run, device="cpu")
        path = Path(os.path.expanduser(model_or_run))
        home = home_of(path) if info.kind == "checkpoint" and is_of_run(path) else None
        run = read_folder(home) if home is not None and home.is_dir() else None
    outputs = getattr(model, "num_classes", None)
    if classes is not None:
        if info is not None and info.config is not None:
            raise UsageError("classes are for a model without names, and this one has those of its run; leave them out")
        if len(classes) != outputs or len({*classes}) < len(classes):
            raise UsageError(f"{len(classes)} names of classes are given for {outputs} outputs; give another for each")
        return Saved(model, info, run, [*map(str, classes)])
    return Saved(model, info, run, info.classes if info is not None and info.are_named else None)


def is_of_run(path: Path) -> bool:
    """Whether a checkpoint, or a folder of one, lies in a run folder that can be read."""
    return path.is_file() or ((path / "config.yaml").is_file() and (path / "log.jsonl").is_file())


def unwrapped(model: nn.Module) -> nn.Module:
    """The model in torch.compile, DataParallel or DistributedDataParallel."""
    inner = model._modules.get("_orig_mod") or model._modules.get("module")
    return model if inner is None or len(model._modules) != 1 else unwrapped(inner)


def check_plain(saved: Saved) -> None:
    """Refuses what cannot be rebuilt by name, before anything is written.

    Raises:
        UsageError: says what it is.
    """
    model = saved.model
    if saved.info is not None and saved.info.kind not in ("checkpoint", "released checkpoint", "published weights"):
        raise UsageError(f"an export ({saved.info.kind}) holds a graph, not a model; give the checkpoint it came from")
    if saved.config is None and not (getattr(model, "pretrained_cfg", None) or {}).get("architecture"):
        raise UsageError(
            f"a {type(model).__name__} in memory does not tell how it is built; give the run folder, the checkpoint, "
            "what acmix.load gave, or a model of acmix.create_model or timm"
        )
    other = next((key for key, value in model.state_dict().items() if value.is_floating_point()
                  and value.dtype != torch.float32), None)  # fmt: skip
    if other:
        raise UsageError(f"{other} is {model.state_dict()[other].dtype}; they are saved in float32: call model.float()")


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The weights on the CPU; those that share memory are stored twice, as safetensors want it."""
    seen: set[int] = set()
    tensors = {}
    for key, value in model.state_dict().items():
        plain = value.detach().cpu().contiguous()
        tensors[key] = plain.clone() if plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    return tensors


def check_rebuilt(saved: Saved, made: Path) -> None:
    """Reads a folder back, by timm and by `acmix.load`, and compares weights and outputs, bit for bit.

    Raises:
        UsageError: they differ.
    """
    model = saved.model
    by_timm = [lambda: timm.create_model(f"{FOLDER}{made}", pretrained=True).eval()] if saved.is_timm_s else []
    ways = [*by_timm, lambda: load(made, device="cpu")[0]]
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    modes = [(each, each.training) for each in model.modules()]
    try:
        model.eval()
        expected = None
        for build in ways:
            try:
                again = build().to(device)
            except UsageError as error:
                raise UsageError(f"the saved model does not load: {str(error).replace(str(made), 'it')}") from None
            except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
                said = " ".join(str(error).split()).replace(str(made), "it")[:200]
                raise UsageError(f"timm does not build this model again: {said}; {REBUILT}") from None
            images = example(saved, device)
            with torch.inference_mode():
                torch.manual_seed(0)
                expected = model(images) if expected is None else expected
                torch.manual_seed(0)
                found = again(images)
            try:
                exact: Any = dict(rtol=0, atol=0, equal_nan=True)
                torch.testing.assert_close(again.state_dict(), model.state_dict(), **exact)
                torch.testing.assert_close(found, expected, **exact)
            except AssertionError:
                raise UsageError(f"the model gives other numbers when it is built again; {REBUILT}") from None
    finally:
        for each, mode in modes:
            each.training = mode


def example(saved: Saved, device: torch.device) -> Any:
    """Drawn images as the model reads them."""
    info = saved.info
    how = preparation_of(saved.model) if info is None else {"img_size": info.img_size, "in_chans": info.in_chans}
    size = how["img_size"]
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, how["in_chans"], height, width, generator=generator).to(device)
    return [*images] if info is not None and info.task == "detect" else images
