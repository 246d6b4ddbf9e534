"""What is published is whole: every file of the package, every package that it imports, and one version everywhere."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import acmix
from tests.support.paths import ROOT
from tests.support.processes import PATIENCE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

# the distribution that a module comes from, where their names differ
DISTRIBUTIONS = {"PIL": "pillow", "faster_coco_eval": "faster-coco-eval", "sklearn": "scikit-learn", "yaml": "pyyaml"}
DISTRIBUTIONS |= {"prometheus_client": "prometheus-client", "python_multipart": "python-multipart"}
# torch brings the first where it can be used, fastapi and uvicorn the others
BROUGHT = {"triton", "starlette", "h11"}


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, in small letters."""
    return {re.split(r"[^\w.-]", each)[0].lower() for each in requirements}


def imported(path: Path, *, within_functions: bool) -> set[str]:
    """The outside modules that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if within_functions else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"acmix"}


def test_every_package_that_is_imported_is_declared() -> None:
    project = pyproject()["project"]
    needed = names(project["dependencies"])
    extra = names([each for extra in project["optional-dependencies"].values() for each in extra])
    for path in (ROOT / "acmix").rglob("*.py"):
        for within_functions, declared in ((False, needed), (True, needed | extra)):
            modules = imported(path, within_functions=within_functions) - BROUGHT
            undeclared = {DISTRIBUTIONS.get(module, module).lower() for module in modules} - declared
            assert not undeclared, f"{path.name} imports {undeclared}, which pyproject.toml does not name"


def test_a_folder_called_acmix_hides_nothing(tmp_path: Path) -> None:
    # such as a clone, beside which somebody's first script lies
    (tmp_path / "acmix").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", "import acmix; print(acmix.__version__)"]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (found.stdout, found.stderr) == (f"{acmix.__version__}\n", "")


@pytest.mark.parametrize(("free", "is_told"), [(7_000_000, True), (70_000_000, False)])
def test_a_disk_without_room_is_told_before_the_download(tmp_path: Path, free: int, is_told: bool) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    # a disk of that size, and a Python that makes no environment
    for name, text in (
        ("df", f"echo Filesystem Blocks Used Available; echo disk 9 9 {free} 9% /"),
        ("no-python", f'[[ "$2" == venv ]] && exit 9; exec {shlex.quote(sys.executable)} "$@"'),
    ):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHON": str(tmp_path / "no-python")}
    done = subprocess.run(
        ["bash", tmp_path / "scripts" / "setup.sh", "demo"], env={**os.environ, **environment}, capture_output=True,
        text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 9
    first, *more = done.stderr.splitlines()
    assert ("has 7 GB left" in first) == is_told, done.stderr
    assert len(more) == is_told


def test_every_file_beside_the_code_is_packaged() -> None:
    patterns = pyproject()["tool"]["setuptools"]["package-data"]["acmix"]
    folder = ROOT / "acmix"
    packaged = {path for pattern in patterns for path in folder.glob(pattern)}
    files = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    left_out = {path for path in files if path.suffix != ".py"} - packaged
    assert not left_out
    assert {".cpp", ".h", ".html", ".yaml", ".typed"} <= {path.suffix for path in packaged}


def test_the_version_is_the_newest_section_of_the_changelog_dated_once_it_is_released() -> None:
    assert pyproject()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "acmix.__version__"}
    found = re.findall(r"^## \[(.+?)\](?: - (.+))?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    sections = [(name, date) for name, date in found if name != "Unreleased"]
    assert found[0][0] in ("Unreleased", acmix.__version__)
    assert sections[0][0] == acmix.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == acmix.__version__
    # until then nothing says a day on which nothing was released
    assert sections[0][1] == str(citation.get("date-released", "Unreleased"))
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in sections[1:])


def test_workflows_and_issue_templates_are_yaml_that_names_files_of_ours() -> None:
    files = [*(ROOT / ".github").rglob("*.yml")]
    assert {path.name for path in files} >= {"test.yml", "release.yml", "bug.yml"}
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert yaml.safe_load(text)["name"]
        for script in re.findall(r"(?:\w+/)*\w+\.(?:sh|py)\b", text):
            assert (ROOT / script).is_file(), f"{path.name} runs {script}"
