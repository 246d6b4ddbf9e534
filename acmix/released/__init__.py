"""Everything about the released code: its configurations, its names of weights, its checkpoints.

| file | holds |
|---|---|
| `load` | reads what a CONFIG argument names, in either layout |
| `yaml_read` | reads a released YAML file as a configuration of ours |
| `yaml_write` | writes a configuration of ours as a released YAML file |
| `yaml_keys` | every key of that YAML, and the key of ours that it sets |
| `weights` | `from_official` and `to_official`: translates the names of weights, strict both ways |
| `weight_keys_swin`, `weight_keys_resnet` | every name of a weight, there and here |
| `weight_table` | what those two tables are made of |
| `checkpoint` | the configuration that goes with released weights, and a whole released checkpoint of ours |
| `safe_load` | reads a checkpoint file without running anything that it holds |
| `unwrap` | takes the weights out of a file's entries and from behind prefixes |
| `start` | starts a model from the weights that fit it, and reports on each |
| `start_advice` | what to do with weights that do not fit |
| `start_names`, `start_shapes`, `start_head` | how they are renamed and resized, and whose rows a classifier has |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from acmix.lazy import on_first_use

if TYPE_CHECKING:
    from acmix.released.load import is_official, load_config
    from acmix.released.start import Started, start_from
    from acmix.released.weights import architecture, from_official, to_official
    from acmix.released.yaml_read import read_official
    from acmix.released.yaml_write import write_official

__all__ = [
    "Started",
    "architecture",
    "from_official",
    "is_official",
    "load_config",
    "read_official",
    "start_from",
    "to_official",
    "write_official",
]

# a configuration is read without torch
__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "Started": "acmix.released.start",
        "architecture": "acmix.released.weights",
        "from_official": "acmix.released.weights",
        "is_official": "acmix.released.load",
        "load_config": "acmix.released.load",
        "read_official": "acmix.released.yaml_read",
        "start_from": "acmix.released.start",
        "to_official": "acmix.released.weights",
        "write_official": "acmix.released.yaml_write",
    },
)
