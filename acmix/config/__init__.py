"""The settings of a run.

| file | holds |
|---|---|
| `schema` | every setting with its default, meaning and an example: the model's, and the whole |
| `task`, `images`, `schedule`, `train` | those of the other sections |
| `kinds` | what settings are made of |
| `effect` | which settings a task reads nothing of |
| `reading` | reads them from YAML and overrides, and says what is wrong |
| `reference` | prints the schema for people: `acmix config`, docs/settings.md |
"""

from acmix.config.effect import without_effect
from acmix.config.images import WEIGHTS_DECIDE, Augment, Data
from acmix.config.reading import (
    apply_override,
    as_yaml,
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
from acmix.config.schema import Config, Model
from acmix.config.task import Task
from acmix.config.train import Optimizer, Train

__all__ = [
    "WEIGHTS_DECIDE",
    "Augment",
    "Config",
    "Data",
    "Model",
    "Optimizer",
    "Schedule",
    "Task",
    "Train",
    "apply_override",
    "as_yaml",
    "complete",
    "dump",
    "find",
    "known_keys",
    "load",
    "parse",
    "read_tree",
    "shipped",
    "validate",
    "without_effect",
]
