"""What a step on many cards is predicted from: figures of one's own, in a YAML or JSON file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from acmix.config import apply_override, as_yaml, read_tree
from acmix.config.kinds import Fraction, Section, Share
from acmix.config.reading import in_yaml
from acmix.errors import UsageError
from acmix.near import did_you_mean

# of cards and of accumulated batches: beyond it a number is not meant
MOST = 1_000_000
# points of a curve
MOST_POINTS = 1000
# of a value in a message
MOST_LETTERS = 80
Points = tuple[tuple[Fraction, Fraction], ...]
# bounds that no machine comes near, so that sums of a file's numbers stay finite
Milliseconds = Annotated[float, Field(ge=0.0, le=1e9)]
Some = Annotated[float, Field(ge=1e-9, le=1e9)]


class Compute(Section):
    """What one card computes."""

    batch_size: int = Field(ge=1, le=MOST)
    """Images a card in one forward pass."""

    accumulation: int = Field(default=1, ge=1, le=MOST)
    """Forward and backward passes a step. Gradients travel with the last one."""

    forward_ms: Milliseconds
    """Of one pass."""

    backward_ms: Some
    """Of one pass, without communication."""

    other_ms: Milliseconds = 0.0
    """Of a step, after the gradients have arrived: clipping, optimizer, the loop's own work."""

    deviation: float = Field(default=0.0, ge=0.0, le=10.0)
    """Standard deviation of a step's forward and backward time, from step to step, divided by its mean."""


class Gradients(Section):
    """What travels."""

    mib: Some
    """Of all gradients as the backward pass makes them: 4 bytes a parameter."""

    bucket_mib: Some = 25.0
    """How much is reduced at once. 25 is PyTorch's default."""

    first_bucket_mib: Some = 1.0
    """The first one is smaller, so that communication begins early."""

    ready: Points = ((0.0, 0.0), (1.0, 1.0))
    """Which share of the gradients is there after which share of the backward pass: points [gradients, backward]."""

    compression: Share = 1.0
    """Bytes sent for a byte of gradients: 0.5 for bf16."""

    @field_validator("ready")
    @classmethod
    def is_a_rising_curve(cls, points: Points) -> Points:
        """Refuses what is no way from the first gradient to the last."""
        if not 2 <= len(points) <= MOST_POINTS:
            raise ValueError(f"expected 2 to {MOST_POINTS} points [gradients, backward]")
        if points[0][0] != 0 or points[-1][0] != 1:
            raise ValueError("expected shares of the gradients from 0 to 1")
        if any(before[0] >= after[0] or before[1] > after[1] for before, after in pairwise(points)):
            raise ValueError("expected points in order, each further than the one before")
        return points


class Link(Section):
    """A way between cards."""

    gb_per_second: Some
    """10⁹ bytes a second that one end sends while it receives as many: the "bus bandwidth" of nccl-tests."""

    latency_us: float = Field(ge=0.0, le=1e9)
    """Of one message, in microseconds."""


class Network(Section):
    """How gradients travel."""

    algorithm: Literal["ring", "hierarchical", "tree", "fastest"] = "ring"
    """Of the reduction; fastest: of the three the one that takes least for a bucket."""

    cards_per_node: int = Field(default=8, ge=1, le=MOST)
    """Cards in one machine."""

    inside: Link | None = None
    """From a card to the next in a machine. null: there is one card."""

    between: Link | None = None
    """From a machine to the next, for all of its cards together. null: there is one machine."""

    compute_rate: Share = 1.0
    """How fast a card computes while a bucket travels: 1 where communication costs no compute."""

    communication_rate: Share = 1.0
    """How fast a bucket travels while cards compute."""


class Loader(Section):
    """What reads images."""

    images_per_second: Some | None = None
    """That the readers of one card give. null: always enough."""

    all_images_per_second: Some | None = None
    """That the storage gives to all cards together. null: enough."""

    in_background: bool = True
    """Whether reading processes work beside the step; false for data.workers=0."""


class Checkpoint(Section):
    """What writing checkpoints costs."""

    stall_ms: Milliseconds = 0.0
    """How long the step stands still for one."""

    every_steps: int = Field(default=1000, ge=1, le=10**12)
    """Steps from one to the next."""


class Parts(Section):
    """All of it."""

    title: str = Field(default="", max_length=200)
    """What the table is called."""

    source: str = Field(default="", max_length=2000)
    """Where the figures come from: which are measured, and which are assumed."""

    compute: Compute
    gradients: Gradients
    network: Network
    loader: Loader = Field(default_factory=Loader)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)


def load_parts(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Parts:
    """Reads a file of parts.

    Args:
        path: of the YAML or JSON file.
        overrides: `section.key=value`, the value as YAML.

    Raises:
        UsageError: no such file, not YAML, an unknown or missing key, a value out of bounds.
    """
    file = Path(path).expanduser()
    tree = read_tree(file)
    for override in overrides:
        apply_override(tree, override)
    return parts_of(tree, str(file))


def changed(parts: Parts, overrides: Sequence[str]) -> Parts:
    """Parts with other values.

    Raises:
        UsageError: as `load_parts`.
    """
    tree = parts.model_dump(mode="json")
    for override in overrides:
        apply_override(tree, override)
    return parts_of(tree, "parts")


def parts_of(tree: dict[str, Any], where: str) -> Parts:
    """Checks a tree of plain dictionaries; `where` leads what is said of a wrong one."""
    try:
        return Parts.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{where}: {described(error.errors()[0])}") from None


def described(problem: Any) -> str:
    """One of pydantic's problems in words."""
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        known = known_keys()
        beside = [each for each in known if each.rpartition(".")[0] == key.rpartition(".")[0]]
        name = key.rpartition(".")[2]
        same = [each for each in known if each.rpartition(".")[2] == name]
        meant = did_you_mean(name, same) or did_you_mean(key, beside) or did_you_mean(key, known)
        return f"unknown key {key!r}; {meant or 'there are: ' + ', '.join(beside or known)}"
    if problem["type"] == "missing":
        return f"{key} is missing; docs/scaling.md says what it is"
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"{key}={short(problem['input'])}: expected a mapping of keys"
    said = problem["msg"].removeprefix("Value error, ")
    return f"{key}={short(problem['input'])}: {said[:1].lower()}{said[1:]}"


def short(value: Any) -> str:
    """A value as its author wrote it, cut where it is long."""
    text = in_yaml(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"


def known_keys(section: type[Section] = Parts, lead: str = "") -> list[str]:
    """Every key there is, with those of the sections in it."""
    found = []
    for name, field in section.model_fields.items():
        kind = Link if name in ("inside", "between") else field.annotation
        found.append(f"{lead}{name}")
        if isinstance(kind, type) and issubclass(kind, Section):
            found += known_keys(kind, f"{lead}{name}.")
    return found


def written(parts: Parts) -> str:
    """Parts as the YAML that `load_parts` reads."""
    # a point a line
    return re.sub(r"- - (\S+)\n +- (\S+)", r"- [\1, \2]", as_yaml(parts.model_dump(mode="json")))
