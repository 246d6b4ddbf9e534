"""Inputs, weights, outputs and gradients of the released code, and how wrong ours is beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from acmix.testing.judge import relative_error
from tests.support.paths import DATA


class Golden:
    """One golden file.

    Args:
        name: the file's name, without its ending.
    """

    def __init__(self, name: str) -> None:
        with safe_open(DATA / f"{name}.safetensors", "pt") as file:
            self.case: dict[str, Any] = json.loads(file.metadata()["case"])
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a mapping

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below a prefix, under the released parameter names."""
        start = f"{prefix}/"
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}

    def errors(
        self,
        model: nn.Module,
        renamed: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
        dtype: torch.dtype,
        shape: tuple[int, ...] | None = None,
    ) -> dict[str, float]:
        """Runs a module forward and backward on the golden input and weights.

        Args:
            model: takes the golden weights once they are renamed.
            renamed: released names and tensors to ours; used for weights and for their gradients.
            dtype: what to compute in.
            shape: of our input, where it differs from the released one.

        Returns:
            max|ours − golden| / max|golden| of the output, of the input's gradient and of each weight's.
        """
        model.load_state_dict(renamed(self.group("weight")))
        model = model.to(dtype)
        x = self.tensors["input"].to(dtype).requires_grad_()
        out = model(x if shape is None else x.view(shape)).view(self.tensors["output"].shape)
        out.backward(self.tensors["grad_output"].to(dtype))
        assert x.grad is not None
        found = {
            "output": relative_error(out.detach(), self.tensors["output"]),
            "input": relative_error(x.grad, self.tensors["grad_input"]),
        }
        expected = renamed(self.group("grad_weight"))
        weights = dict(model.named_parameters())
        assert set(expected) == set(weights)
        for name, value in expected.items():
            grad = weights[name].grad
            assert grad is not None, name
            found[name] = relative_error(grad, value)
        return found
