"""The examples run, and show what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.paths import ROOT
from tests.support.processes import script
from tests.support.yolo import needs_ultralytics, run

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "first_steps.ipynb"


def printed(name: str) -> str:
    """What an example prints."""
    end = script(EXAMPLES / name)
    assert end.status == 0, end.errors
    return end.output


def test_the_readme_lists_every_example() -> None:
    files = {each.name for each in EXAMPLES.iterdir() if each.suffix in (".py", ".ipynb")}
    listed = re.findall(r"^\| \[([\w.]+)\]\(\1\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(files) == sorted(listed)


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)


@pytest.mark.slow
def test_acmix2d_in_a_cnn_learns_the_digits() -> None:
    shares = re.findall(r"([\d.]+)% of 360 held-out digits", printed("acmix2d_in_a_cnn.py"))
    assert float(shares[-1]) > 80


@pytest.mark.slow
def test_an_upgraded_model_begins_as_timm_s_and_learns() -> None:
    output = printed("upgrade_timm.py")
    assert "largest difference 0.0e+00 before training" in output
    assert float(re.findall(r"after 100 steps more: ([\d.]+)%", output)[0]) > 60


@pytest.mark.slow
@needs_ultralytics
def test_yolo_keeps_its_layers_in_the_file(tmp_path: Path) -> None:
    assert "ACmix2d: ['model.22.m.0.m.0.cv2.conv', 'model.22.m.0.m.1.cv2.conv']" in run(EXAMPLES / "yolo.py")


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # where the kernel keeps its settings, and where it finds acmix
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    texts = [str(output.get("text", "")) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("held-out digits" in text for text in texts)
    assert any("largest difference" in text for text in texts)
