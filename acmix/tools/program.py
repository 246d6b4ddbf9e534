"""Runs what `torch.export.save` wrote, node by node, without executing anything from the file.

A `.pt2` file is a zip archive: a graph as JSON, and weights as bare bytes. PyTorch's own reader unpickles parts of it
and evaluates text in it (sizes, guards, names of functions). This one reads the JSON and the bytes alone, and calls
PyTorch's `aten` operators, two of torchvision's and arithmetic on sizes; a file that asks for anything else is refused.
"""

from __future__ import annotations

import json
import math
import operator
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.tools.limits import bare, check_memory, of_sizes, tensors_in
from acmix.tools.slow_convolutions import computed, has_kernels, in_single, is_slow_call

# numbers that torch's schema gives to types, layouts and memory formats
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
LAYOUTS = {7: torch.strided}
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
# functions of sizes
ARITHMETIC = ("abs", "add", "and_", "eq", "floordiv", "ge", "gt", "invert", "le", "lshift", "lt", "mod")
ARITHMETIC += ("mul", "ne", "neg", "not_", "or_", "pos", "pow", "rshift", "sub", "truediv", "xor")
OF_SIZES: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": of_sizes(getattr(operator, name)) for name in ARITHMETIC},
    "_operator.getitem": operator.getitem,
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
    "torch.sym_float": float,
    "torch.sym_int": int,
    "torch.sym_ite": lambda condition, yes, no: yes if condition else no,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
}
ATEN = "torch.ops.aten."
# the one operator there that opens a file
REFUSED = ("from_file",)
# what detectors need; other operators of torchvision read and write files
OF_TORCHVISION = {f"torch.ops.torchvision.{name}.default": name for name in ("nms", "roi_align")}
# what reading a broken or hostile archive may raise
UNREADABLE = (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, ValueError, KeyError, IndexError, TypeError)
UNREADABLE += (AttributeError, RuntimeError, NotImplementedError, RecursionError, EOFError, MemoryError)


@dataclass(frozen=True)
class Value:
    """The result of a node, by its name."""

    name: str


class WhereItRuns:
    """In the place of every device in the file: the one that the images lie on."""


@dataclass(frozen=True)
class Node:
    """One call: what, with which arguments, and the names that its results get."""

    call: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    results: list[Any]
    # results of earlier nodes that are not read after this one
    last_read: tuple[str, ...]


class Program(nn.Module):
    """A graph and its weights.

    Args:
        inputs: names and tensors of weights, buffers and constants.
        given: names of what it is called with.
        nodes: in order.
        outputs: names of what it gives.
        takes: number format of the images.
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        given: list[str],
        nodes: list[Node],
        outputs: list[str],
        takes: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.given, self.nodes, self.outputs, self.names = given, nodes, outputs, list(inputs)
        # shapes of images that are known to fit into memory
        self.fitting: set[torch.Size] = set()
        self.takes = takes
        # asked here, and not within a trace
        for dtype in (torch.float16, torch.bfloat16):
            has_kernels(dtype)
        for number, tensor in enumerate(inputs.values()):
            self.register_buffer(f"input_{number}", tensor)

    def forward(self, images: Tensor, *others: Tensor) -> Any:
        """(B, in_chans, h, w), and of a detector (B, 2) -> (B, K), or a tuple of what it gives."""
        values: dict[str, Any] = {name: getattr(self, f"input_{number}") for number, name in enumerate(self.names)}
        values |= zip(self.given, (images, *others), strict=True)
        # an accelerator says itself that its memory is full; a processor's may be promised and then not be there
        is_known = images.shape in self.fitting or images.device.type != "cpu"
        is_told = True
        for node in self.nodes:
            args, kwargs = filled(node.args, values, images.device), filled(node.kwargs, values, images.device)
            if not isinstance(node.call, torch._ops.OpOverload):
                bind(node.results, node.call(*args, **kwargs), values)
            else:
                if not is_known:
                    is_told &= fits(node.call, args, kwargs, tensors_in(values))
                bind(node.results, computed(node.call, args, kwargs), values)
            for name in node.last_read:
                values.pop(name, None)
        if is_told:
            self.fitting.add(images.shape)
        outputs = tuple(values[name] for name in self.outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def fits(call: torch._ops.OpOverload, args: list[Any], kwargs: dict[str, Any], held: list[Tensor]) -> bool:
    """As `check_memory`, which says more; of what is computed in fp32 the copies count too."""
    if is_slow_call(call, args, kwargs):
        args, kwargs = ([*map(in_single, bare(args))], {name: in_single(each) for name, each in bare(kwargs).items()})
        held = [*held, *tensors_in([args, kwargs])]
    return check_memory(call, args, kwargs, held)


def filled(argument: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    """An argument with the values that it names."""
    if isinstance(argument, Value):
        return values[argument.name]
    if isinstance(argument, list):
        return [filled(each, values, device) for each in argument]
    if isinstance(argument, dict):
        return {key: filled(each, values, device) for key, each in argument.items()}
    return device if isinstance(argument, WhereItRuns) else argument


def bind(results: list[Any], found: Any, values: dict[str, Any]) -> None:
    """Gives the results of a call their names; None is a result without one, and a check gives none at all."""
    each = [found] if len(results) == 1 else list(found) if results else []
    for result, value in zip(results, each, strict=True):
        if isinstance(result, list):
            bind(result, value[0] if len(result) == 1 else value, values)
        elif isinstance(result, Value):
            values[result.name] = value


def read_program(path: Path) -> tuple[Program, list[int | None], dict[str, str]]:
    """Reads a file of `torch.export.save`.

    Returns:
        The program, the sizes (B, in_chans, h, w) that it was made for, None where any will do, and the texts that were
        saved beside it, by name.

    Raises:
        UsageError: damaged, of another layout, or with something in it that would have to be executed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            reader = Reader(archive, path)
            return *reader.program(), reader.texts()
    except UsageError:
        raise
    except UNREADABLE as error:
        said = " ".join(str(error).split())[:100] or type(error).__name__
        raise UsageError(
            f"{path} is damaged, or not what torch.export.save of PyTorch 2.8 or later writes ({said}); export again"
        ) from None


