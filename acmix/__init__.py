"""ACmix: self-attention and convolution that share their projections.

Importing this package registers its models with timm. The public names below load on first use. The command line
imports what a command needs, and so answers `acmix --help` without torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from acmix.lazy import on_first_use

if TYPE_CHECKING:
    from acmix import ops
    from acmix.heads import create_detector, create_segmenter
    from acmix.layers import ACmix1d, ACmix2d, ConvPath, path_rates, replace_conv
    from acmix.layers.fold import fold
    from acmix.models import create_model, list_models
    from acmix.models.upgrade import add_conv_path
    from acmix.released import from_official, to_official
    from acmix.tools.hub_push import from_pretrained, push_to_hub
    from acmix.tools.hub_save import save_pretrained
    from acmix.tools.load import load
    from acmix.tools.predict import predict

__version__ = "0.1.0"

__all__ = [
    "ACmix1d",
    "ACmix2d",
    "ConvPath",
    "add_conv_path",
    "create_detector",
    "create_model",
    "create_segmenter",
    "fold",
    "from_official",
    "from_pretrained",
    "list_models",
    "load",
    "ops",
    "path_rates",
    "predict",
    "push_to_hub",
    "replace_conv",
    "save_pretrained",
    "to_official",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "ACmix1d": "acmix.layers",
        "ACmix2d": "acmix.layers",
        "ConvPath": "acmix.layers",
        "add_conv_path": "acmix.models.upgrade",
        "create_detector": "acmix.heads",
        "create_model": "acmix.models",
        "create_segmenter": "acmix.heads",
        "fold": "acmix.layers.fold",
        "from_official": "acmix.released",
        "from_pretrained": "acmix.tools.hub_push",
        "list_models": "acmix.models",
        "load": "acmix.tools.load",
        "ops": "acmix",
        "path_rates": "acmix.layers",
        "predict": "acmix.tools.predict",
        "push_to_hub": "acmix.tools.hub_push",
        "replace_conv": "acmix.layers",
        "save_pretrained": "acmix.tools.hub_save",
        "to_official": "acmix.released",
    },
)


def is_command() -> bool:
    """Whether this process is `acmix`, or `python -m acmix` or another of our modules."""
    if sys.argv[:1] != ["-m"]:
        return bool(sys.argv) and Path(sys.argv[0]).stem == "acmix"
    # while Python looks for the module, only orig_argv names it
    after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    return bool(after) and after[0].split(".")[0] == "acmix"


if not is_command():
    from acmix import models as _models  # noqa: F401  registers them with timm
