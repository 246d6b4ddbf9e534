"""Modules that hold parameters and call operators; none knows a kernel."""

from acmix.layers.acmix2d import ACmix2d
from acmix.layers.conv_path import ConvPath
from acmix.layers.window_attention import WindowAttention

__all__ = ["ACmix2d", "ConvPath", "WindowAttention"]
