"""Takes the weights out of a checkpoint that anybody wrote: from under its entries and behind its prefixes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from acmix.errors import UsageError

# entries that hold weights; averages stand first, as timm prefers them
AVERAGES = ("average", "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "teacher")
ENTRIES = (*AVERAGES, "state_dict", "model", "model_state_dict", "student", "module", "network", "net")
# what torch.compile, FSDP and activation checkpointing put into names, wherever they wrapped a module
INNER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# how deep entries are looked for within entries
DEPTH = 3


@dataclass(frozen=True)
class Found:
    """Weights as a file has them, under bare names.

    Args:
        weights: tensors by name.
        entry: the entry of the file they come from, "" where the file is a bare state dict.
        prefix: what stood before each name.
        left_out: full names of what lies beside them: other prefixes, and values that are no tensors.
    """

    weights: dict[str, Tensor]
    entry: str
    prefix: str
    left_out: list[str]

    def origin(self) -> str:
        """Where in the file they lay, as the end of a sentence; "" where nothing has to be said."""
        parts = [f"entry {self.entry!r}"] if self.entry else []
        parts += ["an average of weights"] if is_average(self.entry) else []
        parts += [f"names behind {self.prefix!r}"] if self.prefix else []
        return ", ".join(parts)


def unwrap(content: Mapping[str, Any], known: Callable[[dict[str, Tensor]], int], where: str) -> Found:
    """Finds the weights in what `safe_load` gave.

    Args:
        content: a bare state dict, or a checkpoint with one under one of `ENTRIES` or, where none of these fits, under
            any other name; an average goes before the weights it is of.
        known: how many of some names a model knows; of the prefixes in the file, the one that makes it know most is
            taken off.
        where: the file, for messages.

    Raises:
        UsageError: no tensors are found, or two entries fit alike.
    """
    usual = [strip(entry, values, known) for entry, values in entries_of(content)]
    if any(count for count, _ in usual):
        most = max(count for count, _ in usual)
        # an average may lack some of the names, but not most: those are of something else
        return next(found for count, found in usual if 2 * count >= most)
    other = [strip(entry, values, known) for entry, values in entries_of(content, usual=False)]
    if not usual and not other:
        raise UsageError(f"{where} holds no weights; expected a state dict, alone or under 'state_dict' or 'model'")
    most = max((count for count, _ in other), default=0)
    if not most:
        return (usual or other)[0][1]
    alike = [found for count, found in other if count == most]
    alike = [found for found in alike if is_average(found.entry)] or alike
    if len(alike) > 1:
        names = " and ".join(repr(found.entry) for found in alike)
        raise UsageError(f"{where} holds weights that fit in the entries {names}; save the one that is meant alone")
    return alike[0]


def strip(entry: str, values: Mapping[str, Any], known: Callable[[dict[str, Tensor]], int]) -> tuple[int, Found]:
    """The weights in an entry without the prefix that hides most of them, and how many names are known then."""
    named = {INNER.sub("", str(key)): value for key, value in values.items()}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}

    def below(prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

    def rank(prefix: str) -> tuple[int, bool, int]:
        # of two copies of a model, an average goes first here too
        return known(below(prefix)), is_average(prefix), -len(prefix)

    ranks = {prefix: rank(prefix) for prefix in prefixes(tensors)}
    prefix = max(ranks, key=ranks.__getitem__)
    beside = [key for key in named if key not in tensors or not key.startswith(prefix)]
    return ranks[prefix][0], Found(below(prefix), entry, prefix, beside)


def is_average(name: str) -> bool:
    """Whether an entry or a prefix is one of averaged weights, by its name."""
    return any(part in name for part in ("ema", "average", "teacher"))


def entries_of(
    content: Mapping[str, Any], depth: int = DEPTH, *, usual: bool = True
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every entry that holds tensors, the innermost first, and what it holds; "" and the content where it is bare.

    Args:
        content: a checkpoint.
        depth: how deep to look.
        usual: whether to look under `ENTRIES` alone; else under any name, but for an optimizer's.
    """
    others = [] if usual else [key for key in content if isinstance(key, str) and not key.startswith("optim")]
    for key in dict.fromkeys((*ENTRIES, *others)):
        inner = content.get(key)
        if depth and isinstance(inner, Mapping):
            for rest, values in entries_of(inner, depth - 1, usual=usual):
                yield f"{key}.{rest}".rstrip("."), values
    if any(isinstance(value, Tensor) for value in content.values()):
        yield "", content


def prefixes(names: Iterable[str]) -> list[str]:
    """What names may begin with: nothing, or a start that some share, such as "module." or "model.backbone."."""
    starts = Counter(name[: at.end()] for name in names for at in re.finditer(r"\.", name))
    # a number within a start is a block's, not a wrapper's
    return ["", *(start for start, _ in starts.most_common() if not re.search(r"\.\d+\.", start))]
