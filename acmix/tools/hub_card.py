"""The model card of a saved model, written from what its run left: figures, data, recipe, and what is not known."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from acmix.config import Config
from acmix.errors import UsageError
from acmix.models.build import in_words
from acmix.names import shown
from acmix.tasks.evaluation import LABELS
from acmix.tools.load import Info
from acmix.tools.runs import RunRecord

# how the hub calls a task, and what it is of
TASKS = {
    "classify": ("image-classification", "image classifier"),
    "detect": ("object-detection", "object detector"),
    "segment": ("image-segmentation", "semantic segmenter"),
}
# how the hub calls a metric
METRICS = {"top1": "accuracy", "miou": "mean_iou"}
# names of classes that a card shows
MOST_CLASSES = 30
LICENCE = re.compile(r"[a-z0-9][a-z0-9.\-]{0,63}")
UNNAMED = "not named"
# how a card names a folder that nobody knows the place of
FOLDER_SHOWN = "local-dir:FOLDER"


def card(
    info: Info | None,
    run: RunRecord | None,
    architecture: str,
    classes: list[str] | None,
    *,
    license: str | None,
    dataset: str | None,
    name: str,
    repo_id: str | None,
) -> str:
    """The text of README.md: YAML for the hub, then the card.

    Args:
        info: what goes with the model; None of one that was built, but not loaded.
        run: the run that made it.
        architecture: what timm builds it by; "" where timm cannot.
        classes: names of its outputs, where they are known.
        license: of the weights.
        dataset: what it was trained on.
        name: of the model.
        repo_id: of the repository that it lies in; None for a folder.

    Raises:
        UsageError: the licence is no name of one.
    """
    if license is not None and not LICENCE.fullmatch(license):
        raise UsageError(f"license {license!r} is none of the hub; expected one such as apache-2.0 or cc-by-4.0")
    task = "classify" if info is None else info.task
    lines = [
        f"# {plain(name)}",
        "",
        opening(info, architecture, classes),
        "",
        "## Use",
        "",
        *usage(architecture, repo_id),
        "",
        "## Figures",
        "",
        *figures(info),
        "",
        "## Data",
        "",
        *data(info, classes, dataset),
        "",
        "## Recipe",
        "",
        *recipe(run),
        "",
        "## Licence",
        "",
        f"The weights: `{license}`." if license else "No licence of the weights is stated. Ask whoever published them.",
        "The code of acmix: Apache-2.0.",
        "",
        "## Not known",
        "",
        *unknown(info, run, dataset),
    ]
    return f"---\n{front_matter(info, task, license, dataset, name)}\n---\n\n" + "\n".join(lines) + "\n"


def front_matter(info: Info | None, task: str, license: str | None, dataset: str | None, name: str) -> str:
    """What the hub reads, as YAML."""
    told = ModelCardData(
        library_name="timm" if task == "classify" else "acmix",
        license=license,
        pipeline_tag=TASKS[task][0],
        tags=["acmix", TASKS[task][0], *(["timm"] if task == "classify" else []), "pytorch"],
        model_name=plain(name) if metrics_of(info) else None,
        eval_results=[
            EvalResult(
                task_type=TASKS[task][0],
                dataset_type=re.sub(r"[^a-z0-9]+", "-", (dataset or UNNAMED).lower()).strip("-") or "other",
                dataset_name=shown(dataset or UNNAMED),
                dataset_split="validation",
                metric_type=METRICS.get(metric, metric),
                metric_name=f"{LABELS.get(metric, metric)} (%)",
                metric_value=round(value, 3),
            )
            for metric, value in metrics_of(info).items()
        ]
        or None,
    )
    return told.to_yaml()


def metrics_of(info: Info | None) -> dict[str, float]:
    """What evaluation gave."""
    return {} if info is None else {key: value for key, value in info.metrics.items() if math.isfinite(value)}


def opening(info: Info | None, architecture: str, classes: list[str] | None) -> str:
    """What it is, in two sentences."""
    what = TASKS["classify" if info is None else info.task][1]
    if info is None:
        network = code(architecture)
    else:
        words = info.model if info.config is None else in_words(info.config.model)
        network = f"{info.head} on {code(words)}" if info.head else code(words)
    count = len(classes) if classes else len(info.classes) if info is not None else None
    of = f" of {count} classes" if count else ""
    return f"An {what}{of}: {network}." if what[0] in "aeio" else f"A {what}{of}: {network}."


def usage(architecture: str, repo_id: str | None) -> Iterator[str]:
    """How it is loaded; acmix first, which registers its networks with timm."""
    yield "Install `acmix` ([ACmix, CVPR 2022](https://arxiv.org/abs/2111.14556)) and **import it first**: timm does"
    yield "not know its networks by itself."
    where, given = (f"hf-hub:{repo_id}", repo_id) if repo_id else (FOLDER_SHOWN, "FOLDER")
    yield from ("", "```python", "import acmix  # registers its networks with timm")
    yield from ("import timm",) if architecture else ("",)
    if architecture:
        yield from ("", f'model = timm.create_model("{where}", pretrained=True).eval()')
        yield "# or, with the names of the classes and the preparation of images:"
    yield f'model, info = acmix.from_pretrained("{given}")'
    yield 'for found in acmix.predict(model, "photos/"):'
    yield "    print(found)"
    yield "```"
    if not architecture:
        yield from ("", "timm has no such models: `acmix.from_pretrained` and `acmix predict` read it.")


def figures(info: Info | None) -> Iterator[str]:
    """The table of what evaluation gave."""
    found = metrics_of(info)
    if info is None or not found:
        yield "None is known."
        return
    epochs = f"{info.epoch} epoch{'s' * (info.epoch != 1)}" if info.epoch else ""
    yield f"On the validation images, after {epochs}:" if epochs else "On the validation images:"
    yield from ("", "| measure | % |", "|---|---:|")
    for metric, value in found.items():
        yield f"| {LABELS.get(metric, metric)} | {value:.2f} |"


def data(info: Info | None, classes: list[str] | None, dataset: str | None) -> Iterator[str]:
    """What it was trained on, and how images are prepared."""
    yield f"- Trained on: {plain(dataset or UNNAMED)}"
    if classes:
        names = ", ".join(map(plain, classes[:MOST_CLASSES]))
        rest = len(classes) - MOST_CLASSES
        yield f"- Classes: {names}{f', and {rest} more (config.json)' if rest > 0 else ''}"
    else:
        yield "- Classes: known by their numbers alone"
    if info is None:
        return
    size = info.img_size if isinstance(info.img_size, int) else " × ".join(map(str, info.img_size))
    side = "pixels a side" if info.task == "classify" else "pixels of the shorter side"
    numbers = ", ".join(
        f"{key} {', '.join(f'{each:g}' for each in value)}" for key, value in (("mean", info.mean), ("std", info.std))
    )
    yield (
        f"- Images: {size} {side}, {info.in_chans} channel{'s' * (info.in_chans != 1)}, {info.interpolation}, "
        f"{numbers}, crop {info.crop_pct:g}"
    )


def recipe(run: RunRecord | None) -> Iterator[str]:
    """How it was trained."""
    if run is None:
        yield "Not known: the model was not saved from a run folder."
        return
    config = run.config
    train, optimizer, augment = config.train, config.optimizer, config.augment
    yield f"- Length: {run.state}"
    yield f"- Images a step: {run.images_per_step}"
    yield (
        f"- Optimiser: {optimizer.name}, learning rate {optimizer.lr:g}"
        f"{f' for {optimizer.base_batch_size} images' if optimizer.base_batch_size else ''}, weight decay "
        f"{optimizer.weight_decay:g}; schedule {config.schedule.name}"
    )
    if config.task.name == "classify":
        yield (
            f"- Augmentation: {augment.auto_augment or 'no policy'}, mixup {augment.mixup:g}, "
            f"CutMix {augment.cutmix:g}, random erasing {augment.random_erasing:g}, label smoothing "
            f"{augment.label_smoothing:g}"
        )
    yield f"- Stochastic depth {config.model.drop_path_rate:g}; seed {train.seed}; precision {train.precision}"
    yield f"- Start: {start_of(config)}"
    made: dict[str, Any] = {key: run.summary.get(key) for key in ("device", "parameters")}
    versions = run.log.start.get("versions") or {}
    told = [f"{key} {value}" for key, value in versions.items() if key in ("torch", "timm", "python")]
    if made["parameters"]:
        yield f"- Parameters: {made['parameters']:,}"
    if made["device"] or told:
        yield f"- Trained with: {plain(', '.join([*([str(made['device'])] if made['device'] else []), *told]))}"


def start_of(config: Config) -> str:
    """Which weights a run began with; where a file lay is of one machine."""
    if config.model.checkpoint:
        return "a checkpoint; its own licence and data hold too"
    if config.model.pretrained:
        of = "timm's published weights" if config.model.pretrained is True else "a file of weights"
        return f"{of} for `{config.model.name}`; their licence holds too"
    return "random weights"


def unknown(info: Info | None, run: RunRecord | None, dataset: str | None) -> Iterator[str]:
    """What nobody has shown of the model."""
    if run is not None and "not finished" in run.state:
        yield f"- The run is not finished: {run.state}."
    if not metrics_of(info):
        yield "- It was not evaluated, as far as its file tells."
    if not dataset:
        yield "- The data are not named; their licence is not known."
    if info is not None and info.config is not None and info.config.model.add_conv_path:
        yield "- Its attention comes from one of timm's networks; α and β say how much the convolution paths do."
    yield "- How it does on other data, on other cameras and on people, and whether it is fair: not measured."
    yield "- This card was written by acmix from the files of the run; nobody has read it over."


def plain(text: Any) -> str:
    """A name in the midst of Markdown: on one line, and nothing in it is read as marks."""
    return re.sub(r"[`|<>\[\]*\\#]|(?<!\w)_|_(?!\w)", lambda found: f"&#{ord(found[0])};", shown(text))


def code(text: Any) -> str:
    """A name as code."""
    return "`" + shown(text).replace("`", "'") + "`"
