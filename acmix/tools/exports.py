"""Models that left PyTorch, back as modules: `torch.export` programs, TorchScript and ONNX.

| file | read by | what it can make run |
|---|---|---|
| `.pt2` | `acmix.tools.program`, not by PyTorch | PyTorch's `aten` operators |
| TorchScript | PyTorch, after a look at its code | TorchScript, in PyTorch's interpreter, without access to files |
| `.onnx` | onnxruntime, on the CPU | ONNX's operators |

B batch, K classes.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.names import SURROGATE
from acmix.released.safe_load import check_archive
from acmix.tools.program import Program, read_program

ZIP = b"PK\x03\x04"
PROGRAM, SCRIPT, ONNX = "torch.export program", "TorchScript", "ONNX"
# what TorchScript has to reach files, or to run code as soon as it is read; `classes` are those written in C++
NOT_IN_SCRIPTS = {"save", "from_file", "classes", "__setstate__", "__getstate__"}
WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# the only forms in which PyTorch writes these two words
OPERATOR = re.compile(r"\bops\.(?:prim|aten)\.\w+", re.ASCII)
ATTRIBUTE = re.compile(r"\bgetattr\([\w.()]+, \"(?P<name>\w+)\"\)", re.ASCII)
# names of the script's own types, which may lie in a module called `ops`
OWN_TYPE = re.compile(r"\b__torch__(?:\.\w+)+", re.ASCII)
OUTSIDE_CLASS = re.compile(rb"torch[.\n]classes[.\n]")
# what running a graph on images that it was not made for may raise
CANNOT_RUN = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError)
CANNOT_RUN += (ArithmeticError, MemoryError)
ONNX_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


@dataclass(frozen=True)
class Sizes:
    """What an export takes; None where any number will do, or where the file does not say."""

    batch: int | None = None
    in_chans: int | None = None
    height: int | None = None
    width: int | None = None


class Export(nn.Module):
    """An export of a classifier or segmenter as a module, for any number of images.

    Args:
        path: its file.
        kind: what it is, in words.
        inner: images (B, in_chans, h, w) -> logits (B, K), of a segmenter (B, K, h, w).
        sizes: what it was made for; a fixed batch is filled up with zeros.
        texts: what the file says of itself, by name.
        of_pixels: whether it gives logits of every pixel.

    Attributes:
        classes: how many the file names; None where it does not say.
        takes: number format of the images; None where the file does not say.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        inner: Any,
        sizes: Sizes,
        texts: Mapping[str, str] | None = None,
        of_pixels: bool = False,
    ) -> None:
        super().__init__()
        self.path, self.kind, self.inner, self.sizes = path, kind, inner, sizes
        self.texts, self.of_pixels = dict(texts or {}), of_pixels
        self.classes: int | None = None
        self.takes: torch.dtype | None = inner.takes if isinstance(inner, Program) else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, K), or (B, K, h, w)."""
        made_for = (self.sizes.in_chans, self.sizes.height, self.sizes.width)
        if any(fixed not in (None, given) for fixed, given in zip(made_for, images.shape[1:], strict=True)):
            sizes = " × ".join("any" if size is None else str(size) for size in made_for)
            raise UsageError(f"{self.path} takes images of {sizes} alone, not {list(images.shape[1:])}")
        try:
            size = self.sizes.batch
            if size is None:
                return self.logits(images)
            parts = [self.logits(filled_up(part, size))[: len(part)] for part in images.split(size)]
            return torch.cat(parts)
        except CANNOT_RUN as error:
            cannot_run(self.path, images, error)

    def run(self, *given: Tensor) -> Any:
        """What the graph gives: in the number formats that are written in it, also where the caller uses autocast."""
        if self.takes is not None:
            given = (given[0].to(self.takes), *given[1:])
        with torch.autocast(given[0].device.type, enabled=False):
            return self.inner(*given)

    def logits(self, images: Tensor) -> Tensor:
        """What it gives for a batch that it takes."""
        logits = self.run(images)
        wanted = images.shape[2:] if self.of_pixels else ()
        right = isinstance(logits, Tensor) and logits.dim() == 2 + len(wanted)
        if not right or len(logits) != len(images) or logits.shape[2:] != wanted:
            shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            expected = "(B, classes, h, w)" if self.of_pixels else "(B, classes)"
            raise UsageError(f"{self.path} gives {shape} for images {list(images.shape)}; expected logits {expected}")
        if self.classes not in (None, logits.shape[1]):
            raise UsageError(f"{self.path} names {self.classes} classes for {logits.shape[1]} outputs; export it again")
        return logits


def cannot_run(path: Path, images: Tensor, error: BaseException) -> NoReturn:
    """Says in one line that an export does not run on images; what is said already is raised again."""
    if isinstance(error, UsageError):
        raise error
    # TorchScript's says what last
    said = (str(error).strip().splitlines() or [type(error).__name__])[-1][:160]
    raise UsageError(
        f"{path} does not run on images of {list(images.shape)}: {said}; "
        "it may have been exported for another size, or for training"
    ) from None


def filled_up(images: Tensor, size: int) -> Tensor:
    """A batch of a fixed size."""
    if len(images) == size:
        return images
    return torch.cat([images, images.new_zeros(size - len(images), *images.shape[1:])])


class Session:
    """An ONNX file in onnxruntime, on the CPU."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime

            state: Any = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        except ImportError:
            raise UsageError(f"{path} needs onnxruntime; run pip install onnxruntime") from None
        self.path = path
        self.errors = tuple(
            each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception)
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        # onnxruntime opens names of UTF-8 alone; weights beside the file are found by its name
        given = path.read_bytes() if SURROGATE.search(str(path)) else str(path)
        try:
            # without a second try, of which it prints lines of its own
            self.session = onnxruntime.InferenceSession(
                given, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except (*self.errors, ValueError, RuntimeError, OSError) as error:
            said = " ".join(str(error).split())[:160]
            raise UsageError(f"{path} is damaged, or not ONNX ({said}); export it again") from None
        self.inputs = self.session.get_inputs()
        if not self.inputs or len(self.inputs[0].shape) != 4 or any(x.type not in ONNX_TYPES for x in self.inputs):
            found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in self.inputs)
            raise UsageError(f"{path} takes {found or 'nothing'}; expected a tensor of images (B, in_chans, h, w)")

    def sizes(self) -> list[int | None]:
        """(B, in_chans, h, w), None where any will do."""
        return [size if isinstance(size, int) else None for size in self.inputs[0].shape]

    def texts(self) -> dict[str, str]:
        """The model's metadata."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def __call__(self, *given: Tensor) -> Any:
        """(B, in_chans, h, w), and of a detector (B, 2) -> (B, K), or a tuple; on the images' device."""
        pairs = zip(self.inputs, given, strict=True)
        values = {each.name: tensor.detach().cpu().numpy().astype(ONNX_TYPES[each.type]) for each, tensor in pairs}
        try:
            found = self.session.run(None, values)
        except self.errors as error:
            raise RuntimeError(" ".join(str(error).split())) from None
        outputs = tuple(torch.from_numpy(np.asarray(each)).to(given[0].device) for each in found)
        return outputs[0] if len(outputs) == 1 else outputs

    def __reduce__(self) -> tuple[Any, ...]:
        # sessions are neither copied nor pickled
        return Session, (self.path,)


