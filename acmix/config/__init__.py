"""The settings of a run: what they are (`schema`), and how they are read from files and overrides (`reading`)."""

from acmix.config.reading import (
    apply_override,
    complete,
    dump,
    find,
    known_keys,
    load,
    parse,
    read_tree,
    shipped,
    validate,
)
from acmix.config.schedule import Schedule
from acmix.config.schema import WEIGHTS_DECIDE, Augment, Config, Data, Model, Optimizer, Train

__all__ = [
    "WEIGHTS_DECIDE",
    "Augment",
    "Config",
    "Data",
    "Model",
    "Optimizer",
    "Schedule",
    "Train",
    "apply_override",
    "complete",
    "dump",
    "find",
    "known_keys",
    "load",
    "parse",
    "read_tree",
    "shipped",
    "validate",
]
