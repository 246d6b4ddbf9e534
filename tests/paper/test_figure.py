"""The figure of accuracy against multiply-adds: published, ours, and of ablations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from acmix import config as configuration
from acmix.config import as_yaml
from acmix.models.count import cost
from acmix.paper import figure
from acmix.paper.runs import DONE, STARTED, Run, write_runs
from acmix.train.plots import new_figure

Call = Callable[..., tuple[int, str, str]]


def write_run(folder: Path, classes: int) -> Path:
    """What a finished run on ImageNet leaves, as far as the figure reads it."""
    folder.mkdir()
    settings = configuration.load("acmix_resnet26", [f"model.num_classes={classes}"])
    (folder / "config.yaml").write_text(as_yaml(settings.model_dump(mode="json")))
    (folder / "summary.json").write_text(json.dumps({"last_top1": 75.5, "top1": 75.9, "ended": "epochs"}))
    return folder


def test_published_alone_says_that_ours_is_not_trained(acmix: Call, tmp_path: Path) -> None:
    file = tmp_path / "new" / "figure.png"
    status, said, errors = acmix("paper", "figure", file)
    assert (status, errors) == (0, "")
    assert "acmix_swin_tiny_patch4_window7_224: 81.9 % at 4.6" in said
    assert "ours on ImageNet-1k: not trained" in said
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_runs_and_ablations_are_counted(acmix: Call, tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    write_runs(
        [
            Run("fashion_paths_swin", arm, seed, DONE, "top-1", f"{value + seed:.6f}")
            for arm, value in (("both", 88.0), ("attention", 86.0))
            for seed in range(3)
        ],
        table,
    )
    run = write_run(tmp_path / "run", 1000)
    status, said, errors = acmix("paper", "figure", tmp_path / "f.png", "--run", run, "--ablations", table)
    assert (status, errors) == (0, "")
    assert "not trained" not in said
    assert f"ours: acmix_resnet26: 75.50 % at {cost('acmix_resnet26').gmacs:.3g}" in said
    assert "fashion_paths_swin: both: 89.00 ± 1.00 %" in said
    found = {point.name: point.gmacs for point in figure.of_ablations(table)}
    assert 0 < found["attention"] < found["both"] < 0.1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--run", "TEN"], "knows 10 classes; ImageNet-1k has 1000"),
        (["--run", "EMPTY"], "holds no finished run"),
        (["--ablations", "EMPTY/none.csv"], "there is no table"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(options: list[str], said: str, acmix: Call, tmp_path: Path) -> None:
    write_run(tmp_path / "TEN", 10)
    (tmp_path / "EMPTY").mkdir()
    given = [each if each.startswith("--") else str(tmp_path / each) for each in options]
    status, output, errors = acmix("paper", "figure", tmp_path / "f.png", *given)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert said in errors
    assert not (tmp_path / "f.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([Run("mine", "both", 0, DONE, "top-1", "50.0")], "mine: both; the figure has the arms of the grids that"),
        ([Run("fashion_rates", "mine", 0, DONE, "top-1", "50.0")], "fashion_rates: mine; the figure has"),
        ([Run("fashion_rates", "one", 0, STARTED)], "anything; it holds no run that ended"),
        ([], "anything; it holds no run that ended"),
    ],
)
def test_what_is_not_drawn_of_a_table_is_said(runs: list[Run], said: str, acmix: Call, tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    write_runs(runs, table)
    status, output, errors = acmix("paper", "figure", tmp_path / "f.png", "--ablations", table)
    assert (status, errors) == (0, "")
    assert f"not drawn of {table}: {said}" in output


@pytest.mark.parametrize("width", [7.5, 6.0])
def test_names_lie_on_nothing_and_inside_the_axes(width: float) -> None:
    drawn = new_figure(width=width, height=5.2)
    axes = drawn.subplots()
    figure.draw_imagenet(axes, [])
    drawn.draw_without_rendering()
    names = {text.get_text(): text.get_window_extent() for text in axes.texts if text.get_text()}
    assert len(names) == len(figure.published())
    places = [place for point in figure.published() for place in ((point.gmacs, point.top1), point.plain) if place]
    dots = [axes.transData.transform(place) for place in places]
    for name, box in names.items():
        assert axes.bbox.contains(box.x0, box.y0)
        assert axes.bbox.contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for each, other in names.items() if each != name)
        assert not any(box.contains(x, y) for x, y in dots)