def kind_of(path: Path) -> str:
    """What an export is, or "" where the file is none: by its content, and by its name for ONNX, which has no sign.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        content = open(path, "rb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; check its permissions") from None
    with content as file:
        if file.read(len(ZIP)) != ZIP:
            return ONNX if path.suffix.lower() == ".onnx" else ""
        file.seek(0)
        try:
            # of the open file: a name may be no UTF-8
            names = torch._C.PyTorchFileReader(file).get_all_records()
        except (RuntimeError, OSError, ValueError):
            # damaged: read as what its name says
            names = []
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return SCRIPT
    is_program = path.suffix.lower() == ".pt2" or any(name.startswith(("models/", "aotinductor/")) for name in names)
    return PROGRAM if is_program else ""


def read_export(path: Path, kind: str) -> Export:
    """Reads an export.

    Args:
        path: its file.
        kind: what `kind_of` says.

    Raises:
        UsageError: damaged, of a form that cannot be read, or with code in it that could reach files.
    """
    inner: Any
    texts: dict[str, str] = {}
    if kind == ONNX:
        inner = Session(path)
        sizes, texts, inputs = Sizes(*inner.sizes()), inner.texts(), len(inner.inputs)
    elif kind == PROGRAM:
        inner, found, texts = read_program(path)
        sizes, inputs = Sizes(*found), len(inner.given)
    else:
        inner, sizes, inputs = read_script(path), Sizes(), 1
    if inputs != (2 if "sizes" in texts.get("inputs", "") else 1):
        raise UsageError(f"{path} takes {inputs} inputs; expected images (B, in_chans, h, w) alone")
    export = Export(path, kind, inner, sizes, texts)
    return export.eval() if kind != PROGRAM else export


def read_script(path: Path) -> nn.Module:
    """Reads TorchScript whose code can reach nothing but tensors."""
    check_archive(path)
    # read once, so that what is looked at is what is loaded
    content = path.read_bytes()
    try:
        check_script(content, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(io.BytesIO(content), map_location="cpu")
    except (RuntimeError, ValueError, TypeError, LookupError, EOFError) as error:
        if isinstance(error, UsageError):
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        raise UsageError(
            f"{path} is damaged, or TorchScript that cannot be read here ({said}); export it again"
        ) from None


def check_script(content: bytes, path: Path) -> None:
    """Refuses TorchScript that could do more than compute; with torch's own reader, so that both see the same."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    names = reader.get_all_records()
    if "constants.pkl" not in names or "model.json" in names:
        raise UsageError(f"{path} is TorchScript of PyTorch 1.4 or earlier; export it again")
    for name in names:
        if name.startswith(("data/", "constants/", "extra/")) or name.endswith(".debug_pkl"):
            continue
        record = reader.get_record(name)
        if OUTSIDE_CLASS.search(record):
            refuse(path, "an object of C++")
        if not name.startswith("code/"):
            continue
        text = OWN_TYPE.sub("", record.decode())
        words = WORD.findall(text)
        if bad := NOT_IN_SCRIPTS & {*words}:
            refuse(path, repr(min(bad)))
        if words.count("ops") != len(OPERATOR.findall(text)):
            refuse(path, "an operator that is not PyTorch's own")
        attributes = ATTRIBUTE.findall(text)
        if words.count("getattr") != len(attributes):
            refuse(path, "an attribute whose name is hidden")


