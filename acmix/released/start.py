"""Starts a model from weights that fit it: of this library, released, timm's or the original ones, whole or in part.

Nothing is silent: a report names every tensor that was taken, resized, drawn new, left out or left aside. Nothing is
half: weights that do not fit are refused in one line, and the model is then as it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers import Mixed
from acmix.models.freezing import classifier_keys, is_new
from acmix.released.safe_load import FORMAT, safe_load
from acmix.released.start_advice import as_timm_s
from acmix.released.start_head import HEADS, rows_of
from acmix.released.start_names import FIXED, renamed
from acmix.released.start_shapes import adapted, stems
from acmix.released.unwrap import unwrap

if TYPE_CHECKING:
    from rich.table import Table

# the share of the numbers in a model's body, all but classifier and convolution paths, that a file has to give
LEAST_SHARE = 0.5
SAME_SIZES = "set model.name and model.args as there"


@dataclass
class Started:
    """What became of each tensor of a model and of a file; names of the model's, where both have one.

    Args:
        source: the file, and where in it the weights lay.
        taken: as they are in the file.
        resized: made for other sizes, and how.
        drawn: not in the file, so they keep what the model was built with, and why.
        left_out: in the file, with no place in the model.
        fixed: in the file and not needed: index tables and masks, which follow from the sizes.
        notes: what a user should know beside that, a line each.
        sizes: numbers in each tensor of the model.
    """

    source: str
    taken: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    drawn: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The same as plain values, for a log."""
        kinds = ("source", "taken", "resized", "drawn", "left_out", "fixed", "notes")
        return {kind: getattr(self, kind) for kind in kinds}

    def table(self) -> Table:
        """The same for people: a row a kind, with counts, and with the names where something had to be done."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_edge=False)
        for column in ("weights", "tensors", "numbers"):
            table.add_column(column, justify="left" if column == "weights" else "right", no_wrap=True)
        table.add_column("", overflow="fold")
        table.add_row("from", "", "", Text(self.source))
        shown = (
            ("taken", self.taken, ["all that is not named below"] if self.taken else []),
            ("resized", [*self.resized], grouped(self.resized)),
            ("drawn new", [*self.drawn], grouped(self.drawn)),
            ("left out", self.left_out, grouped(dict.fromkeys(self.left_out, ""))),
            ("not needed", self.fixed, grouped(dict.fromkeys(self.fixed, ""))),
        )
        for kind, names, which in shown:
            if names:
                numbers = sum(self.sizes.get(name, 0) for name in names)
                table.add_row(kind, str(len(names)), f"{numbers:,}" if numbers else "", Text("\n".join(which)))
        for note in self.notes:
            table.add_row("note", "", "", Text(note))
        return table


def start_from(
    model: nn.Module,
    file: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    sorted_names: bool = True,
    head: str = "auto",
) -> Started:
    """Loads into a model all that fits it of a file of weights.

    Taken are state dicts, alone or in a checkpoint (an average of the weights goes before the weights it is of), as
    `.pth` or `.safetensors`: ours, the released ones, timm's, torchvision's and the original Swin's, DeiT's and PVT's,
    under any prefix such as `module.`. Tables of positions are resized for another window or size, and kernels that
    read the image for other channels, as timm does it. A convolution path that the file lacks starts with α = 1 and
    β = 0 beside an attention that the file has, so that the output is at first the plain network's.

    Args:
        model: changed in place, or not at all.
        file: the weights; nothing in it is executed.
        classes: the names of the classes of the data, in the order of the labels; None: not known.
        sorted_names: whether the labels follow from the names, as in folders, or are numbers that the data gives.
        head: "auto" takes the classifier where it has these classes, by name where the file names them, and draws a new
            one otherwise; "keep" takes its rows as they are; "new" draws it.

    Returns:
        What was taken, resized, drawn new and left out.

    Raises:
        UsageError: the file cannot be read, gives less than half of the body, is of another depth, has convolution
            paths that the model lacks or parts of one, or a shape that cannot be adapted.
    """
    if head not in HEADS:
        raise UsageError(f"head={head!r}; expected one of {', '.join(map(repr, HEADS))}")
    content = safe_load(file)
    own = model.state_dict()

    def known(weights: dict[str, Tensor]) -> int:
        return len(renamed(weights, model).keys() & own.keys())

    found = unwrap(content, known, str(file))
    values = renamed(found.weights, model)
    heads = classifier_keys(model, own)
    try:
        check_share(own, values, heads, str(file), model)
        check_depth(own, values, heads, str(file))
    except UsageError as error:
        raise UsageError(f"{error}{as_timm_s(found.weights)}") from None
    rates, notes = fresh_rates(model, own, values, str(file))
    rows = rows_of(content, values, heads, own, str(file), classes, sorted_names, head)
    report = Started(f"{file} ({origin})" if (origin := found.origin()) else str(file), notes=notes)
    report.sizes = {key: value.numel() for key, value in (found.weights | values | own).items()}
    new = dict(own) | rates
    # timm renames and resizes for its own models at once
    before = found.weights if type(model).__module__.startswith("timm.") else values
    misfits = []
    for key, mine in own.items():
        value = values.get(key)
        if key in heads and not rows.are_taken:
            report.drawn[key] = rows.why
        elif value is None:
            report.drawn[key] = drawn_as(key, rates)
        elif problem := unfit(value, mine):
            misfits.append((f"{key} {problem}", "give a file of plain finite numbers"))
        elif (made := adapted(model, key, value, mine, square=is_square(content))) is None:
            reads_image = key in stems(model) and value.shape[1:2] != mine.shape[1:2]
            others = SAME_SIZES + as_timm_s(found.weights)
            mend = "give weights that read images of 1 or 3 channels" if reads_image else others
            misfits.append((f"{key} is {sides(value)} there and {sides(mine)} here", mend))
        else:
            new[key] = made[rows.order] if key in heads and rows.order else made
            given = before.get(key, value)
            # as doubles, since the smallest formats cannot be compared
            if given.numel() == made.numel() and torch.equal(given.flatten().double(), made.flatten().double()):
                report.taken.append(key)
            else:
                report.resized[key] = f"{sides(given)} to {sides(mine)}"
    if misfits:
        count = f"{len(misfits)} tensors, first" if len(misfits) > 1 else "one tensor"
        problem, mend = misfits[0]
        raise UsageError(f"{file} does not fit in {count}: {problem}; {mend}")
    report.left_out = [*found.left_out, *(key for key in values if key not in own)]
    report.fixed = [key for key in found.weights if FIXED.search(key)]
    if rows.are_taken and rows.why:
        report.notes.append(f"classifier: {rows.why}")
    model.load_state_dict(new)
    return report


def check_share(
    own: dict[str, Tensor], values: dict[str, Tensor], heads: set[str], where: str, model: nn.Module
) -> None:
    """Refuses a file with too little of a model's body, which is all but the classifier and the convolution paths."""
    body = {key: value.numel() for key, value in own.items() if key not in heads and not is_new(key)}
    share = sum(size for key, size in body.items() if key in values) / max(sum(body.values()), 1)
    if share < LEAST_SHARE:
        lacking = next(key for key in body if key not in values)
        raise UsageError(
            f"{where} holds the weights of another model: by name it has {share:.0%} of the numbers that the body of "
            f"this {type(model).__name__} needs, at least {LEAST_SHARE:.0%} was expected; it lacks {lacking} and has "
            f"{next(iter(values), 'nothing')}; give the file of this model, or another model.name"
        )


