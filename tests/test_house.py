"""The rules of the house: which way imports point, what is never written, and that importing stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

HEAVY = (
    "triton",
    "onnx",
    "onnxruntime",
    "pycocotools",
    "faster_coco_eval",
    "ultralytics",
    "sklearn",
    "matplotlib",
    "tensorboard",
)
# how a family of models registers its variants
FAMILY = "\nregister_variants("
# folders of tests that are no part of the package: what tests share, and the golden data
TESTS_ALONE = {"support", "data"}


def house(root: Path) -> list[str]:
    """What `scripts/house.py` says of a tree, below its table."""
    command = [sys.executable, str(ROOT / "scripts" / "house.py"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = done.stdout.partition("\n\n")[2].splitlines()
    assert done.returncode == (len(found) > 1), done.stderr
    return found


def test_imports_point_one_way_and_never_in_a_circle() -> None:
    assert house(ROOT) == ["circles: 0"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"ops/a.py": "import acmix.layers.b", "layers/b.py": ""},
            ["ops.a imports layers.b: ops may import errors alone"],
        ),
        (
            {"layers/b.py": "def f():\n    from acmix.models import swin", "models/swin.py": ""},
            ["layers.b imports models.swin: layers may import ops"],
        ),
        ({"config.py": "from . import tools"}, ["config imports tools: config may import errors alone"]),
        ({"stray.py": ""}, ["stray has no place in the house; give it one in scripts/house.py"]),
        (
            {"ops/a.py": "from acmix.ops import b", "ops/b.py": "import acmix.ops.a"},
            ["circle of modules: ops.a -> ops.b -> ops.a"],
        ),
        (
            {"ops/a.py": "def f():\n    from acmix.ops.b import g", "ops/b.py": "if TYPES:\n    from .a import f"},
            ["circle of modules: ops.a -> ops.b -> ops.a"],
        ),
        (
            {"ops/__init__.py": "from acmix.ops import a", "ops/a.py": "from acmix.ops import pair"},
            ["circle of modules: ops -> ops.a -> ops"],
        ),
        (
            {
                "models/a.py": "import acmix.layers.c",
                "models/b.py": "",
                "layers/c.py": "",
                "layers/d.py": "import acmix.models.b",
            },
            ["layers.d imports models.b: layers may import ops", "circle of folders: layers -> models -> layers"],
        ),
        (
            {"train/a.py": "import acmix", "__init__.py": "from acmix.train import a"},
            [
                "train.a imports __init__: train may import config, data, heads, layers, models, ops, released, tasks",
                "circle of modules: __init__ -> train.a -> __init__",
                "circle of folders: __init__ -> train -> __init__",
            ],
        ),
        (
            {"models/a.py": f"from acmix.models.b import c{FAMILY}C)", "models/b.py": f"{FAMILY}D)"},
            ["models.a imports models.b: families do not know each other; share through a module of its own"],
        ),
        ({"models/a.py": f"from acmix.models.b import c{FAMILY}C)", "models/b.py": ""}, []),
        ({"ops/a.py": "import acmix.errors, torch", "errors.py": "", "layers/b.py": "from acmix.ops import a"}, []),
    ],
)  # fmt: skip
def test_a_wrong_arrow_and_a_circle_are_found(tmp_path: Path, files: dict[str, str], said: list[str]) -> None:
    for file, text in {"__init__.py": "", "tools/__init__.py": "", **files}.items():
        path = tmp_path / "acmix" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert house(tmp_path)[:-1] == said


def test_tests_mirror_the_package() -> None:
    """A folder of tests is a folder of the package, or holds what tests share."""
    package = {path.name for path in (ROOT / "acmix").iterdir() if path.is_dir()}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders
    assert folders - TESTS_ALONE <= package


def test_families_of_models_are_found() -> None:
    models = (ROOT / "acmix" / "models").glob("*.py")
    assert sum(FAMILY in path.read_text(encoding="utf-8") for path in models) >= 5


@pytest.mark.slow
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


@pytest.mark.slow
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
        ("acmix/tools/a.py", "device = 'cuda' if torch.cuda.is_available() else 'cpu'"),
        ("acmix/cli/use.py", "run(torch.device('cuda', 0))"),
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
        ("acmix/ops/a.py", "torch.cuda.is_available()"),
        ("acmix/data/a.py", 'def f(): ...\nif __name__ == "__main__":\n    print(f())'),
        ("a.sh", "#!/usr/bin/env bash"),
    ],
)
def test_a_ban_lets_the_rest_stand(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    assert violations(tmp_path) == []
