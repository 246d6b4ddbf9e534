"""`acmix benchmark scale` on files of parts, good and bad, and on a run that it measures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from acmix.benchmark.scale import command
from acmix.benchmark.scale.parts import load_parts, written
from acmix.benchmark.scale.table import COLUMNS
from acmix.errors import UsageError
from tests.support.processes import command as started
from tests.support.tiny import tree

PARTS = """
title: ours
compute: {batch_size: 128, forward_ms: 50, backward_ms: 100}
gradients: {mib: 192}
network: {inside: {gb_per_second: 100, latency_us: 3}, between: {gb_per_second: 10, latency_us: 5}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of parts."""
    path = tmp_path / "parts.yaml"
    path.write_text(PARTS)
    return path


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_figures_and_a_picture(file: Path, tmp_path: Path) -> None:
    figures, picture = tmp_path / "out" / "scale.csv", tmp_path / "out" / "scale.png"
    options = ["--cards", "1,64", "--csv", figures, "--plot", picture]
    [end] = started("benchmark", "scale", "--parts", file, "compute.batch_size=64", *options).finish()
    assert (end.status, end.errors) == (0, "")
    lines = end.output.splitlines()
    assert lines[0] == "ours"
    assert [line.split()[0] for line in lines[1:4]] == ["cards", "1", "64"]
    assert lines[2].split()[-2:] == ["100.0", "%"]
    with figures.open() as opened:
        rows = list(csv.DictReader(opened))
    assert tuple(rows[0]) == COLUMNS
    assert [row["cards"] for row in rows] == ["1", "64"]
    assert float(rows[0]["images_per_second"]) == pytest.approx(64 / 0.15, rel=1e-4)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_most_is_lost_to_is_named_with_what_helps(file: Path) -> None:
    said: list[str] = []
    command.scale(["network.between.gb_per_second=1"], parts=file, say=said.append)
    assert said[-1].startswith("at 512 cards ")
    assert " of a step goes to communication; efficiency with compute.accumulation=4 " in said[-1]
    said.clear()
    command.scale(["loader.images_per_second=100"], parts=file, cards="8", say=said.append)
    assert "goes to waiting for images; enough for the step are " in said[-1]
    said.clear()
    command.scale(["compute.deviation=0.1"], parts=file, cards="8", say=said.append)
    assert said[-1].endswith("goes to waiting for the slowest card")


def test_json_is_read_and_what_is_written_is_read_back(file: Path, tmp_path: Path) -> None:
    parts = load_parts(file, ["gradients.ready=[[0, 0.1], [1, 1]]"])
    again = tmp_path / "again.json"
    again.write_text(json.dumps(parts.model_dump(mode="json")))
    assert load_parts(again) == parts
    again.write_text(written(parts))
    assert load_parts(again) == parts
    assert "- [0.0, 0.1]" in written(parts)


def test_without_a_file_the_recipe_is_shown_with_what_its_efficiency_implies() -> None:
    said: list[str] = []
    command.scale(say=said.append)
    assert said[0].startswith("published: 63.59 images/s on one card, 502.22 on 8: efficiency 98.7%")
    assert sum("(assumed)" in line and line.startswith("Swin-S") for line in said) == 4


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        (PARTS, ["compute.foward_ms=1"], "unknown key 'compute.foward_ms'; did you mean 'compute.forward_ms'?"),
        (PARTS, ["network.betwen.latency_us=1"], "unknown key 'network.betwen'; did you mean 'network.between'?"),
        (PARTS, ["bucket_mib=1"], "unknown key 'bucket_mib'; did you mean 'gradients.bucket_mib'?"),
        (PARTS, ["compute.deviation=-1"], "compute.deviation=-1: input should be greater than or equal to 0"),
        (PARTS, ["compute.backward_ms=.inf"], "compute.backward_ms=inf: input should be"),
        (PARTS, ["gradients.compression=2"], "gradients.compression=2: input should be less than or equal to 1"),
        (PARTS, ["gradients.ready=[[0, 0]]"], "expected 2 to 1000 points"),
        (PARTS, ["gradients.ready=[[0, 0.5], [1, 0.2]]"], "expected points in order"),
        (PARTS, ["gradients.ready=[[0.5, 0], [1, 1]]"], "expected shares of the gradients from 0 to 1"),
        (PARTS, ["network.algorithm=rng"], "network.algorithm='rng': input should be 'ring', "),
        (PARTS, ["compute=fast"], "compute='fast': expected a mapping of keys"),
        (PARTS, ["compute.batch_size=yes"], "expected no yes or no"),
        (PARTS, ["compute"], "is not of the form section.key=value"),
        (PARTS, ["gradients.bucket_mib=1e-6"], "expected at most 100000"),
        (PARTS, ["network.between=null"], "network.between is not set; set network.between.gb_per_second"),
        ("compute: {batch_size: 1}", [], "compute.forward_ms is missing; docs/scaling.md says what it is"),
        ("- 1", [], "holds a list; expected a mapping"),
        ("a: b: c", [], "is not YAML"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, overrides: list[str], said: str) -> None:
    path = tmp_path / "parts.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        command.scale(overrides, parts=path, say=len)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--parts", "nothing.yaml"], "nothing.yaml cannot be read: No such file or directory"),
        (["--cards", "1,x"], "--cards 1,x: 'x' is no number from 1 to 1000000"),
        pytest.param(["--cards", "99999999999999999999"], "is no number from 1 to 1000000", marks=pytest.mark.slow),
        pytest.param(
            ["--measure", "acmix_swin_digits", "--parts", "parts.yaml"], "give one of them", marks=pytest.mark.slow
        ),
        pytest.param(["--measure", "acmix_swin_digit"], "no configuration 'acmix_swin_digit'", marks=pytest.mark.slow),
        (["--measure", "acmix_swin_digits", "--seconds", "nan"], "--seconds nan; expected"),
        pytest.param(
            ["--measure", "acmix_swin_digits", "--processes", "5000"], "5000 processes", marks=pytest.mark.slow
        ),
        pytest.param(
            ["--measure", "acmix_swin_digits", "--cards", "1,x"],
            "--cards 1,x: 'x' is no number",
            marks=pytest.mark.slow,
        ),
        (["--measure", "acmix_swin_digits", "--cards", "8", "--processes", "2"], "--cards 8 with 2 processes: more"),
        pytest.param(
            ["--measure", "acmix_swin_digits", "train.fsdp=true"],
            "train.fsdp=true sends other messages",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--measure", "acmix_swin_digits", "train.reduction=exact"],
            "train.reduction=exact sends other messages",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--measure", "acmix_swin_digits", "--data", "a: b"], "no data folder a: b", marks=pytest.mark.slow
        ),
        (["--plot", "scale.xyz"], "--plot scale.xyz: no format of that ending; expected one of"),
        pytest.param(
            ["--processes", "2"],
            "--processes is for a measurement; add --measure CONFIG, or leave it out",
            marks=pytest.mark.slow,
        ),
        pytest.param(["--data", "photos"], "--data is for a measurement", marks=pytest.mark.slow),
        pytest.param(
            ["--measure", "coco/mask_rcnn_acmix_swin_tiny", "--seconds", "1"],
            "needs images with annotations",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_bad_option_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    [end] = started("benchmark", "scale", *options).finish()
    assert end.status == 2
    [line] = end.errors.splitlines()
    assert line.startswith("acmix: error: ")
    assert said in line


@pytest.mark.slow
def test_what_would_help_stays_within_the_bounds_of_parts(file: Path) -> None:
    """Four times as many passes, or buckets of a quarter, are more than a file of parts may say."""
    said: list[str] = []
    changes = ["compute.accumulation=1000000", "compute.backward_ms=1e-9", "gradients.bucket_mib=0.002"]
    command.scale([*changes, "compute.forward_ms=0"], parts=file, cards="8", say=said.append)
    assert "at 8 cards" in said[-1]
    assert "accumulation" not in said[-1]


def test_reading_that_nothing_goes_on_beside_is_to_be_put_beside(file: Path) -> None:
    said: list[str] = []
    command.scale(["loader.in_background=false", "loader.images_per_second=1"], parts=file, cards="1", say=said.append)
    assert said[-1].startswith("at 1 card ")
    assert said[-1].endswith("beside the step, with data.workers above 0, they cost less")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_is_measured_and_what_was_measured_predicts(
    tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.paths import ROOT

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config, output = tmp_path / "config.yaml", tmp_path / "parts.yaml"
    config.write_text(json.dumps(tree("")))
    said: list[str] = []
    options = {"processes": processes, "seconds": 0.1, "output": output}
    found = command.measure(str(config), ["train.accumulation=2"], **options, say=said.append)  # type: ignore[arg-type]
    assert load_parts(output) == found
    assert (found.compute.batch_size, found.compute.accumulation) == (4, 2)
    assert found.compute.forward_ms > 0
    assert found.compute.backward_ms > 0
    assert found.gradients.ready[0][0] == 0
    assert found.gradients.ready[-1][1] > 0.5
    assert found.loader.in_background is False
    assert (found.network.inside is None) == (processes == 1)
    assert found.network.cards_per_node == processes
    assert f"written: {output}" in said
    assert sum(line.endswith(" %") for line in said) == processes
