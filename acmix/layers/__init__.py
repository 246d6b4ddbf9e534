"""Modules that hold parameters and call operators; none knows a kernel."""

from acmix.layers.acmix1d import ACmix1d
from acmix.layers.acmix2d import ACmix2d
from acmix.layers.conv_path import ConvPath
from acmix.layers.global_attention import GlobalAttention
from acmix.layers.mixing import Mixed, Mixing, rate_names
from acmix.layers.patchwise_attention import PairwiseAttention, PatchwiseAttention
from acmix.layers.rates import PathRates, path_rates
from acmix.layers.reduction_attention import ReductionAttention
from acmix.layers.replace import GatedACmix2d, replace_conv
from acmix.layers.window_attention import WindowAttention

__all__ = [
    "ACmix1d",
    "ACmix2d",
    "ConvPath",
    "GatedACmix2d",
    "GlobalAttention",
    "Mixed",
    "Mixing",
    "PairwiseAttention",
    "PatchwiseAttention",
    "PathRates",
    "ReductionAttention",
    "WindowAttention",
    "path_rates",
    "rate_names",
    "replace_conv",
]
