"""ACmix's operators: tensors in, tensors out.

Each is a `torch.library` operator (`torch.ops.acmix.…`) with a shape function and a gradient, so it goes through
`torch.compile(fullgraph=True)`, meta tensors and autocast as one node. Which kernel computes it is
decided when it runs: see `use` and `explain`. A graph meant for another runtime (`torch.jit.trace`, `torch.export`,
`torch.onnx.export`) holds an operator's definition instead, in PyTorch's own operators. Derivatives beyond the first
gradient are the definition's too: those of `torch.func`, of forward mode and of `create_graph=True`.

A folder an operator; README.md tells what each file in it is.
"""

from __future__ import annotations

from acmix.ops import dispatch
from acmix.ops.checks import pair
from acmix.ops.dispatch import explain, use

# before the names below, which it would hide: importing a folder binds its name to the module
dispatch.load_operators(__name__)

from acmix.ops.conv_path import conv_path  # noqa: E402
from acmix.ops.local_attention import local_attention  # noqa: E402
from acmix.ops.patchwise_attention import patchwise_attention  # noqa: E402
from acmix.ops.window_attention import window_attention  # noqa: E402

__all__ = ["conv_path", "explain", "local_attention", "pair", "patchwise_attention", "use", "window_attention"]
