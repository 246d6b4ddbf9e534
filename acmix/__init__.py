"""ACmix: self-attention and convolution that share their projections.

Importing this package registers its models with timm.
"""

from acmix import ops
from acmix.layers import ConvPath
from acmix.models import create_model, list_models
from acmix.models.official import from_official, to_official

__all__ = ["ConvPath", "create_model", "from_official", "list_models", "ops", "to_official"]
