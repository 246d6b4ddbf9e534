"""ACmix: self-attention and convolution that share their projections.

Importing this package registers its models with timm.
"""

from acmix import ops
from acmix.layers import ACmix1d, ACmix2d, ConvPath, replace_conv
from acmix.layers.fold import fold
from acmix.models import create_model, list_models
from acmix.models.upgrade import add_conv_path
from acmix.released import from_official, to_official

__all__ = [
    "ACmix1d",
    "ACmix2d",
    "ConvPath",
    "add_conv_path",
    "create_model",
    "fold",
    "from_official",
    "list_models",
    "ops",
    "replace_conv",
    "to_official",
]
