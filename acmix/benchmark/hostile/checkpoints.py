"""Mutated checkpoints: what they hold and what they are as files; and the other files of a run folder."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from acmix.benchmark.hostile import configurations
from acmix.benchmark.hostile.archives import Sound, archive, header, opcodes, places_in, put
from acmix.released.digest import DIGEST, digest_of


@dataclass(frozen=True)
class Mutant:
    """A checkpoint with something wrong.

    Args:
        content: of the file.
        suffix: of its name.
        what: was changed.
        beside: other files of the run folder that are changed too, by name.
    """

    content: bytes
    suffix: str
    what: str
    beside: dict[str, bytes]


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**70, 10**400, 0.0, 1.5, -1.0, 1e300, float("nan"), float("inf")),
    *(
        "",
        "x",
        "a\nb",
        "\ud800",
        "a" * 100_000,
        "\x1b[31m",
        b"bytes",
        [],
        [1],
        ["a"],
        [None] * 20,
        {},
        {"a": 1},
        {1: 2},
    ),
    *((1, 2), {"a", "b"}, frozenset(), 1j, torch.float16, torch.device("cpu"), torch.Size([2]), [[[[[]]]]], range(3)),
)
# what a configuration in a checkpoint might ask for
ASKS: tuple[tuple[str, Any], ...] = (
    ("model.args.pretrained_cfg_overlay", {"url": "http://127.0.0.1:9/x.pth"}),
    ("model.args.checkpoint_path", "/etc/passwd"),
    ("model.args.cache_dir", "folder"),
    ("model.name", "hf-hub:timm/resnet18.a1_in1k"),
    ("model.name", "local-dir:folder"),
    ("model.name", "resnet18.a1_in1k"),
    ("model.name", "nonsense"),
    ("model.name", "vit_giant_patch14_dinov2"),
    ("model.pretrained", True),
    ("model.pretrained", "/etc/passwd"),
    ("model.checkpoint", "http://127.0.0.1:9/x.pth"),
    ("model.args.depths", [2000, 2000]),
    ("model.args.depths", [0, 0]),
    ("model.args.depths", [1, "a"]),
    ("model.args.embed_dim", 10**9),
    ("model.args.embed_dim", 13),
    ("model.args.window_size", 10**6),
    ("model.args.window_size", 0),
    ("model.args.num_heads", [0, 0]),
    ("model.args.patch_size", 10**6),
    ("model.args.act_layer", "os.system"),
    ("model.args.norm_layer", "nonsense"),
    ("model.args.mlp_ratio", 1e9),
    ("model.num_classes", 10**9),
    ("model.in_chans", 10**6),
    ("model.in_chans", 2),
    ("data.format", "hfds/x/y"),
    ("data.format", "hfids/x"),
    ("data.format", "tfds/mnist"),
    ("data.dir", "http://127.0.0.1:9/"),
    ("data.img_size", 16_384),
    ("data.img_size", 1),
    ("data.img_size", 33),
    ("data.crop_pct", 0.001),
    ("data.mean", [0.5]),
    ("data.std", [0.0, 1.0, 1.0]),
    ("data.mean", [float("nan")] * 3),
    ("data.workers", 1000),
    ("train.batch_size", 10**12),
    ("train.epochs", 10**12),
    ("train.restarts", 1000),
    ("task.name", "detect"),
    ("task.name", "segment"),
    ("task.num_classes", 60_000),
    ("task.min_size", [16_000]),
    ("task.max_size", 16_384),
    ("task.args", {"channels": 10**6}),
    ("task.args", {"proposals": 10**9}),
    ("task.args", {"detections": 0}),
    ("optimizer.lr", 1e30),
    ("optimizer.name", "nonsense"),
)


def mutated(sound: Sound, draw: random.Random) -> Mutant:
    """One mutant."""
    make, suffix = draw.choices(
        (
            (entry, ".pt"),
            (tensor, ".pt"),
            (asking, ".pt"),
            (classes, ".pt"),
            (opcodes, ".pt"),
            (archive, ".pt"),
            (header, ".safetensors"),
            (None, ".pt"),
        ),
        (22, 22, 14, 6, 16, 12, 12, 10),
    )[0]
    if make is None:
        files, what = beside(sound, draw)
        return Mutant(sound.archive, suffix, what, files)
    content, what = make(sound, draw)
    return Mutant(content, suffix, what, {})


def packed(content: Any) -> bytes:
    """Bytes as `torch.save` writes them, with the digest of what is in them, where there can be one."""
    if isinstance(content, dict) and DIGEST in content:
        content = {key: value for key, value in content.items() if key != DIGEST}
        try:
            content[DIGEST] = digest_of(content)
        except (TypeError, RuntimeError, RecursionError):
            content[DIGEST] = "0" * 64
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def at(content: Any, place: tuple[Any, ...]) -> Any:
    """What lies at a place."""
    for key in place:
        content = content[key]
    return content


def copied(content: dict[str, Any]) -> dict[str, Any]:
    """The same, to be changed."""
    return deepcopy(content)


def entry(sound: Sound, draw: random.Random) -> tuple[bytes, str]:
    """An entry that is missing, more, or of another kind."""
    content = copied(sound.content)
    # the upper ones as often as the many below them
    top = draw.choice([*content])
    place = (top, *draw.choice([(), *places_in(content[top])])) if draw.random() < 0.7 else (top,)
    kind = draw.choice(("value", "value", "value", "drop", "rename", "wrap"))
    name = ".".join(map(str, place))
    parent = at(content, place[:-1])
    if kind == "drop":
        del parent[place[-1]]
    elif kind == "rename" and isinstance(parent, dict):
        parent[draw.choice((5, None, "x", b"x", ("a", 1)))] = parent.pop(place[-1])
    elif kind == "wrap":
        put(content, place, [at(content, place)])
    else:
        value = draw.choice(VALUES)
        put(content, place, value)
        return packed(content), f"{name}: {repr(value)[:40]}"
    return packed(content), f"{kind} {name}"


def tensor(sound: Sound, draw: random.Random) -> tuple[bytes, str]:
    """A tensor of another kind, shape or content."""
    content = copied(sound.content)
    tops = [key for key in ("model", "model", "average", "optimizer") if content.get(key)]
    top = draw.choice(tops)
    places = [place for place in places_in(content[top]) if isinstance(at(content[top], place), Tensor)]
    place = draw.choice(places)
    old: Tensor = at(content[top], place)
    kind = draw.choice([*TENSORS])
    everywhere = draw.random() < 0.2
    for each in places if everywhere else [place]:
        old = at(content[top], each)
        try:
            put(content[top], each, TENSORS[kind](old))
        except (RuntimeError, TypeError, IndexError, NotImplementedError):
            put(content[top], each, torch.zeros(3))
    return packed(content), f"{kind} tensor {top}.{'.'.join(map(str, place))}{' and others' * everywhere}"


def gapped(old: Tensor) -> Tensor:
    """The same numbers with gaps between them."""
    return old.new_zeros(2 * old.numel())[::2].reshape_as(old).copy_(old)


TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "NaN": lambda old: torch.full_like(old.float(), torch.nan),
    "infinite": lambda old: torch.full_like(old.float(), torch.inf),
    "huge": lambda old: torch.full_like(old.float(), 1e38),
    "zero": torch.zeros_like,
    "half": lambda old: old.half(),
    "bfloat16": lambda old: old.bfloat16(),
    "double": lambda old: old.double(),
    "integer": lambda old: old.long(),
    "bytes": lambda old: old.to(torch.uint8),
    "yes and no": lambda old: old.bool(),
    "complex": lambda old: old.to(torch.complex64),
    "float8": lambda old: old.to(torch.float8_e4m3fn),
    "sparse": lambda old: old.to_sparse(),
    "compressed": lambda old: old.reshape(1, -1).to_sparse_csr(),
    "quantised": lambda old: torch.quantize_per_tensor(old.float(), 0.1, 0, torch.qint8),
    "meta": lambda old: old.to("meta"),
    "flat": lambda old: old.reshape(-1),
    "one more": lambda old: torch.cat([old.reshape(-1), old.reshape(-1)[:1]]),
    "empty": lambda old: old.new_zeros(0),
    "repeated": lambda old: old.reshape(-1)[:1].reshape([1] * old.dim()).expand_as(old),
    "endless": lambda old: old.reshape(-1)[:1].expand(10**12),
    "gapped": gapped,
    "turned": lambda old: old.transpose(0, -1) if old.dim() else old,
    "view of much": lambda old: old.new_zeros(3_000_000)[: old.numel()].reshape_as(old),
    "parameter": lambda old: torch.nn.Parameter(old.float()),
    "conjugate": lambda old: old.to(torch.complex64).conj(),
    "negative": lambda old: torch._neg_view(old),
    "nested": lambda old: torch.nested.nested_tensor([old.reshape(-1), old.reshape(-1)[:1]]),
    "a list": lambda old: old.reshape(-1)[:5].tolist(),
    "a number": lambda old: 1.0,
    "nothing": lambda old: None,
    "a storage": lambda old: old.untyped_storage(),
}


def asking(sound: Sound, draw: random.Random) -> tuple[bytes, str]:
    """A configuration that asks for something else, or for much."""
    content = copied(sound.content)
    key, value = draw.choice(ASKS)
    *sections, last = key.split(".")
    place = content["config"]
    for section in sections:
        if place.get(section) is None:
            place[section] = {}
        place = place[section]
    place[last] = value
    return packed(content), f"config {key}: {repr(value)[:60]}"


def classes(sound: Sound, draw: random.Random) -> tuple[bytes, str]:
    """Other names of classes."""
    content = copied(sound.content)
    names = content["classes"]
    others: dict[str, Any] = {
        "more": [*names, "x"],
        "fewer": names[:-1],
        "none": [],
        "a million": [str(number) for number in range(1_000_000)],
        "twice": [names[0]] * len(names),
        "no UTF-8": ["\udcff" + name for name in names],
        "lone surrogates": ["\ud800" + name for name in names],
        "breaks": [name + "\n\x1b[31m" for name in names],
        "long": [name + "a" * 100_000 for name in names],
        "empty": [""] * len(names),
        "markup": [f"<script>{name}</script>[bold]{name}" for name in names],
        "numbers": [*range(len(names))],
        "tuple": tuple(names),
        "formulas": [f"=cmd|{name}" for name in names],
        "separators": [f'{name},"\r' for name in names],
    }
    kind = draw.choice([*others])
    content["classes"] = others[kind]
    return packed(content), f"classes: {kind}"


def beside(sound: Sound, draw: random.Random) -> tuple[dict[str, bytes], str]:
    """The other files of a run folder: what a log, a summary and a configuration hold."""
    name = draw.choice(("config.yaml", "log.jsonl", "log.jsonl", "summary.json"))
    lines = (
        b"",
        b"{",
        b"[]\n",
        b"null\n",
        b"5\n",
        b'"x"\n',
        b"\xff\xfe\n",
        b"\0" * 5000,
        b"[" * 100_000,
        b"9" * 200_000 + b"\n",
        b'{"event": "step"}\n',
        b'{"event": "epoch", "epoch": "x", "train_loss": []}\n',
        b'{"event": 5}\n',
        b"{}\n" * 50_000,
        b'{"event": "epoch", "epoch": 1, "val_loss": NaN, "top1": Infinity}\n',
        b'{"event": "start", "config": {}}\n',
        b'{"event": "step", "step": -1, "loss": "a", "lr": null}\n',
        b'{"event": "step", "step": 1e999, "loss": 1e999}\n',
        b'{"event": "epoch", "epoch": 99999999999999999999, "rates": {"a": [1, 2]}}\n',
        b'{"top1": "x", "best_epoch": []}',
        b'{"event": "epoch", "epoch": 1, "rates": {"layers.0": "x"}}\n',
        b'{"best_metric": "nonsense", "epochs": -1}',
    )
    content = draw.choice(lines)
    if name == "config.yaml":
        tree = yaml.safe_load(yaml.safe_dump(sound.content["config"]))
        mutant = configurations.mutated(tree, draw)
        return {name: mutant.text}, f"config.yaml: {mutant.what}"
    return {name: content}, f"{name}: {content[:40]!r}"