def check_depth(own: dict[str, Tensor], values: dict[str, Tensor], heads: set[str], where: str) -> None:
    """Refuses a file with more or fewer blocks than a model has."""
    here, there = numbered(own, heads), numbered(values, heads)
    for parent, numbers in here.items():
        if parent in there and there[parent] != numbers:
            raise UsageError(
                f"{where} holds the weights of another model: it has {len(there[parent])} blocks in "
                f"{parent or 'the model'}, here there are {len(numbers)}; set model.name and model.args as there"
            )


def numbered(names: Iterable[str], heads: set[str]) -> dict[str, set[int]]:
    """The numbers of the parts of each module that has numbered parts."""
    found: dict[str, set[int]] = {}
    for name in names:
        if name not in heads:
            for at in re.finditer(r"(?:^|\.)(\d+)\.", name):
                found.setdefault(name[: at.start()], set()).add(int(at[1]))
    return found


def fresh_rates(
    model: nn.Module, own: dict[str, Tensor], values: dict[str, Tensor], where: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Rates for the convolution paths that a file lacks whole: 1 and 0, so that they change nothing; and notes.

    Raises:
        UsageError: the file has a part of a path, or a path that the model has no place for.
    """
    hint = "set model.conv_path and model.args (rates, conv_kernels, conv_stages, path) as there"
    if stray := [key for key in values if is_new(key) and key not in own]:
        raise UsageError(
            f"{where} has convolution paths that the model lacks ({len(stray)} tensors, {stray[0]}); {hint}"
        )
    rates: dict[str, Tensor] = {}
    changed: list[str] = []
    replaced: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, Mixed) or module.conv_path is None:
            continue
        inside = [key for key in own if key.startswith(f"{name}.")]
        path = [key for key in inside if is_new(key)]
        lacking = [key for key in path if key not in values]
        if lacking and len(lacking) < len(path):
            raise UsageError(f"{where} has a part of the convolution path of {name}: it lacks {lacking[0]}; {hint}")
        if not lacking:
            continue
        has_attention = all(key in values for key in inside if not is_new(key))
        if has_attention and module.has_attention and f"{name}.rate_conv" in own:
            rates[f"{name}.rate_attention"] = torch.ones_like(own[f"{name}.rate_attention"])
            rates[f"{name}.rate_conv"] = torch.zeros_like(own[f"{name}.rate_conv"])
        else:
            (changed if has_attention else replaced).append(name)
    notes = []
    if rates:
        notes.append(f"{len(rates) // 2} convolution paths are new, with α=1 and β=0: they change nothing at first")
    if replaced:
        notes.append(
            f"{len(replaced)} ACmix layers are new, where the file has others: outputs are not its model's at first"
        )
    if changed:
        notes.append(f"{len(changed)} convolution paths are new and at once count: model.args has no learned α and β")
    return rates, notes


def drawn_as(key: str, rates: Mapping[str, Tensor]) -> str:
    """How a tensor starts that the file lacks; "" where it is drawn as the model draws it."""
    if key in rates:
        return f"{rates[key].item():g}"
    return "0" if key.endswith("num_batches_tracked") else ""


def unfit(value: Tensor, own: Tensor) -> str:
    """What keeps a tensor from being a weight of a model; "" where nothing does."""
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        return "is not a plain tensor there"
    if value.is_meta:
        return "has a shape there, but no values"
    if value.is_floating_point() != own.is_floating_point() and value.numel() > 1:
        return f"is {value.dtype} there and {own.dtype} here".replace("torch.", "")
    # PyTorch before 2.9 cannot ask this of numbers of 8 bits
    if value.is_floating_point() and not bool(torch.isfinite(value.float() if value.itemsize == 1 else value).all()):
        return "holds values there that are not finite"
    return ""


def is_square(content: Mapping[str, Any]) -> bool:
    """Whether a file's windows and images may be taken for square: only our own can say that they are not."""
    config = content.get("config")
    if content.get("format") != FORMAT or not isinstance(config, Mapping):
        return True
    model = config.get("model")
    arguments = model.get("args") if isinstance(model, Mapping) else None
    sizes = [arguments.get(key) for key in ("img_size", "window_size")] if isinstance(arguments, Mapping) else []
    return not any(isinstance(each, (list, tuple)) and len(set(each)) > 1 for each in sizes)


def sides(value: Tensor) -> str:
    """A tensor's shape, as 768×96×4×4."""
    return "×".join(map(str, value.shape)) or "1"


def grouped(names: Mapping[str, str]) -> list[str]:
    """Names with their reasons, a line for all that differ in the numbers of blocks alone."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in names.items():
        groups.setdefault((re.sub(r"((?:^|\.)(?:layer)?)\d+(?=\.)", r"\1*", name), reason), []).append(name)
    return [
        (alike[0] if len(alike) == 1 else f"{pattern} ×{len(alike)}") + (f": {reason}" if reason else "")
        for (pattern, reason), alike in groups.items()
    ]
