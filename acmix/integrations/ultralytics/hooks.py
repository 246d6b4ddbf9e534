"""What `register` puts around functions of ultralytics, which has no hooks of its own for layers that are not its own.

Each function here takes one of ultralytics' and returns what takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.extras import install
from acmix.integrations.rates import LAYERS, spare_rates
from acmix.integrations.rows import ParseModel, reads_rows
from acmix.integrations.ultralytics.recipe import KEY, follow
from acmix.layers import ACmix2d
from acmix.layers.replace import GatedACmix2d

# goes into the script that ultralytics writes for the processes of several GPUs, once it can import what this one can
REGISTER = "    from acmix.integrations.ultralytics import register\n    register()\n"


def register() -> None:
    """Lets ultralytics build, train, load and export networks with ACmix layers.

    Its model files then have rows of ACmix2d:

        - [-1, 1, ACmix2d, [1024]]
        - [-1, 1, ACmix2d, [1024, {heads: 4, attention_size: 7}]]

    The number is of output channels, before the model's scale, as for ultralytics' own Conv; those that come in are
    found. To be called once in each process that reads such a file, before it does. `replace_conv` calls it, and so
    does a checkpoint that has ACmix layers, as it is loaded.

    Raises:
        UsageError: ultralytics is not installed.
    """
    if find_spec("ultralytics") is None:
        raise UsageError(f"ultralytics is not installed; run {install('yolo')}")
    torch.serialization.add_safe_globals([*LAYERS, registered])
    tasks = import_module("ultralytics.nn.tasks")
    if hasattr(tasks.parse_model, "reads_acmix"):
        return
    put_around(tasks, "parse_model", builds_acmix)
    import_module("ultralytics.nn").parse_model = tasks.parse_model  # type: ignore[attr-defined]
    put_around(tasks, "intersect_dicts", keeps_convolutions)
    put_around(tasks, "fuse_conv_and_bn", leaves_acmix)
    put_around(tasks.BaseModel, "load", keeps_layers)
    put_around(import_module("ultralytics.engine.trainer").BaseTrainer, "build_optimizer", spares_rates)
    put_around(import_module("ultralytics.engine.model").Model, "train", trains_what_it_has)
    put_around(import_module("ultralytics.utils.dist"), "generate_ddp_file", registers_workers)


class Registered:
    """Calls `register` in a process that loads what holds it. ultralytics pickles whole networks."""

    def __reduce__(self) -> tuple[Callable[[], Registered], tuple[()]]:
        return registered, ()


def registered() -> Registered:
    """What a pickled `Registered` calls."""
    register()
    return Registered()


def mark(layers: nn.Sequential) -> None:
    """Makes the layers of a network call `register` wherever they are loaded."""
    layers.acmix = Registered()  # type: ignore[assignment]


def put_around(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replaces a function of a module or class by what a function makes of it."""
    setattr(owner, name, make(getattr(owner, name)))


def builds_acmix(original: ParseModel) -> ParseModel:
    """`parse_model`, which also reads rows of ACmix2d and follows the entries of `replace_conv`."""
    with_rows = reads_rows(original)

    @wraps(original)
    def parse_model(d: dict[str, Any], ch: int, verbose: bool = True) -> tuple[nn.Sequential, list[int]]:
        layers, saved = with_rows(d, ch, verbose)
        network = nn.Module()
        network.model = layers
        count = follow(network, d.get(KEY, []))
        if count and verbose:
            say(f"ACmix2d in the place of {count} convolutions")
        if any(isinstance(each, ACmix2d) for each in layers.modules()):
            mark(layers)
        return layers, saved

    parse_model.reads_acmix = True  # type: ignore[attr-defined]
    return parse_model


def keeps_convolutions(original: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """`intersect_dicts`, which also gives the weights of a convolution to the layer that keeps it beside ACmix2d."""

    @wraps(original)
    def intersect_dicts(da: dict[str, Tensor], db: dict[str, Tensor], *arguments: Any, **options: Any) -> Any:
        renamed = {}
        for name, tensor in da.items():
            layer, _, last = name.rpartition(".")
            kept = name not in db and f"{layer}.gate" in db
            renamed[f"{layer}.conv.{last}" if kept else name] = tensor
        return original(renamed, db, *arguments, **options)

    return intersect_dicts


def keeps_layers(original: Callable[..., Any]) -> Callable[..., Any]:
    """`BaseModel.load`, which takes parts of the head from the other network where the number of classes differs."""

    @wraps(original)
    def load(self: Any, *arguments: Any, **options: Any) -> Any:
        out = original(self, *arguments, **options)
        follow(self, self.yaml.get(KEY, []))
        return out

    return load


def leaves_acmix(original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`fuse_conv_and_bn`, which leaves ACmix layers and the batch norms after them as they are."""

    @wraps(original)
    def fuse_conv_and_bn(conv: nn.Module, bn: nn.Module) -> nn.Module:
        if isinstance(conv, (ACmix2d, GatedACmix2d)):
            return nn.Sequential(conv, bn).requires_grad_(False)
        return original(conv, bn)

    return fuse_conv_and_bn


def spares_rates(original: Callable[..., torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """`BaseTrainer.build_optimizer`, which does not decay rates and gates."""

    @wraps(original)
    def build_optimizer(self: Any, model: nn.Module, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        optimizer = original(self, model, *arguments, **options)
        count = spare_rates(model, optimizer)
        if count:
            say(f"{count} rates and gates of ACmix layers are not decayed")
        return optimizer

    return build_optimizer


def trains_what_it_has(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Model.train`, which starts from a network with replaced convolutions also where a model file is its origin."""

    @wraps(original)
    def train(self: Any, *arguments: Any, **options: Any) -> Any:
        if not self.ckpt and KEY in (getattr(self.model, "yaml", None) or {}):
            self.ckpt = {"model": self.model}  # as YOLO.load does; else the file is read again
        return original(self, *arguments, **options)

    return train


def registers_workers(original: Callable[..., str]) -> Callable[..., str]:
    """`generate_ddp_file`, whose script also calls `register`."""

    @wraps(original)
    def generate_ddp_file(trainer: Any) -> str:
        file = original(trainer)
        path = Path(file)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        paths = [index for index, line in enumerate(lines) if line.lstrip().startswith("sys.path")]
        if not paths:
            raise UsageError("this ultralytics starts several GPUs in a way that acmix does not know; use one")
        lines.insert(paths[0] + 1, REGISTER)
        path.write_text("".join(lines), encoding="utf-8")
        return file

    return generate_ddp_file


def say(text: str) -> None:
    """A line in ultralytics' own log."""
    import_module("ultralytics.utils").LOGGER.info(f"acmix: {text}")
