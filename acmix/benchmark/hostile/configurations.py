"""Mutated configurations: a sound one in YAML with one thing wrong, or several."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from acmix.config import Config, known_keys

# stands where a value of raw text comes
HERE = "@HERE@"
# what a setting may be given, as its author would type it
NONSENSE = (
    *("null", "true", "false", "yes", "~", '""', '" "', "auto", "none", "nonsense", "!!null x"),
    *("0", "-1", "1", "2", "3", "7", "63", "100", "1000", "100000", "1000000000", "10000000000000000000", "-5"),
    *("0.0", "0.001", "0.5", "0.999999", "1.0", "1.5", "5.0", "-0.1", "1e-300", "1e-30", "1e30", "1e300", "1e999"),
    *(".inf", "-.inf", ".nan", "1:30", "010", "0x10", "1_000", "1e5", "2026-01-31", "[5, 9]", "[9, 5]", "5 9", "5,9"),
    *("[]", "{}", "[0]", "[0, 0]", "[0.0, 0.0]", "[1, 1]", "[-1, 2]", "[1, 2, 3]", "[0.1, 0.2, 0.3]", "[0, 0, 0]"),
    *("[.nan, 1, 1]", "[.inf, .inf, .inf]", "[.inf]", "[null]", "[true, false]", "[a, b]", "[1000000000]", "[[1, 2]]"),
    *("{a: 1}", "{a: {b: {c: 1}}}", "[{a: 1}]", "{1: 2}", "{null: 1}", "{[1]: 2}", "!!set {a, b}", "!!binary aGFsbG8="),
    *(
        "!!python/object/apply:os.system [id]",
        "!!python/name:os.system",
        "!!str 5",
        "!!int '5'",
        "!!float nan",
        "!!bool x",
        "!!int ''",
    ),
    *(
        "!!timestamp x",
        "!!omap [a]",
        "!!pairs 1",
        "!!merge x",
        "!nonsense x",
        "{<<: 1}",
        "{<<: {a: 1}}",
        "{?: 1}",
        "*nobody",
    ),
    *("../..", "/", "/dev/zero", "/dev/stdin", "/etc/passwd", "/proc/self/mem", "C:\\x", "~root", "$HOME", "%s%n%x"),
    *("http://127.0.0.1:9/x", "hf-hub:timm/resnet18", "local-dir:folder", "hfds/x/y", "hfids/x", "tfds/mnist", "wds/"),
    *(
        "torch/cifar10",
        "cuda:99",
        "cuda",
        "meta",
        "mps",
        "fp64",
        "\u202eabc",
        '"\\0"',
        '"\\ud800"',
        '"a\\nb"',
        "&a [*a]",
    ),
    *("rand-m9", "rand-m99-n99", "augmix-m5-w99-d99", "original", "3a", "adamw", "sgd", "lamb", "lookahead_adamw"),
)
# what is long is made when it is needed
LONG: dict[str, Callable[[], str]] = {
    "a long word": lambda: "a" * 200_000,
    "a long number": lambda: "9" * 300_000,
    "a long fraction": lambda: "0." + "3" * 300_000,
    "brackets": lambda: "[" * 5000 + "]" * 5000,
    "braces": lambda: "{a: " * 3000 + "1" + "}" * 3000,
    "open brackets": lambda: "[" * 5000,
    "many numbers": lambda: f"[{', '.join(['1'] * 50_000)}]",
    "many keys": lambda: f"{{{', '.join(f'k{number}: 1' for number in range(20_000))}}}",
    "aliases": lambda: aliases(8),
    "many aliases": lambda: aliases(40),
    "merged keys": lambda: "{<<: [" + ", ".join("{a: 1, b: 2}" for _ in range(2000)) + "]}",
    "a long key": lambda: "{" + "k" * 1000 + ": 1}",
    "zeros": lambda: "0" * 100_000,
    "sixty parts": lambda: ":".join(["59"] * 10_000),
}
# arguments that are likely to mean something to a network, a head or an optimizer
ARGUMENTS = (
    *(
        "depths",
        "embed_dim",
        "num_heads",
        "window_size",
        "patch_size",
        "mlp_ratio",
        "qkv_bias",
        "width",
        "layers",
        "heads",
    ),
    *("drop_rate", "act_layer", "norm_layer", "pretrained_cfg_overlay", "checkpoint_path", "img_size", "channels"),
    *(
        "hidden",
        "samples",
        "proposals",
        "anchor_scale",
        "detections",
        "score_threshold",
        "dropout",
        "nonsense",
        "pools",
    ),
)


@dataclass(frozen=True)
class Mutant:
    """A configuration with something wrong.

    Args:
        text: of the file, as bytes.
        overrides: for the command line, behind it.
        what: was changed, for a person.
    """

    text: bytes
    overrides: tuple[str, ...]
    what: str


def aliases(levels: int) -> str:
    """A list of lists that stand for one another: nine to the power of the levels."""
    first = "&a0 [" + ", ".join(["x"] * 9) + "]"
    rest = [f"&a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return f"[{', '.join([first, *rest])}]"


def mutated(tree: dict[str, Any], draw: random.Random) -> Mutant:
    """One mutant of a sound configuration's tree."""
    make = draw.choices((value, number, argument, structure, raw), (50, 20, 12, 10, 8))[0]
    return make(tree, draw)


