"""Everything about the released code: its configurations, its names of weights, its checkpoints.

| file | holds |
|---|---|
| `yaml_read` | reads a released YAML file; `load_config` reads what a CONFIG argument names, in either layout |
| `yaml_write` | writes a configuration of ours as a released YAML file |
| `yaml_keys` | every key of that YAML, and the key of ours that it sets |
| `weights` | `from_official` and `to_official`: translates the names of weights, strict both ways |
| `weight_keys_swin`, `weight_keys_resnet` | every name of a weight, there and here |
| `weight_table` | what those two tables are made of |
| `checkpoint` | the configuration that goes with released weights, and a whole released checkpoint of ours |
| `safe_load` | reads a checkpoint file without running anything that it holds |
| `unwrap` | takes the weights out of a file's entries and from behind prefixes |
| `start` | starts a model from the weights that fit it, and reports on each |
| `start_names`, `start_shapes`, `start_head` | how they are renamed and resized, and whose rows a classifier has |
"""

from acmix.released.start import Started, start_from
from acmix.released.weights import architecture, from_official, to_official
from acmix.released.yaml_read import is_official, load_config, read_official
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
