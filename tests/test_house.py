"""The rules of the house: which way imports point, what is never written, and that importing stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# each part of the package, and the parts it may import besides itself
ALLOWED = {
    "errors": set(),
    # the two read each other's types: one is the schema, the other turns a foreign layout into it and back
    "config": {"released", "errors"},
    "released": {"config", "models", "layers", "safe_load", "errors"},
    "testing": {"ops", "errors"},
    "safe_load": {"errors"},
    "ops": {"errors"},
    "layers": {"ops", "errors"},
    "integrations": {"layers", "errors"},
    "models": {"layers", "ops", "safe_load", "errors"},
    "data": {"config", "errors"},
    "tasks": {"models", "layers", "ops", "data", "config", "errors"},
    "train": {"tasks", "models", "layers", "ops", "data", "config", "released", "safe_load", "errors"},
}
ALLOWED["tools"] = {"train", *ALLOWED["train"]}
ALLOWED["benchmark"] = {"tools", "testing", *ALLOWED["tools"]}
ALLOWED["cli"] = {"benchmark", *ALLOWED["benchmark"]}
ALLOWED["__main__"] = {"cli"}
# the public names
ALLOWED["__init__"] = {"ops", "layers", "models", "released", "errors"}
HEAVY = ("triton", "onnx", "onnxruntime", "pycocotools", "ultralytics", "sklearn", "matplotlib", "tensorboard")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module's dotted name within the package, and its file."""
    for path in sorted((ROOT / "acmix").rglob("*.py")):
        parts = path.relative_to(ROOT / "acmix").with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts), path


def imports(path: Path) -> Iterator[str]:
    """The dotted names, within the package, that a file imports anywhere: also in functions and for types alone."""
    package = ["acmix", *path.relative_to(ROOT / "acmix").parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("acmix.") for name in names if name.startswith("acmix."))


def wrong_arrows() -> Iterator[str]:
    """One line for each import that points the wrong way."""
    for name, path in modules():
        part = name.split(".")[0]
        for target in imports(path):
            other = target.split(".")[0]
            if other in ALLOWED and other != part and other not in ALLOWED[part]:
                yield f"{name} imports {target}: {part} may import {sorted(ALLOWED[part])}"


def test_imports_point_one_way() -> None:
    assert list(wrong_arrows()) == []


def test_every_part_of_the_package_has_its_place() -> None:
    assert {name.split(".")[0] for name, _ in modules()} <= ALLOWED.keys()


def test_families_of_models_do_not_know_each_other() -> None:
    """A family is a module that registers variants; what it shares lies in modules that register none."""
    inside = {name.split(".")[1]: path for name, path in modules() if name.startswith("models.")}
    families = {name for name, path in inside.items() if "\nregister_variants(" in path.read_text(encoding="utf-8")}
    assert families
    for family in families:
        known = {target.split(".")[1] for target in imports(inside[family]) if target.startswith("models.")}
        assert not known & families - {family}, family


def test_importing_the_package_loads_nothing_heavy_beyond_torch_and_timm() -> None:
    code = """
import sys, torch, timm
before = set(sys.modules)
import acmix
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "acmix" in loaded
    assert not set(loaded) & set(HEAVY)


def violations(root: Path) -> list[str]:
    """What `scripts/bans.py` finds in a tree."""
    command = [sys.executable, str(ROOT / "scripts" / "bans.py"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == bool(done.stdout), done.stderr
    return done.stdout.splitlines()


def test_nothing_banned_stands_in_the_repository() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.py", "model.load_state_dict(weights(file), strict=False)"),
        ("a.py", "try:\n    run()\nexcept:\n    pass"),
        ("a.py", "try:\n    run()\nexcept (OSError, Exception) as error:\n    pass"),
        ("a.py", "x = x.cuda()"),
        ("a.py", "@pytest.mark.xfail\ndef test(): ..."),
        ("setup.cfg.toml", "addopts = '--reruns 2'"),
        ("a.md", "TODO write this"),
        ("a.yaml", "dir: /home/me/imagenet"),
        ("a.py", "open('/tmp/x')"),
        ("a.sh", "pip install --index{}url https://example.org torch".format("-")),
        ("acmix/ops/a.py", "print(1)"),
    ],
)
def test_a_ban_finds_what_it_bans(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"\n{text}\n")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.py", "try:\n    run()\nexcept BaseException:\n    tidy()\n    raise"),
        ("a.py", "pairs = zip(a, b, strict=False)"),
        ("a.md", "TODO(when torch >= 3) drop this"),
        ("acmix/tools/a.py", "print(1)"),
        ("acmix/data/a.py", 'def f(): ...\nif __name__ == "__main__":\n    print(f())'),
        ("a.sh", "#!/usr/bin/env bash"),
    ],
)
def test_a_ban_lets_the_rest_stand(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    assert violations(tmp_path) == []