def drawn_text(draw: random.Random) -> tuple[str, str]:
    """A value as it would be typed, and a name for it."""
    if draw.random() < 0.12:
        name = draw.choice([*LONG])
        return LONG[name](), name
    text = draw.choice(NONSENSE)
    return text, text


def value(tree: dict[str, Any], draw: random.Random) -> Mutant:
    """Any setting with any value."""
    text, name = drawn_text(draw)
    return with_value(tree, draw.choice(known_keys()), text, name, draw)


def number(tree: dict[str, Any], draw: random.Random) -> Mutant:
    """A setting of numbers with others: larger, smaller, turned round, more or fewer of them."""
    whole = Config.model_validate(tree).model_dump(mode="json")
    key = draw.choice([key for key in known_keys() if has_numbers(whole_value(whole, key))])
    old = whole_value(whole, key)
    factor = draw.choice((-1, 0, 0.01, 0.5, 3, 100, 1e4, 1e6, 1e12))

    def changed(given: float) -> float:
        # whole numbers stay such
        return type(given)(given * factor)

    if isinstance(old, list):
        new: Any = draw.choice(
            ([changed(each) for each in old], old[::-1], old[:-1], old + old, [changed(old[0]), *old[1:]])
        )
    else:
        new = changed(old)
    text = yaml.safe_dump(new, default_flow_style=True, width=10**6).partition("\n...")[0].strip()
    return with_value(tree, key, text, text, draw)


def whole_value(whole: dict[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    section, _, name = key.partition(".")
    return whole[section][name]


def has_numbers(value: Any) -> bool:
    """Whether a value is a number or a list of such."""
    if isinstance(value, list):
        return bool(value) and all(has_numbers(each) for each in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def argument(tree: dict[str, Any], draw: random.Random) -> Mutant:
    """A further argument of the network or the head."""
    section = draw.choice(("model", "task") if tree.get("task") else ("model",))
    text, name = drawn_text(draw)
    return with_value(tree, f"{section}.args.{draw.choice(ARGUMENTS)}", text, name, draw)


def with_value(tree: dict[str, Any], key: str, text: str, name: str, draw: random.Random) -> Mutant:
    """A key with a value of raw text, in the file or behind it."""
    what = f"{key}: {name}"
    # one word of a command line holds at most 128 KiB
    if draw.random() < 0.4 and len(text) < 100_000 and not any(bad in text for bad in "\0"):
        return Mutant(written(tree), (f"{key}={text}",), f"{what} (on the command line)")
    changed = yaml.safe_load(written(tree))
    place = changed
    *sections, last = key.split(".")
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = HERE
    return Mutant(yaml.safe_dump(changed).encode().replace(f"'{HERE}'".encode(), text.encode(errors="surrogatepass")),
                  (), what)  # fmt: skip


def written(tree: dict[str, Any]) -> bytes:
    """A tree as YAML."""
    return yaml.safe_dump(tree).encode()


def structure(tree: dict[str, Any], draw: random.Random) -> Mutant:
    """Keys that are missing, unknown, twice there, or in the wrong place."""
    changed: dict[str, Any] = yaml.safe_load(written(tree))
    kind = draw.choice(("drop", "twice", "nest", "unknown", "section", "lift", "swap", "empty"))
    name = draw.choice([*changed])
    section = changed[name]
    key = draw.choice([*section])
    if kind == "drop":
        del section[key]
    elif kind == "twice":
        return Mutant(written(tree) + f"{name}: {{{key}: 1}}\n".encode(), (), f"{name} stands twice")
    elif kind == "nest":
        changed[name] = {name: section}
    elif kind == "unknown":
        section[key + draw.choice(("s", "_", "x", " ", ".x"))] = section.pop(key)
    elif kind == "section":
        text, said = drawn_text(draw)
        changed[name] = HERE
        content = yaml.safe_dump(changed).encode().replace(f"'{HERE}'".encode(), text.encode(errors="surrogatepass"))
        return Mutant(content, (), f"{name}: {said}")
    elif kind == "lift":
        changed[key] = section.pop(key)
    elif kind == "swap":
        other = draw.choice([*changed])
        changed[name], changed[other] = changed[other], changed[name]
    else:
        changed[name] = {}
    return Mutant(written(changed), (), f"{kind} {name}.{key}")


def raw(tree: dict[str, Any], draw: random.Random) -> Mutant:
    """Bytes that are changed, cut off or of another encoding."""
    text = written(tree)
    kind = draw.choice(
        ("flip", "cut", "utf-16", "latin-1", "bom", "null", "tabs", "binary", "empty", "list", "two", "lines")
    )
    if kind == "flip":
        content = bytearray(text)
        for _ in range(draw.randint(1, 5)):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        return Mutant(bytes(content), (), "flipped bits")
    changed = {
        "cut": text[: draw.randrange(len(text))],
        "utf-16": text.decode().encode("utf-16"),
        "latin-1": text + "# \xe4\xff".encode("latin-1"),
        "bom": b"\xef\xbb\xbf" + text,
        "null": text.replace(b"a", b"\0", 1),
        "tabs": text.replace(b"  ", b"\t"),
        "binary": draw.randbytes(2000),
        "empty": b"",
        "list": b"- " + text.replace(b"\n", b"\n  "),
        "two": text + b"\n---\n" + text,
        "lines": b"a:\n" * 100_000,
    }[kind]
    return Mutant(changed, (), f"bytes: {kind}")
