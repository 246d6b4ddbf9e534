"""The script that measures tools from elsewhere: when a figure is as good as the plain model's, and one line of it."""

from __future__ import annotations

import math
import runpy

import pytest

from tests.support.paths import ROOT
from tests.support.processes import script

FOLDER = ROOT / "scripts" / "clients"
figures = runpy.run_path(str(FOLDER / "figures.py"))
Count, Effect, Error, Fault, Cell = (figures[name] for name in ("Count", "Effect", "Error", "Fault", "Cell"))


@pytest.mark.parametrize(
    ("ours", "plain", "verdict"),
    [
        ({"layers": Count(4, 4)}, {"layers": Count(2, 2)}, "yes"),
        ({"layers": Count(3, 4)}, {"layers": Count(2, 2)}, "no"),
        ({"layers": Count(3, 4)}, {"layers": Count(2, 3)}, "yes"),
        ({"layers": Count(0, 0)}, {"layers": Count(0, 0)}, "no"),
        ({"change": Effect(0.09)}, {"change": Effect(0.01)}, "yes"),
        ({"change": Effect(0.11)}, {"change": Effect(0.01)}, "no"),
        ({"change": Effect(0.0)}, {"change": Effect(0.0)}, "no"),
        ({"change": Effect(math.nan)}, {"change": Effect(0.01)}, "no"),
        ({"losses": Error(1e-5, 1e-5)}, {"losses": Error(1.0, 1e-5)}, "yes"),
        ({"losses": Error(math.nan, 1e-5)}, {"losses": Error(0.0, 1e-5)}, "no"),
        (Fault("TypeError: no"), {"losses": Error(0.0, 1e-5)}, "no"),
        (Fault("TypeError: no"), Fault("TypeError: no"), "neither"),
        ({"layers": Count(4, 4)}, Fault("TypeError: no"), "yes"),
        (Fault("not installed: pip install x"), Fault("not installed: pip install x"), "not installed"),
    ],
)
def test_a_tool_is_as_good_on_ours_as_on_the_plain_model_or_it_is_not(ours, plain, verdict):
    assert Cell("tool", "family", ours, plain).verdict == verdict


@pytest.mark.slow
def test_a_tool_is_measured_and_its_figures_are_written(tmp_path):
    """Three that PyTorch brings; the file keeps other cells."""
    words = ("--families", "deit", "--csv", str(tmp_path / "clients.csv"))
    for tool in ("quantize_dynamic", "weight_norm, old"):
        done = script(FOLDER / "__main__.py", "--only", tool, *words)
        assert done.status == 0, done.output + done.errors
        assert f"yes  {tool} · DeiT: layers" in done.output
    lines = (tmp_path / "clients.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",DeiT,")[1].split(",")[0] for line in lines[1:]] == [
        "layers with a gradient", "change", "against the weights written out", "layers", "change", "size",
    ]  # fmt: skip
