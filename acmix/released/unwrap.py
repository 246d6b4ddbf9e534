"""Takes the weights out of a checkpoint that anybody wrote: from under its entries and behind its prefixes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from acmix.errors import UsageError

# what our own checkpoints say of themselves
FORMAT = "acmix"
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
        parts += ["an average of weights"] if set(self.entry.split(".")) & set(AVERAGES) else []
        parts += [f"names behind {self.prefix!r}"] if self.prefix else []
        return ", ".join(parts)


def unwrap(content: Mapping[str, Any], known: Callable[[dict[str, Tensor]], int], where: str) -> Found:
    """Finds the weights in what `safe_load` gave.

    Args:
        content: a bare state dict, or a checkpoint with one under one of `ENTRIES`; an average goes before the weights
            it is of.
        known: how many of some names a model knows; of the prefixes in the file, the one that makes it know most is
            taken off.
        where: the file, for messages.

    Raises:
        UsageError: no tensors are found.
    """
    entry, values = entry_of(content)
    if not any(isinstance(value, Tensor) for value in values.values()):
        raise UsageError(f"{where} holds no weights; expected a state dict, alone or under 'state_dict' or 'model'")
    named = {INNER.sub("", str(key)): value for key, value in values.items()}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}

    def below(prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

    def rank(prefix: str) -> tuple[int, bool, int]:
        # of two copies of a model, an average goes first here too
        return known(below(prefix)), any(part in prefix for part in ("ema", "average", "teacher")), -len(prefix)

    prefix = max(prefixes(tensors), key=rank)
    beside = [key for key in named if key not in tensors or not key.startswith(prefix)]
    return Found(below(prefix), entry, prefix, beside)


def entry_of(content: Mapping[str, Any], depth: int = DEPTH) -> tuple[str, Mapping[str, Any]]:
    """The entry that holds the weights, and what it holds; "" and the content where it is bare."""
    for key in ENTRIES:
        inner = content.get(key)
        if depth and isinstance(inner, Mapping) and inner:
            rest, values = entry_of(inner, depth - 1)
            if any(isinstance(value, Tensor) for value in values.values()):
                return f"{key}.{rest}".rstrip("."), values
    return "", content


def prefixes(names: Iterable[str]) -> list[str]:
    """What names may begin with: nothing, or a start that some share, such as "module." or "model.backbone."."""
    starts = Counter(name[: at.end()] for name in names for at in re.finditer(r"\.", name))
    # a number within a start is a block's, not a wrapper's
    return ["", *(start for start, _ in starts.most_common() if not re.search(r"\.\d+\.", start))]