def refuse(path: Path, what: str) -> NoReturn:
    """Ends with one line."""
    raise UsageError(
        f"{path} asks for {what}, which a model has no need of: refused, nothing was executed; "
        "export it with torch.export or to ONNX"
    )


def input_size(sizes: Sizes, wanted: int | None, path: Path) -> tuple[int, bool]:
    """The side of the square images that an export gets, and whether it says so itself.

    Args:
        sizes: what it was made for.
        wanted: what the user asks for; None: as the export says, else 224.
        path: its file, for messages.
    """
    fixed = {size for size in (sizes.height, sizes.width) if size is not None}
    if len(fixed) > 1:
        raise UsageError(f"{path} takes images of {sizes.height} × {sizes.width}; only square images are prepared here")
    if fixed and wanted not in (None, *fixed):
        raise UsageError(f"{path} takes images of {min(fixed)} pixels a side alone, not {wanted}; leave the size out")
    return (min(fixed), True) if fixed else (224 if wanted is None else wanted, False)


def number_of_classes(export: Export, in_chans: int, img_size: int, device: torch.device) -> int:
    """How many logits an export gives, by running it on one black image."""
    with torch.inference_mode():
        logits = export(torch.zeros(1, in_chans, img_size, img_size, device=device))
    return math.prod(logits.shape[1:])
