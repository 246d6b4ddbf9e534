"""Modules that hold parameters and call operators; none knows a kernel."""

from acmix.layers.conv_path import ConvPath
from acmix.layers.window_attention import WindowAttention

__all__ = ["ConvPath", "WindowAttention"]