class Reader:
    """Reads an archive."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path = archive, path
        self.names = set(archive.namelist())
        models = [name for name in self.names if name.endswith("/models/model.json")]
        if len(models) != 1:
            compiled = any("/aotinductor/" in name for name in self.names)
            why = "holds compiled code, which would be run" if compiled else "holds no program named 'model'"
            raise UsageError(f"{path} {why}: refused; give a file that torch.export.save wrote")
        self.root = models[0].removesuffix("models/model.json")

    def program(self) -> tuple[Program, list[int | None]]:
        """The whole of it."""
        module = self.json("models/model.json")["graph_module"]
        graph = module["graph"]
        tensors = {**self.tensors("weights"), **self.tensors("constants")}
        inputs: dict[str, Tensor] = {}
        users = []
        for spec in module["signature"]["input_specs"]:
            ((kind, content),) = spec.items()
            if kind == "user_input":
                users.append(content["arg"]["as_tensor"]["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                inputs[content["arg"]["name"]] = tensors[content[f"{kind}_name"]]
            else:
                self.refuse(f"an input of the kind {kind!r}")
        specs = module["signature"]["output_specs"]
        # behind the buffers that a program in training mode writes
        outputs = [place for place, spec in enumerate(specs) if "user_output" in spec]
        if not users or not outputs:
            raise UsageError(
                f"{self.path} takes {len(users)} inputs and gives {len(outputs)} outputs; expected images and logits"
            )
        wanted = [graph["outputs"][place]["as_tensor"]["name"] for place in outputs]
        nodes = [self.node(each) for each in graph["nodes"]]
        sizes = [size.get("as_int") for size in graph["tensor_values"][users[0]]["sizes"]]
        if len(sizes) != 4:
            raise UsageError(f"{self.path} takes {len(sizes)} dimensions; expected images (B, in_chans, h, w)")
        takes = DTYPES[graph["tensor_values"][users[0]]["dtype"]]
        return Program(inputs, users, with_last_reads(nodes, kept={*wanted, *inputs}), wanted, takes), sizes

    def texts(self) -> dict[str, str]:
        """What was saved beside the program."""
        start = f"{self.root}extra/"
        names = [name.removeprefix(start) for name in self.names if name.startswith(start)]
        return {name: self.bytes(f"extra/{name}").decode() for name in names}

    def refuse(self, what: str) -> NoReturn:
        """Ends with one line."""
        raise UsageError(
            f"{self.path} asks for {str(what)[:80]}: refused, nothing was executed; PyTorch's own operators alone run"
        )

    def json(self, name: str) -> Any:
        """One of the archive's JSON records."""
        return json.loads(self.bytes(name))

    def bytes(self, name: str) -> bytes:
        """One of its records, stored as torch stores them: a compressed one may be a bomb."""
        if self.archive.getinfo(self.root + name).compress_type != zipfile.ZIP_STORED:
            self.refuse("a compressed record")
        return self.archive.read(self.root + name)

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Tensors by name: "weights" or "constants"."""
        found = {}
        for name, content in self.json(f"data/{kind}/model_{kind}_config.json")["config"].items():
            meta = content["tensor_meta"]
            if content["use_pickle"] or meta is None:
                self.refuse(f"{name!r} to be unpickled")
            raw = bytearray(self.bytes(f"data/{kind}/{content['path_name']}"))
            dtype = DTYPES[meta["dtype"]]
            flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            sizes, strides = ([each["as_int"] for each in meta[key]] for key in ("sizes", "strides"))
            found[name] = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
        return found

    def node(self, content: Mapping[str, Any]) -> Node:
        """A node, with what it calls."""
        target, results = content["target"], [self.result(each) for each in content["outputs"]]
        given = [(each["name"], self.argument(each["arg"])) for each in content["inputs"]]
        if target in OF_SIZES:
            return Node(OF_SIZES[target], [value for _, value in given], {}, results, ())
        if target in OF_TORCHVISION:
            import torchvision  # noqa: F401  that its operators are there

            return Node(getattr(torch.ops.torchvision, OF_TORCHVISION[target]).default, [], dict(given), results, ())
        name, _, overload = target.removeprefix(ATEN).partition(".")
        if not target.startswith(ATEN) or not name.isidentifier() or not overload.isidentifier() or name in REFUSED:
            self.refuse(repr(target))
        call = getattr(getattr(torch.ops.aten, name), overload)
        if not isinstance(call, torch._ops.OpOverload):
            self.refuse(repr(target))
        return Node(call, [], dict(given), results, ())

    def result(self, content: Mapping[str, Any]) -> Any:
        """The names of one result: a value, a list of values, or None."""
        ((kind, value),) = content.items()
        if kind == "as_tensors":
            return [Value(each["name"]) for each in value]
        if kind == "as_none":
            return None
        return Value(value["name"] if kind == "as_tensor" else value["as_name"])

    def argument(self, content: Mapping[str, Any]) -> Any:
        """One argument: a value by its name, or a constant."""
        ((kind, value),) = content.items()
        if kind in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor"):
            return self.named(value)
        if kind in ("as_tensors", "as_sym_ints", "as_sym_bools", "as_sym_floats", "as_optional_tensors"):
            return [self.named(each) for each in value]
        if kind in ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools", "as_strings"):
            return float(value) if kind == "as_float" else value
        tables: dict[str, dict[int, Any]] = {
            "as_scalar_type": DTYPES,
            "as_layout": LAYOUTS,
            "as_memory_format": MEMORY_FORMATS,
        }
        if kind in tables:
            return tables[kind][value]
        if kind not in ("as_none", "as_device"):
            self.refuse(f"an argument of the kind {kind!r}")
        return WhereItRuns() if kind == "as_device" else None

    def named(self, content: Mapping[str, Any]) -> Any:
        """A value by its name, or a number that stands in the place of one."""
        if "name" in content or "as_name" in content:
            return Value(content.get("name", content.get("as_name")))
        ((kind, value),) = content.items()
        return self.named(value) if kind == "as_tensor" else None if kind == "as_none" else value


def with_last_reads(nodes: list[Node], kept: set[str]) -> list[Node]:
    """The nodes, each with the values that it is the last to read, so that a map's memory is given back."""
    found, seen = [], set(kept)
    for node in reversed(nodes):
        read = {value.name for value in values_in([node.args, node.kwargs])}
        made = {value.name for value in values_in(node.results)}
        done = (read | made) - seen
        seen |= read | made
        found.append(Node(node.call, node.args, node.kwargs, node.results, tuple(done)))
    return found[::-1]


def values_in(argument: Any) -> list[Value]:
    """The values that an argument names."""
    if isinstance(argument, Value):
        return [argument]
    if isinstance(argument, dict):
        argument = list(argument.values())
    return [value for each in argument for value in values_in(each)] if isinstance(argument, list) else []
